"""The evaluation of a synthetic table: chosen metrics, each beside its floor and its ceiling."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import pandas as pd

from dpforge.data.encode.cells import CellCodec
from dpforge.data.schema import Schema
from dpforge.errors import ConfigError, did_you_mean
from dpforge.evaluation import attack_measures, comparisons, measurements
from dpforge.evaluation.collecting import collected
from dpforge.evaluation.comparisons import Guarantee, Measure, Outcome, Tables
from dpforge.evaluation.downstream import DEFAULT_LEARNERS, LEARNERS
from dpforge.evaluation.frames import aligned, drawn_rows, permuted_columns, resized
from dpforge.evaluation.legacy import number_columns
from dpforge.evaluation.likelihood import Likelihood
from dpforge.evaluation.results import Results

DEFAULT_METRICS = (
    "tvd_1way",
    "tvd_2way",
    "tvd_3way",
    "accuracy",
    "correlation",
    "coverage",
    "c2st",
    "tstr",
    "log_likelihood",
    "validity",
)
METRICS = (*DEFAULT_METRICS, "wasserstein", "pmse", "sra", "distances", "attacks", "legacy")
NEEDS_HOLDOUT = ("tstr", "sra", "distances", "attacks", "log_likelihood")
COUNTS = (
    "max_rows",
    "learner_rows",
    "c2st_rows",
    "triples",
    "repeats",
    "sra_rows",
    "wasserstein_rows",
    "pmse_rows",
    "distance_rows",
    "attack_rows",
)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TabularEvaluation:
    """Scores of a synthetic table against real rows.

    Args:
        metrics: Names out of :data:`METRICS`; None for :data:`DEFAULT_METRICS`.
        max_rows: Largest number of rows of any table; None for all rows. Marginals are cheap: 32,561 rows
            of 15 columns take seconds.
        learner_rows: Largest number of rows a learner is trained on, and tested on.
        c2st_rows: Largest number of rows of each table in the classifier two-sample test.
        learners: Learners of ``tstr``: ``lr``, ``hgb``, ``rf``, ``mlp``.
        every_measure: Whether ``tstr`` reports average precision, F1 and balanced accuracy (or RMSE) too.
        sra_rows: Largest number of rows of each table in the ranking agreement.
        wasserstein_rows: Rows of each table in the Wasserstein ratios, which grow with it.
        pmse_rows: Largest number of rows of each table in the propensity scores.
        distance_rows: Largest number of rows of each table in the distance hints.
        attack_rows: Largest number of members and of non-members that the membership attacks score.
        triples: Largest number of column pairs or triples before a seeded sample is taken.
        repeats: Evaluations with other permutations, draws and folds; the mean and the standard deviation
            are reported.
        seed: Default seed of :meth:`evaluate`.
    """

    modalities: ClassVar[tuple[str, ...]] = ("table",)

    metrics: Sequence[str] | None = None
    max_rows: int | None = None
    learner_rows: int = 50_000
    c2st_rows: int = 10_000
    learners: Sequence[str] = DEFAULT_LEARNERS
    every_measure: bool = False
    sra_rows: int = 4_000
    wasserstein_rows: int = 1_000
    pmse_rows: int = 10_000
    distance_rows: int = 10_000
    attack_rows: int = 5_000
    triples: int = 10_000
    repeats: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        mistakes = [
            *_unknown("metrics", self.metrics or (), METRICS),
            *_unknown("learners", self.learners, LEARNERS),
            *_not_positive(self, COUNTS),
        ]
        if mistakes:
            raise ConfigError(mistakes)

    def evaluate(
        self,
        train: pd.DataFrame,
        holdout: pd.DataFrame | None,
        synthetic: pd.DataFrame,
        schema: Schema,
        *,
        seed: int | None = None,
        progress: Progress | None = None,
        model: object | None = None,
        guarantee: Guarantee | None = None,
    ) -> Results:
        """Score ``synthetic`` against ``train`` and ``holdout``, all typed tables.

        ``floor/…`` is the score of independently permuted columns of ``train``, ``ceiling/…`` that of
        ``holdout`` at the size of ``train`` (for ``tstr``: of training on ``train``), ``normalised/…`` the
        position between them. Without a holdout, ceilings and ``tstr`` are left out with a note.

        Args:
            seed: Of permutations, draws, folds and learners; None for ``self.seed``.
            progress: Called with (metric, finished, total).
            model: What made ``synthetic``; log-likelihood is left out unless it is a
                :class:`~dpforge.evaluation.likelihood.Likelihood`.
            guarantee: What the maker claims, for the sentence of the membership attacks.

        Raises:
            DataError: An empty table or a missing column.
            ConfigError: The schema has private bounds or categories that were not released.
        """
        start = self.seed if seed is None else seed
        seeds = [start + repeat for repeat in range(self.repeats)]
        scorer = model if isinstance(model, Likelihood) else None
        all_tables = [
            replace(self._tables(train, holdout, synthetic, schema, s), model=scorer, guarantee=guarantee)
            for s in seeds
        ]
        measures, skipped = self._measures(all_tables[0])
        report = progress or _silent
        runs: list[list[Outcome]] = []
        for done, tables in enumerate(all_tables):
            runs.append(_measured(measures, tables, report, done * len(measures), len(seeds) * len(measures)))
        report("done", len(seeds) * len(measures), len(seeds) * len(measures))
        notes = [*_row_notes(train, holdout, synthetic, all_tables[0]), *skipped]
        return collected(runs, _row_counts(all_tables[0]), notes)

    def _tables(
        self,
        train: pd.DataFrame,
        holdout: pd.DataFrame | None,
        synthetic: pd.DataFrame,
        schema: Schema,
        seed: int,
    ) -> Tables:
        real = drawn_rows(aligned(train, schema, "training"), self.max_rows, seed)
        score = drawn_rows(aligned(synthetic, schema, "synthetic"), len(real), seed)
        others = {"score": score, "floor": permuted_columns(real, seed)}
        test = None
        if holdout is not None and len(holdout):
            fresh = aligned(holdout, schema, "holdout")
            test = drawn_rows(fresh, self.max_rows, seed)
            others["ceiling"] = resized(fresh, len(real), seed)
        return Tables(schema, real, others, test, synthetic, seed, CellCodec(schema))

    def _measures(self, tables: Tables) -> tuple[list[tuple[str, Measure]], list[str]]:
        """The chosen measurements that this table allows, and why others are left out."""
        chosen: list[tuple[str, Measure]] = []
        notes: list[str] = []
        for name in self.metrics or DEFAULT_METRICS:
            reason = _not_applicable(name, tables)
            if name == "log_likelihood" and tables.model is None and self.metrics is None:
                continue  # most generators have none; nobody asked
            if reason:
                notes.append(f"{name} left out: {reason}")
                continue
            chosen.extend(self._named_measures(name))
        return chosen, notes

    def _named_measures(self, name: str) -> list[tuple[str, Measure]]:
        if name == "tstr":
            measure = partial(comparisons.tstr, max_rows=self.learner_rows, every_measure=self.every_measure)
            return [(f"tstr_{learner}", partial(measure, learner=learner)) for learner in self.learners]
        if name.startswith("tvd_"):
            return [(name, partial(comparisons.tvd, order=int(name[4]), limit=self.triples))]
        measures: dict[str, list[Measure]] = {
            "accuracy": [partial(comparisons.mostly, limit=self.triples)],
            "correlation": [comparisons.association],
            "coverage": [measurements.covered, measurements.duplicates],
            "c2st": [partial(comparisons.two_sample, max_rows=self.c2st_rows)],
            "validity": [comparisons.validity],
            "log_likelihood": [measurements.log_likelihood],
            "attacks": [partial(attack_measures.attacks, max_rows=self.attack_rows)],
            "wasserstein": [partial(measurements.wasserstein_ratios, max_rows=self.wasserstein_rows)],
            "pmse": [partial(measurements.pmse, max_rows=self.pmse_rows)],
            "sra": [partial(measurements.sra, max_rows=self.sra_rows)],
            "distances": [partial(measurements.hints, max_rows=self.distance_rows)],
            "legacy": [
                measurements.legacy_sra,
                measurements.legacy_wasserstein,
                measurements.legacy_pmse,
            ],
        }
        return [(name, measure) for measure in measures[name]]


def _measured(
    measures: Iterable[tuple[str, Measure]], tables: Tables, report: Progress, done: int, total: int
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for i, (name, measure) in enumerate(measures):
        report(name, done + i, total)
        outcomes.append(measure(tables))
    return outcomes


def _not_applicable(name: str, tables: Tables) -> str:
    columns = len(tables.schema.names)
    needed = {"tvd_2way": 2, "tvd_3way": 3, "correlation": 2}.get(name, 1)
    if columns < needed:
        return f"it needs {needed} columns, the schema has {columns}"
    if name == "legacy" and len(number_columns(tables.schema)) < 2:
        return "it needs 2 number columns"
    if name in ("tstr", "sra") and tables.schema.target is None:
        return "the schema names no target"
    if name == "log_likelihood" and tables.model is None:
        return "the model that made the table has none, or is not at hand"
    if name in NEEDS_HOLDOUT and tables.test is None:
        return "there is no holdout to test on"
    return ""


def _row_notes(
    train: pd.DataFrame, holdout: pd.DataFrame | None, synthetic: pd.DataFrame, tables: Tables
) -> list[str]:
    rows, notes = len(tables.real), []
    if rows < len(train):
        notes.append(f"scores use {rows} of the training rows (max_rows)")
    if len(synthetic) < rows:
        notes.append("the synthetic table has fewer rows than the real one; its sampling noise is larger")
    if tables.test is None:
        notes.append("no holdout: ceilings and normalised scores are left out")
    elif holdout is not None and len(holdout) < rows:
        notes.append("the holdout is smaller than the real table: ceilings use a bootstrap and look worse")
    return notes


def _row_counts(tables: Tables) -> dict[str, int]:
    counts = {"real": len(tables.real), "synthetic": len(tables.others["score"])}
    return counts if tables.test is None else {**counts, "holdout": len(tables.test)}


def _unknown(field: str, names: Iterable[str], known: Sequence[str]) -> list[str]:
    expected = f"expected any of {', '.join(known)}"
    return [
        f"unknown evaluation.{field} entry '{name}', {expected}.{did_you_mean(name, known)}"
        for name in names
        if name not in known
    ]


def _not_positive(options: TabularEvaluation, fields: Iterable[str]) -> list[str]:
    values = {field: getattr(options, field) for field in fields}
    return [
        f"evaluation.{field}={value}, expected a whole number of at least 1."
        for field, value in values.items()
        if value is not None and value < 1
    ]


def _silent(metric: str, done: int, total: int) -> None:
    """Report nothing."""
