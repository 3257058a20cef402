"""Published systems in PyTorch, each a peer of the example of the same name.

    pip install -e ".[bench]"
    python -m benchmarks.peers.plain_vae --data-dir PATH

A peer has the options, the figures and the data of its example, and the same binarized
test images; they share the code that reads data and writes results. Networks,
distributions, bounds and training are PyTorch. `python -m benchmarks.peers.compare`
trains both with several seeds.

PyTorch and TensorFlow may crash in one process, so a peer runs without TensorFlow.
"""

import pathlib
import sys

# The examples are scripts, not a package.
EXAMPLES = str(pathlib.Path(__file__).parents[2] / "examples")
if EXAMPLES not in sys.path:
    sys.path.insert(0, EXAMPLES)

import reproduction  # noqa: E402


def _set_seed(seed: int) -> None:
    import torch

    torch.manual_seed(seed)


PEER = reproduction.Side(
    ("-m", "benchmarks.peers.{}"),
    reproduction.PEERS,
    ("torch", "numpy", "scipy", "scikit-learn"),
    ("examples/*.py", "benchmarks/peers/*.py"),
    _set_seed,
    lambda: 0,  # It runs on the CPU.
)
