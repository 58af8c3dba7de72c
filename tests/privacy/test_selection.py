"""Choices and measurements in zCDP: their laws, their cost, and a filter that cannot be passed."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.rdp import RdpAccountant
from scipy import optimize, special, stats

from dpforge import verify
from dpforge.errors import BudgetExceeded, PrivacyError
from dpforge.privacy import ledger as ledgers
from dpforge.privacy.accounting import RDP_ORDERS, certifying_accountant, compose, epsilon
from dpforge.privacy.events import EpsilonDelta, Gaussian, NonPrivate, PoissonSampled, SelfComposed, ZCDp
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.plan import Piece, Plan, plan_from_json
from dpforge.privacy.rng import KeyedRandom
from dpforge.privacy.selection import (
    RepeatAndSelect,
    choice_epsilon,
    choice_scale,
    measurement_scale,
    rdp_curve,
)
from dpforge.privacy.spec import PrivacySpec
from dpforge.privacy.zcdp import gaussian_of, make_zcdp_plan, rho_of

RANDOM = KeyedRandom("entropy", bytes(range(32)))
ADAPTIVE = Piece("aim", "adaptive", ZCDp(0.5), 1, 1.0, "test")


def access_to(folder, *pieces, observers=()):
    path = folder / "ledger.jsonl"
    plan = Plan(pieces, 1e-5, target_epsilon=1.0)
    ledger = Ledger.open(path) if path.exists() else Ledger.create(path, plan, {"rng": "entropy"})
    return PrivateAccess(ledger, RANDOM, observers)


def spends(access):
    return [record for record in access.ledger._records if record["kind"] == "spend"]


def test_epsilon_of_a_tenth_rho_equals_the_oracle_and_its_closed_form():
    found = epsilon(ZCDp(0.1), 1e-5, "rdp")
    assert found == pytest.approx(1.914, abs=1e-3)

    def bound(a):
        return 0.1 * a + math.log1p(-1 / a) - math.log(1e-5 * a) / (a - 1)

    best = optimize.minimize_scalar(bound, bounds=(1.01, 100), method="bounded").fun
    assert best <= found <= best + 1e-3


def test_only_rdp_certifies_a_tree_with_a_reservation():
    plan = Plan((ADAPTIVE, Piece("a", "gaussian", Gaussian(5.0), 1, 1.0, "")), 1e-5)
    assert certifying_accountant(plan.event()) == "rdp"
    assert plan.epsilon() == plan.epsilon("rdp")
    with pytest.raises(PrivacyError, match="RDP"):
        plan.epsilon("pld")


@pytest.mark.parametrize("target", [0.1, 1.0, 10.0])
def test_the_largest_rho_that_meets_a_target_is_found(target):
    spec = PrivacySpec(target_epsilon=target)
    plan = make_zcdp_plan(spec, lambda rho: [Piece("aim", "adaptive", ZCDp(rho), 1, 1.0, "")])
    assert target - 1e-4 < plan.epsilon() <= target
    assert epsilon(ZCDp(plan.pieces[0].event.rho * 1.001), 1e-5, "rdp") > target
    assert plan_from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_a_noise_multiplier_fixes_rho_and_bricks_leave_less():
    brick = Piece("bounds/x", "exponential", EpsilonDelta(0.1), 1, 1.0, "")

    def rho(spec, bricks=()):
        pieces = make_zcdp_plan(
            spec, lambda r: [Piece("aim", "adaptive", ZCDp(r), 1, 1.0, "")], bricks=bricks
        )
        return pieces.piece("aim").event.rho

    assert rho(PrivacySpec(target_epsilon=None, noise_multiplier=2.0)) == pytest.approx(1 / 8)
    assert rho(PrivacySpec(target_epsilon=1.0), [brick]) < rho(PrivacySpec(target_epsilon=1.0))
    assert rho_of(gaussian_of(0.3).noise_multiplier) == pytest.approx(0.3)


def test_choices_follow_the_exponential_mechanism(tmp_path):
    rho, sensitivity, scores, rounds = 0.08, 2.0, np.array([0.0, 3.0, 5.0, 4.0, -6.0]), 4000
    access = access_to(tmp_path, Piece("c", "exponential", ZCDp(rho), rounds, sensitivity, ""))
    access.reserve("c", rounds)
    chosen = [access.choose("c", scores, step=step) for step in range(rounds)]
    expected = special.softmax(choice_epsilon(rho) * scores / (2 * sensitivity)) * rounds
    assert stats.chisquare(np.bincount(chosen, minlength=5), expected).pvalue > 1e-3


def test_the_exponential_mechanism_costs_no_more_than_its_rho():
    """Renyi divergence of the two output laws, for the worst of many neighbouring score vectors."""
    rng = np.random.default_rng(0)
    for rho in (0.01, 0.3, 2.0):
        scale = choice_scale(choice_epsilon(rho), 1.0)
        worst = 0.0
        for _ in range(300):
            scores = rng.normal(0, 5 * scale, 6)
            moved = scores + rng.choice([-1, 1], 6)
            p, q = special.log_softmax(scores / scale), special.log_softmax(moved / scale)
            for alpha in (1.5, 2, 8, 32):
                renyi = special.logsumexp(alpha * p + (1 - alpha) * q) / (alpha - 1)
                worst = max(worst, renyi / (alpha * rho))
        assert 0.5 < worst <= 1 + 1e-9


def test_measurements_have_the_noise_of_their_cost(tmp_path):
    seen = []
    access = access_to(tmp_path, ADAPTIVE, observers=[seen.append])
    counts = [np.full(20_000, 7), np.full(20_000, 9)]
    noisy, scales = access.measure("aim", counts, [1.0, 0.5], step=0, sensitivity=3.0, rho=0.02)
    assert scales == [measurement_scale(0.02, 3.0), 2 * measurement_scale(0.02, 3.0)]
    assert scales[0] == pytest.approx(3.0 / math.sqrt(0.04))
    for table, count, scale in zip(noisy, counts, scales, strict=True):
        assert (table - count).std() == pytest.approx(scale, rel=0.02)
        assert np.array_equal(table, np.rint(table))
    assert np.corrcoef(noisy[0], noisy[1])[0, 1] == pytest.approx(0, abs=0.03)
    assert seen[0].scale == scales[0]
    assert seen[0].sensitivity == 3.0


def test_uses_beyond_the_reservation_are_refused_before_noise_exists(tmp_path):
    seen = []
    access = access_to(tmp_path, ADAPTIVE, observers=[seen.append])
    access.measure("aim", [np.zeros(3)], step=0, rho=0.3)
    access.choose("aim", np.zeros(3), step=1, rho=0.15)
    before = access.ledger.path.read_bytes()
    with pytest.raises(BudgetExceeded, match="No noise was drawn"):
        access.measure("aim", [np.zeros(3)], step=2, rho=0.0501)
    assert access.ledger.path.read_bytes() == before
    assert len(seen) == 2
    access.measure("aim", [np.zeros(3)], step=2, rho=0.0499)
    assert access.ledger.spent("aim") == pytest.approx(0.4999)


@pytest.mark.parametrize("rho", [0.0, -0.1, math.nan])
def test_a_use_that_costs_nothing_is_refused(rho, tmp_path):
    with pytest.raises(PrivacyError):
        access_to(tmp_path, ADAPTIVE).choose("aim", np.zeros(2), step=0, rho=rho)


def test_a_replayed_use_is_free_and_must_be_the_same(tmp_path):
    first = access_to(tmp_path, ADAPTIVE)
    noisy, _ = first.measure("aim", [np.arange(4)], step=0, rho=0.4, what=[[0, 1]])
    again = access_to(tmp_path, ADAPTIVE)
    repeated, _ = again.measure("aim", [np.arange(4)], step=0, rho=0.4, what=[[0, 1]])
    assert np.array_equal(noisy[0], repeated[0])
    assert len(spends(again)) == 1
    for other in ({"rho": 0.3, "what": [[0, 1]]}, {"rho": 0.4, "what": [[0, 2]]}):
        with pytest.raises(PrivacyError, match="differs"):
            access_to(tmp_path, ADAPTIVE).measure("aim", [np.arange(4)], step=0, **other)
    with pytest.raises(PrivacyError, match="before use 1"):
        access_to(tmp_path, ADAPTIVE).measure("aim", [np.arange(4)], step=2, rho=0.01)


def test_one_step_gives_no_second_release(tmp_path):
    access = access_to(tmp_path, ADAPTIVE)
    access.choose("aim", np.zeros(3), step=0, rho=0.1)
    with pytest.raises(PrivacyError, match="drawn already"):
        access.choose("aim", np.zeros(3), step=0, rho=0.1)


def test_asking_who_is_allowed_in_order_equals_asking_beforehand(tmp_path):
    scores = np.random.default_rng(1).normal(0, 3, 12)
    allowed = [1, 4, 7, 9]
    for rounds, folder in enumerate("abcdef"):
        (tmp_path / folder).mkdir()
        seen = []
        access = access_to(
            tmp_path / folder, Piece("c", "exponential", ZCDp(0.1), 10, 1.0, ""), observers=[seen.append]
        )
        chosen = access.choose("c", scores, step=rounds, allowed=allowed.__contains__)
        noisy = seen[0].value + seen[0].noise
        assert chosen == max(allowed, key=lambda i: noisy[i])
    with pytest.raises(PrivacyError, match="nothing to choose"):
        access.choose("c", scores, step=9, allowed=lambda i: False)


def test_without_dp_the_best_score_wins_and_counts_are_exact(tmp_path):
    access = access_to(tmp_path, Piece("aim", "none", NonPrivate(), 1, 1.0, ""))
    assert access.choose("aim", np.array([1.0, 3.0, 2.0]), step=0) == 1
    noisy, scales = access.measure("aim", [np.arange(5)], step=1)
    assert np.array_equal(noisy[0], np.arange(5))
    assert scales == [0.0]


def closed(access):
    access.ledger.close()
    return verify.read_ledger(access.ledger.path)[0]


def test_the_stand_alone_verifier_agrees_with_the_plan(tmp_path):
    pieces = [
        Piece("marginals", "rounded_gaussian", Gaussian(4.0), 1, 1.0, ""),
        Piece("selection", "exponential", ZCDp(0.001), 5, 1.0, ""),
        Piece("brick", "exponential", EpsilonDelta(0.2, 1e-7), 2, 1.0, ""),
        ADAPTIVE,
    ]
    access = access_to(tmp_path, *pieces)
    for piece in pieces:
        access.reserve(piece.name, piece.count)
    access.choose("aim", np.zeros(3), step=0, rho=0.2)
    assert verify.recompute(closed(access)) == pytest.approx(access.ledger.plan.epsilon(), abs=1e-9)


def test_a_filter_that_was_switched_off_is_seen_by_the_verifier(tmp_path, monkeypatch):
    access = access_to(tmp_path, ADAPTIVE)
    monkeypatch.setattr(ledgers.math, "fsum", lambda values: 0.0)
    for step in range(3):
        access.choose("aim", np.zeros(3), step=step, rho=0.2)
    monkeypatch.undo()
    with pytest.raises(verify.Wrong, match="'aim' spends more than was reserved"):
        verify.recompute(closed(access))


LAWS = [(1.0, 1.0), (6.0, 0.0), (6.0, 0.5), (20.0, 1.0), (20.0, 3.0)]


@pytest.mark.parametrize(("mean", "shape"), LAWS)
def test_the_best_of_a_random_number_of_runs_costs_what_dp_accounting_says(mean, shape):
    training = SelfComposed(PoissonSampled(0.02, Gaussian(1.1)), 300)
    theirs = dp_event.PoissonSampledDpEvent(0.02, dp_event.GaussianDpEvent(1.1))
    theirs = dp_event.SelfComposedDpEvent(theirs, 300)
    theirs = dp_event.ComposedDpEvent([theirs, dp_event.GaussianDpEvent(8.0)])
    accountant = RdpAccountant(orders=RDP_ORDERS)
    accountant.compose(dp_event.RepeatAndSelectDpEvent(theirs, mean, shape))
    found = RepeatAndSelect(mean, shape).epsilon([compose(training, Gaussian(8.0))], 1e-5)
    assert found == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-6)


def test_a_selection_costs_more_than_one_run_and_far_less_than_all_of_them():
    one, law = Gaussian(3.0), RepeatAndSelect(30.0)
    found = law.epsilon([one], 1e-5)
    assert epsilon(one, 1e-5, "rdp") < found < epsilon(SelfComposed(one, 30), 1e-5) / 3


def test_a_pool_costs_at_least_as_much_as_its_worst_candidate_at_every_order():
    cheap, dear = SelfComposed(Gaussian(9.0), 4), ZCDp(0.2)
    law = RepeatAndSelect(5.0, 1.0)
    pool = law.curve([cheap, dear])
    assert (pool >= law.curve([cheap]) - 1e-12).all()
    assert (pool >= law.curve([dear]) - 1e-12).all()
    assert (np.diff(pool) >= 0).all()
    assert (pool >= rdp_curve(dear)).all()


@pytest.mark.parametrize(("mean", "shape"), LAWS)
def test_the_number_of_runs_has_its_law_and_is_never_zero(mean, shape):
    law, draws = RepeatAndSelect(mean, shape), 20_000
    generator = np.random.default_rng(7)
    found = np.array([law.draw(generator) for _ in range(draws)])
    assert found.min() >= 1
    assert found.mean() == pytest.approx(mean, rel=0.06)
    if mean == 1:
        return
    numbers = np.arange(1, 12)
    if shape == 0:
        expected = stats.logser(1 - law.gamma).pmf(numbers)
    else:
        untruncated = stats.nbinom(shape, law.gamma)
        expected = untruncated.pmf(numbers) / untruncated.sf(0)
    counted = np.array([(found == number).sum() for number in numbers])
    rest = draws - counted.sum()
    expected = np.append(expected, 1 - expected.sum()) * draws
    assert stats.chisquare(np.append(counted, rest), expected).pvalue > 1e-3


@pytest.mark.parametrize(("mean", "shape"), [(0.5, 0.0), (math.nan, 0.0), (3.0, -1.0), (3.0, math.inf)])
def test_an_impossible_law_is_refused(mean, shape):
    with pytest.raises(PrivacyError, match="mean >= 1"):
        RepeatAndSelect(mean, shape)


def test_a_piece_with_its_own_delta_cannot_be_selected_over():
    with pytest.raises(PrivacyError, match="private categories"):
        RepeatAndSelect(4.0).epsilon([compose(Gaussian(3.0), EpsilonDelta(0.1, 1e-7))], 1e-5)
    assert math.isinf(RepeatAndSelect(4.0).epsilon([NonPrivate()], 1e-5))
