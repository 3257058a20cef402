"""Loads `.keras` files with mutated configs, in a process that watches itself.

    python tests/hostile.py MUTATIONS SEED

prints a JSON dictionary: how many of the files loaded, how many were refused by which
error, and what must not happen.
"""

import collections
import json
import os
import pathlib
import random
import resource
import sys
import tempfile
import traceback
import warnings
import zipfile

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import vaes

import tfp_vae as tv

# What an attacker would name.
FUNCTIONS = [
    {"module": module, "class_name": kind, "config": name, "registered_name": name}
    for module, name in (
        ("os", "system"),
        ("builtins", "eval"),
        ("keras.datasets.mnist", "load_data"),
        ("keras.utils", "get_file"),
        ("keras.saving", "load_model"),
        ("tfp_vae.files", "replacing"),
    )
    for kind in ("function", name)
]
VALUES = [
    *(None, True, -1, 0, 3, 1.5, -1e308, float("nan"), float("inf"), 2**31, 2**40),
    *("", "x", "relu", "../../etc/passwd", "__import__('os').system('true')"),
    *([], {}, [1], [[2**40]], {"a": 1}, {"class_name": "Dense", "config": {}}),
    {"class_name": "__lambda__", "config": {"value": ["4wEAAAA=", None, None]}},
    {"tfp.distributions": "Normal", "parameters": 3},
    {"tfp.distributions": "__builtins__", "parameters": {}},
    {"keras.Variable": [1, 2]},
    {"keras.Variable": "x"},
    *FUNCTIONS,
]


@keras.saving.register_keras_serializable("tests")
def temperature():
    return 0.5


def models():
    """A dozen models, of every kind of config."""

    def layers(cls, *outputs):
        inputs = keras.Input((4,))
        return cls(inputs, [make(keras.layers.Dense(n)(inputs)) for n, make in outputs])

    kl = tv.KLDivergenceAddLoss(tv.LearnedNormal(3), weight=0.5)
    posterior = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(6), tv.IndependentNormal(3), kl]
    )
    compiled = layers(tv.Model, (6, tv.IndependentNormal(3)))
    compiled.compile("adam", tv.NegativeLogLikelihood(), metrics=["mae"])
    return [
        *(vaes.KINDS[kind](compiled=False) for kind in vaes.KINDS),
        vaes.vae(compiled=True),
        compiled,
        posterior,
        layers(
            tv.Model,
            (3, tv.IndependentRelaxedBernoulli(3, temperature)),
            (5, tv.Multinomial(5, total_count=3)),
        ),
        layers(
            keras.Model,
            (14, tv.MixtureSameFamily(2, tv.IndependentLogistic(3))),
            (6, tv.Blockwise([tv.IndependentNormal(2), tv.IndependentBernoulli(2)])),
        ),
    ]


def leaves(config, path=()):
    """The paths of all scalars and of all keys."""
    if isinstance(config, dict):
        for key, value in config.items():
            yield (*path, key), "key"
            yield from leaves(value, (*path, key))
    elif isinstance(config, list):
        for place, value in enumerate(config):
            yield from leaves(value, (*path, place))
    else:
        yield path, "value"


def mutated(text, rng):
    """The config with one value, name or key changed."""
    config = json.loads(text)
    path, what = rng.choice(list(leaves(config)))
    *front, last = path
    inner = config
    for step in front:
        inner = inner[step]
    if what == "key" and rng.random() < 0.5:
        value = inner.pop(last)
        if rng.random() < 0.5:
            inner[rng.choice(["x", "config", "class_name", last * 2])] = value
        change = f"{path}: key"
    else:
        inner[last] = rng.choice(VALUES)
        change = f"{path} = {inner[last]!r}"
    return json.dumps(config), change


class Watch:
    """An audit hook that notes what loading must not do."""

    EVENTS = (
        "exec",
        "compile",
        "subprocess",
        "os.system",
        "os.exec",
        "socket.",
        "open",
    )

    def __init__(self):
        self.found, self.on = [], False
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        if not self.on or not event.startswith((*self.EVENTS, "import", "open")):
            return
        if event == "import" and arguments[0] in sys.modules:
            return
        if event == "open" and str(arguments[0]).startswith(tempfile.gettempdir()):
            return  # Keras unpacks assets there.
        where = "".join(traceback.format_stack(limit=25)[:-1])
        if event == "open" and ("linecache" in where or "in rmtree" in where):
            return  # A traceback is being formatted, or such a directory removed.
        self.found.append(f"{event} {arguments!r:.200}\n{where}")


def main(count, seed):
    rng, outcomes, bad = random.Random(seed), collections.Counter(), []
    files, directory = [], tempfile.TemporaryDirectory()
    for number, model in enumerate(models()):
        path = pathlib.Path(directory.name, f"{number}.keras")
        model.save(path)
        keras.models.load_model(path)  # imports what loading needs
        with zipfile.ZipFile(path) as archive:
            files.append({n: archive.read(n) for n in archive.namelist()})
    # An allocation beyond this is an error, not the end of the machine.
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**33, used + 2**33))
    watch = Watch()
    for _ in range(count):
        parts = dict(rng.choice(files))
        text, change = mutated(parts["config.json"].decode(), rng)
        path = pathlib.Path(directory.name, "hostile.keras")
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in (parts | {"config.json": text}).items():
                archive.writestr(name, content)
        watch.found.clear()
        try:
            with warnings.catch_warnings(action="ignore"):
                watch.on = True
                keras.models.load_model(path)
            name = "loaded"
        except Exception as error:
            watch.on = False
            name = type(error).__name__
            frames = traceback.extract_tb(error.__traceback__)
            ours = any("/tfp_vae/" in frame.filename for frame in frames)
            name += " below tfp_vae" if ours else " of Keras"
            if ours and not isinstance(error, ValueError):
                bad.append(f"{change}: {name}: {str(error)[:200]}")
        finally:
            watch.on = False
        outcomes[name] += 1
        bad += [f"{change}: {event}" for event in watch.found]
    print(json.dumps({"outcomes": outcomes, "bad": bad}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
