"""Audits of a whole configuration: every mechanism of its plan that canaries can reach.

Records are made up, noise is fresh and the code is that of a run: what is audited is this code under this
configuration, not the noise that a finished run once drew.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dpforge.configuration.building import Experiment
from dpforge.errors import ConfigError
from dpforge.experiment.audit.bounds import epsilon_of_shift, shift_bound
from dpforge.experiment.audit.evidence import Evidence, Finding, judged
from dpforge.experiment.audit.layers import audit_layers
from dpforge.experiment.audit.marginals import audit_marginals
from dpforge.experiment.audit.training import audit_training
from dpforge.experiment.audit.votes import audit_votes
from dpforge.generators.dp_imgsyn.statistics import STATISTICS
from dpforge.generators.histograms import NAME as MARGINALS
from dpforge.generators.private_evolution.budget import VOTES
from dpforge.privacy.plan import Piece, Plan
from dpforge.privacy.zcdp import gaussian_of

CANARIES, STEPS, REPEATS = 1000, 200, 500
Progress = Callable[[str, int, int], None]
# A mechanism with this many canaries and this source of coins, and the pieces that it used.
Trial = Callable[[int, np.random.Generator], tuple[Evidence, tuple[Piece, ...]]]


@dataclass(frozen=True)
class Effort:
    """How hard to look.

    Args:
        canaries: Coins of each one-run audit, at least 10.
        steps: Most DP-SGD steps of an audit, at least 1.
        repeats: Repetitions of each cheap mechanism, at least 20; 0 for none.
        seed: Of coins and made-up records, for repeating a rehearsal; fresh if null. Noise is always fresh.

    Raises:
        ConfigError: With every number out of range.
    """

    canaries: int = CANARIES
    steps: int = STEPS
    repeats: int = REPEATS
    seed: int | None = None

    def __post_init__(self) -> None:
        mistakes = [
            f"--{name} {getattr(self, name)}: expected at least {least}."
            for name, least in (("canaries", 10), ("steps", 1))
            if getattr(self, name) < least
        ]
        if self.repeats and self.repeats < 20:
            mistakes.append(f"--repeats {self.repeats}: expected at least 20, or 0 for none.")
        if mistakes:
            raise ConfigError(mistakes)


@dataclass(frozen=True)
class Audit:
    """Outcome of all audits of one configuration.

    Args:
        findings: One a mechanism and method.
        left_out: Pieces of the plan that no canary reaches, with the reason.
        epsilon: What the whole plan certifies.
        delta: Of the guarantee.
    """

    findings: tuple[Finding, ...]
    left_out: dict[str, str]
    epsilon: float
    delta: float

    @property
    def violated(self) -> bool:
        """Whether a lower bound exceeds what was certified."""
        return any(finding.violated for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``audit.json``."""
        return {
            "epsilon": self.epsilon if math.isfinite(self.epsilon) else None,
            "delta": self.delta,
            "confidence": 0.95,
            "findings": [finding.to_json() for finding in self.findings],
            "left_out": self.left_out,
            "verdict": "VIOLATION" if self.violated else "no violation found",
            "about": ABOUT,
        }


ABOUT = (
    "Audited: this code under this configuration, on made-up records and canaries, with noise of its own."
    " The noise that a finished run once drew is not looked at. A bound below the certificate is no proof."
)


def _silent(name: str, done: int, total: int) -> None:
    """Show nothing."""


def audit(experiment: Experiment, effort: Effort | None = None, progress: Progress = _silent) -> Audit:
    """Audit every mechanism of a configuration; reads no private data and charges no budget.

    Args:
        experiment: Components of the run.
        effort: How hard to look.
        progress: Called with what is audited, and how many of how many are done.

    Raises:
        ConfigError: The configuration is not private, so there is nothing to refute.
    """
    effort = effort or Effort()
    schema = experiment.dataset.public_schema()
    plan = experiment.model.plan(schema, experiment.privacy)
    if not experiment.privacy.enabled or math.isinf(plan.epsilon()):
        raise ConfigError("this configuration is NOT DP: there is no guarantee that an audit could refute.")
    trials = {piece.name: _trial(experiment, schema, plan, piece, effort) for piece in plan.pieces}
    # All elections are one audit, whatever their noise.
    known = {VOTES if _is_vote(name) else name: trial for name, trial in trials.items() if trial}
    left_out = {name: _reason(plan.piece(name)) for name, trial in trials.items() if trial is None}
    rng = np.random.default_rng(effort.seed)
    findings: list[Finding] = []
    for done, (name, trial) in enumerate(known.items()):
        progress(name, done, len(known))
        evidence, used = trial(effort.canaries, rng)
        certified = Plan(used, plan.delta, plan.relation, plan.unit).epsilon()
        findings.append(judged(evidence, certified, plan.delta))
        if effort.repeats and all(c.rate == 1 and c.law == "gaussian" for c in evidence.channels):
            findings.append(repeated(trial, effort.repeats, rng, certified, plan.delta))
    progress("done", len(known), len(known))
    return Audit(tuple(findings), left_out, plan.epsilon(), plan.delta)


def repeated(trial: Trial, repeats: int, rng: np.random.Generator, certified: float, delta: float) -> Finding:
    """Run a Gaussian mechanism again and again with one canary, and bound its shift by the error rates.

    The threshold lies in the middle of the declared means, before anything is seen.
    """
    found = [trial(1, rng)[0] for _ in range(repeats)]
    coins = np.array([evidence.coins[0] for evidence in found])
    accused = np.array([evidence.scores()[0] > 0 for evidence in found])
    present, absent = int(coins.sum()), int((~coins).sum())
    alarms, misses = int((accused & ~coins).sum()), int((~accused & coins).sum())
    return Finding(
        found[0].mechanism,
        "repeated",
        repeats,
        repeats,
        repeats - alarms - misses,
        found[0].uses,
        epsilon_of_shift(shift_bound(alarms, absent, misses, present), delta),
        epsilon_of_shift(shift_bound(0, absent, 0, present), delta),
        certified,
        delta,
    )


def _trial(experiment: Experiment, schema: Any, plan: Plan, piece: Piece, effort: Effort) -> Trial | None:
    """The audit of a piece, or None if there is none."""
    common = (experiment.model, schema, plan, experiment.privacy, experiment.runtime)
    if piece.mechanism == "dp_sgd":
        steps = min(effort.steps, piece.count)

        def train(canaries: int, rng: np.random.Generator) -> tuple[Evidence, tuple[Piece, ...]]:
            found = audit_training(*common, name=piece.name, canaries=canaries, steps=steps, rng=rng)
            return found, (replace(piece, count=found.uses),)

        return train
    if _is_vote(piece.name):

        def vote(canaries: int, rng: np.random.Generator) -> tuple[Evidence, tuple[Piece, ...]]:
            found = audit_votes(*common, canaries=canaries, rng=rng)
            return found, tuple(plan.piece(name) for name in found.pieces)

        return vote
    if piece.name == STATISTICS and piece.mechanism == "gaussian":
        return lambda canaries, rng: (audit_layers(*common, canaries=canaries, rng=rng), (piece,))
    if piece.name == MARGINALS or piece.mechanism == "adaptive":

        def count(canaries: int, rng: np.random.Generator) -> tuple[Evidence, tuple[Piece, ...]]:
            found, seen = audit_marginals(*common, name=piece.name, canaries=canaries, rng=rng)
            if seen.rho is None:
                return found, (piece,)
            return found, (replace(piece, event=gaussian_of(seen.rho), count=1),)

        return count
    return None


def _is_vote(name: str) -> bool:
    return name.split("/")[0] == VOTES


def _reason(piece: Piece) -> str:
    if piece.mechanism == "exponential":
        return "a choice among candidates shows one number, too little for canaries in one run"
    return f"no canaries for a mechanism '{piece.mechanism}' of this kind; the contract tests bound it"
