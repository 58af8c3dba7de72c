"""Rows as cell codes and back. Built from the schema alone; everything here is local to a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dpforge.data.columns import UNKNOWN, Column
from dpforge.data.conform import MISSING, UNSEEN, categorical_dtype, category_codes, check_columns, texts
from dpforge.data.encode.layout import (
    ColumnCells,
    ValueCells,
    describe_categories,
    describe_values,
    value_cells,
)
from dpforge.data.frames import float_values, series_of
from dpforge.data.grid import from_ticks, to_ticks
from dpforge.data.schema import Schema
from dpforge.errors import ConfigError, DataError

__all__ = ["CellCodec", "Cells", "ColumnCells"]

_BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))


@dataclass(frozen=True)
class Cells:
    """An encoded table.

    Args:
        codes: Cell of each value, int32 ``(n, d)``.
        position: Place inside the cell in [0, 1), float32 ``(n, d)``; 0 for atoms.
    """

    codes: np.ndarray
    position: np.ndarray


class CellCodec:
    """Codes of every column of a schema: categorical, discrete and binned columns.

    Construction reads no data. Encoding a row gives the same codes alone and in any table.

    Args:
        schema: The public schema, with private bounds, categories and bins already bought.
        default_bins: Bins of a numeric, datetime or wide integer column without ``bins`` of its own.
        discrete_max: Largest number of values for which an integer column gets one cell a value.

    Raises:
        ConfigError: Bounds, categories or bins are still private, or an argument is below 1.
    """

    def __init__(self, schema: Schema, *, default_bins: int = 32, discrete_max: int = 128) -> None:
        if default_bins < 1 or discrete_max < 0:
            raise ConfigError(
                f"default_bins={default_bins}, discrete_max={discrete_max}: expected >= 1 and >= 0"
            )
        self.schema = schema
        self._codecs = tuple(_codec(column, default_bins, discrete_max) for column in schema.columns)
        self.columns: tuple[ColumnCells, ...] = tuple(codec.cells for codec in self._codecs)
        self.sizes: tuple[int, ...] = tuple(cells.size for cells in self.columns)

    @property
    def offsets(self) -> np.ndarray:
        """Number of cells before each column, int64 ``(d + 1,)``; the last entry is the total."""
        return np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)

    def encode(self, frame: pd.DataFrame) -> Cells:
        """Encode a typed table of ``n`` rows. Values outside the bounds fall into the outermost cells.

        Raises:
            DataError: A column is absent, or holds a missing or unlisted value that the schema forbids.
        """
        check_columns(frame.columns, self.schema.names)
        codes = np.zeros((len(frame), len(self.columns)), dtype=np.int32)
        position = np.zeros(codes.shape, dtype=np.float32)
        for j, codec in enumerate(self._codecs):
            codes[:, j], position[:, j] = codec.encode(series_of(frame, codec.cells.name))
        return Cells(codes, position)

    def decode(
        self, codes: np.ndarray, rng: np.random.Generator, position: np.ndarray | None = None
    ) -> pd.DataFrame:
        """Turn codes into a typed table.

        Args:
            codes: Integers ``(n, d)``, column ``j`` in ``[0, sizes[j])``.
            rng: Public randomness for the place inside a cell and for ``decode_unknown: resample``.
            position: Place inside the cell in [0, 1), float ``(n, d)``; default uniform.

        Returns:
            A typed table on the public grid. A bin never yields a special value.

        Raises:
            DataError: The shape of ``codes`` or a code does not fit the schema.
        """
        codes = np.asarray(codes)
        self._check_codes(codes)
        place = rng.random(codes.shape) if position is None else np.clip(position, 0.0, 1.0)
        decoded = {c.cells.name: c.decode(codes[:, j], place[:, j], rng) for j, c in enumerate(self._codecs)}
        return pd.DataFrame(decoded, columns=list(self.schema.names))

    def _check_codes(self, codes: np.ndarray) -> None:
        if codes.ndim != 2 or codes.shape[1] != len(self.sizes) or codes.dtype.kind not in "iu":
            raise DataError(
                f"codes have shape {codes.shape} and dtype {codes.dtype}; "
                f"expected integers (n, {len(self.sizes)})"
            )
        if len(codes) and (codes.min() < 0 or (codes.max(axis=0) >= np.asarray(self.sizes)).any()):
            raise DataError(f"a code is outside its column's cells; the columns have {self.sizes} cells")

    def histogram(self, codes: np.ndarray) -> list[np.ndarray]:
        """Count the rows in each cell: one int64 array of ``sizes[j]`` counts a column."""
        self._check_codes(np.asarray(codes))
        return [np.bincount(codes[:, j], minlength=size) for j, size in enumerate(self.sizes)]


def _codec(column: Column, default_bins: int, discrete_max: int) -> _CategoryCodec | _ValueCodec:
    if column.kind == "categorical":
        return _CategoryCodec(column, describe_categories(column))
    if column.open_bins:
        raise ConfigError(
            f"the bins of column '{column.name}' are private and not bought yet; release them first "
            "or give public bins"
        )
    cells = value_cells(column, default_bins=default_bins, discrete_max=discrete_max)
    return _ValueCodec(column, describe_values(column, cells), cells)


def _refuse(column: Column, what: str) -> DataError:
    return DataError(
        f"column '{column.name}' holds {what}, which its schema forbids; pass the table through conform first"
    )


@dataclass(frozen=True)
class _CategoryCodec:
    """Codes of a categorical column."""

    column: Column
    cells: ColumnCells

    @property
    def _lead(self) -> int:
        return self.column.nullable + self.column.has_unknown

    def encode(self, series: pd.Series) -> tuple[np.ndarray, float]:
        """Codes ``(n,)`` and the position of an atom."""
        rows, uniques = texts(series)
        found = np.append(category_codes(uniques, self.column), MISSING)[rows]
        if not self.column.nullable and (found == MISSING).any() and not self.column.has_unknown:
            raise _refuse(self.column, "a missing value")
        codes = np.where(found == UNSEEN, self._unseen(bool((found == UNSEEN).any())), found + self._lead)
        # Code 0 is null; without null it is unknown, which takes the missing cells.
        return np.where(found == MISSING, 0, codes), 0.0

    def _unseen(self, needed: bool) -> int:
        if self.column.has_unknown:
            return int(self.column.nullable)
        if self.column.unseen == "map":
            return self._lead + self.column.levels.index(str(self.column.unseen_map))
        if needed:
            raise _refuse(self.column, "an unlisted category")
        return 0

    def decode(self, codes: np.ndarray, place: np.ndarray, rng: np.random.Generator) -> pd.Categorical:
        """Categories of the codes, with ``decode_unknown`` applied."""
        found = codes.astype(np.int64) - self._lead
        if self.column.has_unknown:
            unknown = codes == int(self.column.nullable)
            found = np.where(unknown, self._written_unknown(found, unknown, rng), found)
        if self.column.nullable:
            found = np.where(codes == 0, MISSING, found)
        return pd.Categorical.from_codes(found, dtype=categorical_dtype(self.column))

    def _written_unknown(
        self, found: np.ndarray, unknown: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray | int:
        """What stands for a generated ``unknown``; resampling draws from the other generated categories."""
        policy = self.column.decode_unknown
        if policy == "null" and self.column.nullable:
            return MISSING
        if policy != "resample":
            return self.column.levels.index(UNKNOWN)
        pool = found[~unknown & (found >= 0)]
        values = pool if len(pool) else np.arange(self.cells.size - self._lead)
        return values[rng.integers(len(values), size=len(found))]


@dataclass(frozen=True)
class _ValueCodec:
    """Codes of an integer, numeric or datetime column."""

    column: Column
    cells: ColumnCells
    values: ValueCells

    def encode(self, series: pd.Series) -> tuple[np.ndarray, np.ndarray]:
        """Codes and positions, each ``(n,)``."""
        numbers = self._numbers(series)
        missing = np.isnan(numbers)
        if missing.any() and not self.column.nullable:
            raise _refuse(self.column, "a missing value")
        grid, layout = self.values.grid, self.values
        numbers = np.where(missing, grid.low, np.clip(numbers, grid.low, grid.high))
        units = numbers if grid.step is None else grid.index(numbers)
        code = self._locate(units)
        width = np.where(layout.high > layout.low, layout.high - layout.low, 1.0)[code]
        position = np.where(layout.atom[code], 0.0, (units - layout.low[code]) / width)
        code = self._on_points(numbers, code)
        position = np.where(layout.atom[code] | missing, 0.0, position).astype(np.float32)
        return np.where(missing, 0, code + self.column.nullable), np.clip(position, 0, _BELOW_ONE)

    def _numbers(self, series: pd.Series) -> np.ndarray:
        if self.column.kind == "datetime":
            return to_ticks(series.to_numpy(), self.column)
        return float_values(series)

    def _locate(self, units: np.ndarray) -> np.ndarray:
        """Number of the cell with a width that contains each grid unit."""
        wide = np.flatnonzero(self.values.high > self.values.low)
        return wide[
            np.clip(np.searchsorted(self.values.low[wide], units, side="right") - 1, 0, len(wide) - 1)
        ]

    def _on_points(self, numbers: np.ndarray, code: np.ndarray) -> np.ndarray:
        """The cell numbers, with special values off the grid moved to their own cells."""
        points = np.asarray(self.values.grid.points, dtype=np.float64)
        if not len(points):
            return code
        narrow = np.flatnonzero(self.values.high == self.values.low)
        nearest = np.minimum(np.searchsorted(points, numbers), len(points) - 1)
        return np.where(points[nearest] == numbers, narrow[nearest], code)

    def decode(self, codes: np.ndarray, place: np.ndarray, rng: np.random.Generator) -> object:
        """Typed values of the codes at their places inside the cells."""
        missing = (codes == 0) if self.column.nullable else np.zeros(len(codes), dtype=bool)
        code = np.where(missing, 0, codes.astype(np.int64) - self.column.nullable)
        draw: Callable[[np.ndarray, np.ndarray], np.ndarray] = (
            self._continuous if self.values.grid.step is None else self._on_grid
        )
        atoms = self.cells.lower[code + self.column.nullable]
        numbers = np.where(self.values.atom[code], atoms, draw(code, place))
        return self._typed(np.where(missing, np.nan, numbers))

    def _on_grid(self, code: np.ndarray, place: np.ndarray) -> np.ndarray:
        low, high = self.values.low[code], self.values.high[code]
        steps = high - low
        # Half a float32 ulp of room, so that an encoded position finds its own grid point again.
        step = np.floor(place * steps + steps * 2.0**-23)
        return self.values.grid.value(np.maximum(np.minimum(low + step, high - 1), low))

    def _continuous(self, code: np.ndarray, place: np.ndarray) -> np.ndarray:
        low, high = self.values.low[code], self.values.high[code]
        inside = np.minimum(low + place * (high - low), high)
        inside = np.where(
            (inside >= high) & (high < self.values.grid.high), np.nextafter(high, -np.inf), inside
        )
        special = self.values.grid.is_point(inside)
        towards = np.where(inside >= self.values.grid.high, -np.inf, np.inf)
        return np.where(special, np.nextafter(inside, towards), inside)

    def _typed(self, numbers: np.ndarray) -> object:
        if self.column.kind == "datetime":
            return from_ticks(numbers, self.column)
        if self.column.kind == "numeric":
            return numbers
        missing = np.isnan(numbers)
        return pd.arrays.IntegerArray(np.where(missing, 0, numbers).astype(np.int64), missing)
