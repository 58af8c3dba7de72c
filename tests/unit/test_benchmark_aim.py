"""The benchmark of AIM compares like with like and goes on without the peer; speed is not a test."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dpforge.config import build, compose
from dpforge.data.columns import Bounds, Categories, Column
from dpforge.data.schema import Schema
from dpforge.data.table import violations
from dpforge.errors import DPForgeError

ROOT = Path(__file__).parents[2]
FAST = ["model.max_rounds=3", "model.round_iterations=3", "model.iterations=5"]
SCHEMA = Schema(
    "small",
    100,
    (
        Column("age", "integer", bounds=Bounds(17, 90)),
        Column("kind", "categorical", categories=Categories(("a", "b")), unseen="drop"),
    ),
)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def figures(scale=1.0):
    names = ("fit_seconds", "sample_seconds", "memory_mb", "2-way TVD", "AUROC, LR", "AUROC, HGB")
    return {name: scale * (place + 1) for place, name in enumerate(names)}


def test_our_run_writes_a_valid_sample_of_as_many_rows_at_the_stated_budget(tmp_path):
    from benchmarks.aim import own

    words = ["dataset=toy", "dataset.rows=400", "dataset.holdout_fraction=0.5"]
    data = build(compose(words)).dataset.load()
    found = own([*words, *FAST], tmp_path / "ours.csv")
    assert min(found.values()) > 0
    drawn = pd.read_csv(tmp_path / "ours.csv")
    assert len(drawn) == len(data.train)
    assert list(drawn.columns) == list(data.schema.names)


def test_a_sample_is_scored_as_the_table_it_was_written_from(tmp_path):
    from benchmarks.aim import SCORES, scored

    from dpforge.evaluation import TabularEvaluation

    data = build(compose(["dataset=toy", "dataset.rows=400"])).dataset.load()
    other = data.train.sample(frac=1.0, replace=True, random_state=np.random.RandomState(0))
    other = other.reset_index(drop=True)
    assert not any(violations(other, data.schema).values())
    other.to_csv(tmp_path / "other.csv", index=False)
    found = scored(data, tmp_path / "other.csv")
    direct = TabularEvaluation(metrics=["tvd_2way", "tstr"]).evaluate(
        data.train, data.holdout, other, data.schema
    )
    assert found == pytest.approx({name: direct.metrics[key] for name, key in SCORES.items()})


def test_the_peer_is_told_the_public_domain_and_nothing_else():
    from benchmarks.aim import public_domain

    assert public_domain(SCHEMA) == {"age": {"lower": 17, "upper": 90}, "kind": {"categories": ["a", "b"]}}
    dates = Schema("dates", 100, (Column("day", "datetime", bounds=Bounds("2020-01-01", "2021-01-01")),))
    with pytest.raises(DPForgeError, match="'day' is a datetime"):
        public_domain(dates)


def test_the_peer_gets_the_training_rows_and_a_budget_that_adds_up_to_ours(monkeypatch, tmp_path):
    from benchmarks import aim

    asked = {}

    def ask(python, module, arguments, minutes):
        asked.update(module=module, words=list(arguments), table=pd.read_csv(arguments[0]))
        return {}

    monkeypatch.setattr(aim, "ask", ask)
    monkeypatch.setattr(aim, "public_domain", lambda schema: {})
    data = build(compose(["dataset=toy", "dataset.rows=100"])).dataset.load()
    aim.peer(Path("python"), data, tmp_path / "theirs.csv")
    assert asked["module"] == "benchmarks.peers.dpmm"
    assert asked["words"][2] == str(tmp_path / "theirs.csv")
    assert math.fsum(map(float, asked["words"][3:])) == pytest.approx(aim.EPSILON)
    assert len(asked["table"]) == len(data.train)


def test_ratios_are_ours_over_theirs_and_differences_of_auroc_are_what_we_lack():
    from benchmarks.aim import rows_of

    ours, theirs = figures(), {**figures(2.0), "AUROC, LR": 4.5}
    rows = {row.what: row for row in rows_of({"ours": ours, "dpmm": theirs})}
    assert rows["fit: ours / dpmm"].value == rows["2-way TVD: ours / dpmm"].value == 0.5
    assert rows["AUROC, LR: dpmm - ours"].value == -0.5
    assert all(row.aim is not None for name, row in rows.items() if "dpmm" in name and ":" in name)
    assert not [row for row in rows_of({"ours": ours}) if "dpmm" in row.what]


def test_without_the_peer_the_benchmark_says_so_and_reports_our_run(monkeypatch, tmp_path, capsys):
    from benchmarks import aim
    from benchmarks.peers.environment import PeerMissing

    def missing(peer):
        raise PeerMissing(f"{peer.package} left out: no network")

    monkeypatch.setattr(aim, "python_of", missing)
    aim.main(["--rows", "400", "--json", str(tmp_path / "rows.json"), *FAST])
    rows = {row["what"]: row["value"] for row in json.loads((tmp_path / "rows.json").read_text())}
    scores = {"2-way TVD, ours", "AUROC, LR, ours", "AUROC, HGB, ours"}
    assert scores | {"fit, ours", "fit, ours: foreseen / taken"} == set(rows)
    assert all(math.isfinite(value) and value > 0 for value in rows.values())
    assert "dpmm==0.1.9 left out: no network" in " ".join(capsys.readouterr().out.split())


def test_a_peer_that_fails_is_left_out_with_its_reason(monkeypatch):
    from benchmarks import aim
    from benchmarks.peers.environment import PeerMissing

    def ask(python, module, arguments, minutes):
        if python != Path(sys.executable):
            raise PeerMissing(f"{module} did not finish: killed")
        return {"fit_seconds": 1.0, "sample_seconds": 1.0, "memory_mb": 1.0}

    monkeypatch.setattr(aim, "ask", ask)
    monkeypatch.setattr(aim, "scored", lambda data, sample: {"2-way TVD": 0.1})
    monkeypatch.setattr(aim, "public_domain", lambda schema: {})
    found, remark = aim.race(["dataset=toy", "dataset.rows=100"], Path("elsewhere"))
    assert list(found) == ["ours"]
    assert "did not finish: killed" in remark
