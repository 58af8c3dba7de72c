"""A sweep on a real SLURM: a run requeued, one out of time, one killed; all end as if undisturbed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from whole_runs import results

from dpforge.config import check

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SCRIPT = Path(__file__).parents[2] / "scripts" / "slurm_local.sh"
UNABLE = 3
SECONDS = 300
WORDS = (
    "experiment=smoke",
    "model.hidden=[8]",
    "model.steps=800",
    "model.expected_batch_size=32",
    "privacy.target_epsilon=null",
    "privacy.noise_multiplier=4",
    "privacy.rng=seeded",
    "privacy.seed=7",
    "evaluation.metrics=[tvd_1way,validity]",
    "runtime.pictures=false",
    "runtime.checkpoint_every=40",
    "seed=0,1,2",
)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The variables of a SLURM of one node; stopped afterwards."""
    folder = tmp_path_factory.mktemp("slurm")
    environment = {**os.environ, "SLURM_LOCAL_CPUS": "4"}
    up = subprocess.run([SCRIPT, "up", folder], capture_output=True, text=True, env=environment, check=False)
    if up.returncode == UNABLE and not os.environ.get("DPFORGE_REQUIRE_SLURM"):
        pytest.skip(f"no SLURM here: {up.stderr.strip()}")
    assert up.returncode == 0, up.stderr
    yield {"SLURM_CONF": str(folder / "slurm.conf")}
    subprocess.run([SCRIPT, "down", folder], check=True)


def start(place, environment, *words):
    """Start a sweep; what it says goes to ``terminal.txt``."""
    with (place / "terminal.txt").open("w") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "dpforge.cli.main", *WORDS, *words],
            cwd=place,
            env={**os.environ, **environment, "COLUMNS": "200"},
            stdout=said,
            stderr=said,
        )


def states(place):
    """The state of every run in the table at the end of a sweep, by seed."""
    table = (place / "terminal.txt").read_text().rpartition("Runs of this sweep")[2]
    return [row.split("│")[2].strip() for row in table.splitlines() if re.match(r"│ +\d+ +│", row)]


def wait_for(condition, sweep, place):
    end = time.monotonic() + SECONDS
    while not condition():
        assert sweep.poll() is None, (place / "terminal.txt").read_text()
        assert time.monotonic() < end, (place / "terminal.txt").read_text()
        time.sleep(0.1)


def logged(run):
    path = run / "metrics.csv"
    return path.read_text().count("\n") if path.is_file() else 0


def test_requeued_timed_out_and_killed_runs_continue_exactly(slurm, tmp_path, command, monkeypatch):
    def control(*words):
        subprocess.run(words, env={**os.environ, **slurm}, check=True, capture_output=True)

    whole = tmp_path / "whole"
    disturbed = tmp_path / "disturbed"
    whole.mkdir()
    disturbed.mkdir()
    folders = [run.identity.folder for run in check(WORDS).runs]
    runs = [disturbed / folder for folder in folders]
    sweep = start(disturbed, slurm, "launch=slurm")
    wait_for(lambda: all(logged(run) > 50 for run in runs), sweep, disturbed)
    (array,) = re.findall(r"SLURM array (\d+): 3 runs", (disturbed / "terminal.txt").read_text())
    control("scontrol", "requeue", f"{array}_0")
    control("scancel", "--signal=USR2", f"{array}_1")
    control("scancel", "--signal=KILL", "--full", f"{array}_2")
    assert all(logged(run) < 800 for run in runs), "a run ended before it was disturbed"
    for number in (0, 1):
        log = disturbed / f"outputs/smoke/.submitit/{array}_{number}/{array}_{number}_0_log.out"
        wait_for(lambda log=log: "stopped after step" in log.read_text(), sweep, disturbed)
        # SLURM lets a requeued job wait for two minutes.
        wait_for(lambda n=number: "PENDING" in queue(slurm, f"{array}_{n}"), sweep, disturbed)
        control("scontrol", "update", f"jobid={array}_{number}", "starttime=now")
    assert sweep.wait(SECONDS) == 1
    assert states(disturbed) == ["ok", "ok", "lost"]
    assert "The same command continues it" in (disturbed / "terminal.txt").read_text()

    assert start(disturbed, slurm, "launch=slurm").wait(SECONDS) == 0
    assert states(disturbed) == ["skipped", "skipped", "ok"]
    monkeypatch.chdir(whole)
    assert command("-m", *WORDS).code == 0
    for folder in folders:
        assert results(disturbed / folder) == results(whole / folder)


def queue(environment, job):
    """What SLURM says of a job."""
    command = ["squeue", "--noheader", "--array", "--format=%T", f"--jobs={job}"]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    ).stdout
