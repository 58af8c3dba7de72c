"""The shadow-model attack on a run: its generator is fitted many times, with and without single rows.

Every fit spends the budget of a run again on rows that are public anyway. For private rows that would be a
real loss, so the attack is refused before any of them is read.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch

from dpforge.configuration.building import Experiment
from dpforge.data import Dataset, Schema, ToySource
from dpforge.errors import ConfigError, PrivacyError
from dpforge.evaluation import AttackResult, Guarantee, shadow_attack
from dpforge.evaluation.attacks import isolated_rows, outlier_rows
from dpforge.evaluation.frames import drawn_rows
from dpforge.experiment.attempt import locked
from dpforge.experiment.diagnostics import finished_experiment
from dpforge.experiment.display import Display
from dpforge.experiment.rundir import RunDir
from dpforge.experiment.stages import StopFlag
from dpforge.generators.base import RunContext
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.plan import Plan
from dpforge.privacy.rng import fresh_random

TARGETS, SHADOWS = 2, 8
# Looking for the most isolated row is quadratic in the rows.
SEARCHED = 5_000
FILE = "attack_shadow.json"


@dataclass(frozen=True)
class ShadowReport:
    """Outcome of the attack: private scores, the sentence for people, and the file that holds both."""

    result: AttackResult
    sentence: str
    path: Path


def attack_run(
    run: Path, display: Display, *, targets: int = TARGETS, shadows: int = SHADOWS, seed: int = 0
) -> ShadowReport:
    """Attack the generator of a finished run with ``2 · targets · shadows`` fits of its own configuration.

    Targets are the most isolated rows and made-up rows at the corners of the public domain, by halves.
    Each fit has fresh noise and as many rows as the run had, out of training and holdout part together.
    The scores go to ``private/attack_shadow.json`` of the run.

    Args:
        run: Folder of a finished run; nothing that may be released is changed.
        display: Where progress is shown.
        targets: Rows to look for, at least 1.
        shadows: Fits with and fits without each target, at least 4.
        seed: Public seed of subsets, draws and learners.

    Raises:
        PrivacyError: The data are not a public benchmark; no row was read.
        ConfigError: Numbers out of range, or a schema or unit that the attack does not fit.
        RunError: The run is not finished.
        Interrupted: Asked to stop.
    """
    folder = RunDir(run)
    experiment = finished_experiment(folder)
    schema = experiment.dataset.public_schema()
    _check(experiment, schema, targets, shadows)
    if experiment.runtime.threads:
        torch.set_num_threads(experiment.runtime.threads)
    with locked(folder), StopFlag().installed() as flag:
        data = experiment.dataset.load()
        known = pd.concat([data.train, data.holdout], ignore_index=True)
        plan = experiment.model.plan(schema, experiment.privacy)
        rows = experiment.rows or schema.rows.value or schema.nominal_rows
        fits = _Fits(experiment, schema, plan, rows)
        with display.task("shadow attack", 2 * targets * shadows) as stage:

            def progress(name: str, done: int, total: int) -> None:
                stage.advance()
                flag.check()

            result = shadow_attack(
                fits.table,
                known,
                _targets(known, schema, targets, seed),
                schema,
                runs=shadows,
                seed=seed,
                rows=len(data.train) if len(data.holdout) else None,
                progress=progress,
            )
        guarantee = _guarantee(folder)
        sentence = result.sentence(*guarantee)
        return ShadowReport(result, sentence, _written(folder, result, sentence, guarantee))


def _check(experiment: Experiment, schema: Schema, targets: int, shadows: int) -> None:
    source = experiment.dataset
    if not (isinstance(source, ToySource) or getattr(source, "public_benchmark", False)):
        raise PrivacyError(
            f"dataset '{source.name}' is not marked as a public benchmark, and the shadow attack fits the"
            " model many times without charging the budget. No row was read. Attack a run on a data set with"
            " public_benchmark: true."
        )
    mistakes = []
    if targets < 1:
        mistakes.append(f"--targets {targets}: expected at least 1.")
    if shadows < 4:
        mistakes.append(f"--shadows {shadows}: expected at least 4, half of them to learn from.")
    if schema.unit.kind != "row":
        mistakes.append("the shadow attack looks for single rows; this run protects users.")
    if schema.private_columns:
        mistakes.append(
            f"the shadow attack needs a public schema; private are {', '.join(schema.private_columns)}."
        )
    if mistakes:
        raise ConfigError(mistakes)


@dataclass(frozen=True)
class _Fits:
    """Fits of one configuration, each with a ledger and a noise key of its own."""

    experiment: Experiment
    schema: Schema
    plan: Plan
    rows: int

    def table(self, train: pd.DataFrame, seed: int) -> pd.DataFrame:
        """A synthetic table of a fit on ``train``."""
        model, spec = self.experiment.model, self.experiment.privacy
        with TemporaryDirectory() as place:
            ledger = Ledger.create(Path(place) / "ledger.jsonl", self.plan, {"rng": "entropy"})
            access = PrivateAccess(ledger, fresh_random("entropy"))
            run = RunContext(access, spec, self.experiment.runtime, seed, Path(place))
            fitted: Any = model.fit(Dataset(self.schema, train, train.head(0), None, True, ""), run)
        return fitted.sample(self.rows, np.random.default_rng(seed))


def _targets(known: pd.DataFrame, schema: Schema, count: int, seed: int) -> pd.DataFrame:
    searched = drawn_rows(known, SEARCHED, seed, stream=40)
    isolated = searched.take(isolated_rows(searched, schema, -(-count // 2)))
    return pd.concat([isolated, outlier_rows(schema, count // 2, seed)], ignore_index=True)


def _guarantee(folder: RunDir) -> Guarantee:
    certificate = folder.read_json(folder.certificate)
    epsilon = certificate["epsilon"]
    return Guarantee(math.inf if epsilon is None else float(epsilon), float(certificate["delta"]))


def _written(folder: RunDir, result: AttackResult, sentence: str, guarantee: Guarantee) -> Path:
    metrics = {
        key: {"value": value, "version": result.version, "visibility": "private"}
        for key, value in result.metrics(guarantee.delta).items()
    }
    content = {"metrics": metrics, "notes": [sentence], "notes_visibility": "private"}
    path = folder.private / FILE
    folder.private.mkdir(mode=0o700, exist_ok=True)
    folder.write_secret(path, (json.dumps(content, indent=2) + "\n").encode())
    return path
