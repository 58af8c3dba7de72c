"""The runs of a study as a table for the terminal, once or live."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dpforge.errors import RunError
from dpforge.experiment.study_status import STATES, RunState, read_states

# A job that SLURM requeues waits two minutes before it may start again.
IDLE_SECONDS = 180.0
# What is read at a glance stays in one line; the rest is folded where the terminal is narrow.
_LEAST_WIDTHS = {
    "model": 8,
    "budget": 6,
    "seed": 4,
    "run id": 6,
    "state": 11,
    "ε": 6,
    "age": 6,
    "attempts": 8,
}
_PIPED_WIDTH = 10_000
_COLOURS = {
    "done": "green",
    "running": "cyan",
    "interrupted": "yellow",
    "failed": "red",
    "incomplete": "red",
    "planned": "dim",
}
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def status_console() -> Console:
    """Return where to print the table: as wide as the terminal, or as wide as needed where there is none."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    return console


def status_table(states: Sequence[RunState]) -> Group:
    """Return the table of all runs, a line that counts them by state, and why the failed ones failed."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("model", "data", "budget", "seed", "run id", "state", "stage"):
        table.add_column(name, overflow="fold", min_width=_LEAST_WIDTHS.get(name))
    for name in ("ε", "age", "attempts"):
        table.add_column(name, justify="right", overflow="fold", min_width=_LEAST_WIDTHS.get(name))
    for state in states:
        table.add_row(*_row(state))
    counted = Counter(state.state for state in states)
    summary = ", ".join(f"{counted[name]} {name}" for name in STATES if counted[name])
    failed = [_failure(state) for state in states if state.state == "failed"]
    return Group(table, Text(f"{len(states)} runs: {summary}", style="bold"), *failed)


def _row(state: RunState) -> list[Text]:
    coloured = Text(state.state, style=_COLOURS[state.state])
    attempts = str(state.attempts) + (f" ({state.codes} codes)" if state.codes > 1 else "")
    run_id = state.path.name.rpartition("-")[2] if state.seed else ""
    texts = [state.model, state.dataset, state.budget, state.seed, run_id]
    return [*map(Text, texts), coloured, *map(Text, [_stage(state), *_end(state), attempts])]


def _end(state: RunState) -> tuple[str, str]:
    return _certified(state), _ago(state.age)


def _failure(state: RunState) -> Text:
    where = "" if state.traceback is None else f"\n  traceback: {state.traceback}"
    return Text.assemble((state.path.name, "red"), f": {state.error}{where}")


def _stage(state: RunState) -> str:
    if state.step is None or state.stage != "fit":
        return state.stage
    done, total = state.step
    return f"fit {done}/{total}"


def _certified(state: RunState) -> str:
    if state.label and state.label != "DP":
        return state.label
    return "" if state.epsilon is None else f"{state.epsilon:.4g}"


def _ago(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"


def watch(
    folder: Path,
    console: Console,
    *,
    every: float = 2.0,
    idle: float = IDLE_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
) -> list[RunState]:
    """Show the table until nothing has been running for ``idle`` seconds, or the user presses Ctrl-C.

    A study without a run yet is waited for as long.

    Args:
        folder: Of the study.
        console: Where to draw.
        every: Seconds between two looks.
        idle: Seconds without a running run after which the table is final.
        sleep: Waits; replaced in tests.

    Returns:
        The last states.

    Raises:
        RunError: ``folder`` is still missing or holds no run after ``idle`` seconds.
    """
    states = _states_if_any(folder)
    quiet = 0.0
    with Live(_shown(states, folder), console=console, auto_refresh=False) as live:
        while quiet < idle:
            sleep(every)
            states = _states_if_any(folder)
            live.update(_shown(states, folder), refresh=True)
            quiet = 0.0 if any(state.state == "running" for state in states) else quiet + every
    return states or read_states(folder)


def _states_if_any(folder: Path) -> list[RunState]:
    try:
        return read_states(folder)
    except RunError:  # the sweep may not have begun
        return []


def _shown(states: Sequence[RunState], folder: Path) -> Group | Text:
    return status_table(states) if states else Text(f"waiting for the first run below {folder}")
