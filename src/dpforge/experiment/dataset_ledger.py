"""What all runs on a data set spent together, over every study, finished or not, even if removed since.

Nothing is stored twice: the ledgers of the runs are read again each time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpforge.errors import RunError
from dpforge.experiment.spending import UNREADABLE, Spending, composed, read_spending
from dpforge.experiment.study_status import json_or_empty
from dpforge.privacy.accounting import compose
from dpforge.privacy.events import SelfComposed, event_from_json
from dpforge.privacy.selection import RepeatAndSelect, epsilon_of_curve, rdp_curve

SEARCH = Path("search")


@dataclass(frozen=True)
class Total:
    """What some runs on one data set cost.

    Args:
        dataset: Its name.
        study: Name of the study, or empty for all of them.
        guarantee: Unit and relation.
        runs: Number of runs that reserved something with noise.
        removed: How many of them are gone.
        without_noise: Runs without noise, which are in no sum.
        unreadable: Runs whose ledger cannot be read; what they spent is unknown.
        schemas: Number of different schemas.
        single: Largest epsilon of one run.
        composed: Epsilon for a reader of every run.
        selected: Epsilon for a reader of the winners alone where a study selected privately, and of every run
            elsewhere; None if no study did.
        delta: Largest of the runs; all epsilons of the sum hold at it.
    """

    dataset: str
    study: str
    guarantee: str
    runs: int
    removed: int
    without_noise: int
    unreadable: int
    schemas: int
    single: float
    composed: float
    selected: float | None
    delta: float


def totals(root: Path, dataset: str | None = None) -> list[Total]:
    """Add up by data set and guarantee: one total a study, then one of all its studies.

    Args:
        root: The folder of all studies.
        dataset: Only this one.

    Raises:
        RunError: ``root`` is missing, or no run is on ``dataset``.
    """
    spendings = read_spending(root)
    names = sorted({spending.dataset for spending in spendings})
    if dataset is not None and dataset not in names:
        known = ", ".join(names) or "none"
        raise RunError(f"no run below '{root}' is on a data set called '{dataset}'. There is: {known}.")
    groups: dict[tuple[str, str], list[Spending]] = {}
    kinds = {spending.dataset: spending.guarantee for spending in spendings if spending.guarantee}
    for spending in spendings:
        if dataset in (None, spending.dataset):
            kind = spending.guarantee or kinds.get(spending.dataset, "")
            groups.setdefault((spending.dataset, kind), []).append(spending)
    found = []
    for (name, guarantee), members in sorted(groups.items()):
        studies = sorted({member.study for member in members})
        parts = [(study, [m for m in members if m.study == study]) for study in studies]
        whole = [("", members)]
        found += [_total(name, study, guarantee, runs, root) for study, runs in [*parts, *whole]]
    return found


def _total(dataset: str, study: str, guarantee: str, runs: Sequence[Spending], root: Path) -> Total:
    noisy = [run for run in runs if run.events and not run.without_noise]
    delta = max((run.delta for run in noisy), default=0.0)
    return Total(
        dataset=dataset,
        study=study,
        guarantee=guarantee,
        runs=len(noisy),
        removed=sum(run.removed for run in noisy),
        without_noise=sum(run.without_noise for run in runs),
        unreadable=sum(run.events is None for run in runs),
        schemas=len({run.schema for run in runs if run.schema}),
        single=max((run.single for run in noisy), default=0.0),
        composed=composed(noisy, delta),
        selected=_selected(noisy, delta, root),
        delta=delta,
    )


def _selected(runs: Sequence[Spending], delta: float, root: Path) -> float | None:
    """Epsilon of the winners of private selections, and of every run that took part in none."""
    searches = {study: search for study in {run.study for run in runs} if (search := _search(root, study))}
    if not searches:
        return None
    inside = {(study, name) for study, search in searches.items() for name in search.get("runs", ())}
    try:
        curves = [
            rdp_curve(compose(*(SelfComposed(event, count) for event, count in run.events or ())))
            for run in runs
            if (run.study, run.run) not in inside
        ]
        for search in searches.values():
            law = RepeatAndSelect(float(search["mean"]), float(search["shape"]))
            curves.append(law.curve([event_from_json(event) for event in search["candidates"]]))
    except UNREADABLE:
        return math.inf
    return epsilon_of_curve(sum(curves[1:], start=curves[0]), delta)


def _search(root: Path, study: str) -> dict[str, Any]:
    """The settings of a study's private selection and its runs; empty if it made none."""
    places = (root / study / SEARCH, root / SEARCH)
    place = next((place for place in places if (place / "search.json").is_file()), places[0])
    found = json_or_empty(place / "search.json")
    members = json_or_empty(place / "private" / "runs.json")
    return {**found, **members} if found.get("selection") == "repeat_and_select" else {}
