"""The reproductions: each learns in its quick budget; results/ says what it found."""

import gzip
import json
import pathlib

import numpy as np
import pytest
import tensorflow_probability as tfp
from scipy import integrate, stats
from sklearn.datasets import load_digits

import aevb
import conv_vae
import datasets
import disentangled
import grey_pixels
import hyperspherical_vae
import iwae
import judge
import m1_knn
import neural_editor
import numpyro_vae
import other_priors
import plain_vae
import reproduction
import sentences
import sprites
import vamp_prior

ROOT = pathlib.Path(__file__).parents[1]
SYSTEMS = {
    "aevb": aevb,
    "conv_vae": conv_vae,
    "disentangled": disentangled,
    "grey_pixels": grey_pixels,
    "hyperspherical_vae": hyperspherical_vae,
    "iwae": iwae,
    "m1_knn": m1_knn,
    "neural_editor": neural_editor,
    "numpyro_vae": numpyro_vae,
    "other_priors": other_priors,
    "plain_vae": plain_vae,
    "vamp_prior": vamp_prior,
}


def idx(array):
    sizes = np.array(array.shape, ">u4").tobytes()
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes(), 1)


def blocks():
    """Sprites of blocks: the variant is the colour, the pair the shape and the way."""
    layers = {}
    for row, name in enumerate(sprites.LAYERS):
        layer = np.zeros((1 if name == "shoes" else 6, 9, 8, 32, 32, 4), "uint8")
        for variant, pair, step in np.ndindex(layer.shape[:3]):
            left = 12 + (pair % 3 - 1) * step
            block = layer[variant, pair, step, 6 * row + 1 : 6 * row + 7]
            colour = [50 + 200 * (variant + 1 >> bit & 1) for bit in range(3)]
            block[:, left : left + 4 + pair] = [*colour, 255]
        layers[name] = layer
    characters = np.random.default_rng(0).permutation(list(np.ndindex(6, 6, 6, 6)))[:40]
    return {
        **layers,
        "characters": characters.astype("uint8"),
        "n_train": 30,
        "actions": np.repeat(["walk", "spellcard", "slash"], 3),
        "directions": ["front", "left", "right"] * 3,
    }


@pytest.fixture(scope="module")
def small_data(tmp_path_factory):
    """scikit-learn's digits, made-up sentences and sprites, in the real formats."""
    directory = tmp_path_factory.mktemp("data")
    digits = load_digits()
    images = np.kron(digits.images / 16 * 255, np.ones((3, 3)))
    images = np.pad(images, [(0, 0), (2, 2), (2, 2)]).astype("uint8")
    labels = digits.target.astype("uint8")
    (directory / "mnist").mkdir()
    for name, array in {
        "train-images-idx3": images[:1400],
        "train-labels-idx1": labels[:1400],
        "t10k-images-idx3": images[1400:],
        "t10k-labels-idx1": labels[1400:],
    }.items():
        (directory / "mnist" / f"{name}-ubyte.gz").write_bytes(idx(array))
    bits = np.packbits((images > 127).reshape(len(images), -1), axis=1)
    np.savez(
        directory / "binarized_mnist.npz",
        train=bits[:1300],
        valid=bits[1300:1500],
        test=bits[1500:],
        label_test=labels[1500:],
    )
    np.savez(directory / "freyfaces.npz", images=images[:400, :, 4:24] // 2 + 60)
    people, verbs = ["i", "you", "we", "they"], ["see", "like", "want"]
    lines = [f"{p} {v} {t}." for p in people for v in verbs for t in "abcdefgh"]
    (directory / sentences.FILE).write_text("\n".join(lines))
    np.savez(directory / sprites.FILE, **blocks())
    return directory


def run(system, data, output, *options):
    given = ["--budget", "quick", "--data-dir", str(data), "--output", str(output)]
    return SYSTEMS[system].main([*given, *options])


# What was found before and after training, and how much better it must be.
MARGINS = {
    "aevb": ("test bound, MNIST", "untrained bound, MNIST", 200.0),
    "conv_vae": ("test -ELBO", "untrained -ELBO", -200.0),
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
    "iwae": ("-log p(x), k = 50", "untrained -log p(x)", -50.0),
    "m1_knn": ("accuracy, %, d = 5, normal, 100", "untrained %, normal, 100", 5.0),
    "neural_editor": (
        "perplexity of a word given z",
        "untrained perplexity with z",
        -5.0,
    ),
    "numpyro_vae": ("test -ELBO", "untrained -ELBO", -200.0),
    "other_priors": ("ELBO, Beta", "untrained ELBO, Beta", 200.0),
    "plain_vae": ("-log p(x)", "untrained -log p(x)", -200.0),
    "vamp_prior": (
        "-log p(x), VampPrior",
        "untrained -log p(x), VampPrior",
        -200.0,
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
# A classifier needs its 1000 labelled images, and sentences and sprites are few.
ALL_ROWS = ("disentangled", "m1_knn", "neural_editor")


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
    figure = reproduction.Figure(**found["figures"][-1])
    assert figure.reference == 101.59
    assert set(found["versions"]) == set(reproduction.PACKAGES)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_has_its_figures(system):
    path = ROOT / "results" / f"{system}.json"
    assert path.is_file(), f"run `python examples/{system}.py`"
    run = json.loads(path.read_text())
    assert run["budget"] == "full"
    figures = [reproduction.Figure(**values) for values in run["figures"]]
    assert figures
    unexplained = [str(figure) for figure in figures if not figure.is_explained]
    assert not unexplained


def test_no_file_is_of_a_system_that_is_gone():
    assert {path.stem for path in (ROOT / "results").glob("*.json")} == set(SYSTEMS)


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (reproduction.README, reproduction.headlines()),
        (reproduction.PAGE, reproduction.table()),
    ],
    ids=["README", "results"],
)
def test_pages_have_the_figures_of_the_files(page, text):
    found = page.read_text()
    begin, end = (found.index(mark) for mark in reproduction.MARKS)
    assert found[begin + len(reproduction.MARKS[0]) : end].strip() == text


def test_a_worse_figure_needs_a_reason():
    def figure(value, **options):
        return reproduction.Figure("x", value, 10.0, "y", 1.0, **options)

    assert figure(9.5).is_explained
    assert figure(99.0).is_explained
    assert not figure(8.9).is_explained
    assert figure(8.9, reason="half the epochs").is_explained
    assert figure(10.5, higher_is_better=False).is_explained
    assert not figure(11.5, higher_is_better=False).is_explained
    assert reproduction.Figure("x", 1.0).is_explained


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
