"""The ledger: nothing before it is on disk, nothing beyond the plan, nothing altered unnoticed."""

from __future__ import annotations

import json

import pytest

from dpforge.errors import BudgetExceeded, PlanMismatch, PrivacyError, RunError
from dpforge.privacy import ledger as ledger_module
from dpforge.privacy.events import Gaussian, PoissonSampled
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.plan import Piece, Plan

PLAN = Plan(
    (
        Piece("marginals", "gaussian", Gaussian(5.0), 1, 2.0, "columns"),
        Piece("train", "dp_sgd", PoissonSampled(0.1, Gaussian(2.0)), 100, 1.0, "clip"),
    ),
    1e-5,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.jsonl"


@pytest.fixture
def ledger(path):
    return Ledger.create(path, PLAN, {"rng": "entropy"})


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_reservation_is_on_disk_when_reserve_returns(ledger, path):
    ledger.reserve("train", 64, key_id="k", clip=1.0)
    record = lines(path)[-1]
    assert (record["piece"], record["first"], record["count"], record["clip"]) == ("train", 0, 64, 1.0)
    assert record["event"] == PoissonSampled(0.1, Gaussian(2.0)).to_json()


def test_reserving_beyond_the_plan_is_refused_and_leaves_no_trace(ledger, path):
    ledger.reserve("train", 64, key_id="k")
    before = path.read_bytes()
    with pytest.raises(BudgetExceeded, match="authorises 100"):
        ledger.reserve("train", 37, key_id="k")
    assert path.read_bytes() == before


def test_a_failed_write_reserves_nothing(ledger, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ledger_module.os, "fsync", full)
    with pytest.raises(RunError, match="no noise was drawn"):
        ledger.reserve("train", 1, key_id="k")
    assert ledger.reserved("train") == 0


def test_reopening_counts_every_earlier_reservation(ledger, path):
    ledger.reserve("marginals", 1, key_id="k")
    ledger.reserve("train", 64, key_id="k")
    again = Ledger.open(path)
    assert (again.reserved("marginals"), again.reserved("train")) == (1, 64)
    with pytest.raises(BudgetExceeded):
        again.reserve("marginals", 1, key_id="k")


def test_another_key_cannot_continue(ledger, path):
    ledger.reserve("train", 64, key_id="k")
    with pytest.raises(PrivacyError, match="key that is gone"):
        Ledger.open(path).reserve("train", 1, key_id="other")


def test_a_torn_last_line_is_cut_off(ledger, path):
    ledger.reserve("train", 64, key_id="k")
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"seq":2,"kind":"reserve","piece":"tr')
    assert Ledger.open(path).reserved("train") == 64
    assert path.read_bytes() == whole


@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_altered_line_is_named(ledger, path, number):
    ledger.reserve("marginals", 1, key_id="k")
    ledger.reserve("train", 64, key_id="k")
    ledger.commit("train", 64)
    text = path.read_text().splitlines()
    text[number] = text[number].replace('"rng":"entropy"', '"rng":"secure"').replace('"count":', '"count": ')
    path.write_text("\n".join(text) + "\n")
    with pytest.raises(RunError, match=f"line {number + 2}"):
        Ledger.open(path)


def test_a_removed_line_is_noticed(ledger, path):
    ledger.reserve("marginals", 1, key_id="k")
    ledger.reserve("train", 64, key_id="k")
    text = path.read_text().splitlines()
    path.write_text("\n".join([text[0], text[2]]) + "\n")
    with pytest.raises(RunError, match="line 2"):
        Ledger.open(path)


def test_a_run_ends_only_with_ledger_equal_to_plan(ledger):
    ledger.reserve("marginals", 1, key_id="k")
    with pytest.raises(PlanMismatch, match="'train' 0 of 100"):
        ledger.close()
    ledger.reserve("train", 100, key_id="k")
    ledger.close()
    assert ledger.closed


def test_a_ledger_is_never_written_twice(ledger, path):
    with pytest.raises(RunError, match="exists already"):
        Ledger.create(path, PLAN, {})


def test_taints_are_remembered_by_sink(ledger, path):
    ledger.taint("loss", "metrics.csv")
    ledger.taint("loss", "metrics.csv")
    ledger.taint("loss", "wandb")
    assert Ledger.open(path).taints() == {"metrics.csv": ["loss"], "wandb": ["loss"]}


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\n", b"[]\n", b"{}\n", b"not json\n"])
def test_a_file_that_is_no_ledger_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(RunError):
        Ledger.open(path)
