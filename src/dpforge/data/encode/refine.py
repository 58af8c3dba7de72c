"""Fine public cells, and their merging into pieces once their noisy counts are known.

Where a bin hides values that many records share (7,688 dollars of capital gain, say), its width limits every
model on top of it. So bins are cut into public parts, the parts are counted with noise, and afterwards all
parts of a bin are put together again but those that stand out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from dpforge.data.columns import Bins, Column
from dpforge.data.encode.cells import CellCodec, ColumnCells
from dpforge.data.encode.subcolumns import SubColumnCodec
from dpforge.data.schema import Schema

MOST_CELLS = 1000
LEAST_SPIKE = 20.0


@dataclass(frozen=True)
class FineCodec:
    """A sub-column codec with fine cells.

    Args:
        codec: Codec of the fine cells; S sub-columns.
        groups: Number of the bin that each fine cell is a part of, int64 ``(K_s,)`` a sub-column, rising.
        lone: Whether a cell stands outside the order of the others (missing, unknown, special values).
        refined: Whether the bins of the sub-column were cut.
        widths: Share of its bin that each fine cell covers, ``(K_s,)`` a sub-column; 1 where nothing was cut.
    """

    codec: SubColumnCodec
    groups: tuple[np.ndarray, ...]
    lone: tuple[np.ndarray, ...]
    refined: tuple[bool, ...]
    widths: tuple[np.ndarray, ...]


def fine_codec(
    schema: Schema,
    parts: int,
    names: Collection[str],
    *,
    codecs: Mapping[str, str] | None = None,
    default_bins: int = 32,
    discrete_max: int = 128,
) -> FineCodec:
    """Cut every bin of some integer and numeric columns into at most ``parts`` parts, from the schema alone.

    Args:
        schema: Public schema.
        parts: Parts of a bin, >= 1.
        names: The columns to cut.
        codecs, default_bins, discrete_max: See :class:`SubColumnCodec`.

    Raises:
        ConfigError: See :class:`SubColumnCodec`.
    """
    options = {"default_bins": default_bins, "discrete_max": discrete_max}
    coarse = SubColumnCodec(schema, codecs=codecs, **options)
    described = [_cells(column, coarse, options) for column in schema.columns]
    columns = [
        column if cells is None or column.name not in names else _cut(column, cells, parts)
        for column, cells in zip(schema.columns, described, strict=True)
    ]
    fine = SubColumnCodec(replace(schema, columns=tuple(columns)), codecs=codecs, **options)
    parted = [now is not before for now, before in zip(columns, schema.columns, strict=True)]
    inner = [_cells(column, fine, options) for column in columns]
    groups, lone, refined, widths = [], [], [], []
    for number, subs in enumerate(fine.columns):
        cells, parts_of = inner[number], described[number]
        for sub in subs:
            if parted[number] and cells is not None and parts_of is not None:
                groups.append(_groups(cells, parts_of))
                widths.append(_shares(cells, parts_of, groups[-1]))
            else:
                groups.append(np.arange(fine.sizes[sub]))
                widths.append(np.ones(fine.sizes[sub]))
            lone.append(np.zeros(fine.sizes[sub], bool) if cells is None else _lone(columns[number], cells))
            refined.append(parted[number])
    return FineCodec(fine, tuple(groups), tuple(lone), tuple(refined), tuple(widths))


def _cells(column: Column, codec: SubColumnCodec, options: Mapping[str, int]) -> ColumnCells | None:
    """The cells of a number column that is one sub-column; None for any other column."""
    number = codec.schema.names.index(column.name)
    if column.kind == "categorical" or len(codec.columns[number]) != 1:
        return None
    alone = replace(codec.schema, columns=(column,), target=None, constraints=())
    cells = CellCodec(alone, **options).columns[0]
    return cells if cells.size == codec.sizes[codec.columns[number][0]] else None


def _cut(column: Column, cells: ColumnCells, parts: int) -> Column:
    bins = np.flatnonzero(~cells.atom)
    parts = min(parts, MOST_CELLS // max(len(bins), 1))
    if column.kind not in ("integer", "numeric") or parts < 2 or not len(bins):
        return column
    step = 1.0 if column.kind == "integer" else column.granularity
    edges: set[float] = set()
    for cell in bins:
        ends = np.linspace(cells.lower[cell], cells.upper[cell], parts + 1)
        edges |= {float(end) for end in (ends if step is None else np.round(ends / step) * step)}
    assert column.bounds is not None
    low, high = float(column.bounds.min or 0), float(column.bounds.max or 0)
    inside = sorted(edge for edge in edges if low < edge < high)
    return replace(column, bins=Bins(edges=(low, *inside, high)))


def _groups(fine: ColumnCells, coarse: ColumnCells) -> np.ndarray:
    """The coarse cell that holds each fine cell."""
    lead = int(np.isnan(coarse.lower).sum())
    values, atoms = coarse.lower[lead:], coarse.atom[lead:]
    found = np.arange(fine.size)
    for cell in range(lead, fine.size):
        below = np.searchsorted(values, fine.lower[cell] + 1e-9, side="right") - 1
        while atoms[below] and not fine.atom[cell] and below + 1 < len(values):
            below += 1  # a continuous bin that begins where a special value lies
        if fine.atom[cell] and below and atoms[below - 1] and values[below - 1] == values[below]:
            below -= 1  # that special value itself
        found[cell] = lead + below
    return found


def _shares(fine: ColumnCells, coarse: ColumnCells, groups: np.ndarray) -> np.ndarray:
    part, whole = fine.upper - fine.lower, (coarse.upper - coarse.lower)[groups]
    inside = ~fine.atom & ~coarse.atom[groups]
    # An atom that a cut left of a bin is one step of the grid wide.
    return np.where(
        inside, part / np.where(inside, whole, 1.0), np.where(coarse.atom[groups], 1.0, coarse.jitter[groups])
    )


def _lone(column: Column, cells: ColumnCells) -> np.ndarray:
    special = np.isin(cells.lower, np.asarray(column.special_values, dtype=float))
    return np.isnan(cells.lower) | (cells.atom & special)


def merge_cells(
    masses: np.ndarray, groups: np.ndarray, deviation: float, rows: float, threshold: float, rise: float
) -> np.ndarray:
    """Return the piece of each fine cell, int64 ``(K,)``: post-processing of released masses.

    A cell stands alone if its mass is above ``threshold`` standard deviations of its noise, above
    ``LEAST_SPIKE`` rows and above ``rise`` times the mean of its bin; the rest of a bin is one piece. Pieces
    are numbered by bin, the rest of a bin before its spikes.

    Args:
        masses: Released probabilities ``(K,)``.
        groups: Bin of each cell, rising.
        deviation: Standard deviation of the noise of one count.
        rows: Public number of rows.
        threshold, rise: See above.
    """
    counts = np.bincount(groups)
    mean = np.bincount(groups, masses)[groups] / counts[groups]
    least = max(threshold * deviation, LEAST_SPIKE) / rows
    spike = (masses > least) & (masses > rise * mean) & (counts[groups] > 1)
    key = groups * (len(masses) + 1) + np.where(spike, np.arange(1, len(masses) + 1), 0)
    return np.unique(key, return_inverse=True)[1].astype(np.int64)


def spikes(pieces: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return whether each piece is a cell that stands out of its bin, bool ``(P,)``."""
    first = np.array([np.flatnonzero(pieces == piece)[0] for piece in range(pieces.max() + 1)])
    size = np.bincount(pieces)
    in_bin = np.bincount(groups)[groups[first]]
    rest = np.r_[True, groups[first][1:] != groups[first][:-1]]
    return (size == 1) & (in_bin > 1) & ~rest
