"""Kills training at random moments, and shows what a restart finds.

    python -m benchmarks.kills --kills 40

Each case trains in a child process, which SIGKILL ends: about half of the kills come at
any moment, the others while or just after it saves. The program is then started again,
up to `PER_RUN` kills in one training. A training is equal if it ends with the weights,
the optimizer and the random states of one that was left alone, bit for bit.
"""

import argparse
import dataclasses
import hashlib
import json
import multiprocessing
import os
import pathlib
import random
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any

from benchmarks.report import provenance, table, write

PER_RUN = 5
EPOCHS, ROWS, BATCH, PIXELS = 30, 1_000, 100, 784
FAILED = "failed"


@dataclasses.dataclass(frozen=True)
class Case:
    """What is trained, and what saves it.

    Args:
        model: `"vae"`, `"layers"` for a `tv.Model`, or `"keras"` for a `keras.Model`.
        saving: The callback.
        every: Its `save_freq`.
    """

    model: str
    saving: str
    every: Any = "epoch"

    def __str__(self) -> str:
        """The name in the table."""
        name = {"vae": "tv.VAE", "layers": "tv.Model", "keras": "keras.Model"}
        every = "" if self.every == "epoch" else f", `save_freq={self.every}`"
        return f"`{name[self.model]}`, `{self.saving}`{every}"


CASES = {
    "vae": Case("vae", "tv.Checkpoint"),
    "vae-batches": Case("vae", "tv.Checkpoint", 7),
    "layers": Case("layers", "tv.Checkpoint"),
    "layers-batches": Case("layers", "tv.Checkpoint", 7),
    "keras": Case("keras", "tv.Checkpoint"),
    "vae-backup": Case("vae", "BackupAndRestore"),
    "vae-backup-batches": Case("vae", "BackupAndRestore", 7),
    "vae-model": Case("vae", "ModelCheckpoint"),
    "vae-weights": Case("vae", "ModelCheckpoint, weights"),
    "layers-backup": Case("layers", "BackupAndRestore"),
    "keras-backup": Case("keras", "BackupAndRestore"),
}


@dataclasses.dataclass
class Outcome:
    """What the processes of a case came to.

    Args:
        lives: Started processes.
        kills: How many were killed.
        saving: How many of them while they saved.
        failed: Restarts that ended with an error.
        runs: Trainings that ended.
        equal: How many of them are as one that was left alone.
        repeated: The most finished epochs that a restart has trained again.
        litter: Files that nobody needs, after the trainings.
        errors: The last line of each error's traceback, with its count.
    """

    lives: int = 0
    kills: int = 0
    saving: int = 0
    failed: int = 0
    runs: int = 0
    equal: int = 0
    repeated: int = 0
    litter: int = 0
    errors: dict[str, int] = dataclasses.field(default_factory=dict)

    def row(self, case: Case) -> list[str]:
        """The cells of the table."""
        equal = f"{self.equal} of {self.runs}"
        numbers = self.lives, self.kills, self.saving, self.failed, equal
        return [str(case), *map(str, (*numbers, self.repeated, self.litter))]


def train(case: Case, directory: pathlib.Path, tell: Callable[[str], None]) -> str:
    """Trains, from the last saved state if there is one.

    Args:
        case: What is trained.
        directory: Where the state is saved.
        tell: Called with `"begin"` and `"end"` of each save, and with the number of
            each epoch.

    Returns:
        A digest of the variables of model and optimizer, without those of metrics.
    """
    import keras
    import numpy as np

    keras.utils.set_random_seed(5)
    x = (np.random.default_rng(0).random((ROWS, PIXELS)) < 0.3).astype("float32")
    path = directory / "last.keras"
    if case.saving == "ModelCheckpoint" and path.exists():
        model = keras.models.load_model(path)
        initial_epoch = int(model.optimizer.iterations) // (ROWS // BATCH)
    else:
        model, initial_epoch = _model(case.model), 0
    weights = directory / "last.weights.h5"
    if case.saving == "ModelCheckpoint, weights" and weights.exists():
        model.optimizer.build(model.trainable_variables)
        model.load_weights(weights)
        initial_epoch = int(model.optimizer.iterations) // (ROWS // BATCH)

    class Say(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            tell(str(epoch))

    targets = {} if case.model == "vae" else {"y": x}
    # Keras' loop shuffles by TensorFlow's seed, which a restart sets again.
    order = {"shuffle": case.model != "keras"}
    model.fit(
        x,
        **targets,
        **order,
        batch_size=BATCH,
        epochs=EPOCHS,
        initial_epoch=initial_epoch,
        verbose=0,
        callbacks=[_telling(case, directory, tell), Say()],
    )
    digest = hashlib.sha256()
    metrics = {id(variable) for variable in model.metrics_variables}
    for variable in [*model.variables, *model.optimizer.variables]:
        if id(variable) not in metrics:
            digest.update(np.asarray(variable).tobytes())
    return digest.hexdigest()


def _model(kind: str) -> Any:
    """A compiled model with dropout."""
    import keras

    import tfp_vae as tv

    def encoder(*after: Any) -> Any:
        layers = [keras.Input((PIXELS,)), keras.layers.Dense(256, "relu")]
        layers += [keras.layers.Dropout(0.1), keras.layers.Dense(20)]
        return keras.Sequential([*layers, tv.IndependentNormal(10), *after])

    decoder = keras.Sequential(
        [
            keras.Input((10,)),
            keras.layers.Dense(256, "relu"),
            keras.layers.Dense(PIXELS),
            tv.IndependentBernoulli(PIXELS),
        ]
    )
    if kind == "vae":
        vae = tv.VAE(encoder(), decoder, tv.StandardNormal(10))
        vae.compile("adam")
        return vae
    q = encoder(tv.KLDivergenceAddLoss(tv.StandardNormal(10)))
    cls = tv.Model if kind == "layers" else keras.Model
    model = cls(q.inputs, decoder(q.outputs[0]))
    model.compile("adam", tv.NegativeLogLikelihood())
    return model


def _telling(case: Case, directory: pathlib.Path, tell: Callable[[str], None]) -> Any:
    """The callback that saves, and tells when."""
    import keras

    import tfp_vae as tv

    bases = {
        "tv.Checkpoint": (getattr(tv, "Checkpoint", None), "_save"),
        "BackupAndRestore": (keras.callbacks.BackupAndRestore, "_save_model"),
        "ModelCheckpoint": (keras.callbacks.ModelCheckpoint, "_save_model"),
    }
    kind, _, weights = case.saving.partition(", ")
    base, method = bases[kind]

    def save(self: Any, *args: Any, **kwargs: Any) -> None:
        tell("begin")
        getattr(super(cls, self), method)(*args, **kwargs)
        tell("end")

    cls: Any = type(base.__name__, (base,), {method: save})
    name = {
        "tv.Checkpoint": "last.weights.h5",
        "BackupAndRestore": "backup",
        "ModelCheckpoint": "last.keras",
        "ModelCheckpoint, weights": "last.weights.h5",
    }[case.saving]
    more = {"save_weights_only": True} if weights else {}
    return cls(directory / name, save_freq=case.every, **more)


def _life(case: Case, directory: pathlib.Path, pipe: Any) -> None:
    """The child: trains, and sends the digest or the error."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        pipe.send(("done", train(case, directory, lambda what: pipe.send((what, "")))))
    except BaseException:
        lines = traceback.format_exc().strip().splitlines()
        said = [line for line in lines if line[:1].strip()]
        pipe.send((FAILED, said[-1]))


class Campaign:
    """Starts, kills and restarts the trainings of one case.

    Args:
        case: What is trained.
        seed: Seed of the moments.
    """

    def __init__(self, case: Case, seed: int = 0) -> None:
        self.case, self.outcome = case, Outcome()
        self._moments = random.Random(seed)
        self._saves, self._trainings = [0.05], [2.0]
        self._last_epoch = -1
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tfp_vae"])

    def run(self, kills: int) -> Outcome:
        """Trains until there were so many kills.

        Args:
            kills: The number of kills.

        Returns:
            What came of it.
        """
        with tempfile.TemporaryDirectory() as name:
            whole = self._live(pathlib.Path(name), None)
        if whole[0] != "done":
            raise RuntimeError(f"{self.case} failed without a kill: {whole[1]}")
        while self.outcome.kills < kills:
            with tempfile.TemporaryDirectory() as name:
                self._train(pathlib.Path(name), whole[1], kills)
        return self.outcome

    def _train(self, directory: pathlib.Path, whole: str, kills: int) -> None:
        """One training, with up to `PER_RUN` kills."""
        mine, self._last_epoch = 0, -1
        while True:
            may_kill = mine < PER_RUN and self.outcome.kills < kills
            inside = self._moments.random() < 0.5
            how = None if not may_kill else "inside" if inside else "anywhere"
            self.outcome.lives += 1
            what, text = self._live(directory, how)
            if what == "killed":
                mine += 1
                self.outcome.kills += 1
                self.outcome.saving += text == "saving"
                continue
            self.outcome.runs += 1
            if what == FAILED:
                self.outcome.failed += 1
                errors = self.outcome.errors
                errors[text[:100]] = errors.get(text[:100], 0) + 1
            self.outcome.equal += what == "done" and text == whole
            left = [p for p in directory.rglob("*") if not p.name.startswith("last.")]
            self.outcome.litter += len(left) if what == "done" else 0
            return

    def _live(self, directory: pathlib.Path, how: str | None) -> tuple[str, str]:
        """One process: how it ended, and what it said."""
        mine, theirs = self._context.Pipe(duplex=False)
        child = self._context.Process(
            target=_life, args=(self.case, directory, theirs), daemon=True
        )
        child.start()
        theirs.close()
        began = time.monotonic()
        longest = max(self._trainings)
        end = began + self._moments.uniform(0.0, longest) if how == "anywhere" else None
        saves_left = self._moments.randint(1, 4) if how == "inside" else 0
        saving, saved_at, first = False, 0.0, True
        try:
            while True:
                left = None if end is None else max(end - time.monotonic(), 0.0)
                if not mine.poll(left):
                    return self._killed(child, saving)
                try:
                    what, text = mine.recv()
                except EOFError:
                    return FAILED, "the process died"
                if what.isdigit():
                    if first and self._last_epoch >= 0:
                        again = self._last_epoch - int(what)
                        self.outcome.repeated = max(self.outcome.repeated, again)
                    first, self._last_epoch = False, int(what)
                    continue
                now = time.monotonic()
                if what in ("done", FAILED):
                    if how is None:
                        self._trainings = [now - began]
                    return what, text
                saving = what == "begin"
                if not saving:
                    self._saves = [*self._saves[-9:], now - saved_at]
                    continue
                saved_at = now
                saves_left -= how == "inside"
                if how == "inside" and saves_left == 0:
                    typical = statistics.median(self._saves)
                    end = now + self._moments.uniform(0.0, 1.2 * typical)
        finally:
            child.kill()
            child.join()

    @staticmethod
    def _killed(child: Any, saving: bool) -> tuple[str, str]:
        child.kill()
        child.join()
        return "killed", "saving" if saving else "training"


def main(options: list[str] | None = None) -> dict[str, Outcome]:
    """Runs the campaign and prints its table.

    Args:
        options: Command line options; those of the process by default.

    Returns:
        The outcomes by case.
    """
    parser = argparse.ArgumentParser(prog="benchmarks.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=40, help="kills of each case")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, help="page with the table")
    other = "directory of another checkout, whose tfp_vae is used"
    parser.add_argument("--checkout", type=pathlib.Path, help=other)
    args = parser.parse_args(options)
    if args.checkout is not None:
        # Only its tfp_vae: the checkout has benchmarks of its own.
        only = pathlib.Path(tempfile.mkdtemp())
        (only / "tfp_vae").symlink_to(args.checkout.resolve() / "tfp_vae")
        # The process that forks the others finds packages in its directory first.
        args.output = args.output and args.output.resolve()
        os.chdir(only)
    found, rows = {}, []
    for name in args.cases:
        outcome = found[name] = Campaign(CASES[name], args.seed).run(args.kills)
        rows.append(outcome.row(CASES[name]))
        print(json.dumps({name: dataclasses.asdict(outcome)}), flush=True)
    header = ("case", "processes started", "kills", "kills while saving")
    ends = ("could not resume", "equal", "epochs repeated, at most", "files left over")
    shown = table((*header, *ends), rows)
    command = " ".join(["python -m benchmarks.kills", *(options or sys.argv[1:])])
    shown = f"{provenance(command)}\n\n{shown}"
    print(shown)
    if args.output is not None:
        section = "kills" if args.checkout is None else "kills before"
        write(args.output, section, shown)
    return found


if __name__ == "__main__":
    main()
