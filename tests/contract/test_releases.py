"""The contract of what leaves private records: order on disk, streams, and nothing beside the releases."""

from __future__ import annotations

import os

import numpy as np
import pytest

from dpforge.errors import ConfigError
from dpforge.privacy.dpsgd import DPGradient
from dpforge.privacy.events import Gaussian
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.plan import Piece, Plan
from dpforge.privacy.rng import KeyedRandom
from dpforge.privacy.spec import PrivacySpec

from .checks import check_follows_from_releases, check_outputs, check_streams, described_release
from .harness import KEY, NOT_REPLACED, TARGETS, fit, table_for
from .test_generators import NAMES, generator


@pytest.mark.parametrize("name", NAMES)
def test_noise_is_reserved_on_disk_before_it_exists_and_no_stream_is_opened_twice(name, tmp_path):
    model, schema = generator(name)
    check_streams(fit(model, schema, table_for(schema, 50), tmp_path))


@pytest.mark.parametrize("name", NAMES)
def test_what_a_generator_gets_is_the_value_plus_the_noise(name, tmp_path):
    model, schema = generator(name)
    trace = fit(model, schema, table_for(schema, 50), tmp_path / "usual")
    check_outputs(trace)
    if trace.chooses:
        # With so much noise the best clean score is not always the best noisy one.
        spec, choices = PrivacySpec(target_epsilon=None, noise_multiplier=500.0), []
        for number in range(4):
            folder, key = tmp_path / str(number), bytes([number]) * 32
            loud = fit(model, schema, table_for(schema, 50), folder, spec=spec, key=key)
            check_outputs(loud)
            choices += [r for r in loud.releases if r.kind == "choice"]
        assert any(np.argmax(r.value) != np.argmax(r.value + r.noise) for r in choices)


@pytest.mark.parametrize("name", NAMES)
def test_unrelated_records_with_the_same_releases_give_the_same_samples(name, tmp_path):
    """Whatever decides something beside the releases would decide otherwise for other records."""
    model, schema = generator(name)
    whole = fit(model, schema, table_for(schema, 40), tmp_path / "whole")
    unrelated = table_for(schema, 33, seed=9)
    other = fit(model, schema, unrelated, tmp_path / "other", replay=whole.outputs)
    check_follows_from_releases(whole, other)
    described = [[described_release(r) for r in trace.releases] for trace in (whole, other)]
    assert described[0] == described[1]
    assert any(
        not np.array_equal(a.value, b.value) for a, b in zip(whole.releases, other.releases, strict=True)
    )


@pytest.mark.parametrize("name", NAMES)
def test_private_losses_decide_nothing(name, tmp_path, monkeypatch):
    """Schedules, early stops and choices of a best step by the training loss would change the samples."""
    model, schema = generator(name)
    table = table_for(schema, 50)
    plain = fit(model, schema, table, tmp_path / "plain")
    if not any(piece.mechanism == "dp_sgd" for piece in plain.plan.pieces):
        return
    estimate = DPGradient.__call__

    def another_loss(self, module, batch):
        estimate(self, module, batch)
        return float(1e3 * (batch.step % 3 + 1))

    monkeypatch.setattr(DPGradient, "__call__", another_loss)
    other = fit(model, schema, table, tmp_path / "other", replay=plain.outputs)
    check_follows_from_releases(plain, other)
    assert [r.step for r in other.releases] == [r.step for r in plain.releases]


def test_a_reservation_is_flushed_to_the_disk_before_the_value_is_released(tmp_path, monkeypatch):
    order = []
    plan = Plan((Piece("a", "gaussian", Gaussian(2.0), 3, 1.0, "test"),), 1e-5)
    ledger = Ledger.create(tmp_path / "ledger.jsonl", plan, {"rng": "entropy"})
    flush, draw = os.fsync, KeyedRandom.normal_double
    monkeypatch.setattr(os, "fsync", lambda handle: order.append("flushed") or flush(handle))
    monkeypatch.setattr(KeyedRandom, "normal_double", lambda *a: order.append("drawn") or draw(*a))
    PrivateAccess(ledger, KeyedRandom("entropy", KEY)).gaussian("a", np.zeros(4))
    assert order == ["flushed", "drawn"]


@pytest.mark.parametrize("relation", ["zero_out", "replace"])
@pytest.mark.parametrize("name", NAMES)
def test_replacing_one_record_moves_each_release_by_at_most_its_sensitivity(name, relation, tmp_path):
    """Where a record is zeroed out it is left out: a bound on its presence covers that."""
    model, schema = generator(name)
    spec = PrivacySpec(relation=relation, max_grad_norm=0.05)
    if name in NOT_REPLACED and relation == "replace":
        with pytest.raises(ConfigError, match=NOT_REPLACED[name]):
            model.plan(schema, spec)
        return
    table = table_for(schema, 41, TARGETS["only holder"])
    last, before = np.arange(40), np.r_[np.arange(39), 40]
    rows = [table.take(keep) for keep in (last, before)]
    if relation == "zero_out":
        rows[1] = table.take(np.arange(39))
    whole = fit(model, schema, rows[0], tmp_path / "whole", spec=spec)
    other = fit(model, schema, rows[1], tmp_path / "other", spec=spec, replay=whole.outputs)
    moved = [a.distance(b) / a.sensitivity for a, b in zip(whole.releases, other.releases, strict=True)]
    assert 0 < max(moved) <= 1 + 1e-5


@pytest.mark.parametrize("kind", ["histograms", "measure"])
def test_histograms_of_one_release_have_unrelated_noise(kind, tmp_path):
    plan = Plan((Piece("a", "rounded_gaussian", Gaussian(20.0), 1, 1.0, "test"),), 1e-5)
    ledger = Ledger.create(tmp_path / "ledger.jsonl", plan, {"rng": "entropy"})
    access = PrivateAccess(ledger, KeyedRandom("entropy", KEY))
    counts = [np.zeros(2000, dtype=np.int64) for _ in range(3)]
    if kind == "histograms":
        noisy = access.histograms("a", counts, [1.0, 0.5, 1.0])
    else:
        noisy, _ = access.measure("a", counts, [1.0, 0.5, 1.0], step=0)
    related = np.abs(np.corrcoef(noisy) - np.eye(3)).max()
    assert related < 6 / np.sqrt(2000)
