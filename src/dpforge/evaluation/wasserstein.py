"""Wasserstein distance of two tables over its value for shuffled labels, legacy and corrected.

References:
    Arnold & Neunhoeffer, *Really Useful Synthetic Data* (arXiv 2004.07740).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from dpforge.data.schema import Schema
from dpforge.evaluation.coordinates import ONE_HOT, Axes, axes, fit_scale, points
from dpforge.evaluation.frames import aligned
from dpforge.evaluation.legacy import legacy_pair

VERSION = "wasserstein-1"
LEGACY_VERSION = "wasserstein-legacy-1"
ROWS = 1000
REPEATS = 10
PERMUTATIONS = 100
DIRECTIONS = 64
LEGACY_DRAWS = 50
LEGACY_ROWS = 100
LEGACY_BINS = 10


def wasserstein_ratio(
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    schema: Schema,
    *,
    max_rows: int = ROWS,
    repeats: int = REPEATS,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> dict[str, float]:
    """W₁ between two tables over its median for shuffled labels, at least 0, best 1.

    Both tables are standardised by the mean and deviation of ``real``. Each repeat draws equally many
    rows of both (at most ``max_rows``); a wrong table's ratio grows with the root of that number, so it
    belongs to the result. ``1d`` is the mean over columns: exact W₁ of numbers, total variation of
    categories (which is W₁ of one-hot levels over √2). ``sliced`` is the mean W₁ along 64 seeded random
    directions (anew for each repeat) of numbers and one-hot levels over √2. "Missing" is a coordinate of
    its own.

    Returns:
        ``wasserstein_ratio_1d`` and ``wasserstein_ratio_sliced``, means over the repeats; each with
        ``…_std`` over the repeats (0 for one repeat); ``wasserstein_rows``, the rows drawn of each.

    Raises:
        DataError: An empty table or a missing column.
    """
    real, synthetic = aligned(real, schema, "real"), aligned(synthetic, schema, "synthetic")
    scale, plan = fit_scale(real, schema), axes(schema)
    tables = points(real, schema, scale), points(synthetic, schema, scale)
    rows = min(max_rows, *(len(table) for table in tables))
    rng = np.random.default_rng([seed, 11])
    found = np.array([_ratios(_pooled(tables, rows, rng), plan, permutations, rng) for _ in range(repeats)])
    mean, spread = found.mean(axis=0), found.std(axis=0, ddof=1) if repeats > 1 else np.zeros(2)
    return {
        "wasserstein_ratio_1d": float(mean[0]),
        "wasserstein_ratio_1d_std": float(spread[0]),
        "wasserstein_ratio_sliced": float(mean[1]),
        "wasserstein_ratio_sliced_std": float(spread[1]),
        "wasserstein_rows": float(rows),
    }


def distances_by_labels(pooled: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """W₁ in one dimension between the two halves of a pool, for many labellings at once.

    Args:
        pooled: Values, shape ``(2n, m)``.
        signs: +1 for rows of the first half and -1 for the second, shape ``(labellings, 2n)``, each
            labelling with equally many of both.

    Returns:
        Exact W₁ for each labelling and column, shape ``(labellings, m)``: the area between the two
        distribution functions.
    """
    rows, columns = pooled.shape
    found = np.zeros((len(signs), columns))
    for j in range(columns):
        order = np.argsort(pooled[:, j], kind="stable")
        gaps = np.diff(pooled[order, j])
        if gaps.any():
            excess = np.cumsum(signs[:, order[:-1]], axis=1, dtype=np.int32)
            found[:, j] = np.abs(excess) @ gaps / (rows / 2)
    return found


def legacy_wasserstein(
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    schema: Schema,
    *,
    draws: int = LEGACY_DRAWS,
    permutations: int = LEGACY_ROWS,
    seed: int = 0,
) -> dict[str, float]:
    """The published "Wasserstein ratio", about .08; no value is good or bad.

    Every cell of 100 rows of each table is flattened into one sample with 10 bins, and the distance of
    two *shuffled* halves is averaged. The observed split never enters: real rows against real rows score
    the same as any synthetic table.

    Returns:
        ``wasserstein_ratio`` and ``wasserstein_ratio_std``, mean and deviation over the draws; 0 if a
        table has no complete row.

    Raises:
        DataError: An empty table, a missing column, or fewer than 2 number columns.
    """
    tables = legacy_pair(real, synthetic, schema)
    rows = min(LEGACY_ROWS, *(len(table) for table in tables))
    if rows == 0:
        return {"wasserstein_ratio": 0.0, "wasserstein_ratio_std": 0.0}
    rng = np.random.default_rng([seed, 12])
    found = [_legacy_null(_pooled(tables, rows, rng), permutations, rng) for _ in range(draws)]
    return {"wasserstein_ratio": float(np.mean(found)), "wasserstein_ratio_std": float(np.std(found))}


def binned_distance(first: np.ndarray, second: np.ndarray, width: float) -> np.ndarray:
    """Earth mover's distance of histograms over bins of equal ``width``, shapes ``(…, bins)``."""
    shares = [h / h.sum(axis=-1, keepdims=True) for h in (first, second)]
    return width * np.abs(np.cumsum(shares[0] - shares[1], axis=-1)).sum(axis=-1)


def _ratios(
    pooled: np.ndarray, plan: Axes, permutations: int, rng: np.random.Generator
) -> tuple[float, float]:
    signs = _signs(len(pooled), permutations, rng)
    # Half the sum over the levels of a category is its total variation.
    weights = np.where(plan.level, 0.5, 1.0) / (plan.owner.max() + 1)
    by_column = distances_by_labels(pooled, signs) @ weights
    # A direction spent on coordinates that never vary would only add noise.
    varies = np.ptp(pooled, axis=0) > 0
    embedded = (np.where(plan.indicator, ONE_HOT, 1.0) * pooled)[:, varies]
    sliced = distances_by_labels(embedded @ _directions(embedded.shape[1], rng), signs).mean(axis=1)
    return _over_null(by_column), _over_null(sliced)


def _over_null(distances: np.ndarray) -> float:
    """The first distance over the median of the others; 1 where every labelling gives 0."""
    observed, null = float(distances[0]), float(np.median(distances[1:]) or distances[1:].mean())
    return observed / null if null > 0 else 1.0


def _signs(rows: int, permutations: int, rng: np.random.Generator) -> np.ndarray:
    observed = np.repeat(np.array([1, -1], dtype=np.int8), rows // 2)
    shuffled = rng.permuted(np.tile(observed, (permutations, 1)), axis=1)
    return np.concatenate([observed[None, :], shuffled])


def _pooled(tables: tuple[np.ndarray, np.ndarray], rows: int, rng: np.random.Generator) -> np.ndarray:
    return np.concatenate([table[rng.choice(len(table), rows, replace=False)] for table in tables])


def _directions(size: int, rng: np.random.Generator) -> np.ndarray:
    """Unit vectors, shape ``(size, 64)``."""
    drawn = rng.normal(size=(size, DIRECTIONS))
    return drawn / np.linalg.norm(drawn, axis=0)


def _legacy_null(pooled: np.ndarray, permutations: int, rng: np.random.Generator) -> float:
    low, high = float(pooled.min()), float(pooled.max())
    if low == high:
        return 0.0
    edges = np.linspace(low, high, LEGACY_BINS + 1)
    codes = np.searchsorted(edges[1:-1], pooled, side="right")
    counts = np.stack([(codes == b).sum(axis=1) for b in range(LEGACY_BINS)], axis=1)
    first = (_signs(len(pooled), permutations, rng)[1:] > 0).astype(np.int64) @ counts
    return float(binned_distance(first, counts.sum(axis=0) - first, edges[1] - edges[0]).mean())
