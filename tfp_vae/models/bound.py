"""Runs a VAE's networks on a batch: its draws, and the terms of the bound."""

import copyreg
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfp_vae.distribution_tensor import DistributionTensor, unwrap
from tfp_vae.draws import draw, fold_in
from tfp_vae.engine import data
from tfp_vae.keras_internals import mask_of
from tfp_vae.kl.prior import needs_inputs, prior_distribution
from tfp_vae.kl.without_kl import without_kl
from tfp_vae.latents import center
from tfp_vae.losses import weighted_log_prob
from tfp_vae.models.missing import is_missing
from tfp_vae.models.network_checks import (
    check_distribution,
    check_enumerable,
    check_latent,
    check_mask_event,
)
from tfp_vae.models.statistics import DefaultConversion
from tfp_vae.objectives import ALL, GradientScale, Terms
from tfp_vae.serialization import reduced
from tfp_vae.supports import values_of

# Folded into the seed of missing entries: independent of the latents.
_COMPLETED = 1


class Draws(NamedTuple):
    """The distributions and the latents of a batch, with k draws for each example.

    Args:
        likelihood: p(x | z), of batch shape `(k * batch,)`.
        mask: Keras' mask of the decoder's output, or `None`.
        posterior: q(z | x).
        prior: p(z).
        latents: Draws of shape `(k, batch, *event_shape)`.
        log_posterior: log q(z | x) if drawing computed it, else `None`.
        scale: The `GradientScale` of the draws.
        seed: Seed of the draws, from which those of missing entries and of `resampled`
            are derived.
        enumerated: Whether the draws are every value of z once.
    """

    likelihood: Any
    mask: Any
    posterior: Any
    prior: Any
    latents: tf.Tensor
    log_posterior: Any
    scale: GradientScale
    seed: Any = None
    enumerated: bool = False


class LikelihoodTensor(DistributionTensor):
    """p(x | z) as the output of a model, with the draws that led to it, if any.

    It converts to its mean, or to its mode if it has no mean, whatever the decoder's
    layer converts to.

    Args:
        likelihood: p(x | z).
        draws: The `Draws`, for the objective and the metrics.

    Example:
        >>> p = LikelihoodTensor(tfd.Bernoulli(logits=[0.0]))
        >>> p.numpy(), p.draws
        (array([0.5], dtype=float32), None)
    """

    draws: Draws | None = None

    def __init__(self, likelihood: Any, draws: Draws | None = None) -> None:
        super().__init__(likelihood, DefaultConversion())
        self.draws = draws


copyreg.pickle(LikelihoodTensor, reduced)


class Networks:
    """The methods of `tv.VAE` that run its networks on a batch."""

    # Attributes of the model that these methods use.
    classifier: Any
    conditional: bool
    decoder: Any
    encoder: Any
    missing: Any
    missing_fill: str | None
    missing_input: bool
    missing_model: Any
    objective: Any
    prior: Any
    target: str | None
    _fill: Any

    def posterior(self, inputs: Any, training: bool | None = False) -> Any:
        """q(z | x) of a batch; users call `encode`.

        Args:
            inputs: x, or the pair `(x, y)` if the model is conditional.
            training: Passed to the encoder.

        Returns:
            A plain `tfd.Distribution` of batch shape `(batch,)`.
        """
        with without_kl():
            q = self.encoder(self._given(inputs), training=training)
        check_distribution(q, "encoder", "q(z | x)")
        check_latent(unwrap(q), self.decoder)
        return unwrap(q)

    def _given(self, inputs: Any) -> Any:
        """The inputs of the encoder: x, the mask of x if it takes one, and y."""
        x, y = data.mapped(tf.convert_to_tensor, self._split(inputs))
        given = [x] if self.missing is None else self._filled_inputs(x)
        given += [y] if self.conditional else []
        return given if len(given) > 1 else given[0]

    def likelihood(self, z: Any, y: Any = None, training: bool | None = False) -> Any:
        """p(x | z) of a batch; users call `decode`.

        Args:
            z: Latents of shape `(batch, *event_shape)`.
            y: Conditions, or `None`.
            training: Passed to the decoder.

        Returns:
            The decoder's output, a distribution of batch shape `(batch,)`.
        """
        p = self.decoder([z, y] if self.conditional else z, training=training)
        check_distribution(p, "decoder", "p(x | z)")
        return p

    def draw_and_decode(
        self, posterior: Any, y: Any, num_samples: Any, seed: Any, training: Any = False
    ) -> Draws:
        """Draws latents and decodes them, with the draws folded into the batch.

        Args:
            posterior: q(z | x), of batch shape `(batch,)`.
            y: Conditions, or `None`.
            num_samples: The number of draws for each example; `"all"` takes each value
                of z once in their place.
            seed: Seed of the draws.
            training: Passed to the decoder.

        Returns:
            The `Draws` from which `terms` computes the terms of objectives.
        """
        if num_samples == ALL:
            draws, log_q = _every_value(posterior), None
            num_samples = draws.shape[0]
            enumerated = True
        else:
            draws, log_q = draw(posterior, [num_samples], seed=seed)
            enumerated = False
        if self.objective.uses_score:
            # At draws without a gradient, the gradient of log q is the score.
            draws, log_q = tf.stop_gradient(draws), None
        scale, z = GradientScale(), draws
        if self.objective.gradient == "dreg":
            # The density computed while drawing bypasses the gradient scale.
            z, log_q = scale(draws), None
        folded = tf.reshape(z, tf.concat([[-1], tf.shape(z)[2:]], axis=0))
        folded = tf.ensure_shape(folded, [None, *posterior.event_shape])
        likelihood = self.likelihood(folded, tiled(y, num_samples), training)
        return Draws(
            unwrap(likelihood),
            mask_of(likelihood),
            posterior,
            self.prior_distribution(y),
            z,
            log_q,
            scale,
            seed,
            enumerated,
        )

    def terms(
        self,
        draws: Draws,
        target: Any,
        weights: Any = None,
        training: bool | None = False,
    ) -> Terms:
        """Computes the terms of objectives.

        Args:
            draws: The result of `draw_and_decode`.
            target: Target of the likelihood, of shape `(batch, *event_shape)`.
            weights: Weights of the target's entries, or `None`.
            training: Passed to the model of the mask.

        Returns:
            The terms of the batch.
        """
        count = draws.latents.shape[0]
        values = tiled(tf.convert_to_tensor(target), count)
        given = weights = tiled(weights, count)
        filled, observed = self._filled(values, draws.likelihood)
        if observed is not None and weights is not None:
            weights = observed * expanded_like(weights, observed)
        elif observed is not None:
            weights = observed

        def of(p: Any, values: tf.Tensor, weights: Any) -> tf.Tensor:
            log_prob, *factors = weighted_log_prob(p, values, weights, draws.mask)
            for factor in factors:
                log_prob = log_prob if factor is None else log_prob * factor
            return log_prob

        log_prob = of(draws.likelihood, filled, weights)
        if self.missing_model is not None:
            p = self.mask_distribution(self.completed(draws, target), training)
            observed = tf.ones_like(filled) if observed is None else observed
            log_prob += tf.cast(of(p, observed, given), log_prob.dtype)
        return Terms(
            tf.reshape(log_prob, [count, -1]),
            draws.posterior,
            draws.prior,
            draws.latents,
            draws.log_posterior,
            self.objective.use_exact_kl,
            draws.scale,
            draws.enumerated,
        )

    def completed(self, draws: Draws, target: Any) -> tf.Tensor:
        """Fills the missing entries with draws from p(x | z), the same for one seed.

        Args:
            draws: The result of `draw_and_decode`.
            target: Target of the likelihood, of shape `(batch, *event_shape)`.

        Returns:
            Values of shape `(k * batch, *event_shape)`.
        """
        values = tiled(tf.convert_to_tensor(target), draws.latents.shape[0])
        found, _ = draw(draws.likelihood, seed=fold_in(draws.seed, _COMPLETED))
        gaps = self._gaps_in(values)
        found = tf.cast(found, data.dtype_of(found))
        if gaps is None:
            return tf.cast(values, found.dtype)
        zero = tf.zeros([], values.dtype)
        return tf.where(gaps, found, tf.cast(tf.where(gaps, zero, values), found.dtype))

    def mask_distribution(self, x: tf.Tensor, training: bool | None = False) -> Any:
        """The distribution of the mask of observed entries, p(observed | x).

        Args:
            x: Values without gaps, of shape `(n, *event_shape)`.
            training: Passed to the model of the mask.

        Returns:
            A plain `tfd.Distribution` of batch shape `(n,)`.
        """
        p = self.missing_model(x, training=training)
        check_distribution(p, "missing_model", "p(observed | x)")
        check_mask_event(unwrap(p), x)
        return unwrap(p)

    def _filled(self, values: tf.Tensor, likelihood: Any) -> tuple[tf.Tensor, Any]:
        """Fills missing entries with valid values; their weights are 0, others 1."""
        gaps = self._gaps_in(values)
        if gaps is None:
            return values, None
        stand_in = tf.stop_gradient(center(likelihood))
        values = tf.where(gaps, tf.cast(stand_in, values.dtype), values)
        return values, tf.cast(~gaps, tf.float32)

    def prior_distribution(self, y: Any = None) -> Any:
        """The prior p(z), or p(z | y).

        Args:
            y: Conditions, for a prior that needs them.

        Returns:
            A `tfd.Distribution`.
        """
        given = y is not None and needs_inputs(self.prior)
        return unwrap(prior_distribution(self.prior, y if given else None))

    def _split(self, inputs: Any) -> tuple[Any, Any]:
        """Splits inputs into x, and y or `None`."""
        if not self.conditional:
            return inputs, None
        pair = isinstance(inputs, list | tuple) and len(inputs) == 2
        if pair and inputs[1] is not None:
            return inputs[0], inputs[1]
        raise ValueError(
            "A conditional `VAE` expects the pair (x, y). Received: "
            f"{'no y' if pair else type(inputs).__name__}. Give y: `fit(x, y)`, "
            "`vae((x, y))`, or `y=` to the other methods."
        )

    def _filled_inputs(self, x: Any) -> list[Any]:
        """The inputs of the encoder that come from x, without gaps."""
        array = x if self.target is None else self.target_of(x)
        if isinstance(array, dict | list | tuple):
            raise ValueError(
                f"`VAE(missing={self.missing!r})` expects x to be one array. Received: "
                f"a {type(x).__name__}. Give x as a dictionary, and `target`, the name "
                "of the array with missing entries."
            )
        values = tf.convert_to_tensor(array)
        gaps = self._gaps_in(values)
        if self._fill is not None and not values.dtype.is_floating:
            values = tf.cast(values, self._fill.dtype)
        if gaps is None:
            gaps = tf.zeros_like(values, tf.bool)
        else:
            values = tf.where(gaps, self._fill_for(values), values)
        observed = tf.cast(~gaps, data.dtype_of(tf.zeros([], "float32")))
        x = values if self.target is None else {**x, self.target: values}
        return [x, observed] if self.missing_input else [x]

    def _fill_for(self, values: tf.Tensor) -> tf.Tensor:
        if self._fill is None:
            return tf.zeros_like(values)
        return tf.cast(tf.convert_to_tensor(self._fill), values.dtype)

    def _gaps_in(self, values: tf.Tensor) -> Any:
        return None if self.missing is None else is_missing(values, self.missing)

    def parts_with_gaps(self, x: Any, target: Any = None) -> list[Any]:
        """The arrays that may have missing entries.

        Args:
            x: Inputs, without conditions.
            target: Target of the decoder, or `None`.

        Returns:
            A list of arrays, empty if the model has no `missing`.
        """
        if self.missing is None:
            return []
        several = isinstance(x, dict | list | tuple)
        own = [] if several and self.target is None else [self.target_of(x)]
        return own if target is None else [*own, target]

    def _packed(self, batch: Any) -> tuple[Any, Any, Any]:
        """Inputs of `call`, the target of the likelihood, and the weights."""
        x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
        if self.conditional:
            return self._split((x, y)), self.target_of(x), weights
        given = y is not None and not is_placeholder_target(y)
        return x, y if given else self.target_of(x), weights

    def target_of(self, x: Any) -> Any:
        """The target of the decoder: x, or its entry of the name `target`.

        Args:
            x: Inputs, without conditions.

        Returns:
            The same or one of its entries.

        Raises:
            ValueError: If there is no such entry, or x has several and no `target`.
        """
        if self.target is not None:
            if not isinstance(x, dict) or self.target not in x:
                found = sorted(x) if isinstance(x, dict) else type(x).__name__
                raise ValueError(
                    f"`VAE(target={self.target!r})` expects x to be a dictionary with "
                    f"this key. Received: {found}. Give one of its keys as `target`."
                )
            return x[self.target]
        if isinstance(x, dict | list | tuple):
            found = sorted(x) if isinstance(x, dict) else f"{len(x)} inputs"
            raise ValueError(
                "`VAE` expects to know which entry of x the decoder describes. "
                f"Received: a {type(x).__name__} of {found}. Give x as a dictionary "
                "and one of its keys, `VAE(..., target=...)`; or targets, `fit(x, y)`."
            )
        return x


def _every_value(posterior: Any) -> tf.Tensor:
    """Each value of z, for each example, of shape `(values, batch, *event_shape)`."""
    check_enumerable(posterior)
    values = values_of(posterior)
    shape = [values.shape[0], posterior.batch_shape_tensor()[0], *values.shape[1:]]
    return tf.broadcast_to(values[:, None], shape)


def with_placeholder_target(x: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
    """Adds a placeholder for y, without which Keras drops the weights.

    Args:
        x: Inputs.
        y: Targets or `None`; the inputs themselves count as `None`.
        sample_weight: Weights or `None`.

    Returns:
        The three, with targets of width 0 if there are weights but no targets.

    Example:
        >>> x = np.zeros([5, 2])
        >>> with_placeholder_target(x, x, np.ones(5))[1].shape
        (5, 0)
    """
    y = None if y is x else y
    if y is None and sample_weight is not None and data.is_arrays(x):
        y = np.zeros((keras.tree.flatten(x)[0].shape[0], 0), "float32")
    return x, y, sample_weight


def is_placeholder_target(y: Any) -> bool:
    """Whether targets are the placeholder of `with_placeholder_target`.

    Args:
        y: Targets, or a structure of them.

    Returns:
        True for those.

    Example:
        >>> [is_placeholder_target(np.zeros([5, width])) for width in (0, 1)]
        [True, False]
    """
    shape = getattr(y, "shape", None)
    return shape is not None and len(shape) == 2 and shape[1] == 0


def tiled(values: Any, count: int) -> Any:
    """Repeats a batch for each draw, in the order of folded draws.

    Args:
        values: Tensor, structure of tensors, or `None`.
        count: Number of draws.

    Returns:
        The same, `count` times as long.

    Example:
        >>> tiled(tf.constant([1, 2]), 2).numpy()
        array([1, 2, 1, 2], dtype=int32)
    """
    if values is None or count == 1:
        return values

    def tile(value: Any) -> tf.Tensor:
        value = tf.convert_to_tensor(value)
        return tf.tile(value, [count] + [1] * (value.shape.rank - 1))

    return keras.tree.map_structure(tile, values)


def split_weights(sample_weight: Any) -> tuple[Any, Any]:
    """Separates weights of whole examples from weights of the likelihood's entries.

    Args:
        sample_weight: Weights of shape `(batch,)`, `(batch, 1)` or with more axes, or
            `None`.

    Returns:
        Both; at least one is `None`.

    Example:
        >>> whole, inside = split_weights(np.ones([5, 1]))
        >>> whole.shape, inside
        (TensorShape([5]), None)
    """
    if sample_weight is None:
        return None, None
    weights = tf.convert_to_tensor(sample_weight)
    if weights.shape.rank == 2 and weights.shape[1] == 1:
        weights = tf.squeeze(weights, axis=1)
    return (weights, None) if weights.shape.rank == 1 else (None, weights)


def expanded_like(weights: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Appends axes of length 1 to weights, up to the rank of a tensor.

    Args:
        weights: Weights for the leading axes of the tensor.
        like: The tensor.

    Returns:
        The weights with its rank and dtype.

    Example:
        >>> expanded_like(tf.ones([5]), tf.ones([5, 3])).shape
        TensorShape([5, 1])
    """
    missing = like.shape.rank - weights.shape.rank
    shape = tf.concat([tf.shape(weights), [1] * missing], axis=0)
    return tf.cast(tf.reshape(weights, shape), like.dtype)
