"""Several workers, as processes on this machine; `workers` has what they do."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
import workers

from tfp_vae.engine.strategies import check_strategy
from tfp_vae.engine.weights_file import read_state

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, worker_id):
    """What two workers have trained, once for all processes of the test run."""
    root = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        root = root.parent
    directory = root / "workers"
    try:
        directory.mkdir()
    except FileExistsError:
        end = time.monotonic() + 240
        while not (directory / "done").exists() and time.monotonic() < end:
            time.sleep(0.2)
    else:
        try:
            run("train", directory)
        finally:
            (directory / "done").touch()
    paths = [directory / f"train-{i}.json" for i in range(2)]
    return [json.loads(path.read_text()) for path in paths], directory


@pytest.fixture
def one_process():
    return tf.distribute.get_strategy()


def run(job, directory, count=2):
    return workers.results(job, directory, workers.spawn(job, directory, count))


def assert_same_history(found, expected):
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, err_msg=name)


def test_workers_take_the_steps_of_one_process(trained, one_process):
    """A warm-up, validation data, and a last batch of one row, none for worker 1."""
    _, history = workers.trained_vae(one_process)
    for worker in trained[0]:
        assert_same_history(worker["vae history"], history)


@pytest.mark.parametrize("seed", ["vae", "layers"], ids=["one seed", "other seeds"])
def test_workers_have_the_same_weights(trained, seed):
    first, second = trained[0]
    assert first[seed] == second[seed]


def test_every_row_is_seen_once_in_an_epoch(trained):
    """The workers have other seeds, with which Keras shuffles in other orders."""
    for worker in trained[0]:
        assert worker["seen"] == [workers.EPOCHS] * workers.ROWS


def test_every_worker_predicts_all_rows_in_their_order(trained):
    for worker in trained[0]:
        np.testing.assert_allclose(worker["predicted"], worker["expected"], atol=1e-5)


def test_the_chief_alone_saves(trained):
    found, directory = trained
    vae = keras.models.load_model(directory / "vae.keras")
    np.testing.assert_allclose(
        vae.predict(workers.X, verbose=0), found[0]["expected"], atol=1e-5
    )
    assert (directory / "best.weights.h5").exists()
    assert not (directory / "backup").exists()  # Keras' own, at the end of training


def test_several_steps_in_an_execution_are_refused(trained):
    message = r"expects one step.*Received: steps_per_execution=4\. Leave it out"
    assert all(re.search(message, worker["steps"]) for worker in trained[0])


def test_keras_still_needs_the_mends(trained):
    """If one is missing here, Keras does without: drop ours."""
    needed = {"_maybe_symbolic_build", "_make_function", "make_predict_function"}
    assert set(trained[0][0]["without mends"]) == needed


def test_distributions_of_keras_are_refused():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", loss="mse")
    parallel = keras.distribution.DataParallel(devices=["cpu:0", "cpu:1"])
    keras.distribution.set_distribution(parallel)
    try:
        with pytest.raises(
            ValueError, match=r"expects a strategy.*Received: .*DataParallel.*Call"
        ):
            check_strategy(model)
    finally:
        keras.distribution.set_distribution(None)


def test_an_optimizer_made_outside_of_the_scope_is_refused():
    reduction = tf.distribute.ReductionToOneDevice()
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], reduction)
    with strategy.scope():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", loss="mse")
    with pytest.raises(ValueError, match=r"in the scope.*Received: `SGD`.*Make"):
        check_strategy(model)


def test_the_example_trains_on_two_workers(tmp_path):
    script = ROOT / "examples" / "train_on_workers.py"
    options = ["--workers", "2", "--epochs", "1", "--batch-size", "480"]
    process = subprocess.run(
        [sys.executable, script, *options, "--output", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    # Lines of two processes may run into each other.
    sums = re.findall(r"worker (\d): checksum of the weights (.{8})", process.stdout)
    assert sorted(index for index, _ in sums) == ["0", "1"], process.stdout[-2000:]
    assert len({checksum for _, checksum in sums}) == 1
    assert re.search(r"held-out ELBO: -\d+\.\d\d nats", process.stdout)
    assert (tmp_path / "vae.keras").exists()


@pytest.mark.slow
def test_layers_on_workers_take_the_steps_of_one_process(tmp_path, one_process):
    """With metrics, and weights of rows."""
    first, second = run("layers", tmp_path)
    assert first["layers"] == second["layers"]
    keras.utils.set_random_seed(3)
    _, history = workers.trained_layers(one_process, shuffle=False)
    assert_same_history(first["history"], history)


@pytest.mark.slow
def test_three_workers_take_the_steps_of_one_process(tmp_path, one_process):
    found = run("layers", tmp_path, count=3)
    assert len({worker["layers"] for worker in found}) == 1
    keras.utils.set_random_seed(3)
    _, history = workers.trained_layers(one_process, shuffle=False)
    assert_same_history(found[2]["history"], history)


@pytest.mark.slow
def test_moving_averages_are_the_same_on_all_workers(tmp_path):
    first, second = run("normalized", tmp_path)
    assert first["moved"] != [0.0, 0.0]
    assert first["digest"] == second["digest"]
    message = r"expects arrays or a `tf.data.Dataset`.*Received: a generator.*Make"
    assert re.search(message, first["generator"])


@pytest.mark.slow
def test_a_pipeline_in_another_order_is_warned_of(tmp_path):
    _, second = run("pipelines", tmp_path)
    (message,) = second["without a seed"]
    assert "first batch on this worker differs from the chief's" in message
    assert not second["with a seed"]


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_the_other_worker_ends_and_both_resume(tmp_path, killed):
    """The checkpoint is where the chief alone sees it."""
    processes = workers.spawn("resumed", tmp_path)
    other = processes[1 - killed]
    try:
        end = time.monotonic() + 120
        paths = [tmp_path / f"epochs-{i}" for i in range(2)]
        while time.monotonic() < end and not all(
            path.exists() and int(path.read_text() or 0) > 3 for path in paths
        ):
            time.sleep(0.1)
        processes[killed].send_signal(signal.SIGKILL)
        assert other.wait(timeout=120) != 0
    finally:
        workers.stop(processes)
    log = (tmp_path / f"resumed-{1 - killed}.log").read_text()
    assert "UnavailableError" in log
    done = read_state(tmp_path / "chief" / "last.weights.h5")["epoch"]
    first, second = run("resumed", tmp_path)
    assert first["digest"] == second["digest"]
    assert first["epochs"] == second["epochs"] == [*range(done + 1)]
    assert first["steps"] == (done + 1) * 3


@pytest.mark.slow
def test_parameter_servers_are_refused(tmp_path):
    """In a process of its own, since TensorFlow does not disconnect from a server."""
    script = ROOT / "tests" / "workers.py"
    process = subprocess.run(
        [sys.executable, script, "parameter_servers", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    message = r"replicas step together. Received: a\s+`ParameterServerStrategy`.*Use"
    assert re.search(message, process.stdout), process.stderr[-2000:]
