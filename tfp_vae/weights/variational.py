"""Random weights for any Keras layer."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import choice, integers, positive_number
from tfp_vae.distribution_tensor import DistributionTensor, TensorConversion
from tfp_vae.keras_internals import nested_layers
from tfp_vae.kl.prior import checked_prior, prior_distribution, serialize_prior
from tfp_vae.weights.forward_pass import once
from tfp_vae.weights.functions import weights_kl
from tfp_vae.weights.random_weights import RandomWeights
from tfp_vae.weights.substitution import call_with

tfd = tfp.distributions

NORMAL, TRIL = "normal", "multivariate_normal_tril"
_STANDARD, _LEARNED = "standard_normal", "normal"


@keras.saving.register_keras_serializable("tfp_vae")
class Variational(RandomWeights):
    r"""Draws all trainable weights of a layer or model from a posterior.

    .. math:: w \sim q(w) = N(\mathrm{mean}, S)

    The loss gets the term KL(q(w) || p(w)) / N, for N training examples, see
    `RandomWeights`. The weights of the layer itself are the mean of q, so trained
    weights can be loaded into it. All calls of a forward pass share one draw. State
    that the layer changes in a call, such as the averages of `BatchNormalization`, and
    losses that it adds are kept. Weight regularizers of the layer act on the mean.

    Draws and KL are computed in float32 under every dtype policy except float64.

    Reference:
        Blundell et al., Weight uncertainty in neural networks, 2015,
        https://arxiv.org/abs/1505.05424; appendix F of Kingma and Welling,
        Auto-encoding variational Bayes, 2014, https://arxiv.org/abs/1312.6114.

    Args:
        layer: A Keras layer or model, such as `keras.layers.LSTM(32)`.
        posterior: `"normal"`, S = diag(scale^2), or `"multivariate_normal_tril"`,
            S = L L^T over all weights together.
        prior: `"standard_normal"`, N(0, 1) for each weight; `"normal"`, N(0, s^2) with
            a learned s for each tensor of the layer, initially 1; or a distribution or
            prior layer, of event shape `()` for each weight, or `(size,)` for all,
            flattened and concatenated in the order of `layer.trainable_variables`.
        initial_scale: Standard deviation of q before training.
        seed: Integer seed of the draws.
        **kwargs: Passed to `keras.layers.Layer`.

    Call arguments:
        inputs: As those of the layer.
        *args: As those of the layer.
        **kwargs: As those of the layer.

    Returns:
        What the layer returns.

    Raises:
        ValueError: If an argument is invalid, or the layer has no trainable weights
            after `build`, is an RNN cell, has random weights itself, or has another
            dtype.

    Example:
        >>> layer = Variational(keras.layers.LSTM(4))
        >>> layer(tf.ones([2, 5, 3])).shape, len(layer.layer.trainable_weights)
        (TensorShape([2, 4]), 3)
    """

    def __init__(
        self,
        layer: Any,
        posterior: str = NORMAL,
        prior: Any = _STANDARD,
        initial_scale: float = 0.05,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        _check_layer(layer)
        super().__init__(seed=seed, **kwargs)
        self.layer = layer
        self.posterior = choice(posterior, (NORMAL, TRIL), "posterior", "Variational")
        named = isinstance(prior, str)
        self.prior = (
            choice(prior, (_STANDARD, _LEARNED), "prior", "Variational")
            if named
            else checked_prior(prior, "prior", "Variational")
        )
        self.initial_scale = positive_number(
            initial_scale, "initial_scale", "Variational"
        )
        self._initial_raw = _inverse_softplus(self.initial_scale, self.compute_dtype)
        self.supports_masking = layer.supports_masking
        self._sample = TensorConversion("sample")
        self._places: tuple[int, ...] = ()

    def build(self, input_shape: Any) -> None:
        """Builds the layer, then the scale of the posterior."""
        if not self.layer.built:
            try:
                self.layer.build(input_shape)
            except TypeError as error:
                raise ValueError(
                    "`Variational` expects a layer that is built from the shape of "
                    f"one input. Received: {self.layer!r}, which raised: {error} Call "
                    "the layer once before it is wrapped."
                ) from error
            self.layer.built = True
        if not self._places:
            # Those that are trainable now: freezing the layer later keeps them random.
            drawn = {id(variable) for variable in self.layer.trainable_variables}
            self._places = tuple(
                i for i, v in enumerate(self.layer.variables) if id(v) in drawn
            )
        if self._places and max(self._places) >= len(self.layer.variables):
            raise ValueError(
                "Loading expects a `Variational` as it was saved. Received: places "
                f"{self._places} of {len(self.layer.variables)} variables of "
                f"{self.layer!r}. Save the model again."
            )
        _check_built(self.layer, self._means(), self.compute_dtype)
        sizes = self._sizes()
        size = sum(sizes)
        raw = self._initial_raw
        if self.posterior == NORMAL:
            self.raw_scale = self.add_weight(
                shape=(size,),
                initializer=keras.initializers.Constant(raw),
                name="untransformed_scale",
            )
        else:
            diagonal = np.diag(np.full(size, raw))
            with tf.init_scope():
                packed = tfp.math.fill_triangular_inverse(diagonal).numpy()
            self.raw_scale = self.add_weight(
                shape=tuple(packed.shape),
                initializer=lambda shape, dtype: tf.cast(packed, dtype),
                name="untransformed_scale_tril",
            )
        self.raw_prior_scale = None
        if isinstance(self.prior, str) and self.prior == _LEARNED:
            self.raw_prior_scale = self.add_weight(
                shape=(len(sizes),),
                initializer=keras.initializers.Constant(math.log(math.expm1(1.0))),
                name="untransformed_prior_scale",
            )
        elif isinstance(self.prior, keras.layers.Layer):
            prior_distribution(self.prior)
        event = self._prior().event_shape
        if event != [size]:
            raise ValueError(
                f"`Variational` expects a prior of event shape (), for each weight, or "
                f"({size},), for all weights of the layer. Received: event shape "
                f"{tuple(event)} of {self.prior!r}. Give `tfd.Normal(0.0, 1.0)`, or "
                f"`tv.StandardNormal({size})`."
            )
        self.built = True

    def get_build_config(self) -> dict[str, Any] | None:
        """How a loaded layer is built, with the places of the variables it draws."""
        config = super().get_build_config()
        return config and {**config, "places": self._places}

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Builds the layer as it was when saved."""
        config = dict(config)
        self._places = integers(config.pop("places", None)) or ()
        super().build_from_config(config)

    def _means(self) -> list[Any]:
        """The variables of the layer that are the means of the posterior."""
        variables = self.layer.variables
        return [variables[place] for place in self._places]

    def _sizes(self) -> list[int]:
        return [math.prod(v.shape) for v in self._means()]

    def _posterior(self) -> Any:
        means = [tf.convert_to_tensor(v) for v in self._means()]
        loc = tf.concat([tf.reshape(mean, [-1]) for mean in means], axis=0)
        raw = tf.convert_to_tensor(self.raw_scale)
        if self.posterior == NORMAL:
            return tfd.Independent(tfd.Normal(loc, tf.nn.softplus(raw)), 1)
        lower = tfp.math.fill_triangular(raw)
        diagonal = tf.nn.softplus(tf.linalg.diag_part(lower))
        return tfd.MultivariateNormalTriL(loc, tf.linalg.set_diag(lower, diagonal))

    def _prior(self) -> Any:
        """The prior of all weights together."""
        sizes = self._sizes()
        if self.raw_prior_scale is not None:
            scales = tf.nn.softplus(tf.convert_to_tensor(self.raw_prior_scale))
            scale = tf.gather(scales, np.repeat(np.arange(len(sizes)), sizes))
        elif isinstance(self.prior, str):
            scale = tf.ones([sum(sizes)], self.compute_dtype)
        else:
            prior = prior_distribution(self.prior)
            one = not prior.event_shape.rank and not prior.batch_shape.rank
            return tfd.Sample(prior, sum(sizes)) if one else prior
        return tfd.Independent(tfd.Normal(tf.zeros_like(scale), scale), 1)

    def _draw(self) -> DistributionTensor:
        return once(
            self,
            "weights",
            lambda: DistributionTensor(
                self._posterior(), self._sample, self.next_seed("weights")
            ),
        )

    def _divergence(self) -> tf.Tensor:
        return weights_kl(self._draw(), self._prior(), None)

    def call(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """What the layer returns for a draw of its weights."""
        variables = self._means()
        flat = tf.split(tf.convert_to_tensor(self._draw()), self._sizes())
        pairs = [
            (variable, tf.reshape(part, variable.shape))
            for variable, part in zip(variables, flat, strict=True)
        ]
        outputs = call_with(self.layer, pairs, self, inputs, *args, **kwargs)
        self.add_divergence(lambda: [(self._divergence(), None)])
        return outputs

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """As that of the layer."""
        return self.layer.compute_mask(inputs, previous_mask)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """Shape and dtype of what the layer returns."""
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """As that of the layer."""
        return self.layer.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`."""
        prior = self.prior
        return {
            **super().get_config(),
            "layer": keras.saving.serialize_keras_object(self.layer),
            "posterior": self.posterior,
            "prior": prior if isinstance(prior, str) else serialize_prior(prior),
            "initial_scale": self.initial_scale,
        }


def _check_layer(layer: Any) -> None:
    if not isinstance(layer, keras.layers.Layer):
        raise ValueError(
            "`Variational` expects a Keras layer or model. Received: "
            f"{layer!r}. Give one, such as `keras.layers.Dense(32)`."
        )
    if hasattr(layer, "state_size") and not isinstance(layer, keras.layers.RNN):
        raise ValueError(
            "`Variational` expects a layer that is called on inputs alone. Received: "
            f"the RNN cell {layer!r}. Wrap the whole layer: "
            "`Variational(keras.layers.RNN(cell))`."
        )
    nested = [a for a in nested_layers(layer) if isinstance(a, RandomWeights)]
    if nested:
        raise ValueError(
            "`Variational` expects a layer whose weights are not draws. Received: "
            f"{layer!r}, in which {nested[0]!r} draws its own. Leave out one of the "
            "two."
        )


def _inverse_softplus(scale: float, dtype: str) -> float:
    """log(exp(scale) - 1), without overflow."""
    least, most = float(np.finfo(dtype).tiny), float(np.finfo(dtype).max)
    if not least <= scale <= most:
        raise ValueError(
            f"`Variational` expects an `initial_scale` that {dtype} holds. Received: "
            f"initial_scale={scale!r}. Give a number from {least:.3g} to {most:.3g}, "
            "such as 0.05."
        )
    return scale + math.log(-math.expm1(-scale))


def _check_built(layer: Any, variables: list[Any], dtype: str) -> None:
    if not variables:
        raise ValueError(
            "`Variational` expects a layer with trainable weights after `build`. "
            f"Received: {layer!r}, which has none. Use the layer as it is; if it makes "
            "its weights in `call`, make them in `build`."
        )
    other = [v for v in variables if keras.backend.standardize_dtype(v.dtype) != dtype]
    if other:
        raise ValueError(
            f"`Variational` expects a layer with weights in {dtype}. Received: "
            f"{layer!r} with {other[0]!r}. Give `Variational` or the layer another "
            "`dtype`."
        )
