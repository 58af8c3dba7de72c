"""The scores that steer a search: exact ones, or noisy ones that are paid for before they exist."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dpforge.errors import ConfigError
from dpforge.experiment.environment import environment
from dpforge.experiment.rundir import RunDir
from dpforge.experiment.study_metrics import shortfall
from dpforge.privacy.accounting import DISCRETIZATION
from dpforge.privacy.events import Gaussian
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.plan import Piece, Plan
from dpforge.privacy.rng import KeyedRandom, fresh_random
from dpforge.sweep.runs import Candidate
from dpforge.sweep.search import SearchLock
from dpforge.sweep.settings import SearchSettings

PIECE = "score"


def loss(settings: SearchSettings, index: int, value: float) -> float:
    """Return an objective as something to minimise.

    Without a direction: how far it is from the best value of the metric, which for metrics that rank nothing
    is NaN.
    """
    if settings.directions is None:
        return shortfall(settings.objectives[index], value)
    return value if settings.directions[index] == "minimize" else -value


class NoisyScores:
    """Adds noise to the scores of a search, in a ledger of its own, which the data set's total finds.

    Several launches of one search may use it at the same time: each reads the ledger again, under the lock
    of the search, before it writes.

    Args:
        folder: ``<study>/search``; holds ``ledger.jsonl``, ``schema.json`` and ``private/key``.
        settings: With ``score_noise`` and ``score_sensitivity``.
        candidate: Any run of the search; gives schema, delta, relation and kind of randomness.
        count: Most scores that the search may ask for.
        lock: Of the search.

    Raises:
        ConfigError: An earlier launch authorised other scores, or fewer; nothing was run.
    """

    def __init__(
        self, folder: Path, settings: SearchSettings, candidate: Candidate, count: int, lock: SearchLock
    ) -> None:
        self._lock = lock
        with lock.held():
            ledger = _ledger(folder, settings, candidate, count)
            self._access = PrivateAccess(ledger, _random(folder, candidate))

    def release(self, number: int, value: float) -> float:
        """Return the noisy score of run ``number``; the same number gives the same noise again.

        Raises:
            BudgetExceeded: More scores than planned.
        """
        with self._lock.held():
            self._access.ledger = Ledger.open(self._access.ledger.path)
            return float(self._access.gaussian(PIECE, np.array([value]), step=number)[0])


def score_event(settings: SearchSettings) -> Gaussian | None:
    """What one noisy score costs; None for exact ones."""
    return None if settings.score_noise is None else Gaussian(settings.score_noise)


def _ledger(folder: Path, settings: SearchSettings, candidate: Candidate, count: int) -> Ledger:
    place = RunDir(folder)
    if place.ledger.is_file():
        refuse_other_scores(place.ledger, settings, count)
        return Ledger.open(place.ledger)
    schema, privacy = candidate.schema, candidate.config.privacy
    folder.mkdir(parents=True, exist_ok=True)
    place.write_json(place.schema, schema.to_dict())
    event = score_event(settings) or Gaussian(0.0)
    reason = "stated by the user as hydra.sweeper.score_sensitivity"
    piece = Piece(PIECE, "gaussian", event, count, float(settings.score_sensitivity or 0.0), reason)
    header = {
        "unit": {"kind": schema.unit.kind, "column": schema.unit.column, "max_rows": schema.unit.max_rows},
        "rng": privacy.rng,
        "schema_digest": schema.digest,
        "nominal_rows": schema.nominal_rows,
        "discretization": DISCRETIZATION,
        "environment": environment(candidate.config.runtime.device),
    }
    plan = Plan((piece,), float(privacy.delta), str(privacy.relation), schema.unit.kind)
    return Ledger.create(place.ledger, plan, header)


def refuse_other_scores(ledger: Path, settings: SearchSettings, count: int) -> None:
    """Raise ``ConfigError`` if a search's ledger authorises other noisy scores, or fewer than ``count``."""
    piece = Ledger.open(ledger).plan.piece(PIECE)
    asked = {"score_noise": settings.score_noise, "score_sensitivity": settings.score_sensitivity}
    known = {"score_noise": piece.noise_multiplier, "score_sensitivity": piece.sensitivity}
    mistakes = [
        f"hydra.sweeper.{name}={asked[name]}: the scores of this search are paid for with {known[name]:g}."
        f" Use hydra.sweeper.{name}={known[name]!r}, or another study=…."
        for name in asked
        if asked[name] != known[name]
    ]
    if count > piece.count:
        mistakes.append(
            f"hydra.sweeper.n_trials={count}: the ledger of this search authorises {piece.count} noisy"
            f" scores, and a run without a score is of no use. Use hydra.sweeper.n_trials={piece.count}, or"
            " another study=…."
        )
    if mistakes:
        raise ConfigError(mistakes)


def _random(folder: Path, candidate: Candidate) -> KeyedRandom:
    place, privacy = RunDir(folder), candidate.config.privacy
    path = place.private / "key"
    if not path.is_file():
        place.private.mkdir(parents=True, mode=0o700, exist_ok=True)
        place.write_secret(path, fresh_random(privacy.rng, privacy.seed).key)
    return KeyedRandom(privacy.rng, path.read_bytes())
