"""Soft labels, lessons beyond the compared draw, public starts, and features computed once."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from dpforge.data import Images, ImageSchema
from dpforge.errors import ConfigError
from dpforge.evaluation import ImageEvaluation
from dpforge.evaluation.images import features, learners
from dpforge.evaluation.images.distillation import train_softly
from dpforge.evaluation.images.learners import Training, distilled
from dpforge.evaluation.images.sets import image_sets
from dpforge.nets.classifiers import Recipe

SCHEMA = ImageSchema("digits", 1400, 8, 8, 1, tuple("0123456789"))
OPTIONS = {"extractors": ["pixels"], "device": "cpu", "bootstraps": 0, "classifier_seeds": 1}


@cache
def parts() -> tuple[Images, Images, Images]:
    """Disjoint parts of the digits: train, a small holdout, and ones that pass as synthetic."""
    digits = load_digits()
    pixels = np.rint(digits.images * 255 / 16).astype(np.uint8)[..., None]
    images = Images(pixels, digits.target.astype(np.int64))
    order = np.random.default_rng(0).permutation(len(images))
    return images.take(order[:900]), images.take(order[900:1100]), images.take(order[1100:])


def with_logits(images: Images, logits: np.ndarray | None = None) -> Images:
    """Images whose teacher is sure and right, unless it says something else."""
    sure = np.eye(10, dtype=np.float32)[images.labels] * 10
    return dataclasses.replace(images, extra={"teacher_logits": sure if logits is None else logits})


def scored(synthetic: Images, model=None, **options):
    train, holdout, _ = parts()
    evaluation = ImageEvaluation(**(OPTIONS | options))
    return evaluation.evaluate(train, holdout, synthetic, SCHEMA, seed=1, model=model)


def sets_of(**options):
    train, holdout, fresh = parts()
    given = {"train": train, "holdout": holdout, "score": fresh}
    full = {"reference": "holdout", "prior": np.full(10, 0.1), "limit": 1000, "seed": 0, "draw_seed": 0}
    return image_sets(given, SCHEMA, **(full | options), training=Training(2), guarantee=None)


def test_soft_labels_are_learnt_in_place_of_labels():
    wrong = Images(parts()[2].pixels, np.zeros(len(parts()[2]), np.int64))
    told = with_logits(wrong, with_logits(parts()[2]).extra["teacher_logits"])
    found = scored(told, metrics=["tstr_soft"], classifiers=["lr", "cnn"])
    metrics = found.metrics
    assert metrics["utility/soft_accuracy_cnn"] > 0.8
    assert metrics["floor/utility/soft_accuracy_cnn"] == pytest.approx(0.1)
    assert "utility/soft_accuracy_lr" not in metrics
    assert found.protocols["utility/soft_accuracy_cnn"]["estimator"] == {"temperature": 100.0}
    low, high = found.intervals["utility/soft_accuracy_cnn"]
    assert low < metrics["utility/soft_accuracy_cnn"] < high


def test_images_without_soft_labels_leave_the_metric_out_and_say_so():
    found = scored(parts()[2], metrics=["tstr_soft", "validity"], classifiers=["cnn"])
    assert not any("soft" in key for key in found.metrics)
    assert any("no teacher_logits" in note for note in found.notes)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_one_step_of_distillation_is_that_of_the_tempered_divergence(optimizer):
    torch.manual_seed(0)
    pixels, logits = torch.randint(0, 256, (6, 4, 4, 1), dtype=torch.uint8), np.random.default_rng(0)
    teacher = logits.normal(size=(6, 3)).astype(np.float32) * 5
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(16, 3)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    recipe = Recipe(optimizer, 0.01, 1, batch_size=6, weight_decay=0.1 if optimizer == "sgd" else 0.0)
    train_softly(nets[0], pixels, teacher, 20.0, recipe, seed=0)
    soft = [functional.log_softmax(x / 20.0, 1) for x in (
        nets[1](pixels.permute(0, 3, 1, 2).float() / 255), torch.from_numpy(teacher))]  # fmt: skip
    (400 * functional.kl_div(*soft, reduction="batchmean", log_target=True)).backward()
    parameters = list(nets[1].parameters())
    step = (
        torch.optim.SGD(parameters, 0.01, weight_decay=0.1)
        if optimizer == "sgd"
        else torch.optim.Adam(parameters, 0.01)
    )
    step.step()
    for left, right in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-5)


def test_soft_labels_do_not_depend_on_the_order_of_the_classes():
    fresh, turned = with_logits(parts()[2]), np.arange(10)[::-1].copy()
    other_schema = dataclasses.replace(SCHEMA, classes=tuple(SCHEMA.classes[i] for i in turned))
    position = np.argsort(turned)
    other = Images(fresh.pixels, position[fresh.labels], {
        "teacher_logits": fresh.extra["teacher_logits"][:, turned]})  # fmt: skip
    kinds = {"seed": 0, "temperature": 5.0}
    one = distilled("cnn", fresh, SCHEMA, Training(3), **kinds)(parts()[1].pixels)
    two = distilled("cnn", other, other_schema, Training(3), **kinds)(parts()[1].pixels)
    assert np.array_equal(one, turned[two])


def test_a_model_without_logits_takes_no_soft_labels():
    with pytest.raises(ConfigError, match="takes no soft labels, expected one of cnn"):
        distilled("lr", with_logits(parts()[2]), SCHEMA, Training(), seed=0, temperature=1.0)


def test_classifiers_learn_from_more_images_than_a_small_holdout_leaves_to_compare():
    sets = sets_of()
    assert sets.n == 200
    assert sets.lesson_rows(10_000) == len(parts()[2])
    longer = sets.lessons("score", 500)
    assert np.array_equal(longer.pixels[:200], sets.images["score"].pixels)
    assert len({image.tobytes() for image in longer.pixels}) == 500
    found = scored(parts()[2], metrics=["tstr"], classifiers=["lr"])
    assert found.rows["classifier_train"] == len(parts()[2])
    assert found.protocols["utility/accuracy_lr"]["classifier"]["train_images"] == len(parts()[2])


def test_without_a_ceiling_a_small_holdout_bounds_no_distance_to_the_training_images():
    bounded, free = (sets_of(reference="train", ceiling=keep) for keep in (True, False))
    assert (bounded.n, free.n) == (200, len(parts()[2]))
    assert "ceiling" in bounded.compared
    assert "ceiling" not in free.compared
    found = scored(parts()[2], metrics=["frechet", "nearest_neighbor"], reference="train",
                   distance_ceiling=False)  # fmt: skip
    assert found.protocols["fidelity/frechet_pixels"]["reference"]["n"] == len(parts()[2])
    assert "ceiling/fidelity/frechet_pixels" not in found.metrics
    assert found.rows["nearest_neighbor"] == 200


class Started:
    """A model that says where each image started."""

    def __init__(self, starts: Images) -> None:
        self.public_start = starts


def test_an_image_is_compared_with_the_public_image_it_started_from_and_no_other():
    fresh = parts()[2]
    metrics = scored(fresh, Started(fresh), metrics=["similarity"]).metrics
    assert metrics["hint/ssim_start"] == pytest.approx(1.0)
    assert metrics["hint/cosine_pixels_start"] == pytest.approx(1.0)
    moved = fresh.take(np.roll(np.arange(len(fresh)), 1))
    assert scored(fresh, Started(moved), metrics=["similarity"]).metrics["hint/ssim_start"] < 0.9
    for model in (None, Started(fresh.head(50))):
        assert "hint/ssim_start" not in scored(fresh, model, metrics=["similarity"]).metrics


class Counting:
    """An extractor that counts its calls."""

    name, dim, calls = "counting", 4, 0

    def describe(self):
        return {"name": self.name, "dim": self.dim}

    def __call__(self, pixels):
        type(self).calls += 1
        return pixels.reshape(len(pixels), -1)[:, 20:24].astype(np.float32)


def test_features_of_real_images_are_computed_once_a_process(monkeypatch):
    monkeypatch.setattr(features, "_kept", features.OrderedDict())
    monkeypatch.setattr(Counting, "calls", 0)
    found = [sets_of().features(Counting(), name) for name in ("train", "holdout") for _ in range(3)]
    assert Counting.calls == 2
    assert np.array_equal(found[0], found[1])
    changed = parts()[0].pixels.copy()
    changed[0, 3, 3] ^= 1
    features.remembered(Counting(), changed)
    assert Counting.calls == 3


def test_old_features_go_when_the_memory_for_them_is_full(monkeypatch):
    monkeypatch.setattr(features, "_kept", features.OrderedDict())
    monkeypatch.setattr(features, "KEPT_BYTES", 2 * 10 * 4 * 4)
    images = [np.full((10, 8, 8, 1), value, np.uint8) for value in range(3)]
    for pixels in images:
        features.remembered(Counting(), pixels)
    before = Counting.calls
    features.remembered(Counting(), images[2])
    assert Counting.calls == before
    features.remembered(Counting(), images[0])
    assert Counting.calls == before + 1


def test_which_floor_there_was_changes_no_protocol_but_that_of_floors():
    fresh = parts()[2]

    class Floored:
        public_floor = parts()[0]

    options = {"metrics": ["frechet"], "max_images": 100}
    one, two = scored(fresh, **options), scored(fresh, Floored(), **options)
    for key, same in (("", True), ("ceiling/", True), ("floor/", False), ("normalised/", False)):
        name = f"{key}fidelity/frechet_pixels"
        assert (one.protocols[name] == two.protocols[name]) is same
    assert learners.VERSION
