"""A moment as year, month, day, hour, minute and second, down to the resolution of its column."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dpforge.data.columns import RESOLUTION_SECONDS, Column
from dpforge.data.grid import Grid, from_ticks, to_ticks

_PARTS = ("year", "month", "day", "hour", "minute", "second")
_SIZES = {"month": 12, "day": 31, "hour": 24, "minute": 60, "second": 60}
_FIRST = {"month": 1, "day": 1}
_DAY = 86400


@dataclass(frozen=True)
class DateParts:
    """Calendar parts of the ticks of a datetime column; each part has its full public range.

    Years run over those of the bounds. A tick is the moment ``bounds.min`` plus whole resolutions.

    Args:
        column: The datetime column, with public bounds.
        grid: Its grid of ticks.
    """

    column: Column
    grid: Grid

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sub-columns, coarsest first."""
        return _PARTS[: _PARTS.index(self.column.resolution) + 1]

    @property
    def labels(self) -> tuple[tuple[str, ...], ...]:
        """The text of each code, sub-column by sub-column."""
        first, last = self._years
        ranges = {"year": range(first, last + 1)}
        ranges |= {name: range(_FIRST.get(name, 0), _FIRST.get(name, 0) + n) for name, n in _SIZES.items()}
        return tuple(tuple(map(str, ranges[name])) for name in self.names)

    @property
    def ordered(self) -> tuple[bool, ...]:
        """Whether the codes of each sub-column have a natural order: all have."""
        return (True,) * len(self.names)

    @property
    def _years(self) -> tuple[int, int]:
        ends = from_ticks(np.array([0.0, self.grid.high]), self.column).astype("datetime64[Y]")
        first, last = ends.astype(np.int64) + 1970
        return int(first), int(last)

    def split(self, values: np.ndarray) -> np.ndarray:
        """Codes int64 ``(n, p)`` of ticks ``(n,)``, which are clipped to the bounds first."""
        moments = from_ticks(self.grid.snap(values), self.column)
        days, months = moments.astype("datetime64[D]"), moments.astype("datetime64[M]")
        month, second = months.astype(np.int64), moments.astype(np.int64) % _DAY
        parts = (
            month // 12 + 1970 - self._years[0],
            month % 12,
            (days - months.astype("datetime64[D]")).astype(np.int64),
            second // 3600,
            second // 60 % 60,
            second % 60,
        )
        return np.column_stack(parts[: len(self.names)])

    def join(self, codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Ticks float64 ``(n,)`` of codes ``(n, p)``.

        A day that its month does not have becomes the month's last day; moments outside the bounds move to
        the nearer bound.
        """
        parts = dict(zip(self.names, codes.astype(np.int64).T, strict=True))
        months = (self._years[0] - 1970 + parts["year"]) * 12 + parts["month"]
        start = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
        end = (months + 1).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
        moment = np.minimum(start + parts["day"], end - 1) * _DAY
        for name in self.names[3:]:
            moment = moment + parts[name] * RESOLUTION_SECONDS[name]
        # One tick lies in [moment, moment + resolution): rounded up, as bounds.min need not be a round time.
        end_of_part = moment + RESOLUTION_SECONDS[self.column.resolution] - 1
        return self.grid.snap(to_ticks(end_of_part.astype("datetime64[s]"), self.column))
