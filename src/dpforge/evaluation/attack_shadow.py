"""Shadow-model attack: what a generator's tables betray about single rows, over many fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dpforge.data.conform import conform
from dpforge.data.schema import Column, Schema
from dpforge.errors import ConfigError, DataError, did_you_mean
from dpforge.evaluation.attack_statistics import AttackResult, Scores
from dpforge.evaluation.coordinates import ONE_HOT, Scale, axes, fit_scale, points
from dpforge.evaluation.correlation import association
from dpforge.evaluation.features import levels
from dpforge.evaluation.frames import aligned
from dpforge.evaluation.learners import classifier, fitted
from dpforge.evaluation.threads import threads_for

VERSION = "shadow-1"
FOLDS = 4
LEARNERS = ("lr", "rf")

Fit = Callable[[pd.DataFrame, int], pd.DataFrame]
Progress = Callable[[str, int, int], None]


def shadow_attack(
    fit: Fit,
    auxiliary: pd.DataFrame,
    targets: pd.DataFrame,
    schema: Schema,
    *,
    runs: int = 32,
    seed: int,
    learner: str = "lr",
    rows: int | None = None,
    progress: Progress | None = None,
) -> AttackResult:
    """Learn to tell synthetic tables whose training rows held a target from those that did not.

    Each target has ``runs`` fits with it and ``runs`` without, every one on a fresh random subset of the
    auxiliary rows (the two differ by one row, as the add/remove relation says). A classifier of the tables'
    means, deviations, frequencies, associations and rows near the target learns from half of the fits and
    is tested on the others. Fits are independent, so the bound on ε holds as stated.

    Args:
        fit: From training rows (a typed table) and a seed to a synthetic table, with its own noise each time.
        auxiliary: Rows of the population. The attack spends no budget only if they are public.
        targets: Rows to look for, typed like ``auxiliary``: see :func:`isolated_rows` and
            :func:`outlier_rows`. Auxiliary rows equal to a target are left out of its subsets.
        runs: Fits with and fits without each target, at least 4: ``2 · runs · len(targets)`` in all.
        learner: ``lr`` or ``rf``.
        rows: Auxiliary rows of a fit; half of them if None.
        progress: Called with ``"shadow"``, the fits done and their number.

    Returns:
        AUC in [0, 1], best ½, over the tested fits of all targets.

    Raises:
        DataError: An empty table, a missing column, or targets typed unlike ``auxiliary``.
        ConfigError: Too few ``runs``, an unknown learner, or ``rows`` out of range.

    References:
        Stadler, Oprisanu and Troncoso, *Synthetic Data: Anonymisation Groundhog Day* (USENIX Security 2022).
    """
    auxiliary, targets = aligned(auxiliary, schema, "auxiliary"), aligned(targets, schema, "target")
    _check_shadow(auxiliary, targets, runs, learner, rows)
    scale = fit_scale(auxiliary, schema)
    located = _weighted(auxiliary, schema, scale)
    halves: list[tuple[Scores, Scores]] = []
    for i, spot in enumerate(_weighted(targets, schema, scale)):
        target = _target(targets.iloc[[i]], spot, located, rows)
        features = []
        for run in range(2 * runs):
            rng = np.random.default_rng([seed, 36, i, run])
            made = fit(target.training_rows(auxiliary, rng, inside=bool(run % 2)), int(rng.integers(2**31)))
            features.append(_table_features(aligned(made, schema, "synthetic"), schema, scale, target))
            if progress:
                progress("shadow", i * 2 * runs + run + 1, len(targets) * 2 * runs)
        halves.append(_classified(np.array(features), learner, seed))
    choosing, testing = (_pooled(part) for part in zip(*halves, strict=True))
    return AttackResult("shadow", VERSION, testing, choosing, testing, one_release=False)


def isolated_rows(frame: pd.DataFrame, schema: Schema, count: int) -> np.ndarray:
    """Positions of the ``count`` rows furthest from every other row, furthest first; quadratic in the rows.

    Raises:
        DataError: An empty table or a missing column.
    """
    frame = aligned(frame, schema, "auxiliary")
    located = _weighted(frame, schema, fit_scale(frame, schema))
    if len(located) == 1:
        return np.arange(min(count, 1))
    # Without queries the library leaves each row out of its own neighbours.
    gaps = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(located).kneighbors()[0][:, 0]
    return np.argsort(-gaps, kind="stable")[:count]


def outlier_rows(schema: Schema, count: int, seed: int) -> pd.DataFrame:
    """``count`` made-up rows at the corners of the public domain, as a typed table.

    Each number is its lower or upper bound, each category any of its levels, by a seeded coin.

    Raises:
        ConfigError: The schema has private bounds or categories that were not released.
    """
    rng = np.random.default_rng([seed, 37])
    ends = {column.name: _extremes(column) for column in schema.columns}
    picked = {name: [end[k] for k in rng.integers(len(end), size=count)] for name, end in ends.items()}
    return conform(pd.DataFrame(picked), schema)


def _extremes(column: Column) -> tuple[object, ...]:
    if column.kind == "categorical":
        return levels(column)
    bounds = column.bounds
    if bounds is None or bounds.min is None or bounds.max is None:
        raise ConfigError(
            f"column '{column.name}' has no bounds, expected public or released ones. "
            "Attack with the schema that the run saved."
        )
    return bounds.min, bounds.max


@dataclass(frozen=True)
class _Target:
    """A row to look for, where it lies, the auxiliary rows unlike it, and distances that count as near."""

    row: pd.DataFrame
    spot: np.ndarray
    others: np.ndarray
    size: int
    radii: np.ndarray

    def training_rows(self, auxiliary: pd.DataFrame, rng: np.random.Generator, inside: bool) -> pd.DataFrame:
        """A random subset of the other rows, with the target at a random place if ``inside``."""
        chosen = auxiliary.take(rng.choice(self.others, self.size, replace=False))
        if inside:
            chosen = pd.concat([chosen, self.row])
        return chosen.take(rng.permutation(len(chosen))).reset_index(drop=True)


def _target(row: pd.DataFrame, spot: np.ndarray, located: np.ndarray, rows: int | None) -> _Target:
    gaps = cdist(spot[None], located)[0]
    others = np.flatnonzero(gaps > 0) if (gaps > 0).any() else np.arange(len(gaps))
    size = min(len(others), rows or max(1, len(others) // 2))
    radii = np.array([gaps[others].min() / 2, *np.quantile(gaps[others], (0.01, 0.1))])
    return _Target(row, spot, others, size, radii)


def _check_shadow(
    auxiliary: pd.DataFrame, targets: pd.DataFrame, runs: int, learner: str, rows: int | None
) -> None:
    mistakes = []
    if runs < 4:
        mistakes.append(f"runs={runs}: expected at least 4, half of them to learn from; the default is 32.")
    if learner not in LEARNERS:
        hint = did_you_mean(learner, LEARNERS)
        mistakes.append(f"learner='{learner}': expected one of {', '.join(LEARNERS)}.{hint}")
    if rows is not None and not 1 <= rows <= len(auxiliary):
        mistakes.append(f"rows={rows}: expected 1 to {len(auxiliary)}, the number of auxiliary rows.")
    if mistakes:
        raise ConfigError(mistakes)
    unlike = [name for name in auxiliary if auxiliary[name].dtype != targets[name].dtype]
    if unlike:
        raise DataError(
            f"columns {', '.join(map(str, unlike))} have another type in the targets than in the auxiliary "
            "rows, expected equal types. Pass both through dpforge.data.table.conform."
        )


def _weighted(frame: pd.DataFrame, schema: Schema, scale: Scale) -> np.ndarray:
    """Standardised numbers and one-hot levels over the root of 2, so that unlike levels are 1 apart."""
    return points(frame, schema, scale) * np.where(axes(schema).indicator, ONE_HOT, 1.0)


def _table_features(frame: pd.DataFrame, schema: Schema, scale: Scale, target: _Target) -> np.ndarray:
    """Means (of levels: frequencies), deviations, associations, and rows near the target, all finite."""
    located = _weighted(frame, schema, scale)
    numbers = ~axes(schema).indicator
    gaps = cdist(target.spot[None], located)[0]
    associated = association(frame, schema).to_numpy()
    return np.concatenate(
        [
            located.mean(axis=0),
            located[:, numbers].std(axis=0),
            associated[np.triu_indices(len(associated), 1)],
            [gaps.min()],
            (gaps[:, None] <= target.radii).sum(axis=0),
        ]
    )


def _classified(features: np.ndarray, learner: str, seed: int) -> tuple[Scores, Scores]:
    """Scores that choose a threshold, out of fold on the first half of the fits, and those of the rest.

    Args:
        features: A row per fit, of which every second one had the target, shape ``(2 · runs, m)``.
    """
    label = np.arange(len(features)) % 2
    first = 2 * (len(features) // 4)
    x, y = features[:first], label[:first]
    folds = StratifiedKFold(min(FOLDS, first // 2), shuffle=True, random_state=seed)
    chosen = np.zeros(first)
    with threads_for(len(features)):
        for learn, leave in folds.split(x, y):
            chosen[leave] = _suspicion(x[learn], y[learn], x[leave], learner, seed)
        tested = _suspicion(x, y, features[first:], learner, seed)
    return Scores(chosen[y == 1], chosen[y == 0]), Scores(tested[1::2], tested[::2])


def _suspicion(x: np.ndarray, y: np.ndarray, queries: np.ndarray, learner: str, seed: int) -> np.ndarray:
    model = fitted(make_pipeline(StandardScaler(), classifier(learner, y, seed)), x, y)
    return model.predict_proba(queries)[:, 1]


def _pooled(parts: tuple[Scores, ...]) -> Scores:
    return Scores(
        np.concatenate([part.members for part in parts]), np.concatenate([part.non_members for part in parts])
    )
