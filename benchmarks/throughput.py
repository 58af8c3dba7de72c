"""Rows per second of whole training runs and of sampling."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.fixtures import NOMINAL_ROWS, Preset, encoded_table, lend_access, training_plan
from benchmarks.harness import Row, in_turns
from dpforge.data import Dataset
from dpforge.data.schema import schema_from_dict
from dpforge.data.table import conform
from dpforge.generators.base import RunContext, Runtime
from dpforge.generators.dp_maf import DPMAF
from dpforge.generators.training import TrainingData, train
from dpforge.privacy.spec import PrivacySpec

GROUP = "5. rows per second"


def training_rows(preset: Preset, batch: int, steps: int, turns: int) -> list[Row]:
    """Return rows per second of ``train()`` with DP and without, run in turns; start-up is left out."""
    rates: dict[str, list[float]] = {"DP, ghost": [], "privacy=none": []}
    for _ in range(turns):
        for name, found in rates.items():
            found.append(batch / _seconds_per_step(preset, batch, steps, private=name == "DP, ghost"))
    return [
        Row(GROUP, f"training, {name}, {preset.name}, batch {batch}", statistics.median(found), "rows/s")
        for name, found in rates.items()
    ]


def _seconds_per_step(preset: Preset, batch: int, steps: int, *, private: bool) -> float:
    moments: list[float] = []

    def note(done: int, total: int, values: Mapping[str, float]) -> None:
        moments.append(time.perf_counter())

    rate = batch / NOMINAL_ROWS
    spec = PrivacySpec(target_epsilon=None, noise_multiplier=1.0, enabled=private)
    table = encoded_table(NOMINAL_ROWS, preset.features)
    plan = training_plan(steps, rate, private=private)
    with tempfile.TemporaryDirectory() as folder, lend_access(plan) as access:
        run = RunContext(access, spec, Runtime(), seed=0, checkpoints=Path(folder), progress=note)
        data = TrainingData(table.gather, table.rows)
        train(preset.module(), data, run, sampling_rate=rate, steps=steps, expected_rows=float(batch))
    return (moments[-1] - moments[0]) / (steps - 1)


def sampling_rows(rows: int, turns: int) -> list[Row]:
    """Return rows per second of sampling from a finished ``model=dp_maf``: flow, marginals, decoding."""
    columns = {f"c{j}": {"kind": "numeric", "bounds": {"min": 0, "max": 1}} for j in range(15)}
    schema = schema_from_dict({"nominal_rows": 1_000, "columns": columns})
    frame = pd.DataFrame(np.random.default_rng(0).random((1_000, 15)), columns=list(columns))
    generator, spec = DPMAF(steps=2), PrivacySpec(enabled=False)
    with tempfile.TemporaryDirectory() as folder, lend_access(generator.plan(schema, spec)) as access:
        run = RunContext(access, spec, Runtime(), seed=0, checkpoints=Path(folder))
        data = Dataset(schema, conform(frame, schema), frame.iloc[:0], None, True, "benchmark")
        model = generator.fit(data, run)
    laps = in_turns({"sample": lambda: model.sample(rows, np.random.default_rng(0))}, turns, warmup=1)
    return [
        Row(
            GROUP,
            f"sampling, model=dp_maf, 15 columns, {rows:,} rows",
            rows / laps.median("sample"),
            "rows/s",
        )
    ]
