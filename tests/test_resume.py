"""Examples that are killed and go on with `--resume` find the same figures."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

import example_data
import reproduction
import resuming

ROOT = pathlib.Path(__file__).parents[1]
# Where each example is killed: a training and its epoch from 0, or a part and None.
KILLS = {
    "aevb": (["--epochs", "2"], "Frey faces, Gaussian, 2 latents", 3),
    "conv_vae": (["--epochs", "3"], "training", 1),
    "cvae": (["--epochs", "12"], "VAE, 2 of 4 quadrants given", 2),
    "disentangled": (["--epochs", "3"], "full q", 2),
    "grey_pixels": (["--epochs", "3"], "discretised logistic", 2),
    "hyperspherical_vae": (["--epochs", "3"], "d = 2, von Mises-Fisher", 2),
    "iwae": (["--epochs", "4"], "k = 5", 2),
    "lstm_forecaster": (["--epochs", "4"], "eeg, random weights", 2),
    "m1_knn": (["--epochs", "2"], "d = 5, von Mises-Fisher", 1),
    "miwae": (["--epochs", "4"], "seed 0", 2),
    "neural_editor": (["--epochs", "3"], "with z", 1),
    "not_miwae": (["--epochs", "4"], "not-MIWAE", 2),
    "numpyro_vae": (["--epochs", "4"], "training", 2),
    "other_priors": (["--epochs", "3"], "Beta(2, 1)", 1),
    "plain_vae": (["--epochs", "5"], "training", 2),
    "ss_vae": (["--epochs", "3", "--labels", "20", "50"], "50 labels", 1),
    "uci_regression": (["--epochs", "2"], "concrete, variational, split 2", None),
    "vamp_prior": (["--epochs", "5"], "VampPrior", 2),
    "variational_decoder": (["--epochs", "9"], "100 images, random weights", None),
}
# One training with `EarlyStopping`, a warm-up in the second of two, and a pipeline.
QUICK = ("plain_vae", "vamp_prior", "iwae")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    example_data.write(directory)
    return directory


def run(system, runs):
    paths = (ROOT, ROOT / "examples")
    return subprocess.run(
        [
            sys.executable,
            str(ROOT / "tests" / "killing.py"),
            json.dumps({"system": system, "runs": runs}),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "system",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in KILLS
    ],
)
def test_a_killed_run_finds_the_figures_of_a_run_without_interruption(
    system, data, tmp_path
):
    options, *kill = KILLS[system]
    argv = ["--budget", "quick", "--data-dir", str(data), "--output", str(tmp_path)]
    argv += options
    resumed = [*argv, "--resume", str(tmp_path / "kept")]
    killed = run(system, [{"argv": resumed, "kill": kill}])
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    done = run(system, [{"argv": resumed}, {"argv": argv}])
    assert done.returncode == 0, done.stderr[-3000:]
    marked = [line for line in done.stdout.splitlines() if line.startswith("figures ")]
    found, expected = (json.loads(line.removeprefix("figures ")) for line in marked)
    assert found == expected
