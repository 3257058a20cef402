"""`VAE.fit` and `evaluate`: the numbers of one step after the other, however run."""

import itertools
import warnings

import keras
import models
import numpy as np
import pytest
import sklearn.base
import slow
import tensorflow as tf
import vaes

import tfp_vae as tv
from tfp_vae.engine import compiler, data, progress
from tfp_vae.engine.progress import EarlyBar
from tfp_vae.models import bound

N, BATCH = 70, 16  # Four full batches and one of 6.


def fresh(kind="plain", jit_compile=True, seed=3, **how):
    keras.utils.set_random_seed(seed)
    model = vaes.KINDS[kind](compiled=False)
    model.compile(keras.optimizers.Adam(0.01), jit_compile=jit_compile, **how)
    return model


class Batches(keras.callbacks.Callback):
    """Notes when it is called, which is after any number of steps."""

    steps_per_execution = None

    def __init__(self):
        super().__init__()
        self.ends, self.losses = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.ends.append(batch)
        self.losses.append(logs["loss"])


def by_hand(model, x, y, weights, epochs, jit_compile):
    """Keras' own train step, one call for each batch, in the order of the rows."""
    step = tf.function(model.train_step, jit_compile=jit_compile, autograph=False)
    history = []
    for _ in range(epochs):
        model.reset_metrics()
        for start in range(0, N, BATCH):
            rows = slice(start, start + BATCH)
            cut = keras.tree.map_structure(
                lambda a, rows=rows: tf.constant(a[rows]),
                (x, y, weights),
                none_is_leaf=False,
            )
            logs = step(cut)
        history.append({name: float(value) for name, value in logs.items()})
    return {name: [logs[name] for logs in history] for name in history[0]}


LOOPS = [
    ("plain", True),
    ("conditional", False),
    ("missing", False),
    ("plain", False),
    ("dictionary", False),
    ("vamp", False),
    ("beta", False),
    ("convolutional iwae", False),
    ("mixture", True),
    ("spherical", True),
    ("flow posterior and prior", True),
]


@pytest.mark.parametrize(("kind", "jit_compile"), slow.except_for(LOOPS[:3], LOOPS))
def test_losses_and_weights_are_those_of_a_loop_over_steps(kind, jit_compile):
    x, y = vaes.inputs(kind, N)
    model = fresh(kind, jit_compile)
    calls = Batches()
    found = model.fit(
        x, y, batch_size=BATCH, epochs=3, shuffle=False, verbose=0, callbacks=[calls]
    ).history
    assert calls.ends == [3, 4] * 3
    other = fresh(kind, jit_compile)
    other.optimizer.build(other.trainable_variables)
    expected = by_hand(other, x, y, None, 3, jit_compile)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=2e-5, err_msg=name)
    for a, b in zip(model.weights, other.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5, err_msg=a.path)
    assert int(model.optimizer.iterations) == 15


def test_weights_schedules_and_kl_warm_up_are_in_the_program(rng):
    x, weights = models.digits(N), rng.uniform(0.1, 2.0, N).astype("float32")
    histories = []
    for steps in (1, None):
        keras.utils.set_random_seed(0)
        model = vaes.vae(compiled=False)
        rate = keras.optimizers.schedules.ExponentialDecay(0.05, 2, 0.7)
        model.compile(
            keras.optimizers.Adam(rate), jit_compile=False, steps_per_execution=steps
        )
        history = model.fit(
            x,
            sample_weight=weights,
            batch_size=BATCH,
            epochs=3,
            validation_split=0.2,
            callbacks=[tv.KLWarmup(steps=9)],
            verbose=0,
        ).history
        histories.append(history)
        assert int(model.optimizer.iterations) == 3 * 4  # 56 rows
    assert histories[0].keys() == histories[1].keys()
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-4, err_msg=name)
    # Of the steps 0 to 3, of 16, 16, 16 and 8 rows.
    first = np.average([0, 1 / 9, 2 / 9, 3 / 9], weights=[16, 16, 16, 8])
    np.testing.assert_allclose(histories[1]["kl_weight"][0], first, rtol=1e-6)


def counting(traces):
    """A model that notes how often its step of training is traced."""

    class Counting(tv.VAE):
        def train_step(self, batch):
            traces.append(True)
            logs = super().train_step(batch)
            return {**logs, "rows": tf.shape(keras.tree.flatten(batch)[0])[0]}

    model = Counting(vaes.encoder(), models.decoder(), tv.StandardNormal(vaes.LATENT))
    model.compile("adam", jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    return model


def test_the_last_batch_is_traced_with_the_others():
    traces = []
    model = counting(traces)
    history = model.fit(models.digits(N), batch_size=BATCH, epochs=3, verbose=0).history
    assert len(traces) == 1
    assert history["rows"] == [6, 6, 6]  # A log of one's own is that of the last step.


def test_other_data_need_no_new_trace(monkeypatch):
    monkeypatch.setattr(compiler, "_EAGER_STEPS", 0)
    traces = []
    model = counting(traces)
    for x in (models.digits(N), models.digits(20), models.digits(5).astype("float64")):
        model.fit(x, batch_size=BATCH, verbose=0)
        assert model.evaluate(x, verbose=0) is not None
    assert int(model.optimizer.iterations) == 5 + 2 + 1
    assert len(traces) == 1


def test_pipelines_give_the_numbers_of_arrays():
    x = models.digits(N)
    known = tf.data.Dataset.from_tensor_slices(x).batch(BATCH)
    unknown = known.filter(lambda batch: True)
    assert unknown.cardinality() == tf.data.UNKNOWN_CARDINALITY

    def endless():
        starts = itertools.cycle(range(0, N, BATCH))
        return (x[start : start + BATCH] for start in starts)

    histories = []
    for given, how in (
        (x, {"batch_size": BATCH, "shuffle": False}),
        (known, {}),
        (unknown, {}),
        (known.repeat(), {"steps_per_epoch": 5}),
        (endless(), {"steps_per_epoch": 5}),
    ):
        model = fresh(jit_compile=False)
        history = model.fit(given, epochs=2, verbose=0, **how).history
        histories.append(history)
        assert int(model.optimizer.iterations) == 10
    for history in histories[1:]:
        for name, values in histories[0].items():
            np.testing.assert_allclose(history[name], values, rtol=1e-5, err_msg=name)


def test_large_arrays_give_the_numbers_of_small_ones(monkeypatch):
    x = models.digits(N)
    histories = []
    for limit in (2**30, 0):
        monkeypatch.setattr(data, "RESIDENT_BYTES", limit)
        model = fresh(jit_compile=False)
        how = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
        history = model.fit(x, epochs=2, validation_data=(x[:20],), **how).history
        histories.append(history)
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("allowed", "asked", "ends"),
    [
        ("nothing said", "auto", [0, 1, 2, 3, 4]),
        (1, "auto", [0, 1, 2, 3, 4]),
        (2, "auto", [1, 3, 4]),
        (None, "auto", [3, 4]),
        (None, 2, [1, 3, 4]),
        (3, 2, [1, 3, 4]),
    ],
)
def test_batch_callbacks_say_how_many_steps_may_lie_between_two_calls(
    allowed, asked, ends
):
    class Noting(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            found.append(batch)

    found, callback = [], Noting()
    if allowed != "nothing said":
        callback.steps_per_execution = allowed
    model = fresh(jit_compile=False, steps_per_execution=asked)
    model.fit(models.digits(N), batch_size=BATCH, callbacks=[callback], verbose=0)
    assert found == ends


def test_callbacks_of_epochs_and_those_of_keras_leave_steps_together(tmp_path):
    class Epochs(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            pass

    batches = Batches()
    of_keras = [
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.EarlyStopping("loss"),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
    ]
    model = fresh(jit_compile=False)
    callbacks = [batches, Epochs(), *of_keras]
    model.fit(models.digits(N), batch_size=BATCH, callbacks=callbacks, verbose=0)
    assert batches.ends == [3, 4]


def test_a_callback_for_steps_of_evaluation_is_called_at_each():
    class Noting(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            found.append(batch)

    found, model = [], fresh(jit_compile=False)
    model.evaluate(models.digits(N), batch_size=BATCH, callbacks=[Noting()], verbose=0)
    assert found == [0, 1, 2, 3, 4]


def test_training_stops_at_the_step_where_a_callback_wants_it():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 2

    model = fresh(jit_compile=False)
    model.fit(
        models.digits(N), batch_size=BATCH, epochs=4, callbacks=[Stop()], verbose=0
    )
    assert int(model.optimizer.iterations) == 3


def test_logs_of_batches_are_means_since_the_epoch_began():
    class Every(Batches):
        steps_per_execution = 1

    found = []
    for callback in (Every(), Batches()):
        model = fresh(jit_compile=False)
        how = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
        model.fit(models.digits(N), callbacks=[callback], **how)
        found.append(dict(zip(callback.ends, callback.losses, strict=True)))
        assert callback.losses[-1] == pytest.approx(model.history.history["loss"][0])
    every, several = found
    assert set(several) < set(every)
    for batch, loss in several.items():
        assert loss == pytest.approx(every[batch], rel=1e-5)


@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_the_progress_bar_ends_with_the_last_step(method, monkeypatch):
    class Seen(EarlyBar):
        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)
            seen.append((batch, self.seen))

        def on_test_batch_end(self, batch, logs=None):
            super().on_test_batch_end(batch, logs)
            seen.append((batch, self.seen))

    monkeypatch.setattr(progress, "EarlyBar", Seen)
    seen, model = [], fresh(jit_compile=False, steps_per_execution=2)
    getattr(model, method)(models.digits(N), batch_size=BATCH, verbose=1)
    assert seen == [(1, 2), (3, 4), (4, 5)]


def test_the_bar_is_shown_whole(capsys):
    model = fresh(jit_compile=False)
    model.fit(models.digits(N), batch_size=BATCH, epochs=2, verbose=1)
    shown = capsys.readouterr().out
    assert shown.index("Compiling the training step") < shown.index("0/5")
    assert shown.count("Compiling") == 1
    assert shown.count("\x1b[1m5/5\x1b[0m") == 2
    assert "elbo" in shown.split("5/5")[1]


def test_programs_are_as_long_as_the_rows_that_are_trained_on_need():
    batches, model = Batches(), fresh(jit_compile=False)
    how = {"batch_size": 1, "validation_split": 0.5, "verbose": 0}
    model.fit(models.digits(160), callbacks=[batches], **how)
    assert batches.ends == [39, 79]


def test_accumulated_batches_train_like_a_larger_one(monkeypatch):
    """What bounds the memory of many draws; the draws are their mean, without noise."""

    def without_noise(q, sample_shape, seed=None):
        mean = q.mean()
        return tf.broadcast_to(mean, [*sample_shape, *tf.unstack(tf.shape(mean))]), None

    monkeypatch.setattr(bound, "draw", without_noise)
    trained, x = [], models.digits(64)
    for size, together in ((32, None), (8, 4)):
        keras.utils.set_random_seed(3)
        model = vaes.vae(compiled=False, objective=tv.ImportanceWeightedBound(3))
        adam = keras.optimizers.Adam(0.01, gradient_accumulation_steps=together)
        model.compile(adam, jit_compile=False)
        model.fit(x, batch_size=size, epochs=3, shuffle=False, verbose=0)
        assert int(model.optimizer.iterations) == 6
        trained.append([np.asarray(weight) for weight in model.trainable_weights])
    for one, other in zip(*trained, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_models_answer_and_train_inside_the_callbacks_of_fit():
    x, other = models.digits(N), models.digits(40)[::-1].copy()
    plain = fresh(jit_compile=False)
    expected = plain.predict(other, batch_size=8, verbose=0)

    class Inside(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            found = self.model.predict(other, batch_size=8, verbose=0)
            np.testing.assert_allclose(found, expected, rtol=1e-5)

        def on_epoch_end(self, epoch, logs=None):
            self.evaluated = self.model.evaluate(other, verbose=0, return_dict=True)
            self.model.test_on_batch(other)

    model, inside = fresh(jit_compile=False), Inside()
    history = model.fit(
        x,
        batch_size=8,
        epochs=2,
        validation_data=(other,),
        callbacks=[inside],
        verbose=0,
    ).history
    keras.utils.set_random_seed(3)
    assert len(history["val_loss"]) == 2
    assert abs(inside.evaluated["elbo"] - history["val_elbo"][-1]) < 3.0
    assert int(model.optimizer.iterations) == 18


@pytest.mark.parametrize("entries", [False, True], ids=["rows", "entries"])
def test_validation_rows_keep_their_weights_in_the_loop_of_keras(entries, rng):
    x = (rng.uniform(size=(40, *vaes.PIXELS)) < 0.5).astype("float32")
    size = x.shape if entries else len(x)
    w = rng.uniform(0.1, 3, size=size).astype("float32")
    found = []
    for eager in (True, False):
        vae = vaes.vae(compiled=False)
        for weight in vae.trainable_weights:  # The loss does not depend on draws.
            weight.assign(tf.zeros_like(weight))
        vae.compile(keras.optimizers.SGD(0.0), run_eagerly=eager)
        how = {"validation_split": 0.5, "batch_size": 20, "verbose": 0}
        found.append(vae.fit(x, sample_weight=w, **how).history)
    for name in ("val_loss", "val_nll"):
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-5)
    plain = vae.evaluate(x[20:], verbose=0, return_dict=True)
    assert abs(plain["loss"] / found[0]["val_loss"][0] - 1) > 0.1


def interrupted(path, stop):
    """An epoch of three, or of one and then two after a restart."""
    keras.utils.set_random_seed(5)
    model = vaes.vae(compiled=False)
    model.compile(keras.optimizers.Adam(0.01), jit_compile=False)

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if stop and epoch == 1:
                raise InterruptedError

    def run(model, *callbacks):
        backup = keras.callbacks.BackupAndRestore(path)
        model.fit(
            models.digits(N),
            batch_size=BATCH,
            epochs=3,
            callbacks=[backup, *callbacks],
            verbose=0,
        )

    if stop:
        with pytest.raises(InterruptedError):
            run(model, Stop())
        keras.utils.set_random_seed(5)
        model = vaes.vae(compiled=False)
        model.compile(keras.optimizers.Adam(0.01), jit_compile=False)
    run(model)
    return model


def test_a_resumed_training_goes_on_with_the_same_order_and_noise(tmp_path):
    whole = interrupted(tmp_path / "a", stop=False)
    resumed = interrupted(tmp_path / "b", stop=True)
    for a, b in zip(whole.weights, resumed.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7, err_msg=a.path)


class OnTheHost(keras.layers.Layer):
    """Something that XLA cannot compile."""

    def call(self, x):
        y = tf.numpy_function(lambda a: a, [x], tf.float32)
        return tf.stop_gradient(tf.ensure_shape(y, x.shape) - x) + x


def not_for_xla():
    q = vaes.encoder()
    layers = [*q.layers]
    return keras.Sequential([keras.Input(vaes.PIXELS), OnTheHost(), *layers])


def told_of_xla(caught):
    return [str(w.message) for w in caught if "XLA" in str(w.message)]


def test_what_xla_refuses_runs_without_it_and_is_told_once(monkeypatch):
    monkeypatch.setattr(compiler, "_STEPS_THAT_PAY", 1)
    x = models.digits(20)
    model = vaes.vae(q=not_for_xla(), compiled=False)
    model.compile("adam")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = model.fit(x, verbose=0, validation_data=(x,)).history
        model.log_prob(x, 3)
    (told,) = told_of_xla(caught)
    assert "runs its training without XLA" in told
    assert "compile(jit_compile=False)" in told
    assert np.isfinite(history["val_loss"]).all()
    assert int(model.optimizer.iterations) == 1


def test_what_xla_refuses_is_an_error_where_xla_was_asked_for():
    model = vaes.vae(q=not_for_xla(), compiled=False)
    model.compile("adam", jit_compile=True)
    with pytest.raises(tf.errors.InvalidArgumentError):
        model.fit(models.digits(20), verbose=0)


def test_xla_is_chosen_from_so_many_steps_on_that_were_asked_for(monkeypatch):
    monkeypatch.setattr(compiler, "_STEPS_THAT_PAY", 8)
    model = vaes.vae(q=not_for_xla(), compiled=False)
    model.compile("adam")
    told = []
    for _ in range(3):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(models.digits(48), batch_size=16, verbose=0)
        told.append(len(told_of_xla(caught)))
    assert told == [0, 0, 1]  # of 3 steps each


@pytest.mark.parametrize("asked", ["auto", True, False])
def test_a_network_alone_is_left_to_tensorflow_unless_xla_is_asked_for(
    asked, monkeypatch
):
    monkeypatch.setattr(compiler, "_STEPS_THAT_PAY", 1)
    model, x = fresh("plain", asked), models.digits(4)
    model.log_prob(x, 3)
    image = model.generate(3, seed=1, statistics="sample")
    assert set(np.unique(image)) <= {0.0, 1.0}
    by_xla = {
        key[0]: function._compiled is not None
        for key, function in model._functions._made.items()
    }
    assert by_xla == {"log_prob": bool(asked), "decode": asked is True}


def test_what_was_chosen_by_itself_stays_open_in_a_saved_model(tmp_path):
    model = fresh("plain", "auto")
    model.fit(models.digits(20), verbose=0)
    model.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    expected = {"jit_compile": "auto"}
    assert {k: loaded.get_compile_config()[k] for k in expected} == expected


def test_what_was_asked_for_is_in_a_saved_model(tmp_path):
    model = fresh("plain", False, steps_per_execution=4)
    model.fit(models.digits(20), verbose=0)
    model.save(tmp_path / "b.keras")
    loaded = keras.models.load_model(tmp_path / "b.keras")
    assert (loaded.steps_per_execution, loaded.jit_compile) == (4, False)


@pytest.mark.parametrize(
    "policy",
    ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)],
)
def test_mixed_precision_trains_saves_and_answers(policy, tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = fresh("plain", "auto")
        x = models.digits(N)
        history = model.fit(x, batch_size=BATCH, epochs=8, verbose=0).history
        assert history["loss"][-1] < history["loss"][0] - 1
        assert model.encoder.layers[1].compute_dtype == policy.removeprefix("mixed_")
        assert model.log_prob(x[:5], 10).dtype == np.float32
        assert model.encode(x).dtype == tf.float32
        assert all(v.dtype == "float32" for v in model.trainable_variables)
        model.save(tmp_path / "m.keras")
        loaded = keras.models.load_model(tmp_path / "m.keras")
        np.testing.assert_allclose(
            loaded.predict(x[:5], verbose=0), model.predict(x[:5], verbose=0), rtol=1e-5
        )
    finally:
        keras.config.set_dtype_policy(before)


def test_losses_with_xla_are_those_without():
    found, how = [], {"batch_size": BATCH, "verbose": 0}
    for jit_compile in (True, False):
        model, x = fresh(jit_compile=jit_compile), models.digits(N)
        history = model.fit(x, epochs=3, validation_data=(x,), **how).history
        evaluated = model.evaluate(x, return_dict=True, **how)["loss"]
        found.append([*history["loss"], *history["val_loss"], evaluated])
    np.testing.assert_allclose(*found, rtol=1e-4)


def test_steps_whose_first_trace_failed_can_make_metrics_later():
    class Own(tv.VAE):
        fails = True

        def test_step(self, batch):
            if self.fails:
                raise ValueError("not yet")
            return super().test_step(batch)

    model = Own(vaes.encoder(), models.decoder(), tv.StandardNormal(vaes.LATENT))
    model.compile("adam", metrics=["mae"], jit_compile=True)
    x = models.digits(N)
    with pytest.raises(ValueError, match="not yet"):
        model.evaluate(x, batch_size=BATCH, verbose=0)
    model.fails = False
    found = model.evaluate(x, batch_size=BATCH, verbose=0, return_dict=True)
    assert 0 < found["mae"] < 1


def test_integers_are_trained_on():
    x = models.digits(N).astype("uint8")
    likelihood = tv.IndependentPoisson
    layers = [keras.layers.Dense(likelihood.params_size(vaes.PIXELS))]
    layers = [keras.Input((vaes.LATENT,)), *layers, likelihood(vaes.PIXELS)]
    model = vaes.vae(p=keras.Sequential(layers))
    assert np.isfinite(model.fit(x, verbose=0).history["loss"]).all()


def rows_seen(model, **how):
    """How many rows and steps a training and its validation had."""

    class Rows(keras.metrics.Metric):
        def __init__(self):
            super().__init__(name="rows")
            self.total = self.add_weight(shape=(), initializer="zeros", name="total")

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.total.assign_add(tf.cast(tf.shape(y_true)[0], "float32"))

        def result(self):
            return tf.identity(self.total.value)

    model.compile("adam", jit_compile=False, metrics=[Rows()])
    history = model.fit(verbose=0, **how).history
    held = history.get("val_rows", [])
    return history["rows"], held, int(model.optimizer.iterations)


def test_validation_has_the_steps_that_were_asked():
    x = models.digits(160)
    endless = tf.data.Dataset.from_tensor_slices(x).repeat().batch(4)
    model = vaes.vae(compiled=False)
    held = {"validation_data": endless, "validation_steps": 3}
    assert rows_seen(model, x=x, batch_size=8, **held) == ([160], [12], 20)
    held = {"validation_data": (x,), "validation_steps": 3, "validation_batch_size": 8}
    assert rows_seen(model, x=x, batch_size=4, **held) == ([160], [24], 40)


def test_what_is_held_out_is_not_trained_on():
    how = {"validation_split": 0.5, "steps_per_epoch": 10, "epochs": 2}
    model = vaes.vae(compiled=False)
    found = rows_seen(model, x=models.digits(160), **how)
    assert found == ([80, 80], [80, 80], 20)


def test_epochs_have_the_steps_that_were_asked():
    x = models.digits(160)
    model = vaes.vae(compiled=False)
    endless = tf.data.Dataset.from_tensor_slices(x).repeat().batch(4)
    found = rows_seen(model, x=endless, steps_per_epoch=33, epochs=2)
    assert found == ([132, 132], [], 66)
    starts = itertools.islice(itertools.cycle(range(0, 160, 4)), 66)
    exact = (x[start : start + 4] for start in starts)
    found = rows_seen(model, x=exact, steps_per_epoch=33, epochs=2)
    assert found == ([132, 132], [], 66)
    logs = model.evaluate(x, batch_size=4, steps=33, verbose=0, return_dict=True)
    assert logs["rows"] == 132


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_pipelines_of_other_floats_train_on_a_short_last_batch(dtype):
    x = models.digits(N).astype(dtype)
    model = fresh(jit_compile=False)
    history = model.fit(tf.data.Dataset.from_tensor_slices(x).batch(BATCH), verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert int(model.optimizer.iterations) == 5


@pytest.mark.parametrize("eager_steps", [0, 4])
def test_steps_of_a_subclass_see_batches_of_the_length_that_their_pipeline_tells(
    eager_steps, monkeypatch
):
    monkeypatch.setattr(compiler, "_EAGER_STEPS", eager_steps)

    class Own(tv.VAE):
        def train_step(self, batch):
            x, y = batch
            assert x.shape == (32, 8, 8, 1)
            logs = super().train_step((x, y))
            return {**logs, "first": y[:, 0, 0, 0]}

    x = models.digits(64)
    model = Own(vaes.encoder(), models.decoder(), tv.StandardNormal(vaes.LATENT))
    model.compile("adam", jit_compile=False)
    pairs = tf.data.Dataset.from_tensor_slices((x, 1 - x)).batch(32, True)
    history = model.fit(pairs, verbose=0).history
    np.testing.assert_array_equal(history["first"][0], 1 - x[32:, 0, 0, 0])


@pytest.mark.parametrize("form", ["arrays", "pipeline"])
@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("epochs", [1, 9])
def test_steps_of_a_subclass_see_what_keras_gives_them(parts, form, epochs):
    class Own(tv.VAE):
        def train_step(self, batch):
            seen.append(keras.tree.map_structure(lambda part: part.shape.rank, batch))
            return super().train_step(batch)

    x = models.digits(32)
    given, seen = [x, 1 - x, np.ones(32)][:parts], []
    model = Own(vaes.encoder(), models.decoder(), tv.StandardNormal(vaes.LATENT))
    model.compile("adam", jit_compile=False)
    if form == "pipeline":
        packed = tuple(given) if parts > 1 else x
        given = [tf.data.Dataset.from_tensor_slices(packed).batch(16)]
    x, y, weights = [*given, None, None][:3]
    model.fit(x, y, sample_weight=weights, epochs=epochs, verbose=0)
    assert seen[0] == {1: 4, 2: (4, 4), 3: (4, 4, 1)}[parts]


def test_eager_execution_can_be_switched_after_compile():
    x, model = models.digits(20), vaes.vae(compiled=False)
    model.compile("adam", run_eagerly=True)
    model.fit(x, verbose=0)
    model.run_eagerly = False
    model.fit(x, verbose=0)
    model.run_eagerly = True
    model.fit(x, verbose=0)
    assert int(model.optimizer.iterations) == 3


def test_a_batch_that_is_a_list_of_numbers_is_told_of():
    with pytest.raises(ValueError, match="which entry of x the decoder describes"):
        vaes.vae().train_on_batch([[0.0, 1.0]])


def test_a_model_that_was_not_compiled_is_told():
    x, model = models.digits(20), vaes.vae(compiled=False)
    for method in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match="a compiled model.*Call `compile`"):
            method(x, verbose=0)


def test_data_changed_in_place_are_seen():
    x = models.digits(N)
    model = fresh(jit_compile=False)
    model.evaluate(x, verbose=0)
    x.flat[3] = np.nan
    for method in (model.evaluate, model.fit):
        with pytest.raises(ValueError, match="1 NaN"):
            method(x, verbose=0)


def test_what_is_only_warned_of_is_warned_of_again():
    x, model = np.full((N, *vaes.PIXELS), 0.5, "float32"), fresh(jit_compile=False)
    for _ in range(2):
        with pytest.warns(UserWarning, match="grey pixels"):
            model.evaluate(x, verbose=0)


def test_inputs_are_checked_beside_targets():
    x, model = models.digits(N), fresh(jit_compile=False)
    wrong = x.copy()
    wrong.flat[3] = np.nan
    with pytest.raises(ValueError, match="1 NaN"):
        model.fit(wrong, x, verbose=0)


def test_models_of_one_process_are_no_retracings_to_tensorflow(caplog, monkeypatch):
    monkeypatch.setattr(tf.get_logger(), "propagate", True)
    monkeypatch.setattr(compiler, "_EAGER_STEPS", 0)
    for _ in range(6):
        vaes.vae().evaluate(models.digits(20), verbose=0)
    assert "retracing" not in caplog.text


class Resets(keras.metrics.Mean):
    """Counts how often it is reset, in Python."""

    resets = 0

    def reset_state(self):
        super().reset_state()
        self.resets += 1


@pytest.mark.parametrize("kind", [Resets, keras.metrics.Mean])
def test_metrics_that_come_later_are_read_and_reset(kind):
    x, y = vaes.inputs("plain", N)
    model = vaes.vae()
    model.fit(x, y, batch_size=BATCH, verbose=0)
    model.other = other = kind(name="other")
    other.update_state(7.0)
    model.fit(x, y, batch_size=BATCH, epochs=3, verbose=0)
    assert float(other.count) == 0.0
    assert getattr(other, "resets", 3) == 3
    other.update_state(5.0)
    assert float(model.get_metrics_result()["other"]) == 5.0
    model.compile("adam")
    assert float(model.get_metrics_result()["other"]) == 5.0


@pytest.mark.filterwarnings("ignore:Even though the `tf.config")  # TensorFlow's
def test_functions_that_run_eagerly_run_the_steps_in_python():
    x, y = vaes.inputs("plain", 2 * BATCH)
    seen = []

    class Seen(keras.layers.Layer):
        def call(self, inputs):
            seen.append(tf.executing_eagerly())
            return inputs

    model = vaes.vae(q=vaes.encoder(tv.IndependentNormal, "sample", Seen()))
    model.fit(x, y, batch_size=BATCH, verbose=0)
    tf.config.run_functions_eagerly(True)
    try:
        seen.clear()
        model.fit(x, y, batch_size=BATCH, verbose=0)
    finally:
        tf.config.run_functions_eagerly(False)
    assert seen.count(True) >= 2


def test_numbers_of_steps_may_be_those_of_numpy():
    x, y = vaes.inputs("plain", N)
    model = vaes.vae(compiled=False)
    model.compile("adam", steps_per_execution=np.int64(2))
    steps = np.int64(N // BATCH)
    model.fit(x, y, batch_size=BATCH, steps_per_epoch=steps, verbose=0)
    model.evaluate(x, y, batch_size=BATCH, steps=steps, verbose=0)
    assert int(model.optimizer.iterations) == steps


def test_a_vae_is_a_step_of_a_pipeline_of_scikit_learn():
    """Keras' wrappers take models that have a loss."""

    class Features(tv.VAE):
        def fit(self, x, y=None, **kwargs):  # y is for the next step
            return super().fit(x, **kwargs)

        def predict(self, x, **kwargs):
            return self.encode(x).mean().numpy()

    def build(X, y, latent_size):
        encoder = [keras.Input((64,)), keras.layers.Dense(2 * latent_size)]
        decoder = [keras.Input((latent_size,)), keras.layers.Dense(64)]
        model = Features(
            keras.Sequential([*encoder, tv.IndependentNormal(latent_size)]),
            keras.Sequential([*decoder, tv.IndependentBernoulli(64)]),
            tv.StandardNormal(latent_size),
        )
        model.compile("adam")
        return model

    x = models.digits(32).reshape(32, 64)
    step = keras.wrappers.SKLearnTransformer(build, model_kwargs={"latent_size": 3})
    codes = sklearn.base.clone(step).fit_transform(x, np.arange(32) % 2, verbose=0)
    assert codes.shape == (32, 3)
