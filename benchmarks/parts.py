"""What a DP step needs besides arithmetic: data, ledger, metrics file, noise; and how it grows with N."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import torch

from benchmarks.fixtures import (
    NOMINAL_ROWS,
    SMALL,
    EncodedTable,
    Preset,
    batch_steps,
    dp_step,
    encoded_table,
    lend_access,
    training_plan,
)
from benchmarks.harness import Row, in_turns, milliseconds
from dpforge.experiment.tracking_csv import MetricsCsv
from dpforge.privacy.batches import StepBatch
from dpforge.privacy.mechanisms import BLOCK
from dpforge.privacy.rng import fresh_random

MOST_STEPS = 100_000


def endless(table: EncodedTable, batch: int) -> Iterator[StepBatch]:
    """Return Poisson batches of ``batch`` expected rows."""
    return iter(batch_steps(table, fresh_random("entropy"), batch, MOST_STEPS))


def data_rows(preset: Preset, batch: int, repeats: int) -> list[Row]:
    """Return what sampling and gathering a batch costs beside the DP step that uses it."""
    batches = endless(encoded_table(NOMINAL_ROWS, preset.features), batch)
    fixed = [next(batches)]
    with dp_step(preset, batch, MOST_STEPS) as step:
        laps = in_turns({"data": lambda: next(batches), "step": lambda: step(fixed[0])}, repeats)
    percent, note = 100 * laps.ratio("data", "step"), laps.note("data", "step")
    return [Row("2. data path / DP step", f"{preset.name}, batch {batch}", percent, "%", 5.0, note)]


def record_rows(preset: Preset, batch: int, repeats: int) -> list[Row]:
    """Return what reservations (a synced block, divided by 64) and lines of metrics.csv cost a step."""
    fixed = next(endless(encoded_table(NOMINAL_ROWS, preset.features), batch))
    blocks = itertools.count(1)
    lines = itertools.count()
    with ExitStack() as stack:
        step = stack.enter_context(dp_step(preset, batch, BLOCK))
        access = stack.enter_context(lend_access(training_plan(BLOCK * MOST_STEPS, batch / NOMINAL_ROWS)))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        log = MetricsCsv(Path(folder) / "metrics.csv")
        stack.callback(log.close)
        laps = in_turns(
            {
                "block": lambda: access.reserve("train", BLOCK * next(blocks), clip=1.0, normalizer=batch),
                "log": lambda: log.write(
                    next(lines), {"private/train/loss": 1.5, "privacy/epsilon_rdp": 0.5}
                ),
                "step": lambda: step(fixed),
            },
            repeats,
        )
    group = "3. ledger and metrics.csv / DP step"
    rows = []
    for name, what, each in (("block", "ledger", BLOCK), ("log", "one line of metrics.csv", 1)):
        percent = 100 * laps.ratio(name, "step") / each
        note = laps.note(name, "step") + (f" / {each}" if each > 1 else "")
        rows.append(Row(group, f"{what}, {preset.name}, batch {batch}", percent, "%", 1.0, note))
    return rows


def noise_rows(size: int, repeats: int) -> list[Row]:
    """Return the time of ``size`` normals from keyed streams beside torch's generator."""
    steps = itertools.count()
    streams = {kind: fresh_random(kind) for kind in ("entropy", "secure")}

    def draw(kind: str) -> Callable[[], object]:
        return lambda: streams[kind].normal("benchmark", next(steps), size)

    calls = {"torch.randn": lambda: torch.randn(size), **{kind: draw(kind) for kind in streams}}
    laps = in_turns(calls, repeats)
    return [
        Row(
            "4. noise / torch.randn",
            f"{kind}, {size:,} values",
            laps.ratio(kind, "torch.randn"),
            "ratio",
            note=laps.note(kind, "torch.randn"),
        )
        for kind in streams
    ]


def size_rows(sizes: list[int], batch: int, repeats: int) -> list[Row]:
    """Return the cost of a step, data path included, with N rows beside the smallest N."""
    streams = {size: endless(encoded_table(size, SMALL.features), batch) for size in sizes}
    with dp_step(SMALL, batch, MOST_STEPS) as step:
        taken = itertools.count()

        def once(size: int) -> Callable[[], object]:
            return lambda: step(StepBatch(next(taken), next(streams[size]).tensors))

        laps = in_turns({str(size): once(size) for size in sizes}, repeats)
    first = str(sizes[0])
    return [
        Row(
            f"7. step with N rows / step with {sizes[0]:,} rows",
            f"N = {size:,}, {SMALL.name}, batch {batch}",
            laps.ratio(str(size), first),
            "ratio",
            note=milliseconds(laps.median(str(size))),
        )
        for size in sizes
    ]
