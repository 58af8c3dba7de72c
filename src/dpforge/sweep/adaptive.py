"""A search that learns from scores (Optuna), one batch after another, on disk so that it resumes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from dpforge.config import check_stamp
from dpforge.errors import ConfigError, PrivacyError
from dpforge.experiment.rundir import RunDir
from dpforge.sweep.runs import Candidate, Outcome, outcome
from dpforge.sweep.scores import NoisyScores, loss, refuse_other_scores
from dpforge.sweep.search import Launch, SearchLock, search_folder
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
        self._lock = SearchLock(self._folder)
        self._noise = None
        with self._lock.held():
            self._study = self._open()
            if settings.noisy:
                count = settings.n_trials
                self._noise = NoisyScores(self._folder, settings, self._first, count, self._lock)

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
        if settings.score_sensitivity is not None:
            text += f"{settings.score_sensitivity}"
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{self._folder / 'optuna.db'}", engine_kwargs={"connect_args": {"timeout": 60}}
        )
        if settings.noisy and name not in optuna.get_all_study_names(storage):
            self._refuse_old_noise()
        return optuna.create_study(
            storage=storage,
            study_name=name,
            directions=["minimize"] * len(settings.objectives),
            load_if_exists=True,
        )

    def _refuse_old_noise(self) -> None:
        """Two searches with one key would give two scores the same noise, and their difference none."""
        ledger = RunDir(self._folder).ledger
        if ledger.is_file():
            refuse_other_scores(ledger, self._settings, self._settings.n_trials)
            raise ConfigError(
                f"{self._folder} holds the noisy scores of a search with another space, objective or"
                " direction. Repeat its command, or use another study=…."
            )

    def _trials(self) -> list[FrozenTrial]:
        """All trials that have a value on every axis."""
        return [trial for trial in self._study.get_trials(deepcopy=False) if self._is_whole(trial)]

    def _is_whole(self, trial: FrozenTrial) -> bool:
        return trial.params.keys() == self._space.axes.keys()

    def _next_batch(self) -> list[FrozenTrial]:
        with self._lock.held():
            self._fail_torn()
            known = self._trials()
            batch = [t for t in known if t.state == TrialState.RUNNING and t.number not in self._seen]
            room = self._settings.n_trials - len(known)
            while len(batch) < self._settings.n_jobs and room > 0:
                batch.append(self._ask())
                room -= 1
        return batch[: self._settings.n_jobs]

    def _fail_torn(self) -> None:
        """Close trials whose process was killed while asking: nobody asks while this one holds the lock."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not self._is_whole(trial):
                self._study.tell(trial.number, state=TrialState.FAIL)

    def _ask(self) -> FrozenTrial:
        # One seed for all would let a second launch, or one that resumes, propose the same again.
        seed = self._settings.seed + 7919 * len(self._study.get_trials(deepcopy=False))
        random = self._settings.sampler == "random"
        self._study.sampler = (
            optuna.samplers.RandomSampler(seed) if random else optuna.samplers.TPESampler(seed=seed)
        )
        number = self._study.ask(dict(self._space.axes)).number
        return self._study.get_trials(deepcopy=False)[number]

    def _tell(self, number: int, candidate: Candidate) -> None:
        found = outcome(candidate, self._settings.objectives)
        if found.state in ("elsewhere", "interrupted"):
            return
        check_stamp()  # a run that was refused for an edited file has not failed
        with self._lock.held():
            trials = self._trials()
            place = next(place for place, trial in enumerate(trials) if trial.number == number)
            if trials[place].state.is_finished():  # another launch told it
                return
            values = None if found.state == "failed" else self._losses(place, candidate, found)
            if values is None or not all(map(math.isfinite, values)):
                self._study.tell(number, state=TrialState.FAIL)
            else:
                self._study.tell(number, values)

    def _losses(self, place: int, candidate: Candidate, found: Outcome) -> list[float]:
        settings = self._settings
        if settings.selection == "public_proxy" and not (found.public or candidate.public_data):
            raise PrivacyError(
                f"privacy.selection=public_proxy: {', '.join(settings.objectives)} has a private value."
                " Nothing more was run. Use a public objective, or selection=none."
            )
        values = [found.values[name] for name in settings.objectives]
        if self._noise is not None:
            values = [self._noise.release(place, values[0])]
        return [loss(settings, index, value) for index, value in enumerate(values)]

    def _tried(self) -> list[Tried]:
        trials = self._trials()
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
