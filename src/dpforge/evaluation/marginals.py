"""Total variation distance of k-way marginals over the public cells of a schema."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from dpforge.data.encode.cells import CellCodec
from dpforge.data.schema import Schema
from dpforge.errors import DataError
from dpforge.evaluation.frames import aligned

VERSION = "tvd-1"
# Above this many cells a dense histogram costs more than sorting the keys.
DENSE_CELLS = 2**20
MAX_SUBSETS = 10_000


class Distances(NamedTuple):
    """Total variation ``distance`` of each marginal and the ``noise`` a same-distribution sample shows."""

    distance: np.ndarray
    noise: np.ndarray


def column_subsets(
    columns: int, order: int, *, limit: int = MAX_SUBSETS, seed: int = 0
) -> list[tuple[int, ...]]:
    """All ``order``-subsets of ``range(columns)`` if at most ``limit``, else a seeded sample of ``limit``."""
    if math.comb(columns, order) <= limit:
        return list(itertools.combinations(range(columns), order))
    draw = random.Random(seed)
    chosen: set[tuple[int, ...]] = set()
    while len(chosen) < limit:
        chosen.add(tuple(sorted(draw.sample(range(columns), order))))
    return sorted(chosen)


def marginal_distances(
    real: np.ndarray, other: np.ndarray, sizes: Sequence[int], subsets: Sequence[tuple[int, ...]]
) -> Distances:
    """Distance of each marginal of two coded tables.

    Args:
        real: Codes, shape ``(n_real, d)``, column ``j`` in ``[0, sizes[j])``.
        other: Codes, shape ``(n_other, d)``.
        subsets: Columns of each marginal.

    Returns:
        Arrays of shape ``(len(subsets),)``: half the L1 distance of the two cell distributions, in
        [0, 1], and its expectation for two independent samples of the real distribution (normal
        approximation, cell by cell).
    """
    stacked = np.concatenate([real, other]).astype(np.int64)
    columns = [np.ascontiguousarray(stacked[:, j]) for j in range(stacked.shape[1])]
    pairs = [_one_marginal(columns, sizes, subset, len(real)) for subset in subsets]
    distance, noise = np.array(pairs, dtype=float).reshape(-1, 2).T
    return Distances(distance, noise)


def summary(distances: Distances, order: int) -> dict[str, float]:
    """Mean, 95th percentile and maximum over the marginals, and the mean noise level."""
    name = f"tvd_{order}way"
    return {
        name: float(distances.distance.mean()),
        f"{name}_p95": float(np.quantile(distances.distance, 0.95)),
        f"{name}_max": float(distances.distance.max()),
        f"{name}_noise": float(distances.noise.mean()),
    }


def total_variation(
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    schema: Schema,
    order: int = 2,
    *,
    limit: int = MAX_SUBSETS,
    seed: int = 0,
) -> dict[str, float]:
    """Total variation distance over the ``order``-way marginals, in [0, 1], best 0.

    Both tables (typed, any number of rows) are binned by the schema's public cells.

    Args:
        limit: Largest number of marginals; more columns give a seeded sample of that size.

    Returns:
        ``tvd_{order}way`` (mean), ``…_p95``, ``…_max`` and ``…_noise`` (mean expected distance of two
        samples of these sizes from the real distribution).

    Raises:
        DataError: An empty table, a missing column, or fewer columns than ``order``.
    """
    if not 1 <= order <= len(schema.names):
        raise DataError(
            f"order={order} asks for marginals of {order} columns; schema '{schema.name}' has "
            f"{len(schema.names)}. Choose an order between 1 and {len(schema.names)}."
        )
    codec = CellCodec(schema)
    codes = codec.encode(aligned(real, schema, "real")).codes
    other_codes = codec.encode(aligned(synthetic, schema, "synthetic")).codes
    subsets = column_subsets(len(schema.names), order, limit=limit, seed=seed)
    return summary(marginal_distances(codes, other_codes, codec.sizes, subsets), order)


def _one_marginal(
    columns: Sequence[np.ndarray], sizes: Sequence[int], subset: tuple[int, ...], real_rows: int
) -> tuple[float, float]:
    keys, cells = _cell_keys(columns, sizes, subset)
    p = np.bincount(keys[:real_rows], minlength=cells) / real_rows
    other_rows = len(keys) - real_rows
    q = np.bincount(keys[real_rows:], minlength=cells) / other_rows
    per_cell = np.sqrt(p * (1.0 - p)).sum()
    noise = 0.5 * math.sqrt(2.0 / math.pi * (1.0 / real_rows + 1.0 / other_rows)) * per_cell
    return min(1.0, 0.5 * float(np.abs(p - q).sum())), float(noise)


def _cell_keys(
    columns: Sequence[np.ndarray], sizes: Sequence[int], subset: tuple[int, ...]
) -> tuple[np.ndarray, int]:
    """Mixed-radix cell number of each row; numbers are compacted before they grow too large."""
    keys, cells = columns[subset[0]], int(sizes[subset[0]])
    for j in subset[1:]:
        keys, cells = keys * sizes[j] + columns[j], cells * int(sizes[j])
        if cells > DENSE_CELLS:
            values, keys = np.unique(keys, return_inverse=True)
            cells = len(values)
    return keys, cells
