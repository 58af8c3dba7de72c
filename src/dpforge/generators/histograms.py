"""The release that most table generators start with: all one-way histograms as one vector."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dpforge.data import Schema
from dpforge.data.encode.cells import CellCodec
from dpforge.data.encode.probabilities import noisy_total, probabilities
from dpforge.generators.base import rows_per_unit
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.plan import Release
from dpforge.privacy.spec import replace_factor

NAME = "marginals"


def histogram_release(
    schema: Schema, relation: str, *, noise: str = "rounded_gaussian", width: int | None = None
) -> Release:
    """Return the release of all one-way histograms with its sensitivity.

    A row falls into one cell of each of d columns: L2 sensitivity sqrt(d), L1 sensitivity d; times the
    rows of a unit; replacing a row moves two cells.

    Args:
        schema: Public schema.
        relation: See :class:`~dpforge.privacy.spec.PrivacySpec`.
        noise: ``rounded_gaussian`` or ``laplace``.
        width: Number of histograms; the number of columns if ``None``.
    """
    width, rows = width or len(schema.columns), rows_per_unit(schema)
    if noise == "laplace":
        factor = 2.0 if relation == "replace" else 1.0
        return Release(NAME, width * rows * factor, f"L1: {width} columns, {rows} rows a unit", noise)
    factor = replace_factor(relation, histogram=True)
    reason = f"L2: sqrt({width}) columns, {rows} rows a unit"
    return Release(NAME, math.sqrt(width) * rows * factor, reason, noise)


def column_weights(sizes: Sequence[int], allocation: str) -> list[float]:
    """Return the weight of each column's counts; squares sum to d, so the sensitivity stays sqrt(d).

    ``uniform`` gives every cell the same noise. ``cube_root`` minimises the total L1 error, sum K_j sigma_j:
    sigma_j is proportional to K_j^(−1/3).
    """
    if allocation == "uniform":
        return [1.0] * len(sizes)
    roots = np.cbrt(np.asarray(sizes, dtype=float))
    return [float(w) for w in roots * math.sqrt(len(sizes)) / math.sqrt(float((roots**2).sum()))]


def release_histograms(
    access: PrivateAccess, codec: CellCodec, codes: np.ndarray, allocation: str, floor: float
) -> list[np.ndarray]:
    """Release and project: one probability vector a column.

    Args:
        access: The run's access; its plan has the piece ``marginals``.
        codec: Cells of the schema.
        codes: Private codes ``(n, d)``.
        allocation: See :func:`column_weights`.
        floor: Least mass of a cell, as a multiple of 1/K.
    """
    piece = access.piece(NAME)
    weights = column_weights(codec.sizes, "uniform" if piece.mechanism == "laplace" else allocation)
    noisy = access.histograms(
        NAME, codec.histogram(codes), weights, columns=len(weights), allocation=allocation
    )
    scale = piece.sensitivity * piece.noise_multiplier
    total = noisy_total(noisy, [scale / weight for weight in weights])
    return [probabilities(histogram, total, floor / histogram.size) for histogram in noisy]
