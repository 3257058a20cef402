"""Inference with a VAE: encodes, decodes, predicts, generates and interpolates."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_vae.checks import integer, integers, optional_seed, positive_number
from tfp_vae.distribution_tensor import DistributionTensor, unwrap
from tfp_vae.draws import fold_in
from tfp_vae.engine import data
from tfp_vae.engine.compiler import FunctionCache
from tfp_vae.latents import center, has_direction, on_the_sphere, path, tempered
from tfp_vae.models.bound import Networks
from tfp_vae.models.data_checks import as_arrays, check_finite
from tfp_vae.models.network_checks import check_conditions, check_inputs
from tfp_vae.models.pieces import (
    ROWS,
    DistributionInPieces,
    any_length,
    pieces_of,
    rows_at_once,
)
from tfp_vae.models.statistics import (
    DefaultConversion,
    checked_statistics,
    needs_seed,
    statistics_of,
)
from tfp_vae.weights.forward_pass import layers_with_random_weights, weights_drawn_with


class Predictor(keras.Model):
    """Computes chosen statistics of a VAE's output in Keras' own `predict`.

    Each choice has its own model, and so its own compiled function.

    Args:
        vae: A `tv.VAE`.
        statistics: What `checked_statistics` returned.

    Example:
        >>> Predictor(keras.Sequential(), "mean").name.startswith("predictor")
        True
    """

    def __init__(self, vae: Any, statistics: Any) -> None:
        super().__init__()
        self.vae, self._statistics = vae, statistics
        self.run_eagerly = getattr(vae, "run_eagerly", False)
        self.jit_compile = getattr(vae, "jit_compile", False)
        self.built = True

    def predict_step(self, batch: Any) -> Any:
        """The statistics of a batch."""
        return self.vae.statistics_of_batch(batch, self._statistics)


class Inference(Networks):
    """The methods of `tv.VAE` for inference; those for training are in `training`."""

    # Attributes of a Keras model that these methods use.
    __call__: Any
    _for_keras: Any
    jit_compile: Any
    run_eagerly: Any
    built: Any
    _functions: FunctionCache
    _seeds: Any

    def encode(self, x: Any, y: Any = None) -> Any:
        """The posterior q(z | x).

        Args:
            x: Inputs of shape `(n, ...)`, or a `tf.data.Dataset`.
            y: Conditions, if the model is conditional; labels, if it has a classifier.

        Returns:
            A `tfd.Distribution` of batch shape `(n,)`, a `DistributionTensor` whose
            value is the mean. Slice the batch with `q.tensor_distribution[:2]`.
        """
        return DistributionTensor(self._encoded(x, y), DefaultConversion())

    def _encoded(self, x: Any, y: Any) -> Any:
        """The posterior as TFP makes it, in pieces of examples."""
        inputs = self._inputs(*self._of_dataset(x, y, "encode"), "encode")
        rows = rows_at_once(self.encoder, ROWS)
        count = data.leaves_of(inputs)[0].shape[0]
        if count <= rows:
            with self._functions.compiler.lock:
                return self.posterior(data.first_rows(inputs, count))
        spec = data.mapped(any_length, inputs)
        in_pieces = self._functions.cached(
            ("encode", str(spec)),
            lambda: DistributionInPieces(self.posterior, rows, spec),
        )
        if in_pieces.can_take_apart:
            return in_pieces(inputs)
        with self._functions.compiler.lock:
            return self.posterior(data.first_rows(inputs, count))

    def decode(self, z: Any, y: Any = None) -> Any:
        """The likelihood p(x | z).

        Args:
            z: Latents of shape `(n, *event_shape)`, or a distribution, of which the
                mean is used, or the mode if it is discrete.
            y: Conditions, if the model is conditional; labels, if it has a classifier.

        Returns:
            A `tfd.Distribution` of batch shape `(n,)`, a `DistributionTensor` whose
            value is the mean. Slice the batch with `p.tensor_distribution[:2]`.

        Raises:
            ValueError: If the model has no weights yet, or z are not arrays of latents.
        """
        self._check_built("decode")
        if hasattr(z, "log_prob"):
            z = center(z)
        (z,) = data.read((z,), "decode")
        if not tf.is_tensor(z) or z.shape[:1] != [None]:
            data.check_rows(z, "decode")
        z = tf.convert_to_tensor(z)
        check_inputs(z, y, self.decoder, self.conditional, name="z")
        y = self._condition(y, z.shape[0])
        with self._functions.compiler.lock:
            p = unwrap(self.likelihood(z, y))
        return DistributionTensor(p, DefaultConversion())

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: Any = "auto",
        steps: int | None = None,
        callbacks: Any = None,
        statistics: Any = None,
        *,
        y: Any = None,
    ) -> Any:
        """Statistics of p(x | z) at the posterior's mean z, or mode if z is discrete.

        Args:
            x: As in `keras.Model.predict`.
            batch_size: As there.
            verbose: As there.
            steps: As there.
            callbacks: As there.
            statistics: `"mean"`, `"mode"`, `"stddev"`, `"variance"`, `"covariance"`,
                `"entropy"`, `"logits"`, `"probs"`, `"sample"`, `"params"`, or a list of
                several; by default the mean, or the mode if there is no mean.
                `"sample"` draws a new x at each call.
            y: Conditions, if the model is conditional and x are arrays.

        Returns:
            An array of shape `(n, *event_shape)`; a dictionary of arrays by name if
            `statistics` is a list; for `"params"` a dictionary of the parameters,
            nested for a mixture.

        Raises:
            ValueError: If a statistic is unknown, `batch_size` is below 1, or x does
                not fit the encoder.
        """
        statistics = checked_statistics(statistics, "predict")
        if batch_size is not None:
            batch_size = integer(batch_size, "batch_size", "predict")
        if data.is_pipeline(x):
            if y is not None:
                raise ValueError(
                    "`predict` expects y only with arrays. Received: y with x of type "
                    f"{type(x).__name__}. Let the pipeline yield pairs (x, y)."
                )
            inputs = x
        else:
            inputs = self._inputs(x, y, "predict")
        if statistics is None:
            return super().predict(inputs, batch_size, verbose, steps, callbacks)  # type: ignore[misc]
        (inputs, _, _), *_ = self._for_keras((inputs, None, None), batch_size)
        predictor = self._functions.cached(
            ("predict", statistics, self.run_eagerly, self.jit_compile),
            lambda: Predictor(self, statistics),
        )
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = [*keras.tree.flatten([] if callbacks is None else callbacks)]
        return predictor.predict(inputs, batch_size, verbose, steps, callbacks)

    def predict_step(self, batch: Any) -> Any:
        """The mean of p(x | z) for a batch."""
        return self.statistics_of_batch(batch, None)

    def statistics_of_batch(self, batch: Any, statistics: Any) -> Any:
        """Statistics of p(x | z) at the posterior's `center`.

        Args:
            batch: x, or a tuple that begins with x, as a pipeline yields it.
            statistics: What `checked_statistics` returned.

        Returns:
            A tensor, or a dictionary of them.
        """
        x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        p = self((x, y) if self.conditional and y is not None else x, training=False)
        # Deterministic statistics must not advance the seeds.
        seed = self._seeds.next() if needs_seed(statistics) else None
        return statistics_of(p, statistics, seed)

    def reconstruct(self, x: Any, y: Any = None, batch_size: int | None = None) -> Any:
        """The mean of p(x | z) at the posterior's mean z, or mode if z is discrete.

        Args:
            x: Inputs of shape `(n, ...)`.
            y: Conditions, if the model is conditional; labels, if it has a classifier.
            batch_size: Number of examples at once.

        Returns:
            An array of shape `(n, *event_shape)`.

        Raises:
            ValueError: As in `predict`.
        """
        return self.predict(x, y=y, batch_size=batch_size, verbose=0)

    def generate(
        self,
        n: int,
        y: Any = None,
        seed: int | None = None,
        temperature: float = 1.0,
        statistics: Any = None,
    ) -> Any:
        """New examples: z from the prior, and the mean of p(x | z).

        Args:
            n: Number of examples.
            y: Conditions of shape `(n, ...)`, if the model is conditional.
            seed: Integer for the same examples at each call.
            temperature: Factor of the scale of the prior.
            statistics: As in `predict`; `"sample"` also draws x.

        Returns:
            An array of shape `(n, *event_shape)`, or as in `predict`.

        Raises:
            ValueError: If the model has no weights yet, an argument is invalid, `n` is
                not below 2**31, or the temperature is not 1 and the prior has no scale.
        """
        self._check_built("generate")
        n = integer(n, "n", "generate")
        temperature = positive_number(temperature, "temperature", "generate")
        statistics = checked_statistics(statistics, "generate")
        key = self._seed(seed)
        y = self._condition(self._drawn_conditions(y, n, key), n)
        with self._functions.compiler.lock:
            prior = tempered(self.prior_distribution(y), temperature)
        z = prior.sample(() if prior.batch_shape.rank else n, seed=key)
        return self._decoded(z, y, statistics, key, "generate")

    def interpolate(
        self,
        start: Any,
        end: Any,
        num_steps: int = 10,
        *,
        y: Any = None,
        statistics: Any = None,
    ) -> Any:
        r"""Examples on straight lines between the latents of two inputs.

        .. math::

            z(t) = (1 - t) \, z(0) + t \, z(1)

        Latents on a sphere follow great circles, with a the angle between the two:

        .. math::

            z(t) = \frac{\sin((1 - t) a) \, z(0) + \sin(t a) \, z(1)}{\sin a}

        Args:
            start: Inputs of shape `(n, ...)`.
            end: Inputs of the same shape.
            num_steps: Number of points, both ends included.
            y: Conditions of shape `(n, ...)`, if the model is conditional.
            statistics: As in `predict`.

        Returns:
            An array of shape `(n, num_steps, *event_shape)`.

        Raises:
            ValueError: If an argument is invalid, or `start` and `end` have different
                lengths.
        """
        steps = integer(num_steps, "num_steps", "interpolate", minimum=2)
        statistics = checked_statistics(statistics, "interpolate")
        start, y = self._of_dataset(start, y, "interpolate")
        end, _ = self._of_dataset(end, None, "interpolate")
        y = self.conditions_of(start, y, "interpolate")
        q = self.encode(start, y)
        ends = center(q), center(self.encode(end, y))
        if ends[0].shape != ends[1].shape:
            raise ValueError(
                "`interpolate` expects the same number of examples in `start` and "
                f"`end`. Received: {len(ends[0])} and {len(ends[1])}. Repeat some, or "
                "leave some out."
            )
        z = path(*ends, steps, has_direction(q))
        return self._grid(z, 2, y, statistics, "interpolate")

    def traverse(
        self,
        x: Any = None,
        dimensions: Any = None,
        values: Any = None,
        *,
        y: Any = None,
        statistics: Any = None,
    ) -> Any:
        """Examples at latents with one coordinate varied at a time.

        On the sphere, the other coordinates are rescaled to keep length 1.

        Args:
            x: Inputs of shape `(n, ...)` to start from; by default the prior's center.
            dimensions: The coordinates to vary; by default all.
            values: Values of a coordinate; by default 7 from -3 to 3, or from -0.9 to
                0.9 on the sphere.
            y: Conditions of shape `(n, ...)`, if the model is conditional.
            statistics: As in `predict`.

        Returns:
            An array of shape `(n, len(dimensions), len(values), *event_shape)`.

        Raises:
            ValueError: If the latents are not vectors, a dimension does not exist, or
                another argument is invalid.
        """
        self._check_built("traverse")
        statistics = checked_statistics(statistics, "traverse")
        if x is None:
            with self._functions.compiler.lock:
                distribution = self.prior_distribution(self._condition(y))
        else:
            x, y = self._of_dataset(x, y, "traverse")
            y = self.conditions_of(x, y, "traverse")
            distribution = self.encode(x, y)
        sphere = on_the_sphere(distribution)
        z = center(distribution)
        z = z[None] if z.shape.rank == distribution.event_shape.rank else z
        if x is None and y is not None:
            rows = data.leaves_of(self._condition(y))[0].shape[0]
            z = tf.repeat(z, rows, axis=0) if len(z) == 1 else z
        moved = _moved(z, dimensions, values, sphere)
        return self._grid(moved, 3, y, statistics, "traverse")

    def _of_dataset(self, x: Any, y: Any, caller: str) -> tuple[Any, Any]:
        """Reads a dataset, once; other x and y are returned as they are."""
        if not isinstance(x, tf.data.Dataset):
            return x, y
        x, y = as_arrays(x, y, caller)
        return x, y if self.conditional else None

    def _inputs(self, x: Any, y: Any, caller: str) -> Any:
        """Reads and checks the inputs of `call`: x, or the pair of x and y."""
        if self.conditional and y is None and isinstance(x, list | tuple):
            x, y = self._split(x)
        x, y = data.read((x, y), caller)
        rows = data.check_rows(x, caller)
        check_inputs(x, y, self.encoder, self.conditional, with_mask=self.missing_input)
        check_finite(x, "x", self.missing, self.parts_with_gaps(x))
        y = self._condition(y, rows)
        return (x, y) if self.conditional else x

    def _condition(self, y: Any, rows: int | None = None) -> Any:
        if self.conditional == (y is not None):
            if y is not None:
                (y,) = data.read((y,), "VAE")
                check_finite(y, "y")
                y = data.first_rows(y, data.leaves_of(y)[0].shape[0])
            check_conditions(y, rows)
            return y
        expected, advice = (
            ("the condition y", "Give `y=`, one row for each example.")
            if self.conditional
            else ("no y", "Leave it out, or make the model with conditional=True.")
        )
        raise ValueError(
            f"This `VAE`, with conditional={self.conditional}, expects {expected}. "
            f"Received: y={'None' if y is None else type(y).__name__}. {advice}"
        )

    def conditions_of(self, x: Any, y: Any, caller: str) -> Any:
        """The conditions with which `encode` encodes examples.

        Args:
            x: As in `encode`.
            y: As there.
            caller: Name of the caller, for messages.

        Returns:
            y; with a classifier the most probable classes in the place of unknown ones.
        """
        return y

    def _drawn_conditions(self, y: Any, n: int, seed: tf.Tensor) -> Any:
        """The conditions of new examples."""
        return y

    def _seed(self, seed: int | None) -> tf.Tensor:
        seed = optional_seed(seed, "VAE", largest=2**31 - 1)
        return self._seeds.next() if seed is None else tf.constant([seed, 0], tf.int32)

    def _check_built(self, method: str) -> None:
        if not self.built:
            raise ValueError(
                f"`VAE.{method}` expects a model that has weights. Received: networks "
                "without `keras.Input` that have not been called. Call `fit`, or the "
                "model on a batch, first."
            )

    def _grid(self, z: tf.Tensor, axes: int, y: Any, names: Any, caller: str) -> Any:
        """Decodes latents with several leading axes."""
        lead = tuple(z.shape[:axes])
        repeats = int(np.prod(lead[1:]))
        y = data.mapped(lambda part: tf.repeat(part, repeats, 0), self._condition(y))
        flat = tf.reshape(z, [-1, *z.shape[axes:]])
        return keras.tree.map_structure(
            lambda array: array.reshape(*lead, *array.shape[1:]),
            self._decoded(flat, y, names, None, caller),
        )

    def _decoded(self, z: Any, y: Any, names: Any, seed: Any, caller: str) -> Any:
        """Statistics of p(x | z) as arrays, decoded in pieces."""
        if seed is None:
            new = needs_seed(names) or layers_with_random_weights(self.decoder)
            seed = self._seed(None) if new else tf.zeros([2], tf.int32)

        def decode(z: Any, y: Any, key: Any, seed: Any) -> Any:
            with weights_drawn_with(seed):  # One draw for all pieces.
                return statistics_of(self.likelihood(z, y), names, key)

        # XLA gains little on one network, and generates random bits slowly.
        function = self._functions.compiled(("decode", names), decode, f"`{caller}`")
        asked = self._functions.compiler.jit_compile is True
        found = []
        most = min(rows_at_once(self.decoder, ROWS), len(z))
        for i, (count, *piece) in enumerate(pieces_of(z, y, most)):
            given = *piece, fold_in(seed, i + 1), seed
            part = function(*given, warmup_args=given if asked else None)
            rows = slice(count)
            found.append(data.mapped(lambda t, rows=rows: t.numpy()[rows], part))
        return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *found)


def _moved(z: tf.Tensor, dimensions: Any, values: Any, sphere: bool) -> tf.Tensor:
    """Copies of z with one coordinate set, of shape `(n, dimensions, values, d)`."""
    if z.shape.rank != 2:
        raise ValueError(
            "`traverse` expects latents that are vectors. Received: latents of shape "
            f"{tuple(z.shape[1:])}. Change entries of `encode(x).mean()` yourself, and "
            "`decode` the result."
        )
    size = z.shape[1]
    chosen = integers(range(size) if dimensions is None else dimensions)
    if not chosen or min(chosen) < 0 or max(chosen) >= size:
        raise ValueError(
            f"`traverse` expects dimensions from 0 to {size - 1}. Received: "
            f"dimensions={dimensions!r}. Leave it out for all of them."
        )
    given = traversal_values(sphere) if values is None else values
    several = hasattr(given, "__array__") or isinstance(given, Sequence)
    values = np.asarray(given if several else [])
    valid = values.ndim == 1 and values.size and values.dtype.kind in "iuf"
    if not valid or not np.abs(values).max() <= (1 if sphere else np.finfo("f4").max):
        raise ValueError(
            "`traverse` expects `values` to be a list of finite numbers"
            f"{', from -1 to 1 on the sphere' * sphere}. Received: values={given!r}. "
            "Leave it out for 7 default values."
        )
    axes = tf.one_hot(chosen, size, dtype=z.dtype)[:, None]
    rest = z[:, None, None] * (1 - axes)
    to = tf.constant(values, z.dtype)[:, None]
    if sphere:
        rest = tf.math.l2_normalize(rest, axis=-1) * tf.sqrt(1 - to**2)
    return rest + to * axes


def traversal_values(sphere: bool) -> np.ndarray:
    """The default values of `traverse`.

    Args:
        sphere: Whether the latents lie on the unit sphere.

    Returns:
        Seven numbers.

    Example:
        >>> traversal_values(sphere=False)
        array([-3., -2., -1.,  0.,  1.,  2.,  3.])
    """
    bound = 0.9 if sphere else 3.0
    return np.linspace(-bound, bound, 7)
