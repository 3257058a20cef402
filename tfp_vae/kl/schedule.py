"""The weight of the KL as a function of the optimizer's steps, inside the graph."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_vae.checks import choice, integer, real_number

SCHEDULES = ("linear", "sigmoid", "cyclical")
# The logistic curve is cut off at -6 and 6, then scaled to [0, 1].
_STEEPNESS = 6.0


class KLSchedule(keras.layers.Layer):
    """The weight of the KL at a step of the optimizer.

        weight = start + (1 - start) r               for t < steps, then 1
        r = t / steps                                linear
        r = s(t / steps)                             sigmoid, s logistic from 0 to 1
        r = min(1, (t mod L) / (ratio L))            cyclical, L = steps / cycles

    t counts steps of the optimizer from the step at which the schedule was set,
    including those of earlier optimizers. The schedule and t are stored in variables:
    setting it between two calls of `fit` needs no new trace, and a model that is loaded
    continues it, with the optimizer or without. Until it is set, the weight is 1.

    Example:
        >>> schedule = KLSchedule()
        >>> float(schedule.weight(0))
        1.0
        >>> schedule.set("linear", steps=10)
        >>> [round(float(schedule.weight(s)), 2) for s in (0, 5, 10, 99)]
        [0.0, 0.5, 1.0, 1.0]
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"name": "kl_schedule", **kwargs, "dtype": "float32"})
        self.steps = self._number("steps", 0)
        # t was `passed` at the optimizer's step `begin`.
        self.begin = self._number("begin", 0)
        self.passed = self._number("passed", 0)
        self.start = self._number("start", 0)
        self.sigmoid = self._number("sigmoid", 0)
        self.cycles = self._number("cycles", 1)
        self.ratio = self._number("ratio", 1)
        self.of_weights = self._number("of_weights", 0)
        self.built = True

    def _number(self, name: str, value: float) -> Any:
        initializer = keras.initializers.Constant(value)
        return self.add_weight(
            shape=(),
            initializer=initializer,
            trainable=False,
            aggregation="only_first_replica",
            name=name,
        )

    def load_own_variables(self, store: Any) -> None:
        """Reads the numbers; older files lack the last one."""
        if len(store.keys()) != len(self.weights) - 1:
            super().load_own_variables(store)
            return
        for i, variable in enumerate(self.weights[:-1]):
            variable.assign(store[str(i)])

    def set(
        self,
        schedule: str,
        steps: int,
        start: float = 0.0,
        cycles: int = 4,
        ratio: float = 0.5,
        now: float = 0.0,
        weights: bool = False,
    ) -> None:
        """Sets the schedule; one with the same numbers continues.

        Args:
            schedule: `"linear"`, `"sigmoid"` or `"cyclical"`.
            steps: Number of steps until the weight stays at 1.
            start: Weight at the first step.
            cycles: Number of cycles, if cyclical.
            ratio: Fraction of a cycle in which the weight rises, if cyclical.
            now: The optimizer's step, at which a schedule with other numbers begins.
            weights: Whether it also multiplies the KL of random weights.
        """
        cyclical = schedule == "cyclical"
        numbers = {
            "steps": steps,
            "start": start,
            "sigmoid": float(schedule == "sigmoid"),
            "cycles": cycles if cyclical else 1,
            "ratio": ratio if cyclical else 1.0,
        }
        self.of_weights.assign(float(weights))
        old = {name: _value(getattr(self, name)) for name in numbers}
        if any(np.float32(numbers[name]) != old[name] for name in numbers):
            self.begin.assign(now)
            self.passed.assign(0)
        for name, number in numbers.items():
            getattr(self, name).assign(number)

    def time(self, step: Any) -> tf.Tensor:
        """The t of a step of the optimizer.

        Args:
            step: The optimizer's step. If it is before the last that `follow` was
                given, the optimizer is a new one.

        Returns:
            A scalar float32.
        """
        step = tf.cast(step, tf.float32)
        since = step - self.begin
        # The step that `follow` was given has been made, so a new optimizer is one
        # ahead. One step alone cannot be told from none.
        return self.passed + tf.where(since < 0, step + 1.0, since)

    def follow(self, step: Any) -> None:
        """Stores t in a training step, for optimizers to come.

        Args:
            step: The optimizer's step.
        """
        time = self.time(step)
        self.passed.assign(time)
        self.begin.assign(tf.cast(step, tf.float32))

    def weight(self, step: Any) -> tf.Tensor:
        """The weight at a step of the optimizer.

        Args:
            step: As in `time`.

        Returns:
            A scalar float32.
        """
        step = self.time(step)
        steps = tf.maximum(self.steps, 1.0)
        # Of whole numbers the remainder is exact, and 0 where a cycle begins.
        position = tf.math.floormod(step * self.cycles, steps) / (self.ratio * steps)
        rise = tf.where(step < self.steps, tf.minimum(position, 1.0), 1.0)
        low, high = tf.sigmoid(-_STEEPNESS), tf.sigmoid(_STEEPNESS)
        bent = (tf.sigmoid(_STEEPNESS * (2.0 * rise - 1.0)) - low) / (high - low)
        rise = tf.where(self.sigmoid > 0, bent, rise)
        return self.start + (1.0 - self.start) * rise


def _value(variable: Any) -> Any:
    return tf.convert_to_tensor(variable).numpy()


def checked_schedule(
    schedule: str, start: float, cycles: int, ratio: float, caller: str
) -> dict[str, Any]:
    """Checks the arguments of `KLSchedule.set`, except `steps`.

    Args:
        schedule: `"linear"`, `"sigmoid"` or `"cyclical"`.
        start: Weight at the first step, in [0, 1).
        cycles: Number of cycles.
        ratio: Fraction of a cycle in which the weight rises, in (0, 1].
        caller: Name of the caller, for the message.

    Returns:
        A dictionary of the arguments.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> checked_schedule("linear", 0.0, 4, 0.5, "KLWarmup")["schedule"]
        'linear'
    """
    schedule = choice(schedule, SCHEDULES, "schedule", caller)
    if not 0 <= real_number(start) < 1:
        raise ValueError(
            f"`{caller}` expects `start` to be a number in [0, 1). Received: "
            f"start={start!r}. It is the weight at the first step; the last is 1, and "
            "`ELBO(beta=...)` multiplies both."
        )
    if not 0 < real_number(ratio) <= 1:
        raise ValueError(
            f"`{caller}` expects `ratio` to be a number in (0, 1]. Received: ratio="
            f"{ratio!r}. It is the fraction of a cycle in which the weight rises."
        )
    cycles = integer(cycles, "cycles", caller)
    return {"schedule": schedule, "start": start, "cycles": cycles, "ratio": ratio}
