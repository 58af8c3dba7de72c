"""What an auditor saw of its canaries, the guesses it makes from that, and what they prove."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from dpforge.experiment.audit.bounds import CONFIDENCE, guess_bound

NOISE_SHARES = (1.0, 0.5, 0.25)
REHEARSALS = 5
COUNTS = 12


@dataclass(frozen=True)
class Channel:
    """What a release says about one canary, as the plan declares it.

    Args:
        high, low: Mean of what is seen of a canary whose coin is heads, and of another.
        scale: Declared standard deviation of the noise (of ``laplace``: its scale parameter).
        rate: Probability that a canary takes part in the release.
        law: ``gaussian`` or ``laplace``.
    """

    high: float
    low: float
    scale: float
    rate: float = 1.0
    law: str = "gaussian"

    def log_odds(self, seen: np.ndarray) -> np.ndarray:
        """Return ln P(seen | heads)/P(seen | tails), shape ``(m,)`` as ``seen``."""
        return self._against_nothing(seen, self.high) - self._against_nothing(seen, self.low)

    def _against_nothing(self, seen: np.ndarray, mean: float) -> np.ndarray:
        if self.law == "laplace":
            loss = (np.abs(seen) - np.abs(seen - mean)) / self.scale
        else:
            loss = mean * (2 * seen - mean) / (2 * self.scale**2)
        return loss if self.rate == 1 else np.logaddexp(math.log1p(-self.rate), math.log(self.rate) + loss)

    def rehearse(self, coins: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw what an auditor would see under the declared law, ``(m,)``."""
        mean = np.where(coins, self.high, self.low) * (rng.random(len(coins)) < self.rate)
        size = len(coins)
        noise = rng.laplace(size=size) if self.law == "laplace" else rng.standard_normal(size)
        return mean + self.scale * noise


@dataclass(frozen=True, eq=False)
class Evidence:
    """One audited mechanism after its run.

    Args:
        mechanism: What was audited, for people.
        pieces: Names of the plan's pieces that it covers.
        uses: Noisy releases that were looked at.
        coins: Secret of the auditor, bool ``(m,)``.
        seen: One array ``(m,)`` a release.
        channels: What each release says by declaration, one a release.
    """

    mechanism: str
    pieces: tuple[str, ...]
    uses: int
    coins: np.ndarray = field(repr=False)
    seen: Sequence[np.ndarray] = field(repr=False)
    channels: Sequence[Channel] = field(repr=False)

    def scores(self) -> np.ndarray:
        """Return the log odds of heads of every canary over all releases, ``(m,)``."""
        return _total(self.channels, self.seen)


@dataclass(frozen=True)
class Finding:
    """Outcome of one audit.

    Args:
        mechanism: What was audited.
        method: ``one run`` (any DP mechanism) or ``repeated`` (Gaussian trade-off curve).
        canaries: Coins m, or repetitions of each of both worlds.
        guesses, correct: Of them, guessed and guessed right.
        uses: Noisy releases that were looked at.
        lower_bound: Epsilon that is refuted with 95 % confidence, at ``delta``.
        ceiling: The most that a perfect auditor could have shown.
        certified: Epsilon that the accountant certifies for what was audited.
        delta: Of both.
    """

    mechanism: str
    method: str
    canaries: int
    guesses: int
    correct: int
    uses: int
    lower_bound: float
    ceiling: float
    certified: float
    delta: float

    @property
    def violated(self) -> bool:
        """Whether the bound exceeds what was certified."""
        return self.lower_bound > self.certified

    @property
    def verdict(self) -> str:
        """For people; the absence of a violation is no proof."""
        return "VIOLATION" if self.violated else "no violation found"

    def to_json(self) -> dict[str, Any]:
        """Return the entry of ``audit.json``; computed from made-up records alone."""
        content = {name: getattr(self, name) for name in self.__dataclass_fields__}
        numbers = ("lower_bound", "ceiling", "certified")
        finite = {name: content[name] if math.isfinite(content[name]) else None for name in numbers}
        return {**content, **finite, "verdict": self.verdict, "visibility": "public"}


def judged(evidence: Evidence, certified: float, delta: float) -> Finding:
    """Guess the coins and compare what the guesses prove with what is certified.

    How many coins are guessed is set beforehand: the numbers that are best if the noise is as declared,
    half or a quarter of that, and all coins. Each of these tests gets its share of the 5 %; the best counts.
    """
    coins, scores = evidence.coins, evidence.scores()
    counts = guess_counts(tuple(evidence.channels), len(coins), delta)
    sure = 1 - (1 - CONFIDENCE) / len(counts)
    tests = [(r, right_guesses(scores, coins, r)) for r in counts]
    bounds = [guess_bound(len(coins), r, v, delta, sure) for r, v in tests]
    (guesses, correct), bound = max(zip(tests, bounds, strict=True), key=lambda pair: pair[1])
    return Finding(
        evidence.mechanism,
        "one run",
        len(coins),
        guesses,
        correct,
        evidence.uses,
        bound,
        guess_bound(len(coins), len(coins), len(coins), delta, sure),
        certified,
        delta,
    )


def right_guesses(scores: np.ndarray, coins: np.ndarray, guesses: int) -> int:
    """Guess the coins of the ``guesses`` most decided scores by their sign, and count the right ones."""
    chosen = np.argsort(-np.abs(scores), kind="stable")[:guesses]
    return int(((scores[chosen] > 0) == coins[chosen]).sum())


@lru_cache(maxsize=64)
def guess_counts(channels: tuple[Channel, ...], canaries: int, delta: float) -> list[int]:
    """Return the numbers of guesses to test, from the declaration alone."""
    found = {canaries}
    for share in NOISE_SHARES:
        less = [replace(channel, scale=share * channel.scale) for channel in channels]
        found.add(best_guesses(less, canaries, delta))
    return sorted(found)


def best_guesses(channels: Sequence[Channel], canaries: int, delta: float) -> int:
    """Return the number of guesses with the largest mean bound over rehearsals under the declared noise."""
    rng = np.random.default_rng(len(channels))
    least = min(10, canaries)
    counts = np.unique(np.geomspace(least, canaries, COUNTS).round().astype(int))
    totals = np.zeros(len(counts))
    for _ in range(REHEARSALS):
        coins = rng.random(canaries) < 0.5
        scores = _total(channels, [channel.rehearse(coins, rng) for channel in channels])
        right = [right_guesses(scores, coins, int(count)) for count in counts]
        bounds = [guess_bound(canaries, int(c), v, delta) for c, v in zip(counts, right, strict=True)]
        totals += bounds
    return int(counts[len(counts) - 1 - int(np.argmax(totals[::-1]))])


def _total(channels: Sequence[Channel], seen: Sequence[np.ndarray]) -> np.ndarray:
    return np.sum([c.log_odds(one) for c, one in zip(channels, seen, strict=True)], axis=0)
