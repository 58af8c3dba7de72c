"""Membership attacks on released tables: does a synthetic table betray which rows made it?

An attack can refute a privacy guarantee and can never confirm one. Every result is private: it was computed
from real rows. The attacks look for single rows, so they are weak against a guarantee for users.

Members and non-members must differ in nothing but membership. Drift between them, or rows that the reference
and the non-members share, looks like an attack that works (or fails): against fresh rows released as they
are, the AUC must be ½.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from sklearn.neighbors import NearestNeighbors

from dpforge.data.schema import Schema
from dpforge.errors import ConfigError, did_you_mean
from dpforge.evaluation.attack_shadow import isolated_rows, outlier_rows, shadow_attack
from dpforge.evaluation.attack_statistics import AttackResult, Interval, Scores
from dpforge.evaluation.distances import embedded, unit_rows
from dpforge.evaluation.frames import aligned, drawn_rows
from dpforge.evaluation.threads import threads_for

__all__ = [
    "AttackResult",
    "Interval",
    "Scores",
    "distance_attack",
    "domias",
    "isolated_rows",
    "outlier_rows",
    "shadow_attack",
]

DOMIAS_VERSIONS = {"kde": "domias-kde-1", "knn": "domias-knn-1"}
DISTANCE_VERSION = "dcr-attack-1"
MAX_ATTACKED = 5_000
MAX_ROWS = 10_000
COMPONENTS = 8
# Distances and scores of equal rows differ by rounding alone beyond these decimals.
DIGITS = 6
# Distances held in memory at once.
CELLS = 4_000_000


def domias(
    members: pd.DataFrame,
    non_members: pd.DataFrame,
    synthetic: pd.DataFrame,
    reference: pd.DataFrame,
    schema: Schema,
    *,
    seed: int,
    density: str = "kde",
    max_rows: int = MAX_ATTACKED,
) -> AttackResult:
    """Score ln p_S(x)/p_ref(x): a row is suspect where the synthetic table is denser than the population.

    Rows are encoded as by :func:`~dpforge.evaluation.distances.distance_hints`, then taken to at most 8
    principal components of unit variance. ``kde`` is a Gaussian kernel density with Scott's bandwidth, alike
    for both tables; ``knn`` the density of the nearest neighbour's distance.

    Against at most ``max_rows`` members released as they are (``synthetic=members``) the AUC must come out
    well above ½; otherwise the attack is too weak for this schema to say anything.

    Args:
        members: Training rows; 1,000 or more give a bound that means something.
        non_members: Rows of the same population that were not used for training.
        synthetic: The released table.
        reference: Rows of the population that are neither among the members nor the non-members; as many
            of these and of the synthetic rows enter, at most 10,000.
        max_rows: Largest number of members and of non-members; both enter with equally many.

    Returns:
        AUC in [0, 1], best ½, and the bounds of :class:`AttackResult`.

    Raises:
        DataError: An empty table or a missing column.
        ConfigError: An unknown density, or the schema has unreleased private categories.

    References:
        van Breugel, Sun, Qian and van der Schaar, *Membership Inference Attacks against Synthetic Data
        through Overfitting Detection* (AISTATS 2023).
    """
    if density not in DOMIAS_VERSIONS:
        hint = did_you_mean(density, DOMIAS_VERSIONS)
        raise ConfigError(f"density='{density}': expected one of {', '.join(DOMIAS_VERSIONS)}.{hint}")
    pair = _cut(members, non_members, schema, ("member", "non-member"), max_rows, seed, 32)
    released = _cut(synthetic, reference, schema, ("synthetic", "reference"), MAX_ROWS, seed, 34)
    attacked = _encoded([*pair, *released], schema)
    whole = _components(attacked, fit=attacked[2:])
    measure = _kernel_log_density if density == "kde" else _neighbour_log_density
    with threads_for(len(whole[2])):
        found = [
            np.round(measure(whole[2], queries) - measure(whole[3], queries), DIGITS) for queries in whole[:2]
        ]
    return _one_release("domias", DOMIAS_VERSIONS[density], Scores(*found), seed)


def distance_attack(
    members: pd.DataFrame,
    non_members: pd.DataFrame,
    synthetic: pd.DataFrame,
    schema: Schema,
    *,
    seed: int,
    max_rows: int = MAX_ATTACKED,
) -> AttackResult:
    """Score −DCR(x): a row is suspect if a synthetic row lies close to it. AUC in [0, 1], best ½.

    The encoding and the distance to the closest record (DCR) are those of
    :func:`~dpforge.evaluation.distances.distance_hints`; at most 10,000 synthetic rows enter.

    Raises:
        DataError: An empty table or a missing column.
        ConfigError: The schema has unreleased private categories.
    """
    pair = _cut(members, non_members, schema, ("member", "non-member"), max_rows, seed, 32)
    released = drawn_rows(aligned(synthetic, schema, "synthetic"), MAX_ROWS, seed, stream=34)
    *queries, reference = _encoded([*pair, released], schema)
    found = [-np.round(_nearest(reference, q), DIGITS) for q in queries]
    return _one_release("dcr", DISTANCE_VERSION, Scores(*found), seed)


def _cut(
    first: pd.DataFrame,
    second: pd.DataFrame,
    schema: Schema,
    roles: tuple[str, str],
    limit: int,
    seed: int,
    stream: int,
) -> list[pd.DataFrame]:
    """Equally many rows of both tables, at most ``limit``."""
    tables = [aligned(t, schema, role) for t, role in zip((first, second), roles, strict=True)]
    rows = min(limit, *(len(table) for table in tables))
    return [drawn_rows(table, rows, seed, stream + i) for i, table in enumerate(tables)]


def _encoded(tables: list[pd.DataFrame], schema: Schema) -> list[np.ndarray]:
    # Ranks are taken among members and non-members together, so they favour neither.
    return [unit_rows(table) for table in embedded(tables, schema)]


def _components(tables: list[np.ndarray], fit: list[np.ndarray]) -> list[np.ndarray]:
    """At most 8 principal components of ``fit`` with unit variance; one zero column if nothing varies."""
    pooled = np.concatenate(fit)
    centre = pooled.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(pooled, rowvar=False).reshape(pooled.shape[1], -1))
    order = np.argsort(-values)[:COMPONENTS]
    kept = order[values[order] > max(1e-12, 1e-9 * values.max())]
    if len(kept) == 0:
        return [np.zeros((len(table), 1)) for table in tables]
    return [(table - centre) @ (vectors[:, kept] / np.sqrt(values[kept])) for table in tables]


def _kernel_log_density(reference: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Up to a constant of n and d: log of the sum of Gaussian kernels, finite however far the query."""
    n, d = reference.shape
    narrow = -0.5 * n ** (2.0 / (d + 4))
    parts = np.array_split(queries, -(-len(queries) * n // CELLS))
    found: list[np.ndarray] = []
    for part in parts:
        found.append(np.asarray(logsumexp(narrow * cdist(part, reference, "sqeuclidean"), axis=1)))
    return np.concatenate(found)


def _neighbour_log_density(reference: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Up to a constant: minus d times the log of the distance to the nearest of the reference rows."""
    nearest = np.round(_nearest(reference, queries), DIGITS)
    return -reference.shape[1] * np.log(nearest + 10.0**-DIGITS)


def _nearest(reference: np.ndarray, queries: np.ndarray) -> np.ndarray:
    model = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(reference)
    return model.kneighbors(queries)[0][:, 0]


def _one_release(name: str, version: str, scores: Scores, seed: int) -> AttackResult:
    return AttackResult(name, version, scores, *scores.halves(seed))
