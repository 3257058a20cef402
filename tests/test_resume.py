"""Examples that are killed and go on with `--resume` find the same figures."""

import dataclasses
import importlib
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import types

import example_data
import keras
import numpy as np
import pytest
import slow
import tensorflow as tf

import iwae
import reproduction
import resuming
import tfp_vae as tv

ROOT = pathlib.Path(__file__).parents[1]
# Where each example is killed: a training and its epoch from 0, or a part and None.
KILLS = {
    "aevb": (["--epochs", "2"], "Frey faces, Gaussian, 2 latents", 3),
    "conv_vae": (["--epochs", "3"], "training", 1),
    "cvae": (["--epochs", "12"], "VAE, 2 of 4 quadrants given", 2),
    "disentangled": (["--epochs", "3"], "full q", 2),
    "grey_pixels": (["--epochs", "3"], "discretised logistic", 2),
    "hyperspherical_vae": (["--epochs", "3"], "d = 2, von Mises-Fisher", 2),
    "iwae": (["--epochs", "4"], "k = 5", 2),
    "lstm_forecaster": (["--epochs", "4"], "eeg, random weights", 2),
    "miwae": (["--epochs", "4"], "seed 0", 2),
    "neural_editor": (["--epochs", "3"], "with z", 1),
    "not_miwae": (["--epochs", "4"], "not-MIWAE", 2),
    "numpyro_vae": (["--epochs", "4"], "training", 2),
    "other_priors": (["--epochs", "3"], "Beta(2, 1)", 1),
    "plain_vae": (["--epochs", "5"], "training", 2),
    "ss_vae": (["--epochs", "3", "--labels", "20", "50"], "50 labels", 1),
    "uci_regression": (["--epochs", "2"], "concrete, variational, split 2", None),
    "vamp_prior": (["--epochs", "5"], "VampPrior", 2),
    "variational_decoder": (
        ["--epochs", "9"],
        "100 images, random weights, to epoch 9",
        6,
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    example_data.write(directory)
    return directory


def run(system, runs):
    paths = (ROOT, ROOT / "examples")
    return subprocess.run(
        [
            sys.executable,
            str(ROOT / "tests" / "killing.py"),
            json.dumps({"system": system, "runs": runs}),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("system", slow.except_for(("iwae",), KILLS))
def test_a_killed_run_finds_the_figures_of_a_run_without_interruption(
    system, data, tmp_path
):
    options, *kill = KILLS[system]
    argv = ["--budget", "quick", "--data-dir", str(data), "--output", str(tmp_path)]
    argv += options
    resumed = [*argv, "--resume", str(tmp_path / "kept")]
    killed = run(system, [{"argv": resumed, "kill": kill}])
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    done = run(system, [{"argv": resumed}, {"argv": argv}])
    assert done.returncode == 0, done.stderr[-3000:]
    marked = [line for line in done.stdout.splitlines() if line.startswith("figures ")]
    found, expected = (json.loads(line.removeprefix("figures ")) for line in marked)
    assert found == expected


class Killed(Exception):
    """Stands for a kill."""


class At(keras.callbacks.Callback):
    """Kills at an event of an epoch."""

    def __init__(self, event, epoch=None):
        super().__init__()
        self._at, self._epoch = (event, epoch), None

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        self._see("begin", epoch)

    def on_train_batch_end(self, batch, logs=None):
        self._see("batch", self._epoch)

    def on_epoch_end(self, epoch, logs=None):
        self._see("end", epoch)

    def on_train_end(self, logs=None):
        self._see("train", None)

    def _see(self, event, epoch):
        if (event, epoch) == self._at:
            raise Killed


def progress_in(directory, **options):
    return resuming.Progress(directory, {"system": "x"}, {"a": 6, "b": 6}, **options)


def rows():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)


def stopped_early(directory, *kills):
    """A training with dropout that ends after the third of 6 epochs."""
    keras.utils.set_random_seed(3)
    model = tv.Sequential(
        [keras.Input((3,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    )
    model.compile(keras.optimizers.Adam(0.1), "mse", jit_compile=False)
    x, y = rows()
    callbacks = [
        keras.callbacks.EarlyStopping(
            patience=2, min_delta=100.0, restore_best_weights=True
        ),
        keras.callbacks.ReduceLROnPlateau(patience=1, min_delta=100.0),
        *kills,
    ]
    history = progress_in(directory).fit(
        "a",
        model,
        x,
        callbacks,
        y=y,
        epochs=6,
        batch_size=8,
        validation_data=(x, y),
        verbose=0,
    )
    rate = float(model.optimizer.learning_rate.numpy())
    return history.history, model.get_weights(), rate


def warmed_up(directory, *kills):
    """Two trainings of a VAE; draws before, between and after them."""
    keras.utils.set_random_seed(3)
    vae = tv.VAE(
        keras.Sequential(
            [keras.Input((3,)), keras.layers.Dense(4), tv.IndependentNormal(2)]
        ),
        keras.Sequential(
            [keras.Input((2,)), keras.layers.Dense(6), tv.IndependentNormal(3)]
        ),
        tv.StandardNormal(2),
    )
    vae.compile(keras.optimizers.Adam(0.1), jit_compile=False)
    x, progress, found = rows()[0], progress_in(directory), []
    for name, begin, end in (("a", 0, 3), ("b", 3, 6)):
        found.append(vae.elbo(x, 1).mean())
        history = progress.fit(
            name,
            vae,
            x,
            [tv.KLWarmup(epochs=2), *kills],
            initial_epoch=begin,
            epochs=end,
            batch_size=8,
            verbose=0,
        )
        found.append(history.history)
    return [*found, vae.elbo(x, 1).mean()], vae.get_weights(), None


def of_a_pipeline(kind):
    """A training on a shuffled dataset, in the loop of this package or of Keras."""

    def trained(directory, *kills):
        keras.utils.set_random_seed(3)
        model = kind([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.Adam(0.1), "mse", jit_compile=False)
        data = tf.data.Dataset.from_tensor_slices(rows()).shuffle(40, seed=5).batch(8)
        options = {"epochs": 6, "verbose": 0, "shuffle": False}
        history = progress_in(directory).fit("a", model, data, kills, **options)
        return history.history, model.get_weights(), None

    return trained


PLACES = [("begin", 1), ("batch", 2), ("end", 2), ("train", None)]
LATER = [("batch", 1), ("end", 5), ("train", None)]
TRAININGS = {
    "stopped early": (stopped_early, PLACES),
    "warmed up": (warmed_up, [("batch", 1), ("batch", 5)]),
    "pipeline": (of_a_pipeline(tv.Sequential), LATER),
    "pipeline, Keras": (of_a_pipeline(keras.Sequential), LATER),
}


def assert_equal(found, expected):
    np.testing.assert_equal(found[0], expected[0])
    np.testing.assert_equal(found[2], expected[2])
    for one, other in zip(found[1], expected[1], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_ends_equal_wherever_it_was_killed(name, tmp_path, monkeypatch):
    monkeypatch.setattr(resuming, "LOST", 0.0)
    trained, places = TRAININGS[name]
    expected = trained(None)
    if name == "stopped early":
        assert len(expected[0]["loss"]) == 3
        assert expected[2] < 0.05
    for place in places:
        directory = tmp_path / str(place)
        with pytest.raises(Killed):
            trained(directory, At(*place))
        assert_equal(trained(directory), expected)
        assert_equal(trained(directory), expected)  # There is nothing left to train.


def test_a_kill_before_the_last_checkpoint_trains_no_epoch_more(tmp_path, monkeypatch):
    def die(self, logs=None):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(tv.Checkpoint, "on_train_end", die)
        with pytest.raises(Killed):
            stopped_early(tmp_path)
    assert_equal(stopped_early(tmp_path), stopped_early(None))


def test_short_epochs_are_not_all_saved(tmp_path, monkeypatch):
    saved = []
    write = tv.Checkpoint._save

    def count(self, epoch, batch):
        saved.append((epoch, batch))
        write(self, epoch, batch)

    monkeypatch.setattr(tv.Checkpoint, "_save", count)
    of_a_pipeline(tv.Sequential)(tmp_path)
    assert saved == [(0, 0), (6, 0)]


def test_a_part_is_not_computed_again(tmp_path, capsys):
    def parsed(*options):
        argv = ["--budget", "quick", "--resume", str(tmp_path), *options]
        return reproduction.parse("", "x", argv, {"quick": 2, "full": 4})

    def draw(report):
        report.add("a draw", keras.random.normal(()), 0.0, "theory")
        return np.float32(0.1), {"z": np.ones(2)}

    calls = []

    def go():
        report = reproduction.Report("x", "X", parsed())
        keras.random.normal(())  # What is before a part does not change it.
        for _ in calls:
            keras.random.normal(())
        value = report.part("p", lambda: (calls.append(1), draw(report))[1])
        return value, report.figures

    first, second = go(), go()
    assert first == second
    assert len(calls) == 1
    assert first[0] == [float(np.float32(0.1)), {"z": [1.0, 1.0]}]
    partial = json.loads((tmp_path / "x.json").read_text())
    assert [figure["what"] for figure in partial["figures"]] == ["a draw"]
    assert "hours" not in capsys.readouterr().out
    for options, named in (
        (["--epochs", "3"], "epochs=3"),
        (["--seed", "1"], "seed=1"),
    ):
        with pytest.raises(ValueError, match=rf"Received: {named}\. Give"):
            parsed(*options)
    with pytest.raises(ValueError, match="system='y'"):
        reproduction.parse(
            "",
            "y",
            ["--budget", "quick", "--resume", str(tmp_path)],
            {"quick": 2, "full": 4},
        )
    kept = json.loads((tmp_path / "run.json").read_text())
    kept["settings"]["keras"] = "2.0"
    (tmp_path / "run.json").write_text(json.dumps(kept))
    with pytest.raises(ValueError, match=r"keras='2\.0'\. Received: keras="):
        parsed()


def test_the_seconds_of_all_goes_are_added(tmp_path):
    progress_in(tmp_path)
    kept = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**kept, "seconds": 1000.0}))
    assert 1000 < progress_in(tmp_path).seconds < 1060


def test_what_is_left_is_told_in_hours(tmp_path, capsys):
    known = resuming.Measured("results/x.json", 2.0, 6)  # an epoch takes 20 minutes
    progress = progress_in(tmp_path, is_long=True, measured=known)
    progress.begin()
    out = capsys.readouterr().out
    assert "2 of 2 trainings of 6 epochs: a; b" in out
    assert "about 4.0 hours" in out
    progress.keep("a", None, [])
    progress_in(tmp_path, is_long=True, measured=known).begin()
    out = capsys.readouterr().out
    assert "1 of 2 trainings of 6 epochs: b" in out
    assert "about 2.0 hours" in out
    progress_in(tmp_path, is_long=False, measured=known).begin()
    assert not capsys.readouterr().out


def test_more_than_12_hours_need_a_yes(capsys):
    known = resuming.Measured("results/x.json", 3.1, 3)  # 6 epochs twice: 12.4 hours
    with pytest.raises(SystemExit, match=r"12\.4 hours\. Give --yes"):
        progress_in(None, is_long=True, measured=known).begin()
    progress_in(None, is_long=True, measured=known, may_be_longer=True).begin()
    progress_in(None, measured=known).begin()
    with pytest.raises(SystemExit, match="--yes"):
        iwae.main(["--epochs", "5000"])


def test_without_results_the_second_epoch_tells_the_hours(capsys, monkeypatch):
    clock = itertools.count(0, 900)  # Each epoch takes a quarter of an hour.
    time = types.SimpleNamespace(perf_counter=lambda: next(clock))
    monkeypatch.setattr(resuming, "time", time)
    x, y = rows()

    def trained(**options):
        model = tv.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile("adam", "mse", jit_compile=False)
        progress = progress_in(None, **options)
        return progress.fit("a", model, x, [], y=y, epochs=6, verbose=0)

    assert len(trained().history["loss"]) == 6
    assert "hours" not in capsys.readouterr().out
    trained(is_long=True)  # 4 epochs, and 6 of "b"
    assert capsys.readouterr().out.count("about 2.5 hours") == 1
    monkeypatch.setattr(resuming, "MOST_HOURS", 2)
    with pytest.raises(SystemExit, match="--yes"):
        trained(is_long=True)
    trained(is_long=True, may_be_longer=True)


def test_names_are_given_once(tmp_path):
    progress = progress_in(tmp_path)
    progress.begin_part("a")
    with pytest.raises(ValueError, match="part 'a' twice"):
        progress.begin_part("a")


@pytest.mark.parametrize("system", KILLS)
def test_the_trainings_of_the_stored_run_are_counted(system, monkeypatch):
    found = {}

    def stop(system, title, args, trained=None):
        found["args"] = args
        raise Killed

    monkeypatch.setattr(reproduction, "Report", stop)
    with pytest.raises(Killed):
        importlib.import_module(system).main([])
    progress = found["args"].progress
    stored = progress.left
    if system == "ss_vae":  # with --labels 3000, one of four
        stored /= 4
    assert progress.measured.epochs == stored
    assert progress.measured.hours * 3600 == pytest.approx(
        json.loads((ROOT / "results" / f"{system}.json").read_text())["seconds"]
    )


def test_a_directory_whose_run_goes_on_is_refused(tmp_path):
    code = f"""
import pathlib, sys
sys.path.insert(0, {str(ROOT / "examples")!r})
import resuming
kept = resuming.Progress(pathlib.Path({str(tmp_path)!r}), {{"system": "x"}}, {{"a": 6}})
print("begun", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "begun\n"
        with pytest.raises(ValueError, match=r"no other run uses.*still goes on"):
            progress_in(tmp_path)
        other.kill()
        other.wait()
        progress_in(tmp_path)


def test_another_program_does_not_resume(tmp_path, monkeypatch):
    argv = ["--budget", "quick", "--resume", str(tmp_path / "kept")]
    monkeypatch.setattr(reproduction, "ROOT", tmp_path)
    (tmp_path / "examples").mkdir()
    path = tmp_path / "examples" / "a.py"
    path.write_text("x = 1")
    side = dataclasses.replace(reproduction.EXAMPLE, results=tmp_path / "results")

    def parsed():
        reproduction.parse("", "x", argv, {"quick": 2, "full": 4}, side=side)

    parsed()
    parsed()
    path.write_text("x = 2")
    with pytest.raises(ValueError, match=r"code='\w{12}'"):
        parsed()
