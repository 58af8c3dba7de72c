"""Measurements of the scores of the DP-MAF experiments, of coverage and of distances, for the suite."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from dpforge.data.schema import Schema
from dpforge.evaluation import coverage, distances, likelihood, propensity, ranking, wasserstein
from dpforge.evaluation.comparisons import Outcome, Tables
from dpforge.evaluation.frames import aligned

LEGACY_NOTE = (
    "legacy/… reproduces a published table and ranks nothing: each table is standardised by itself, and "
    "real rows, noise and permuted columns score alike; read fidelity/… instead"
)
HINT_NOTE = "hint/… may reveal copying and is no evidence of privacy; the guarantee is the certificate's"


def sra(tables: Tables, max_rows: int) -> Outcome:
    """``fidelity/sra_tsts``; its ceiling trains and tests the learners on holdout rows."""
    assert tables.test is not None
    schema, seed = tables.schema, tables.seed
    test = ranking.target_rows(tables.test, schema, "holdout", max_rows, seed)
    real = ranking.target_rows(tables.real, schema, "training", max_rows, seed)
    reference = ranking.learner_predictions(real, test, schema, seed)
    intervals = {}
    for role, table in _fresh(tables).items():
        rows = ranking.target_rows(table, schema, role, max_rows, seed)
        found = ranking.learner_predictions(*ranking.halves(rows, seed), schema, seed)
        bootstraps = ranking.BOOTSTRAPS if role == "score" else 0
        intervals[role] = ranking.agreement_interval(reference, found, bootstraps, seed)
    key = "fidelity/sra_tsts"
    _, low, high = intervals["score"]
    scores = {key: {role: interval[0] for role, interval in intervals.items()}}
    alone = {f"{key}_low": low, f"{key}_high": high}
    return Outcome(ranking.VERSION, scores, alone, rows={"sra_train": len(real), "sra_test": len(test)})


def wasserstein_ratios(tables: Tables, max_rows: int) -> Outcome:
    """``fidelity/wasserstein_ratio_{1d,sliced}``, every table at the size of the smallest."""
    others = _fresh(tables)
    rows = min(max_rows, len(tables.real), *(len(table) for table in others.values()))
    found = {
        role: wasserstein.wasserstein_ratio(
            tables.real, table, tables.schema, max_rows=rows, seed=tables.seed
        )
        for role, table in others.items()
    }
    names = ("wasserstein_ratio_1d", "wasserstein_ratio_sliced")
    scores = {f"fidelity/{name}": {role: values[name] for role, values in found.items()} for name in names}
    spread = {f"fidelity/{name}": found["score"][f"{name}_std"] for name in names}
    return Outcome(wasserstein.VERSION, scores, rows={"wasserstein": rows}, spread=spread)


def pmse(tables: Tables, max_rows: int) -> Outcome:
    """``fidelity/pmse_{ratio,z}_{main,pairwise}``, every table at the size of the smallest."""
    others = _fresh(tables)
    rows = min(max_rows, len(tables.real), *(len(table) for table in others.values()))
    scores: dict[str, dict[str, float]] = {}
    for features in ("main", "pairwise"):
        found = {
            role: propensity.propensity_ratio(
                tables.real, table, tables.schema, features=features, max_rows=rows, seed=tables.seed
            )
            for role, table in others.items()
        }
        for name in ("ratio", "z"):
            values = {role: result[f"pmse_{name}"] for role, result in found.items()}
            scores[f"fidelity/pmse_{name}_{features}"] = values
    return Outcome(propensity.VERSION, scores, rows={"pmse": rows})


def covered(tables: Tables) -> Outcome:
    """``fidelity/{range,category}_coverage`` and ``fidelity/category_mass``, with those of each column."""
    found = {
        role: coverage.value_coverage(tables.real, table, tables.schema)
        for role, table in tables.others.items()
    }
    scores = {f"fidelity/{key}": {role: found[role][key] for role in found} for key in found["score"]}
    frame = coverage.column_coverage(tables.real, tables.others["score"], tables.schema)
    return Outcome(coverage.VERSION, scores, tables={"coverage_columns": frame})


def duplicates(tables: Tables) -> Outcome:
    """``validity/duplicate_share``; the number of rows compared is that of the real table."""
    share = coverage.duplicate_share(tables.others["score"], tables.schema)
    return Outcome(coverage.DUPLICATE_VERSION, alone={"validity/duplicate_share": share})


def hints(tables: Tables, max_rows: int) -> Outcome:
    """``hint/{dcr_share,nndr_ratio,ims,ims_holdout}``."""
    assert tables.test is not None
    found = distances.distance_hints(
        tables.real,
        tables.test,
        tables.others["score"],
        tables.schema,
        max_rows=max_rows,
        seed=tables.seed,
    )
    rows = {"distances": int(found.pop("distance_rows"))}
    alone = {f"hint/{key}": value for key, value in found.items()}
    return Outcome(distances.VERSION, alone=alone, notes=(HINT_NOTE,), rows=rows)


def log_likelihood(tables: Tables) -> Outcome:
    """``fidelity/log_likelihood`` and ``…_bits_per_dim`` of the holdout; the floor is independent columns."""
    model, test = tables.model, tables.test
    assert model is not None
    assert test is not None
    columns = len(tables.schema.names)
    values = model.log_prob(test)
    alone = _likelihoods("", values, columns)
    marginal = likelihood.baseline(model, test)
    if marginal is not None:
        alone |= _likelihoods("floor/", marginal, columns)
    notes = [f"fidelity/log_likelihood compares only models of one codec: {likelihood.codec_name(model)}"]
    impossible = int((~np.isfinite(values)).sum())
    if impossible:
        rest = values[np.isfinite(values)].mean() if impossible < len(values) else float("nan")
        notes.append(
            f"{impossible:,} of {len(values):,} holdout rows have probability 0 under the model, so the mean"
            f" is −∞; the mean of the others is {rest:.3f} nats"
        )
    return Outcome(likelihood.VERSION, alone=alone, notes=tuple(notes), rows={"log_likelihood": len(values)})


def _likelihoods(role: str, values: np.ndarray, columns: int) -> dict[str, float]:
    found = likelihood.log_likelihood(values, columns)
    return {f"{role}fidelity/{key}": value for key, value in found.items()}


def legacy_sra(tables: Tables) -> Outcome:
    """``legacy/sra``."""
    return _legacy(tables, "sra", ranking.legacy_ranking_agreement, ranking.LEGACY_VERSION)


def legacy_wasserstein(tables: Tables) -> Outcome:
    """``legacy/wasserstein_ratio``, with the deviation over its draws."""

    def seeded(real: pd.DataFrame, other: pd.DataFrame, schema: Schema) -> dict[str, float]:
        return wasserstein.legacy_wasserstein(real, other, schema, seed=tables.seed)

    return _legacy(tables, "wasserstein_ratio", seeded, wasserstein.LEGACY_VERSION)


def legacy_pmse(tables: Tables) -> Outcome:
    """``legacy/pmse_ratio``."""
    return _legacy(tables, "pmse_ratio", propensity.legacy_propensity, propensity.LEGACY_VERSION)


Legacy = Callable[[pd.DataFrame, pd.DataFrame, Schema], dict[str, float]]


def _legacy(tables: Tables, name: str, measure: Legacy, version: str) -> Outcome:
    # The published scores keep the first rows of the table as it came, not a draw of them.
    given = aligned(tables.synthetic_as_given, tables.schema, "synthetic")
    others = {**tables.others, "score": given}
    found = {role: measure(tables.real, table, tables.schema) for role, table in others.items()}
    key = f"legacy/{name}"
    spread = {key: found["score"][f"{name}_std"]} if f"{name}_std" in found["score"] else {}
    scores = {key: {role: values[name] for role, values in found.items()}}
    return Outcome(version, scores, notes=(LEGACY_NOTE,), spread=spread)


def _fresh(tables: Tables) -> dict[str, pd.DataFrame]:
    """The other tables with the holdout's rows without repetition as the ceiling."""
    return tables.others if tables.test is None else {**tables.others, "ceiling": tables.test}
