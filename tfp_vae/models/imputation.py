"""Fills missing entries: expectations and draws given what was observed."""

import functools
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae.meta_distributions as meta
from tfp_vae.checks import integer
from tfp_vae.distribution_tensor import unwrap
from tfp_vae.draws import fold_in
from tfp_vae.engine import data
from tfp_vae.entries import class_probs
from tfp_vae.kl.closed_forms import family_name
from tfp_vae.latents import center
from tfp_vae.models.bound import Draws, expanded_like
from tfp_vae.models.data_checks import check_gaps, check_targets
from tfp_vae.models.estimates import DrawChunk, Estimates, constant_rows
from tfp_vae.models.missing import is_missing
from tfp_vae.summaries import sizes, summary
from tfp_vae.weights.forward_pass import layers_with_random_weights

tfd = tfp.distributions

# Folded into the seeds that choose draws: independent of those that make the draws.
_CHOSEN, _AT_LAST = 2, 2**31 - 1


class Imputation(Estimates):
    """The methods of `tv.VAE` that fill missing entries."""

    def impute(
        self,
        x: Any,
        num_samples: int = 10_000,
        draws: int | None = None,
        *,
        y: Any = None,
        batch_size: int | None = None,
        seed: int | None = None,
        verbose: Any = "auto",
    ) -> np.ndarray:
        r"""Fills missing entries with their expectation, or with draws.

        .. math::

            \mathrm{E}[x_\mathrm{mis} \mid x_\mathrm{obs}] &\approx
            \frac{\sum_k w_k \, \mathrm{E}[x_\mathrm{mis} \mid z_k]}{\sum_k w_k} \\
            w_k &=
            \frac{p(x_\mathrm{obs} \mid z_k) \, p(z_k)}{q(z_k \mid x_\mathrm{obs})},
            \quad z_k \sim q(z \mid x_\mathrm{obs})

        by self-normalised importance sampling. The expectation of a one-hot vector or
        of a bit is its probabilities; of a category that is a number, the most probable
        one is filled in. With `draws`, z is drawn again, z_k with probability
        proportional to w_k, and x_mis from p(x | z): multiple imputation by sampling
        importance resampling. With a `missing_model`, both also condition on the mask.

        Reference:
            Mattei and Frellsen, MIWAE: deep generative modelling and imputation of
            incomplete data sets, 2019. https://arxiv.org/abs/1812.02633

        Args:
            x: Arrays of shape `(n, ...)`, or a `tf.data.Dataset`, read as a whole; of a
                dictionary, its entry `target` is filled.
            num_samples: The number of z drawn for each example.
            draws: The number of imputations of each example, all resampled from the
                same `num_samples` draws of z; `None` for the expectation.
            y: Conditions, if the model is conditional; labels, if it has a classifier
                (an unknown label, -1, is summed out).
            batch_size: Number of latents decoded at once; limits the memory.
            seed: Integer for the same draws at each call.
            verbose: 0 for no progress bar, 1 for one, `"auto"` for one on long runs.

        Returns:
            An array of the shape of x, or `(draws, *x.shape)`; floating-point also if x
            has integers. Observed entries are those of x.

        Raises:
            ValueError: If the model has no `missing`, an argument is invalid, nothing
                is observed of an example, or an expectation does not exist.

        Example:
            >>> encoder = keras.Sequential([
            ...     keras.Input((3,)), keras.layers.Dense(2), tv.IndependentNormal(1)])
            >>> decoder = keras.Sequential([
            ...     keras.Input((1,)), keras.layers.Dense(6), tv.IndependentNormal(3)])
            >>> vae = tv.VAE(encoder, decoder, tv.StandardNormal(1), missing="nan")
            >>> x = np.array([[1.0, np.nan, 2.0], [0.5, 1.5, np.nan]])
            >>> filled = vae.impute(x, num_samples=100)
            >>> filled[0, 0], bool(np.isnan(filled).any())
            (np.float64(1.0), False)
            >>> vae.impute(x, num_samples=100, draws=5).shape
            (5, 2, 3)
        """
        self._check_built("impute")
        num_samples = integer(num_samples, "num_samples", "impute")
        draws = None if draws is None else integer(draws, "draws", "impute")
        x, y = self._with_gaps(x, y)
        values = data.as_array(self.target_of(x))
        gaps = is_missing(values, self.missing)
        check_gaps(values, self.missing, "impute")
        front = () if draws is None else (draws,)
        filled = np.broadcast_to(_floating(values), (*front, *values.shape)).copy()
        some = np.flatnonzero(gaps.reshape(len(gaps), -1).any(axis=1))
        if not len(some):
            return filled
        x, y = data.mapped(lambda part: data.rows_of(part, some), (x, y))
        options = {"batch_size": batch_size, "seed": seed, "verbose": verbose}
        if draws is None:
            found = self._expectations(x, y, num_samples, options)
        else:
            found = self._imputations(x, y, num_samples, draws, options)
        at: Any = (*[slice(None)] * len(front), some)
        filled[at] = np.where(gaps[some], found, filled[at])
        return filled

    def _with_gaps(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Reads x and y, and checks that the model can fill x."""
        if self.missing is None:
            raise ValueError(
                "`impute` expects a model for incomplete examples. Received: "
                "missing=None. Make it with `VAE(..., missing='nan')`, and train it on "
                "examples with missing entries."
            )
        x, y = self._with_own_target(x, y, "impute")
        self._inputs(x, y, "impute")
        check_targets(self.target_of(x), self.decoder, self.missing)
        return x, y

    def _expectations(
        self, x: Any, y: Any, num_samples: int, options: dict[str, Any]
    ) -> np.ndarray:
        """E[x | observed entries], of all entries."""
        one, y_of_one = data.mapped(lambda part: data.first_rows(part, 1), (x, y))
        p = self._center(self._inputs(one, y_of_one, "impute"))
        moments(p)  # Raises an error before the work if there is no expectation.
        total, averages = self._estimates(
            "impute", self.averages, _merged_averages, x, y, num_samples, **options
        )
        _check_possible(total)
        found = from_moments(p, tf.convert_to_tensor(averages)).numpy()
        if not np.isfinite(found).all():
            raise ValueError(
                "`impute` expects a likelihood with a finite mean. Received: "
                f"{np.count_nonzero(~np.isfinite(found))} of {found.size} expectations "
                "that are not finite. Give `draws=20` for draws instead."
            )
        return found

    def _center(self, inputs: Any) -> Any:
        """p(x | z) at the center of q(z | x)."""
        with self._functions.compiler.lock:
            z, (_, y) = center(self.posterior(inputs)), self._split(inputs)
            return unwrap(self.likelihood(z, y))

    def averages(
        self,
        inputs: Any,
        target: Any,
        seed: Any,
        num_samples: Any,
        draws: int = 1,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Computes log sum_k w[k], and the weighted mean of `moments`.

        Args:
            inputs: x, or the pair `(x, y)` if the model is conditional.
            target: Target of the decoder, of shape `(n, ...)`.
            seed: Tensor of shape `(2,)`.
            num_samples: Scalar, the number of draws.
            draws: Number of draws decoded at once.

        Returns:
            Tensors of shape `(n,)` and `(n, ...)`.
        """
        y = self._split(inputs)[1]

        def values_of(made: Draws) -> tf.Tensor:
            if self.missing_model is None:
                return moments(made.likelihood)
            return moments_of_values(made.likelihood, self.completed(made, target))

        def add(found: Any, chunk: DrawChunk) -> Any:
            total, mean = found
            weights = chunk.log_weights(total.dtype)
            new = tf.reduce_logsumexp(tf.concat([total[None], weights], 0), axis=0)
            values = tf.cast(values_of(chunk.draws), total.dtype)
            values = tf.reshape(values, tf.concat([[draws], tf.shape(mean)], axis=0))
            # Before the first weight that is not 0 there is no average.
            level = tf.where(tf.math.is_finite(new), new, tf.zeros_like(new))
            shares = expanded_like(tf.math.exp(weights - level), values)
            mean *= expanded_like(tf.math.exp(total - level), mean)
            values = tf.math.multiply_no_nan(values, shares)
            return new, mean + tf.reduce_sum(values, axis=0)

        def start(posterior: Any) -> Any:
            like = moments(unwrap(self.likelihood(center(posterior), y)))
            total = constant_rows(-np.inf, posterior)
            return total, tf.zeros_like(like, total.dtype)

        return self.over_draws(inputs, target, seed, num_samples, draws, add, start)

    def _imputations(
        self, x: Any, y: Any, num_samples: int, count: int, options: dict[str, Any]
    ) -> np.ndarray:
        """Draws of x given the observed entries, of shape `(count, n, ...)`."""
        # With these the weight of a draw depends on more than z: keep x instead of z.
        whole = (
            self.missing_model is not None
            or self.classifier is not None
            or bool(layers_with_random_weights(self.decoder))
        )
        total, held, _ = self._estimates(
            "impute",
            functools.partial(self.resampled, count=count, whole=whole),
            _merged_draws,
            x,
            y,
            num_samples,
            **options,
            key=count,
        )
        _check_possible(total)
        if not whole:
            z = tf.constant(held.reshape(-1, *held.shape[2:]))
            each = data.mapped(lambda part: tf.repeat(part, count, axis=0), y)
            key = fold_in(self._seed(options["seed"]), _AT_LAST)
            drawn = self._decoded(z, each, "sample", key, "impute")
            held = drawn.reshape(*held.shape[:2], *drawn.shape[1:])
        return np.moveaxis(held, 1, 0)

    def resampled(
        self,
        inputs: Any,
        target: Any,
        seed: Any,
        num_samples: Any,
        draws: int = 1,
        count: int = 1,
        whole: bool = False,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Computes log sum_k w[k], and chooses draws in proportion to w[k].

        This is reservoir sampling: a draw chosen so far is kept with probability
        W / (W + w), where W is the sum of the weights so far, and w of the new ones.

        Args:
            inputs: x, or the pair `(x, y)` if the model is conditional.
            target: Target of the decoder, of shape `(n, ...)`.
            seed: Tensor of shape `(2,)`.
            num_samples: Scalar, the number of draws.
            draws: Number of draws decoded at once.
            count: The number of draws to choose for each example.
            whole: Whether to return the x that were drawn, not the z.

        Returns:
            Tensors of shape `(n,)` and `(n, count, ...)`, and uniform numbers of shape
            `(n, count)`, with which `_merged_draws` chooses between two parts.
        """

        def values_of(made: Draws) -> tf.Tensor:
            if not whole:
                return made.latents
            found = self.completed(made, target)
            return tf.reshape(found, [draws, -1, *found.shape[1:]])

        def add(found: Any, chunk: DrawChunk) -> Any:
            total, held = found
            weights = chunk.log_weights(total.dtype)
            here = tf.reduce_logsumexp(weights, axis=0)
            new = tf.reduce_logsumexp(tf.stack([total, here]), axis=0)
            key = fold_in(chunk.draws.seed, _CHOSEN)
            both = _uniform([2, *sizes(held)[:2]], key)
            which, whether = tf.unstack(both, num=2)
            shares = tf.math.cumsum(tf.nn.softmax(weights, axis=0), axis=0)
            below = (
                shares[..., None] < tf.cast(which, shares.dtype) * shares[-1, :, None]
            )
            index = tf.reduce_sum(tf.cast(below, tf.int32), axis=0)
            values = tf.cast(values_of(chunk.draws), held.dtype)
            order = [1, 0, *range(2, values.shape.rank)]
            chosen = tf.gather(tf.transpose(values, order), index, axis=1, batch_dims=1)
            taken = tf.cast(whether, new.dtype) < tf.math.exp(here - new)[:, None]
            taken = tf.reshape(taken, [*sizes(taken), *[1] * (held.shape.rank - 2)])
            return new, tf.ensure_shape(tf.where(taken, chosen, held), held.shape)

        def start(posterior: Any) -> Any:
            total = constant_rows(-np.inf, posterior)
            one = tf.zeros_like(target, total.dtype) if whole else center(posterior)
            return total, tf.repeat(one[:, None], count, axis=1)

        found = self.over_draws(inputs, target, seed, num_samples, draws, add, start)
        return *found, _uniform(sizes(found[1])[:2], fold_in(seed, _AT_LAST))


def moments(likelihood: Any) -> tf.Tensor:
    """What is averaged over z: the mean of p(x | z), probabilities of categories.

    Args:
        likelihood: p(x | z), a plain `tfd.Distribution` of batch shape `(n,)`.

    Returns:
        A tensor whose first axis is the batch; that of blocks has one more.

    Raises:
        ValueError: If there is no mean.

    Example:
        >>> moments(tfd.Categorical(probs=[[0.25, 0.75]])).numpy()
        array([[0.25, 0.75]], dtype=float32)
    """
    if isinstance(likelihood, meta.Blockwise):
        parts = [moments(block) for block in likelihood.distributions]
        dtype = tf.as_dtype(likelihood.dtype)
        flat = [tf.reshape(tf.cast(p, dtype), [sizes(p)[0], -1]) for p in parts]
        return tf.concat(flat, axis=-1)
    if _is_numbered(likelihood):
        return class_probs(likelihood)
    try:
        return summary(likelihood, "mean")
    except NotImplementedError as error:
        raise ValueError(
            "`impute` expects a likelihood with a mean, or of categories. Received: "
            f"{family_name(likelihood)}. Give `draws=20` for draws instead."
        ) from error


def moments_of_values(likelihood: Any, values: tf.Tensor) -> tf.Tensor:
    """The `moments` of single values, whose average estimates those of p(x | z).

    Args:
        likelihood: p(x | z), as for `moments`.
        values: Values of x, of shape `(n, *event_shape)`.

    Returns:
        A tensor of the shape of `moments`: the values, or for categories that are
        numbers their one-hot vectors.

    Example:
        >>> p = tfd.Categorical(probs=[[0.25, 0.75]])
        >>> moments_of_values(p, tf.constant([1.0])).numpy()
        array([[0., 1.]], dtype=float32)
    """
    if isinstance(likelihood, meta.Blockwise):
        blocks, rows = likelihood.distributions, sizes(values)[0]
        widths = [block.event_shape.num_elements() for block in blocks]
        found = []
        for block, part in zip(blocks, tf.split(values, widths, axis=-1), strict=True):
            part = tf.reshape(part, [rows, *block.event_shape])
            found.append(tf.reshape(moments_of_values(block, part), [rows, -1]))
        return tf.concat(found, axis=-1)
    if _is_numbered(likelihood):
        depth = class_probs(likelihood).shape[-1]
        return tf.one_hot(tf.cast(values, tf.int32), depth, dtype=values.dtype)
    return values


def from_moments(likelihood: Any, averages: tf.Tensor) -> tf.Tensor:
    """Values of x from averages of `moments`.

    Args:
        likelihood: p(x | z), of any number of examples.
        averages: Averages of `moments`, of shape `(n, ...)`.

    Returns:
        A tensor of shape `(n, *event_shape)`: the averages, or for categories that are
        numbers the most probable one.

    Example:
        >>> p = tfd.Categorical(probs=[[0.25, 0.75]])
        >>> from_moments(p, tf.constant([[0.6, 0.4], [0.1, 0.9]])).numpy()
        array([0., 1.], dtype=float32)
    """
    if isinstance(likelihood, meta.Blockwise):
        shapes = [moments(block).shape[1:] for block in likelihood.distributions]
        widths = [shape.num_elements() for shape in shapes]
        rows, parts = tf.shape(averages)[0], []
        blocks = zip(
            likelihood.distributions,
            tf.split(averages, widths, axis=-1),
            shapes,
            strict=True,
        )
        for block, part, shape in blocks:
            found = from_moments(block, tf.reshape(part, [rows, *shape]))
            parts.append(tf.reshape(found, [rows, block.event_shape.num_elements()]))
        return tf.concat(parts, axis=-1)
    if _is_numbered(likelihood):
        return tf.cast(tf.argmax(averages, axis=-1), averages.dtype)
    return averages


def _check_possible(total: np.ndarray) -> None:
    """Checks that some weight of each example is not 0."""
    if not np.isfinite(total).all():
        raise ValueError(
            "`impute` expects examples to which the model gives a positive density. "
            f"Received: {np.count_nonzero(~np.isfinite(total))} of {len(total)} with "
            "density 0 for every z that was drawn. Leave out examples unlike those of "
            "training, or give a larger `num_samples`."
        )


def _is_numbered(likelihood: Any) -> bool:
    """Whether the values are categories as numbers, whose mean says nothing."""
    while isinstance(likelihood, meta.Independent | meta.MixtureSameFamily):
        likelihood = (
            likelihood.distribution
            if isinstance(likelihood, meta.Independent)
            else likelihood.components_distribution
        )
    return isinstance(likelihood, tfd.Categorical)


def _merged_averages(some: Any, others: Any) -> Any:
    """Averages over two parts of the draws."""
    total = np.logaddexp(some[0], others[0])
    level = np.where(np.isfinite(total), total, 0.0)
    shares = [np.exp(part[0] - level) for part in (some, others)]
    wide = [s.reshape(-1, *[1] * (some[1].ndim - 1)) for s in shares]
    return total, wide[0] * some[1] + wide[1] * others[1]


def _merged_draws(some: Any, others: Any) -> Any:
    """Draws chosen from those that were chosen from two parts."""
    total = np.logaddexp(some[0], others[0])
    level = np.where(np.isfinite(total), total, 0.0)
    taken = others[2] < np.exp(others[0] - level)[:, None]
    wide = taken.reshape(*taken.shape, *[1] * (some[1].ndim - 2))
    return total, np.where(wide, others[1], some[1]), some[2]


def _floating(values: np.ndarray) -> np.ndarray:
    """The same numbers in a floating-point dtype that holds them all."""
    if values.dtype.kind == "f":
        return values
    exact = np.abs(values.astype("float64")).max(initial=0) <= 2**24
    return values.astype("float32" if exact else "float64")


def _uniform(shape: Any, key: tf.Tensor) -> tf.Tensor:
    # With the generator named, a seed repeats its draws on every device.
    return tf.random.stateless_uniform(shape, key, alg="philox")
