"""Counts with a given total, such as bags of words."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import check_width, integer
from tfp_vae.constraints import positive
from tfp_vae.distributions.counts import (
    DirichletMultinomial as DirichletMultinomialDistribution,
)
from tfp_vae.layers.vector_layer import VectorLayer

tfd: Any = tfp.distributions

INPUT = "input"


class SharedTotalLayer(VectorLayer):
    """Counts of d categories with a given total.

    The total is one number, or `"input"`. With `"input"` the inputs have one more
    column, the last, with the total of each example. Append it to the others, in
    float32 also under a policy of half precision: bfloat16 rounds totals above 256,
    float16 those above 2,048::

        Concatenate(dtype="float32")([Dense(params_size(d))(h), total])

    A subclass defines `from_total`.

    Args:
        event_size: The number of categories d.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time. Without it,
            the log-likelihood of values with another total is meaningless;
            `check_values` finds such values.
        total_count: The total, an integer, or `"input"`.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: Tensor of shape `(..., event_size)`, or `(..., event_size + 1)` if
            `total_count="input"`.

    Returns:
        A distribution with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the last axis of the inputs has another width, the total is not
            positive, or inputs with totals are in half precision.

    Example:
        >>> p = Multinomial(3, total_count="input")(tf.constant([[0.0, 0.0, 0.0, 6.0]]))
        >>> p.mean().numpy()
        array([[2., 2., 2.]], dtype=float32)
    """

    def __init__(
        self,
        event_size: int,
        convert_to_tensor_fn: Any = "sample",
        validate_args: bool = False,
        *,
        total_count: int | str,
        **kwargs: Any,
    ) -> None:
        super().__init__(event_size, convert_to_tensor_fn, validate_args, **kwargs)
        caller = type(self).__name__
        self.total_count: Any = INPUT
        if not isinstance(total_count, str) or total_count != INPUT:
            self.total_count = integer(total_count, "total_count", caller)

    def __call__(self, inputs: Any, *others: Any, **kwargs: Any) -> Any:
        """Calls the layer; Keras would cast totals that have already been rounded."""
        dtype = tf.as_dtype(getattr(inputs, "dtype", tf.float32))
        if self.total_count == INPUT and dtype in (tf.float16, tf.bfloat16):
            raise ValueError(
                f"`{self.description}` expects inputs in float32 or float64. Received: "
                f"inputs.dtype={dtype.name}, which rounds large totals. Append the "
                'total by `Concatenate(dtype="float32")`.'
            )
        return super().__call__(inputs, *others, **kwargs)

    @property
    def parameters_width(self) -> int:
        """The number of categories, plus 1 if the total is an input."""
        return self.event_size + (self.total_count == INPUT)

    @property
    def description(self) -> str:
        """The layer as error messages show it."""
        return f"{super().description[:-1]}, total_count={self.total_count!r})"

    def from_total(self, total_count: Any, raw: tf.Tensor) -> Any:
        """Makes the distribution from the total and one parameter per category.

        Args:
            total_count: Tensor of shape `(...)`, or one number.
            raw: Tensor of shape `(..., event_size)`.

        Returns:
            A distribution.
        """
        raise NotImplementedError

    def make_distribution(self, parameters: tf.Tensor) -> Any:
        """Makes the distribution from the inputs."""
        check_width(parameters.shape, self.parameters_width, self.description)
        raw, total = parameters[..., : self.event_size], self.total_count
        if total == INPUT:
            return self.from_total(parameters[..., self.event_size], raw)
        return self.from_total(tf.cast(total, raw.dtype), raw)

    def distribution_for(self, values: tf.Tensor) -> Any:
        """As in the base class; with `"input"`, the totals are those of the values."""
        total = tf.reduce_sum(values, axis=-1)
        if self.total_count != INPUT:
            total = tf.cast(self.total_count, values.dtype)
        return self.from_total(total, tf.zeros_like(values))


@keras.saving.register_keras_serializable("tfp_vae")
class Multinomial(SharedTotalLayer):
    r"""Counts of d categories among n draws.

    .. math::

        \log p(x) = \log n! - \sum_i \log x_i!
        + \sum_i x_i \log \mathrm{softmax}(\mathrm{logits})_i

    Reference:
        `tfp.distributions.Multinomial`.

    Args:
        event_size: The number of categories d.
        convert_to_tensor_fn: See `DistributionLayer`; also `"logits"` and `"probs"`.
        validate_args: Whether TFP checks parameters and values at run time.
        total_count: The total n; `"input"` if it is the last column of the inputs.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: Tensor of logits, of shape `(..., event_size)`; with one more column if
            `total_count="input"`.

    Returns:
        A `tfd.Multinomial` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the last axis of the inputs has another width, or the total is
            not positive.

    Example:
        >>> Multinomial(4, "mean", total_count=100)(tf.zeros([1, 4])).numpy()
        array([[25., 25., 25., 25.]], dtype=float32)
    """

    def from_total(self, total_count: Any, raw: tf.Tensor) -> Any:
        """A multinomial from logits."""
        return tfd.Multinomial(
            total_count, logits=raw, validate_args=self.validate_args
        )


@keras.saving.register_keras_serializable("tfp_vae")
class DirichletMultinomial(SharedTotalLayer):
    r"""Counts of d categories among n draws, with Dirichlet probabilities.

    .. math::

        \log p(x) &= \log n! - \sum_i \log x_i! + \log B(a + x) - \log B(a) \\
        a &= \max(\mathrm{softplus}(\mathrm{raw}), 10^{-5})

    with B the multivariate beta function. It is a multinomial with more variance.

    Reference:
        `tfp_vae.distributions.DirichletMultinomial`.

    Args:
        event_size: The number of categories d.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        total_count: The total n; `"input"` if it is the last column of the inputs.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: Tensor of raw concentrations, of shape `(..., event_size)`; with one
            more column if `total_count="input"`.

    Returns:
        A `tfd.DirichletMultinomial` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the last axis of the inputs has another width, or the total is
            not positive.

    Example:
        >>> DirichletMultinomial(4, "mean", total_count=100)(tf.zeros([1, 4])).numpy()
        array([[25., 25., 25., 25.]], dtype=float32)
    """

    def from_total(self, total_count: Any, raw: tf.Tensor) -> Any:
        """A Dirichlet-multinomial from raw concentrations."""
        return DirichletMultinomialDistribution(
            total_count, positive(raw), validate_args=self.validate_args
        )
