"""Predictions of a learner on real rows, and the measures taken from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, f1_score, recall_score

CHANCE = 0.5


@dataclass(frozen=True)
class Predictions:
    """What a learner said about test rows.

    Args:
        truth: Class numbers or target values, shape ``(n,)``.
        scores: Score of each class, shape ``(n, classes)``, or predicted values, shape ``(n,)``.
        notes: Remarks a reader of the measures must see.
    """

    truth: np.ndarray
    scores: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def measure(self) -> str:
        """``auroc`` or ``r2``."""
        return "auroc" if self.scores.ndim == 2 else "r2"

    @property
    def value(self) -> float:
        """AUROC in [0, 1] (NaN for one true class) or R² up to 1 (NaN without variance)."""
        if self.measure == "auroc":
            return macro_auroc(self.truth, self.scores)
        return r_squared(self.truth, self.scores)

    def others(self) -> dict[str, float]:
        """The other measures, each finite.

        Classes: ``average_precision``, ``f1`` and ``balanced_accuracy`` in [0, 1], best 1, each the plain
        mean over the classes that occur in ``truth``. Numbers: ``rmse_ratio``, the root mean squared
        error over the deviation of ``truth``, at least 0, best 0, 1 for predicting the mean.
        """
        if self.measure == "r2":
            value = self.value
            return {"rmse_ratio": 1.0 if np.isnan(value) else float(np.sqrt(1.0 - value))}
        present, said = np.unique(self.truth), self.scores.argmax(axis=1)
        mean: dict[str, Any] = {"labels": present, "average": "macro", "zero_division": 0}
        precision = [average_precision_score(self.truth == k, self.scores[:, k]) for k in present]
        return {
            "average_precision": float(np.mean(precision)),
            "f1": float(f1_score(self.truth, said, **mean)),
            "balanced_accuracy": float(recall_score(self.truth, said, **mean)),
        }

    def rows(self, chosen: np.ndarray) -> Predictions:
        """The predictions for the rows numbered ``chosen``, repetitions allowed."""
        return Predictions(self.truth[chosen], self.scores[chosen])


def macro_auroc(truth: np.ndarray, scores: np.ndarray) -> float:
    """Mean one-vs-rest AUROC over the classes that occur in ``truth`` but not everywhere.

    Args:
        truth: Class numbers, shape ``(n,)``.
        scores: Score of each class, shape ``(n, classes)``; a constant column counts .5.

    Returns:
        Value in [0, 1]; NaN if ``truth`` has a single class.
    """
    present, counts = np.unique(truth, return_counts=True)
    if len(present) < 2:
        return float("nan")
    # Mann-Whitney: a tenth of the time of the library's curve, for the many draws of a bootstrap.
    ranks = rankdata(scores[:, present], axis=0)
    sums = np.array([ranks[truth == k, i].sum() for i, k in enumerate(present)])
    return float(((sums - counts * (counts + 1) / 2) / (counts * (len(truth) - counts))).mean())


def r_squared(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Share of the variance of ``truth`` that is explained, up to 1; NaN without variance."""
    total = float(((truth - truth.mean()) ** 2).sum())
    if total == 0.0:
        return float("nan")
    return 1.0 - float(((truth - predicted) ** 2).sum()) / total
