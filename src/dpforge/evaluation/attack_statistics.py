"""What the scores of a membership attack prove: areas, rates and lower bounds on epsilon.

A score is larger where the attack believes in membership. Under (ε, δ)-differential privacy every threshold
has TPR ≤ e^ε · FPR + δ, so rates beyond that refute a claimed ε. Rates below it prove nothing.

References:
    Kairouz, Oh and Viswanath, *The Composition Theorem for Differential Privacy* (ICML 2015).
    Jagielski, Ullman and Oprea, *Auditing Differentially Private Machine Learning* (NeurIPS 2020).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.stats import beta, rankdata

from dpforge.errors import ConfigError, DataError

CONFIDENCE = 0.95
RATES = {"1pct": 0.01, "0.1pct": 0.001}


class Interval(NamedTuple):
    """A value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of members, shape ``(n,)``, and of non-members, shape ``(m,)``; finite, larger is more likely.

    Raises:
        DataError: A score is not finite.
    """

    members: np.ndarray
    non_members: np.ndarray

    def __post_init__(self) -> None:
        wrong = int((~np.isfinite(np.concatenate([self.members, self.non_members]))).sum())
        if wrong:
            raise DataError(
                f"{wrong} attack scores are not finite, expected none; mend the attack's density."
            )

    def halves(self, seed: int) -> tuple[Scores, Scores]:
        """Two parts of a seeded split; of an odd number the second part gets one more."""
        rng = np.random.default_rng([seed, 30])
        members, non_members = rng.permutation(self.members), rng.permutation(self.non_members)
        i, j = len(members) // 2, len(non_members) // 2
        return Scores(members[:i], non_members[:j]), Scores(members[i:], non_members[j:])


@dataclass(frozen=True, eq=False)
class AttackResult:
    """Outcome of a membership attack; every number in it was computed from real rows and is private.

    Args:
        name: ``domias``, ``dcr`` or ``shadow``.
        version: Version of the attack.
        scores: Scores behind the AUC and the rates.
        choosing: Scores that choose the threshold of the lower bound on ε.
        testing: Scores, disjoint from ``choosing``, that the bound is computed from.
        one_release: Whether all scores come from one synthetic table. The intervals then count its rows as
            independent trials, which they are only approximately.
    """

    name: str
    version: str
    scores: Scores = field(repr=False)
    choosing: Scores = field(repr=False)
    testing: Scores = field(repr=False)
    one_release: bool = True

    @property
    def auc(self) -> Interval:
        """Area under the ROC curve, in [0, 1], ½ for an attack that knows nothing."""
        return area_under_curve(self.scores)

    def tpr_at_fpr(self, rate: float) -> Interval:
        """Share of members found while at most ``rate`` of the non-members are accused, in [0, 1]."""
        return true_positives_at(self.scores, rate)

    def epsilon_lower_bound(self, delta: float = 0.0) -> float:
        """:func:`epsilon_lower_bound` of ``testing`` at the threshold that is best on ``choosing``."""
        return epsilon_lower_bound(self.choosing, self.testing, delta)

    def epsilon_ceiling(self, delta: float = 0.0) -> float:
        """The largest bound that an attack without any error could prove with as many scores."""
        return epsilon_ceiling(len(self.testing.members), len(self.testing.non_members), delta)

    def metrics(self, delta: float = 0.0) -> dict[str, float]:
        """``attack/{name}_{auc,tpr_at_fpr_1pct,tpr_at_fpr_0.1pct}`` with ``…_low`` and ``…_high``,
        ``…_epsilon_lower_bound``, ``…_epsilon_ceiling``, and the ``…_members`` and ``…_non_members`` scored.
        """
        intervals = {"auc": self.auc}
        intervals |= {f"tpr_at_fpr_{name}": self.tpr_at_fpr(rate) for name, rate in RATES.items()}
        found: dict[str, float] = {}
        for name, interval in intervals.items():
            found |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
        found["epsilon_lower_bound"] = self.epsilon_lower_bound(delta)
        found["epsilon_ceiling"] = self.epsilon_ceiling(delta)
        found["members"] = float(len(self.scores.members))
        found["non_members"] = float(len(self.scores.non_members))
        return {f"attack/{self.name}_{name}": value for name, value in found.items()}

    def sentence(self, epsilon: float | None, delta: float) -> str:
        """Whether the attack refutes a guarantee of (``epsilon``, ``delta``), in words for a report.

        Without a guarantee (None, or infinite: a run that is NOT DP) the bound stands alone.

        Raises:
            ConfigError: ``epsilon`` is negative or ``delta`` is not in [0, 1).
        """
        bound, limit = self.epsilon_lower_bound(delta), self._limit(delta)
        if epsilon is None or math.isinf(epsilon):
            why = "no guarantee is known" if epsilon is None else "the run is NOT DP"
            return (
                f"lower bound {bound:.2f} on ε at δ={delta:.4g} by the {self.name} attack ({limit}); {why},"
                " so there is nothing to violate"
            )
        if not epsilon >= 0.0:
            raise ConfigError(f"epsilon={epsilon}: expected a number >= 0; give the ε of the certificate.")
        if bound > epsilon:
            return (
                f"VIOLATION: lower bound {bound:.2f} of the {self.name} attack exceeds the guarantee "
                f"ε={epsilon:.4g} at δ={delta:.4g} with 95 % confidence ({limit})"
            )
        return (
            f"no violation found by the {self.name} attack: lower bound {bound:.2f}, guarantee "
            f"ε={epsilon:.4g} at δ={delta:.4g} ({limit}); this is no proof of privacy"
        )

    def _limit(self, delta: float) -> str:
        text = (
            f"{len(self.testing.members)} members and {len(self.testing.non_members)} non-members "
            f"can show at most {self.epsilon_ceiling(delta):.2f}"
        )
        return text + ", rows of one release counted as independent trials" if self.one_release else text


def clopper_pearson(successes: np.ndarray | float, trials: int) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the exact two-sided 95 % interval of a probability, of the shape of ``successes``.

    ``successes`` need not be whole. Without any trial the interval is [0, 1].

    References:
        Clopper and Pearson, *The Use of Confidence or Fiducial Limits* (Biometrika, 1934).
    """
    hits = np.asarray(successes, dtype=float)
    misses = trials - hits
    tail = (1.0 - CONFIDENCE) / 2.0
    low = np.where(hits > 0, beta.ppf(tail, np.maximum(hits, 1e-12), misses + 1), 0.0)
    high = np.where(misses > 0, beta.ppf(1.0 - tail, hits + 1, np.maximum(misses, 1e-12)), 1.0)
    return low, high


def area_under_curve(scores: Scores) -> Interval:
    """Probability that a member scores above a non-member (ties ½), ½ if there are none of either.

    Its variance is at most that of a share among ``min(n, m)`` trials, whatever the scores' distributions;
    the interval is the Clopper-Pearson one of that share, so it is wide rather than wrong.

    References:
        Birnbaum and Klose, *Bounds for the Variance of the Mann-Whitney Statistic* (Ann. Math. Stat., 1957).
    """
    n, m = len(scores.members), len(scores.non_members)
    if min(n, m) == 0:
        return Interval(0.5, 0.0, 1.0)
    ranks = rankdata(np.concatenate([scores.members, scores.non_members]))
    area = (float(ranks[:n].sum()) - n * (n + 1) / 2) / (n * m)
    return _around(area, min(n, m))


def true_positives_at(scores: Scores, rate: float) -> Interval:
    """Share of members above the lowest threshold that accuses at most ``rate`` of the non-members.

    With fewer than 1/``rate`` non-members the threshold accuses none of them. The interval takes the
    threshold as given, so it describes these scores; only :func:`epsilon_lower_bound` is a test.

    Raises:
        ConfigError: ``rate`` is not in [0, 1).
    """
    if not 0.0 <= rate < 1.0:
        raise ConfigError(f"rate={rate}: expected a false positive rate in [0, 1), for example 0.01.")
    if min(len(scores.members), len(scores.non_members)) == 0:
        return Interval(0.0, 0.0, 1.0)
    # The small term keeps 0.01 * 100 from falling below 1.
    allowed = math.floor(rate * len(scores.non_members) + 1e-9)
    threshold = np.sort(scores.non_members)[-1 - allowed]
    return _around(float((scores.members > threshold).mean()), len(scores.members))


def epsilon_lower_bound(choosing: Scores, testing: Scores, delta: float = 0.0) -> float:
    """ln((TPR_low − δ)/FPR_high) of ``testing`` at the threshold with the largest such value on ``choosing``.

    At least 0. Both rates enter with the unfavourable end of their 95 % interval, and ``testing`` did not
    choose the threshold: if its scores are independent trials, a mechanism that keeps (ε, δ) exceeds ε with
    probability at most .05. Trials of unlike difficulty only make the bound more cautious (Hoeffding, *On
    the Distribution of the Number of Successes in Independent Trials*, Ann. Math. Stat., 1956).

    Raises:
        ConfigError: ``delta`` is not in [0, 1).
    """
    if not 0.0 <= delta < 1.0:
        raise ConfigError(f"delta={delta}: expected a number in [0, 1); give the δ of the guarantee.")
    thresholds = _thresholds(choosing)
    if len(thresholds) == 0:
        return 0.0
    best = thresholds[int(np.argmax(_bounds(choosing, thresholds, delta)))]
    return max(0.0, float(_bounds(testing, np.array([best]), delta)[0]))


def epsilon_ceiling(members: int, non_members: int, delta: float = 0.0) -> float:
    """:func:`epsilon_lower_bound` of an attack that guesses all of ``members`` and ``non_members`` right."""
    low, high = clopper_pearson(members, members)[0], clopper_pearson(0, non_members)[1]
    return max(0.0, _log_ratio(float(low) - delta, float(high)))


def _around(share: float, trials: int) -> Interval:
    low, high = clopper_pearson(min(max(share, 0.0), 1.0) * trials, trials)
    return Interval(share, float(low), float(high))


def _thresholds(scores: Scores) -> np.ndarray:
    """A threshold between any two neighbouring scores, and the smallest score."""
    values = np.unique(np.concatenate([scores.members, scores.non_members]))
    return np.concatenate([values[:1], values[:-1] / 2 + values[1:] / 2])


def _bounds(scores: Scores, thresholds: np.ndarray, delta: float) -> np.ndarray:
    """The bound at each threshold, shape of ``thresholds``; −∞ where TPR_low is not above δ."""
    n, m = len(scores.members), len(scores.non_members)
    found = n - np.searchsorted(np.sort(scores.members), thresholds, side="left")
    accused = m - np.searchsorted(np.sort(scores.non_members), thresholds, side="left")
    low, high = clopper_pearson(found, n)[0] - delta, clopper_pearson(accused, m)[1]
    return np.array([_log_ratio(a, b) for a, b in zip(low, high, strict=True)])


def _log_ratio(low: float, high: float) -> float:
    return math.log(low / high) if low > 0 else -math.inf
