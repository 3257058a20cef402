"""`tv.Checkpoint`, and files that are whole or the ones before."""

import collections
import os
import pathlib
import stat
import subprocess
import sys
import textwrap
import threading
import warnings

import h5py
import keras
import models
import numpy as np
import pytest
import slow
import tensorflow as tf
import vaes

import tfp_vae as tv
from tfp_vae.engine.weights_file import read_state
from tfp_vae.files import replacing

ROOT = pathlib.Path(__file__).parents[1]

X = models.digits(96)
Y = X.reshape(96, -1)[:, :3]


class Killed(Exception):
    pass


class Kill(keras.callbacks.Callback):
    """Stops training at a batch, as a kill would: no callback is called after it."""

    steps_per_execution = None

    def __init__(self, epoch, batch=None):
        super().__init__()
        self.at, self.now = (epoch, batch), 0

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch
        if self.at == (epoch, None):
            raise Killed

    def on_train_batch_end(self, batch, logs=None):
        if self.at[1] is not None and (self.now, batch) >= self.at:
            raise Killed


def with_dropout(kind=tv, noise=0.1):
    keras.utils.set_random_seed(3)
    inputs = keras.Input((8, 8, 1))
    h = keras.layers.Flatten()(inputs)
    h = keras.layers.Dropout(0.3)(keras.layers.Dense(8, "relu")(h))
    h = keras.layers.BatchNormalization()(h)
    h = keras.layers.GaussianNoise(noise)(h) if noise else h
    model = kind.Model(inputs, keras.layers.Dense(3)(h))
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    return model


def with_noise_of_every_kind():
    keras.utils.set_random_seed(3)
    h = inputs = keras.Input((8, 8, 1))
    h = keras.layers.RandomFlip()(h)
    h = keras.layers.Reshape((8, 8))(keras.layers.RandomBrightness(0.2)(h))
    h = keras.layers.SpatialDropout1D(0.2)(h)
    h = keras.layers.LSTM(4, dropout=0.2, return_sequences=True)(h)
    h = keras.layers.MultiHeadAttention(2, 2, dropout=0.2)(h, h)
    h = keras.layers.AlphaDropout(0.2)(keras.layers.Flatten()(h))
    h = keras.layers.Dense(3)(keras.layers.GaussianDropout(0.2)(h))
    model = tv.Model(inputs, h)
    model.compile("adam", "mse")
    return model


def a_vae(prior=tv.StandardNormal, **options):
    keras.utils.set_random_seed(3)
    return vaes.vae(prior=prior(models.LATENT), **options)


def fitted(model, y, callbacks=(), **options):
    """The history, the weights and the optimizer after `fit`."""
    given = {"epochs": 4, "verbose": 0, "batch_size": 16, **options}
    history = model.fit(X, y, callbacks=list(callbacks), **given).history
    variables = [*model.variables, *model.optimizer.variables]
    return history, [v.numpy() for v in variables]


def same(one, other):
    assert one[0] == other[0]
    for mine, theirs in zip(one[1], other[1], strict=True):
        np.testing.assert_array_equal(mine, theirs)


MODELS = {
    "dropout": (with_dropout, Y),
    "noise": (with_noise_of_every_kind, Y),
    "vae": (a_vae, None),
    "learned prior": (lambda: a_vae(tv.LearnedNormal), None),
    "XLA": (lambda: a_vae(jit_compile=True), None),
}


RESUMED = [
    ("dropout", {"shuffle": "batch"}, (0, 4)),
    ("noise", {}, (2, None)),
    ("vae", {}, (1, 3)),
    ("dropout", {}, (2, None)),
    ("dropout", {"steps_per_epoch": 3}, (1, 2)),
    ("vae", {"steps_per_epoch": 2}, (2, None)),
    ("learned prior", {"shuffle": False}, (1, 3)),
    ("XLA", {}, (1, 3)),
]


@pytest.mark.parametrize(
    ("name", "options", "at"), slow.except_for(RESUMED[:3], RESUMED)
)
def test_a_resumed_fit_is_that_of_one_go(name, options, at, tmp_path):
    make, y = MODELS[name]
    freq = "epoch" if at[1] is None else 2
    options = {"validation_split": 0.1, **options}

    def checkpoint():
        return tv.Checkpoint(tmp_path / "run" / "last.weights.h5", freq)

    whole = fitted(make(), y, [checkpoint()], **options)
    assert not list((tmp_path / "run").iterdir())
    with pytest.raises(Killed):
        fitted(make(), y, [checkpoint(), Kill(*at)], **options)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["last.weights.h5"]
    model = make()
    keras.utils.set_random_seed(99)  # The file has the seeds.
    same(fitted(model, y, [checkpoint()], **options), whole)


class Decay(keras.callbacks.LearningRateScheduler):
    """Multiplies the learning rate, so that a call too many would show."""

    def __init__(self):
        super().__init__(lambda epoch, rate: 0.9 * rate)


def counting():
    monitored = {"monitor": "loss", "min_delta": 10.0}
    return [
        keras.callbacks.ReduceLROnPlateau(patience=2, **monitored),
        keras.callbacks.EarlyStopping(
            patience=5, restore_best_weights=True, **monitored
        ),
        Decay(),
    ]


@pytest.mark.parametrize(
    "at", [pytest.param((3, None), marks=pytest.mark.slow), (3, 1)]
)
def test_other_callbacks_go_on_counting(at, tmp_path):
    def checkpoint():
        freq = "epoch" if at[1] is None else 2
        return tv.Checkpoint(tmp_path / "last.weights.h5", freq)

    whole = fitted(with_dropout(), Y, counting(), epochs=20)
    assert len(whole[0]["loss"]) == 6  # stopped early
    for kill in (at, (5, None)):  # twice
        callbacks = [*counting(), checkpoint(), Kill(*kill)]
        with pytest.raises(Killed):
            fitted(with_dropout(), Y, callbacks, epochs=20)
    same(fitted(with_dropout(), Y, [*counting(), checkpoint()], epochs=20), whole)


def test_a_cyclical_warm_up_goes_on(tmp_path):
    def callbacks():
        warm_up = tv.KLWarmup(epochs=4, schedule="cyclical", cycles=2)
        return [warm_up, tv.Checkpoint(tmp_path / "last.weights.h5", 2)]

    whole = fitted(a_vae(), None, callbacks())
    with pytest.raises(Killed):
        fitted(a_vae(), None, [*callbacks(), Kill(2, 3)])
    same(fitted(a_vae(), None, callbacks()), whole)


def test_settings_that_were_changed_for_the_rest_are_kept(tmp_path):
    def checkpoint():
        return tv.Checkpoint(tmp_path / "last.weights.h5")

    def stop(patience):
        return keras.callbacks.EarlyStopping("loss", 10.0, patience)

    with pytest.raises(Killed):
        fitted(with_dropout(), Y, [stop(2), checkpoint(), Kill(2)], epochs=20)
    history, _ = fitted(with_dropout(), Y, [stop(6), checkpoint()], epochs=20)
    assert len(history["loss"]) == 7


def test_training_that_ended_is_not_repeated_but_goes_on(tmp_path):
    def checkpoint():
        path = tmp_path / "last.weights.h5"
        return tv.Checkpoint(path, delete_checkpoint=False)

    three = fitted(with_dropout(), Y, [checkpoint()], epochs=3)
    same(fitted(with_dropout(), Y, [checkpoint()], epochs=3), three)
    five = fitted(with_dropout(), Y, [checkpoint()], epochs=5)
    same(five, fitted(with_dropout(), Y, epochs=5))


def test_a_plain_keras_model_resumes_at_the_epoch(tmp_path):
    """Rows in order: Keras' loop shuffles anew after a restart."""

    def callbacks():
        rest = counting()
        return [tv.Checkpoint(tmp_path / "a.weights.h5", callbacks=rest), *rest]

    options = {"shuffle": False, "epochs": 20}
    whole = fitted(with_dropout(keras), Y, counting(), **options)
    with pytest.raises(Killed):
        fitted(with_dropout(keras), Y, [*callbacks(), Kill(3)], **options)
    model = with_dropout(keras)
    resumed = fitted(model, Y, callbacks(), **options)
    same(resumed, whole)
    again = model.fit(X, Y, epochs=1, verbose=0)  # not where it was resumed
    assert again.epoch == [0]


@pytest.mark.parametrize(
    "case", ["dataset", "dataset in parts", "Keras' loop", "other batches"]
)
def test_an_epoch_that_cannot_go_on_is_repeated_with_a_warning(case, tmp_path):
    def checkpoint():
        return tv.Checkpoint(tmp_path / "last.weights.h5", 2)

    rows = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    data = {
        "dataset": {"x": rows},
        "dataset in parts": {"x": rows.repeat(), "steps_per_epoch": 4},
    }.get(case, {"x": X, "y": Y, "batch_size": 16})

    def model():
        made = with_dropout()
        made.run_eagerly = case == "Keras' loop"
        return made

    with pytest.raises(Killed):
        model().fit(**data, epochs=3, verbose=0, callbacks=[checkpoint(), Kill(1, 3)])
    if case == "other batches":
        data |= {"batch_size": 8}
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        history = model().fit(**data, epochs=3, verbose=0, callbacks=[checkpoint()])
    assert any("resumes epoch 2 at the beginning" in str(w.message) for w in found)
    assert history.epoch == [0, 1, 2]
    assert np.isfinite(history.history["loss"]).all()


def test_a_run_of_keras_loop_goes_on_in_the_compiled_one(tmp_path):
    path = tmp_path / "last.weights.h5"
    model = with_dropout()
    model.run_eagerly = True
    with pytest.raises(Killed):
        fitted(model, Y, [tv.Checkpoint(path), Kill(2)])
    history, _ = fitted(with_dropout(), Y, [tv.Checkpoint(path)])
    assert len(history["loss"]) == 4


def test_backup_and_restore_is_whole_and_forgotten_by_the_next_fit(tmp_path):
    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    whole = fitted(with_dropout(), Y)
    with pytest.raises(Killed):
        fitted(with_dropout(), Y, [backup(), Kill(2)])
    model = with_dropout()
    history, variables = fitted(model, Y, [backup()])
    assert history["loss"] == whole[0]["loss"][2:]
    same(({}, variables), ({}, whole[1]))
    assert model.fit(X, Y, epochs=1, verbose=0).epoch == [0]


@pytest.mark.parametrize("name", ["dropout", "vae"])
def test_a_loaded_model_draws_what_the_saved_one_would(name, tmp_path):
    make, y = MODELS[name]
    model, path = make(), tmp_path / "a.keras"
    whole = fitted(model, y)
    fitted(model := make(), y, epochs=2)
    model.save(path)
    loaded = keras.models.load_model(path)
    make()  # sets the seed of the order of rows
    history, variables = fitted(loaded, y, initial_epoch=2)
    assert history["loss"] == whole[0]["loss"][2:]
    same(({}, variables), ({}, whole[1]))


class Stop(keras.callbacks.Callback):
    """Stops within an epoch, as a time limit would."""

    steps_per_execution = 1

    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            self.model.stop_training = True


def test_a_stop_within_an_epoch_keeps_the_file(tmp_path):
    path = tmp_path / "last.weights.h5"
    fitted(with_dropout(), Y, [Stop(), tv.Checkpoint(path, 2)])
    state = read_state(path)
    assert (state["epoch"], state["batch"]) == (0, 2)
    whole = fitted(with_dropout(), Y)
    same(fitted(with_dropout(), Y, [tv.Checkpoint(path, 2)]), whole)
    assert not path.exists()


def test_a_save_that_is_due_at_the_end_of_an_epoch(tmp_path):
    path, epochs = tmp_path / "last.weights.h5", []

    class Look(keras.callbacks.Callback):
        steps_per_execution = None

        def on_epoch_begin(self, epoch, logs=None):
            if path.exists():
                epochs.append(read_state(path)["epoch"])

    fitted(with_dropout(), Y, [tv.Checkpoint(path, 10), Look()], epochs=6)
    assert epochs == [2, 2, 4, 4]  # of 6 batches each


class Counts(keras.callbacks.Callback):
    def __init__(self, limit=3):
        super().__init__()
        self.limit, self.seen = limit, collections.Counter()
        self.names, self.total = ["a"], np.zeros(3)

    def on_epoch_end(self, epoch, logs=None):
        self.seen[epoch] += 1
        self.names.append((epoch, float("nan")))
        self.total = self.total + 1


def test_what_a_callback_has_is_restored_in_its_own_types(tmp_path):
    path = tmp_path / "last.weights.h5"
    with pytest.raises(Killed):
        fitted(with_dropout(), Y, [tv.Checkpoint(path), Counts(), Kill(2)])
    counts = Counts(limit=9)
    fitted(with_dropout(), Y, [tv.Checkpoint(path), counts])
    assert [name if name == "a" else name[0] for name in counts.names] == [
        *("a", 0, 1, 2, 3)
    ]
    np.testing.assert_array_equal(counts.total, np.full(3, 4.0))
    assert counts.limit == 9
    assert type(counts.seen) is collections.Counter


def test_a_model_with_other_noise_is_warned_of(tmp_path):
    path = tmp_path / "last.weights.h5"
    with pytest.raises(Killed):
        fitted(with_dropout(), Y, [tv.Checkpoint(path), Kill(2)])
    with pytest.raises(UserWarning, match="2 random generators, but this one has 1"):
        fitted(with_dropout(noise=None), Y, [tv.Checkpoint(path)])


def test_a_file_of_another_kind_is_not_resumed_from(tmp_path):
    path, model = tmp_path / "last.weights.h5", with_dropout()
    before = model.get_weights()
    other = with_dropout()
    fitted(other, Y, epochs=1)
    other.save_weights(path)
    with pytest.raises(ValueError, match=r"wrote itself.*last\.weights"):
        fitted(model, Y, [tv.Checkpoint(path)])
    for mine, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, then)
    two = [tv.Checkpoint(path), tv.Checkpoint(tmp_path / "b.weights.h5")]
    with pytest.raises(ValueError, match="at most one"):
        fitted(model, Y, two)


@pytest.mark.parametrize("attack", ["link", "virtual", "setting", "nonsense"])
def test_a_state_that_an_attacker_wrote_is_refused(attack, tmp_path):
    path = tmp_path / "last.weights.h5"
    with pytest.raises(Killed):
        fitted(with_dropout(), Y, [tv.Checkpoint(path), Counts(), Kill(2)])
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.arange(9, dtype="uint8")
    with h5py.File(path, "r+") as file:
        group = file["training_state"]
        text = group["structure"][()].tobytes()
        del group["structure"]
        if attack == "link":
            group["structure"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "x")
        elif attack == "virtual":
            layout = h5py.VirtualLayout((9,), "uint8")
            layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "x", (9,))
            group.create_virtual_dataset("structure", layout)
        else:
            old, new = (b'"total"', b'"limit"') if attack == "setting" else (b"[", b"{")
            group["structure"] = np.frombuffer(text.replace(old, new), "uint8")
    counts = Counts()
    if attack == "setting":
        fitted(with_dropout(), Y, [tv.Checkpoint(path), counts])
        assert counts.limit == 3
        return
    with pytest.raises(OSError, match=r"last\.weights\.h5.*malformed"):
        fitted(with_dropout(), Y, [tv.Checkpoint(path), counts])


def test_it_needs_a_file_weights_and_a_number(tmp_path):
    with pytest.raises(ValueError, match=r"ends in `\.weights\.h5`"):
        tv.Checkpoint(tmp_path / "backup")
    with pytest.raises(ValueError, match="save_freq"):
        tv.Checkpoint(tmp_path / "a.weights.h5", save_freq=0)

    class Late(tv.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, x):
            return self.dense(tf.reshape(x, [-1, 64]))

    model = Late()
    model.compile("adam", "mse")
    with pytest.raises(ValueError, match="Call it on a batch"):
        fitted(model, Y, [tv.Checkpoint(tmp_path / "a.weights.h5")])


def test_keras_reads_the_file_and_tv_reads_that_of_keras(tmp_path):
    ours, theirs = with_dropout(), with_dropout(keras)
    fitted(ours, Y)
    fitted(theirs, Y, epochs=1)
    ours.save_weights(tmp_path / "a.weights.h5")
    theirs.load_weights(tmp_path / "a.weights.h5")
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    fitted(theirs, Y)
    theirs.save_weights(tmp_path / "b.weights.h5")
    ours.load_weights(tmp_path / "b.weights.h5")
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))


@pytest.mark.parametrize("damage", ["cut", "flip", "attribute"])
def test_a_damaged_file_is_an_error_that_names_it(damage, tmp_path):
    model = with_dropout()
    path = tmp_path / "last.weights.h5"
    rng = np.random.default_rng(0)
    for _ in range(20):
        model.save_weights(path)
        content = bytearray(path.read_bytes())
        if damage == "cut":
            del content[rng.integers(len(content) - 200) :]
        elif damage == "flip":
            content[rng.integers(len(content) - 97)] ^= 1 << rng.integers(8)
        else:
            content[-rng.integers(1, 64)] ^= 1
        path.write_bytes(content)
        before = model.get_weights()
        with pytest.raises(OSError, match=r"last\.weights\.h5.* load another"):
            model.load_weights(path)
        for now, then in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(now, then)


def test_a_file_that_was_edited_loads_again(tmp_path):
    """HDF5 cuts what follows its content, and the checksum with it."""
    model = with_dropout()
    model.save_weights(tmp_path / "a.weights.h5")
    with h5py.File(tmp_path / "a.weights.h5", "r+") as file:
        file["layers/dense/vars/1"][...] = 7.0
    model.load_weights(tmp_path / "a.weights.h5")
    assert (model.layers[2].bias.numpy() == 7.0).all()


@pytest.mark.parametrize("name", ["a.weights.h5", "a.keras"])
def test_a_save_keeps_rights_and_links(name, tmp_path):
    model, path, link = with_dropout(), tmp_path / name, tmp_path / f"link-{name}"
    save = model.save if name.endswith(".keras") else model.save_weights
    path.write_bytes(b"old")
    path.chmod(0o640)
    link.symlink_to(path)
    save(link)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert len(path.read_bytes()) > 1000
    new = tmp_path / f"new-{name}"
    save(new)
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(new.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_a_long_name_and_a_wrong_place(suffix, tmp_path):
    model = with_dropout()
    save = model.save if suffix == ".keras" else model.save_weights
    save(tmp_path / ("n" * (255 - len(suffix)) + suffix))
    with pytest.raises(OSError, match="nowhere"):
        save(tmp_path / "nowhere" / f"a{suffix}")
    (tmp_path / f"b{suffix}").mkdir()
    with pytest.raises(OSError, match=r"[Dd]irectory"):
        save(tmp_path / f"b{suffix}")
    assert len(list(tmp_path.iterdir())) == 2


FULL = """
    import resource, sys
    import keras
    import numpy as np
    import tfp_vae as tv
    model = tv.Sequential([keras.Input((200,)), keras.layers.Dense(100)])
    saves = {"a.weights.h5": model.save_weights, "a.keras": model.save}
    for name, save in saves.items():
        save(name)
    old = {name: open(name, "rb").read() for name in saves}
    model.set_weights([np.ones_like(w) for w in model.get_weights()])
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    for name, save in saves.items():
        try:
            save(name)
        except Exception as error:
            print(name, "error", type(error).__name__)
        assert open(name, "rb").read() == old[name]
        print(name, "old")
"""


@pytest.fixture(scope="module")
def full_disk(tmp_path_factory):
    """What a process printed that saved files of two kinds, and their folder."""
    folder = tmp_path_factory.mktemp("full")
    command = [sys.executable, "-c", textwrap.dedent(FULL)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
    )
    return done, folder


@pytest.mark.parametrize("name", ["a.weights.h5", "a.keras"])
def test_a_full_disk_leaves_the_old_file(name, full_disk):
    done, folder = full_disk
    lines = [line.split()[1:] for line in done.stdout.splitlines() if name in line]
    assert [words[0] for words in lines] == ["error", "old"], done.stderr
    assert sorted(p.name for p in folder.iterdir()) == ["a.keras", "a.weights.h5"]


def test_what_killed_processes_left_is_removed(tmp_path):
    code = textwrap.dedent(
        """
        import os, runpy, sys
        replacing = runpy.run_path(sys.argv[2])["replacing"]  # alone
        with replacing(sys.argv[1]) as new:
            new.write_text("half")
            os.kill(os.getpid(), 9)
        """
    )
    path = tmp_path / "a.txt"
    path.write_text("old")
    module = ROOT / "tfp_vae" / "files.py"
    killed = subprocess.run([sys.executable, "-c", code, path, module], check=False)
    assert killed.returncode == -9
    assert len(list(tmp_path.iterdir())) == 2
    with replacing(path) as first:
        first.write_text("first")
        with replacing(path) as second:  # does not remove the first
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_threads_that_save_to_one_path_leave_a_whole_file(tmp_path):
    model, path, errors = with_dropout(), tmp_path / "a.weights.h5", []

    def save():
        try:
            for _ in range(5):
                model.save_weights(path)
                with_dropout_again.load_weights(path)
        except Exception as error:
            errors.append(error)

    with_dropout_again = with_dropout()
    threads = [threading.Thread(target=save) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert [p.name for p in tmp_path.iterdir()] == ["a.weights.h5"]


def test_remote_files_are_written_too():
    """TensorFlow's file system in memory stands for a cloud's."""
    path = "ram://run/last.weights.h5"
    with pytest.raises(Killed):
        fitted(with_dropout(), Y, [tv.Checkpoint(path), Kill(2)])
    same(fitted(with_dropout(), Y, [tv.Checkpoint(path)]), fitted(with_dropout(), Y))
    assert not tf.io.gfile.exists(path)
