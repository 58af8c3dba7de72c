"""A search that learns from scores (Optuna), one batch after another, on disk so that it resumes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from dpforge.config import check_stamp
from dpforge.errors import PrivacyError
from dpforge.sweep.runs import Candidate, Outcome, outcome
from dpforge.sweep.scores import NoisyScores, loss
from dpforge.sweep.search import Launch, search_folder
from dpforge.sweep.settings import SearchSettings
from dpforge.sweep.space import Space
from dpforge.sweep.summary import Tried, print_search


class Adaptive:
    """Ask Optuna, launch, tell Optuna, until ``n_trials`` are there.

    Trials of an earlier attempt that was killed are taken over: their runs continue where they were. Those
    that another process works on are left to it, so two launches of one search share the work.

    Args:
        settings: What to look for.
        space: What varies.
        launch: Runs a batch.
    """

    def __init__(self, settings: SearchSettings, space: Space, launch: Launch) -> None:
        self._settings = settings
        self._space = space
        self._launch = launch
        self._seen: set[int] = set()
        self._first = Candidate.of(*space.words(_example(space)))
        self._folder = search_folder(self._first)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._study = self._open()
        self._noise = None
        if settings.noisy:
            self._noise = NoisyScores(self._folder, settings, self._first, settings.n_trials)

    def run(self) -> None:
        """Search; print what was found and what it cost."""
        while batch := self._next_batch():
            candidates = [Candidate.of(*self._space.words(trial.params)) for trial in batch]
            self._seen |= {trial.number for trial in batch}
            check_stamp()
            self._launch([candidate.words for candidate in candidates])
            for trial, candidate in zip(batch, candidates, strict=True):
                self._tell(trial.number, candidate)
        print_search(self._settings, self._space, self._folder, self._tried(), self._best())

    def _open(self) -> optuna.Study:
        settings = self._settings
        text = f"{self._space.content()}{settings.objectives}{settings.directions}{settings.score_noise}"
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{self._folder / 'optuna.db'}", engine_kwargs={"connect_args": {"timeout": 60}}
        )
        study = optuna.create_study(
            storage=storage,
            study_name=hashlib.sha256(text.encode()).hexdigest()[:16],
            directions=["minimize"] * len(settings.objectives),
            load_if_exists=True,
        )
        # The same seed after a restart would propose the same configurations again.
        seed = settings.seed + 7919 * len(study.get_trials(deepcopy=False))
        random = settings.sampler == "random"
        study.sampler = (
            optuna.samplers.RandomSampler(seed) if random else optuna.samplers.TPESampler(seed=seed)
        )
        return study

    def _next_batch(self) -> list[FrozenTrial]:
        known = self._study.get_trials(deepcopy=False)
        batch = [t for t in known if t.state == TrialState.RUNNING and t.number not in self._seen]
        room = self._settings.n_trials - len(known)
        while len(batch) < self._settings.n_jobs and room > 0:
            number = self._study.ask(dict(self._space.axes)).number
            batch.append(self._study.get_trials(deepcopy=False)[number])
            room -= 1
        return batch[: self._settings.n_jobs]

    def _tell(self, number: int, candidate: Candidate) -> None:
        found = outcome(candidate, self._settings.objectives)
        if found.state in ("elsewhere", "interrupted"):
            return
        check_stamp()  # a run that was refused for an edited file has not failed
        values = None if found.state == "failed" else self._losses(number, candidate, found)
        if values is None or not all(map(math.isfinite, values)):
            self._study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
        else:
            self._study.tell(number, values, skip_if_finished=True)

    def _losses(self, number: int, candidate: Candidate, found: Outcome) -> list[float]:
        settings = self._settings
        if settings.selection == "public_proxy" and not (found.public or candidate.public_data):
            raise PrivacyError(
                f"privacy.selection=public_proxy: {', '.join(settings.objectives)} has a private value."
                " Nothing more was run. Use a public objective, or selection=none."
            )
        values = [found.values[name] for name in settings.objectives]
        if self._noise is not None:
            values = [self._noise.release(number, values[0])]
        return [loss(settings, index, value) for index, value in enumerate(values)]

    def _tried(self) -> list[Tried]:
        trials = self._study.get_trials(deepcopy=False)
        candidates = [Candidate.of(*self._space.words(trial.params)) for trial in trials]
        return [
            Tried(t.number, candidate, t.state.name.lower(), dict(t.params), tuple(t.values or ()))
            for t, candidate in zip(trials, candidates, strict=True)
        ]

    def _best(self) -> Sequence[int]:
        finished = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return [trial.number for trial in self._study.best_trials] if finished else []


def _example(space: Space) -> dict[str, Any]:
    """One point of the space, for what all its runs share."""
    made = optuna.create_study(sampler=optuna.samplers.RandomSampler(0)).ask(dict(space.axes))
    return made.params
