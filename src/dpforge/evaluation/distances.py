"""Distances of synthetic rows to training rows: hints at copying, never evidence of privacy.

Tables that pass these checks still leak (arXiv 2505.01524); the guarantee is in the certificate.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.neighbors import NearestNeighbors

from dpforge.data.schema import Schema
from dpforge.evaluation.accuracy import as_numbers
from dpforge.evaluation.coordinates import ONE_HOT, axes
from dpforge.evaluation.correlation import association
from dpforge.evaluation.features import level_codes, levels
from dpforge.evaluation.frames import aligned, drawn_rows, series
from dpforge.evaluation.threads import threads_for

VERSION = "schema-1"
MAX_ROWS = 10_000
ROLES = ("training", "holdout", "synthetic")
IDENTICAL = 1e-6
# Distances of equal rows differ by rounding alone below this.
TIE = 1e-7
SMALLEST_RANK = 10
GROUPS = 3


def distance_hints(
    real: pd.DataFrame,
    holdout: pd.DataFrame,
    synthetic: pd.DataFrame,
    schema: Schema,
    *,
    max_rows: int = MAX_ROWS,
    groups: bool = False,
    seed: int = 0,
) -> dict[str, float]:
    """Whether synthetic rows lie closer to the training rows than to equally many fresh rows.

    Numbers enter as their quantile rank among training and holdout rows minus ½, categories one-hot over
    √2, "missing" as a coordinate of its own; rows are scaled to length 1.

    Args:
        real: Training rows; ``holdout`` rows were not used for training.
        max_rows: Largest number of rows of each table; all three enter with equally many.
        groups: Take the largest ``dcr_share`` over all columns, 3 correlated and 3 random groups of half
            of the columns.

    Returns:
        ``dcr_share`` in [0, 1], the share of synthetic rows closer to a training row than to any holdout
        row (ties ½): ideal ½, larger leans to training rows. ``nndr_ratio``, at least 0: the 10th smallest
        ratio of nearest to second nearest distance to training rows over that to holdout rows, ideal 1.
        ``ims`` in [0, 1], the share of synthetic rows identical to a training row, ideal
        ``ims_holdout``, that of holdout rows. ``distance_rows``, the rows of each table.

    Raises:
        DataError: An empty table or a missing column.
        ConfigError: The schema has private bounds or categories that were not released.
    """
    tables = [aligned(t, schema, r) for t, r in zip((real, holdout, synthetic), ROLES, strict=True)]
    rows = min(max_rows, *(len(table) for table in tables))
    drawn = [drawn_rows(table, rows, seed, stream=20 + i) for i, table in enumerate(tables)]
    points = embedded(drawn, schema)
    whole = [unit_rows(p) for p in points]
    with threads_for(rows):
        to_real, to_holdout = _two_nearest(whole[0], whole[2]), _two_nearest(whole[1], whole[2])
        fresh = _two_nearest(whole[0], whole[1])[:, 0]
        share = closer_share(to_real[:, 0], to_holdout[:, 0])
        if groups:
            chosen = column_groups(association(drawn[0], schema).to_numpy(), seed)
            share = max(share, *(_group_share(points, axes(schema).owner, group) for group in chosen))
    return {
        "dcr_share": share,
        "nndr_ratio": _small_ratio(to_real) / _small_ratio(to_holdout),
        "ims": float((to_real[:, 0] <= IDENTICAL).mean()),
        "ims_holdout": float((fresh <= IDENTICAL).mean()),
        "distance_rows": float(rows),
    }


def closer_share(to_real: np.ndarray, to_holdout: np.ndarray) -> float:
    """Share of rows closer to real rows, ties counted ½, from two distances of shape ``(n,)``."""
    tied = np.abs(to_real - to_holdout) <= TIE
    return float(np.where(tied, 0.5, to_real < to_holdout).mean())


def column_groups(associations: np.ndarray, seed: int) -> list[np.ndarray]:
    """3 groups of associated columns and 3 random ones, each of half of the columns (at least 1).

    Args:
        associations: Association of each pair of columns, shape ``(d, d)``.
    """
    rng = np.random.default_rng([seed, 23])
    columns = len(associations)
    size = max(1, columns // 2)
    starts = rng.choice(columns, min(GROUPS, columns), replace=False)
    correlated = [np.argsort(-np.abs(associations[start]), kind="stable")[:size] for start in starts]
    return correlated + [rng.choice(columns, size, replace=False) for _ in range(GROUPS)]


def embedded(tables: list[pd.DataFrame], schema: Schema) -> list[np.ndarray]:
    """Return points ``(n, F)`` of each table: ranks over the first two tables, categories one-hot."""
    blocks: list[list[np.ndarray]] = []
    for column in schema.columns:
        values = [series(table, column.name) for table in tables]
        if column.kind == "categorical":
            eye = ONE_HOT * np.eye(len(levels(column)) + 1)
            blocks.append([eye[level_codes(v, column)] for v in values])
        else:
            blocks.append(_ranked([as_numbers(v) for v in values]))
    return [np.concatenate(parts, axis=1) for parts in zip(*blocks, strict=True)]


def _ranked(numbers: list[np.ndarray]) -> list[np.ndarray]:
    """Middle quantile rank among the first two tables minus ½, and "missing"."""
    known = np.concatenate(numbers[:2])
    known = np.sort(known[np.isfinite(known)])
    found = []
    for values in numbers:
        ends = [np.searchsorted(known, values, side) for side in ("left", "right")]
        rank = (ends[0] + ends[1]) / (2 * max(len(known), 1)) - 0.5
        missing = ~np.isfinite(values)
        found.append(np.column_stack([np.where(missing, 0.0, rank), ONE_HOT * missing]))
    return found


def unit_rows(points: np.ndarray) -> np.ndarray:
    """Scale each row of ``(n, F)`` to length 1; a row of zeros stays."""
    length = np.linalg.norm(points, axis=1, keepdims=True)
    return points / np.where(length > 0, length, 1.0)


def _two_nearest(reference: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Distance to the two nearest reference rows, shape ``(n, 2)``; of one reference row, twice to it."""
    model = NearestNeighbors(n_neighbors=min(2, len(reference)), algorithm="brute").fit(reference)
    found = model.kneighbors(queries)[0]
    return found[:, [0, -1]]


def _small_ratio(distances: np.ndarray) -> float:
    """The 10th smallest ratio of nearest to second nearest distance (the last if there are fewer)."""
    ratios = np.sort((distances[:, 0] + 1e-8) / (distances[:, 1] + 1e-8))
    return float(ratios[min(SMALLEST_RANK, len(ratios)) - 1])


def _group_share(points: list[np.ndarray], owner: np.ndarray, group: np.ndarray) -> float:
    kept = np.isin(owner, group)
    real, holdout, synthetic = (unit_rows(p[:, kept]) for p in points)
    nearest = [_two_nearest(reference, synthetic)[:, 0] for reference in (real, holdout)]
    return closer_share(nearest[0], nearest[1])
