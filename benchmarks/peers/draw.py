"""Binarizes images as the examples do, with TensorFlow, for a process without it.

    python -m benchmarks.peers.draw IMAGES.npz

replaces the pixels in the file; `arr_0` has the seed (seed, 1), `arr_1` (seed, 2).
"""

import sys

import numpy as np

import pixels


def main(path: str) -> None:
    """Reads the images, draws and writes."""
    with np.load(path) as archive:
        given = dict(archive)
    levels, seed = int(given.pop("levels")), int(given.pop("seed"))
    drawn = [
        pixels.observe(images, [seed, number], levels, "bernoulli").numpy()
        for number, images in enumerate(given.values(), 1)
    ]
    np.savez(path, *drawn)


if __name__ == "__main__":
    main(sys.argv[1])
