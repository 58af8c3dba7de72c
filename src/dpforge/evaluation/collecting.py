"""One result from the outcomes of every measurement and repeat."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dpforge.evaluation.comparisons import Outcome
from dpforge.evaluation.results import Results, normalised

# Permuting columns changes nothing that a column shows alone.
EXACT_FLOORS = (
    "fidelity/tvd_1way",
    "fidelity/accuracy_univariate",
    "fidelity/range_coverage",
    "fidelity/category_coverage",
    "fidelity/category_mass",
)


def collected(runs: list[list[Outcome]], rows: dict[str, int], notes: list[str]) -> Results:
    """One :class:`Results` from the outcomes of every repeat."""
    repeats = [_flat(outcomes) for outcomes in runs]
    values = {key: np.array([repeat[key] for repeat in repeats]) for key in repeats[0]}
    metrics = {key: float(found.mean()) for key, found in values.items()}
    spread = {key: value for outcome in runs[0] for key, value in outcome.spread.items()}
    if len(runs) > 1:
        spread = {key: float(found.std(ddof=1)) for key, found in values.items()}
    for outcome in runs[0]:
        rows = {**rows, **outcome.rows}
    notes = [
        *notes,
        *_marginal_notes(metrics),
        *(note for outcomes in runs for outcome in outcomes for note in outcome.notes),
    ]
    versions = {key: outcome.version for outcome in runs[0] for key in _flat([outcome])}
    public = {key for outcome in runs[0] for key in outcome.public}
    notes += [f"{k[11:]}: floor and ceiling coincide" for k in metrics if _undefined(k, metrics)]
    tables = {name: frame for outcome in runs[0] for name, frame in outcome.tables.items()}
    private = [key for key in metrics if key not in public]
    return Results(metrics, versions, private, rows, list(dict.fromkeys(notes)), tables, spread)


def _flat(outcomes: Iterable[Outcome]) -> dict[str, float]:
    """Each key followed by its floor, ceiling and normalised score."""
    metrics: dict[str, float] = {}
    for outcome in outcomes:
        for key, by_role in outcome.scores.items():
            metrics[key] = by_role["score"]
            metrics[f"floor/{key}"] = by_role["floor"]
            if "ceiling" in by_role:
                score, floor, ceiling = (by_role[role] for role in ("score", "floor", "ceiling"))
                metrics[f"ceiling/{key}"] = ceiling
                metrics[f"normalised/{key}"] = normalised(score, floor, ceiling)
        metrics |= outcome.alone
    return metrics


def _undefined(key: str, metrics: dict[str, float]) -> bool:
    return key.startswith("normalised/") and bool(np.isnan(metrics[key]))


def _marginal_notes(metrics: Iterable[str]) -> list[str]:
    """Permuting columns leaves one-way marginals exact, which turns the normalised scale around."""
    keys = [key for key in metrics if key in EXACT_FLOORS]
    meaning = "the floor is exact by construction; normalised reads 0 exact, 1 as close as fresh real rows"
    return [f"{key}: {meaning}" for key in keys]
