"""KL(q(z|x) || p(z)) as a Keras layer and as an activity regularizer."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import positive_number
from tfp_vae.constraints import float_policy
from tfp_vae.distribution_tensor import holds_draws, unwrap
from tfp_vae.divergences import kl_divergence
from tfp_vae.seeds import Seeds
from tfp_vae.serialization import (
    deserialize_distribution,
    is_distribution_config,
    revive_arguments,
    serialize_distribution,
)

tfd = tfp.distributions

_VARIABLES = {"keras.Variable": keras.Variable, "tf.Variable": tf.Variable}


class KLMetric(keras.metrics.Mean):
    """Mean KL per example over an epoch, shown as `kl` by `fit`.

    Where a compiled model has several KL layers, each shows its own as
    `<layer name>_kl`, and `kl` is their sum.

    Args:
        layer_name: Name of the layer that computes the KL.

    Example:
        >>> metric = KLMetric("z")
        >>> metric.update_state([1.0, 3.0])
        >>> metric.name, float(metric.result())
        ('kl', 2.0)
    """

    def __init__(self, layer_name: str) -> None:
        super().__init__(name="kl", dtype="float32")
        self._layer_name = layer_name
        # A function and not the list of peers: Keras walks lists when it saves.
        self._total: Callable[[], tf.Tensor] | None = None

    def result(self) -> Any:
        """The mean, or a dictionary of the own mean and the model's total."""
        own = super().result()
        if self._total is None:
            return own
        return {self.name: own, "kl": self._total()}

    def meet_peers(self, layer: keras.layers.Layer) -> None:
        """Finds the other KL layers of the compiled model that is being called.

        Args:
            layer: The layer whose call is under way.
        """
        # Keras tells a layer nothing about its model but through this private call
        # context; `test_kl_layers_in_one_model_share_a_total` notices if it goes.
        model = layer._get_call_context().entry_layer
        if not getattr(model, "compiled", False):
            return
        # A dictionary, since Keras lists the metrics of nested layers twice.
        metrics = {id(metric): metric for metric in model.metrics}.values()
        peers = [metric for metric in metrics if isinstance(metric, KLMetric)]
        names = [f"{metric._layer_name}_kl" for metric in peers]
        for i, metric in enumerate(peers):
            twin = names[:i].count(names[i])
            alone = len(peers) == 1
            metric.name = "kl" if alone else names[i] + (f"_{twin}" if twin else "")
            metric._total = None if alone else functools.partial(_total, peers)


def _total(metrics: list[KLMetric]) -> tf.Tensor:
    return sum(keras.metrics.Mean.result(metric) for metric in metrics)


@keras.saving.register_keras_serializable("tfp_vae")
class KLDivergenceRegularizer(keras.regularizers.Regularizer):
    """KL(q || p) as the `activity_regularizer` of a distribution layer.

        loss = weight * mean_b KL(q(z | x[b]) || p(z))

    in nats, counted once. Keras divides what an activity regularizer returns by the
    length of the first axis of the output, so this returns the mean times that length:
    the sum over the batch. A learned prior becomes part of the layer that carries the
    regularizer, and so does the `kl` metric.

    Reference:
        `tfp.layers.KLDivergenceRegularizer`, whose argument names these are. It added
        the KL twice; see docs/migrating.md.

    Args:
        distribution_b: The prior p: a `tfd.Distribution`, a Keras layer or model that
            returns one, or a callable without arguments that does.
        use_exact_kl: `None` takes the closed form where there is one, `True` insists
            on it, `False` uses Monte Carlo.
        test_points_reduce_axis: Axes of the Monte Carlo draws to average; by default
            all that stand in front of the batch.
        test_points_fn: From posterior to draws. By default the value that the decoder
            sees, or a new draw where that value is a statistic such as the mean.
        weight: What multiplies the KL in the loss, not in the metric: a number, a
            variable that is not trainable, or a callable without arguments.

    Raises:
        ValueError: If `distribution_b` cannot give a distribution, or `weight` is
            negative or trainable.

    Example:
        >>> prior = tfd.Independent(tfd.Normal(tf.zeros(2), 1.0), 1)
        >>> layer = tv.IndependentNormal(
        ...     2, activity_regularizer=KLDivergenceRegularizer(prior))
        >>> _ = layer(tf.zeros([8, 4]))
        >>> round(float(layer.losses[0]), 4)  # KL(N(0, log 2) || N(0, 1)), twice
        0.2135
    """

    def __init__(
        self,
        distribution_b: Any,
        use_exact_kl: bool | None = None,
        test_points_reduce_axis: int | tuple[int, ...] | None = None,
        test_points_fn: Any = None,
        weight: Any = None,
    ) -> None:
        self.prior = _checked_prior(unwrap(distribution_b))
        self.use_exact_kl = use_exact_kl
        self.test_points_reduce_axis = test_points_reduce_axis
        self.test_points_fn = test_points_fn
        self.weight = _checked_weight(weight)
        self._seeds = Seeds()
        self._metric: KLMetric | None = None
        self._layer: Any = None

    @property
    def distribution_b(self) -> Any:
        """The prior, under TFP's name."""
        return self.prior

    def __call__(self, distribution_a: Any) -> tf.Tensor:
        """Weighted batch mean of the KL, times the length that Keras divides by."""
        loss = self.weighted_mean(distribution_a)
        shape = distribution_a.shape
        if shape.rank == 0:
            return loss
        length = shape[0] or tf.shape(tf.convert_to_tensor(distribution_a))[0]
        return loss * tf.cast(length, loss.dtype)

    def build(self) -> None:
        """Makes the variables of a learned prior."""
        if isinstance(self.prior, keras.layers.Layer):
            prior_distribution(self.prior)

    def divergence(self, posterior: Any) -> tf.Tensor:
        """KL(q || p) for each example, unweighted.

        Args:
            posterior: The output of a distribution layer.

        Returns:
            A tensor of shape `posterior.batch_shape`, in nats.
        """
        return kl_divergence(
            posterior,
            prior_distribution(self.prior),
            use_exact_kl=self.use_exact_kl,
            test_points=lambda: self._draws(posterior),
            test_points_reduce_axis=self.test_points_reduce_axis,
        )

    def weighted_mean(self, posterior: Any, mask: Any = None) -> tf.Tensor:
        """Updates the metric, and returns the term to add to the loss.

        Args:
            posterior: The output of a distribution layer.
            mask: Boolean tensor of the batch's shape; False leaves a member out.

        Returns:
            A scalar, `weight * mean KL`; 0 for an empty batch.
        """
        kl = self.divergence(posterior)
        ones = tf.ones_like(kl)
        share = ones if mask is None else _checked_mask(mask, kl)
        if self._metric is not None:
            self._metric.meet_peers(self._layer)
            self._metric.update_state(kl, sample_weight=share)
        mean = tf.math.divide_no_nan(tf.reduce_sum(kl * share), tf.reduce_sum(share))
        if self.weight is None:
            return mean
        weight = self.weight() if callable(self.weight) else self.weight
        return mean * tf.cast(tf.convert_to_tensor(weight), mean.dtype)

    def _draws(self, posterior: Any) -> tf.Tensor:
        if self.test_points_fn is not None:
            return tf.convert_to_tensor(self.test_points_fn(posterior))
        if holds_draws(posterior):
            return tf.convert_to_tensor(posterior)
        return posterior.sample(seed=self._seeds.next())

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`, the prior by class name and parameters."""
        fn = self.test_points_fn
        return {
            "distribution_b": _serialize_prior(self.prior),
            "use_exact_kl": self.use_exact_kl,
            "test_points_reduce_axis": self.test_points_reduce_axis,
            "test_points_fn": fn and keras.saving.serialize_keras_object(fn),
            "weight": _serialize_weight(self.weight),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "KLDivergenceRegularizer":
        """Restores the prior, functions and the weight before calling `__init__`."""
        return cls(**_revive_kl(config))


@keras.saving.register_keras_serializable("tfp_vae")
class KLDivergenceAddLoss(keras.layers.Layer):
    """Adds KL(q || p) to the loss of the model, and hands the distribution on.

        loss += weight * mean_b KL(q(z | x[b]) || p(z))

    in nats per example, summed over the event, exact where a closed form is known and
    by Monte Carlo with the draw that the decoder saw otherwise. The `kl` metric, always
    unweighted, appears in the history of `fit` by itself.

    Reference:
        `tfp.layers.KLDivergenceAddLoss`, whose argument names these are. The value is
        always the batch mean; see docs/migrating.md.

    Args:
        distribution_b: The prior p: a `tfd.Distribution`, a Keras layer or model that
            returns one, or a callable without arguments that does.
        use_exact_kl: `None` takes the closed form where there is one, `True` insists
            on it, `False` uses Monte Carlo.
        test_points_reduce_axis: Axes of the Monte Carlo draws to average; by default
            all that stand in front of the batch.
        test_points_fn: From posterior to draws. By default the value that the decoder
            sees, or a new draw where that value is a statistic such as the mean.
        weight: What multiplies the KL in the loss, not in the metric: a number, a
            variable that is not trainable, or a callable without arguments.
        **kwargs: Passed to `keras.layers.Layer`.

    Call arguments:
        distribution_a: The posterior q, the output of a distribution layer.
        mask: Boolean tensor of the batch's shape; False leaves a member out.

    Returns:
        `distribution_a`, unchanged.

    Raises:
        ValueError: If the input is no distribution, or its event shape or dtype is
            not that of the prior.

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
        )
        track_kl(self, self._kl)

    @property
    def prior(self) -> Any:
        """The prior p(z): the distribution, layer or callable that was given."""
        return self._kl.prior

    @property
    def weight(self) -> Any:
        """What multiplies the KL in the loss; `None` for 1."""
        return self._kl.weight

    def build(self, input_shape: Any) -> None:
        """Makes the variables of a learned prior."""
        self._kl.build()
        self.built = True

    def call(self, distribution_a: Any, mask: Any = None) -> Any:
        """Adds the loss, updates the metric."""
        if not isinstance(distribution_a, tfd.Distribution):
            raise ValueError(
                f"`{self.name}` expects a distribution. Received: a "
                f"{type(distribution_a).__name__} of shape {distribution_a.shape}. Put "
                "a distribution layer such as `IndependentNormal` right in front of it."
            )
        self.add_loss(self._kl.weighted_mean(distribution_a, mask))
        return distribution_a

    def compute_output_spec(
        self, distribution_a: Any, mask: Any = None
    ) -> keras.KerasTensor:
        """The input's shape and dtype."""
        return keras.KerasTensor(distribution_a.shape, dtype=distribution_a.dtype)

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`, the prior by class name and parameters."""
        return {**super().get_config(), **self._kl.get_config()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "KLDivergenceAddLoss":
        """Restores the prior, functions and the weight before calling `__init__`."""
        return cls(**_revive_kl(config))


def track_kl(layer: keras.layers.Layer, regularizer: KLDivergenceRegularizer) -> None:
    """Makes the prior, metric, weight and seed of a KL part of a layer.

    Keras tracks what a layer holds as an attribute, and looks into no regularizer.

    Args:
        layer: The layer that adds the KL.
        regularizer: The KL.
    """
    metric = KLMetric(layer.name)
    regularizer._metric, regularizer._layer = metric, layer
    layer._kl_metric = metric
    layer._kl_seeds = regularizer._seeds
    if isinstance(regularizer.prior, keras.layers.Layer):
        layer._kl_prior = regularizer.prior
    if isinstance(regularizer.weight, keras.Variable):
        layer._kl_weight = regularizer.weight


def prior_distribution(prior: Any) -> Any:
    """The distribution p(z) behind whatever was given as the prior.

    Args:
        prior: A `tfd.Distribution`, a Keras layer or model, or a callable.

    Returns:
        A `tfd.Distribution`.

    Raises:
        ValueError: If the layer or callable returns something else.

    Example:
        >>> prior_distribution(lambda: tfd.Normal(0.0, 1.0)).name
        'Normal'
    """
    if isinstance(prior, tfd.Distribution):
        return prior
    if isinstance(prior, keras.layers.Layer) and _needs_inputs(prior):
        distribution = prior(tf.zeros([1, 1]))  # ignored by what a prior is made of
    else:
        distribution = prior()
    if not isinstance(distribution, tfd.Distribution):
        raise ValueError(
            "The KL expects a prior that returns a `tfd.Distribution`. Received: "
            f"{type(distribution).__name__} from {prior!r}. End it with a distribution "
            "layer, such as `IndependentNormal`."
        )
    return unwrap(distribution)


def _needs_inputs(layer: keras.layers.Layer) -> bool:
    first = next(iter(inspect.signature(layer.call).parameters.values()), None)
    return first is not None and first.default is inspect.Parameter.empty


def _checked_prior(prior: Any) -> Any:
    if isinstance(prior, tfd.Distribution) and prior.trainable_variables:
        raise ValueError(
            "The KL expects a prior whose trainable variables Keras knows. Received: "
            f"{prior!r} with {len(prior.trainable_variables)} `tf.Variable`. Build a "
            "learned prior from layers: `keras.Sequential([VariableLayer("
            "IndependentNormal.params_size(d)), IndependentNormal(d)])`."
        )
    if not (isinstance(prior, tfd.Distribution) or callable(prior)):
        raise ValueError(
            "The KL expects `distribution_b` to be a `tfd.Distribution`, a Keras layer "
            f"or a callable that returns one. Received: {prior!r} of type "
            f"{type(prior).__name__}. `StandardNormal(latent_size)` is the usual prior."
        )
    return prior


def _checked_weight(weight: Any) -> Any:
    if isinstance(weight, keras.Variable | tf.Variable):
        if weight.trainable:
            raise ValueError(
                "The KL expects a `weight` that is not trainable, since an optimizer "
                f"would drive it to minus infinity. Received: {weight!r}. Make it with "
                "trainable=False."
            )
        return weight
    if (
        weight is None
        or callable(weight)
        or (isinstance(weight, float | int) and not weight)
    ):
        return weight
    return positive_number(weight, "weight", "KLDivergenceAddLoss")


def _checked_mask(mask: Any, kl: tf.Tensor) -> tf.Tensor:
    if not mask.shape.is_compatible_with(kl.shape):
        raise ValueError(
            f"The KL expects a mask of the batch's shape {tuple(kl.shape)}. Received: "
            f"mask.shape={tuple(mask.shape)}. Drop the mask in front of the posterior, "
            "or make the masked axis a batch axis of it."
        )
    return tf.cast(mask, kl.dtype)


def _serialize_prior(prior: Any) -> Any:
    if isinstance(prior, tfd.Distribution):
        return serialize_distribution(prior)
    return keras.saving.serialize_keras_object(prior)


def _serialize_weight(weight: Any) -> Any:
    for kind, cls in _VARIABLES.items():
        if isinstance(weight, cls):
            return {kind: float(weight.numpy())}
    return keras.saving.serialize_keras_object(weight) if callable(weight) else weight


def _revive_kl(config: dict[str, Any]) -> dict[str, Any]:
    config = dict(config)
    if is_distribution_config(config["distribution_b"]):
        config["distribution_b"] = deserialize_distribution(config["distribution_b"])
    weight = config["weight"]
    for kind, cls in _VARIABLES.items():
        if isinstance(weight, dict) and kind in weight:
            config["weight"] = cls(weight[kind], trainable=False, name="kl_weight")
    if isinstance(config["test_points_reduce_axis"], list):
        config["test_points_reduce_axis"] = tuple(config["test_points_reduce_axis"])
    return revive_arguments(config)
