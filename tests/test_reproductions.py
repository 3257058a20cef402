"""The reproductions: each learns in its quick budget; results/ says what it found."""

import functools
import json
import pathlib

import example_data
import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import integrate, stats

import aevb
import conv_vae
import cvae
import datasets
import disentangled
import few_labels
import grey_pixels
import hyperspherical_vae
import iwae
import judge
import lstm_forecaster
import miwae
import neural_editor
import not_miwae
import numpyro_vae
import other_priors
import plain_vae
import reproduction
import results_page
import sentences
import ss_vae
import uci_regression
import vamp_prior
import variational_decoder

ROOT = pathlib.Path(__file__).parents[1]
SYSTEMS = {
    "aevb": aevb,
    "conv_vae": conv_vae,
    "cvae": cvae,
    "disentangled": disentangled,
    "grey_pixels": grey_pixels,
    "hyperspherical_vae": hyperspherical_vae,
    "iwae": iwae,
    "lstm_forecaster": lstm_forecaster,
    "miwae": miwae,
    "neural_editor": neural_editor,
    "not_miwae": not_miwae,
    "numpyro_vae": numpyro_vae,
    "other_priors": other_priors,
    "plain_vae": plain_vae,
    "ss_vae": ss_vae,
    "uci_regression": uci_regression,
    "vamp_prior": vamp_prior,
    "variational_decoder": variational_decoder,
}


@pytest.fixture(scope="module")
def small_data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    example_data.write(directory)
    return directory


def run(system, data, output, *options):
    given = ["--budget", "quick", "--data-dir", str(data), "--output", str(output)]
    return SYSTEMS[system].main([*given, *options])


# What was found before and after training, and how much better it must be.
MARGINS = {
    "aevb": ("test bound, MNIST", "untrained bound, MNIST", 200.0),
    "conv_vae": ("test -ELBO", "untrained -ELBO", -200.0),
    "cvae": ("-ELBO", "untrained -ELBO", -100.0),
    "disentangled": (
        "test ELBO without the constant, full",
        "untrained ELBO without the constant, full",
        50.0,
    ),
    "grey_pixels": (
        "bits per dimension of the bound, discretised",
        "untrained bits per dimension, discretised",
        -1.0,
    ),
    "hyperspherical_vae": (
        "log p(x), d = 2, von",
        "untrained log p(x), d = 2, von",
        200.0,
    ),
    "iwae": ("-log p(x), k = 50", "untrained -log p(x)", -40.0),
    "lstm_forecaster": (
        "CRPS, seasonal, 10 steps, random",
        "untrained CRPS, seasonal, random",
        -0.1,
    ),
    "miwae": (
        "mean squared error of missing",
        "mean squared error, means",
        -0.5,
    ),
    "neural_editor": (
        "perplexity of a word given z",
        "untrained perplexity with z",
        -5.0,
    ),
    "not_miwae": (
        "root mean squared error of missing entries, not-MIWAE",
        "root mean squared error of missing entries, MIWAE",
        -0.1,
    ),
    "numpyro_vae": ("test -ELBO", "untrained -ELBO", -200.0),
    "other_priors": ("ELBO, Beta", "untrained ELBO, Beta", 200.0),
    "plain_vae": ("-log p(x)", "untrained -log p(x)", -200.0),
    "ss_vae": ("accuracy, %, 100 labels", "untrained %, 100 labels", 30.0),
    "uci_regression": (
        "NLL, nats, concrete, ensemble",
        "untrained NLL, nats, concrete",
        -0.5,
    ),
    "vamp_prior": (
        "-log p(x), VampPrior",
        "untrained -log p(x), VampPrior",
        -200.0,
    ),
    "variational_decoder": (
        "test log p(x), nats, 100 images",
        "untrained log p(x)",
        100.0,
    ),
}


# What does not depend on training, and how far off it may be.
EXACT = {
    "neural_editor": {
        "KL of each edit": (27.7825, 1e-3),
        "largest difference": (0.0, 0.0),
    },
    "other_priors": {
        "difference of the two, Student-t": (0.0, 5.0),
        "difference of the two, Beta": (0.0, 5.0),
    },
}


# Other numbers than the quick budget has.
EPOCHS = {"conv_vae": 3}
# Smaller networks, where convolutions and recurrent layers are slow.
NARROW = {
    "conv_vae": {"FILTERS": 16},
    "disentangled": {"FILTERS": 8, "UNITS": 32, "STATIC": 32},
    "neural_editor": {"UNITS": 32},
}
# Sentences, sprites and tables have few rows.
ALL_ROWS = ("disentangled", "miwae", "neural_editor", "not_miwae")


@pytest.fixture
def reduced(system, monkeypatch):
    """A fifth of the images in batches of a fifth: as many steps, with less work."""
    for name, value in NARROW.get(system, {}).items():
        monkeypatch.setattr(SYSTEMS[system], name, value)
    if system not in ALL_ROWS:
        few = datasets.few
        monkeypatch.setattr(SYSTEMS[system], "BATCH", SYSTEMS[system].BATCH // 5)
        monkeypatch.setattr(
            datasets,
            "few",
            lambda images, train, test: few(
                images, min(train, len(images.train)) // 5, test // 5
            ),
        )


@pytest.mark.usefixtures("reduced")
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_quick_run_improves_on_the_untrained_model(system, small_data, tmp_path):
    epochs = ["--epochs", str(EPOCHS[system])] if system in EPOCHS else []
    report = run(system, small_data, tmp_path, *epochs)
    trained, untrained, margin = MARGINS[system]
    gain = report[trained] - report[untrained]
    assert gain > margin if margin > 0 else gain < margin
    for what, (exact, tolerance) in EXACT.get(system, {}).items():
        assert abs(report[what] - exact) <= tolerance
    assert list(tmp_path.glob("*.png"))
    assert not list(tmp_path.glob("*.json"))


def test_results_are_written_where_asked(small_data, tmp_path):
    run("numpyro_vae", small_data, tmp_path, "--results", str(tmp_path))
    found = json.loads((tmp_path / "numpyro_vae.json").read_text())
    assert found["command"].endswith("--output PATH --results PATH")
    assert str(tmp_path) not in json.dumps(found)
    figure = reproduction.Result(**found["figures"][-1])
    assert figure.reference == 101.59
    assert set(found["versions"]) == set(reproduction.PACKAGES)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_has_its_figures(system):
    path = ROOT / "results" / f"{system}.json"
    assert path.is_file(), f"run `python examples/{system}.py`"
    run = json.loads(path.read_text())
    assert run["budget"] == "full"
    figures = [reproduction.Result(**values) for values in run["figures"]]
    assert figures
    unexplained = [str(figure) for figure in figures if not figure.is_explained]
    assert not unexplained


def test_no_file_is_of_a_system_that_is_gone():
    assert {path.stem for path in (ROOT / "results").glob("*.json")} == set(SYSTEMS)


@pytest.mark.parametrize(
    ("page", "name", "text"),
    results_page.parts(),
    ids=lambda value: value if value in ("results", "compared") else "",
)
def test_pages_have_the_figures_of_the_files(page, name, text):
    _, rest = page.read_text().split(f"<!-- begin {name} -->")
    found, _ = rest.split(f"<!-- end {name} -->")
    assert found.strip() == text


@pytest.mark.parametrize(
    ("argv", "is_stored"),
    [
        ([], True),
        (["--data-dir", "x", "--output", "y"], True),
        (["--sizes", "1", "2"], True),
        (["--sizes", "3"], False),
        (["--epochs", "2"], False),
        (["--seed", "1"], False),
        (["--budget", "quick"], False),
    ],
)
def test_the_results_of_default_options_alone_are_stored(argv, is_stored):
    def options(parser):
        parser.add_argument("--sizes", nargs="+", type=int, default=[1, 2])

    epochs = {"quick": 1, "full": 2}
    args = reproduction.parse("", "x", argv, epochs, options)
    assert args.results == (reproduction.RESULTS if is_stored else None)


def test_a_worse_figure_needs_a_reason():
    def figure(value, **options):
        return reproduction.Result("x", value, 10.0, "y", 1.0, **options)

    assert figure(9.5).is_explained
    assert figure(99.0).is_explained
    assert not figure(8.9).is_explained
    assert figure(8.9, reason="half the epochs").is_explained
    assert figure(10.5, higher_is_better=False).is_explained
    assert not figure(11.5, higher_is_better=False).is_explained
    assert reproduction.Result("x", 1.0).is_explained
    assert not figure(8.9, reason="half the epochs").is_within_tolerance(10.0)
    assert figure(8.9, higher_is_better=False).is_within_tolerance(8.0)
    assert not figure(9.1, higher_is_better=False).is_within_tolerance(8.0)


def test_few_labels_are_enough_where_classes_are_apart(rng):
    classes = rng.integers(0, 3, 600)
    apart = np.eye(3)[classes] + 0.01 * rng.normal(size=(600, 3))
    codes = [few_labels.Codes(apart[i::3], classes[i::3]) for i in range(3)]
    for metric in ("euclidean", "cosine"):
        assert few_labels.accuracy(*codes, 30, metric, seed=0) == 100
    # 30 % of the labels are wrong: a neighbour alone is right as often as its label, a
    # majority of 15 more often.
    wrong = np.where(rng.random(200) < 0.3, rng.integers(0, 3, 200), codes[0].classes)
    noisy = few_labels.Codes(codes[0].latents, wrong)
    found = few_labels.accuracy(noisy, *codes[1:], 150, "euclidean", seed=0)
    assert found > 95 > 100 * np.mean(wrong == codes[0].classes)
    assert [*np.bincount(classes[few_labels.balanced(classes, 30, rng)])] == [10] * 3


def test_images_without_classes_are_an_error():
    with pytest.raises(ValueError, match="Received: images without"):
        datasets.Images("x", np.zeros(3), np.zeros(3), 2).classes()


def test_pairs_are_neighbours_and_no_test_target_is_a_prototype(small_data):
    corpus = sentences.load(small_data)
    parts = corpus.pairs(seed=0)
    seen = {corpus.text(line) for line in parts[0].source}
    for pairs in parts:
        assert len(pairs.source) > 10
        assert {corpus.text(line) for line in pairs.source} <= seen
        for row in range(0, len(pairs.source), 7):
            a, b = (
                set(corpus.text(t[row]).split()) for t in (pairs.source, pairs.target)
            )
            assert a != b
            assert len(a & b) / len(a | b) >= 0.5
            assert set(corpus.text(pairs.inserted[row]).split()) == b - a
            assert set(corpus.text(pairs.deleted[row]).split()) == a - b
    targets = [{corpus.text(line) for line in pairs.target} for pairs in parts]
    assert not targets[2] & seen
    assert not targets[2] & (targets[0] | targets[1])


def test_missing_sentences_are_explained(tmp_path, monkeypatch):
    monkeypatch.delenv("TFP_VAE_DATA", raising=False)
    for directory in (None, tmp_path):
        with pytest.raises(FileNotFoundError, match="tatoeba"):
            sentences.load(directory)


def test_integrals_of_a_kl_are_closed_forms():
    tfd = tfp.distributions
    flat = tfd.Normal(np.full([3, 2], 0.5), 1e4)  # between 0 and 1, a uniform law
    found = other_priors.integral(other_priors.BETA, flat)
    np.testing.assert_allclose(found, 2 * (1 - np.log(2)), atol=1e-4)
    q = tfd.Normal(np.array([[0.3, -2.0]]), np.array([[0.5, 1.5]]))
    laws = [stats.norm(0.3, 0.5), stats.norm(-2.0, 1.5)]

    def integrand(z, law):
        return law.pdf(z) * (law.logpdf(z) - stats.t(3.0).logpdf(z))

    expected = sum(integrate.quad(integrand, -15, 15, law)[0] for law in laws)
    found = other_priors.integral(other_priors.STUDENT, q)
    np.testing.assert_allclose(found, [expected], atol=1e-5)


def test_each_pixel_of_a_completed_digit_is_given_or_hidden(rng):
    image = rng.integers(1, 256, (1, 28, 28, 1)).astype("float32") / 255
    corner = (
        slice(14),
        slice(14, 28),
    )
    quadrants = {
        1: [(slice(14, 28), slice(14))],
        2: [(slice(14, 28), slice(14)), (slice(14), slice(14))],
        3: [(slice(14, 28), slice(14)), (slice(14), slice(14)), corner],
    }
    for count, places in quadrants.items():
        expected = np.full_like(image, cvae.HOLE)
        for place in places:
            expected[0][place] = image[0][place]
        given, hidden = cvae.parts(image, count)
        np.testing.assert_array_equal(given, expected)
        np.testing.assert_array_equal(np.where(given < 0, hidden, given), image)
        assert ((given < 0) != (hidden < 0)).all()
        np.testing.assert_array_equal(cvae.weights(image, count), hidden >= 0)


def test_counted_bits_are_those_of_smoothed_shares():
    train = np.array([[3], [3], [5]], "uint8").reshape(3, 1, 1, 1)
    test = np.array([[3], [9]], "uint8").reshape(2, 1, 1, 1)
    images = datasets.Images("x", train, test, 256)
    probs = np.array([2 + 1 / 256, 1 / 256]) / 4
    assert grey_pixels.counted(images) == pytest.approx(-np.log2(probs).mean())


def test_the_judge_is_read_by_name_and_its_entropies_are_those_of_scipy():
    labels = np.array([[0, 1, 2, 0, 3], [1, 1, 0, 2, 2]])
    names = (*judge.sprites.ATTRIBUTES, "action")
    seen = {name: np.eye(4)[labels[:, i]] for i, name in enumerate(names)}
    seen["action"] = np.eye(4)[[3, 0]]
    other_order = dict(sorted(seen.items()))
    assert judge.agreement(other_order, labels) == (100.0, 50.0)
    law = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    given, marginal = judge.entropies(law)
    assert given == pytest.approx(np.log(2) / 2)
    assert marginal == pytest.approx(np.log(2) / 2 + np.log(4) / 2)


class Mixture:
    """Two normal laws for each row, in NumPy and SciPy."""

    loc, scale = np.array([[-0.5, 0.4]]), np.array([[0.3, 0.8]])

    def cdf(self, y):
        return stats.norm.cdf(y[..., None], self.loc, self.scale).mean(-1)

    def crps(self, y):
        """The integral that defines it."""
        grid = np.linspace(-15, 15, 60_001)
        squares = np.square(self.cdf(grid) - (grid >= y))
        return integrate.trapezoid(squares, grid)


def test_scores_of_a_regression_are_in_the_units_of_y():
    data, law = example_data.regression(), Mixture()
    x, y, test = data["concrete_x"], data["concrete_y"], data["concrete_test"][0]
    split = uci_regression.Split(x, y, test)
    for array in split.train:
        np.testing.assert_allclose(array.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(array.std(0), 1, atol=1e-5)
    tfd = tfp.distributions
    loc, scale = (np.tile(a[:, :, None], [20, 1, 1]) for a in (law.loc, law.scale))
    p = tfd.MixtureSameFamily(
        tfd.Categorical(probs=[0.5, 0.5]),
        tfd.Independent(tfd.Normal(loc.astype("float32"), scale.astype("float32")), 1),
    )
    shift, factor = y[~test].mean(), y[~test].std()
    standardised = (y[test] - shift) / factor
    density = stats.norm.pdf(
        y[test][:, None], shift + factor * law.loc, factor * law.scale
    )
    expected = [
        np.sqrt(np.mean(np.square(y[test] - shift - factor * law.loc.mean()))),
        -np.log(density.mean(-1)).mean(),
        factor * np.mean([law.crps(value) for value in standardised]),
    ]
    np.testing.assert_allclose(split.scores(p), expected, rtol=1e-3)


def test_a_model_is_trained_from_new_weights_each_time():
    data = example_data.regression()
    x, y, test = data["concrete_x"], data["concrete_y"], data["concrete_test"][0]
    x, y = uci_regression.Split(x, y, test).train
    build = functools.partial(uci_regression.network, 4, keras.layers.Dense)
    trainer = uci_regression.Trainer(build, uci_regression.decay(x, 2))
    found = []
    for seed in (1, 2, 1):
        keras.utils.set_random_seed(seed)
        found.append(trainer.fit(x, y, 2).get_weights()[0])
    np.testing.assert_array_equal(found[0], found[2])
    assert np.abs(found[0] - found[1]).max() > 0.1


def test_missing_regression_sets_are_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"archive\.ics\.uci\.edu"):
        uci_regression.main(["--budget", "quick", "--data-dir", str(tmp_path)])


def test_the_law_of_the_generated_series_is_that_of_its_values():
    series = lstm_forecaster.seasonal((24_000, 500, 12_000), seed=1)
    for part in (0, 2):
        y, times = series.windows(part)[1], series.times(part)
        loc, scale = (a[times] for a in series.law)
        z = (y - loc) / scale
        effective = len(z) / lstm_forecaster.STEPS  # errors of fewer steps apart agree
        assert np.abs(z.mean(0)).max() < 5 / np.sqrt(effective)
        assert np.abs(z.var(0) - 1).max() < 5 * np.sqrt(2 / effective)
        # Also at each hour of the day, where the noise is from 0.1 to 0.3.
        count = len(z) // lstm_forecaster.PERIOD
        days = z[: count * lstm_forecaster.PERIOD].reshape(count, 24, -1)
        assert np.abs(days.var(0) - 1).max() < 5 * np.sqrt(2 / count)
    assert series.law[1][:, 0].min() == pytest.approx(0.1)
    assert series.law[1][:, 0].max() == pytest.approx(0.3)


def test_windows_are_pieces_of_the_series_with_their_targets_in_one_part():
    values = np.arange(200.0)[:, None] + [0, 1000]
    series = lstm_forecaster.Series("x", values, (100, 150), 1.0, ("", ""))
    for part, (first, last) in enumerate([(40, 100), (100, 150), (150, 200)]):
        x, y = series.windows(part)
        assert len(y) == 2 * (last - first - lstm_forecaster.STEPS + 1)
        assert (np.diff(np.hstack([x[..., 0], y])) == 1).all()
        channel = y >= 1000
        assert (channel == channel[:, :1]).all()
        assert set(np.unique(y - 1000 * channel)) == set(range(first, last))
        np.testing.assert_array_equal(y[:, 0] % 1000, np.tile(series.times(part), 2))


def test_initial_weights_are_those_of_the_published_programs():
    keras.utils.set_random_seed(0)
    for module, deviation in (
        (plain_vae, lambda inputs: (3 * inputs) ** -0.5),  # of a uniform law
        (numpyro_vae, lambda inputs: 0.01),
    ):
        vae = module.build((28, 28, 1))
        for network in (vae.encoder, vae.decoder):
            for layer in network.layers[-3:]:
                if not isinstance(layer, keras.layers.Dense):
                    continue
                kernel, bias = layer.get_weights()
                expected = deviation(len(kernel))
                # A normal law has more spread of the variance than a uniform one.
                assert kernel.std() == pytest.approx(expected, rel=0.03)
                assert bias.std() == pytest.approx(expected, rel=0.3)
                bound = np.sqrt(3) * expected
                assert (np.abs(kernel).max() <= bound) == (module is plain_vae)
        raw = tf.constant([[0.0] * module.LATENT + [0.6] * module.LATENT])
        scale = np.exp(0.3 if module is plain_vae else 0.6)
        np.testing.assert_allclose(module.normal(raw).stddev()[0], scale, rtol=1e-6)
