"""The benchmark of TabularARGN runs and compares like with like; how fast anything is, is not a test."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dpforge.nets.drawing import raked

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def figures(scale=1.0):
    names = ("step_ms", "batch", "train_rows_per_second", "sample_rows_per_second", "train_mb", "sample_mb")
    return {name: scale * (place + 1) for place, name in enumerate(names)}


@pytest.mark.parametrize("private", [True, False])
def test_our_run_reports_speed_and_memory_of_training_and_sampling(private):
    from benchmarks.argn_own import census, measure

    data, _ = census(300)
    found = measure(data, private, steps=5, rows=50, expected_batch_size=32)
    assert all(math.isfinite(value) and value > 0 for value in found.values())
    assert found["train_rows_per_second"] == pytest.approx(1000 * found["batch"] / found["step_ms"])
    assert found["sample_mb"] >= found["train_mb"] >= found["before_mb"]


def test_the_parts_of_a_step_are_shares_of_it_and_its_arithmetic_counts_every_product():
    from benchmarks.argn_own import census
    from benchmarks.argn_step import _flops, ready, step_rows

    data, _ = census(300)
    rows = step_rows(data, 3, expected_batch_size=32)
    parts = [row.value for row in rows if row.unit == "%"]
    assert len(parts) == 9
    assert min(parts) >= 0
    assert all(row.value > 0 for row in rows if row.unit == "ratio")
    with ready(data, expected_batch_size=32) as start:
        net = start.net
    o, i = net.direct.weight.shape
    k = net.direct.mask_factors[0].shape[0]
    by_hand = sum(2 * table.shape[0] * table.shape[1] for table in net.outputs) + 2 * o * i + k * o + k * i
    assert _flops(net, 10) == 20 * by_hand


def test_ratios_are_taken_turn_by_turn_so_that_a_slow_turn_does_not_move_them():
    from benchmarks.argn import race_rows

    found = {}
    for speed in (1.0, 10.0, 10.0):
        for kind in ("dp", "plain"):
            found.setdefault(f"ours {kind}", []).append(figures(30 * speed))
            found.setdefault(f"engine {kind}", []).append(figures(speed))
    times = {row.what: row.value for row in race_rows(found) if row.unit == "x"}
    assert len(times) == 4
    assert all(value == pytest.approx(30) for value in times.values())


@pytest.mark.parametrize("installed", [True, False])
def test_a_peer_that_does_not_install_is_left_out_with_its_reason(installed, monkeypatch, tmp_path, capsys):
    from benchmarks import argn
    from benchmarks.peers.environment import PeerMissing

    def python_of(peer):
        if installed:
            return Path("python-of-the-peer")
        raise PeerMissing(f"{peer.package} left out: no matching distribution")

    asked = []

    def ask(python, module, words):
        asked.append((str(python), module))
        more = {"parameters": 1, "prepare_seconds": 1.0, "sample_seconds": 1.0, "first_step_mb": 1.0}
        return {**figures(), **more, "last_step_mb": 1.0, "before_mb": 1.0, "peak_mb": 1.0}

    monkeypatch.setattr(argn, "python_of", python_of)
    monkeypatch.setattr(argn, "ask", ask)
    monkeypatch.setattr(argn, "QUICK", argn.Sizes(turns=1, steps=3, sample=10, repeats=2, tall=(2000, 3000)))
    argn.main(["--quick", "--rows", "300", "--json", str(tmp_path / "rows.json")])
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert {row["group"][0] for row in rows} == set("12345")
    assert ("no matching distribution" in capsys.readouterr().out) is not installed
    assert (("python-of-the-peer", "benchmarks.peers.mostly_engine") in asked) is installed
    assert any("ours / engine" in row["what"] for row in rows) is installed


def test_an_environment_that_fails_half_way_is_not_used_and_says_why(monkeypatch, tmp_path):
    from benchmarks.peers import environment

    def fail(peer, folder, python):
        folder.mkdir(parents=True)
        raise subprocess.CalledProcessError(1, ["pip"], stderr="some lines\nERROR: no such version\n")

    monkeypatch.setenv("DPFORGE_CACHE", str(tmp_path))
    monkeypatch.setattr(environment, "_install", fail)
    peer = environment.Peer("peer", "peer==1", (), "peer")
    for _ in range(2):
        with pytest.raises(environment.PeerMissing, match="peer==1 left out: ERROR: no such version"):
            environment.python_of(peer)
    monkeypatch.setattr(environment, "_install", lambda peer, folder, python: folder.mkdir(parents=True))
    assert environment.python_of(peer).is_relative_to(tmp_path / "peers")
    monkeypatch.setattr(environment, "_install", fail)
    environment.python_of(peer)  # made once


def test_a_peer_that_fails_to_run_is_named_with_the_last_line_of_its_error():
    from benchmarks.peers.environment import PeerMissing, ask

    with pytest.raises(PeerMissing, match=r"benchmarks\.absent did not finish: .*No module named"):
        ask(Path(sys.executable), "benchmarks.absent", [])


def test_the_other_system_gets_categories_as_text_and_the_same_values():
    from benchmarks.argn import plain_frame
    from benchmarks.argn_own import census

    train = census(50)[0].train
    plain = plain_frame(train)
    assert not any(isinstance(kind, pd.CategoricalDtype) for kind in plain.dtypes)
    for name in train.columns:
        assert plain[name].isna().equals(train[name].isna())
        assert (plain[name].dropna() == train[name].dropna().astype(plain[name].dtype)).all()


def test_wide_and_tall_tables_are_trained_on_and_sampled():
    from benchmarks.argn_sizes import measure, tall, wide

    for data in (wide(24, 300), tall(2000, 4)):
        found = measure(data, steps=5, sample=20)
        assert all(math.isfinite(value) and value >= 0 for value in found.values())
        assert found["parameters"] > 0


def test_a_column_of_fifty_thousand_categories_works_end_to_end():
    from benchmarks.argn_own import lend_run
    from benchmarks.argn_sizes import levels

    from dpforge.generators.tabular_argn import TabularARGN

    data = levels(50_000, rows=2000)
    generator = TabularARGN(steps=3)
    with lend_run(generator, data.schema, private=True) as run:
        model = generator.fit(data, run)
    drawn = model.sample(200, np.random.default_rng(0))
    assert drawn["large"].nunique() > 100
    assert set(drawn["large"]) <= set(data.schema.column("large").levels)
    assert max(model.net.sizes) < 1000


def test_raking_equals_repeated_scaling_of_normalised_probabilities():
    torch.manual_seed(0)
    logits, mass = 2 * torch.randn(500, 7), torch.softmax(torch.randn(7), 0)
    logits[:, 3] = -torch.inf
    expected = logits.double()
    for _ in range(10):
        mean = torch.softmax(expected, 1).mean(0)
        expected = expected + (mass.double() / mean.clamp_min(1e-12)).log()
    found = raked(logits, mass)
    torch.testing.assert_close(
        torch.softmax(found.double(), 1), torch.softmax(expected, 1), atol=1e-4, rtol=0
    )
    assert bool((found[:, 3] == -torch.inf).all())


def test_raking_reaches_the_marginal_where_every_code_is_possible():
    torch.manual_seed(1)
    logits, mass = torch.randn(4000, 5), torch.softmax(torch.randn(5), 0)
    reached = torch.softmax(raked(logits, mass), 1).mean(0)
    torch.testing.assert_close(reached, mass, atol=1e-4, rtol=0)
    assert raked(logits[:0], mass).shape == (0, 5)
