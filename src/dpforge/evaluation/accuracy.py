"""Accuracy of uni-, bi- and trivariate marginals as one minus total variation distance.

The binning is fitted on the real rows, for comparison with published scores (version ``mostly-1``:
equal to mostlyai-qa 1.10 on flat tables). The bins of :mod:`dpforge.evaluation.marginals` are public.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dpforge.data.schema import Column, Schema
from dpforge.errors import DataError
from dpforge.evaluation.frames import aligned, series
from dpforge.evaluation.marginals import MAX_SUBSETS, column_subsets, marginal_distances

VERSION = "mostly-1"
NAMES = {1: "univariate", 2: "bivariate", 3: "trivariate"}
TOP_CATEGORIES = 10
MIN_CATEGORY_COUNT = 5
MAX_SINGLE_VALUES = 10
SECONDS_PER_DAY = 86_400.0


@dataclass(frozen=True)
class NumericBins:
    """Half-open bins between ``breaks`` (ascending, at least 2); missing values have their own bin."""

    breaks: np.ndarray

    @property
    def size(self) -> int:
        return len(self.breaks)

    def encode(self, values: pd.Series) -> np.ndarray:
        """Bin of each value, shape ``(n,)``; values beyond the outer bins count to them."""
        numbers = as_numbers(values)
        codes = np.searchsorted(self.breaks[1:-1], numbers, side="right")
        return np.where(np.isnan(numbers), self.size - 1, codes)


@dataclass(frozen=True)
class CategoryBins:
    """A bin for each of ``values``, then one for every other value and one for missing."""

    values: tuple[str, ...]

    @property
    def size(self) -> int:
        return len(self.values) + 2

    def encode(self, values: pd.Series) -> np.ndarray:
        """Bin of each value, shape ``(n,)``."""
        codes = positions(values, self.values)
        codes = np.where(codes < 0, len(self.values), codes)
        return np.where(values.isna(), len(self.values) + 1, codes)


Bins = NumericBins | CategoryBins


def as_numbers(values: pd.Series) -> np.ndarray:
    """A number per value as float64, shape ``(n,)``; datetimes in seconds, missing as NaN.

    Raises:
        DataError: The column holds text.
    """
    if pd.api.types.is_datetime64_any_dtype(values):
        seconds = values.to_numpy().astype("datetime64[s]").astype("int64").astype("float64")
        return np.where(values.isna(), np.nan, seconds)
    if not pd.api.types.is_numeric_dtype(values):
        raise DataError(
            f"column '{values.name}' has dtype {values.dtype}, expected numbers or datetimes. "
            "Pass the table through dpforge.data.table.conform first."
        )
    return values.to_numpy(dtype="float64", na_value=np.nan)


def positions(values: pd.Series, names: Sequence[str]) -> np.ndarray:
    """Position of the text of each value in ``names``, shape ``(n,)``; -1 if missing or none of them."""
    index = pd.Index(names, dtype="str")
    if not isinstance(values.dtype, pd.CategoricalDtype):
        return index.get_indexer(pd.Index(values.astype("str")))
    # Looking up the categories instead of every row takes a tenth of the time.
    found = index.get_indexer(pd.Index(values.cat.categories.astype("str")))
    return np.append(found, -1)[values.cat.codes.to_numpy()]


def fit_bins(frame: pd.DataFrame, schema: Schema) -> tuple[Bins, ...]:
    """Bins of every column from the rows of ``frame`` (private: they depend on its values)."""
    return tuple(_column_bins(series(frame, column.name), column) for column in schema.columns)


def binned(frame: pd.DataFrame, schema: Schema, bins: Sequence[Bins]) -> np.ndarray:
    """Codes of shape ``(n, d)``; those of column ``j`` lie in ``[0, bins[j].size)``."""
    pairs = zip(schema.names, bins, strict=True)
    return np.column_stack([column_bins.encode(series(frame, name)) for name, column_bins in pairs])


def marginal_accuracies(
    real: np.ndarray, other: np.ndarray, sizes: Sequence[int], subsets: Sequence[tuple[int, ...]]
) -> np.ndarray:
    """One minus total variation of each marginal of two coded tables, rounded to 5 decimals as published."""
    return np.round(1.0 - marginal_distances(real, other, sizes, subsets).distance, 5)


def accuracy_scores(
    real: np.ndarray, other: np.ndarray, sizes: Sequence[int], *, triples: int = MAX_SUBSETS, seed: int = 0
) -> dict[str, float]:
    """Scores of :func:`mostly_accuracy` for two coded tables, shapes ``(n_real, d)`` and ``(n_other, d)``."""
    scores: dict[str, float] = {}
    for order in range(1, min(3, len(sizes)) + 1):
        limit = triples if order == 3 else MAX_SUBSETS
        subsets = column_subsets(len(sizes), order, limit=limit, seed=seed)
        scores[f"accuracy_{NAMES[order]}"] = float(marginal_accuracies(real, other, sizes, subsets).mean())
    scores["accuracy_overall"] = float(np.mean(list(scores.values())))
    return scores


def mostly_accuracy(
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    schema: Schema,
    *,
    triples: int = MAX_SUBSETS,
    seed: int = 0,
    bins: Sequence[Bins] | None = None,
) -> dict[str, float]:
    """Mean accuracy over columns, pairs and triples, and the mean of those, in [0, 1], best 1.

    Args:
        triples: Largest number of triples; a table with more gives a seeded sample.
        bins: Bins of each column; by default :func:`fit_bins` of ``real``.

    Returns:
        ``accuracy_univariate``, ``accuracy_bivariate`` (from 2 columns), ``accuracy_trivariate`` (from
        3 columns) and ``accuracy_overall``, the mean of those present. Columns permuted independently
        already score .92 overall on Adult, so a value needs its floor beside it.

    Raises:
        DataError: An empty table or a missing column.
    """
    real, synthetic = aligned(real, schema, "real"), aligned(synthetic, schema, "synthetic")
    fitted = fit_bins(real, schema) if bins is None else bins
    codes, other_codes = (binned(table, schema, fitted) for table in (real, synthetic))
    return accuracy_scores(codes, other_codes, [b.size for b in fitted], triples=triples, seed=seed)


def _column_bins(values: pd.Series, column: Column) -> Bins:
    if column.kind == "categorical":
        return CategoryBins(_frequent_categories(values))
    numbers = as_numbers(values)
    numbers = np.sort(numbers[np.isfinite(numbers)])
    return NumericBins(_breaks(numbers, one_day=column.kind == "datetime"))


def _frequent_categories(values: pd.Series) -> tuple[str, ...]:
    counts = values.dropna().astype("str").value_counts()
    frequent = [(-int(n), str(v)) for v, n in counts.items() if n >= MIN_CATEGORY_COUNT]
    return tuple(sorted(value for _, value in sorted(frequent)[:TOP_CATEGORIES]))


def _breaks(numbers: np.ndarray, *, one_day: bool) -> np.ndarray:
    """Breaks of sorted finite numbers; the last bin ends one above the largest break."""
    distinct = np.unique(numbers)
    if len(distinct) == 0:
        return np.array([0.0, 1.0])
    if one_day and len(distinct) == 1:
        distinct = np.append(distinct, distinct[0] + SECONDS_PER_DAY)
    if len(distinct) <= MAX_SINGLE_VALUES:
        return np.append(distinct, distinct[-1] + 1.0)
    breaks = _floored(_order_statistics(numbers))
    breaks[-1] += 1.0
    return breaks


def _order_statistics(numbers: np.ndarray) -> np.ndarray:
    """The fewest equally spaced order statistics (at least 10) with more than 10 distinct values."""
    breaks = np.unique(numbers[[0, -1]])
    for count in range(MAX_SINGLE_VALUES, min(1000, len(numbers) + 1)):
        index = np.floor(np.linspace(0, len(numbers) - 1, count)).astype(int)
        breaks = np.unique(numbers[index])
        if len(breaks) > MAX_SINGLE_VALUES:
            break
    return breaks


def _floored(breaks: np.ndarray) -> np.ndarray:
    """All but the last break floored to the fewest decimals that keep them distinct."""
    for decimals in range(16):
        with np.errstate(over="ignore", invalid="ignore"):
            floored = np.floor(breaks * 10.0**decimals) / 10.0**decimals
        floored[-1] = breaks[-1]
        if np.isfinite(floored).all() and (np.diff(floored) > 0).all():
            return floored
    return breaks.copy()
