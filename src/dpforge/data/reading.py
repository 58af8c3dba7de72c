"""Reading CSV and Parquet files: a structural problem is one clear error, one bad record never is."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dpforge.data.conform import check_columns, conform_rows
from dpforge.data.frames import series_of
from dpforge.data.opening import lines, open_text, parquet_batches, regular_file, translated
from dpforge.data.user_rows import rows_by_user, user_names
from dpforge.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from dpforge.data.schema import Schema

CHUNK = 65_536  # rows held as text at a time
SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar", " ": "a blank", ":": "a colon"}
_UNCLOSED = "a quoted cell is never closed; remove the stray quote"


@dataclass(frozen=True)
class TableFormat:
    """How a table file is written.

    Args:
        kind: ``csv``, ``parquet``, or ``auto`` (by the ending; ``.gz`` may follow).
        separator: One character between CSV cells.
        header: Whether the first line names the columns.
        names: Names of the file's columns when ``header`` is false; default the schema's.
        encoding: Text encoding of a CSV file.
        skip_rows: Lines before the header or the first record.
        strip: Whether blanks around cells are removed.
        rename: File column to schema column.
        strip_suffix: Text removed from the end of the target column's cells.
        max_bytes: Largest size after decompression.
    """

    kind: str = "auto"
    separator: str = ","
    header: bool = True
    names: tuple[str, ...] | None = None
    encoding: str = "utf-8"
    skip_rows: int = 0
    strip: bool = True
    rename: Mapping[str, str] = field(default_factory=dict)
    strip_suffix: str = ""
    max_bytes: int = 2**33

    def __post_init__(self) -> None:
        """Raise ``ConfigError`` for a format that no file can have."""
        separator = {"\\t": "\t", "tab": "\t"}.get(self.separator, self.separator)
        object.__setattr__(self, "separator", separator)
        if self.names is not None:
            object.__setattr__(self, "names", tuple(str(name) for name in self.names))
        mistakes = []
        if self.kind not in ("auto", "csv", "parquet"):
            hint = did_you_mean(self.kind, ("auto", "csv", "parquet"))
            mistakes.append(f"format.kind={self.kind!r}: expected auto, csv or parquet.{hint}")
        if len(separator) != 1 or separator in '"\r\n':
            mistakes.append(
                f"format.separator={separator!r}: expected one character such as ',' ';' or '\\t'"
            )
        if not _known_encoding(self.encoding):
            mistakes.append(
                f"format.encoding={self.encoding!r} is unknown; use for example utf-8, latin-1, utf-16"
            )
        if self.skip_rows < 0 or self.max_bytes < 1:
            mistakes.append("format.skip_rows must be >= 0 and format.max_bytes >= 1")
        if mistakes:
            raise ConfigError(mistakes)


def _known_encoding(name: str) -> bool:
    try:
        codecs.lookup(name)
    except LookupError:
        return False
    return True


def read_table(
    path: Path | str, schema: Schema, fmt: TableFormat | None = None
) -> tuple[pd.DataFrame, np.ndarray | None]:
    """Read a file into a typed table.

    Args:
        path: CSV or Parquet file, CSV possibly gzipped.
        schema: The public schema; further columns of the file are ignored.
        fmt: How the file is written.

    Returns:
        The typed table, and for a user-level schema the user number of each row, int64 ``(n,)`` (else
        ``None``). Users are numbered by first appearance, their rows are adjacent, and at most
        ``unit.max_rows`` of each are kept.

    Raises:
        DataError: The file is missing, empty, corrupt, too large, wrongly delimited or encoded, lacks a
            column, or holds nothing that fits the schema. The text never contains a cell.
    """
    fmt = fmt or TableFormat()
    path = regular_file(Path(path), fmt.max_bytes)
    chunks = parquet_chunks(path, schema, fmt) if _is_parquet(path, fmt) else csv_chunks(path, schema, fmt)
    return _assemble(chunks, schema, path)


def _is_parquet(path: Path, fmt: TableFormat) -> bool:
    if fmt.kind != "auto":
        return fmt.kind == "parquet"
    with path.open("rb") as stream:
        return path.suffix.lower() in (".parquet", ".pq") or stream.read(4) == b"PAR1"


def _wanted(schema: Schema) -> list[str]:
    unit = [schema.unit.column] if schema.unit.kind == "user" and schema.unit.column else []
    return [*schema.names, *unit]


def _assemble(
    chunks: Iterator[pd.DataFrame], schema: Schema, path: Path
) -> tuple[pd.DataFrame, np.ndarray | None]:
    frames: list[pd.DataFrame] = []
    users: list[np.ndarray] = []
    unreadable = frozenset(schema.names)
    for chunk in chunks:
        part = conform_rows(chunk, schema)
        frames.append(part.frame)
        unreadable &= part.unreadable
        if schema.unit.kind == "user":
            users.append(user_names(series_of(chunk, str(schema.unit.column)))[part.keep])
    if not frames:
        raise DataError(f"{path.name} has no records; give a file with at least one row below the header")
    for name in sorted(unreadable):
        raise DataError(
            f"column '{name}' of the schema is {schema.column(name).kind} but no cell of {path.name} could "
            "be read as one; check the column's kind, its null_tokens, and the separator"
        )
    table = pd.concat(frames, ignore_index=True)
    if table.empty:
        raise DataError(
            f"no record of {path.name} fits the schema; check kinds, nullable, outside and unseen"
        )
    return rows_by_user(table, np.concatenate(users), schema.unit.max_rows) if users else (table, None)


def parquet_chunks(path: Path, schema: Schema, fmt: TableFormat) -> Iterator[pd.DataFrame]:
    """The wanted columns of a Parquet file, some rows at a time, under their schema names."""
    wanted = _wanted(schema)

    def select(names: list[str]) -> list[str]:
        renamed = [fmt.rename.get(name, name) for name in names]
        check_columns(renamed, wanted)
        return [names[renamed.index(name)] for name in wanted]

    for batch in parquet_batches(path, fmt.max_bytes, CHUNK, select):
        batch.columns = wanted
        yield _without_suffix(batch, schema, fmt)


def csv_chunks(path: Path, schema: Schema, fmt: TableFormat) -> Iterator[pd.DataFrame]:
    """The wanted columns of a CSV file as texts, some rows at a time, under their schema names.

    Too short records are padded with missing cells; too long ones, unless the surplus is blank, are dropped.
    """
    wanted = _wanted(schema)
    limit = csv.field_size_limit(2**24)
    try:
        with open_text(path, fmt.encoding, fmt.max_bytes) as stream:
            source = lines(stream)
            names = _file_columns(path, source, schema, fmt)
            places = {name: names.index(name) for name in wanted}
            reader = csv.reader(source, delimiter=fmt.separator, skipinitialspace=fmt.strip)
            for rows in _batches(path, reader, len(names), fmt.encoding):
                cells = {name: _cells(rows, place, fmt.strip) for name, place in places.items()}
                frame = pd.DataFrame(cells, columns=wanted)
                yield _without_suffix(frame, schema, fmt)
    finally:
        csv.field_size_limit(limit)


def _batches(path: Path, reader: Iterator[list[str]], width: int, encoding: str) -> Iterator[list[list[str]]]:
    seen, divided = False, width == 1
    last: list[str] = []
    while rows := _next_rows(path, reader, encoding):
        last = rows[-1]
        records = [row for row in rows if len(row) > 1 or "".join(row).strip()]
        seen = seen or bool(records)
        divided = divided or any(len(row) > 1 for row in records)
        if records:
            yield [fit for row in records if (fit := _fit(row, width)) is not None]
    if any(cell.count("\n") > 100 for cell in last):
        raise DataError(f"{path.name}: {_UNCLOSED}")
    if seen and not divided:
        raise DataError(
            f"{path.name}: the records are not divided into {width} cells; set format.separator to the "
            f"character between the cells ({', '.join(SEPARATORS.values())})"
        )


def _next_rows(path: Path, reader: Iterator[list[str]], encoding: str) -> list[list[str]]:
    with translated(path, encoding):
        return list(islice(reader, CHUNK))


def _fit(row: list[str], width: int) -> list[str] | None:
    """The record with exactly ``width`` cells, or ``None`` if it is too long."""
    if len(row) == width:
        return row
    return None if any(row[width:]) else row[:width] + [""] * (width - len(row))


def _file_columns(path: Path, source: Iterator[str], schema: Schema, fmt: TableFormat) -> list[str]:
    """The file's columns under their schema names, after consuming skipped lines and the header."""
    for _ in islice(_guarded(path, source, fmt), fmt.skip_rows):
        continue
    if not fmt.header:
        names = list(fmt.names or schema.names)
    else:
        header = next((line for line in _guarded(path, source, fmt) if line.strip()), None)
        if header is None:
            raise DataError(
                f"{path.name} is empty; give a CSV file with a header line and at least one record"
            )
        names = _split_header(header, fmt.separator)
        _check_separator(path, header, names, schema, fmt)
    names = [fmt.rename.get(name, name) for name in names]
    _check_header(path, names, schema)
    check_columns(names, _wanted(schema))
    return names


def _guarded(path: Path, source: Iterator[str], fmt: TableFormat) -> Iterator[str]:
    while True:
        with translated(path, fmt.encoding):
            line = next(source, None)
        if line is None:
            return
        yield line


def _split_header(line: str, separator: str) -> list[str]:
    cells = next(csv.reader([line.strip("\r\n")], delimiter=separator, skipinitialspace=True), [])
    return [cell.strip() for cell in cells]


def _check_separator(path: Path, header: str, names: list[str], schema: Schema, fmt: TableFormat) -> None:
    wanted = _wanted(schema)
    if len(names) > 1 or len(wanted) < 2:
        return
    known = {*wanted, *fmt.rename}
    marks = [mark for mark in SEPARATORS if mark in header and mark != fmt.separator]
    best = max(
        marks,
        key=lambda mark: (len(known & {*_split_header(header, mark)}), header.count(mark)),
        default=None,
    )
    advice = "set it to the character between the names"
    if best is not None:
        advice = f"it seems to be {SEPARATORS[best]}: set format.separator={best!r}"
    raise DataError(
        f"{path.name} has one column with format.separator={fmt.separator!r} and the schema has "
        f"{len(wanted)}; {advice}"
    )


def _check_header(path: Path, names: list[str], schema: Schema) -> None:
    repeated = {name for name in names if name and names.count(name) > 1}
    if not repeated:
        return
    known = sorted(repeated & set(_wanted(schema)))
    shown = ", ".join(f"'{name}'" for name in known) or f"{len(repeated)} names that the schema does not use"
    raise DataError(f"{path.name} names columns more than once: {shown}; make the names of the header differ")


def _cells(rows: list[list[str]], place: int, strip: bool) -> pd.Series:
    texts = (row[place] for row in rows)
    return pd.Series([text.strip() for text in texts] if strip else list(texts), dtype=object)


def _without_suffix(frame: pd.DataFrame, schema: Schema, fmt: TableFormat) -> pd.DataFrame:
    if not fmt.strip_suffix or schema.target is None:
        return frame
    cells = [
        cell.removesuffix(fmt.strip_suffix) if isinstance(cell, str) else cell
        for cell in frame[schema.target]
    ]
    return frame.assign(**{schema.target: pd.Series(cells, dtype=object, index=frame.index)})
