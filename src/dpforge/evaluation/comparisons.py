"""The measurements of one evaluation: each metric for the synthetic, floor and ceiling tables at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd

from dpforge.data.encode.cells import CellCodec
from dpforge.data.schema import Schema
from dpforge.data.table import violations
from dpforge.evaluation import accuracy, classifier_test, correlation, downstream, marginals
from dpforge.evaluation.frames import drawn_rows
from dpforge.evaluation.likelihood import Likelihood
from dpforge.evaluation.results import normalised

VALIDITY_VERSION = "violations-1"


class Guarantee(NamedTuple):
    """What the maker of a table claims: (ε, δ)-differential privacy; ε is infinite where nothing is."""

    epsilon: float
    delta: float


@dataclass(frozen=True)
class Tables:
    """Aligned tables of one evaluation.

    Args:
        real: Training rows R.
        others: ``score`` (the synthetic table), ``floor`` (permuted columns of R) and, with a holdout,
            ``ceiling`` (the holdout at the size of R).
        test: Holdout rows without repetition; None if there is no holdout.
        synthetic_as_given: The synthetic table before columns and rows were chosen, for validity.
        codec: Cells of the public schema.
        model: The model behind the synthetic table if it can score rows.
        guarantee: The claim that attacks are compared with.
    """

    schema: Schema
    real: pd.DataFrame
    others: dict[str, pd.DataFrame]
    test: pd.DataFrame | None
    synthetic_as_given: pd.DataFrame
    seed: int
    codec: CellCodec
    model: Likelihood | None = None
    guarantee: Guarantee | None = None

    @cached_property
    def cells(self) -> dict[str, np.ndarray]:
        """Public cell codes of R under ``real`` and of each other table, shape ``(n, d)``."""
        return {name: self.codec.encode(table).codes for name, table in self._named()}

    @cached_property
    def associations(self) -> dict[str, pd.DataFrame]:
        """Association matrix of R under ``real`` and of each other table."""
        return {name: correlation.association(table, self.schema) for name, table in self._named()}

    def _named(self) -> list[tuple[str, pd.DataFrame]]:
        return [("real", self.real), *self.others.items()]


@dataclass(frozen=True)
class Outcome:
    """Result of one measurement.

    Args:
        version: Version of the metric.
        scores: For each metric key its value by role (``score``, ``floor``, ``ceiling``).
        alone: Keys that have neither floor nor ceiling.
        public: Keys that no real row entered.
        spread: Standard deviation over the metric's own draws, for keys of ``scores``.
    """

    version: str
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    alone: dict[str, float] = field(default_factory=dict)
    public: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    rows: dict[str, int] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)


Measure = Callable[[Tables], Outcome]


def tvd(tables: Tables, order: int, limit: int) -> Outcome:
    """``fidelity/tvd_{order}way`` with the distance of each marginal for orders 1 and 2."""
    cells = tables.cells
    subsets = marginals.column_subsets(len(tables.schema.names), order, limit=limit, seed=tables.seed)
    distances = {
        role: marginals.marginal_distances(cells["real"], cells[role], tables.codec.sizes, subsets)
        for role in tables.others
    }
    key = f"fidelity/tvd_{order}way"
    summary = {role: marginals.summary(found, order) for role, found in distances.items()}
    frames = {f"marginals_{order}way": pd.DataFrame(summary)}
    if order < 3:
        frames["columns" if order == 1 else "pairs"] = _per_marginal(tables.schema, subsets, distances)
    means = {role: values[f"tvd_{order}way"] for role, values in summary.items()}
    return Outcome(marginals.VERSION, {key: means}, tables=frames)


def mostly(tables: Tables, limit: int) -> Outcome:
    """``fidelity/accuracy_*`` with bins fitted on the real rows, and the accuracy of each column."""
    bins = accuracy.fit_bins(tables.real, tables.schema)
    sizes = [column_bins.size for column_bins in bins]
    real = accuracy.binned(tables.real, tables.schema, bins)
    coded = {role: accuracy.binned(table, tables.schema, bins) for role, table in tables.others.items()}
    by_role = {
        role: accuracy.accuracy_scores(real, codes, sizes, triples=limit, seed=tables.seed)
        for role, codes in coded.items()
    }
    singles = [(j,) for j in range(len(sizes))]
    per_column = {r: accuracy.marginal_accuracies(real, c, sizes, singles) for r, c in coded.items()}
    frame = pd.DataFrame({"column": list(tables.schema.names), **per_column})
    names = by_role["score"]
    scores = {f"fidelity/{name}": {role: by_role[role][name] for role in by_role} for name in names}
    return Outcome(accuracy.VERSION, scores, tables={"accuracy_columns": frame})


def association(tables: Tables) -> Outcome:
    """``fidelity/correlation_mae`` with the matrices of the real and the synthetic table."""
    found = tables.associations
    errors = {r: correlation.matrix_error(found["real"], found[r])["correlation_mae"] for r in tables.others}
    frames = {"correlation_real": found["real"], "correlation_synthetic": found["score"]}
    return Outcome(correlation.VERSION, {"fidelity/correlation_mae": errors}, tables=frames)


def two_sample(tables: Tables, max_rows: int) -> Outcome:
    """``fidelity/c2st_auc``, every table at the size of the smallest so that scores compare."""
    others = dict(tables.others)
    if tables.test is not None:
        # Repeated rows of a bootstrapped holdout would be recognised across folds.
        others["ceiling"] = tables.test
    rows = min(max_rows, len(tables.real), *(len(table) for table in others.values()))
    aucs = {
        role: classifier_test.classifier_two_sample(
            tables.real, table, tables.schema, max_rows=rows, seed=tables.seed
        )["c2st_auc"]
        for role, table in others.items()
    }
    return Outcome(classifier_test.VERSION, {"fidelity/c2st_auc": aucs}, rows={"c2st": rows})


def tstr(tables: Tables, learner: str, max_rows: int, every_measure: bool = False) -> Outcome:
    """``utility/tstr_*`` of one learner; its ceiling, training on real rows, is also ``utility/trtr_*``.

    With ``every_measure`` also the other measures, and ``utility/relative_auroc_*``: how much of the
    distance from chance to training on real rows is kept, 1 for all (NaN where real rows teach nothing).
    """
    test = drawn_rows(_present(tables.test), max_rows, tables.seed, stream=7)
    sources = {"score": tables.others["score"], "floor": tables.others["floor"], "ceiling": tables.real}
    found = {
        role: downstream.train_on_test_on(
            drawn_rows(table, max_rows, tables.seed, stream=8), test, tables.schema, learner, seed=tables.seed
        )
        for role, table in sources.items()
    }
    suffix = f"{found['score'].measure}_{learner}"
    values = {role: score.value for role, score in found.items()}
    notes = tuple(f"{role} of tstr_{suffix}: {note}" for role, score in found.items() for note in score.notes)
    rows = {"learner_train": min(len(tables.real), max_rows), "learner_test": len(test)}
    scores = {f"utility/tstr_{suffix}": values}
    if every_measure:
        scores |= {
            f"utility/tstr_{name}_{learner}": {role: score.others[name] for role, score in found.items()}
            for name in found["score"].others
        }
    alone = {f"utility/trtr_{suffix}": values["ceiling"]}
    if every_measure and found["score"].measure == "auroc":
        relative = normalised(values["score"], downstream.CHANCE, values["ceiling"])
        alone[f"utility/relative_{suffix}"] = relative
    return Outcome(downstream.VERSION, scores, alone, notes=notes, rows=rows)


def validity(tables: Tables) -> Outcome:
    """``validity/schema_violations``, the number of violations of the public schema, best 0."""
    found = violations(tables.synthetic_as_given, tables.schema)
    named = ", ".join(f"{count} {kind}" for kind, count in found.items() if count)
    notes = (f"the synthetic table violates its schema: {named}",) if named else ()
    key = "validity/schema_violations"
    return Outcome(VALIDITY_VERSION, alone={key: float(sum(found.values()))}, public=(key,), notes=notes)


def _present(test: pd.DataFrame | None) -> pd.DataFrame:
    assert test is not None
    return test


def _per_marginal(
    schema: Schema, subsets: list[tuple[int, ...]], distances: dict[str, marginals.Distances]
) -> pd.DataFrame:
    columns = ("column",) if len(subsets[0]) == 1 else ("first", "second")
    names = {c: [schema.names[subset[i]] for subset in subsets] for i, c in enumerate(columns)}
    values = {role: found.distance for role, found in distances.items()}
    return pd.DataFrame({**names, **values, "noise": distances["score"].noise})
