"""The example that trains a VAE, run as its users run it."""

import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import datasets
import pixels
import train_vae

ROOT = pathlib.Path(__file__).parents[1]
TINY = ["--epochs", "1", "--batch-size", "256", "--samples", "5"]
ELBO = r"held-out ELBO: (-?\d+\.\d\d) nats per image \(360 images, 28 draws each\)"


def run(output):
    """Runs the example in a process of its own, and returns what it printed."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    script = ROOT / "examples" / "train_vae.py"
    return subprocess.run(
        [sys.executable, script, *TINY, "--output", output],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


def main(capsys, output, *options):
    train_vae.main([*TINY, "--output", str(output), *options])
    return capsys.readouterr().out


def test_the_default_job_trains_draws_saves_and_checks(tmp_path):
    process = run(tmp_path / "new" / "vae")
    assert process.returncode == 0, process.stderr
    assert re.search("^device: ", process.stdout, re.MULTILINE)
    assert "1437 training and 360 test images" in process.stdout
    shown = r"elbo: -\d.* - kl: \d.* - kl_weight: 1.* - loss: \d.* - nll: \d"
    assert re.search(shown, process.stdout)
    assert re.search(r"held-out log p\(x\): -\d+\.\d\d, from 5 draws", process.stdout)
    elbo = float(re.search(ELBO, process.stdout)[1])
    assert -45 < elbo < -20  # 64 fair coins have -44.4
    assert process.stdout.count("max abs difference") == 4
    files = {path.name for path in (tmp_path / "new" / "vae").iterdir()}
    names = ("reconstructions", "samples", "traversals", "latent")
    pictures = {f"{name}.png" for name in names}
    assert files == {*pictures, "vae.keras", "served"}
    assert "Warning" not in process.stderr


@pytest.mark.slow
def test_mixed_precision_runs(tmp_path, capsys):
    options = ["--mixed-precision", "--no-jit", "--posterior", "tril"]
    assert re.search(ELBO, main(capsys, tmp_path, *options))
    assert keras.config.dtype_policy().name == "mixed_bfloat16"


@pytest.mark.parametrize(
    "options",
    [
        ["--posterior", "power-spherical", "--latent-size", "5"],
        pytest.param(
            ["--posterior", "von-mises-fisher", "--latent-size", "5"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--prior", "mixture", "--components", "5"], marks=pytest.mark.slow
        ),
        ["--prior", "vamp", "--components", "5"],
        ["--beta", "2", "--warm-up", "1", "--samples", "0"],
        pytest.param(["--iwae", "3"], marks=pytest.mark.slow),
    ],
)
def test_other_posteriors_priors_and_objectives_run(tmp_path, capsys, options):
    assert re.search(ELBO, main(capsys, tmp_path, *options))


@pytest.mark.slow
def test_same_seed_same_numbers(tmp_path, capsys):
    def numbers():
        printed = main(capsys, tmp_path, "--no-jit")
        names = ("kl", "loss", "nll", "ELBO", r"p\(x\)")
        return [re.findall(rf"{name}: (-?[\d.]+)", printed)[-1] for name in names]

    assert numbers() == numbers()


@pytest.mark.parametrize(
    "options",
    [
        ["--posterior", "tril", "--prior", "learned", "--likelihood", "normal"],
        pytest.param(
            ["--prior", "laplace", "--likelihood", "logistic", "--latent-size", "3"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--prior", "flow", "--likelihood", "logistic"], marks=pytest.mark.slow
        ),
    ],
)
def test_other_families_run_and_print_bits_per_dimension(tmp_path, capsys, options):
    printed = main(capsys, tmp_path, "--no-jit", "--epochs", "5", *options)
    elbo = float(re.search(ELBO, printed)[1])
    bits = float(re.search(r"(\d\.\d{3}) bits per dimension", printed)[1])
    assert bits == pytest.approx(np.log2(17) - elbo / 64 / np.log(2), abs=1e-3)
    assert bits < np.log2(17)  # better than guessing
    assert (tmp_path / "latent.png").exists() == ("--latent-size" not in options)


def test_the_decoder_starts_at_the_average_image():
    images = datasets.load("digits")
    average = ((images.train + 0.5) / 17).mean(axis=0)
    for likelihood in train_vae.LIKELIHOODS:
        args = train_vae._parse(["--likelihood", likelihood])
        mean = train_vae.build(args, images).decode(tf.zeros([1, 2])).mean()[0]
        np.testing.assert_allclose(mean, average, atol=1e-5)


def grey_images(value, levels, count=200):
    grey = np.full((count, 8, 8, 1), value, np.uint8)
    return datasets.Images("grey", grey, grey, levels)


def all_batches(images, likelihood="bernoulli", batch_size=50, seed=0):
    dataset = pixels.batches(images, likelihood, batch_size, seed)
    return [[x.numpy() for x in dataset] for _ in range(2)]


def test_batches_have_other_noise_in_every_epoch_and_the_same_for_a_seed():
    first, second = all_batches(grey_images(4, 17))
    assert (first[0] != second[0]).any()
    assert (first[0] != first[1]).any()
    again = all_batches(grey_images(4, 17))
    np.testing.assert_array_equal(again, [first, second])
    assert (all_batches(grey_images(4, 17), seed=1)[0][0] != first[0]).any()


def test_batches_shuffle_and_keep_every_image():
    pixels = np.arange(200, dtype=np.uint8)[:, None, None, None] // 100
    first, second = all_batches(
        datasets.Images("two", pixels, pixels, 2), batch_size=64
    )
    assert [len(batch) for batch in first] == [64, 64, 64, 8]
    assert np.concatenate(first).sum() == np.concatenate(second).sum() == 100
    assert (first[0] != second[0]).any()


def test_binarizing_draws_with_the_grey_value_as_probability():
    x = np.concatenate(all_batches(grey_images(4, 17))[0])
    assert set(np.unique(x)) == {0.0, 1.0}
    assert x.mean() == pytest.approx(0.25, abs=5 * np.sqrt(0.25 * 0.75 / x.size))
    black, white = (all_batches(grey_images(v, 17))[0] for v in (0, 16))
    assert np.concatenate(black).max() == 0
    assert np.concatenate(white).min() == 1


def test_dequantizing_fills_the_cell_of_a_level():
    x = np.concatenate(all_batches(grey_images(4, 17), likelihood="normal")[0])
    assert 4 / 17 <= x.min() < x.max() <= 5 / 17
    assert x.mean() == pytest.approx(4.5 / 17, abs=5 / 17 / np.sqrt(12 * x.size))


def test_black_and_white_images_need_a_bernoulli_likelihood():
    with pytest.raises(
        ValueError, match=r"'normal' expects grey images.*Received.*Use --"
    ):
        train_vae.describe(grey_images(1, 2), "normal")
    assert "used as they are" in train_vae.describe(grey_images(1, 2), "bernoulli")


def test_a_loaded_model_that_differs_is_an_error(tmp_path, monkeypatch):
    images = datasets.load("digits")
    vae = train_vae.build(train_vae._parse([]), images)
    load = keras.models.load_model

    def load_another(path):
        model = load(path)
        model.decoder.layers[-2].bias.assign_add(tf.ones(64))
        return model

    monkeypatch.setattr(keras.models, "load_model", load_another)
    with pytest.raises(RuntimeError, match=r"expected to agree within 1e-05. Received"):
        train_vae.check_saved(vae, images.test[:5] / np.float32(16), tmp_path)


@pytest.mark.parametrize("option", ["--epochs", "--batch-size", "--latent-size"])
def test_sizes_must_be_positive_integers(capsys, option):
    for value in ("0", "-1", "1.5", "many"):
        with pytest.raises(SystemExit):
            train_vae._parse([f"{option}={value}"])
        message = f"expects a positive integer. Received: '{value}'. Give 1 or more."
        assert message in capsys.readouterr().err


def elbo_on(data, capsys, output, *options):
    """Trains on the real data set, whose directory the environment names."""
    if not os.environ.get(datasets.VARIABLE):
        pytest.skip(f"no data: {datasets.VARIABLE} is not set")
    options = ["--dataset", data, "--output", str(output), "--samples", "0", *options]
    train_vae.main(options)
    printed = capsys.readouterr().out
    assert "nan" not in printed
    return float(re.search(r"held-out ELBO: (-?[\d.]+)", printed)[1])


@pytest.mark.slow
@pytest.mark.parametrize("posterior", ["power-spherical", "von-mises-fisher"])
def test_a_hyperspherical_vae_needs_no_annealing(tmp_path, capsys, posterior):
    """S^40 in R^41, 20 epochs of MNIST: about two minutes on two cores."""
    options = ["--posterior", posterior, "--latent-size", "41", "--epochs", "20"]
    assert elbo_on("mnist", capsys, tmp_path, *options) > -110


@pytest.mark.slow
def test_a_mixture_prior_beats_the_standard_one(tmp_path, capsys):
    """At the same budget, on binarized MNIST: about a minute on two cores."""
    standard, mixture = (
        elbo_on("binarized_mnist", capsys, tmp_path, "--epochs", "8", "--prior", prior)
        for prior in ("standard", "mixture")
    )
    assert mixture > standard + 1
