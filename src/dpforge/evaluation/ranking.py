"""Synthetic ranking agreement (SRA): whether models rank alike on synthetic and on real data.

References:
    Jordon, Yoon & van der Schaar, *Measuring the quality of synthetic data for use in competitions*
    (arXiv 1806.11345).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.linear_model import LinearRegression

from dpforge.data.schema import Schema
from dpforge.errors import ConfigError, DataError, did_you_mean
from dpforge.evaluation.downstream import CHANCE, is_classification, predictions, with_target
from dpforge.evaluation.frames import aligned, drawn_rows
from dpforge.evaluation.legacy import TEST_SHARE, legacy_pair, legacy_split
from dpforge.evaluation.predictions import Predictions, r_squared

VERSION = "sra-1"
LEGACY_VERSION = "sra-legacy-1"
PROTOCOLS = ("tsts", "tstr")
CLASSIFIERS = ("lr", "lr_strong", "rf", "hgb", "mlp", "nb", "knn")
REGRESSORS = ("lr", "lr_strong", "rf", "hgb", "mlp", "knn")
MAX_ROWS = 4000
BOOTSTRAPS = 50
ROUNDING = 1e-12


def ranking_agreement(real: Sequence[float], synthetic: Sequence[float], *, tie: float = 0.5) -> float:
    """Share of the pairs of models that both score lists order alike, in [0, 1], best 1, chance ½.

    Args:
        real: Score of each model on real data, at least 2.
        synthetic: Score of the same models on synthetic data.
        tie: What a pair counts that one of the lists does not order.

    Raises:
        DataError: Fewer than 2 models, or lists of different lengths.
    """
    if len(real) != len(synthetic) or len(real) < 2:
        raise DataError(
            f"{len(real)} real and {len(synthetic)} synthetic model scores, expected equally many and at "
            "least 2. Score the same models on both tables."
        )
    first, second = np.asarray(real, dtype=float), np.asarray(synthetic, dtype=float)
    product = _order(first) * _order(second)
    return float(np.where(product > 0, 1.0, np.where(product < 0, 0.0, tie)).mean())


def synthetic_ranking_agreement(
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    holdout: pd.DataFrame,
    schema: Schema,
    *,
    protocol: str = "tsts",
    max_rows: int = MAX_ROWS,
    bootstraps: int = BOOTSTRAPS,
    seed: int = 0,
) -> dict[str, float]:
    """Agreement of 7 classifiers (6 regressors) trained on real and on synthetic rows, in [0, 1], best 1.

    The real score of a learner is that of training on ``real`` and testing on ``holdout`` (AUROC or R²).
    Chance is ½; ties count ½. Rows without a target value are left out.

    Args:
        protocol: ``tsts`` (the definition): train and test on 67/33 of ``synthetic``; ``tstr``: train on
            ``synthetic``, test on ``holdout``.
        max_rows: Largest number of rows of each table.
        bootstraps: Resamples of the test rows behind the interval.

    Returns:
        ``sra_{protocol}`` and its 95 % bootstrap interval ``sra_{protocol}_low`` and ``…_high``.

    Raises:
        ConfigError: Unknown ``protocol``, or the schema has no target.
        DataError: An empty table, a missing column, or no row with a target value.
    """
    if protocol not in PROTOCOLS:
        hint = did_you_mean(protocol, PROTOCOLS)
        raise ConfigError(f"protocol='{protocol}', expected one of {', '.join(PROTOCOLS)}.{hint}")
    test = target_rows(holdout, schema, "holdout", max_rows, seed)
    reference = learner_predictions(target_rows(real, schema, "training", max_rows, seed), test, schema, seed)
    rows = target_rows(synthetic, schema, "synthetic", max_rows, seed)
    pair = halves(rows, seed) if protocol == "tsts" else (rows, test)
    found = learner_predictions(*pair, schema, seed)
    value, low, high = agreement_interval(reference, found, bootstraps, seed)
    return {f"sra_{protocol}": value, f"sra_{protocol}_low": low, f"sra_{protocol}_high": high}


def target_rows(frame: pd.DataFrame, schema: Schema, role: str, max_rows: int, seed: int) -> pd.DataFrame:
    """At most ``max_rows`` seeded rows with a target value.

    Raises:
        ConfigError: The schema has no target.
        DataError: An empty table, a missing column, or no row with a target value.
    """
    if schema.target is None:
        raise ConfigError(f"schema '{schema.name}' has no target; set 'target' to score learners.")
    known = with_target(aligned(frame, schema, role), schema.column(schema.target), role)
    return drawn_rows(known, max_rows, seed, stream=17)


def halves(frame: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Seeded 67/33 split of the rows; a single row is on both sides."""
    order = np.random.default_rng([seed, 18]).permutation(len(frame))
    cut = max(1, round((1 - TEST_SHARE) * len(frame)))
    test = order[cut:] if cut < len(frame) else order
    return frame.take(order[:cut]).reset_index(drop=True), frame.take(test).reset_index(drop=True)


def learner_predictions(
    train: pd.DataFrame, test: pd.DataFrame, schema: Schema, seed: int
) -> list[Predictions]:
    """The predictions of each ranked learner, fitted on ``train``, for ``test``."""
    learners = CLASSIFIERS if is_classification(schema.column(str(schema.target))) else REGRESSORS
    return [predictions(train, test, schema, learner, seed) for learner in learners]


def agreement_interval(
    real: list[Predictions], synthetic: list[Predictions], bootstraps: int, seed: int
) -> tuple[float, float, float]:
    """Agreement of two lists of predictions, and its 95 % percentile interval over test rows."""
    rng = np.random.default_rng([seed, 19])
    value = ranking_agreement(_values(real), _values(synthetic))
    resampled = [
        ranking_agreement(_values(_resampled(real, rng)), _values(_resampled(synthetic, rng)))
        for _ in range(bootstraps)
    ]
    low, high = np.quantile(resampled, [0.025, 0.975]) if resampled else (value, value)
    return value, float(low), float(high)


def legacy_ranking_agreement(real: pd.DataFrame, synthetic: pd.DataFrame, schema: Schema) -> dict[str, float]:
    """The published "SRA", in [0, 1]; no value is good or bad, Gaussian noise scores .46 to .87.

    A "model" is the linear regression of one number column on the others; its R² on a fixed 67/33 split
    *within the same table* is ranked, and ties count 1. It compares how predictable the columns are, not
    how models perform.

    Returns:
        ``sra``; R² is 0 where a table has fewer than 4 complete rows or the column does not vary.

    Raises:
        DataError: An empty table, a missing column, or fewer than 2 number columns.
    """
    tables = legacy_pair(real, synthetic, schema)
    first, second = (column_scores(table) for table in tables)
    return {"sra": ranking_agreement(first, second, tie=1.0)}


def column_scores(table: np.ndarray) -> list[float]:
    """Test R² of each column regressed on the others on the fixed split, for shape ``(n, k)``."""
    if len(table) < 4:
        return [0.0] * table.shape[1]
    fit, test = legacy_split(len(table))
    scores = []
    for j in range(table.shape[1]):
        others = np.delete(table, j, axis=1)
        model = LinearRegression().fit(others[fit], table[fit, j])
        scores.append(r_squared(table[test, j], model.predict(others[test])))
    return [0.0 if np.isnan(score) else score for score in scores]


def _order(scores: np.ndarray) -> np.ndarray:
    """Sign of the difference of each pair of scores, 0 for scores that differ by rounding alone."""
    i, j = np.triu_indices(len(scores), 1)
    difference = scores[i] - scores[j]
    return np.where(np.abs(difference) > ROUNDING, np.sign(difference), 0.0)


def _values(found: list[Predictions]) -> list[float]:
    undefined = CHANCE if found[0].measure == "auroc" else 0.0
    return [undefined if np.isnan(p.value) else p.value for p in found]


def _resampled(found: list[Predictions], rng: np.random.Generator) -> list[Predictions]:
    """All learners on the same resampled test rows."""
    size = len(found[0].truth)
    chosen = rng.integers(size, size=size)
    return [p.rows(chosen) for p in found]
