"""Reading a file of cells that a finished model is to keep: some columns, some cells, every row."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from dpforge.data.columns import Column
from dpforge.data.conform import column_numbers, conform, is_null_text, texts
from dpforge.data.constraints import satisfied
from dpforge.data.draft import read_cells
from dpforge.data.frames import series_of
from dpforge.data.opening import lines, open_text, translated
from dpforge.data.schema import Schema, Unit
from dpforge.data.table import TableFormat, violations
from dpforge.errors import DataError, did_you_mean

_OUTSIDE = ("type", "bounds", "category")


@dataclass(frozen=True)
class Cells:
    """A table file with some columns of a run, in which empty cells are to be drawn.

    Args:
        path: CSV (possibly gzipped) or Parquet, with column names.
        separator: Between the cells of a CSV; ``tab`` is one.
        encoding: Of a CSV.
    """

    path: Path
    separator: str = ","
    encoding: str = "utf-8"

    def read(
        self, schema: Schema, *, needed: Sequence[str] = (), ignored: Sequence[str] = ()
    ) -> pd.DataFrame:
        """Return the cells of the schema's columns, in its order, as they stand; ``None`` where missing.

        Blank cells and the ``null_tokens`` of a column are missing. The unit column of a user-level
        schema is left out. Every record is a row, in the order of the file.

        Args:
            schema: Columns that the file may have.
            needed: Columns that it must have.
            ignored: Further columns that it may have, which are left out.

        Raises:
            DataError: The file cannot be read, has a column of another name or lacks a needed one, a cell
                outside the schema, or rows that contradict a constraint. The text never contains a cell.
        """
        frame = read_cells(self.path, self.separator, self.encoding)
        self._check_records(frame)
        _check_names(list(frame.columns), schema, (*ignored, schema.unit.column or ""), self.path)
        absent = [name for name in needed if name not in frame.columns]
        if absent:
            raise DataError(f"{self.path.name} lacks the columns {absent}; add them.")
        given = pd.DataFrame(
            {c.name: _blanked(series_of(frame, c.name), c) for c in schema.columns if c.name in frame.columns}
        )
        _check_cells(given, schema, self.path)
        _check_constraints(given, schema, self.path)
        return given

    def _check_records(self, frame: pd.DataFrame) -> None:
        """Refuse a CSV with records that are too long, which the reader leaves out: rows must not move."""
        with self.path.open("rb") as stream:
            if stream.read(4) == b"PAR1":
                return
        fmt = TableFormat(separator=self.separator, encoding=self.encoding)
        with (
            translated(self.path, self.encoding),
            open_text(self.path, self.encoding, fmt.max_bytes) as text,
        ):
            rows = csv.reader(lines(text), delimiter=fmt.separator, skipinitialspace=True)
            records = sum(len(row) > 1 or bool("".join(row).strip()) for row in rows)
        if records - 1 != len(frame):
            raise DataError(f"{self.path.name} has records with more cells than its header; correct them.")


def refuse_missing(given: pd.DataFrame, schema: Schema, path: Path) -> None:
    """Raise ``DataError`` if a cell is missing in a column that is not nullable."""
    closed = [column.name for column in schema.columns if not column.nullable]
    lacking = [name for name in closed if bool(series_of(given, name).isna().any())]
    if lacking:
        raise DataError(f"{path.name} has empty cells in the columns {lacking}; fill them, e.g. by --impute.")


def _check_names(found: Sequence[str], schema: Schema, ignored: Sequence[str], path: Path) -> None:
    """Foreign names are counted, not shown: without a header they would be cells."""
    names = [str(name) for name in found]
    foreign = [name for name in names if name not in schema.names and name not in ignored]
    if foreign:
        near = {did_you_mean(name, schema.names) for name in foreign} - {""}
        raise DataError(
            f"{path.name}: {len(foreign)} of its {len(names)} columns are not columns of the run; remove them"
            f" or correct their names in the first line.{''.join(sorted(near))}"
        )
    if not set(names) & set(schema.names):
        raise DataError(f"{path.name} has no column of the run; it has {', '.join(schema.names)}.")


def _blanked(series: pd.Series, column: Column) -> pd.Series:
    return series.astype(object).where(~_missing(series, column), None)


def _missing(series: pd.Series, column: Column) -> np.ndarray:
    if column.kind != "categorical":
        return ~column_numbers(series, column)[1]
    codes, uniques = texts(series)
    blank = is_null_text(uniques, column) & ~np.isin(uniques, column.levels)
    return np.append(blank, True)[codes]


def _check_cells(given: pd.DataFrame, schema: Schema, path: Path) -> None:
    """Refuse what the readers of training data would clip, round up to a bound or call unknown."""
    wrong = []
    for name in given.columns:
        column = schema.column(str(name))
        counts = violations(pd.DataFrame(given[[name]]), _only(schema, column))
        if any(counts[kind] for kind in _OUTSIDE):
            wrong.append(f"'{name}' (expected {_expected(column)})")
    if wrong:
        raise DataError(
            f"{path.name} has cells outside the schema of the run in {', '.join(wrong)}. Correct them, or"
            " leave them empty to have them drawn."
        )


def _expected(column: Column) -> str:
    if column.kind == "categorical":
        return f"one of its {len(column.levels)} values, spelled as in the schema"
    unit = f" {column.units}" if column.units else ""
    return f"{column.bounds.min} to {column.bounds.max}{unit}" if column.bounds else column.kind


def _check_constraints(given: pd.DataFrame, schema: Schema, path: Path) -> None:
    """Refuse rows whose given cells alone break a constraint: no draw of the others can mend them."""
    if not schema.constraints:
        return
    columns = tuple(replace(c, nullable=True, outside="null", unseen="unknown") for c in schema.columns)
    open_schema = replace(schema, columns=columns, constraints=(), target=None, unit=Unit())
    typed = conform(given.reindex(columns=list(schema.names)).astype(object), open_schema)
    for text in schema.constraints:
        if not satisfied(typed, replace(schema, constraints=(text,))).all():
            raise DataError(
                f"{path.name} has rows that contradict the constraint '{text}' of the schema; correct them,"
                " or leave one of these cells empty."
            )


def _only(schema: Schema, column: Column) -> Schema:
    return replace(schema, columns=(column,), constraints=(), target=None, unit=Unit())
