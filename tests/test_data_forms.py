"""One reading of x: whatever form data have, every method gives the same numbers."""

import math
import pathlib
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from models import renewing
from seeding import seed_python

import tfp_vae as tv
from tfp_vae.engine import data

RNG = np.random.default_rng(6)
ROWS, WIDTH = 40, 6
X = (RNG.uniform(size=(ROWS, WIDTH)) > 0.6).astype("float32")
Y = (2.0 * X[:, :1] + X[:, 1:2]).astype("float32")


def vae(width=WIDTH, rate=0.1, hidden=5):
    q = keras.Sequential(
        [
            keras.Input((width,)),
            keras.layers.Dense(hidden, activation="tanh"),
            keras.layers.Dense(4),
            tv.IndependentNormal(2),
        ]
    )
    p = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(width), tv.IndependentBernoulli(width)]
    )
    model = tv.VAE(q, p, tv.StandardNormal(2))
    model.compile(keras.optimizers.SGD(rate), jit_compile=False)
    return model


def regression(rate=0.1):
    x = keras.Input((WIDTH,))
    model = tv.Model(x, keras.layers.Dense(1)(x))
    model.compile(keras.optimizers.SGD(rate), "mse")
    return model


class Own:
    """Has `shape`, `dtype` and slicing, and nothing else."""

    def __init__(self, array):
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, rows):
        return self._array[rows]

    def __len__(self):
        return len(self._array)


def of_scipy(kind):
    sparse = pytest.importorskip("scipy.sparse")
    return lambda x: getattr(sparse, kind)(x)


def table(x):
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(x, columns=[f"column {i}" for i in range(x.shape[1])])


def on_disk(x, folder):
    found = np.memmap(folder / "x.bin", "float32", "w+", shape=x.shape)
    found[:] = x
    return found


def in_hdf5(x, folder):
    h5py = pytest.importorskip("h5py")
    return h5py.File(folder / "x.h5", "w").create_dataset("x", data=x)


DTYPES = [
    *["bool", "int8", "int16", "int32", "int64"],
    *["uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"],
]
FORMS = {
    **{dtype: lambda x, _, dtype=dtype: x.astype(dtype) for dtype in DTYPES},
    "CSR": lambda x, _: of_scipy("csr_matrix")(x),
    "CSC": lambda x, _: of_scipy("csc_matrix")(x),
    "COO": lambda x, _: of_scipy("coo_matrix")(x),
    "CSR array": lambda x, _: of_scipy("csr_array")(x),
    "CSR of integers": lambda x, _: of_scipy("csr_matrix")(x.astype("int8")),
    "table": lambda x, _: table(x),
    "table of integers": lambda x, _: table(x.astype("int64")),
    "lists of lists": lambda x, _: x.tolist(),
    "lists of integers": lambda x, _: x.astype("int32").tolist(),
    "lists of Booleans": lambda x, _: x.astype(bool).tolist(),
    "tf.Variable": lambda x, _: tf.Variable(x),
    "keras.Variable": lambda x, _: keras.Variable(x),
    "tensor": lambda x, _: tf.constant(x),
    "tensor of bytes": lambda x, _: tf.constant(x, tf.uint8),
    "half tensor": lambda x, _: tf.constant(x, tf.bfloat16),
    "np.memmap": on_disk,
    "HDF5": in_hdf5,
    "own class": lambda x, _: Own(x),
    "Fortran order": lambda x, _: np.asfortranarray(x),
    "view": lambda x, _: np.repeat(x, 2, axis=0)[::2],
    "big-endian": lambda x, _: x.astype(">f4"),
    "read-only": lambda x, _: np.frombuffer(x.tobytes(), "float32").reshape(x.shape),
}


def losses(model, *given, **options):
    how = {"epochs": 2, "batch_size": 16, "verbose": 0, **options}
    return model.fit(*given, **how).history["loss"]


METHODS = {
    "fit": lambda m, x: losses(m, x, validation_split=0.25),
    "evaluate": lambda m, x: m.evaluate(x, batch_size=16, verbose=0),
    "predict": lambda m, x: m.predict(x, batch_size=16, verbose=0),
    "predict stddev": lambda m, x: m.predict(x, verbose=0, statistics="stddev"),
    "encode": lambda m, x: m.encode(x).mean().numpy(),
    "log_prob": lambda m, x: m.log_prob(x, 3, seed=1, verbose=0),
    "elbo": lambda m, x: m.elbo(x, 3, seed=1, verbose=0),
    "reconstruct": lambda m, x: m.reconstruct(x),
}


def answers(make, x, methods):
    seed_python(4)
    model = make()
    return {name: method(model, x) for name, method in methods.items()}


def same(found, expected):
    keras.tree.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        found,
        expected,
    )


@pytest.fixture(scope="module")
def as_made():
    return renewing(vae())


@pytest.fixture(scope="module")
def of_numpy(as_made):
    return answers(as_made, X, METHODS)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_x_gives_the_numbers_of_numpy(form, tmp_path, as_made, of_numpy):
    same(answers(as_made, FORMS[form](X, tmp_path), METHODS), of_numpy)


def test_a_vae_as_it_was_made_gives_its_first_numbers(as_made, of_numpy):
    same(answers(as_made, X, METHODS), of_numpy)


@pytest.mark.parametrize("form", ["CSR", "table", "np.memmap", "HDF5", "own class"])
def test_large_x_of_every_form_is_read_in_batches(
    form, tmp_path, as_made, of_numpy, monkeypatch
):
    monkeypatch.setattr(data, "RESIDENT_BYTES", 100)
    same(answers(as_made, FORMS[form](X, tmp_path), METHODS), of_numpy)


OF_MODELS = {
    "fit": lambda m, given: losses(m, *given, validation_split=0.25),
    "evaluate": lambda m, given: m.evaluate(*given, batch_size=16, verbose=0),
    "predict": lambda m, given: m.predict(given[0], batch_size=16, verbose=0),
}


@pytest.fixture(scope="module")
def regression_as_made():
    seed_python(4)
    return renewing(regression())


@pytest.fixture(scope="module")
def of_arrays(regression_as_made):
    return answers(regression_as_made, (X, Y), OF_MODELS)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_x_and_y_trains_a_model(
    form, tmp_path, regression_as_made, of_arrays
):
    x = FORMS[form](X, tmp_path)
    (tmp_path / "y").mkdir()
    y = Y if form == "bool" or "Bool" in form else FORMS[form](Y, tmp_path / "y")
    same(answers(regression_as_made, (x, y), OF_MODELS), of_arrays)


def test_columns_of_tables_are_targets():
    pandas = pytest.importorskip("pandas")
    column = pandas.Series(Y[:, 0], index=range(100, 100 + ROWS), name="y")
    expected = answers(regression, (X, Y), OF_MODELS)
    same(answers(regression, (table(X), column), OF_MODELS), expected)


def test_lists_of_numbers_are_targets_and_weights():
    weights = np.linspace(0.5, 1.5, ROWS).astype("float32")
    expected = losses(regression_of(1), X, Y, sample_weight=weights)
    found = losses(
        regression_of(1), X.tolist(), Y[:, 0].tolist(), sample_weight=[*weights]
    )
    same(found, expected)


def regression_of(seed):
    keras.utils.set_random_seed(seed)
    return regression()


def test_tables_may_mix_integers_and_floats():
    frame = table(X.astype("float64"))
    frame["column 0"] = frame["column 0"].astype("int8")
    expected = answers(regression, (X, Y), OF_MODELS)
    same(answers(regression, (frame, Y), OF_MODELS), expected)


def test_dictionaries_may_hold_arrays_of_every_form(tmp_path):
    def make(seed=3):
        keras.utils.set_random_seed(seed)
        a, b = keras.Input((WIDTH,), name="a"), keras.Input((WIDTH,), name="b")
        h = keras.layers.concatenate([a, b])
        model = tv.Model({"a": a, "b": b}, keras.layers.Dense(1)(h))
        model.compile("sgd", "mse")
        return model

    expected = losses(make(), {"a": X, "b": X}, Y)
    for form in ("CSR", "table", "lists of lists", "np.memmap", "int16"):
        x = FORMS[form](X, tmp_path)
        same(losses(make(), {"a": x, "b": X}, Y), expected)


# What is refused

BAD = {
    "ragged": lambda: tf.ragged.constant([[1.0, 2.0], [3.0]] * 5),
    "sparse tensor": lambda: tf.sparse.from_dense(X),
    "objects": lambda: X.astype(object),
    "complex": lambda: X.astype("complex64"),
    "complex tensor": lambda: tf.constant(X.astype("complex64")),
    "masked": lambda: np.ma.masked_array(X, X > 0.5),
    "ragged lists": lambda: [[1.0, 2.0], [3.0]],
    "texts": lambda: np.array([["a"] * WIDTH] * ROWS),
    "dates": lambda: np.zeros((ROWS, WIDTH), "datetime64[s]"),
    "a number": lambda: 3.0,
    "a text": lambda: "data",
    "table with texts": lambda: _with_texts(),
    "table with gaps": lambda: _with_gaps(),
    "complex lists": lambda: [[1.0 + 2.0j] * WIDTH] * 4,
}


def _with_texts():
    frame = table(X)
    frame["column 0"] = "a"
    return frame


def _with_gaps():
    """Pandas' own integers with missing values."""
    frame = table(X)
    frame["column 0"] = frame["column 0"].astype("Int64").where(frame["column 1"] > 0)
    return frame


METHODS_OF_ARRAYS = {**METHODS, "fit": lambda m, x: losses(m, x)}


@pytest.mark.parametrize("bad", BAD)
def test_what_is_no_array_of_numbers_is_one_error_everywhere(bad):
    x, messages = BAD[bad](), set()
    model = vae()
    for name, method in METHODS_OF_ARRAYS.items():
        with pytest.raises(ValueError, match=r"expects.*Received: .*Give ") as error:
            method(model, x)
        messages.add(str(error.value).replace(name.split()[0], "method"))
    messages = {m.replace("`reconstruct`", "`predict`") for m in messages}
    assert len({m.split("expects")[1] for m in messages}) == 1


@pytest.mark.parametrize("bad", BAD)
def test_what_is_no_array_of_numbers_is_refused_by_models(bad):
    x = BAD[bad]()
    model = regression()
    for method in (
        lambda: model.fit(x, Y, verbose=0),
        lambda: model.evaluate(x, Y, verbose=0),
        lambda: model.predict(x, verbose=0),
    ):
        with pytest.raises(ValueError, match=r"expects.*Received: .*Give "):
            method()


@pytest.mark.parametrize("bad", ["ragged", "objects", "complex", "masked"])
def test_targets_and_validation_that_are_no_arrays_are_refused(bad):
    y, model = BAD[bad](), regression()
    message = r"expects.*Received: .*Give "
    with pytest.raises(ValueError, match=message):
        model.fit(X, y, verbose=0)
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y, validation_data=(X, y), verbose=0)
    with pytest.raises(ValueError, match=message):
        model.evaluate(X, Y, sample_weight=y, verbose=0)


EMPTY = {
    "array": lambda: X[:0],
    "list": list,
    "list of a list": lambda: [[]],
    "pipeline": lambda: tf.data.Dataset.from_tensor_slices(X[:0]).batch(4),
    "generator": lambda: iter(()),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("empty", ["array", "list", "list of a list"])
def test_no_examples_are_named(empty, method):
    with pytest.raises(ValueError, match="expects at least one example.*Received"):
        METHODS[method](vae(), EMPTY[empty]())


@pytest.mark.parametrize("empty", ["pipeline"])
@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_pipelines_without_a_batch_are_named(empty, method):
    model = vae()
    with pytest.raises(ValueError, match="expects at least one example.*Received"):
        getattr(model, method)(EMPTY[empty](), verbose=0)


def test_generators_without_a_batch_are_named():
    with pytest.raises(ValueError, match="expects at least one example.*Received"):
        regression().fit((pair for pair in ()), verbose=0)


@pytest.mark.parametrize(
    "given",
    [
        {"x": X, "y": Y[:30]},
        {"x": X, "y": Y, "sample_weight": np.ones(30)},
        {"x": X, "y": Y, "validation_data": (X, Y[:30])},
    ],
)
def test_arrays_of_unequal_length_are_named(given):
    with pytest.raises(ValueError, match="expects .* first axis.*Received.*Give"):
        regression().fit(**given, verbose=0)


def test_arrays_of_unequal_length_are_named_by_evaluate():
    with pytest.raises(ValueError, match="expects .* first axis.*Received.*Give"):
        regression().evaluate(X, Y[:30], verbose=0)


@pytest.mark.parametrize("method", ["log_prob", "elbo"])
def test_targets_of_unequal_length_are_named(method):
    with pytest.raises(ValueError, match="expects .*Received"):
        getattr(vae(), method)(X, y=X[:30], num_samples=2, verbose=0)


# Pipelines


def counted(batch=8, weights=False):
    """A pipeline, and how often it was opened and how many rows it gave."""
    opened, given = [], []

    def rows():
        opened.append(1)
        for row in zip(X, Y, strict=True):
            given.append(1)
            yield row

    spec = (tf.TensorSpec([WIDTH]), tf.TensorSpec([1]))
    found = tf.data.Dataset.from_generator(rows, output_signature=spec).batch(batch)
    return found, opened, given


def test_a_dataset_that_needs_no_tuning_is_not_tuned():
    options = tf.data.Options()
    options.deterministic = False
    plain = tf.data.Dataset.range(9).map(lambda x: x, tf.data.AUTOTUNE)
    found = data.untuned(plain.with_options(options))
    assert found.options().autotune.enabled is False
    assert found.options().deterministic is False
    assert plain.options().autotune.enabled is None
    assert [int(x) for x in data.untuned(plain)] == list(range(9))
    options.autotune.enabled = True
    asked = plain.with_options(options)
    # TensorFlow makes this `map` parallel if it tunes the dataset.
    serial = tf.data.Dataset.zip(plain.map(lambda x: x).batch(2), plain)
    for given in (asked, serial, np.ones(3), iter([1])):
        assert data.untuned(given) is given
    options = tf.data.Options()
    options.autotune.enabled = False
    refused = data.untuned(serial.with_options(options))
    assert refused.options().autotune.enabled is False


def test_a_call_iterates_a_given_dataset_without_tuning(monkeypatch):
    tuned = []
    iterate = tf.data.Dataset.__iter__

    def recorded(self):
        tuned.append(self.options().autotune.enabled)
        return iterate(self)

    monkeypatch.setattr(tf.data.Dataset, "__iter__", recorded)
    x = np.ones([8, 2], "float32")
    pairs = tf.data.Dataset.from_tensor_slices((x, x[:, :1])).batch(4)
    model = tv.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
    model.fit(pairs, validation_data=pairs, epochs=2, verbose=0)
    model.evaluate(pairs, verbose=0)
    model.predict(pairs, verbose=0)
    model.run_eagerly = True
    model.fit(pairs, validation_data=pairs, verbose=0)
    latents = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(4), tv.IndependentNormal(2)]
    )
    pixels = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(2), tv.IndependentBernoulli(2)]
    )
    vae = tv.VAE(latents, pixels, tv.StandardNormal(2))
    alone = tf.data.Dataset.from_tensor_slices(x).batch(4)
    vae.elbo(alone)
    vae.encode(alone)
    assert tuned == [False] * len(tuned)
    assert len(tuned) >= 9


def test_fit_opens_a_pipeline_once_in_each_pass():
    pipeline, opened, given = counted()
    held, seen, _ = counted()
    regression().fit(pipeline, epochs=3, verbose=0, validation_data=held)
    assert (len(opened), len(given)) == (3, 3 * ROWS)
    assert len(seen) == 3


def test_fit_of_a_vae_opens_a_pipeline_once_in_each_pass():
    pipeline, opened, _ = counted()
    vae().fit(pipeline.map(lambda x, y: x), epochs=3, verbose=0)
    assert len(opened) == 3


def test_evaluate_opens_a_pipeline_once():
    pipeline, opened, given = counted()
    regression().evaluate(pipeline, verbose=0)
    assert (len(opened), len(given)) == (1, ROWS)


def test_fit_opens_a_pipeline_once_for_all_its_steps():
    pipeline, opened, _ = counted()
    regression().fit(pipeline.repeat(), epochs=60, steps_per_epoch=1, verbose=0)
    # 60 batches of 5 in a pass; reading ahead may open some passes more.
    assert 12 <= len(opened) < 60


def batches_seen(model, fit):
    seen = []
    step = model.train_step

    def train_step(batch):
        tf.py_function(lambda x: seen.append(float(x[0, 0])), [batch[0]], [])
        return step(batch)

    model.train_step = train_step
    fit(model)
    return seen


def numbered(count):
    for i in range(count):
        x = np.zeros((4, WIDTH), "float32")
        x[:, 0] = i
        yield x, np.zeros((4, 1), "float32")


def test_no_batch_of_a_generator_is_lost():
    seen = batches_seen(regression(0.0), lambda m: m.fit(numbered(10), verbose=0))
    assert seen == [*range(10)]


def test_no_batch_of_a_generator_is_lost_between_epochs_and_calls():
    source = numbered(12)

    def fit(model):
        model.fit(source, epochs=2, steps_per_epoch=3, verbose=0)
        model.fit(source, epochs=2, steps_per_epoch=3, verbose=0)

    assert batches_seen(regression(0.0), fit) == [*range(12)]


def test_no_batch_of_a_generator_is_lost_where_lengths_change():
    def source():
        for i, length in enumerate([4, 4, 2, 4, 4, 3, 3, 4]):
            x = np.full((length, WIDTH), i, "float32")
            yield x, np.zeros((length, 1), "float32")

    def fit(model):
        given = source()
        model.fit(given, epochs=4, steps_per_epoch=2, verbose=0)

    assert batches_seen(regression(0.0), fit) == [*range(8)]


def test_generators_may_leave_out_targets_and_yield_lists():
    model = vae()
    history = model.fit((X[i : i + 8] for i in range(0, ROWS, 8)), verbose=0).history
    assert np.isfinite(history["loss"]).all()
    history = regression().fit(([x, y] for x, y in numbered(3)), verbose=0).history
    assert np.isfinite(history["loss"]).all()


@pytest.mark.parametrize("dtype", ["uint16", "int8", "bool", "float64", "float16"])
def test_pipelines_of_every_dtype_give_the_numbers_of_float32(dtype):
    found = []
    for x in (X, X.astype(dtype)):
        keras.utils.set_random_seed(3)
        model = regression()
        pipeline = tf.data.Dataset.from_tensor_slices((x, Y)).batch(8)
        found.append(model.fit(pipeline, epochs=2, verbose=0).history["loss"])
        found[-1].append(model.evaluate(pipeline, verbose=0))
    same(found[1], found[0])


# Memory


class Watched(Own):
    """Remembers how many rows were asked for at once."""

    def __init__(self, array):
        super().__init__(array)
        self.most = 0

    def __getitem__(self, rows):
        found = super().__getitem__(rows)
        self.most = max(self.most, len(found))
        return found


LARGE = np.tile(X, (60, 100))[:, :512]  # 2,400 rows
BLOCK = 2**20 // 512


@pytest.mark.parametrize(
    "ask",
    {
        "fit": lambda m, x: m.fit(x, batch_size=16, verbose=0),
        "split": lambda m, x: m.fit(x, batch_size=16, verbose=0, validation_split=0.2),
        "evaluate": lambda m, x: m.evaluate(x, batch_size=16, verbose=0),
        "predict": lambda m, x: m.predict(x, batch_size=16, verbose=0),
        "statistics": lambda m, x: m.predict(
            x, batch_size=16, verbose=0, statistics="stddev"
        ),
    }.items(),
    ids=lambda pair: pair[0],
)
def test_large_arrays_are_read_batch_by_batch(ask, monkeypatch):
    monkeypatch.setattr(data, "RESIDENT_BYTES", 1000)
    x = Watched(LARGE)
    ask[1](vae(width=512), x)
    assert 0 < x.most <= BLOCK


@pytest.mark.parametrize("method", ["encode", "log_prob", "elbo"])
def test_answers_of_large_arrays_are_read_in_pieces(method, monkeypatch):
    monkeypatch.setattr(data, "RESIDENT_BYTES", 1000)
    monkeypatch.setattr("tfp_vae.models.pieces._HANDED_BYTES", 2**21)
    x = Watched(LARGE)
    METHODS[method](vae(width=512), x)
    assert 0 < x.most <= BLOCK


def test_large_and_small_arrays_train_alike(monkeypatch):
    found = []
    for limit in (data.RESIDENT_BYTES, 100):
        monkeypatch.setattr(data, "RESIDENT_BYTES", limit)
        keras.utils.set_random_seed(2)
        found.append(losses(regression(), X, Y, validation_split=0.2))
    same(found[1], found[0])


def test_sparse_rows_are_never_made_dense_as_a_whole(monkeypatch):
    sparse = pytest.importorskip("scipy.sparse")
    x, most = sparse.csr_matrix(LARGE), []
    dense = type(x).toarray

    def toarray(self, *args, **kwargs):
        most.append(self.shape[0])
        return dense(self, *args, **kwargs)

    monkeypatch.setattr(type(x), "toarray", toarray)
    model = vae(width=512)
    model.fit(x, batch_size=16, verbose=0)
    model.evaluate(x, batch_size=16, verbose=0)
    model.predict(x, batch_size=16, verbose=0)
    assert max(most) <= BLOCK


def test_steps_divide_sparse_rows_as_they_do_dense_ones():
    sparse = pytest.importorskip("scipy.sparse")
    x = sparse.csr_matrix(X)
    sizes = []

    class Watched(tv.Model):
        def call(self, x):
            sizes.append(len(x))
            return x[:, :1]

    model = Watched()
    model.compile("sgd", "mse", run_eagerly=True)
    for steps in (1, 5):
        found = model.predict(x, steps=steps, verbose=0)
        np.testing.assert_allclose(found, X[:, :1])
        for a in (x, X):
            sizes.clear()
            model.evaluate(a, Y, steps=steps, verbose=0)
            assert sizes[:steps] == [math.ceil(len(X) / steps)] * steps


def test_rows_are_shuffled_within_batches_if_asked_to():
    rows = data.Rows((np.arange(10.0),), 4, range(10), "batch")
    orders = []
    for _ in range(3):
        found = [rows[i][0].numpy() for i in range(3)]
        orders.append(tuple(np.concatenate(found)))
        parts = [sorted(part) for part in found]
        assert parts == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        rows.on_epoch_end()
    assert len({*orders, tuple(range(10))}) > 2


def test_weights_of_a_sparse_vae_reach_the_loop_of_keras():
    sparse = pytest.importorskip("scipy.sparse")
    model, w = vae(), np.linspace(0.1, 2, len(X), dtype="float32")
    model.compile("sgd", run_eagerly=True)
    found = [
        model.evaluate(x, sample_weight=w, batch_size=len(X), verbose=0)
        for x in (sparse.csr_matrix(X), X)
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=0.05)


def test_a_file_that_may_be_changed_keeps_its_changes(tmp_path):
    x = on_disk(X, tmp_path)
    x[0] = 1.0 - x[0]
    changed = np.array(x)
    vae().fit(x, verbose=0)
    np.testing.assert_array_equal(x, changed)
    copied = np.memmap(tmp_path / "x.bin", "float32", "c", shape=X.shape)
    copied[1] = 1.0 - copied[1]
    changed = np.array(copied)
    vae().fit(copied, verbose=0)
    np.testing.assert_array_equal(copied, changed)


MEMORY = """
    import os, pathlib, sys, threading, time

    import keras
    import numpy as np

    import tfp_vae as tv

    ROWS, WIDTH = 192_000, 2**12

    def resident():
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        (line,) = [line for line in lines if line.startswith("VmRSS")]
        return int(line.split()[1]) / 2**20

    path = pathlib.Path(sys.argv[1], "x.bin")
    x = np.memmap(path, "float32", "w+", shape=(ROWS, WIDTH))  # 2.9 GiB of holes
    x[0], x[-1] = 1.0, 1.0
    kind = sys.argv[2]
    q = keras.Sequential([keras.Input((WIDTH,)), keras.layers.Dense(4),
                          tv.IndependentNormal(2)])
    if kind == "vae":
        p = keras.Sequential([keras.Input((2,)), keras.layers.Dense(WIDTH),
                              tv.IndependentBernoulli(WIDTH)])
        model, y = tv.VAE(q, p, tv.StandardNormal(2)), None
        model.compile("sgd", jit_compile=False)
    else:
        model = tv.Sequential([keras.Input((WIDTH,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse", jit_compile=False)
        y = np.zeros((ROWS, 1), "float32")
    few = None if y is None else y[:640]
    model.fit(np.zeros((640, WIDTH), "float32"), few, batch_size=128, verbose=0)
    model.evaluate(np.zeros((640, WIDTH), "float32"), few, batch_size=128, verbose=0)
    before, most, done = resident(), [0.0], threading.Event()

    def watch():
        while not done.wait(0.02):
            most[0] = max(most[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    model.fit(x, y, batch_size=128, verbose=0, validation_split=0.1)
    fit = most[0] - before
    model.evaluate(x, y, batch_size=128, verbose=0)
    done.set()
    watcher.join()
    print("GREW", fit, most[0] - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["vae", "model"])
def test_three_gigabytes_on_disk_train_in_little_memory(kind, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(MEMORY))
    found = subprocess.run(
        [sys.executable, script, tmp_path, kind],
        capture_output=True,
        text=True,
        check=False,
        cwd=pathlib.Path(__file__).parent.parent,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    *_, line = [line for line in found.stdout.splitlines() if "GREW" in line]
    fit, both = map(float, line.split()[1:])
    assert fit < 0.3
    assert both < 0.3


# Validation and answers leave the noise of training as it is


def of_layers(rate=0.1):
    """The layers' way, with a KL by draws."""
    q = keras.Sequential(
        [
            keras.Input((WIDTH,)),
            keras.layers.Dense(4),
            tv.IndependentNormal(2),
            tv.KLDivergenceAddLoss(tv.StandardNormal(2), use_exact_kl=False),
        ]
    )
    p = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(WIDTH), tv.IndependentBernoulli(WIDTH)]
    )
    model = tv.Model(q.inputs[0], p(q.outputs[0]))
    model.compile(keras.optimizers.SGD(rate), loss=tv.NegativeLogLikelihood())
    return model


class Asks(keras.callbacks.Callback):
    def __init__(self, ask):
        super().__init__()
        self.ask = ask

    def on_epoch_end(self, epoch, logs=None):
        self.ask(self.model)


BETWEEN = {
    "validation": {"validation_data": (X[:16], X[:16])},
    "evaluate": lambda m: m.evaluate(X, X, verbose=0),
    "predict": lambda m: m.predict(X, verbose=0),
    "call": lambda m: tf.convert_to_tensor(m(X)),
    "test_on_batch": lambda m: m.test_on_batch(X, X),
}
OF_VAES = {
    **BETWEEN,
    "log_prob": lambda m: m.log_prob(X, 2, verbose=0),
    "elbo": lambda m: m.elbo(X, 2, verbose=0),
    "generate": lambda m: m.generate(4),
    "generate draws": lambda m: m.generate(4, statistics="sample"),
    "predict draws": lambda m: m.predict(X, verbose=0, statistics="sample"),
    "encode": lambda m: m.encode(X).mean(),
    "reconstruct": lambda m: m.reconstruct(X),
}
CASES = [("vae", name) for name in OF_VAES] + [("layers", name) for name in BETWEEN]


def noisy(model, **options):
    seed_python(12)
    history = model.fit(X, X, epochs=3, batch_size=16, verbose=0, **options)
    return history.history["loss"], model.get_weights()


@pytest.fixture(scope="module")
def alone():
    """For each kind, a function that renews a model, and its training alone."""
    renewed = {"vae": renewing(vae()), "layers": renewing(of_layers())}
    return {kind: (make, noisy(make())) for kind, make in renewed.items()}


@pytest.mark.parametrize(("kind", "between"), CASES)
def test_validation_and_answers_leave_training_as_it_is(kind, between, alone):
    asked, (renewed, (expected, at_end)) = OF_VAES[between], alone[kind]
    options = {"callbacks": [Asks(asked)]} if callable(asked) else asked
    losses, weights = noisy(renewed(), **options)
    assert losses == pytest.approx(expected, rel=1e-6)
    same(weights, at_end)


def test_noise_of_training_moves_from_step_to_step():
    losses = vae(rate=0.0).fit(X, epochs=3, batch_size=ROWS, verbose=0).history["loss"]
    assert len(set(losses)) == 3
