"""TabularARGN on wide, tall and many-valued generated tables, each in a fresh process.

``python -m benchmarks.argn_sizes wide 300``, ``… levels 50000`` or ``… tall 10000000`` prints one JSON line.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.argn_own import lend_run
from benchmarks.memory import peak_of_process
from dpforge.data import Dataset, Schema
from dpforge.data.schema import schema_from_dict
from dpforge.generators.tabular_argn import TabularARGN

STEPS = 50
SAMPLE = 1_000
WIDE_ROWS = 20_000
LEVELS = (2, 3, 5, 8, 12, 20)


def wide(columns: int, rows: int = WIDE_ROWS) -> Dataset:
    """Return a table of ``columns`` columns: categories, integers, amounts in turn; some nullable."""
    random = np.random.default_rng(0)
    latent = random.standard_normal(rows)
    schema, frame = {}, {}
    for number in range(columns):
        name, nullable = f"c{number}", number % 6 == 5
        noisy = latent * 0.5 + random.standard_normal(rows)
        if number % 3 == 0:
            schema[name], frame[name] = _category(LEVELS[number // 3 % len(LEVELS)], noisy)
        else:
            kind = "integer" if number % 3 == 1 else "numeric"
            high = 99 if kind == "integer" else 1000.0
            schema[name] = {"kind": kind, "bounds": {"min": 0, "max": high}, "nullable": nullable}
            values = np.clip(high * (noisy + 4) / 8, 0, high)
            values = values.round() if kind == "integer" else values
            values[random.random(rows) < 0.1 * nullable] = np.nan
            frame[name] = pd.array(values, dtype="Int64") if kind == "integer" else values
    return _dataset(schema, pd.DataFrame(frame))


def levels(count: int, rows: int = WIDE_ROWS) -> Dataset:
    """Return a table of a column with ``count`` categories and two small columns."""
    random = np.random.default_rng(0)
    latent = random.standard_normal(rows)
    schema, frame = {}, {}
    for name, size in (("small", 4), ("large", count), ("other", 3)):
        schema[name], frame[name] = _category(size, latent + random.standard_normal(rows))
    return _dataset(schema, pd.DataFrame(frame))


def tall(rows: int, columns: int = 15) -> Dataset:
    """Return ``rows`` rows of categories, 2 to 20 a column: one byte a cell."""
    random = np.random.default_rng(0)
    schema, frame = {}, {}
    for number in range(columns):
        size = LEVELS[number % len(LEVELS)]
        codes = random.integers(0, size, rows, dtype=np.int8)
        schema[f"c{number}"], kind = _kind(size)
        frame[f"c{number}"] = pd.Categorical.from_codes(codes, dtype=kind)
    return _dataset(schema, pd.DataFrame(frame, copy=False))


def _category(size: int, noisy: np.ndarray) -> tuple[dict[str, Any], pd.Categorical]:
    codes = np.clip(((noisy + 4) / 8 * size).astype(int), 0, size - 1)
    described, kind = _kind(size)
    return described, pd.Categorical.from_codes(codes, dtype=kind)


def _kind(size: int) -> tuple[dict[str, Any], pd.CategoricalDtype]:
    values = [f"v{level}" for level in range(size)]
    described = {"kind": "categorical", "categories": {"values": values}, "unseen": {"map": "v0"}}
    return described, pd.CategoricalDtype(values)


def _dataset(columns: dict[str, Any], frame: pd.DataFrame) -> Dataset:
    schema: Schema = schema_from_dict({"nominal_rows": len(frame), "columns": columns})
    return Dataset(schema, frame, frame.iloc[:0], None, True, "benchmark")


TABLES = {"wide": wide, "levels": levels, "tall": tall}


def measure(data: Dataset, steps: int = STEPS, sample: int = SAMPLE) -> dict[str, float]:
    """Return the seconds of preparation, of a DP step and of a sample, and memory in MB.

    ``anonymous_mb`` is the memory that is not backed by a file: pages of the memory-mapped codes, which the
    kernel drops when it needs room, count as resident but not here.
    """
    generator, moments, held = TabularARGN(steps=steps), [], []
    start, before = time.perf_counter(), anonymous_of_process()
    with lend_run(generator, data.schema, private=True, moments=moments) as run:
        object.__setattr__(run, "log", lambda *_: held.append(anonymous_of_process()))
        model = generator.fit(data, run)
    begin = time.perf_counter()
    drawn = model.sample(sample, np.random.default_rng(0))
    end = time.perf_counter()
    assert list(drawn.columns) == list(data.schema.names)
    laps = [after - now for now, after in pairwise(moments[2:])]
    return {
        "prepare_seconds": moments[0] - start,
        "step_ms": 1000 * statistics.median(laps),
        "sample_seconds": end - begin,
        "parameters": sum(p.numel() for p in model.net.parameters()),
        "before_mb": before,
        "first_step_mb": held[0],
        "last_step_mb": held[-1],
        "peak_mb": peak_of_process(),
    }


def anonymous_of_process() -> float:
    """Return the anonymous resident memory of this process in MB; its peak where the kernel does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return peak_of_process()
    line = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def main(words: list[str]) -> None:
    """Measure one table and print a JSON line."""
    import torch

    torch.set_num_threads(1)
    start = time.perf_counter()
    data = TABLES[words[0]](int(words[1]))
    made = time.perf_counter() - start
    print(json.dumps({"table_seconds": made, **measure(data)}))


if __name__ == "__main__":
    main(sys.argv[1:])
