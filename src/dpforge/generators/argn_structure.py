"""Which sub-columns of a TabularARGN see each other: the pairs whose noisy dependence is strongest.

A wide table has more pairs of columns than a small budget can learn: every connection adds noise, and its
share of the clipped gradient is taken from the others. Distances of all pairs from independence are cheap
next to that, and choosing by them is post-processing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from dpforge.data import Schema
from dpforge.data.encode.refine import FineCodec
from dpforge.errors import PrivacyError
from dpforge.generators.argn_fitted import piece_codes
from dpforge.generators.argn_marginals import Marginals, Pieces, target_sub
from dpforge.generators.argn_rows import CHUNK
from dpforge.generators.marginals.settings import score_sensitivity
from dpforge.generators.marginals.workload import count, independent_marginal
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.plan import Release

NAME = "pairs"
LEAST_DEVIATIONS = 2.0
Pair = tuple[int, int]


@dataclass(frozen=True)
class Structure:
    """How many pairs are connected.

    Args:
        parents: Pairs a sub-column, on average, > 0.
        target_parents: Pairs with the schema's target, >= 1.
    """

    parents: float
    target_parents: int


def candidate_pairs(columns: Sequence[Sequence[int]]) -> list[Pair]:
    """Return the pairs of sub-columns of different columns; those of one column always see each other."""
    home = {sub: number for number, subs in enumerate(columns) for sub in subs}
    return [(a, b) for a, b in combinations(sorted(home), 2) if home[a] != home[b]]


def pair_release(columns: Sequence[Sequence[int]], schema: Schema, relation: str) -> list[Release]:
    """Return the release of all distances with its sensitivity; nothing where there is no pair.

    A row moves one cell of each pair, so each L1 distance to public or released counts by at most 1.
    """
    pairs = len(candidate_pairs(columns))
    if not pairs:
        return []
    sensitivity = math.sqrt(pairs) * score_sensitivity(schema, relation)
    return [Release(NAME, sensitivity, f"L2: one L1 distance for each of {pairs} pairs of sub-columns")]


def release_structure(
    access: PrivateAccess,
    fine: FineCodec,
    codes: np.ndarray,
    pieces: Pieces,
    marginals: Marginals,
    structure: Structure,
) -> list[Pair]:
    """Release the distance of every pair from independence and return the pairs to connect.

    Args:
        access: The run's access; its plan has the piece ``pairs``.
        fine: Fine cells.
        codes: Private codes ``(n, S)`` of the fine cells.
        pieces: Released codes of the network.
        marginals: What was released before; its number of rows is public.
        structure: How many to connect.

    Raises:
        PrivacyError: There are more pairs than the plan's sensitivity accounts for.
    """
    pairs = candidate_pairs(fine.codec.columns)
    inside = [pair for subs in fine.codec.columns for pair in combinations(sorted(subs), 2)]
    if not pairs:
        return inside
    piece = access.piece(NAME)
    if piece.sensitivity**2 < len(pairs) * (1 - 1e-9):
        raise PrivacyError(f"the plan declares sensitivity {piece.sensitivity} for {len(pairs)} distances.")
    expected = _independent_counts(pairs, fine, pieces, marginals.rows)
    distances = _distances(pairs, expected, fine, codes, pieces)
    noisy = access.gaussian(NAME, distances, what="L1 distances of pairs from independence")
    least = LEAST_DEVIATIONS * piece.sensitivity * piece.noise_multiplier
    # A pair of many cells is far from its expectation by chance alone.
    chance = np.array([np.sqrt(2 / math.pi * table).sum() for table in expected.values()])
    scores = dict(zip(pairs, noisy - chance, strict=True))
    return sorted([*inside, *strongest(scores, len(pieces.masses), structure, least, target_sub(fine))])


def strongest(
    scores: Mapping[Pair, float], width: int, structure: Structure, least: float, target: int | None
) -> list[Pair]:
    """Return the pairs of the highest scores: with the target as many as asked, others above ``least``.

    Args:
        scores: Released score of each pair.
        width: Number of sub-columns.
        structure: How many of each kind.
        least: Below it a score may well be noise.
        target: Sub-column of the target, or None.
    """
    ranked = sorted(scores, key=lambda pair: (-scores[pair], pair))
    with_target = [pair for pair in ranked if target in pair][: structure.target_parents]
    among = [pair for pair in ranked[: int(structure.parents * width)] if scores[pair] > least]
    return [*with_target, *(pair for pair in among if target not in pair)]


def _independent_counts(
    pairs: Sequence[Pair], fine: FineCodec, pieces: Pieces, rows: float
) -> dict[Pair, np.ndarray]:
    """Counts if the two were independent; a part of a missing value is in no cell."""
    null_of = fine.codec.null_of
    there = [1.0 if null < 0 else float(pieces.masses[null][0]) for null in null_of]
    return {
        (a, b): rows * there[a] * there[b] * independent_marginal(pieces.masses, (a, b)) for a, b in pairs
    }


def _distances(
    pairs: Sequence[Pair],
    expected: Mapping[Pair, np.ndarray],
    fine: FineCodec,
    codes: np.ndarray,
    pieces: Pieces,
) -> np.ndarray:
    """L1 distances of the private pairs to ``expected``, ``(P,)``; one pass over the rows for each pair."""
    sizes = [mass.size + 1 for mass in pieces.masses]  # the last code: not there
    tables = [np.zeros((sizes[a], sizes[b]), np.int64) for a, b in pairs]
    for start in range(0, len(codes), CHUNK):
        part = piece_codes(np.asarray(codes[start : start + CHUNK]), fine, pieces).numpy()
        for pair, table in zip(pairs, tables, strict=True):
            table += count(part, sizes, pair).reshape(table.shape)
    return np.array([np.abs(t[:-1, :-1] - e).sum() for t, e in zip(tables, expected.values(), strict=True)])
