"""The same sweep in this process, in worker processes and in Ray: the same runs, bit for bit."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from whole_runs import results

from dpforge.config import check

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SECONDS = 300
WORDS = (
    "experiment=smoke",
    "model.hidden=[8]",
    "model.steps=300",
    "privacy.target_epsilon=null",
    "privacy.noise_multiplier=2",
    "privacy.rng=seeded",
    "privacy.seed=7",
    "evaluation.metrics=[tvd_1way,validity]",
    "runtime.pictures=false",
    "runtime.checkpoint_every=20",
)


@pytest.fixture(scope="module")
def folders():
    """Where the runs of seeds 0, 1 and 2 live."""
    return [run.identity.folder for run in check([*WORDS, "seed=0,1,2"]).runs]


@pytest.fixture(scope="module")
def serial(tmp_path_factory, folders):
    """The results of seeds 0 and 1, run one after another in one process."""
    place = tmp_path_factory.mktemp("serial")
    assert ended(start(place, "-m", "seed=0,1"), place) == 0
    return [results(place / folder) for folder in folders[:2]]


def start(place, *words):
    """Start a sweep; what it says goes to ``terminal.txt``."""
    with (place / "terminal.txt").open("w") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "dpforge.cli.main", *WORDS, *words],
            cwd=place,
            env={**os.environ, "COLUMNS": "200"},
            stdout=said,
            stderr=said,
        )


def ended(sweep, place):
    code = sweep.wait(SECONDS)
    assert "Traceback" not in (place / "terminal.txt").read_text()
    return code


def states(place):
    """The state of every run in the table at the end of a sweep."""
    table = (place / "terminal.txt").read_text().rpartition("Runs of this sweep")[2]
    return [row.split("│")[2].strip() for row in table.splitlines() if re.match(r"│ +\d+ +│", row)]


def test_joblib_runs_the_same_runs_and_tells_what_became_of_each(tmp_path, folders, serial):
    taken = tmp_path / folders[2]
    taken.parent.mkdir(parents=True)
    taken.write_text("a file where the folder of seed 2 should be")
    sweep = start(tmp_path, "launch=joblib", "hydra.launcher.n_jobs=2", "seed=0,1,2")
    assert ended(sweep, tmp_path) == 1
    assert states(tmp_path) == ["ok", "ok", "failed"]
    assert "cannot be made" in (tmp_path / "terminal.txt").read_text()
    assert [results(tmp_path / folder) for folder in folders[:2]] == serial

    taken.unlink()
    assert ended(start(tmp_path, "launch=joblib", "seed=0,1"), tmp_path) == 0
    assert states(tmp_path) == ["skipped", "skipped"]


def test_a_worker_that_is_killed_costs_no_other_run_and_its_own_continues(tmp_path, folders, serial):
    sweep = start(tmp_path, "launch=joblib", "hydra.launcher.n_jobs=2", "seed=0,1")
    log = tmp_path / folders[1] / "metrics.csv"
    end = time.monotonic() + SECONDS
    while not (log.is_file() and log.read_text().count("\n") > 20):
        assert sweep.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    status = json.loads((tmp_path / folders[1] / "status.json").read_text())
    assert status["attempts"][-1]["pid"] != sweep.pid
    os.kill(status["attempts"][-1]["pid"], signal.SIGKILL)
    assert ended(sweep, tmp_path) == 0
    assert set(states(tmp_path)) <= {"ok", "skipped"}
    assert [results(tmp_path / folder) for folder in folders[:2]] == serial


def test_a_sweep_that_is_stopped_lets_its_workers_save_and_tells_what_became_of_each(
    tmp_path, folders, serial
):
    words = ("launch=joblib", "hydra.launcher.n_jobs=2")
    sweep = start(tmp_path, *words, "seed=0,1,2")
    logs = [tmp_path / folder / "metrics.csv" for folder in folders[:2]]
    end = time.monotonic() + SECONDS
    while not all(log.is_file() and log.read_text().count("\n") > 20 for log in logs):
        assert sweep.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    sweep.send_signal(signal.SIGTERM)
    assert ended(sweep, tmp_path) == 130
    assert states(tmp_path) == ["interrupted"] * 3
    for folder in folders[:2]:
        attempts = json.loads((tmp_path / folder / "status.json").read_text())["attempts"]
        assert [attempt["outcome"] for attempt in attempts] == ["interrupted"]
    assert not (tmp_path / folders[2]).exists()
    assert ended(start(tmp_path, *words, "seed=0,1"), tmp_path) == 0
    assert [results(tmp_path / folder) for folder in folders[:2]] == serial


def test_ray_runs_the_same_runs(tmp_path, folders, serial):
    pytest.importorskip("ray")
    assert ended(start(tmp_path, "launch=ray", "hydra.launcher.init.num_cpus=2", "seed=0,1"), tmp_path) == 0
    assert states(tmp_path) == ["ok", "ok"]
    assert [results(tmp_path / folder) for folder in folders[:2]] == serial


def test_a_sweep_in_ray_that_is_stopped_tells_what_is_known_of_each_run(tmp_path, folders):
    pytest.importorskip("ray")
    sweep = start(tmp_path, "launch=ray", "hydra.launcher.init.num_cpus=2", "model.steps=3000", "seed=0,1,2")
    end = time.monotonic() + SECONDS
    while not list((tmp_path / folders[0].parent).glob("*/metrics.csv")):
        assert sweep.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    sweep.send_signal(signal.SIGTERM)
    assert ended(sweep, tmp_path) == 130
    assert states(tmp_path) == ["interrupted"] * 3
