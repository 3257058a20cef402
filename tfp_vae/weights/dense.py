"""Dense layers with random weights."""

from typing import Any

import keras
import tensorflow as tf

from tfp_vae.checks import integer
from tfp_vae.weights.estimators import Flipout, LocalReparameterization
from tfp_vae.weights.functions import weights_kl
from tfp_vae.weights.linear import MEAN_FIELD, POINT, LinearWithRandomWeights
from tfp_vae.weights.parameters import default_multivariate_normal_fn
from tfp_vae.weights.random_weights import known_width


class DenseWithRandomWeights(LinearWithRandomWeights):
    """What the three dense layers have in common; see `LinearWithRandomWeights`.

    Args:
        units: Number of outputs.
        activation: Function of the outputs, or its Keras name.
        activity_regularizer: Regularizer of the outputs.
        trainable: Whether the weights are trained.
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

    def __init__(
        self,
        units: int,
        activation: Any = None,
        activity_regularizer: Any = None,
        trainable: bool = True,
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
            trainable=trainable,
            **kwargs,
        )
        self.units = integer(units, "units", type(self).__name__)
        self.supports_masking = True
        self.input_spec = keras.layers.InputSpec(min_ndim=2)

    def kernel_shape(self, input_shape: Any) -> tuple[int, ...]:
        """(inputs, units)."""
        width = known_width(input_shape, type(self).__name__)
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: width})
        return (width, self.units)

    def channel_axis(self, inputs: tf.Tensor) -> int:
        """The last axis."""
        return inputs.shape.rank - 1

    def apply_kernel(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """The matrix product, over the last axis of the inputs."""
        return keras.ops.matmul(inputs, kernel)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The shape of the inputs, with `units` in place of the last axis."""
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`."""
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("tfp_vae")
class DenseReparameterization(DenseWithRandomWeights):
    r"""A dense layer with one draw of its weights in each forward pass.

    .. math::

        y_n = \mathrm{activation}(x_n K + b), \quad K \sim q(K), \; b \sim q(b)

    By default q(K) is normal with a mean and a scale for each weight, p(K) = N(0, I),
    and b is a point without a prior. The layer adds KL(q || p) to the loss; see
    `RandomWeights` for what it is divided by, and `weights_kl` in the history of `fit`.

    Reference:
        Blundell et al., Weight uncertainty in neural networks, 2015,
        https://arxiv.org/abs/1505.05424; `tfp.layers.DenseReparameterization`.

    Args:
        *args: See `DenseWithRandomWeights`, in the order of `tfp.layers`.
        **kwargs: As there.

    Call arguments:
        inputs: Tensor of shape `(..., features)`.

    Returns:
        A tensor of shape `(..., units)`.

    Raises:
        ValueError: If an argument is invalid, q and p have different shapes, or q(K) or
            q(b) has no variables.

    Example:
        >>> model = tv.Sequential([
        ...     keras.Input((3,)), DenseReparameterization(2), tv.IndependentNormal(1)])
        >>> model.compile("adam", tv.NegativeLogLikelihood())
        >>> history = model.fit(np.ones([8, 3]), np.ones([8, 1]), verbose=0).history
        >>> sorted(history)
        ['loss', 'weights_kl']
    """


@keras.saving.register_keras_serializable("tfp_vae")
class DenseFlipout(Flipout, DenseWithRandomWeights):
    r"""A dense layer with weights for each example, decorrelated by random signs.

    .. math::

        y_n &= \mathrm{activation}(x_n K_\mathrm{loc}
        + ((x_n \odot r_n) \, \Delta K) \odot s_n + b) \\
        \Delta K &\sim q(K) - K_\mathrm{loc}

    with signs r_n and s_n for each example, the same for all its steps. The gradient
    has less variance than that of `DenseReparameterization`, which describes the
    posterior, the prior and the KL. Inside `tv.predictive` the layer has one draw for
    all examples.

    Reference:
        Wen et al., Flipout, 2018, https://arxiv.org/abs/1803.04386;
        `tfp.layers.DenseFlipout`, which draws other signs for each step.

    Args:
        *args: See `DenseWithRandomWeights`, in the order of `tfp.layers`.
        **kwargs: As there.

    Call arguments:
        inputs: Tensor of shape `(n, ..., features)`.

    Returns:
        A tensor of shape `(n, ..., units)`.

    Raises:
        ValueError: If an argument is invalid, q(K) is not a
            `tfd.Independent(tfd.Normal(...))`, q and p have different shapes, or q(K)
            or q(b) has no variables.

    Example:
        >>> DenseFlipout(2)(tf.ones([5, 3])).shape
        TensorShape([5, 2])
    """


@keras.saving.register_keras_serializable("tfp_vae")
class DenseLocalReparameterization(LocalReparameterization, DenseWithRandomWeights):
    r"""A dense layer that draws its outputs from their own distribution.

    .. math::

        y_n = \mathrm{activation}(h_n + b), \quad
        h_n \sim N(x_n K_\mathrm{loc}, \, x_n^2 K_\mathrm{scale}^2)

    The gradient has less variance than that of `DenseReparameterization`, which
    describes the posterior, the prior and the KL. Every call draws anew, for each
    example and step; inside `tv.predictive` the layer has one draw of its weights for
    all.

    Reference:
        Kingma, Salimans and Welling, Variational dropout and the local
        reparameterization trick, 2015, https://arxiv.org/abs/1506.02557;
        `tfp.layers.DenseLocalReparameterization`, whose gradient is not finite for a
        row of zeros.

    Args:
        *args: See `DenseWithRandomWeights`, in the order of `tfp.layers`.
        **kwargs: As there.

    Call arguments:
        inputs: Tensor of shape `(..., features)`.

    Returns:
        A tensor of shape `(..., units)`.

    Raises:
        ValueError: If an argument is invalid, q(K) is not a
            `tfd.Independent(tfd.Normal(...))`, q and p have different shapes, or q(K)
            or q(b) has no variables.

    Example:
        >>> DenseLocalReparameterization(2)(tf.ones([5, 3])).shape
        TensorShape([5, 2])
    """
