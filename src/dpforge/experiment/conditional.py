"""What a finished run can draw beyond plain rows: tempered, with given cells, imputed, rebalanced, predicted.

The certificate of the run covers the model. A table made from the cells of a file is as private as that file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from dpforge.data.conform import conform
from dpforge.data.constraints import satisfied
from dpforge.data.schema import Schema, Unit
from dpforge.errors import ConfigError, did_you_mean
from dpforge.experiment.given import Cells, refuse_missing
from dpforge.experiment.rundir import RunDir
from dpforge.experiment.sampling import (
    ENDINGS,
    ConditionalTable,
    Draw,
    blocks,
    conditional_model,
    number_mistakes,
    place_mistakes,
    write_blocks,
)
from dpforge.generators.argn_sampling import Drawing
from dpforge.privacy.rng import public_random

# Small, as a model of fixed order draws many candidates for each row.
BLOCK = 2000
# Rows that a predicate of the schema refuses are drawn again so many times.
TRIES = 10
Redraw = Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame]


@dataclass(frozen=True)
class Job:
    """One request to a finished run.

    Args:
        run: Its folder; nothing in it is changed.
        out: File to write, ending in ``.parquet``, ``.csv`` or ``.csv.gz``.
        seed: Public seed, >= 0; the same request with the same seed gives the same bytes.
        overwrite: Whether an existing ``out`` is replaced; files of the run and the file read never are.
        bar: Whether to draw progress on a terminal.
    """

    run: Path
    out: Path
    seed: int = 0
    overwrite: bool = False
    bar: bool = True


@dataclass(frozen=True)
class Written:
    """The files that a job wrote, and the rows in each."""

    files: tuple[Path, ...]
    rows: int


def tempered(job: Job, rows: int, *, temperature: float = 1.0, top_p: float = 1.0) -> Written:
    """Write rows drawn at a temperature or from the likeliest codes; both 1 gives the plain rows.

    Raises:
        ConfigError: A mistake among the arguments, or a model that cannot do this.
        RunError, DataError, Interrupted: See :func:`~dpforge.experiment.sampling.sample_rows`.
    """
    _check(job, (job.out,), rows, _drawing_mistakes(temperature, top_p))
    fitted = conditional_model(RunDir(job.run))

    def draw(count: int, rng: np.random.Generator) -> pd.DataFrame:
        return fitted.generate(count, rng, temperature=temperature, top_p=top_p)

    return _streamed(job, draw, rows)


def balanced(job: Job, rows: int, shares: Mapping[str, Mapping[str, float]]) -> Written:
    """Write rows in which one categorical column has the given shares, in expectation.

    Args:
        job: Where from and where to.
        rows: At least 1.
        shares: ``{column: {value: share}}``; values that are not named share the rest as released.

    Raises:
        ConfigError: A mistake among the arguments, or a model that cannot do this.
        RunError, DataError, Interrupted: See :func:`~dpforge.experiment.sampling.sample_rows`.
    """
    _check(job, (job.out,), rows, [])
    fitted = conditional_model(RunDir(job.run))

    def draw(count: int, rng: np.random.Generator) -> pd.DataFrame:
        return fitted.rebalance(count, rng, shares)

    draw(1, np.random.default_rng(0))  # what the model itself refuses is refused before a file is begun
    return _streamed(job, draw, rows, BLOCK)


def completed(job: Job, cells: Cells, *, temperature: float = 1.0, top_p: float = 1.0) -> Written:
    """Write one row for each row of a file: its non-empty cells kept, the others drawn given them.

    Raises:
        ConfigError: A mistake among the arguments, or a model that cannot do this.
        DataError: The file cannot be read, or holds cells outside the schema; never quotes a cell.
        RunError, Interrupted: See :func:`~dpforge.experiment.sampling.sample_rows`.
    """
    _check(job, (job.out,), None, _drawing_mistakes(temperature, top_p), cells)
    fitted = conditional_model(RunDir(job.run))
    given = cells.read(fitted.schema)

    def draw(part: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
        return fitted.complete(part, rng, temperature=temperature, top_p=top_p)

    def drawn() -> Iterator[tuple[int, pd.DataFrame]]:
        for number, part in _parts(given):
            rng = public_random(job.seed).generator("given rows", number)
            yield 0, _consistent(draw, part, fitted.schema, rng)

    return _written(job, (job.out,), drawn(), len(given))


def imputed(job: Job, cells: Cells, *, draws: int = 1) -> Written:
    """Write a file with every missing cell drawn given the others of its row.

    Args:
        job: Where from and where to; with more draws ``out`` gets ``-1``, ``-2``, … before its ending.
        cells: A table with every column of the schema.
        draws: Tables to write, >= 1, each with its own draws (multiple imputation).

    Raises:
        ConfigError: A mistake among the arguments, or a model that cannot do this.
        DataError: The file cannot be read, or holds cells outside the schema; never quotes a cell.
        RunError, Interrupted: See :func:`~dpforge.experiment.sampling.sample_rows`.
    """
    outs = numbered_files(job.out, draws)
    few = [] if draws >= 1 else [f"--draws {draws}: expected an integer of at least 1."]
    _check(job, outs, None, few, cells)
    fitted = conditional_model(RunDir(job.run))
    table = cells.read(fitted.schema, needed=fitted.schema.names)

    def drawn() -> Iterator[tuple[int, pd.DataFrame]]:
        for number, part in _parts(table):
            for draw in range(draws):
                rng = public_random(job.seed).generator(f"imputation {draw}", number)
                yield draw, _filled(fitted, part, rng)

    return _written(job, outs, drawn(), len(table))


def predicted(job: Job, cells: Cells, column: str) -> Written:
    """Write p(column | all other cells) for each row of a file, one column a value.

    A missing cell of a nullable column is a value like others. What the file says of ``column`` is not used.

    Raises:
        ConfigError: No such column, another mistake among the arguments, or a model that cannot do this.
        DataError: The file cannot be read, lacks a column or a cell, or holds cells outside the schema.
        RunError, Interrupted: See :func:`~dpforge.experiment.sampling.sample_rows`.
    """
    _check(job, (job.out,), None, [], cells)
    fitted = conditional_model(RunDir(job.run))
    names = [name for name in fitted.schema.names if name != column]
    if len(names) == len(fitted.schema.names):
        raise ConfigError(f"--predict {column}: the run has no such column.{did_you_mean(column, names)}")
    part = replace(_plain(fitted.schema), columns=tuple(map(fitted.schema.column, names)))
    given = cells.read(part, needed=names, ignored=(column,))
    refuse_missing(given, part, cells.path)
    typed = conform(given, part)
    fitted.predict_proba(typed.head(1), column)  # what the model itself refuses is refused before a file

    drawn = ((0, fitted.predict_proba(rows, column)) for _, rows in _parts(typed))
    return _written(job, (job.out,), drawn, len(typed))


def numbered_files(out: Path, draws: int) -> tuple[Path, ...]:
    """Return ``out``, or with several draws ``out`` with ``-1``, ``-2``, … before its ending."""
    if draws <= 1:
        return (out,)
    ending = next((text for text in ENDINGS if out.name.lower().endswith(text)), "")
    stem = out.name[: len(out.name) - len(ending)]
    return tuple(out.with_name(f"{stem}-{k}{out.name[len(stem) :]}") for k in range(1, draws + 1))


def _streamed(job: Job, draw: Draw, rows: int, size: int | None = None) -> Written:
    return _written(job, (job.out,), ((0, block) for block in blocks(draw, rows, job.seed, size)), rows)


def _written(
    job: Job, outs: tuple[Path, ...], drawn: Iterable[tuple[int, pd.DataFrame]], rows: int
) -> Written:
    write_blocks(outs, drawn, rows * len(outs), bar=job.bar)
    return Written(outs, rows)


def _check(
    job: Job, outs: tuple[Path, ...], rows: int | None, others: list[str], cells: Cells | None = None
) -> None:
    mistakes = [*number_mistakes(1 if rows is None else rows, job.seed), *others]
    for out in outs:
        read = cells is not None and out.exists() and cells.path.exists() and out.samefile(cells.path)
        found = place_mistakes(out, job.run, job.overwrite)
        mistakes += [f"--out {out} is the file to be read. Choose another name."] if read else found
    if mistakes:
        raise ConfigError(mistakes)


def _drawing_mistakes(temperature: float, top_p: float) -> list[str]:
    try:
        Drawing(temperature, top_p)
    except ConfigError as error:
        return list(error.mistakes)
    return [] if math.isfinite(temperature) else [f"temperature={temperature}: expected a finite number."]


def _parts(frame: pd.DataFrame) -> Iterator[tuple[int, pd.DataFrame]]:
    for number, start in enumerate(range(0, len(frame), BLOCK)):
        yield number, frame.iloc[start : start + BLOCK].reset_index(drop=True)


def _filled(fitted: ConditionalTable, part: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Impute the rows that lack a cell; the others only become typed."""
    lacking = part.isna().any(axis=1).to_numpy()
    whole = conform(part.loc[~lacking], _plain(fitted.schema)).set_axis(np.flatnonzero(~lacking))
    if not lacking.any():
        return whole

    def draw(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
        return fitted.impute(rows, rng)[0]

    drawn = _consistent(draw, part.loc[lacking].reset_index(drop=True), fitted.schema, rng)
    return pd.concat([whole, drawn.set_axis(np.flatnonzero(lacking))]).sort_index()


def _consistent(draw: Redraw, given: pd.DataFrame, schema: Schema, rng: np.random.Generator) -> pd.DataFrame:
    """Draw rows, and again those that break a predicate of the schema: kept cells are not repaired."""
    drawn = draw(given, rng)
    for _ in range(TRIES):
        broken = np.flatnonzero(~satisfied(drawn, schema))
        if not len(broken):
            break
        again = draw(given.iloc[broken].reset_index(drop=True), rng).set_axis(broken)
        drawn = pd.concat([drawn.drop(index=broken), again]).sort_index()
    return drawn


def _plain(schema: Schema) -> Schema:
    return replace(schema, constraints=(), target=None, unit=Unit())
