"""DP-ImgSyn as a generator of labelled images: stages, settings, files."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from torch import nn
from unit.dp_imgsyn_runs import NO_STATISTICS, SMALL, PublicNoise, fit, noise_images, private_data, with_parts

from dpforge.data import Images, ImageSchema
from dpforge.errors import ConfigError, DataError, RunError
from dpforge.generators.dp_imgsyn.generator import DPImgSyn
from dpforge.generators.dp_imgsyn.public import balanced, candidates
from dpforge.generators.dp_imgsyn.settings import (
    StatisticsSettings,
    StudentSettings,
    SynthesisSettings,
    TeacherSettings,
    pool_of,
    stepped,
)
from dpforge.generators.dp_imgsyn.student import distillation_loss, logits_of
from dpforge.generators.dp_imgsyn.teacher import TeacherModule, new_teacher, standardize_filters
from dpforge.generators.dp_imgsyn.transform import Normalization, normalization_of, random_views
from dpforge.nets.resnet import classifier
from dpforge.privacy.rng import public_random
from dpforge.privacy.spec import PrivacySpec


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return fit(SMALL, private_data(), tmp_path_factory.mktemp("run"))


def test_released_images_have_the_teacher_s_labels_in_blocks_with_soft_labels(outcome):
    fitted = outcome.fitted
    made = fitted.sample(17, np.random.default_rng(0))
    assert fitted.released_rows == 17
    assert made.pixels.shape == (17, 8, 8, 1)
    assert (np.diff(made.labels) >= 0).all()
    assert np.array_equal(made.extra["teacher_logits"].argmax(1), made.labels)
    np.testing.assert_allclose(fitted.teacher_logits(made.pixels), made.extra["teacher_logits"], atol=1e-5)
    # Targets were 0, 1, 2, 0, … in the order of the public images, whatever the labels became.
    assert np.bincount(made.extra["targets"]).tolist() == [6, 6, 5]


def test_fewer_images_are_a_part_of_those_released_and_more_repeat_them(outcome):
    fitted = outcome.fitted
    few, many = (fitted.sample(rows, np.random.default_rng(0)) for rows in (5, 40))
    known = {image.tobytes() for image in fitted.images.pixels}
    assert len({image.tobytes() for image in few.pixels}) == 5
    assert {image.tobytes() for image in few.pixels} < known
    counts = np.unique(many.pixels.reshape(40, -1), axis=0, return_counts=True)[1]
    assert set(counts) == {2, 3}
    assert len(fitted.sample(0, np.random.default_rng(0))) == 0


def test_public_images_stand_beside_the_images_that_came_from_them(outcome):
    fitted = outcome.fitted
    moved = np.abs(fitted.public_floor.pixels.astype(int) - fitted.images.pixels.astype(int))
    # Two steps of 0.1 in normalised units, with rounding; a wrong pair would differ by far more.
    assert moved.max() <= 2 * 0.1 * fitted.normalization.std[0] * 255 * 1.5
    assert moved.max() > 0
    assert np.array_equal(
        fitted.teacher_logits(fitted.public_floor.pixels).argmax(1), fitted.public_floor.labels
    )


def test_without_steps_the_released_images_are_the_public_ones_bit_for_bit(tmp_path):
    fitted = fit(with_parts(synthesis={"steps": 0}), private_data(), tmp_path).fitted
    assert np.array_equal(fitted.images.pixels, fitted.images.public)
    whole = noise_images(30, seed=9).pixels
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1)).numpy()[:17]
    assert sorted(map(bytes, whole[order])) == sorted(map(bytes, fitted.images.pixels))


def test_a_saved_run_gives_the_same_images_and_predictions(outcome, tmp_path):
    outcome.fitted.save(tmp_path)
    again = SMALL.load(tmp_path)
    for rows in (5, 17):
        one, two = (model.sample(rows, np.random.default_rng(1)) for model in (outcome.fitted, again))
        assert np.array_equal(one.pixels, two.pixels)
        assert np.array_equal(one.extra["teacher_logits"], two.extra["teacher_logits"])
    shown = noise_images(9, seed=4).pixels
    assert np.array_equal(outcome.fitted.predict_logits(shown), again.predict_logits(shown))
    assert np.array_equal(again.facts["mean"], outcome.fitted.facts["mean"])
    with pytest.raises(RunError, match="not one of these settings"):
        with_parts(student={"width": 8}).load(tmp_path)


def test_training_the_student_again_gives_the_run_s_student_and_shows_every_epoch(outcome):
    shown, seen = noise_images(6, seed=4).pixels, []
    outcome.fitted.train_student(lambda epoch, predict: seen.append((epoch, predict(shown))))
    assert [epoch for epoch, _ in seen] == [1, 2, 3]
    assert np.array_equal(seen[-1][1], outcome.fitted.predict_logits(shown))
    baseline = []
    outcome.fitted.train_student(lambda epoch, predict: baseline.append(predict(shown)), public=True)
    assert not np.array_equal(baseline[-1], seen[-1][1])


def test_the_student_sees_no_private_image(outcome, tmp_path):
    other = private_data()
    object.__setattr__(other.train, "pixels", 255 - other.train.pixels)
    # The same releases as on the other images: all that follows must be the same.
    again = fit(SMALL, other, tmp_path, replay=outcome.outputs).fitted
    one, two = (model.student.state_dict() for model in (outcome.fitted, again))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert np.array_equal(again.images.pixels, outcome.fitted.images.pixels)


def test_a_student_learns_what_its_teacher_knows(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Stripes(PublicNoise):
        def load(self):
            return dataclasses.replace(private_data(), train=striped(90))

    data = dataclasses.replace(private_data(nominal_rows=300), train=striped(300))
    model = with_parts(
        teacher={"steps": 20, "pretrain_epochs": 0},
        student={"epochs": 20, "width": 8, "batch_size": 16, "lr": 0.02},
        synthesis={"steps": 1},
        public=Stripes(),
        num_samples=90,
    )
    fitted = fit(model, data, tmp_path, spec=PrivacySpec(target_epsilon=None, noise_multiplier=0.8)).fitted
    truth = striped(60)
    taught = fitted.teacher_logits(truth.pixels).argmax(1)
    assert (taught == truth.labels).mean() > 0.9
    assert (fitted.predict_logits(truth.pixels).argmax(1) == taught).mean() > 0.9


def test_the_loss_of_a_student_is_the_scaled_divergence_and_the_hard_labels():
    rng = np.random.default_rng(0)
    student, teacher = (torch.from_numpy(rng.normal(size=(5, 4))) for _ in range(2))
    p, q = (torch.softmax(logits / 3.0, 1).numpy() for logits in (teacher, student))
    divergence = 9.0 * (p * np.log(p / q)).sum(1).mean()
    hard = log_loss(teacher.argmax(1).numpy(), torch.softmax(student, 1).numpy(), labels=range(4))
    settings = StudentSettings(temperature=3.0, alpha=2.0, beta=0.5)
    assert float(distillation_loss(student, teacher, settings)) == pytest.approx(2 * divergence + 0.5 * hard)


def test_learning_rates_fall_to_a_tenth_at_each_milestone():
    assert [round(stepped(1.0, done, (0.6, 0.8)), 6) for done in (0, 0.59, 0.6, 0.79, 0.8)] == [
        1, 1, 0.1, 0.1, 0.01,
    ]  # fmt: skip


def test_losses_of_every_batch_and_step_are_written_and_logged_as_released(outcome, tmp_path):
    run = fit(SMALL, private_data(), tmp_path)
    lines = (tmp_path / "samples" / "synthesis.csv").read_text().splitlines()
    assert lines[0] == "batch,step,total,statistics,ce,tv,l2"
    assert [line.split(",")[:2] for line in lines[1:]] == [
        [str(b), str(s)] for b in range(3) for s in range(2)
    ]
    values = np.array([[float(v) for v in line.split(",")[2:]] for line in lines[1:]])
    expected = values[:, 1:] @ [10.0, 1.0, 2.5e-5, 3e-8]
    np.testing.assert_allclose(values[:, 0], expected, rtol=1e-5)
    kinds = {visibility for _, found, visibility in run.logged if any("synthesis" in name for name in found)}
    assert kinds == {"dp"}


def test_an_odd_number_of_images_colours_and_another_shape_go_through(tmp_path):
    images = noise_images(20, shape=(9, 12, 3), classes=2)
    schema = ImageSchema("tiny", 20, 9, 12, 3, ("a", "b"))
    data = dataclasses.replace(private_data(), schema=schema, train=images)
    model = with_parts(
        NO_STATISTICS, num_samples=5, synthesis={"batch_size": 3}, teacher={"views": 2, "shift": 2}
    )
    made = fit(model, data, tmp_path).fitted.sample(5, np.random.default_rng(0))
    assert made.pixels.shape == (5, 9, 12, 3)


def test_views_are_crops_of_the_padded_image_and_its_mirror():
    pixels = noise_images(6, shape=(5, 4, 3)).pixels
    views = random_views(pixels, np.random.default_rng(0), views=7, shift=2, flip=True)
    assert views.shape == (6, 7, 5, 4, 3)
    seen = set()
    for image, found in zip(pixels, views, strict=True):
        possible = {}
        for mirrored in (False, True):
            padded = np.pad(image[:, ::-1] if mirrored else image, ((2, 2), (2, 2), (0, 0)))
            for top in range(5):
                for left in range(5):
                    possible[padded[top : top + 5, left : left + 4].tobytes()] = (mirrored, top, left)
        seen |= {possible[view.tobytes()] for view in found}
    assert len(seen) > 25
    assert {mirrored for mirrored, _, _ in seen} == {False, True}


def test_the_views_of_an_image_do_not_change_when_later_ones_go():
    pixels = noise_images(6).pixels
    whole, less = (
        random_views(part, np.random.default_rng(3), views=2, shift=1, flip=True)
        for part in (pixels, pixels[:4])
    )
    assert np.array_equal(whole[:4], less)


def test_standardised_filters_have_mean_zero_and_length_one():
    net = classifier("small_cnn", 1, 3, seed=0)
    standardize_filters(net)
    filters = [m.weight.flatten(1) for m in net.modules() if isinstance(m, nn.Conv2d)]
    for weights in filters:
        torch.testing.assert_close(weights.mean(1), torch.zeros(len(weights)), atol=1e-6, rtol=0)
        torch.testing.assert_close(weights.norm(dim=1), torch.ones(len(weights)))


def test_the_teacher_s_schedule_combines_milestones_and_decay():
    settings = TeacherSettings(lr=1.0, milestones=(0.5,), lr_decay=True, width=4, groups=2)
    module = TeacherModule(classifier("small_cnn", 1, 3, seed=0, width=4, groups=2), settings, 10)
    assert module.learning_rate(2) == pytest.approx(0.8)
    assert module.learning_rate(5) == pytest.approx(0.05)


def striped(rows):
    """Images of horizontal, of vertical and of diagonal stripes, class by class, with noise."""
    labels, axis = np.arange(rows) % 3, np.arange(8)
    kinds = np.stack([axis[:, None] + 0 * axis, axis + 0 * axis[:, None], axis[:, None] + axis])
    noise = np.random.default_rng(0).integers(0, 50, (rows, 8, 8, 1))
    return Images((noise + 200 * (kinds[labels] % 4 < 2)[..., None]).astype(np.uint8), labels)


def taught(names, **changes):
    settings = TeacherSettings(**{"width": 4, "groups": 2, "pretrain_epochs": 20, **changes})
    schema = ImageSchema("tiny", 40, 8, 8, 1, ("a", "b", "c"))
    return new_teacher(settings, schema, Normalization((0.5,), (0.4,)), striped(240), names, public_random(0))


def test_a_teacher_that_learnt_the_same_classes_in_public_knows_them_before_its_first_private_step():
    shown = striped(30)
    logits = logits_of(taught(("a", "b", "c")), shown.pixels, Normalization((0.5,), (0.4,)))
    assert (logits.argmax(1) == shown.labels).mean() > 0.9


def test_other_public_classes_leave_the_body_and_a_fresh_head():
    same, other, fresh = taught(("a", "b", "c")), taught(("x", "y", "z")), taught(("a",), pretrain_epochs=0)
    left, right, new = (net.state_dict() for net in (same, other, fresh))
    names = list(left)
    assert all(torch.equal(left[name], right[name]) for name in names[:-2])
    assert all(torch.equal(new[name], right[name]) for name in names[-2:])
    assert not torch.equal(left[names[0]], new[names[0]])
    with pytest.raises(ConfigError, match="no classes to learn"):
        taught(("a",))


@pytest.mark.parametrize("suffix", [".npy", ".txt", ".pt"])
def test_index_files_name_the_public_images_to_use(suffix, tmp_path):
    positions, path = np.array([4, 0, 7]), tmp_path / f"list{suffix}"
    if suffix == ".npy":
        np.save(path, positions)
    elif suffix == ".txt":
        path.write_text("4\n0\n7\n")
    else:
        torch.save(torch.from_numpy(positions), path)
    assert candidates(2, 9, 0, str(path)).tolist() == [4, 0, 7]
    with pytest.raises(DataError, match="from 0 to 6"):
        candidates(2, 7, 0, str(path))
    with pytest.raises(DataError, match="there are 3"):
        candidates(4, 9, 0, str(path))


class _Harmful:
    def __reduce__(self):
        return (open, ("made", "w"))


def test_an_index_file_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(_Harmful(), tmp_path / "list.pt")
    with pytest.raises(DataError, match="cannot be read"):
        candidates(1, 9, 0, str(tmp_path / "list.pt"))
    assert not (tmp_path / "made").exists()


def test_balanced_images_are_as_even_as_the_candidates_allow():
    labels = np.array([0] * 30 + [1] * 6 + [2] * 4)
    order = np.random.default_rng(0).permutation(40)
    chosen = balanced(order, 12, lambda positions: labels[positions], 3)
    assert np.bincount(labels[chosen]).tolist() == [4, 4, 4]
    assert len(set(chosen)) == 12
    most = balanced(order, 20, lambda positions: labels[positions], 3)
    assert np.bincount(labels[most]).tolist() == [10, 6, 4]


def test_normalised_images_come_back_and_published_constants_are_used():
    images = noise_images(4, shape=(5, 6, 3))
    schema = ImageSchema("cifar10", 40, 5, 6, 3, ("a", "b"))
    found = normalization_of("auto", schema, images)
    assert found.mean == (0.4914, 0.4822, 0.4465)
    assert np.array_equal(found.pixels(found.normalized(images.pixels)), images.pixels)
    own = normalization_of("public", schema, images)
    x = own.normalized(images.pixels)
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)
    with pytest.raises(ConfigError, match="one a channel"):
        normalization_of({"mean": [0.5], "std": [0.5]}, schema, images)
    cut = Normalization((0.5,), (0.25,)).clamped(torch.tensor([[[[-3.0, 0.5, 3.0]]]]))
    assert cut.flatten().tolist() == [-2.0, 0.5, 2.0]


def test_all_mistakes_are_told_together():
    with pytest.raises(ConfigError) as error:
        DPImgSyn(
            teacher=TeacherSettings(arch="resnet81", steps=3, epochs=2, momentum=1.0),
            statistics=StatisticsSettings(kind="twice", layers=[0, 0], radius=-1),
            synthesis=SynthesisSettings(steps=-1, keep="first"),
            student=StudentSettings(milestones=(1.5,), temperature=0),
            num_samples=1,
            normalization={"mean": [0.5]},
        )
    text = str(error.value)
    for part in (
        "Did you mean 'resnet18'", "one of steps and epochs at most", "teacher.momentum", "statistics.kind",
        "statistics.layers", "statistics.radius", "synthesis.steps", "synthesis.keep", "student.milestones",
        "student.temperature", "num_samples", "normalization",
    ):  # fmt: skip
        assert part in text


@pytest.mark.parametrize("public", ["mnist", {"name": "mnist"}, PublicNoise(name="mnist")])
def test_the_private_set_is_no_public_one(public):
    schema = ImageSchema("mnist", 60_000, 28, 28, 1, tuple("0123456789"))
    with pytest.raises(ConfigError, match="private images themselves"):
        DPImgSyn(public=public).plan(schema, PrivacySpec())


@pytest.mark.parametrize(("arch", "side", "pool", "expected"), [
    ("small_cnn", 28, None, 3), ("small_cnn", 8, None, 1), ("resnet18", 32, None, 1), ("resnet18", 32, 2, 2),
])  # fmt: skip
def test_the_small_network_sees_at_least_eight_pixels_a_side(arch, side, pool, expected):
    assert pool_of(TeacherSettings(arch=arch, pool=pool), side, side + 5) == expected


def test_images_too_small_for_a_network_are_refused():
    model = with_parts(student={"arch": "resnet9", "pool": 2})
    with pytest.raises(ConfigError, match="Lower pool"):
        model.plan(private_data().schema, PrivacySpec())


def test_images_without_classes_are_refused():
    with pytest.raises(ConfigError, match="at least 2 classes"):
        SMALL.plan(dataclasses.replace(private_data().schema, classes=()), PrivacySpec())


def test_too_few_public_images_are_an_error_before_the_budget_is_touched(tmp_path):
    model = with_parts(num_samples=31)
    with pytest.raises(DataError, match="there are 30"):
        fit(model, private_data(), tmp_path)
    from dpforge.privacy.ledger import Ledger

    assert not Ledger.open(tmp_path / "ledger.jsonl").begun
