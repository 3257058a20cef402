"""Raises the weight of the KL during training."""

import math
import warnings
from typing import Any

import keras
import tensorflow as tf

from tfp_vae.checks import boolean, integer, positive_number
from tfp_vae.kl.schedule import KLSchedule, checked_schedule


class KLWarmup(keras.callbacks.Callback):
    r"""Raises the weight of a VAE's KL from `start` to 1, in steps or epochs.

    Give it to `fit`::

        vae.fit(x, epochs=50, callbacks=[tv.KLWarmup(epochs=10)])

    At step t of the optimizer, up to the step `steps`,

    .. math::

        \mathrm{weight} &= \mathrm{start} + (1 - \mathrm{start}) \, r \\
        r &= \begin{cases}
        t / \mathrm{steps} & \text{linear} \\
        \text{logistic in } t \text{ from 0 to 1} & \text{sigmoid} \\
        \min(1, (t \bmod L) / (\mathrm{ratio} \, L)) & \text{cyclical}
        \end{cases}

    with L = steps / cycles; then it stays at 1. The weight multiplies `ELBO(beta=...)`
    and is shown as `kl_weight`. It is computed in the graph from
    `optimizer.iterations`, so it changes with every step, even if Keras runs many steps
    per execution. The schedule is saved with the model: resumed training, also with
    another optimizer, continues it, with the same callback or without. A callback with
    other numbers starts its own schedule at the current step. In an
    `ImportanceWeightedBound` or `RenyiBound` the weight multiplies the log-ratio of
    prior and posterior in the log-weights.

    While the weight grows, so does `val_loss`: monitor `val_elbo`, which is unweighted.
    With `ELBO(beta=...)` or another objective, `val_elbo` is not what is trained:
    monitor `val_loss`, with `EarlyStopping(start_from_epoch=epochs)`.

    Reference:
        Bowman et al., Generating sentences from a continuous space, 2016 (sigmoid),
        https://arxiv.org/abs/1511.06349; Fu et al., Cyclical annealing schedule, 2019,
        https://arxiv.org/abs/1903.10145.

    Args:
        epochs: Number of epochs after which the weight stays at 1.
        steps: The same in steps of the optimizer; give one of the two.
        schedule: `"linear"`, `"sigmoid"` or `"cyclical"`.
        start: Weight at the first step.
        cycles: Number of cycles, if cyclical.
        ratio: Fraction of a cycle in which the weight rises, if cyclical.
        weights: Whether the weight also multiplies the KL of random weights, such as
            those of `tv.Variational` in the decoder.

    Raises:
        ValueError: If not exactly one of `epochs` and `steps` is given, a number is out
            of its range, the model is not a `tv.VAE`, or `epochs` is given and `fit`
            does not know how many steps an epoch has.

    Example:
        >>> KLWarmup(epochs=10).schedule
        'linear'
    """

    def __init__(
        self,
        epochs: float | None = None,
        steps: int | None = None,
        schedule: str = "linear",
        start: float = 0.0,
        cycles: int = 4,
        ratio: float = 0.5,
        weights: bool = False,
    ) -> None:
        super().__init__()
        if (epochs is None) == (steps is None):
            raise ValueError(
                "`KLWarmup` expects `epochs` or `steps`. Received: "
                f"epochs={epochs!r}, steps={steps!r}. Give one of them."
            )
        self.epochs = epochs
        if epochs is not None:
            self.epochs = positive_number(epochs, "epochs", "KLWarmup")
        self.steps = steps if steps is None else integer(steps, "steps", "KLWarmup")
        self.schedule = schedule
        self._unchecked: int | None = None
        self._rest = checked_schedule(schedule, start, cycles, ratio, "KLWarmup")
        self._rest["weights"] = boolean(weights, "weights", "KLWarmup")

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Sets the schedule of the model."""
        schedule = getattr(self.model, "kl_schedule", None)
        if not isinstance(schedule, KLSchedule):
            raise ValueError(
                "`KLWarmup` expects to train a `tv.VAE`. Received: a "
                f"{type(self.model).__name__}. In other models give "
                "`KLDivergenceAddLoss(weight=...)` a variable, and assign to it."
            )
        steps = self._length(self._steps_per_epoch())
        now = float(tf.convert_to_tensor(self.model.optimizer.iterations))
        schedule.set(steps=steps, now=now, **self._rest)
        self._unchecked = steps

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Warns once if training ends before the schedule does."""
        steps, per_epoch = self._unchecked, self._steps_per_epoch()
        self._unchecked = None
        if steps is None or per_epoch is None:
            return
        done = float(self.model.kl_schedule.time(self.model.optimizer.iterations))
        total = done + per_epoch * (self.params["epochs"] - epoch)
        if total < steps:
            warnings.warn(
                f"`KLWarmup`: the warm-up takes {steps} steps, but training ends after "
                f"{total:g}, so the weight of the KL never reaches 1 and the loss is "
                "not a bound on log p(x). Longer training or a shorter warm-up helps.",
                stacklevel=2,
            )

    def _length(self, per_epoch: float | None) -> int:
        if self.steps is not None:
            return self.steps
        if per_epoch is None:
            raise ValueError(
                "`KLWarmup(epochs=...)` expects `fit` to know how many steps an epoch "
                "has. Received: data of unknown length. Give `steps_per_epoch` to "
                "`fit`, or `steps` to `KLWarmup`."
            )
        return math.ceil((self.epochs or 0.0) * per_epoch)

    def _steps_per_epoch(self) -> float | None:
        """Steps of the optimizer in an epoch, or `None` if `fit` does not know it."""
        batches = self.params.get("steps")
        if batches is None:
            return None
        optimizer = self.model.optimizer  # half precision wraps another one
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        together = getattr(optimizer, "gradient_accumulation_steps", None)
        return batches / (together or 1)
