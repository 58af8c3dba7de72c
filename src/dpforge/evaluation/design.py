"""Design matrices of a propensity model: main effects, and products of pairs of coordinates."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np

from dpforge.evaluation.coordinates import Axes

MAX_FEATURES = 300
ROWS_PER_FEATURE = 10
# The null of pMSE is asymptotic: a feature that few rows share would spoil it.
MIN_COUNT = 10
RANK_TOLERANCE = 1e-9


def design(points: np.ndarray, axes: Axes, *, products: bool, seed: int) -> np.ndarray:
    """Standardised columns of a propensity model, shape ``(n, features)``.

    At most 300 features, and a tenth of the rows: the most common indicators come first, then a seeded
    choice of products. Columns with (nearly) one value are left out.

    Args:
        points: Coordinates of the pooled rows, shape ``(n, m)``.
        axes: What the coordinates stand for.
        products: Whether squares of numbers and products of two columns' coordinates enter.
    """
    limit = min(MAX_FEATURES, max(1, len(points) // ROWS_PER_FEATURE))
    kept = _main_effects(points, axes, limit)
    standard = _standardised(points[:, kept])
    columns = [standard[:, j] for j in range(len(kept))]
    if products:
        pairs = _pairs(axes.owner[kept], axes.indicator[kept], limit - len(columns), seed)
        # Of two indicators it is the rows with both that must be common enough.
        raw = np.where(axes.indicator[kept], points[:, kept], standard)
        columns += _products(standard, raw, axes.indicator[kept], pairs, limit - len(columns))
    return _standardised(np.column_stack(columns)) if columns else np.zeros((len(points), 0))


def basis(columns: np.ndarray) -> np.ndarray:
    """Uncorrelated columns of unit mean square with the same span, shape ``(n, rank)``."""
    if columns.shape[1] == 0:
        return columns
    values, vectors = np.linalg.eigh(columns.T @ columns / len(columns))
    independent = values > RANK_TOLERANCE * values.max()
    return columns @ (vectors[:, independent] / np.sqrt(values[independent]))


def _main_effects(points: np.ndarray, axes: Axes, limit: int) -> np.ndarray:
    """Numbers that vary, then the most common indicators without one level of reference a column."""
    numbers = [j for j in np.flatnonzero(~axes.indicator) if np.ptp(points[:, j]) > 0]
    counts = points[:, axes.indicator].sum(axis=0)
    ranked = np.flatnonzero(axes.indicator)[np.argsort(-counts, kind="stable")]
    seen: set[int] = set()
    indicators: list[int] = []
    for j in ranked:
        if axes.level[j] and axes.owner[j] not in seen:
            seen.add(int(axes.owner[j]))
        elif _common(points[:, j]):
            indicators.append(int(j))
    return np.array([*numbers, *indicators][:limit], dtype=int)


def _pairs(owner: np.ndarray, indicator: np.ndarray, room: int, seed: int) -> list[tuple[int, int]]:
    found = [
        (i, j)
        for i, j in itertools.combinations_with_replacement(range(len(owner)), 2)
        if owner[i] != owner[j] or (i == j and not indicator[i])
    ]
    if len(found) <= room:
        return found
    return [found[k] for k in np.random.default_rng([seed, 16]).permutation(len(found))]


def _products(
    standard: np.ndarray,
    raw: np.ndarray,
    indicator: np.ndarray,
    pairs: Iterable[tuple[int, int]],
    room: int,
) -> list[np.ndarray]:
    columns: list[np.ndarray] = []
    for i, j in pairs:
        if len(columns) >= room:
            break
        if indicator[i] and indicator[j]:
            if _common(raw[:, i] * raw[:, j]):
                columns.append(raw[:, i] * raw[:, j])
        else:
            columns.append(standard[:, i] * standard[:, j])
    return columns


def _common(indicator: np.ndarray) -> bool:
    count = float(indicator.sum())
    return MIN_COUNT <= count <= len(indicator) - MIN_COUNT


def _standardised(columns: np.ndarray) -> np.ndarray:
    deviation = columns.std(axis=0)
    varies = deviation > 1e-12 * np.maximum(1.0, np.abs(columns).max(axis=0, initial=0.0))
    return (columns[:, varies] - columns[:, varies].mean(axis=0)) / deviation[varies]
