"""Runs an example in a process, which kills itself within a training or a part.

    PYTHONPATH=.:examples python tests/killing.py JSON

JSON has `system`, the name of the example, and `runs`: a list of `argv`, of each run in
turn, with `kill`: the training and its epoch, or a part and null, or nothing.
It prints the figures of each run as JSON.
"""

import dataclasses
import functools
import importlib
import json
import os
import signal
import sys

import keras

import datasets
import reproduction
import resuming
import tfp_vae as tv

FEW = datasets.few
NARROW = {
    "conv_vae": {"FILTERS": 4},
    "disentangled": {"FILTERS": 4, "UNITS": 16, "STATIC": 8},
    "neural_editor": {"UNITS": 16},
    "uci_regression": {"MEMBERS": 2, "NOISES": (0.1, 0.3)},
    "variational_decoder": {"HIDDEN": 50},
}


class Kill(keras.callbacks.Callback):
    """Kills the process in an epoch, after its first steps."""

    def __init__(self, at):
        super().__init__()
        self.at, self.now = at, None

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.now == self.at:
            die()


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def killing(report, name, epoch):
    """A report that kills the process."""

    class Killing(report):
        def fit(self, training, *args, callbacks=(), **options):
            if training == name and epoch is not None:
                callbacks = [*callbacks, Kill(epoch)]
            return super().fit(training, *args, callbacks=callbacks, **options)

        def part(self, part, function, *args, **options):
            def then_die(*given):
                function(*given)
                die()

            fatal = part == name and epoch is None
            chosen = then_die if fatal else function
            return super().part(part, chosen, *args, **options)

    return Killing


def main(system, runs):
    """Makes everything small, and runs."""
    module = importlib.import_module(system)
    for name, value in NARROW.get(system, {}).items():
        setattr(module, name, value)
    datasets.few = lambda images, train, test: FEW(images, 300, 20)
    tv.VAE.compile = functools.partialmethod(tv.VAE.compile, jit_compile=False)
    resuming.LOST = 0.0  # Otherwise no epoch but the first is saved in so short a run.
    plain = reproduction.Report
    for run in runs:
        kill = run.get("kill")
        reproduction.Report = killing(plain, *kill) if kill else plain
        report = module.main(run["argv"])
        if report.args.progress.left:
            raise AssertionError("some trainings have other names than `parse` got")
        print("figures", json.dumps([dataclasses.asdict(f) for f in report.figures]))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
