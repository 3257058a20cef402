"""Draws z from a distribution, with its log-density if drawing gives it."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae.meta_distributions as meta

tfd = tfp.distributions


def draw(distribution: Any, sample_shape: Any = (), seed: Any = None) -> Any:
    """Draws z ~ q, with log q(z) if drawing gives it.

    A transformed distribution computes it in the forward map. That avoids the inverse,
    which is slow for some flows and impossible for a saturated sigmoid, and the cache
    of TFP's bijectors, which has no gradient. Normal distributions in float32, of one
    variable or several, given a seed of two integers, use the noise of
    `standard_normal`, not of `sample`, which fails for some with an empty batch.

    Args:
        distribution: A plain `tfd.Distribution`.
        sample_shape: Shape of the draws in front of the batch.
        seed: Anything that TFP's `sample` takes.

    Returns:
        The draws, and their log-densities or `None`.

    Example:
        >>> z, log_q = draw(tfd.LogNormal(0.0, 1.0), 5, seed=(1, 2))
        >>> z.shape, log_q.shape
        (TensorShape([5]), TensorShape([5]))
        >>> draw(tfd.Normal(0.0, 1.0), 5)[1] is None
        True
    """
    inner = distribution
    while isinstance(inner, meta.Independent):
        inner = inner.distribution
    own = _is_stateless(seed) and inner.dtype == tf.float32 and not inner.validate_args
    if own and type(inner) is tfd.Normal:
        return _normal_draw(inner, sample_shape, seed), None
    if own and type(inner) in (tfd.MultivariateNormalDiag, tfd.MultivariateNormalTriL):
        z, log_q = _multivariate_draw(inner, sample_shape, seed)
        return z, log_q if distribution is inner else None
    seed = seed_for_tfp(seed)
    # TFP makes two classes of `TransformedDistribution`, of which one has no name.
    if isinstance(getattr(inner, "bijector", None), tfp.bijectors.Bijector):
        return distribution.experimental_sample_and_log_prob(sample_shape, seed=seed)
    return distribution.sample(sample_shape, seed=seed), None


def seed_for_tfp(seed: Any) -> Any:
    """A seed with which XLA compiles TFP's samplers well.

    XLA hashes a seed again for every number drawn, unless it is the output of a random
    number generator: draws of 2,560 numbers take more than twice as long.

    Args:
        seed: Two integers, or any other seed of TFP.

    Returns:
        Two random integers with the given ones as the key, or the other seed.

    Example:
        >>> seed_for_tfp((1, 2)).dtype, seed_for_tfp(7)
        (tf.int32, 7)
    """
    return _random_bits([2], seed, tf.int32) if _is_stateless(seed) else seed


def fold_in(seed: Any, number: Any) -> tf.Tensor:
    """A seed made from another one and a number.

    `tf.random.experimental.stateless_fold_in` has 48 operations in a graph with
    `alg="philox"`, where this has 13. By default it has 6, but XLA uses another
    generator, so that draws would differ.

    Args:
        seed: Two integers.
        number: An integer below 2^31 or a scalar tensor.

    Returns:
        Two integers, the same with and without XLA: the output of the Philox generator
        with the seed as its key and the number in the upper half of its counter. Draws
        with the seed itself count in the lower half.

    Example:
        >>> fold_in((1, 2), 3).shape
        TensorShape([2])
    """
    number = tf.cast(number, tf.int64)
    return _random_bits([2], seed, tf.int32, number * [0, 1] + [0, 2**32])


def _is_stateless(seed: Any) -> bool:
    # With an integer or None TFP makes the seeds itself.
    return isinstance(seed, tuple | list | np.ndarray | tf.Tensor)


def _normal_draw(distribution: Any, sample_shape: Any, seed: Any) -> tf.Tensor:
    """Draws loc + scale * noise."""
    loc = tf.convert_to_tensor(distribution.loc)
    scale = tf.convert_to_tensor(distribution.scale)

    def shape() -> tf.Tensor:
        return tf.broadcast_dynamic_shape(tf.shape(loc), tf.shape(scale))

    return loc + scale * _noise(sample_shape, distribution.batch_shape, shape, seed)


def _multivariate_draw(distribution: Any, sample_shape: Any, seed: Any) -> Any:
    """Draws loc + scale @ noise, with the log-density."""

    def shape() -> tf.Tensor:
        parts = distribution.batch_shape_tensor(), distribution.event_shape_tensor()
        return tf.concat(parts, axis=0)

    static = distribution.batch_shape + distribution.event_shape
    noise = _noise(sample_shape, static, shape, seed)
    scale = distribution.scale
    z = scale.matvec(noise)
    if distribution.loc is not None:
        z += distribution.loc
    log_noise = tf.reduce_sum(tfd.Normal(0.0, 1.0).log_prob(noise), axis=-1)
    return z, log_noise - scale.log_abs_determinant()


def _noise(
    sample_shape: Any, static: tf.TensorShape, dynamic: Callable[[], Any], seed: Any
) -> tf.Tensor:
    """Standard normal draws of a shape that is known only in part."""
    batch: Any = static.as_list() if static.is_fully_defined() else dynamic()
    first, last = _sizes(sample_shape), _sizes(batch)
    if first is None or last is None:
        leading = tf.reshape(tf.cast(sample_shape, tf.int32), [-1])
        return standard_normal(tf.concat([leading, batch], axis=0), seed)
    known = zip(static, last, strict=True)
    sizes = [*first, *(tensor if size is None else size for size, tensor in known)]
    noise = standard_normal(sizes, seed)
    return tf.ensure_shape(noise, [None if tf.is_tensor(n) else n for n in sizes])


def _sizes(shape: Any) -> list[Any] | None:
    """The sizes in a shape, integers if known; `None` if their number is unknown."""
    known = tf.get_static_value(shape)
    if known is not None:
        return np.ravel(known).astype(int).tolist()
    if shape.shape.rank == 0:
        return [shape]
    return None if shape.shape[0] is None else tf.unstack(shape)


def standard_normal(shape: Any, seed: Any) -> tf.Tensor:
    """Draws z ~ N(0, 1) by the inverse of its distribution function.

        z = sqrt(2) erfinv(w),    w uniform on (-1, 1)

    Replaces `tf.random.stateless_normal`, for which XLA recomputes all rounds of Philox
    for each of the four integers that they give, and a logarithm, a sine and a cosine
    for each of the two normals made from a pair: 100 us for 2,560 draws on a CPU with
    two cores, a seventh of an evaluation step. 64-bit integers from the same generator,
    two numbers each, and a polynomial take a fraction of that.

    The two numbers made from one integer are half the rows apart, because XLA
    vectorises a concatenation of two halves along rows, even if what follows is not
    contiguous. It does not vectorise halves of a flat tensor: they take five times as
    long.

    Args:
        shape: Shape of the draws, a list of integers or a tensor.
        seed: Two integers, as in `tf.random.stateless_normal`.

    Returns:
        A float32 tensor, the same with and without XLA except for rounding. Values are
        between -5.3 and 5.3, since w has 23 bits.

    Example:
        >>> standard_normal([2, 3], (1, 2)).shape
        TensorShape([2, 3])
    """
    return _of_random_bits(shape, seed, _normal)


def rademacher(shape: Any, seed: Any) -> tf.Tensor:
    """Draws signs, -1 or 1 with equal probability.

    `tfp.random.rademacher` costs under XLA what `standard_normal` describes.

    Args:
        shape: Shape of the draws, a list of integers or a tensor.
        seed: Two integers.

    Returns:
        A float32 tensor.

    Example:
        >>> sorted({*rademacher([50], (1, 2)).numpy().tolist()})
        [-1.0, 1.0]
    """
    return _of_random_bits(
        shape, seed, lambda bits: tf.where(bits < 0, -1.0, tf.constant(1.0))
    )


def _of_random_bits(shape: Any, seed: Any, fn: Any) -> tf.Tensor:
    """Applies `fn` to random 32-bit integers, the halves of random 64-bit integers."""
    rows, width = _rows_and_width(shape)
    pairs = _random_bits([(rows + 1) // 2, width], seed, tf.int64)
    # `fn` first, to float32: on a GPU, many int32 operations run on the host.
    halves = tf.unstack(fn(tf.bitcast(pairs, tf.int32)), axis=-1)
    return tf.reshape(tf.concat(halves, axis=0)[:rows], shape)


def _rows_and_width(shape: Any) -> tuple[Any, Any]:
    """Numbers of rows and of columns, the last of several axes; integers if known."""
    sizes = _sizes(shape) if tf.is_tensor(shape) else [*shape]
    if sizes is None:
        rows = tf.reduce_prod(shape[:1]) * tf.reduce_prod(shape[1:-1])
        return rows, tf.reduce_prod(shape[1:][-1:])
    *others, width = sizes if len(sizes) > 1 else [*sizes, 1]
    return math.prod(others), width


def _random_bits(
    shape: Any, seed: Any, dtype: tf.DType, counter: Any = (0, 0)
) -> tf.Tensor:
    """Integers with random bits, from the Philox generator with the seed as its key.

    `tf.random.stateless_uniform` first draws a key and a counter from the seed, so that
    XLA compiles three generators instead of one. The counter is two 64-bit integers,
    the lower half first.
    """
    key = tf.bitcast(tf.reshape(tf.cast(seed, tf.int32), [1, 2]), tf.uint64)
    return tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=shape,
        key=key,
        counter=tf.bitcast(tf.cast(counter, tf.int64), tf.uint64),
        alg=tf.random.Algorithm.PHILOX.value,
        dtype=dtype,
    )


def _normal(bits: tf.Tensor) -> tf.Tensor:
    """Standard normal numbers from random 32-bit integers, by the inverse cdf."""
    number = tf.cast(tf.bitwise.bitwise_and(bits, 2**23 - 1), tf.float32)
    # Odd multiples of 2^-23 between -1 and 1. Without XLA `erfinv` adds 1 to w, which
    # float32 represents exactly. With multiples of 2^-24 the largest w would round to
    # 1, and z would be infinite.
    w = number * 2.0**-22 - (1 - 2.0**-23)
    return math.sqrt(2.0) * tf.math.erfinv(w)
