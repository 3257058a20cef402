"""Stops training at a NaN or infinity, and names the layer."""

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_vae.callbacks.watching import checked_examples, undisturbed
from tfp_vae.checks import integer
from tfp_vae.distribution_tensor import unwrap
from tfp_vae.engine.optimizer import build_optimizer
from tfp_vae.models.vae import VAE


class NaNGuard(keras.callbacks.Callback):
    """Stops training at a NaN or infinity, names its layer, restores good weights.

    For any Keras model, compiled by XLA or not. The loss is checked when Keras calls
    `on_train_batch_end`, in `tv.VAE` after each program of several steps; all weights
    are checked at the end of each epoch. The layer named is the first, in the order of
    computation, with a weight that is not finite; if all weights are finite, the first
    whose output on x is not. In a `tv.VAE` the order is encoder, prior, decoder.
    Weights and optimizer are reset to the values that were last seen to be finite, so
    that `fit` can continue, for example with a lower learning rate.

    Put it before callbacks that save the model.

    Args:
        x: A batch of the model's inputs, to find the layer if all weights are finite; a
            pair (x, y) for a conditional VAE.
        every: Also keep the weights after so many batches, not only at the end of each
            epoch. Each time copies all of them to the host. A `tv.VAE` then runs at
            most so many steps in one program.

    Attributes:
        layer_name: Name of the layer, or `None`.
        epoch: The epoch in which it happened, from 0, or `None`.

    Raises:
        ValueError: If x is not arrays, `every` is below 1, or the weights are not
            finite when training begins.

    Example:
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> model.compile(keras.optimizers.SGD(1e30), "mse")
        >>> guard = NaNGuard()
        >>> with warnings.catch_warnings(action="ignore"):
        ...     history = model.fit(np.ones([8, 1]), np.ones([8, 1]), batch_size=1,
        ...                         callbacks=[guard], verbose=0)
        >>> guard.epoch, bool(np.isfinite(model.get_weights()[0]).all())
        (0, True)
    """

    def __init__(self, x: Any = None, every: int | None = None) -> None:
        super().__init__()
        if x is not None:
            checked_examples(x, "NaNGuard")
        self.x = x
        self.every = every if every is None else integer(every, "every", "NaNGuard")
        self.layer_name: str | None = None
        self.epoch: int | None = None
        self._good: list[tuple[Any, np.ndarray]] = []
        self._kept_at = ""
        self._current = self._next = 0
        self._is_first_batch = False

    @property
    def steps_per_execution(self) -> int | None:
        """The largest number of steps in one program, for `tv.VAE.fit`."""
        return self.every

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forgets what an earlier training left."""
        self.layer_name = self.epoch = None
        self._good = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Resets the count of batches; keeps the weights with which training begins."""
        self._current, self._next = epoch, self.every or 0
        if not self._good:  # Not before: other callbacks load weights `on_train_begin`.
            self._begin()

    def _begin(self) -> None:
        found = _first_bad_weight(self.model)
        if found is not None:
            raise ValueError(
                "`NaNGuard` expects finite weights when training begins. Received: NaN "
                f"or infinity in {found[1]}. Load finite weights."
            )
        build_optimizer(self.model)
        self._keep("the beginning of training")
        self._is_first_batch = True

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Checks the loss."""
        if self.epoch is not None:
            return
        if not np.isfinite((logs or {}).get("loss", 0.0)):
            self._stop(f"by batch {batch} of epoch {self._current}", logs or {})
            return
        is_due = self.every is not None and batch + 1 >= self._next
        if self._is_first_batch:
            self._is_first_batch = False
            is_due = is_due or self._num_lost() > 0  # A step made variables.
        if is_due:
            self._next = batch + 1 + (self.every or 0)
            self._keep_if_good(f"batch {batch} of epoch {self._current}", logs or {})

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Checks the weights, and keeps them."""
        if self.epoch is None:
            self._keep_if_good(f"the end of epoch {epoch}", logs or {})

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Frees the memory of the copies."""
        self._good = []

    def _keep_if_good(self, when: str, logs: dict[str, Any]) -> None:
        if _first_bad_weight(self.model) is None:
            self._keep(when)
        else:
            self._stop(f"by {when}", logs)

    def _keep(self, when: str) -> None:
        self._good = [(variable, variable.numpy()) for variable in self._variables()]
        self._kept_at = when

    def _variables(self) -> list[Any]:
        return [*self.model.weights, *self.model.optimizer.variables]

    def _num_lost(self) -> int:
        """The number of variables that were made after the last copy."""
        return len(self._variables()) - len(self._good)

    def _stop(self, when: str, logs: dict[str, Any]) -> None:
        self.epoch = self._current
        self.model.stop_training = True
        self.layer_name, where = self._diagnosis()
        for variable, value in self._good:
            variable.assign(value)
        lost = ""
        if self._num_lost():
            lost = (
                f", but for {self._num_lost()} variables that the model and the "
                "optimizer made in the first step (`keras.Input` lets them be made "
                "before)"
            )
        numbers = [
            f"{name}={value:g}" if np.ndim(value) == 0 else f"{name}={value}"
            for name, value in logs.items()
            if not np.all(np.isfinite(value))
        ]
        found = ", ".join([*numbers, where])
        warnings.warn(
            f"`NaNGuard` found a NaN or infinity {when}: {found}. Training stops, with "
            f"the weights of {self._kept_at}{lost}; a lower learning rate, clipped "
            "gradients (`clipnorm=1.0` of the optimizer) or a check of the data help.",
            RuntimeWarning,
            stacklevel=2,
        )

    def _diagnosis(self) -> tuple[str | None, str]:
        """Name of the first layer that is not finite, and what is wrong there."""
        found = _first_bad_weight(self.model)
        if found is not None:
            layer, path = found
            bad = sum(not _is_finite(v) for v in self.model.weights)
            return layer.name, (
                f"weights that are not finite (the first {path} of layer "
                f"{layer.name!r}, {bad} of {len(self.model.weights)} in all)"
            )
        if self.x is None:
            return None, "all weights finite (`NaNGuard(x)` tests the layers, too)"
        layer = _first_bad_output(self.model, self.x)
        if layer is None:
            return None, "all weights and all outputs on x finite"
        return layer.name, (
            f"all weights finite, but not the output of layer {layer.name!r} on x"
        )


def _layers(model: Any) -> Iterator[Any]:
    """Layers in the order of computation, each model after its own layers."""
    parts = list(getattr(model, "layers", []))
    if isinstance(model, VAE):
        parts = [model.encoder, model.prior, model.decoder, *parts]
    for part in parts:
        if isinstance(part, keras.layers.Layer):
            yield from _layers(part)
    yield model


def _first_bad_weight(model: Any) -> tuple[Any, str] | None:
    """The first layer with a weight that is not finite, and the weight's path."""
    for layer in _layers(model):
        for weight in layer.weights:
            if not _is_finite(weight):
                return layer, weight.path
    return None


def _first_bad_output(model: Any, x: Any) -> Any:
    """The first layer whose output is not finite."""
    found: list[Any] = []
    thread = threading.get_ident()  # Others may call the layers, too.

    def look(layer: Any, output: Any) -> None:
        if thread != threading.get_ident() or found:
            return
        if not all(map(_is_finite, _tensors(output))):
            found.append(layer)

    with undisturbed(model), _watched(model, look):
        model(x, training=False)
    return found[0] if found else None


@contextlib.contextmanager
def _watched(model: Any, look: Callable[[Any, Any], None]) -> Iterator[None]:
    """Passes each layer's output to `look`, since Keras has no hook for it."""
    layers = list({id(layer): layer for layer in _layers(model)}.values())
    before = [vars(layer).get("call") for layer in layers]

    def watched(layer: Any, call: Any) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            output = call(*args, **kwargs)
            look(layer, output)
            return output

        return wrapper

    try:
        for layer in layers:
            vars(layer)["call"] = watched(layer, layer.call)
        yield
    finally:
        for layer, call in zip(layers, before, strict=True):
            vars(layer).pop("call", None)
            if call is not None:
                vars(layer)["call"] = call


def _tensors(output: Any) -> Iterator[Any]:
    """The tensors of an output; for a distribution, its parameters."""
    output = unwrap(output)
    if isinstance(getattr(output, "parameters", None), dict):
        output = output.parameters
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, list | tuple):
        for part in output:
            yield from _tensors(part)
    elif tf.is_tensor(output):
        yield output


def _is_finite(values: Any) -> bool:
    if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(values.dtype)):
        return True
    return bool(keras.ops.all(keras.ops.isfinite(values)))
