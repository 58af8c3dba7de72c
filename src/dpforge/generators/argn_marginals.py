"""What TabularARGN releases before it trains: one-way histograms, those of fine columns by target class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dpforge.data.encode.basis import basis_functions, target_scores
from dpforge.data.encode.probabilities import noisy_total, probabilities
from dpforge.data.encode.refine import FineCodec, merge_cells, spikes
from dpforge.errors import PrivacyError
from dpforge.generators.histograms import NAME, column_weights
from dpforge.privacy.mechanisms import PrivateAccess

MARGINAL_FLOOR = 1e-4
MOST_CLASSES = 8


@dataclass(frozen=True)
class Shape:
    """How released counts become pieces and basis functions; see :class:`TabularARGN`."""

    degree: int
    decay: float
    scale: float
    threshold: float
    rise: float


@dataclass(frozen=True)
class Marginals:
    """Released one-way statistics of the fine cells.

    Args:
        masses: Probabilities ``(K_s,)`` a sub-column.
        crossed: Noisy counts ``(K_s, T)`` by target class, of the sub-columns that were crossed.
        deviations: Standard deviation of the noise of one count of each sub-column.
        target: Number of the target's sub-column, or ``None``.
        rows: Public number of rows.
    """

    masses: tuple[np.ndarray, ...]
    crossed: Mapping[int, np.ndarray]
    deviations: tuple[float, ...]
    target: int | None
    rows: float

    def to_json(self) -> dict[str, Any]:
        """Return a form that :func:`marginals_from_json` reads."""
        return {
            "masses": [mass.tolist() for mass in self.masses],
            "crossed": {str(sub): counts.tolist() for sub, counts in self.crossed.items()},
            "deviations": list(self.deviations),
            "target": self.target,
            "rows": self.rows,
        }


def marginals_from_json(data: Mapping[str, Any]) -> Marginals:
    """Read back :meth:`Marginals.to_json`."""
    return Marginals(
        tuple(np.asarray(mass) for mass in data["masses"]),
        {int(sub): np.asarray(counts) for sub, counts in data["crossed"].items()},
        tuple(data["deviations"]),
        data["target"],
        data["rows"],
    )


@dataclass(frozen=True)
class Pieces:
    """The codes that the network models: fine cells put together.

    Args:
        of_cell: Piece of each fine cell, int64 ``(K_s,)`` a sub-column.
        masses: Probabilities ``(P_s,)`` a sub-column.
        cell_masses: Probability of each fine cell within its piece, ``(K_s,)`` a sub-column.
        inputs: Basis functions that later sub-columns see, ``(P_s, B_s)``.
        outputs: Basis functions of the logits, ``(P_s, C_s)``.
    """

    of_cell: tuple[np.ndarray, ...]
    masses: tuple[np.ndarray, ...]
    cell_masses: tuple[np.ndarray, ...]
    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]


def target_sub(fine: FineCodec) -> int | None:
    """Return the target's sub-column if it is one of 2 to ``MOST_CLASSES`` codes."""
    schema = fine.codec.schema
    if schema.target is None or schema.target not in schema.names:
        return None
    subs = fine.codec.columns[schema.names.index(schema.target)]
    return subs[0] if len(subs) == 1 and 2 <= fine.codec.sizes[subs[0]] <= MOST_CLASSES else None


def release_marginals(
    access: PrivateAccess,
    fine: FineCodec,
    codes: np.ndarray,
    allocation: str,
    rows: float,
    *,
    cross: str,
) -> Marginals:
    """Release all histograms as one vector; a row falls into one cell of each of the S sub-columns.

    Args:
        access: The run's access; its plan has the piece ``marginals`` with sensitivity sqrt(S).
        fine: Fine cells.
        codes: Private codes ``(n, S)`` of the fine cells.
        allocation: See :func:`~dpforge.generators.histograms.column_weights`.
        rows: Public number of rows.
        cross: Sub-columns to count by target class, where the target has few: ``none``, ``refined``, ``all``.
    """
    target = None if cross == "none" else target_sub(fine)
    levels = 1 if target is None else fine.codec.sizes[target]
    chosen = [cross == "all" or refined for refined in fine.refined]
    crossed = [one and target not in (None, s) for s, one in enumerate(chosen)]
    counts = [
        _pair_counts(codes[:, s], codes[:, target], fine.codec.sizes[s], levels)
        if crossed[s] and target is not None
        else histogram
        for s, histogram in enumerate(fine.codec.histogram(codes))
    ]
    piece = access.piece(NAME)
    if piece.sensitivity**2 < len(counts) * (1 - 1e-9):
        raise PrivacyError(f"the plan declares sensitivity {piece.sensitivity} for {len(counts)} histograms.")
    weights = column_weights([count.size for count in counts], allocation)
    noisy = access.histograms(NAME, counts, weights, columns=len(weights), allocation=allocation)
    scale = piece.sensitivity * piece.noise_multiplier
    tables = {s: noisy[s].reshape(-1, levels) for s in range(len(noisy)) if crossed[s]}
    single = [tables[s].sum(axis=1) if s in tables else noisy[s] for s in range(len(noisy))]
    deviations = [scale / w * (levels if s in tables else 1) ** 0.5 for s, w in enumerate(weights)]
    return Marginals(_masses(single, deviations, fine), tables, tuple(deviations), target, rows)


def _pair_counts(cells: np.ndarray, partner: np.ndarray, size: int, levels: int) -> np.ndarray:
    return np.bincount(cells.astype(np.int64) * levels + partner, minlength=size * levels)


def _masses(
    histograms: Sequence[np.ndarray], deviations: Sequence[float], fine: FineCodec
) -> tuple[np.ndarray, ...]:
    """Project to probabilities; parts of nullable columns have totals of their own."""
    whole = [s for s, null in enumerate(fine.codec.null_of) if null < 0]
    total = noisy_total([histograms[s] for s in whole], [deviations[s] for s in whole])
    totals = [
        total if s in set(whole) else max(float(histograms[s].sum()), 1.0) for s in range(len(histograms))
    ]
    return tuple(
        probabilities(histogram, own, MARGINAL_FLOOR / histogram.size)
        for histogram, own in zip(histograms, totals, strict=True)
    )


def make_pieces(marginals: Marginals, fine: FineCodec, shape: Shape) -> Pieces:
    """Merge fine cells and evaluate the basis: post-processing of released counts."""
    parts = [_one(s, marginals, fine, shape) for s in range(len(fine.codec.sizes))]
    return Pieces(*(tuple(column) for column in zip(*parts, strict=True)))


def _one(sub: int, marginals: Marginals, fine: FineCodec, shape: Shape) -> tuple[np.ndarray, ...]:
    mass, groups = marginals.masses[sub], fine.groups[sub]
    deviation = marginals.deviations[sub]
    of_cell = merge_cells(mass, groups, deviation, marginals.rows, shape.threshold, shape.rise)
    masses = np.bincount(of_cell, mass)
    first = np.unique(of_cell, return_index=True)[1]
    lone = fine.lone[sub][first] | spikes(of_cell, groups)
    outputs = basis_functions(
        masses,
        ordered=fine.codec.ordered[sub],
        lone=lone,
        degree=shape.degree,
        decay=shape.decay,
        scale=shape.scale,
    )
    inputs = outputs
    if sub in marginals.crossed and marginals.target is not None:
        counts = np.stack([np.bincount(of_cell, table) for table in marginals.crossed[sub].T], axis=1)
        per_count = deviation / counts.shape[1] ** 0.5
        scores = target_scores(
            counts, per_count * np.sqrt(np.bincount(of_cell)), marginals.masses[marginals.target]
        )
        inputs = np.concatenate([outputs, scores], axis=1)
    return of_cell, masses, mass / masses[of_cell], inputs, outputs
