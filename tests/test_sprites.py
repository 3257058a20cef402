"""Sprites: layers over layers, the authors' split, and files of something else."""

import numpy as np
import pytest

import datasets
import sprites

SIZES, STEPS = (2, 3, 2, 2, 1), (3, 4, 5, 6)  # pairs, frames, height, width
NAMES = {"actions": ["walk", "walk", "slash"], "directions": ["left", "right", "left"]}


@pytest.fixture(autouse=True)
def no_data_variable(monkeypatch):
    monkeypatch.delenv(datasets.VARIABLE, raising=False)


@pytest.fixture
def arrays(rng):
    made = {
        name: rng.integers(0, 256, (size, *STEPS, 4), dtype=np.uint8)
        for name, size in zip(sprites.LAYERS, SIZES, strict=True)
    }
    for layer in made.values():  # As in the real ones, most of it.
        layer[..., 3][rng.random(layer.shape[:-1]) < 0.6] = 0
        layer[..., 3][rng.random(layer.shape[:-1]) < 0.3] = 255
    characters = np.argwhere(np.ones(SIZES[:4]))[rng.permutation(24)]
    made["characters"] = characters.astype("uint8")
    return {**made, "n_train": np.int64(18), **NAMES}


def loaded(arrays, directory):
    np.savez(directory / sprites.FILE, **arrays)
    return sprites.load(directory)


def pixel(arrays, labels, place):
    """One pixel, layer by layer, in Python's integers."""
    colour = [0, 0, 0]
    for name, variant in zip(sprites.LAYERS, [*labels[:4], 0], strict=True):
        *source, alpha = arrays[name][(variant, labels[4], *place)].tolist()
        colour = [
            (s * alpha + c * (255 - alpha) + 127) // 255
            for s, c in zip(source, colour, strict=True)
        ]
    return colour


def test_sequences_are_composed_layer_by_layer(arrays, tmp_path):
    data = loaded(arrays, tmp_path)
    labels = data.train[[0, 4, 17, 53]]
    found = data.compose(labels)
    assert (found.dtype, found.shape) == ("float32", (4, *data.shape))
    expected = np.zeros(found.shape)
    for i, row in enumerate(labels):
        for place in np.ndindex(*STEPS[1:]):
            expected[(i, *place)] = pixel(arrays, row, place)
    np.testing.assert_array_equal(found * 256, expected)


def test_the_first_characters_are_for_training_each_with_all_pairs(arrays, tmp_path):
    data = loaded(arrays, tmp_path)
    assert data.pairs == ("walk left", "walk right", "slash left")
    assert (data.train.shape, data.test.shape) == ((54, 5), (18, 5))
    characters = arrays["characters"]
    np.testing.assert_array_equal(data.train[::3, :4], characters[:18])
    np.testing.assert_array_equal(data.test[2::3, :4], characters[18:])
    np.testing.assert_array_equal(data.test[:6, 4], [0, 1, 2, 0, 1, 2])
    seen = {tuple(row) for row in data.train[:, :4]}
    assert not seen & {tuple(row) for row in data.test[:, :4]}
    sizes = dict(zip((*sprites.ATTRIBUTES, "action"), (2, 3, 2, 2, 3), strict=True))
    assert data.classes == sizes


def test_few_takes_whole_characters(arrays, tmp_path):
    data = loaded(arrays, tmp_path)
    few = data.few(4, 2)
    np.testing.assert_array_equal(few.train, data.train[:12])
    np.testing.assert_array_equal(few.test, data.test[:6])


def test_batches_have_the_frames_of_their_labels(arrays, tmp_path):
    data = loaded(arrays, tmp_path)
    batches = data.batches(data.test, 4)
    assert batches.element_spec[0].shape == (None, *data.shape)
    assert len(batches) == 5
    found = [labels for _, labels in batches]
    np.testing.assert_array_equal(np.concatenate(found), data.test)
    shuffled = data.batches(data.test, 18, seed=0)
    orders = [batch[1].numpy() for _ in range(2) for batch in shuffled]
    for frames, labels in shuffled:
        np.testing.assert_array_equal(frames, data.compose(labels.numpy()))
        assert sorted(labels.numpy().tolist()) == sorted(data.test.tolist())
    assert (orders[0] != orders[1]).any()


def test_the_environment_variable_names_the_directory(arrays, tmp_path, monkeypatch):
    expected = loaded(arrays, tmp_path)
    monkeypatch.setenv(datasets.VARIABLE, str(tmp_path))
    np.testing.assert_array_equal(sprites.load().train, expected.train)


def test_missing_sprites_are_explained(tmp_path):
    for directory in (None, tmp_path):
        with pytest.raises(FileNotFoundError, match="LPC sheets.*--data-dir"):
            sprites.load(directory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hair": np.zeros((2, *STEPS, 3), "uint8")}, "hair of uint8"),
        ({"hair": np.zeros((2, *STEPS, 4), "float32")}, "hair of float32"),
        ({"topwear": np.zeros((2, 3, 4, 5, 7, 4), "uint8")}, "topwear.*5, 7, 4"),
        ({"shoes": np.zeros((3, 4), "uint8")}, "shoes"),
        ({"actions": ["walk"]}, "actions"),
        ({"characters": np.full((24, 4), 2, "uint8")}, "below.*at most"),
        ({"characters": np.zeros((24, 3), "uint8")}, "4 variants"),
        ({"n_train": 24}, "24 for training"),
    ],
)
def test_a_file_of_something_else_is_an_error(changes, message, arrays, tmp_path):
    with pytest.raises(ValueError, match=message):
        loaded({**arrays, **changes}, tmp_path)


def test_a_file_that_lacks_something_is_an_error(arrays, tmp_path):
    del arrays["n_train"]
    with pytest.raises(ValueError, match="n_train"):
        loaded(arrays, tmp_path)
    (tmp_path / sprites.FILE).write_bytes(b"no archive")
    with pytest.raises(ValueError, match="damaged"):
        sprites.load(tmp_path)
