"""``dpforge-sample``: any number of rows of a finished run, in flat memory, without touching run or data."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2_contingency
from whole_runs import certificate, only_run, snapshot

from dpforge.cli import sample
from dpforge.data import ToySource
from dpforge.data.table import read_table, violations, write_table
from dpforge.errors import DataError
from dpforge.experiment import pictures, sampling
from dpforge.generators.independent import FittedIndependent
from dpforge.generators.maf_model import FittedMAF

pytestmark = [pytest.mark.integration]

SCHEMA = ToySource(name="toy", schema="toy", rows=2000, seed=0).public_schema()
COMMON = ("logger=csv", "evaluation=quick", "evaluation.metrics=[tvd_1way]", "study=sampled")
FLOW = (
    "experiment=smoke",
    "model.hidden=[8]",
    "privacy.rng=seeded",
    "privacy.seed=11",
    "privacy.target_epsilon=null",
    "privacy.noise_multiplier=2",
    *COMMON,
)
OWN = (
    "dataset=csv",
    "dataset.split_seed=3",
    "dataset.path=own.csv",
    "dataset.schema=toy",
    "model=independent",
    *COMMON,
)


def finished(place, words):
    """Run the dpforge command in ``place``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(pictures, "draw", lambda *_: None)
        patch.setattr(sys, "argv", ["dpforge", *words])
        for name in ("DPFORGE_CONF_DIGEST", "HYDRA_FULL_ERROR"):
            patch.setenv(name, "restored afterwards")
        from dpforge.cli.main import main

        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code
    return only_run(place)


@pytest.fixture(scope="module")
def flow(tmp_path_factory) -> Path:
    """A finished run of a flow with research noise."""
    return finished(tmp_path_factory.mktemp("flow"), FLOW)


@pytest.fixture(scope="module")
def histograms(tmp_path_factory) -> Path:
    """A finished run on a table of one's own, which is gone."""
    place = tmp_path_factory.mktemp("own")
    write_table(ToySource(name="toy", schema="toy", rows=2000, seed=0).load().train, place / "own.csv")
    run = finished(place, OWN)
    (place / "own.csv").unlink()
    return run


@pytest.fixture
def small_blocks(monkeypatch) -> int:
    """Blocks of 400 rows."""
    monkeypatch.setattr(sampling, "BLOCK", 400)
    return 400


def rows_of(path) -> pd.DataFrame:
    return read_table(path, SCHEMA)[0]


@pytest.mark.parametrize("name", ["flow", "histograms"])
def test_every_format_holds_the_same_valid_rows_and_the_run_is_untouched(
    name, request, place, command, small_blocks
):
    run = request.getfixturevalue(name)
    before = snapshot(run)
    tables = []
    for ending in ("parquet", "csv", "csv.gz"):
        done = command(run, "-n", 1001, "--out", place / f"x.{ending}", main=sample.main)
        assert done.code == 0, done.err
        tables.append(rows_of(place / f"x.{ending}"))
    assert len(tables[0]) == 1001
    assert not any(violations(pd.read_parquet(place / "x.parquet"), SCHEMA).values())
    for other in tables[1:]:
        pd.testing.assert_frame_equal(other, tables[0])
    assert snapshot(run) == before
    assert sorted(path.name for path in place.iterdir()) == ["x.csv", "x.csv.gz", "x.parquet"]


def test_a_parquet_file_keeps_the_types_of_the_runs_own_rows(flow, place, command, small_blocks):
    command(flow, "-n", 900, "--out", "x.parquet", main=sample.main)
    own = pd.read_parquet(flow / "samples" / "synthetic.parquet")
    pd.testing.assert_series_equal(pd.read_parquet("x.parquet").dtypes, own.dtypes)


def test_rows_follow_the_distribution_of_the_runs_own_rows(flow, place, command):
    command(flow, "-n", 8000, "--out", "x.parquet", main=sample.main)
    more, own = (pd.read_parquet(path) for path in ("x.parquet", flow / "samples" / "synthetic.parquet"))
    for name in ("region", "education", "employment", "response"):
        counts = np.stack([frame[name].value_counts(sort=False).to_numpy() for frame in (more, own)])
        counts = counts[:, counts.sum(axis=0) > 0]
        assert chi2_contingency(counts).pvalue > 1e-4, name


def test_a_seed_repeats_its_bytes_and_another_seed_gives_other_rows(flow, place, command, small_blocks):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        for ending in ("csv", "csv.gz", "parquet"):
            command(flow, "-n", 500, "--out", f"{name}.{ending}", "--seed", seed, main=sample.main)
    for ending in ("csv", "csv.gz", "parquet"):
        a, b, c = (Path(f"{name}.{ending}").read_bytes() for name in "abc")
        assert a == b != c
    assert Path("a.csv.gz").read_bytes()[4:8] == bytes(4)  # gzip's time


def test_the_default_seed_does_not_repeat_the_runs_own_rows(flow, place, command, monkeypatch):
    own = pd.read_parquet(flow / "samples" / "synthetic.parquet")
    monkeypatch.setattr(sampling, "BLOCK", len(own))
    command(flow, "-n", len(own), "--out", "x.parquet", main=sample.main)
    more = pd.read_parquet("x.parquet")
    assert (more["age"].to_numpy() == own["age"].to_numpy()).mean() < 0.5


def test_fewer_rows_are_the_first_of_more_and_no_block_repeats(histograms, place, command, small_blocks):
    for rows in (300, 401, 1200):
        command(histograms, "-n", rows, "--out", f"{rows}.csv", main=sample.main)
    few, some, many = (Path(f"{rows}.csv").read_text().splitlines() for rows in (300, 401, 1200))
    assert many[:301] == few
    assert many[:402] == some
    assert many[1:401] != many[401:801] != many[801:]


def test_a_last_block_of_one_row_is_drawn_among_as_many_as_any_other(
    flow, place, command, monkeypatch, small_blocks
):
    asked, original = [], FittedMAF.sample

    def noted(self, rows, rng):
        asked.append(rows)
        return original(self, rows, rng)

    monkeypatch.setattr(FittedMAF, "sample", noted)
    command(flow, "-n", 801, "--out", "x.csv", main=sample.main)
    assert asked == [400, 400, 400]
    assert len(rows_of("x.csv")) == 801


@pytest.mark.parametrize("ending", ["parquet", "csv.gz"])
def test_memory_does_not_grow_with_the_rows(ending, histograms, place, monkeypatch):
    monkeypatch.setattr(sampling, "BLOCK", 2000)

    def peak(blocks):
        tracemalloc.start()
        sampling.sample_rows(histograms, 2000 * blocks, Path(f"{blocks}.{ending}"))
        return (tracemalloc.get_traced_memory()[1], tracemalloc.stop())[0]

    peak(1)  # what is imported and cached once
    assert peak(12) < 1.15 * peak(3)


def test_an_epsilon_is_stated_only_with_what_it_is_worth(flow, histograms, place, command):
    done = command(histograms, "-n", 2, "--out", "x.csv", main=sample.main)
    assert f"ε {certificate(histograms)['epsilon']:.4g} at δ 1e-05" in done.out
    done = command(flow, "-n", 2, "--out", "y.csv", main=sample.main)
    assert "RESEARCH NOISE: do not release" in done.out
    assert "ε" not in done.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-n", 0, "--out", "x.csv"), ["-n 0: expected at least 1 row"]),
        (
            ("-n", -4, "--out", "x.xls", "--seed", -1),
            ["-n -4", "--seed -1", "ends in .parquet, .csv or .csv.gz"],
        ),
        (("-n", 5, "--out", "folder.csv", "--force"), ["is a folder"]),
        (("-n", 5, "--out", "there.csv"), ["exists", "--force"]),
        (("-n", 5, "--out", "there.csv/x.csv"), ["cannot write", "choose a folder"]),
        (("-n", 5, "--out", "RUN/samples/synthetic.parquet", "--force"), ["a file of the run itself"]),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(words, said, histograms, place, command):
    (place / "folder.csv").mkdir()
    (place / "there.csv").write_text("mine")
    before = snapshot(histograms)
    words = [str(word).replace("RUN", str(histograms)) for word in words]
    done = command(histograms, *words, main=sample.main)
    assert done.code == 2
    assert all(text in done.err for text in said), done.err
    assert snapshot(histograms) == before
    assert sorted(path.name for path in place.iterdir()) == ["folder.csv", "there.csv"]
    assert (place / "there.csv").read_text() == "mine"


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("unfinished", "is not a finished run"),
        ("no run", "is not a run folder"),
        ("changed model", "not the file that the certificate of the run covers"),
        ("no model", "the model of"),
        ("no config", "config.yaml is missing or damaged"),
        ("foreign code", "model._target_='os.system' is not allowed"),
        ("unknown setting", "unknown key 'model.allocatio'. Did you mean 'model.allocation'?"),
        ("other network", "does not fit its config.yaml"),
    ],
)
def test_a_folder_that_is_no_sound_finished_run_is_refused(harm, said, histograms, flow, place, command):
    run = place / "run"
    shutil.copytree(flow if harm == "other network" else histograms, run)
    config, status = run / "config.yaml", run / "status.json"
    text = config.read_text()
    if harm == "unfinished":
        status.write_text(json.dumps({**json.loads(status.read_text()), "state": "running"}))
    elif harm == "no run":
        shutil.rmtree(run)
    elif harm == "changed model":
        path = run / "model" / "model.json"
        path.write_text(path.read_text().replace("0.1", "0.2"))
    elif harm == "no model":
        shutil.rmtree(run / "model")
    elif harm == "no config":
        config.unlink()
    elif harm == "foreign code":
        config.write_text(text.replace("dpforge.generators.independent.Independent", "os.system"))
    elif harm == "unknown setting":
        config.write_text(text.replace("allocation:", "allocatio:"))
    else:
        config.write_text(text.replace("hidden:\n  - 8", "hidden:\n  - 9"))
    assert harm == "no run" or snapshot(run) != snapshot(histograms)
    done = command(run, "-n", 5, "--out", "x.csv", main=sample.main)
    assert done.code == 2, done.err
    assert said in done.err
    assert not (place / "x.csv").exists()


def test_force_replaces_a_file_only_when_the_new_one_is_complete(
    histograms, place, command, monkeypatch, small_blocks
):
    words = (histograms, "-n", 900, "--out", "x.csv", "--force")
    Path("x.csv").write_text("old")
    original, calls = FittedIndependent.sample, []

    def full_disk(self, rows, rng):
        calls.append(rows)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return original(self, rows, rng)

    with monkeypatch.context() as patch:
        patch.setattr(FittedIndependent, "sample", full_disk)
        done = command(*words, main=sample.main)
    assert (done.code, len(calls)) == (2, 2)
    assert f"{DataError.__name__}: cannot write x.csv: No space left on device" in done.err
    assert [(path.name, path.read_text()) for path in place.iterdir()] == [("x.csv", "old")]
    assert command(*words, main=sample.main).code == 0
    assert len(rows_of("x.csv")) == 900


def test_a_signal_ends_the_command_between_two_blocks_without_a_trace(
    histograms, place, command, monkeypatch, small_blocks
):
    original = FittedIndependent.sample

    def signalled(self, rows, rng):
        signal.raise_signal(signal.SIGTERM)
        return original(self, rows, rng)

    monkeypatch.setattr(FittedIndependent, "sample", signalled)
    done = command(histograms, "-n", 10**9, "--out", "x.parquet", main=sample.main)
    assert done.code == 130
    assert "x.parquet was not written" in done.err
    assert not list(place.iterdir())
