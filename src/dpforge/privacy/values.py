"""Bounds, categories and bins that the schema does not state publicly, bought as events of the plan.

References:
    Smith, *Privacy-preserving Statistical Estimation with Optimal Convergence Rates* (STOC 2011), for
    quantiles; Kaplan, Schnapp and Stemmer, *Differentially Private Approximate Quantiles* (ICML 2022), for
    bins by halving; Korolova et al., *Releasing Search Queries and Clicks Privately* (WWW 2009), for
    thresholds.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd

from dpforge.data.grid import column_grid
from dpforge.data.schema import Bins, Bounds, Column, Schema
from dpforge.data.table import conform
from dpforge.errors import ConfigError
from dpforge.privacy.events import EpsilonDelta
from dpforge.privacy.mechanisms import Group, PrivateAccess
from dpforge.privacy.plan import Piece

FAILURE = 1e-3
GRID = 4096
UNLIMITED = 4096


def value_pieces(schema: Schema, relation: str) -> list[Piece]:
    """Return the pieces that a schema's private bounds, categories and bins cost, in column order.

    Raises:
        ConfigError: A relation or unit for which these mechanisms are not calibrated.
    """
    pieces = [piece for column in schema.columns for piece in _column_pieces(column)]
    if schema.rows.policy == "public" and relation != "zero_out":
        raise ConfigError(
            f"rows.policy=public states the number of records, which relation={relation} protects."
            " Use privacy.relation=zero_out, or rows.policy=fixed or noisy."
        )
    if schema.rows.policy == "noisy":
        event = EpsilonDelta(float(schema.rows.epsilon or 0))
        pieces.append(Piece("rows", "discrete_laplace", event, 1, 1.0, "one record is one row"))
    if pieces and (relation == "replace" or schema.unit.kind == "user"):
        raise ConfigError(
            "private bounds, categories and bins are offered for row-level add_remove or zero_out only;"
            f" got relation={relation}, unit={schema.unit.kind}. State the values publicly in the schema."
        )
    return pieces


def _column_pieces(column: Column) -> list[Piece]:
    pieces = []
    bounds, categories = column.bounds, column.categories
    if bounds is not None and bounds.provenance == "private":
        epsilon = float(bounds.epsilon or 0)
        quantile = bounds.method == "quantile"
        event = EpsilonDelta(epsilon / 2 if quantile else epsilon)
        reason = (
            "one record moves the rank by at most max(q, 1-q)" if quantile else "one record is in one cell"
        )
        mechanism = "exponential" if quantile else "discrete_laplace"
        pieces.append(Piece(f"bounds/{column.name}", mechanism, event, 2 if quantile else 1, 1.0, reason))
    if categories is not None and categories.provenance == "private":
        event = EpsilonDelta(float(categories.epsilon or 0), float(categories.delta or 0))
        reason = "one record has one value"
        pieces.append(Piece(f"categories/{column.name}", "threshold", event, 1, 1.0, reason))
    if column.bins is not None and column.bins.dp_quantile is not None:
        levels = halvings(column.bins.dp_quantile)
        event = EpsilonDelta(float(column.bins.epsilon or 0) / levels)
        reason = "one record is in one group and moves its rank by at most max(q, 1-q), the unit of scores"
        pieces.append(Piece(f"bins/{column.name}", "exponential", event, levels, 1.0, reason))
    return pieces


def halvings(bins: int) -> int:
    """Return the levels in which ``bins`` groups come from one by halving: the uses of a price."""
    return math.ceil(math.log2(bins))


def protect_values(schema: Schema, table: pd.DataFrame, access: PrivateAccess) -> tuple[Schema, pd.DataFrame]:
    """Buy what the schema leaves private; return a schema that states it and the table that fits it."""
    if schema.rows.policy == "noisy":
        noisy = access.log_histogram("rows", np.array([len(table)]))
        schema = replace(schema, rows=replace(schema.rows, policy="fixed", value=max(int(noisy[0]), 1)))
    if not schema.private_columns:
        return schema, table
    for column in schema.columns:
        schema = schema.with_column(_protected(column, pd.Series(table[column.name]), access))
    return schema, conform(table, schema)


def stand_in(schema: Schema) -> Schema:
    """Return the schema with the widest values that a release can have in place of private ones.

    What is counted on it (sub-columns, cells) is an upper bound of what the released schema will have.
    """
    for column in schema.columns:
        bounds, categories = column.bounds, column.categories
        if bounds is not None and bounds.provenance == "private":
            low, high = bounds.outer or (0.0, 1.0)
            column = replace(column, bounds=replace(bounds, min=low, max=high, provenance="public"))
        if categories is not None and categories.provenance == "private":
            most = (categories.max_values or UNLIMITED) + len(categories.public_values)
            values = tuple(f"value {number}" for number in range(most))
            column = replace(column, categories=replace(categories, values=values, provenance="public"))
        if column.bins is not None and column.bins.dp_quantile is not None:
            column = replace(column, bins=Bins(equal_width=column.bins.dp_quantile))
        schema = schema.with_column(column)
    return schema


def _protected(column: Column, values: pd.Series, access: PrivateAccess) -> Column:
    bounds, categories = column.bounds, column.categories
    if bounds is not None and bounds.provenance == "private":
        low, high = _released_bounds(column, bounds, values, access)
        note = f"released with epsilon {bounds.epsilon}"
        column = replace(column, bounds=replace(bounds, min=low, max=high, provenance="public", note=note))
    if categories is not None and categories.provenance == "private":
        kept = access.categories(
            f"categories/{column.name}",
            values.dropna().astype(str).tolist(),
            categories.public_values,
            categories.max_values,
        )
        # The token of unlisted values is no category of its own.
        kept = [value for value in kept if value != "unknown"]
        if not kept:
            kept = ["(none above the threshold)"]
        column = replace(column, categories=replace(categories, values=tuple(kept), provenance="public"))
    if column.bins is not None and column.bins.dp_quantile is not None:
        edges = _released_edges(column, column.bins.dp_quantile, values, access)
        column = replace(column, bins=Bins(edges=edges, note=f"released with epsilon {column.bins.epsilon}"))
    return column


def _released_edges(
    column: Column, count: int, values: pd.Series, access: PrivateAccess
) -> tuple[float, ...]:
    """Return the ends of at most ``count`` bins: each level parts every group of rows in two at once.

    Special values have cells of their own and take no part. Groups that no candidate can part stay whole.
    """
    bounds, grid = column.bounds, column_grid(column)
    if bounds is None or grid is None:
        raise ConfigError(f"column '{column.name}' has no bounds; private bins need public or bought ones.")
    numbers = np.sort(grid.snap(values.dropna().to_numpy(dtype=float)))
    numbers = numbers[~np.isin(numbers, column.special_values)]
    open_ = [(numbers, edge_candidates(column), count)]
    found: list[float] = []
    for step in range(halvings(count)):
        open_ = [(rows, places, parts) for rows, places, parts in open_ if parts > 1 and places.size]
        groups = [Group(rows, places, (parts // 2) / parts) for rows, places, parts in open_]
        edges = access.split(f"bins/{column.name}", step, groups)
        found += edges
        open_ = [half for group, edge in zip(open_, edges, strict=True) for half in _halved(*group, edge)]
    return (float(bounds.min or 0), *sorted(found), float(bounds.max or 0))


def _halved(
    rows: np.ndarray, places: np.ndarray, parts: int, edge: float
) -> list[tuple[np.ndarray, np.ndarray, int]]:
    cut, left = int(np.searchsorted(rows, edge)), parts // 2
    return [(rows[:cut], places[places < edge], left), (rows[cut:], places[places > edge], parts - left)]


def edge_candidates(column: Column) -> np.ndarray:
    """Return the public places where a bin of a number column may begin, ascending, inside its bounds.

    Every grid point where there are few; else as many places at equal distances as on a logarithmic scale.
    """
    bounds, grid = column.bounds, column_grid(column)
    if bounds is None or grid is None:
        return np.empty(0)
    if grid.step is not None and grid.last - grid.first <= GRID:
        places = grid.value(np.arange(grid.first, grid.last + 1))
    else:
        scale = grid.step or min(1.0, 1e-6 * (grid.high - grid.low))
        ends = np.arcsinh(np.array([grid.low, grid.high]) / scale)
        spread = np.sinh(np.linspace(ends[0], ends[1], GRID)) * scale
        places = grid.snap(np.concatenate([np.linspace(grid.low, grid.high, GRID), spread]))
    return np.unique(places[(places > grid.low) & (places < grid.high)])


def _released_bounds(
    column: Column, bounds: Bounds, values: pd.Series, access: PrivateAccess
) -> tuple[float, float]:
    if bounds.outer is None:
        raise ConfigError(f"column '{column.name}' has private bounds without 'outer', their public range.")
    numbers = values.dropna().to_numpy(dtype=float)
    name = f"bounds/{column.name}"
    if bounds.method == "quantile":
        low, high = _quantile_bounds(name, numbers, bounds, access)
    else:
        low, high = _histogram_bounds(name, numbers, bounds, access)
    if column.kind == "integer":
        low, high = math.floor(low), math.ceil(high)
    return (low, high) if low < high else (float(bounds.outer[0]), float(bounds.outer[1]))


def _quantile_bounds(
    name: str, numbers: np.ndarray, bounds: Bounds, access: PrivateAccess
) -> tuple[float, float]:
    low, high = bounds.outer or (0.0, 1.0)
    grid = np.linspace(low, high, GRID)
    first, second = (
        access.quantile(name, step, numbers, grid, level) for step, level in enumerate(bounds.levels)
    )
    return min(first, second), max(first, second)


def _histogram_bounds(
    name: str, numbers: np.ndarray, bounds: Bounds, access: PrivateAccess
) -> tuple[float, float]:
    low, high = bounds.outer or (0.0, 1.0)
    edges = log_edges(bounds.granularity or 1.0, max(abs(low), abs(high)))
    counts, _ = np.histogram(np.clip(numbers, edges[0], edges[-1]), bins=edges)
    epsilon = float(bounds.epsilon or 1)
    noisy = access.log_histogram(name, counts)
    above = np.flatnonzero(noisy > math.log(counts.size / (2 * FAILURE)) / epsilon)
    if above.size == 0:
        return float(low), float(high)
    return max(float(edges[above[0]]), float(low)), min(float(edges[above[-1] + 1]), float(high))


def log_edges(granularity: float, reach: float) -> np.ndarray:
    """Return public cell edges: powers of two from ``granularity`` to ``reach`` on both sides of zero."""
    first = math.floor(math.log2(granularity))
    last = max(math.ceil(math.log2(reach)), first + 1)
    powers = 2.0 ** np.arange(first, last + 1)
    return np.concatenate([-powers[::-1], powers])
