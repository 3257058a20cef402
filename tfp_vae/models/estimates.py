"""Estimates of log p(x) and of the bound, over many draws."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfp_vae.checks import integer
from tfp_vae.draws import fold_in
from tfp_vae.engine import data
from tfp_vae.engine.compiler import XLA
from tfp_vae.engine.progress import LongBar
from tfp_vae.models.bound import Draws
from tfp_vae.models.data_checks import as_arrays, check_gaps, check_targets
from tfp_vae.models.inference import Inference
from tfp_vae.models.missing import checked_given, marked
from tfp_vae.models.pieces import ROWS, pieces_of, rows_at_once
from tfp_vae.objectives import Terms
from tfp_vae.weights.forward_pass import layers_with_random_weights, weights_drawn_with

# Latents decoded in one call, after which the progress bar is updated.
_WORK = 2**18


class DrawChunk(NamedTuple):
    """k draws of the latents of each example of a batch.

    Args:
        draws: The result of `draw_and_decode`.
        terms: The result of `terms`.
        number: How many draws are still wanted. In the last chunk it may be below k;
            the draws from there on are ignored.

    Example:
        >>> DrawChunk._fields
        ('draws', 'terms', 'number')
    """

    draws: Draws
    terms: Terms
    number: tf.Tensor

    def log_weights(self, dtype: tf.DType) -> tf.Tensor:
        """Log-weights of the draws, `-inf` for those that do not count.

        Args:
            dtype: Dtype of the result.

        Returns:
            A tensor of shape `(k, n)`.
        """
        weights = tf.cast(self.terms.log_weights(), dtype)
        surplus = tf.range(tf.shape(weights)[0])[:, None] >= self.number
        return tf.where(surplus, tf.constant(-np.inf, dtype), weights)


class Estimates(Inference):
    """The methods of `tv.VAE` that estimate log p(x) and its bound."""

    compute_dtype: str

    @property
    def answer_dtype(self) -> str:
        """The dtype of log-probabilities: float64 if the model computes in it."""
        return "float64" if self.compute_dtype == "float64" else "float32"

    def log_prob(
        self,
        x: Any,
        num_samples: int = 500,
        *,
        y: Any = None,
        given: Any = None,
        batch_size: int | None = None,
        seed: int | None = None,
        verbose: Any = "auto",
    ) -> np.ndarray:
        r"""Estimates log p(x).

        .. math::

            \log p(x) \approx
            \log \frac{1}{K} \sum_{k=1}^K \frac{p(x \mid z_k) \, p(z_k)}{q(z_k \mid x)},
            \quad z_k \sim q(z \mid x)

        by importance sampling from the posterior. Its expectation is a lower bound of
        log p(x), and approaches it as K grows. A decoder with random weights draws them
        anew for each k, so that they are averaged inside the logarithm.

        With `given` it is log p(x[rest] | x[given]) = log p(x) - log p(x[given]), the
        difference of two such estimates: no bound, but with an error that vanishes as K
        grows. Missing entries are neither given nor in the rest; known labels are
        given.

        Args:
            x: Arrays of shape `(n, ...)`, or a `tf.data.Dataset`, read as a whole.
            num_samples: The number K of draws for each example.
            y: Conditions, if the model is conditional; labels, if it has a classifier
                (an unknown label, -1, is summed out); else the decoder's targets, if
                they are not x, as in `fit`.
            given: Booleans, True for entries that are given, in the shape of x or of
                one example. The model must have `missing`, so that its encoder knows
                what to do without the rest.
            batch_size: Number of latents decoded at once; limits the memory.
            seed: Integer for the same draws at each call.
            verbose: 0 for no progress bar, 1 for one, `"auto"` for one on long runs.

        Returns:
            An array of shape `(n,)`, nats per example.

        Raises:
            ValueError: If an argument is invalid, such as a `num_samples` below 1,
                there are no examples, the decoder cannot describe them, or `given`
                leaves nothing of an example.
        """
        num_samples = integer(num_samples, "num_samples", "log_prob")
        options = {"batch_size": batch_size, "seed": seed, "verbose": verbose}
        if given is None:
            found = self._log_prob(x, y, num_samples, **options)
        else:
            found = self._log_prob_given(x, y, given, num_samples, **options)
        return found.astype(self.answer_dtype)

    def _log_prob(self, x: Any, y: Any, num_samples: int, **options: Any) -> np.ndarray:
        """Log p(x), in float64."""
        total = self._estimates(
            "log_prob", self.log_sum, np.logaddexp, x, y, num_samples, **options
        )
        return total - np.log(num_samples)

    def _log_prob_given(
        self, x: Any, y: Any, given: Any, num_samples: int, **options: Any
    ) -> np.ndarray:
        """Log p(x) - log p(x[given])."""
        if self.missing is None or self.missing_model is not None:
            found = f"missing={self.missing!r}"
            found += "" if self.missing is None else " and a missing_model"
            raise ValueError(
                "`log_prob` with `given` expects a model with `missing`, trained on "
                f"incomplete examples, and without a missing_model. Received: {found}. "
                "Make the model with `VAE(..., missing='nan')`, leave `missing_model` "
                "out, and train it on examples with missing entries."
            )
        x, y = self._with_own_target(x, y, "log_prob(given=)")
        target = data.as_array(self.target_of(x))
        given = checked_given(given, target, self.missing)
        total = self._log_prob(x, y, num_samples, **options)
        has_any = given.reshape(len(given), -1).any(axis=1)
        total[~has_any] -= self._log_prob_of_nothing(y, len(given))[~has_any]
        some = np.flatnonzero(has_any)
        if len(some):
            kept: Any = marked(target, ~given, self.missing)
            kept = kept if self.target is None else {**x, self.target: kept}
            x, y = data.mapped(lambda part: data.rows_of(part, some), (kept, y))
            total[some] -= self._log_prob(x, y, num_samples, **options)
        return total

    def _log_prob_of_nothing(self, y: Any, rows: int) -> np.ndarray:
        """What `_log_prob` would find for examples without any entry."""
        return np.zeros(rows)

    def _with_own_target(self, x: Any, y: Any, caller: str) -> tuple[Any, Any]:
        """Reads x, and y if it is a condition; no other targets than x."""
        x, y = as_arrays(x, y, caller)
        if y is not None and not self.conditional:
            raise ValueError(
                f"`{caller}` expects x to be the target. Received: y. Leave it out, or "
                "make the model with conditional=True."
            )
        return x, y

    def elbo(
        self,
        x: Any,
        num_samples: int = 1,
        *,
        y: Any = None,
        batch_size: int | None = None,
        seed: int | None = None,
        verbose: Any = "auto",
    ) -> np.ndarray:
        r"""The evidence lower bound on log p(x), its mean over draws of z.

        .. math::

            \frac{1}{K} \sum_{k=1}^K \log p(x \mid z_k)
            - \mathrm{KL}(q(z \mid x) \,\|\, p(z)), \quad z_k \sim q(z \mid x)

        The KL is that of the objective: exact, or the mean over the draws.

        Args:
            x: Arrays of shape `(n, ...)`, or a `tf.data.Dataset`, read as a whole.
            num_samples: The number K of draws for each example.
            y: Conditions, if the model is conditional; labels, if it has a classifier
                (an unknown label, -1, is summed out); else the decoder's targets, if
                they are not x, as in `fit`.
            batch_size: As in `log_prob`.
            seed: Integer for the same draws at each call.
            verbose: 0 for no progress bar, 1 for one, `"auto"` for one on long runs.

        Returns:
            An array of shape `(n,)`, nats per example.

        Raises:
            ValueError: If an argument is invalid, such as a `num_samples` below 1,
                there are no examples, or the decoder cannot describe them.
        """
        num_samples = integer(num_samples, "num_samples", "elbo")
        options = {"batch_size": batch_size, "seed": seed, "verbose": verbose}
        total = self._estimates(
            "elbo", self._elbo_sum, np.add, x, y, num_samples, **options
        )
        return (total / num_samples).astype(self.answer_dtype)

    def _estimates(
        self,
        caller: str,
        fn: Callable[..., Any],
        merge: Callable[..., Any],
        x: Any,
        y: Any,
        num_samples: int,
        *,
        batch_size: int | None,
        seed: int | None,
        verbose: Any,
        key: Any = None,
    ) -> Any:
        """Estimates over draws, computed in pieces of examples and of draws.

        Args:
            caller: Name of the method, for messages.
            fn: Function like `log_sum`, which computes arrays with one row for each
                example.
            merge: Function that joins what `fn` computed for two parts of the draws.
            x: As in `log_prob`.
            y: As there.
            num_samples: As there.
            batch_size: As there.
            seed: As there.
            verbose: As there.
            key: What distinguishes `fn` from others of the same caller.

        Returns:
            What `fn` returns, for all examples and draws.
        """
        self._check_built(caller)
        x, y = as_arrays(x, y, caller)
        self._inputs(x, y if self.conditional else None, caller)
        inputs, target, _ = self._packed((x, y))
        count = data.leaves_of(x)[0].shape[0]
        array = hasattr(target, "shape")
        if not array or target.shape[0] != count:
            found = f"{target.shape[0]} rows" if array else type(target).__name__
            raise ValueError(
                f"`{caller}` expects y to have a row for each x. Received: {found} for "
                f"{count}. Leave y out if x is the target."
            )
        if self.missing is not None:
            check_gaps(target, self.missing, caller)
        check_targets(target, self.decoder, self.missing)
        if batch_size is None:
            batch_size = rows_at_once(self.decoder, ROWS)
        rows = integer(batch_size, "batch_size", caller)
        # A power of two: data of many lengths need few traces.
        piece = min(rows, 1 << (count - 1).bit_length())
        # Random weights must be new for each draw, and `_elbo_sum` cannot leave surplus
        # draws out of `Terms.kl`, a mean over draws.
        one_at_a_time = layers_with_random_weights(self.decoder) or fn == self._elbo_sum
        draws = 1 if one_at_a_time else max(1, min(rows // piece, num_samples))
        block = max(draws, _WORK // piece)
        function = self._functions.compiled(
            (caller, draws, key), lambda *given: fn(*given, draws=draws), f"`{caller}`"
        )
        starts = range(0, num_samples, block)
        pieces = -(-count // piece)
        # Decoding one piece counts as one step of training. With XLA the draws of some
        # families are others, so that calls with a seed do not depend on earlier ones.
        mode = self._functions.choose_mode(
            (caller, piece),
            pieces * -(-num_samples // draws),
            adds_up=seed is None,
        )
        bar = LongBar(pieces * len(starts), verbose)
        base, results = self._seed(seed), []
        for i, (count, *parts) in enumerate(pieces_of(inputs, target, piece)):
            total: Any = None
            for start in starts:
                now = tf.constant(min(block, num_samples - start))
                own = fold_in(fold_in(base, i), start)
                warmup = (*parts, own, tf.zeros_like(now)) if mode == XLA else None
                part = function(*parts, own, now, warmup_args=warmup)
                part = tf.nest.map_structure(lambda tensor: tensor.numpy(), part)
                total = part if total is None else merge(total, part)
                bar.step()
            at = slice(count)
            results.append(tf.nest.map_structure(lambda a, at=at: a[at], total))
        return tf.nest.map_structure(lambda *parts: np.concatenate(parts), *results)

    def log_sum(
        self,
        inputs: Any,
        target: Any,
        seed: Any,
        num_samples: Any,
        draws: int = 1,
    ) -> tf.Tensor:
        """Computes log sum_k w[k] over draws, in a loop in the graph.

        Args:
            inputs: x, or the pair `(x, y)` if the model is conditional.
            target: Target of the decoder, of shape `(n, ...)`.
            seed: Tensor of shape `(2,)`.
            num_samples: Scalar, the number of draws.
            draws: Number of draws decoded at once.

        Returns:
            A tensor of shape `(n,)`.
        """

        def add(total: tf.Tensor, chunk: DrawChunk) -> tf.Tensor:
            weights = tf.concat([total[None], chunk.log_weights(total.dtype)], axis=0)
            return tf.reduce_logsumexp(weights, axis=0)

        start = functools.partial(constant_rows, -np.inf)
        return self.over_draws(inputs, target, seed, num_samples, draws, add, start)

    def _elbo_sum(
        self,
        inputs: Any,
        target: Any,
        seed: Any,
        num_samples: Any,
        draws: int,
    ) -> tf.Tensor:
        """The sum of one-draw ELBOs over `num_samples` draws, one at a time."""

        def add(total: tf.Tensor, chunk: DrawChunk) -> tf.Tensor:
            terms = chunk.terms
            bound = terms.log_likelihood[0] - tf.cast(
                terms.kl, terms.log_likelihood.dtype
            )
            return total + tf.cast(bound, total.dtype)

        start = functools.partial(constant_rows, 0.0)
        return self.over_draws(inputs, target, seed, num_samples, draws, add, start)

    def over_draws(
        self,
        inputs: Any,
        target: Any,
        seed: Any,
        num_samples: Any,
        draws: int,
        add: Callable[[Any, DrawChunk], Any],
        start: Callable[[Any], Any],
    ) -> Any:
        """Encodes once, then loops over draws in one graph.

        Args:
            inputs: x, or the pair `(x, y)` if the model is conditional.
            target: Target of the decoder, of shape `(n, ...)`.
            seed: Tensor of shape `(2,)`.
            num_samples: Scalar, the number of draws.
            draws: Number of draws decoded at once.
            add: Function from the accumulated value and a `DrawChunk` to the new
                accumulated value.
            start: Function from q(z | x) to the initial value.

        Returns:
            The accumulated value after all draws.
        """
        with weights_drawn_with(seed):
            q, (_, y) = self.posterior(inputs), self._split(inputs)
            first = start(q)

        def body(i: tf.Tensor, found: Any) -> tuple[tf.Tensor, Any]:
            key = fold_in(seed, i)
            with weights_drawn_with(key):
                made = self.draw_and_decode(q, y, draws, key)
                chunk = DrawChunk(
                    made, self.terms(made, target), num_samples - i * draws
                )
                return i + 1, add(found, chunk)

        count = (num_samples + draws - 1) // draws
        variables = (tf.constant(0), first)
        return tf.while_loop(lambda i, found: i < count, body, variables)[1]


def constant_rows(value: float, posterior: Any) -> tf.Tensor:
    """A number for each example.

    Args:
        value: The number.
        posterior: q(z | x), of batch shape `(n,)`.

    Returns:
        A float64 tensor of shape `(n,)`. In float32 the share of one of many draws
        would be lost in the rounding of log-weights of some thousand nats.

    Example:
        >>> constant_rows(0.0, tfd.Normal([1.0, 2.0], 1.0)).numpy()
        array([0., 0.])
    """
    start = tf.constant(value, tf.float64)
    return tf.fill(posterior.batch_shape_tensor(), start)
