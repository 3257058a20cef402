"""Small data for the examples, in the formats of the real files."""

import gzip

import numpy as np
from sklearn.datasets import load_digits

import sentences
import sprites
import uci_regression


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


def regression():
    """Rows of a linear regression with noise, and two splits, in the form of UCI's."""
    rng = np.random.default_rng(0)
    x = 3 + 2 * rng.normal(size=(200, 4))
    y = 50 + 10 * (x @ [1.0, -1.0, 2.0, 0.0] + 0.3 * rng.normal(size=200))
    test = np.stack([rng.permutation(200) < 20 for _ in range(2)])
    # Eleven columns that depend on two numbers, as in the table of wines.
    table = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 11))
    table += 0.3 * rng.normal(size=table.shape)
    return {
        "concrete_x": x,
        "concrete_y": y,
        "concrete_test": test,
        "wine_x": table,
    }


def write(directory):
    """scikit-learn's digits, made-up sentences, sprites and tables."""
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
    np.savez(directory / uci_regression.FILE, **regression())
