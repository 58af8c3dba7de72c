"""A first schema for an own table. What it read from the data stays unconfirmed until a person changes it."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from dpforge.data.columns import RESOLUTION_SECONDS, Column
from dpforge.data.opening import lines, open_text, parquet_batches, regular_file, translated
from dpforge.data.reading import CHUNK, SEPARATORS, TableFormat, csv_chunks
from dpforge.data.schema import Schema
from dpforge.errors import DataError

NULL_TOKENS = ("", "?", "NA", "N/A", "NaN", "nan", "NULL", "null")
MAX_LISTED = 200
_HEADER = """\
# Draft of a table schema. KEEP THIS FILE PRIVATE until every value below is confirmed.
#
# Values marked `provenance: unconfirmed` were read from the rows, so they can reveal a person (an age of 103,
# a rare diagnosis). No run starts while one is left. For each of them either
#   - state it from public knowledge (a codebook, a physical limit, a top code), correct the value, and write
#     `provenance: public`, with a note that says where it is known from; or
#   - remove the value and write `provenance: private` with a price. For bounds
#       bounds: {provenance: private, epsilon: 0.05, method: log_histogram, outer: [-1.0e9, 1.0e9]}
#     and for categories
#       categories: {provenance: private, epsilon: 0.05, delta: 1.0e-7, max_values: 500}
#     where `outer` is a public range. The price becomes a part of the run's total epsilon.
# Check the kinds too: they were guessed from the rows. `nullable: false` says that no cell can be missing.
"""


@dataclass(frozen=True)
class _Entry:
    """The YAML of one drafted column and what a person should check about it."""

    fields: dict[str, Any]
    remarks: tuple[str, ...] = ()


def draft_schema(frame: pd.DataFrame, name: str) -> str:
    """Draft the schema YAML of a table.

    Every bound and category read from the rows is marked ``unconfirmed``; a text column with more than 200
    values gets a ``private`` category set without values. The text holds data: treat it as private.

    Args:
        frame: The table, cells as text or typed, with at least one row.
        name: Name of the schema.

    Raises:
        DataError: There is no row, or no column with a value.
    """
    if frame.empty:
        raise DataError("the table has no rows, so there is nothing to draft a schema from")
    entries = {str(column): _entry(pd.Series(frame[column])) for column in frame.columns}
    usable = {column: entry for column, entry in entries.items() if entry}
    if not usable:
        raise DataError("every cell of the table is missing, so there is nothing to draft a schema from")
    lines = [
        _HEADER,
        "schema_version: 1",
        *_yaml({"name": name}, flow=False),
        *_ROWS_LINES,
        "columns:",
    ]
    for column, entry in usable.items():
        lines += _column_lines(column, entry)
    lines += [f"# left out, as every cell is missing: {column}" for column in entries if column not in usable]
    return "\n".join(lines) + "\n"


# The number of rows is private under add_remove; a person who knows a public one states it.
_ROWS_LINES = (
    "nominal_rows: unconfirmed   # state a public, round number of rows",
    "unit: {kind: row}   # or {kind: user, column: <person id>, max_rows: <rows kept of each>}",
    "# target: <column>   # the column that a downstream model predicts, for evaluation",
)


def _column_lines(column: str, entry: _Entry) -> Iterator[str]:
    yield from (f"  # {remark}" for remark in entry.remarks)
    yield from (f"  {line}" for line in _yaml({column: entry.fields}))


def _yaml(value: dict[str, Any], *, flow: bool | None = None) -> list[str]:
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100, default_flow_style=flow)
    return text.rstrip("\n").split("\n")


def _entry(column: pd.Series) -> _Entry | None:
    texts = _texts(column)
    missing = texts.isin(NULL_TOKENS) | texts.isna()
    if missing.all():
        return None
    present = texts.loc[~missing]
    found = _described(column.loc[~missing], present)
    # Whether a cell is missing is private: every column is drafted as if one could be.
    nullable = {"nullable": True, "null_tokens": list(NULL_TOKENS)}
    remarks = list(found.remarks)
    if present.nunique() == len(column) > 20 and found.fields["kind"] != "numeric":
        remarks.append(
            "every row has its own value: an identifier? Then remove it, or make it the unit column"
        )
    return _Entry({**found.fields, **nullable}, tuple(remarks))


def _texts(column: pd.Series) -> pd.Series:
    return column.astype("str").str.strip().where(column.notna())


def _described(column: pd.Series, texts: pd.Series) -> _Entry:
    if pd.api.types.is_datetime64_any_dtype(column):
        return _datetime(column)
    if pd.api.types.is_bool_dtype(column):
        return _categorical(texts)
    numbers = _numbers(column, texts)
    if numbers is not None:
        whole = bool((numbers == np.rint(numbers)).all())
        return _categorical(texts) if whole and texts.nunique() <= 2 else _numeric(numbers, whole)
    moments = pd.to_datetime(texts, format="ISO8601", errors="coerce", utc=True)
    if moments.notna().all():
        return _datetime(moments.dt.tz_localize(None))
    return _categorical(texts)


def _numbers(column: pd.Series, texts: pd.Series) -> np.ndarray | None:
    """The column as finite floats, or None; texts with leading zeros are codes, not numbers."""
    numeric = pd.api.types.is_numeric_dtype(column)
    if not numeric and texts.str.match(r"^[+-]?0\d").any():
        return None
    numbers = np.asarray(pd.to_numeric(texts, errors="coerce"), dtype=np.float64)
    finite = numbers[np.isfinite(numbers)]
    return finite if len(finite) and not np.isnan(numbers).any() else None


def _numeric(numbers: np.ndarray, whole: bool) -> _Entry:
    low, high = float(numbers.min()), float(numbers.max())
    high = high if high > low else low + 1
    bounds = {"min": int(low), "max": int(high)} if whole else {"min": low, "max": high}
    fields = {"kind": "integer" if whole else "numeric", "bounds": {**bounds, "provenance": "unconfirmed"}}
    remarks = () if whole else ("add `granularity` (0.01 for cents) if the values lie on a known grid",)
    return _Entry(fields, remarks)


def _datetime(moments: pd.Series) -> _Entry:
    ticks = moments.astype("datetime64[s]").astype("int64")
    sizes = reversed(RESOLUTION_SECONDS.items())
    resolution = next(name for name, size in sizes if (ticks % size == 0).all())
    low, high = (pd.Timestamp(int(tick), unit="s") for tick in (ticks.min(), ticks.max()))
    high = high if high > low else low + pd.Timedelta(seconds=RESOLUTION_SECONDS[resolution])
    bounds = {"min": low.isoformat(" "), "max": high.isoformat(" "), "provenance": "unconfirmed"}
    return _Entry(
        {"kind": "datetime", "resolution": resolution, "bounds": bounds},
        ("the resolution was guessed from the rows as well",),
    )


def _categorical(texts: pd.Series) -> _Entry:
    values = sorted(texts.unique())
    if len(values) <= MAX_LISTED:
        return _Entry({"kind": "categorical", "categories": {"provenance": "unconfirmed", "values": values}})
    price = {"epsilon": 0.05, "delta": 1e-7, "max_values": 500, "public_values": []}
    private = {"provenance": "private", **price}
    remark = (
        f"more than {MAX_LISTED} different texts: bought at this price; or list public values, or remove it"
    )
    return _Entry({"kind": "categorical", "categories": private}, (remark,))


def read_cells(path: Path, separator: str = ",", encoding: str = "utf-8") -> pd.DataFrame:
    """Read a whole CSV (cells as text) or Parquet table (typed), without a schema.

    Raises:
        DataError: The file is missing, empty, damaged, wrongly delimited or encoded. No content is shown.
    """
    fmt = TableFormat(separator=separator, encoding=encoding)
    regular_file(path, fmt.max_bytes)
    with path.open("rb") as stream:
        is_parquet = stream.read(4) == b"PAR1"
    if is_parquet:
        return pd.concat(parquet_batches(path, fmt.max_bytes, CHUNK, _distinct), ignore_index=True)
    columns = tuple(Column(name, "categorical") for name in _header(path, fmt))
    frames = list(csv_chunks(path, Schema(name="draft", nominal_rows=1, columns=columns), fmt))
    if not frames:
        raise DataError(f"{path.name} has no records; give a file with at least one row below the header")
    return pd.concat(frames, ignore_index=True)


def _header(path: Path, fmt: TableFormat) -> list[str]:
    with translated(path, fmt.encoding), open_text(path, fmt.encoding, fmt.max_bytes) as stream:
        line = next((text for text in lines(stream) if text.strip()), "")
    names = [name.strip() for name in next(csv.reader([line.strip("\r\n")], delimiter=fmt.separator), [])]
    other = max((mark for mark in SEPARATORS if mark != fmt.separator), key=line.count)
    if len(names) == 1 and line.count(other):
        option = "tab" if other == "\t" else repr(other)
        raise DataError(
            f"{path.name} has one column with the separator {fmt.separator!r}; "
            f"it seems to be {SEPARATORS[other]}: add --separator {option}"
        )
    return _distinct(names)


def _distinct(names: list[str]) -> list[str]:
    if not all(names):
        raise DataError("a column of the file has no name; give every column of the header line a name")
    repeated = len(names) - len(set(names))
    if repeated:
        raise DataError(f"{repeated} column names of the file repeat others; make the header's names differ")
    return names
