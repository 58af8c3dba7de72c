"""Keyed randomness: reproducible, separated by purpose and step, of the declared law."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from dpforge.errors import PrivacyError
from dpforge.privacy.rng import KeyedRandom, fresh_random

KINDS = ("entropy", "secure")
KEY = bytes(range(32))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_key_purpose_and_step_replay_the_same_noise(kind):
    first, second = KeyedRandom(kind, KEY), KeyedRandom(kind, KEY)
    assert torch.equal(first.normal("a", 3, 100), second.normal("a", 3, 100))


@pytest.mark.parametrize("kind", KINDS)
def test_another_step_purpose_or_key_gives_unrelated_noise(kind):
    base = KeyedRandom(kind, KEY)
    others = [
        base.normal("a", 4, 2000),
        base.normal("b", 3, 2000),
        KeyedRandom(kind, KEY[::-1]).normal("a", 3, 2000),
    ]
    for other in others:
        assert abs(np.corrcoef(base.normal("a", 3, 2000), other)[0, 1]) < 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_noise_has_the_declared_scale_and_law(kind):
    noise = KeyedRandom(kind, KEY).normal("a", 0, 100_000).double().numpy()
    low, high = stats.chi2.ppf([1e-6, 1 - 1e-6], noise.size) / noise.size
    assert low < np.mean(noise**2) < high
    assert not low < np.mean((0.98 * noise) ** 2) < high
    assert stats.kstest(noise, "norm").pvalue > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_white_and_never_repeats(kind):
    noise = KeyedRandom(kind, KEY).normal("a", 0, 50_000).double().numpy()
    correlations = [np.corrcoef(noise[:-lag], noise[lag:])[0, 1] for lag in (1, 2, 7, 25_000)]
    assert np.abs(correlations).max() < 0.03
    assert np.unique(noise).size > 0.99 * noise.size


@pytest.mark.parametrize("kind", KINDS)
def test_uniforms_lie_strictly_inside_the_unit_interval(kind):
    draws = KeyedRandom(kind, KEY).uniform("a", 0, 100_000)
    assert 0 < draws.min() < draws.max() < 1
    assert stats.kstest(draws, "uniform").pvalue > 1e-4


def test_seeded_noise_is_a_function_of_its_seed_and_entropy_is_not():
    assert fresh_random("seeded", 3).key == fresh_random("seeded", 3).key
    assert fresh_random("seeded", 3).key != fresh_random("seeded", 4).key
    assert fresh_random("entropy").key != fresh_random("entropy").key


def test_all_256_bits_of_a_key_matter():
    noise = KeyedRandom("entropy", KEY).normal("a", 0, 10)
    for position in range(32):
        other = bytearray(KEY)
        other[position] ^= 1
        assert not torch.equal(noise, KeyedRandom("entropy", bytes(other)).normal("a", 0, 10))


def test_torch_generators_keep_only_32_bits_of_their_seed_which_is_why_they_are_not_used():
    low, high = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1 + 2**32)
    assert torch.equal(torch.randn(5, generator=low), torch.randn(5, generator=high))


def test_the_key_is_not_shown_and_its_public_id_does_not_contain_it():
    random = KeyedRandom("entropy", KEY)
    assert KEY.hex() not in repr(random)
    assert random.key_id not in KEY.hex()
    assert len(random.key_id) == 16


def test_a_short_key_is_refused():
    with pytest.raises(PrivacyError, match="expected 32"):
        KeyedRandom("entropy", b"short")
