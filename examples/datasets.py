"""Images for the examples: the digits of scikit-learn, and files on disk."""

import dataclasses
import gzip
import math
import os
import pathlib
import zipfile
import zlib

import numpy as np

NAMES = ("digits", "mnist", "binarized_mnist", "freyfaces", "omniglot")
VARIABLE = "TFP_VAE_DATA"
Path = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class Images:
    """A training set and a test set of images.

    Args:
        name: Name of the data set.
        train: Images of shape `(n, height, width, 1)`, uint8 in `[0, levels)`.
        test: Images of the same kind, not used in training.
        levels: Number of grey levels: 2 for black and white.
        test_labels: Class of each test image, where the set has classes.
        train_labels: Class of each training image, likewise.
        valid: Images for validation, where the set has its own.
    """

    name: str
    train: np.ndarray
    test: np.ndarray
    levels: int
    test_labels: np.ndarray | None = None
    train_labels: np.ndarray | None = None
    valid: np.ndarray | None = None

    def classes(self) -> tuple[np.ndarray, np.ndarray]:
        """The classes of the training and of the test images.

        Raises:
            ValueError: If the set has none.
        """
        if self.train_labels is None or self.test_labels is None:
            raise ValueError(
                f"The classes of {self.name} were expected. Received: images without "
                "any. Use MNIST."
            )
        return self.train_labels, self.test_labels


def load(name: str, data_dir: Path | None = None, seed: int = 0) -> Images:
    """Loads a data set by name.

    Args:
        name: One of `NAMES`.
        data_dir: Directory with the files; by default the environment variable
            `TFP_VAE_DATA`. `"digits"` needs none. Without one, `"mnist"` is downloaded.
        seed: Seed of the split into training and test images, where the set has no
            official one, and of the order of the test images where they are sorted.

    Returns:
        The images.

    Raises:
        ValueError: If the name is unknown or a file is not what it should be.
        FileNotFoundError: If a file is missing or cannot be downloaded.

    Example:
        >>> images = load("digits")
        >>> images.train.shape, images.test.shape, images.levels
        ((1437, 8, 8, 1), (360, 8, 8, 1), 17)
    """
    rng = np.random.default_rng(seed)
    directory = data_dir or os.environ.get(VARIABLE)
    if name == "digits":
        return _digits(rng)
    if name == "mnist":
        return _mnist(pathlib.Path(directory) / "mnist") if directory else _download()
    if name not in NAMES:
        raise ValueError(
            f"`load` expects the name of a data set, one of {NAMES}. Received: "
            f"name={name!r}. `digits` needs no files."
        )
    if not directory:
        raise FileNotFoundError(
            f"The data set {name!r} expects the file {name}.npz in a data directory. "
            f"Received: no directory, and {VARIABLE} is not set. Pass --data-dir PATH, "
            f"or set {VARIABLE}."
        )
    path = pathlib.Path(directory) / f"{name}.npz"
    return (
        _binarized_mnist(path, rng) if name == "binarized_mnist" else _grey(path, rng)
    )


def find(name: str, data_dir: Path | None, what: str, how: str) -> pathlib.Path:
    """Looks for a file in a data directory.

    Args:
        name: Name of the file.
        data_dir: The directory, by default the environment variable `TFP_VAE_DATA`.
        what: What the file contains, for the error message.
        how: How to get the file, for the error message.

    Returns:
        Its path.

    Raises:
        FileNotFoundError: If there is no such file, or no directory was given.
    """
    directory = data_dir or os.environ.get(VARIABLE)
    path = pathlib.Path(directory or "", name)
    if directory is None or not path.is_file():
        raise FileNotFoundError(
            f"The {what} are expected in the file {name} of a data directory. "
            f"Received: {path if directory else 'no directory'}. {how} Then pass "
            f"--data-dir PATH or set {VARIABLE}."
        )
    return path


def few(images: Images, train: int, test: int) -> Images:
    """The first images of a set.

    Args:
        images: The set.
        train: How many of the training images.
        test: How many of the test images, and of those for validation.

    Returns:
        A smaller set.

    Example:
        >>> len(few(load("digits"), 100, 50).train)
        100
    """

    def first(array: np.ndarray | None, count: int) -> np.ndarray | None:
        return None if array is None else array[:count]

    return dataclasses.replace(
        images,
        train=images.train[:train],
        test=images.test[:test],
        test_labels=first(images.test_labels, test),
        train_labels=first(images.train_labels, train),
        valid=first(images.valid, test),
    )


def _digits(rng: np.random.Generator) -> Images:
    # Here, so that the files can be read without scikit-learn.
    from sklearn.datasets import load_digits

    data = load_digits()
    train, test = _split(len(data.images), 0.2, rng)
    images = data.images.astype(np.uint8)[..., None]
    labels = data.target[test], data.target[train]
    return Images("digits", images[train], images[test], 17, *labels)


def _mnist(directory: pathlib.Path) -> Images:
    train = _idx(directory / "train-images-idx3-ubyte.gz", ndim=3)
    test = _idx(directory / "t10k-images-idx3-ubyte.gz", ndim=3)
    labels = _idx(directory / "t10k-labels-idx1-ubyte.gz", ndim=1)
    of_train = _idx(directory / "train-labels-idx1-ubyte.gz", ndim=1)
    counts = (len(labels), len(of_train)) == (len(test), len(train))
    if not counts or train.shape[1:] != test.shape[1:]:
        raise ValueError(
            f"MNIST expects images of one size in {directory}, with a label for each. "
            f"Received: training images of shape {train.shape}, test images of shape "
            f"{test.shape}, {len(of_train)} training labels, {len(labels)} test "
            "labels. Get the four files from one source."
        )
    return Images("mnist", train[..., None], test[..., None], 256, labels, of_train)


def _download() -> Images:
    # Here, so that the files can be read without Keras.
    import keras

    try:
        (train, of_train), (test, labels) = keras.datasets.mnist.load_data()
    except Exception as error:  # Keras raises a plain one without a network
        raise FileNotFoundError(
            "The data set 'mnist' expects a data directory, or a network over which "
            "`keras.datasets.mnist` can fetch it. Received: no directory, and "
            f"{error}. Put the four files train-images-idx3-ubyte.gz, "
            "train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and "
            "t10k-labels-idx1-ubyte.gz into "
            f"PATH/mnist, then pass --data-dir PATH or set {VARIABLE}=PATH."
        ) from None
    return Images("mnist", train[..., None], test[..., None], 256, labels, of_train)


def _binarized_mnist(path: pathlib.Path, rng: np.random.Generator) -> Images:
    train = _npz(path, "train", (98,))
    test = _npz(path, "test", (98,))
    valid = _npz(path, "valid", (98,))
    labels = _npz(path, "label_test", ())
    if len(labels) != len(test):
        raise ValueError(
            f"{path} expects a label for each test image. Received: {len(test)} images "
            f"and {len(labels)} labels. Get the file again."
        )
    order = rng.permutation(len(test))  # they are sorted by class
    return Images(
        "binarized_mnist",
        _unpack(train),
        _unpack(test[order]),
        2,
        labels[order],
        valid=_unpack(valid),
    )


def _grey(path: pathlib.Path, rng: np.random.Generator) -> Images:
    images = _npz(path, "images", (28, 20 if path.stem == "freyfaces" else 28))
    train, test = _split(len(images), 0.1, rng)
    return Images(path.stem, images[train, ..., None], images[test, ..., None], 256)


def _split(
    size: int, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Shuffles the rows; a fraction of them, rounded up, is for the test."""
    order = rng.permutation(size)
    num_test = math.ceil(share * size)
    return order[num_test:], order[:num_test]


def _unpack(bits: np.ndarray) -> np.ndarray:
    pixels = np.unpackbits(np.ascontiguousarray(bits), axis=1)
    return pixels.reshape(-1, 28, 28, 1)


def _idx(path: pathlib.Path, ndim: int) -> np.ndarray:
    """Reads a gzipped idx file of uint8: magic number, big-endian sizes, bytes."""
    _check_exists(path)
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise corrupted(path, "a gzipped idx file", str(error)) from error
    start = 4 + 4 * ndim
    if len(data) < start or data[:4] != bytes([0, 0, 8, ndim]):
        expected = f"an idx file of uint8 with {ndim} axes"
        raise corrupted(path, expected, f"magic number {data[:4].hex() or 'none'}")
    shape = tuple(np.frombuffer(data, ">u4", ndim, offset=4).tolist())
    if len(data) - start != math.prod(shape) or 0 in shape:
        expected = f"{math.prod(shape)} bytes for the shape {shape} in its header"
        raise corrupted(path, expected, f"{len(data) - start} bytes")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _npz(path: pathlib.Path, key: str, row: tuple[int, ...]) -> np.ndarray:
    """Reads one uint8 array, whose rows have a known shape, of an npz file."""
    _check_exists(path)
    expected = f"an npz file with {key!r}, uint8 of shape {('n', *row)}"
    if not zipfile.is_zipfile(path):
        raise corrupted(path, expected, "no zip archive, or a truncated one")
    try:
        with np.load(path) as archive:
            array = archive[key]
    except KeyError as error:
        raise corrupted(path, expected, f"no {key!r} in it") from error
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise corrupted(path, expected, str(error)) from error
    if array.dtype != np.uint8 or array.shape[1:] != row or len(array) < 2:
        found = f"{array.dtype} of shape {array.shape}"
        raise corrupted(path, expected, found)
    return array


def _check_exists(path: pathlib.Path) -> None:
    if not path.is_file():
        found = (
            "no such file" if path.parent.is_dir() else f"no directory {path.parent}"
        )
        raise FileNotFoundError(
            f"The data directory is expected to hold the file {path}. Received: "
            f"{found}. Check --data-dir or {VARIABLE}."
        )


def corrupted(path: pathlib.Path, expected: str, found: object) -> ValueError:
    """The error for a file that is not what it should be."""
    return ValueError(
        f"{path} is expected to be {expected}. Received: {found}. The file is damaged "
        "or another one: get it again."
    )
