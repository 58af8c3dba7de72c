"""Which sub-columns a column becomes: the choice of codec, from the schema alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from dpforge.data.columns import CODECS, Bins, Column
from dpforge.data.encode.cells import CellCodec
from dpforge.data.encode.dateparts import DateParts
from dpforge.data.encode.digits import digit_parts
from dpforge.data.encode.indexparts import IndexParts
from dpforge.data.encode.layout import NULL, describe_categories, value_cells
from dpforge.data.schema import Schema
from dpforge.errors import ConfigError, did_you_mean

MOST_VALUES = 65_536
_PRESENCE = ("present", NULL)


class Parts(Protocol):
    """Several sub-columns that together hold a value which is not missing."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sub-columns."""
        ...

    @property
    def labels(self) -> tuple[tuple[str, ...], ...]:
        """The text of each code, sub-column by sub-column."""
        ...

    @property
    def ordered(self) -> tuple[bool, ...]:
        """Whether the codes of each sub-column have a natural order."""
        ...

    def split(self, values: np.ndarray) -> np.ndarray:
        """Codes ``(n, p)`` of values ``(n,)``."""
        ...

    def join(self, codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Values ``(n,)`` of any codes ``(n, p)``."""
        ...


@dataclass(frozen=True)
class Entry:
    """Where a schema column stands among the sub-columns.

    Args:
        column: The column.
        subs: Numbers of its sub-columns.
        cell: Its number among the columns with cells; -1 if it is written in digits or date parts.
        parts: How its value is split; ``None`` if the cell is the one sub-column.
    """

    column: Column
    subs: tuple[int, ...]
    cell: int
    parts: Parts | None

    @property
    def null(self) -> int:
        """Number of the ``is_null`` sub-column, -1 without."""
        return self.subs[0] if self.parts is not None and self.column.nullable else -1

    @property
    def values(self) -> slice:
        """The value sub-columns."""
        return slice(self.subs[0] + (self.null >= 0), self.subs[-1] + 1)


@dataclass(frozen=True)
class SubColumn:
    """Name and codes of one sub-column.

    Args:
        name: Column name, with the part's name behind a dot.
        labels: One printable text a code.
        ordered: Whether the codes after ``missing`` have a natural order.
    """

    name: str
    labels: tuple[str, ...]
    ordered: bool


def argument_mistakes(
    schema: Schema, codecs: Mapping[str, str], default_bins: int, discrete_max: int, split_above: int
) -> list[str]:
    """Everything that is wrong with the arguments of a codec, as texts for the user."""
    mistakes = []
    if default_bins < 1 or discrete_max < 0 or split_above < 1:
        mistakes.append(
            f"default_bins={default_bins}, discrete_max={discrete_max}, split_above={split_above}: "
            "expected >= 1, >= 0 and >= 1"
        )
    for name in codecs:
        if name not in schema.names:
            hint = did_you_mean(str(name), schema.names)
            mistakes.append(f"codecs.{name}: schema '{schema.name}' has no such column.{hint}")
    return mistakes


def lay_out(
    schema: Schema, codecs: Mapping[str, str], default_bins: int
) -> tuple[list[Column | Parts], list[str]]:
    """Lay out every column by its codec.

    Args:
        schema: The public schema.
        codecs: Codec by column name, before the column's own.
        default_bins: Bins of a binned column without ``bins`` of its own.

    Returns:
        For each column what the cell codec shall see in its place, or its parts; and every mistake.
    """
    found: list[Column | Parts] = []
    mistakes: list[str] = []
    for column in schema.columns:
        try:
            found.append(_place(column, codecs.get(column.name, column.codec), default_bins))
        except ConfigError as error:
            mistakes += error.mistakes
    return found, mistakes


def _place(column: Column, codec: str, default_bins: int) -> Column | Parts:
    known = CODECS[column.kind]
    if codec not in known:
        raise ConfigError(
            f"columns.{column.name}: codec={codec!r} does not fit kind {column.kind}; "
            f"expected one of {', '.join(known)}.{did_you_mean(str(codec), known)}"
        )
    if column.kind == "categorical":
        describe_categories(column)  # refuses a set that is still private
        return column
    grid = value_cells(column, default_bins=default_bins, discrete_max=0).grid
    if codec == "digit":
        return digit_parts(column, grid)
    if codec == "datetime_parts":
        return DateParts(column, grid)
    if codec == "discrete":
        count = grid.last - grid.first + 1
        if count > MOST_VALUES:
            raise ConfigError(
                f"columns.{column.name}: codec discrete would need {count:,} codes, at most {MOST_VALUES:,}; "
                "use digit or binned"
            )
        # Each value is stated to have a code of its own, whatever discrete_max says.
        values = {*column.special_values, *grid.value(np.arange(grid.first, grid.last + 1)).tolist()}
        return replace(column, bins=None, special_values=tuple(sorted(values)))
    if codec == "binned" and column.bins is None:
        return replace(column, bins=Bins(equal_width=default_bins))
    return column


def entries(
    schema: Schema, found: Sequence[Column | Parts], cells: CellCodec, split_above: int
) -> tuple[Entry, ...]:
    """Number the sub-columns of every column; columns with more than ``split_above`` cells get two.

    Args:
        schema: The public schema.
        found: What :func:`lay_out` found.
        cells: The cells of those that are columns, in order.
        split_above: Largest number of cells that one sub-column holds.
    """
    made: list[Entry] = []
    first = cell = 0
    for column, part in zip(schema.columns, found, strict=True):
        parts, own = (None, cell) if isinstance(part, Column) else (part, -1)
        if own >= 0 and cells.sizes[own] > split_above:
            parts = IndexParts(cells.columns[own], int(column.nullable))
        count = 1 if parts is None else column.nullable + len(parts.names)
        made.append(Entry(column, tuple(range(first, first + count)), own, parts))
        first, cell = first + count, cell + (own >= 0)
    return tuple(made)


def describe(entry: Entry, cells: CellCodec) -> list[SubColumn]:
    """The sub-columns of a column in order."""
    name = entry.column.name
    if entry.parts is None:
        return [SubColumn(name, cells.columns[entry.cell].labels, entry.column.kind != "categorical")]
    presence = [SubColumn(f"{name}.is_null", _PRESENCE, False)] if entry.null >= 0 else []
    parts = zip(entry.parts.names, entry.parts.labels, entry.parts.ordered, strict=True)
    return [*presence, *(SubColumn(f"{name}.{part}", labels, ordered) for part, labels, ordered in parts)]
