"""The ledger: nothing before it is on disk, nothing beyond the plan, nothing altered unnoticed."""

from __future__ import annotations

import hashlib
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


def rewritten(path, plan=None, piece=None, event=None, **reservation):
    """A ledger of one Gaussian piece with fields of its records replaced, its chain whole."""
    ledger = Ledger.create(path, Plan((Piece("g", "gaussian", Gaussian(0.5), 1, 1.0, ""),), 1e-5), {})
    ledger.reserve("g", 1, key_id="k", clip=0.5)
    head, used = lines(path)
    head["plan"].update(plan or {})
    head["plan"]["pieces"][0].update(piece or {})
    if event is not None:
        head["plan"]["pieces"][0]["event"] = used["event"] = event
    used.update(reservation)
    first = json.dumps(head)
    second = json.dumps({**used, "previous": hashlib.sha256(first.encode()).hexdigest()})
    path.write_text(f"{first}\n{second}\n")
    return path


def gaussian(**changes):
    return {"event": {"type": "gaussian", "noise_multiplier": 0.5, **changes}}


FORGED = {
    "a second event inside": gaussian(event={"type": "gaussian", "noise_multiplier": 100.0}),
    "a negative noise": gaussian(noise_multiplier=-5.0),
    "endless noise": gaussian(noise_multiplier=float("inf")),
    "a noise that is true": gaussian(noise_multiplier=True),
    "a noise beyond all floats": gaussian(noise_multiplier=10**400),
    "a negative rho": {"event": {"type": "zcdp", "rho": -2.0}},
    "a negative delta of a brick": {"event": {"type": "epsilon_delta", "epsilon": 0.1, "delta": -0.5}},
    "a negative epsilon of a brick": {"event": {"type": "epsilon_delta", "epsilon": -0.1, "delta": 0.0}},
    "a rate of nothing": {"event": {"type": "poisson_sampled", "sampling_rate": 0.0, **gaussian()}},
    "a rate above 1": {"event": {"type": "poisson_sampled", "sampling_rate": 1.5, **gaussian()}},
    "a field left out": {"event": {"type": "gaussian"}},
    "delta above 1": {"plan": {"delta": 1.5}},
    "delta of nothing": {"plan": {"delta": 0.0}},
    "an unknown relation": {"plan": {"relation": "none"}},
    "half a use": {"piece": {"count": 1.5}},
    "a count that is true": {"piece": {"count": True}},
    "a count of a float": {"piece": {"count": 1.0}},
    "no sensitivity": {"piece": {"sensitivity": 0.0}},
    "an endless sensitivity": {"piece": {"sensitivity": float("inf")}},
    "noise without a mechanism": {"piece": {"mechanism": "none"}},
    "another field of a piece": {"piece": {"events": []}},
    "a clip above the sensitivity": {"clip": 100.0},
    "a clip above half the sensitivity, when records are replaced": {
        "plan": {"relation": "replace"},
        "clip": 0.6,
    },
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_value_is_refused_with_its_line(path, name):
    changes = FORGED[name]
    with pytest.raises(RunError, match="line 2" if "clip" in changes else "line 1"):
        Ledger.open(rewritten(path, **changes))


def test_what_is_forged_opens_as_it_was(path):
    assert Ledger.open(rewritten(path)).reserved("g") == 1
