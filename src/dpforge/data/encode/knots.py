"""Knots and basis functions of a piecewise-linear flow, from released histograms and the public schema.

In the uniform coordinate u of :class:`dpforge.data.encode.transforms.MarginalTransform` a column's cells are
intervals as long as their released mass. Their ends are the knots; long bins are cut into equal parts, so
that dependence inside a bin can be expressed as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import legendre

from dpforge.data.columns import Column
from dpforge.data.encode.cells import CellCodec, ColumnCells


@dataclass(frozen=True)
class Knots:
    """Pieces of every column.

    Args:
        masses: Length of each piece in u, float64 ``(K_j,)``, summing to 1.
        functions: Basis functions at each piece, float64 ``(K_j, B_j)``, of mean 0 under ``masses``. ``B_j``
            depends on the schema only.
    """

    masses: tuple[np.ndarray, ...]
    functions: tuple[np.ndarray, ...]


def make_knots(codec: CellCodec, masses: Sequence[np.ndarray], resolution: int, degree: int) -> Knots:
    """Cut the cells into pieces and evaluate the basis on them.

    Categories, and columns of at most ``degree + 1`` cells, have one indicator a cell. Ordered columns have
    Legendre polynomials of u up to ``degree``, orthonormal under the released marginal, and an indicator of
    every missing-value or special cell.

    Args:
        codec: Cells of the schema.
        masses: Released probabilities, one vector a column, every entry > 0.
        resolution: A bin of mass above ``1 / resolution`` is cut into parts below that; atoms never are.
        degree: Highest degree of the polynomials, >= 1.
    """
    columns = zip(codec.schema.columns, codec.columns, masses, strict=True)
    pieces, functions = zip(*(_column(*column, resolution, degree) for column in columns), strict=True)
    return Knots(pieces, functions)


def _column(
    column: Column, cells: ColumnCells, mass: np.ndarray, resolution: int, degree: int
) -> tuple[np.ndarray, np.ndarray]:
    if column.kind == "categorical" or cells.size <= degree + 1:
        return mass, _centred(np.eye(cells.size), mass)
    parts = np.where(cells.atom, 1, np.maximum(np.ceil(mass * resolution), 1)).astype(int)
    pieces = np.repeat(mass / parts, parts)
    middle = np.cumsum(pieces) - pieces / 2
    powers = legendre.legvander(2 * middle - 1, degree)[:, 1:] * np.sqrt(2 * np.arange(1, degree + 1) + 1)
    lone = np.flatnonzero(np.isnan(cells.lower) | (cells.atom & np.isin(cells.lower, column.special_values)))
    indicators = np.repeat(np.arange(cells.size), parts)[:, None] == lone[None, :]
    return pieces, _centred(np.concatenate([powers, indicators], axis=1), pieces)


def _centred(functions: np.ndarray, mass: np.ndarray) -> np.ndarray:
    return functions - mass @ functions
