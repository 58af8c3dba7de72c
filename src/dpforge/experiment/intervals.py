"""Intervals of a mean over seeds, paired differences of two generators, and many tests at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from dpforge.errors import RunError

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over ``n`` values with its t-interval.

    Args:
        mean: NaN if there is no value.
        sd: Sample standard deviation (n − 1); NaN below two values.
        n: Number of values.
        low: Lower end; NaN below two values, for one value tells nothing about its spread.
        high: Upper end; NaN below two values.
    """

    mean: float
    sd: float
    n: int
    low: float
    high: float

    @property
    def half(self) -> float:
        """Half the width of the interval; NaN below two values."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class PairedDifference:
    """Mean of first − second over the seeds that both have, with its interval and p-value.

    Args:
        interval: Of the differences.
        p: Two-sided p-value of Student's paired test; NaN below two common seeds.
        seeds: The common seeds, sorted.
    """

    interval: Interval
    p: float
    seeds: tuple[int, ...]


def t_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Mean ± t · s/√n of the finite ``values``.

    Args:
        values: One a seed; values that are not finite are left out.
        level: Coverage in (0, 1).

    Raises:
        RunError: A level outside (0, 1).
    """
    if not 0 < level < 1:
        raise RunError(f"level={level}, expected a coverage between 0 and 1, such as 0.95.")
    finite = np.array([value for value in values if math.isfinite(value)], dtype=float)
    n = len(finite)
    if n == 0:
        return Interval(math.nan, math.nan, 0, math.nan, math.nan)
    mean = float(finite.mean())
    if n == 1:
        return Interval(mean, math.nan, 1, math.nan, math.nan)
    sd = float(finite.std(ddof=1))
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * sd / math.sqrt(n)
    return Interval(mean, sd, n, mean - half, mean + half)


def paired_difference(
    first: Mapping[int, float], second: Mapping[int, float], level: float = LEVEL
) -> PairedDifference:
    """Compare two generators over the seeds that both have.

    Args:
        first: Score of each seed.
        second: Score of each seed of the other generator, on the same data and budget.
        level: Coverage of the interval.
    """
    both = sorted(set(first) & set(second))
    common = [seed for seed in both if math.isfinite(first[seed]) and math.isfinite(second[seed])]
    interval = t_interval([first[seed] - second[seed] for seed in common], level)
    return PairedDifference(interval, _two_sided(interval), tuple(common))


def _two_sided(differences: Interval) -> float:
    if differences.n < 2:
        return math.nan
    if differences.sd == 0:
        return 1.0 if differences.mean == 0 else 0.0
    statistic = differences.mean / (differences.sd / math.sqrt(differences.n))
    return float(2 * stats.t.sf(abs(statistic), differences.n - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for being many; NaN stays NaN and does not count as a test.

    The smallest of m is multiplied by m, the next by m − 1, …; none is adjusted below a smaller one
    (Holm, *A Simple Sequentially Rejective Multiple Test Procedure*, 1979).
    """
    tested = [i for i, p in enumerate(p_values) if not math.isnan(p)]
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(tested, key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, p_values[i] * (len(tested) - rank)))
        adjusted[i] = largest
    return adjusted
