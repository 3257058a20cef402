"""`fit` and `evaluate` of `tv.Model`, with many steps in one program."""

import functools
import inspect
import json
import pathlib
import random
import warnings
from typing import Any

import keras
import tensorflow as tf

from tfp_vae import keras_internals
from tfp_vae.checks import checked_config, checked_function, integer
from tfp_vae.engine import data
from tfp_vae.engine.batches import Epochs, Source, size_of_batches, source_of
from tfp_vae.engine.checkpoint import Checkpoint
from tfp_vae.engine.compiler import EAGER, Compiler, FunctionCache
from tfp_vae.engine.loss import with_function_losses
from tfp_vae.engine.num_examples import (
    check_examples,
    check_losses,
    counting_terms,
    layers_with_kl,
    terms_per_example,
)
from tfp_vae.engine.optimizer import build_optimizer
from tfp_vae.engine.program import Program
from tfp_vae.engine.progress import with_bar
from tfp_vae.engine.run import AUTO, Run, callbacks_in, steps_in_program
from tfp_vae.engine.saving import AtomicFiles
from tfp_vae.engine.strategies import check_strategy, has_workers
from tfp_vae.engine.workers import MultiWorkerTrainer

# A file in a saved model. `num_examples` is not in `get_compile_config`, because
# `keras.models.clone_model` passes that to `compile` of a plain Keras model.
_EXAMPLES = "examples.json"


class CompiledFit(MultiWorkerTrainer, AtomicFiles):
    """Training and evaluation of `tv.Model`; a base class to list before `keras.Model`.

    A call keeps its state in a `Run`, not on the model. Keras' own loop runs instead

    - under a strategy of `tf.distribute`, or if the model runs eagerly;
    - on a `PyDataset`, a loader of another library, strings, or batches that cannot be
      stacked;
    - with `class_weight` and a pipeline;
    - if a subclass makes its own `train_function` or `test_function`.
    """

    built: bool
    compiled: bool
    distribute_strategy: Any
    history: Any
    optimizer: Any
    reset_metrics: Any
    run_eagerly: bool
    stop_evaluating: bool
    stop_training: bool
    test_step: Any
    train_step: Any
    trainable_variables: list[Any]
    _asked_jit: Any = AUTO
    _asked_steps: Any = AUTO
    _asked_examples: int | None = None
    # The number of training examples, once `compile` or `fit` knows it.
    num_examples: int | None = None

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        *args: Any,
        jit_compile: Any = AUTO,
        steps_per_execution: Any = AUTO,
        num_examples: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Configures training, as `keras.Model.compile`.

        Args:
            optimizer: As in `keras.Model.compile`.
            loss: As there. A plain function receives the model's output unconverted,
                even a distribution: `lambda y, p: -p.log_prob(y)`.
            *args: As there.
            jit_compile: Whether to use XLA. `"auto"`: `fit` and `evaluate` use it where
                possible and where the number of steps outweighs the compilation. Steps
                that XLA cannot compile run without it, with a warning. Keras' own
                functions treat `"auto"` as Keras does.
            steps_per_execution: Steps in one program, that is in one compiled call,
                after which batch callbacks are called and the progress bar moves.
                `"auto"`: up to 64. A custom batch callback lowers the number to 1, even
                one that you gave; its attribute `steps_per_execution` allows more,
                `None` any number. In Keras' own loop `"auto"` is 1, and callbacks lower
                nothing.
            num_examples: Number of training examples, by which layers with random
                weights divide their KL. By default the rows of the arrays that `fit`
                is given; pipelines and generators do not tell theirs.
            **kwargs: As in `keras.Model.compile`.

        Raises:
            ValueError: If `num_examples` is not a positive integer, or all layers with
                random weights have their own factor of the KL.
        """
        if num_examples is not None:
            num_examples = integer(num_examples, "num_examples", "compile")
            own = layers_with_kl(self, divided=False)
            if own and not layers_with_kl(self):
                raise ValueError(
                    "`compile` expects `num_examples` only if layers divide the KL of "
                    f"their weights by it. Received: num_examples={num_examples}, and "
                    f"{own[0]!r} with a factor or function of its own. Leave out one "
                    "of the two."
                )
        keras_steps = 1 if steps_per_execution in (AUTO, None) else steps_per_execution
        with self.distribute_strategy.scope():
            super().compile(  # type: ignore[misc]
                optimizer,
                with_function_losses(loss),
                *args,
                jit_compile=jit_compile,
                steps_per_execution=keras_steps,
                **kwargs,
            )
        self._asked_jit = jit_compile
        self._asked_steps = AUTO if steps_per_execution is None else steps_per_execution
        self._asked_examples = num_examples
        if num_examples is not None:
            self.num_examples = num_examples
        check_strategy(self)
        vars(self).pop("_compiled_functions", None)

    def get_compile_config(self) -> dict[str, Any]:
        """The arguments of `compile`; automatic choices are not fixed."""
        config = super().get_compile_config()  # type: ignore[misc]
        if config:
            config |= {
                "jit_compile": self._asked_jit,
                "steps_per_execution": self._asked_steps,
            }
            if self._asked_steps == AUTO:  # Keras does not accept it.
                del config["steps_per_execution"]
        return config

    @checked_config
    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles the model as it was when saved."""
        try:
            inspect.signature(self.compile).bind(**config)
        except TypeError:  # A subclass has other arguments.
            super().compile_from_config(config)  # type: ignore[misc]
            return
        given = keras.saving.deserialize_keras_object(config)
        for name in ("loss", "metrics", "weighted_metrics"):
            for leaf in keras.tree.flatten(given.get(name)):
                checked_function(leaf, name)
        self.compile(**given)
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    @property
    def jit_compile(self) -> Any:
        """Whether Keras' own functions of the model use XLA."""
        return super().jit_compile  # type: ignore[misc]

    @jit_compile.setter
    def jit_compile(self, value: Any) -> None:
        keras.Model.jit_compile.fset(self, value)
        self._asked_jit = value
        vars(self).pop("_compiled_functions", None)

    @property
    def steps_per_execution(self) -> int:
        """Steps in one program, if `compile` was given a number; otherwise 1."""
        return 1 if self._asked_steps == AUTO else int(self._asked_steps)

    @steps_per_execution.setter
    def steps_per_execution(self, value: Any) -> None:
        self._asked_steps = value

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets an attribute, even if reading it returns the value already.

        TensorFlow skips such an assignment: `model.steps_per_execution = 1` would leave
        `"auto"`, which also reads as 1.
        """
        if name in ("jit_compile", "steps_per_execution"):
            getattr(CompiledFit, name).fset(self, value)
        else:
            super().__setattr__(name, value)

    @property
    def _functions(self) -> FunctionCache:
        """The model's compiled functions, not tracked by Keras; common to threads."""
        made = vars(self).get("_compiled_functions")
        if made is not None:
            return made
        new = FunctionCache(Compiler(self._asked_jit, type(self).__name__))
        return vars(self).setdefault("_compiled_functions", new)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the model while no other thread calls it, or traces or runs a step.

        Keras stores the values of `add_loss` on the layers, and clears them at each
        call. The replicas of a strategy are threads that wait for each other, so they
        take no lock.
        """
        if tf.distribute.has_strategy():
            return super().__call__(*args, **kwargs)  # type: ignore[misc]
        with self._functions.compiler.lock:
            return super().__call__(*args, **kwargs)  # type: ignore[misc]

    def _make_function(self, step_function: Any) -> Any:
        """Makes the function that Keras' own loops call, with a lock around each step.

        The method is private to Keras, as in `MultiWorkerTrainer`. If it changes,
        `test_an_answer_in_the_middle_of_a_first_step_leaves_it_whole` fails.
        """
        if self._is_distributed():
            return super()._make_function(step_function)

        def step(batch: Any) -> Any:
            with self._functions.compiler.lock:
                return step_function(batch)

        return super()._make_function(step)

    def check_data(
        self,
        x: Any,
        y: Any,
        sample_weight: Any,
        training: bool,
        caller: str,
        whole: bool,
    ) -> None:
        """Checks data, which compiled steps cannot do; does nothing unless overridden.

        Args:
            x: The whole arrays, or the first batch of a pipeline.
            y: Targets or conditions, or `None`.
            sample_weight: Weights, or `None`.
            training: Whether the model will be trained on the data.
            caller: Name of the method, for messages.
            whole: Whether they are the whole arrays.

        Raises:
            ValueError: If the data are invalid.
        """

    def fit(  # type: ignore[override]
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: Any = True,
        class_weight: Any = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: Any = 1,
    ) -> Any:
        """Trains the model, as `keras.Model.fit`.

        Args:
            x: As in `keras.Model.fit`; also SciPy sparse matrices, pandas tables and
                other objects with `shape`, `dtype` and slicing. If x, y and the weights
                exceed 1 GiB together, they are read batch by batch.
            y: As there.
            batch_size: As there.
            epochs: As there.
            verbose: As there.
            callbacks: As there.
            validation_split: As there.
            validation_data: As there.
            shuffle: As there; rows are reshuffled every epoch.
            class_weight: As there.
            sample_weight: As there.
            initial_epoch: As there.
            steps_per_epoch: As there.
            validation_steps: As there.
            validation_batch_size: As there.
            validation_freq: As there.

        Returns:
            A `keras.callbacks.History`.

        Raises:
            ValueError: If the model is not compiled, there are no examples, or the data
                are not numeric arrays of equal length.
        """
        self._check_compiled("fit")
        check_strategy(self)
        _check_freq(validation_freq)
        keras_internals.resume_at(self, None)  # Forgets the epoch of an earlier call.
        unweighted = self._read((x, y, sample_weight), "fit")
        given, class_weight = _weighted(unweighted, class_weight)
        validation = self._read_validation(x, validation_data, validation_split)
        if not self._makes_programs(given, validation, class_weight):
            return self._fit_in_keras_loop(
                given,
                unweighted,
                validation,
                batch_size=batch_size,
                epochs=epochs,
                verbose=verbose,
                callbacks=callbacks,
                validation_split=validation_split,
                shuffle=shuffle,
                class_weight=class_weight,
                initial_epoch=initial_epoch,
                steps_per_epoch=steps_per_epoch,
                validation_steps=validation_steps,
                validation_batch_size=validation_batch_size,
                validation_freq=validation_freq,
            )
        read = given  # in its own dtypes, to be checked
        # Before the split: both parts use the same tensors.
        given, unweighted = data.resident((given, unweighted))
        rows = last = None
        if validation_split and validation is None:
            rows, last = data.split(data.check_rows(given, "fit"), validation_split)
        # One seed for all epochs: after `keras.utils.set_random_seed`, a call that
        # resumes at a later epoch shuffles it as the interrupted call would have.
        seed = random.getrandbits(32)
        train = source_of(
            given, rows, batch_size, steps_per_epoch, "fit", shuffle, seed
        )
        self._check_given(read, True, "fit", train)
        del read
        self._count_examples(given, 0.0 if validation else validation_split)
        epochs = _capped(int(epochs))
        left = range(int(initial_epoch), epochs)
        run = self._run(train, steps_per_epoch, callbacks, len(left), "training", "fit")
        test = None
        if validation is not None or last is not None:
            source = source_of(
                unweighted if validation is None else validation,
                last,
                validation_batch_size or batch_size,
                validation_steps,
                "fit",
            )
            if validation is not None:
                self._check_given(validation, False, "fit", source)
            num_epochs = _count_due(left, validation_freq)
            test = self._run(
                source, validation_steps, callbacks, num_epochs, "evaluation", "fit"
            )
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = keras.callbacks.CallbackList(
                with_bar(
                    _checkpoints_first(callbacks),
                    verbose,
                    _compiled(run, "the training step"),
                ),
                add_history=True,
                verbose=verbose,
                epochs=epochs,
                steps=run.epochs.num_batches,
                model=self,
            )
        _inform(callbacks, run.epochs)
        return self._run_epochs(
            run, test, validation_freq, callbacks, initial_epoch, epochs
        )

    def save_assets(self, directory: str) -> None:
        """Writes what no config has: states of generators, the number of examples."""
        super().save_assets(directory)
        if self.num_examples is not None and layers_with_kl(self):
            found = {"asked": self._asked_examples, "known": self.num_examples}
            pathlib.Path(directory, _EXAMPLES).write_text(json.dumps(found))

    def load_assets(self, directory: str | None) -> None:
        """Reads what `save_assets` wrote."""
        super().load_assets(directory)
        path = pathlib.Path(directory or "", _EXAMPLES)
        if directory and path.exists():
            self._read_examples(json.loads(path.read_text()))

    @checked_config
    def _read_examples(self, found: dict[str, Any]) -> None:
        numbers = [
            number if number is None else integer(number, "num_examples", "Loading")
            for number in (found["asked"], found["known"])
        ]
        self._asked_examples, self.num_examples = numbers

    def _count_examples(self, given: Any, validation_split: float) -> None:
        """Sets the number of training examples."""
        layers = layers_with_kl(self)
        if layers:
            check_losses(getattr(self, "loss", None), "fit")
        if data.is_pipeline(given[0]):
            if layers and self._asked_examples is None:
                kind = type(given[0]).__name__
                raise _unknown_examples(
                    "`fit`", f"a {kind}, whose examples are not counted"
                )
            return
        rows = data.check_rows(given, "fit")
        if validation_split:
            rows = len(data.split(rows, validation_split)[0])
        if self._asked_examples is not None:
            check_examples(self._asked_examples, rows, "fit")
            rows = self._asked_examples
        if layers and rows != self.num_examples:
            self._forget_functions()
        self.num_examples = rows

    def _forget_functions(self) -> None:
        """Drops the compiled functions, which have the number of examples in them."""
        vars(self).pop("_compiled_functions", None)
        self.train_function = self.test_function = None

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The loss of a batch, as `keras.Model.compute_loss`.

        The KL of random weights is divided by the number of training examples, and by
        the number of terms of the loss that each example has.

        Args:
            x: As in `keras.Model.compute_loss`.
            y: As there.
            y_pred: As there.
            sample_weight: As there.
            training: As there.

        Returns:
            A scalar.
        """
        with counting_terms(y_pred, getattr(self, "loss", None)):
            return super().compute_loss(  # type: ignore[misc]
                x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training
            )

    def _aggregate_additional_loss(self, loss: Any) -> Any:
        """A term of `add_loss`; one of the whole training set is divided.

        The method is private to Keras. If it changes,
        `test_the_loss_is_the_mean_nll_plus_the_kl_over_the_number_of_rows` fails.
        """
        found = super()._aggregate_additional_loss(loss)  # type: ignore[misc]
        if not keras_internals.is_of_training_set(loss):
            return found
        return found * tf.cast(self.share_of_training_set(), found.dtype)

    def share_of_training_set(self) -> Any:
        """The factor of a term of the whole training set, in the loss of a step.

        Returns:
            1 / (N T) for N training examples, of T terms of the loss each.

        Raises:
            ValueError: If N is not known.
        """
        if self.num_examples is None:
            raise _unknown_examples("A training or test step", "a model without it")
        return 1.0 / (self.num_examples * tf.cast(terms_per_example(), tf.float32))

    def _read_validation(self, x: Any, validation_data: Any, split: float) -> Any:
        """The validation data of `fit`, as `_read` returns them, or `None`."""
        if validation_data is not None:
            given = keras.utils.unpack_x_y_sample_weight(validation_data)
            return self._read(given, "fit")
        if split and data.is_pipeline(x):
            raise ValueError(
                "`fit` with `validation_split` expects arrays. Received: x of type "
                f"{type(x).__name__}. Give `validation_data`."
            )
        return None

    def _fit_in_keras_loop(
        self, given: Any, unweighted: Any, validation: Any, **options: Any
    ) -> Any:
        """Checks the data, then calls `keras.Model.fit`."""
        self._check_given(given, True, "fit")
        if validation is not None:
            self._check_given(validation, False, "fit")
        split = 0.0 if validation else options["validation_split"]
        self._count_examples(given, split)
        is_sequence = isinstance(given[0], keras.utils.PyDataset)
        batch_size, shuffle = options["batch_size"], options["shuffle"]
        given, split, validation = self._for_keras(
            given,
            batch_size,
            shuffle,
            options["steps_per_epoch"],
            validation_split=options["validation_split"],
            validation=validation,
            validation_batch_size=options["validation_batch_size"],
            validation_steps=options["validation_steps"],
            unweighted=unweighted,
        )
        # Several workers have a rule of their own, in `MultiWorkerTrainer.fit`.
        if not is_sequence and not has_workers(self.distribute_strategy):
            shuffle = shuffle and not data.is_pipeline(given[0])
        callbacks = options["callbacks"]
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = _checkpoints_first(callbacks)
        _inform(callbacks, None)
        options |= {
            "validation_split": split,
            "shuffle": shuffle,
            "callbacks": callbacks,
        }
        x, y, sample_weight = given
        return super().fit(
            x, y, sample_weight=sample_weight, validation_data=validation, **options
        )

    def _run_epochs(
        self,
        run: Run,
        test: Run | None,
        validation_freq: Any,
        callbacks: Any,
        initial_epoch: int,
        epochs: int,
    ) -> Any:
        """Trains for the remaining epochs, and calls callbacks as Keras does."""
        self.stop_training = False
        callbacks.on_train_begin()

        def ended(step: int, logs: Any) -> bool:
            callbacks.on_train_batch_end(step, logs)
            return self.stop_training

        logs: Any = None
        first, done = run.epochs.resumed or (
            keras_internals.resumed_epoch(self) or initial_epoch,
            0,
        )
        for epoch in range(first, epochs):
            self.reset_metrics()
            callbacks.on_epoch_begin(epoch)
            found = run.steps(epoch, callbacks.on_train_batch_begin, ended, done)
            done = 0
            if found is None:
                warnings.warn(
                    f"`fit` ended before epoch {epoch + 1} of {epochs}: the pipeline "
                    "has no more data. Give one that can be iterated again, or "
                    "`steps_per_epoch`.",
                    stacklevel=3,
                )
                break
            logs = dict(self._results(found))
            if test is not None and _is_due(epoch, validation_freq):
                found = self._run_evaluation(test, callbacks)
                logs |= {f"val_{name}": value for name, value in found.items()}
            callbacks.on_epoch_end(epoch, logs)
            if self.stop_training:
                break
        if isinstance(self.optimizer, keras.optimizers.Optimizer) and epochs > 0:
            self.optimizer.finalize_variable_values(self.trainable_variables)
        callbacks.on_train_end(logs=logs)
        return self.history

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Any = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Any = None,
        return_dict: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Computes the loss and the metrics, as `keras.Model.evaluate`.

        Args:
            x: As in `fit`.
            y: As in `fit`.
            batch_size: As in `keras.Model.evaluate`.
            verbose: As there.
            sample_weight: As there.
            steps: As there.
            callbacks: As there.
            return_dict: As there.
            **kwargs: Passed by Keras' own `fit`.

        Returns:
            A number, a list of numbers, or a dictionary with `return_dict=True`.

        Raises:
            ValueError: As in `fit`.
        """
        self._check_compiled("evaluate")
        check_strategy(self)
        if kwargs:  # called by Keras' own `fit`
            return super().evaluate(
                x,
                y,
                batch_size,
                verbose,
                sample_weight,
                steps,
                callbacks,
                return_dict,
                **kwargs,
            )
        given = self._read((x, y, sample_weight), "evaluate")
        if self.num_examples is None and layers_with_kl(self):
            raise _unknown_examples("`evaluate`", "a model that `fit` has not trained")
        if not self._makes_programs(given):
            self._check_given(given, False, "evaluate")
            given, *_ = self._for_keras(given, batch_size, steps=steps)
            return super().evaluate(
                given[0],
                given[1],
                batch_size,
                verbose,
                given[2],
                steps,
                callbacks,
                return_dict,
            )
        source = source_of(given, None, batch_size, steps, "evaluate")
        self._check_given(given, False, "evaluate", source)
        run = self._run(source, steps, callbacks, 1, "evaluation", "evaluate")
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = keras.callbacks.CallbackList(
                with_bar(callbacks, verbose, _compiled(run, "the evaluation step")),
                verbose=verbose,
                epochs=1,
                steps=run.epochs.num_batches,
                model=self,
            )
        logs = self._run_evaluation(run, callbacks)
        return logs if return_dict else keras_internals.metrics_as_list(self, logs)

    def _run_evaluation(self, run: Run, callbacks: Any) -> dict[str, Any]:
        """Runs a pass of evaluation, and calls callbacks as Keras does."""
        self.stop_evaluating = False
        callbacks.on_test_begin()
        self.reset_metrics()

        def ended(step: int, logs: Any) -> bool:
            callbacks.on_test_batch_end(step, logs)
            return self.stop_evaluating

        found = run.steps(0, callbacks.on_test_batch_begin, ended)
        if found is None:
            warnings.warn(
                "The evaluation has no results: its pipeline has no more data. Give "
                "one that can be iterated again.",
                stacklevel=4,
            )
        logs = as_numbers(self._results(found))
        callbacks.on_test_end(logs)
        return logs

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: Any = "auto",
        steps: int | None = None,
        callbacks: Any = None,
    ) -> Any:
        """The model's output as arrays, as `keras.Model.predict`.

        Args:
            x: As in `fit`.
            batch_size: As in `keras.Model.predict`.
            verbose: As there.
            steps: As there.
            callbacks: As there.

        Returns:
            An array, or a structure of arrays.
        """
        given = self._read((x, None, None), "predict")
        (x, _, _), *_ = self._for_keras(given, batch_size, steps=steps)
        return super().predict(x, batch_size, verbose, steps, callbacks)  # type: ignore[misc]

    def _read(self, given: Any, caller: str) -> Any:
        """Reads x, y and weights with `data.read`; leaves a pipeline as it is."""
        x, y, sample_weight = given
        if x is None:
            raise ValueError(
                f"`{caller}` expects data. Received: x=None. Give arrays or a pipeline."
            )
        if not data.is_pipeline(x):
            given = data.read(given, caller)
            data.check_rows(given, caller)
            return given
        if y is not None or sample_weight is not None:
            raise ValueError(
                f"`{caller}` expects y and weights only with arrays. Received: x of "
                f"type {type(x).__name__}. Let the pipeline yield tuples "
                "(x, y, sample_weight)."
            )
        return data.untuned(x), y, sample_weight

    def _makes_programs(
        self, given: Any, validation: Any = None, class_weight: Any = None
    ) -> bool:
        """Whether to run several steps in one program, not Keras' own loop."""
        cls = type(self)
        return (
            not self.run_eagerly
            and not tf.config.functions_run_eagerly()
            and not self._is_distributed()
            and class_weight is None
            and _can_be_stacked(given[0])
            and (validation is None or _can_be_stacked(validation[0]))
            and cls.make_train_function is keras.Model.make_train_function  # type: ignore[attr-defined]
            and cls.make_test_function is keras.Model.make_test_function  # type: ignore[attr-defined]
        )

    def _is_distributed(self) -> bool:
        """Whether a strategy of `tf.distribute` distributes the batches."""
        strategy = self.distribute_strategy
        return tf.distribute.has_strategy() or (
            strategy is not tf.distribute.get_strategy()
        )

    def _for_keras(
        self,
        given: Any,
        batch_size: int | None,
        shuffle: Any = False,
        steps: int | None = None,
        validation_split: float = 0.0,
        validation: Any = None,
        validation_batch_size: int | None = None,
        validation_steps: int | None = None,
        unweighted: Any = None,
    ) -> Any:
        """Data for Keras' own loops, which would copy large and sparse arrays.

        They would also weigh the validation loss with `class_weight`: `unweighted` are
        the data without it.
        """
        validation_batch_size = validation_batch_size or batch_size
        if validation is not None:
            validation = _as_tuple(
                self._for_keras(
                    validation, validation_batch_size, steps=validation_steps
                )[0]
            )
        if data.is_pipeline(given[0]):
            return given, validation_split, validation
        is_split = bool(validation_split) and validation is None
        if not data.is_streamed(given):
            if is_split:
                parts = data.split(data.check_rows(given, "fit"), validation_split)
                given, validation = (
                    data.mapped(lambda a, rows=rows: a[rows.start : rows.stop], part)
                    for part, rows in zip((given, unweighted), parts, strict=True)
                )
                validation, validation_split = _as_tuple(validation), 0.0
            return given, validation_split, validation
        if has_workers(self.distribute_strategy):
            raise ValueError(
                "Several workers expect dense arrays of at most 1 GiB together, or a "
                f"`tf.data.Dataset`. Received: {type(given[0]).__name__} of shape "
                f"{getattr(given[0], 'shape', None)}. Make a dataset that yields the "
                "same batches on each worker."
            )
        rows = range(data.check_rows(given, "fit"))
        if is_split:
            rows, last = data.split(len(rows), validation_split)
            size = size_of_batches(validation_batch_size, last, validation_steps)
            validation = data.Rows(_as_tuple(unweighted), size, last)
            validation_split = 0.0
        size = size_of_batches(batch_size, rows, steps)
        batches = data.Rows(_as_tuple(given), size, rows, shuffle)
        return (batches, None, None), validation_split, validation

    def _check_given(
        self, given: Any, training: bool, caller: str, source: Source | None = None
    ) -> None:
        """Calls `check_data` with the arrays, or a pipeline's first batch."""
        whole = not data.is_pipeline(given[0])
        if not whole:
            first = getattr(source, "first", None)
            if first is None:  # Only Keras iterates this pipeline.
                return
            given = keras.utils.unpack_x_y_sample_weight(first)
        x, y, sample_weight = given
        self.check_data(x, y, sample_weight, training, caller, whole)

    def _run(
        self,
        source: Source,
        steps: int | None,
        callbacks: Any,
        num_epochs: int,
        name: str,
        caller: str,
    ) -> Run:
        """Makes the `Run` of a call."""
        functions, training = self._functions, name == "training"
        step = self.train_step if training else self.test_step
        program = functions.cached(
            name, lambda: Program(step, f"its {name}", functions.compiler)
        )
        epochs = Epochs(source, steps, caller, goes_on=training)
        size, shapes = source.batch()
        most = steps_in_program(self._asked_steps, epochs.num_batches, size, callbacks)
        if training:
            # TensorFlow traces a function twice if it creates variables.
            build_optimizer(self)
        mode = functools.partial(
            functions.choose_mode, (name, shapes), may_be_eager=source.is_even
        )
        return Run(program, epochs, most, num_epochs, mode)

    def _results(self, logs: Any) -> Any:
        """The metrics, or the logs of a step if these have other names."""
        found = self.get_metrics_result()  # type: ignore[attr-defined]
        same = isinstance(logs, dict) and logs.keys() == found.keys()
        return found if same else logs

    def _check_compiled(self, method: str) -> None:
        if not self.compiled:
            raise ValueError(
                f"`{type(self).__name__}.{method}` expects a compiled model. Received: "
                "one without an optimizer and a loss. Call `compile` first."
            )


def _unknown_examples(caller: str, found: str) -> ValueError:
    """The error for random weights if the number of training examples is unknown."""
    return ValueError(
        f"{caller} expects the number of training examples, by which the KL of random "
        f"weights is divided. Received: {found}. Give `compile(num_examples=...)`."
    )


def _can_be_stacked(x: Any) -> bool:
    """Whether batches are dense tensors that can be stacked."""
    if isinstance(x, tf.data.Dataset):
        return all(
            isinstance(spec, tf.TensorSpec) and bool(spec.shape.rank)
            for spec in tf.nest.flatten(x.element_spec)
        )
    if data.is_pipeline(x):
        return hasattr(x, "__next__")  # a generator
    return all(tf.as_dtype(a.dtype) != tf.string for a in data.leaves_of(x))


def _compiled(run: Run, what: str) -> str | None:
    """Name of what the first step compiles, for the progress bar, or `None`."""
    return None if run.mode == EAGER else what


def _checkpoints_first(callbacks: Any) -> list[Any]:
    """The callbacks, with those first that save what the others have counted."""
    return sorted(
        callbacks_in(callbacks),
        key=lambda callback: not isinstance(callback, Checkpoint),
    )


def _inform(callbacks: Any, epochs: Epochs | None) -> None:
    """Gives a checkpoint what Keras does not: the callbacks and the data."""
    given = callbacks_in(callbacks)
    found = [callback for callback in given if isinstance(callback, Checkpoint)]
    if len(found) > 1:
        raise ValueError(
            f"`fit` expects at most one `Checkpoint`. Received: {len(found)}. Give the "
            "one to resume from; `keras.callbacks.ModelCheckpoint` keeps other files."
        )
    for callback in found:
        callback.follow(callbacks, epochs)


def _as_tuple(given: Any) -> tuple[Any, ...]:
    """Packs data in a tuple, as Keras' pipelines yield batches."""
    packed = keras.utils.pack_x_y_sample_weight(*given)
    return packed if isinstance(packed, tuple) else (packed,)


def _weighted(given: Any, class_weight: Any) -> tuple[Any, Any]:
    """Converts `class_weight` to weights of examples, if y is an array."""
    x, y, sample_weight = given
    if class_weight is None or data.is_pipeline(x):
        return given, class_weight
    if sample_weight is not None:
        raise ValueError(
            "`fit` expects `class_weight` or `sample_weight`. Received: both. Give "
            "their product as `sample_weight`."
        )
    return (x, y, data.class_weights(y, class_weight, "fit")), None


def _is_due(epoch: int, validation_freq: Any) -> bool:
    """Whether validation follows an epoch."""
    if isinstance(validation_freq, int):
        return (epoch + 1) % validation_freq == 0
    return epoch + 1 in validation_freq


def _count_due(epochs: range, validation_freq: Any) -> int:
    """The number of epochs that validation follows."""
    if isinstance(validation_freq, int):
        before = epochs.start // validation_freq
        return max(epochs.stop // validation_freq - before, 0)
    return len({number for number in validation_freq if number - 1 in epochs})


def _check_freq(validation_freq: Any) -> None:
    if isinstance(validation_freq, int) and validation_freq > 0:
        return
    if isinstance(validation_freq, list | tuple | set | range):
        return
    raise ValueError(
        "`fit` expects `validation_freq` to be a positive integer or a list of epochs. "
        f"Received: validation_freq={validation_freq!r}. Give 1 for every epoch."
    )


def _capped(epochs: int) -> int:
    """The number of epochs, limited by Keras' configuration."""
    most = keras.config.max_epochs()
    if most and most < epochs:
        warnings.warn(
            f"`fit` trains for {most} epochs only, the limit in Keras' configuration. "
            "Raise it with `keras.config.set_max_epochs`.",
            stacklevel=3,
        )
        return int(most)
    return epochs


def as_numbers(logs: Any) -> dict[str, Any]:
    """Converts scalar logs to Python numbers, and flattens those of dictionaries.

    Args:
        logs: A dictionary, or `None`.

    Returns:
        A dictionary.

    Example:
        >>> as_numbers({"loss": tf.constant(1.0)})
        {'loss': 1.0}
    """
    found: dict[str, Any] = {}
    for name, value in (logs or {}).items():
        if isinstance(value, dict):
            found |= as_numbers(value)
        else:
            try:
                found[name] = float(value)
            except (TypeError, ValueError):
                found[name] = value
    return found
