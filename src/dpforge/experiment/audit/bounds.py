"""What right guesses prove: lower bounds on epsilon, with 95 % confidence.

References:
    Steinke, Nasr and Jagielski, *Privacy Auditing with One (1) Training Run* (NeurIPS 2023), theorem 5.2.
    Nasr et al., *Tight Auditing of Differentially Private Machine Learning* (USENIX Security 2023), for the
    bound through the trade-off curve of a Gaussian mechanism.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy import optimize, stats
from scipy.special import expit

from dpforge.errors import ConfigError
from dpforge.evaluation.attack_statistics import clopper_pearson
from dpforge.privacy.accounting import gaussian_delta

CONFIDENCE = 0.95
MOST_EPSILON = 60.0


def guess_p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float = 0.0) -> float:
    """Bound the probability of so many right guesses under (``epsilon``, ``delta``)-DP, in [0, 1].

    Each canary is in or out by an independent fair coin; an auditor who sees the output once guesses some of
    the coins. Under pure DP right guesses are dominated by a binomial count of rate e^ε/(1 + e^ε); delta adds
    at most m·δ·max over i of (2/i)·P[v − i ≤ count < v].

    Args:
        canaries: Coins m >= 1, abstentions included.
        guesses: Coins that were guessed, r in [0, m]; fixed without the coins.
        correct: Right guesses v in [0, r].
        epsilon: At least 0.
        delta: In [0, 1).

    Raises:
        ConfigError: Numbers out of range.
    """
    if not 0 <= correct <= guesses <= canaries or canaries < 1:
        raise ConfigError(
            f"correct={correct}, guesses={guesses}, canaries={canaries}: expected 0 <= correct <= guesses <="
            " canaries and a canary."
        )
    if not (epsilon >= 0 and 0 <= delta < 1):
        raise ConfigError(f"epsilon={epsilon}, delta={delta}: expected epsilon >= 0 and 0 <= delta < 1.")
    rate = float(expit(epsilon))
    tail = float(stats.binom.sf(correct - 1, guesses, rate))
    if delta == 0 or correct == 0:
        return min(tail, 1.0)
    just_below = np.cumsum(stats.binom.pmf(np.arange(correct - 1, -1, -1), guesses, rate))
    worst = float((2 * just_below / np.arange(1, correct + 1)).max())
    return min(tail + canaries * delta * worst, 1.0)


@lru_cache(maxsize=65536)
def guess_bound(
    canaries: int, guesses: int, correct: int, delta: float = 0.0, confidence: float = CONFIDENCE
) -> float:
    """Return an epsilon that is refuted at this delta by :func:`guess_p_value`; 0 if none is.

    A mechanism that keeps (ε, δ) gets a bound above ε with probability at most 1 − ``confidence``.
    """

    def refuted(epsilon: float) -> bool:
        return guess_p_value(canaries, guesses, correct, epsilon, delta) < 1 - confidence

    return _largest(refuted)


def shift_bound(false_alarms: int, absent: int, misses: int, present: int) -> float:
    """Return a lower bound on the shift mu of a Gaussian mechanism from repeated, independent trials.

    At level alpha the best test of mu-GDP misses at least Φ(Φ^-1(1 − alpha) − mu), so error rates of any test
    bound mu from below. Both are taken at the upper end of their exact interval; the two tails together are
    5 %.

    Args:
        false_alarms: Of the trials without the record, those that the test took for trials with it.
        absent: Trials without the record, each with noise of its own.
        misses: Of the trials with it, those taken for trials without.
        present: Trials with it.

    Returns:
        At least 0.
    """
    # The ends of a two-sided 95 % interval leave 2.5 % each.
    upper = [float(clopper_pearson(*pair)[1]) for pair in ((false_alarms, absent), (misses, present))]
    mu = -float(stats.norm.ppf(upper[0])) - float(stats.norm.ppf(upper[1]))
    return max(mu, 0.0) if math.isfinite(mu) else 0.0


def epsilon_of_shift(mu: float, delta: float) -> float:
    """Return the epsilon at ``delta`` of a Gaussian mechanism of shift ``mu``; 0 if delta alone covers it."""
    if mu <= 0 or gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    high = 1.0
    while gaussian_delta(mu, high) > delta:
        high *= 2
    root = optimize.brentq(lambda e: math.log(gaussian_delta(mu, e)) - math.log(delta), 0.0, high)
    return float(root)  # type: ignore[arg-type]


def _largest(refuted: Callable[[float], bool]) -> float:
    if not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while refuted(high):
        if high > MOST_EPSILON:
            return high
        low, high = high, 2 * high
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low
