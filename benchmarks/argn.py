"""TabularARGN against mostlyai-engine, and on wide and tall tables.

run: python -m benchmarks.argn [--quick] [--no-peer] [--json PATH]

Both systems train on the same table with noise multiplier 1.5 and clip 1, each in a fresh process of one
thread, and take turns. mostlyai-engine is installed into a virtual environment of its own, which shares the
numerical libraries of this one; it is left out with a message where that fails.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console

from benchmarks.argn_own import census
from benchmarks.argn_sizes import tall
from benchmarks.argn_step import size_rows, step_rows
from benchmarks.harness import Row, show
from benchmarks.peers.environment import Peer, PeerMissing, ask, python_of

ENGINE = Peer(
    name="mostlyai-engine",
    package="mostlyai-engine==2.7.3",
    needs=(
        "transformers>=5.5.3",
        "datasets>=3",
        "peft>=0.18.2",
        "accelerate>=1.5",
        "json-repair>=0.60.1",
        "joblib>=1.4.2",
        "psutil<6",
    ),
    module="mostlyai.engine",
)
GROUP = "1. against mostlyai-engine 2.7.3"
KINDS = ("dp", "plain")
Figures = dict[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Sizes:
    """How much work the benchmark does.

    Args:
        turns: Runs of each system and kind.
        steps: Steps of one of our runs.
        sample: Rows of one sample of either system.
        repeats: Turns of the clock within a process.
        wide: Columns of the wide table.
        levels: Categories of the large column.
        tall: Rows of the small and of the large table.
    """

    turns: int = 2
    steps: int = 150
    sample: int = 20_000
    repeats: int = 60
    wide: int = 300
    levels: int = 50_000
    tall: tuple[int, int] = (100_000, 10_000_000)


QUICK = Sizes(turns=1, steps=60, sample=10_000, repeats=20, wide=100, tall=(10_000, 1_000_000))


def races(sizes: Sizes, rows: int | None, peer: Path | None, say: Say) -> dict[str, list[Figures]]:
    """Run both systems in turns, with DP and without; figures by ``ours dp``, ``engine plain`` and so on."""
    found: dict[str, list[Figures]] = {}
    own = [str(sizes.steps), str(sizes.sample), *([] if rows is None else [str(rows)])]
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.parquet"
        plain_frame(census(rows)[0].train).to_parquet(table)
        for turn in range(sizes.turns):
            for kind in KINDS:
                say(f"training, {kind}, turn {turn + 1} of {sizes.turns}")
                ours = ask(Path(sys.executable), "benchmarks.argn_own", [kind, *own])
                found.setdefault(f"ours {kind}", []).append(ours)
                if peer is not None:
                    words = [str(table), kind, "1", str(sizes.sample)]
                    theirs = ask(peer, "benchmarks.peers.mostly_engine", words)
                    found.setdefault(f"engine {kind}", []).append(theirs)
    return found


def plain_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a typed table with its categories as text, as a user of another system would have it."""
    kinds = {name: "str" for name, kind in frame.dtypes.items() if kind == "category"}
    return frame.astype(kinds)


def race_rows(found: dict[str, list[Figures]]) -> list[Row]:
    """Return the speeds of both systems and what one is of the other, turn by turn."""
    rows = []
    for name, figures in found.items():
        speed = _median(figures, "train_rows_per_second")
        note = f"{_median(figures, 'step_ms'):.3g} ms for {_median(figures, 'batch'):.0f} rows"
        rows.append(Row(GROUP, f"training, {name}", speed, "rows/s", note=note))
    for name, figures in found.items():
        speed = _median(figures, "sample_rows_per_second")
        rows.append(Row(GROUP, f"sampling, {name}", speed, "rows/s"))
    for name, figures in found.items():
        note = f"{_median(figures, 'train_mb'):.0f} MB when trained"
        rows.append(Row(GROUP, f"peak memory, {name}", _median(figures, "sample_mb"), "MB", note=note))
    if "engine dp" not in found:
        return rows
    for kind in KINDS:
        ours, theirs = found[f"ours {kind}"], found[f"engine {kind}"]
        aim = "aim: at least 20" if kind == "dp" else ""
        rows.append(_times(f"training, {kind}: ours / engine", ours, theirs, "train_rows_per_second", aim))
    ours, theirs = found["ours dp"], found["engine dp"]
    rows.append(_times("sampling: ours / engine", ours, theirs, "sample_rows_per_second", "aim: at least 1"))
    rows.append(_times("peak memory: ours / engine", ours, theirs, "sample_mb", "aim: below 1"))
    return rows


def _median(figures: Sequence[Figures], name: str) -> float:
    return statistics.median(float(one[name]) for one in figures)


def _times(what: str, ours: Sequence[Figures], theirs: Sequence[Figures], name: str, aim: str) -> Row:
    ratios = [float(a[name]) / float(b[name]) for a, b in zip(ours, theirs, strict=True)]
    return Row(GROUP, what, statistics.median(ratios), "x", note=aim)


def table_rows(group: str, words: Sequence[str]) -> list[Row]:
    """Return what one generated table took, in a fresh process; see :mod:`benchmarks.argn_sizes`."""
    found = ask(Path(sys.executable), "benchmarks.argn_sizes", words)
    note = (
        f"{found['parameters']:,} parameters; {1000 * found['prepare_seconds']:.0f} ms before the first step"
    )
    grown = found["last_step_mb"] - found["first_step_mb"]
    held = f"growth over the steps; {found['before_mb']:.0f} MB before, {found['peak_mb']:.0f} MB at most"
    name = f"{words[0]} {int(words[1]):,}"
    return [
        Row(group, f"{name}: step of 1,024 rows", found["step_ms"], "ms", note=note),
        Row(group, f"{name}: sample of 1,000 rows", 1000 * found["sample_seconds"], "ms"),
        Row(group, f"{name}: memory", grown, "MB", note=held),
    ]


def measure(sizes: Sizes, rows: int | None, peer: Path | None, say: Say = lambda text: None) -> list[Row]:
    """Return every row; ``say`` is told what is measured next."""
    found = race_rows(races(sizes, rows, peer, say))
    say("parts of a step")
    found += step_rows(census(rows)[0], sizes.repeats)
    say("wide tables")
    found += table_rows("4. wide tables", ["wide", str(sizes.wide)])
    found += table_rows("4. wide tables", ["levels", str(sizes.levels)])
    for count in sizes.tall:
        say(f"{count:,} rows")
        found += table_rows("5. tall tables", ["tall", str(count)])
    return found + size_rows(tall(sizes.tall[0]), tall(sizes.tall[1]), sizes.repeats)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write it as JSON on request."""
    parser = argparse.ArgumentParser(description="Speed and memory of TabularARGN.")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, one turn")
    parser.add_argument(
        "--no-peer", action="store_true", help="leave mostlyai-engine out; nothing is installed"
    )
    parser.add_argument("--rows", type=int, help="rows of a generated table, instead of the census")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console, start, peer, remark = Console(), time.perf_counter(), None, ""
    with console.status("measuring") as status:
        if not options.no_peer:
            status.update(f"installing {ENGINE.name}")
            try:
                peer = python_of(ENGINE)
            except PeerMissing as error:
                remark = str(error)
        rows = measure(QUICK if options.quick else Sizes(), options.rows, peer, status.update)
    show(rows, console)
    console.print(remark or f"{time.perf_counter() - start:.0f} s, one thread, torch {torch.__version__}")
    if options.json is not None:
        text = json.dumps([row.to_dict() for row in rows], indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
