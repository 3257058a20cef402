"""The page of pictures and the script that makes them agree."""

import re

import numpy as np
import pytest
from PIL import Image

import make_gallery

PAGE = (make_gallery.ROOT / "docs" / "gallery.md").read_text()
PICTURES = sorted(make_gallery.GALLERY.glob("*.png"))


def test_the_page_shows_every_picture():
    shown = re.findall(r"!\[.+\]\(gallery/(\w+)\.png\)", PAGE)
    assert sorted(shown) == [picture.stem for picture in PICTURES]


def test_the_page_has_the_command_of_every_run():
    commands = re.findall(r"^python examples/.*$", PAGE, re.MULTILINE)
    expected = [f"{make_gallery.EXAMPLE} {run}" for run in make_gallery.RUNS.values()]
    assert sorted(commands) == sorted(expected)


def test_pictures_are_small():
    sizes = [picture.stat().st_size for picture in PICTURES]
    assert max(sizes) <= 60_000
    assert sum(sizes) <= 1_000_000
    for picture in PICTURES:
        with Image.open(picture) as image:
            assert image.width <= 800


def test_rows_have_their_labels():
    parts = {"first": np.zeros([3, 4, 4]), "second": np.ones([3, 4, 4])}
    axes = make_gallery.rows(parts, 3).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == list(parts)


@pytest.mark.slow
def test_the_regression_is_drawn():
    assert set(make_gallery.regression()) == {"predictive", "calibration"}
