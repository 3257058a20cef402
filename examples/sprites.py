"""Sprites: characters that walk, cast spells and slash, drawn in layers.

The labels of a sequence are the variants of body, bottomwear, topwear and hair, and the
number of the (action, direction) pair. They determine its frames, so only the
layers are stored, and sequences are composed when a batch is made.
"""

import dataclasses
import pathlib
import zipfile
import zlib
from typing import Any

import numpy as np

import datasets
from datasets import corrupted

FILE = "sprites_layers.npz"
ATTRIBUTES = ("body", "bottomwear", "topwear", "hair")
LAYERS = (*ATTRIBUTES, "shoes")
LEVELS = 256


@dataclasses.dataclass(frozen=True)
class Sprites:
    """Layers, and the sequences of the training and of the test characters.

    Args:
        layers: For each of `LAYERS` an array of uint8 with axes variant, pair, frame,
            height, width and RGBA.
        train: Labels of the training sequences, shape `(n, 5)`: the variant of each of
            `ATTRIBUTES`, and the pair. A character has one sequence for each pair.
        test: Labels of the test sequences, of other characters.
        pairs: Name of each pair.
    """

    layers: tuple[np.ndarray, ...]
    train: np.ndarray
    test: np.ndarray
    pairs: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sequence: frames, height, width, colours."""
        return (*self.layers[0].shape[2:-1], 3)

    @property
    def classes(self) -> dict[str, int]:
        """How many values each label has."""
        sizes = (len(layer) for layer in self.layers)
        return {**dict(zip(ATTRIBUTES, sizes, strict=False)), "action": len(self.pairs)}

    def few(self, train: int, test: int) -> "Sprites":
        """The sequences of some of the characters, and all layers.

        Args:
            train: How many of the training characters.
            test: How many of the test characters.

        Returns:
            A smaller set.
        """
        count = len(self.pairs)
        return dataclasses.replace(
            self, train=self.train[: count * train], test=self.test[: count * test]
        )

    def compose(self, labels: np.ndarray) -> np.ndarray:
        """Composes frames from the layers, on black.

        Args:
            labels: Labels of n sequences, shape `(n, 5)`.

        Returns:
            Frames in [0, 1), of shape `(n, *shape)`.
        """
        frames = np.zeros((len(labels), *self.shape), "uint8")
        pixels = frames.reshape(-1, 3)
        for i, layer in enumerate(self.layers):
            variant = labels[:, i] if i < len(ATTRIBUTES) else 0
            drawn = layer[variant, labels[:, -1]].reshape(-1, 4)
            seen = np.flatnonzero(drawn[:, 3])  # Most of a layer is transparent.
            over = drawn[seen].astype("uint16")  # Holds 255 * 255 + 127.
            alpha = over[:, 3:]
            mixed = over[:, :3] * alpha + pixels[seen] * (255 - alpha)
            pixels[seen] = (mixed + 127) // 255
        return frames.astype("float32") / LEVELS

    def batches(self, labels: np.ndarray, size: int, seed: int | None = None) -> Any:
        """Batches of frames and their labels, composed in the background.

        Args:
            labels: Labels of the sequences, such as `train`.
            size: Length of a batch.
            seed: Seed of the order; `None` keeps the given order.

        Returns:
            A dataset of pairs.
        """
        # Here, so that the files can be read without TensorFlow.
        import tensorflow as tf

        def make(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            frames = tf.numpy_function(self.compose, [rows], tf.float32)
            return tf.ensure_shape(frames, (None, *self.shape)), rows

        data = tf.data.Dataset.from_tensor_slices(labels.astype("int32"))
        if seed is not None:
            data = data.shuffle(len(labels), seed=seed)
        return data.batch(size).map(make, num_parallel_calls=2).prefetch(2)


def load(data_dir: datasets.Path | None = None) -> Sprites:
    """Reads the layers, the characters and the authors' split of them.

    Args:
        data_dir: Directory of the file, by default the environment variable
            `TFP_VAE_DATA`.

    Returns:
        The sprites.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is not what it should be.
    """
    path = datasets.find(
        FILE,
        data_dir,
        "sprites",
        "Cut the layers out of the LPC sheets as github.com/YingzhenLi/Sprites does "
        f"(GPL-3.0 and CC BY-SA 3.0): uint8 arrays {', '.join(LAYERS)} of shape "
        "(variants, pairs, frames, height, width, 4), `characters` (n, 4), `n_train`, "
        "`actions` and `directions` of the pairs.",
    )
    keys = (*LAYERS, "characters", "n_train", "actions", "directions")
    try:
        with np.load(path) as archive:
            arrays = {key: archive[key] for key in keys}
    except KeyError as error:
        raise corrupted(path, f"an npz file with {', '.join(keys)}", error) from error
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise corrupted(path, "an npz file", error) from error
    _check(path, arrays)
    layers = tuple(arrays[key] for key in LAYERS)
    characters, count = arrays["characters"], int(arrays["n_train"])
    named = zip(arrays["actions"], arrays["directions"], strict=True)
    pairs = tuple(f"{action} {direction}" for action, direction in named)
    labels = np.column_stack(
        [
            np.repeat(characters, len(pairs), axis=0),
            np.tile(np.arange(len(pairs)), len(characters)),
        ]
    )
    split = count * len(pairs)
    return Sprites(layers, labels[:split], labels[split:], pairs)


def _check(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    body, pairs = arrays["body"].shape, arrays["actions"].shape
    if len(pairs) != 1 or arrays["directions"].shape != pairs:
        found = f"{pairs} and {arrays['directions'].shape}"
        raise corrupted(path, "one of actions and directions for each pair", found)
    for name in LAYERS:
        layer = arrays[name]
        fits = layer.ndim == 6 and layer.shape[1:] == body[1:] and layer.size
        if layer.dtype != np.uint8 or not fits or layer.shape[1::4] != (*pairs, 4):
            shape = f"(variants, {pairs[0]}, frames, height, width, 4)"
            found = f"{name} of {layer.dtype}, {layer.shape}, and body of {body}"
            raise corrupted(path, f"layers of uint8 and shape {shape}", found)
    characters, count = arrays["characters"], int(arrays["n_train"])
    sizes = [len(arrays[name]) for name in ATTRIBUTES]
    rows = characters.shape
    if rows[1:] != (len(sizes),) or (characters >= sizes).any():
        expected = f"characters of {len(sizes)} variants below {sizes}"
        raise corrupted(path, expected, f"{rows}, at most {characters.max()}")
    if not 0 < count < len(characters):
        expected = "characters for training and for the test"
        raise corrupted(path, expected, f"{count} for training of {len(characters)}")
