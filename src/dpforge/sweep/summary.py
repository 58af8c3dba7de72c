"""What a search says at its end: what it tried, what won, and what was spent on finding it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dpforge.experiment.display import warning_line
from dpforge.experiment.rundir import RunDir
from dpforge.experiment.spending import composed, spending_of
from dpforge.experiment.study_status import json_or_empty
from dpforge.sweep.runs import Candidate
from dpforge.sweep.settings import SearchSettings
from dpforge.sweep.space import Space


@dataclass(frozen=True)
class Tried:
    """One run of a search.

    Args:
        number: Of the trial.
        candidate: Its configuration.
        state: ``complete``, ``fail`` or ``running`` of an adaptive search; ``done``, ``failed``,
            ``elsewhere`` or ``interrupted`` of a private selection.
        params: Values of the swept keys.
        values: What was minimised, one value an objective.
    """

    number: int
    candidate: Candidate
    state: str = "running"
    params: Mapping[str, Any] = field(default_factory=dict)
    values: tuple[float, ...] = ()


def print_search(
    settings: SearchSettings, space: Space, folder: Path, tried: Sequence[Tried], best: Sequence[int]
) -> None:
    """Print the trials of an adaptive search, the best of them, and both epsilons."""
    console = Console(highlight=False)
    table = Table(title="Trials of this search", title_justify="left", box=None, pad_edge=False)
    for name in (
        "",
        "#",
        "state",
        *(key.rpartition(".")[2] for key in space.axes),
        *settings.objectives,
        "run",
    ):
        table.add_column(name, overflow="fold")
    for run in tried:
        params = [_short(run.params[key]) for key in space.axes]
        losses = [f"{value:.4g}" for value in run.values] or ["" for _ in settings.objectives]
        place = run.candidate.folder_if_any
        name = "" if place is None else place.root.name
        marked = "*" if run.number in best else ""
        table.add_row(*map(Text, [marked, str(run.number), run.state, *params, *losses, name]))
    console.print(table)
    if settings.directions is None or "maximize" in settings.directions:
        console.print(
            "Columns of objectives: what was minimised (distance from the best value, or minus it)."
        )
    for line in cost_lines(settings, folder, tried, [run for run in tried if run.number in best]):
        console.print(Text(line), soft_wrap=True)


def cost_lines(
    settings: SearchSettings, folder: Path, tried: Sequence[Tried], best: Sequence[Tried]
) -> list[str]:
    """Sentences that set the epsilon of the search beside those of the winners."""
    lines = [f"Best: {run.candidate.identity.folder} ({_own_epsilon(run.candidate.folder)})" for run in best]
    places = {place.root for run in tried if (place := run.candidate.folder_if_any) is not None}
    spent = [spending_of(path) for path in (*sorted(places), folder) if (path / "ledger.jsonl").is_file()]
    if settings.selection == "public_proxy":
        return [
            *lines,
            "The search read public scores alone: the choice cost nothing beyond the run chosen.",
        ]
    noisy = [one for one in spent if one.events and not one.without_noise]
    if any(one.without_noise for one in spent):
        lines.append("NOT DP: some runs read private rows without noise and are in no sum.")
    if not noisy:
        return lines
    delta = max(one.delta for one in noisy)
    total = composed(noisy, delta)
    seeded = any(str(run.candidate.config.privacy.rng) == "seeded" for run in tried)
    stated = warning_line({"epsilon": total, "rng": "seeded"}) if seeded else None
    lines.append(f"Search: ε {total:.4g} at δ {delta:g} for all {len(places)} runs composed{_and(stated)}.")
    if settings.noisy:
        return [*lines, "The noisy scores that chose are part of it."]
    return [
        *lines,
        "The winner was chosen by private scores without noise. No ε covers that choice: who is told which"
        " run won learns more than the files hold. To release it, use"
        " privacy.selection=repeat_and_select or public_proxy, or give hydra.sweeper.score_noise.",
    ]


def print_winner(study: Path, written: Mapping[str, Any]) -> None:
    """Print the winner of a private selection alone, with the epsilon of releasing it.

    Args:
        study: Folder of the study.
        written: What ``winner.json`` says.
    """
    console = Console(highlight=False)
    epsilon, delta = written["epsilon_of_the_selection"], written["delta"]
    stated = warning_line({"epsilon": epsilon, "rng": written["rng"]})
    folder = RunDir(study / str(written["run"]))
    console.print(f"Winner: {folder.root} ({_own_epsilon(folder)})", soft_wrap=True)
    value = math.inf if epsilon is None else epsilon
    said = f"ε {value:.4g} at δ {delta:g} (RDP) for a reader of the winner alone"
    console.print(
        f"Selection among a random number of runs: {stated + '; ' if stated else ''}{said}.", soft_wrap=True
    )
    console.print(
        "Release the winner alone: the other runs, their scores and how many there were stay private.",
        soft_wrap=True,
    )


def _own_epsilon(folder: RunDir) -> str:
    certificate = json_or_empty(folder.certificate)
    if not certificate:
        return "its certificate is gone"
    label, epsilon = certificate.get("status"), certificate.get("epsilon")
    if label != "DP" or epsilon is None:
        return str(label)
    return f"its own certificate: ε {epsilon:.4g} at δ {certificate['delta']:g}"


def _and(text: str | None) -> str:
    return f" ({text})" if text else ""


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
