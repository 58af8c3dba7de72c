"""`relation: replace` by converted sensitivity, against the exact pair of neighbours under composition."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from dpforge.privacy.accounting import epsilon
from dpforge.privacy.events import Gaussian, PoissonSampled, SelfComposed
from dpforge.privacy.spec import replace_factor


def exact_replace_delta(rate, sigma, steps, at, grid=1e-3):
    """Delta of replacing a record whose clipped gradient is +1 by one of −1, by discretised convolution.

    Losses are rounded up, so the result is an upper bound.
    """
    x = np.linspace(-10 * sigma - 2, 10 * sigma + 2, 20_001)
    one, other = (
        ((1 - rate) * norm.pdf(x, 0, sigma) + rate * norm.pdf(x, mean, sigma)) * (x[1] - x[0])
        for mean in (1, -1)
    )
    index = np.ceil(np.log(one / other) / grid).astype(int)
    mass = np.bincount(index - index.min(), weights=one)
    length = mass.size * steps
    size = 1 << int(np.ceil(np.log2(length)))
    composed = np.maximum(np.fft.irfft(np.fft.rfft(mass, size) ** steps, size)[:length], 0)
    losses = (np.arange(length) + index.min() * steps) * grid
    kept = losses > at
    return float((composed[kept] * -np.expm1(at - losses[kept])).sum())


@pytest.mark.parametrize(
    ("rate", "sigma", "steps"),
    [(0.01, 1.0, 200), (0.01, 0.6, 100), (0.1, 1.0, 30), (0.1, 2.0, 100), (0.5, 1.0, 10)],
)
def test_the_converted_sensitivity_covers_the_replacement_of_a_record(rate, sigma, steps):
    converted = sigma / replace_factor("replace", histogram=False)
    tree = SelfComposed(PoissonSampled(rate, Gaussian(converted)), steps)
    for delta in (1e-3, 1e-5):
        assert exact_replace_delta(rate, sigma, steps, epsilon(tree, delta)) <= delta


def test_the_unconverted_sensitivity_would_not_cover_it():
    tree = SelfComposed(PoissonSampled(0.1, Gaussian(2.0)), 100)
    assert exact_replace_delta(0.1, 2.0, 100, epsilon(tree, 1e-5)) > 2e-5
