"""A secret random number of random candidates; only the best of them may be released."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from dpforge.errors import ConfigError
from dpforge.experiment.rundir import RunDir
from dpforge.experiment.study import run_folders
from dpforge.privacy.accounting import compose
from dpforge.privacy.events import Composed
from dpforge.privacy.selection import RepeatAndSelect
from dpforge.sweep.runs import Candidate, outcome
from dpforge.sweep.scores import NoisyScores, loss, score_event
from dpforge.sweep.search import Launch, SearchLock, search_folder
from dpforge.sweep.settings import SearchSettings
from dpforge.sweep.space import Space
from dpforge.sweep.summary import Tried, print_winner

DRAW = "draw.json"
WINNER = "winner.json"


def repeat_and_select(settings: SearchSettings, space: Space, launch: Launch) -> None:
    """Draw a public pool and a secret number of picks from it, run them, and name the winner.

    The pool is drawn with the public seed, the picks with the operating system's randomness, before the
    first run; the picks are on disk, so that a later attempt finishes the same selection. Every pick is a run
    of its own: a candidate that is picked twice runs with two seeds. A winner that was named stays the
    winner: its proof pays for one name, not for a second after a failed run was repeated.

    Raises:
        ConfigError: The study holds other runs or another selection already, or the seed is swept.
        PrivacyError: A plan cannot be accounted for.
    """
    if "seed" in space.axes:
        raise ConfigError(
            "repeat_and_select gives every run a seed of its own. Leave 'seed' out of the search."
        )
    law = RepeatAndSelect(settings.mean_runs, settings.shape)
    pool = _pool(settings, space)
    folder = search_folder(pool[0])
    lock = SearchLock(folder)
    with lock.held():
        picks = _picks(folder, settings, space, law)
    if not (folder / WINNER).is_file():
        runs = [_run_of(pool[pick], number) for number, pick in enumerate(picks)]
        if not _select(_Selection(settings, folder, lock, law), pool, runs, launch):
            return
    print_winner(folder.parent, RunDir(folder).read_json(folder / WINNER))


@dataclasses.dataclass(frozen=True)
class _Selection:
    """What stays the same from the draw to the winner."""

    settings: SearchSettings
    folder: Path
    lock: SearchLock
    law: RepeatAndSelect


def _select(
    selection: _Selection, pool: Sequence[Candidate], runs: Sequence[Candidate], launch: Launch
) -> bool:
    """Run all picks; returns whether a winner is on disk, and says so if there is none."""
    settings, folder, lock = selection.settings, selection.folder, selection.lock
    events = _candidates(settings, pool)
    noise = NoisyScores(folder, settings, runs[0], len(runs), lock) if settings.noisy else None
    _announce(folder, settings, events, runs)
    for start in range(0, len(runs), settings.n_jobs):
        launch([run.words for run in runs[start : start + settings.n_jobs]])
    tried = _judged(settings, runs, noise)
    if any(run.state in ("elsewhere", "interrupted") for run in tried):
        print("The selection is not finished: start the same command again.")
        return False
    winner = _winner(tried)
    with lock.held():
        if (folder / WINNER).is_file():  # another launch of this selection named it
            return True
        if winner is not None:
            _write_winner(folder, winner, selection.law.epsilon(events, pool[0].plan.delta), pool[0])
            return True
    print("No run of the selection finished; there is nothing to release.")
    return False


def _pool(settings: SearchSettings, space: Space) -> list[Candidate]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(settings.seed))
    asked = [study.ask(dict(space.axes)).params for _ in range(settings.n_trials)]
    return [Candidate.of(*space.words(params)) for params in asked]


def _run_of(candidate: Candidate, number: int) -> Candidate:
    kept = [word for word in candidate.words if not word.startswith("seed=")]
    return Candidate.of(*kept, f"seed={int(candidate.config.seed) + number}")


def _picks(folder: Path, settings: SearchSettings, space: Space, law: RepeatAndSelect) -> list[int]:
    """The secret picks: those of an earlier attempt, or new ones that are on disk before this returns."""
    place = RunDir(folder)
    # How many run at once is a matter of speed.
    text = f"{space.content()}{dataclasses.replace(settings, n_jobs=1)}"
    digest = hashlib.sha256(text.encode()).hexdigest()
    path = place.private / DRAW
    if not path.is_file():
        if any(run_folders(folder.parent)) or place.ledger.is_file():
            raise ConfigError(
                f"{folder.parent} holds runs already, and a private selection draws fresh ones. Use another"
                " study=…."
            )
        generator = np.random.default_rng(secrets.randbits(256))
        picks = generator.integers(0, settings.n_trials, law.draw(generator)).tolist()
        place.private.mkdir(mode=0o700, exist_ok=True)
        place.write_secret(path, json.dumps({"search": digest, "picks": picks}).encode())
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["search"] != digest:
        raise ConfigError(
            f"{folder} holds a private selection with other settings, whose number of runs is drawn. Repeat"
            " its command, or use another study=…; drawing again would cost again."
        )
    return list(content["picks"])


def _candidates(settings: SearchSettings, pool: Sequence[Candidate]) -> list[Composed]:
    """What a run of each candidate costs with its score, each cost once."""
    score = score_event(settings)
    plans = [candidate.plan.event() for candidate in pool]
    return list(dict.fromkeys(compose(plan) if score is None else compose(plan, score) for plan in plans))


def _announce(
    folder: Path, settings: SearchSettings, events: Sequence[Composed], runs: Sequence[Candidate]
) -> None:
    """Write what the total of the data set needs: the law and the costs, and in private which runs belong."""
    place = RunDir(folder)
    content: dict[str, Any] = {
        "selection": settings.selection,
        "objectives": list(settings.objectives),
        "mean": settings.mean_runs,
        "shape": settings.shape,
        "candidates": [event.to_json() for event in events],
    }
    place.write_json(folder / "search.json", content)
    names = [run.identity.folder.name for run in runs]
    place.write_secret(place.private / "runs.json", json.dumps({"runs": [*names, folder.name]}).encode())


def _judged(settings: SearchSettings, runs: Sequence[Candidate], noise: NoisyScores | None) -> list[Tried]:
    tried = []
    for number, run in enumerate(runs):
        found = outcome(run, settings.objectives)
        values: tuple[float, ...] = ()
        if found.state == "done":
            value = found.values[settings.objectives[0]]
            values = (loss(settings, 0, value if noise is None else noise.release(number, value)),)
        tried.append(Tried(number, run, found.state, {}, values))
    return tried


def _winner(tried: Sequence[Tried]) -> Tried | None:
    finished = [run for run in tried if run.values and math.isfinite(run.values[0])]
    return min(finished, key=lambda run: run.values[0], default=None)


def _write_winner(folder: Path, winner: Tried, epsilon: float, any_run: Candidate) -> None:
    plan = any_run.plan
    content = {
        "run": winner.candidate.identity.folder.name,
        "epsilon_of_the_selection": epsilon if math.isfinite(epsilon) else None,
        "delta": plan.delta,
        "unit": plan.unit,
        "relation": plan.relation,
        "accountant": "rdp",
        "rng": str(any_run.config.privacy.rng),
        "note": "Holds for a reader of this run alone; the others, their scores and number stay private.",
    }
    RunDir(folder).write_json(folder / WINNER, content)
