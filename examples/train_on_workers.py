"""Trains the VAE of train_vae.py on several workers.

    python examples/train_on_workers.py --workers 2
    TF_CONFIG=... python examples/train_on_workers.py

The first command starts the workers as processes on this machine. That shows that it
works, but is no faster, since they share the cores. The second is one worker, as run on
each of several machines; docs/devices.md explains TF_CONFIG. All options of
train_vae.py work. The batch size is that of all workers together.

Every worker trains on its rows of each batch, and all have the same weights after each
step. After each epoch the first worker writes a backup. With the same --output, a run
that was stopped then continues from it.
"""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf

import datasets
import tfp_vae as tv
import train_vae
from pixels import batches, observe
from reproduction import positive
from tfp_vae.engine.strategies import is_chief

# Seconds to wait for workers after one failed. TensorFlow ends them within ten.
GRACE = 120


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one worker if TF_CONFIG is set, and starts workers otherwise."""
    options = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="All other options are those of train_vae.py.",
    )
    workers = "processes on this machine, default 2; not for TF_CONFIG"
    parser.add_argument("--workers", type=positive, default=2, help=workers)
    args, rest = parser.parse_known_args(options)
    job = train_vae._parse(rest)
    if "TF_CONFIG" in os.environ:
        train(job)
    elif not start(args.workers, options):
        sys.exit("a worker failed: see what it wrote above")


def train(job: argparse.Namespace) -> None:
    """Runs one worker: trains; the first one also evaluates and saves."""
    # First of all, because TensorFlow connects the workers when it starts.
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    chief, resolver = is_chief(strategy), strategy.cluster_resolver
    # The same seed on all: it sets the order of the rows and their noise.
    keras.utils.set_random_seed(job.seed)
    images = datasets.load(job.dataset, job.data_dir, job.seed)
    with strategy.scope():
        vae = train_vae.build(job, images)
        vae.compile("adam")
    vae.fit(
        batches(images, job.likelihood, job.batch_size, job.seed),
        epochs=job.epochs,
        verbose=2 if chief else 0,
        callbacks=[tv.Checkpoint(job.output / "last.weights.h5")],
    )
    bits = zlib.crc32(b"".join(weight.tobytes() for weight in vae.get_weights()))
    who = f"{resolver.task_type} {resolver.task_id}"
    print(f"{who}: checksum of the weights {bits:08x}", flush=True)
    vae.save(job.output / "vae.keras")  # only the chief writes it
    if chief:
        seed = [job.seed, 1]
        x = observe(images.test, seed, images.levels, job.likelihood).numpy()
        elbo = vae.elbo(x).mean()
        print(f"held-out ELBO: {elbo:.2f} nats per image ({len(x)} images)")
        print(f"wrote vae.keras to {job.output}", flush=True)


def start(workers: int, options: Sequence[str]) -> bool:
    """Starts workers on this machine, and waits until all have ended.

    Args:
        workers: Number of workers.
        options: Options passed to each worker.

    Returns:
        Whether all succeeded.
    """
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(workers)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        hosts = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    processes = []
    try:
        for index in range(workers):
            task = {"type": "worker", "index": index}
            config = json.dumps({"cluster": {"worker": hosts}, "task": task})
            command = [sys.executable, __file__, *options]
            environment = {**os.environ, "TF_CONFIG": config}
            processes.append(subprocess.Popen(command, env=environment))
        failed = None
        while any(process.poll() is None for process in processes):
            if failed is None and any(process.poll() for process in processes):
                failed = time.monotonic()
            if failed is not None and time.monotonic() > failed + GRACE:
                break
            time.sleep(0.1)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return not any(process.returncode for process in processes)


if __name__ == "__main__":
    main()
