"""A dense layer whose posterior and prior are layers or models of their own."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import (
    boolean,
    integer,
    keras_object,
    positive_number,
)
from tfp_vae.distribution_tensor import (
    DistributionTensor,
    TensorConversion,
    holds_draws,
    unwrap,
)
from tfp_vae.environment import refuse_keras_2
from tfp_vae.weights.forward_pass import once
from tfp_vae.weights.functions import checked_callable, serialized, weights_kl
from tfp_vae.weights.random_weights import RandomWeights, check_pair, known_width

tfd = tfp.distributions


@keras.saving.register_keras_serializable("tfp_vae")
class DenseVariational(RandomWeights):
    r"""A dense layer with any posterior and prior of all its weights together.

    .. math:: y_n = \mathrm{activation}(x_n K + b), \quad (K, b) \sim q

    The KL is that of one draw, log q(K, b) - log p(K, b), unless `kl_use_exact=True`.
    If q is converted by a statistic such as "mean", the draw is a new one.

    Reference:
        `tfp.layers.DenseVariational`, which adds the whole KL in every step.

    Args:
        units: Number of outputs.
        make_posterior_fn: Function of the kernel's size, the bias' size and the dtype.
            It returns a function of the inputs that returns q, of event shape
            `(kernel size + bias size,)`, one for all examples: a Keras model such as
            `Sequential([VariableLayer(...), DistributionLambda(...)])`.
        make_prior_fn: As `make_posterior_fn`, for the prior.
        kl_weight: Factor of the KL; by default 1/N for N training examples, see
            `RandomWeights`.
        kl_use_exact: Whether to use the closed form of the KL.
        activation: Function of the outputs, or its Keras name.
        use_bias: Whether there is a bias.
        activity_regularizer: Regularizer of the outputs.
        seed: Integer seed of the draws.
        **kwargs: Passed to `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of shape `(..., features)`.

    Returns:
        A tensor of shape `(..., units)`.

    Raises:
        ValueError: If an argument is invalid, q and p have different shapes, or q has
            no variables that Keras trains.

    Example:
        >>> def posterior(kernel_size, bias_size, dtype=None):
        ...     size = kernel_size + bias_size
        ...     return keras.Sequential([
        ...         tv.VariableLayer(tv.IndependentNormal.params_size(size)),
        ...         tv.IndependentNormal(size)])
        >>> def prior(kernel_size, bias_size, dtype=None):
        ...     return tv.StandardNormal(kernel_size + bias_size)
        >>> DenseVariational(2, posterior, prior)(tf.ones([5, 3])).shape
        TensorShape([5, 2])
    """

    def __init__(
        self,
        units: int,
        make_posterior_fn: Any,
        make_prior_fn: Any,
        kl_weight: float | None = None,
        kl_use_exact: bool = False,
        activation: Any = None,
        use_bias: bool = True,
        activity_regularizer: Any = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(seed=seed, activity_regularizer=activity_regularizer, **kwargs)
        caller = type(self).__name__
        self.units = integer(units, "units", caller)
        self.make_posterior_fn = checked_callable(
            make_posterior_fn, "make_posterior_fn", caller
        )
        self.make_prior_fn = checked_callable(make_prior_fn, "make_prior_fn", caller)
        self.kl_weight = kl_weight
        if kl_weight is not None:
            self.kl_weight = positive_number(kl_weight, "kl_weight", caller, zero=True)
        self.divides_by_examples = kl_weight is None
        self.kl_use_exact = boolean(kl_use_exact, "kl_use_exact", caller)
        self.activation = keras_object(
            keras.activations.get, activation, "activation", caller
        )
        self.use_bias = boolean(use_bias, "use_bias", caller)
        self.supports_masking = True
        self.input_spec = keras.layers.InputSpec(min_ndim=2)
        self._sample = TensorConversion("sample", caller)
        self.posterior: Any = None
        self.prior: Any = None

    def build(self, input_shape: Any) -> None:
        """Makes the posterior and the prior, with their variables."""
        caller = type(self).__name__
        width = known_width(input_shape, caller)
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: width})
        sizes = width * self.units, self.units if self.use_bias else 0
        dtype = tf.as_dtype(self.compute_dtype)
        with tf.init_scope():
            example = tf.zeros([1, width], dtype)
            made = []
            for role in ("posterior", "prior"):
                fn = getattr(self, f"make_{role}_fn")(*sizes, dtype)
                refuse_keras_2(fn, f"`{caller}`")
                setattr(self, role, checked_callable(fn, role, caller))
                made.append(fn(example))
                self._check(role, made[-1], sum(sizes))
            check_pair(unwrap(made[0]), unwrap(made[1]), caller)
        if self.trainable and not getattr(self.posterior, "trainable_variables", ()):
            raise ValueError(
                f"`{caller}` expects a posterior whose variables Keras trains. "
                f"Received: {self.posterior!r}, which has none. Return a Keras model "
                "that begins with a `VariableLayer`."
            )
        self.built = True

    def _check(self, role: str, made: Any, size: int) -> None:
        if not isinstance(made, tfd.Distribution):
            raise ValueError(
                f"`{type(self).__name__}` expects its {role} to be a "
                f"`tfd.Distribution`. Received: {made!r}. End the model that "
                f"`make_{role}_fn` returns with a distribution layer."
            )
        one = made.batch_shape.concatenate(made.event_shape)
        if not one.is_compatible_with([size]):
            raise ValueError(
                f"`{type(self).__name__}` expects its {role} to have {size} numbers, "
                "for kernel and bias, the same for all examples. Received: "
                f"{unwrap(made)}. Give it the sum of the two sizes that "
                f"`make_{role}_fn` receives; begin a model with a `VariableLayer`."
            )

    def _weights(self, inputs: tf.Tensor) -> DistributionTensor:
        """The posterior, with its draw in this forward pass."""

        def made() -> DistributionTensor:
            q = self.posterior(inputs)
            conversion = self._sample
            if isinstance(q, DistributionTensor) and not holds_draws(q):
                conversion = q._dt_conversion
            return DistributionTensor(unwrap(q), conversion, self.next_seed("weights"))

        return once(self, "weights", made)

    def call(self, inputs: Any) -> tf.Tensor:
        """The outputs for a draw of the weights."""
        inputs = tf.convert_to_tensor(inputs)
        q = self._weights(inputs)
        self.add_divergence(lambda: [(self._kl(q, inputs), self.kl_weight)])
        weights = tf.convert_to_tensor(q)
        width, lead = inputs.shape[-1], tf.shape(weights)[:-1]
        sizes = [width * self.units, self.units if self.use_bias else 0]
        kernel, bias = tf.split(weights, sizes, axis=-1)
        kernel = tf.reshape(kernel, tf.concat([lead, [width, self.units]], axis=0))
        outputs = keras.ops.matmul(inputs, kernel)
        outputs = outputs + bias if self.use_bias else outputs
        return outputs if self.activation is None else self.activation(outputs)

    def _kl(self, q: DistributionTensor, inputs: tf.Tensor) -> tf.Tensor:
        p, draw = unwrap(self.prior(inputs)), tf.convert_to_tensor(q)
        return tf.reduce_sum(weights_kl(q, p, draw, self.kl_use_exact))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The shape of the inputs, with `units` in place of the last axis."""
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`, functions as Keras serializes them."""
        caller = type(self).__name__
        return {
            **super().get_config(),
            "units": self.units,
            "make_posterior_fn": serialized(
                self.make_posterior_fn, "make_posterior_fn", caller
            ),
            "make_prior_fn": serialized(self.make_prior_fn, "make_prior_fn", caller),
            "kl_weight": self.kl_weight,
            "kl_use_exact": self.kl_use_exact,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
        }
