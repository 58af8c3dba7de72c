"""Epsilon against published oracles, closed forms and the other accountant."""

from __future__ import annotations

import math

import dp_accounting
import pytest
from dp_accounting.rdp import RdpAccountant

from dpforge.errors import PrivacyError
from dpforge.privacy import accounting
from dpforge.privacy.accounting import (
    RDP_ORDERS,
    best_order,
    calibrate,
    certifying_accountant,
    compose,
    epsilon,
    gaussian_delta,
    gaussian_noise_multiplier,
)
from dpforge.privacy.events import (
    Composed,
    EpsilonDelta,
    Gaussian,
    Laplace,
    NonPrivate,
    PoissonSampled,
    SelfComposed,
    ZCDp,
    event_from_json,
)


def dp_sgd(rate, sigma, steps):
    return SelfComposed(PoissonSampled(rate, Gaussian(sigma)), steps)


ORACLES = [
    (256 / 32561, 1.0, 1280, 1.5873, 1.8437),
    (256 / 32561, 0.5, 1280, 12.1542, 14.0901),
    (256 / 32561, 5.0, 1280, 0.1859, 0.2066),
    (0.01, 1.0, 1000, 1.8282, 2.1014),
    (256 / 2430, 1.0, 90, 7.0682, 7.9304),
    (256 / 2430, 1.0, 279, 12.6283, 13.8518),
    (128 / 60000, 0.8, 4 * 469, 0.855, 1.54),
]


@pytest.mark.parametrize(("rate", "sigma", "steps", "by_pld", "by_rdp"), ORACLES)
def test_dp_sgd_epsilon_equals_the_published_oracles(rate, sigma, steps, by_pld, by_rdp):
    tree = dp_sgd(rate, sigma, steps)
    assert epsilon(tree, 1e-5) == pytest.approx(by_pld, abs=1.1e-3)
    assert epsilon(tree, 1e-5, "rdp") == pytest.approx(by_rdp, rel=0.01)


def test_full_batch_gaussian_equals_its_closed_form():
    tree = SelfComposed(Gaussian(10), 20)
    exact = epsilon(tree, 1e-5)
    assert exact == pytest.approx(1.7601, abs=1e-3)
    assert gaussian_delta(math.sqrt(20) / 10, exact) == pytest.approx(1e-5, rel=1e-2)


@pytest.mark.parametrize(
    ("target", "multiplier"), [(0.5, 7.0318), (1, 3.7306), (2, 1.9938), (3, 1.3906), (10, 0.4999)]
)
def test_one_gaussian_needs_the_published_multiplier(target, multiplier):
    assert gaussian_noise_multiplier(target, 1e-5) == pytest.approx(multiplier, abs=1e-4)


def test_teacher_with_statistics_composes_to_the_published_epsilon():
    teacher = dp_sgd(128 / 60000, 0.8, 4 * 469)
    assert epsilon(compose(teacher, Gaussian(10)), 1e-5) == pytest.approx(0.915, abs=2e-3)
    assert epsilon(compose(teacher, Gaussian(20)), 1e-5) == pytest.approx(0.870, abs=2e-3)


def test_zcdp_is_certified_by_rdp_only():
    assert epsilon(ZCDp(0.1), 1e-5, "rdp") == pytest.approx(1.914, abs=2e-3)
    with pytest.raises(PrivacyError, match="RDP"):
        epsilon(ZCDp(0.1), 1e-5, "pld")


def test_threshold_brick_costs_its_delta():
    assert epsilon(compose(Gaussian(5), EpsilonDelta(0.0, 1e-6)), 1e-5) == pytest.approx(0.7308, abs=1e-3)


def test_rdp_bounds_pld_for_mixed_trees():
    tree = compose(Gaussian(4), Laplace(8), EpsilonDelta(0.05, 1e-7), dp_sgd(0.02, 1.2, 300))
    assert epsilon(tree, 1e-5) <= epsilon(tree, 1e-5, "rdp")


def test_an_access_without_noise_has_no_finite_epsilon():
    assert epsilon(compose(Gaussian(1), NonPrivate()), 1e-5) == math.inf
    assert epsilon(dp_sgd(0.1, 0.0, 3), 1e-5) == math.inf


@pytest.mark.parametrize("target", [0.3, 1.0, 8.0])
def test_calibration_spends_the_target_and_not_more(target):
    sigma = calibrate(lambda s: compose(Gaussian(20), dp_sgd(0.02, s, 200)), target, 1e-5)
    spent = epsilon(compose(Gaussian(20), dp_sgd(0.02, sigma, 200)), 1e-5)
    assert target - 1e-5 < spent <= target


def test_calibration_refuses_a_target_that_is_spent_already():
    with pytest.raises(PrivacyError, match="cannot be met"):
        calibrate(lambda s: compose(EpsilonDelta(2.0), Gaussian(s)), 1.0, 1e-5)


def test_events_survive_json_and_unknown_types_are_refused():
    tree = compose(dp_sgd(0.1, 1.0, 3), Laplace(2), ZCDp(0.5), EpsilonDelta(1, 1e-7), NonPrivate())
    assert event_from_json(tree.to_json()) == tree
    with pytest.raises(PrivacyError, match="unknown event type"):
        event_from_json({"type": "os.system"})


@pytest.mark.parametrize(
    "tree",
    [SelfComposed(PoissonSampled(128 / 30000, Gaussian(1.0)), 4685), Gaussian(3.0)],
    ids=["sgd", "one"],
)
def test_the_order_shown_is_the_one_whose_bound_is_smallest(tree):
    known = dp_accounting.GaussianDpEvent(3.0)
    if isinstance(tree, SelfComposed):
        step = dp_accounting.PoissonSampledDpEvent(128 / 30000, dp_accounting.GaussianDpEvent(1.0))
        known = dp_accounting.SelfComposedDpEvent(step, 4685)
    single = {order: RdpAccountant([order]).compose(known).get_epsilon(1e-6) for order in RDP_ORDERS}
    assert best_order(tree, 1e-6) == min(single, key=single.__getitem__)
    assert best_order(ZCDp(0.0), 1e-6) is not None
    assert best_order(EpsilonDelta(1.0, 1e-5), 1e-6) is None


TREES = {
    "dp_sgd": lambda m: Composed((SelfComposed(PoissonSampled(0.03, Gaussian(m)), 600), Gaussian(30.0))),
    "gaussian": lambda m: SelfComposed(Gaussian(m), 20),
    "laplace": lambda m: Composed((Laplace(m), EpsilonDelta(0.1, 1e-8))),
    "zcdp": lambda m: Composed((ZCDp(1 / m**2), Gaussian(10 * m))),
}


@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize("target", [0.5, 3.0])
def test_the_quick_search_for_the_noise_ends_where_the_bracketing_one_does(kind, target, monkeypatch):
    event_of = TREES[kind]
    quick = calibrate(event_of, target, 1e-5)
    assert epsilon(event_of(quick), 1e-5, certifying_accountant(event_of(1.0))) <= target
    monkeypatch.setattr(accounting, "_secant", lambda *_: None)
    assert quick == pytest.approx(calibrate(event_of, target, 1e-5), rel=5e-7)


def test_calibration_pays_for_few_evaluations_on_the_grid_of_record(monkeypatch):
    fine = []
    original = accounting._epsilon

    def counted(event, delta, accountant, grid):
        fine.extend([grid] * (grid == accounting.DISCRETIZATION))
        return original(event, delta, accountant, grid)

    monkeypatch.setattr(accounting, "_epsilon", counted)
    monkeypatch.setattr(accounting, "_known", {})
    calibrate(TREES["dp_sgd"], 3.0, 1e-5)
    assert len(fine) <= 3
