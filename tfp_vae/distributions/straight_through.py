"""Discrete distributions whose draws have the gradient of their relaxation."""

from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.distributions.bernoulli import Bernoulli

tfd: Any = tfp.distributions


class _StraightThrough(tfd.Distribution):
    """Mixin: a temperature, and draws that are declared reparameterised."""

    def __init__(
        self,
        temperature: Any,
        logits: Any,
        validate_args: bool = False,
        allow_nan_stats: bool = True,
        name: str = "StraightThrough",
    ) -> None:
        """Takes the arguments of TFP's relaxed distributions."""
        parameters = dict(locals())
        self._temperature, logits = _of_one_dtype(temperature, logits)
        super().__init__(
            logits=logits,
            dtype=logits.dtype,
            validate_args=validate_args,
            allow_nan_stats=allow_nan_stats,
            name=name,
        )
        self._parameters = parameters

    @classmethod
    def _parameter_properties(cls, dtype: Any, num_classes: Any = None) -> Any:
        return _with_temperature(super()._parameter_properties(dtype, num_classes))

    @property
    def reparameterization_type(self) -> Any:
        """Fully reparameterised: draws have a gradient, though a biased one."""
        return tfd.FULLY_REPARAMETERIZED


class StraightThroughBernoulli(_StraightThrough, Bernoulli):
    r"""0 or 1, whose draws have the gradient of a relaxed Bernoulli.

    .. math::

        x &= [y > 0], \quad y \sim \mathrm{Logistic}(\mathrm{logits}, 1) \\
        dx / d\mathrm{logits} &= d\,\mathrm{sigmoid}(y / \mathrm{temperature})
        / d\mathrm{logits}

    This is exactly a Bernoulli distribution, with its log-density, moments and
    closed-form KLs. Only the gradient of its draws differs: it is that of a relaxation.
    Gradients of expectations are therefore biased. A low temperature reduces the bias,
    but increases the variance.

    Reference:
        Bengio, Leonard and Courville, Estimating or propagating gradients through
        stochastic neurons for conditional computation, 2013.
        https://arxiv.org/abs/1308.3432;
        Jang, Gu and Poole, Categorical reparameterization with Gumbel-softmax, 2017.
        https://arxiv.org/abs/1611.01144

    Args:
        temperature: Temperature of the relaxation, positive.
        logits: Log-odds of a 1, floating-point.
        validate_args: Whether values are checked at run time.
        allow_nan_stats: See `tfd.Distribution`.
        name: Name of the distribution.

    Example:
        >>> logits = tf.Variable([0.0, 2.0])
        >>> with tf.GradientTape() as tape:
        ...     x = StraightThroughBernoulli(0.5, logits).sample(seed=1)
        >>> set(x.numpy().tolist()) <= {0.0, 1.0}
        True
        >>> bool(tf.reduce_all(tape.gradient(x, logits) > 0))
        True
    """

    def _sample_n(self, n: Any, seed: Any = None) -> tf.Tensor:
        one = tf.ones([], self.dtype)
        y = tfd.Logistic(self.logits, one).sample(n, seed=seed)
        relaxed = tf.sigmoid(y / self._temperature)
        return _in_place_of(relaxed, tf.cast(y > 0, y.dtype))


class StraightThroughOneHotCategorical(_StraightThrough, tfd.OneHotCategorical):
    r"""A one-hot vector, whose draws have the gradient of a relaxed one.

    .. math::

        x &= \mathrm{one\_hot}(\mathrm{argmax}(\mathrm{logits} + g)), \quad
        g_i \sim \mathrm{Gumbel}(0, 1) \\
        dx / d\mathrm{logits} &= d\,\mathrm{softmax}((\mathrm{logits} + g)
        / \mathrm{temperature}) / d\mathrm{logits}

    This is exactly a one-hot categorical distribution, with its log-density, moments
    and closed-form KLs. Only the gradient of its draws differs: it is that of a
    relaxation (straight-through Gumbel-softmax). Gradients of expectations are
    therefore biased. A low temperature reduces the bias, but increases the variance.

    Reference:
        Jang, Gu and Poole, Categorical reparameterization with Gumbel-softmax, 2017.
        https://arxiv.org/abs/1611.01144

    Args:
        temperature: Temperature of the relaxation, positive.
        logits: Logits of the categories, floating-point.
        validate_args: Whether values are checked at run time.
        allow_nan_stats: See `tfd.Distribution`.
        name: Name of the distribution.

    Example:
        >>> q = StraightThroughOneHotCategorical(0.5, tf.zeros([5, 3]))
        >>> q.sample(seed=1).numpy().sum(-1)
        array([1., 1., 1., 1., 1.], dtype=float32)
    """

    def _sample_n(self, n: Any, seed: Any = None) -> tf.Tensor:
        relaxed = tfd.ExpRelaxedOneHotCategorical(self._temperature, self.logits)
        y = relaxed.sample(n, seed=seed)
        hard = tf.one_hot(tf.argmax(y, axis=-1), y.shape[-1], dtype=y.dtype)
        return _in_place_of(tf.exp(y), hard)


def _with_temperature(properties: dict[str, Any]) -> dict[str, Any]:
    """The parameters' properties, with a temperature in place of probabilities."""
    temperature = tfp.util.ParameterProperties()
    return {"temperature": temperature, "logits": properties["logits"]}


def _in_place_of(relaxed: tf.Tensor, hard: tf.Tensor) -> tf.Tensor:
    """The value of `hard`, with the gradient of `relaxed`; NaN where that is NaN."""
    hard = tf.where(tf.math.is_nan(relaxed), relaxed, hard)

    @tf.custom_gradient
    def straight(x: tf.Tensor) -> Any:
        return tf.identity(hard), tf.identity

    return straight(relaxed)


def _of_one_dtype(temperature: Any, logits: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """The temperature in the dtype of the logits, and the logits as floats."""
    if isinstance(logits, tf.Variable):  # its gradient goes to the variable
        return tf.cast(temperature, logits.dtype), logits
    logits = tf.convert_to_tensor(logits)
    logits = logits if logits.dtype.is_floating else tf.cast(logits, tf.float32)
    return tf.cast(temperature, logits.dtype), logits
