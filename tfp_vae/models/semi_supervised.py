"""A VAE with labels, some of them unknown: its bound, steps and answers (M2)."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfp_vae.checks import integer
from tfp_vae.draws import fold_in
from tfp_vae.engine import data
from tfp_vae.engine.progress import LongBar
from tfp_vae.engine.workers import of_all_rows
from tfp_vae.kl.prior import needs_inputs
from tfp_vae.models.bound import (
    Draws,
    LikelihoodTensor,
    expanded_like,
    is_placeholder_target,
    split_weights,
    tiled,
)
from tfp_vae.models.data_checks import as_arrays, check_finite
from tfp_vae.models.estimates import Estimates
from tfp_vae.models.labels import LabelBatch, Labels
from tfp_vae.models.network_checks import check_event, check_inputs
from tfp_vae.models.pieces import ROWS, pieces_of, rows_at_once
from tfp_vae.models.training import Training

ALL_CLASSES, KNOWN_CLASSES = "all", "known"
# Folded into the seed of labels that `generate` draws: independent of the latents.
_OF_LABELS = 1


class DrawsOfClasses(NamedTuple):
    """Draws of a batch for several classes of each row.

    Args:
        draws: The `Draws` of the rows of each class, one class after the other.
        log_posterior: log q(y | x), of shape `(batch, classes)`.
        labels: The labels that were given.
        num_classes: How many classes each row has: 1, the known one, or all.
    """

    draws: Draws
    log_posterior: tf.Tensor
    labels: LabelBatch
    num_classes: int


class SemiSupervised(Estimates, Training):
    """The methods of `tv.VAE` for labels; without a classifier, those of its bases."""

    classifier: Any
    _labels: Labels
    _accuracy_metric: Any
    _classification_metric: Any

    def classify(self, x: Any, batch_size: int | None = None) -> np.ndarray:
        """q(y | x), the probability of each class.

        Args:
            x: Arrays of shape `(n, ...)`, or a `tf.data.Dataset`, read as a whole.
            batch_size: Number of examples at once.

        Returns:
            An array of shape `(n, classes)`.

        Raises:
            ValueError: If the model has no classifier or no weights yet, or x does not
                fit it.
        """
        if self.classifier is None:
            raise ValueError(
                "`classify` expects a model with a classifier. Received: a `VAE` with "
                "classifier=None. Make it with `VAE(..., classifier=...)`."
            )
        self._check_built("classify")
        x, _ = as_arrays(x, None, "classify")
        x, _ = self._inputs(x, None, "classify")
        return np.exp(self._log_posteriors(x, batch_size))

    def _log_posteriors(self, x: Any, batch_size: int | None = None) -> np.ndarray:
        """Log q(y | x) of arrays, in pieces."""
        if batch_size is None:
            batch_size = rows_at_once(self.classifier, ROWS)
        rows = integer(batch_size, "batch_size", "classify")
        function = self._functions.compiled(
            "classify", lambda x: self.log_posterior_of_classes(x), "`classify`"
        )
        pieces = pieces_of(x, None, min(rows, data.leaves_of(x)[0].shape[0]))
        found = [function(piece).numpy()[:count] for count, piece, _ in pieces]
        return np.concatenate(found)

    def log_posterior_of_classes(
        self, x: Any, training: bool | None = False
    ) -> tf.Tensor:
        """Log q(y | x) of a batch; users call `classify`.

        Args:
            x: Inputs, without labels. The classifier gets them filled as the encoder
                does, but never the mask of `missing_input`.
            training: Passed to the classifier.

        Returns:
            A tensor of shape `(batch, classes)`, in nats.
        """
        x = data.mapped(tf.convert_to_tensor, x)
        if self.missing is not None:
            x = self._filled_inputs(x)[0]
        return self._labels.log_posterior(x, training)

    # Labels as the second input of the networks.

    def _split(self, inputs: Any) -> tuple[Any, Any]:
        """Splits inputs into x, and y as one-hot vectors.

        An unknown label becomes the most probable class of q(y | x).
        """
        if self.classifier is None:
            return super()._split(inputs)
        x, y = _pair(inputs)
        if y is not None:
            y = tf.convert_to_tensor(y)
            if y.shape.rank == 2 and y.shape[1] == self._labels.num_classes:
                return x, y
        log_q = self.log_posterior_of_classes(x)
        best = tf.argmax(log_q, axis=-1, output_type=tf.int32)
        best = tf.one_hot(best, self._labels.num_classes, dtype=log_q.dtype)
        if y is None:
            return x, best
        labels = self._labels.read(y, log_q.dtype)
        return x, tf.where(labels.is_known[:, None], labels.one_hot, best)

    def _packed(self, batch: Any) -> tuple[Any, Any, Any]:
        """Inputs of `call`, the target of the likelihood, and the weights."""
        if self.classifier is None:
            return super()._packed(batch)
        x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
        given = y is not None and not is_placeholder_target(y)
        return (x, y) if given else x, self.target_of(x), weights

    def _inputs(self, x: Any, y: Any, caller: str) -> Any:
        """Reads and checks the inputs of `call`."""
        if self.classifier is None:
            return super()._inputs(x, y, caller)
        if y is None:
            x, y = _pair(x)
        x, y = data.read((x, y), caller)
        rows = data.check_rows(x, caller)
        labels = self._labels.checked(y, rows, caller)
        check_inputs(x, labels, self.encoder, True, with_mask=self.missing_input)
        check_finite(x, "x", self.missing, self.parts_with_gaps(x))
        return x, labels

    def _condition(self, y: Any, rows: int | None = None) -> Any:
        if self.classifier is None:
            return super()._condition(y, rows)
        if rows is None:  # as many as there are
            rows = int(np.size(y)) if np.ndim(y) == 1 else len(np.atleast_1d(y))
        return self.one_hot(self._labels.checked(y, rows, "VAE", known=True))

    def conditions_of(self, x: Any, y: Any, caller: str) -> Any:
        """Known labels, and the most probable classes in the place of others."""
        if self.classifier is None:
            return super().conditions_of(x, y, caller)
        x, labels = self._inputs(*as_arrays(x, y, caller), caller)
        if (labels >= 0).all():
            return labels
        best = self._log_posteriors(x).argmax(axis=-1)
        return np.where(labels >= 0, labels, best).astype("int32")

    def _drawn_conditions(self, y: Any, n: int, seed: tf.Tensor) -> Any:
        """Known labels, and draws from p(y) in the place of others."""
        if self.classifier is None:
            return super()._drawn_conditions(y, n, seed)
        labels = self._labels.checked(y, n, "generate")
        drawn = self.draw_labels(n, seed).numpy()
        return np.where(labels >= 0, labels, drawn)

    def draw_labels(self, n: Any, seed: tf.Tensor) -> tf.Tensor:
        """Draws labels from p(y); users call `generate`.

        Args:
            n: The number of labels.
            seed: Two integers, the seed of the latents.

        Returns:
            Integers of shape `(n,)`.
        """
        logits = self._labels.log_prior()[None]
        key = fold_in(seed, _OF_LABELS)
        return tf.random.stateless_categorical(logits, n, key, tf.int32)[0]

    def prior_distribution(self, y: Any = None) -> Any:
        """The prior p(z), or p(z | y).

        Args:
            y: Labels, or one-hot vectors, for a prior that needs them.

        Returns:
            A `tfd.Distribution`.
        """
        if self.classifier is not None and y is not None and needs_inputs(self.prior):
            width = self._labels.num_classes
            if len(y.shape) != 2 or y.shape[1] != width:
                y = self._condition(y)
        return super().prior_distribution(y)

    # The bound of a batch.

    def over_classes(
        self, inputs: Any, num_samples: Any, training: bool | None, classes: str
    ) -> LikelihoodTensor:
        """Draws z for the known class of each row, or for every class.

        Args:
            inputs: x, or the pair of x and labels.
            num_samples: The number of draws for each row and class, or `"all"`.
            training: Passed to the networks.
            classes: `"known"`, if all labels are known, or `"all"`.

        Returns:
            p(x | z, y) with its `DrawsOfClasses`.
        """
        x, y = _pair(inputs)
        log_q = self.log_posterior_of_classes(x, training)
        rows, width = tf.shape(log_q)[0], self._labels.num_classes
        unknown = tf.fill([rows], -1)
        labels = self._labels.read(unknown if y is None else y, log_q.dtype)
        count = 1 if classes == KNOWN_CLASSES else width
        each = labels.one_hot
        if classes == ALL_CLASSES:
            eye = tf.eye(width, dtype=log_q.dtype)[:, None]
            each = tf.reshape(tf.tile(eye, [1, rows, 1]), [-1, width])
        q = self.posterior((tiled(x, count), each), training)
        draws = self.draw_and_decode(q, each, num_samples, self._seeds.next(), training)
        found = DrawsOfClasses(draws, log_q, labels, count)
        return LikelihoodTensor(draws.likelihood, found)  # type: ignore[arg-type]

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
            y_pred: The model's output in a step; if it has no draws, or the model has
                labels, new ones are made.
            sample_weight: As in `fit`.
            training: Passed to the networks.

        Returns:
            A scalar.
        """
        if self.classifier is None:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        if training:
            self._follow_schedule()
        loss, seen = self._loss_and_terms(x, y, sample_weight, training, ALL_CLASSES)
        self._record_labels(seen)
        return loss

    def _loss_and_terms(
        self, x: Any, target: Any, sample_weight: Any, training: bool, classes: str
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """The loss of a batch, and its terms for each row."""
        count = self.objective.draws_per_example
        p: Any = self(x, training=training, num_samples=count, _classes=classes)
        draws, log_q, labels, count = p.draws
        whole, inside = split_weights(sample_weight)
        check_event(draws.likelihood, tf.convert_to_tensor(target))
        given = tiled(target, count), tiled(inside, count)
        terms = self.terms(draws, *given, training)
        if training:
            self._check_training(draws)
        q = tf.exp(log_q)
        known, one_hot = labels.is_known, labels.one_hot
        if count == 1:
            share = tf.reduce_sum(one_hot, axis=-1)[None]
        else:
            share = tf.transpose(tf.where(known[:, None], one_hot, q))

        def expected(values: tf.Tensor) -> tf.Tensor:
            """The mean over the classes of each row; an impossible one counts 0."""
            values = tf.reshape(values, [count, -1])
            weighted = tf.math.multiply_no_nan(values, tf.cast(share, values.dtype))
            return tf.reduce_sum(weighted, axis=0)

        whole = tf.ones(tf.shape(q)[:1]) if whole is None else tf.cast(whole, "float32")
        kl_weight = self._kl_weight()
        weights = tiled(whole, count) * tf.cast(tf.reshape(share, [-1]), "float32")
        losses = expected(self.objective.losses(terms, kl_weight, weights))
        log_p = self._labels.log_prior(log_q.dtype)

        def of_label(logs: tf.Tensor) -> tf.Tensor:
            return tf.reduce_sum(tf.math.multiply_no_nan(logs, one_hot), axis=-1)

        # A class of probability 0 counts 0, and has no gradient.
        ratio = tf.where(q > 0, log_q - log_p, tf.zeros_like(q))
        cost = tf.where(known, -of_label(log_p), tf.reduce_sum(q * ratio, axis=-1))
        surprise = -of_label(log_q)
        losses += tf.cast(cost + self._labels.alpha * surprise, losses.dtype)
        best = tf.argmax(log_q, axis=-1)
        seen = {
            "nll": expected(-terms.mean(terms.log_likelihood)),
            "kl": expected(terms.kl) + tf.cast(cost, terms.kl.dtype),
            "classification_loss": surprise,
            "accuracy": tf.cast(best == tf.argmax(one_hot, axis=-1), log_q.dtype),
            "known": tf.cast(known, log_q.dtype),
            "kl_weight": tf.cast(kl_weight, tf.float32),
        }
        return self._mean_loss(losses, whole, x), seen

    def _record_labels(self, seen: dict[str, tf.Tensor]) -> None:
        self._record(seen["nll"], seen["kl"], seen["kl_weight"])
        for name, metric in {
            "accuracy": self._accuracy_metric,
            "classification_loss": self._classification_metric,
        }.items():
            metric.update_state(seen[name], sample_weight=seen["known"])

    # Steps.

    def train_step(self, batch: Any) -> dict[str, Any]:
        """A step of the optimizer, with x as the target."""
        if self.classifier is None:
            return super().train_step(batch)
        x, y, weights = self._packed(batch)
        p = self._for_metrics(x)
        self._follow_schedule()

        def step(classes: str) -> Any:
            with tf.GradientTape() as tape:
                loss, seen = self._loss_and_terms(x, y, weights, True, classes)
                loss = of_all_rows(loss, x)
                scaled = self.optimizer.scale_loss(loss)
            gradients = tape.gradient(
                scaled, self.trainable_weights, unconnected_gradients="zero"
            )
            return loss, seen, list(map(tf.convert_to_tensor, gradients))

        loss, seen, gradients = self._by_labels(x, step)
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_weights, strict=True)
        )
        return self._shown(loss, seen, x, y, p, weights)

    def test_step(self, batch: Any) -> dict[str, Any]:
        """The loss with x as the target, from draws of z."""
        if self.classifier is None:
            return super().test_step(batch)
        x, y, weights = self._packed(batch)
        p = self._for_metrics(x)
        loss, seen = self._by_labels(
            x, lambda classes: self._loss_and_terms(x, y, weights, False, classes)
        )
        return self._shown(of_all_rows(loss, x), seen, x, y, p, weights)

    def _for_metrics(self, x: Any) -> Any:
        """What Keras' metrics see: p(x | z, y) for the known or most probable class."""
        if not self.built:  # A branch cannot make variables.
            self(x, training=False)
        if not self._has_metrics:
            return None
        return self(x, training=False, num_samples=self.objective.num_samples)

    def _by_labels(self, x: Any, step: Callable[[str], Any]) -> Any:
        """Runs a step, over one class of each row if all labels are known."""
        y = _pair(x)[1]
        # Replicas must not wait for each other within a branch that only some take.
        if y is None or tf.distribute.get_strategy().num_replicas_in_sync > 1:
            return step(ALL_CLASSES)
        known = tf.reduce_all(self._labels.read(y).is_known)
        return tf.cond(known, lambda: step(KNOWN_CLASSES), lambda: step(ALL_CLASSES))

    def _shown(
        self, loss: tf.Tensor, seen: Any, x: Any, y: Any, p: Any, weights: Any
    ) -> dict[str, Any]:
        self._record_labels(seen)
        self._record_loss(loss, x)
        return self.compute_metrics(x, y, p, weights)

    def check_data(
        self,
        x: Any,
        y: Any,
        sample_weight: Any,
        training: bool,
        caller: str,
        whole: bool,
    ) -> None:
        """Checks shapes, finite values, labels, and the likelihood's support.

        Args:
            x: The whole arrays, or the first batch of a pipeline.
            y: Labels, conditions or targets, or `None`.
            sample_weight: Weights or `None`.
            training: Whether the model will be trained on the data.
            caller: Name of the method, for messages.
            whole: Whether they are the whole arrays.

        Raises:
            ValueError: If values are NaN, outside the likelihood's support, or of a
                shape that does not fit, or labels are no classes.
        """
        if self.classifier is not None:
            y = None if is_placeholder_target(y) else y
            y = self._labels.checked(y, data.check_rows(x, caller), caller)
        super().check_data(x, y, sample_weight, training, caller, whole)

    # Estimates.

    def _estimates(
        self,
        caller: str,
        fn: Callable[..., Any],
        merge: Callable[..., Any],
        x: Any,
        y: Any,
        num_samples: int,
        **options: Any,
    ) -> Any:
        """Estimates over draws; unknown labels are summed out, one class at a time."""
        estimate = super()._estimates
        if self.classifier is None:
            return estimate(caller, fn, merge, x, y, num_samples, **options)
        self._check_built(caller)
        x, y = as_arrays(x, y, caller)
        x, labels = self._inputs(x, y, caller)
        log_p = self._labels.log_prior("float64").numpy()
        is_bound, seed = fn == self._elbo_sum, options["seed"]
        known, others = np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)
        passes = min(len(known), 1) + min(len(others), 1) * self._labels.num_classes
        bar = LongBar(passes, options["verbose"])

        def of(rows: np.ndarray, classes: np.ndarray, number: int) -> Any:
            part = x
            if len(rows) < len(labels):
                part = data.mapped(lambda array: data.rows_of(array, rows), x)
            # Each class has its own draws.
            key = seed if seed is None else _seed_of(seed, number)
            found = estimate(
                caller,
                fn,
                merge,
                part,
                classes,
                num_samples,
                **{**options, "seed": key, "verbose": 0},
            )
            bar.step()
            leaves = tf.nest.flatten(found)
            cost = (num_samples if is_bound else 1) * log_p[classes]
            leaves[0] = leaves[0] + cost.astype(leaves[0].dtype)
            return tf.nest.pack_sequence_as(found, leaves)

        found = []
        if len(known):
            found.append(of(known, labels[known], 0))
        if len(others):
            each = [
                of(others, np.full(len(others), number, "int32"), number + 1)
                for number in range(self._labels.num_classes)
            ]
            if is_bound:
                part = data.mapped(lambda array: data.rows_of(array, others), x)
                log_q = self._log_posteriors(part).T
                totals = np.stack(each) - num_samples * log_q
                share = np.exp(log_q)
                found.append(np.sum(share * np.where(share > 0, totals, 0), axis=0))
            else:
                found.append(functools.reduce(merge, each))
        order = np.argsort(np.concatenate([known, others]))
        return tf.nest.map_structure(lambda *a: np.concatenate(a)[order], *found)

    def _log_prob_of_nothing(self, y: Any, rows: int) -> np.ndarray:
        """Log p(y) of known labels; unknown ones are summed out, to 1."""
        if self.classifier is None:
            return super()._log_prob_of_nothing(y, rows)
        labels = self._labels.checked(y, rows, "log_prob(given=)")
        log_p = self._labels.log_prior("float64").numpy()
        return np.where(labels >= 0, log_p[labels], 0.0)

    def log_sum_of_labels(
        self, inputs: Any, target: Any, seed: Any, num_samples: Any
    ) -> tf.Tensor:
        """Computes log sum_k w[k] with unknown labels summed out, in a graph.

        Args:
            inputs: The pair of x and labels.
            target: Target of the decoder, of shape `(n, ...)`.
            seed: Tensor of shape `(2,)`.
            num_samples: Scalar, the number of draws for each class.

        Returns:
            A tensor of shape `(n,)`.
        """
        found = self._of_classes(self.log_sum, inputs, target, seed, num_samples)
        return tf.reduce_logsumexp(found, axis=0)

    def averages_of_labels(
        self, inputs: Any, target: Any, seed: Any, num_samples: Any
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Computes what `averages` does with unknown labels summed out, in a graph.

        Args:
            inputs: The pair of x and labels.
            target: Target of the decoder, of shape `(n, ...)`.
            seed: Tensor of shape `(2,)`.
            num_samples: Scalar, the number of draws for each class.

        Returns:
            Tensors of shape `(n,)` and `(n, ...)`.
        """
        total, means = self._of_classes(
            self.averages, inputs, target, seed, num_samples
        )
        shares = expanded_like(tf.nn.softmax(total, axis=0), means)
        mean = tf.reduce_sum(tf.math.multiply_no_nan(means, shares), axis=0)
        return tf.reduce_logsumexp(total, axis=0), mean

    def _of_classes(self, fn: Any, inputs: Any, *given: Any) -> Any:
        """An estimate for each class; the first tensor includes log p(y)."""
        (x, y), (target, *rest) = inputs, given
        width, rows = self._labels.num_classes, tf.shape(y)[0]
        labels = self._labels.read(y)
        each = tf.reshape(tf.tile(tf.range(width)[:, None], [1, rows]), [-1])
        found = fn((tiled(x, width), each), tiled(target, width), *rest)
        leaves = [
            tf.reshape(part, tf.concat([[width, -1], tf.shape(part)[1:]], axis=0))
            for part in tf.nest.flatten(found)
        ]
        total = leaves[0] + self._labels.log_prior(leaves[0].dtype)[:, None]
        counts = (tf.transpose(labels.one_hot) > 0) | ~labels.is_known[None]
        leaves[0] = tf.where(counts, total, tf.constant(-np.inf, total.dtype))
        return tf.nest.pack_sequence_as(found, leaves)

    def checked_in_graph(self, y: tf.Tensor, known: bool = False) -> tf.Tensor:
        """Labels after a check, for a served function.

        Args:
            y: Integers of shape `(n,)`.
            known: Whether -1 is refused too.

        Returns:
            The same.
        """
        low, high = (0 if known else -1), self._labels.num_classes - 1
        checks = [
            tf.debugging.assert_greater_equal(y, low, f"y is below {low}"),
            tf.debugging.assert_less_equal(y, high, f"y is above {high}"),
        ]
        with tf.control_dependencies(checks):
            return tf.identity(y)

    def one_hot(self, y: tf.Tensor) -> tf.Tensor:
        """Known labels as one-hot vectors, in a graph too.

        Args:
            y: Integers of shape `(n,)`.

        Returns:
            A tensor of shape `(n, classes)`.
        """
        return self._labels.read(y, keras.config.floatx()).one_hot


def _pair(inputs: Any) -> tuple[Any, Any]:
    """The inputs x, and labels or `None`."""
    pair = isinstance(inputs, list | tuple) and len(inputs) == 2
    if pair and (inputs[1] is None or hasattr(inputs[1], "shape")):
        return inputs[0], inputs[1]
    return inputs, None


def _seed_of(seed: int, number: int) -> int:
    """A seed made from another one and a number."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0] >> 1)
