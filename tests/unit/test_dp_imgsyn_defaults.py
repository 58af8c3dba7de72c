"""What DP-ImgSyn chooses by itself, how a student learns from mixtures, and the pictures of a run."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from unit.dp_imgsyn_runs import SMALL, fit, noise_images, private_data, with_parts

from dpforge.config import build, compose
from dpforge.data import ImageSchema
from dpforge.evaluation import Results
from dpforge.experiment.pictures_images import aligned_pairs, student_epochs
from dpforge.generators.dp_imgsyn.generator import DPImgSyn
from dpforge.generators.dp_imgsyn.settings import StudentSettings, TeacherSettings
from dpforge.generators.dp_imgsyn.student import Lessons, learning_rate
from dpforge.generators.dp_imgsyn.teacher import TeacherModule
from dpforge.generators.dp_imgsyn.transform import Normalization
from dpforge.privacy.spec import PrivacySpec

NORMALIZATION = Normalization((0.5,), (0.25,))


def schema_of(rows):
    return ImageSchema("own", rows, 8, 8, 1, ("a", "b", "c"))


def test_a_small_set_gets_few_steps_with_a_large_share_of_its_images():
    model = DPImgSyn()
    large, small, tiny = (schema_of(rows) for rows in (60_000, 1800, 100))
    assert (model.rate(large), model.steps(large)) == (0.05, 100)
    assert model.rate(small) == pytest.approx(0.2)
    assert model.steps(small) == 40
    assert (model.rate(tiny), model.steps(tiny)) == (1.0, 14)
    rates = [TeacherSettings().learning_rate(model.rate(schema)) for schema in (large, small, tiny)]
    assert rates == pytest.approx([1.0, 0.25, 0.05])


def test_what_is_automatic_depends_on_the_nominal_rows_alone(tmp_path):
    model = with_parts(teacher={"steps": None, "sampling_rate": None}, student={"epochs": 1})
    spec = PrivacySpec(target_epsilon=None, noise_multiplier=1.0)
    counts = [
        len(fit(model, private_data(rows), tmp_path / str(rows), spec=spec).releases) for rows in (10, 40)
    ]
    assert counts == [14 + 1] * 2


@pytest.mark.parametrize(("given", "expected"), [
    ({}, (0.05, 100, 1.0)), ({"optimizer": "adam"}, (0.05, 100, 2e-3)), ({"lr": 0.3}, (0.05, 100, 0.3)),
    ({"epochs": 4, "expected_batch_size": 128}, (128 / 60_000, 1876, 1.0)),
    ({"steps": 7, "sampling_rate": 0.5}, (0.5, 7, 0.1)),
])  # fmt: skip
def test_what_is_given_is_taken_and_the_rest_follows(given, expected):
    settings = TeacherSettings(**given)
    rate = settings.rate(60_000)
    assert (rate, settings.count(rate), settings.learning_rate(rate)) == pytest.approx(expected)


def test_the_optimiser_starts_at_the_automatic_learning_rate():
    module = TeacherModule(nn.Conv2d(1, 2, 1), TeacherSettings(lr_decay=False), 10, rate=0.5)
    optimizer = module.configure_optimizers()
    assert optimizer.param_groups[0]["lr"] == module.learning_rate(9) == pytest.approx(0.1)


def test_the_configured_defaults_are_those_of_the_classes_where_both_are_automatic():
    model = build(compose(["model=dp_imgsyn", "dataset=digits"])).model
    assert model.steps(schema_of(1797)) == DPImgSyn().steps(schema_of(1797)) == 40
    assert model.student == dataclasses.replace(StudentSettings(), epochs=40)


def test_the_student_s_learning_rate_falls_to_zero_or_by_milestones():
    linear = [learning_rate(StudentSettings(lr=1.0, epochs=4), epoch) for epoch in range(4)]
    assert linear == pytest.approx([1.0, 0.75, 0.5, 0.25])
    published = StudentSettings(lr=1.0, epochs=200, lr_decay=False, milestones=(0.6, 0.75, 0.9))
    rates = [learning_rate(published, epoch) for epoch in (0, 119, 120, 150, 180)]
    assert rates == pytest.approx([1, 1, 0.1, 0.01, 0.001])


def mixed(rows, settings, seed=0):
    images = noise_images(rows).pixels
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    lessons = Lessons(images, np.zeros((rows, 3), np.float32), NORMALIZATION, teacher)
    x, logits = lessons.batch(np.arange(rows), settings, np.random.default_rng(seed), "cpu")
    return NORMALIZATION.normalized(images), teacher, x, logits


def test_a_mixture_lies_between_two_images_and_has_the_teacher_s_label_of_itself():
    images, teacher, x, logits = mixed(6, StudentSettings(mix=True))
    torch.testing.assert_close(logits, teacher(x))
    assert not logits.requires_grad
    pool = images.flatten(1)
    for mixture in x.flatten(1):
        fits = [
            torch.linalg.lstsq((a - b)[:, None], (mixture - b)[:, None])
            for a in pool
            for b in pool
            if a is not b
        ]
        residual = min(
            float(((a - b) * fit.solution[0, 0] + b - mixture).norm())
            for (a, b), fit in zip(((a, b) for a in pool for b in pool if a is not b), fits, strict=True)
        )
        assert residual < 1e-4


def test_without_mixing_a_student_sees_the_images_as_they_are_with_their_stored_labels():
    images, _, x, logits = mixed(6, StudentSettings(mix=False))
    torch.testing.assert_close(x, images)
    assert float(logits.abs().sum()) == 0.0


def test_a_student_of_mixtures_is_the_same_when_trained_again_and_after_a_resume(tmp_path):
    model = with_parts(student={"mix": True, "shift": 1})
    run = fit(model, private_data(), tmp_path / "one")
    shown, seen = noise_images(5, seed=3).pixels, []
    run.fitted.train_student(lambda epoch, predict: seen.append(predict(shown)))
    assert np.array_equal(seen[-1], run.fitted.predict_logits(shown))
    plain = fit(SMALL, private_data(), tmp_path / "two").fitted
    assert not np.array_equal(plain.predict_logits(shown), run.fitted.predict_logits(shown))


def size_of(path):
    from PIL import Image

    with Image.open(path) as image:
        return image.size


def test_public_images_their_aligned_versions_and_the_course_of_a_student_are_drawn(tmp_path):
    run = fit(SMALL, private_data(), tmp_path / "run").fitted
    made = run.sample(len(run.images), np.random.default_rng(0))
    # Two steps of 0.1 in normalised units move no pixel further than that.
    reach = 2 * 0.1 * run.normalization.std[0] * 255 + 1
    assert np.abs(run.public_start.pixels.astype(int) - made.pixels).max() <= reach
    aligned_pairs(run.public_start.pixels, made.pixels, tmp_path / "aligned.png")
    table = pd.DataFrame({"epoch": [1, 2], "score": [0.2, 0.6], "floor": [0.1, 0.3]})
    results = Results({"utility/teacher_accuracy": 0.7}, {}, [], tables={"student_epochs": table})
    student_epochs(results, tmp_path / "student.png")
    assert min(size_of(tmp_path / "aligned.png")) > 100
    assert min(size_of(tmp_path / "student.png")) > 300
