"""Estimates of log p(x) and of the bound, over many draws."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_vae.checks import integer
from tfp_vae.draws import fold_in
from tfp_vae.engine import data
from tfp_vae.engine.compiler import XLA
from tfp_vae.engine.progress import LongBar
from tfp_vae.models.data_checks import as_arrays, check_observed
from tfp_vae.models.inference import Inference
from tfp_vae.models.pieces import ROWS, pieces_of, rows_at_once
from tfp_vae.weights.forward_pass import layers_with_random_weights, weights_drawn_with

# Latents decoded in one call, after which the progress bar is updated.
_WORK = 2**18


class Estimates(Inference):
    """The methods of `tv.VAE` that estimate log p(x) and its bound."""

    def log_prob(
        self,
        x: Any,
        num_samples: int = 500,
        *,
        y: Any = None,
        batch_size: int | None = None,
        seed: int | None = None,
        verbose: Any = "auto",
    ) -> np.ndarray:
        """Log p(x), estimated by importance sampling from the posterior.

            log p(x) ~ log(1/K sum_k p(x | z[k]) p(z[k]) / q(z[k] | x))

        with z[k] ~ q(z | x). Its expectation is a lower bound of log p(x), and
        approaches it as K grows. A decoder with random weights draws them anew for each
        k, so that they are averaged inside the logarithm.

        Args:
            x: Arrays of shape `(n, ...)`, or a `tf.data.Dataset`, read as a whole.
            num_samples: The number K of draws for each example.
            y: Conditions, if the model is conditional; labels, with a classifier, of
                which -1 is summed out; else the decoder's targets, if they are not x,
                as in `fit`.
            batch_size: Number of latents decoded at once; limits the memory.
            seed: Integer for the same draws at each call.
            verbose: 0 for no progress bar, 1 for one, `"auto"` for one on long runs.

        Returns:
            An array of shape `(n,)`, nats per example.

        Raises:
            ValueError: If an argument is invalid, such as a `num_samples` below 1,
                there are no examples, or the decoder cannot describe them.
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
        *,
        y: Any = None,
        batch_size: int | None = None,
        seed: int | None = None,
        verbose: Any = "auto",
    ) -> np.ndarray:
        """E_q[log p(x | z)] - KL(q(z | x) || p(z)), the mean over draws of z.

        Args:
            x: Arrays of shape `(n, ...)`, or a `tf.data.Dataset`, read as a whole.
            num_samples: The number of draws for each example.
            y: Conditions, if the model is conditional; labels, with a classifier, of
                which -1 is summed out; else the decoder's targets, if they are not x,
                as in `fit`.
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
        caller = "elbo" if fn == self._elbo_sum else "log_prob"
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
        check_observed(target, self.decoder, self.missing)
        if batch_size is None:
            batch_size = rows_at_once(self.decoder, ROWS)
        rows = integer(batch_size, "batch_size", caller)
        # A power of two: data of many lengths need few traces.
        piece = min(rows, 1 << (count - 1).bit_length())
        together = fn == self.log_sum and not layers_with_random_weights(self.decoder)
        draws = max(1, min(rows // piece, num_samples)) if together else 1
        block = max(draws, _WORK // piece)
        function = self._functions.compiled(
            (caller, draws), lambda *given: fn(*given, draws=draws), f"`{caller}`"
        )
        starts = range(0, num_samples, block)
        pieces = -(-count // piece)
        # Decoding one piece counts as one step of training.
        mode = self._functions.mode((caller, piece), pieces * -(-num_samples // draws))
        bar = LongBar(pieces * len(starts), verbose)
        base, results = self._seed(seed), []
        for i, (count, *parts) in enumerate(pieces_of(inputs, target, piece)):
            total: Any = None
            for start in starts:
                now = tf.constant(min(block, num_samples - start))
                key = fold_in(fold_in(base, i), start)
                nothing = (*parts, key, tf.zeros_like(now)) if mode == XLA else None
                part = function(*parts, key, now, nothing=nothing).numpy()
                total = part if total is None else merge(total, part)
                bar.step()
            results.append(total[:count])
        return np.concatenate(results)

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

        def add(total: tf.Tensor, terms: Any, number: tf.Tensor) -> tf.Tensor:
            weights = tf.cast(terms.log_weights(), total.dtype)
            surplus = tf.range(draws)[:, None] >= number
            weights = tf.where(surplus, tf.constant(-np.inf, weights.dtype), weights)
            return tf.reduce_logsumexp(tf.concat([total[None], weights], 0), axis=0)

        return self._over_draws(inputs, target, seed, num_samples, draws, add, -np.inf)

    def _elbo_sum(
        self,
        inputs: Any,
        target: Any,
        seed: Any,
        num_samples: Any,
        draws: int,
    ) -> tf.Tensor:
        """The sum of one-draw ELBOs over `num_samples` draws, one at a time."""

        def add(total: tf.Tensor, terms: Any, left: tf.Tensor) -> tf.Tensor:
            bound = terms.log_likelihood[0] - tf.cast(
                terms.kl, terms.log_likelihood.dtype
            )
            return total + tf.cast(bound, total.dtype)

        return self._over_draws(inputs, target, seed, num_samples, draws, add, 0.0)

    def _over_draws(
        self,
        inputs: Any,
        target: Any,
        seed: Any,
        num_samples: Any,
        draws: int,
        add: Callable[..., tf.Tensor],
        start: float,
    ) -> tf.Tensor:
        """Encodes once, then loops over draws in one graph."""
        with weights_drawn_with(seed):
            q, (_, y) = self.posterior(inputs), self._split(inputs)

        def body(i: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            key = fold_in(seed, i)
            with weights_drawn_with(key):
                terms = self.terms(self.through(q, y, draws, key), target)
            return i + 1, add(total, terms, num_samples - i * draws)

        count = (num_samples + draws - 1) // draws
        total = tf.fill([tf.shape(target)[0]], tf.constant(start, q.dtype))
        return tf.while_loop(lambda i, total: i < count, body, (tf.constant(0), total))[
            1
        ]
