"""How a VAE is trained and evaluated: its steps, its loss and its metrics."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

import tfp_vae.kl.annealed as annealed
from tfp_vae.engine.model import Model
from tfp_vae.engine.workers import of_all_rows
from tfp_vae.keras_internals import set_mask
from tfp_vae.kl.metric import KLMetric
from tfp_vae.models.bound import (
    Draws,
    Networks,
    expanded_like,
    split_weights,
    tiled,
    with_placeholder_target,
)
from tfp_vae.models.data_checks import check_finite, check_gaps, check_targets
from tfp_vae.models.network_checks import (
    check_draws,
    check_event,
    check_inputs,
    check_reparameterized,
    check_reparameterized_values,
)
from tfp_vae.seeds import Seeds


class Training(Networks, Model):
    """The methods of `tv.VAE` that train and evaluate it, in the engine's `fit`."""

    _seeds: Seeds
    kl_schedule: Any
    _has_metrics: bool = False
    _metrics_of_keras: Sequence[str] = ()

    def compile(
        self,
        optimizer: Any = "adam",
        loss: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Configures training, as `tv.Model.compile`; the objective is the loss.

        Args:
            optimizer: As in `keras.Model.compile`.
            loss: Must stay `None`.
            *args: Must stay empty: give other arguments by name.
            **kwargs: As there, and in `tv.Model.compile`: `metrics`, `jit_compile`,
                `steps_per_execution`, ...

        Raises:
            ValueError: If a loss, `loss_weights`, an objective or more than two
                positional arguments are given.
        """
        if "objective" in kwargs:
            raise ValueError(
                "`VAE.compile` expects arguments of training only. Received: "
                f"objective={kwargs['objective']!r}. The objective belongs to the "
                "model: give it to `VAE(objective=...)`."
            )
        loss_weights = kwargs.get("loss_weights")
        if loss is not None or args or loss_weights is not None:
            raise ValueError(
                "`VAE.compile` expects no loss: it is minus the objective, with the "
                f"decoder's likelihood. Received: loss={loss!r}, loss_weights="
                f"{loss_weights!r} and {len(args)} more positional arguments. Choose "
                "p(x | z) by the decoder's last layer, such as `IndependentBernoulli` "
                "for cross-entropy or `IndependentNormal` for squared errors, and the "
                "rest by `VAE(objective=...)`."
            )
        super().compile(optimizer, None, **kwargs)
        # Keras' wrappers for scikit-learn refuse a model without a loss.
        self.loss = type(self.objective).__name__
        given = (kwargs.get("metrics"), kwargs.get("weighted_metrics"))
        self._has_metrics = any(map(bool, given))
        of_keras = [m for m in keras.tree.flatten(given) if _of_keras(m)]
        # Their names: Keras would take the metrics for others.
        self._metrics_of_keras = [str(getattr(m, "name", m)) for m in of_keras]

    @property
    def metrics(self) -> list[Any]:
        """The model's metrics, without that of a KL layer in the encoder."""
        return [m for m in super().metrics if not isinstance(m, KLMetric)]

    def train_step(self, batch: Any) -> dict[str, Any]:
        """A step of the optimizer, with x as the target."""
        x, y, weights = self._packed(batch)
        with tf.GradientTape() as tape:
            loss, p = self._loss_of(x, y, weights, training=True)
            loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_weights, strict=True)
        )
        return self.compute_metrics(x, y, p, weights)

    def test_step(self, batch: Any) -> dict[str, Any]:
        """The loss with x as the target, from draws of z."""
        x, y, weights = self._packed(batch)
        _, p = self._loss_of(x, y, weights, training=False)
        return self.compute_metrics(x, y, p, weights)

    def _loss_of(self, x: Any, y: Any, weights: Any, training: bool) -> Any:
        """Records and returns the loss; also returns p(x | z) of every draw."""
        count = self.objective.draws_per_example
        p = self(x, training=training, num_samples=count)
        loss = of_all_rows(self.compute_loss(x, y, p, weights, training), x)
        self._record_loss(loss, x)
        return loss, p

    def _record_loss(self, loss: tf.Tensor, x: Any) -> None:
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        rows = tf.shape(keras.tree.flatten(x)[0])[0]
        self.metrics[0].update_state(loss * replicas, sample_weight=rows)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> tf.Tensor:
        """Minus the objective, the mean over the batch; records its terms.

        Args:
            x: Inputs of `call`.
            y: Targets of the decoder.
            y_pred: The model's output in a step; if it has no draws, new ones are
                made.
            sample_weight: As in `fit`.
            training: Passed to the networks.

        Returns:
            A scalar.
        """
        draws = getattr(y_pred, "draws", None)
        if draws is None:
            count = self.objective.draws_per_example
            draws = self(x, training=training, num_samples=count).draws
        check_draws(draws, self.objective)
        whole, inside = split_weights(sample_weight)
        check_event(draws.likelihood, tf.convert_to_tensor(y))
        terms = self.terms(draws, y, inside, training)
        if training:
            self._check_training(draws)
            self._follow_schedule()
        kl_weight = self._kl_weight()
        whole = tf.ones_like(terms.kl) if whole is None else tf.cast(whole, "float32")
        losses = self.objective.losses(terms, kl_weight, whole)
        self._record(-terms.mean(terms.log_likelihood), terms.kl, kl_weight)
        return self._mean_loss(losses, whole, x)

    def _check_training(self, draws: Draws) -> None:
        self.objective.check_in_training()
        check_reparameterized(draws.posterior, self.objective)
        if self.missing_model is not None:
            check_reparameterized_values(draws.likelihood)

    def _mean_loss(self, losses: tf.Tensor, whole: tf.Tensor, x: Any) -> tf.Tensor:
        """The mean over the batch, with what layers add to the loss."""
        whole = tf.cast(whole, losses.dtype)
        count = tf.cast(tf.shape(losses)[0], losses.dtype)
        loss = tf.math.divide_no_nan(tf.reduce_sum(losses * whole), count)
        # Keras sums the gradients of replicas.
        loss /= tf.distribute.get_strategy().num_replicas_in_sync
        others = super().compute_loss(x=x, y=None, y_pred=None) if self.losses else 0.0
        return loss + tf.cast(others, loss.dtype)

    def share_of_training_set(self) -> tf.Tensor:
        """1 / (N T), times the warm-up weight if `KLWarmup(weights=True)` set it."""
        weight = 1.0 + self.kl_schedule.of_weights * (self._schedule_weight() - 1.0)
        return super().share_of_training_set() * weight

    def _follow_schedule(self) -> None:
        """Stores in a training step where the schedule is, for optimizers to come."""
        if self.optimizer is not None:
            self.kl_schedule.follow(self.optimizer.iterations)

    def _schedule_weight(self) -> tf.Tensor:
        step = 0 if self.optimizer is None else self.optimizer.iterations
        return self.kl_schedule.weight(step)

    def _kl_weight(self) -> tf.Tensor:
        weight = self._schedule_weight()
        if self.objective.beta is None:
            return weight
        beta = self.objective.beta
        return weight * annealed.current(beta, "beta", "ELBO", weight.dtype)

    def _record(self, nll: tf.Tensor, kl: tf.Tensor, kl_weight: tf.Tensor) -> None:
        self._elbo_metric.update_state(-nll - tf.cast(kl, nll.dtype))
        self._nll_metric.update_state(nll)
        self._kl_metric.update_state(kl)
        # One value per example: under a strategy, at the end of data of unknown length,
        # TensorFlow runs once more all operations that do not depend on the examples.
        self._weight_metric.update_state(tf.fill(tf.shape(nll), kl_weight))

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        """Computes Keras' metrics over all draws of z; one if z is enumerated."""
        draws = getattr(y_pred, "draws", None)
        if draws is not None and draws.enumerated and self._has_metrics:
            # Keras' metrics weigh all rows equally, but enumerated values need weights
            # q(z | x): use one draw instead.
            y_pred = self(x, training=False, num_samples=1)
            draws = y_pred.draws
        if draws is not None:
            count = draws.latents.shape[0]
            y, sample_weight = tiled(y, count), tiled(sample_weight, count)
            y, observed = self._filled(tf.convert_to_tensor(y), draws.likelihood)
            if observed is not None:
                self._check_metrics(observed)
                mask = draws.mask
                mask = 1.0 if mask is None else expanded_like(mask, observed)
                set_mask(y_pred, tf.cast(observed * mask, tf.bool))
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def _check_metrics(self, observed: tf.Tensor) -> None:
        """Refuses metrics that cannot leave out missing entries."""
        if self._metrics_of_keras and observed.shape[1:] and observed.shape[-1] != 1:
            raise ValueError(
                "`VAE(missing=...)` expects metrics that leave out missing entries. "
                f"Received: {[*self._metrics_of_keras]} of Keras, which average over "
                f"the last axis of x, of length {observed.shape[-1]}. Use "
                "`tv.LogLikelihood()` or `tv.CRPS()`, or compare `vae.impute(x)` with "
                "the truth."
            )

    def _symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Builds metrics under a strategy; Keras would take y for the target."""
        # The method is private to Keras, which has no public one for this. If it
        # changes, `test_metrics_of_keras_join_in_under_a_strategy` fails.
        batch = None if data_batch is None else self._packed(data_batch)
        super()._symbolic_build(iterator=iterator, data_batch=batch)

    def check_data(
        self,
        x: Any,
        y: Any,
        sample_weight: Any,
        training: bool,
        caller: str,
        whole: bool,
    ) -> None:
        """Checks shapes, finite values, and the likelihood's support.

        Args:
            x: The whole arrays, or the first batch of a pipeline.
            y: Conditions or targets, or `None`.
            sample_weight: Weights or `None`.
            training: Whether the model will be trained on the data.
            caller: Name of the method, for messages.
            whole: Whether they are the whole arrays.

        Raises:
            ValueError: If values are NaN, outside the likelihood's support, or of a
                shape that does not fit; or all entries of a row are missing, or an
                entry is missing in all rows.
        """
        condition = y if self.conditional else None
        check_inputs(
            x, condition, self.encoder, self.conditional, with_mask=self.missing_input
        )
        _, target, _ = self._packed((x, y))
        gaps = self.parts_with_gaps(x, target)
        for name, part in {"x": x, "y": y, "sample_weight": sample_weight}.items():
            check_finite(part, name, self.missing, gaps, but=target)
        check_targets(target, self.decoder, self.missing, sample_weight)
        if self.missing is not None:
            # Only vectors are checked for entries that are always missing. A condition
            # y may be informative about them, and layers for images and sequences share
            # weights between entries.
            informed = self.conditional and self.classifier is None
            entries = whole and training and not informed and len(target.shape) == 2
            check_gaps(target, self.missing, caller, entries)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains the model, as `tv.Model.fit`; x needs no targets.

        Args:
            x: Arrays, a dictionary of them, a `tf.data.Dataset`, a
                `keras.utils.PyDataset` or a generator, of x or of `(x, y)` or
                `(x, y, sample_weight)`.
            y: Conditions of a conditional model; labels, if it has a classifier;
                otherwise the decoder's targets, if they are not x, as in a denoising
                model.
            *args: As in `tv.Model.fit`.
            **kwargs: As there. `sample_weight` of shape `(n,)` multiplies the loss of
                an example; with more axes, the entries of the likelihood.

        Returns:
            A `keras.callbacks.History` with `loss`, `elbo`, `nll`, `kl` and
            `kl_weight`, in nats per example, and the same of `validation_data`; with a
            classifier also `accuracy` and `classification_loss`.

        Raises:
            ValueError: If there are no examples, or values are NaN, outside the
                likelihood's support, or of a shape that does not fit.
        """
        if kwargs.get("class_weight") is not None:
            raise ValueError(
                "`VAE.fit` expects weights of examples. Received: class_weight, which "
                "a VAE does not take. Give `sample_weight`, one number for each "
                "example, such as that of its class."
            )
        return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Computes the loss, minus the objective, and the metrics.

        Args:
            x: As in `fit`.
            y: As in `fit`.
            *args: As in `keras.Model.evaluate`.
            **kwargs: As there. `return_dict=True` gives names to the results.

        Returns:
            A list of numbers in the order of `metrics_names`, or a dictionary of
            `loss`, `elbo`, `nll`, `kl` and `kl_weight`, in nats per example; with a
            classifier also `accuracy` and `classification_loss`.

        Raises:
            ValueError: As in `fit`.
        """
        return super().evaluate(x, y, *args, **kwargs)

    def _for_keras(self, given: Any, *args: Any, **kwargs: Any) -> Any:
        """Adds a placeholder for y, without which Keras drops weights."""
        given = with_placeholder_target(*given)
        if kwargs.get("unweighted") is not None:
            kwargs["unweighted"] = with_placeholder_target(*kwargs["unweighted"])
        return super()._for_keras(given, *args, **kwargs)


def _of_keras(metric: Any) -> bool:
    """Whether a metric that `compile` was given is one of Keras, or a function."""
    is_metric = isinstance(metric, keras.metrics.Metric)
    of_keras = type(metric).__module__.split(".")[0] == "keras"
    return metric is not None and (of_keras or not is_metric)
