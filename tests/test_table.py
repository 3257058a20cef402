"""`tv.Table`: frames of pandas as arrays, their likelihood, and back."""

import json

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from scipy import stats

import table as example
import tfp_vae as tv

N = 60


def frame(rng, missing=0.0):
    """A column of each kind and dtype, with an index that is not 0, 1, ..."""
    found = pd.DataFrame(
        {
            "float64": rng.normal(1e6, 3.0, N),
            "float32": rng.normal(size=N).astype("float32"),
            "Float64": pd.array(rng.normal(size=N), dtype="Float64"),
            "Int64": pd.array(rng.integers(-500, 500, N), dtype="Int64"),
            "count": pd.array(rng.poisson(40, N), dtype="Int16"),
            "boolean": pd.array(rng.integers(0, 2, N) == 1, dtype="boolean"),
            "two numbers": rng.choice([3.0, 7.0], N),
            "two texts": rng.choice(["yes", "no"], N),
            "text": rng.choice(["x", "yy", "z"], N),
            "string": pd.array(rng.choice([*"abc"], N), dtype="string"),
            "object": pd.Series(rng.choice([*"abc"], N), dtype="object"),
            "bits": pd.Series(rng.integers(0, 2, N) == 1, dtype="object"),
            "sizes": pd.Categorical(
                rng.choice([10, 20, 30], N), [30, 10, 20, 40], ordered=True
            ),
            "named": pd.Categorical(rng.choice([*"pqr"], N)),
            0: rng.normal(size=N),
        },
    )
    found.index = pd.Index(rng.permutation(N) + 100, name="id")
    for name in found:
        found.loc[rng.uniform(size=N) < missing, name] = None
    return found


def whole(rng):
    """Dtypes that cannot have missing entries."""
    return pd.DataFrame(
        {
            "int64": rng.integers(-500, 500, N),
            "int8": rng.integers(0, 100, N).astype("int8"),
            "uint16": rng.integers(0, 60_000, N).astype("uint16"),
            "bool": rng.integers(0, 2, N) == 1,
        }
    )


KINDS = {
    **dict.fromkeys(["float64", "float32", "Float64", "Int64", 0], "numeric"),
    **dict.fromkeys(["count"], "count"),
    **dict.fromkeys(["boolean", "two numbers", "two texts", "bits"], "binary"),
    **dict.fromkeys(["text", "string", "object", "sizes", "named"], "categorical"),
}


def saved(table):
    """The table as another process reads it."""
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(table)))
    return keras.saving.deserialize_keras_object(config)


@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("restored", [False, True])
def test_a_frame_comes_back(rng, missing, restored):
    given = frame(rng, missing)
    table = tv.Table(given)
    table = saved(table) if restored else table
    assert table.kinds == KINDS
    x = table.to_array(given)
    assert x.dtype == np.float32
    assert x.shape == (N, table.width) == (N, 10 + 3 * 4 + 4)
    for name, place in table.slices.items():
        gaps = np.isnan(x[:, place])
        assert (gaps == given[name].isna().to_numpy()[:, None]).all()
    again = table.to_frame(x, given.index)
    pd.testing.assert_frame_equal(again, given, rtol=1e-6)


def test_integers_and_booleans_come_back_exactly(rng):
    given = whole(rng)
    table = tv.Table(given)
    again = table.to_frame(table.to_array(given))
    pd.testing.assert_frame_equal(again, given, check_exact=True)


def test_numbers_are_standardised_by_what_is_observed(rng):
    given = frame(rng, 0.3)
    table = tv.Table(given)
    x = table.to_array(given)
    for name in ("float64", "Int64"):
        seen = given[name].dropna().to_numpy("float64")
        z = x[:, table.slices[name].start]
        np.testing.assert_allclose(
            z[~np.isnan(z)], stats.zscore(seen), rtol=1e-5, atol=1e-6
        )
    counts = x[:, table.slices["count"].start]
    np.testing.assert_array_equal(
        counts[~np.isnan(counts)], given["count"].dropna().to_numpy("float64")
    )


def test_a_later_frame_is_read_as_the_first(rng):
    given, later = frame(rng), frame(rng, 0.2)
    table = tv.Table(given)
    columns = list(later)[::-1]
    x = table.to_array(later[columns])
    np.testing.assert_array_equal(x, table.to_array(later))
    pd.testing.assert_frame_equal(table.to_frame(x, later.index), later, rtol=1e-6)
    assert table.to_array(later[:0]).shape == (0, table.width)
    nothing = later.assign(**{"text": None, "count": None, "boolean": None})
    x = table.to_array(nothing)
    for name in ("text", "count", "boolean"):
        assert np.isnan(x[:, table.slices[name]]).all()
        assert table.to_frame(x)[name].isna().all()


def test_a_dtype_without_missing_entries_becomes_one_with_them(rng):
    given = whole(rng)
    table = tv.Table(given)
    x = table.to_array(given.mask(rng.uniform(size=given.shape) < 0.3))
    dtypes = {"int64": "Int64", "int8": "Int64", "uint16": "Int64", "bool": "boolean"}
    found = table.to_frame(x)
    assert found.dtypes.astype(str).to_dict() == dtypes
    expected = given.astype(dtypes)
    for name in given:
        gaps = np.isnan(x[:, table.slices[name].start])
        assert gaps.any()
        assert (found[name].isna() == gaps).all()
        assert (found[name] == expected[name])[~gaps].all()


def test_numbers_beyond_a_dtype_are_kept():
    given = pd.DataFrame({"a": np.array([0, 100, 50], "int8")})
    table = tv.Table(given)
    found = table.to_frame(np.array([[50.0], [127.0], [128.0]]))["a"]
    assert found.tolist() == [50, 127, 128]
    assert str(found.dtype) == "Int64"
    table = tv.Table(
        pd.DataFrame({"a": np.array([0, 6e4], "float16")}), {"a": "numeric"}
    )
    found = table.to_frame(np.array([[0.0], [5.0]]))["a"]
    np.testing.assert_allclose(found, [3e4, 18e4])


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint64", "Int64"])
@pytest.mark.parametrize("kind", ["count", "numeric"])
def test_integers_beyond_int64_are_floating_numbers(dtype, kind):
    given = pd.DataFrame({"a": np.array([0, 3, 1, 500])}).astype(dtype)
    table = tv.Table(given, {"a": kind})
    mean, scale = (0.0, 1.0) if kind == "count" else (126.0, np.std(given["a"]))
    for large in (1e19, 1e25, 2.0**63):
        found = table.to_frame(np.array([[large], [np.nan], [2.0]]))["a"]
        assert found.dtype == "float64"
        expected = mean + scale * np.array([large, np.nan, 2.0])
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_expectations_become_values():
    given = pd.DataFrame(
        {
            "count": [0, 3, 1],
            "mean count": [0.0, 3.0, 1.0],
            "bit": [True, False, True],
            "class": ["a", "b", "c"],
        }
    )
    table = tv.Table(given, {"mean count": "count"})
    x = np.array([[2.6, 2.6, 0.49, 0.2, 0.5, 0.3], [0.4, 0.4, 0.5, 0.4, 0.2, 0.4]])
    found = table.to_frame(x)
    assert found["count"].tolist() == [3, 0]
    assert found["mean count"].tolist() == [2.6, 0.4]
    assert found["bit"].tolist() == [False, True]
    assert found["class"].tolist() == ["b", "a"]
    np.testing.assert_array_equal(x[:, table.slices["class"]], x[:, 3:])


def test_kinds_may_be_given():
    given = pd.DataFrame({"code": [1, 2, 3, 2], "year": [1999, 2001, 2004, 1999]})
    assert tv.Table(given).kinds == {"code": "count", "year": "count"}
    halves = pd.DataFrame({"a": [0.5, 1.5, 0.5]})
    assert tv.Table(halves).kinds == {"a": "numeric"}
    table = tv.Table(halves, {"a": "binary"})
    assert table.to_array(halves).ravel().tolist() == [0, 1, 0]
    pd.testing.assert_frame_equal(table.to_frame([[0], [1], [0]]), halves)
    kinds = {"code": "categorical", "year": "numeric"}
    table = tv.Table(given, kinds)
    assert table.kinds == kinds
    x = table.to_array(given)
    np.testing.assert_array_equal(x[:, :3], np.eye(3)[[0, 1, 2, 1]])
    pd.testing.assert_frame_equal(table.to_frame(x), given)
    later = given.astype({"code": "float64"})
    later.loc[1, "code"] = None
    found = table.to_frame(table.to_array(later))["code"]
    assert found[[0, 2, 3]].tolist() == [1, 3, 2]
    assert found.isna().tolist() == [False, True, False, False]


def test_the_likelihood_is_that_of_the_kinds(rng):
    """The log-density of SciPy's distributions, of the entries that are there."""
    given = pd.DataFrame(
        {
            "a": rng.normal(5.0, 3.0, N),
            "b": rng.normal(5.0, 3.0, N),
            "visits": rng.poisson(20, N),
            "stays": rng.negative_binomial(3, 0.2, N),
            "bit": rng.integers(0, 2, N) == 1,
            "class": rng.choice([*"xyz"], N),
        }
    )
    table = tv.Table(given)
    layer = table.likelihood()
    sizes = [block.params_size for block in layer.layers]
    assert len(sizes) == 4  # neighbours of one kind are one block
    raw = rng.normal(size=(N, layer.parameters_width)).astype("float32")
    x = table.to_array(given)
    p = layer(raw)
    loc, raw_scale, raw_total, odds = (raw[:, 2 * i : 2 * i + 2] for i in range(4))
    total, probs = np.logaddexp(0, raw_total), 1 / (1 + np.exp(odds))
    share = 1 / (1 + np.exp(-raw[:, 8]))
    logits = raw[:, 9:]
    expected = (
        stats.norm.logpdf(x[:, :2], loc, np.logaddexp(0, raw_scale)).sum(1)
        + stats.nbinom.logpmf(x[:, 2:4], total, probs).sum(1)
        + stats.bernoulli.logpmf(x[:, 4], share)
        + (x[:, 5:] * (logits - np.logaddexp.reduce(logits, 1, keepdims=True))).sum(1)
    )
    np.testing.assert_allclose(p.log_prob(x), expected, rtol=1e-4)


def test_a_decoder_starts_at_the_marginals(rng):
    given = pd.DataFrame(
        {
            "a": rng.normal(5.0, 3.0, N),
            "many": rng.negative_binomial(5, 0.01, N),
            "few": rng.binomial(5, 0.5, N),  # spread less than Poisson counts
            "bit": np.arange(N) < 20,
            "class": np.repeat(["x", "y", "z"], [10, 20, 30]),
        }
    )
    table = saved(tv.Table(given))
    layer = table.likelihood()
    bias = table.bias_initializer()([layer.parameters_width])
    p = layer(bias[None])
    x = table.to_array(given).astype("float64")
    shares = [21 / 62, 11 / 63, 21 / 63, 31 / 63]  # one more of each value
    mean = np.concatenate([x[:, :3].mean(0), shares])
    np.testing.assert_allclose(p.mean()[0], mean, rtol=1e-4, atol=1e-6)
    variance = np.square(p.stddev()[0])
    np.testing.assert_allclose(variance[:2], x[:, :2].var(0), rtol=1e-3)
    np.testing.assert_allclose(variance[2], 1.01 * mean[2], rtol=1e-3)


def test_an_encoder_can_start_with_standardised_counts(rng):
    given = frame(rng)
    table = saved(tv.Table(given))
    x = table.to_array(given)
    found = np.asarray(table.normalization()(x))
    place = table.slices["count"].start
    np.testing.assert_allclose(found[:, place], stats.zscore(x[:, place]), rtol=1e-4)
    rest = np.arange(table.width) != place
    np.testing.assert_allclose(found[:, rest], x[:, rest], rtol=1e-6)


def model(table):
    likelihood = table.likelihood()
    encoder = keras.Sequential(
        [
            keras.Input((table.width,)),
            table.normalization(),
            keras.layers.Dense(4),
            tv.IndependentNormal(2),
        ]
    )
    bias = table.bias_initializer()
    decoder = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(likelihood.parameters_width, bias_initializer=bias),
            likelihood,
        ]
    )
    return tv.VAE(
        encoder, decoder, tv.StandardNormal(2), missing="nan", missing_fill="learned"
    )


def test_a_vae_fills_the_gaps_of_a_table_and_makes_new_rows(rng, tmp_path):
    given = frame(rng, 0.2)[["float64", "Int64", "count", "two texts", "text"]]
    table = tv.Table(given)
    x = table.to_array(given)
    vae = model(table)
    vae.compile(keras.optimizers.Adam(1e-2))
    assert np.isfinite(vae.fit(x, epochs=2, verbose=0).history["loss"]).all()
    found = table.to_frame(vae.impute(x, 20), given.index)
    assert not found.isna().to_numpy().any()
    assert found.dtypes.tolist() == given.dtypes.tolist()
    for name in given:
        seen = given[name].notna()
        pd.testing.assert_series_equal(found[name][seen], given[name][seen], rtol=1e-6)
    rows = table.to_frame(vae.generate(5, statistics="sample", seed=1))
    assert rows.dtypes.tolist() == given.dtypes.tolist()
    assert set(rows["text"]) <= set(given["text"].dropna())

    vae.save(tmp_path / "vae.keras")
    loaded = keras.models.load_model(tmp_path / "vae.keras")
    again = saved(table).to_frame(loaded.generate(5, statistics="sample", seed=1))
    pd.testing.assert_frame_equal(again, rows)


def one(values, **options):
    return pd.DataFrame({"a": values}, **options)


CYCLE = {"a": ["x", "y", "z"]}


@pytest.mark.parametrize(
    ("given", "kinds", "message"),
    [
        (np.zeros((3, 2)), None, "ndarray"),
        (pd.DataFrame(), None, "none"),
        (
            pd.DataFrame([[1, 2], [3, 4]], columns=["a", "a"]),
            None,
            r"\['a'\] more than",
        ),
        (pd.DataFrame([[1.0], [2.0]], columns=[("a", "b")]), None, "strings or int"),
        (one([1.0, 1.0, None]), None, r"'a'.*only 1\.0"),
        (one([None, None]), None, "no observed one"),
        (one([True, True]), None, "only True"),
        (one(["u", None, "u"]), None, "only 'u'"),
        (one([1.0, np.inf, 2.0]), None, "1 infinite"),
        (one(pd.to_datetime(["2020-01-01", "2021-01-01"])), None, "datetime64"),
        (one(pd.to_timedelta([1, 2, 3])), None, "timedelta64"),
        (one([1j, 2j, 3j]), None, "complex"),
        (one([1, "x", 2.5]), None, "mixed"),
        (one([1, 2, pd.NA], dtype="object"), None, "convert_dtypes"),
        (one([[1], [2]]), None, "mixed"),
        (one(pd.interval_range(0, 3).astype("category")), None, "interval"),
        (one([0, 1, 2**24 + 1]), None, r"16777217\.0.*'numeric'"),
        (one([0, 2**53 + 2, -1]), None, r"2\*\*53"),
        (one([-(2**40), 1, 2**40 + 1, 3]), None, "standardised float32"),
        (one([1e300, -1e300, 2.0]), None, "standard deviation inf"),
        (one([0.5, 1.5, 2.5]), {"b": "count"}, r"\['a'\]"),
        (one([0.5, 1.5, 2.5]), {"a": "poisson"}, "poisson"),
        (one([0.5, 1.5, 2.5]), {"a": "count"}, r"counts.*0\.5, 1\.5, 2\.5"),
        (one([1, 2, -3]), {"a": "count"}, r"counts.*-3"),
        (one([0.5, 1.5, 2.5]), {"a": "binary"}, "3 different"),
        (pd.DataFrame(CYCLE), {"a": "numeric"}, "Leave it out"),
        (pd.DataFrame(CYCLE, dtype="category"), {"a": "count"}, "category"),
    ],
)
def test_what_is_no_table_is_named(given, kinds, message):
    with pytest.raises(
        ValueError, match=rf"(?s)expects.*Received: .*{message}|{message}"
    ) as caught:
        tv.Table(given, kinds)
    assert all(part in str(caught.value) for part in ("expects", "Received: "))


LATER = {"number": [0.5, 1.5, 2.5], "count": [0, 1, 2], "class": ["x", "y", "z"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="class"), r"without \['class'\]"),
        (lambda f: f.assign(other=1), r"with \['other'\] besides"),
        (lambda f: f.replace("z", "w"), r"one of the 3 values.*'w'"),
        (lambda f: f.assign(number=["1", "2", "3"]), "of type number.*text"),
        (lambda f: f.assign(number=[True, False, True]), "of type number.*boolean"),
        (lambda f: f.assign(number=[np.inf, 0, 1]), "1 infinite"),
        (lambda f: f.assign(number=[1e300, 0, 1]), r"1e\+300"),
        (lambda f: f.assign(count=[0.5, 1, 2]), r"counts.*0\.5"),
        (lambda f: f.assign(count=[-1, 1, 2]), r"counts.*-1\.0"),
        (lambda f: f.to_numpy(), "ndarray"),
    ],
)
def test_a_frame_of_another_table_is_named(change, message):
    given = pd.DataFrame(LATER)
    with pytest.raises(ValueError, match=f"expects.*Received.*{message}|{message}"):
        tv.Table(given).to_array(change(given))


NAN = float("nan")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0.0, 1.0], r"shape \(n, 5\)"),
        ([0.0, 1.0, 1.0, 0.0, "z"], "dtype <U"),
        ([np.inf, 1.0, 1.0, 0.0, 0.0], "finite numbers.*'number'"),
        ([0.0, -1.0, 1.0, 0.0, 0.0], "counts.*'count'"),
        ([0.0, 1.0, 1.0, NAN, 0.0], "or NaN for all in the column 'class'"),
        ([0.0, 1.0, 1.0, 1.0, 0.0], "add up to 1"),
        ([0.0, 1.0, 2.0, -1.0, 0.0], "add up to 1"),
    ],
)
def test_an_array_that_is_no_table_is_named(row, message):
    table = tv.Table(pd.DataFrame(LATER))
    with pytest.raises(ValueError, match=message):
        table.to_frame([row])
    with pytest.raises(ValueError, match="one draw at a time"):
        table.to_frame(np.zeros((2, 3, 5)))
    with pytest.raises(ValueError, match="each of the 1 rows"):
        table.to_frame([[0.0, 1.0, 1.0, 0.0, 0.0]], index=[1, 2])


def test_a_config_that_is_no_table_is_named():
    config = tv.Table(pd.DataFrame(LATER)).get_config()
    for change in ({"kind": "poisson"}, {"family": None}, {"scale": 0.0}, {"x": 1}):
        columns = [{**config["columns"][0], **change}]
        with pytest.raises(ValueError, match="expects.*Received"):
            tv.Table.from_config({"columns": columns})
    several = {**config["columns"][2], "values": ["x"]}
    for bad in ({"columns": [several]}, {"columns": 1}, {}):
        with pytest.raises(ValueError, match="expects.*Received"):
            tv.Table.from_config(bad)


def test_tables_say_that_they_need_pandas(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match="expect pandas.*Install it"):
        tv.Table({})


def test_the_example_imputes_better_than_the_most_common(capsys):
    found = example.main(["--epochs", "60", "--draws", "200"])
    ratio = found["VAE"] / found["most common"]
    assert ratio.mean() < 0.9
    assert found.loc["cultivar", "VAE"] < 0.3 < found.loc["cultivar", "most common"]
    assert "New rows" in capsys.readouterr().out
    assert tf.executing_eagerly()
