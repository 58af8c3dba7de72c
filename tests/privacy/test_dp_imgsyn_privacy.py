"""What makes DP-ImgSyn private: one bounded release of statistics, clipped views, a plan like its ledger."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from contract.harness import Record
from scipy import stats
from torch import nn
from torch.nn import functional
from unit.dp_imgsyn_runs import NO_STATISTICS, SMALL, SPEC, fit, private_data, with_parts

from dpforge.data.schema import Unit
from dpforge.errors import Interrupted
from dpforge.generators.base import Runtime
from dpforge.generators.dp_imgsyn.generator import DPImgSyn
from dpforge.generators.dp_imgsyn.settings import StatisticsSettings, TeacherSettings
from dpforge.generators.dp_imgsyn.statistics import (
    Reference,
    count_coordinate,
    release_vector,
    unit_sensitivity,
)
from dpforge.generators.dp_imgsyn.teacher import TeacherModule
from dpforge.nets.resnet import classifier
from dpforge.privacy.engines import ENGINES, make_engine
from dpforge.privacy.norms import check_layer
from dpforge.privacy.spec import PrivacySpec

LOOSE = PrivacySpec(target_epsilon=None, noise_multiplier=1.0)
RECORDS = {
    "ordinary": np.linspace(-1, 1, 12),
    "huge": np.where(np.arange(12) % 2, 1e6, -1e6),
    "overflowing": np.full(12, 1e300),
    "not a number": np.full(12, np.nan),
    "infinite": np.full(12, -np.inf),
}


def sums_of_neighbours(record, relation, count):
    reference = Reference(np.arange(12.0), np.full(12, 0.3), 1.7)
    others = np.random.default_rng(0).normal(size=(5, 12))
    whole = release_vector(iter([np.vstack([others, record])]), reference, count)
    rest = others
    if relation == "replace":
        rest = np.vstack([others, 2 * reference.center - np.nan_to_num(record)])
    return whole - release_vector(iter([rest]), reference, count)


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize("relation", ["add_remove", "zero_out", "replace"])
def test_one_record_moves_the_statistics_by_at_most_their_sensitivity(record, relation):
    count = count_coordinate(relation, 0.1)
    moved = np.linalg.norm(sums_of_neighbours(RECORDS[record], relation, count))
    assert moved <= unit_sensitivity(relation, count) * (1 + 1e-9)
    if record == "huge":
        # The bound is reached: in units of the radius it is sqrt(R² + kappa²) for adding a record.
        assert moved == pytest.approx(unit_sensitivity(relation, count), rel=1e-6)


@pytest.mark.parametrize("mutant", ["no clip", "each layer clipped alone", "each element clipped"])
def test_the_bound_catches_a_wrong_clip(mutant, monkeypatch):
    def clipped(self, moments):
        u = self.standardized(moments) / self.radius
        if mutant == "no clip":
            return u
        if mutant == "each element clipped":
            return u.clip(-1, 1)
        layers = [
            part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1)
            for part in np.split(u, 3, axis=1)
        ]
        return np.concatenate(layers, axis=1)

    monkeypatch.setattr(Reference, "clipped", clipped)
    moved = np.linalg.norm(sums_of_neighbours(RECORDS["huge"], "add_remove", 0.1))
    assert moved > 1.5


@pytest.mark.parametrize("pixel", [0, 255, None])
def test_removing_one_image_moves_every_release_by_at_most_its_sensitivity(pixel, tmp_path):
    data = private_data()
    if pixel is not None:
        data.train.pixels[-1] = pixel
    spec = PrivacySpec(target_epsilon=None, noise_multiplier=1.0, max_grad_norm=0.1)
    whole = fit(SMALL, data, tmp_path / "whole", spec=spec)
    less = dataclasses.replace(data, train=data.train.head(39))
    other = fit(SMALL, less, tmp_path / "less", spec=spec, replay=whole.outputs)
    assert [(r.name, r.value.size) for r in whole.releases] == [
        (r.name, r.value.size) for r in other.releases
    ]
    assert [r.name for r in whole.releases] == ["train"] * 4 + ["statistics"]
    moved = [a.distance(b) for a, b in zip(whole.releases, other.releases, strict=True)]
    assert all(d <= r.sensitivity * (1 + 1e-5) for d, r in zip(moved, whole.releases, strict=True))
    # Its count coordinate always moves.
    assert moved[-1] >= 0.1 / math.hypot(1, 0.1) * (1 - 1e-9)
    assert max(moved[:-1]) > 0


def test_all_layers_and_both_moments_are_one_release_and_one_event(tmp_path):
    run = fit(SMALL, private_data(), tmp_path, spec=LOOSE)
    released = [r for r in run.releases if r.name == "statistics"]
    channels = 4 + 8 + 16 + 16
    assert [r.value.size for r in released] == [2 * channels + 1]
    assert {p.name: run.ledger.reserved(p.name) for p in run.ledger.plan.pieces} == {
        "statistics": 1,
        "train": 4,
    }
    run.ledger.check_complete()


class NotAdded(Record):
    """Draws the noise of a release and gives back the value without it."""

    def gaussian(self, name, value, **details):
        super().gaussian(name, value, **details)
        return value


def differences(tmp_path, kind):
    """Released moments of two runs that differ in their noise alone, as entries of the released vector."""
    model = with_parts(NO_STATISTICS, statistics={"kind": "once", "noise_multiplier": 6.0, "radius": 1.0})
    first = fit(model, private_data(), tmp_path / "first", spec=LOOSE, access_kind=kind)
    outputs = [o for o in first.outputs if isinstance(o, list)]

    class Steered(kind):
        """The gradients of the first run, so that both have one teacher."""

        def gaussian_sum(self, name, step, parts):
            super().gaussian_sum(name, step, parts)
            return [part.clone() for part in outputs[step]]

    second = fit(model, private_data(), tmp_path / "second", spec=LOOSE, access_kind=Steered, key=bytes(32))
    facts = [run.fitted.facts for run in (first, second)]
    assert np.array_equal(facts[0]["public_center"], facts[1]["public_center"])
    means = [f["mean"] for f in facts]
    scale = facts[0]["public_scale"][: means[0].size] * math.sqrt(2 * means[0].size)
    return (means[0] - means[1]) / scale * 40, first.releases[-1].scale


def is_noisy(difference, scale):
    """Whether the difference of two releases looks like twice the declared noise, entry by entry."""
    # The noisy count of about 40 records divides all entries, hence the wide interval.
    ratio = np.std(difference) / (math.sqrt(2) * scale)
    return 0.3 < ratio < 3 and np.unique(difference.round(9)).size == difference.size


def test_two_noise_keys_give_statistics_that_differ_in_every_entry_by_the_declared_noise(tmp_path):
    assert is_noisy(*differences(tmp_path, Record))


def test_noise_that_is_drawn_and_not_added_is_caught(tmp_path):
    assert not is_noisy(*differences(tmp_path, NotAdded))


def test_the_noise_on_the_statistics_has_the_declared_scale(tmp_path):
    noise = [
        fit(SMALL, private_data(), tmp_path / str(n), spec=LOOSE, key=bytes([n] * 32)).releases[-1]
        for n in range(6)
    ]
    drawn = np.concatenate([release.noise for release in noise])
    assert noise[0].scale == 20.0
    assert stats.kstest(drawn / 20.0, "norm").pvalue > 1e-3


def test_a_teacher_has_no_layer_that_mixes_images():
    for arch in ("small_cnn", "resnet9", "resnet18"):
        for layer in classifier(arch, 3, 10, seed=0).modules():
            check_layer(layer)


@pytest.mark.parametrize("engine", ENGINES)
def test_all_views_of_an_image_are_clipped_as_one_gradient(engine):
    net = classifier("small_cnn", 1, 3, seed=0, width=4, groups=2, activation="tanh").double()
    module = TeacherModule(net, TeacherSettings(views=3, width=4, groups=2), 5)
    torch.manual_seed(0)
    views, labels = torch.randn(4, 3, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    parameters, expected, norms = list(net.parameters()), None, []
    clip = 0.5
    for image, label in zip(views, labels, strict=True):
        loss = functional.cross_entropy(net(image), label.repeat(3))
        found = torch.autograd.grad(loss, parameters)
        norms.append(math.sqrt(sum(float(g.square().sum()) for g in found)))
        found = [g * min(1.0, clip / norms[-1]) for g in found]
        expected = found if expected is None else [a + b for a, b in zip(expected, found, strict=True)]
    assert max(norms) > clip
    attached = make_engine(engine, net)
    got = attached.clipped_sum(module.per_example_loss, (views, labels), clip).gradients
    attached.close()
    for left, right in zip(got, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


def test_views_come_from_the_secret_key_and_the_rest_from_the_public_seed(tmp_path):
    model = with_parts(teacher={"views": 2, "shift": 2})
    one = fit(model, private_data(), tmp_path / "one", spec=LOOSE)
    same = fit(model, private_data(), tmp_path / "same", spec=LOOSE)
    other = fit(model, private_data(), tmp_path / "other", spec=LOOSE, key=bytes(32))
    assert np.array_equal(one.releases[0].value, same.releases[0].value)
    assert not np.array_equal(one.releases[0].value, other.releases[0].value)


def test_a_microbatch_changes_nothing(tmp_path):
    whole, parts = (
        fit(SMALL, private_data(), tmp_path / str(n), spec=LOOSE, runtime=Runtime(microbatch=n)).releases
        for n in (None, 3)
    )
    np.testing.assert_allclose(parts[0].value, whole[0].value, atol=1e-5)


def same_run(one, two):
    for who in ("teacher", "student"):
        left, right = (getattr(run.fitted, who).state_dict() for run in (one, two))
        assert all(torch.equal(left[name], right[name]) for name in left)
    assert np.array_equal(one.fitted.images.pixels, two.fitted.images.pixels)
    assert np.array_equal(one.fitted.facts["mean"], two.fitted.facts["mean"])


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    asked = []
    run = fit(SMALL, private_data(), folder, spec=LOOSE, stopping=lambda: bool(asked.append(1)))
    return run, len(asked), (folder / "samples" / "synthesis.csv").read_bytes()


def stopped_at(moment, folder):
    """Run until it asks for the ``moment``-th time whether to stop; the message, or None if it ended."""
    asked = []
    try:
        fit(
            SMALL,
            private_data(),
            folder,
            spec=LOOSE,
            stopping=lambda: len(asked) == moment or asked.append(1),
        )
    except Interrupted as stop:
        return str(stop)
    return None


def test_a_run_stopped_at_any_moment_and_resumed_ends_the_same_and_draws_no_noise_twice(straight, tmp_path):
    run, moments, losses = straight
    messages = []
    for moment in range(moments):
        folder = tmp_path / str(moment)
        messages.append(stopped_at(moment, folder))
        resumed = fit(SMALL, private_data(), folder, spec=LOOSE)
        same_run(run, resumed)
        assert resumed.ledger.plan.event() == run.ledger.plan.event()
        assert resumed.ledger.reserved("statistics") == 1
        assert (folder / "samples" / "synthesis.csv").read_bytes() == losses
    text = " ".join(filter(None, messages))
    for stage in ("after step 1 of 4", "the teacher", "the layer statistics", "batch 2 of 3", "epoch 2 of 3"):
        assert stage in text


def test_statistics_of_another_key_are_not_taken_over(tmp_path):
    first = fit(SMALL, private_data(), tmp_path, spec=LOOSE)
    (tmp_path / "ledger.jsonl").unlink()
    second = fit(SMALL, private_data(), tmp_path, spec=LOOSE, key=bytes(32))
    assert [r.name for r in second.releases] == ["train"] * 4 + ["statistics"]
    assert not np.array_equal(first.fitted.facts["mean"], second.fitted.facts["mean"])


# N, epochs, batch and noise of the teacher, its steps; epsilon alone and with statistics of noise 10 and 20.
TABLE = {
    "mnist 1": (60_000, 4, 128, 0.8, 1876, 0.8551, 0.9153, 0.8700),
    "mnist 10": (60_000, 14, 128, 0.5, 6566, 7.9757, 7.9885, 7.9789),
    "fashion_mnist 1": (60_000, 30, 50, 1.0, 36_000, 0.7704, 0.8591, 0.7933),
    "fashion_mnist 10": (60_000, 20, 128, 0.5, 9380, 9.1286, 9.1409, 9.1317),
    "celeba_hair 1": (162_770, 18, 128, 0.8, 22_896, 0.9069, 0.9818, 0.9260),
    "celeba_hair 10": (162_770, 22, 128, 0.45, 27_984, 9.5595, 9.5712, 9.5625),
    "celeba_gender 10": (162_770, 22, 128, 0.5, 27_984, 6.0451, 6.0598, 6.0488),
    "cifar10 10": (50_000, 12, 128, 0.5, 4692, 8.1556, 8.1682, 8.1587),
}


LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in TABLE if name.endswith(" 10")]


@pytest.mark.parametrize("name", [*(name for name in TABLE if name.endswith(" 1")), *LARGE])
def test_published_settings_cost_what_the_accountant_of_record_says(name):
    rows, epochs, batch, sigma, steps, alone, at_ten, at_twenty = TABLE[name]
    schema = dataclasses.replace(private_data().schema, nominal_rows=rows)
    teacher = TeacherSettings(steps=None, epochs=epochs, sampling_rate=None, expected_batch_size=batch)
    spec = PrivacySpec(target_epsilon=None, noise_multiplier=sigma, delta=1e-5, allow_large_delta=True)

    def plan(**settings):
        return DPImgSyn(teacher=teacher, statistics=StatisticsSettings(**settings)).plan(schema, spec)

    assert plan(kind="off").piece("train").count == steps
    assert plan(kind="off").epsilon() == pytest.approx(alone, abs=1.5e-3)
    assert plan().epsilon() == pytest.approx(at_twenty, abs=1.5e-3)
    if name == "mnist 1":
        assert plan(noise_multiplier=10.0).epsilon() == pytest.approx(at_ten, abs=1.5e-3)


@pytest.mark.parametrize(
    ("epsilon", "noise"), [(1.0, 11.8), pytest.param(10.0, 1.58, marks=pytest.mark.slow)]
)
def test_a_share_of_the_budget_pays_for_the_statistics_and_the_teacher_gets_the_rest(epsilon, noise):
    schema = dataclasses.replace(private_data().schema, nominal_rows=60_000)
    plan = SMALL.plan(schema, PrivacySpec(target_epsilon=epsilon))
    assert plan.piece("statistics").noise_multiplier == pytest.approx(noise, rel=5e-3)
    assert plan.epsilon() == pytest.approx(epsilon, rel=1e-3)


@pytest.mark.slow
def test_given_noise_of_the_statistics_leaves_the_teacher_less_of_the_target():
    schema = dataclasses.replace(private_data().schema, nominal_rows=60_000)
    teacher = TeacherSettings(steps=1876, sampling_rate=128 / 60_000)
    found = [
        DPImgSyn(teacher=teacher, statistics=part)
        .plan(schema, PrivacySpec(target_epsilon=1.0))
        .piece("train")
        for part in (StatisticsSettings(kind="off"), StatisticsSettings(noise_multiplier=20.0))
    ]
    assert [p.noise_multiplier for p in found] == pytest.approx([0.7680, 0.7703], abs=5e-4)


def test_a_plan_depends_on_the_radius_and_on_the_public_images_in_nothing():
    schema = private_data().schema
    plans = [
        with_parts(statistics={"radius": radius}, public=public).plan(schema, LOOSE)
        for radius, public in (("auto", "font_digits"), (9.0, "fashion_mnist"))
    ]
    assert plans[0] == plans[1]


def test_a_unit_of_several_images_moves_the_statistics_as_much_more():
    schema = dataclasses.replace(private_data().schema, unit=Unit("user", "person", 3))
    assert SMALL.plan(schema, LOOSE).piece("statistics").sensitivity == pytest.approx(3.0)


def test_the_recorder_of_the_original_is_not_dp_under_any_privacy(tmp_path):
    model = with_parts(statistics={"kind": "upstream"})
    assert model.not_dp
    assert model.plan(private_data().schema, SPEC).epsilon() == math.inf
    run = fit(model, private_data(), tmp_path, spec=LOOSE)
    assert [r.name for r in run.releases] == ["train"] * 4
    run.ledger.check_complete()


def test_without_privacy_the_same_stages_run(tmp_path):
    run = fit(SMALL, private_data(), tmp_path, spec=PrivacySpec(enabled=False, target_epsilon=None))
    assert run.ledger.plan.epsilon() == math.inf
    assert len(run.fitted.images) == 17
    run.ledger.check_complete()


def test_no_private_image_and_no_image_at_all_are_no_error(tmp_path):
    data = private_data()
    for rows in (0, 1):
        few = dataclasses.replace(data, train=data.train.head(rows))
        run = fit(SMALL, few, tmp_path / str(rows), spec=LOOSE)
        assert np.isfinite(run.fitted.facts["mean"]).all()


def test_every_parameter_of_the_teacher_is_trained_under_noise(tmp_path):
    run = fit(SMALL, private_data(), tmp_path, spec=LOOSE)
    count = sum(p.numel() for p in run.fitted.teacher.parameters())
    assert run.releases[0].value.size == count
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in run.fitted.teacher.modules())
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in run.fitted.student.modules())
