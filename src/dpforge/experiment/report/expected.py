"""Published numbers, read from a CSV and set beside what a study measured."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dpforge.errors import DataError, did_you_mean
from dpforge.experiment.intervals import Interval
from dpforge.experiment.study import Study
from dpforge.experiment.study_cells import Cell, cells
from dpforge.experiment.study_metrics import best, shortfall

COLUMNS = ("dataset", "model", "epsilon", "metric", "value", "tolerance", "kind", "source")
KINDS = ("R", "B", "O")
CONTEXTS = ("floor", "ceiling", "normalised")
BUDGET_SLACK = 0.05
COMPARED = (
    "dataset", "published_model", "published_epsilon", "metric", "published", "tolerance", "kind",
    "generator", "epsilon", "mean", "low", "high", "n", "difference", "verdict", "source",
)  # fmt: skip


@dataclass(frozen=True)
class Expected:
    """One published number.

    Args:
        dataset: Name of the data set.
        model: System it was measured for; empty for any, as for floors and ceilings.
        epsilon: Published budget; None if unknown, infinite without privacy.
        metric: Key of the metric, also ``floor/…``, ``ceiling/…`` and ``normalised/…``.
        value: The number.
        tolerance: How far a reproduction may be off, at least 0.
        kind: ``R`` to reproduce with the same model and epsilon, ``B`` to beat by any model at equal or
            smaller epsilon, ``O`` an oracle for the metric's own code.
        source: Where it was published, or how it was made.
        line: Line of the file.
    """

    dataset: str
    model: str
    epsilon: float | None
    metric: str
    value: float
    tolerance: float
    kind: str
    source: str
    line: int

    @property
    def part(self) -> tuple[str, str]:
        """The metric's name, and which part of its score is meant: ``value``, ``floor``, …"""
        context, _, name = self.metric.partition("/")
        return (name, context) if context in CONTEXTS else (self.metric, "value")


def read_expected(path: Path) -> tuple[Expected, ...]:
    """Read a file of published numbers.

    The first line that is not empty and does not start with ``#`` names the columns, which are
    :data:`COLUMNS` in any order.

    Raises:
        DataError: The file cannot be read, or a line of it is wrong; the text names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}). Name a CSV of published numbers."
        ) from error
    rows = [
        (number, [cell.strip() for cell in next(csv.reader([line]))])
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not rows:
        raise DataError(f"{path} is empty. Its first line names the columns {','.join(COLUMNS)}.")
    header = _header(path, *rows[0])
    return tuple(_parse(path, number, header, cells_) for number, cells_ in rows[1:])


def remarks_of(path: Path) -> tuple[str, ...]:
    """Return what the comments above the header of a readable file say, a text for each ``#`` line."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    above = itertools.takewhile(lambda line: not line or line.startswith("#"), lines)
    return tuple(text for line in above if (text := line.lstrip("# ")))


def _header(path: Path, line: int, names: Sequence[str]) -> list[str]:
    unknown = [name for name in names if name not in COLUMNS]
    missing = [name for name in COLUMNS if name not in names]
    if unknown:
        hint = did_you_mean(unknown[0], COLUMNS)
        raise DataError(
            f"{path} line {line}: unknown column '{unknown[0]}'.{hint} Expected {','.join(COLUMNS)}."
        )
    if missing or len(set(names)) < len(names):
        what = f"has no column '{missing[0]}'" if missing else "names a column twice"
        raise DataError(f"{path} line {line}: {what}. Expected {','.join(COLUMNS)}.")
    return list(names)


def _parse(path: Path, line: int, header: Sequence[str], row: Sequence[str]) -> Expected:
    if len(row) != len(header):
        raise DataError(
            f"{path} line {line}: {len(row)} cells, expected {len(header)}. Quote a text that holds a comma."
        )
    cell = dict(zip(header, row, strict=True))
    for name in ("dataset", "metric", "source"):
        if not cell[name]:
            raise DataError(f"{path} line {line}: '{name}' is empty. Fill it.")
    if cell["kind"] not in KINDS:
        raise DataError(f"{path} line {line}: kind '{cell['kind']}', expected one of {', '.join(KINDS)}.")
    parsed = Expected(
        dataset=cell["dataset"],
        model=cell["model"],
        epsilon=_number(path, line, "epsilon", cell["epsilon"], least=0.0, infinite=True)
        if cell["epsilon"]
        else None,
        metric=cell["metric"],
        value=_number(path, line, "value", cell["value"]),
        tolerance=_number(path, line, "tolerance", cell["tolerance"] or "0", least=0.0),
        kind=cell["kind"],
        source=cell["source"],
        line=line,
    )
    if parsed.kind == "B" and math.isnan(best(parsed.part[0])):
        raise DataError(
            f"{path} line {line}: '{parsed.metric}' ranks nothing, so it cannot be beaten. Use kind R or O."
        )
    return parsed


def _number(
    path: Path, line: int, column: str, text: str, *, least: float = -math.inf, infinite: bool = False
) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value) or value < least or (math.isinf(value) and not infinite):
        wanted = "a number" if math.isinf(least) else f"a number of at least {least:g}"
        raise DataError(f"{path} line {line}: {column} '{text}', expected {wanted}.")
    return value


def compare(study: Study, expected: Sequence[Expected]) -> pd.DataFrame:
    """Set published numbers beside measured ones: a row for each pair that may be compared.

    A number to reproduce (``R``), or an oracle (``O``), is compared with the cells of its model at its
    epsilon; one to beat (``B``) with each generator's cell of the largest epsilon at most 5 % above the
    published one. A number that meets no cell has one row and the verdict ``not measured``.

    Verdicts: ``within`` the tolerance or ``outside``; for ``B`` also ``better`` or ``worse``.

    Returns:
        Columns :data:`COMPARED`; means and 95 % intervals are over seeds, ``difference`` is mean − published.
    """
    measured = cells(study)
    rows = [row for entry in expected for row in _rows(entry, measured)]
    return pd.DataFrame(rows, columns=pd.Index(COMPARED))


def _rows(entry: Expected, measured: Sequence[Cell]) -> Iterator[dict[str, object]]:
    name, part = entry.part
    pairs = [(cell, cell.interval(name, part)) for cell in _comparable(entry, measured)]
    met = [(cell, interval) for cell, interval in pairs if interval.n]
    for cell, interval in met:
        yield _row(entry, cell, interval)
    if not met:
        yield _row(entry, None, None)


def _comparable(entry: Expected, measured: Sequence[Cell]) -> list[Cell]:
    same = [cell for cell in measured if cell.first.dataset == entry.dataset]
    if entry.kind == "B":
        return _contenders(entry, same)
    return [
        cell
        for cell in same
        if (not entry.model or cell.first.model == entry.model) and _same_budget(entry.epsilon, cell.budget)
    ]


def _same_budget(published: float | None, budget: float) -> bool:
    if published is None or budget == published:
        return True
    return math.isfinite(published) and abs(budget - published) <= BUDGET_SLACK * published


def _contenders(entry: Expected, same: Sequence[Cell]) -> list[Cell]:
    if entry.epsilon is None or math.isinf(entry.epsilon):
        return [cell for cell in same if entry.epsilon is None or math.isinf(cell.budget)]
    limit = entry.epsilon * (1 + BUDGET_SLACK)
    allowed = [cell for cell in same if cell.budget <= limit]
    largest: dict[str, float] = {}
    for cell in allowed:
        name = cell.first.generator
        largest[name] = max(cell.budget, largest.get(name, 0.0))
    return [cell for cell in allowed if cell.budget == largest[cell.first.generator]]


def _row(entry: Expected, cell: Cell | None, interval: Interval | None) -> dict[str, object]:
    return {
        "dataset": entry.dataset,
        "published_model": entry.model,
        "published_epsilon": entry.epsilon,
        "metric": entry.metric,
        "published": entry.value,
        "tolerance": entry.tolerance,
        "kind": entry.kind,
        "generator": cell.first.generator if cell else "",
        "epsilon": cell.budget if cell else math.nan,
        "mean": interval.mean if interval else math.nan,
        "low": interval.low if interval else math.nan,
        "high": interval.high if interval else math.nan,
        "n": interval.n if interval else 0,
        "difference": interval.mean - entry.value if interval else math.nan,
        "verdict": _verdict(entry, interval.mean) if interval else "not measured",
        "source": entry.source,
    }


def _verdict(entry: Expected, mean: float) -> str:
    # A hair of slack: a difference of 0.005 in decimals is not 0.005 in binary.
    tolerance = entry.tolerance + 1e-12
    if entry.kind != "B":
        return "within" if abs(mean - entry.value) <= tolerance else "outside"
    name = entry.part[0]
    gain = shortfall(name, entry.value) - shortfall(name, mean)
    if abs(gain) <= tolerance:
        return "within"
    return "better" if gain > 0 else "worse"
