"""The whole image evaluation: floors, ceilings, privacy of numbers, protocols and refused input."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.datasets import load_digits

from dpforge.data import Images, ImageSchema
from dpforge.data.image_files import read_samples, write_samples
from dpforge.errors import ConfigError, DataError
from dpforge.evaluation import Guarantee, ImageEvaluation, Results, headline
from dpforge.evaluation.images import extractors as choosing
from dpforge.evaluation.images import frechet, learners, sets
from dpforge.evaluation.results import protocol_id
from dpforge.features import extractor

CLASSES = tuple("0123456789")
SCHEMA = ImageSchema("digits", 1400, 8, 8, 1, CLASSES)
PIXELS = {"extractors": ["pixels"], "device": "cpu", "bootstraps": 0, "kernel_subsets": 5}
FAST = ["frechet", "kernel_distance", "precision_recall", "class_structure", "nearest_neighbor", "validity"]


@cache
def parts() -> tuple[Images, Images, Images]:
    """Three disjoint parts of the digits: train, holdout, and fresh ones that pass as synthetic."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    pixels = np.rint(digits.images * 255 / 16).astype(np.uint8)[order, ..., None]
    images = Images(pixels, digits.target[order].astype(np.int64))
    return tuple(images.take(np.arange(len(images)) % 3 == i) for i in range(3))


def scored(synthetic: Images, schema: ImageSchema = SCHEMA, **options) -> Results:
    train, holdout, _ = parts()
    settings = {"metrics": FAST, "classifiers": ["lr"], "classifier_seeds": 1, **PIXELS, **options}
    return ImageEvaluation(**settings).evaluate(train, holdout, synthetic, schema, seed=1)


@cache
def fresh_scores() -> Results:
    train, holdout, fresh = parts()
    calls: list[tuple[str, int, int]] = []
    evaluation = ImageEvaluation(metrics=[*FAST, "tstr"], classifiers=["lr"], full_size=True, **PIXELS)
    found = evaluation.evaluate(train, holdout, fresh, SCHEMA, progress=lambda *call: calls.append(call))
    assert calls[-1] == ("done", len(calls) - 1, len(calls) - 1)
    return found


def test_every_distance_and_accuracy_stands_beside_floor_ceiling_and_normalised_value():
    names = {row.name for row in headline(fresh_scores())}
    kinds = ("frechet", "frechet_inf", "kernel_distance", "precision", "recall", "density", "coverage")
    ranged = {f"fidelity/{kind}_pixels" for kind in (*kinds, "near_duplicates")}
    ranged |= {f"fidelity/{kind}" for kind in ("distinct_images", "predicted_entropy", "mode_coverage")}
    ranged |= {f"utility/{kind}_lr" for kind in ("accuracy", "balanced_accuracy", "macro_f1")}
    metrics = fresh_scores().metrics
    assert ranged <= names
    assert all(f"{role}/{key}" in metrics for key in ranged for role in ("floor", "ceiling", "normalised"))


def test_fresh_real_images_score_as_the_ceiling_does():
    metrics = fresh_scores().metrics
    for key in ("frechet_pixels", "coverage_pixels", "precision_pixels", "predicted_entropy"):
        assert metrics[f"normalised/fidelity/{key}"] == pytest.approx(1.0, abs=0.1)
    assert metrics["normalised/utility/accuracy_lr"] == pytest.approx(1.0, abs=0.05)
    assert metrics["utility/accuracy_lr"] > 0.9
    assert metrics["utility/trts_accuracy_lr"] > 0.9
    assert metrics["utility/trtr_accuracy_lr"] == metrics["ceiling/utility/accuracy_lr"]
    assert metrics["utility/trtr_full_accuracy_lr"] > 0.9
    assert metrics["fidelity/mode_coverage"] == 10
    assert abs(metrics["hint/closer_to_train_pixels"] - 0.5) < 0.08
    assert any(note.endswith("no copying found at this resolution") for note in fresh_scores().notes)


def test_the_ceiling_is_the_distance_of_train_to_the_holdout():
    train, holdout, _ = parts()
    features = extractor("pixels", height=8, width=8, channels=1)
    n = fresh_scores().rows["score"]
    assert n == len(train) == len(holdout)
    expected = frechet(features(train.pixels), features(holdout.pixels))
    assert fresh_scores().metrics["ceiling/fidelity/frechet_pixels"] == pytest.approx(expected, rel=1e-6)


def test_shuffled_pixels_score_at_the_floor():
    train, _, _ = parts()
    found = scored(sets.permuted_pixels(train, 9)).metrics
    for key in ("frechet_pixels", "precision_pixels", "coverage_pixels"):
        assert found[f"normalised/fidelity/{key}"] == pytest.approx(0.0, abs=0.06)


def test_the_floor_keeps_each_pixel_position_and_loses_their_dependence():
    train, _, _ = parts()
    floor = sets.permuted_pixels(train, 0)
    assert (np.sort(floor.pixels, axis=0) == np.sort(train.pixels, axis=0)).all()
    assert (floor.pixels != train.pixels).any()
    before, after = (np.corrcoef(x.pixels[:, 3, 3, 0], x.pixels[:, 3, 4, 0])[0, 1] for x in (train, floor))
    assert abs(after) < 0.15 < abs(before)


def test_public_images_of_the_model_are_the_floor():
    train, holdout, fresh = parts()
    model = type("Aligned", (), {"public_floor": Images(255 - fresh.pixels, fresh.labels)})()
    evaluation = ImageEvaluation(
        metrics=["frechet", "tstr", "nearest_neighbor"], classifiers=["lr"], **PIXELS
    )
    found = evaluation.evaluate(train, holdout, fresh, SCHEMA, model=model)
    features = extractor("pixels", height=8, width=8, channels=1)
    expected = frechet(features(255 - fresh.pixels), features(holdout.pixels))
    assert found.metrics["floor/fidelity/frechet_pixels"] == pytest.approx(expected, rel=1e-6)
    assert found.metrics["floor/utility/accuracy_lr"] < 0.5
    assert found.metrics["hint/exact_duplicates_public"] == 0
    assert found.protocols["floor/fidelity/frechet_pixels"]["floor"] == "public"


def test_every_number_is_private():
    found = fresh_scores()
    assert set(found.private) == set(found.metrics)
    entries = found.to_json()["metrics"]
    assert {entry["visibility"] for entry in entries.values()} == {"private"}


def test_every_number_names_its_protocol_and_the_file_holds_each_once():
    found = fresh_scores()
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert {entry["protocol_id"] for entry in content["metrics"].values()} == set(content["protocols"])
    for key, protocol in content["protocols"].items():
        assert protocol_id(protocol) == key
    protocol = found.protocols["ceiling/fidelity/frechet_pixels"]
    assert protocol["extractor"]["name"] == "pixels"
    assert protocol["reference"]["split"] == "holdout"
    assert len(protocol["reference"]["index_hash"]) == 64
    assert protocol["environment"]["dtype"] == "float64"


def test_a_changed_protocol_has_another_id_and_another_seed_has_not():
    _, _, fresh = parts()
    options = ({}, {"seed": 7}, {"neighbours": 3}, {"draw_seed": 5})
    found = [scored(fresh, metrics=["precision_recall"], **changed) for changed in options]
    one, again, *others = (protocol_id(r.protocols["fidelity/precision_pixels"]) for r in found)
    assert one == again
    assert len({one, *others}) == 3


def test_equal_seeds_give_equal_numbers():
    _, _, fresh = parts()
    first, second = (scored(fresh, metrics=["frechet", "kernel_distance"]).metrics for _ in range(2))
    assert first == second


def test_grey_images_with_repeated_channels_score_the_same():
    _, _, fresh = parts()
    grey, rgb = (scored(x, metrics=FAST) for x in (fresh, Images(fresh.rgb(), fresh.labels)))
    assert grey.metrics == pytest.approx(rgb.metrics, rel=1e-12, nan_ok=True)
    assert rgb.metrics["validity/schema_violations"] == 0


def test_images_of_another_size_are_resized_and_counted():
    _, _, fresh = parts()
    large = Images(np.kron(fresh.pixels, np.ones((1, 2, 2, 1), np.uint8)), fresh.labels)
    found = scored(large, metrics=["frechet", "validity"])
    assert found.metrics["validity/schema_violations"] == len(large)
    assert found.metrics["fidelity/frechet_pixels"] < 0.5 * found.metrics["floor/fidelity/frechet_pixels"]
    coloured = fresh.rgb().copy()
    coloured[:5, 0, 0, 0] ^= 255
    assert scored(Images(coloured, fresh.labels), metrics=["validity"]).metrics == {
        "validity/schema_violations": 5.0
    }


@pytest.mark.parametrize("model", ["lr", "cnn"])
def test_another_order_of_the_classes_changes_no_accuracy(model):
    order = np.array([3, 1, 4, 0, 5, 9, 2, 6, 8, 7])
    renamed = replace(SCHEMA, classes=tuple(CLASSES[i] for i in order))
    position = np.argsort(order)
    evaluation = ImageEvaluation(
        metrics=["tstr"], classifiers=[model], classifier_epochs=2, classifier_seeds=1, **PIXELS
    )
    train, holdout, fresh = (images.head(200) for images in parts())
    plain = evaluation.evaluate(train, holdout, fresh, SCHEMA)
    moved = [replace(images, labels=position[images.labels]) for images in (train, holdout, fresh)]
    found = evaluation.evaluate(*moved, renamed)
    assert found.metrics == pytest.approx(plain.metrics, nan_ok=True)
    recalls = [
        r.tables[f"class_recall_{model}"].set_index("class")["score"].to_dict() for r in (plain, found)
    ]
    assert recalls[0] == pytest.approx(recalls[1])


def test_a_file_with_its_classes_in_another_order_scores_the_same(tmp_path):
    order = np.array([3, 1, 4, 0, 5, 9, 2, 6, 8, 7])
    _, _, fresh = parts()
    moved = replace(fresh, labels=np.argsort(order)[fresh.labels])
    write_samples(tmp_path / "samples.npz", moved, [CLASSES[i] for i in order])
    read, _ = read_samples(tmp_path / "samples.npz", SCHEMA)
    plain, found = (scored(images, metrics=["tstr", "class_structure"]) for images in (fresh, read))
    assert found.metrics == pytest.approx(plain.metrics, nan_ok=True)


def test_wrong_labels_lower_accuracy_and_label_consistency_but_no_distance():
    _, _, fresh = parts()
    wrong = Images(fresh.pixels, (fresh.labels + 1) % 10)
    good, bad = scored(fresh, metrics=["frechet", "tstr"]), scored(wrong, metrics=["frechet", "tstr"])
    assert bad.metrics["fidelity/frechet_pixels"] == good.metrics["fidelity/frechet_pixels"]
    assert bad.metrics["utility/accuracy_lr"] < 0.1
    assert bad.metrics["utility/trts_accuracy_lr"] < 0.1


def test_a_generator_of_one_class_is_scored_and_named():
    _, _, fresh = parts()
    one = fresh.take(fresh.labels == 3)
    found = scored(one, metrics=["tstr", "class_structure", "precision_recall"])
    assert found.metrics["fidelity/mode_coverage"] < 5
    assert found.metrics["fidelity/predicted_entropy"] < 1.5
    assert found.metrics["fidelity/class_distance"] == pytest.approx(0.9)
    assert found.metrics["utility/balanced_accuracy_lr"] == pytest.approx(0.1)
    assert found.metrics["fidelity/recall_pixels"] < 0.5
    assert any("lack 9 of the classes" in note for note in found.notes)


def test_constant_images_are_scored_without_a_crash():
    _, _, fresh = parts()
    blank = Images(np.zeros_like(fresh.pixels), fresh.labels)
    found = scored(blank, metrics=[*FAST, "tstr", "similarity"])
    assert found.metrics["fidelity/distinct_images"] == 1 / len(blank)
    assert found.metrics["fidelity/near_duplicates_pixels"] == 1.0
    assert found.metrics["fidelity/coverage_pixels"] == 0.0
    assert np.isfinite(found.metrics["fidelity/frechet_pixels"])


def test_copied_images_are_found_and_their_positions_named():
    train, _, fresh = parts()
    pixels = fresh.pixels.copy()
    pixels[:6] = train.pixels[40:46]
    found = scored(Images(pixels, fresh.labels), metrics=["nearest_neighbor"])
    assert found.metrics["hint/exact_duplicates_train"] == 6
    assert any("6 exact copies of training images" in note for note in found.notes)
    pairs = found.tables["nearest_pairs"]
    copied = pairs[pairs["to_train"] == 0]
    assert sorted(copied["synthetic"]) == list(range(6))
    assert (copied["train"] == copied["synthetic"] + 40).all()


def test_the_membership_attack_finds_released_members_and_not_fresh_images():
    rng = np.random.default_rng(0)
    train, holdout, fresh = (
        Images(rng.integers(0, 256, (1100, 4, 4, 1), dtype=np.uint8), np.zeros(1100, np.int64))
        for _ in range(3)
    )
    schema = ImageSchema("squares", 1100, 4, 4, 1)
    evaluation = ImageEvaluation(metrics=["attacks"], **PIXELS)
    claim = Guarantee(1.0, 1e-5)
    leaked = evaluation.evaluate(train, holdout, train, schema, guarantee=claim)
    clean = evaluation.evaluate(train, holdout, fresh, schema, guarantee=claim)
    assert leaked.metrics["attack/dcr_auc"] > 0.99
    assert any("VIOLATION" in note for note in leaked.notes)
    assert clean.metrics["attack/dcr_auc"] == pytest.approx(0.5, abs=0.05)
    assert any("no violation found" in note for note in clean.notes)


def test_without_a_holdout_distances_are_to_train_and_ceilings_are_left_out():
    train, _, fresh = parts()
    evaluation = ImageEvaluation(metrics=["frechet", "tstr", "nearest_neighbor"], **PIXELS)
    found = evaluation.evaluate(train, None, fresh, SCHEMA)
    assert found.protocols["fidelity/frechet_pixels"]["reference"]["split"] == "train"
    assert not any(key.startswith(("ceiling/", "utility/", "hint/")) for key in found.metrics)
    assert any("tstr left out" in note for note in found.notes)


def test_images_without_classes_are_scored_by_their_distances():
    schema = replace(SCHEMA, classes=())
    train, holdout, fresh = (Images(x.pixels, np.zeros(len(x), np.int64)) for x in parts())
    evaluation = ImageEvaluation(metrics=[*FAST, "tstr"], **PIXELS)
    found = evaluation.evaluate(train, holdout, fresh, schema)
    assert "fidelity/frechet_pixels" in found.metrics
    assert not any(key.startswith("utility/") for key in found.metrics)


def test_any_batch_size_gives_the_same_distance():
    train, holdout, _ = parts()
    small, large = (extractor("pixels", height=8, width=8, channels=1, batch_size=b) for b in (7, 500))
    distances = [frechet(f(train.pixels), f(holdout.pixels)) for f in (small, large)]
    assert distances[0] == pytest.approx(distances[1], rel=1e-5)


def test_class_frechet_needs_five_hundred_images_of_a_class():
    rng = np.random.default_rng(0)
    images = [
        Images(rng.integers(0, 256, (1400, 4, 4, 1), dtype=np.uint8), np.repeat([0, 1], [1000, 400]))
        for _ in range(3)
    ]
    schema = ImageSchema("squares", 1400, 4, 4, 1, ("a", "b"))
    found = ImageEvaluation(metrics=["class_frechet"], **PIXELS).evaluate(*images, schema)
    assert found.tables["class_frechet"]["class"].tolist() == ["a"]
    assert "fidelity/class_frechet_pixels" in found.metrics


class Named:
    """An extractor that says what it was trained on."""

    def __init__(self, trained_on: list[str]) -> None:
        self.name, self.trained_on = "learned", trained_on

    def describe(self) -> dict[str, object]:
        return {"name": self.name, "trained_on": self.trained_on}


@pytest.mark.parametrize(("trained_on", "private"), [("digits", "digits"), ("digits", "digits_small")])
def test_an_extractor_trained_on_the_private_set_is_refused(trained_on, private):
    with pytest.raises(ConfigError, match="overlaps the private set"):
        choosing.refuse_overlap(Named(["fonts", trained_on]), replace(SCHEMA, name=private))


def test_an_extractor_trained_on_another_set_is_allowed():
    choosing.refuse_overlap(Named(["mnist"]), replace(SCHEMA, name="fashion_mnist"))


def test_small_grey_images_are_scored_by_pixels_and_public_digits_unless_these_are_private():
    found, notes = choosing.chosen_extractors(None, replace(SCHEMA, name="mnist"))
    assert [made.name for made in found] == ["pixels", "lenet_public"]
    assert notes == []
    found, notes = choosing.chosen_extractors(None, replace(SCHEMA, name="font_digits"))
    assert [made.name for made in found] == ["pixels"]
    assert "overlaps the private set" in notes[0]
    with pytest.raises(ConfigError, match="overlaps"):
        choosing.chosen_extractors(["lenet_public"], replace(SCHEMA, name="font_digits"))


def test_features_that_are_not_finite_stop_the_evaluation(monkeypatch):
    made = extractor("pixels", height=8, width=8, channels=1)
    broken = replace(made, embed=lambda x: made.embed(x) / 0.0)
    monkeypatch.setattr(choosing, "extractor", lambda *_, **__: broken)
    with pytest.raises(DataError, match="not finite"):
        scored(parts()[2], metrics=["frechet"])


def test_too_few_images_and_unknown_labels_are_refused():
    _, _, fresh = parts()
    with pytest.raises(DataError, match="need at least 2"):
        scored(fresh.head(1))
    with pytest.raises(DataError, match="0 images"):
        scored(fresh.head(0))
    with pytest.raises(DataError, match="no class of 'digits'"):
        scored(Images(fresh.pixels, fresh.labels + 1))


def test_all_mistakes_of_the_options_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        ImageEvaluation(
            metrics=["frechte"], extractors=["pixel"], classifiers=["cnns"], max_images=1, reference="test"
        )
    text = str(caught.value)
    for part in (
        "Did you mean 'frechet'",
        "Did you mean 'pixels'",
        "Did you mean 'cnn'",
        "max_images=1",
        "'test'",
    ):
        assert part in text


# Classifiers


def test_logistic_regression_minimises_the_penalised_likelihood():
    train, _, fresh = parts()
    few = train.take(train.labels < 2)
    schema = replace(SCHEMA, classes=("0", "1"))
    predict = learners.trained("lr", few, schema, learners.Training(), seed=0)
    x, y = few.pixels.reshape(len(few), -1) / 255, 2.0 * few.labels - 1

    def loss(w: np.ndarray) -> float:
        return 0.5 * w[:-1] @ w[:-1] + 0.1 * np.logaddexp(0, -y * (x @ w[:-1] + w[-1])).sum()

    best = minimize(loss, np.zeros(65), method="L-BFGS-B").x
    test = fresh.take(fresh.labels < 2)
    expected = (test.pixels.reshape(len(test), -1) / 255 @ best[:-1] + best[-1] > 0).astype(int)
    assert (predict(test.pixels) == expected).mean() > 0.99


def test_logistic_regression_reaches_its_accuracy_on_digits():
    train, holdout, fresh = parts()
    both = [np.concatenate([getattr(x, name) for x in (train, fresh)]) for name in ("pixels", "labels")]
    predict = learners.trained("lr", Images(*both), SCHEMA, learners.Training(), seed=0)
    assert (predict(holdout.pixels) == holdout.labels).mean() > 0.93


@pytest.mark.parametrize(
    ("model", "epochs", "least"), [("mlp", 20, 0.8), ("cnn", 12, 0.7), ("resnet", 8, 0.5)]
)
def test_networks_learn_digits_and_repeat_themselves_with_equal_seeds(model, epochs, least):
    train, holdout, _ = parts()
    training = learners.Training(epochs=epochs)
    runs = [learners.trained(model, train, SCHEMA, training, seed=0)(holdout.pixels) for _ in range(2)]
    assert (runs[0] == runs[1]).all()
    assert (runs[0] == holdout.labels).mean() > least


def test_several_classifier_seeds_give_a_deviation_and_an_interval():
    found = scored(parts()[2], metrics=["tstr"], classifiers=["mlp"], classifier_epochs=5, classifier_seeds=2)
    assert found.spread["utility/accuracy_mlp"] >= 0
    low, high = found.intervals["utility/accuracy_mlp"]
    assert low < found.metrics["utility/accuracy_mlp"] < high
    assert found.to_json()["metrics"]["utility/accuracy_mlp"]["interval"] == [low, high]


def test_images_too_small_for_the_convolutions_are_refused():
    tiny = Images(np.zeros((4, 3, 3, 1), np.uint8), np.array([0, 1, 0, 1]))
    with pytest.raises(DataError, match="4×4"):
        learners.trained("cnn", tiny, ImageSchema("t", 4, 3, 3, 1, ("a", "b")), learners.Training(), seed=0)


@pytest.mark.slow
def test_recipes_reach_their_accuracy_on_mnist():
    folder = Path(os.environ.get("DPFORGE_DATA", "absent")) / "image" / "mnist"
    if not folder.is_dir():
        pytest.skip("MNIST is not at hand")
    train, test = (_mnist(folder, name) for name in ("train", "t10k"))
    schema = ImageSchema("mnist", 60_000, 28, 28, 1, CLASSES)
    for model, rows, epochs, least in (("lr", 5_000, None, 0.9), ("cnn", 4_000, 8, 0.95)):
        training = learners.Training(epochs=epochs)
        predict = learners.trained(model, train.head(rows), schema, training, seed=0)
        assert (predict(test.pixels) == test.labels).mean() > least


def _mnist(folder: Path, name: str) -> Images:
    import gzip

    pixels = gzip.decompress((folder / f"{name}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{name}-labels-idx1-ubyte.gz").read_bytes())
    return Images(
        np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 28, 28, 1),
        np.frombuffer(labels, np.uint8, offset=8).astype(np.int64),
    )
