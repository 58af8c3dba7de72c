"""Timing in turns, and the rows that a benchmark reports."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One measured number.

    Args:
        group: Heading under which it is shown.
        what: What was measured, in words.
        value: The number.
        unit: ``ratio``, ``%``, ``ms``, ``MB``, ``rows/s`` or ``x``.
        aim: Largest value aimed for, if there is one.
        note: The times behind a ratio.
    """

    group: str
    what: str
    value: float
    unit: str
    aim: float | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON-able data."""
        return asdict(self)


@dataclass(frozen=True)
class Laps:
    """Seconds that each contender took, turn by turn."""

    seconds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        """Return the median seconds of a contender."""
        return statistics.median(self.seconds[name])

    def ratio(self, one: str, other: str) -> float:
        """Return the median over the turns of one contender's seconds over the other's.

        Both took their turn one after the other, so a machine that other processes slow down for a while
        slows both.
        """
        pairs = zip(self.seconds[one], self.seconds[other], strict=True)
        return statistics.median(a / b for a, b in pairs)

    def note(self, one: str, other: str) -> str:
        """Return the medians behind a ratio."""
        return f"{milliseconds(self.median(one))} / {milliseconds(self.median(other))}"


def in_turns(contenders: Mapping[str, Callable[[], object]], repeats: int, warmup: int = 2) -> Laps:
    """Call the contenders A B C A B C … and return how long each took."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(warmup + repeats):
        for name, call in contenders.items():
            start = time.perf_counter()
            call()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return Laps(seconds)


def milliseconds(seconds: float) -> str:
    """Return a time in milliseconds, for a note."""
    return f"{1000 * seconds:.3g} ms"


def show(rows: list[Row], console: Console | None = None, title: str = "DP-SGD benchmark") -> None:
    """Print rows as one table, a section a group."""
    table = Table("what", "value", "unit", "aim", "behind it", title=title, row_styles=["", "dim"])
    for column in (1, 3):
        table.columns[column].justify = "right"
    group = ""
    for row in rows:
        if row.group != group:
            group = row.group
            table.add_section()
            table.add_row(f"[bold]{group}[/bold]")
        aim = "" if row.aim is None else f"<= {row.aim:g}"
        table.add_row(row.what, f"{row.value:.4g}", row.unit, aim, row.note)
    (console or Console()).print(table)
