"""Scores of a table made by any system, against real rows: two files and a schema instead of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dpforge.config import compose
from dpforge.configuration.building import instantiate_components
from dpforge.configuration.keys import COMPONENTS
from dpforge.data.conform import column_numbers
from dpforge.data.frames import series_of
from dpforge.data.opening import regular_file
from dpforge.data.places import schema_path
from dpforge.data.reading import csv_chunks, parquet_chunks
from dpforge.data.schema import Schema, Unit, load_schema
from dpforge.data.source import split_table
from dpforge.data.table import TableFormat, read_table, violations
from dpforge.errors import ConfigError, DataError, did_you_mean
from dpforge.evaluation import Results
from dpforge.experiment.display import Display

FRACTION, SPLIT_SEED = 0.2, 0  # as a run on a table of one's own splits by default
VALIDITY = "validity/schema_violations"
_VIOLATES = "the synthetic table violates its schema"
_SPLIT = (
    "no holdout was given: 20 % of the real table were held out, the rows that a run on this table holds"
    " out by default. A generator that saw the whole table knows them, which flatters utility scores"
)


@dataclass(frozen=True)
class TableFiles:
    """The files of one evaluation.

    Args:
        real: Real rows, CSV (possibly gzipped) or Parquet; columns beyond the schema's are ignored.
        synthetic: The table to score.
        schema: Path of a schema YAML, or the name of a shipped schema.
        holdout: Real rows that the generator never saw; ``None`` takes a part of ``real``.
        separator: Between the cells of a CSV; ``tab`` is one.
        encoding: Of a CSV.
        rename: File column to schema column.
    """

    real: Path
    synthetic: Path
    schema: str
    holdout: Path | None = None
    separator: str = ","
    encoding: str = "utf-8"
    rename: Mapping[str, str] = field(default_factory=dict)


def evaluate_tables(
    files: TableFiles, display: Display, *, choice: str = "tabular", seed: int = 0
) -> Results:
    """Score ``files.synthetic`` against ``files.real``; every score but validity is private.

    Cells outside the schema are treated as those of real data are (clipped, unknown, or the row left
    out) before they are scored; ``validity/schema_violations`` counts them in the file as it is.

    Args:
        files: What to read.
        display: Where progress is shown.
        choice: ``tabular``, ``full`` (every metric and learner), or ``raw``: number columns alone, as they
            stand in the files, without clipping, rounding or a default holdout. For the published scores of
            the DP-MAF experiments and their corrected variants.
        seed: Of permutations, draws, folds and learners.

    Raises:
        ConfigError: The schema or the format has mistakes.
        DataError: A file cannot be read as a table of the schema; never quotes a cell.
    """
    schema = load_schema(schema_path(files.schema))
    _check_rename(files, schema)
    raw = choice == "raw"
    if raw:
        schema = numbers_only(schema)
    with display.task("read tables", 3) as stage:
        train, holdout = _raw_real(files, schema) if raw else _real(files, schema)
        stage.advance(2)
        table_schema = replace(schema, unit=Unit())  # a synthetic table has no users
        if raw:
            synthetic = _first_complete(_raw(files, "synthetic", files.synthetic, table_schema), len(train))
        else:
            synthetic = _read(files, "synthetic", files.synthetic, table_schema)[0]
        found, rows = _as_given(files, table_schema)
        stage.advance()
    with display.task("evaluate") as stage:
        done_before = 0

        def report(metric: str, done: int, total: int) -> None:
            nonlocal done_before
            stage.advance(done - done_before, metric=metric)
            done_before = done

        evaluation = _evaluation(choice)
        results = evaluation.evaluate(train, holdout, synthetic, schema, seed=seed, progress=report)
    # What is left of the violations after clipping is among those of the file.
    others = [note for note in results.notes if not note.startswith(_VIOLATES)]
    split = [] if files.holdout or raw else [_SPLIT]
    notes = [*split, *_notes(found, rows - len(synthetic), raw=raw), *others]
    metrics = {**results.metrics, VALIDITY: float(sum(found.values()))}
    return replace(results, metrics=metrics, notes=notes)


def _evaluation(choice: str) -> Any:
    config = compose([f"evaluation={choice}", "dataset=toy"])
    built, mistakes = instantiate_components(config, skip=frozenset(COMPONENTS) - {"evaluation"})
    if mistakes:
        raise ConfigError(mistakes)
    return built["evaluation"]


def _check_rename(files: TableFiles, schema: Schema) -> None:
    known = [*schema.names, *([schema.unit.column] if schema.unit.column else [])]
    mistakes = [
        f"format.rename: '{name}' is no column of schema '{schema.name}'.{did_you_mean(name, known)}"
        for name in files.rename.values()
        if name not in known
    ]
    if mistakes:
        raise ConfigError(mistakes)


def _real(files: TableFiles, schema: Schema) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and holdout rows."""
    train, units = _read(files, "real", files.real, schema)
    if files.holdout is not None:
        return train, _read(files, "holdout", files.holdout, schema)[0]
    train, holdout, _ = split_table(train, units, FRACTION, SPLIT_SEED)
    if train.empty or holdout.empty:
        raise DataError(
            "the default split leaves the real table no training or no holdout rows: it is too small, or the"
            " training part of such a split. Give real rows that the generator did not see with --holdout."
        )
    return train, holdout


def _read(files: TableFiles, role: str, path: Path, schema: Schema) -> tuple[pd.DataFrame, np.ndarray | None]:
    with _named(role):
        return read_table(path, schema, _format(files, path))


def numbers_only(schema: Schema) -> Schema:
    """``schema`` with its number columns alone, without target, constraints and users.

    Raises:
        ConfigError: It has fewer than 2 such columns.
    """
    columns = tuple(c for c in schema.columns if c.kind in ("integer", "numeric"))
    if len(columns) < 2:
        raise ConfigError(
            f"schema '{schema.name}' has {len(columns)} number columns; --raw needs at least 2. Leave it out."
        )
    return replace(schema, columns=columns, target=None, constraints=(), unit=Unit())


def _raw_real(files: TableFiles, schema: Schema) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    train = _raw(files, "real", files.real, schema)
    return train, None if files.holdout is None else _raw(files, "holdout", files.holdout, schema)


def _raw(files: TableFiles, role: str, path: Path, schema: Schema) -> pd.DataFrame:
    """The number columns of a file as they stand, float64; missing and unreadable cells NaN."""
    with _named(role):
        parts = [
            pd.DataFrame({c.name: column_numbers(series_of(chunk, c.name), c)[0] for c in schema.columns})
            for chunk in _chunks(files, path, schema)
        ]
        if not parts:
            raise DataError(f"{path.name} has no records; give a file with at least one row below the header")
    return pd.concat(parts, ignore_index=True)


def _first_complete(frame: pd.DataFrame, rows: int) -> pd.DataFrame:
    """The first ``rows`` rows without a missing or infinite number: those that the published scores used.

    Raises:
        DataError: There is none.
    """
    complete = frame.loc[np.isfinite(frame.to_numpy()).all(axis=1)].head(rows).reset_index(drop=True)
    if complete.empty:
        raise DataError(
            "the synthetic table has no row with a number in every number column; leave out --raw."
        )
    return complete


def _chunks(files: TableFiles, path: Path, schema: Schema) -> Iterator[pd.DataFrame]:
    fmt = _format(files, path)
    return (parquet_chunks if fmt.kind == "parquet" else csv_chunks)(path, schema, fmt)


def _format(files: TableFiles, path: Path) -> TableFormat:
    fmt = TableFormat(separator=files.separator, encoding=files.encoding, rename=files.rename)
    with regular_file(path, fmt.max_bytes).open("rb") as stream:
        parquet = stream.read(4) == b"PAR1" or path.suffix.lower() in (".parquet", ".pq")
    return replace(fmt, kind="parquet" if parquet else "csv")


@contextmanager
def _named(role: str) -> Iterator[None]:
    """Say which of the tables an error is about."""
    try:
        yield
    except DataError as error:
        raise DataError(f"the {role} table: {error}") from None


def _as_given(files: TableFiles, schema: Schema) -> tuple[Counter[str], int]:
    """What violates the schema in the synthetic file before any cell is treated, and its rows."""
    found: Counter[str] = Counter()
    rows = 0
    with _named("synthetic"):
        for chunk in _chunks(files, files.synthetic, schema):
            found.update(violations(chunk, schema))
            rows += len(chunk)
    return found, rows


def _notes(found: Mapping[str, int], left_out: int, *, raw: bool) -> list[str]:
    named = ", ".join(f"{count:,} {kind}" for kind, count in found.items() if count)
    treated = "scored as it stands (--raw)" if raw else "scored after clipping"
    notes = [f"{_VIOLATES}: {named}; {treated}"] if named else []
    if left_out:
        why = (
            "are incomplete or beyond the number of real rows"
            if raw
            else "hold cells that the schema cannot take"
        )
        notes.append(f"{left_out:,} synthetic rows {why}, and were left out")
    return notes
