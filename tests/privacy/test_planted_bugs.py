"""Planted bugs: each known way of losing the guarantee makes the contract fail.

The library of mutants is ``tests/mutants``; ``python -m tests.mutants`` runs every one against the tests that
should catch it. Here are the contract in one function, which some of them must fail, and checks of single
mechanisms.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from contract.checks import check_all
from contract.harness import TARGETS, fit, schema_for, small_model, table_for
from mutants.collection import MUTANTS
from mutants.library import IN_ONE, planted
from scipy import stats
from torch import nn

from dpforge.errors import PrivacyError
from dpforge.privacy import norms, rng, sampling
from dpforge.privacy.spec import PrivacySpec

# A small noise multiplier needs no calibration; at so small a norm every gradient is clipped.
SPEC = PrivacySpec(target_epsilon=None, noise_multiplier=2.0, max_grad_norm=0.05)
BY_CONTRACT = sorted(name for name, mutant in MUTANTS.items() if mutant.tests[0] == IN_ONE)


def check(folder, target="in range"):
    """The statements of the contract about one model and its neighbour, in one function."""
    model = dataclasses.replace(small_model("dp_maf_seed"), sampling_rate=0.7, transform="dp_marginal_cdf")
    schema = schema_for(model)
    table = table_for(schema, 40, TARGETS[target])
    whole = fit(model, schema, table, folder / "whole", spec=SPEC)
    check_all(whole, fit(model, schema, table.iloc[:-1], folder / "less", spec=SPEC, replay=whole.outputs))


def check_both(folder):
    check(folder / "near")
    check(folder / "far", "far out of range")


def test_the_checks_pass_without_a_mutant(tmp_path):
    check_both(tmp_path)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["far", "near"]


@pytest.mark.parametrize("name", BY_CONTRACT)
def test_a_planted_bug_is_caught(name, tmp_path):
    # AssertionError: a check objected. PrivacyError: the code refused by itself. A mere crash is no catch.
    with planted(name), pytest.raises((AssertionError, PrivacyError)):
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


def test_norms_by_products_of_positions_keep_their_digits_where_terms_cancel():
    """Two positions of nearly the same large input with opposite gradients; the sum is small."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 64, bias=False)
    a = 1e3 + 1e-2 * torch.randn(5, 2, 64)
    g = torch.randn(5, 1, 64) * torch.tensor([1.0, -1.0]).view(1, 2, 1)
    assert norms._gram_is_cheaper(a, g)
    exact = torch.einsum("bto,bti->boi", g.double(), a.double()).square().sum((1, 2))
    found = norms.rule_for(layer).squared_norm(layer, a, g).double()
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=0)
