"""The variational autoencoder as a Keras model."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import boolean, checked_config, checked_function
from tfp_vae.distribution_tensor import DistributionTensor, unwrap
from tfp_vae.engine.strategies import is_chief
from tfp_vae.environment import refuse_keras_2
from tfp_vae.keras_internals import mask_of, set_mask
from tfp_vae.kl.carried import carried_kls, prior_of
from tfp_vae.kl.prior import (
    checked_prior,
    needs_inputs,
    serialize_prior,
)
from tfp_vae.kl.schedule import KLSchedule
from tfp_vae.kl.without_kl import without_kl
from tfp_vae.latents import center
from tfp_vae.models.bound import LikelihoodTensor
from tfp_vae.models.export import export_endpoints, vae_input_specs
from tfp_vae.models.imputation import Imputation
from tfp_vae.models.labels import (
    Labels,
    MeanOfLabelled,
    check_given_with_classifier,
    check_takes_labels,
)
from tfp_vae.models.missing import checked_missing, checked_options
from tfp_vae.models.network_checks import check_own_weights, warn_of_activation
from tfp_vae.models.semi_supervised import SemiSupervised
from tfp_vae.objectives import ELBO, Objective
from tfp_vae.seeds import Seeds
from tfp_vae.serialization import deserialize_distribution, is_distribution_config

tfd = tfp.distributions

_OF_OBJECTIVES = {"beta", "capacity", "free_bits", "gradient", "latents", "num_samples"}


class Held:
    """Parts of a model that Keras and TensorFlow must not track.

    Args:
        prior: The prior that was given.
        objective: The objective.

    Example:
        >>> Held(tfd.Normal(0.0, 1.0), tv.ELBO()).objective.num_samples
        1
    """

    def __init__(self, prior: Any, objective: Any) -> None:
        self.prior = prior
        self.objective = objective


@keras.saving.register_keras_serializable("tfp_vae")
class VAE(Imputation, SemiSupervised):
    r"""A variational autoencoder: q(z | x), p(x | z) and p(z), and the bound they give.

    .. math::

        \log p(x) \ge
        \mathrm{E}_q[\log p(x \mid z)] - \mathrm{KL}(q(z \mid x) \,\|\, p(z))

    `fit(x)` needs no targets and no loss: the loss is minus the bound, in nats per
    example. The history has `loss`, which is minimised; `elbo`, `nll` and `kl`, the
    evidence lower bound and its two terms, whatever the objective, without `kl_weight`
    and weights of examples; and `kl_weight`, the factor of the KL in the loss. Variants
    are arguments::

        tv.VAE(encoder, decoder, prior, objective=tv.ELBO(beta=4.0))  # beta-VAE
        tv.VAE(..., objective=tv.ImportanceWeightedBound(50))  # IWAE
        tv.VAE(..., prior=tv.VampPrior(encoder, num_components=500))  # VampPrior
        tv.VAE(..., conditional=True)  # q(z | x, y), p(x | z, y), p(z | y)
        tv.VAE(..., missing="nan")  # NaN are missing entries
        tv.VAE(..., classifier=q_of_y)  # labels of -1 are unknown (M2)

    `encode`, `decode` and `prior_distribution` return distributions, the other methods
    NumPy arrays.

    Reference:
        Kingma and Welling, Auto-encoding variational Bayes, 2014.
        https://arxiv.org/abs/1312.6114

    Args:
        encoder: Keras model or layer from x to a distribution q(z | x) of batch shape
            `(batch,)`.
        decoder: Keras model or layer from z to a distribution p(x | z) of batch shape
            `(batch,)`. Neither depends on `convert_to_tensor_fn`.
        prior: p(z): a prior layer, a `tfd.Distribution`, a Keras model or a callable;
            `None` takes it from the `KLDivergenceAddLoss` that the encoder carries.
        objective: What is maximised; by default `ELBO()`.
        conditional: Whether both networks also take y: they are called with `[x, y]`
            and `[z, y]`, and `fit(x, y)` gives it. A prior that needs an input, such
            as a model, gets y too.
        target: Name of the entry of x that the decoder describes, if x is a dictionary.
        missing: `"nan"`, or the number that marks missing entries. The likelihood
            leaves them out; the encoder sees `missing_fill` in their place.
        missing_fill: `None` for 0, or `"learned"` for a weight of the shape of one x,
            trained from 0.
        missing_input: Whether the encoder also takes the mask of observed entries, 1
            and 0 in the shape of x: it is called with `[x, observed]`, or with
            `[x, observed, y]`.
        missing_model: Keras model or layer from x without gaps to p(observed | x), for
            entries whose value decides whether they are missing (not-MIWAE); see
            docs/missing.md.
        classifier: Keras model or layer from x to q(y | x), a `OneHotCategorical` or
            `tfd.Categorical`. Both networks then take y too, as one-hot vectors, as
            with `conditional`. `fit(x, y)` gets labels of shape `(n,)`: integers from
            0, and -1 or NaN where the label is unknown. The loss of an example is

            .. math::

                \begin{cases}
                L(x, y) - \log p(y) - \alpha \log q(y \mid x) & y \text{ known} \\
                \sum_y q(y \mid x) \, (L(x, y) - \log p(y) + \log q(y \mid x))
                & y \text{ unknown}
                \end{cases}

            where L is the objective's loss, the only part that `beta` and `KLWarmup`
            weigh. The history's `kl` includes -log p(y), or KL(q(y | x) || p(y)), so
            that `elbo` bounds log p(x, y) or log p(x); `accuracy` and
            `classification_loss`, -log q(y | x), are means over the labelled rows, NaN
            if there are none. Kingma et al., Semi-supervised learning with deep
            generative models, 2014 (M2), https://arxiv.org/abs/1406.5298. Answers
            about x alone take the most probable class, `log_prob` and `elbo` sum over
            all; Keras' metrics see p(x | z, y) of the known or most probable class.
        label_prior: p(y): `None` for equal probabilities, `"learned"`, or a
            probability for each class.
        alpha: Factor of -log q(y | x); `None` for 1. Kingma et al. have 0.1 N / N_l
            for N rows, N_l of them labelled.
        **kwargs: Passed to `keras.Model`.

    Call arguments:
        inputs: x, or the pair `(x, y)` if the model is conditional or has a classifier.
        training: Whether to draw one z from q(z | x) instead of using its mean (the
            mode of a discrete z, the mean direction on a sphere).
        num_samples: Number of z to draw, also if `training` is false, folded into the
            batch; `"all"` takes each value of a discrete z once. Steps of training and
            of evaluation use it.

    Returns:
        p(x | z), a `DistributionTensor`.

    Raises:
        ValueError: If an argument is invalid, a network returns no distribution, shapes
            do not fit, or there is not exactly one prior.

    Example:
        >>> encoder = keras.Sequential([
        ...     keras.Input((8,)), keras.layers.Dense(6), tv.IndependentNormal(3)])
        >>> decoder = keras.Sequential([
        ...     keras.Input((3,)), keras.layers.Dense(8), tv.IndependentBernoulli(8)])
        >>> vae = VAE(encoder, decoder, tv.StandardNormal(3))
        >>> vae.compile("adam")
        >>> x = np.eye(8, dtype="float32")
        >>> history = vae.fit(x, epochs=2, verbose=0).history
        >>> sorted(history)
        ['elbo', 'kl', 'kl_weight', 'loss', 'nll']
        >>> vae.log_prob(x, num_samples=100).shape, vae.generate(5).shape
        ((8,), (5, 8))
    """

    def __init__(
        self,
        encoder: keras.layers.Layer,
        decoder: keras.layers.Layer,
        prior: Any = None,
        objective: Objective | None = None,
        conditional: bool = False,
        target: str | None = None,
        missing: Any = None,
        missing_fill: str | None = None,
        missing_input: bool = False,
        missing_model: Any = None,
        classifier: Any = None,
        label_prior: Any = None,
        alpha: float | None = None,
        **kwargs: Any,
    ) -> None:
        misplaced = _OF_OBJECTIVES & set(kwargs)
        if misplaced:
            given = ", ".join(f"{name}={kwargs[name]!r}" for name in sorted(misplaced))
            raise ValueError(
                f"`VAE` expects {sorted(misplaced)} as arguments of its objective. "
                f"Received: {given} as arguments of `VAE`. Give "
                "`objective=tv.ELBO(beta=4.0)`, or "
                "`tv.ImportanceWeightedBound(num_samples=50)`."
            )
        super().__init__(**{"autocast": False, **kwargs})
        for name, network in {"encoder": encoder, "decoder": decoder}.items():
            refuse_keras_2(network, "`VAE`")
            if not isinstance(network, keras.layers.Layer):
                raise ValueError(
                    f"`VAE` expects `{name}` to be a Keras model or layer. Received: "
                    f"{name}={network!r}. Give a network that ends in a distribution "
                    "layer such as `IndependentNormal`."
                )
        objective = ELBO() if objective is None else objective
        if not isinstance(objective, Objective):
            raise ValueError(
                "`VAE` expects `objective` to be an objective such as `tv.ELBO()`. "
                f"Received: objective={objective!r}. Others are "
                "`tv.ImportanceWeightedBound(50)` and `tv.RenyiBound(0.5)`."
            )
        warn_of_activation(decoder)
        self.encoder = encoder
        self.decoder = decoder
        prior = prior_of(encoder, decoder, prior)
        prior = checked_prior(prior, "prior", "`VAE`")
        # TensorFlow would try to export a distribution that is an attribute.
        self._held = Held(prior, objective)
        self._prior_layer = prior if isinstance(prior, keras.layers.Layer) else None
        self.conditional = boolean(conditional, "conditional", "VAE")
        if target is not None and not isinstance(target, str):
            raise ValueError(
                "`VAE` expects `target` to be None or the name of an entry of x. "
                f"Received: target={target!r}. Give a string, a key of the dictionary "
                "x."
            )
        self.target = target
        self.missing = checked_missing(missing, encoder)
        self.missing_fill, self.missing_input, self.missing_model = checked_options(
            missing, missing_fill, missing_input, missing_model
        )
        self._fill: Any = None
        self.classifier = classifier
        if classifier is None:
            check_given_with_classifier(label_prior, alpha)
        else:
            self._set_labels(label_prior, alpha)
        # Keras tracks attributes of a model, but no variables inside an objective.
        self._objective_variables = objective.variables
        self.kl_schedule = KLSchedule()
        self._seeds = Seeds()
        self._elbo_metric = keras.metrics.Mean("elbo")
        self._nll_metric = keras.metrics.Mean("nll")
        self._kl_metric = keras.metrics.Mean("kl")
        self._weight_metric = keras.metrics.Mean("kl_weight")
        if classifier is not None:
            self._accuracy_metric = MeanOfLabelled("accuracy")
            self._classification_metric = MeanOfLabelled("classification_loss")
        networks = (encoder, decoder, *([] if classifier is None else [classifier]))
        if all(map(_has_weights, networks)):
            self._build_prior()
            if self.missing is not None:
                known = vae_input_specs(self, "VAE")
                self._build_missing(known[0] if self.conditional else known)
            self.built = True

    def _set_labels(self, label_prior: Any, alpha: Any) -> None:
        refuse_keras_2(self.classifier, "`VAE`")
        self._labels = Labels(self.classifier, label_prior, alpha)
        self._label_logits = self._labels.logits  # for Keras to track
        self.conditional = True
        for name in ("encoder", "decoder"):
            check_takes_labels(getattr(self, name), name, self._labels.num_classes)

    @property
    def prior(self) -> Any:
        """The prior p(z); it cannot be replaced."""
        return self._held.prior

    @property
    def objective(self) -> Objective:
        """The objective; it cannot be replaced."""
        return self._held.objective

    def build(self, inputs_shape: Any) -> None:
        """Builds the networks that have no variables yet, by calling them on zeros."""
        if self.classifier is not None:
            inputs_shape = self._labels.shapes(inputs_shape)
        x, y = inputs_shape if self.conditional else (inputs_shape, None)
        x, y = _zeros(x), None if y is None else _zeros(y)
        with without_kl():
            self._build_missing(x)
            if self.classifier is not None:
                self.classifier(x)
            q = self.encoder(self._given((x, y) if self.conditional else x))
            z = center(q)
            self.decoder([z, y] if self.conditional else z)
        self._build_prior(y)
        self.built = True

    def _build_missing(self, x: Any) -> None:
        """Makes the weights that depend on the shape of x, tensors or their specs."""
        several = self.target is None and isinstance(x, dict | list | tuple)
        if self.missing is None or several:
            return
        # An axis of unknown length shares its numbers.
        shape = [1 if side is None else side for side in self.target_of(x).shape[1:]]
        if self.missing_fill is not None:
            self._fill = self.add_weight(
                shape=shape, initializer="zeros", name="missing_fill"
            )
        if self.missing_model is not None and not _has_weights(self.missing_model):
            self.mask_distribution(tf.zeros([1, *shape]))

    def _build_prior(self, y: Any = None) -> None:
        if self.classifier is not None and y is None:
            y = _zeros([None, self._labels.num_classes])
        given = y is not None or not (self.conditional and needs_inputs(self.prior))
        if self._prior_layer is not None and given:
            self.prior_distribution(y)

    def call(
        self,
        inputs: Any,
        training: bool | None = None,
        num_samples: Any = None,
        _classes: str | None = None,
    ) -> DistributionTensor:
        """p(x | z) for a draw of z in training, else for the posterior's `center`."""
        if _classes is not None:  # in a step of a model with a classifier
            return self.over_classes(inputs, num_samples or 1, training, _classes)
        x, y = self._split(inputs)
        q = self.posterior((x, y) if self.conditional else x, training)
        if training or num_samples:
            seed = self._seeds.next()
            draws = self.draw_and_decode(q, y, num_samples or 1, seed, training)
            return set_mask(LikelihoodTensor(draws.likelihood, draws), draws.mask)
        p = self.likelihood(center(q), y, training)
        return set_mask(LikelihoodTensor(unwrap(p)), mask_of(p))

    def export(
        self, filepath: Any, format: str = "tf_saved_model", **kwargs: Any
    ) -> None:
        """Writes a SavedModel that plain TensorFlow serves, for batches of any size.

        Endpoints: `encode` (a dictionary of mean, stddev and sample), `encode_moments`
        (without the sample, so that LiteRT converts it), `decode`, `reconstruct`,
        `generate`, `log_prob`, with `missing` also `impute`, and `serving_default`,
        which is `reconstruct`. Those of a conditional model take y as the last
        argument. With a classifier y are labels, -1 for unknown except in `decode`; the
        endpoint `classify` takes x alone. `generate(n, seed)` makes new draws if seed
        is -1, else the same draws for the same seed. `log_prob` and `impute` refuse
        values that the likelihood cannot draw.

        Args:
            filepath: Directory to write to; for `"litert"` a file that ends in
                `.tflite`.
            format: `"tf_saved_model"`; other formats are Keras' own, only of `call`.
            **kwargs: `verbose`; `input_signature` of x if it is not known; and
                `max_draws`, the largest `n` and `num_samples` of a request.

        Raises:
            ValueError: If the model has no weights yet, or `filepath` is no path.
        """
        self._check_built("export")
        if not is_chief(self.distribute_strategy):
            return
        if format != "tf_saved_model":
            if kwargs.get("input_signature") is None:
                kwargs["input_signature"] = [vae_input_specs(self, "VAE.export")]
            super().export(filepath, format=format, **kwargs)
            return
        export_endpoints(self, filepath, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`, the networks and the prior serialized."""
        # Only a prior that is a model is checked: a `VampPrior`, a layer, shares the
        # whole encoder, which Keras restores as one object.
        is_own = isinstance(self.prior, keras.Model) and not carried_kls(self.encoder)
        check_own_weights(
            encoder=self.encoder,
            decoder=self.decoder,
            classifier=self.classifier,
            missing_model=self.missing_model,
            prior=self.prior if is_own else None,
        )
        config = super().get_config()
        for name in ("encoder", "decoder"):
            network = getattr(self, name)
            config[name] = keras.saving.serialize_keras_object(network)
            # Keras' mark of an object that occurs again, as a VampPrior's encoder.
            config[name]["shared_object_id"] = id(network)
        return {
            **config,
            "prior": None if carried_kls(self.encoder) else serialize_prior(self.prior),
            "objective": keras.saving.serialize_keras_object(self.objective),
            "conditional": self.conditional,
            "target": self.target,
            "missing": self.missing,
            "missing_fill": self.missing_fill,
            "missing_input": self.missing_input,
            "missing_model": keras.saving.serialize_keras_object(self.missing_model),
            **self._config_of_labels(),
        }

    def _config_of_labels(self) -> dict[str, Any]:
        if self.classifier is None:
            return {}
        classifier = keras.saving.serialize_keras_object(self.classifier)
        return {"classifier": classifier, **self._labels.get_config()}

    @classmethod
    @checked_config
    def from_config(cls, config: dict[str, Any]) -> "VAE":
        """Restores the networks, the prior and the objective."""
        encoder = _revived(config["encoder"], "encoder")
        prior = _with_encoder(config["prior"], config["encoder"], encoder)
        prior = _revived(prior, "prior")
        names = {"decoder", "objective", "missing_model", "classifier"} & set(config)
        rest = {name: _revived(config[name], name) for name in names}
        return cls(**{**config, **rest, "encoder": encoder, "prior": prior})


def _has_weights(network: Any) -> bool:
    """Whether a network has known inputs, and so all its layers have weights.

    Keras marks other layers as built before their inner layers are.
    """
    return isinstance(network, keras.Model) and bool(getattr(network, "inputs", None))


def _with_encoder(prior: Any, config: dict[str, Any], encoder: Any) -> Any:
    """The config of a prior, with the model's encoder itself in place of its config."""
    inner = prior.get("config") if isinstance(prior, dict) else None
    theirs = inner.get("encoder") if isinstance(inner, dict) else None
    if not isinstance(theirs, dict) or inner is None:
        return prior
    if theirs.get("shared_object_id") != config.get("shared_object_id"):
        return prior
    return {**prior, "config": {**inner, "encoder": encoder}}


def _revived(config: Any, name: str) -> Any:
    if is_distribution_config(config):
        return deserialize_distribution(config)
    return checked_function(keras.saving.deserialize_keras_object(config), name)


def _zeros(shape: Any) -> Any:
    """Zeros for one example of a shape, or of a structure of shapes."""
    if isinstance(shape, dict):
        return {name: _zeros(part) for name, part in shape.items()}
    if shape and isinstance(shape[0], list | tuple):
        return [_zeros(part) for part in shape]
    return tf.zeros([1, *shape[1:]])
