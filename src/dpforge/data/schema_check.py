"""What the parts of a schema must satisfy together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise

from dpforge.data.columns import RESOLUTION_SECONDS, Bins, Bounds, Column
from dpforge.errors import did_you_mean

LARGEST_INTEGER = 2**53  # beyond it float64 no longer tells integers apart
MOST_TICKS = 2**53


def column_mistakes(column: Column) -> Iterator[str]:
    """Everything that is wrong with one column, as texts for the user."""
    place = f"columns.{column.name}"
    if column.kind == "categorical":
        yield from _categorical_mistakes(column, place)
    else:
        yield from _number_mistakes(column, place)
    if column.outside == "null" and not column.nullable:
        yield f"{place}.outside=null needs nullable: true"
    if column.decode_unknown == "null" and not column.nullable:
        yield f"{place}.decode_unknown=null needs nullable: true"


def _categorical_mistakes(column: Column, place: str) -> Iterator[str]:
    for key in ("bounds", "bins"):
        if getattr(column, key) is not None:
            yield f"{place}.{key}: a categorical column has categories, not {key}"
    categories = column.categories
    if categories is None:
        yield f"{place}.categories is missing: list the public values, or buy them with provenance: private"
        return
    values = categories.values
    if not values and categories.provenance != "private":
        yield f"{place}.categories.values is empty: list them, or use provenance: private with an epsilon"
    repeated = sorted(value for value, times in Counter(values).items() if times > 1)
    if repeated:
        yield f"{place}.categories.values lists {', '.join(map(repr, repeated))} more than once"
    if categories.provenance == "private" and (categories.epsilon is None or categories.delta is None):
        yield f"{place}.categories.provenance=private needs epsilon and delta, for example 0.05 and 1.0e-7"
    if column.unseen == "map" and values and column.unseen_map not in values:
        hint = did_you_mean(str(column.unseen_map), values)
        yield f"{place}.unseen maps to {column.unseen_map!r}, which is not one of the categories.{hint}"
    both = sorted(set(values) & set(column.null_tokens))
    if both:
        yield f"{place}: {', '.join(map(repr, both))} is a category and a null token; keep one"


def _number_mistakes(column: Column, place: str) -> Iterator[str]:
    if column.categories is not None:
        yield f"{place}.categories: a column of kind {column.kind} has bounds, not categories"
    if column.bounds is None:
        yield f"{place}.bounds is missing: give min and max, or buy them with provenance: private"
        return
    yield from _bounds_mistakes(column, column.bounds, f"{place}.bounds")
    if column.bins is not None:
        yield from _bin_mistakes(column, column.bins, f"{place}.bins")
    if column.kind == "datetime":
        edges = column.bins and (column.bins.edges or column.bins.dp_quantile)
        if column.special_values or column.granularity or edges:
            yield (
                f"{place}: datetimes take no special_values, granularity, bins.edges, bins.dp_quantile;"
                " use equal_width"
            )
        return
    step = column.granularity
    if column.kind == "integer" and step is not None and step != int(step):
        yield f"{place}.granularity={step}: the grid step of an integer column is a whole number"
    yield from _special_mistakes(column, place)
    yield from _edge_mistakes(column, place)


def _bounds_mistakes(column: Column, bounds: Bounds, place: str) -> Iterator[str]:
    if bounds.provenance == "private":
        if bounds.epsilon is None or bounds.outer is None:
            yield f"{place}.provenance=private needs epsilon and outer: [lowest, highest] (public)"
        elif bounds.outer[0] >= bounds.outer[1]:
            yield f"{place}.outer={list(bounds.outer)}: the first number must be below the second"
        if column.kind == "datetime":
            yield f"{place}.provenance=private is not supported for datetimes; give public bounds"
        if not 0 < bounds.levels[0] < bounds.levels[1] < 1:
            yield f"{place}.levels={list(bounds.levels)}: expected 0 < low < high < 1"
    if bounds.min is None and bounds.max is None and bounds.provenance == "private":
        return
    if bounds.min is None or bounds.max is None:
        yield f"{place} needs min and max"
    elif not _below(bounds.min, bounds.max):
        yield f"{place}: min={bounds.min} must be below max={bounds.max}"
    elif column.kind == "integer" and any(not _whole(limit) for limit in (bounds.min, bounds.max)):
        yield f"{place}: min={bounds.min}, max={bounds.max} of an integer column must be whole, within ±2^53"
    elif column.kind == "datetime" and _ticks(column, bounds) < 1:
        yield f"{place}: min and max lie within one {column.resolution}; choose a finer resolution"


def _bin_mistakes(column: Column, bins: Bins, place: str) -> Iterator[str]:
    if bins.dp_quantile is None:
        if bins.provenance == "private":
            yield f"{place}.provenance=private needs dp_quantile: <number of bins>, and epsilon"
        return
    if bins.provenance != "private":
        yield f"{place}.provenance={bins.provenance}: dp_quantile reads the rows; use private, with epsilon"
    if bins.epsilon is None:
        yield f"{place}.dp_quantile needs epsilon > 0, its price, for example 0.1"
    if column.codec in ("discrete", "digit"):
        yield f"{place}.dp_quantile is paid for and codec={column.codec} has no bins; use codec: binned"


def _below(low: float | str, high: float | str) -> bool:
    if isinstance(low, str) and isinstance(high, str):
        return datetime.fromisoformat(low) < datetime.fromisoformat(high)
    return float(low) < float(high)


def _whole(value: float | str) -> bool:
    number = float(value)
    return number == int(number) and abs(number) <= LARGEST_INTEGER


def _ticks(column: Column, bounds: Bounds) -> int:
    length = datetime.fromisoformat(str(bounds.max)) - datetime.fromisoformat(str(bounds.min))
    return int(length.total_seconds()) // RESOLUTION_SECONDS[column.resolution]


def _limits(column: Column) -> tuple[float, float] | None:
    bounds = column.bounds
    if bounds is None:
        return None
    if bounds.min is None or bounds.max is None:
        return bounds.outer
    return float(bounds.min), float(bounds.max)


def _special_mistakes(column: Column, place: str) -> Iterator[str]:
    limits = _limits(column)
    for value in column.special_values:
        if column.kind == "integer" and value != int(value):
            yield f"{place}.special_values: {value} of an integer column must be whole"
        if limits and not limits[0] <= value <= limits[1]:
            yield f"{place}.special_values: {value} is outside the bounds {limits[0]:g} to {limits[1]:g}"


def _edge_mistakes(column: Column, place: str) -> Iterator[str]:
    edges = column.bins.edges if column.bins else None
    if edges is None:
        return
    if len(edges) < 2 or any(low >= high for low, high in pairwise(edges)):
        yield f"{place}.bins.edges must be at least two strictly increasing numbers"
    limits = _limits(column)
    if limits and (min(edges) < limits[0] or max(edges) > limits[1]):
        yield f"{place}.bins.edges leave the bounds {limits[0]:g} to {limits[1]:g}"
