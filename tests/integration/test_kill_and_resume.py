"""A run that is killed anywhere and started again ends exactly as if it had never been killed."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import pickle
import random
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from whole_runs import (
    ended,
    ledger,
    noises,
    only_run,
    reserved,
    results,
    snapshot,
    start,
    terminal,
    wait_for,
)

from dpforge.experiment import environment
from dpforge.experiment.stages import StopFlag

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_pictures")]

STEPS = 150
WORDS = (
    "experiment=smoke",
    "model.hidden=[8]",
    f"model.steps={STEPS}",
    "model.ema=0.5",
    "model.expected_batch_size=32",
    "model.weight_decay=0.001",
    "privacy.target_epsilon=null",
    "privacy.noise_multiplier=2",
    "evaluation.metrics=[tvd_1way,validity]",
    "runtime.threads=1",
    "runtime.checkpoint_every=20",
)
SEEDED = (*WORDS, "privacy.rng=seeded", "privacy.seed=7")
STOPPED_AT = 70


@contextmanager
def stopping_at(step: int) -> Iterator[None]:
    """Ask every run in this process to stop at its ``step``-th step, as a signal would."""
    asked = itertools.count(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StopFlag, "__call__", lambda self: next(asked) >= step)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run with seeded noise, in a process of its own."""
    place = tmp_path_factory.mktemp("whole")
    assert ended(start(place, SEEDED)) == 0, terminal(place)
    return results(only_run(place))


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory):
    """A run with seeded noise that was killed between two checkpoints."""
    place = tmp_path_factory.mktemp("stopped")
    assert ended(start(place, SEEDED, "after a step was logged", 2 * STOPPED_AT)) == -signal.SIGKILL
    return place


@pytest.fixture
def stopped(stopped_once, place) -> Path:
    """A copy of that run, in the working directory."""
    shutil.copytree(stopped_once / "outputs", place / "outputs")
    return only_run(place)


def begun_with_key_of(run: Path, place: Path) -> None:
    """Begin a run of the same configuration, up to its ledger, and give it the key of the other one."""
    assert ended(start(place, WORDS, "before the key is there", 1)) == -signal.SIGKILL, terminal(place)
    key = only_run(place) / "private" / "key"
    assert not key.exists()
    shutil.copy(run / "private" / "key", key)


PLACES_TO_DIE = (
    ("within the header", 1),
    ("before the key is there", 1),
    ("within a reservation", 1),
    ("after a reservation", 2),
    ("after a step was logged", 90),
    ("within a reservation", 1),
    ("between two checkpoints", 3),
    ("before a stage is recorded", 1),
    ("after a stage was recorded", 2),
    ("after the ledger was closed", 1),
)


def test_a_run_killed_at_ten_places_ends_as_if_never_killed(tmp_path):
    torn, clean = tmp_path / "torn", tmp_path / "clean"
    torn.mkdir()
    clean.mkdir()
    for fault, after in PLACES_TO_DIE:
        assert ended(start(torn, WORDS, fault, after)) == -signal.SIGKILL, (fault, terminal(torn))
        if (torn / "noise.txt").exists():
            assert {step for _, step in noises(torn)} <= set(reserved(only_run(torn))["train"])
    assert ended(start(torn, WORDS)) == 0, terminal(torn)
    run = only_run(torn)
    begun_with_key_of(run, clean)
    assert ended(start(clean, WORDS)) == 0, terminal(clean)
    assert results(run) == results(only_run(clean))
    assert "Traceback" not in terminal(torn)

    assert reserved(run) == {"marginals": [0], "train": list(range(STEPS))}
    keys = {record["key_id"] for record in ledger(run) if record["kind"] == "reserve"}
    assert {key for uses in noises(torn).values() for key, _ in uses} == keys
    assert sorted(step for _, step in noises(torn)) == list(range(STEPS))
    assert all(len(uses) == 1 for uses in noises(torn).values()), "one noise was added to two sums"
    assert len((torn / "noise.txt").read_text().splitlines()) > STEPS, "no step was replayed"
    logged = [line.split(",")[0] for line in (run / "metrics.csv").read_text().splitlines()]
    assert logged == ["step", *map(str, range(1, STEPS + 1))]


def test_sigkill_from_outside_at_random_moments_changes_nothing(tmp_path, whole):
    log = "outputs/smoke/*/metrics.csv"
    chance = random.Random(os.getpid())
    for least in sorted(chance.sample(range(2, STEPS - 20), 3)):
        process = start(tmp_path, SEEDED)
        wait_for(lambda: any(p.read_text().count("\n") > least for p in tmp_path.glob(log)), process)  # noqa: B023
        os.kill(process.pid, signal.SIGKILL)
        assert ended(process) == -signal.SIGKILL, f"ended by itself before {least}: {terminal(tmp_path)}"
    assert ended(start(tmp_path, SEEDED)) == 0, terminal(tmp_path)
    assert results(only_run(tmp_path)) == whole


def test_sigterm_ends_the_run_at_its_step_with_a_message_and_it_resumes(place, command, whole):
    process = start(place, SEEDED, "hold", 2 * STOPPED_AT)
    wait_for((place / "held").exists, process)
    os.kill(process.pid, signal.SIGTERM)
    (place / "go").touch()
    assert ended(process) == 130
    assert f"stopped after step {STOPPED_AT} of {STEPS}; the same command continues" in terminal(place)
    assert "Traceback" not in terminal(place)
    run = only_run(place)
    assert json.loads((run / "status.json").read_text())["state"] == "running"
    assert not (run / "traceback.txt").exists()
    assert command(*SEEDED).code == 0
    assert results(run) == whole


def test_a_signal_between_two_steps_or_after_the_last_ends_the_run_as_cleanly(place, command, whole):
    for after in (STOPPED_AT, STEPS - STOPPED_AT):
        assert ended(start(place, SEEDED, "a signal between two steps", after)) == 130, terminal(place)
    said = [line for line in terminal(place).splitlines() if "the same command continues" in line]
    assert [line.split("stopped after ")[1].split(";")[0] for line in said] == [
        f"step {STOPPED_AT} of {STEPS}",
        f"step {60 + STEPS - STOPPED_AT} of {STEPS}",
    ]
    assert command(*SEEDED).code == 0
    assert results(only_run(place)) == whole


def test_a_second_process_on_a_run_folder_is_turned_away_at_once(place, command, whole):
    process = start(place, SEEDED, "hold", 20)
    wait_for((place / "held").exists, process)
    run = only_run(place)
    before = snapshot(run)
    second = command(*SEEDED)
    assert second.code == 2
    assert "another process works on" in second.err
    assert "Wait for it" in second.err
    assert snapshot(run) == before
    (place / "go").touch()
    assert ended(process) == 0
    assert results(run) == whole


class Evil:
    """Would make a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def zipped(value) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def signed(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest() + payload


DAMAGES = {
    "one bit": lambda data, mark: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:],
    "half of it gone": lambda data, mark: data[: len(data) // 2],
    "empty": lambda data, mark: b"",
    "a pickle that runs code": lambda data, mark: signed(pickle.dumps(Evil(mark))),
    "a torch file that runs code": lambda data, mark: signed(zipped({"step": 1, "x": Evil(mark)})),
    "a file of something else": lambda data, mark: signed(zipped([1, 2])),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_costs_time_only(damage, stopped, place, command, whole):
    checkpoint = stopped / "checkpoints" / "state.pt"
    checkpoint.write_bytes(DAMAGES[damage](checkpoint.read_bytes(), place / "executed"))
    outcome = command(*SEEDED)
    assert outcome.code == 0, outcome.err
    assert "state.pt is damaged" in (stopped / "log.txt").read_text()
    assert not (place / "executed").exists()
    assert results(stopped) == whole


def test_without_any_checkpoint_all_steps_are_replayed(stopped, command, whole):
    for checkpoint in (stopped / "checkpoints").iterdir():
        checkpoint.write_bytes(b"gone")
    assert command(*SEEDED).code == 0
    assert results(stopped) == whole


def test_a_torn_last_line_of_the_ledger_is_cut_off(stopped, command, whole):
    path = stopped / "ledger.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    assert command(*SEEDED).code == 0
    assert results(stopped) == whole


@pytest.mark.parametrize("damage", ["altered", "not JSON", "not text", "removed"])
def test_a_ledger_damaged_in_the_middle_is_refused_with_its_line(damage, stopped, command):
    path = stopped / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = {
        "altered": lines[1].replace(b'"count":1', b'"count":0'),
        "not JSON": lines[1][:30] + b"\n",
        "not text": b"\xff" + lines[1],
        "removed": b"",
    }[damage]
    path.write_bytes(b"".join(lines))
    before = path.read_bytes()
    outcome = command(*SEEDED)
    assert outcome.code == 2
    number = 3 if damage == "altered" else 2
    assert f"line {number} " in outcome.err
    assert "Restore the file from a copy" in outcome.err
    assert path.read_bytes() == before


def test_without_its_key_a_run_is_refused_until_the_key_is_back(place, command):
    with stopping_at(STOPPED_AT):
        assert command(*WORDS).code == 130
    run = only_run(place)
    key = run / "private" / "key"
    secret = key.read_bytes()
    for content in (None, b"", os.urandom(32)):
        key.unlink(missing_ok=True)
        if content is not None:
            key.write_bytes(content)
        before = (run / "ledger.jsonl").read_bytes()
        outcome = command(*WORDS)
        assert outcome.code == 2
        assert "private/key" in outcome.err
        assert "delete the run folder" in outcome.err
        assert (run / "ledger.jsonl").read_bytes() == before
    key.write_bytes(secret)
    assert command(*WORDS).code == 0
    assert secret.hex() not in "".join(
        path.read_bytes().hex() for path in run.rglob("*") if path.is_file() and path != key
    )


def test_steps_are_not_replayed_under_another_version_of_torch(stopped, command, monkeypatch):
    monkeypatch.setattr(environment, "version", lambda name: "0.1" if name == "torch" else version(name))
    before = (stopped / "ledger.jsonl").read_bytes()
    done = command(*SEEDED)
    assert done.code == 2
    assert "torch" in done.err
    assert "→ 0.1" in done.err
    assert "Install the versions of its environment.json" in done.err
    assert (stopped / "ledger.jsonl").read_bytes() == before


def test_changed_data_are_refused_and_the_old_data_continue(place, command):
    (place / "my.yaml").write_text(
        "name: mine\nnominal_rows: 100\ncolumns:\n"
        "  a: {kind: integer, bounds: {min: 0, max: 9}}\n  b: {kind: integer, bounds: {min: 0, max: 9}}\n"
    )
    table = place / "my.csv"
    rows = "a,b\n" + "".join(f"{n % 10},{n % 7}\n" for n in range(100))
    table.write_text(rows)
    words = (*WORDS, "dataset=csv", "dataset.path=my.csv", "dataset.schema=my.yaml", "privacy.delta=1e-4")
    with stopping_at(5):
        assert command(*words).code == 130
    table.write_text(rows + "1,1\n")
    outcome = command(*words)
    assert outcome.code == 2
    assert "the data are not those the run was started with" in outcome.err
    table.write_text(rows)
    assert command(*words).code == 0
    table.write_text(rows + "1,1\n")
    outcome = command(*words)
    assert outcome.code == 2
    assert "the data are not those" in outcome.err


def test_what_a_finished_run_lost_is_made_again_at_no_cost(place, command, whole):
    assert command(*SEEDED).code == 0
    run = only_run(place)
    for lost in ("model", "samples", "certificate.json", "metrics.json", "status.json"):
        path = run / lost
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert command(*SEEDED).code == 0, lost
        assert results(run) == whole, lost
