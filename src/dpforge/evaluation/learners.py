"""The learners of the utility and ranking scores, with fixed settings that are never tuned."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler

from dpforge.evaluation.features import Features

TREES = ("hgb", "rf")
NEIGHBOURS = 15
EPOCHS = 50
BATCH = 256


@dataclass(frozen=True)
class DenseModel:
    """A model that takes no sparse matrix."""

    model: Any

    def fit(self, features: Any, target: np.ndarray) -> DenseModel:
        """Fit on one-hot ``features`` of shape ``(n, m)``."""
        self.model.fit(features.toarray(), target)
        return self

    def predict_proba(self, features: Any) -> np.ndarray:
        """Class probabilities, shape ``(n, classes)``."""
        return self.model.predict_proba(features.toarray())


def feature_map(features: Features, learner: str) -> Callable[[pd.DataFrame], Any]:
    """Ordinal features for trees, one-hot features for every other learner."""
    return features.ordinal if learner in TREES else features.one_hot


def classifier(learner: str, y: np.ndarray, seed: int) -> Any:
    """A new classifier for class numbers ``y``, shape ``(n,)``, of at least two classes."""
    # The library's stratified validation split refuses a class of a single row.
    early_stopping: Any = "auto" if np.unique(y, return_counts=True)[1].min() > 1 else False
    makers: dict[str, Callable[[], Any]] = {
        "lr": lambda: LogisticRegression(C=1.0, max_iter=1000),
        "lr_strong": lambda: LogisticRegression(C=0.01, max_iter=1000),
        "hgb": lambda: HistGradientBoostingClassifier(
            max_iter=100, early_stopping=early_stopping, random_state=seed
        ),
        "rf": lambda: RandomForestClassifier(200, min_samples_leaf=2, random_state=seed),
        "mlp": lambda: MLPClassifier(random_state=seed, **_network(len(y))),
        # Levels that a class lacks have no variance; the library's default smoothing divides by it.
        "nb": lambda: DenseModel(GaussianNB(var_smoothing=1e-3)),
        "knn": lambda: KNeighborsClassifier(min(NEIGHBOURS, len(y))),
    }
    return makers[learner]()


def regressor(learner: str, rows: int, seed: int) -> Any:
    """A new regressor for a training table of ``rows`` rows."""
    makers: dict[str, Callable[[], Any]] = {
        "lr": lambda: Ridge(alpha=1.0),
        "lr_strong": lambda: Ridge(alpha=100.0),
        "hgb": lambda: HistGradientBoostingRegressor(max_iter=100, random_state=seed),
        "rf": lambda: RandomForestRegressor(200, min_samples_leaf=2, random_state=seed),
        "mlp": lambda: TransformedTargetRegressor(
            MLPRegressor(random_state=seed, **_network(rows)), transformer=StandardScaler()
        ),
        "knn": lambda: KNeighborsRegressor(min(NEIGHBOURS, rows)),
    }
    return makers[learner]()


def fitted(model: Any, features: Any, target: np.ndarray) -> Any:
    """The model after fitting; that fixed settings stop before convergence is expected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features, target)


def _network(rows: int) -> dict[str, Any]:
    """Settings of the network: exactly 50 epochs, never stopped early."""
    return {
        "hidden_layer_sizes": (128, 64),
        "learning_rate_init": 1e-3,
        "max_iter": EPOCHS,
        "n_iter_no_change": EPOCHS,
        "batch_size": min(BATCH, rows),
    }
