"""Checks that data are valid for a VAE."""

import dataclasses
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae.meta_distributions as meta
from tfp_vae.engine import data
from tfp_vae.layers.independent_bernoulli import IndependentBernoulli
from tfp_vae.losses import check_whole_blocks
from tfp_vae.models.missing import NAN, check_mark, is_missing
from tfp_vae.models.network_checks import check_event, last_distribution_layer
from tfp_vae.values import check_values

tfd = tfp.distributions


def check_finite(
    part: Any, name: str, missing: Any = None, gaps: Any = (), but: Any = None
) -> None:
    """Checks that arrays have no NaN and no infinity, which a network may hide.

    Args:
        part: Array, or a structure of arrays, or `None`.
        name: What the part is, for the message: `"x"`, `"y"` or `"sample_weight"`.
        missing: `"nan"`, the number that marks missing entries, or `None`.
        gaps: Arrays that may have missing entries.
        but: An array that is not checked here.

    Raises:
        ValueError: If there are any.

    Example:
        >>> x = np.array([[1.0, np.nan]])
        >>> check_finite(x, "x", missing="nan", gaps=[x])
    """
    for values in data.leaves_of(part):
        if values is not but and tf.as_dtype(values.dtype).is_floating:
            may_lack = any(values is array for array in gaps)
            _Range.of(values, missing if may_lack else None, name)


def check_targets(values: Any, decoder: Any, missing: Any, weights: Any = None) -> None:
    """Checks the decoder's targets, which compiled steps cannot do.

    Args:
        values: Array of shape `(n, ...)`.
        decoder: The decoder; its last layer determines the support.
        missing: `"nan"`, the number that marks missing entries, or `None`.
        weights: Weights of examples or of entries, or `None`.

    Raises:
        ValueError: If some are NaN or infinite, or outside the support, or a block that
            does not factorise is missing, or weighted, in parts.

    Example:
        >>> check_targets(np.zeros([5, 3]), tv.IndependentBernoulli(3), None)
    """
    found = _Range.of(values, missing, "the target")
    likelihood = last_distribution_layer(decoder)
    if found.low is None or likelihood is None or likelihood.parameters_width is None:
        return
    if isinstance(likelihood, IndependentBernoulli) and found.is_grey():
        warnings.warn(
            "IndependentBernoulli models values that are 0 or 1, but the data have "
            f"others between {found.low} and {found.high}, such as grey pixels. Their "
            "'likelihood' is no density. Use `IndependentContinuousBernoulli`, which "
            "has the same parameters, or round the values.",
            stacklevel=4,
        )
        return
    first = np.asarray(data.first_rows(values, 1))
    distribution = likelihood.distribution_for(tf.cast(first, likelihood.compute_dtype))
    check_event(distribution, values)
    shape = tuple(values.shape[1:])
    scalar = (
        isinstance(distribution, meta.Independent)
        and not distribution.distribution.event_shape.rank
    )
    if scalar and tuple(distribution.event_shape) == shape:
        # A support of scalars is an interval, or the integers in one, so these few
        # values suffice: if they are in it, all are.
        few = np.array(found.numbers()).reshape(-1, *[1] * len(shape))
        check_values(np.broadcast_to(few, (len(few), *shape)), likelihood)
        return
    if weights is not None and tuple(weights.shape) == tuple(values.shape):
        for block in data.blocks_of(weights):
            check_whole_blocks(block, distribution)
    possible = distribution.sample(seed=[0, 0]).numpy()
    for block in data.blocks_of(values):
        if missing is not None:
            if isinstance(distribution, meta.Blockwise):
                check_whole_blocks(is_missing(block, missing), distribution)
            block = np.where(is_missing(block, missing), possible, block)
        check_values(block, likelihood)


def check_gaps(values: Any, missing: Any, caller: str, entries: bool = False) -> None:
    """Checks that no row, and with `entries` no entry, is missing throughout.

    Args:
        values: Array of shape `(n, ...)`.
        missing: `"nan"`, or the number that marks missing entries.
        caller: Name of the caller, for the message.
        entries: Whether each entry must be observed in at least one row.

    Raises:
        ValueError: If a row, or with `entries` an entry, is missing throughout.

    Example:
        >>> check_gaps(np.array([[1.0, np.nan]]), "nan", "impute")
    """
    empty = total = 0
    seen = np.zeros(tuple(values.shape[1:]), bool)
    for block in data.blocks_of(values):
        gaps = is_missing(block, missing)
        empty += int(gaps.reshape(len(block), -1).all(axis=1).sum())
        total += len(block)
        seen |= ~gaps.all(axis=0)
    if empty:
        raise ValueError(
            f"`{caller}` expects an observed entry in each row. Received: {empty} of "
            f"{total} rows in which every entry is missing. Leave these rows out."
        )
    if entries and not seen.all():
        first = tuple(int(i) for i in np.argwhere(~seen)[0])
        raise ValueError(
            f"`{caller}` expects each entry to be observed in some row. Received: "
            f"{np.count_nonzero(~seen)} of {seen.size} that are missing in all rows, "
            f"the first of them x[:, {str(list(first))[1:-1]}]. Leave them out of x."
        )


@dataclasses.dataclass
class _Range:
    """The smallest and the largest observed value, and one that is not an integer.

    `None` if there is none.
    """

    low: Any = None
    high: Any = None
    fraction: Any = None

    @classmethod
    def of(cls, values: Any, missing: Any, name: str) -> "_Range":
        """Scans all values, in blocks that fit in the cache of a CPU."""
        found = cls()
        check_mark(missing, values.dtype)
        for block in data.blocks_of(values, size=2**18):
            if missing is not None:
                block = block[~is_missing(block, missing)]
            if not block.size:
                continue
            low, high = block.min(), block.max()
            if not (np.isfinite(low) and np.isfinite(high)):
                raise _not_finite(values, missing, name)
            found.low = low if found.low is None else min(found.low, low)
            found.high = high if found.high is None else max(found.high, high)
            if found.fraction is None and block.dtype.kind == "f":
                fractions = block[np.rint(block) != block]
                found.fraction = fractions[0] if fractions.size else None
        return found

    def numbers(self) -> list[Any]:
        """Those that are not `None`."""
        found = [self.low, self.high, self.fraction]
        return [number for number in found if number is not None]

    def is_grey(self) -> bool:
        """Whether all values lie in [0, 1], and some are neither 0 nor 1."""
        return self.fraction is not None and self.low >= 0 and self.high <= 1


def _not_finite(values: Any, missing: Any, name: str) -> ValueError:
    bad = total = 0
    for block in data.blocks_of(values):
        total += block.size
        bad += block.size - np.count_nonzero(np.isfinite(block))
        if missing == NAN:
            bad -= np.count_nonzero(np.isnan(block))
    advice = {
        "y": "Replace them: only entries that the decoder describes may be missing, "
        "and labels of a `VAE(classifier=...)`.",
        "sample_weight": "Give a weight of 0 to examples that should not count.",
    }.get(
        name,
        "Replace them, or leave them out of the likelihood with "
        "`VAE(..., missing='nan')`.",
    )
    return ValueError(
        f"A VAE expects finite values. Received: {bad} NaN or infinite of {total} in "
        f"{name}. {advice}"
    )


def as_arrays(x: Any, y: Any, caller: str) -> tuple[Any, Any]:
    """Reads x and y as arrays; concatenates the batches of a dataset.

    Args:
        x: Arrays, or a `tf.data.Dataset` of x, or of pairs (x, y).
        y: Conditions or targets for arrays x, or `None`.
        caller: Name of the caller, for messages.

    Returns:
        x and y.

    Raises:
        ValueError: If x has no examples, is neither arrays nor a dataset, or yields
            pairs and y is given too.

    Example:
        >>> pairs = tf.data.Dataset.from_tensors((np.zeros([5, 2]), np.zeros(5)))
        >>> x, y = as_arrays(pairs.repeat(2), None, "log_prob")
        >>> x.shape, y.shape
        ((10, 2), (10,))
    """
    if isinstance(x, tf.data.Dataset):
        batches = [
            keras.utils.unpack_x_y_sample_weight(batch)[:2] for batch in data.untuned(x)
        ]
        if not batches:
            raise data.no_examples(caller, "a dataset that yields no batch")
        parts = list(zip(*batches, strict=True))
        x = _joined(parts[0])
        if parts[1][0] is not None:
            if y is not None:
                raise ValueError(
                    f"`{caller}` expects y once. Received: y of type "
                    f"{type(y).__name__}, and a dataset of pairs (x, y). Leave y out, "
                    "or give a dataset of x."
                )
            y = _joined(parts[1])
    if data.is_pipeline(x) or x is None:
        raise ValueError(
            f"`{caller}` expects arrays, or a `tf.data.Dataset`. Received: "
            f"{type(x).__name__}. Collect the examples in a NumPy array."
        )
    x, y = data.read((x, y), caller)
    data.check_rows(x, caller)
    return x, y


def _joined(batches: Any) -> Any:
    return keras.tree.map_structure(
        lambda *arrays: np.concatenate([np.asarray(a) for a in arrays]), *batches
    )
