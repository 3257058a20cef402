"""Training speed of layers with random weights, beside `tfp.layers` on Keras 2.

    python -m benchmarks.weights
    python -m benchmarks.weights --variance

100-256-256-10, batch 128: a classifier whose three dense layers are each of one kind.
Every side trains in its own process; rounds alternate the sides. Figures are examples
per second of `fit` after a first `fit` that compiles, and their ratio to `tfp.layers`
in the same round.

With `--variance`: the variance, over draws of the weights, of the gradient of the loss
for one batch of scikit-learn's digits, relative to `DenseReparameterization`: the mean
over the first kernel's means, and over its untransformed scales.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

ROWS, FEATURES, WIDTH, CLASSES, BATCH = 25_600, 100, 256, 10, 128
KINDS = ("Dense", "DenseFlipout", "DenseLocalReparameterization", "Variational")


def rate(library: str, kind: str, jit_compile: bool, epochs: int) -> float:
    """Examples per second of one side."""
    import numpy as np

    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, FEATURES)).astype("float32")
    y = rng.integers(0, CLASSES, ROWS).astype("int32")
    model = _model(library, kind)
    if library == "tfp":
        import tf_keras

        loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    else:
        import keras

        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, jit_compile=jit_compile)
    options = {"batch_size": BATCH, "verbose": 0}
    model.fit(x, y, epochs=1, **options)
    start = time.perf_counter()
    model.fit(x, y, epochs=epochs, **options)
    return ROWS * epochs / (time.perf_counter() - start)


def _model(library: str, kind: str, features: int = FEATURES) -> Any:
    if library == "tfp":
        import tensorflow_probability as tfp
        import tf_keras

        layers: Any = tf_keras.layers if kind == "Dense" else tfp.layers
        base = getattr(layers, kind)

        def kl(q: Any, p: Any, ignore: Any) -> Any:
            return tfp.distributions.kl_divergence(q, p) / ROWS

        options: dict[str, Any] = {}
        if kind != "Dense":
            options["kernel_divergence_fn"] = kl
        first = tf_keras.Input((features,))
        sequential = tf_keras.Sequential
    else:
        import keras

        import tfp_vae as tv

        options, sequential = {}, tv.Sequential
        first = keras.Input((features,))
        base = keras.layers.Dense
        if kind == "Variational":
            dense = base

            def base(*args: Any, **kwargs: Any) -> Any:
                return tv.Variational(dense(*args, **kwargs))

        elif kind != "Dense":
            base = getattr(tv, kind)
    return sequential(
        [
            first,
            base(WIDTH, activation="relu", **options),
            base(WIDTH, activation="relu", **options),
            base(CLASSES, **options),
        ]
    )


def variances(draws: int = 500) -> Iterator[tuple[str, list[float]]]:
    """Mean variance of the gradient for the first kernel's means and scales."""
    import keras
    import numpy as np
    import sklearn.datasets
    import tensorflow as tf

    digits = sklearn.datasets.load_digits()
    x = tf.constant(digits.data[:BATCH].astype("float32") / 16)
    y = tf.constant(digits.target[:BATCH])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    weights = None
    for kind in ("DenseReparameterization", *KINDS[1:3]):
        keras.utils.set_random_seed(0)
        model = _model("tfp_vae", kind, x.shape[1])
        if weights is None:
            weights = model.get_weights()
        model.set_weights(weights)
        variables = [v.value for v in model.layers[0].trainable_variables[:2]]

        @tf.function
        def gradients(model: Any = model, variables: Any = variables) -> Any:
            with tf.GradientTape() as tape:
                value = loss(y, model(x))
            return tape.gradient(value, variables)

        found = [gradients() for _ in range(draws)]
        columns = zip(*found, strict=True)
        yield kind, [float(np.var(column, axis=0).mean()) for column in columns]


def sides() -> Iterator[Any]:
    """Every side of the comparison: library, kind, XLA."""
    for kind in KINDS:
        for jit_compile in (False, True):
            # What `Variational(Dense)` does, `tfp.layers` does by this layer.
            theirs = "DenseReparameterization" if kind == "Variational" else kind
            yield kind, jit_compile, ("tfp", theirs), ("tfp_vae", kind)


def _run(library: str, kind: str, jit_compile: bool, epochs: int) -> float:
    arguments = [library, kind, str(jit_compile), str(epochs)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.weights", "--side", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--kinds", nargs="*", default=KINDS)
    parser.add_argument("--variance", action="store_true")
    parser.add_argument("--side", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        library, kind, jit_compile, epochs = given.side
        print(json.dumps(rate(library, kind, jit_compile == "True", int(epochs))))
        return
    if given.variance:
        print("| layers | means | untransformed scales |\n|---|---|---|")
        plain: list[float] = []
        for kind, variance in variances():
            plain = plain or variance
            shown = [f"{a / b:.3f}" for a, b in zip(variance, plain, strict=True)]
            print(f"| {kind} | {' | '.join(shown)} |", flush=True)
        return
    print("| layers | XLA | tfp.layers | tfp_vae | ratio, median (range) |")
    print("|---|---|---|---|---|")
    for kind, jit_compile, *both in sides():
        if kind not in given.kinds:
            continue
        pairs = []
        for number in range(given.rounds):
            order = both if number % 2 == 0 else both[::-1]
            found = {
                library: _run(library, name, jit_compile, given.epochs)
                for library, name in order
            }
            pairs.append((found["tfp"], found["tfp_vae"]))
        ratios = sorted(mine / theirs for theirs, mine in pairs)
        medians = [statistics.median(column) for column in zip(*pairs, strict=True)]
        print(
            f"| {kind} | {'yes' if jit_compile else 'no'} | {medians[0]:,.0f} | "
            f"{medians[1]:,.0f} | {statistics.median(ratios):.2f} "
            f"({ratios[0]:.2f}-{ratios[-1]:.2f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
