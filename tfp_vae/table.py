"""Tables with columns of several kinds: as one array for a VAE, and back."""

import dataclasses
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from tfp_vae.checks import checked_config
from tfp_vae.constraints import SCALE_FLOOR
from tfp_vae.layers.blockwise import Blockwise
from tfp_vae.layers.counts import IndependentNegativeBinomial
from tfp_vae.layers.independent_bernoulli import IndependentBernoulli
from tfp_vae.layers.location_scale import IndependentNormal
from tfp_vae.layers.one_hot_categorical import OneHotCategorical

if TYPE_CHECKING:
    import pandas as pd

NUMERIC, COUNT, BINARY, CATEGORICAL = "numeric", "count", "binary", "categorical"
KINDS = (NUMERIC, COUNT, BINARY, CATEGORICAL)
NUMBER, BOOLEAN, TEXT = "number", "boolean", "text"
# What pandas infers from the observed entries of a column.
_FAMILIES = {
    "boolean": BOOLEAN,
    "floating": NUMBER,
    "integer": NUMBER,
    "mixed-integer-float": NUMBER,
    "string": TEXT,
}
_LAYERS: dict[str, Any] = {
    NUMERIC: IndependentNormal,
    COUNT: IndependentNegativeBinomial,
    BINARY: IndependentBernoulli,
}
_LARGEST_COUNT, _LARGEST_INTEGER = 2**24, 2**53  # exact in float32, in float64
_ROUNDING = 1e-3  # of probabilities in half precision


@dataclasses.dataclass(frozen=True)
class Column:
    """What a table knows of one column.

    Args:
        name: Its name.
        kind: One of `KINDS`.
        dtype: The name of its dtype in pandas.
        family: What its entries are: `NUMBER`, `BOOLEAN` or `TEXT`.
        mean: Mean of the observed numbers, in the unit of the frame.
        scale: Their standard deviation.
        values: The two values, or the categories.
        probs: Their relative frequencies, after 1 is added to each count.
        category: For pandas' category dtype, the dtype of the categories and whether
            they are ordered.

    Example:
        >>> Column("age", "numeric", "float64", "number", 40.0, 9.0).width
        1
    """

    name: Any
    kind: str
    dtype: str
    family: str
    mean: float = 0.0
    scale: float = 1.0
    values: Any = None
    probs: Any = None
    category: Any = None

    @property
    def width(self) -> int:
        """Number of entries in a row of the array."""
        return len(self.values) if self.kind == CATEGORICAL else 1

    @property
    def marginal(self) -> np.ndarray:
        """Raw parameters with the mean and the variance of the observed entries.

        Those of a negative binomial exceed a Poisson's variance by 1 % at least.
        """
        if self.kind == CATEGORICAL:
            return np.log(self.probs)[:, None]
        if self.kind == BINARY:
            return np.log([[self.probs[1] / self.probs[0]]])
        if self.kind == NUMERIC:
            return np.array([[0.0, np.log(np.expm1(1.0))]])
        excess = max(self.scale**2 - self.mean, 0.01 * self.mean)
        total = max(self.mean**2 / excess, SCALE_FLOOR)
        return np.array(
            [[total + np.log(-np.expm1(-total)), np.log(self.mean / total)]]
        )


@keras.saving.register_keras_serializable("tfp_vae")
class Table:
    """The columns of a `pandas.DataFrame` as an array, a likelihood for it, and back.

    ================= ========================== ==================== =================
    kind              columns                    in the array         likelihood
    ================= ========================== ==================== =================
    ``"numeric"``     floats; integers, some < 0 (value - mean) / std normal
    ``"count"``       integers from 0            the count            negative binomial
    ``"binary"``      two values, no fractions   0 or 1               Bernoulli
    ``"categorical"`` other text, category dtype one-hot              categorical
    ================= ========================== ==================== =================

    The mean and the standard deviation are those of the frame's observed entries. NaN,
    None and `pd.NA` are missing, and NaN in the array; a missing category is NaN in all
    entries of its one-hot vector. Give the VAE `missing="nan"`. `to_frame(to_array(f))`
    is f, numbers up to the rounding of float32, integers exactly. pandas makes floats
    of integers if some are missing, which are then numeric: `frame.convert_dtypes()`
    keeps them.

    Keras saves the table as JSON: `keras.saving.serialize_keras_object(table)` and
    `keras.saving.deserialize_keras_object`.

    Reference:
        Nazabal et al., Handling incomplete heterogeneous data using VAEs, 2020.
        https://arxiv.org/abs/1807.03653

    Args:
        frame: A `pandas.DataFrame`; each column with two different observed values or
            more.
        kinds: Kinds of columns by name, where they are not as in this table.

    Raises:
        ValueError: If it is no such frame, a column has no kind, such as one of dates,
            or cannot be of the kind that is given.
        ImportError: If pandas is not installed.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({
        ...     "height": [1.62, None, 1.80], "visits": [0, 3, 1],
        ...     "colour": ["red", "green", "blue"]})
        >>> table = Table(frame)
        >>> table.kinds
        {'height': 'numeric', 'visits': 'count', 'colour': 'categorical'}
        >>> x = table.to_array(frame)
        >>> x
        array([[-1.,  0.,  0.,  0.,  1.],
               [nan,  3.,  0.,  1.,  0.],
               [ 1.,  1.,  1.,  0.,  0.]], dtype=float32)
        >>> likelihood = table.likelihood()
        >>> decoder = keras.Sequential([
        ...     keras.Input((2,)), keras.layers.Dense(likelihood.parameters_width),
        ...     likelihood])
        >>> encoder = keras.Sequential([
        ...     keras.Input((table.width,)), keras.layers.Dense(4),
        ...     tv.IndependentNormal(2)])
        >>> vae = tv.VAE(encoder, decoder, tv.StandardNormal(2), missing="nan")
        >>> table.to_frame(vae.generate(5)).columns.tolist()
        ['height', 'visits', 'colour']
    """

    def __init__(self, frame: Any, kinds: dict[Any, str] | None = None) -> None:
        frame = _checked_frame(frame, "Table")
        names = list(frame.columns)
        kinds = _checked_kinds({} if kinds is None else kinds, names)
        if not names:
            raise ValueError(
                "`Table` expects a frame with columns. Received: none. Give some."
            )
        self._columns = tuple(_column(frame[n], n, kinds.get(n)) for n in names)
        self.to_array(frame)  # integers that float32 cannot hold

    @property
    def kinds(self) -> dict[Any, str]:
        """The kind of each column."""
        return {column.name: column.kind for column in self._columns}

    @property
    def slices(self) -> dict[Any, slice]:
        """Where each column is in a row of the array."""
        found, start = {}, 0
        for column in self._columns:
            found[column.name] = slice(start, start + column.width)
            start += column.width
        return found

    @property
    def width(self) -> int:
        """The length of a row of the array."""
        return sum(column.width for column in self._columns)

    def to_array(self, frame: Any) -> np.ndarray:
        """The array of a frame that has the same columns, in any order.

        Args:
            frame: A `pandas.DataFrame`.

        Returns:
            A float32 array of shape `(n, width)`, NaN where an entry is missing.

        Raises:
            ValueError: If columns are missing, or there are others; if an entry is
                infinite, a new category, no count in a column of counts, or an integer
                that float32 cannot hold.
        """
        frame = _checked_frame(frame, "Table.to_array")
        expected, found = list(self.kinds), list(frame.columns)
        if set(expected) != set(found):
            raise ValueError(
                f"`Table.to_array` expects the columns {expected}. Received: a frame "
                f"without {[n for n in expected if n not in found]}, and with "
                f"{[n for n in found if n not in expected]} besides. Fill missing "
                "columns with None, and drop others."
            )
        parts = [_encoded(frame[column.name], column) for column in self._columns]
        return np.concatenate(parts, axis=1)

    def to_frame(self, x: Any, index: Any = None) -> "pd.DataFrame":
        """The frame of an array: original units, categories and dtypes.

        A probability, such as the mean of a binary column that was imputed, becomes the
        most probable value; the probabilities themselves are in
        `x[:, table.slices[name]]`. Numbers are rounded in columns of integers only.
        If a column's dtype cannot hold an entry (int64 no missing entry, int8 no 300),
        the column gets pandas' dtype `Int64`, `boolean` or `float64`.

        Args:
            x: Array of shape `(n, width)`, such as `vae.impute(x)` or
                `vae.generate(n)`.
            index: Index of the frame, such as that of the original; by default 0, 1,
                ...

        Returns:
            A `pandas.DataFrame`.

        Raises:
            ValueError: If x has another shape or an infinite entry, a category is
                missing in parts, or x is no probability or count where it should be.
        """
        pd = _pandas()
        x = _checked_array(x, self.width)
        index = pd.RangeIndex(len(x)) if index is None else pd.Index(index)
        if len(index) != len(x):
            raise ValueError(
                f"`Table.to_frame` expects an index with an entry for each of the "
                f"{len(x)} rows. Received: {len(index)}. Give that of the frame that "
                "the array was made from."
            )
        found, slices = {}, self.slices
        for column in self._columns:
            entries = _decoded(x[:, slices[column.name]], column)
            # Texts in a column of objects must not become another dtype.
            dtype = object if column.dtype == "object" else None
            found[column.name] = pd.Series(entries, index, dtype)
        return pd.DataFrame(found, index)

    def likelihood(self) -> Blockwise:
        """A new distribution layer for rows of the array: the last of a decoder.

        Returns:
            A `Blockwise`; neighbours of one kind are one block.
        """
        return Blockwise(
            [
                OneHotCategorical(run[0].width)
                if run[0].kind == CATEGORICAL
                else _LAYERS[run[0].kind](len(run))
                for run in self._runs()
            ]
        )

    def bias_initializer(self) -> keras.initializers.Constant:
        """Starts a decoder at the columns' marginal distributions.

        For the bias of the layer before the likelihood: each column has the mean and
        the variance, or the shares of values, of the frame's observed entries. Without
        it large counts take long to learn.

        Returns:
            A `keras.initializers.Constant` for a bias of length
            `likelihood().parameters_width`.
        """
        parts = [
            np.concatenate([column.marginal for column in run]).T.ravel()
            for run in self._runs()
        ]
        return keras.initializers.Constant(np.concatenate(parts).tolist())

    def _runs(self) -> list[list[Column]]:
        """Columns that are one block of the likelihood: neighbours of one kind."""
        runs: list[list[Column]] = []
        for column in self._columns:
            joins = runs and runs[-1][0].kind == column.kind != CATEGORICAL
            runs = [*runs[:-1], [*runs[-1], column]] if joins else [*runs, [column]]
        return runs

    def normalization(self) -> keras.layers.Normalization:
        """A new layer that standardises counts: the first of an encoder.

        The array has counts as they are. The layer subtracts the mean of each column of
        counts and divides by its standard deviation; it leaves other columns unchanged.

        Returns:
            A `keras.layers.Normalization` for rows of the array.
        """
        mean, variance = np.zeros(self.width), np.ones(self.width)
        slices = self.slices
        for column in self._columns:
            if column.kind == COUNT:
                place = slices[column.name]
                mean[place], variance[place] = column.mean, column.scale**2
        return keras.layers.Normalization(
            mean=mean.tolist(), variance=variance.tolist()
        )

    def get_config(self) -> dict[str, Any]:
        """What the table knows of each column, for JSON."""
        return {"columns": [dataclasses.asdict(column) for column in self._columns]}

    @classmethod
    @checked_config
    def from_config(cls, config: dict[str, Any]) -> "Table":
        """A table that reads and writes frames as the one that was saved."""
        columns = [Column(**column) for column in config["columns"]]
        for column in columns:
            several = column.kind in (BINARY, CATEGORICAL)
            valid = (
                column.kind in KINDS
                and column.family in (NUMBER, BOOLEAN, TEXT)
                and column.scale > 0
                and (not several or len(column.probs) == len(column.values) >= 2)
            )
            if not valid:
                raise ValueError(
                    "`Table.from_config` expects columns as `get_config` returns them. "
                    f"Received: {column}. Save the table again."
                )
        table = cls.__new__(cls)
        table._columns = tuple(columns)
        return table


def _pandas() -> Any:
    # Imported here, since only tables need it.
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError(
            f"Tables expect pandas. Received: {error}. Install it: "
            '`pip install "tfp-vae[examples]"`.'
        ) from error
    return pd


def _checked_frame(frame: Any, caller: str) -> Any:
    if not isinstance(frame, _pandas().DataFrame):
        raise ValueError(
            f"`{caller}` expects a `pandas.DataFrame`. Received: "
            f"{type(frame).__name__}. Make one, `pd.DataFrame(x, columns=[...])`."
        )
    names = list(frame.columns)
    integers = [isinstance(n, int) and not isinstance(n, bool) for n in names]
    if not all(isinstance(n, str) or i for n, i in zip(names, integers, strict=True)):
        raise ValueError(
            f"`{caller}` expects names of columns that are strings or integers. "
            f"Received: {names}. Rename them, `frame.columns = [...]`."
        )
    if len(set(names)) < len(names):
        twice = sorted({str(n) for n in names if names.count(n) > 1})
        raise ValueError(
            f"`{caller}` expects columns with different names. Received: {twice} more "
            "than once. Rename or drop some."
        )
    return frame


def _checked_kinds(kinds: Any, names: list[Any]) -> dict[Any, str]:
    valid = isinstance(kinds, dict) and all(
        name in names and isinstance(kind, str) and kind in KINDS
        for name, kind in kinds.items()
    )
    if not valid:
        raise ValueError(
            "`Table` expects `kinds` to be a dictionary from columns to some "
            f"of {KINDS}. Received: kinds={kinds!r} for the columns {names}. Name only "
            "columns whose kind is not to be inferred."
        )
    return kinds


def _wrong(name: Any, expected: str, received: str, advice: str) -> ValueError:
    return ValueError(
        f"`Table` expects {expected} in the column {name!r}. Received: {received}. "
        f"{advice}"
    )


def _read(series: Any, name: Any) -> tuple[str, Any, np.ndarray]:
    """The family of a column, its observed entries, and which are missing."""
    pd = _pandas()
    missing = series.isna().to_numpy(bool)
    observed = series[~missing]
    if not len(observed):
        return "", np.zeros(0), missing
    if isinstance(series.dtype, pd.CategoricalDtype):
        observed = observed.astype(series.dtype.categories.dtype)
    inferred = pd.api.types.infer_dtype(observed)
    family = _FAMILIES.get(inferred, "")
    if family == NUMBER and observed.dtype == object:
        family = ""  # Their dtype could not be restored.
    if not family:
        raise _wrong(
            name,
            "numbers, booleans, texts or a category dtype",
            f"dtype {series.dtype}, with entries of type {inferred!r}",
            "Convert it, `frame.convert_dtypes()`, make numbers of dates, or drop it.",
        )
    if family != NUMBER:
        return family, observed.to_numpy(bool if family == BOOLEAN else object), missing
    if pd.api.types.is_integer_dtype(observed.dtype):
        most = max(abs(int(observed.max())), abs(int(observed.min())))
        if most > _LARGEST_INTEGER:
            raise _wrong(
                name,
                "integers of at most 2**53",
                str(most),
                "Make texts of identifiers, or subtract a constant.",
            )
    values = observed.to_numpy("float64")
    if not np.isfinite(values).all():
        raise _wrong(
            name,
            "finite numbers",
            f"{np.count_nonzero(~np.isfinite(values))} infinite ones",
            "Replace them, by None if they are missing.",
        )
    return family, values, missing


def _column(series: Any, name: Any, kind: str | None) -> Column:
    """What is known of a column of the frame that a table is made from."""
    pd = _pandas()
    family, observed, _ = _read(series, name)
    distinct = pd.unique(pd.Series(observed))
    if len(distinct) < 2:
        raise _wrong(
            name,
            "two different entries or more",
            f"only {distinct.tolist()[0]!r}" if len(distinct) else "no observed one",
            "Drop the column.",
        )
    dtype, category = series.dtype, None
    known = sorted(distinct.tolist())
    if isinstance(dtype, pd.CategoricalDtype):
        known = dtype.categories.tolist()
        category = [str(dtype.categories.dtype), bool(dtype.ordered)]
    integers = category is None and pd.api.types.is_integer_dtype(dtype)
    if kind is None:
        kind = _kind(family, len(known), category is not None, integers, observed)
    if kind in (NUMERIC, COUNT) and (family != NUMBER or category is not None):
        raise _wrong(
            name,
            f"numbers, for the kind {kind!r},",
            f"dtype {dtype}",
            "Leave it out of `kinds`.",
        )
    if kind == BINARY and len(known) != 2:
        raise _wrong(
            name,
            "two values, for the kind 'binary',",
            f"{len(known)} different ones",
            "Give it the kind 'categorical'.",
        )
    scaled: dict[str, Any] = {}
    if kind in (BINARY, CATEGORICAL):
        counts = 1 + np.bincount(_codes(observed, known), minlength=len(known))
        scaled = {"values": known, "probs": (counts / counts.sum()).tolist()}
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            mean, scale = float(observed.mean()), float(observed.std())
        if not (np.isfinite([mean, scale]).all() and scale > 0):
            raise _wrong(
                name,
                "numbers with a mean and a standard deviation in float64",
                f"mean {mean}, standard deviation {scale}",
                "Rescale the column.",
            )
        scaled = {"mean": mean, "scale": scale}
    return Column(
        name,
        kind,
        "category" if category else str(dtype),
        family,
        category=category,
        **scaled,
    )


def _codes(observed: np.ndarray, values: list[Any]) -> np.ndarray:
    """The place of each entry in a list of values, -1 for others."""
    pd = _pandas()
    return pd.Index(values).get_indexer(pd.Index(observed))


def _kind(
    family: str, values: int, category: bool, integers: bool, observed: np.ndarray
) -> str:
    # Two fractions are more likely a short column of measurements.
    if values == 2 and (family != NUMBER or category or (observed % 1 == 0).all()):
        return BINARY
    if family == TEXT or category:
        return CATEGORICAL
    return COUNT if integers and observed.min() >= 0 else NUMERIC


def _encoded(series: Any, column: Column) -> np.ndarray:
    """The part of the array that is of one column."""
    pd = _pandas()
    family, observed, missing = _read(series, column.name)
    part = np.full((len(series), column.width), np.nan, "float32")
    if not len(observed):
        return part
    if family != column.family:
        raise _wrong(
            column.name,
            f"entries of type {column.family}",
            f"{family}, dtype {series.dtype}",
            "Convert it to the dtype of the frame that the table was made from.",
        )
    if column.kind in (BINARY, CATEGORICAL):
        codes = _codes(observed, column.values)
        if (codes < 0).any():
            raise _wrong(
                column.name,
                f"one of the {len(column.values)} values {_few(column.values)}",
                _few(pd.unique(observed[codes < 0]).tolist()),
                "Replace new ones, by None if they are unknown, or make the table from "
                "a frame that has all.",
            )
        rows = np.flatnonzero(~missing)
        if column.kind == BINARY:
            part[rows, 0] = codes
        else:
            part[rows] = 0.0
            part[rows, codes] = 1.0
        return part
    if column.kind == COUNT:
        fits = (observed >= 0) & (observed % 1 == 0) & (observed <= _LARGEST_COUNT)
        if not fits.all():
            raise _wrong(
                column.name,
                "counts: integers from 0 to 2**24, which float32 holds",
                _few(observed[~fits].tolist()),
                "Give the column the kind 'numeric'.",
            )
        part[~missing, 0] = observed
        return part
    with np.errstate(over="ignore"):
        part[~missing, 0] = (observed - column.mean) / column.scale
    again = column.mean + column.scale * part[~missing, 0].astype("float64")
    rounds = pd.api.types.is_integer_dtype(column.dtype)
    lost = np.rint(again) != observed if rounds else ~np.isfinite(again)
    if lost.any():
        raise _wrong(
            column.name,
            "integers that standardised float32 numbers hold"
            if rounds
            else "numbers near those that the table was made from",
            _few(observed[lost].tolist()),
            "Convert the column to float64, or make texts of identifiers."
            if rounds
            else "Replace them, or make the table from a frame that has such numbers.",
        )
    return part


def _few(values: list[Any]) -> str:
    shown = ", ".join(map(repr, values[:5]))
    return f"[{shown}{', ...' if len(values) > 5 else ''}]"


def _checked_array(x: Any, width: int) -> np.ndarray:
    try:
        array = np.asarray(x)
    except ValueError:
        array = np.zeros(0)
    if array.dtype.kind not in "biuf" or array.ndim != 2 or array.shape[1] != width:
        raise ValueError(
            f"`Table.to_frame` expects an array of shape (n, {width}). Received: "
            f"{type(x).__name__} of shape {array.shape} and dtype {array.dtype}. Give "
            "rows as `to_array` or the model returns them; of "
            "`vae.impute(x, draws=5)` give one draw at a time, such as `[0]`."
        )
    return array.astype("float64")


def _decoded(part: np.ndarray, column: Column) -> Any:
    """A column of the frame, from its part of the array."""
    missing = np.isnan(part).any(axis=1)
    seen = part[~missing]
    probable = column.kind in (BINARY, CATEGORICAL)
    valid = np.isfinite(seen).all() and (missing == np.isnan(part).all(axis=1)).all()
    if probable:
        valid &= ((seen >= -_ROUNDING) & (seen <= 1 + _ROUNDING)).all()
    if column.kind == CATEGORICAL:
        valid &= (np.abs(seen.sum(axis=1) - 1) <= _ROUNDING * column.width).all()
    if column.kind == COUNT:
        valid &= (seen >= 0).all()
    if not valid:
        raise _wrong(
            column.name,
            {
                BINARY: "probabilities",
                CATEGORICAL: "probabilities that add up to 1, or NaN for all",
                COUNT: "counts or means of counts",
            }.get(column.kind, "finite numbers or NaN"),
            f"numbers from {part.min(initial=np.inf)} to {part.max(initial=-np.inf)}",
            "Give rows as `to_array` or the model returns them.",
        )
    if not probable:
        numbers = np.full(len(part), np.nan)
        numbers[~missing] = column.mean + column.scale * seen[:, 0]
        if column.kind == COUNT:
            numbers[~missing] = seen[:, 0]
        return _as_numbers(numbers, column.dtype)
    codes = np.full(len(part), -1)
    codes[~missing] = (
        seen.argmax(axis=1) if column.kind == CATEGORICAL else seen[:, 0] >= 0.5
    )
    return _as_values(codes, column)


def _as_values(codes: np.ndarray, column: Column) -> Any:
    """Values of a binary or categorical column, -1 for a missing one."""
    pd = _pandas()
    if column.category is not None:
        dtype, ordered = column.category
        categories = pd.Index(column.values, dtype=dtype)
        return pd.Categorical.from_codes(codes, categories, ordered=ordered)
    if column.family == NUMBER:
        numbers = np.array([*column.values, np.nan], "float64")[codes]
        return _as_numbers(numbers, column.dtype)
    values = np.array([*column.values, None], object)[codes]
    if column.dtype == "object":
        return values
    lacks = column.dtype == "bool" and (codes < 0).any()
    return pd.array(values, dtype="boolean" if lacks else column.dtype)


def _as_numbers(numbers: np.ndarray, dtype: str) -> Any:
    """Numbers with a dtype of pandas; integers are rounded, NaN is missing."""
    pd = _pandas()
    if not pd.api.types.is_integer_dtype(dtype):
        with np.errstate(over="ignore"):
            found = pd.array(numbers, dtype=dtype)
        finite = np.isfinite(np.asarray(found, "float64"))
        return found if finite[~np.isnan(numbers)].all() else numbers
    missing = np.isnan(numbers)
    rounded = np.rint(np.where(missing, 0, numbers))
    if (np.abs(rounded) >= 2.0**63).any():  # beyond int64
        return numbers
    whole = rounded.astype("int64")
    integers = pd.arrays.IntegerArray(whole, missing)
    try:
        found = integers.astype(dtype)
    except (ValueError, TypeError):  # no missing entries in this dtype
        return integers
    kept = np.asarray(pd.array(found)[~missing].astype("int64")) == whole[~missing]
    return found if kept.all() else integers
