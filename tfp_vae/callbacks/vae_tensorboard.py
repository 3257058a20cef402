"""Writes images, KL and latents of a VAE in training for TensorBoard."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_vae.callbacks.watching import check_vae, checked_examples, undisturbed
from tfp_vae.checks import file_path, integer
from tfp_vae.draws import draw
from tfp_vae.engine import data
from tfp_vae.kl.closed_forms import as_independent
from tfp_vae.kl.divergence import kl_divergence
from tfp_vae.latents import on_the_sphere
from tfp_vae.models.inference import traversal_values
from tfp_vae.plots.vae import (
    image_grid,
    is_image,
    latent_centers,
    observed,
    reconstruction_grid,
    unit_images,
)

_NATS = "nats per example"
_IN_NATS = ("loss", "elbo", "nll", "kl")
_COLUMNS = 8
_MOST_DIMENSIONS = 32
# The side of the largest sprite that TensorBoard reads, in pixels.
_SPRITE = 8192
# Its projector shows no points of fewer coordinates, and skips labels without a text.
_FEWEST_COORDINATES = 3
_NO_LABEL = "(empty)"


class VAETensorBoard(keras.callbacks.Callback):
    """Writes a VAE's losses, images, KL per dimension and latents for TensorBoard.

    Give it to `fit`::

        vae.fit(x, epochs=50, callbacks=[tv.VAETensorBoard("logs", x_test[:500])])

    `tensorboard --logdir logs` shows them. Scalars and Time Series: the logs of
    `fit`, and `kl_per_dimension/i` in nats. Images: `reconstructions` (rows of x above
    rows of their reconstructions), `samples` (from the same z at each epoch) and
    `traversals` (from x[0], a row for each latent coordinate). Histograms:
    `kl_per_dimension`. Projector: the latest centers of q(z | x), with labels and
    pictures. Beside the name of a tag TensorBoard shows its description: its unit, or
    what the rows of an image are.

    Images are left out if the decoder makes none, the KL per dimension if a
    distribution does not factorise, traversals if latents are not vectors. Scalars and
    traversals show at most the first 32 coordinates. The callback does not change
    training.

    Args:
        log_dir: Directory to write to.
        x: Inputs of shape `(n, ...)`; a few hundred make a good projection.
        y: Conditions, if the model is conditional.
        labels: Label of each example for the projector: numbers or strings.
        every: Number of epochs between two writes of images, KL and latents. The logs
            of `fit` are written after each epoch.
        num_images: Number of x that are reconstructed, and of samples.

    Raises:
        ValueError: If x is not arrays, there is not one label for each example,
            another argument is invalid, or the model is not a `tv.VAE`.
        ImportError: If tensorboard is not installed.

    Example:
        >>> import tempfile
        >>> logs = tempfile.mkdtemp()
        >>> VAETensorBoard(logs, np.zeros([300, 8, 8]), every=5).num_images
        16
    """

    def __init__(
        self,
        log_dir: Any,
        x: Any,
        y: Any = None,
        labels: Any = None,
        every: int = 1,
        num_images: int = 16,
    ) -> None:
        super().__init__()
        _projector()
        count = checked_examples(x, "VAETensorBoard", y=y)
        self.log_dir = file_path(log_dir, "log_dir", "VAETensorBoard")
        self.x, self.y = x, y
        self.labels = labels
        if labels is not None and np.shape(labels) != (count,):
            raise ValueError(
                f"`VAETensorBoard` expects labels of shape ({count},), one for each "
                f"example. Received: labels of shape {np.shape(labels)}. Give the "
                "class of each, such as `np.argmax(one_hot, axis=1)`."
            )
        self.every = integer(every, "every", "VAETensorBoard")
        self.num_images = integer(num_images, "num_images", "VAETensorBoard")
        self._writer: Any = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Opens the event file."""
        check_vae(self.model, "VAETensorBoard")
        self._writer = tf.summary.create_file_writer(self.log_dir)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Closes the event file."""
        self._writer.close()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the logs, and after every `every` epochs the rest."""
        with self._writer.as_default(step=epoch):
            for name, value in (logs or {}).items():
                unit = _NATS if name.removeprefix("val_") in _IN_NATS else None
                tf.summary.scalar(name, value, description=unit)
            if (epoch + 1) % self.every == 0:
                with undisturbed(self.model):
                    self._write_images()
                    self._write_kl()
                    self._write_projection()
        self._writer.flush()

    def _write_images(self) -> None:
        vae, few = self.model, slice(self.num_images)
        x, y = data.mapped(lambda array: array[few], (self.x, self.y))
        reconstructions = vae.reconstruct(x, y)
        images = observed(vae, x)
        if not is_image(reconstructions.shape[1:]) or not is_image(images.shape[1:]):
            return
        pairs = reconstruction_grid(images, reconstructions, min(_COLUMNS, len(images)))
        _show("reconstructions", pairs, "Below each row of x: its reconstructions")
        count = self.num_images if y is None else len(images)
        samples = vae.generate(count, y=y, seed=0)
        _show("samples", image_grid(samples), "Means of p(x|z), z from the prior")
        x, y = data.mapped(lambda array: array[:1], (x, y))
        q = vae.encode(x, y)
        if q.event_shape.rank == 1:
            shown = range(min(q.event_shape[0], _MOST_DIMENSIONS))
            values = traversal_values(on_the_sphere(q))
            moved = vae.traverse(x, dimensions=shown, values=values, y=y)[0]
            rows, columns = moved.shape[:2]
            grid = image_grid(moved.reshape(rows * columns, *moved.shape[2:]), columns)
            between = f"from {values[0]:g} to {values[-1]:g}"
            _show("traversals", grid, f"From x[0]; the i-th row has z[i] {between}")

    def _write_kl(self) -> None:
        y = self.model.conditions_of(self.x, self.y, "VAETensorBoard")
        q = self.model.encode(self.x, y)
        prior = self.model.prior_distribution(y)
        if as_independent(q) is None or as_independent(prior) is None:
            return
        # A fixed seed: without a closed form, each epoch uses the same noise.
        kl = kl_divergence(
            q, prior, test_points=lambda: draw(q, seed=(0, 1)), per_dimension=True
        )
        kl = np.ravel(np.mean(kl, axis=0))
        tf.summary.histogram(
            "kl_per_dimension", kl, description=f"{_NATS}, of each coordinate of z"
        )
        for i, nats in enumerate(kl[:_MOST_DIMENSIONS]):
            name = f"kl_per_dimension/{i}"
            tf.summary.scalar(name, nats, description=f"{_NATS}, of z[{i}]")

    def _write_projection(self) -> None:
        """The files that TensorBoard's projector reads."""
        module = _projector()
        config = module.ProjectorConfig()
        embedding = config.embeddings.add()
        embedding.tensor_name = "latents"
        embedding.tensor_path = "embeddings.tsv"
        z = latent_centers(self.model, self.x, self.y)
        rows = z.reshape(len(z), -1)
        missing = max(0, _FEWEST_COORDINATES - rows.shape[1])
        rows = np.pad(rows, ((0, 0), (0, missing)))
        self._write(
            "embeddings.tsv", ("\t".join(f"{v:.6g}" for v in row) for row in rows)
        )
        if self.labels is not None:
            embedding.metadata_path = "metadata.tsv"
            lines = (" ".join(str(v).split()) for v in np.asarray(self.labels))
            self._write("metadata.tsv", (line or _NO_LABEL for line in lines))
        images = observed(self.model, self.x)
        if is_image(images.shape[1:]):
            pixels, size = _sprite(unit_images(images))
            embedding.sprite.image_path = "sprite.png"
            embedding.sprite.single_image_dim.extend(size)
            png = tf.io.encode_png(tf.image.convert_image_dtype(pixels, tf.uint8))
            tf.io.write_file(f"{self.log_dir}/sprite.png", png)
        module.visualize_embeddings(self.log_dir, config)

    def _write(self, name: str, lines: Any) -> None:
        text = "".join(f"{line}\n" for line in lines)
        tf.io.write_file(f"{self.log_dir}/{name}", text)


def _show(name: str, grid: np.ndarray, description: str) -> None:
    """Writes an image."""
    tf.summary.image(name, grid[None], description=description)


def _projector() -> Any:
    # Imported here, since only this callback needs it.
    try:
        from tensorboard.plugins import projector
    except ImportError as error:
        raise ImportError(
            f"`VAETensorBoard` expects tensorboard. Received: {error}. Install it: "
            '`pip install "tfp-vae[examples]"`.'
        ) from error
    return projector


def _sprite(images: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """A square of thumbnails, and the width and height of one."""
    side = math.ceil(math.sqrt(len(images)))
    step = math.ceil(side * max(images.shape[1:3]) / _SPRITE)
    images = _squares(images[:, ::step, ::step])
    count, size, _, colours = images.shape
    blank = np.zeros((side**2 - count, size, size, colours), images.dtype)
    rows = np.concatenate([images, blank]).reshape(side, side, size, size, colours)
    square = rows.swapaxes(1, 2).reshape(side * size, side * size, colours)
    return square, (size, size)


def _squares(images: np.ndarray) -> np.ndarray:
    """Images with white margins, since the projector stretches each to a square."""
    missing = [max(images.shape[1:3]) - length for length in images.shape[1:3]]
    margins = [(length // 2, length - length // 2) for length in missing]
    return np.pad(images, ((0, 0), *margins, (0, 0)), constant_values=1)
