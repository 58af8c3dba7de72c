"""Runs of a study that differ in their seed alone, what they cost together, and how generators compare."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dpforge.experiment.intervals import Interval, holm, paired_difference, t_interval
from dpforge.experiment.study import RunRecord, Study
from dpforge.experiment.study_metrics import best, shortfall
from dpforge.privacy.accounting import certifying_accountant, compose, epsilon
from dpforge.privacy.events import Event, SelfComposed

ALL_PAIRS = 4
BASELINE = "independent"
COMPARISON_COLUMNS = (
    "dataset", "epsilon", "metric", "first", "second", "n", "difference", "low", "high", "p", "p_holm",
)  # fmt: skip

LEADER_COLUMNS = ("dataset", "epsilon", "metric", "best", "mean", "n", "not_told_apart", "behind")


@dataclass(frozen=True)
class Cell:
    """Runs that are equal but for their seed.

    Args:
        runs: At least one, finished or not.
    """

    runs: tuple[RunRecord, ...]

    @property
    def first(self) -> RunRecord:
        """Any of the runs; all agree in what a cell holds fixed."""
        return self.runs[0]

    @property
    def budget(self) -> float:
        """Epsilon of one run: asked for, else certified; infinite without privacy, NaN if unknown."""
        if not self.first.enabled:
            return math.inf
        if self.first.epsilon_target is not None:
            return self.first.epsilon_target
        found = [run.epsilon for run in self.runs if run.epsilon is not None]
        return found[0] if found else math.nan

    @property
    def repeated_seeds(self) -> list[int]:
        """Seeds of more than one run, whose scores are not independent draws."""
        seeds = [run.seed for run in self.runs]
        return sorted({seed for seed in seeds if seeds.count(seed) > 1})

    def values(self, metric: str, part: str = "value") -> list[float]:
        """The finite values of a metric (or its ``floor``, ``ceiling``, ``normalised``), one a run."""
        found = [getattr(run.scores[metric], part) for run in self.runs if metric in run.scores]
        return [value for value in found if math.isfinite(value)]

    def interval(self, metric: str, part: str = "value") -> Interval:
        """Mean over the seeds with its 95 % t-interval."""
        return t_interval(self.values(metric, part))

    def by_seed(self, metric: str) -> dict[int, float]:
        """Value of each seed; the mean where a seed was run twice."""
        found: dict[int, list[float]] = {}
        for run in self.runs:
            if metric in run.scores and math.isfinite(run.scores[metric].value):
                found.setdefault(run.seed, []).append(run.scores[metric].value)
        return {seed: sum(values) / len(values) for seed, values in found.items()}


@dataclass(frozen=True)
class Composition:
    """What a reader of several runs on one data set has seen together.

    Args:
        dataset: Its name.
        guarantee: Unit and relation.
        runs: Number of runs with a plan of finite epsilon, crashed ones included.
        without_noise: Runs that are no part of it because they are not private at all.
        unreadable: Runs whose ledger cannot be read; what they spent is unknown.
        epsilon: Of everything reserved, at ``delta``; infinite if the accountant finds none.
        delta: The largest of the runs.
        accountant: ``pld`` or ``rdp``.
        labels: Statuses of the runs' certificates.
        public_benchmark: Whether the data are declared public.
    """

    dataset: str
    guarantee: str
    runs: int
    without_noise: int
    unreadable: int
    epsilon: float
    delta: float
    accountant: str
    labels: tuple[str, ...]
    public_benchmark: bool


def cells(study: Study) -> list[Cell]:
    """The cells of a study, in the order of its runs."""
    grouped: dict[tuple[Any, ...], list[RunRecord]] = {}
    for run in study.runs:
        grouped.setdefault(_fixed(run), []).append(run)
    return [Cell(tuple(runs)) for runs in grouped.values()]


def _fixed(run: RunRecord) -> tuple[Any, ...]:
    budget = (run.enabled, run.epsilon_target, run.delta)
    return (run.dataset, run.model, budget, tuple(run.settings.items()), run.bench)


def metrics_of(study: Study) -> list[str]:
    """Every metric of any run, in the order met."""
    return list(dict.fromkeys(key for run in study.runs for key in run.scores))


def aggregate(study: Study) -> pd.DataFrame:
    """One row a cell: mean, standard deviation, number and 95 % t-interval of every metric over the seeds.

    The columns of a metric are its name and the name followed by ``:sd``, ``:n``, ``:low``, ``:high``,
    ``:floor``, ``:ceiling``, ``:normalised``. With one seed ``sd``, ``low`` and ``high`` are missing: one
    value has no interval. ``epsilon_composed`` is what a reader of all seeds of the cell has seen.
    """
    metrics = metrics_of(study)
    return pd.DataFrame([_cell_row(cell, metrics) for cell in cells(study)])


def _cell_row(cell: Cell, metrics: Iterable[str]) -> dict[str, Any]:
    run = cell.first
    composed = compositions(cell.runs)
    row: dict[str, Any] = {
        "dataset": run.dataset,
        "model": run.model,
        "settings": run.shown_settings,
        "private": run.enabled,
        "epsilon": cell.budget,
        "delta": run.delta,
        "runs": len(cell.runs),
        "finished": sum(run.status == "done" for run in cell.runs),
        "epsilon_composed": composed[0].epsilon if len(composed) == 1 else math.nan,
        "public_benchmark": run.public_benchmark,
    }
    for metric in metrics:
        found = cell.interval(metric)
        row |= {metric: found.mean, f"{metric}:sd": found.sd, f"{metric}:n": found.n}
        row |= {f"{metric}:low": found.low, f"{metric}:high": found.high}
        for part in ("floor", "ceiling", "normalised"):
            row[f"{metric}:{part}"] = cell.interval(metric, part).mean
    return row


def compositions(runs: Sequence[RunRecord]) -> list[Composition]:
    """Compose what the ledgers reserved, apart for each data set and kind of guarantee.

    Stopped and failed runs count with what they reserved. Runs without noise have no finite epsilon and
    are counted apart; so are those whose ledger cannot be read.
    """
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    guarantees: dict[str, str] = {}
    for run in runs:
        if run.guarantee:
            guarantees.setdefault(run.dataset, run.guarantee)
    for run in runs:
        groups.setdefault((run.dataset, run.guarantee or guarantees.get(run.dataset, "")), []).append(run)
    return [_composition(dataset, kind, members) for (dataset, kind), members in groups.items()]


def _composition(dataset: str, guarantee: str, runs: Sequence[RunRecord]) -> Composition:
    private = [run for run in runs if run.enabled]
    counts: dict[Event, int] = {}
    for run in private:
        for event, count in run.reserved or ():
            counts[event] = counts.get(event, 0) + count
    # Equal events of several seeds are composed at once, which is exact and far faster.
    tree = compose(*(SelfComposed(event, count) for event, count in counts.items()))
    accountant = certifying_accountant(tree)
    delta = max(run.delta for run in runs)
    return Composition(
        dataset=dataset,
        guarantee=guarantee,
        runs=len(private),
        without_noise=len(runs) - len(private),
        unreadable=sum(run.reserved is None for run in private),
        epsilon=epsilon(tree, delta, accountant) if counts else 0.0,
        delta=delta,
        accountant=accountant,
        labels=tuple(sorted({run.label for run in runs if run.label})),
        public_benchmark=all(run.public_benchmark for run in runs),
    )


def comparisons(study: Study, metrics: Sequence[str]) -> pd.DataFrame:
    """Paired differences of generators at equal data, evaluation, epsilon and delta.

    Up to four generators are compared in all pairs; of more, each with ``independent`` (else the first), so
    that the correction does not drown everything. p-values are Holm-corrected over the whole table.

    Args:
        metrics: Names to compare.

    Returns:
        Columns :data:`COMPARISON_COLUMNS`; ``difference`` is first − second, with its 95 % interval.
    """
    rows = [
        _difference(first, second, metric)
        for level in _levels(study).values()
        for first, second in _pairs(level)
        for metric in metrics
        if first.values(metric) and second.values(metric)
    ]
    frame = pd.DataFrame(rows, columns=pd.Index(COMPARISON_COLUMNS))
    return frame.assign(p_holm=holm([float(p) for p in frame["p"]]))


def leaders(study: Study, metrics: Sequence[str]) -> pd.DataFrame:
    """Which generator is best at each epsilon, and which others the seeds cannot tell from it.

    Args:
        metrics: Names to rank by; those without a best value are left out.

    Returns:
        Columns :data:`LEADER_COLUMNS`. A generator is not told apart if the 95 % interval of its paired
        difference to the best holds 0, or if fewer than two seeds are shared.
    """
    rows = [
        _leader(level, metric)
        for level in _levels(study).values()
        for metric in metrics
        if not math.isnan(best(metric)) and sum(bool(cell.values(metric)) for cell in level) > 1
    ]
    return pd.DataFrame(rows, columns=pd.Index(LEADER_COLUMNS))


def _leader(level: list[Cell], metric: str) -> dict[str, Any]:
    ranked = sorted(
        (cell for cell in level if cell.values(metric)),
        key=lambda cell: shortfall(metric, cell.interval(metric).mean),
    )
    first, others = ranked[0], ranked[1:]
    close = [cell for cell in others if not _apart(first, cell, metric)]
    return {
        "dataset": first.first.dataset,
        "epsilon": first.budget,
        "metric": metric,
        "best": first.first.generator,
        "mean": first.interval(metric).mean,
        "n": first.interval(metric).n,
        "not_told_apart": tuple(cell.first.generator for cell in close),
        "behind": tuple(cell.first.generator for cell in others if cell not in close),
    }


def _apart(first: Cell, second: Cell, metric: str) -> bool:
    found = paired_difference(first.by_seed(metric), second.by_seed(metric)).interval
    return found.n > 1 and not found.low <= 0 <= found.high


def _levels(study: Study) -> Mapping[tuple[Any, ...], list[Cell]]:
    levels: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells(study):
        budget = round(cell.budget, 6) if math.isfinite(cell.budget) else cell.budget
        if not math.isnan(budget):
            delta = cell.first.delta if cell.first.enabled else None
            levels.setdefault((cell.first.dataset, cell.first.bench, budget, delta), []).append(cell)
    return levels


def _pairs(level: list[Cell]) -> list[tuple[Cell, Cell]]:
    if len(level) <= ALL_PAIRS:
        return list(itertools.combinations(level, 2))
    reference = next((cell for cell in level if cell.first.model == BASELINE), level[0])
    return [(cell, reference) for cell in level if cell is not reference]


def _difference(first: Cell, second: Cell, metric: str) -> dict[str, Any]:
    found = paired_difference(first.by_seed(metric), second.by_seed(metric))
    return {
        "dataset": first.first.dataset,
        "epsilon": first.budget,
        "metric": metric,
        "first": first.first.generator,
        "second": second.first.generator,
        "n": found.interval.n,
        "difference": found.interval.mean,
        "low": found.interval.low,
        "high": found.interval.high,
        "p": found.p,
        "p_holm": math.nan,
    }
