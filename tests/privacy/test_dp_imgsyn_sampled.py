"""Layer statistics as the average of several Poisson-sampled releases."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from dp_accounting import dp_event, pld
from unit.dp_imgsyn_runs import SMALL, fit, private_data, with_parts

from dpforge.errors import ConfigError
from dpforge.generators.dp_imgsyn.generator import DPImgSyn
from dpforge.generators.dp_imgsyn.settings import StatisticsSettings, TeacherSettings
from dpforge.privacy.spec import PrivacySpec

LOOSE = PrivacySpec(target_epsilon=None, noise_multiplier=1.0)
SAMPLED = {"kind": "poisson", "steps": 3, "sampling_rate": 0.5, "noise_multiplier": 2.0}


def by_accountant(*parts):
    """Epsilon at delta 1e-5 of (rate, noise, times) by the accountant itself."""
    found = pld.PLDAccountant(value_discretization_interval=1e-4)
    for rate, noise, times in parts:
        event = dp_event.GaussianDpEvent(noise)
        found.compose(event if rate == 1 else dp_event.PoissonSampledDpEvent(rate, event), times)
    return found.get_epsilon(1e-5)


def test_the_plan_counts_every_sampled_release():
    model = with_parts(statistics=SAMPLED)
    plan = model.plan(private_data().schema, LOOSE)
    piece = plan.piece("statistics")
    assert (piece.count, piece.sampling_rate, piece.noise_multiplier) == (3, 0.5, 2.0)
    assert plan.epsilon() == pytest.approx(by_accountant((0.5, 2.0, 3), (0.4, 1.0, 4)), rel=2e-3)


def test_a_share_of_the_budget_pays_for_the_samples_and_the_teacher_gets_the_rest():
    schema = dataclasses.replace(private_data().schema, nominal_rows=60_000)
    teacher = TeacherSettings(steps=50)
    plans = [
        DPImgSyn(teacher=teacher, statistics=StatisticsSettings(kind=kind)).plan(
            schema, PrivacySpec(target_epsilon=1.0)
        )
        for kind in ("poisson", "once")
    ]
    assert [plan.epsilon() for plan in plans] == pytest.approx([1.0, 1.0], rel=1e-3)
    noises = [plan.piece("train").noise_multiplier for plan in plans]
    assert noises[0] == pytest.approx(noises[1], rel=0.02)


def test_samples_are_dearer_than_one_release_of_the_same_error():
    # 20 sums over a twentieth each hold as many records as one sum over all, with √20 times the noise.
    once, sampled = by_accountant((1, 10.0, 1)), by_accountant((0.05, 10.0 / math.sqrt(20), 20))
    assert sampled > once


def test_one_image_moves_each_sampled_release_by_at_most_its_sensitivity(tmp_path):
    data = private_data()
    data.train.pixels[-1] = 255
    model = with_parts(statistics=SAMPLED)
    spec = PrivacySpec(target_epsilon=None, noise_multiplier=1.0, max_grad_norm=0.1)
    whole = fit(model, data, tmp_path / "whole", spec=spec)
    less = dataclasses.replace(data, train=data.train.head(39))
    other = fit(model, less, tmp_path / "less", spec=spec, replay=whole.outputs)
    names = [release.name for release in whole.releases]
    assert names == [release.name for release in other.releases] == ["train"] * 4 + ["statistics"] * 3
    assert whole.ledger.reserved("statistics") == 3
    moved = [a.distance(b) for a, b in zip(whole.releases, other.releases, strict=True)]
    assert all(d <= r.sensitivity * (1 + 1e-5) for d, r in zip(moved, whole.releases, strict=True))
    assert any(distance > 0 for distance in moved[4:])
    noises = [release.noise for release in whole.releases[4:]]
    assert not np.allclose(noises[0], noises[1])


def test_samples_of_every_image_are_the_one_release_repeated(tmp_path):
    quiet = {"noise_multiplier": 1e-9, "radius": 50.0}
    once = fit(with_parts(statistics=quiet), private_data(), tmp_path / "once", spec=LOOSE).fitted.facts
    model = with_parts(statistics={**quiet, "kind": "poisson", "steps": 3, "sampling_rate": 1.0})
    thrice = fit(model, private_data(), tmp_path / "thrice", spec=LOOSE).fitted.facts
    np.testing.assert_allclose(thrice["mean"], once["mean"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(thrice["variance"], once["variance"], rtol=1e-5)
    # Each release has the same noise, and three of them average it.
    assert thrice["standard_error"] == pytest.approx(once["standard_error"] / math.sqrt(3))


def test_without_privacy_sampled_statistics_run_too(tmp_path):
    spec = PrivacySpec(enabled=False, target_epsilon=None)
    run = fit(
        with_parts(statistics={**SAMPLED, "noise_multiplier": "auto"}), private_data(), tmp_path, spec=spec
    )
    assert run.ledger.plan.epsilon() == math.inf
    assert np.isfinite(run.fitted.facts["mean"]).all()


def test_a_wrong_rate_or_number_of_samples_is_refused():
    settings = StatisticsSettings(kind="poisson", steps=0, sampling_rate=1.5)
    with pytest.raises(ConfigError) as error:
        dataclasses.replace(SMALL, statistics=settings)
    assert "statistics.steps" in str(error.value)
    assert "statistics.sampling_rate" in str(error.value)
