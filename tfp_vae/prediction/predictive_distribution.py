"""The mixture over draws of the weights, and what of its spread comes from them."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae.meta_distributions as meta
from tfp_vae.entries import (
    cdf_of_entries,
    class_probs,
    log_weights,
    quantile_of_entries,
    survival_of_entries,
)
from tfp_vae.serialization import deserialize_distribution, serialize_distribution
from tfp_vae.summaries import summary

tfd: Any = tfp.distributions

# Numbers that `sample` makes at once; it draws from every component.
_AT_ONCE = 2**24


class PredictiveDistribution:
    r"""The result of `tv.predictive`: a mixture of outputs for S draws of the weights.

    .. math:: p(y \mid x) = \frac{1}{S} \sum_{s=1}^S p(y \mid x, w_s)

    For several models it is the mean, over the models, of these mixtures.

    It is a `tfd.MixtureSameFamily`, or a `tfd.Mixture` where the outputs are of several
    families, with batch shape `(n, ...)` and the event shape of the model's output.
    `cdf`, `survival_function`, their logarithms, `quantile` and `entropy` are those of
    each entry of the event, while those of `tfd.Independent` are joint.

    By the law of total variance the spread has two parts. More data would remove the
    first, which comes from the weights, but not the second:

    .. math::

        \mathrm{Var}[y] =
        \mathrm{Var}_w(\mathrm{E}[y \mid w]) + \mathrm{E}_w[\mathrm{Var}(y \mid w)]

    For classes the parts are those of the entropy, in nats:

    .. math:: H[y] = I(y; w) + \mathrm{E}_w[H(y \mid w)]

    Reference:
        Depeweg et al., Decomposition of uncertainty in Bayesian deep learning, 2018.
        https://arxiv.org/abs/1710.07283

    Example:
        >>> p = mixture_of([tfd.Normal([0.0], 3.0), tfd.Normal([8.0], 3.0)], [0.5, 0.5])
        >>> [float(part[0]) for part in (
        ...     p.epistemic_stddev(), p.aleatoric_stddev(), p.stddev())]
        [4.0, 3.0, 5.0]
    """

    batch_shape: Any
    event_shape: Any
    components: Any
    components_distribution: Any
    dtype: Any

    def epistemic_stddev(self) -> tf.Tensor:
        """The standard deviation, over draws of the weights, of the means.

        Returns:
            A tensor of shape `(*batch_shape, *event_shape)`. More data would shrink it.
        """
        return tf.sqrt(self._variance_of(self._of_draws("mean")))

    def aleatoric_stddev(self) -> tf.Tensor:
        """The root of the mean, over draws of the weights, of the variances.

        Returns:
            A tensor of shape `(*batch_shape, *event_shape)`. More data would not shrink
            it.
        """
        return tf.sqrt(self._average(self._of_draws("variance")))

    def aleatoric_entropy(self) -> tf.Tensor:
        """The mean, over draws of the weights, of the entropies of classes.

        Returns:
            Nats, of the shape of `entropy`.

        Raises:
            NotImplementedError: If y is not a class.
        """
        return self._average(_entropy_of(self._apply(class_probs)))

    def epistemic_entropy(self) -> tf.Tensor:
        """The mutual information of a class and the weights.

        Returns:
            `entropy() - aleatoric_entropy()`, in nats.

        Raises:
            NotImplementedError: If y is not a class.
        """
        # As a mean of divergences, which are not negative and lose no digits.
        probs = self._apply(class_probs)
        whole = tf.expand_dims(self._average(probs), self.batch_shape.rank)
        ratio = tf.math.divide_no_nan(probs, whole)
        return self._average(tf.reduce_sum(tf.math.xlogy(probs, ratio), axis=-1))

    def probs_parameter(self) -> tf.Tensor:
        """Probabilities of classes: the mean over draws of the weights.

        Returns:
            A tensor with the classes on its last axis; 0 and 1 for `tfd.Bernoulli`.

        Raises:
            NotImplementedError: If y is not a class.
        """
        return self._average(self._apply(class_probs))

    def cdf(self, value: Any, name: str = "cdf") -> tf.Tensor:
        """P(y <= value) of each entry.

        Args:
            value: A number, or values of shape `(..., *batch_shape, *event_shape)`.
            name: Ignored.

        Returns:
            A tensor of the shape of the values.
        """
        return cdf_of_entries(self, value)

    def log_cdf(self, value: Any, name: str = "log_cdf") -> tf.Tensor:
        """The logarithm of `cdf`."""
        return cdf_of_entries(self, value, log=True)

    def survival_function(self, value: Any, name: str = "survival") -> tf.Tensor:
        """P(y > value) of each entry.

        Args:
            value: As in `cdf`.
            name: Ignored.

        Returns:
            A tensor of the shape of the values.
        """
        return survival_of_entries(self, value)

    def log_survival_function(self, value: Any, name: str = "survival") -> tf.Tensor:
        """The logarithm of `survival_function`."""
        return survival_of_entries(self, value, log=True)

    def quantile(self, value: Any, name: str = "quantile") -> tf.Tensor:
        """The quantiles of each entry.

        Args:
            value: A probability between 0 and 1, or an array of them.
            name: Ignored.

        Returns:
            A tensor of shape `(*value.shape, *batch_shape, *event_shape)`.
        """
        return quantile_of_entries(self, value)

    def __reduce__(self) -> Any:
        """How `pickle` and `copy` make an equal one."""
        weights = tf.reshape(tf.exp(log_weights(self, 0)), [-1, self.number_of_draws])
        same = isinstance(self, meta.MixtureSameFamily)
        parts = [self.components_distribution] if same else self.components
        configs = [serialize_distribution(part, as_lists=False) for part in parts]
        return _restored, (configs, same, weights[0].numpy())

    def _of_draws(self, name: str) -> tf.Tensor:
        return self._apply(lambda distribution: summary(distribution, name))

    def _apply(self, fn: Callable[[Any], tf.Tensor]) -> tf.Tensor:
        """A function of each component, on an axis behind those of the batch."""
        if isinstance(self, meta.MixtureSameFamily):
            return fn(self.components_distribution)
        return tf.stack([fn(part) for part in self.components], self.batch_shape.rank)

    def _average(self, values: tf.Tensor) -> tf.Tensor:
        """The mean over the axis of the components."""
        axis = self.batch_shape.rank
        weights = tf.exp(log_weights(self, values.shape.rank - axis - 1))
        return tf.reduce_sum(values * tf.cast(weights, values.dtype), axis=axis)

    def _variance_of(self, values: tf.Tensor) -> tf.Tensor:
        mean = tf.expand_dims(self._average(values), self.batch_shape.rank)
        return self._average(tf.square(values - mean))

    def _mean(self) -> tf.Tensor:
        return self._average(self._of_draws("mean"))

    def _variance(self) -> tf.Tensor:
        within = self._average(self._of_draws("variance"))
        return within + self._variance_of(self._of_draws("mean"))

    def _stddev(self) -> tf.Tensor:
        return tf.sqrt(self._variance())

    def _covariance(self) -> tf.Tensor:
        if not self.event_shape.rank:
            raise NotImplementedError("A number has no covariance.")
        within = self._average(self._of_draws("covariance"))
        means = self._of_draws("mean")
        leading = tf.shape(means)[: self.batch_shape.rank + 1]
        flat = tf.reshape(means, tf.concat([leading, [-1]], axis=0))
        mean = tf.expand_dims(self._average(flat), self.batch_shape.rank)
        away = flat - mean
        return within + self._average(away[..., :, None] * away[..., None, :])

    def _entropy(self) -> tf.Tensor:
        return _entropy_of(self.probs_parameter())

    def _mode(self) -> tf.Tensor:
        likeliest = tf.argmax(self.probs_parameter(), axis=-1)
        if likeliest.shape.rank < self.batch_shape.rank + self.event_shape.rank:
            likeliest = tf.one_hot(likeliest, self.event_shape[-1])
        return tf.cast(likeliest, self.dtype)

    def _log_prob(self, value: Any) -> tf.Tensor:
        event, batch = self.event_shape, self.batch_shape
        last = value.shape[value.shape.rank - event.rank :] if event.rank else []
        lead = value.shape[: value.shape.rank - event.rank]
        fits = value.shape.rank >= event.rank and event.is_compatible_with(last)
        try:
            fits = fits and bool(tf.broadcast_static_shape(lead, batch) is not None)
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                "`log_prob` expects values whose last axes are the batch shape "
                f"{tuple(batch)} and the event shape {tuple(event)}. Received: values "
                f"of shape {tuple(value.shape)}. Reshape them; an axis of length 1 is "
                "added by `y[:, None]`."
            )
        return super()._log_prob(value)  # type: ignore[misc]

    def _sample_n(self, n: Any, seed: Any = None) -> tf.Tensor:
        known = tf.get_static_value(n)
        sizes = [*self.batch_shape, *self.event_shape]
        draw = super()._sample_n  # type: ignore[misc]
        if known is None or None in sizes:
            return draw(n, seed=seed)
        one = int(tf.reduce_prod([1, *sizes])) * self.number_of_draws
        rows = max(1, _AT_ONCE // max(one, 1))
        if known <= rows:
            return draw(n, seed=seed)
        counts = [min(rows, known - start) for start in range(0, int(known), rows)]
        seeds = tfp.random.split_seed(seed, n=len(counts), salt="predictive")
        parts = [draw(count, seed=seeds[i]) for i, count in enumerate(counts)]
        return tf.concat(parts, axis=0)

    @property
    def number_of_draws(self) -> int:
        """The number of components: draws of the weights, or models, or both."""
        if isinstance(self, meta.MixtureSameFamily):
            return int(self.components_distribution.batch_shape[-1])
        return len(self.components)


class PredictiveOfOneFamily(PredictiveDistribution, tfd.MixtureSameFamily):
    """A predictive distribution with all components in one batched distribution."""


class PredictiveOfFamilies(PredictiveDistribution, tfd.Mixture):
    """A predictive distribution with a list of components."""


def mixture_of(components: Any, weights: Sequence[float]) -> PredictiveDistribution:
    """Makes the mixture over draws of the weights.

    Args:
        components: One distribution, with the draws on the last axis of its batch; or a
            list of distributions of one batch and event shape.
        weights: The weight of each draw.

    Returns:
        A distribution.

    Example:
        >>> p = mixture_of(tfd.Normal([[0.0, 2.0]], 1.0), [0.5, 0.5])
        >>> p.mean().numpy(), p.number_of_draws
        (array([1.], dtype=float32), 2)
    """
    several = isinstance(components, list | tuple)
    dtype = tf.as_dtype((components[0] if several else components).dtype)
    logits = tf.math.log(tf.constant(weights, dtype if dtype.is_floating else None))
    if not several:
        return PredictiveOfOneFamily(
            tfd.Categorical(logits), components, name="Predictive"
        )
    batch = components[0].batch_shape_tensor()
    shape = tf.concat([batch, tf.shape(logits)], axis=0)
    logits = tf.broadcast_to(logits, shape)
    static = components[0].batch_shape.concatenate([len(components)])
    return PredictiveOfFamilies(
        tfd.Categorical(tf.ensure_shape(logits, static)),
        list(components),
        name="Predictive",
    )


def _restored(configs: Any, same: bool, weights: Any) -> PredictiveDistribution:
    parts = [deserialize_distribution(config) for config in configs]
    return mixture_of(parts[0] if same else parts, weights)


def _entropy_of(probs: tf.Tensor) -> tf.Tensor:
    return -tf.reduce_sum(tf.math.xlogy(probs, probs), axis=-1)
