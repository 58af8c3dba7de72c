"""Typed tables: read, conform, check and write them.

A typed table is a DataFrame with the schema's columns in order: categorical columns as ``CategoricalDtype``
(plain ``str`` while the category set is private), integers as ``Int64``, numerics as ``float64`` with NaN for
missing, and datetimes as ``datetime64[s]``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from dpforge.data.columns import RESOLUTION_SECONDS, Column
from dpforge.data.conform import (
    categorical_dtype,
    column_moments,
    column_numbers,
    conform,
    conform_rows,
    is_null_text,
    texts,
)
from dpforge.data.constraints import repair, satisfied
from dpforge.data.frames import series_of
from dpforge.data.grid import column_grid
from dpforge.data.opening import replacing
from dpforge.data.reading import TableFormat, read_table
from dpforge.data.schema import Schema
from dpforge.errors import ConfigError

__all__ = [
    "TableFormat",
    "categorical_dtype",
    "conform",
    "read_table",
    "repair",
    "satisfied",
    "violations",
    "write_table",
]

VIOLATIONS = ("type", "bounds", "grid", "category", "null", "constraint", "missing_column", "extra_column")


def write_table(frame: pd.DataFrame, path: Path | str) -> None:
    """Write a table to ``.parquet``, ``.csv`` or ``.csv.gz``; the file appears complete or not at all.

    Raises:
        ConfigError: The ending is another one.
        DataError: The disk is full or the folder cannot be written.
    """
    path = Path(path)
    ending = "".join(path.suffixes[-2:]).lower() if path.suffix == ".gz" else path.suffix.lower()
    if ending not in (".parquet", ".csv", ".csv.gz"):
        raise ConfigError(f"cannot write a table to {path.name}: end the name in .parquet, .csv or .csv.gz")
    with replacing(path) as temporary:
        if ending == ".parquet":
            frame.to_parquet(temporary, index=False)
        else:
            frame.to_csv(temporary, index=False, compression="gzip" if ending.endswith(".gz") else None)


def violations(frame: pd.DataFrame, schema: Schema) -> dict[str, int]:
    """Count what keeps a table from being a valid table of the schema.

    Args:
        frame: Any DataFrame, typed or of texts.
        schema: The public schema.

    Returns:
        Number of cells of a wrong ``type``, outside the ``bounds``, off the ``grid``, of no listed
        ``category``, or missing where that is not allowed (``null``); of rows that break a
        ``constraint``; and of columns missing or too many. All zero means valid.
    """
    counts: dict[str, int] = dict.fromkeys(VIOLATIONS, 0)
    present = [name for name in schema.names if name in frame.columns]
    counts["missing_column"] = len(schema.names) - len(present)
    counts["extra_column"] = len(frame.columns) - len(present)
    for name in present:
        column = schema.column(name)
        count = _category_violations if column.kind == "categorical" else _number_violations
        for key, cells in count(series_of(frame, name), column).items():
            counts[key] += int(cells.sum())
    if schema.constraints and len(present) == len(schema.names):
        counts["constraint"] = int((~satisfied(conform_rows(frame, schema).frame, schema)).sum())
    return counts


def _category_violations(series: pd.Series, column: Column) -> dict[str, np.ndarray]:
    codes, uniques = texts(series)
    levels = set(column.levels)
    listed = np.array([column.open_categories or text in levels for text in uniques], dtype=bool)
    blank = is_null_text(uniques, column) & ~listed
    missing = np.append(blank, True)[codes]
    return {"category": ~missing & ~np.append(listed, True)[codes], "null": missing & (not column.nullable)}


def _number_violations(series: pd.Series, column: Column) -> dict[str, np.ndarray]:
    values, present = column_numbers(series, column)
    unreadable = present & np.isnan(values)
    found = {"type": unreadable, "null": ~present & (not column.nullable)}
    grid = column_grid(column)
    if grid is None:
        return found
    outside = (values < grid.low) | (values > grid.high)
    off = _off_tick(series, column) if column.kind == "datetime" else grid.off_grid(values)
    return {**found, "bounds": outside, "grid": off & ~outside}


def _off_tick(series: pd.Series, column: Column) -> np.ndarray:
    stamps, _ = column_moments(series, column)
    start = np.datetime64(str(column.bounds.min), "s") if column.bounds else np.datetime64(0, "s")
    apart = (stamps - start).astype(np.int64) % RESOLUTION_SECONDS[column.resolution] != 0
    return apart & ~np.isnat(stamps)
