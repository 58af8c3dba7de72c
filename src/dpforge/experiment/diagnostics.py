"""Diagnostics of a finished run, drawn again: latents of held-out rows, and columns side by side.

Everything here is computed from real rows without noise and is private.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from dpforge.config import build
from dpforge.configuration.building import Experiment
from dpforge.configuration.keys import node_mistakes
from dpforge.data.table import read_table
from dpforge.errors import ConfigError, RunError
from dpforge.experiment import pictures, runner
from dpforge.experiment.attempt import locked
from dpforge.experiment.certificate import make_certificate
from dpforge.experiment.rundir import RunDir
from dpforge.experiment.sampling import finished_model
from dpforge.privacy.ledger import Ledger

PICTURES = ("latent_*.png", "histograms/*.png")

__all__ = ["Diagnosis", "Dimension", "diagnose", "finished_experiment", "latent_facts"]


@dataclass(frozen=True)
class Dimension:
    """How far one latent dimension of real rows is from a standard normal.

    Args:
        name: Number of the dimension and the column it stands for.
        mean, deviation: Of its values; 0 and 1 if the flow fits.
        statistic, p_value: Kolmogorov-Smirnov test against N(0, 1).
    """

    name: str
    mean: float
    deviation: float
    statistic: float
    p_value: float


@dataclass(frozen=True)
class Diagnosis:
    """What was drawn and found.

    Args:
        pictures: Paths of the pictures, all private.
        dimensions: One entry a latent dimension; empty for a model without latents.
        largest_correlation: Largest absolute correlation of two latent dimensions.
        rows: Rows behind the numbers.
    """

    pictures: tuple[Path, ...]
    dimensions: tuple[Dimension, ...] = ()
    largest_correlation: float = 0.0
    rows: int = 0


def diagnose(run: Path) -> Diagnosis:
    """Draw the diagnostics of a finished run into its folder ``plots`` and return their numbers.

    Costs no privacy and changes nothing that may be released; the certificate is written again with what
    the pictures and the terminal saw.

    Raises:
        RunError: The run is not finished, or its files are not those that were certified.
        PrivacyError: The data are gone that the run was made from, or its key is.
        DataError: The data cannot be read.
    """
    folder = RunDir(run)
    with locked(folder):
        fitted = finished_model(folder)
        experiment = finished_experiment(folder)
        ledger = Ledger.open(folder.ledger)
        data = runner.bound_data(folder, experiment, runner.noise_key(folder, experiment, ledger), ledger)()
        synthetic, _ = read_table(folder.synthetic, fitted.schema)
        pictures.draw_columns(folder.plots, data, fitted, synthetic)
        latents = pictures.draw_latents(folder.plots, fitted, data, experiment.seed)
        drawn = tuple(sorted(p for pattern in PICTURES for p in folder.plots.glob(pattern)))
        for path in drawn:
            ledger.taint(f"plots/{path.stem}", path.relative_to(folder.root).as_posix())
        if latents is not None:
            ledger.taint("latents", "terminal")
        folder.write_json(folder.certificate, make_certificate(ledger, folder.released()))
    if latents is None:
        return Diagnosis(drawn)
    return Diagnosis(drawn, *latent_facts(latents.values, latents.names), len(latents.values))


def finished_experiment(folder: RunDir) -> Experiment:
    """Build the components of a finished run from its own configuration; no data is read.

    Raises:
        RunError: The run is not finished or its configuration is damaged.
        ConfigError: The configuration names something that is not of this package.
    """
    if folder.status()["state"] != "done":
        raise RunError(f"{folder.root} is not a finished run. Start its command again first.")
    config = runner.stored_config(folder)
    mistakes = [text for _, text in node_mistakes(config)]
    if mistakes:
        raise ConfigError([f"{folder.config}: {text}" for text in mistakes])
    return build(config)


def latent_facts(values: np.ndarray, names: list[str]) -> tuple[tuple[Dimension, ...], float]:
    """Facts of each column of latents ``(n, d)``, and the largest absolute correlation of two of them.

    A constant column correlates with nothing.
    """
    dimensions = []
    for name, column in zip(names, values.T, strict=True):
        test = stats.kstest(column, "norm")
        found = float(column.mean()), float(column.std()), float(test.statistic), float(test.pvalue)
        dimensions.append(Dimension(name, *found))
    with np.errstate(invalid="ignore", divide="ignore"):
        matrix = np.corrcoef(values, rowvar=False).reshape(len(names), len(names))
    apart = np.abs(np.nan_to_num(matrix))[~np.eye(len(names), dtype=bool)]
    return tuple(dimensions), float(apart.max(initial=0.0))
