"""``dpforge-study``: where runs stand, and what it refuses."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console
from study_folders import write_run

from dpforge.cli import study
from dpforge.errors import ConfigError, Interrupted, RunError, RunLocked
from dpforge.experiment.attempt import is_held, locked, recorded
from dpforge.experiment.rundir import RunDir
from dpforge.experiment.study_status import named, read_state, read_states
from dpforge.experiment.study_watch import watch

HOLD = """
import sys, time
from pathlib import Path
from dpforge.experiment.attempt import locked
from dpforge.experiment.rundir import RunDir
with locked(RunDir(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(60)
"""


def call(*words) -> int:
    try:
        study.main([str(word) for word in words])
    except SystemExit as stop:
        return stop.code or 0
    return 0


def states(folder: Path) -> dict[str, str]:
    return {state.path.name: state.state for state in read_states(folder)}


def test_a_killed_run_is_told_from_a_running_one_by_its_lock(tmp_path):
    path = write_run(tmp_path, state="running", reserved=1)
    folder = RunDir(path)
    assert read_state(path).state == "interrupted"
    assert not folder.lock.exists()  # only asking leaves nothing behind
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    assert read_state(path).state == "running"
    with pytest.raises(RunLocked, match="another process works on"), locked(folder):
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    assert read_state(path).state == "interrupted"
    with locked(folder):
        pass


def test_looking_at_a_run_does_not_keep_it_from_starting(tmp_path):
    path = write_run(tmp_path, state="running", reserved=1)
    folder = RunDir(path)
    with locked(folder):
        assert is_held(folder)
    look = FileLock(folder.lock, thread_local=False)
    look.acquire()
    threading.Timer(0.1, look.release).start()
    with locked(folder):
        assert is_held(folder)


def test_every_attempt_is_on_record_with_its_code_and_end(tmp_path):
    folder = RunDir(write_run(tmp_path, state="running", reserved=1))
    with pytest.raises(Interrupted), recorded(folder):
        raise Interrupted("stopped")
    with pytest.raises(ValueError, match="cell"), recorded(folder):
        raise ValueError("a cell")
    with recorded(folder):
        folder.set_status("done")
    attempts = folder.status()["attempts"]
    assert [attempt["outcome"] for attempt in attempts] == ["interrupted", "failed", "done"]
    assert all(len(attempt["source"]) == 64 and attempt["pid"] == os.getpid() for attempt in attempts)
    assert folder.status()["state"] == "done"


def test_changed_code_between_attempts_shows(tmp_path, monkeypatch):
    folder = RunDir(write_run(tmp_path, state="running", reserved=1))
    for digest in ("a" * 64, "b" * 64):
        monkeypatch.setattr("dpforge.experiment.attempt.source_digest", lambda digest=digest: digest)
        with recorded(folder):
            folder.set_status("running")
    assert (read_state(folder.root).attempts, read_state(folder.root).codes) == (2, 2)


def test_the_heartbeat_touches_the_lock_while_the_run_lives(tmp_path, monkeypatch):
    monkeypatch.setattr("dpforge.experiment.attempt.HEARTBEAT_SECONDS", 0.02)
    folder = RunDir(write_run(tmp_path, state="running", reserved=1))
    with locked(folder):
        os.utime(folder.lock, (1, 1))
        end = time.monotonic() + 5
        while folder.lock.stat().st_mtime < 100 and time.monotonic() < end:
            time.sleep(0.01)
        assert folder.lock.stat().st_mtime > 100


def test_the_status_shows_every_state_and_hides_tracebacks_until_asked(tmp_path, capsys):
    write_run(tmp_path, seed=0)
    failed = write_run(tmp_path, seed=1, state="failed", reserved=1)
    write_run(tmp_path, seed=2, state="running", reserved=1)
    (failed / "traceback.txt").write_text("Traceback: value 'private cell'\n")
    assert call(tmp_path) == 0
    out = capsys.readouterr().out
    assert "3 runs: 1 interrupted, 1 failed, 1 done" in out
    assert f"{failed.name}: it broke" in out
    assert str(failed / "traceback.txt") in out
    assert "private cell" not in out
    assert call(tmp_path, "status", failed.name, "--traceback") == 0
    out = capsys.readouterr().out
    assert "private cell" in out
    assert "1 runs: 1 failed" in out


def test_progress_is_read_from_the_log_and_the_plan(tmp_path):
    path = write_run(tmp_path, state="running", reserved=1)
    (path / "metrics.csv").write_text("step,loss\n0,1\n1,2\n2,")
    assert read_state(path).step == (2, 2)
    assert read_state(path).stage == "fit"


def test_runs_are_named_by_prefix_id_pattern_or_path(tmp_path):
    paths = [write_run(tmp_path, model=model, seed=seed) for model in ("aim", "dp_maf") for seed in (0, 1)]
    found = read_states(tmp_path)

    def of(*words):
        return [state.path for state in named(found, words)]

    assert of("aim-toy-eps1-seed0") == [paths[0]]
    assert of(str(paths[3]) + "/") == [paths[3]]
    assert of("aim*", "aim*") == paths[:2]
    with pytest.raises(RunError, match="begins 2 runs"):
        of("aim")
    with pytest.raises(RunError, match="Did you mean"):
        of(paths[0].name.replace("aim", "iam"))


def test_an_unknown_action_is_refused_with_the_closest(tmp_path, capsys):
    assert call(tmp_path, "stauts") == 2
    assert "Did you mean 'status'?" in capsys.readouterr().err
    assert call(tmp_path / "nowhere") == 2


def test_a_run_that_spent_is_removed_only_when_said_so_and_stays_in_the_books(tmp_path, capsys):
    path = write_run(tmp_path / "s", seed=0)
    RunDir(path).write_json(RunDir(path).schema, {"name": "toy"})
    assert call(tmp_path / "s", "rm", "dp_maf") == 2
    assert path.is_dir()
    assert "has spent epsilon 1" in capsys.readouterr().err
    assert call(tmp_path / "s", "rm", "dp_maf", "--although-spent") == 0
    assert not path.exists()
    assert (tmp_path / "spent" / "toy.jsonl").is_file()
    assert call("--dataset", "toy", tmp_path) == 0
    out = capsys.readouterr().out
    assert "1 runs removed since, and still counted" in out


def test_a_run_that_spent_nothing_is_removed_without_a_trace(tmp_path):
    path = write_run(tmp_path / "s", state="failed", reserved=0)
    assert call(tmp_path / "s", "rm", path.name) == 0
    assert list(tmp_path.rglob("*.jsonl")) == []


def test_a_run_in_use_is_not_removed_and_nothing_is_removed_without_a_name(tmp_path, capsys):
    path = write_run(tmp_path / "s")
    with locked(RunDir(path)):
        assert call(tmp_path / "s", "rm", path.name, "--although-spent") == 2
    assert path.is_dir()
    assert call(tmp_path / "s", "rm") == 2
    assert "needs the runs" in capsys.readouterr().err


def test_watching_ends_when_nothing_has_run_for_a_while(tmp_path):
    path = write_run(tmp_path, state="running", reserved=1)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            RunDir(path).set_status("failed", error="it stopped")

    with Path(os.devnull).open("w") as nowhere:
        last = watch(tmp_path, Console(file=nowhere), every=1.0, idle=3.0, sleep=sleep)
    assert [state.state for state in last] == ["failed"]
    assert slept == [1.0, 1.0, 1.0]


def test_watching_waits_for_the_first_run(tmp_path):
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            write_run(tmp_path / "s")

    with Path(os.devnull).open("w") as nowhere:
        console = Console(file=nowhere)
        last = watch(tmp_path / "s", console, every=1.0, idle=3.0, sleep=sleep)
        assert [state.state for state in last] == ["done"]
        with pytest.raises(RunError, match="not a folder"):
            watch(tmp_path / "nowhere", console, every=1.0, idle=3.0, sleep=slept.append)
    assert slept == [1.0] * 6


def test_watching_outlasts_the_two_minutes_of_a_requeued_job(tmp_path):
    write_run(tmp_path, state="running", reserved=1)
    slept: list[float] = []
    with Path(os.devnull).open("w") as nowhere:
        watch(tmp_path, Console(file=nowhere), every=10.0, sleep=slept.append)
    assert sum(slept) > 150


@pytest.fixture
def wide(tmp_path):
    """A study whose table is wider than eighty columns; the name of its run."""
    path = write_run(tmp_path, model="private_evolution_long", dataset="adult_census", state="running")
    (path / "metrics.csv").write_text("step,loss\n123456,1\n")
    return path


def test_a_piped_status_is_never_cut(wide, capsys):
    assert call(wide.parent) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "private_evolution_long" in line]
    words = [
        "private_evolution_long",
        "adult_census",
        wide.name.rpartition("-")[2],
        "interrupted",
        "123456/2",
    ]
    assert all(word in row for word in words)


def test_a_status_on_a_narrow_terminal_folds_and_cuts_nothing(wide, monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr("dpforge.experiment.study_watch.Console", lambda **_: console)
    assert call(wide.parent) == 0
    lines = screen.getvalue().splitlines()
    assert "…" not in screen.getvalue()
    assert any("interrupted" in line for line in lines)
    assert max(map(len, lines)) <= 80
    start, end = lines[0].index("run id"), lines[0].index("state")
    parts = [line[start:end].strip() for line in lines[1:4]]
    assert wide.name.rpartition("-")[2] in "".join(parts)


@pytest.fixture
def noted(monkeypatch):
    """Replace the runner by one that notes what it is asked to run."""
    found = []
    monkeypatch.setenv("DPFORGE_CONF_DIGEST", "restored afterwards")

    def run(config, *, identity, overrides):
        found.append((identity.folder, tuple(overrides)))
        if config.seed == 3:
            raise RunError("it broke again")

    monkeypatch.setattr("dpforge.experiment.runner.run", run)
    return found


def stored(root: Path, seed: int, state: str) -> Path:
    """A run folder under the name its overrides give it."""
    from dpforge.config import check

    words = ["dataset=toy", "model=independent", "evaluation=quick", "logger=csv", f"seed={seed}"]
    words += ["privacy.target_epsilon=null", "privacy.noise_multiplier=2"]
    name = check(words).runs[0].identity.folder.name
    path = write_run(root, state=state, seed=seed, reserved=1).rename(root / name)
    (path / ".hydra").mkdir()
    (path / ".hydra" / "overrides.yaml").write_text("".join(f"- {word}\n" for word in words))
    return path


def test_retry_starts_failed_and_interrupted_runs_in_their_own_folders_and_goes_on_after_a_failure(
    tmp_path, noted, capsys
):
    paths = [stored(tmp_path, seed, state) for seed, state in ((1, "failed"), (2, "running"), (3, "failed"))]
    write_run(tmp_path, seed=4)
    assert call(tmp_path, "retry") == 1
    assert [folder for folder, _ in noted] == paths
    assert "seed=2" in noted[1][1]
    assert "it broke again" in capsys.readouterr().err
    noted.clear()
    assert call(tmp_path, "retry", paths[0].name) == 0
    assert [folder for folder, _ in noted] == paths[:1]


def test_retry_refuses_a_run_whose_configuration_means_another_run_now(tmp_path, noted, capsys):
    path = stored(tmp_path, 1, "failed")
    (path / ".hydra" / "overrides.yaml").write_text("- dataset=toy\n- model=independent\n- logger=csv\n")
    assert call(tmp_path, "retry") == 1
    assert noted == []
    assert "changed since" in capsys.readouterr().err


def test_watch_needs_a_positive_pause(tmp_path):
    write_run(tmp_path)
    with pytest.raises(ConfigError):
        study._watch(tmp_path, 0.0)
