"""One training run of ``TabularARGN`` and one sample in a fresh process, beside what peers report.

``python -m benchmarks.argn_own dp 100 10000`` trains for 100 steps, samples 10,000 rows, prints a JSON line;
``plain`` instead of ``dp`` trains without privacy.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.fixtures import lend_access
from benchmarks.memory import peak_of_process
from dpforge.config import build, compose
from dpforge.data import Dataset, Schema
from dpforge.errors import DPForgeError
from dpforge.generators.base import RunContext, Runtime
from dpforge.generators.tabular_argn import TabularARGN
from dpforge.privacy.spec import PrivacySpec

NO_CENSUS_ROWS = 48_842


def census(rows: int | None = None) -> tuple[Dataset, str]:
    """Return the census with a fifth held out, or ``rows`` generated rows; and the table's name."""
    if rows is None:
        try:
            return _loaded("dataset=census", "dataset.holdout_fraction=0.2"), "census, 15 columns"
        except DPForgeError:
            rows = NO_CENSUS_ROWS
    return _loaded("dataset=toy", f"dataset.rows={rows}"), "generated, 8 columns"


def _loaded(*overrides: str) -> Dataset:
    return build(compose([*overrides, "logger=csv"])).dataset.load()


@contextmanager
def lend_run(
    generator: TabularARGN, schema: Schema, *, private: bool, moments: list[float] | None = None
) -> Iterator[RunContext]:
    """Lend a run of noise multiplier 1.5 and clip 1, or without privacy.

    Args:
        generator: Its plan is authorised.
        schema: Public schema.
        private: With DP or without.
        moments: Receives the time of the end of every step.
    """

    def note(done: int, total: int, values: Mapping[str, float]) -> None:
        if moments is not None:
            moments.append(time.perf_counter())

    spec = PrivacySpec(enabled=False)
    if private:
        spec = PrivacySpec(target_epsilon=None, noise_multiplier=1.5, delta=1e-6, max_grad_norm=1.0)
    with tempfile.TemporaryDirectory() as folder, lend_access(generator.plan(schema, spec)) as access:
        yield RunContext(access, spec, Runtime(), seed=0, checkpoints=Path(folder), progress=note)


def measure(data: Dataset, private: bool, steps: int, rows: int, **settings: Any) -> dict[str, Any]:
    """Return rows per second of training steps and of sampling, and the peak memory after each, in MB.

    Args:
        data: The table.
        private: With DP or without.
        steps: Steps of the run.
        rows: Rows of the sample.
        settings: Of :class:`TabularARGN`.
    """
    import numpy as np

    generator = TabularARGN(steps=steps, **settings)
    moments: list[float] = []
    base, start = peak_of_process(), time.perf_counter()
    with lend_run(generator, data.schema, private=private, moments=moments) as run:
        model = generator.fit(data, run)
    trained = peak_of_process()
    laps = [after - before for before, after in pairwise(moments[2:])]
    begin = time.perf_counter()
    model.sample(rows, np.random.default_rng(0))
    sampled = time.perf_counter() - begin
    batch = generator.rate(data.schema) * len(data.train)
    return {
        "step_ms": 1000 * statistics.median(laps),
        "steps": steps,
        "batch": batch,
        "train_rows_per_second": batch / statistics.median(laps),
        "prepare_seconds": moments[0] - start,
        "sample_seconds": sampled,
        "sample_rows_per_second": rows / sampled,
        "parameters": sum(p.numel() for p in model.net.parameters()),
        "before_mb": base,
        "train_mb": trained,
        "sample_mb": peak_of_process(),
    }


def main(words: list[str]) -> None:
    """Measure once and print a JSON line."""
    import torch

    torch.set_num_threads(1)
    data, _ = census(int(words[3]) if len(words) > 3 else None)
    print(json.dumps(measure(data, words[0] == "dp", int(words[1]), int(words[2]))))


if __name__ == "__main__":
    main(sys.argv[1:])
