"""Convolutions with random weights."""

from typing import Any, ClassVar

import keras
import tensorflow as tf

from tfp_vae.weights.estimators import Flipout
from tfp_vae.weights.functions import weights_kl
from tfp_vae.weights.linear import MEAN_FIELD, POINT, LinearWithRandomWeights
from tfp_vae.weights.parameters import default_multivariate_normal_fn

_OPTIONS = (
    "filters",
    "kernel_size",
    "strides",
    "padding",
    "data_format",
    "dilation_rate",
)


def convolved(inputs: tf.Tensor, kernel: tf.Tensor, **options: Any) -> tf.Tensor:
    """The convolution of Keras' layers, `padding="causal"` included.

    Args:
        inputs: Inputs.
        kernel: A kernel.
        **options: `strides`, `padding`, `data_format`, `dilation_rate`.

    Returns:
        A tensor.

    Example:
        >>> x, kernel = tf.ones([1, 4, 1]), tf.ones([2, 1, 1])
        >>> y = convolved(x, kernel, strides=1, padding="causal",
        ...               data_format="channels_last", dilation_rate=(1,))
        >>> y.numpy().ravel()
        array([1., 2., 2., 2.], dtype=float32)
    """
    if options["padding"] == "causal":
        before = [options["dilation_rate"][0] * (kernel.shape[0] - 1), 0]
        last = options["data_format"] == "channels_last"
        steps = [before, [0, 0]] if last else [[0, 0], before]
        inputs = keras.ops.pad(inputs, [[0, 0], *steps])
        options["padding"] = "valid"
    return keras.ops.conv(inputs, kernel, **options)


class ConvolutionWithRandomWeights(LinearWithRandomWeights):
    """What the six convolutions have in common; see `LinearWithRandomWeights`.

    Args:
        filters: Number of outputs.
        kernel_size: Lengths of the window, or one for all axes.
        strides: As in `keras.layers.Conv2D`.
        padding: As there.
        data_format: As there, but `"channels_last"` by default; `None` for that of
            Keras' configuration.
        dilation_rate: As there.
        activation: Function of the outputs, or its Keras name.
        activity_regularizer: Regularizer of the outputs.
        kernel_posterior_fn: See `LinearWithRandomWeights`, and so the others.
        kernel_posterior_tensor_fn: As there.
        kernel_prior_fn: As there.
        kernel_divergence_fn: As there.
        bias_posterior_fn: As there.
        bias_posterior_tensor_fn: As there.
        bias_prior_fn: As there.
        bias_divergence_fn: As there.
        seed: As there.
        **kwargs: Passed to `keras.layers.Layer`.
    """

    # The Keras layer that checks the arguments and knows the shapes.
    deterministic: ClassVar[Any]

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = "channels_last",
        dilation_rate: Any = 1,
        activation: Any = None,
        activity_regularizer: Any = None,
        kernel_posterior_fn: Any = MEAN_FIELD,
        kernel_posterior_tensor_fn: Any = "sample",
        kernel_prior_fn: Any = default_multivariate_normal_fn,
        kernel_divergence_fn: Any = weights_kl,
        bias_posterior_fn: Any = POINT,
        bias_posterior_tensor_fn: Any = "sample",
        bias_prior_fn: Any = None,
        bias_divergence_fn: Any = weights_kl,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            activation,
            kernel_posterior_fn,
            kernel_posterior_tensor_fn,
            kernel_prior_fn,
            kernel_divergence_fn,
            bias_posterior_fn,
            bias_posterior_tensor_fn,
            bias_prior_fn,
            bias_divergence_fn,
            seed,
            activity_regularizer=activity_regularizer,
            **kwargs,
        )
        like = self.deterministic(
            filters,
            kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
        )
        for name in _OPTIONS:
            setattr(self, name, getattr(like, name))
        self.input_spec = like.input_spec

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _OPTIONS}

    def build(self, input_shape: Any) -> None:
        """Makes the variables, and fixes the number of channels."""
        super().build(input_shape)
        rank, channels = len(self.kernel_size) + 2, self._shapes["kernel"][-2]
        self.input_spec = keras.layers.InputSpec(
            min_ndim=rank, axes={self._axis(rank): channels}
        )

    def kernel_shape(self, input_shape: Any) -> tuple[int, ...]:
        """(*kernel_size, channels, filters)."""
        channels = input_shape[self._axis(len(input_shape))]
        if channels is None:
            raise ValueError(
                f"`{type(self).__name__}` expects inputs with a known number of "
                f"channels. Received: shape {tuple(input_shape)}. Give it to "
                "`keras.Input`."
            )
        return (*self.kernel_size, channels, self.filters)

    def _axis(self, rank: int) -> int:
        return 1 if self.data_format == "channels_first" else rank - 1

    def channel_axis(self, inputs: tf.Tensor) -> int:
        """The axis of the channels."""
        return self._axis(inputs.shape.rank)

    def apply_kernel(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """The convolution."""
        return convolved(
            inputs,
            kernel,
            strides=self.strides,
            padding=self.padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )

    def add_bias(self, outputs: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        """The outputs with a bias for each channel."""
        shape = [1] * outputs.shape.rank
        shape[self.channel_axis(outputs)] = self.filters
        return outputs + tf.reshape(bias, shape)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """As that of the Keras layer."""
        like = self.deterministic(**self._options())
        return tuple(like.compute_output_shape(input_shape))

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`."""
        return {**super().get_config(), **self._options()}


@keras.saving.register_keras_serializable("tfp_vae")
class Convolution1DReparameterization(ConvolutionWithRandomWeights):
    r"""A 1-d convolution with one draw of its weights in each forward pass.

    .. math::

        y_n = \mathrm{activation}(K \ast x_n + b), \quad K \sim q(K), \; b \sim q(b)

    See `DenseReparameterization` for the posterior, the prior and the KL.

    Reference:
        `tfp.layers.Convolution1DReparameterization`.

    Args:
        *args: See `ConvolutionWithRandomWeights`, in the order of `tfp.layers`.
        **kwargs: As there.

    Call arguments:
        inputs: Tensor of shape `(n, steps, channels)`.

    Returns:
        A tensor of shape `(n, steps, filters)`.

    Raises:
        ValueError: If an argument is invalid, q and p have different shapes, or q(K) or
            q(b) has no variables.

    Example:
        >>> Convolution1DReparameterization(2, 3)(tf.ones([5, 8, 3])).shape
        TensorShape([5, 6, 2])
    """

    deterministic = keras.layers.Conv1D


@keras.saving.register_keras_serializable("tfp_vae")
class Convolution2DReparameterization(ConvolutionWithRandomWeights):
    r"""A 2-d convolution with one draw of its weights in each forward pass.

    .. math::

        y_n = \mathrm{activation}(K \ast x_n + b), \quad K \sim q(K), \; b \sim q(b)

    See `DenseReparameterization` for the posterior, the prior and the KL.

    Reference:
        `tfp.layers.Convolution2DReparameterization`.

    Args:
        *args: See `ConvolutionWithRandomWeights`, in the order of `tfp.layers`.
        **kwargs: As there.

    Call arguments:
        inputs: Tensor of shape `(n, height, width, channels)`.

    Returns:
        A tensor of shape `(n, height, width, filters)`.

    Raises:
        ValueError: If an argument is invalid, q and p have different shapes, or q(K) or
            q(b) has no variables.

    Example:
        >>> Convolution2DReparameterization(2, 3)(tf.ones([5, 8, 8, 3])).shape
        TensorShape([5, 6, 6, 2])
    """

    deterministic = keras.layers.Conv2D


@keras.saving.register_keras_serializable("tfp_vae")
class Convolution3DReparameterization(ConvolutionWithRandomWeights):
    r"""A 3-d convolution with one draw of its weights in each forward pass.

    .. math::

        y_n = \mathrm{activation}(K \ast x_n + b), \quad K \sim q(K), \; b \sim q(b)

    See `DenseReparameterization` for the posterior, the prior and the KL.

    Reference:
        `tfp.layers.Convolution3DReparameterization`.

    Args:
        *args: See `ConvolutionWithRandomWeights`, in the order of `tfp.layers`.
        **kwargs: As there.

    Call arguments:
        inputs: Tensor of shape `(n, depth, height, width, channels)`.

    Returns:
        A tensor of shape `(n, depth, height, width, filters)`.

    Raises:
        ValueError: If an argument is invalid, q and p have different shapes, or q(K) or
            q(b) has no variables.

    Example:
        >>> Convolution3DReparameterization(2, 3)(tf.ones([5, 8, 8, 8, 3])).shape
        TensorShape([5, 6, 6, 6, 2])
    """

    deterministic = keras.layers.Conv3D


@keras.saving.register_keras_serializable("tfp_vae")
class Convolution1DFlipout(Flipout, ConvolutionWithRandomWeights):
    r"""A 1-d convolution with weights for each example, by random signs.

    .. math::

        y_n &= \mathrm{activation}(K_\mathrm{loc} \ast x_n
        + s_n \odot (\Delta K \ast (r_n \odot x_n)) + b) \\
        \Delta K &\sim q(K) - K_\mathrm{loc}

    See `DenseFlipout` for the signs, and `DenseReparameterization` for the posterior,
    the prior and the KL.

    Reference:
        `tfp.layers.Convolution1DFlipout`.

    Args:
        *args: See `ConvolutionWithRandomWeights`, in the order of `tfp.layers`.
        **kwargs: As there.

    Call arguments:
        inputs: Tensor of shape `(n, steps, channels)`.

    Returns:
        A tensor of shape `(n, steps, filters)`.

    Raises:
        ValueError: If an argument is invalid, q(K) is not normal, q and p have
            different shapes, or q(K) or q(b) has no variables.

    Example:
        >>> Convolution1DFlipout(2, 3)(tf.ones([5, 8, 3])).shape
        TensorShape([5, 6, 2])
    """

    deterministic = keras.layers.Conv1D


@keras.saving.register_keras_serializable("tfp_vae")
class Convolution2DFlipout(Flipout, ConvolutionWithRandomWeights):
    r"""A 2-d convolution with weights for each example, by random signs.

    .. math::

        y_n &= \mathrm{activation}(K_\mathrm{loc} \ast x_n
        + s_n \odot (\Delta K \ast (r_n \odot x_n)) + b) \\
        \Delta K &\sim q(K) - K_\mathrm{loc}

    See `DenseFlipout` for the signs, and `DenseReparameterization` for the posterior,
    the prior and the KL.

    Reference:
        `tfp.layers.Convolution2DFlipout`.

    Args:
        *args: See `ConvolutionWithRandomWeights`, in the order of `tfp.layers`.
        **kwargs: As there.

    Call arguments:
        inputs: Tensor of shape `(n, height, width, channels)`.

    Returns:
        A tensor of shape `(n, height, width, filters)`.

    Raises:
        ValueError: If an argument is invalid, q(K) is not normal, q and p have
            different shapes, or q(K) or q(b) has no variables.

    Example:
        >>> Convolution2DFlipout(2, 3)(tf.ones([5, 8, 8, 3])).shape
        TensorShape([5, 6, 6, 2])
    """

    deterministic = keras.layers.Conv2D


@keras.saving.register_keras_serializable("tfp_vae")
class Convolution3DFlipout(Flipout, ConvolutionWithRandomWeights):
    r"""A 3-d convolution with weights for each example, by random signs.

    .. math::

        y_n &= \mathrm{activation}(K_\mathrm{loc} \ast x_n
        + s_n \odot (\Delta K \ast (r_n \odot x_n)) + b) \\
        \Delta K &\sim q(K) - K_\mathrm{loc}

    See `DenseFlipout` for the signs, and `DenseReparameterization` for the posterior,
    the prior and the KL.

    Reference:
        `tfp.layers.Convolution3DFlipout`.

    Args:
        *args: See `ConvolutionWithRandomWeights`, in the order of `tfp.layers`.
        **kwargs: As there.

    Call arguments:
        inputs: Tensor of shape `(n, depth, height, width, channels)`.

    Returns:
        A tensor of shape `(n, depth, height, width, filters)`.

    Raises:
        ValueError: If an argument is invalid, q(K) is not normal, q and p have
            different shapes, or q(K) or q(b) has no variables.

    Example:
        >>> Convolution3DFlipout(2, 3)(tf.ones([5, 8, 8, 8, 3])).shape
        TensorShape([5, 6, 6, 6, 2])
    """

    deterministic = keras.layers.Conv3D
