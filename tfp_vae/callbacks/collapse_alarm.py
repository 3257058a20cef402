"""Warns when the latents of a VAE carry no information about x."""

import math
import warnings
from typing import Any

import keras
import numpy as np

from tfp_vae.callbacks.watching import check_vae, checked_examples, undisturbed
from tfp_vae.checks import integer, positive_number
from tfp_vae.draws import draw
from tfp_vae.evaluation.information import mutual_information
from tfp_vae.kl.divergence import kl_divergence


class CollapseAlarm(keras.callbacks.Callback):
    r"""Warns when a VAE's posterior has collapsed: z carries no information about x.

    At the end of each epoch, over the n examples x,

    .. math::

        \mathrm{information} &= \min(I(x; z), \mathrm{KL}) \\
        \mathrm{KL} &= \frac{1}{n} \sum_i \mathrm{KL}(q(z \mid x_i) \,\|\, p(z))

    in nats. Each is an upper bound on what z tells about x. The KL detects a posterior
    that equals the prior, including a prior p(z | y). The mutual information detects
    one that is the same for all x, even if free bits or a fixed concentration keep the
    KL up. The alarm goes off, once in a call of `fit`, when the information is below
    `threshold` for `patience` epochs in a row. A few unused coordinates are no
    collapse: a VAE prunes what it does not need.

    The callback does not change training.

    Reference:
        Bowman et al., Generating sentences from a continuous space, 2016.
        https://arxiv.org/abs/1511.06349

    Args:
        x: Inputs of shape `(n, ...)`, a few hundred: the work grows with n^2, and the
            largest information that can be measured is log n.
        y: Conditions, if the model is conditional.
        patience: Number of epochs in a row.
        threshold: Nats below which z counts as uninformative; less than log n.

    Attributes:
        information: Nats at the end of the last epoch measured, an upper bound up to
            noise. Nothing is measured after the alarm.
        epoch: The epoch in which the alarm went off, from 0, or `None`.

    Raises:
        ValueError: If x is not arrays or too short, or the model is not a `tv.VAE`.

    Example:
        >>> CollapseAlarm(np.zeros([300, 8]), patience=10).threshold
        0.05
    """

    def __init__(
        self, x: Any, y: Any = None, patience: int = 5, threshold: float = 0.05
    ) -> None:
        super().__init__()
        self._count = checked_examples(x, "CollapseAlarm", fewest=2, y=y)
        self.x, self.y = x, y
        self.patience = integer(patience, "patience", "CollapseAlarm")
        self.threshold = positive_number(threshold, "threshold", "CollapseAlarm")
        if self.threshold >= math.log(self._count):
            raise ValueError(
                f"`CollapseAlarm` expects a threshold below log n, the largest mutual "
                f"information of n examples. Received: threshold={threshold}"
                f", n={self._count}. Give more examples, or a lower threshold."
            )
        self.information = math.nan
        self.epoch: int | None = None
        self._epochs_below = 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Resets the count of epochs."""
        check_vae(self.model, "CollapseAlarm")
        self.epoch, self._epochs_below = None, 0

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measures the information, and warns."""
        if self.epoch is not None:
            return
        with undisturbed(self.model):
            rate, shared = self._measured()
        self.information = min(rate, shared)
        below = self.information < self.threshold
        self._epochs_below = self._epochs_below + 1 if below else 0
        if self._epochs_below < self.patience:
            return
        self.epoch = epoch
        epochs = "an epoch" if self.patience == 1 else f"{self.patience} epochs"
        warnings.warn(
            "`CollapseAlarm`: the posterior has collapsed: z carries no information "
            f"about x. The mutual information is {max(shared, 0.0):.3g} nats, of at "
            f"most log n = {math.log(self._count):.3g}; the KL is {rate:.3g} nats. The "
            f"smaller was below {self.threshold:g} for {epochs}. Try KL warm-up "
            "(`KLWarmup(epochs=...)`), free bits (`ELBO(free_bits=...)`), a lower beta "
            "or a weaker decoder.",
            stacklevel=2,
        )

    def _measured(self) -> tuple[float, float]:
        """KL and mutual information, in nats."""
        y = self.model.conditions_of(self.x, self.y, "CollapseAlarm")
        q = self.model.encode(self.x, y)
        prior = self.model.prior_distribution(y)
        # A fixed seed: without a closed form, each epoch uses the same noise.
        kl = kl_divergence(q, prior, test_points=lambda: draw(q, seed=(0, 1)))
        return float(np.mean(kl)), mutual_information(q, seed=0)
