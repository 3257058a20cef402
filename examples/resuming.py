"""What a run has done, in the directory of `--resume`, and the hours that are left."""

import dataclasses
import json
import os
import pathlib
import random
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MOST_HOURS = 12  # of a run without `--yes`
SHOWN = 6  # names of trainings
LOST = 30.0  # The most seconds that a kill costs, if an epoch is shorter.


@dataclasses.dataclass(frozen=True)
class Measured:
    """A whole run that was measured.

    Args:
        source: The file that records it.
        hours: The time it took.
        epochs: Those of all its trainings together.
    """

    source: str
    hours: float
    epochs: int


class Progress:
    """The trainings of a run: what is done, and how long the rest takes.

    Args:
        directory: Directory of checkpoints and figures, or `None` to keep nothing.
        settings: What a run that resumes must have in common: a JSON dictionary.
        trainings: Names of the trainings and parts of the whole run, with the epochs of
            each.
        is_long: Whether to print what is left and to limit the hours.
        may_be_longer: Whether more than `MOST_HOURS` are allowed.
        measured: An earlier run, or `None`.

    Raises:
        ValueError: If the directory has a run with other settings, or one that still
            goes on.
    """

    def __init__(
        self,
        directory: pathlib.Path | None,
        settings: dict[str, Any],
        trainings: Mapping[str, int],
        is_long: bool = False,
        may_be_longer: bool = False,
        measured: Measured | None = None,
    ) -> None:
        self.directory = directory
        self._settings = json.loads(_to_json(settings))
        self._trainings, self.measured = dict(trainings), measured
        self._is_long, self._may_be_longer = is_long, may_be_longer
        self._start, self._before = time.perf_counter(), 0.0
        self._is_estimated, self._seen = measured is not None, 0
        self._begun, self._written = 0.0, 0.0
        self._checkpoints: list[pathlib.Path] = []
        self._names: set[str] = set()
        self.parts: dict[str, dict[str, Any]] = {}
        self._fits: dict[str, dict[str, int]] = {}
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
            _lock(directory)
            self._read(directory / "run.json")

    @property
    def seconds(self) -> float:
        """The seconds that this run and those it resumes took until now."""
        return self._before + time.perf_counter() - self._start

    @property
    def left(self) -> float:
        """The epochs of all trainings that are left."""
        return sum(self._left(name) for name in self._trainings)

    def begin(self) -> None:
        """Prints what is left, and stops a run that would take too long."""
        if not self._is_long:
            return
        names = [self._described(name) for name in self._trainings if self._left(name)]
        shown = "; ".join([*names[:SHOWN], "..."] if len(names) > SHOWN else names)
        least, most = (f(self._trainings.values()) for f in (min, max))
        epochs = f"{least} epochs" if least == most else f"{least} to {most} epochs"
        print(
            f"to do: {len(names)} of {len(self._trainings)} trainings of "
            f"{epochs}{': ' * bool(names)}{shown}",
            flush=True,
        )
        if self.measured is None or not names:
            return
        hours, of = self.measured.hours, self.measured
        source = f"{_in_hours(hours)} for {of.epochs} epochs in {of.source}"
        self._allow(hours / of.epochs * self.left, source)

    def begin_part(self, name: str) -> None:
        """Begins a part: its checkpoints are deleted when it is kept."""
        self._check_new(f"part {name!r}")
        self._checkpoints = []

    def keep(self, name: str, value: Any, figures: list[dict[str, Any]]) -> Any:
        """Saves the value and the figures of a part, and returns the value.

        Args:
            name: Name of the part.
            value: What JSON can hold, and arrays.
            figures: What the part added to the report.

        Returns:
            The value as it is read again: tuples and arrays are lists.
        """
        value = json.loads(_to_json(value))
        self.parts[name] = {"value": value, "figures": figures}
        self._write()
        for path in self._checkpoints:
            path.unlink(missing_ok=True)
        return value

    def fit(
        self, name: str, model: Any, x: Any, callbacks: Sequence[Any], **options: Any
    ) -> Any:
        """Trains as `model.fit` does, from the checkpoint of an earlier run, if any.

        It seeds Keras at its end, so that what follows is the same if nothing was left
        to train. If epochs take less than `LOST` seconds, not all of them are saved.

        Args:
            name: Name of the training.
            model: A compiled model.
            x: As in `fit`. A dataset that shuffles must do so anew in each pass, when
                the first batch of the pass is read.
            callbacks: The callbacks.
            **options: Other arguments of `fit`, with `epochs`.

        Returns:
            The history.
        """
        # Here, for peers: TensorFlow and PyTorch may crash in one process.
        import keras
        import tensorflow as tf

        import tfp_vae as tv
        from tfp_vae.engine.weights_file import read_state

        epochs, done = options.pop("epochs"), options.get("initial_epoch", 0)
        path, saved = self.checkpoint(name, "weights.h5"), None
        if path is not None:
            if path.exists():
                done = read_state(path)["epoch"]
            saved = tv.Checkpoint(path, "epoch", False, list(callbacks))
        epochs = self.begin_training(name, epochs, done)
        if isinstance(x, tf.data.Dataset) and done < epochs:
            # Keras' own loop begins each pass twice, and uses the second.
            passes = done if isinstance(model, tv.Model | tv.Sequential) else 2 * done
            for _ in range(passes):
                next(iter(x))  # The order of the next pass follows.
        # What follows must not depend on the number of epochs, nor on what is compiled.
        state = random.getstate()
        seed = random.getrandbits(31)
        random.setstate(state)

        def begin(epoch: int, logs: Any) -> None:
            self.begin_epoch()

        def end(epoch: int, logs: Any) -> None:
            took = self.end_epoch(name, epoch + 1, epochs, model.stop_training)
            steps = (watch.params or {}).get("steps")
            if saved is not None and steps:
                saved.save_freq = steps * max(1, int(LOST / took))

        watch = keras.callbacks.LambdaCallback(on_epoch_begin=begin, on_epoch_end=end)
        given = [*callbacks, watch] if saved is None else [saved, *callbacks, watch]
        history = model.fit(x, epochs=epochs, callbacks=given, **options)
        keras.utils.set_random_seed(seed)
        return history

    def checkpoint(self, name: str, suffix: str) -> pathlib.Path | None:
        """The file of a training, deleted when the part that has it is kept.

        Args:
            name: Name of the training.
            suffix: How the name of the file ends.

        Returns:
            Its path, or `None` if there is no directory.
        """
        self._check_new(f"fit {name!r}")
        if self.directory is None:
            return None
        path = self.directory / f"{urllib.parse.quote(name, ' ,=')}.{suffix}"
        self._checkpoints.append(path)
        return path

    def begin_training(self, name: str, epochs: int, done: int) -> int:
        """Begins a training.

        Args:
            name: Its name.
            epochs: How many epochs it has.
            done: How many of them its checkpoint has.

        Returns:
            The epochs: fewer if the training was stopped early.
        """
        epochs = min(epochs, self._fits.get(name, {}).get("epochs", epochs))
        self._fits[name], self._seen = {"epochs": epochs, "done": done}, 0
        return epochs

    def begin_epoch(self) -> None:
        """Begins an epoch."""
        self._begun = time.perf_counter()

    def end_epoch(self, name: str, done: int, epochs: int, is_last: bool) -> float:
        """Saves the number of epochs, and prints once how long the rest will take.

        Args:
            name: Name of the training.
            done: How many epochs are done.
            epochs: How many it has.
            is_last: Whether it stops here.

        Returns:
            The seconds of the epoch.
        """
        took = time.perf_counter() - self._begun
        self._seen += 1
        self._fits[name] = {"epochs": done if is_last else epochs, "done": done}
        if is_last or done == epochs or time.perf_counter() - self._written > LOST:
            self._write()
        # The first epoch compiles.
        if self._is_estimated or not self._is_long or self._seen < min(2, epochs):
            return took
        self._is_estimated = True
        others = sum(self._left(each) for each in self._trainings if each != name)
        hours = took / 3600 * (epochs - done + others)
        self._allow(hours, f"an epoch of {name!r}, {took:.1f} seconds")
        return took

    def _allow(self, hours: float, source: str) -> None:
        print(f"to do: about {_in_hours(hours)}, by {source}", flush=True)
        if hours > MOST_HOURS and not self._may_be_longer:
            raise SystemExit(
                f"A run of more than {MOST_HOURS} hours expects `--yes`. "
                f"Received: about {_in_hours(hours)}. Give --yes, best with "
                "--resume DIR, or fewer --epochs."
            )

    def _check_new(self, what: str) -> None:
        if what in self._names:
            raise ValueError(
                f"A run expects a name for each training and part. Received: {what} "
                "twice. Give other names."
            )
        self._names.add(what)

    def _left(self, name: str) -> float:
        """The epochs of a training that are left."""
        epochs = self._trainings[name]
        if name in self.parts:
            return 0.0
        fit = self._fits.get(name, {"epochs": epochs, "done": 0})
        return epochs * (1 - fit["done"] / fit["epochs"])

    def _described(self, name: str) -> str:
        fit = self._fits.get(name, {"done": 0})
        if not fit["done"]:
            return name
        return f"{name} (from epoch {fit['done'] + 1} of {fit['epochs']})"

    def _read(self, path: pathlib.Path) -> None:
        if not path.exists():
            self._write()
            return
        kept = json.loads(path.read_text())
        theirs, mine = kept["settings"], self._settings
        names = [n for n in {**theirs, **mine} if theirs.get(n) != mine.get(n)]
        if names:
            there, here = (
                ", ".join(f"{name}={values.get(name)!r}" for name in names)
                for values in (theirs, mine)
            )
            raise ValueError(
                f"`--resume` expects the settings of the run in {self.directory}: "
                f"{there}. Received: {here}. Give the same ones, or another directory."
            )
        self._before, self.parts = kept["seconds"], kept["parts"]
        self._fits = kept["fits"]

    def _write(self) -> None:
        if self.directory is None:
            return
        self._written = time.perf_counter()
        run = {
            "settings": self._settings,
            "seconds": self.seconds,
            "fits": self._fits,
            "parts": self.parts,
        }
        replace(self.directory / "run.json", _to_json(run).encode())


def _lock(directory: pathlib.Path) -> None:
    """Locks a directory for other processes until this one ends, also by a kill."""
    try:
        import fcntl
    except ImportError:  # Windows has none.
        return
    file = os.open(directory / "lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise ValueError(
            f"`--resume` expects a directory that no other run uses. Received: "
            f"{directory}, whose run still goes on. Wait for its end, or give another "
            "directory."
        ) from error


def _in_hours(hours: float) -> str:
    return f"{hours:.{1 if hours >= 1 else 3}f} hours"


def replace(path: pathlib.Path, content: bytes) -> None:
    """Writes a file so that a kill leaves the old one or the new one."""
    new = path.with_name(f"{path.name}.new")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _to_json(value: Any) -> str:
    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray | np.generic):
            return value.tolist()
        raise TypeError(f"a part cannot keep a {type(value).__name__}")

    return json.dumps(value, indent=1, default=plain)
