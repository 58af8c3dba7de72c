"""From any DataFrame to a typed table, cell by cell and row by row.

Every treatment looks at one row only, so the encoding of a row is the same alone and in any table. How many
cells were clipped, nulled, dropped or unknown is private and never returned.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dpforge.data.columns import UNKNOWN, Column
from dpforge.data.frames import float_values, series_of
from dpforge.data.grid import Grid, column_grid, from_ticks, to_ticks
from dpforge.errors import DataError, did_you_mean

_FRACTION = re.compile(r"(?<=:\d\d)[.,]\d+")

if TYPE_CHECKING:
    from dpforge.data.schema import Schema

MISSING, UNSEEN = -1, -2


@dataclass(frozen=True)
class TypedColumn:
    """One column of a typed table before rows are dropped.

    Args:
        values: Typed values, one per input row.
        keep: Which rows the column's policies keep, bool.
        unreadable: Whether every cell holds something that cannot be read as the column's kind.
    """

    values: pd.Series
    keep: np.ndarray
    unreadable: bool = False


@dataclass(frozen=True)
class Conformed:
    """A typed table, which input rows it kept, and the columns with nothing but unreadable cells."""

    frame: pd.DataFrame
    keep: np.ndarray
    unreadable: frozenset[str]


def conform(frame: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Turn any DataFrame (texts or typed) into a typed table of the schema.

    Applies ``null_tokens``, ``outside`` and ``unseen``; moves numbers to their public grid; drops a row with
    a missing or unreadable cell in a number column that is not nullable. Ignores extra columns. Idempotent.

    Args:
        frame: Table with at least the schema's columns, one row per record.
        schema: The public schema.

    Returns:
        Columns in schema order with a fresh index: categorical (``CategoricalDtype`` of ``Column.levels``;
        plain ``str`` while the category set is private), ``Int64``, ``float64``, ``datetime64[s]``.

    Raises:
        DataError: A column of the schema is absent or appears twice.
    """
    return conform_rows(frame, schema).frame


def conform_rows(frame: pd.DataFrame, schema: Schema) -> Conformed:
    """``conform`` together with what the reader needs to know about it."""
    check_columns(frame.columns, schema.names)
    typed = {column.name: typed_column(series_of(frame, column.name), column) for column in schema.columns}
    keep = np.ones(len(frame), dtype=bool)
    for part in typed.values():
        keep &= part.keep
    table = pd.DataFrame({name: part.values for name, part in typed.items()})
    return Conformed(
        frame=table.loc[keep].reset_index(drop=True),
        keep=keep,
        unreadable=frozenset(name for name, part in typed.items() if part.unreadable),
    )


def check_columns(found: Sequence[str] | pd.Index, wanted: Sequence[str]) -> None:
    """Raise ``DataError`` if a wanted column is absent or repeated; foreign names are never shown."""
    names = [str(name) for name in found]
    absent = [name for name in wanted if name not in names]
    if absent:
        near = [name for name in absent if did_you_mean(name.lower(), [other.lower() for other in names])]
        hint = f" The table has a similar name for {_quoted(near)} (check case and blanks)." if near else ""
        raise DataError(
            f"the schema names {_quoted(absent)}, absent among the {len(names)} columns of the table.{hint} "
            "Correct the schema, or map file names to schema names with format.rename"
        )
    twice = [name for name in wanted if names.count(name) > 1]
    if twice:
        raise DataError(f"column {_quoted(twice)} appears more than once in the table; rename or remove one")


def _quoted(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:20])
    return shown if len(names) <= 20 else f"{shown} and {len(names) - 20} more"


def typed_column(series: pd.Series, column: Column) -> TypedColumn:
    """One column as its schema type, and the rows its policies keep."""
    if column.kind == "categorical":
        return _categorical(series, column)
    values, present = column_numbers(series, column)
    parsed = ~np.isnan(values)
    values, keep = _within(values, column, column_grid(column))
    return TypedColumn(
        values=_as_kind(values, column),
        keep=keep & (column.nullable | ~np.isnan(values)),
        unreadable=bool(len(values) and present.all() and not parsed.any()),
    )


def _within(values: np.ndarray, column: Column, grid: Grid | None) -> tuple[np.ndarray, np.ndarray]:
    """Values after the ``outside`` policy and the grid, and the rows that ``outside: drop`` keeps."""
    keep = np.ones(len(values), dtype=bool)
    if grid is None:
        return np.where(np.isfinite(values), values, np.nan), keep
    if column.outside != "clip":
        slack = grid.step / 2 if grid.step else 0.0
        outside = (values < grid.low - slack) | (values > grid.high + slack)
        values = np.where(outside, np.nan, values)
        keep = ~outside if column.outside == "drop" else keep
    return grid.snap(values), keep


def _as_kind(values: np.ndarray, column: Column) -> pd.Series:
    if column.kind == "datetime":
        return pd.Series(from_ticks(values, column))
    if column.kind == "numeric":
        return pd.Series(values)
    missing = np.isnan(values)
    return pd.Series(pd.arrays.IntegerArray(np.where(missing, 0, values).round().astype(np.int64), missing))


def column_numbers(series: pd.Series, column: Column) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of a number column (ticks of a datetime column), NaN where missing or unreadable.

    Returns:
        Values, float64 ``(n,)``, and which cells are not missing, bool ``(n,)``.
    """
    if column.kind == "datetime":
        stamps, present = column_moments(series, column)
        return to_ticks(stamps, column), present
    if pd.api.types.is_numeric_dtype(series.dtype):
        values = float_values(series)
        present = ~np.isnan(values)
    else:
        codes, uniques = texts(series)
        blank = is_null_text(uniques, column)
        parsed = np.array([parse_number(text) for text in uniques], dtype=np.float64)
        parsed[blank] = np.nan
        values = np.append(parsed, np.nan)[codes]
        present = np.append(~blank, False)[codes]
    tokens = [number for number in map(parse_number, column.null_tokens) if np.isfinite(number)]
    null = np.isin(values, tokens)
    return np.where(null, np.nan, values), present & ~null


def column_moments(series: pd.Series, column: Column) -> tuple[np.ndarray, np.ndarray]:
    """Times (UTC if zoned) as datetime64[s], NaT where unreadable, and which cells are not missing."""
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        stamps = _utc_seconds(pd.DatetimeIndex(series))
        return stamps, ~np.isnat(stamps)
    codes, uniques = texts(series)
    blank = is_null_text(uniques, column)
    cells = pd.Index(uniques, dtype=object).where(~blank, None)
    parsed = _parse_moments(cells, column.format or "ISO8601")
    if column.format:
        parsed = np.where(np.isnat(parsed), _parse_moments(cells, "ISO8601"), parsed)
    return np.append(parsed, np.datetime64("NaT", "s"))[codes], np.append(~blank, False)[codes]


def _parse_moments(cells: pd.Index, form: str) -> np.ndarray:
    if form == "ISO8601":
        # One fraction of nanoseconds would bound the years of all other cells.
        cells = pd.Index([c and _FRACTION.sub("", c) for c in cells], dtype=object)
    return _utc_seconds(pd.DatetimeIndex(pd.to_datetime(cells, format=form, errors="coerce", utc=True)))


def _utc_seconds(index: pd.DatetimeIndex) -> np.ndarray:
    plain = index.tz_convert(None) if index.tz is not None else index
    return plain.to_numpy().astype("datetime64[s]")


def texts(series: pd.Series) -> tuple[np.ndarray, list[str]]:
    """The distinct cells as texts and the number of each row's text; -1 for a missing cell."""
    if isinstance(series.dtype, pd.CategoricalDtype):
        return series.cat.codes.to_numpy().astype(np.int64), [_text(value) for value in series.cat.categories]
    if series.dtype == object and pd.api.types.infer_dtype(series, skipna=True) != "string":
        series = pd.Series([_text_or_none(value) for value in series], dtype=object)
    codes, uniques = pd.factorize(series)
    if series.dtype == object:
        return codes, list(uniques)
    return codes, [_text(value) for value in uniques]


def _text(value: Any) -> str:
    """A cell as text; a whole float loses its ``.0`` so that codes read from different files agree."""
    if isinstance(value, float | np.floating) and np.isfinite(value) and value == int(value):
        return str(int(value))
    return str(value)


def _text_or_none(value: Any) -> str | None:
    return None if pd.api.types.is_scalar(value) and pd.isna(value) else _text(value)


def is_null_text(uniques: Sequence[str], column: Column) -> np.ndarray:
    """Which texts mean *missing*: the blank text and the column's null tokens."""
    tokens = {"", *column.null_tokens}
    return np.array([text in tokens or text.strip() in tokens for text in uniques], dtype=bool)


def parse_number(text: str) -> float:
    """The number a text spells, possibly infinite; NaN if it spells none."""
    if "_" in text:
        return np.nan
    try:
        return float(text)
    except ValueError:
        return np.nan


def category_codes(uniques: Sequence[str], column: Column) -> np.ndarray:
    """Number of each text's category in schema order; ``MISSING`` or ``UNSEEN`` for the others."""
    values = column.categories.values if column.categories else ()
    index = pd.Index(values, dtype=object)
    cells = np.empty(len(uniques), dtype=object)
    cells[:] = list(uniques)
    codes = index.get_indexer(pd.Index(cells, dtype=object)).astype(np.int64)
    for spelling in (str.strip, _whole_number):
        if spelling is _whole_number and not any(value.lstrip("-").isdigit() for value in values):
            continue
        left = np.flatnonzero(codes < 0)
        codes[left] = index.get_indexer(pd.Index([spelling(cell) for cell in cells[left]], dtype=object))
    blank = (codes < 0) & is_null_text(uniques, column)
    return np.where(blank, MISSING, np.where(codes < 0, UNSEEN, codes))


def _whole_number(text: str) -> str:
    """``1.0`` as ``1``; any other text as it is."""
    number = parse_number(text)
    return str(int(number)) if np.isfinite(number) and number == int(number) else text


def categorical_dtype(column: Column) -> pd.CategoricalDtype:
    """The dtype of a public categorical column: its levels in schema order, unordered."""
    return pd.CategoricalDtype(pd.Index(column.levels, dtype="str"), ordered=False)


def _categorical(series: pd.Series, column: Column) -> TypedColumn:
    codes, uniques = texts(series)
    if column.open_categories:
        return _open_categorical(codes, uniques, column)
    found = np.append(category_codes(uniques, column), MISSING)[codes]
    keep = np.ones(len(found), dtype=bool)
    unlisted = found == UNSEEN if column.nullable else found < 0
    if column.unseen == "drop":
        keep = ~unlisted
    found = np.where(unlisted, _unseen_code(column), found)
    return TypedColumn(pd.Series(pd.Categorical.from_codes(found, dtype=categorical_dtype(column))), keep)


def _unseen_code(column: Column) -> int:
    if column.unseen == "drop":
        return MISSING
    return column.levels.index(UNKNOWN if column.unseen == "unknown" else str(column.unseen_map))


def _open_categorical(codes: np.ndarray, uniques: Sequence[str], column: Column) -> TypedColumn:
    blank = is_null_text(uniques, column)
    missing = np.append(blank, True)[codes]
    cells = np.array([*(text.strip() for text in uniques), ""], dtype=object)[codes]
    keep = np.ones(len(codes), dtype=bool)
    if column.nullable or column.unseen == "drop":
        cells[missing] = None
        keep = keep if column.nullable else ~missing
    else:
        cells[missing] = column.unseen_map or UNKNOWN
    return TypedColumn(pd.Series(cells, dtype="str"), keep)
