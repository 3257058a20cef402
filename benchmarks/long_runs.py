"""The memory of long runs: epochs, calls, and many models in one process.

    python -m benchmarks.long_runs --output docs/benchmarks.md --figure memory.png

Each curve comes from a fresh process and is the resident memory above that after a
tenth of the run, when everything is compiled.
"""

import argparse
import gc
import itertools
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.report import number, provenance, table, write
from benchmarks.worker import Worker

EPOCHS, CALLS, MODELS, POINTS = 300, 2_000, 100, 50
PIXELS, LATENT, ROWS = 64, 4, 512


def resident() -> float:
    """The resident memory of this process, in MiB."""
    gc.collect()
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def curve(steps: Iterator[Any], count: int) -> list[float]:
    """The memory at some of the steps.

    Args:
        steps: Each item runs one step.
        count: The number of steps.

    Returns:
        MiB, at about `POINTS` steps.
    """
    every = max(count // POINTS, 1)
    return [
        resident()
        for step, _ in enumerate(itertools.islice(steps, count))
        if step % every == every - 1
    ]


def model(kind: str = "VAE") -> Any:
    """A small compiled model: `tv.VAE`, or an autoencoder of `keras.Model`."""
    import keras

    import tfp_vae as tv

    inputs = keras.Input((PIXELS,))
    h = keras.layers.Dense(32, "relu")(inputs)
    if kind == "keras":
        h = keras.layers.Dense(32, "relu")(keras.layers.Dense(LATENT)(h))
        plain = keras.Model(inputs, keras.layers.Dense(PIXELS, "sigmoid")(h))
        plain.compile("adam", "binary_crossentropy")
        return plain
    encoder = keras.Model(
        inputs, tv.IndependentNormal(LATENT)(keras.layers.Dense(2 * LATENT)(h))
    )
    decoder = keras.Sequential(
        [
            keras.Input((LATENT,)),
            keras.layers.Dense(32, "relu"),
            keras.layers.Dense(PIXELS),
            tv.IndependentBernoulli(PIXELS),
        ]
    )
    vae = tv.VAE(encoder, decoder, tv.StandardNormal(LATENT))
    vae.compile("adam")
    return vae


def data() -> Any:
    """Black-and-white rows."""
    import numpy as np

    return (np.random.default_rng(0).random((ROWS, PIXELS)) < 0.3).astype("float32")


def epochs(count: int) -> list[float]:
    """The memory over the epochs of one `fit`."""
    import keras

    found: list[float] = []
    every = max(count // POINTS, 1)

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if epoch % every == every - 1:
                found.append(resident())

    x = data()
    model().fit(x, validation_data=(x,), epochs=count, verbose=0, callbacks=[Look()])
    return found


def calls(method: str, count: int) -> list[float]:
    """The memory over calls of a method on rows of changing number."""
    vae, x = model(), data()
    vae.fit(x, verbose=0)
    z = vae.encode(x).mean().numpy()
    answers: dict[str, Callable[[int], Any]] = {
        "encode": lambda n: vae.encode(x[:n]),
        "decode": lambda n: vae.decode(z[:n]),
        "log_prob": lambda n: vae.log_prob(x[:n], num_samples=5, verbose=0),
        "elbo": lambda n: vae.elbo(x[:n]),
        "generate": lambda n: vae.generate(n),
        "reconstruct": lambda n: vae.reconstruct(x[:n]),
        "predict": lambda n: vae.predict(x[:n], verbose=0),
        "evaluate": lambda n: vae.evaluate(x[:n], verbose=0),
    }
    answer = answers[method]
    return curve((answer(1 + step % 7) for step in itertools.count()), count)


def many(kind: str, count: int) -> list[float]:
    """The memory over models that are made, fitted and dropped."""
    import keras

    x = data()

    def one() -> Any:
        made = model(kind)
        given = {"y": x} if kind == "keras" else {}
        made.fit(x, epochs=1, verbose=0, **given)
        return keras.backend.clear_session()

    return curve((one() for _ in itertools.count()), count)


RUNS: dict[str, tuple[Callable[..., list[float]], tuple[Any, ...], int]] = {
    "epochs of `VAE.fit`": (epochs, (), EPOCHS),
    **{
        f"calls of `{name}`": (calls, (name,), CALLS)
        for name in (
            "encode",
            "decode",
            "log_prob",
            "elbo",
            "generate",
            "reconstruct",
            "predict",
            "evaluate",
        )
    },
    "models, `tv.VAE`": (many, ("VAE",), MODELS),
    "models, `keras.Model`": (many, ("keras",), MODELS),
}


def draw(curves: dict[str, list[float]], path: pathlib.Path) -> None:
    """Draws the curves.

    Args:
        curves: MiB by name.
        path: Path of the picture.
    """
    import matplotlib.figure

    figure = matplotlib.figure.Figure((9, 4.5), layout="constrained")
    for axes, models in zip(figure.subplots(1, 2), (False, True), strict=True):
        for name, values in curves.items():
            if name.startswith("models") == models:
                x = [(i + 1) / len(values) for i in range(len(values))]
                start = values[len(values) // 10]
                axes.plot(x, [v - start for v in values], label=name.replace("`", ""))
        axes.set_xlabel("fraction of the run")
        axes.set_ylabel("MiB above that after a tenth")
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=100)


def main(options: list[str] | None = None) -> dict[str, list[float]]:
    """Measures, prints a table and draws.

    Args:
        options: Command line options; those of the process by default.

    Returns:
        MiB by name of the run.
    """
    parser = argparse.ArgumentParser(prog="benchmarks.long_runs", description=__doc__)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="factor for the lengths"
    )
    parser.add_argument("--output", type=pathlib.Path, help="page with the table")
    parser.add_argument("--figure", type=pathlib.Path, help="picture of the curves")
    args = parser.parse_args(options)
    curves, rows = {}, []
    for name, (job, arguments, length) in RUNS.items():
        count = max(int(length * args.scale), 20)
        with Worker() as process:
            found = curves[name] = process.call(job, *arguments, count)
        start, middle, end = (found[len(found) * p // 100] for p in (10, 55, 99))
        change = [f"{value - start:+.1f}" for value in (middle, end)]
        rows.append([f"{count:,} {name}", number(start), *change])
    header = "run", "after a tenth, MiB", "change at 55 %, MiB", "at 99 %, MiB"
    shown = table(header, rows)
    command = " ".join(["python -m benchmarks.long_runs", *(options or sys.argv[1:])])
    print(shown)
    if args.output is not None:
        write(args.output, "long runs", f"{provenance(command)}\n\n{shown}")
    if args.figure is not None:
        draw(curves, args.figure)
    return curves


if __name__ == "__main__":
    main()
