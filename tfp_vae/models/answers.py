"""What a trained VAE is asked for."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfp_vae.models.inputs as data
from tfp_vae.checks import integer, positive_number
from tfp_vae.distribution_tensor import unwrap
from tfp_vae.latents import center, has_direction, on_the_sphere, path, tempered
from tfp_vae.models.compiled import Functions, in_pieces, loop
from tfp_vae.models.network_checks import check_inputs, check_rows
from tfp_vae.models.passes import Passes, parted, rows_at_once
from tfp_vae.models.progress import LongBar
from tfp_vae.statistics import checked_statistics, needs_seed, statistics_of

# Rows that go through the networks together, draws between two looks at the clock, and
# the bytes of the arrays that one call of `encode`'s program is given.
_ROWS = 1024
_WORK = 2**18
# So many draws, half a minute of a dense model on two CPU cores, pay for the second and
# a half that it takes to compile a program of so many rounds side by side.
_LONG_WORK, _TOGETHER = 2**23, 4
_HANDED_BYTES = 2**25


class Held:
    """What a model is made of, and Keras and TensorFlow shall not track.

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


class Answers(Passes):
    """The methods of `tv.VAE` that answer questions; its training is in `vae`."""

    # What a Keras model has, for these methods to use.
    __call__: Any
    built: Any
    jit_compile: Any
    predict_function: Any
    _functions: Functions
    _predicting: Any
    _seeds: Any
    _statistics: Any

    def encode(self, x: Any, y: Any = None) -> Any:
        """The posterior q(z | x).

        Args:
            x: Inputs of shape `(n, ...)`, or a `tf.data.Dataset`.
            y: Conditions, where the model is conditional.

        Returns:
            A `tfd.Distribution` of batch shape `(n,)`.
        """
        if isinstance(x, tf.data.Dataset):
            x, y = data.as_arrays(x, y)
            y = y if self.conditional else None
        return self._encoded(self._inputs(x, y))

    def _encoded(self, inputs: Any) -> Any:
        """The posterior; of many rows its parameters are computed in pieces."""
        count = len(keras.tree.flatten(inputs)[0])
        parts = self._functions.once("encoder", lambda: parted(self.encoder))
        rows = rows_at_once(self.encoder, _ROWS)
        if parts is None or count <= rows:
            return self.posterior(inputs)
        body, layer = parts
        inputs = data.mapped(
            lambda part: part if tf.is_tensor(part) else np.asarray(part), inputs
        )
        spec = data.mapped(data.any_length, inputs)

        def piece(given: Any) -> tf.Tensor:
            parameters = body(self._given(given), training=False)
            return tf.cast(parameters, layer.compute_dtype)

        def program() -> Any:
            # Of two rows: `posterior` looks at what the networks make of such inputs.
            self.posterior(data.mapped(lambda part: part[:2], inputs))
            return in_pieces(piece, rows, layer.compute_dtype, spec)

        encode = self._functions.once(("encode", str(spec)), program)
        # What is large goes in parts to where the model computes.
        most = rows * max(1, _HANDED_BYTES // max(data.bytes_of(inputs, rows), 1))
        found = [
            encode(
                data.mapped(
                    lambda part, i=i: tf.convert_to_tensor(part[i : i + most]), inputs
                )
            )
            for i in range(0, count, most)
        ]
        return layer.make_distribution(tf.concat(found, axis=0))

    def decode(self, z: Any, y: Any = None) -> Any:
        """The likelihood p(x | z).

        Args:
            z: Latents of shape `(n, *event_shape)`, or a distribution, of which the
                mean is taken.
            y: Conditions, where the model is conditional.

        Returns:
            A `tfd.Distribution` of batch shape `(n,)`.
        """
        self._check_built("decode")
        z = center(z) if hasattr(z, "log_prob") else tf.convert_to_tensor(z)
        return unwrap(self.likelihood(z, self._condition(y, len(z))))

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: Any = "auto",
        steps: int | None = None,
        callbacks: Any = None,
        statistics: Any = None,
        y: Any = None,
    ) -> Any:
        """Statistics of p(x | z) at the posterior's mean z, without noise.

        Args:
            x: As in `keras.Model.predict`.
            batch_size: As there.
            verbose: As there.
            steps: As there.
            callbacks: As there.
            statistics: `"mean"`, `"stddev"`, `"sample"`, `"params"`, another name in
                `STATISTICS`, or a list of several; by default the mean, of a law
                without one the mode. `"sample"` draws x, anew at each call.
            y: Conditions, where the model is conditional and x are arrays.

        Returns:
            An array of shape `(n, *event_shape)`; a dictionary of them by name where
            `statistics` is a list; for `"params"` a dictionary of the law's parameters,
            of a mixture one within another.

        Raises:
            ValueError: If a statistic is unknown.
        """
        statistics = checked_statistics(statistics, "predict")
        if y is not None and not data.is_arrays(x):
            raise ValueError(
                "`predict` expects y beside arrays x. Received: y, and x of type "
                f"{type(x).__name__}. Let the pipeline yield pairs (x, y)."
            )
        inputs = self._inputs(x, y) if data.is_arrays(x) else x
        # A compiled function for each choice; `predict_on_batch` keeps the default.
        default = self.predict_function
        self._statistics = statistics
        if statistics is not None:
            self.predict_function = self._functions.predict.get(statistics)
        try:
            with self._predicting():
                return keras.Model.predict(
                    self,
                    inputs,
                    batch_size=batch_size,
                    verbose=verbose,
                    steps=steps,
                    callbacks=callbacks,
                )
        finally:
            self._statistics = None
            if statistics is not None:
                self._functions.predict[statistics] = self.predict_function
                self.predict_function = default

    def predict_step(self, batch: Any) -> Any:
        """The statistics of a batch that `predict` was asked for."""
        x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        p = self((x, y) if self.conditional and y is not None else x, training=False)
        # Deterministic answers leave the draws of a later training as they are.
        seed = self._seeds.next() if needs_seed(self._statistics) else None
        return statistics_of(p, self._statistics, seed)

    def reconstruct(self, x: Any, y: Any = None, batch_size: int | None = None) -> Any:
        """The mean of p(x | z) at the posterior's mean z.

        Args:
            x: Inputs of shape `(n, ...)`.
            y: Conditions, where the model is conditional.
            batch_size: How many at once.

        Returns:
            An array of shape `(n, *event_shape)`.
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
            n: How many.
            y: Conditions of shape `(n, ...)`, where the model is conditional.
            seed: Integer for the same examples at each call.
            temperature: What multiplies the scale of the prior.
            statistics: As in `predict`; `"sample"` also draws x.

        Returns:
            An array of shape `(n, *event_shape)`, or as in `predict`.

        Raises:
            ValueError: If the model has no weights yet, or the prior no scale for a
                temperature other than 1.
        """
        self._check_built("generate")
        n = integer(n, "n", "generate")
        temperature = positive_number(temperature, "temperature", "generate")
        y, key = self._condition(y, n), self._seed(seed)
        prior = tempered(self.prior_distribution(y), temperature)
        z = prior.sample(() if prior.batch_shape.rank else n, seed=key)
        return self._decoded(z, y, statistics, key, "generate")

    def interpolate(
        self,
        start: Any,
        end: Any,
        num_steps: int = 10,
        y: Any = None,
        statistics: Any = None,
    ) -> Any:
        """Examples on the way from one to the other, straight in the space of latents.

        Along great circles where the latents lie on a sphere; see `latents.path`.

        Args:
            start: Inputs of shape `(n, ...)`.
            end: Inputs of the same shape.
            num_steps: Number of points, both ends included.
            y: Conditions of shape `(n, ...)`, where the model is conditional.
            statistics: As in `predict`.

        Returns:
            An array of shape `(n, num_steps, *event_shape)`.
        """
        steps = integer(num_steps, "num_steps", "interpolate", minimum=2)
        q = self.encode(start, y)
        ends = center(q), center(self.encode(end, y))
        if ends[0].shape != ends[1].shape:
            raise ValueError(
                "`interpolate` expects as many examples to begin at as to end at. "
                f"Received: {len(ends[0])} and {len(ends[1])}. Repeat some, or leave "
                "some out."
            )
        z = path(*ends, steps, has_direction(q))
        return self._grid(z, 2, y, statistics, "interpolate")

    def traverse(
        self,
        x: Any = None,
        dimensions: Any = None,
        values: Any = None,
        y: Any = None,
        statistics: Any = None,
    ) -> Any:
        """Examples at latents of which one coordinate is moved at a time.

        On the sphere the other coordinates shrink or grow with it to length 1.

        Args:
            x: Inputs of shape `(n, ...)` to begin at; by default the prior's center.
            dimensions: Which coordinates; by default all.
            values: What they are set to; by default 7 from -3 to 3, or from -0.9 to 0.9
                on the sphere.
            y: Conditions of shape `(n, ...)`, where the model is conditional.
            statistics: As in `predict`.

        Returns:
            An array of shape `(n, len(dimensions), len(values), *event_shape)`.

        Raises:
            ValueError: If the latents are no vectors, or a dimension does not exist.
        """
        self._check_built("traverse")
        law = self.prior_distribution(self._condition(y)) if x is None else None
        law = self.encode(x, y) if law is None else law
        sphere = on_the_sphere(law)
        z = center(law)
        z = z[None] if z.shape.rank == law.event_shape.rank else z
        moved = _moved(z, dimensions, values, sphere)
        return self._grid(moved, 3, y, statistics, "traverse")

    def log_prob(
        self,
        x: Any,
        num_samples: int = 500,
        y: Any = None,
        batch_size: int | None = None,
        seed: int | None = None,
        verbose: Any = "auto",
    ) -> np.ndarray:
        """Log p(x), estimated by importance sampling from the posterior.

            log p(x) ~ log(1/K sum_k p(x | z[k]) p(z[k]) / q(z[k] | x))

        with z[k] ~ q(z | x): a lower bound in expectation, that rises to log p(x) in K.

        Args:
            x: Arrays of shape `(n, ...)`, or a `tf.data.Dataset`, which is joined.
            num_samples: The number K of draws for each example.
            y: Conditions, where the model is conditional; else what the decoder
                describes where that is not x, as in `fit`.
            batch_size: How many latents are decoded at once; bounds the memory, to
                that of four such blocks where XLA computes them side by side.
            seed: Integer for the same draws at each call.
            verbose: 0 for no progress bar, 1 for one, `"auto"` for one on long runs.

        Returns:
            An array of shape `(n,)`, nats per example.

        Raises:
            ValueError: If `num_samples` is below 1, there are no examples, or the
                decoder cannot describe them.
        """
        num_samples = integer(num_samples, "num_samples", "log_prob")
        merge = np.logaddexp
        total = self._estimates(
            self.log_sum, merge, x, y, num_samples, batch_size, seed, verbose
        )
        return total - np.log(num_samples).astype(total.dtype)

    def elbo(
        self,
        x: Any,
        num_samples: int = 1,
        y: Any = None,
        batch_size: int | None = None,
        seed: int | None = None,
        verbose: Any = "auto",
    ) -> np.ndarray:
        """E_q[log p(x | z)] - KL(q(z | x) || p(z)), the mean over draws of z.

        Args:
            x: Arrays of shape `(n, ...)`, or a `tf.data.Dataset`, which is joined.
            num_samples: The number of draws for each example.
            y: Conditions, where the model is conditional; else what the decoder
                describes where that is not x, as in `fit`.
            batch_size: As in `log_prob`.
            seed: Integer for the same draws at each call.
            verbose: 0 for no progress bar, 1 for one, `"auto"` for one on long runs.

        Returns:
            An array of shape `(n,)`, nats per example.

        Raises:
            ValueError: If `num_samples` is below 1, there are no examples, or the
                decoder cannot describe them.
        """
        num_samples = integer(num_samples, "num_samples", "elbo")
        total = self._estimates(
            self._elbo_sum, np.add, x, y, num_samples, batch_size, seed, verbose
        )
        return total / num_samples

    def _estimates(
        self,
        fn: Any,
        merge: Any,
        x: Any,
        y: Any,
        num_samples: int,
        batch_size: int | None,
        seed: int | None,
        verbose: Any,
    ) -> np.ndarray:
        """Sums over draws, computed in pieces of examples and of draws."""
        owner = "elbo" if fn == self._elbo_sum else "log_prob"
        self._check_built(owner)
        x, y = data.as_arrays(x, y)
        self._inputs(x, y if self.conditional else None)
        inputs, target, _ = self._packed((x, y))
        if len(target) != len(keras.tree.flatten(x)[0]):
            raise ValueError(
                f"`{owner}` expects y to have a row for each x. Received: {len(target)}"
                f" rows for {len(keras.tree.flatten(x)[0])}. Leave y out to describe x."
            )
        data.check_observed(target, self.decoder, self.missing)
        if batch_size is None:
            batch_size = rows_at_once(self.decoder, _ROWS)
        rows = integer(batch_size, "batch_size", owner)
        # Powers of two, so that data of many lengths need few traces.
        count = len(keras.tree.flatten(x)[0])
        piece = min(rows, 1 << (count - 1).bit_length())
        draws = max(1, min(rows // piece, num_samples)) if fn == self.log_sum else 1
        block = max(draws, _WORK // piece)
        # The last turn is not full, so there must be many.
        many = min(block, num_samples) // draws >= 8 * _TOGETHER
        is_long = many and count * num_samples >= _LONG_WORK
        function = self._sums(fn, owner, draws)
        starts = range(0, num_samples, block)
        pieces = -(-count // piece)
        bar = LongBar(pieces * len(starts), verbose)
        base, results = self._seed(seed), []
        for i, (count, *parts) in enumerate(data.chunks(inputs, target, piece)):
            total: Any = None
            for start in starts:
                now = tf.constant(min(block, num_samples - start))
                key = tf.random.experimental.stateless_fold_in(
                    tf.random.experimental.stateless_fold_in(base, i), start
                )
                given = *parts, key, now
                if is_long and function.overlaps(_TOGETHER, *given):
                    function = self._sums(fn, owner, draws, _TOGETHER)
                is_long = False
                part = function(*given).numpy()
                total = part if total is None else merge(total, part)
                bar.step()
            results.append(total[:count])
        return np.concatenate(results)

    def _sums(self, fn: Any, owner: str, draws: int, together: int = 1) -> Any:
        """A sum over draws, compiled."""
        return self._functions.compiled(
            (fn.__name__, draws, together),
            lambda *given: fn(*given, draws=draws, together=together),
            f"`{owner}`",
        )

    def log_sum(
        self,
        inputs: Any,
        target: Any,
        seed: Any,
        num_samples: Any,
        draws: int = 1,
        together: int = 1,
    ) -> tf.Tensor:
        """Log sum_k w[k] over draws, as a loop in the graph.

        Args:
            inputs: x, or the pair `(x, y)` where conditional.
            target: What the decoder describes, of shape `(n, ...)`.
            seed: Tensor of shape `(2,)`.
            num_samples: Scalar, the number of draws.
            draws: How many of them go through the decoder at once.
            together: How many times that makes a turn; see `loop`.

        Returns:
            A tensor of shape `(n,)`.
        """

        def add(total: tf.Tensor, terms: Any, number: tf.Tensor) -> tf.Tensor:
            weights = tf.cast(terms.log_weights(), total.dtype)
            surplus = tf.range(draws)[:, None] >= number
            weights = tf.where(surplus, tf.constant(-np.inf, weights.dtype), weights)
            return tf.reduce_logsumexp(tf.concat([total[None], weights], 0), axis=0)

        return self._over_draws(
            inputs, target, seed, num_samples, draws, together, add, -np.inf
        )

    def _elbo_sum(
        self,
        inputs: Any,
        target: Any,
        seed: Any,
        num_samples: Any,
        draws: int,
        together: int,
    ) -> tf.Tensor:
        """The sum of one-draw ELBOs over `num_samples` draws, one at a time."""

        def add(total: tf.Tensor, terms: Any, number: tf.Tensor) -> tf.Tensor:
            bound = terms.log_likelihood[0] - tf.cast(
                terms.kl, terms.log_likelihood.dtype
            )
            bound = tf.where(number > 0, bound, tf.zeros_like(bound))
            return total + tf.cast(bound, total.dtype)

        return self._over_draws(
            inputs, target, seed, num_samples, draws, together, add, 0.0
        )

    def _over_draws(
        self,
        inputs: Any,
        target: Any,
        seed: Any,
        num_samples: Any,
        draws: int,
        together: int,
        add: Callable[..., tf.Tensor],
        start: float,
    ) -> tf.Tensor:
        """Encodes once, then loops over draws in one graph."""
        q, (_, y) = self.posterior(inputs), self._split(inputs)

        def body(i: tf.Tensor, total: tf.Tensor) -> tf.Tensor:
            key = tf.random.experimental.stateless_fold_in(seed, i)
            outcome = self.through(q, y, draws, key)
            return add(total, self.terms(outcome, target), num_samples - i * draws)

        count = (num_samples + draws - 1) // draws
        total = tf.fill([tf.shape(target)[0]], tf.constant(start, q.dtype))
        return loop(body, total, count, together, parallel_iterations=10)

    def _inputs(self, x: Any, y: Any) -> Any:
        """What `call` takes: x, or the pair of x and y."""
        if self.conditional and y is None and isinstance(x, list | tuple):
            x, y = self._split(x)
        data.check_not_empty(x)
        check_inputs(x, y, self.encoder)
        data.check_finite(x, self.missing)
        rows = len(keras.tree.flatten(x)[0])
        y = self._condition(y, rows)
        return (x, y) if self.conditional else x

    def _condition(self, y: Any, rows: int | None = None) -> Any:
        if self.conditional == (y is not None):
            y = data.mapped(tf.convert_to_tensor, y)
            check_rows(y, rows)
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

    def _seed(self, seed: int | None) -> tf.Tensor:
        return self._seeds.next() if seed is None else tf.constant([seed, 0], tf.int32)

    def _check_built(self, method: str) -> None:
        if not self.built:
            raise ValueError(
                f"`VAE.{method}` expects a model that has weights. Received: one that "
                "has seen no data, whose networks begin without `keras.Input`. Call "
                "`fit`, or the model on a batch, before."
            )

    def _grid(self, z: tf.Tensor, axes: int, y: Any, names: Any, owner: str) -> Any:
        """Decodes latents with several axes in front of the event."""
        lead = tuple(z.shape[:axes])
        repeats = int(np.prod(lead[1:]))
        y = data.mapped(lambda part: tf.repeat(part, repeats, 0), self._condition(y))
        flat = tf.reshape(z, [-1, *z.shape[axes:]])
        return keras.tree.map_structure(
            lambda array: array.reshape(*lead, *array.shape[1:]),
            self._decoded(flat, y, names, None, owner),
        )

    def _decoded(self, z: Any, y: Any, names: Any, seed: Any, owner: str) -> Any:
        """Statistics of p(x | z) as arrays, decoded in pieces."""
        names = checked_statistics(names, owner)
        if seed is None:
            seed = self._seeds.next() if needs_seed(names) else tf.zeros([2], tf.int32)

        def decode(z: Any, y: Any, seed: Any) -> Any:
            return statistics_of(self.likelihood(z, y), names, seed)

        # On a CPU XLA gains little on one network, and is slow at the bits of draws.
        function = self._functions.compiled(
            ("decode", names), decode, f"`{owner}`", xla_on_cpu=False
        )
        found = []
        most = min(rows_at_once(self.decoder, _ROWS), len(z))
        for i, (count, *piece) in enumerate(data.chunks(z, y, most)):
            key = tf.random.experimental.stateless_fold_in(seed, i + 1)
            part = function(*piece, key)
            rows = slice(count)
            found.append(data.mapped(lambda t, rows=rows: t.numpy()[rows], part))
        return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *found)


def _moved(z: tf.Tensor, dimensions: Any, values: Any, sphere: bool) -> tf.Tensor:
    """Copies of z with one coordinate set, of shape `(n, dimensions, values, d)`."""
    if z.shape.rank != 2:
        raise ValueError(
            "`traverse` expects latents that are vectors. Received: latents of shape "
            f"{tuple(z.shape[1:])}. Move what you want of `encode(x).mean()` yourself, "
            "and `decode` it."
        )
    size = z.shape[1]
    chosen = range(size) if dimensions is None else dimensions
    chosen = [integer(i, "dimensions", "traverse", minimum=0) for i in chosen]
    if not chosen or max(chosen) >= size:
        raise ValueError(
            f"`traverse` expects dimensions from 0 to {size - 1}. Received: "
            f"dimensions={dimensions!r}. Leave it out for all of them."
        )
    values = np.asarray(traversal_values(sphere) if values is None else values)
    if values.ndim != 1 or not values.size or (sphere and np.abs(values).max() > 1):
        raise ValueError(
            f"`traverse` expects a list of values{', from -1 to 1 here' * sphere}. "
            f"Received: values={values!r}. Leave it out for 7 of them."
        )
    axes = tf.one_hot(chosen, size, dtype=z.dtype)[:, None]
    rest = z[:, None, None] * (1 - axes)
    to = tf.constant(values, z.dtype)[:, None]
    if sphere:
        rest = tf.math.l2_normalize(rest, axis=-1) * tf.sqrt(1 - to**2)
    return rest + to * axes


def traversal_values(sphere: bool) -> np.ndarray:
    """What `traverse` sets coordinates to where nothing is said.

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
