"""KL(q(z|x) || p(z)) as a Keras layer and as an activity regularizer."""

import warnings
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae.kl.annealed as annealed
from tfp_vae.checks import (
    boolean,
    check_rows_in_batch,
    checked_config,
    integer,
    integers,
)
from tfp_vae.constraints import float_policy
from tfp_vae.distribution_tensor import held_draw, holds_draws, unwrap
from tfp_vae.draws import draw
from tfp_vae.keras_internals import in_training, mask_of
from tfp_vae.kl.divergence import kl_divergence
from tfp_vae.kl.metric import KLMetric
from tfp_vae.kl.prior import (
    checked_prior,
    needs_inputs,
    prior_distribution,
    serialize_prior,
)
from tfp_vae.kl.target import DIMENSION, KLTarget
from tfp_vae.kl.tfp_layers_factor import tfp_layers_factors, without_event
from tfp_vae.kl.without_kl import kl_is_off
from tfp_vae.seeds import Seeds
from tfp_vae.serialization import revive_arguments

tfd = tfp.distributions


@keras.saving.register_keras_serializable("tfp_vae")
class KLDivergenceRegularizer(keras.regularizers.Regularizer):
    r"""KL(q || p) as the `activity_regularizer` of a distribution layer.

    .. math::

        \mathrm{loss} = \mathrm{weight} \cdot \mathrm{mean}_b \,
        \mathrm{KL}(q(z \mid x_b) \,\|\, p(z))

    in nats, counted once. Keras divides what an activity regularizer returns by the
    length of the first axis of the output, so this returns the mean times that length:
    the sum over the batch. A learned prior and the `kl` metric become part of the layer
    that has the regularizer. Masked members of the batch do not count.

    Reference:
        `tfp.layers.KLDivergenceRegularizer`, with the same argument names. TFP's class
        added the KL twice; see docs/migrating.md.

    Args:
        distribution_b: The prior p: a `tfd.Distribution`, a Keras layer or model that
            returns one, or a callable without arguments that does.
        use_exact_kl: `None` uses the closed form if there is one, `True` requires it,
            `False` uses Monte Carlo.
        test_points_reduce_axis: Accepted for code of `tfp.layers`: `None`, or all axes
            of draws in front of the batch, which are averaged either way. With Monte
            Carlo, others are an error.
        test_points_fn: Function from posterior to draws. By default the value that the
            decoder sees if it is a draw, converted by `"sample"` or by a function with
            a parameter `seed`; otherwise a new draw.
        weight: Factor of the KL in the loss, not in the metric: a number, a
            non-trainable variable, or a callable without arguments that computes one
            from variables.
        num_samples: Number of new draws for each Monte Carlo KL; by default the draw
            that the decoder sees.
        free_bits: Nats that cost nothing, see `KLTarget`: a number, a non-trainable
            variable, or such a callable; `None` for none.
        free_bits_per: `"dimension"`, for distributions that factorise, or `"total"`.
        capacity: Target of the KL in nats, in place of 0: a number, a non-trainable
            variable, or such a callable.

    Raises:
        ValueError: If `distribution_b` cannot give a distribution, `weight` is negative
            or trainable, or another argument is invalid.

    Example:
        >>> prior = tfd.Independent(tfd.Normal(tf.zeros(2), 1.0), 1)
        >>> layer = tv.IndependentNormal(
        ...     2, activity_regularizer=KLDivergenceRegularizer(prior))
        >>> _ = layer(tf.zeros([8, 4]))
        >>> round(float(layer.losses[0]), 4)  # of 2 coordinates with scale log 2
        0.2135
    """

    def __init__(
        self,
        distribution_b: Any,
        use_exact_kl: bool | None = None,
        test_points_reduce_axis: int | tuple[int, ...] | None = None,
        test_points_fn: Any = None,
        weight: Any = None,
        num_samples: int | None = None,
        free_bits: Any = None,
        free_bits_per: str = DIMENSION,
        capacity: Any = None,
    ) -> None:
        self.prior = checked_prior(distribution_b)
        self.use_exact_kl = use_exact_kl
        if use_exact_kl is not None:
            self.use_exact_kl = boolean(use_exact_kl, "use_exact_kl", "The KL")
        self.test_points_reduce_axis = _checked_axis(test_points_reduce_axis)
        if test_points_fn is not None and not callable(test_points_fn):
            raise ValueError(
                "The KL expects `test_points_fn` to be None or a function. Received: "
                f"test_points_fn={test_points_fn!r}. Give one from the posterior to "
                "draws, such as `lambda q: q.sample(10)`."
            )
        default = test_points_fn is tf.convert_to_tensor  # the default in tfp.layers
        self.test_points_fn = None if default else test_points_fn
        self.weight = annealed.checked(weight, "weight", "The KL")
        self.num_samples = None
        if num_samples is not None:
            self.num_samples = integer(num_samples, "num_samples", "The KL")
            if self.test_points_fn is not None or use_exact_kl:
                raise ValueError(
                    "The KL expects `num_samples` only if it makes Monte Carlo draws. "
                    f"Received: num_samples={num_samples} with test_points_fn="
                    f"{test_points_fn!r} and use_exact_kl={use_exact_kl!r}, so that it "
                    "makes none. Leave num_samples=None."
                )
        self.target = KLTarget(free_bits, free_bits_per, capacity)
        self._seeds = Seeds()
        self._metric: KLMetric | None = None
        self._layer: Any = None
        self._was_compared = False

    @property
    def distribution_b(self) -> Any:
        """The prior, under TFP's name."""
        return self.prior

    def __call__(self, distribution_a: Any) -> tf.Tensor:
        """Weighted batch mean of the KL, times the length that Keras divides by."""
        if kl_is_off():
            return tf.zeros([], distribution_a.dtype)
        loss = self.weighted_mean(distribution_a)
        shape = distribution_a.shape
        if shape.rank == 0:
            return loss
        length = shape[0] or tf.shape(tf.convert_to_tensor(distribution_a))[0]
        return loss * tf.cast(length, loss.dtype)

    def build(self, inputs: Any = None) -> None:
        """Makes the variables of a learned prior.

        Args:
            inputs: Example inputs of a conditional prior.
        """
        if isinstance(self.prior, keras.layers.Layer):
            prior_distribution(self.prior, inputs)

    def divergence(self, posterior: Any, prior_inputs: Any = None) -> tf.Tensor:
        """KL(q || p) for each example, unweighted.

        Args:
            posterior: The output of a distribution layer.
            prior_inputs: Inputs of a conditional prior.

        Returns:
            A tensor of shape `posterior.batch_shape`, in nats, followed by the event
            shape if free bits are per dimension.
        """
        kl = kl_divergence(
            posterior,
            prior_distribution(self.prior, prior_inputs),
            use_exact_kl=self.use_exact_kl,
            test_points=lambda: self._draws(posterior),
            test_points_reduce_axis=self.test_points_reduce_axis,
            per_dimension=self.target.per_dimension,
        )
        if self.test_points_reduce_axis is not None:
            self._warn_of_another_factor(posterior)
        return kl

    def weighted_mean(self, posterior: Any, prior_inputs: Any = None) -> tf.Tensor:
        """Updates the metric, and returns the term to add to the loss.

        Args:
            posterior: The output of a distribution layer; a Keras mask on it, of the
                batch shape, excludes members.
            prior_inputs: Inputs of a conditional prior.

        Returns:
            A scalar, weight times the cost of the KL; 0 for an empty batch.
        """
        check_rows_in_batch(posterior, "The KL")
        if in_training():
            annealed.check_in_training(self.weight, "weight", "The KL")
            self.target.check_in_training("The KL")
        kl = self.divergence(posterior, prior_inputs)
        event = list(range(-posterior.event_shape.rank, 0))
        whole = tf.reduce_sum(kl, axis=event) if self.target.per_dimension else kl
        mask = mask_of(posterior)
        sample_weight = (
            tf.ones_like(whole) if mask is None else _checked_mask(mask, whole)
        )
        if self._metric is not None:
            self._metric.record(self._layer, whole, sample_weight)
        cost = self.target.cost(kl, sample_weight)
        if self.weight is None:
            return cost
        return cost * annealed.current(self.weight, "weight", "The KL", cost.dtype)

    def _warn_of_another_factor(self, posterior: Any) -> None:
        """Warns where `tfp.layers` would have weighed the KL differently."""
        if self._was_compared:
            return
        self._was_compared = True  # or `test_points_fn` would draw in each step
        axis: Any = self.test_points_reduce_axis
        batch_rank = posterior.batch_shape.rank
        draws = output = without_event(posterior)
        if self.test_points_fn is not None:
            points = tf.convert_to_tensor(self.test_points_fn(posterior))
            draws = points.shape[: points.shape.rank - posterior.event_shape.rank]
        if self.use_exact_kl:  # then it ignored the axis, and added up the batch
            axis = range(draws.rank - batch_rank)
        factors = tfp_layers_factors(draws, output, batch_rank, axis)
        factor = factors and factors[isinstance(self._layer, KLDivergenceAddLoss)]
        if factor not in (None, "1"):
            warnings.warn(
                f"`test_points_reduce_axis={self.test_points_reduce_axis}` changes "
                "nothing, since the KL is the mean over the draws and the batch. For "
                f"the loss of `tfp.layers`, multiply the old weight by {factor}.",
                stacklevel=2,
            )

    def _draws(self, posterior: Any) -> Any:
        _warn_of_lost_gradients(posterior)
        if self.test_points_fn is not None:
            return tf.convert_to_tensor(self.test_points_fn(posterior))
        if self.num_samples is None and holds_draws(posterior):
            return held_draw(posterior)
        shape = () if self.num_samples is None else (self.num_samples,)
        return draw(unwrap(posterior), shape, seed=self._seeds.next())

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`, the prior by class name and parameters."""
        fn = self.test_points_fn
        return {
            "distribution_b": serialize_prior(self.prior),
            "use_exact_kl": self.use_exact_kl,
            "test_points_reduce_axis": self.test_points_reduce_axis,
            "test_points_fn": fn and keras.saving.serialize_keras_object(fn),
            "weight": annealed.serialize(self.weight),
            "num_samples": self.num_samples,
            **self.target.get_config(),
        }

    @classmethod
    @checked_config
    def from_config(cls, config: dict[str, Any]) -> "KLDivergenceRegularizer":
        """Restores the prior, functions and the weight before calling `__init__`."""
        return cls(**_revive_kl(config))


@keras.saving.register_keras_serializable("tfp_vae")
class KLDivergenceAddLoss(keras.layers.Layer):
    r"""Adds KL(q || p) to the loss of the model, and returns the distribution.

    .. math::

        \mathrm{loss} \mathrel{+}= \mathrm{weight} \cdot \mathrm{mean}_b \,
        \mathrm{KL}(q(z \mid x_b) \,\|\, p(z))

    in nats per example, summed over the event. The KL is exact if a closed form is
    known, otherwise by Monte Carlo with the draw that the decoder sees. The `kl` metric
    is always unweighted, and appears in the history of `fit` automatically.

    Reference:
        `tfp.layers.KLDivergenceAddLoss`, with the same argument names. Here the value
        is always the batch mean; see docs/migrating.md.

    Args:
        distribution_b: The prior p: a `tfd.Distribution`, a Keras layer or model that
            returns one, or a callable without arguments that does.
        use_exact_kl: `None` uses the closed form if there is one, `True` requires it,
            `False` uses Monte Carlo.
        test_points_reduce_axis: Accepted for code of `tfp.layers`: `None`, or all axes
            of draws in front of the batch, which are averaged either way. With Monte
            Carlo, others are an error.
        test_points_fn: Function from posterior to draws. By default the value that the
            decoder sees if it is a draw, converted by `"sample"` or by a function with
            a parameter `seed`; otherwise a new draw.
        weight: Factor of the KL in the loss, not in the metric: a number, a
            non-trainable variable, or a callable without arguments that computes one
            from variables.
        num_samples: Number of new draws for each Monte Carlo KL; by default the draw
            that the decoder sees.
        free_bits: Nats that cost nothing, see `KLTarget`: a number, a non-trainable
            variable, or such a callable; `None` for none.
        free_bits_per: `"dimension"`, for distributions that factorise, or `"total"`.
        capacity: Target of the KL in nats, in place of 0: a number, a non-trainable
            variable, or such a callable.
        **kwargs: Passed to `keras.layers.Layer`.

    Call arguments:
        distribution_a: The posterior q, the output of a distribution layer. Masked
            members of the batch do not count.
        prior_inputs: Inputs of a conditional prior p(z | prior_inputs), such as y.

    Returns:
        `distribution_a`, unchanged.

    Raises:
        ValueError: If an argument is invalid, the input is not a distribution,
            or its event shape or dtype is not that of the prior.

    Example:
        >>> prior = tfd.Independent(tfd.Normal(tf.zeros(2), 1.0), 1)
        >>> encoder = keras.Sequential(
        ...     [tv.IndependentNormal(2), KLDivergenceAddLoss(prior)])
        >>> q = encoder(tf.zeros([8, 4]))
        >>> q.event_shape, round(float(encoder.losses[0]), 4)
        (TensorShape([2]), 0.2135)
    """

    def __init__(
        self,
        distribution_b: Any,
        use_exact_kl: bool | None = None,
        test_points_reduce_axis: int | tuple[int, ...] | None = None,
        test_points_fn: Any = None,
        weight: Any = None,
        num_samples: int | None = None,
        free_bits: Any = None,
        free_bits_per: str = DIMENSION,
        capacity: Any = None,
        **kwargs: Any,
    ) -> None:
        policy = float_policy(kwargs.get("dtype"))
        super().__init__(**{"autocast": False, **kwargs, "dtype": policy})
        self.supports_masking = True
        self._kl = KLDivergenceRegularizer(
            distribution_b,
            use_exact_kl=use_exact_kl,
            test_points_reduce_axis=test_points_reduce_axis,
            test_points_fn=test_points_fn,
            weight=weight,
            num_samples=num_samples,
            free_bits=free_bits,
            free_bits_per=free_bits_per,
            capacity=capacity,
        )
        track_kl(self, self._kl)

    @property
    def regularizer(self) -> KLDivergenceRegularizer:
        """The KL that the layer adds, with its options."""
        return self._kl

    @property
    def prior(self) -> Any:
        """The prior p(z), as given: a distribution, layer or callable."""
        return self._kl.prior

    @property
    def weight(self) -> Any:
        """The factor of the KL in the loss; `None` for 1."""
        return self._kl.weight

    def __call__(
        self, distribution_a: Any, prior_inputs: Any = None, **kwargs: Any
    ) -> Any:
        """Calls the layer; a conditional prior is built on its first inputs."""
        if prior_inputs is None:  # A subclass may have a `call` of one argument.
            return super().__call__(distribution_a, **kwargs)
        if not self.built and not getattr(self.prior, "built", True):
            sides = [side or 1 for side in prior_inputs.shape[1:]]
            self._kl.build(tf.zeros([1, *sides]))
        return super().__call__(distribution_a, prior_inputs, **kwargs)

    def build(self, distribution_a_shape: Any) -> None:
        """Makes the variables of a learned prior."""
        if not needs_inputs(self.prior):
            self._kl.build()
        self.built = True

    def call(self, distribution_a: Any, prior_inputs: Any = None) -> Any:
        """Adds the loss, updates the metric."""
        if not isinstance(distribution_a, tfd.Distribution):
            raise ValueError(
                f"`{self.name}` expects a distribution. Received: a plain tensor of "
                f"shape {distribution_a.shape}. Put a distribution layer such as "
                "`IndependentNormal` right in front of it."
            )
        if not kl_is_off():
            self.add_loss(self._kl.weighted_mean(distribution_a, prior_inputs))
        return distribution_a

    def compute_output_shape(self, distribution_a_shape: Any) -> Any:
        """The input's shape."""
        return distribution_a_shape

    def compute_output_spec(
        self, distribution_a: Any, prior_inputs: Any = None
    ) -> keras.KerasTensor:
        """The input's shape and dtype."""
        return keras.KerasTensor(distribution_a.shape, dtype=distribution_a.dtype)

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`, the prior by class name and parameters."""
        return {**super().get_config(), **self._kl.get_config()}

    @classmethod
    @checked_config
    def from_config(cls, config: dict[str, Any]) -> "KLDivergenceAddLoss":
        """Restores the prior, functions and the weight before calling `__init__`."""
        return cls(**_revive_kl(config))


def track_kl(layer: keras.layers.Layer, regularizer: KLDivergenceRegularizer) -> None:
    """Attaches the prior, metric, weight and seeds of a KL to a layer.

    Keras tracks the attributes of layers, not those of regularizers.

    Args:
        layer: The layer that adds the KL.
        regularizer: The KL.
    """
    if regularizer._layer is not None:
        raise ValueError(
            "A `KLDivergenceRegularizer` expects to be the regularizer of one layer. "
            f"Received: that of {regularizer._layer.name!r}, for {layer.name!r} too. "
            "Make another one, which may have the same prior."
        )
    metric = KLMetric(layer.name)
    regularizer._metric, regularizer._layer = metric, layer
    layer._kl_metric = metric
    layer._kl_seeds = regularizer._seeds
    if isinstance(regularizer.prior, keras.layers.Layer):
        layer._kl_prior = regularizer.prior
    if isinstance(regularizer.weight, keras.Variable):
        layer._kl_weight = regularizer.weight
    if isinstance(regularizer.target.capacity, keras.Variable):
        layer._kl_capacity = regularizer.target.capacity
    if isinstance(regularizer.target.free_bits, keras.Variable):
        layer._kl_free_bits = regularizer.target.free_bits


def _warn_of_lost_gradients(posterior: Any) -> None:
    """Warns of draws without a gradient, which Monte Carlo needs."""
    if posterior.reparameterization_type != tfd.FULLY_REPARAMETERIZED:
        warnings.warn(
            f"The KL is estimated by Monte Carlo from draws of {unwrap(posterior)}, "
            "which are not reparameterised, so its value is right but its gradient is "
            "not. Another posterior or prior helps; for a mixture, "
            "`reparameterize=True`.",
            stacklevel=2,
        )


def _checked_axis(axis: Any) -> int | tuple[int, ...] | None:
    if axis is None:
        return None
    one, several = integers([axis]), integers(axis)
    if one is None and several is None:
        raise ValueError(
            "The KL expects `test_points_reduce_axis` to be None, an integer or a "
            f"tuple of integers. Received: test_points_reduce_axis={axis!r}. Give the "
            "axes of the draws in front of the batch, such as 0, or None for all."
        )
    return several if one is None else one[0]


def _checked_mask(mask: Any, kl: tf.Tensor) -> tf.Tensor:
    if not mask.shape.is_compatible_with(kl.shape):
        raise ValueError(
            f"The KL expects a mask of the batch's shape {tuple(kl.shape)}. Received: "
            f"mask.shape={tuple(mask.shape)}. Drop the mask in front of the posterior, "
            "or make the masked axis one of its batch axes."
        )
    return tf.cast(mask, kl.dtype)


def _revive_kl(config: dict[str, Any]) -> dict[str, Any]:
    axis = config["test_points_reduce_axis"]
    return revive_arguments(
        {
            **config,
            "test_points_reduce_axis": tuple(axis) if isinstance(axis, list) else axis,
            "weight": annealed.revive(config["weight"], "kl_weight"),
            "capacity": annealed.revive(config["capacity"], "kl_capacity"),
            "free_bits": annealed.revive(config["free_bits"], "kl_free_bits"),
        }
    )
