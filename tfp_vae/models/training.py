"""How a VAE is trained and evaluated: its steps, and Keras' `fit` around them."""

import contextlib
import contextvars
import dataclasses
import functools
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

import tfp_vae.layers.annealed as annealed
import tfp_vae.models.inputs as data
from tfp_vae.distribution_tensor import unwrap
from tfp_vae.keras_internals import set_mask
from tfp_vae.layers.kl_metric import KLMetric
from tfp_vae.models.compiled import Compiler, Functions
from tfp_vae.models.network_checks import (
    check_event,
    check_inputs,
    check_reparameterized,
)
from tfp_vae.models.passes import Passes, split_weights, spread, tiled
from tfp_vae.models.progress import with_bar
from tfp_vae.models.resident import Residents
from tfp_vae.models.staging import Chunk, Rows, steps_at_once, steps_together
from tfp_vae.models.steps import Countdown, Steps
from tfp_vae.objectives import Terms
from tfp_vae.seeds import Seeds

# Inside a step of `fit` or `evaluate`, where `call` draws as the objective asks.
_IN_STEP = contextvars.ContextVar("tfp_vae_in_step", default=False)


@dataclasses.dataclass(frozen=True)
class Feed:
    """The arrays of which Keras is given the numbers of batches.

    Args:
        train: Arrays of `fit`, or `None`.
        held: Its validation data.
        test: Arrays of the `evaluate` that is under way.
        steps: Of an epoch of `fit`.
        held_steps: Of a pass over its validation data.
        test_steps: Of the `evaluate` that is under way.
        testing: Whether one is.

    Example:
        >>> Feed().train is None
        True
    """

    train: Rows | None = None
    held: Rows | None = None
    test: Rows | None = None
    steps: Countdown = dataclasses.field(default_factory=lambda: Countdown(None))
    held_steps: Countdown = dataclasses.field(default_factory=lambda: Countdown(None))
    test_steps: Countdown = dataclasses.field(default_factory=lambda: Countdown(None))
    testing: bool = False


class Training(Passes, keras.Model):
    """The methods of `tv.VAE` that train and evaluate it."""

    _asked: dict[str, Any]
    _compiler: Compiler
    _feed: "Feed"
    _functions: Functions
    _order_seeds: Seeds
    _ranks: dict[str, Any]
    _residents: Residents
    steps_per_execution: int
    test_function: Any
    train_function: Any

    def compile(
        self,
        optimizer: Any = "adam",
        loss: Any = None,
        jit_compile: Any = "auto",
        steps_per_execution: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Configures training; the objective is the loss.

        Args:
            optimizer: As in `keras.Model.compile`.
            loss: Must stay `None`.
            jit_compile: Whether XLA compiles. `"auto"`: it does, on a CPU too, unless
                a layer forbids it, the model runs eagerly or under a strategy of
                `tf.distribute`; what XLA refuses runs without it, with a warning.
                `encode` never uses XLA; on a CPU, `generate`, `traverse` and
                `interpolate` use it with True only.
            steps_per_execution: How many steps make one program, at whose end batch
                callbacks are called and the progress bar moves. By default up to 64,
                in `evaluate` up to 256; 1 under a strategy of `tf.distribute`.
            **kwargs: Passed to `keras.Model.compile`: `metrics`, `run_eagerly`, ...

        Raises:
            ValueError: If a loss is given.
        """
        if loss is not None or kwargs.get("loss_weights") is not None:
            raise ValueError(
                "`VAE.compile` expects no loss: the likelihood is the decoder's, and "
                f"minus the objective is the loss. Received: loss={loss!r}. Choose "
                "p(x|z) by the decoder's last layer, such as `IndependentBernoulli` "
                "for cross-entropy or `IndependentNormal` for squared errors, and the "
                "rest by `VAE(objective=...)`."
            )
        previous = getattr(self, "optimizer", None)
        super().compile(
            optimizer=optimizer,
            loss=None,
            jit_compile=jit_compile,
            steps_per_execution=steps_per_execution or 1,
            **kwargs,
        )
        self._asked = {
            "jit_compile": jit_compile,
            "steps_per_execution": steps_per_execution,
        }
        if jit_compile == "auto":
            self.jit_compile = self._lets_xla_compile()
        self._compiler = Compiler(jit_compile if self.jit_compile else False)
        self._functions = Functions(self._compiler)
        self._residents = Residents()
        if previous is not None and previous is not self.optimizer:
            # The steps of a new optimizer begin at 0, those of the schedule do not.
            steps = tf.convert_to_tensor(previous.iterations)
            self.kl_schedule.passed.assign_add(float(steps))

    def _lets_xla_compile(self) -> bool:
        """Whether Keras lets XLA compile the model, and no strategy forbids it."""
        if not self._runs_steps():
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.jit_compile = True  # Keras looks at the layers, and takes it back.
        return bool(self.jit_compile)

    def _is_distributed(self) -> bool:
        """Whether a strategy of `tf.distribute` brings batches to replicas."""
        strategy = self.distribute_strategy
        return tf.distribute.has_strategy() or (
            strategy is not tf.distribute.get_strategy()
        )

    def get_compile_config(self) -> dict[str, Any]:
        """What `compile` was given; what it chose by itself stays open."""
        config = super().get_compile_config()
        if config:
            config |= self._asked
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles as the saved model was."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    @property
    def metrics(self) -> list[Any]:
        """The model's metrics, without that of a KL layer which the encoder carries."""
        return [m for m in super().metrics if not isinstance(m, KLMetric)]

    def make_train_function(self, force: bool = False) -> None:
        """Makes what Keras calls for the next steps of `fit`."""
        if self.train_function is None or force:
            with self._without_chosen_xla():
                super().make_train_function(force)
            self.train_function = self._steps(
                self.train_step, "its training", self.train_function
            )

    def make_test_function(self, force: bool = False) -> None:
        """Makes what Keras calls for the next steps of `evaluate`."""
        if self.test_function is None or force:
            with self._without_chosen_xla():
                super().make_test_function(force)
            self.test_function = self._steps(
                self.test_step, "its evaluation", self.test_function
            )

    def make_predict_function(self, force: bool = False) -> Any:
        """Makes what Keras calls for the batches of `predict`.

        A pass is short beside what XLA takes to compile it.
        """
        with self._without_chosen_xla():
            return super().make_predict_function(force)

    @contextlib.contextmanager
    def _without_chosen_xla(self) -> Iterator[None]:
        """Leaves Keras' own functions without XLA, if the user did not ask for it."""
        chosen = self.jit_compile
        if self._compiler.jit_compile == "auto":
            self.jit_compile = False
        try:
            yield
        finally:
            self.jit_compile = chosen

    def _steps(self, step: Any, name: str, of_keras: Any) -> Any:
        if not self._runs_steps():
            return of_keras
        training = step == self.train_step

        def rows() -> Rows | None:
            return self._feed.train if training else self._feed.test

        def most() -> tuple[int, Countdown]:
            feed = self._feed
            return self.steps_per_execution, feed.steps if training else feed.test_steps

        def together(chunk: Chunk, made: int) -> int:
            if training:  # Each step needs the weights of the one before.
                return 1
            steps, rows = chunk.rows.shape
            size = data.bytes_of(chunk.arrays, rows) * self.objective.num_samples
            return steps_together(steps, size, made)

        return Steps(step, name, self._compiler, most, rows, of_keras, together)

    def train_step(self, batch: Any) -> dict[str, Any]:
        """Keras' step, on x as its own target."""
        with _in_step():
            return super().train_step(self._packed(batch))

    def test_step(self, batch: Any) -> dict[str, Any]:
        """Keras' step, on x as its own target; the bound is that of draws."""
        with _in_step():
            return super().test_step(self._packed(batch))

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> tf.Tensor:
        """Minus the objective, the mean over the batch; records its terms."""
        if getattr(y_pred, "vae_pass", None) is None:
            raise ValueError(
                "`VAE.compute_loss` expects what the model puts out inside its own "
                f"`train_step` or `test_step`. Received: {type(y_pred).__name__}. Call "
                "`super().train_step(data)` in a step of your own."
            )
        whole, inside = split_weights(sample_weight)
        terms = self.terms(y_pred.vae_pass, y, inside)
        kl_weight = self._kl_weight()
        share = tf.ones_like(terms.kl) if whole is None else tf.cast(whole, "float32")
        losses = self.objective.losses(terms, kl_weight, share)
        self._record(terms, kl_weight)
        share = tf.cast(share, losses.dtype)
        count = tf.cast(tf.shape(losses)[0], losses.dtype)
        loss = tf.math.divide_no_nan(tf.reduce_sum(losses * share), count)
        # Keras sums the gradients of replicas.
        loss /= tf.distribute.get_strategy().num_replicas_in_sync
        others = super().compute_loss(x=x, y=None, y_pred=None) if self.losses else 0.0
        return loss + tf.cast(others, loss.dtype)

    def _kl_weight(self) -> tf.Tensor:
        step = 0 if self.optimizer is None else self.optimizer.iterations
        weight = self.kl_schedule.weight(step)
        if self.objective.beta is None:
            return weight
        beta = self.objective.beta
        return weight * annealed.present(beta, "beta", "ELBO", weight.dtype)

    def _record(self, terms: Terms, kl_weight: tf.Tensor) -> None:
        nll = -tf.reduce_mean(terms.log_likelihood, axis=0)
        self._elbo_metric.update_state(-nll - tf.cast(terms.kl, nll.dtype))
        self._nll_metric.update_state(nll)
        self._kl_metric.update_state(terms.kl)
        # One for each example: under a strategy TensorFlow runs what does not depend on
        # them once more at the end of data of unknown length.
        self._weight_metric.update_state(tf.fill(tf.shape(nll), kl_weight))

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        """Keras' metrics, of every draw of z."""
        outcome = getattr(y_pred, "vae_pass", None)
        if outcome is not None:
            count = outcome.draws.shape[0]
            y, sample_weight = tiled(y, count), tiled(sample_weight, count)
            y, present = self._filled(tf.convert_to_tensor(y), outcome.likelihood)
            if present is not None:
                mask = outcome.mask
                mask = 1.0 if mask is None else spread(mask, present)
                set_mask(y_pred, tf.cast(present * mask, tf.bool))
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def _symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Builds metrics under a strategy, where Keras would take y for the target."""
        # Private to Keras, which has no other place for it; noticed by
        # `test_metrics_of_keras_join_in_under_a_strategy`.
        batch = None if data_batch is None else self._packed(data_batch)
        super()._symbolic_build(iterator=iterator, data_batch=batch)

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Trains the model, as `keras.Model.fit`; x needs no targets.

        Args:
            x: Arrays, a dictionary of them, a `tf.data.Dataset`, a
                `keras.utils.PyDataset` or a generator, of x or of `(x, y)` or
                `(x, y, sample_weight)`.
            y: Conditions of a conditional model; otherwise what the decoder describes
                where that is not x, as of a denoising model.
            batch_size: As in `keras.Model.fit`.
            epochs: As there.
            verbose: As there.
            callbacks: As there.
            validation_split: As there.
            validation_data: As there, of the same forms as `x` and `y`.
            **kwargs: As there. `sample_weight` of shape `(n,)` multiplies the whole
                loss of an example; with more axes the entries of the likelihood.

        Returns:
            A `keras.callbacks.History` with `loss`, `elbo`, `nll`, `kl` and
            `kl_weight`, in nats per example, and the same of `validation_data`.

        Raises:
            ValueError: If there are no examples, or values are NaN, outside the
                likelihood's support, or of a shape that does not fit.
        """
        if kwargs.get("class_weight") is not None:
            raise ValueError(
                "`VAE.fit` expects weights of examples. Received: class_weight, for "
                "which a VAE has no classes. Give `sample_weight`, one number for each "
                "example."
            )
        x, batch = self._checked_data(x, y, training=True)
        x, y, weights = data.with_place_for_weights(x, y, kwargs.get("sample_weight"))
        kwargs["sample_weight"] = weights
        self._renew("train_function", x, y, weights)
        if isinstance(x, tf.data.Dataset | types.GeneratorType):
            kwargs.setdefault("shuffle", False)  # Keras warns of its own default
        if isinstance(x, tf.data.Dataset):
            x = x.prefetch(tf.data.AUTOTUNE)
        share = 0.0 if validation_data is not None else validation_split
        steps = self._steps_at_once(
            x, batch, batch_size, kwargs.get("steps_per_epoch"), callbacks, share
        )
        train, held = self._resident((x, y, weights), batch_size, share, kwargs)
        if train is not None:
            x, y, kwargs["sample_weight"] = train.numbers(), None, None
            kwargs["shuffle"], validation_split = False, 0.0
        if validation_data is not None:
            validation_data = self._held_out(validation_data)
            kept = self._kept(validation_data)
            if kept is not None:
                held = self._held_rows(*kept, batch_size, kwargs)
        if held is not None:
            validation_data = held.numbers()
        feed = Feed(
            train,
            held,
            steps=_countdown(kwargs.get("steps_per_epoch")),
            held_steps=_countdown(kwargs.get("validation_steps")),
        )
        with self._fed(steps, feed):
            return super().fit(
                x,
                y,
                batch_size,
                epochs,
                verbose,
                with_bar(callbacks, verbose),
                validation_split,
                validation_data,
                **kwargs,
            )

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Any = "auto",
        **kwargs: Any,
    ) -> Any:
        """The loss and the terms of the bound on data, as `keras.Model.evaluate`.

        Args:
            x: As in `fit`.
            y: As in `fit`.
            batch_size: As in `keras.Model.evaluate`.
            verbose: As there.
            **kwargs: As there.

        Returns:
            A list of numbers, or a dictionary with `return_dict=True`.

        Raises:
            ValueError: If there are no examples.
        """
        if kwargs.get("_use_cached_eval_dataset"):
            # Keras' `fit`, on the validation data that it was given.
            feed = self._feed
            feed = dataclasses.replace(
                feed, test=feed.held, test_steps=feed.held_steps, testing=True
            )
            feed.test_steps.begin()
            with self._fed(self.steps_per_execution, feed):
                return super().evaluate(x, y, batch_size, verbose, **kwargs)
        x, batch = self._checked_data(x, y)
        x, y, weights = data.with_place_for_weights(x, y, kwargs.get("sample_weight"))
        kwargs["sample_weight"] = weights
        self._renew("test_function", x, y, weights)
        steps = self._steps_at_once(
            x,
            batch,
            batch_size,
            kwargs.get("steps"),
            kwargs.get("callbacks"),
            training=False,
        )
        kwargs["callbacks"] = with_bar(kwargs.get("callbacks"), verbose)
        kept, test = self._kept((x, y, weights)), None
        if kept is not None:
            arrays, rows = kept
            size = data.batch_size_of(rows, batch_size, kwargs.get("steps"))
            test = Rows(arrays, rows, size)
            x, y, kwargs["sample_weight"] = test.numbers(), None, None
        feed = dataclasses.replace(
            self._feed,
            test=test,
            test_steps=_countdown(kwargs.get("steps")),
            testing=True,
        )
        with self._fed(steps, feed):
            return super().evaluate(x, y, batch_size, verbose, **kwargs)

    def _steps_at_once(
        self,
        x: Any,
        batch: Any,
        batch_size: Any,
        steps: Any,
        callbacks: Any,
        share: float = 0.0,
        training: bool = True,
    ) -> int:
        """How many steps make one program, after which callbacks are called."""
        callbacks = getattr(callbacks, "callbacks", callbacks)
        asked = [
            getattr(callback, "steps_per_execution", None)
            for callback in keras.tree.flatten(callbacks or [])
        ]
        most = self._asked["steps_per_execution"]
        if not self._runs_steps() or not data.stackable(batch):
            return most or 1  # Keras' own function is made for one number of steps.
        if most is None:
            count = data.num_batches(x, batch_size, steps, share)
            rows = (batch_size or 32) if data.is_arrays(x) else None
            most = steps_at_once(count, data.bytes_of(batch, rows), training)
        return min([most, *(number for number in asked if number is not None)])

    def _runs_steps(self) -> bool:
        """Whether several steps make a program, which Keras' own would otherwise."""
        return not (self.run_eagerly or self._is_distributed())

    def _kept(self, arrays: Any) -> tuple[Any, range] | None:
        """Arrays kept where the model computes, if they can be, and their rows."""
        if not self._runs_steps() or not data.is_arrays(arrays[0]):
            return None
        kept = self._residents.tensors(keras.utils.pack_x_y_sample_weight(*arrays))
        if kept is None:
            return None
        return kept, range(len(keras.tree.flatten(arrays[0])[0]))

    def _resident(
        self, arrays: Any, batch_size: Any, share: float, options: dict[str, Any]
    ) -> tuple[Rows | None, Rows | None]:
        """The batches of kept arrays for `fit`, and those of a share held out."""
        kept = self._kept(arrays)
        if kept is None:
            return None, None
        tensors, rows = kept
        held = None
        if share:
            rows, last = data.split(rows, share)
            held = self._held_rows(tensors, last, batch_size, options)
        steps = options.get("steps_per_epoch")
        train = Rows(tensors, rows, data.batch_size_of(rows, batch_size, steps))
        train.shuffle(options.get("shuffle", True), self._order_seeds)
        return train, held

    def _held_rows(
        self, arrays: Any, rows: range, batch_size: Any, options: dict[str, Any]
    ) -> Rows:
        """Validation data in batches, as Keras makes them."""
        size = options.get("validation_batch_size") or batch_size
        steps = options.get("validation_steps")
        return Rows(arrays, rows, data.batch_size_of(rows, size, steps))

    def reset_metrics(self) -> None:
        """Resets all metrics, as Keras does where a pass over data begins."""
        self._of_metrics("reset", super().reset_metrics)
        if not self._feed.testing:
            self._feed.steps.begin()

    def get_metrics_result(self) -> dict[str, Any]:
        """The value of each metric, by name."""
        return self._of_metrics("results", super().get_metrics_result)

    def _of_metrics(self, key: str, fn: Callable[[], Any]) -> Any:
        """Does something with all metrics; with plain means in one call of a function.

        Keras resets and reads them once in a pass over data, with a few operations for
        each, together 1 % of the time that a pass over 20,000 small images takes. As a
        function they take a third of that. Other metrics may have a state that is no
        variable, which a trace would not reset.
        """
        metrics = self.metrics
        means = all(type(metric) is keras.metrics.Mean for metric in metrics)
        if not (means and tf.executing_eagerly() and self._runs_steps()):
            return fn()
        # A partial, as of a method TensorFlow counts the traces of all models together.
        made = self._functions.once(
            (key, *metrics),
            lambda: tf.function(functools.partial(fn), autograph=False),
        )
        return made()

    @contextlib.contextmanager
    def _fed(self, steps: int, feed: "Feed") -> Iterator[None]:
        """Has the compiled steps find the rows of batches."""
        optimizer: Any = getattr(self, "optimizer", None)
        ready = self._runs_steps() and self.built and optimizer is not None
        if ready and not optimizer.built:
            # TensorFlow traces a function twice that makes variables.
            optimizer.build(self.trainable_variables)
        before, self._feed = self._feed, feed
        executed, self.steps_per_execution = self.steps_per_execution, steps
        try:
            yield
        finally:
            self._feed, self.steps_per_execution = before, executed

    @contextlib.contextmanager
    def _predicting(self) -> Iterator[None]:
        """Has Keras' `predict` take as many batches at once inside `fit` as outside."""
        steps = self.steps_per_execution
        self.steps_per_execution = self._asked["steps_per_execution"] or 1
        try:
            yield
        finally:
            self.steps_per_execution = steps

    def _held_out(self, held: Any) -> Any:
        """Validation data, checked like those of training."""
        x, y, weights = keras.utils.unpack_x_y_sample_weight(held)
        x, _ = self._checked_data(x, y)
        return data.with_place_for_weights(x, y, weights)

    def _renew(self, function: str, *given: Any) -> None:
        """Has Keras trace anew for data of other ranks.

        A trace for several ranks knows none, and weights of examples could not be told
        from weights of entries.
        """
        ranks = [self._runs_steps(), *(data.ranks(part) for part in given)]
        if self._ranks.setdefault(function, ranks) != ranks:
            setattr(self, function, None)
            self._ranks[function] = ranks

    def _check_shapes(self, few: Any, training: bool) -> None:
        """Sends two examples through the model, and looks at what comes."""
        inputs, target, _ = self._packed(few)
        with self.distribute_strategy.scope():
            check_event(unwrap(self(inputs, training=False)), target)
            if training:
                check_reparameterized(self.posterior(inputs), self.objective)

    def _checked_data(self, x: Any, y: Any, training: bool = False) -> tuple[Any, Any]:
        """Looks at the first examples, where a compiled step would see a NaN.

        Returns the data, and what was looked at: all of arrays, else a batch or `None`.
        """
        if x is None:
            raise ValueError(
                "`VAE` expects data. Received: x=None. Give arrays or a pipeline."
            )
        if data.is_arrays(x):
            batch, rows = (x, y), x
        else:
            first, x = data.peeked(x)
            if first is None:
                return x, None
            rows, y, _ = keras.utils.unpack_x_y_sample_weight(first)
            batch = (rows, y)
        data.check_not_empty(rows)
        check_inputs(rows, y if self.conditional else None, self.encoder)
        shapes = str(data.mapped(lambda part: (part.shape[1:], part.dtype), batch))
        self._functions.once(
            ("checked", shapes, training),
            lambda: self._check_shapes(
                data.mapped(lambda part: part[:2], batch), training
            ),
        )
        target = self._packed(batch)[1]
        others = (part for part in keras.tree.flatten(batch) if part is not None)
        data.check_finite([x for x in others if x is not target], self.missing)
        self._residents.checked(
            target, lambda: data.check_observed(target, self.decoder, self.missing)
        )
        return x, batch


def _countdown(steps: int | None) -> Countdown:
    """The steps of a pass, of which Keras may allow fewer."""
    most = keras.config.max_steps_per_epoch()
    given = [number for number in (steps, most) if number]
    return Countdown(min(given) if given else None)


def in_step() -> bool:
    """Whether a step of `fit` or `evaluate` is under way.

    Returns:
        True there, where `call` draws as the objective asks.

    Example:
        >>> in_step()
        False
    """
    return _IN_STEP.get()


@contextlib.contextmanager
def _in_step() -> Iterator[None]:
    token = _IN_STEP.set(True)
    try:
        yield
    finally:
        _IN_STEP.reset(token)
