"""Planted bugs: each known way of losing the guarantee makes the contract fail.

A mutant patches one line of behaviour; the checks of the contract suite, run on it, must object.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from contract.harness import TARGETS, fit, schema_for, small_model, table_for
from scipy import stats

from dpforge.errors import PrivacyError
from dpforge.generators import histograms as generator_histograms
from dpforge.generators import training
from dpforge.privacy import engines, mechanisms, rng, sampling
from dpforge.privacy.norms import LinearRule
from dpforge.privacy.spec import PrivacySpec


def fits(folder, rows=40, target="in range"):
    model = dataclasses.replace(small_model("dp_maf_seed"), sampling_rate=0.7, transform="dp_marginal_cdf")
    schema = schema_for(model)
    table = table_for(schema, rows, TARGETS[target])
    spec = PrivacySpec(max_grad_norm=0.05)  # small enough that every gradient is clipped
    whole = fit(model, schema, table, folder / "whole", spec=spec)
    return whole, fit(model, schema, table.iloc[:-1], folder / "less", spec=spec, replay=whole.outputs)


def check(folder, target="in range"):
    """The statements of the contract suite, in one function."""
    whole, less = fits(folder, target=target)
    for a, b in zip(whole.releases, less.releases, strict=True):
        assert (a.name, a.step, a.value.shape, a.scale) == (b.name, b.step, b.value.shape, b.scale)
        assert np.linalg.norm(a.value - b.value) <= a.sensitivity * (1 + 1e-5), "sensitivity"
    normalizers = [[r.get("normalizer") for r in t.ledger._records] for t in (whole, less)]
    assert normalizers[0] == normalizers[1], "normaliser"
    for piece in whole.plan.pieces:
        mine = [r for r in whole.releases if r.name == piece.name]
        assert [r.step for r in mine] == list(range(piece.count)), "every use released once"
        assert {r.scale for r in mine} == {piece.sensitivity * piece.noise_multiplier}, "scale"
        noise = np.concatenate([r.noise for r in mine]) / mine[0].scale
        low, high = stats.chi2.ppf([1e-6, 1 - 1e-6], noise.size) / noise.size
        assert low < np.mean(noise**2) < high * 1.15, "variance"
        if piece.mechanism == "dp_sgd":
            assert np.unique(noise).size == noise.size, "repeated noise"
    whole.ledger.check_complete()


def check_both(folder):
    check(folder / "near")
    check(folder / "far", "far out of range")


def no_clip(monkeypatch):
    monkeypatch.setattr(engines, "clip_weights", lambda squared, c: torch.ones_like(squared))


def clip_the_batch_mean(monkeypatch):
    def weights(squared, c):
        return torch.full_like(squared, float((c / squared.sqrt().mean()).clamp(max=1)))

    monkeypatch.setattr(engines, "clip_weights", weights)


def mask_left_out_of_the_norm(monkeypatch):
    def squared_norm(self, layer, a, g):
        total = g.square().sum(1) * a.square().sum(1) / 4
        return total + g.square().sum(1) / 4

    monkeypatch.setattr(LinearRule, "squared_norm", squared_norm)


def half_noise(monkeypatch):
    normal = rng.KeyedRandom.normal
    monkeypatch.setattr(rng.KeyedRandom, "normal", lambda *a: normal(*a) / 2)


def no_noise(monkeypatch):
    monkeypatch.setattr(rng.KeyedRandom, "normal", lambda self, purpose, step, size: torch.zeros(size))


def broadcast_noise(monkeypatch):
    normal = rng.KeyedRandom.normal
    monkeypatch.setattr(
        rng.KeyedRandom,
        "normal",
        lambda self, purpose, step, size: normal(self, purpose, step, 1).repeat(size),
    )


def noise_reused_at_every_step(monkeypatch):
    normal = rng.KeyedRandom.normal
    monkeypatch.setattr(
        rng.KeyedRandom, "normal", lambda self, purpose, step, size: normal(self, purpose, 0, size)
    )


def steps_left_out_of_the_ledger(monkeypatch):
    reserve = mechanisms.PrivateAccess.reserve
    monkeypatch.setattr(
        mechanisms.PrivateAccess,
        "reserve",
        lambda self, name, upto, **kw: reserve(self, name, 1 if name == "marginals" else 0, **kw),
    )


def every_row_votes_twice(monkeypatch):
    original = generator_histograms.release_histograms

    def doubled(access, codec, codes, *rest):
        return original(access, codec, np.concatenate([codes, codes]), *rest)

    monkeypatch.setattr("dpforge.generators.dp_maf.release_histograms", doubled)


def poison_is_kept(monkeypatch):
    def weights(squared, c):
        return (c / squared.sqrt()).clamp(max=1.0)

    monkeypatch.setattr(engines, "clip_weights", weights)

    def poisoned(gather, rows, units=None):
        def with_poison(indices, step):
            (x,) = gather(indices, step)
            return (torch.where((indices == 39).unsqueeze(1), torch.full_like(x, float("nan")), x),)

        return training.TrainingData(with_poison, rows, units)

    monkeypatch.setattr("dpforge.generators.dp_maf.TrainingData", poisoned)


def normaliser_from_the_data(monkeypatch):
    train = training.train

    def by_length(module, data, run, **kw):
        kw["expected_rows"] = data.rows * kw["sampling_rate"]
        return train(module, data, run, **kw)

    monkeypatch.setattr("dpforge.generators.dp_maf.train", by_length)


def clip_scale_from_the_data(monkeypatch):
    observe = mechanisms.PrivateAccess._observe

    def scaled(self, piece, step, value, noise, scale):
        observe(self, piece, step, value, noise, scale * (1 + abs(float(value.sum())) * 1e-6))

    monkeypatch.setattr(mechanisms.PrivateAccess, "_observe", scaled)


def histogram_sensitivity_of_one_column(monkeypatch):
    release = generator_histograms.histogram_release

    def one_column(schema, relation, **kw):
        from dataclasses import replace

        return replace(release(schema, relation, **kw), sensitivity=1.0)

    monkeypatch.setattr("dpforge.generators.dp_maf.histogram_release", one_column)


MUTANTS = [
    no_clip,
    clip_the_batch_mean,
    mask_left_out_of_the_norm,
    half_noise,
    no_noise,
    broadcast_noise,
    noise_reused_at_every_step,
    steps_left_out_of_the_ledger,
    every_row_votes_twice,
    poison_is_kept,
    normaliser_from_the_data,
    clip_scale_from_the_data,
    histogram_sensitivity_of_one_column,
]


def test_the_checks_pass_without_a_mutant(tmp_path):
    check_both(tmp_path)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["far", "near"]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_a_planted_bug_is_caught(mutant, monkeypatch, tmp_path):
    mutant(monkeypatch)
    # AssertionError: a check objected. PrivacyError: the code refused by itself. A mere crash is no catch.
    with pytest.raises((AssertionError, PrivacyError)):
        check_both(tmp_path)


def test_fixed_size_batches_fail_the_dispersion_check():
    def dispersion(sample):
        sizes = np.array([sample(t).size for t in range(2000)])
        low, high = stats.chi2.ppf([1e-5, 1 - 1e-5], 1999) / 1999
        return low < sizes.var(ddof=1) / (1000 * 0.1 * 0.9) < high

    random = rng.KeyedRandom("entropy", bytes(32))
    poisson = sampling.PoissonSampler(1000, 0.1, random)
    assert dispersion(poisson.sample)
    assert not dispersion(lambda t: random.generator("fixed", t).choice(1000, 100, replace=False))


def test_a_two_percent_deficit_of_noise_is_visible_at_1e5_draws():
    noise = rng.KeyedRandom("entropy", bytes(32)).normal("a", 0, 100_000).double().numpy()
    low = stats.chi2.ppf(1e-6, noise.size) / noise.size
    assert np.mean((0.98 * noise) ** 2) < low < np.mean(noise**2)
    assert math.isfinite(low)
