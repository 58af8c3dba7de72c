"""All benchmarks of DP training in one table.   run: python -m benchmarks.dpsgd [--quick] [--json PATH]"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.breakdown import breakdown_rows
from benchmarks.fixtures import DEFAULT, SEED_PAPER, SMALL, Preset
from benchmarks.harness import Row, show
from benchmarks.memory import memory_rows
from benchmarks.parts import data_rows, noise_rows, record_rows, size_rows
from benchmarks.steps import race, step_row
from benchmarks.throughput import sampling_rows, training_rows


@dataclass(frozen=True)
class Sizes:
    """How much work the benchmark does.

    Args:
        presets: Networks with the turns of a race on each and the microbatch of hooks.
        batches: Expected rows of a batch.
        turns: Turns of other measurements.
        noise: Normals of one draw.
        table_rows: Numbers of rows N, ascending.
        logical_batches: Points of the memory curve, ascending.
        microbatch: Its microbatch.
        train_steps: Steps of one training run.
        sample_rows: Rows of one sample.
    """

    presets: tuple[tuple[Preset, int, int | None], ...] = (
        (DEFAULT, 40, None),
        (SMALL, 60, None),
        (SEED_PAPER, 20, 16),
    )
    batches: tuple[int, ...] = (256, 512)
    turns: int = 25
    noise: int = 1_000_000
    table_rows: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    logical_batches: tuple[int, ...] = (512, 2_048, 8_192, 32_768)
    microbatch: int = 256
    train_steps: int = 60
    sample_rows: int = 20_000


QUICK = Sizes(
    presets=((DEFAULT, 10, None), (SMALL, 20, None), (SEED_PAPER, 4, 16)),
    batches=(256,),
    turns=10,
    table_rows=(10_000, 100_000, 1_000_000),
    logical_batches=(512, 8_192),
    train_steps=20,
    sample_rows=5_000,
)


def measure(sizes: Sizes, say: Callable[[str], None] = lambda heading: None) -> list[Row]:
    """Return the rows of every benchmark; ``say`` is told what is measured next."""
    rows: list[Row] = []
    networks = [preset for preset, _, _ in sizes.presets]
    batch = sizes.batches[-1]
    for preset, turns, hooks_microbatch in sizes.presets:
        for expected in sizes.batches:
            say(f"steps of {preset.name}, batch {expected}")
            rows.append(step_row(preset, expected, "ghost", turns))
        rows.append(step_row(preset, sizes.batches[0], "hooks", max(turns // 10, 2), hooks_microbatch))
    say("data path, ledger, noise")
    rows += [row for preset in networks for row in data_rows(preset, batch, sizes.turns)]
    rows += [row for preset in networks for row in record_rows(preset, batch, sizes.turns)]
    rows += noise_rows(sizes.noise, sizes.turns)
    say("training and sampling")
    for preset in networks:
        rows += training_rows(preset, batch, sizes.train_steps, 2)
    rows += sampling_rows(sizes.sample_rows, 3)
    say("memory")
    rows += memory_rows(list(sizes.logical_batches), sizes.microbatch)
    say("number of rows")
    rows += size_rows(list(sizes.table_rows), batch, sizes.turns)
    say("breakdown")
    for preset, turns, _ in sizes.presets:
        lightning = race(preset, batch, turns, {"empty": None}).median("empty")
        rows += breakdown_rows(preset, batch, lightning, sizes.turns)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write it as JSON on request."""
    parser = argparse.ArgumentParser(description="Speed and memory of DP training, as ratios from one run.")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, rougher numbers")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: %(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    console, start = Console(), time.perf_counter()
    with console.status("measuring") as status:
        rows = measure(QUICK if options.quick else Sizes(), lambda heading: status.update(heading))
    show(rows, console)
    console.print(
        f"{time.perf_counter() - start:.0f} s, {options.threads} thread(s), torch {torch.__version__}"
    )
    if options.json is not None:
        options.json.write_text(
            json.dumps([row.to_dict() for row in rows], indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
