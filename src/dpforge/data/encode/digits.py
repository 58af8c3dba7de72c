"""A number as its sign and decimal digits, laid out from bounds and granularity alone."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from dpforge.data.columns import Column
from dpforge.data.grid import Grid
from dpforge.errors import ConfigError

MOST_DIGITS = 15  # any whole number of so many digits is exact in float64


@dataclass(frozen=True)
class DigitParts:
    """Sign and digits of the values of a grid, most significant digit first.

    Every position from the largest magnitude within the bounds down to the granularity has a sub-column of
    ten codes, whether or not the bounds allow all ten. ``sign`` (0: ``+``, 1: ``-``) exists if the bounds
    contain numbers of both signs. A special value is written in digits like any other number; one off the
    grid (say 7 among multiples of 5) adds the positions that it needs.

    Args:
        grid: The column's grid.
        exponent: Power of ten of the last position.
        places: Number of positions, 1 to 15.
        signs: Whether there is a ``sign`` sub-column.
        sign: Sign of every value without such a sub-column, 1 or -1.
    """

    grid: Grid
    exponent: int
    places: int
    signs: bool
    sign: int

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sub-columns; ``digit_1`` is the most significant one."""
        return ("sign",) * self.signs + tuple(f"digit_{place + 1}" for place in range(self.places))

    @property
    def labels(self) -> tuple[tuple[str, ...], ...]:
        """The text of each code, sub-column by sub-column."""
        return (("+", "-"),) * self.signs + (tuple("0123456789"),) * self.places

    @property
    def ordered(self) -> tuple[bool, ...]:
        """Whether the codes of each sub-column have a natural order."""
        return (False,) * self.signs + (True,) * self.places

    @property
    def _weights(self) -> np.ndarray:
        return 10 ** np.arange(self.places - 1, -1, -1, dtype=np.int64)

    def split(self, values: np.ndarray) -> np.ndarray:
        """Codes int64 ``(n, p)`` of numbers ``(n,)``, which are clipped and moved to the grid first."""
        values = self.grid.snap(values)
        ten = 10.0 ** abs(self.exponent)
        units = np.rint(np.abs(values) * ten if self.exponent < 0 else np.abs(values) / ten)
        digits = units.astype(np.int64)[:, None] // self._weights % 10
        return np.column_stack([(values < 0).astype(np.int64), digits]) if self.signs else digits

    def join(self, codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Numbers float64 ``(n,)`` of codes ``(n, p)``: on the grid, clipped to the bounds."""
        units = (codes[:, int(self.signs) :].astype(np.int64) @ self._weights).astype(np.float64)
        ten = 10.0 ** abs(self.exponent)
        size = units / ten if self.exponent < 0 else units * ten
        return self.grid.snap(np.where(codes[:, 0] == 1, -size, size) if self.signs else self.sign * size)


def digit_parts(column: Column, grid: Grid) -> DigitParts:
    """Lay out the digits of a column with a grid.

    Raises:
        ConfigError: The column has no granularity, or more than 15 positions.
    """
    if grid.step is None:
        raise ConfigError(
            f"columns.{column.name}: codec digit needs a granularity (0.01 for cents); give it, or use binned"
        )
    ends = grid.value(np.array([grid.first, grid.last]))
    values = [*ends.tolist(), *grid.points]
    exponent = min(_last_place(number) for number in (grid.step, *grid.points))
    places = max(_first_place(value) for value in values) - exponent + 1
    if places > MOST_DIGITS:
        raise ConfigError(
            f"columns.{column.name}: codec digit needs {places} digits, at most {MOST_DIGITS} are exact; "
            "narrow the bounds, coarsen the granularity, or use binned"
        )
    low, high = min(values), max(values)
    sign = -1 if low < 0 and high <= 0 else 1
    return DigitParts(grid, exponent, max(places, 1), signs=low < 0 < high, sign=sign)


def _last_place(number: float) -> int:
    """Power of ten of the last digit that is not zero."""
    return int(Decimal(str(number)).normalize().as_tuple().exponent)


def _first_place(number: float) -> int:
    """Power of ten of the first digit."""
    return Decimal(str(number)).adjusted()
