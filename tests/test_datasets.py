"""The loaders of the examples: formats, splits, and what they say about bad files."""

import gzip
import os
import pathlib
import zipfile

import keras
import numpy as np
import pytest

import datasets

SHARED = pathlib.Path(__file__).parents[2] / "shared" / "data"
MNIST = {
    "train-images-idx3-ubyte.gz": (12, 28, 28),
    "train-labels-idx1-ubyte.gz": (12,),
    "t10k-images-idx3-ubyte.gz": (5, 28, 28),
    "t10k-labels-idx1-ubyte.gz": (5,),
}
BINARIZED = {
    "train": (30, 98),
    "valid": (10, 98),
    "test": (20, 98),
    "label_test": (20,),
}


@pytest.fixture(autouse=True)
def no_data_variable(monkeypatch):
    monkeypatch.delenv(datasets.VARIABLE, raising=False)


@pytest.fixture(scope="module")
def real_data():
    directory = pathlib.Path(os.environ.get(datasets.VARIABLE) or SHARED)
    if not directory.is_dir():
        pytest.skip(f"no data: {datasets.VARIABLE} is not set, and no {SHARED}")
    return directory


def numbers(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def idx(array):
    sizes = np.array(array.shape, ">u4").tobytes()
    data = bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()
    return gzip.compress(data, mtime=0)


@pytest.fixture
def mnist(tmp_path):
    (tmp_path / "mnist").mkdir()
    for name, shape in MNIST.items():
        (tmp_path / "mnist" / name).write_bytes(idx(numbers(shape)))
    return tmp_path


@pytest.fixture
def binarized(tmp_path):
    arrays = {key: numbers(shape) for key, shape in BINARIZED.items()}
    np.savez_compressed(tmp_path / "binarized_mnist.npz", **arrays)
    return tmp_path


def test_digits_need_no_files_and_are_split_by_the_seed():
    images = datasets.load("digits")
    assert images.train.shape == (1437, 8, 8, 1)
    assert images.test.shape == (360, 8, 8, 1)
    assert images.test_labels.shape == (360,)
    assert (images.train.dtype, images.train.max(), images.levels) == ("uint8", 16, 17)
    np.testing.assert_array_equal(datasets.load("digits", seed=0).test, images.test)
    assert (datasets.load("digits", seed=1).test != images.test).any()


def test_mnist_is_read_from_idx_files(mnist):
    images = datasets.load("mnist", mnist)
    train, test, labels = (
        numbers(shape) for shape in [(12, 28, 28), (5, 28, 28), (5,)]
    )
    np.testing.assert_array_equal(images.train[..., 0], train)
    np.testing.assert_array_equal(images.test[..., 0], test)
    np.testing.assert_array_equal(images.test_labels, labels)
    assert images.levels == 256


def test_the_environment_variable_names_the_directory(mnist, monkeypatch):
    monkeypatch.setenv(datasets.VARIABLE, str(mnist))
    assert datasets.load("mnist").train.shape == (12, 28, 28, 1)


def test_mnist_without_a_directory_comes_from_keras(monkeypatch):
    train, test = numbers((12, 28, 28)), numbers((5, 28, 28))
    pairs = (train, np.zeros(12)), (test, np.arange(5))
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: pairs)
    images = datasets.load("mnist")
    np.testing.assert_array_equal(images.train[..., 0], train)
    np.testing.assert_array_equal(images.test_labels, np.arange(5))


def test_a_failed_download_says_what_to_do(monkeypatch):
    def fail():
        raise Exception("URL fetch failure on https://example: None")

    monkeypatch.setattr(keras.datasets.mnist, "load_data", fail)
    message = "expects a data dir.*URL fetch failure.*four files.*--data-dir.*TFP_VAE_D"
    with pytest.raises(FileNotFoundError, match=message):
        datasets.load("mnist")


def test_binarized_mnist_is_unpacked_and_its_test_images_are_shuffled(binarized):
    images = datasets.load("binarized_mnist", binarized)
    bits = np.unpackbits(numbers((30, 98)), axis=1)
    np.testing.assert_array_equal(images.train.reshape(30, 784), bits)
    tests = np.unpackbits(numbers((20, 98)), axis=1)
    order = [
        np.flatnonzero((tests == row).all(axis=1)).item()
        for row in images.test.reshape(20, -1)
    ]
    assert sorted(order) == list(range(20)) != order
    np.testing.assert_array_equal(images.test_labels, numbers((20,))[order])
    assert images.levels == 2


@pytest.mark.parametrize(("name", "width"), [("freyfaces", 20), ("omniglot", 28)])
def test_grey_sets_are_split_at_random(tmp_path, name, width):
    array = numbers((20, 28, width))
    np.savez(tmp_path / f"{name}.npz", images=array)
    images = datasets.load(name, tmp_path, seed=3)
    assert images.train.shape == (18, 28, width, 1)
    assert images.test.shape == (2, 28, width, 1)
    both = np.concatenate([images.train, images.test])[..., 0]
    assert sorted(map(bytes, both)) == sorted(map(bytes, array))
    assert images.test_labels is None


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"one of \('digits'.*name='cifar'.*needs no"):
        datasets.load("cifar")


@pytest.mark.parametrize("name", ["binarized_mnist", "freyfaces", "omniglot"])
def test_a_set_on_disk_needs_a_directory(name):
    message = (
        f"the file {name}.npz in a data dir.*no directory.*--data-dir.*TFP_VAE_DATA"
    )
    with pytest.raises(FileNotFoundError, match=message):
        datasets.load(name)


@pytest.mark.parametrize("name", ["mnist", "omniglot"])
def test_a_missing_directory_is_named(tmp_path, name):
    with pytest.raises(
        FileNotFoundError, match=r"hold the file .*Received: no directory .*nowhere"
    ):
        datasets.load(name, tmp_path / "nowhere")


@pytest.mark.parametrize("file", [f for f in MNIST if "train-l" not in f])
def test_a_missing_file_is_named(mnist, file):
    (mnist / "mnist" / file).unlink()
    with pytest.raises(
        FileNotFoundError, match=f"{file}. Received: no such file. Check"
    ):
        datasets.load("mnist", mnist)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "Received: "),
        (b"no gzip", "a gzipped idx file. Received: Not a gzipped file"),
        (idx(numbers((12, 28, 28)))[:-100], "a gzipped idx file. Received: Compressed"),
        (idx(numbers((12, 28, 28)))[:-9] + b"123456789", "Received: "),
        (gzip.compress(b"", mtime=0), "uint8 with 3 axes. Received: magic number none"),
        (idx(numbers((12,))), "uint8 with 3 axes. Received: magic number 00000801"),
        (
            gzip.compress(gzip.decompress(idx(numbers((2, 3, 4))))[:-1], mtime=0),
            r"24 bytes .*: 23 b",
        ),
        (idx(numbers((0, 28, 28))), "Received: 0 bytes"),
    ],
)
def test_a_corrupted_idx_file_is_named(mnist, content, found):
    name = "train-images-idx3-ubyte.gz"
    (mnist / "mnist" / name).write_bytes(content)
    with pytest.raises(
        ValueError, match=f"{name} is expected to be .*{found}.*get it aga"
    ):
        datasets.load("mnist", mnist)


def test_mnist_files_that_do_not_fit_together_are_refused(mnist):
    name = "t10k-labels-idx1-ubyte.gz"
    (mnist / "mnist" / name).write_bytes(idx(numbers((4,))))
    with pytest.raises(
        ValueError, match=r"a label for each.*4 test labels. Get the four"
    ):
        datasets.load("mnist", mnist)


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        ({"train": numbers((30, 98))}, "Received: no 'test' in it"),
        ({"train": numbers((30, 784))}, r"Received: uint8 of shape \(30, 784\)"),
        ({"train": np.zeros((30, 98))}, "Received: float64 of shape"),
        ({"train": np.array([None])}, "Received: Object arrays cannot be loaded"),
        ({"train": numbers((1, 98))}, r"Received: uint8 of shape \(1, 98\)"),
        (
            {
                "train": numbers((3, 98)),
                "valid": numbers((2, 98)),
                "test": numbers((3, 98)),
                "label_test": numbers(2),
            },
            "3 images and 2 labels",
        ),
    ],
)
def test_an_npz_file_with_other_arrays_is_refused(tmp_path, arrays, found):
    np.savez(tmp_path / "binarized_mnist.npz", **arrays)
    with pytest.raises(ValueError, match=f"binarized_mnist.npz .*{found}.*et .* again"):
        datasets.load("binarized_mnist", tmp_path)


def test_a_damaged_npz_file_is_refused(binarized):
    path = binarized / "binarized_mnist.npz"
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("train.npy").header_offset + 200
    damaged = whole[:start] + bytes(50) + whole[start + 50 :]
    for content in (b"", whole[:1000], damaged):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match="npz is expected to be an npz file with 'tr"
        ):
            datasets.load("binarized_mnist", binarized)


@pytest.mark.parametrize(
    ("name", "train", "test", "levels"),
    [
        ("mnist", (60000, 28, 28, 1), (10000, 28, 28, 1), 256),
        ("binarized_mnist", (50000, 28, 28, 1), (10000, 28, 28, 1), 2),
        ("freyfaces", (1768, 28, 20, 1), (197, 28, 20, 1), 256),
        ("omniglot", (17352, 28, 28, 1), (1928, 28, 28, 1), 256),
    ],
)
def test_the_real_files_are_read(real_data, name, train, test, levels):
    images = datasets.load(name, real_data)
    assert (images.train.shape, images.test.shape) == (train, test)
    assert images.levels == levels
    assert images.train.max() < levels


def test_the_real_binarized_mnist_fits_its_labels_and_the_grey_images(real_data):
    images = datasets.load("binarized_mnist", real_data)
    grey = datasets.load("mnist", real_data)
    with np.load(real_data / "binarized_mnist.npz") as archive:
        bits = np.unpackbits(archive["train"], axis=1)
        source = grey.train[archive["source_index_train"]]
    np.testing.assert_array_equal(images.train.reshape(-1, 784), bits)
    # A bit is a draw with the grey value as probability.
    gap = images.train.mean() - source.mean() / 255
    assert abs(gap) < 5 * 0.5 / np.sqrt(images.train.size)
    assert (images.train[source == 0] == 0).all()
    # Each class has its shape: a label goes with the image next to it.
    ones = images.test[images.test_labels == 1].mean()
    zeros = images.test[images.test_labels == 0].mean()
    assert ones < 0.1 < 0.15 < zeros
    assert set(images.test_labels[:100]) == set(range(10))
