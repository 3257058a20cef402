"""Arrays as tensors where the model computes, for one call and for the next."""

import dataclasses
import math
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

import tfp_vae.models.inputs as data

# Larger arrays are not brought where the model computes.
_RESIDENT_BYTES = 2**30
# Of what was brought, no more is kept for the next call, and no more arrays.
_KEPT_BYTES = 2**28
_KEPT_ARRAYS = 16
# Smaller arrays are made longer, so that XLA need not compile for each length.
_ROUNDED_BYTES = 2**24
# So many are compared at once.
_COMPARED_BYTES = 2**18


@dataclasses.dataclass(eq=False)
class _Kept:
    """A tensor, how many of its rows are an array's, and whether they were checked."""

    tensor: tf.Tensor
    count: int
    checked: bool = False
    # The last tensor found equal. Tensors do not change.
    equal: Callable[[], Any] = lambda: None

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.tensor.shape) * self.tensor.dtype.size

    def holds(self, array: Any) -> bool:
        """Whether an array has the same bits, once it is cast to the same type."""
        same = self.count == len(array) and _dtype(array) == self.tensor.dtype
        if not same or self.tensor.shape[1:] != tuple(array.shape[1:]):
            return False
        if self.equal() is array:
            return True
        values = np.asarray(self.tensor)  # A view, on a CPU.
        rows = max(_COMPARED_BYTES // max(values[:1].nbytes, 1), 1)
        parts = (
            slice(i, min(i + rows, self.count)) for i in range(0, self.count, rows)
        )
        given = np.asarray(array)
        same = all(_have_same_bits(given[part], values[part]) for part in parts)
        if same and isinstance(array, tf.Tensor):
            self.equal = weakref.ref(array)
        return same


class _Last(NamedTuple):
    """An array that was checked, what is kept of it, and whether it passed."""

    array: Callable[[], Any] = lambda: None
    kept: _Kept | None = None
    passed: bool = False


class Residents:
    """Brings arrays where the model computes, and keeps them for the next call.

    `fit` and `evaluate` are called with the same arrays again and again. On a CPU it
    takes a few ms to see that 60 MB are the same as before, and 30 to 200 to look for
    a NaN and to copy them. At most 16 arrays and 256 MiB are kept, the last ones. An
    object of its own, so that Keras does not take its
    tensors for state to save.

    Example:
        >>> residents, x = Residents(), np.zeros([500, 2])
        >>> (tensor, nothing) = residents.tensors((x, None))
        >>> tensor.dtype, nothing is None, residents.tensors((x + 0, None))[0] is tensor
        (tf.float32, True, True)
        >>> x[3] = 1.0
        >>> residents.tensors((x, None))[0] is tensor
        False
    """

    def __init__(self) -> None:
        self._kept: list[_Kept] = []
        # What was checked last, until its tensor is asked for.
        self._last = _Last()

    def checked(self, array: Any, check: Callable[[], bool]) -> None:
        """Checks an array, unless it is kept and passed the check.

        Args:
            array: The array.
            check: Raises if it is wrong, and tells whether it has nothing to say.
        """
        if not _is_numeric(array):
            check()
            return
        kept = self._same(array)
        passed = kept is not None and kept.checked
        passed = passed or check()
        if kept is not None:
            kept.checked = passed
        self._last = _Last(weakref.ref(array), kept, passed)

    def tensors(self, arrays: Any) -> Any:
        """Arrays as tensors where the model computes, if they fit there.

        Args:
            arrays: The tuple of x, y and weights; all but x may be `None`.

        Returns:
            `None` for what is not dense arrays, of unequal lengths, or too large:
            Keras' own pipeline brings their batches then, or says what is wrong.

        Example:
            >>> residents = Residents()
            >>> residents.tensors((np.zeros([5, 2]), np.zeros(4), None)) is None
            True
        """
        leaves = [leaf for leaf in keras.tree.flatten(arrays) if leaf is not None]
        if not all(map(_is_numeric, leaves)):
            return None
        if len({tuple(leaf.shape[:1]) for leaf in leaves}) != 1 or not leaves[0].shape:
            return None
        size = sum(math.prod(a.shape) * tf.as_dtype(a.dtype).size for a in leaves)
        if size > _RESIDENT_BYTES:
            return None
        count = leaves[0].shape[0]
        length = _rounded(count) if size <= _ROUNDED_BYTES else count
        return data.mapped(lambda array: self._tensor(array, length), arrays)

    def _tensor(self, array: Any, length: int) -> tf.Tensor:
        last, self._last = self._last, _Last()
        is_last = last.array() is array
        kept = last.kept if is_last else self._same(array)
        if kept is not None and len(kept.tensor) == length:
            self._kept.remove(kept)
            self._kept.append(kept)
            return kept.tensor
        tensor = _longer(as_tensor(array), length - len(array))
        if "CPU" in tensor.device:  # Elsewhere it takes longer to compare.
            self._kept.append(_Kept(tensor, len(array), is_last and last.passed))
        while self._holds_too_much():
            del self._kept[0]
        return tensor

    def _holds_too_much(self) -> bool:
        size = sum(kept.size for kept in self._kept)
        return size > _KEPT_BYTES or len(self._kept) > _KEPT_ARRAYS

    def _same(self, array: Any) -> _Kept | None:
        return next((kept for kept in self._kept if kept.holds(array)), None)


def as_tensor(array: Any) -> tf.Tensor:
    """An array as Keras would hand it to a step, on the model's device.

    Args:
        array: NumPy array or tensor.

    Returns:
        A tensor, of Keras' default type where the array is of floating-point numbers.

    Example:
        >>> as_tensor(np.zeros(5)).dtype
        tf.float32
    """
    # Without `identity` an array stays in the host's memory, also beside a GPU.
    return tf.identity(tf.cast(array, _dtype(array)))


def _dtype(array: Any) -> tf.DType:
    dtype = tf.as_dtype(array.dtype)
    return tf.as_dtype(keras.config.floatx()) if dtype.is_floating else dtype


def _is_numeric(array: Any) -> bool:
    if isinstance(array, np.ndarray):
        return array.dtype.kind in "biuf"
    return isinstance(array, tf.Tensor)


def _have_same_bits(array: Any, values: np.ndarray) -> bool:
    """Whether numbers are the same once cast to the type of others, NaN included."""
    array = np.ascontiguousarray(array, dtype=values.dtype)
    bits = f"u{values.dtype.itemsize}"
    return np.array_equal(array.view(bits), values.view(bits))


def _rounded(count: int) -> int:
    """A length for which XLA compiles, for all up to an eighth below it."""
    unit = 2 ** max(count.bit_length() - 4, 0)
    return -(-count // unit) * unit


def _longer(array: tf.Tensor, more: int) -> tf.Tensor:
    """An array with zeros behind it, which no batch has."""
    if not more:
        return array
    return tf.pad(array, [[0, more]] + [[0, 0]] * (array.shape.rank - 1))
