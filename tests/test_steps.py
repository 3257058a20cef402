"""Many steps in one program: the numbers of one step after the other."""

import itertools
import warnings

import keras
import models
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import vaes

import tfp_vae as tv
import tfp_vae.models.inputs as data
from tfp_vae.models import answers, compiled, passes, progress, resident, staging
from tfp_vae.models.compiled import Compiler, in_pieces, loop, operations
from tfp_vae.models.passes import rows_at_once
from tfp_vae.models.progress import StepsBar, with_bar
from tfp_vae.models.resident import Residents
from tfp_vae.models.staging import Rows, Stack, steps_at_once
from tfp_vae.seeds import Seeds

tfd = tfp.distributions

pytestmark = pytest.mark.xla

N, BATCH = 70, 16  # Four full batches and one of 6.


def fresh(kind="plain", jit_compile=True, seed=3, **how):
    keras.utils.set_random_seed(seed)
    model = vaes.KINDS[kind](compiled=False)
    model.compile(keras.optimizers.Adam(0.01), jit_compile=jit_compile, **how)
    return model


class Batches(keras.callbacks.Callback):
    """Notes when Keras calls."""

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


@pytest.mark.parametrize(
    ("kind", "jit_compile"),
    [
        ("plain", True),
        ("plain", False),
        ("conditional", False),
        ("dictionary", False),
        ("vamp", False),
        ("beta", False),
        ("missing", False),
        pytest.param("convolutional iwae", False, marks=pytest.mark.slow),
        pytest.param("mixture", True, marks=pytest.mark.slow),
        pytest.param("spherical", True, marks=pytest.mark.slow),
        pytest.param("flow posterior and prior", True, marks=pytest.mark.slow),
    ],
)
def test_losses_and_weights_are_those_of_a_loop_over_steps(kind, jit_compile):
    x, y = vaes.inputs(kind, N)
    model = fresh(kind, jit_compile)
    calls = Batches()
    found = model.fit(
        x, y, batch_size=BATCH, epochs=3, shuffle=False, verbose=0, callbacks=[calls]
    ).history
    assert calls.ends == [4, 4, 4]
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


def test_the_last_batch_is_traced_with_the_others():
    traces = []

    class Counting(tv.VAE):
        def train_step(self, batch):
            traces.append(keras.tree.flatten(batch)[0].shape)
            logs = super().train_step(batch)
            return {**logs, "rows": tf.shape(batch)[0]}

    model = Counting(vaes.encoder(), models.decoder(), tv.StandardNormal(vaes.LATENT))
    model.compile("adam", jit_compile=False)
    history = model.fit(models.digits(N), batch_size=BATCH, epochs=3, verbose=0).history
    assert len(traces) == 1
    assert history["rows"] == [6, 6, 6]  # A log of one's own is that of the last step.


def chunks_of(source, steps, *batches):
    """The chunks of each call until there is no batch left."""
    while True:
        try:
            yield list(source.chunks(*batches, steps, steps))
        except tf.errors.OutOfRangeError:
            return


@pytest.mark.parametrize("how", [True, False, "batch"])
def test_every_row_is_in_every_epoch_once_and_in_a_new_order(how):
    def epochs(seed):
        keras.utils.set_random_seed(seed)
        rows = Rows(tf.range(100), range(10, 80), 16)
        rows.shuffle(how, Seeds())
        for _ in range(3):
            calls = chunks_of(rows, 2, iter(rows.numbers()))
            yield np.concatenate(
                [chunk.rows[: chunk.number].ravel() for call in calls for chunk in call]
            )

    orders = list(epochs(1))
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(10, 80))
        if how == "batch":
            np.testing.assert_array_equal((order - 10) // 16, np.arange(70) // 16)
    pairs = itertools.combinations(orders, 2)
    assert [np.array_equal(*pair) for pair in pairs] == [how is False] * 3
    for order, again in zip(orders, epochs(1), strict=True):
        np.testing.assert_array_equal(order, again)
    assert np.array_equal(orders[0], next(epochs(2))) == (how is False)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras, of unknown
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


def test_batches_of_many_lengths_keep_their_order():
    lengths = [3, 3, 5, 5, 5, 2, 3, 3]
    ends = np.cumsum([0, *lengths])
    pieces = [np.arange(a, b) for a, b in itertools.pairwise(ends)]
    spec = tf.TensorSpec([None], tf.int64)
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(pieces), output_signature=spec
    )
    for steps in (1, 2, 3, 5, 9):
        calls = list(chunks_of(Stack(), steps, iter(dataset)))
        found = [
            row
            for chunk in itertools.chain(*calls)
            for row in np.asarray(chunk.arrays)[chunk.rows][: chunk.number].tolist()
        ]
        assert found == [piece.tolist() for piece in pieces]
        taken = [sum(chunk.number for chunk in call) for call in calls]
        whole, rest = divmod(len(pieces), steps)
        assert taken == [steps] * whole + [rest] * bool(rest)


def test_large_arrays_come_through_keras_pipeline(monkeypatch):
    x = models.digits(N)
    histories = []
    for limit in (2**30, 0):
        monkeypatch.setattr(resident, "_RESIDENT_BYTES", limit)
        assert (Residents().tensors((x, None, None)) is None) == (limit == 0)
        model = fresh(jit_compile=False)
        how = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
        history = model.fit(x, epochs=2, validation_data=(x[:20],), **how).history
        histories.append(history)
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-5, err_msg=name)


def test_callbacks_can_ask_for_every_step_and_the_user_for_any_number():
    class Every(Batches):
        steps_per_execution = 1

    x = models.digits(N)
    for how, callback, ends in (
        ({}, Batches(), [4]),
        ({}, Every(), [0, 1, 2, 3, 4]),
        ({"steps_per_execution": 2}, Batches(), [1, 3, 5]),
    ):
        model = fresh(jit_compile=False, **how)
        model.fit(x, batch_size=BATCH, callbacks=[callback], verbose=0)
        assert callback.ends == ends
        assert model.steps_per_execution == how.get("steps_per_execution", 1)


def test_the_progress_bar_ends_with_the_last_step(monkeypatch):
    class Seen(StepsBar):
        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)
            seen.append((batch, self.seen))

        def on_test_batch_end(self, batch, logs=None):
            super().on_test_batch_end(batch, logs)
            seen.append((batch, self.seen))

    monkeypatch.setattr(progress, "StepsBar", Seen)
    x, seen = models.digits(N), []
    model = fresh(jit_compile=False, steps_per_execution=2)
    how = {"batch_size": BATCH, "verbose": 1}
    model.fit(x, **how)
    model.fit(x, callbacks=keras.callbacks.TerminateOnNaN(), **how)
    model.evaluate(x, **how)
    # Keras tells where a full program would end.
    assert seen == [(1, 2), (3, 4), (5, 5)] * 3


def test_a_bar_is_added_where_keras_would_add_its_own():
    (added,) = with_bar(None, "auto")
    assert isinstance(added, StepsBar)
    given = [keras.callbacks.ProgbarLogger()]
    assert with_bar(given, 1) == given
    of_keras = keras.callbacks.CallbackList()
    assert with_bar(of_keras, 1) is of_keras
    assert with_bar(None, 0) is None


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

    monkeypatch.setattr(passes, "draw", without_noise)
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


def test_other_data_need_no_new_compile():
    model = fresh(jit_compile=False)
    for x in (models.digits(N), models.digits(20), models.digits(5).astype("float64")):
        model.fit(x, batch_size=BATCH, verbose=0)
        assert model.evaluate(x, verbose=0) is not None
    assert int(model.optimizer.iterations) == 5 + 2 + 1
    assert model._feed.train is None


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


def test_what_xla_refuses_runs_without_it_and_is_told_once():
    x = models.digits(20)
    model = vaes.vae(q=not_for_xla(), compiled=False)
    model.compile("adam")
    assert model.jit_compile
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = model.fit(x, verbose=0, validation_data=(x,)).history
        model.log_prob(x, 3)
    (told,) = [str(w.message) for w in caught if "XLA" in str(w.message)]
    assert "compiles its training" in told
    assert "compile(jit_compile=False)" in told
    assert np.isfinite(history["val_loss"]).all()
    assert int(model.optimizer.iterations) == 1
    model.compile("adam", jit_compile=True)
    with pytest.raises(tf.errors.InvalidArgumentError):
        model.fit(x, verbose=0)


def test_xla_is_chosen_where_it_can_compile():
    model = vaes.vae(compiled=False)
    model.compile("adam")
    assert model.jit_compile
    model.compile("adam", run_eagerly=True)
    assert not model.jit_compile
    model.compile("adam", jit_compile=False)
    assert not model.jit_compile
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        mirrored = vaes.vae(compiled=False)
        mirrored.compile("adam")
    assert not mirrored.jit_compile


@pytest.mark.parametrize("asked", ["auto", True])
def test_convolutions_run_without_xla_on_a_cpu(asked, recwarn):
    if tf.config.list_logical_devices("GPU"):
        pytest.skip("XLA compiles convolutions for a GPU")
    kernel = tf.ones([3, 3, 1, 1])
    compiler = Compiler(asked)
    function = compiler.function(
        lambda x: tf.nn.conv2d(x, kernel, 1, "SAME"), "a convolution"
    )
    np.testing.assert_allclose(function(tf.ones([1, 3, 3, 1]))[0, 1, 1, 0], 9.0)
    assert not function._jit
    assert len(recwarn) == (asked is True)
    plain = compiler.function(lambda x: x + 1, "a sum")
    plain(tf.ones(3))
    assert plain._jit


@pytest.mark.parametrize("asked", ["auto", True, False])
def test_a_network_alone_is_left_to_tensorflow_unless_xla_is_asked_for(asked):
    model, x = fresh("plain", asked), models.digits(4)
    model.log_prob(x, 3)
    image = model.generate(3, seed=1, statistics="sample")
    assert set(np.unique(image)) <= {0.0, 1.0}
    made = {
        getattr(function, "_name", None): getattr(function, "_jit", None)
        for function in model._functions._made.values()
    }
    assert made["`log_prob`"] == bool(asked)
    if not tf.config.list_logical_devices("GPU"):
        assert made["`generate`"] == (asked is True)


def test_what_was_chosen_by_itself_stays_open_in_a_saved_model(tmp_path):
    model = fresh("plain", "auto")
    model.fit(models.digits(20), verbose=0)
    model.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    expected = {"jit_compile": "auto", "steps_per_execution": None}
    assert {k: loaded.get_compile_config()[k] for k in expected} == expected
    model.compile("adam", jit_compile=False, steps_per_execution=4)
    model.fit(models.digits(20), verbose=0)
    model.save(tmp_path / "b.keras")
    loaded = keras.models.load_model(tmp_path / "b.keras")
    assert (loaded.steps_per_execution, loaded.jit_compile) == (4, False)


def test_nothing_of_a_step_runs_on_the_host():
    model = fresh(jit_compile=False)
    x = models.digits(20)
    model.fit(x, verbose=0)
    (program,) = model.train_function._programs.values()
    graph = program._traced.get_concrete_function().graph.as_graph_def()
    found = set(operations(graph))
    assert "While" in found or "StatelessWhile" in found
    assert not {op for op in found if "PyFunc" in op}


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


def test_programs_take_few_steps_of_large_batches():
    assert steps_at_once(None, 1) == 64
    assert steps_at_once(None, 1, training=False) == 256
    assert steps_at_once(1000, 2**28) == 1
    for batches in range(1, 200):
        steps = steps_at_once(batches, 1)
        assert 1 <= steps <= 64
        overshoot = -batches % steps
        assert overshoot < -(-batches // steps)


def assert_many_are_as_few(model, x, y, rtol=1e-4):
    """Compares the posterior of all rows with those of 8 at a time."""
    many = model.encode(x, y)
    count = many.batch_shape[0]
    z = many.sample(seed=1)
    found = []
    for i in range(0, count, 8):
        few = data.mapped(lambda a, i=i: a[i : i + 8], (x, y))
        q = model.encode(*few)
        assert q.dtype == many.dtype
        found.append(q.log_prob(z[i : i + 8]))
    assert sum(map(len, found)) == count
    np.testing.assert_allclose(many.log_prob(z), np.concatenate(found), rtol=rtol)


@pytest.fixture
def eager_functions():
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def eight_rows(monkeypatch):
    """Rows that go through the networks together, so that N are many."""
    monkeypatch.setattr(answers, "_ROWS", 8)


# 70 rows in one call, in pieces of 8 and one of 6, and in as many calls.
@pytest.mark.parametrize("handed", [2**25, 1])
@pytest.mark.parametrize("kind", ["plain", "conditional", "dictionary", "missing"])
def test_the_posterior_of_many_rows_is_that_of_few(
    kind, handed, eight_rows, monkeypatch
):
    monkeypatch.setattr(answers, "_HANDED_BYTES", handed)
    model = vaes.KINDS[kind]()
    assert_many_are_as_few(model, *vaes.inputs(kind, N))
    assert len(model.weights) == len(vaes.KINDS[kind]().weights)


# Calls of 24 rows, of which the last has one or all.
@pytest.mark.parametrize("n", [25, 48])
def test_the_last_call_for_the_posterior_may_be_short(n, eight_rows, monkeypatch):
    monkeypatch.setattr(answers, "_HANDED_BYTES", 3 * 8 * 64 * 4)
    assert_many_are_as_few(vaes.vae(), *vaes.inputs("plain", n))


def test_the_posterior_of_many_rows_has_the_dtype_of_few(eight_rows):
    keras.config.set_dtype_policy("mixed_bfloat16")
    # Keras takes the output of a Lambda for one of the policy's dtype.
    cast = keras.layers.Lambda(lambda h: tf.cast(h, "float32"))
    for between in ([], [cast]):
        q = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                keras.layers.Conv2D(3, 3, strides=2),
                keras.layers.Flatten(),
                keras.layers.Dense(tv.IndependentNormal.params_size(vaes.LATENT)),
                *between,
                tv.IndependentNormal(vaes.LATENT),
            ]
        )
        assert_many_are_as_few(vaes.vae(q=q), models.digits(N), None, rtol=5e-2)


def test_the_posterior_of_many_rows_in_eager_functions(eight_rows, eager_functions):
    assert_many_are_as_few(vaes.vae(), models.digits(N), None)


def test_pieces_have_the_rows_that_were_asked():
    lengths = in_pieces(
        lambda x: tf.repeat(tf.size(x), tf.size(x)), 8, "int32", tf.TensorSpec([None])
    )
    np.testing.assert_array_equal(lengths(tf.zeros(N)), [8] * 64 + [6] * 6)


def test_wide_layers_are_given_fewer_rows_at_once():
    deep = keras.Sequential([keras.layers.Dense(2**15), keras.layers.Dense(3)])
    shared = keras.layers.Dense(8)
    x = keras.Input((8,))
    network = keras.Model(x, [shared(shared(x)), deep(x)])
    assert rows_at_once(network, 1024) == 2**22 // 2**15
    assert rows_at_once(network, 64) == 64
    huge = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2**23)])
    assert rows_at_once(huge, 1024) == 1

    class Block(keras.layers.Layer):
        layers = 4

    assert rows_at_once(keras.Sequential([keras.Input((8,)), Block()]), 64) == 64
    images = keras.Input((None, None, 3))  # of any size: nothing is known
    any_size = keras.Model(images, keras.layers.Conv2D(4, 3)(images))
    assert rows_at_once(any_size, 1024) == 1024


def test_a_wide_decoder_gives_the_same_log_prob(monkeypatch):
    x = models.digits(40)
    model = vaes.vae()
    narrow = model.log_prob(x, 2000, seed=1, verbose=0)
    monkeypatch.setattr(passes, "_WIDTH", 2**9)
    wide = model.log_prob(x, 2000, seed=1, verbose=0)
    assert not np.array_equal(wide, narrow)  # of other draws
    # One of them has a standard deviation of about 0.2 between two estimates.
    assert abs(np.mean(wide - narrow)) < 0.1
    assert np.std(wide - narrow) < 0.5


def test_losses_with_xla_are_those_without():
    found = []
    for jit_compile in (True, False):
        model, x = fresh(jit_compile=jit_compile), models.digits(N)
        history = model.fit(x, batch_size=BATCH, epochs=3, verbose=0).history
        found.append(history["loss"] + model.evaluate(x, verbose=0)[:1])
    np.testing.assert_allclose(*found, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("after", [0, 3, 100])
@pytest.mark.parametrize(
    ("full", "form"), [(1, "array"), (7, "array"), (8, "pipeline")]
)
def test_steps_of_evaluation_side_by_side_keep_their_order(
    full, form, after, monkeypatch
):
    class Own(tv.VAE):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.seen = keras.Variable(0.0, trainable=False)

        def test_step(self, batch):
            logs = super().test_step(batch)
            self.seen.assign(self.seen / 2 + tf.reduce_mean(batch))
            return logs

    monkeypatch.setattr(staging, "_STEPS_TO_PAIR", after)
    monkeypatch.setattr(compiled, "_on_a_gpu", lambda: False)
    x, found = models.digits(BATCH * full + 6), []
    batches = [x[i : i + BATCH] for i in range(0, len(x), BATCH)]
    for by_hand in (False, True):
        keras.utils.set_random_seed(3)
        model = Own(vaes.encoder(), models.decoder(), tv.StandardNormal(vaes.LATENT))
        model.compile("adam", jit_compile=True, steps_per_execution=3)
        if by_hand:
            for batch in batches:
                logs = model.test_step(tf.constant(batch))
        else:
            given, how = x, {"batch_size": BATCH}
            if form == "pipeline":  # Of unknown length.
                given, how = tf.data.Dataset.from_tensor_slices(x).batch(BATCH), {}
                given = given.filter(lambda batch: True)
            logs = model.evaluate(given, verbose=0, return_dict=True, **how)
            made = {together for _, together in model.test_function._programs}
            assert made == ({1, 2} if after < full - 1 else {1})
        found.append([float(logs[name]) for name in ("loss", "nll", "kl")])
        seen = 0.0
        for batch in batches:
            seen = seen / 2 + batch.mean()
        np.testing.assert_allclose(model.seen, seen, rtol=1e-5)
    np.testing.assert_allclose(*found, rtol=1e-5)


def test_validation_side_by_side_is_that_one_by_one(monkeypatch):
    monkeypatch.setattr(compiled, "_on_a_gpu", lambda: False)
    x, found = models.digits(N), []
    for after in (0, 5, 1000):
        monkeypatch.setattr(staging, "_STEPS_TO_PAIR", after)
        model = fresh()
        model.fit(x, validation_data=(x,), batch_size=BATCH, epochs=3, verbose=0)
        made = {together for _, together in model.test_function._programs}
        assert made == ({1, 2} if after < 1000 else {1})
        found.append(model.history.history["val_loss"])
    np.testing.assert_allclose(found[:2], found[1:], rtol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("together", [1, 2, 4])
def test_loops_make_whole_turns_in_order(together, jit_compile):
    traced = []

    def body(i, state):
        traced.append(i)
        return 2 * state[0] + i, i

    def whole(count):
        state = tf.constant(1), tf.constant(-1)
        return loop(body, state, count, together)

    whole = tf.function(whole, jit_compile=jit_compile, autograph=False)
    for count in (0, 1, 3, 4, 8):
        total, rounds = 1, -(-count // together) * together
        for i in range(rounds):
            total = 2 * total + i
        found = whole(tf.constant(count))
        assert [int(part) for part in found] == [total, rounds - 1]
    assert len(traced) == together


def test_steps_are_side_by_side_where_that_is_soon_compiled_and_faster(monkeypatch):
    def overlaps(asked, fn, times=2):
        function = Compiler(asked).function(fn, "it")
        return function.overlaps(times, tf.zeros([1, 1, 1, 1]))

    def plain(x):
        return x + 1

    def convolution(x):
        return tf.nn.conv2d(x, x, 1, "SAME")

    monkeypatch.setattr(compiled, "_on_a_gpu", lambda: False)
    assert overlaps("auto", plain)
    assert overlaps(True, plain)
    assert not overlaps("auto", plain, 1000)
    assert not overlaps(False, plain)
    assert not overlaps("auto", lambda x: x + tf.random.normal([1]))
    with pytest.warns(UserWarning, match="convolutions"):
        assert not overlaps(True, convolution)
    tf.config.run_functions_eagerly(True)
    try:
        assert not overlaps(True, plain)
    finally:
        tf.config.run_functions_eagerly(False)
    monkeypatch.setattr(compiled, "_on_a_gpu", lambda: True)
    assert not overlaps(True, plain)


@pytest.mark.parametrize("law", ["normal", "gamma"])
def test_dense_models_are_small_enough_to_overlap_but_not_slow_laws(law, monkeypatch):
    monkeypatch.setattr(compiled, "_on_a_gpu", lambda: False)
    posterior, prior = tv.IndependentNormal, tv.StandardNormal(vaes.LATENT)
    if law == "gamma":
        ones = tf.ones(vaes.LATENT)
        posterior, prior = (
            tv.IndependentGamma,
            tfd.Independent(tfd.Gamma(ones, ones), 1),
        )
    model = vaes.vae(q=vaes.encoder(posterior), prior=prior, jit_compile=True)
    x = tf.constant(models.digits(BATCH))
    model.make_test_function()
    evaluation = model.test_function._program(data.any_length(x))
    assert evaluation.overlaps(2) == (law == "normal")
    given = x, x, tf.zeros([2], tf.int32), tf.constant(40)
    for fn in (model.log_sum, model._elbo_sum):
        assert model._sums(fn, "it", 1).overlaps(4, *given) == (law == "normal")


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


def test_evaluation_pairs_by_the_length_of_the_data(monkeypatch):
    monkeypatch.setattr(compiled, "_on_a_gpu", lambda: False)
    monkeypatch.setattr(staging, "_STEPS_TO_PAIR", 8)
    x, model = models.digits(BATCH * 5), fresh()
    pairs = []
    for rows in (BATCH * 4, BATCH * 4, BATCH * 5, BATCH * 4):
        before = len(model.test_function._programs) if model.test_function else 0
        model.evaluate(x[:rows], batch_size=BATCH, steps=4, verbose=0)
        pairs.append(len(model.test_function._programs) - before)
    assert pairs == [1, 0, 0, 1]


def test_integer_data_stay_integers():
    x = models.digits(N).astype("uint8")
    likelihood = tv.IndependentPoisson
    layers = [keras.layers.Dense(likelihood.params_size(vaes.PIXELS))]
    layers = [keras.Input((vaes.LATENT,)), *layers, likelihood(vaes.PIXELS)]
    model = vaes.vae(p=keras.Sequential(layers))
    assert Residents().tensors((x, None, None))[0].dtype == tf.uint8
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


def test_passes_have_the_steps_that_were_asked():
    x = models.digits(160)
    endless = tf.data.Dataset.from_tensor_slices(x).repeat().batch(4)
    model = vaes.vae(compiled=False)
    found = rows_seen(model, x=endless, steps_per_epoch=33, epochs=2)
    assert found == ([132, 132], [], 66)
    held = {"validation_data": endless, "validation_steps": 3}
    assert rows_seen(model, x=x, batch_size=8, **held) == ([160], [12], 20)
    held = {"validation_data": (x,), "validation_steps": 3, "validation_batch_size": 8}
    assert rows_seen(model, x=x, batch_size=4, **held) == ([160], [24], 40)
    found = rows_seen(model, x=x, validation_split=0.5, steps_per_epoch=10, epochs=2)
    assert found == ([80, 80], [80, 80], 20)
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


def test_xla_compiles_for_few_shapes_only():
    compiler = Compiler("auto")
    function = compiler.function(lambda x: tf.reduce_sum(x), "sums")
    for n in range(1, 20):
        np.testing.assert_allclose(function(tf.ones(n)), n)
    assert len(function._shapes) == 8
    lengths = {
        Residents().tensors((np.zeros([n, 2]), None))[0].shape[0]
        for n in range(64, 128)
    }
    assert len(lengths) <= 9


def test_layers_with_random_operations_keep_their_seeds():
    noisy = Compiler("auto").function(lambda x: x + tf.random.normal(x.shape), "noise")
    noisy(tf.ones(3))
    assert not noisy._jit


def test_an_error_after_a_refusal_is_not_the_last_word():
    def step(x):
        y = tf.numpy_function(lambda a: a, [x], tf.float32)
        return tf.debugging.check_numerics(y, "bad")

    function = Compiler("auto").function(step, "a step")
    with pytest.raises(tf.errors.InvalidArgumentError, match="bad"):
        function(tf.constant(np.nan))
    with pytest.warns(UserWarning, match="a step"):
        assert float(function(tf.constant(1.0))) == 1.0


def test_steps_of_a_subclass_see_what_keras_gives_them():
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


def test_eager_execution_can_be_switched_after_compile():
    x, model = models.digits(20), vaes.vae(compiled=False)
    model.compile("adam", run_eagerly=True)
    model.fit(x, verbose=0)
    model.run_eagerly = False
    model.fit(x, verbose=0)
    model.run_eagerly = True
    model.fit(x, verbose=0)
    assert int(model.optimizer.iterations) == 3


def test_batches_that_are_no_arrays_are_named():
    with pytest.raises(ValueError, match="expects batches that are arrays.*float"):
        vaes.vae().train_on_batch([[0.0, 1.0]])


def test_a_model_that_was_not_compiled_is_told_by_keras():
    x, model = models.digits(20), vaes.vae(compiled=False)
    for method in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match="must call `compile"):
            method(x, verbose=0)


def test_the_same_arrays_are_neither_checked_nor_brought_again():
    residents, seen = Residents(), []
    x = models.digits(N).astype("float64")
    x.flat[0] = np.nan

    def brought(array):
        residents.checked(array, lambda: seen.append(array) or True)
        return residents.tensors((array, None))[0]

    first = brought(x)
    for same in (x, x.copy(), x.astype("float32"), np.asfortranarray(x), first[:N]):
        assert brought(same) is first
    assert len(seen) == 1
    for other in (x[:-1], np.nan_to_num(x).astype("uint8"), x.reshape(N, -1, 2), -x):
        assert brought(other) is not first
    assert len(seen) == 5
    x.flat[-1] += 1.0
    tensor = brought(x)
    assert tensor is not first
    assert len(seen) == 6
    np.testing.assert_array_equal(tensor[:N], x.astype("float32"))


def test_a_tensor_cannot_change_and_is_compared_once(monkeypatch):
    residents = Residents()
    x = tf.constant(models.digits(N))
    first = residents.tensors((x, None))[0]
    assert residents.tensors((x, None))[0] is first
    monkeypatch.setattr(resident, "_have_same_bits", None)
    assert residents.tensors((x, None))[0] is first
    monkeypatch.undo()
    assert residents.tensors((x + 1.0, None))[0] is not first
    assert residents.tensors((x + 0.0, None))[0] is first


def test_what_was_kept_without_a_check_is_checked_when_it_is_the_target():
    residents, seen = Residents(), []
    x = models.digits(N)
    tensor = residents.tensors((x, None))[0]
    for _ in range(2):
        residents.checked(x, lambda: seen.append(x) or True)
        assert residents.tensors((x, None))[0] is tensor
    assert len(seen) == 1


def test_few_arrays_are_kept_and_the_last_ones(monkeypatch):
    residents = Residents()
    monkeypatch.setattr(resident, "_KEPT_BYTES", 3 * 4 * 64)
    arrays = [np.full([64], i, "float32") for i in range(4)]
    tensors = [residents.tensors((array, None))[0] for array in arrays]
    found = [residents._same(array) is not None for array in arrays]
    assert found == [False, True, True, True]
    for used in (2, 1):
        assert residents.tensors((arrays[used], None))[0] is tensors[used]
    residents.tensors((np.full([64], 9.0), None))
    found = [residents._same(array) is not None for array in arrays]
    assert found == [False, True, True, False]


def test_data_changed_in_place_are_seen():
    x = models.digits(N)
    model = fresh(jit_compile=False)
    model.evaluate(x, verbose=0)
    x.flat[3] = np.nan
    for method in (model.evaluate, model.fit):
        with pytest.raises(ValueError, match="1 NaN"):
            method(x, verbose=0)


def test_no_more_than_a_few_arrays_are_kept():
    residents = Residents()
    for i in range(40):
        residents.tensors((np.full([5], i), None))
    assert len(residents._kept) == resident._KEPT_ARRAYS
    model = fresh(jit_compile=False)
    model.evaluate(models.digits(N), verbose=0)
    assert model._residents._kept
    model.compile("adam")
    assert not model._residents._kept


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

    def made(number):
        return Compiler(False).function(lambda x: x + number, "a sum")

    assert [float(made(i)(tf.constant(1.0))) for i in range(12)] == [*range(1, 13)]
    for _ in range(8):
        vaes.vae().reset_metrics()
    assert "retracing" not in caplog.text


def test_the_metrics_are_read_and_reset_by_one_function(monkeypatch):
    x, y = vaes.inputs("plain", N)
    model = vaes.vae()
    model.fit(x, y, batch_size=BATCH, verbose=0)
    found = model.get_metrics_result()
    assert [*found] == ["loss", "elbo", "nll", "kl", "kl_weight"]
    for metric in model.metrics:
        assert float(found[metric.name]) == float(metric.result())
        assert float(metric.count) > 0
    with monkeypatch.context() as patch:
        for method in ("result", "reset_state"):
            patch.setattr(keras.metrics.Mean, method, None)
        again = model.get_metrics_result()
        model.reset_metrics()
    assert {k: float(v) for k, v in again.items()} == {
        k: float(v) for k, v in found.items()
    }
    assert not any(float(v) for metric in model.metrics for v in metric.variables)


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
