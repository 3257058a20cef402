"""What processes of `test_workers.py` do, alone or as workers on this machine.

    python tests/workers.py JOB DIRECTORY

writes what the function JOB returns to DIRECTORY/JOB-INDEX.json.
"""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
import warnings
import zlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import models
import numpy as np
import tensorflow as tf

import tfp_vae as tv
from tfp_vae.engine.weights_file import read_state
from tfp_vae.engine.workers import MultiWorkerTrainer

ROOT = pathlib.Path(__file__).parents[1]
ROWS, BATCH, EPOCHS = 33, 16, 2  # The last batch is one row: one worker has none.
X = models.digits(ROWS)


class Layers(tv.Model):
    """The layers' way, without draws; counts how often it is trained on each row."""

    def __init__(self):
        super().__init__()
        self.encoder = models.encoder(conversion="mean")
        self.decoder = models.decoder()
        self.seen = keras.Variable(
            np.zeros(ROWS, "float32"),
            trainable=False,
            aggregation="sum",
            synchronization="on_read",
        )

    def call(self, inputs):
        return self.decoder(self.encoder(inputs["image"]))

    def train_step(self, data):
        rows = keras.utils.unpack_x_y_sample_weight(data)[0]["row"]
        self.seen.assign_add(tf.reduce_sum(tf.one_hot(rows, ROWS), axis=0))
        return super().train_step(data)


class Normalized(tv.Model):
    """A model without distributions, with moving averages."""

    def __init__(self):
        super().__init__()
        self.normalization = keras.layers.BatchNormalization()
        self.dense = keras.layers.Dense(1)

    def call(self, x, training=False):
        return self.dense(self.normalization(x, training=training))


def main(job, directory):
    directory = pathlib.Path(directory)
    if job == "parameter_servers":
        parameter_servers()
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    path = directory / f"{job}-{strategy.cluster_resolver.task_id}.json"
    path.write_text(json.dumps(globals()[job](strategy, directory)))


def free_hosts(count):
    """Addresses on this machine that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]


def spawn(job, directory, workers=2):
    """Starts workers on this machine; returns the processes."""
    hosts, processes = free_hosts(workers), []
    for i in range(workers):
        task = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": i}}
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        with (directory / f"{job}-{i}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, __file__, job, str(directory)],
                env={**os.environ, "PYTHONPATH": path, "TF_CONFIG": json.dumps(task)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        processes.append(process)
    return processes


def results(job, directory, processes, seconds=170):
    """Waits for workers, and returns what they wrote."""
    end = time.monotonic() + seconds
    try:
        for i, process in enumerate(processes):
            code = process.wait(max(0.0, end - time.monotonic()))
            assert code == 0, (directory / f"{job}-{i}.log").read_text()[-3000:]
    finally:
        stop(processes)
    paths = [directory / f"{job}-{i}.json" for i in range(len(processes))]
    return [json.loads(path.read_text()) for path in paths]


def stop(processes):
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


def digest(model):
    """A number for the bytes of the weights and of the optimizer's variables."""
    variables = [*model.weights, *model.optimizer.variables]
    return zlib.crc32(b"".join(variable.numpy().tobytes() for variable in variables))


def small_vae(strategy, **options):
    """A VAE whose draws do not matter: z is the encoder's mean, to seven digits."""
    with strategy.scope():
        encoder = keras.Sequential(
            [
                keras.Input(models.PIXELS),
                keras.layers.Flatten(),
                keras.layers.Dense(models.LATENT),
                tv.IndependentNormal(models.LATENT, scale=1e-6),
            ]
        )
        vae = tv.VAE(encoder, models.decoder(), tv.StandardNormal(models.LATENT))
        vae.compile(keras.optimizers.SGD(0.01), jit_compile=False, **options)
    return vae


def trained_vae(strategy, directory=None):
    keras.utils.set_random_seed(3)
    vae = small_vae(strategy, steps_per_execution=1)
    callbacks = [tv.KLWarmup(epochs=EPOCHS)]
    if directory is not None:
        backup = keras.callbacks.BackupAndRestore(directory / "backup")
        best = directory / "best.weights.h5"
        best = keras.callbacks.ModelCheckpoint(best, save_weights_only=True)
        callbacks += [backup, best]
    history = vae.fit(
        X,
        batch_size=BATCH,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        validation_data=(X[:9],),
        callbacks=callbacks,
    )
    return vae, history.history


def rows_of(x):
    return {"image": x, "row": np.arange(len(x))}


def layers_model(strategy):
    with strategy.scope():
        model = Layers()
        model.decoder(model.encoder(X[:1]))
        model.compile(
            keras.optimizers.SGD(0.01),
            loss=tv.NegativeLogLikelihood(),
            metrics=["mae"],
            weighted_metrics=[tv.LogLikelihood()],
        )
    return model


def trained_layers(strategy, shuffle):
    model = layers_model(strategy)
    weights = np.linspace(0.5, 1.5, ROWS, dtype="float32")
    history = model.fit(
        rows_of(X),
        X,
        batch_size=BATCH,
        epochs=EPOCHS,
        shuffle=shuffle,
        verbose=0,
        sample_weight=weights,
        validation_data=(rows_of(X[:9]), X[:9]),
    )
    return model, history.history


def train(strategy, directory):
    """Both ways, with a seed and without; what is predicted and saved."""
    vae, history = trained_vae(strategy, directory)
    index = strategy.cluster_resolver.task_id
    found = {"vae": digest(vae), "vae history": history}
    found["predicted"] = vae.predict(X, batch_size=BATCH, verbose=0).tolist()
    found["expected"] = vae(X).mean().numpy().tolist()
    vae.save(directory / "vae.keras")

    # Every process draws other initial weights, and another order.
    keras.utils.set_random_seed(index)
    model, _ = trained_layers(strategy, shuffle=True)
    found |= {"layers": digest(model), "seen": model.seen.numpy().tolist()}

    try:
        small_vae(strategy, steps_per_execution=4).fit(X, verbose=0)
    except ValueError as error:
        found["steps"] = str(error)
    found["without mends"] = without_mends(strategy)
    return found


def layers(strategy, directory):
    """The layers' way in the order of the rows."""
    keras.utils.set_random_seed(3)
    model, history = trained_layers(strategy, shuffle=False)
    return {"layers": digest(model), "history": history}


def without_mends(strategy):
    """What Keras itself says to several workers, with all but one mend of ours."""
    found = {}
    for name in ("_maybe_symbolic_build", "_make_function", "make_predict_function"):
        mended = getattr(MultiWorkerTrainer, name)
        setattr(MultiWorkerTrainer, name, getattr(keras.Model, name))
        model = layers_model(strategy)
        try:
            if name == "make_predict_function":
                model.predict(rows_of(X), verbose=0)
            else:
                model.fit(rows_of(X), X, verbose=0)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"[:300]
        setattr(MultiWorkerTrainer, name, mended)
    return found


def normalized(strategy, directory):
    """Moving averages, each worker's of its own rows; and a generator."""
    keras.utils.set_random_seed(3)
    x = np.random.default_rng(0).normal(size=(ROWS, 2)).astype("float32")
    with strategy.scope():
        model = Normalized()
        model.compile("adam", loss="mse")
    model.fit(x, x[:, :1], batch_size=8, epochs=2, verbose=0, validation_split=0.3)
    moved = model.normalization.moving_mean.numpy().tolist()
    found = {"digest": digest(model), "moved": moved}
    try:
        model.fit(((part, part[:, :1]) for part in (x, x)), verbose=0)
    except ValueError as error:
        found["generator"] = str(error)
    return found


def pipelines(strategy, directory):
    """A pipeline in another order on each worker, and one with a seed."""
    index, found = strategy.cluster_resolver.task_id, {}
    for name, seed in {"without a seed": index, "with a seed": 7}.items():
        keras.utils.set_random_seed(seed)
        rows = tf.data.Dataset.from_tensor_slices(X).shuffle(ROWS).batch(BATCH)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            small_vae(strategy).fit(rows, verbose=0)
        found[name] = [str(warning.message) for warning in caught]
    return found


class _Told(keras.callbacks.Callback):
    """Says in which epoch this worker is."""

    def __init__(self, path):
        super().__init__()
        self.path, self.epochs = path, []

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append(epoch)
        self.path.write_text(str(len(self.epochs)))


def resumed(strategy, directory):
    """Trains for long, with a checkpoint: begun again, it trains one epoch more."""
    index = strategy.cluster_resolver.task_id
    # The chief's file is on its disk alone.
    path = directory / ("chief" if not index else "other") / "last.weights.h5"
    kept = directory / "chief" / "last.weights.h5"
    epochs = read_state(kept)["epoch"] + 1 if kept.exists() else 10_000
    vae = small_vae(strategy)
    told = _Told(directory / f"epochs-{index}")
    vae.fit(
        X,
        batch_size=BATCH,
        epochs=epochs,
        verbose=0,
        callbacks=[
            told,
            tv.Checkpoint(path, delete_checkpoint=False),
        ],
    )
    steps = int(vae.optimizer.iterations.numpy())
    return {"digest": digest(vae), "epochs": told.epochs, "steps": steps}


def parameter_servers():
    """Prints what training under a `ParameterServerStrategy` is answered."""
    worker, ps = free_hosts(2)
    cluster = tf.train.ClusterSpec({"worker": [worker], "ps": [ps]})
    for job in ("worker", "ps"):
        tf.distribute.Server(cluster, job_name=job, protocol="grpc")
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        cluster, rpc_layer="grpc"
    )
    try:
        small_vae(tf.distribute.ParameterServerStrategy(resolver)).fit(X, verbose=0)
    except ValueError as error:
        print(error, flush=True)
    os._exit(0)  # The servers never end.


if __name__ == "__main__":
    main(*sys.argv[1:])
