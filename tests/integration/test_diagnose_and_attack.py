"""``dpforge-diagnose RUN`` and ``dpforge-evaluate RUN --shadow``: more about a finished run, all private."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats
from whole_runs import certificate, only_run

from dpforge import verify
from dpforge.cli import diagnose, evaluate
from dpforge.data import ToySource
from dpforge.experiment import plots_columns, plots_dependence
from dpforge.experiment.diagnostics import latent_facts
from dpforge.privacy.ledger import Ledger

pytestmark = [pytest.mark.integration]

COMMON = ("logger=csv", "evaluation=quick", "evaluation.metrics=[tvd_1way]", "dataset.rows=400", "study=s")
FLOW = ("experiment=smoke", "model.hidden=[8]", "privacy.target_epsilon=null", "privacy.noise_multiplier=2")


@pytest.fixture
def run(place, command, no_pictures, monkeypatch):
    """A finished run of a small flow in the working directory; slow pictures are replaced."""
    monkeypatch.setattr(plots_columns, "histograms", lambda *_: None)
    monkeypatch.setattr(plots_dependence, "latent_pairs", lambda u, names, path: path.write_bytes(b"drawn"))
    done = command(*FLOW, *COMMON)
    assert done.code == 0, done.err
    return only_run(place)


@pytest.fixture
def simple(place, command, no_pictures):
    """A finished run of independent columns on public rows."""
    assert command("dataset=toy", "model=independent", *COMMON).code == 0
    return only_run(place)


def test_diagnostics_are_drawn_and_recorded_as_private_and_the_certificate_still_verifies(run, command):
    before = certificate(run)
    done = command(run, main=diagnose.main)
    assert done.code == 0, done.err
    assert {path.name for path in (run / "plots").glob("*.png")} == {
        "latent_marginals.png",
        "latent_pairs.png",
    }
    assert "u1 (age)" in done.out
    assert "private" in done.out
    after = certificate(run)
    assert after["tainted_sinks"]["plots/latent_pairs.png"] == ["plots/latent_pairs"]
    assert "latents" in after["tainted_sinks"]["terminal"]
    assert {k: v for k, v in after.items() if k not in ("tainted_sinks", "ledger_hash")} == {
        k: v for k, v in before.items() if k not in ("tainted_sinks", "ledger_hash")
    }
    assert after["ledger_hash"] == Ledger.open(run / "ledger.jsonl").last_hash
    assert command(run, main=verify.main).code == 0
    assert command(run, main=diagnose.main).code == 0
    assert certificate(run) == after


def test_a_model_without_latents_has_its_columns_drawn(simple, command):
    done = command(simple, main=diagnose.main)
    assert done.code == 0, done.err
    assert "no latents" in done.out
    assert len(list((simple / "plots" / "histograms").glob("*.png"))) >= 8


def test_one_run_that_cannot_be_diagnosed_does_not_stop_the_others(run, command, tmp_path):
    (tmp_path / "empty").mkdir()
    done = command(tmp_path / "empty", run, main=diagnose.main)
    assert done.code == 2
    assert "is not a finished run" in done.err
    assert "u1 (age)" in done.out
    assert "is not a run folder" in command("gone", main=diagnose.main).err


def test_other_data_than_those_of_the_run_are_refused(run, command, monkeypatch):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["dataset"]["seed"] = 5
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    done = command(run, main=diagnose.main)
    assert done.code == 2
    assert "not those the run was started with" in done.err
    assert not list((run / "plots").glob("*.png"))


def test_facts_of_latents_are_those_of_scipy_and_a_constant_one_correlates_with_nothing():
    rng = np.random.default_rng(0)
    first = rng.normal(0.3, 1.2, 400)
    values = np.column_stack([first, 0.5 * first + rng.normal(size=400), np.full(400, 2.0)])
    dimensions, largest = latent_facts(values, ["a", "b", "c"])
    expected = stats.ks_1samp(first, stats.norm.cdf)
    assert dimensions[0].statistic == pytest.approx(expected.statistic)
    assert dimensions[0].p_value == pytest.approx(expected.pvalue)
    assert (dimensions[0].mean, dimensions[0].deviation) == pytest.approx((first.mean(), first.std()))
    assert largest == pytest.approx(abs(stats.pearsonr(values[:, 0], values[:, 1]).statistic))
    assert dimensions[2].p_value < 1e-6


def test_the_shadow_attack_writes_private_scores_and_changes_nothing_else(simple, command):
    kept = {p: p.read_bytes() for p in simple.rglob("*") if p.is_file() and p.name != ".lock"}
    done = command(simple, "--shadow", "--targets", "1", "--shadows", "4", main=evaluate.main)
    assert done.code == 0, done.err
    assert "no violation found by the shadow attack" in done.out
    path = simple / "private" / "attack_shadow.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = json.loads(path.read_text())
    assert content["metrics"]["attack/shadow_members"]["value"] == 2
    assert {entry["visibility"] for entry in content["metrics"].values()} == {"private"}
    assert "ε=3" in content["notes"][0]
    assert {p: p.read_bytes() for p in kept} == kept


def test_rows_that_are_not_public_are_never_read_for_a_shadow_attack(place, command, no_pictures):
    ToySource(name="toy", schema="toy", rows=300).load().train.to_csv("own.csv", index=False)
    own = ("dataset=csv", "dataset.path=own.csv", "dataset.schema=toy", "dataset.split_seed=3")
    own += ("model=independent",)
    assert command(*own, *(word for word in COMMON if "rows" not in word)).code == 0
    Path("own.csv").unlink()
    done = command(only_run(place), "--shadow", main=evaluate.main)
    assert done.code == 2
    assert "not marked as a public benchmark" in done.err
    assert "No row was read" in done.err


def test_numbers_out_of_range_and_words_that_do_not_fit_are_told(simple, command):
    done = command(simple, "--shadow", "--targets", "0", "--shadows", "3", main=evaluate.main)
    assert done.code == 2
    assert "--targets 0: expected at least 1" in done.err
    assert "--shadows 3: expected at least 4" in done.err
    assert "--targets needs --shadow" in command(simple, "--targets", "3", main=evaluate.main).err
    words = ("--real", "a.csv", "--synthetic", "b.csv", "--schema", "toy")
    assert "--shadow needs a RUN" in command("--shadow", *words, main=evaluate.main).err
    assert "do not go together" in command("--raw", "--full", *words, main=evaluate.main).err


def test_generated_tables_count_as_public():
    assert ToySource(rows=50).load().public_benchmark
