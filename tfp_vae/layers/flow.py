"""Normalizing flows: from the distribution of u to that of f(u)."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import integer, keras_object
from tfp_vae.kl.prior import keras_variables
from tfp_vae.layers.autoregressive_network import (
    AutoregressiveNetwork,
    checked_hidden_units,
)
from tfp_vae.layers.events import batch_axes
from tfp_vae.layers.flow_layer import FlowLayer, masked_autoregressive, soft_clip
from tfp_vae.serialization import (
    serialize_distribution,
)

tfb = tfp.bijectors
tfd = tfp.distributions

SPLINE_RANGE = 5.0
SPLINE_BIN_FLOOR = 0.05
SPLINE_LOG_SLOPE_BOUND = 3.0
_AUTOREGRESSIVE = ("maf", "iaf")
_COUPLING = ("realnvp", "spline")
_KINDS = _AUTOREGRESSIVE + _COUPLING


@keras.saving.register_keras_serializable("tfp_vae")
class Flow(FlowLayer):
    r"""A normalizing flow applied to the distribution that the previous layer outputs.

    .. math::

        x = f_K(\ldots f_1(u)), \quad \log p(x) = \log p(u) - \sum_k \log |\det df_k|

    With the outputs s and m of a network, each f_k is

    .. math::

        \text{maf:} &\quad x_i = u_i \exp(s_i(x_{<i})) + m_i(x_{<i}) \\
        \text{iaf:} &\quad x_i = (u_i - m_i(u_{<i})) \exp(-s_i(u_{<i})) \\
        \text{realnvp:} &\quad x_a = u_a, \quad x_b = u_b \exp(s(u_a)) + m(u_a) \\
        \text{spline:} &\quad x_a = u_a, \quad x_b = \mathrm{spline}(u_b; u_a)

    where the spline of u_b is rational quadratic, with parameters that depend on u_a.

    Every second transform reverses the order of the coordinates: i runs backwards, a
    and b swap. A single coupling transform leaves half of the coordinates unchanged.

    A flow starts as the identity. Its log scales are bounded, s = 5 tanh(raw / 5), so
    that large inputs stay finite. The spline has `num_bins` bins on [-5, 5], each at
    least a twentieth of the mean size, and slopes in [exp(-3), exp(3)] at its knots. It
    is the identity outside. The bounds keep its inverse accurate in float32.

    One direction of maf and iaf needs d sequential passes through each network: draws
    of maf, and `log_prob` of iaf at values that it did not draw. For draws of iaf,
    `experimental_sample_and_log_prob` and the KL need one pass. XLA compiles draws,
    log-densities and their gradients for all four; the spline takes longest.

    Reference:
        Papamakarios, Pavlakou, Murray, "Masked Autoregressive Flow", 2017; Kingma et
        al., "Inverse Autoregressive Flow", 2016; Dinh, Sohl-Dickstein, Bengio, "Real
        NVP", 2017; Durkan, Bekasov, Murray, Papamakarios, "Neural Spline Flows", 2019.

    Args:
        transform: `"maf"`, `"iaf"`, `"realnvp"` or `"spline"`; or a bijector of
            `tfp.bijectors`, used once and unchanged.
        num_transforms: The number of transforms K.
        hidden_units: Width of each hidden layer of the networks.
        activation: Activation of the hidden layers, or its Keras name.
        num_bins: Bins of the spline, at least 2.
        convert_to_tensor_fn: `"sample"`, or a callable. The mean and other statistics
            have a closed form only for bijectors with a constant Jacobian.
        validate_args: Whether TFP checks values at run time.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: The output of a distribution layer, with event shape `(d,)`.

    Returns:
        A `tfd.TransformedDistribution` with the batch shape of the input.

    Raises:
        ValueError: If an argument is invalid, the input is not a distribution of
            vectors, or d = 1 with a coupling.

    Example:
        >>> encoder = keras.Sequential([
        ...     keras.layers.Dense(6), tv.IndependentNormal(3), Flow("iaf")])
        >>> q = encoder(tf.zeros([5, 4]))
        >>> z, log_q = q.experimental_sample_and_log_prob()
        >>> z.shape, log_q.shape
        (TensorShape([5, 3]), TensorShape([5]))
        >>> normal = tfd.MultivariateNormalDiag(tf.zeros(2))
        >>> Flow("spline").transform_distribution(normal).sample(4).shape
        TensorShape([4, 2])
    """

    def __init__(
        self,
        transform: Any = "maf",
        num_transforms: int = 2,
        hidden_units: Sequence[int] = (64, 64),
        activation: Any = "relu",
        num_bins: int = 8,
        convert_to_tensor_fn: Any = "sample",
        validate_args: bool = False,
        **kwargs: Any,
    ) -> None:
        affine = isinstance(transform, tfb.Bijector) and transform.is_constant_jacobian
        super().__init__(convert_to_tensor_fn, validate_args, affine, **kwargs)
        caller = type(self).__name__
        self.transform = _checked_transform(transform)
        self.num_transforms = integer(num_transforms, "num_transforms", caller)
        self.hidden_units = checked_hidden_units(hidden_units, caller)
        self.activation = keras_object(
            keras.activations.get, activation, "activation", caller
        )
        self.num_bins = integer(num_bins, "num_bins", caller, minimum=2)
        self._networks: list[Any] = []

    def build_networks(self, size: int) -> None:
        """Makes one network for each transform."""
        if isinstance(self.transform, str):
            steps = range(self.num_transforms)
            self._networks = [self._make_network(i, size) for i in steps]

    def make_bijector(self) -> Any:
        """The chain f_K(... f_1(u)), the identity before training."""
        if not isinstance(self.transform, str):
            return self.transform
        steps = [self._make_step(i) for i in range(self.num_transforms)]
        return tfb.Chain(steps[::-1])

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`, a bijector by class name and parameters."""
        named = isinstance(self.transform, str)
        return {
            **super().get_config(),
            "transform": self.transform
            if named
            else serialize_distribution(self.transform),
            "activation": keras.activations.serialize(self.activation),
        }

    def _make_network(self, index: int, size: int) -> Any:
        if self.transform in _AUTOREGRESSIVE:
            network = AutoregressiveNetwork(
                2,
                size,
                self.hidden_units,
                "right-to-left" if index % 2 else "left-to-right",
                activation=self.activation,
                output_initializer="zeros",
                dtype=self.dtype_policy,
            )
            network.build((None, size))
            return network
        if size == 1:
            raise ValueError(
                f"`Flow` with transform={self.transform!r} expects events of at least "
                "2 coordinates, one to condition on and one to transform. Received: "
                "event_shape=(1,). Use transform='maf'."
            )
        kept = abs(_kept(size, index))
        outputs = 2 if self.transform == "realnvp" else 3 * self.num_bins - 1
        dense = [
            keras.layers.Dense(units, self.activation, dtype=self.dtype_policy)
            for units in self.hidden_units
        ]
        last = keras.layers.Dense(
            (size - kept) * outputs,
            kernel_initializer="zeros",
            dtype=self.dtype_policy,
        )
        network = keras.Sequential([*dense, last])
        network.build((None, kept))
        return network

    def _make_step(self, index: int) -> Any:
        network = self._networks[index]
        if self.transform in _AUTOREGRESSIVE:
            maf = masked_autoregressive(network)
            return maf if self.transform == "maf" else tfb.Invert(maf)
        affine_or_spline = _affine if self.transform == "realnvp" else _spline
        return tfb.RealNVP(
            _kept(self._size, index),
            bijector_fn=lambda kept, width: affine_or_spline(
                _per_coordinate(network, kept, width)
            ),
        )


def _kept(size: Any, index: int) -> int:
    """The number of coordinates that a coupling keeps; negative for the last ones."""
    return size // 2 - size if index % 2 else size // 2


def _per_coordinate(network: Any, x: tf.Tensor, width: int) -> tf.Tensor:
    """The network's outputs, of shape (..., width, outputs for each coordinate)."""
    flat = network(tf.reshape(x, [-1, x.shape[-1]]))
    return tf.reshape(flat, [*batch_axes(x), width, flat.shape[-1] // width])


def _affine(parameters: tf.Tensor) -> Any:
    shift, raw = tf.unstack(parameters, 2, axis=-1)
    return tfb.Chain([tfb.Shift(shift), tfb.Scale(log_scale=soft_clip(raw))])


def _spline(parameters: tf.Tensor) -> Any:
    bins = (parameters.shape[-1] + 1) // 3
    widths, heights, slopes = tf.split(parameters, [bins, bins, bins - 1], axis=-1)
    return _Spline(
        _bin_sizes(widths),
        _bin_sizes(heights),
        tf.exp(soft_clip(slopes, SPLINE_LOG_SLOPE_BOUND)),
        range_min=-SPLINE_RANGE,
    )


class _Spline(tfp.bijectors.RationalQuadraticSpline):
    """Keeps the static shape, which TFP's spline loses."""

    def _forward(self, x: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(super()._forward(x), x.shape)

    def _inverse(self, y: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(super()._inverse(y), y.shape)


def _bin_sizes(raw: tf.Tensor) -> tf.Tensor:
    """Sizes of the bins on [-5, 5], each at least a twentieth of their mean."""
    bins = raw.shape[-1]
    shares = (1 - SPLINE_BIN_FLOOR) * tf.nn.softmax(raw) + SPLINE_BIN_FLOOR / bins
    return 2 * SPLINE_RANGE * shares


def _checked_transform(transform: Any) -> Any:
    if isinstance(transform, tfb.Bijector):
        variables = [*transform.trainable_variables, *keras_variables(transform)]
        if variables:
            raise ValueError(
                "`Flow` expects a bijector without variables. Received: "
                f"{transform!r} with {variables[0]!r}, which Keras would not train. "
                f"Use one of {_KINDS}."
            )
        return transform
    if not isinstance(transform, str) or transform not in _KINDS:
        raise ValueError(
            f"`Flow` expects `transform` to be one of {_KINDS} or a `tfb.Bijector`. "
            f"Received: transform={transform!r}. Use 'iaf' for q(z|x), 'maf' for a "
            "density."
        )
    return transform
