"""The benchmarks run and report every row; how fast anything is, is not a test."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def tiny():
    from benchmarks.dpsgd import QUICK
    from benchmarks.fixtures import Preset, affine_flow, piecewise_flow

    return replace(
        QUICK,
        presets=(
            (Preset("piecewise", 3, partial(piecewise_flow, 3, 4, 2)), 2, None),
            (Preset("affine", 3, partial(affine_flow, 3, 8, 1, 1.5)), 2, 4),
        ),
        batches=(16,),
        turns=2,
        noise=100,
        table_rows=(100, 1_000),
        logical_batches=(32,),
        microbatch=8,
        train_steps=3,
        sample_rows=20,
    )


def test_every_benchmark_reports_finite_numbers_for_every_network(monkeypatch, tmp_path):
    from benchmarks import dpsgd

    monkeypatch.setattr(dpsgd, "QUICK", tiny())
    dpsgd.main(["--quick", "--json", str(tmp_path / "rows.json")])
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert {row["group"][0] for row in rows} == set("12345678")
    assert all(math.isfinite(row["value"]) and row["value"] >= 0 for row in rows)
    assert all(row["value"] > 0 for row in rows if row["unit"] in ("ratio", "rows/s"))
    for number in "1238":
        shown = " ".join(row["group"] + row["what"] for row in rows if row["group"].startswith(number))
        assert "piecewise" in shown
        assert "affine" in shown
    engines = {row["what"].split(", ")[2].split()[0] for row in rows if row["group"].startswith("1")}
    assert engines == {"ghost", "hooks"}


def test_contenders_are_called_in_turns_and_only_counted_after_the_warm_up():
    from benchmarks.harness import in_turns

    calls = []
    laps = in_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3, warmup=1)
    assert "".join(calls) == "abababab"
    assert {name: len(values) for name, values in laps.seconds.items()} == {"a": 3, "b": 3}


def test_a_ratio_is_the_median_over_turns_so_a_slow_phase_does_not_move_it():
    from benchmarks.harness import Laps

    laps = Laps({"a": [2.0, 2.0, 20.0, 20.0, 20.0], "b": [1.0, 1.0, 10.0, 10.0, 1.0]})
    assert laps.ratio("a", "b") == 2.0
    assert laps.median("a") == 20.0


def test_the_table_names_each_group_once_and_shows_aims():
    from benchmarks.harness import Row, show

    text = io.StringIO()
    rows = [Row("first", "x", 1.5, "ratio", 1.6), Row("first", "y", 2.0, "MB"), Row("second", "z", 3.0, "%")]
    show(rows, Console(file=text, width=100))
    shown = text.getvalue()
    assert shown.count("first") == 1
    assert shown.count("second") == 1
    assert "<= 1.6" in shown
