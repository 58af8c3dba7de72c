"""Budgets divided as the specification says, and plans that say what they authorise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dpforge.errors import BudgetExceeded, ConfigError, PrivacyError
from dpforge.privacy.events import EpsilonDelta, Gaussian
from dpforge.privacy.plan import Piece, Plan, Release, Training, make_plan, plan_from_json
from dpforge.privacy.spec import PrivacySpec

SHARES = {"marginals": 0.4, "train": 0.6}
RELEASE = Release("marginals", 2.0, "test")
TRAINING = Training(0.1, 300, "clip", 1.0)


@pytest.mark.parametrize(("target", "histogram", "sigma"), [(1.0, 5.899, 8.438), (3.0, 2.199, 3.248)])
def test_joint_calibration_equals_the_published_oracle(target, histogram, sigma):
    plan = make_plan(PrivacySpec(target_epsilon=target), releases=[RELEASE], training=TRAINING, shares=SHARES)
    assert plan.piece("marginals").noise_multiplier == pytest.approx(histogram, abs=2e-3)
    assert plan.piece("train").noise_multiplier == pytest.approx(sigma, abs=0.02)
    assert plan.epsilon() == pytest.approx(target, abs=1e-5)


def test_a_single_release_spends_the_whole_target():
    plan = make_plan(PrivacySpec(target_epsilon=1.0), releases=[RELEASE])
    assert plan.epsilon() == pytest.approx(1.0, abs=1e-6)
    assert plan.piece("marginals").noise_multiplier == pytest.approx(3.7306, abs=1e-3)


def test_a_given_sigma_is_kept_and_fixes_the_other_pieces():
    spec = PrivacySpec(target_epsilon=None, noise_multiplier=2.0)
    plan = make_plan(spec, releases=[RELEASE], training=TRAINING, shares=SHARES)
    assert plan.piece("train").noise_multiplier == 2.0
    assert plan.piece("marginals").noise_multiplier > 0


def test_bricks_leave_less_for_the_rest():
    brick = Piece("bounds/x", "exponential", EpsilonDelta(0.5), 1, 1.0, "test")
    with_brick = make_plan(PrivacySpec(target_epsilon=1.0), releases=[RELEASE], bricks=[brick])
    without = make_plan(PrivacySpec(target_epsilon=1.0), releases=[RELEASE])
    assert with_brick.piece("marginals").noise_multiplier > without.piece("marginals").noise_multiplier
    assert with_brick.epsilon() <= 1.0


def test_without_dp_no_piece_has_noise():
    plan = make_plan(PrivacySpec(enabled=False), releases=[RELEASE], training=TRAINING, shares=SHARES)
    assert {piece.noise_multiplier for piece in plan.pieces} == {0.0}
    assert plan.epsilon() == float("inf")


def test_plan_survives_json():
    plan = make_plan(PrivacySpec(), releases=[RELEASE], training=TRAINING, shares=SHARES)
    assert plan_from_json(plan.to_json()) == plan


def test_an_unplanned_access_is_refused():
    plan = Plan((Piece("train", "dp_sgd", Gaussian(1), 1, 1.0, ""),), 1e-5)
    with pytest.raises(PrivacyError, match="Did you mean 'train'"):
        plan.piece("trian")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"target_epsilon": -1.0}, "target_epsilon=-1.0"),
        ({"target_epsilon": float("nan")}, "target_epsilon=nan"),
        ({"target_epsilon": None, "noise_multiplier": 0.0}, "privacy=none"),
        ({"target_epsilon": 1.0, "noise_multiplier": 1.0}, "exactly one"),
        ({"delta": 0.0}, "delta=0.0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
        ({"relation": "add-remove"}, "Did you mean 'add_remove'"),
        ({"rng": "seeded"}, "privacy.seed"),
        ({"seed": 3}, "no meaning"),
        ({"split": {"train": 0.0}}, "share > 0"),
    ],
)
def test_impossible_privacy_values_are_refused_with_a_remedy(values, text):
    with pytest.raises(ConfigError) as caught:
        PrivacySpec(**values)
    assert text in str(caught.value)


def test_all_mistakes_of_a_spec_are_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        PrivacySpec(target_epsilon=-1, delta=2, relation="x")
    assert len(caught.value.mistakes) == 3


def test_a_split_must_name_the_pieces_of_the_model():
    with pytest.raises(ConfigError, match="expected the pieces"):
        PrivacySpec(split={"marginal": 1.0}).shares(SHARES)


LONG = Training(0.01, 400, "flat clip", 1.0)


def limited(limit, sigma=1.0):
    spec = PrivacySpec(target_epsilon=None, noise_multiplier=sigma, max_epsilon=limit)
    return make_plan(spec, releases=[RELEASE], training=LONG)


def test_max_epsilon_authorises_the_most_steps_that_stay_below_it():
    full, plan = limited(100.0), limited(1.0)
    steps = plan.piece("train").count
    assert full.piece("train").count == 400
    assert 1 <= steps < 400
    assert plan.epsilon() <= 1.0
    one_more = [replace(p, count=steps + 1) if p.name == "train" else p for p in plan.pieces]
    assert replace(plan, pieces=tuple(one_more)).epsilon() > 1.0


@pytest.mark.parametrize("limit", [0.0, 1e-3])
def test_a_budget_below_the_first_step_is_refused_before_training(limit):
    with pytest.raises(BudgetExceeded, match="nothing is trained"):
        limited(limit)


def test_max_epsilon_beside_a_target_is_refused():
    with pytest.raises(ConfigError, match="no meaning with target_epsilon"):
        PrivacySpec(target_epsilon=1.0, max_epsilon=2.0)
