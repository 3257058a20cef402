"""Relaxations of discrete latents, in the space of logits."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae.kl.annealed as annealed
from tfp_vae.checks import Shape, boolean, checked_config, integer
from tfp_vae.distributions.straight_through import (
    StraightThroughBernoulli,
    StraightThroughOneHotCategorical,
)
from tfp_vae.keras_internals import in_training
from tfp_vae.layers.distribution_layer import NO_EVENT_SHAPE, DistributionLayer
from tfp_vae.layers.events import event_size, independent, split_event
from tfp_vae.serialization import revive_arguments

tfd = tfp.distributions


class RelaxedLayer(DistributionLayer):
    """A continuous relaxation of a discrete distribution, with a temperature.

    Draws are logits or log-probabilities. In float32 probabilities would round to
    exactly 0 or 1, where their density is infinite. The KL is the same in both spaces.
    The decoder begins with an activation, which the docstring of the subclass names.
    The prior must be a relaxed distribution in the same space.

    With `straight_through=True` draws are exactly discrete, and have the gradient of
    the relaxation in place of their own. The distribution is then the discrete one,
    with its density, moments and KL: the decoder needs no activation, and the prior
    must be discrete. The gradient of the likelihood is biased.

    Args:
        event_shape: See the subclass.
        temperature: Positive number, a variable that is not trainable, or a callable
            without arguments that computes one from variables; a low one is close to
            discrete.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        straight_through: Whether draws are discrete.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: Tensor of logits.

    Returns:
        A distribution with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the temperature is not positive.

    Example:
        >>> temperature = keras.Variable(1.0, trainable=False)
        >>> layer = IndependentRelaxedBernoulli(3, temperature)
        >>> _ = temperature.assign(0.1)
        >>> float(layer(tf.zeros([1, 3])).distribution.scale)
        10.0
    """

    def __init__(
        self,
        event_shape: Any,
        temperature: Any,
        convert_to_tensor_fn: Any = "sample",
        validate_args: bool = False,
        straight_through: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(event_shape, convert_to_tensor_fn, validate_args, **kwargs)
        self.straight_through = boolean(
            straight_through, "straight_through", type(self).__name__
        )
        caller = f"`{type(self).__name__}`"
        self.temperature = annealed.checked(
            temperature, "temperature", caller, zero=False, default=False
        )

    def current_temperature(self, dtype: Any) -> tf.Tensor:
        """The current temperature.

        Args:
            dtype: Dtype of the result.

        Returns:
            A scalar tensor.
        """
        caller = f"`{type(self).__name__}`"
        if in_training():
            annealed.check_in_training(self.temperature, "temperature", caller)
        return annealed.current(self.temperature, "temperature", caller, dtype)

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`."""
        temperature = annealed.serialize(self.temperature)
        return {**super().get_config(), "temperature": temperature}

    @classmethod
    @checked_config
    def from_config(cls, config: dict[str, Any]) -> "RelaxedLayer":
        """Restores functions and variables before calling `__init__`."""
        temperature = annealed.revive(config["temperature"], "temperature")
        return cls(**revive_arguments({**config, "temperature": temperature}))


@keras.saving.register_keras_serializable("tfp_vae")
class IndependentRelaxedBernoulli(RelaxedLayer):
    r"""A relaxed Bernoulli for each coordinate, drawn as its logit.

    .. math::

        y_i &\sim \mathrm{Logistic}(\mathrm{logits}_i / \mathrm{temperature},
        1 / \mathrm{temperature}) \\
        \mathrm{bit}_i &= \mathrm{sigmoid}(y_i)

    The decoder begins with `keras.layers.Activation("sigmoid")`. The prior with
    probability 1/2 is `tfd.Sample(tfd.Logistic(0.0, 1 / temperature), event_shape)`. If
    the temperature changes, use this layer after a `VariableLayer` as the prior.

    Reference:
        Maddison et al., The Concrete distribution, 2017, appendix C.
        https://arxiv.org/abs/1611.00712

    Args:
        event_shape: Shape of one draw, or an integer for a vector.
        temperature: Positive number, a variable that is not trainable, or a callable
            without arguments that computes one from variables.
        convert_to_tensor_fn: See `DistributionLayer`; `"mean"` is the mean logit.
        validate_args: Whether TFP checks parameters and values at run time.
        straight_through: Whether draws are bits, [y_i > 0], with the gradient of
            sigmoid(y_i), which is biased; see `RelaxedLayer` and
            `tv.distributions.StraightThroughBernoulli`.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: Tensor of logits, of shape `(..., params_size)`.

    Returns:
        An `Independent(Logistic)` with `batch_shape == inputs.shape[:-1]`; an
        `Independent(StraightThroughBernoulli)` with `straight_through`.

    Raises:
        ValueError: If the last axis of the inputs is not `params_size`, or the
            temperature is not positive.

    Example:
        >>> q = IndependentRelaxedBernoulli(20, temperature=0.1)(tf.zeros([5, 20]))
        >>> bits = tf.sigmoid(q)
        >>> bits.shape, bool(tf.reduce_all(tf.math.is_finite(q.log_prob(q))))
        (TensorShape([5, 20]), True)
    """

    @staticmethod
    def params_size(event_shape: Shape, name: str | None = None) -> int:
        """One logit per coordinate."""
        return event_size(event_shape, name or "params_size")

    def make_distribution(self, parameters: tf.Tensor) -> Any:
        """Makes the distribution from the inputs."""
        (logits,) = split_event(parameters, self.event_shape, 1, self.description)
        temperature = self.current_temperature(logits.dtype)
        if self.straight_through:
            base = StraightThroughBernoulli(temperature, logits, self.validate_args)
        else:
            scale = 1 / temperature
            base = tfd.Logistic(logits * scale, scale, self.validate_args)
        return independent(base, self.event_shape, self.validate_args)


@keras.saving.register_keras_serializable("tfp_vae")
class RelaxedOneHotCategorical(RelaxedLayer):
    r"""A relaxed one-hot vector (Gumbel-softmax), drawn as its logarithm.

    .. math::

        y = \log \mathrm{softmax}((\mathrm{logits} + g) / \mathrm{temperature}), \quad
        g_i \sim \mathrm{Gumbel}(0, 1)

    where exp(y) is on the simplex, and one-hot as the temperature goes to 0. The
    decoder begins with `keras.layers.Activation("exponential")`. The prior with equal
    probabilities is `tfd.ExpRelaxedOneHotCategorical(temperature, tf.zeros(d))`. If the
    temperature changes, use this layer after a `VariableLayer` as the prior.

    Reference:
        Maddison et al., The Concrete distribution, 2017, appendix C;
        Jang et al., Categorical reparameterization with Gumbel-softmax, 2017;
        `tfp.distributions.ExpRelaxedOneHotCategorical`.

    Args:
        event_size: The number of categories d.
        temperature: Positive number, a variable that is not trainable, or a callable
            without arguments that computes one from variables.
        convert_to_tensor_fn: `"sample"`, or a callable: the moments are not available
            without `straight_through`.
        validate_args: Whether TFP checks parameters and values at run time.
        straight_through: Whether draws are one-hot vectors, with 1 where y is largest
            and the gradient of exp(y), which is biased; see `RelaxedLayer` and
            `tv.distributions.StraightThroughOneHotCategorical`.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: Tensor of logits, of shape `(..., event_size)`.

    Returns:
        A `tfd.ExpRelaxedOneHotCategorical` with `batch_shape == inputs.shape[:-1]`; a
        `tv.distributions.StraightThroughOneHotCategorical` with `straight_through`.

    Raises:
        ValueError: If the last axis of the inputs is not `event_size`, or the
            temperature is not positive.

    Example:
        >>> q = RelaxedOneHotCategorical(10, temperature=0.1)(tf.zeros([5, 10]))
        >>> simplex = tf.exp(q)
        >>> np.allclose(tf.reduce_sum(simplex, -1), 1.0, atol=1e-5)
        True
    """

    def __init__(
        self,
        event_size: int,
        temperature: Any,
        convert_to_tensor_fn: Any = "sample",
        validate_args: bool = False,
        straight_through: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            NO_EVENT_SHAPE,
            temperature,
            convert_to_tensor_fn,
            validate_args,
            straight_through,
            **kwargs,
        )
        self.event_size = integer(event_size, "event_size", type(self).__name__, 2)

    @staticmethod
    def params_size(event_size: int, name: str | None = None) -> int:
        """One logit per category."""
        return integer(event_size, "event_size", name or "params_size", 2)

    def make_distribution(self, parameters: tf.Tensor) -> Any:
        """Makes the distribution from the inputs."""
        temperature = self.current_temperature(parameters.dtype)
        if self.straight_through:
            return StraightThroughOneHotCategorical(
                temperature, parameters, self.validate_args
            )
        return tfd.ExpRelaxedOneHotCategorical(
            temperature, logits=parameters, validate_args=self.validate_args
        )
