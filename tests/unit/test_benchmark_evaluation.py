"""The benchmark of the evaluation reports every metric; how fast anything is, is not a test."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def test_every_default_metric_is_reported_as_a_multiple_of_the_reference(tmp_path):
    from benchmarks import evaluation

    evaluation.main(["--rows", "200", "--no-qa", "--json", str(tmp_path / "rows.json")])
    rows = json.loads((tmp_path / "rows.json").read_text())
    names = {row["what"] for row in rows}
    assert {"tvd_3way", "accuracy", "c2st", "tstr_lr", "tstr_hgb", "validity", "whole"} <= names
    assert all(math.isfinite(row["value"]) and row["value"] >= 0 for row in rows)
    parts = sum(row["value"] for row in rows[1:-1])
    assert parts <= rows[-1]["value"]


def test_without_the_other_package_the_benchmark_says_so_and_goes_on(monkeypatch):
    from benchmarks import evaluation

    from dpforge.evaluation import TabularEvaluation

    def fail(place):
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(evaluation, "_environment", fail)
    data, name = evaluation.census(120)
    rows, remark = evaluation.measure(data, TabularEvaluation(metrics=["tvd_1way"]), qa=True)
    assert "mostlyai-qa left out" in remark
    assert "generated" in name
    assert [row.what for row in rows][1:] == ["tvd_1way", "whole"]
