"""AIM against dpmm's AIM: fit time, 2-way TVD and AUROC at equal epsilon on the same rows.

run: python -m benchmarks.aim [--rows N] [--no-peer] [--json PATH]

The table is a random half of the census (24,421 rows) if it is at hand, else a generated one. Each system
fits once at epsilon 1, delta 1e-5, in a fresh process of one thread, and samples as many rows; both samples
get the same scores. dpmm gets the same public bounds and categories, and spends 0.1 of its epsilon on bins,
as it does by default. It is installed into a virtual environment of its own and left out with a message
where that fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from benchmarks.fixtures import lend_access
from benchmarks.harness import Row
from benchmarks.memory import peak_of_process
from benchmarks.peers.environment import Peer, PeerMissing, ask, python_of
from dpforge.config import build, compose
from dpforge.data import Dataset, Schema
from dpforge.data.table import conform
from dpforge.errors import DPForgeError
from dpforge.evaluation import TabularEvaluation
from dpforge.generators.base import RunContext

EPSILON, DELTA = 1.0, 1e-5
PEER_BINS = 0.1  # of dpmm's epsilon; its own default
MINUTES = 60
DPMM = Peer(
    name="dpmm",
    package="dpmm==0.1.9",
    # Its own pins, which differ from the libraries here: it runs on what it was made for.
    needs=(
        "numpy==1.26.4",
        "pandas==2.1.0",
        "scikit-learn==1.5.0",
        "scipy>=1.15.2,<2",
        "opendp==0.12.1",
        "networkx<3",
        "disjoint-set==0.7.4",
        "tqdm>=4.67.1",
    ),
    module="dpmm.pipelines",
)
SCORES = {
    "2-way TVD": "fidelity/tvd_2way",
    "AUROC, LR": "utility/tstr_auroc_lr",
    "AUROC, HGB": "utility/tstr_auroc_hgb",
}
GROUP = "AIM, epsilon 1, delta 1e-5"
Figures = dict[str, Any]


def table_words(rows: int | None) -> list[str]:
    """Return the overrides of the census half, or of ``rows`` generated rows where it is not at hand."""
    if rows is None:
        words = ["dataset=census", "dataset.holdout_fraction=0.5"]
        try:
            _load(words)
        except DPForgeError:
            rows = 48_842
        else:
            return words
    return ["dataset=toy", f"dataset.rows={rows}", "dataset.holdout_fraction=0.5"]


def _load(words: Sequence[str]) -> Dataset:
    return build(compose([*words, "model=aim", "logger=csv"])).dataset.load()


def own(words: Sequence[str], target: Path) -> Figures:
    """Fit ``model=aim`` once, sample into ``target`` (CSV), and return seconds and peak memory in MB.

    The seconds that the model foresees from the public schema are returned beside those it took.

    Args:
        words: Overrides: the data set, and settings of the model.
        target: CSV to write.
    """
    budget = [f"privacy.target_epsilon={EPSILON:g}", f"privacy.delta={DELTA:g}"]
    built = build(compose([*words, "model=aim", *budget, "logger=csv"]))
    data = built.dataset.load()
    plan = built.model.plan(data.schema, built.privacy)
    foreseen = built.model.forecast(data.schema, plan)
    with tempfile.TemporaryDirectory() as folder, lend_access(plan) as access:
        run = RunContext(access, built.privacy, built.runtime, seed=0, checkpoints=Path(folder))
        start = time.perf_counter()
        model = built.model.fit(data, run)
        fitted = time.perf_counter()
    begin = time.perf_counter()
    drawn = model.sample(len(data.train), np.random.default_rng(0))
    sampled = time.perf_counter() - begin
    drawn.to_csv(target, index=False)
    figures = {"fit_seconds": fitted - start, "sample_seconds": sampled, "memory_mb": peak_of_process()}
    return figures if foreseen is None else {**figures, "foreseen_seconds": foreseen.seconds}


def public_domain(schema: Schema) -> dict[str, dict[str, Any]]:
    """Return the public bounds and categories of a schema in dpmm's words.

    Raises:
        DPForgeError: A column is a datetime, which dpmm has no public bounds for.
    """
    found: dict[str, dict[str, Any]] = {}
    for column in schema.columns:
        if column.kind == "datetime":
            raise DPForgeError(f"column '{column.name}' is a datetime; dpmm takes no public bounds for one.")
        if column.bounds is None:
            found[column.name] = {"categories": list(column.levels)}
        else:
            found[column.name] = {"lower": column.bounds.min, "upper": column.bounds.max}
    return found


def peer(python: Path, data: Dataset, target: Path) -> Figures:
    """Fit dpmm's AIM once on the same rows, with the same total epsilon.

    Raises:
        PeerMissing: It failed or took too long.
    """
    place = target.parent
    data.train.to_csv(place / "table.csv", index=False)
    (place / "domain.json").write_text(json.dumps(public_domain(data.schema)), encoding="utf-8")
    words = [str(place / "table.csv"), str(place / "domain.json"), str(target)]
    split = [str(EPSILON - PEER_BINS), str(PEER_BINS)]
    return ask(python, "benchmarks.peers.dpmm", [*words, *split], minutes=MINUTES)


def scored(data: Dataset, sample: Path) -> Figures:
    """Return the scores of a sample, by name."""
    drawn = conform(pd.read_csv(sample, dtype=str, keep_default_na=False), data.schema)
    metrics = (
        TabularEvaluation(metrics=["tvd_2way", "tstr"])
        .evaluate(data.train, data.holdout, drawn, data.schema)
        .metrics
    )
    return {name: metrics[key] for name, key in SCORES.items() if key in metrics}


def race(words: Sequence[str], python: Path | None) -> tuple[dict[str, Figures], str]:
    """Run ours, then dpmm unless ``python`` is None; figures and scores by name, and why one is missing."""
    data, remark = _load(words), ""
    found: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "ours.csv"
        ours = ask(Path(sys.executable), "benchmarks.aim", ["--own", str(target), *words], minutes=MINUTES)
        found["ours"] = {**ours, **scored(data, target)}
        if python is not None:
            target = Path(folder) / "dpmm.csv"
            try:
                theirs = peer(python, data, target)
                found["dpmm"] = {**theirs, **scored(data, target)}
            except (PeerMissing, DPForgeError) as error:
                remark = f"dpmm left out: {error}"
    return found, remark


def rows_of(found: Mapping[str, Figures]) -> list[Row]:
    """Return every figure as a row, and what ours is of dpmm's."""
    rows = []
    for name, figures in found.items():
        note = f"{figures['memory_mb']:.0f} MB at most; sampling {figures['sample_seconds']:.1f} s"
        rows.append(Row(GROUP, f"fit, {name}", figures["fit_seconds"], "s", note=note))
        if "foreseen_seconds" in figures:
            share = figures["foreseen_seconds"] / figures["fit_seconds"]
            rows.append(Row(GROUP, f"fit, {name}: foreseen / taken", share, "x", note="public sizes only"))
    rows += [
        Row(GROUP, f"{score}, {name}", figures[score], "")
        for score in SCORES
        for name, figures in found.items()
        if score in figures
    ]
    if "dpmm" not in found:
        return rows
    ours, theirs = found["ours"], found["dpmm"]
    rows.append(Row(GROUP, "fit: ours / dpmm", ours["fit_seconds"] / theirs["fit_seconds"], "x", aim=1.0))
    tvd = "2-way TVD"
    rows.append(Row(GROUP, f"{tvd}: ours / dpmm", ours[tvd] / theirs[tvd], "x", aim=1.0))
    for score in SCORES:
        if score != tvd and score in ours and score in theirs:
            rows.append(Row(GROUP, f"{score}: dpmm - ours", theirs[score] - ours[score], "", aim=0.0))
    return rows


def shown(rows: Sequence[Row]) -> Table:
    """Return the rows as a table for the terminal."""
    table = Table("what", "value", "aim", "behind it", title=GROUP)
    for row in rows:
        aim = "" if row.aim is None else f"<= {row.aim:g}"
        table.add_row(row.what, f"{row.value:.4g} {row.unit}".strip(), aim, row.note)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write it as JSON on request."""
    parser = argparse.ArgumentParser(description="AIM against dpmm's AIM at equal epsilon.")
    parser.add_argument("--rows", type=int, help="rows of a generated table, instead of the census half")
    parser.add_argument("--no-peer", action="store_true", help="leave dpmm out; nothing is installed")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--own", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="settings of model=aim")
    options = parser.parse_args(arguments)
    if options.own is not None:
        print(json.dumps(own(options.words, options.own)))
        return
    console, python, remark = Console(), None, ""
    if not options.no_peer:
        try:
            python = python_of(DPMM)
        except PeerMissing as error:
            remark = str(error)
    found, said = race([*table_words(options.rows), *options.words], python)
    rows = rows_of(found)
    console.print(shown(rows))
    if remark or said:
        console.print(remark or said)
    if options.json is not None:
        options.json.write_text(
            json.dumps([row.to_dict() for row in rows], indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
