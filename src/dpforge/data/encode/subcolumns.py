"""Rows as categorical sub-columns and back, for generators that model one short code after another.

Built from the schema alone: names, cardinalities and labels never depend on a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from dpforge.data.columns import Column
from dpforge.data.conform import check_columns, typed_column
from dpforge.data.encode.cells import CellCodec
from dpforge.data.encode.subcolumn_layout import Entry, argument_mistakes, describe, entries, lay_out
from dpforge.data.frames import float_values, series_of
from dpforge.data.grid import from_ticks, to_ticks
from dpforge.data.schema import Schema
from dpforge.errors import ConfigError, DataError

__all__ = ["SubColumnCodec"]


class SubColumnCodec:
    """Codes of every column of a schema, each code short enough for an embedding and a softmax.

    A column is one sub-column with the codes of :class:`CellCodec` (codecs ``categorical``, ``discrete``,
    ``binned``) or several (``digit``, ``datetime_parts``, and any column of more than ``split_above`` cells,
    as high and low half of its cell number). A nullable column of several sub-columns begins with
    ``is_null``; the others are 0 where it is 1, and are then ignored. ``unknown`` is an ordinary code, and so
    are special values outside ``digit`` columns, where they are numbers like all others.

    Args:
        schema: The public schema, with private bounds and categories already bought.
        codecs: Codec by column name, before the column's own ``codec``; ``auto`` means ``categorical``,
            ``discrete`` (integers of at most ``discrete_max`` values without bins) or ``binned``.
        default_bins: Bins of a binned column without ``bins`` of its own.
        discrete_max: Largest number of values for which ``auto`` gives an integer column one code a value.
        split_above: Largest number of cells that one sub-column holds.

    Raises:
        ConfigError: With every mistake: an unknown column or codec, a codec that does not fit the column,
            bounds or categories that are still private, an argument out of its range.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        codecs: Mapping[str, str] | None = None,
        default_bins: int = 32,
        discrete_max: int = 128,
        split_above: int = 1024,
    ) -> None:
        mistakes = argument_mistakes(schema, codecs or {}, default_bins, discrete_max, split_above)
        found, more = lay_out(schema, codecs or {}, max(default_bins, 1))
        if mistakes or more:
            raise ConfigError([*mistakes, *more])
        self.schema = schema
        with_cells = tuple(part for part in found if isinstance(part, Column))
        inner = replace(schema, columns=with_cells, target=None, constraints=())
        self._cells = CellCodec(inner, default_bins=default_bins, discrete_max=discrete_max)
        self._entries = entries(schema, found, self._cells, split_above)
        self.columns: tuple[tuple[int, ...], ...] = tuple(entry.subs for entry in self._entries)
        self.null_of: tuple[int, ...] = tuple(
            -1 if sub == entry.null else entry.null for entry in self._entries for sub in entry.subs
        )
        described = [sub for entry in self._entries for sub in describe(entry, self._cells)]
        self.names: tuple[str, ...] = tuple(sub.name for sub in described)
        self.sizes: tuple[int, ...] = tuple(len(sub.labels) for sub in described)
        self.ordered: tuple[bool, ...] = tuple(sub.ordered for sub in described)
        self._labels = tuple(sub.labels for sub in described)

    def labels(self, sub: int) -> tuple[str, ...]:
        """One printable text for each code of a sub-column."""
        return self._labels[sub]

    def encode(self, frame: pd.DataFrame, out: np.ndarray | None = None) -> np.ndarray:
        """Encode a typed table of ``n`` rows, each row as it would be alone.

        Args:
            frame: A typed table; values outside the bounds count as the nearest one within.
            out: Where to write, integers ``(n, S)``, for example a slice of a memory-mapped array.

        Returns:
            Codes int32 ``(n, S)``, or ``out``.

        Raises:
            DataError: A column is absent, holds a missing or unlisted value that the schema forbids, or
                ``out`` does not fit.
        """
        check_columns(frame.columns, self.schema.names)
        out = self._target(len(frame), out)
        cells = self._cells.encode(frame).codes
        for entry in self._entries:
            if entry.parts is None:
                out[:, entry.subs[0]] = cells[:, entry.cell]
                continue
            missing, values = _values(entry, frame, cells)
            codes = entry.parts.split(values)
            codes[missing] = 0
            out[:, entry.values] = codes
            if entry.null >= 0:
                out[:, entry.null] = missing
        return out

    def _target(self, rows: int, out: np.ndarray | None) -> np.ndarray:
        shape = (rows, len(self.sizes))
        if out is None:
            return np.empty(shape, dtype=np.int32)
        if out.shape != shape or out.dtype.kind not in "iu" or np.iinfo(out.dtype).max < max(self.sizes) - 1:
            raise DataError(
                f"out has shape {out.shape} and dtype {out.dtype}; expected integers {shape} that can hold "
                f"{max(self.sizes) - 1}"
            )
        return out

    def decode(self, codes: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
        """Turn codes into a typed table that satisfies the schema, its constraints apart.

        Args:
            codes: Integers ``(n, S)``, sub-column ``s`` in ``[0, sizes[s])``, in any combination.
            rng: Public randomness for the place in a bin, ``decode_unknown: resample`` and combinations
                beyond the last cell of a split column.

        Raises:
            DataError: The shape of ``codes`` or a code does not fit.
        """
        codes = np.asarray(codes)
        self._check(codes)
        cells = np.empty((len(codes), len(self._cells.sizes)), dtype=np.int64)
        decoded: dict[str, pd.Series] = {}
        for entry in self._entries:
            if entry.parts is None:
                cells[:, entry.cell] = codes[:, entry.subs[0]]
                continue
            missing = _missing(codes, entry)
            values = entry.parts.join(codes[:, entry.values], rng)
            if entry.cell >= 0:
                cells[:, entry.cell] = np.where(missing, 0, values + entry.column.nullable)
            else:
                decoded[entry.column.name] = _typed(np.where(missing, np.nan, values), entry.column)
        if self._cells.sizes:
            table = self._cells.decode(cells, rng)
            decoded |= {name: series_of(table, name) for name in table.columns}
        return pd.DataFrame(decoded, columns=list(self.schema.names))

    def histogram(self, codes: np.ndarray) -> list[np.ndarray]:
        """Count the rows of each code: int64 ``(sizes[s],)`` a sub-column.

        A row adds at most 1 to each sub-column. The value sub-columns of a missing cell count nothing, so
        their totals are below ``n`` where ``null_of`` is not -1.
        """
        codes = np.asarray(codes)
        self._check(codes)
        shown = {entry.null: codes[:, entry.null] == 0 for entry in self._entries if entry.null >= 0}
        return [
            np.bincount(codes[:, s] if null < 0 else codes[shown[null], s], minlength=size)
            for s, (size, null) in enumerate(zip(self.sizes, self.null_of, strict=True))
        ]

    def _check(self, codes: np.ndarray) -> None:
        if codes.ndim != 2 or codes.shape[1] != len(self.sizes) or codes.dtype.kind not in "iu":
            raise DataError(
                f"codes have shape {codes.shape} and dtype {codes.dtype}; "
                f"expected integers (n, {len(self.sizes)})"
            )
        if len(codes) and (codes.min() < 0 or (codes.max(axis=0) >= np.asarray(self.sizes)).any()):
            raise DataError(f"a code is outside its sub-column; the sub-columns have {self.sizes} codes")


def _values(entry: Entry, frame: pd.DataFrame, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which cells of a column are missing, and what its parts split (anything valid where missing)."""
    column = entry.column
    if entry.cell >= 0:
        numbers = cells[:, entry.cell] - column.nullable
        missing = numbers < 0
        return missing, np.where(missing, 0, numbers)
    series = series_of(frame, column.name)
    stamped = column.kind == "datetime"
    numbers = to_ticks(series.to_numpy(), column) if stamped else float_values(series)
    missing = np.isnan(numbers)
    if missing.any() and not column.nullable:
        raise DataError(
            f"column '{column.name}' holds a missing value, which its schema forbids; "
            "pass the table through conform first"
        )
    return missing, np.where(missing, 0.0, numbers)


def _missing(codes: np.ndarray, entry: Entry) -> np.ndarray:
    return codes[:, entry.null] == 1 if entry.null >= 0 else np.zeros(len(codes), dtype=bool)


def _typed(numbers: np.ndarray, column: Column) -> pd.Series:
    """Numbers on the grid (ticks of a datetime column) as the column's type; NaN becomes missing."""
    plain = pd.Series(from_ticks(numbers, column) if column.kind == "datetime" else numbers)
    return typed_column(plain, column).values
