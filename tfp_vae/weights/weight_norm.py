"""Weight normalisation: the length of a layer's weights apart from their direction."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_vae.checks import boolean, checked_config
from tfp_vae.constraints import float_policy
from tfp_vae.environment import refuse_keras_2
from tfp_vae.keras_internals import in_stateless_scope
from tfp_vae.weights.convolution import convolved
from tfp_vae.weights.substitution import call_with

_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
_KNOWN = (keras.layers.Dense, *_CONVOLUTIONS, *_TRANSPOSED)


@keras.saving.register_keras_serializable("tfp_vae")
class WeightNorm(keras.layers.Wrapper):
    r"""Trains the length and the direction of a layer's weights apart.

    .. math:: w = g \, \frac{v}{\|v\|}

    with one g for each output unit, and the norm over all weights of the unit. v is the
    kernel of the wrapped layer. With `data_init` the first batch in which a unit
    varies, in training or not, sets g and the bias, so that before the activation each
    unit has mean 0 and variance 1:

    .. math::

        t = \frac{v \cdot x}{\|v\|}, \quad
        g = \frac{1}{\sqrt{\mathrm{Var}[t]}}, \quad
        \mathrm{bias} = -\frac{\mathrm{E}[t]}{\sqrt{\mathrm{Var}[t]}}

    A unit with the same t in the whole batch, up to rounding, keeps g = 1, and its bias
    becomes -t. If no unit varies, as in a `Dense` called on one row or on zeros,
    nothing changes. Without `data_init` g starts as ||v||, so the layer computes what
    it did before.

    Reference:
        Salimans and Kingma, Weight normalization, 2016.
        https://arxiv.org/abs/1602.07868; `tfp.layers.weight_norm.WeightNorm`.

    Args:
        layer: A `Dense`, a convolution, a transposed convolution, or, without
            `data_init`, another layer whose `kernel` has the units as last axis.
        data_init: Whether the first batch sets g and the bias.
        **kwargs: Passed to `keras.layers.Layer`. w is computed in float32 or float64.

    Call arguments:
        inputs: Inputs of the layer.

    Returns:
        The output of the layer with the kernel w.

    Raises:
        ValueError: If the layer has no such kernel, or a regularizer for it, or is not
            known and `data_init` is true, or the first batch is spread over replicas.

    Example:
        >>> layer = WeightNorm(keras.layers.Dense(2))
        >>> x = np.random.default_rng(0).normal(3.0, 5.0, size=[100, 4])
        >>> y = layer(x).numpy()
        >>> abs(y.mean(axis=0)).max() < 1e-5, abs(y.std(axis=0) - 1).max() < 1e-5
        (np.True_, np.True_)
    """

    def __init__(self, layer: Any, data_init: bool = True, **kwargs: Any) -> None:
        caller = type(self).__name__
        refuse_keras_2(layer, f"`{caller}`")
        if not isinstance(layer, keras.layers.Layer):
            raise ValueError(
                f"`{caller}` expects a Keras layer. Received: layer={layer!r}. Give an "
                "instance, such as `keras.layers.Dense(8)`."
            )
        dtype = kwargs.get("dtype")
        policy = float_policy(layer.dtype_policy if dtype is None else dtype)
        super().__init__(layer, **{**kwargs, "dtype": policy})
        self.data_init = boolean(data_init, "data_init", caller)
        self.supports_masking = layer.supports_masking
        if self.data_init and not isinstance(layer, _KNOWN):
            raise ValueError(
                f"`{caller}` with data_init=True expects a `Dense`, `Conv1D` to "
                "`Conv3D`, or `Conv1DTranspose` to `Conv3DTranspose`. Received: "
                f"{layer!r}. Give data_init=False."
            )
        if getattr(layer, "kernel_regularizer", None) is not None:
            raise ValueError(
                f"`{caller}` expects a layer without `kernel_regularizer`: it acts "
                "on v, but the output does not depend on the length of v. Received: "
                f"kernel_regularizer={layer.kernel_regularizer!r}. Leave it out."
            )

    @property
    def v(self) -> Any:
        """The kernel of the wrapped layer, a Keras variable."""
        return self.layer.kernel

    def build(self, input_shape: Any = None) -> None:
        """Builds the layer, and makes g."""
        super().build(input_shape)
        kernel = getattr(self.layer, "kernel", None)
        units = "depthwise" not in type(self.layer).__name__.lower()
        if not isinstance(kernel, keras.Variable) or not kernel.shape or not units:
            raise ValueError(
                f"`{type(self).__name__}` expects a layer whose variable `kernel` has "
                f"one axis of units. Received: {self.layer!r}, whose kernel is a "
                f"{type(kernel).__name__}. "
                "Wrap a `Dense` or a convolution, each layer of a model on its own."
            )
        self._axis = len(kernel.shape) - (
            2 if isinstance(self.layer, _TRANSPOSED) else 1
        )
        self.g = self.add_weight(
            name="g",
            shape=(kernel.shape[self._axis],),
            initializer="ones" if self.data_init else self._norm,
        )
        self.initialized = self.add_weight(
            name="initialized",
            shape=(),
            dtype="bool",
            trainable=False,
            initializer="zeros" if self.data_init else "ones",
        )
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Calls the layer with the normalised kernel."""
        if self.data_init:
            self._look_at_the_first_batch(inputs)
        kernel = tf.cast(self._kernel(tf.convert_to_tensor(self.g)), self.v.dtype)
        return call_with(self.layer, [(self.v, kernel)], self, inputs)

    def _look_at_the_first_batch(self, inputs: Any) -> None:
        """Sets g and the bias, unless a batch has."""
        bias = getattr(self.layer, "bias", None)
        variables = [self.g] if bias is None else [self.g, bias]

        def assign(values: Any, varies: Any) -> tf.Tensor:
            for variable, value in zip(variables, values, strict=True):
                before = tf.convert_to_tensor(variable.value)
                value = tf.cast(value, variable.dtype)
                variable.assign(tf.where(varies, value, before))
            self.initialized.assign(varies)
            return tf.constant(True)

        def found() -> tuple[list[tf.Tensor], tf.Tensor]:
            values, varies = self._of_mean_0_and_variance_1(inputs)
            return values[: len(variables)], varies

        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            self._refuse_a_first_batch_in_parts()
            return
        before = tf.convert_to_tensor(self.initialized)
        if in_stateless_scope():  # It would keep a tensor of one branch of a `cond`.
            values, varies = found()
            pairs = zip(variables, values, strict=True)
            values = [tf.where(before, tf.cast(v.value, n.dtype), n) for v, n in pairs]
            assign(values, before | varies)
        else:
            tf.cond(before, lambda: tf.constant(True), lambda: assign(*found()))

    def _refuse_a_first_batch_in_parts(self) -> None:
        """Each replica would set its own g and bias, and keep them."""
        with tf.init_scope():
            known = bool(self.initialized.numpy())
        if not known:
            raise ValueError(
                f"`{type(self).__name__}` with data_init=True expects its first batch "
                "outside of replicas. Received: a part of it, in one of several "
                "replicas. Call the model before `fit`, `model(x[:100])`."
            )

    def _of_mean_0_and_variance_1(self, inputs: Any) -> tuple[list[tf.Tensor], Any]:
        """G and the bias, and whether a unit varies."""
        ones = tf.ones(self.g.shape, self.compute_dtype)
        x, kernel = tf.cast(inputs, self.compute_dtype), self._kernel(ones)
        units = tf.stop_gradient(_linear(self.layer, x, kernel))
        first = getattr(self.layer, "data_format", None) == "channels_first"
        axis = 1 if first else units.shape.rank - 1
        axes = [i for i in range(units.shape.rank) if i != axis]
        moments = tf.nn.moments(tf.cast(units, tf.float64), axes)
        mean, variance = (tf.cast(moment, self.compute_dtype) for moment in moments)
        # The sum of the sizes of what t is the sum of, with the rounding of a long sum.
        sizes = tf.reduce_max(_linear(self.layer, tf.abs(x), tf.abs(kernel)), axes)
        terms = math.prod(kernel.shape) / kernel.shape[self._axis]
        rounding = np.finfo(self.compute_dtype).eps * math.sqrt(terms) * sizes
        varies = tf.sqrt(variance) > tf.stop_gradient(rounding)
        scale = tf.where(varies, tf.math.rsqrt(tf.where(varies, variance, ones)), ones)
        return [scale, -mean * scale], tf.reduce_any(varies)

    def _kernel(self, g: Any) -> tf.Tensor:
        """The kernel w with this g."""
        v = tf.cast(self.v.value, self.compute_dtype)
        shape = [1] * v.shape.rank
        shape[self._axis] = -1
        axes = [axis for axis in range(v.shape.rank) if axis != self._axis]
        return tf.math.l2_normalize(v, axes) * tf.reshape(g, shape)

    def _norm(self, shape: Any, dtype: Any = None) -> tf.Tensor:
        v = tf.cast(self.v.value, dtype)
        axes = [axis for axis in range(v.shape.rank) if axis != self._axis]
        return tf.sqrt(tf.reduce_sum(tf.square(v), axes))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """That of the layer."""
        return self.layer.compute_output_shape(input_shape)

    def compute_output_spec(self, inputs: Any) -> Any:
        """That of the layer."""
        return self.layer.compute_output_spec(inputs)

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`."""
        return {**super().get_config(), "data_init": self.data_init}

    @classmethod
    @checked_config
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> "WeightNorm":
        """Restores the layer."""
        return super().from_config(dict(config), custom_objects)


def _linear(layer: Any, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """What a known layer computes before bias and activation."""
    if isinstance(layer, keras.layers.Dense):
        return keras.ops.matmul(inputs, kernel)
    options: dict[str, Any] = {
        "strides": list(layer.strides),
        "padding": layer.padding,
        "dilation_rate": layer.dilation_rate,
        "data_format": layer.data_format,
    }
    if isinstance(layer, _TRANSPOSED):
        options["output_padding"] = layer.output_padding
        return keras.ops.conv_transpose(inputs, kernel, **options)
    return convolved(inputs, kernel, **options)
