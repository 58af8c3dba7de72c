"""The student of a model of images: its accuracy, the epoch that test data prefer, and membership attacks."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from dpforge.data import Images, ImageSchema
from dpforge.evaluation import Guarantee, ImageEvaluation
from dpforge.evaluation.images.learners import Training
from dpforge.evaluation.images.membership import confidences, log_likelihoods, student_attack
from dpforge.evaluation.images.outcomes import image_results
from dpforge.evaluation.images.sets import image_sets
from dpforge.evaluation.images.student import BEST, LAST, student

CLASSES = tuple("0123456789")
SCHEMA = ImageSchema("digits", 600, 8, 8, 1, CLASSES)


@cache
def digits() -> Images:
    found = load_digits()
    pixels = np.rint(found.images * 255 / 16).astype(np.uint8)[..., None]
    return Images(pixels, found.target.astype(np.int64))


def part(start: int, stop: int) -> Images:
    return digits().take(np.arange(start, stop))


def one_hot(labels: np.ndarray, confidence: float = 5.0) -> np.ndarray:
    return confidence * np.eye(len(CLASSES))[labels].astype(np.float32)


def truth_of(pixels: np.ndarray) -> np.ndarray:
    known = {image.tobytes(): label for image, label in zip(digits().pixels, digits().labels, strict=True)}
    return np.array([known[image.tobytes()] for image in pixels])


class Scripted:
    """A model whose classifiers are wrong on every n-th image that they are shown."""

    def __init__(self, epochs=(2, 9, 4), public_epochs=(2, 3, 2), teacher=20, moved=True):
        self.epochs, self.public_epochs, self.teacher = epochs, public_epochs, teacher
        self.made = part(0, 50)
        self.public_floor = Images(255 - self.made.pixels if moved else self.made.pixels, self.made.labels)
        self.trained = []

    def _guess(self, pixels, every):
        labels = truth_of(pixels)
        wrong = np.arange(len(labels)) % every == 0
        return one_hot(np.where(wrong, (labels + 1) % 10, labels))

    def predict_logits(self, pixels):
        return self._guess(pixels, self.epochs[-1])

    def teacher_logits(self, pixels):
        return self._guess(pixels, self.teacher)

    def train_student(self, on_epoch, *, public=False):
        self.trained.append(public)
        for epoch, every in enumerate(self.public_epochs if public else self.epochs, start=1):
            on_epoch(epoch, lambda pixels, every=every: self._guess(pixels, every))


def compared(model, train=None, holdout=None, limit=60, epsilon=1.0):
    return image_sets(
        {
            "train": train or part(0, 600),
            "holdout": holdout or part(600, 1200),
            "score": model.made,
            "public": None,
        },
        SCHEMA,
        reference="holdout",
        prior=np.full(10, 0.1),
        limit=limit,
        seed=0,
        draw_seed=0,
        training=Training(None, "cpu", False),
        guarantee=Guarantee(epsilon, 1e-5),
    )


def test_the_last_epoch_is_the_score_and_the_best_one_is_marked_as_chosen_by_test_data():
    model = Scripted()
    found = student(compared(model), model)
    test = part(600, 1200)
    last = accuracy_score(test.labels, model.predict_logits(test.pixels).argmax(1))
    assert found.scores[LAST]["score"] == pytest.approx(last) == pytest.approx(0.75)
    assert found.scores[BEST]["score"] == pytest.approx(1 - 67 / 600)
    assert found.scores[LAST]["floor"] == pytest.approx(0.5)
    assert found.scores[BEST]["floor"] == pytest.approx(1 - 200 / 600)
    assert found.scores[LAST]["ceiling"] == found.alone["utility/teacher_accuracy"] == pytest.approx(0.95)
    assert any(BEST in note and "selection on test data" in note for note in found.notes)
    assert list(found.tables["student_epochs"]["score"]) == pytest.approx([0.5, 1 - 67 / 600, 0.75])
    assert model.trained == [False, True]


def test_every_held_out_image_is_a_test_image_and_intervals_are_wilson_s():
    model = Scripted()
    found = student(compared(model, limit=30), model)
    assert found.rows["student_test"] == 600
    assert found.protocol["reference"]["n"] == 600
    for key, share in ((LAST, 0.75), ("utility/teacher_accuracy", 0.95)):
        expected = binomtest(round(600 * share), 600).proportion_ci(method="wilson")
        assert found.intervals[key] == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_images_that_were_not_aligned_are_their_own_floor_without_a_second_training():
    model = Scripted(moved=False)
    found = student(compared(model), model)
    assert found.scores[LAST]["floor"] == found.scores[LAST]["score"]
    assert model.trained == [False]


def test_accuracies_and_attacks_on_real_images_are_private():
    model = Scripted()
    sets = compared(model, limit=600, holdout=part(600, 800))
    sets_of_attack = compared(model, train=part(0, 50), limit=600)
    outcomes = [student(sets, model), student_attack(sets_of_attack, model, 500)]
    results = image_results(outcomes, {}, [])
    assert set(results.private) == set(results.metrics) >= {LAST, BEST, "utility/teacher_accuracy"}


def test_the_scores_of_the_attacks_are_minus_the_loss_and_the_log_of_the_largest_probability():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(40, 10)) * 4, rng.integers(0, 10, 40)
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert -log_likelihoods(logits, labels).mean() == pytest.approx(
        log_loss(labels, chances, labels=range(10))
    )
    np.testing.assert_allclose(confidences(logits), np.log(chances.max(1)))
    assert np.isfinite(log_likelihoods(np.array([[1e4, -1e4]]), np.array([1]))).all()


class Memorising(Scripted):
    """Its teacher is surest of the images it was trained on; its student knows none of them."""

    def __init__(self, members):
        super().__init__()
        self.made = part(0, 600)
        self.members = {image.tobytes() for image in members.pixels}

    def teacher_logits(self, pixels):
        known = np.array([image.tobytes() in self.members for image in pixels])
        return one_hot(truth_of(pixels)) * np.where(known, 2.0, 1.0)[:, None]

    def predict_logits(self, pixels):
        # As good as a coin on every image, whether it is a member or not.
        noise = np.random.default_rng(len(pixels) + int(pixels.sum() % 97)).normal(size=(len(pixels), 1))
        return one_hot(truth_of(pixels)) * (1 + noise)


def test_a_teacher_that_memorised_its_images_is_found_out_and_a_student_without_knowledge_is_not():
    model = Memorising(part(0, 600))
    found = student_attack(compared(model, limit=600), model, 500)
    assert found.alone["attack/teacher_loss_auc"] == 1.0
    assert found.alone["attack/teacher_loss_tpr_at_fpr_1pct"] == 1.0
    assert found.alone["attack/teacher_loss_epsilon_lower_bound"] > 1.0
    assert found.alone["attack/student_loss_auc_low"] < 0.5 < found.alone["attack/student_loss_auc_high"]
    assert found.alone["attack/student_loss_members"] == found.rows["student_attack"] == 500
    by_name = {note.split(":")[0]: note for note in found.notes}
    assert "VIOLATION" in by_name["attack/teacher_loss"]
    assert "no violation found" in by_name["attack/student_loss"]


def test_the_area_is_the_chance_that_a_member_is_classified_better_than_a_non_member():
    model = Memorising(part(0, 600))
    sets = compared(model, limit=600)
    found = student_attack(sets, model, 600)
    sides = [sets.images[name] for name in ("train", "holdout")]
    scores = [log_likelihoods(model.predict_logits(side.pixels), side.labels) for side in sides]
    expected = roc_auc_score(np.repeat([1, 0], 600), np.concatenate(scores))
    assert found.alone["attack/student_loss_auc"] == pytest.approx(expected)


def test_images_on_both_sides_attack_nobody_and_few_images_prove_nothing():
    model = Memorising(part(0, 600))
    shared = student_attack(compared(model, holdout=part(300, 900), limit=600), model, 600)
    assert shared.rows["student_attack"] == 300
    few = student_attack(compared(model, train=part(0, 99), limit=600), model, 600)
    assert not few.alone
    assert "left out: 99 images" in few.notes[0]


def evaluated(model, **options):
    evaluation = ImageEvaluation(extractors=["pixels"], device="cpu", **options)
    return evaluation.evaluate(
        part(0, 600), part(600, 1200), part(0, 50), SCHEMA, model=model, guarantee=Guarantee(1.0, 1e-5)
    )


def test_an_evaluation_scores_the_student_of_a_model_that_has_one_and_is_silent_for_others():
    own = evaluated(Scripted(), metrics=["student", "validity"])
    assert own.metrics[LAST] == pytest.approx(0.75)
    assert own.metrics[f"ceiling/{BEST}"] == pytest.approx(0.95)
    assert own.to_json()["metrics"][LAST]["interval"][0] < 0.75
    other = evaluated(None, metrics=["student", "student_attack", "validity"])
    assert not any(key.startswith(("utility/student", "attack/")) for key in other.metrics)
    assert sum("brings no classifier" in note for note in other.notes) == 2
