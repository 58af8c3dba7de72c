"""Time of an evaluation, by metric.   run: python -m benchmarks.evaluation [--full] [--no-qa] [--json PATH]

The table is the census of 48,842 people and 15 columns if it is at hand, else a generated one; the synthetic
table is a bootstrap of its training rows. Every time is a multiple of one reference: fitting boosted
trees on the training rows and scoring the holdout. mostlyai-qa gets the same three tables in a virtual
environment of its own, which shares the libraries of this one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.harness import Row
from dpforge.config import build, compose
from dpforge.data import Dataset
from dpforge.errors import DPForgeError
from dpforge.evaluation import TabularEvaluation, train_on_test_on
from dpforge.evaluation.suite import METRICS

GROUP = "evaluation"
TABLES = ("train", "holdout", "synthetic")
QA_PACKAGE = "mostlyai-qa==1.10.11"
QA_MINUTES = 10
QA_SCRIPT = """\
import sys, time
import pandas as pd
from mostlyai import qa
train, holdout, synthetic = (pd.read_parquet(path) for path in sys.argv[1:4])
start = time.perf_counter()
qa.report(syn_tgt_data=synthetic, trn_tgt_data=train, hol_tgt_data=holdout, report_path=sys.argv[4])
print(time.perf_counter() - start)
"""


def census(rows: int | None = None) -> tuple[Dataset, str]:
    """The census table with a fifth held out, or a generated one of as many rows; and its name."""
    if rows is None:
        try:
            data = build(
                compose(["dataset=census", "logger=csv", "dataset.holdout_fraction=0.2"])
            ).dataset.load()
            return data, "census, 15 columns"
        except DPForgeError:
            rows = 48_842
    data = build(compose(["dataset=toy", "logger=csv", f"dataset.rows={rows}"])).dataset.load()
    return data, "generated, 8 columns"


def metric_seconds(data: Dataset, evaluation: TabularEvaluation) -> dict[str, float]:
    """Seconds of each metric of one evaluation, in its order, and ``whole`` of all of it."""
    synthetic = data.train.sample(frac=1.0, replace=True, random_state=0).reset_index(drop=True)
    moments: list[tuple[str, float]] = []
    start = time.perf_counter()
    evaluation.evaluate(
        data.train,
        data.holdout,
        synthetic,
        data.schema,
        progress=lambda name, done, total: moments.append((name, time.perf_counter())),
    )
    whole = time.perf_counter() - start
    seconds: dict[str, float] = {}
    for (name, begin), (_, end) in itertools.pairwise(moments):
        seconds[name] = seconds.get(name, 0.0) + end - begin
    return {**seconds, "whole": whole}


def reference_seconds(data: Dataset, turns: int = 3) -> float:
    """Median seconds of fitting boosted trees on the training rows and scoring the holdout."""
    found = []
    for _ in range(turns):
        start = time.perf_counter()
        train_on_test_on(data.train, data.holdout, data.schema, "hgb", seed=0)
        found.append(time.perf_counter() - start)
    return float(np.median(found))


def qa_seconds(data: Dataset) -> float | str:
    """Seconds of the report of mostlyai-qa on the same tables, or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        synthetic = data.train.sample(frac=1.0, replace=True, random_state=0)
        for name, table in zip(TABLES, (data.train, data.holdout, synthetic), strict=True):
            table.to_parquet(place / f"{name}.parquet")
        try:
            python = _environment(place / "venv")
            paths = [*(str(place / f"{name}.parquet") for name in TABLES), str(place / "report.html")]
            done = _called([str(python), "-c", QA_SCRIPT, *paths])
            return float(done.split()[-1])
        except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
            return f"mostlyai-qa left out: it could not be installed or run here ({type(error).__name__})"


def _environment(place: Path) -> Path:
    """A virtual environment with mostlyai-qa that sees the libraries of this one."""
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    where = _called([str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]).strip()
    shared = Path(np.__file__).parents[1]
    (Path(where) / "shared.pth").write_text(f"{shared}\n", encoding="utf-8")
    _called([str(python), "-m", "pip", "install", "-q", QA_PACKAGE])
    return python


def _called(words: Sequence[str]) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=60 * QA_MINUTES).stdout


def measure(data: Dataset, evaluation: TabularEvaluation, *, qa: bool) -> tuple[list[Row], str]:
    """Rows of every metric, of the whole and of mostlyai-qa, as multiples of the reference; and a remark."""
    reference = reference_seconds(data)
    seconds = metric_seconds(data, evaluation)
    remark = ""
    if qa:
        found = qa_seconds(data)
        if isinstance(found, str):
            remark = found
        else:
            seconds["mostlyai-qa, report"] = found
    rows = [Row(GROUP, "reference: one fit of boosted trees", 1.0, "ratio", note=f"{reference:.2f} s")]
    rows += [Row(GROUP, name, s / reference, "ratio", note=f"{s:.2f} s") for name, s in seconds.items()]
    return rows, remark


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write it as JSON on request."""
    parser = argparse.ArgumentParser(description="Time of an evaluation, in fits of boosted trees.")
    parser.add_argument("--full", action="store_true", help="every metric instead of the default ones")
    parser.add_argument("--no-qa", action="store_true", help="leave mostlyai-qa out; nothing is installed")
    parser.add_argument("--rows", type=int, help="rows of a generated table, instead of the census")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args(arguments)
    console = Console()
    data, name = census(options.rows)
    evaluation = TabularEvaluation(metrics=METRICS if options.full else None)
    with console.status("measuring"):
        rows, remark = measure(data, evaluation, qa=not options.no_qa)
    table = Table(title=f"Evaluation of {len(data.train):,} + {len(data.holdout):,} rows ({name})")
    for heading in ("what", "times the reference", "seconds"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for row in rows:
        table.add_row(row.what, f"{row.value:.2f}", row.note)
    console.print(table)
    if remark:
        console.print(remark)
    if options.json is not None:
        text = json.dumps([row.to_dict() for row in rows], indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
