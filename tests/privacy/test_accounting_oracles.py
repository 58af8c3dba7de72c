"""Epsilon against derivations of others: Opacus' accountants, closed forms, dp-accounting's own trees.

A few random settings run here; ``DPFORGE_PROOF=full`` runs many.
"""

from __future__ import annotations

import math
import os
import warnings

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from opacus.accountants import PRVAccountant
from opacus.accountants.analysis import rdp as opacus_rdp
from scipy import optimize, special, stats

from dpforge.privacy.accounting import RDP_ORDERS, calibrate, compose, epsilon, gaussian_noise_multiplier
from dpforge.privacy.events import EpsilonDelta, Gaussian, Laplace, PoissonSampled, SelfComposed, ZCDp

FULL = os.environ.get("DPFORGE_PROOF") == "full"
SETTINGS = 40 if FULL else 4
DELTA = 1e-5


def settings(count, seed):
    """Random rates, noise multipliers and steps at which epsilon is between about 0.1 and 10."""
    rng = np.random.default_rng(seed)
    found = []
    while len(found) < count:
        rate, steps = float(10 ** rng.uniform(-3, -0.7)), int(10 ** rng.uniform(1, 3))
        sigma = float(rng.uniform(0.7, 6))
        if 0.05 < rate * math.sqrt(steps) / sigma < 1.5:
            found.append((rate, sigma, steps))
    return found


def dp_sgd(rate, sigma, steps):
    return SelfComposed(PoissonSampled(rate, Gaussian(sigma)), steps)


@pytest.mark.parametrize(("rate", "sigma", "steps"), settings(SETTINGS, 1))
def test_rdp_of_dp_sgd_equals_opacus(rate, sigma, steps):
    curve = opacus_rdp.compute_rdp(q=rate, noise_multiplier=sigma, steps=steps, orders=list(RDP_ORDERS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Opacus advises on the choice of orders
        theirs, _ = opacus_rdp.get_privacy_spent(orders=list(RDP_ORDERS), rdp=curve, delta=DELTA)
    assert epsilon(dp_sgd(rate, sigma, steps), DELTA, "rdp") == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize(("rate", "sigma", "steps"), settings(SETTINGS, 2))
def test_pld_of_dp_sgd_lies_within_the_bounds_of_opacus_prv(rate, sigma, steps):
    accountant = PRVAccountant()
    accountant.history = [(sigma, rate, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        upper = accountant.get_epsilon(DELTA, eps_error=0.01, delta_error=DELTA * 1e-3)
    found = epsilon(dp_sgd(rate, sigma, steps), DELTA)
    # PRV states an upper end, at most twice its error above the truth; PLD is above it by its grid.
    assert upper - 0.025 <= found <= upper + 0.005


@pytest.mark.parametrize(("rate", "sigma", "steps"), settings(max(SETTINGS // 2, 2), 3))
def test_mixed_trees_cost_what_dp_accounting_says(rate, sigma, steps):
    tree = compose(dp_sgd(rate, sigma, steps), SelfComposed(Gaussian(sigma * 8), 3), Laplace(sigma * 6))
    step = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(sigma))
    pld, rdp = PLDAccountant(value_discretization_interval=1e-4), RdpAccountant(RDP_ORDERS)
    for accountant in (pld, rdp):
        accountant.compose(dp_accounting.SelfComposedDpEvent(step, steps))
        accountant.compose(dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(sigma * 8), 3))
        accountant.compose(dp_accounting.LaplaceDpEvent(sigma * 6))
    assert epsilon(tree, DELTA) == pytest.approx(pld.get_epsilon(DELTA), abs=2e-3)
    assert epsilon(tree, DELTA, "rdp") == pytest.approx(rdp.get_epsilon(DELTA), rel=1e-9)
    assert epsilon(tree, DELTA) <= epsilon(tree, DELTA, "rdp")


def gaussian_profile(mu, found):
    """delta(epsilon) of a shift mu by integration of the hockey stick, not by its closed form."""
    x = np.linspace(-40, 40, 800_001)
    excess = stats.norm.pdf(x, mu) - math.exp(found) * stats.norm.pdf(x)
    return float(np.trapezoid(np.maximum(excess, 0), x))


@pytest.mark.parametrize(("sigma", "uses"), [(1.0, 1), (4.0, 3), (10.0, 20), (0.8, 1), (30.0, 500)])
def test_composed_gaussians_equal_the_integral_of_their_hockey_stick(sigma, uses):
    found = epsilon(SelfComposed(Gaussian(sigma), uses), DELTA)
    mu = math.sqrt(uses) / sigma
    assert gaussian_profile(mu, found) <= DELTA * (1 + 1e-6)
    assert gaussian_profile(mu, found - 2e-3) > DELTA


@pytest.mark.parametrize("target", [0.2, 1.0, 3.0, 10.0])
def test_one_gaussian_is_calibrated_to_the_analytic_multiplier(target):
    exact = gaussian_noise_multiplier(target, DELTA)
    assert gaussian_profile(1 / exact, target) == pytest.approx(DELTA, rel=1e-4)
    assert exact <= calibrate(Gaussian, target, DELTA) < exact * (1 + 1e-3)


@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
def test_one_laplace_equals_its_closed_form(scale):
    """delta(eps) = 1 − exp((eps − 1/b) / 2) below 1/b."""
    for delta in (1e-5, 1e-2):
        assert epsilon(Laplace(scale), delta) == pytest.approx(1 / scale + 2 * math.log1p(-delta), abs=2e-4)


def optimal_composition(each, slack, uses, delta):
    """Smallest epsilon of ``uses`` (each, slack)-DP mechanisms (Kairouz, Oh and Viswanath, 2015)."""

    def spent(total):
        i = np.arange(uses + 1)
        win = special.comb(uses, i) * np.exp((uses - i) * each) - special.comb(uses, i) * np.exp(
            total + i * each
        )
        return float(np.maximum(win, 0).sum() / (1 + math.exp(each)) ** uses)

    def excess(total):
        return 1 - (1 - slack) ** uses * (1 - spent(total)) - delta

    return optimize.brentq(excess, 0, uses * each) if excess(0) > 0 else 0.0


@pytest.mark.parametrize(
    ("each", "slack", "uses"), [(0.1, 0.0, 30), (0.5, 1e-7, 4), (0.05, 1e-8, 100), (1.0, 0.0, 2)]
)
def test_bricks_compose_as_the_optimal_theorem_says(each, slack, uses):
    exact = optimal_composition(each, slack, uses, DELTA)
    found = epsilon(SelfComposed(EpsilonDelta(each, slack), uses), DELTA)
    assert exact - 1e-6 <= found <= exact + uses * 1e-4 + 1e-3


@pytest.mark.parametrize("each", [0.01, 0.3, 2.0])
def test_pure_bricks_never_cost_more_than_their_sum(each):
    assert epsilon(SelfComposed(EpsilonDelta(each), 5), 1e-12) <= 5 * each + 6e-4


@pytest.mark.parametrize("rho", [0.01, 0.1, 1.0])
def test_zcdp_costs_less_than_the_textbook_conversion_and_more_than_its_gaussian(rho):
    """Bun and Steinke, 2016, proposition 1.3; one Gaussian of cost rho is exact."""
    found = epsilon(ZCDp(rho), DELTA, "rdp")
    assert found < rho + 2 * math.sqrt(rho * math.log(1 / DELTA))
    assert found > epsilon(Gaussian((2 * rho) ** -0.5), DELTA)


def test_epsilon_grows_with_every_cost_and_falls_with_delta():
    base = epsilon(dp_sgd(0.02, 1.2, 200), DELTA)
    assert epsilon(dp_sgd(0.021, 1.2, 200), DELTA) > base
    assert epsilon(dp_sgd(0.02, 1.19, 200), DELTA) > base
    assert epsilon(dp_sgd(0.02, 1.2, 202), DELTA) > base
    assert epsilon(compose(dp_sgd(0.02, 1.2, 200), Gaussian(60)), DELTA) > base
    assert epsilon(dp_sgd(0.02, 1.2, 200), 2 * DELTA) < base
