"""What a person sees on the terminal: progress of each stage, and the table at the end of a run."""

from __future__ import annotations

import logging
import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from dpforge.experiment.visibility import Value

_log = logging.getLogger(__name__)

ScoreRow = tuple[str, float, float | None, float | None, float | None]
"""Name, score, floor, ceiling, normalised score (0 at the floor, 1 at the ceiling)."""


class Stage(ABC):
    """One stage of a run, such as fitting; leaving it as a context manager finishes it."""

    def __init__(self) -> None:
        self._open = True

    @abstractmethod
    def advance(self, amount: int = 1, **fields: Any) -> None:
        """Move on by ``amount`` steps and show the fields."""

    @abstractmethod
    def update(self, **fields: Any) -> None:
        """Show new values of fields such as ``epsilon`` and ``loss``."""

    @abstractmethod
    def _end(self) -> None: ...

    def finish(self) -> None:
        """Mark the stage as finished; a repeat does nothing."""
        if self._open:
            self._open = False
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()


class Display:
    """Shows stages as bars, or as one log line at their start and end when there is no terminal."""

    def __init__(self, bars: Progress | None) -> None:
        self._bars = bars
        self._stages: list[Stage] = []

    def task(self, description: str, total: int | None = None, **fields: Any) -> Stage:
        """Begin a stage of ``total`` steps (``None``: unknown)."""
        bars = self._bars
        stage = (
            _LoggedStage(description, fields) if bars is None else _BarStage(bars, description, total, fields)
        )
        self._stages.append(stage)
        return stage

    def advance(self, amount: int = 1, **fields: Any) -> None:
        """Advance the stage that began last."""
        if self._stages:
            self._stages[-1].advance(amount, **fields)

    def update(self, **fields: Any) -> None:
        """Update the fields of the stage that began last."""
        if self._stages:
            self._stages[-1].update(**fields)

    def close(self) -> None:
        """Finish every stage."""
        for stage in self._stages:
            stage.finish()


@contextmanager
def progress(enabled: bool = True, console: Console | None = None) -> Iterator[Display]:
    """Show progress on stderr while the block runs.

    Args:
        enabled: ``False`` logs the start and end of each stage instead of drawing.
        console: Where to draw; the default is stderr. Not a terminal: nothing is drawn.
    """
    console = console or Console(file=sys.stderr)
    if not enabled or not console.is_terminal:
        with closing(Display(None)) as display:
            yield display
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        _Fields(),
    )
    with (
        Progress(*columns, console=console, expand=True, refresh_per_second=5) as bars,
        closing(Display(bars)) as display,
    ):
        yield display


class _Fields(ProgressColumn):
    """The fields of a stage, epsilon first."""

    max_refresh = 0.2

    def render(self, task: Task) -> Text:
        return Text(_field_text(task.fields), style="cyan", no_wrap=True)


class _BarStage(Stage):
    def __init__(self, bars: Progress, text: str, total: int | None, fields: Mapping[str, Any]) -> None:
        super().__init__()
        self._bars = bars
        self._task = bars.add_task(text, total=total, **fields)

    def advance(self, amount: int = 1, **fields: Any) -> None:
        self._bars.update(self._task, advance=amount, **fields)

    def update(self, **fields: Any) -> None:
        self._bars.update(self._task, **fields)

    def _end(self) -> None:
        self._bars.stop_task(self._task)


class _LoggedStage(Stage):
    def __init__(self, description: str, fields: Mapping[str, Any]) -> None:
        super().__init__()
        self._description, self._fields = description, dict(fields)
        self._started = time.monotonic()
        _log.info("%s: started", description)

    def advance(self, amount: int = 1, **fields: Any) -> None:
        self._fields.update(fields)

    def update(self, **fields: Any) -> None:
        self._fields.update(fields)

    def _end(self) -> None:
        seconds = time.monotonic() - self._started
        said = _field_text(self._fields)
        _log.info("%s: finished in %.1f s%s", self._description, seconds, said and f", {said}")


def _field_text(fields: Mapping[str, Any]) -> str:
    bare = {name: _bare(value) for name, value in fields.items()}
    epsilon = bare.pop("epsilon", None)
    # While a run trains, epsilon is the RDP bound of what is reserved; the final table has the PLD value.
    parts = [] if epsilon is None else [f"ε ≤ {epsilon:.2f}"]
    parts += [f"{name} {_number(value)}" for name, value in bare.items() if value is not None]
    return "  ".join(parts)


def _bare(value: Any) -> Any:
    return value.scalar if isinstance(value, Value) else value


def warning_line(facts: Mapping[str, Any]) -> str:
    """The words that must stand before any epsilon of a run that is not to be trusted, or ``""``.

    ``NOT DP`` without a finite epsilon or with a noise multiplier of zero; ``RESEARCH NOISE`` with
    ``rng`` ``seeded`` or ``upstream`` true; and the text of ``facts["warning"]``.
    """
    epsilon, sigma = facts.get("epsilon"), facts.get("noise_multiplier")
    words = []
    if epsilon is None or not math.isfinite(epsilon) or sigma == 0:
        words.append("NOT DP: this run has no privacy guarantee")
    if facts.get("rng") == "seeded" or facts.get("upstream"):
        words.append("RESEARCH NOISE: do not release")
    said = str(facts.get("warning") or "")
    return "; ".join([*words, said] if said and said not in " ".join(words) else words)


def summary_table(facts: Mapping[str, Any], scores: Sequence[ScoreRow]) -> RenderableType:
    """The end of a run: privacy, cost and every headline score, readable at 80 columns.

    Args:
        facts: ``epsilon``, ``epsilon_rdp``, ``delta``, ``noise_multiplier``, ``steps``, ``rows``, ``fit_s``,
            ``sample_s``, ``evaluate_s``, ``rng``, ``upstream``, ``warning``, ``run_dir``; any may be absent.
        scores: Name, score, floor, ceiling and normalised score (0 at the floor, 1 at the ceiling).
    """
    parts: list[RenderableType] = []
    warning = warning_line(facts)
    if warning:
        parts.append(Text(warning, style="bold red"))
    parts.append(_facts_table(facts))
    if scores:
        parts.append(scores_table(scores, _IMAGES if facts.get("images") else _TABLES))
    if facts.get("run_dir"):
        # Not wrapped by words: a path must survive copying.
        parts.append(Text(f"Run folder: {facts['run_dir']}", style="bold", overflow="fold"))
    return Group(*parts)


def _facts_table(facts: Mapping[str, Any]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for _ in range(2):
        table.add_column(style="dim", no_wrap=True)
        table.add_column(no_wrap=True)
    pairs = [(label, _number(facts[key]) + unit) for key, label, unit in _FACTS if facts.get(key) is not None]
    half = -(-len(pairs) // 2)
    for i, left in enumerate(pairs[:half]):
        right = pairs[half + i] if half + i < len(pairs) else ("", "")
        table.add_row(*left, *right)
    return table


_FACTS = (
    ("epsilon", "ε (of record)", ""),
    ("epsilon_rdp", "ε (RDP)", ""),
    ("delta", "δ", ""),
    ("noise_multiplier", "σ noise multiplier", ""),
    ("steps", "steps", ""),
    ("rows", "synthetic rows", ""),
    ("images", "synthetic images", ""),
    ("fit_s", "fit", " s"),
    ("sample_s", "sample", " s"),
    ("evaluate_s", "evaluate", " s"),
)


_TABLES = (
    "normalised: 0 = floor (independent columns), 1 = ceiling (held-out real rows).\n"
    "Floors of one-way scores and coverage are exact: there 0 is perfect."
)
_IMAGES = "normalised: 0 = floor (shuffled pixels, or public images), 1 = ceiling (held-out real images)."


def scores_table(scores: Sequence[ScoreRow], caption: str = _TABLES) -> Table:
    """Return every headline score with floor, ceiling and normalised value."""
    table = Table(caption=caption)
    table.add_column("score", overflow="fold")
    for heading in ("value", "floor", "ceiling", "normalised"):
        table.add_column(heading, justify="right", no_wrap=True, min_width=len(heading))
    for name, *numbers in scores:
        if numbers[-1] is not None and abs(numbers[-1]) > _MEANINGLESS:
            numbers[-1] = None  # floor and ceiling nearly coincide
        table.add_row(Text(name), *("–" if n is None or math.isnan(n) else f"{n:.3f}" for n in numbers))
    return table


_MEANINGLESS = 100


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and 1e3 <= abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:.4g}"


def print_summary(
    facts: Mapping[str, Any], scores: Sequence[ScoreRow], console: Console | None = None
) -> None:
    """Print the summary on stdout."""
    (console or Console()).print(summary_table(facts, scores))
