"""Independent counts, optionally zero-inflated."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import Shape, boolean
from tfp_vae.constraints import LOG_LIMIT, bounded, positive
from tfp_vae.distributions.counts import NegativeBinomial, Poisson
from tfp_vae.layers.events import event_size, independent, split_event
from tfp_vae.layers.independent_layer import IndependentLayer

tfd = tfp.distributions


class CountsLayer(IndependentLayer):
    r"""A count for each coordinate, optionally zero-inflated.

    .. math::

        p(x) &= \prod_i \bigl( \pi_i [x_i = 0] + (1 - \pi_i) \,
        p(x_i; \mathrm{parameters}_i) \bigr) \\
        \pi &= \mathrm{sigmoid}(\mathrm{logits})

    where pi is 0 unless `zero_inflated`. The logits of pi come last in the inputs. A
    subclass defines `parts` and `coordinates`, as for `IndependentLayer`.

    Args:
        event_shape: Shape of one draw, or an integer for a vector.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        zero_inflated: Whether a coordinate has an extra probability of 0.
        **kwargs: Passed to `IndependentLayer`, such as `parameters_axis`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`.

    Returns:
        A `tfd.Independent` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the last axis of the inputs is not `params_size`.

    Example:
        >>> IndependentPoisson(3, zero_inflated=True)(tf.zeros([5, 6])).event_shape
        TensorShape([3])
    """

    def __init__(
        self,
        event_shape: Shape = (),
        convert_to_tensor_fn: Any = "sample",
        validate_args: bool = False,
        zero_inflated: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(event_shape, convert_to_tensor_fn, validate_args, **kwargs)
        caller = type(self).__name__
        self.zero_inflated = boolean(zero_inflated, "zero_inflated", caller)

    @classmethod
    def params_size(
        cls,
        event_shape: Shape = (),
        name: str | None = None,
        zero_inflated: bool = False,
    ) -> int:
        """`parts` numbers per coordinate, and one logit if `zero_inflated`."""
        caller = name or "params_size"
        parts = cls.parts + boolean(zero_inflated, "zero_inflated", caller)
        return parts * event_size(event_shape, caller)

    def make_distribution(self, parameters: tf.Tensor) -> Any:
        """Makes the distribution from the inputs."""
        parts = self.parts + self.zero_inflated
        raw = split_event(parameters, self.event_shape, parts, self.description)
        if self.zero_inflated:
            # TFP cannot choose between zero and a count by a logit that is NaN.
            logits = bounded(raw[self.parts], -LOG_LIMIT, LOG_LIMIT)
            unknown = tf.math.is_nan(logits)
            raw = [tf.where(unknown, logits, part) for part in raw]
            raw[self.parts] = tf.where(unknown, -LOG_LIMIT, logits)
        base = self.coordinates(*raw[: self.parts])
        if self.zero_inflated:
            # TFP 0.25 expects half the log-odds: its weights are softmax([l, -l]).
            base = tfd.Inflated(
                base,
                inflated_loc_logits=raw[self.parts] / 2,
                validate_args=self.validate_args,
            )
        return independent(base, self.event_shape, self.validate_args)


@keras.saving.register_keras_serializable("tfp_vae")
class IndependentPoisson(CountsLayer):
    r"""A Poisson count for each coordinate, given the logarithm of its rate.

    .. math::

        \log p(x) = \sum_i \bigl( x_i \, \mathrm{log\_rate}_i
        - \exp(\mathrm{log\_rate}_i) - \log x_i! \bigr), \quad
        x_i \in \{0, 1, 2, \ldots\}

    The log rate is clipped to [-40, 40], which keeps float32 finite. With
    `zero_inflated` a count is 0 with probability sigmoid(logits), and Poisson
    otherwise; the logits follow the log rates in the inputs.

    Reference:
        `tfp.layers.IndependentPoisson`, `tfp.distributions.Inflated`.

    Args:
        event_shape: Shape of one draw, or an integer for a vector.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        zero_inflated: Whether a coordinate has an extra probability of 0.
        **kwargs: Passed to `IndependentLayer`, such as `parameters_axis`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`.

    Returns:
        An `Independent(Poisson)` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the last axis of the inputs is not `params_size`.

    Example:
        >>> p = IndependentPoisson(3, "mean")(tf.zeros([5, 3]))
        >>> p.event_shape, float(p[0, 0])
        (TensorShape([3]), 1.0)
    """

    parts = 1

    @staticmethod
    def new(
        params: Any,
        event_shape: Shape = (),
        validate_args: bool = False,
        name: str | None = None,
    ) -> Any:
        """Makes the distribution from a tensor of log rates."""
        caller = name or "IndependentPoisson"
        with tf.name_scope(caller):
            (log_rate,) = split_event(params, event_shape, 1, caller)
            base = _poisson(log_rate, validate_args)
            return independent(base, event_shape, validate_args)

    def coordinates(self, *raw: tf.Tensor) -> Any:
        """Poisson counts from log rates."""
        return _poisson(raw[0], self.validate_args)


def _poisson(log_rate: tf.Tensor, validate_args: bool) -> Any:
    log_rate = bounded(log_rate, -LOG_LIMIT, LOG_LIMIT)
    return Poisson(log_rate=log_rate, validate_args=validate_args)


@keras.saving.register_keras_serializable("tfp_vae")
class IndependentNegativeBinomial(CountsLayer):
    r"""A negative binomial count for each coordinate: a Poisson with a random rate.

    .. math::

        \log p(x) &= \sum_i \Bigl( \log \binom{x_i + n_i - 1}{x_i}
        + x_i \log s_i + n_i \log(1 - s_i) \Bigr) \\
        n &= \max(\mathrm{softplus}(\mathrm{raw}), 10^{-5}), \quad
        s = \mathrm{sigmoid}(\mathrm{logits})

    The mean is n s / (1 - s) = n exp(logits), the variance mean + mean^2 / n. The total
    count n is also called the inverse dispersion. The inputs are all raw n, then all
    logits; with `zero_inflated` the logits of the extra zeros follow. XLA compiles the
    log-density, but not TFP's draws: set `convert_to_tensor_fn="mean"` there.

    Reference:
        `tfp.distributions.NegativeBinomial`; Lopez et al., Deep generative modeling for
        single-cell transcriptomics, 2018.

    Args:
        event_shape: Shape of one draw, or an integer for a vector.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        zero_inflated: Whether a coordinate has an extra probability of 0.
        **kwargs: Passed to `IndependentLayer`, such as `parameters_axis`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`.

    Returns:
        An `Independent(NegativeBinomial)` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the last axis of the inputs is not `params_size`.

    Example:
        >>> p = IndependentNegativeBinomial(3, "mean")(tf.zeros([5, 6]))
        >>> p.event_shape, round(float(p[0, 0]), 4)
        (TensorShape([3]), 0.6931)
    """

    parts = 2

    def coordinates(self, *raw: tf.Tensor) -> Any:
        """Negative binomials from raw total counts and logits."""
        total_count, logits = raw
        return NegativeBinomial(
            positive(total_count),
            logits=bounded(logits, -LOG_LIMIT, LOG_LIMIT),
            require_integer_total_count=False,
            validate_args=self.validate_args,
        )
