"""The pictures of a run: which are drawn, from what, and who may see them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd

from dpforge.data import Dataset, Images
from dpforge.evaluation import Headline, Results, headline
from dpforge.experiment import plots, plots_columns, plots_dependence
from dpforge.experiment.pictures_images import ALIGNED, draw_images
from dpforge.experiment.rundir import RunDir
from dpforge.experiment.stages import Work
from dpforge.experiment.tracking import Visibility
from dpforge.generators.base import FittedTable, Synthetic
from dpforge.generators.training import EpsilonMeter
from dpforge.privacy.accounting import epsilon
from dpforge.privacy.plan import Plan
from dpforge.privacy.rng import public_random

LATENT_ROWS = 2000
CURVE_POINTS = 12


class LatentRows(NamedTuple):
    """Latents of real rows, shape ``(n, d)``, and the name of each dimension; private."""

    values: np.ndarray
    names: list[str]


def draw(work: Work, data: Any, fitted: Any, synthetic: Synthetic, results: Results) -> None:
    """Draw every picture of a run and register each with its visibility."""
    folder, tracker = work.folder.plots, work.tracker
    if isinstance(synthetic, Images):
        draw_images(folder, data, fitted, synthetic, results)
    else:
        _draw_table(folder, data, fitted, synthetic, results)
        draw_latents(folder, fitted, data, work.experiment.seed)
    ranged = [row for row in headline(results) if _has_range(row)]
    plots.scores(ranged, folder / "scores.png")
    _draw_training(work.folder, work.access.ledger.plan)
    for path in sorted(folder.rglob("*.png")):
        tracker.image(f"plots/{path.stem}", path, _visibility(path))


def _visibility(path: Path) -> Visibility:
    known = {"epsilon": Visibility.PUBLIC, ALIGNED: Visibility.DP}
    return known.get(path.stem, Visibility.PRIVATE)


def _draw_table(
    folder: Path, data: Dataset, fitted: FittedTable, synthetic: pd.DataFrame, results: Results
) -> None:
    draw_columns(folder, data, fitted, synthetic)
    if "correlation_real" in results.tables:
        plots_dependence.correlation_difference(
            results.tables["correlation_real"],
            results.tables["correlation_synthetic"],
            fitted.schema.names,
            folder / "correlation.png",
        )


def _has_range(row: Headline) -> bool:
    """Whether floor and ceiling bound a range; permuted columns keep one-way marginals and coverage exact."""
    exact = row.name.endswith(("_1way", "_univariate", "_coverage", "_mass"))
    return math.isfinite(row.floor) and math.isfinite(row.ceiling) and not exact


def draw_columns(folder: Path, data: Dataset, fitted: FittedTable, synthetic: pd.DataFrame) -> None:
    """Draw every column of the training rows and of the synthetic ones into ``folder/histograms``."""
    histograms = folder / "histograms"
    histograms.mkdir(exist_ok=True)
    plots_columns.histograms(data.train, synthetic, fitted.schema, histograms)


def draw_latents(folder: Path, fitted: FittedTable, data: Dataset, seed: int) -> LatentRows | None:
    """Draw the latents of held-out rows (training rows if none are) and return them; None without any."""
    if not hasattr(fitted, "latents"):
        return None
    rows = data.holdout.head(LATENT_ROWS) if len(data.holdout) else data.train.head(LATENT_ROWS)
    found = cast(Any, fitted).latents(rows, public_random(seed).generator("latents"))
    names = [f"u{i + 1} ({name})" for i, name in enumerate(latent_names(fitted))]
    latents = LatentRows(np.asarray(found), names)
    plots_dependence.latent_marginals(latents.values, names, folder / "latent_marginals.png")
    plots_dependence.latent_pairs(latents.values, names, folder / "latent_pairs.png")
    return latents


def latent_names(fitted: Any) -> list[str]:
    """Return the column that each latent coordinate stands for, after all permutations of the flow."""
    order = np.arange(len(fitted.schema.names))
    for permutation in fitted.net.permutations:
        order = order[np.asarray(permutation)]
    return [fitted.schema.names[i] for i in order]


def _draw_training(folder: RunDir, plan: Plan) -> None:
    if folder.metrics_csv.is_file():
        curve = pd.read_csv(folder.metrics_csv)
        if "private/train/loss" in curve:
            plots.learning_curve(curve, folder.plots / "loss.png", column="private/train/loss")
    trained = [piece for piece in plan.pieces if piece.mechanism == "dp_sgd"]
    if not trained:
        return
    steps = np.unique(np.geomspace(1, trained[0].count, CURVE_POINTS).astype(int))
    meter = EpsilonMeter(plan, trained[0].name)
    by = {
        kind: [epsilon(meter.event(int(step)), plan.delta, kind) for step in steps] for kind in ("pld", "rdp")
    }
    target = plan.target_epsilon
    plots.epsilon_over_steps(steps.tolist(), by["pld"], by["rdp"], target, folder.plots / "epsilon.png")
