"""Writes the pictures of docs/gallery.md into docs/gallery/.

    python docs/make_gallery.py
    python docs/make_gallery.py --data-dir PATH --output DIR

The first uses the digits and the diabetes table of scikit-learn, and is what
docs/gallery.md shows. With --data-dir the images are those of MNIST in that directory.
"""

import argparse
import io
import os
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow_probability as tfp
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_diabetes

import tfp_vae as tv

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))

import datasets
from pixels import observe

ROOT = pathlib.Path(__file__).parents[1]
GALLERY = ROOT / "docs" / "gallery"
EXAMPLE = "python examples/train_vae.py"
# Options of the example for each run.
RUNS = {
    "vectors": "--latent-size 8 --samples 0",
    "plane": "--latent-size 2 --samples 0",
    "sphere": "--posterior power-spherical --latent-size 3 --samples 0",
    "vamp": "--prior vamp --components 40 --latent-size 8 --samples 0",
}
DPI = 100
LARGEST = 60_000  # bytes of a picture
BODY_MASS = 2  # the column


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the example four times and a regression, and draws."""
    args = parse(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    name = "mnist" if args.data_dir else "digits"
    images = datasets.load(name, args.data_dir)
    x = observe(images.test, [0, 1], images.levels, "bernoulli").numpy()
    for run in RUNS:
        vae = train(run, name, args)
        for picture, figure in draw(run, vae, x, images.test_labels).items():
            save(args.output / f"{picture}.png", figure)
    for picture, figure in regression().items():
        save(args.output / f"{picture}.png", figure)


def train(run: str, name: str, args: argparse.Namespace) -> tv.VAE:
    """Runs the example, and loads the model that it saved."""
    directory = ROOT / "output" / "gallery" / run
    options = [*RUNS[run].split(), "--output", str(directory)]
    if name == "mnist":
        options += ["--dataset", name, "--data-dir", args.data_dir, "--epochs", "8"]
    command = [sys.executable, *EXAMPLE.split()[1:], *options]
    print(shlex.join(command), flush=True)
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return keras.models.load_model(directory / "vae.keras")


def draw(run: str, vae: tv.VAE, x: np.ndarray, labels: Any) -> dict[str, Figure]:
    """The pictures of one run."""
    if run in ("plane", "sphere"):
        return {run: tv.plots.plot_latents(vae, x, labels)}
    if run == "vamp":
        inputs = np.asarray(vae.prior.pseudo_inputs())
        return {
            "pseudo_inputs": rows({"": inputs}, 10),
            "samples_vamp": tv.plots.plot_samples(vae, 40, columns=10, seed=0),
        }
    return {
        "reconstructions": tv.plots.plot_reconstructions(vae, x[:20], columns=10),
        "samples": tv.plots.plot_samples(vae, 40, columns=10, seed=0),
        "traversals": tv.plots.plot_traversals(vae, x[:1]),
        "interpolations": tv.plots.plot_interpolations(vae, x[:3], x[3:6], 8),
        "kl_per_dimension": tv.plots.plot_kl_per_dimension(vae, x),
        "imputed": imputed(vae, x[:10]),
    }


def imputed(vae: tv.VAE, x: np.ndarray) -> Figure:
    """Images whose lower half is missing, what the VAE imputes, and the images."""
    holes = x.copy()
    holes[:, x.shape[1] // 2 :] = np.nan
    partial = tv.VAE(vae.encoder, vae.decoder, vae.prior, missing="nan")
    filled = partial.impute(holes, num_samples=1000, seed=0, verbose=0)
    return rows({"observed": holes, "imputed": filled, "truth": x}, len(x))


def rows(parts: dict[str, np.ndarray], columns: int) -> Figure:
    """Images in rows with a label for each row."""
    grid = tv.plots.image_grid(np.concatenate(list(parts.values())), columns)
    height, width = grid.shape[:2]
    figure = Figure((7, 7 * height / width), layout="constrained")
    axes = figure.subplots()
    axes.imshow(grid[..., 0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    middles = (np.arange(len(parts)) + 0.5) * height / len(parts) - 0.5
    axes.set_yticks(middles if all(parts) else [], list(parts) if all(parts) else [])
    axes.set_xticks([])
    return figure


def regression() -> dict[str, Figure]:
    """Bands and calibration of a model whose scale depends on x."""
    keras.utils.set_random_seed(0)
    data = load_diabetes(scaled=False)
    order = np.random.default_rng(0).permutation(len(data.target))
    x, y = data.data[order, BODY_MASS, None].astype("float32"), data.target[order]
    train, test = slice(0, 300), slice(300, None)
    loc, scale = y[train].mean(), y[train].std()
    normalization = keras.layers.Normalization()
    normalization.adapt(x[train])
    model = tv.Sequential(
        [
            keras.Input((1,)),
            normalization,
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(tv.IndependentNormal.params_size(())),
            tv.IndependentNormal(()),
        ]
    )
    model.compile("adam", loss=tv.NegativeLogLikelihood())
    model.fit(x[train], (y[train] - loc) / scale, epochs=60, verbose=0)
    q = model(x[test])
    p = tfp.distributions.Normal(loc + scale * q.mean(), scale * q.stddev())
    bands = tv.plots.plot_predictive(x[test], p, y[test])
    bands.axes[0].set_xlabel("body mass index (kg/m²)")
    bands.axes[0].set_ylabel("progression after one year (score)")
    return {
        "predictive": bands,
        "calibration": tv.plots.plot_calibration(p, y[test]),
    }


def save(path: pathlib.Path, figure: Figure) -> None:
    """Writes a picture; in 256 colours if the file is otherwise too large."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DPI)
    image = Image.open(drawn).convert("RGB")
    image.save(path, optimize=True)
    if path.stat().st_size > LARGEST:
        image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"wrote {path}, {path.stat().st_size / 1000:.0f} KB", flush=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data-dir", help="directory of MNIST; by default scikit-learn's digits")
    add("--output", type=pathlib.Path, default=GALLERY, help="default docs/gallery")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
