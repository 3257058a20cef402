"""Independent coordinates with heavy tails."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import Shape, positive_number
from tfp_vae.constraints import SCALE_FLOOR, positive
from tfp_vae.layers.events import event_size
from tfp_vae.layers.independent_layer import IndependentLayer

tfd = tfp.distributions


@keras.saving.register_keras_serializable("tfp_vae")
class IndependentStudentT(IndependentLayer):
    r"""Student's t for each coordinate, for data with outliers.

    .. math::

        \log p(x) &= \sum_i \log \mathrm{StudentT}(x_i; \mathrm{df}_i,
        \mathrm{loc}_i, \mathrm{scale}_i) \\
        \mathrm{scale} &= \max(\mathrm{softplus}(\mathrm{raw}),
        \mathrm{scale\_floor}) \\
        \mathrm{df} &= 1 + \max(\mathrm{softplus}(\mathrm{raw}), 10^{-5})

    The mean exists, because df > 1; with a fixed `df`, only if that is above 1. The
    inputs are all `loc`, then all raw scales, then all raw degrees of freedom unless
    `df` is fixed.

    Reference:
        `tfp.distributions.StudentT`.

    Args:
        event_shape: Shape of one draw, or an integer for a vector.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        scale_floor: Smallest scale.
        df: A number for fixed degrees of freedom; `None` to take them from the inputs.
        **kwargs: Passed to `IndependentLayer`, such as `parameters_axis`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`.

    Returns:
        An `Independent(StudentT)` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the last axis of the inputs is not `params_size`, or `df` is not
            positive.

    Example:
        >>> p = IndependentStudentT(3, df=4.0)(tf.zeros([5, 6]))
        >>> p.event_shape, IndependentStudentT.params_size(3)
        (TensorShape([3]), 9)
    """

    parts = 3

    def __init__(
        self,
        event_shape: Shape = (),
        convert_to_tensor_fn: Any = "sample",
        validate_args: bool = False,
        scale_floor: float = SCALE_FLOOR,
        df: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(event_shape, convert_to_tensor_fn, validate_args, **kwargs)
        caller = type(self).__name__
        self.scale_floor = positive_number(scale_floor, "scale_floor", caller)
        self.df = None if df is None else positive_number(df, "df", caller)

    @classmethod
    def params_size(
        cls, event_shape: Shape = (), name: str | None = None, df: float | None = None
    ) -> int:
        """`loc`, raw scale and, unless `df` is given, raw `df` per coordinate."""
        parts = 3 if df is None else 2
        return parts * event_size(event_shape, name or "params_size")

    def coordinates(self, *raw: tf.Tensor) -> Any:
        """Student's t from `loc`, raw scale and raw `df`."""
        loc, scale, *df = raw
        return tfd.StudentT(
            1 + positive(df[0]) if df else tf.constant(self.df, loc.dtype),
            loc,
            positive(scale, self.scale_floor),
            validate_args=self.validate_args,
        )
