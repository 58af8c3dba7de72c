"""What a run folder promises: nothing is done twice, nothing is overclaimed, and anyone can check it."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from whole_runs import certificate, ledger, only_run, snapshot

import dpforge.verify
from dpforge.cli import evaluate
from dpforge.experiment import pictures, runner
from dpforge.verify import Wrong, compare
from dpforge.verify import main as verify

pytestmark = [pytest.mark.integration]

WORDS = (
    "experiment=smoke",
    "model.hidden=[8]",
    "privacy.target_epsilon=null",
    "privacy.noise_multiplier=2",
    "evaluation.metrics=[tvd_1way,validity]",
)


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory):
    """A finished run of 10 steps."""
    place = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(pictures, "draw", lambda *_: None)
        patch.setattr(sys, "argv", ["dpforge", *WORDS])
        for name in ("DPFORGE_CONF_DIGEST", "HYDRA_FULL_ERROR"):
            patch.setenv(name, "restored afterwards")
        from dpforge.cli.main import main

        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code
    return place


@pytest.fixture
def finished(finished_once, place) -> Path:
    """A copy of that run in the working directory."""
    shutil.copytree(finished_once / "outputs", place / "outputs")
    return only_run(place)


def test_the_same_command_again_changes_no_file(finished, command):
    before = snapshot(finished)
    again = command(*WORDS)
    assert again.code == 0
    assert f"{finished.name}: finished already" in again.out
    assert f"ε {certificate(finished)['epsilon']:.4g} at δ 1e-05" in again.out
    assert snapshot(finished) == before


def test_speed_and_sinks_are_not_part_of_the_identity(finished, command):
    speed = (
        "runtime.microbatch=7",
        "runtime.engine=hooks",
        "runtime.checkpoint_every=3",
        "runtime.threads=1",
    )
    before = snapshot(finished)
    assert "finished already" in command(*WORDS, *speed, "logger.release=public").out
    assert snapshot(finished) == before


def test_what_changes_numbers_is_part_of_the_identity(finished, command, monkeypatch):
    asked = []

    def run(config, *, identity, overrides):
        asked.append(identity.folder.resolve())
        return runner.RunOutcome(identity.folder, skipped=True, ok=True)

    monkeypatch.setattr(runner, "run", run)
    changes = ("seed=1", "privacy.delta=2e-5", "model.steps=11", "dataset.split_seed=1", "privacy.rng=secure")
    for change in ((), *((change,) for change in changes)):
        assert command(*WORDS, *change).code == 0
    assert finished not in asked  # the first is recognised as finished and not asked for
    assert len(set(asked)) == len(asked) == 5


@pytest.mark.usefixtures("no_pictures")
def test_a_run_without_privacy_says_so_wherever_it_is_mentioned(place, command):
    words = (*WORDS[:2], WORDS[4], "privacy=none")
    first = command(*words)
    assert first.code == 0, first.err
    run = only_run(place)
    assert "NOT DP" in first.out
    assert "ε" not in first.out.replace("NOT DP", "")
    assert certificate(run)["status"] == "NOT DP"
    assert certificate(run)["epsilon"] is None
    assert certificate(run)["epsilon_by_accountant"] == {"pld": None, "rdp": None}
    assert "NOT DP" in certificate(run)["caveats"][0]
    assert json.loads((run / "metrics.json").read_text())["metrics"]["privacy/epsilon"]["value"] is None
    assert "NOT DP" in command(*words).out
    assert "NOT DP" in compare(run)


@pytest.mark.usefixtures("no_pictures")
def test_research_noise_says_so_wherever_its_epsilon_stands(place, command):
    words = (*WORDS, "privacy.rng=seeded", "privacy.seed=7")
    first = command(*words)
    assert first.code == 0
    run = only_run(place)
    assert "RESEARCH NOISE" in first.out
    assert certificate(run)["status"] == "RESEARCH NOISE"
    assert "RESEARCH NOISE" in certificate(run)["caveats"][0]
    assert "RESEARCH NOISE" in command(*words).out
    assert "RESEARCH NOISE" in compare(run)


def test_the_verifier_agrees_with_the_certificate_from_the_ledger_alone(finished, tmp_path_factory):
    alone = tmp_path_factory.mktemp("stranger")
    shutil.copy(dpforge.verify.__file__, alone / "verify.py")
    for name in ("ledger.jsonl", "certificate.json"):
        shutil.copy(finished / name, alone / name)
    code = (
        "import sys, runpy; sys.argv = ['verify.py', '.']\n"
        "try: runpy.run_path('verify.py', run_name='__main__')\n"
        "finally: print(*(name for name in sys.modules if name.startswith(('dpforge', 'torch'))))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=alone, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    said, modules = done.stdout.splitlines()
    assert modules == ""
    assert f"epsilon {certificate(finished)['epsilon']:.6f} at delta 1e-05" in said


def rewrite(run: Path, change: Callable[[list[dict]], None], *, chained: bool) -> None:
    """Change the records of a ledger; ``chained`` repairs every hash, as a careful forger would."""
    records = ledger(run)
    change(records)
    last, lines = "0" * 64, []
    for number, record in enumerate(records):
        if chained:
            record |= {"previous": last, "seq": number}
        lines.append(json.dumps(record, separators=(",", ":")))
        last = hashlib.sha256(lines[-1].encode()).hexdigest()
    (run / "ledger.jsonl").write_text("\n".join(lines) + "\n")
    if chained:
        restate(run, ledger_hash=last)


def restate(run: Path, **changes: object) -> None:
    (run / "certificate.json").write_text(json.dumps({**certificate(run), **changes}))


def reservation(records: list[dict], piece: str = "train") -> dict:
    return next(r for r in records if r["kind"] == "reserve" and r["piece"] == piece)


def swap_event(records: list[dict]) -> None:
    reservation(records)["event"] = reservation(records, "marginals")["event"]


def weaker_plan(records: list[dict]) -> None:
    """Claim twice the noise, in the plan and in the reservation."""
    for holder in (records[0]["plan"]["pieces"][1], reservation(records)):
        holder["event"]["event"]["noise_multiplier"] = 4.0


LEDGER_TAMPERING = {
    "a line dropped": lambda records: records.remove(reservation(records)),
    "a count changed": lambda records: reservation(records).update(count=9),
    "lines reordered": lambda records: records.insert(1, records.pop(2)),
    "the event swapped": swap_event,
    "a use reserved twice": lambda records: records.insert(2, dict(records[1])),
    "more noise claimed": weaker_plan,
    "another key in between": lambda records: reservation(records).update(key_id="0" * 16),
}
# Pieces may be reserved in any order, so that one order with repaired hashes is as true as another.
FORGERIES = [name for name in LEDGER_TAMPERING if name != "lines reordered"]


@pytest.mark.parametrize(
    ("tampering", "chained"),
    [*((name, False) for name in LEDGER_TAMPERING), *((name, True) for name in FORGERIES)],
)
def test_the_verifier_catches_a_tampered_ledger(tampering, chained, finished, capsys):
    rewrite(finished, LEDGER_TAMPERING[tampering], chained=chained)
    with pytest.raises(SystemExit) as stop:
        verify([str(finished)])
    assert stop.value.code == 1
    text = capsys.readouterr().err
    assert "WRONG" in text
    assert chained or "line " in text


@pytest.mark.parametrize(
    "changes",
    [{"epsilon": 0.1}, {"delta": 1e-3}, {"relation": "replace"}, {"unit": "user"}, {"ledger_hash": "0" * 64}],
    ids=lambda changes: next(iter(changes)),
)
def test_the_verifier_catches_a_tampered_certificate(changes, finished, capsys):
    restate(finished, **changes)
    with pytest.raises(SystemExit) as stop:
        verify([str(finished)])
    assert stop.value.code == 1
    assert "WRONG" in capsys.readouterr().err


def test_an_untouched_rewrite_verifies_so_the_tampering_tests_mean_something(finished):
    rewrite(finished, lambda records: None, chained=True)
    assert "equal to the certificate" in compare(finished)


def test_wandb_sees_nothing_private_when_only_public_values_are_released(place, command, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    words = (*WORDS, "model.steps=3", "logger=wandb", "logger.offline=true", "logger.release=public")
    done = command(*words)
    assert done.code == 0, done.err
    assert "pictures could not be drawn" not in done.said
    run = only_run(place)
    content = b"".join(path.read_bytes() for path in (run / "wandb").rglob("*.wandb") if path.is_file())
    assert b"privacy/epsilon" in content
    for private in (b"private/", b"train/loss", b"fidelity/", b"time/fit_s", b"plots/scores", b"plots/loss"):
        assert private not in content
    pictures_sent = [path.name for path in (run / "wandb").rglob("*.png")]
    assert pictures_sent
    assert all(name.startswith("epsilon") for name in pictures_sent)
    stated = certificate(run)["tainted_sinks"]
    assert not [sink for sink in stated if sink.startswith("wandb")]
    assert stated["metrics.csv"] == ["train/loss"]
    assert "train/loss" in stated["log.txt"]


@pytest.mark.usefixtures("no_pictures")
def test_evaluating_again_renews_the_scores_and_costs_no_privacy(finished, command):
    before = {name: content for name, (_, content) in snapshot(finished).items()}
    spent = [record for record in ledger(finished) if record["kind"] == "reserve"]
    (finished / "metrics.json").write_text("{}")
    done = command(finished, main=evaluate.main)
    assert done.code == 0, done.err
    after = {name: content for name, (_, content) in snapshot(finished).items()}
    kept = [name for name in before if name.startswith(("model/", "samples/", "private/", "checkpoints/"))]
    assert len(kept) >= 6
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    scores = [
        json.loads(content["metrics.json"])["metrics"]["fidelity/tvd_1way"] for content in (before, after)
    ]
    assert scores[0] == scores[1]
    assert [record for record in ledger(finished) if record["kind"] == "reserve"] == spent
    assert "equal to the certificate" in compare(finished)
    assert "finished already" in command(*WORDS).out


def test_evaluating_what_is_no_finished_run_is_refused_with_a_remedy(place, finished, command):
    (place / "empty").mkdir()
    for path, text in ((place / "gone", "is not a run folder"), (place / "empty", "not a finished run")):
        done = command(path, main=evaluate.main)
        assert done.code == 2
        assert text in done.err
    assert list((place / "empty").iterdir()) == []
    (finished / "config.yaml").write_text("a: [")
    done = command(finished, main=evaluate.main)
    assert done.code == 2
    assert "config.yaml is missing or damaged" in done.err
    (finished / "config.yaml").unlink()
    assert "config.yaml is missing or damaged" in command(finished, main=evaluate.main).err


def test_secrets_of_a_run_are_for_their_owner_only(finished):
    assert (finished / "private").stat().st_mode & 0o777 == 0o700
    for path in (finished / "private").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("field", ["tainted_sinks", "rng", "target_epsilon", "pieces", "unit"])
def test_a_certificate_that_leaves_something_out_does_not_verify(field, finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    certificate = json.loads((copy / "certificate.json").read_text())
    certificate[field] = "edited"
    (copy / "certificate.json").write_text(json.dumps(certificate))
    with pytest.raises(Wrong, match=field):
        compare(copy)


def test_a_synthetic_table_that_was_swapped_does_not_verify(finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    (copy / "samples" / "synthetic.parquet").write_bytes(b"the real table")
    with pytest.raises(Wrong, match=r"synthetic\.parquet"):
        compare(copy)
