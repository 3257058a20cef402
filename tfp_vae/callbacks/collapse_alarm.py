"""Notices when the latents of a VAE in training say nothing of x."""

import math
import warnings
from typing import Any

import keras
import numpy as np

from tfp_vae.callbacks.watching import check_vae, checked_examples, undisturbed
from tfp_vae.checks import integer, positive_number
from tfp_vae.draws import draw
from tfp_vae.evaluation import mutual_information
from tfp_vae.kl.divergence import kl_divergence


class CollapseAlarm(keras.callbacks.Callback):
    """Warns when a VAE's posterior has collapsed: z tells nothing of x.

    At the end of each epoch, over the n examples x,

        information = min(I(x; z), KL),   KL = 1/n sum_i KL(q(z | x_i) || p(z))

    in nats. What z tells of x is at most either: the KL finds a posterior that has
    become the prior, also a prior p(z | y); the mutual information finds one that is
    the same for all x, where free bits or a fixed concentration keep the KL up. When
    the information is below `threshold` at `patience` epochs in a row, the alarm goes
    off, once in a call of `fit`. Some coordinates without a use are no collapse: a VAE
    prunes what it does not need.

    Training is the same with it and without.

    Reference:
        Bowman et al., Generating sentences from a continuous space, 2016.
        https://arxiv.org/abs/1511.06349

    Args:
        x: Inputs of shape `(n, ...)`, a few hundred: the work grows with n^2, and what
            can be seen with log n.
        y: Conditions, where the model is conditional.
        patience: Number of epochs in a row.
        threshold: Nats below which z tells nothing; below log n.

    Attributes:
        information: Nats at the end of the last epoch, an upper bound up to its noise.
        epoch: The epoch in which the alarm went off, from 0, or `None`.

    Raises:
        ValueError: If x are no arrays or too few, or the model is no `tv.VAE`.

    Example:
        >>> CollapseAlarm(np.zeros([300, 8]), patience=10).threshold
        0.05
    """

    def __init__(
        self, x: Any, y: Any = None, patience: int = 5, threshold: float = 0.05
    ) -> None:
        super().__init__()
        self._count = checked_examples(x, "CollapseAlarm", fewest=2)
        self.x, self.y = x, y
        self.patience = integer(patience, "patience", "CollapseAlarm")
        self.threshold = positive_number(threshold, "threshold", "CollapseAlarm")
        if self.threshold >= math.log(self._count):
            raise ValueError(
                f"`CollapseAlarm` expects a threshold below log n, the most that z can "
                f"tell about which of n examples it is. Received: threshold={threshold}"
                f", n={self._count}. Give more examples, or a lower threshold."
            )
        self.information = math.nan
        self.epoch: int | None = None
        self._epochs_below = 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Begins to count."""
        check_vae(self.model, "CollapseAlarm")
        self.epoch, self._epochs_below = None, 0

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measures, and warns."""
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
        warnings.warn(
            "`CollapseAlarm` expects the latents to tell something of x. Received: a "
            f"mutual information of {max(shared, 0.0):.3g} nats, of at most log n = "
            f"{math.log(self._count):.3g}, and a KL of {rate:.3g} nats, below "
            f"{self.threshold:g} for {self.patience} epochs: the posterior has "
            "collapsed. Let the KL come in slowly, `KLWarmup(epochs=...)`, do not ask "
            "for the first nats, `ELBO(free_bits=...)`, lower a beta, or give the "
            "decoder less power to do without z.",
            stacklevel=2,
        )

    def _measured(self) -> tuple[float, float]:
        """KL and mutual information, in nats."""
        q = self.model.encode(self.x, self.y)
        prior = self.model.prior_distribution(self.y)
        # Where there is no closed form, with the same noise at each epoch.
        kl = kl_divergence(q, prior, test_points=lambda: draw(q, seed=(0, 1)))
        return float(np.mean(kl)), mutual_information(q, seed=0)
