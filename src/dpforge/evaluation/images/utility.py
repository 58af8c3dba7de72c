"""Usefulness for learning and class structure: classifiers trained on synthetic or on real images."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dpforge.data.images import Images
from dpforge.evaluation.images import learners, structure
from dpforge.evaluation.images.memorisation import PERCENTILE
from dpforge.evaluation.images.outcomes import ImageOutcome, protocol_of
from dpforge.evaluation.images.sets import ImageSets
from dpforge.features import Extractor

MEASURES = ("accuracy", "balanced_accuracy", "macro_f1")
VALIDITY_VERSION = "image-validity-1"
SOFT_LABELS = "teacher_logits"


def tstr(sets: ImageSets, model: str, seeds: int, rows: int, full_size: bool = False) -> ImageOutcome:
    """``utility/{accuracy,balanced_accuracy,macro_f1}_*``: trained on synthetic, tested on held-out images.

    Ceilings (training on real images, equally many) also as ``utility/trtr_*``; ``utility/trts_*`` is
    trained on real and tested on synthetic images: do labels fit their images? The floor is the commonest
    class of the public prior, or training on the model's public images. ``utility/trtr_full_accuracy_*``
    is training on all real images. Means over ``seeds`` classifiers,
    with their deviation; accuracies with the Wilson interval. Recalls stand in the table ``class_recall``.
    """
    n = sets.lesson_rows(rows)
    real = _per_seed(sets, model, "train", seeds, n, sets.test.pixels)
    found = {
        "score": _measured(sets, _per_seed(sets, model, "score", seeds, n, sets.test.pixels)),
        "floor": _floor(sets, model, seeds, n),
        "ceiling": _measured(sets, real),
    }
    scores, alone, spread, intervals = {}, {}, {}, {}
    for measure in MEASURES:
        key = f"utility/{measure}_{model}"
        scores[key] = {role: float(np.mean(values[measure])) for role, values in found.items()}
        if len(found["score"][measure]) > 1:
            spread[key] = float(np.std(found["score"][measure], ddof=1))
        alone[f"utility/trtr_{measure}_{model}"] = scores[key]["ceiling"]
    synthetic = sets.images["score"]
    consistent = [
        float((guess == synthetic.labels).mean())
        for guess in _per_seed(sets, model, "train", seeds, n, synthetic.pixels)
    ]
    alone[f"utility/trts_accuracy_{model}"] = float(np.mean(consistent))
    accuracy = f"utility/accuracy_{model}"
    if full_size:
        whole = len(sets.images["all_train"])
        found_whole = _measured(sets, _per_seed(sets, model, "all_train", seeds, whole, sets.test.pixels))
        alone[f"utility/trtr_full_accuracy_{model}"] = float(np.mean(found_whole["accuracy"]))
    for key, share in ((accuracy, scores[accuracy]["score"]), *_accuracies(alone)):
        tested = len(synthetic) if "trts" in key else len(sets.test)
        intervals[key] = learners.wilson(share, tested)
    predicted = _per_seed(sets, model, "score", seeds, n, sets.test.pixels)
    return ImageOutcome(
        learners.VERSION,
        scores,
        alone,
        tables={f"class_recall_{model}": _recalls(sets, {"score": predicted, "ceiling": real})},
        rows={"classifier_train": n, "classifier_test": len(sets.test)},
        spread=spread,
        intervals=intervals,
        notes=_class_notes(sets, n),
        protocol=_protocol(sets, "tstr", learners.VERSION, model, seeds, n),
    )


def tstr_soft(sets: ImageSets, model: str, rows: int, temperature: float) -> ImageOutcome:
    """``utility/soft_accuracy_*``: a network that learnt the soft labels of synthetic images, tested on real.

    Soft labels are ``teacher_logits`` beside the images, which only some generators give. Floor and ceiling
    are those of :func:`tstr`.
    """
    n = sets.lesson_rows(rows)
    if SOFT_LABELS not in sets.images["all_score"].extra:
        return ImageOutcome(
            learners.VERSION, notes=(f"tstr_soft left out: the images have no {SOFT_LABELS}",)
        )
    lessons, key = sets.lessons("score", n), f"utility/soft_accuracy_{model}"
    predict = learners.distilled(
        model, lessons, sets.schema, sets.training, seed=sets.seed, temperature=temperature
    )
    truth, classes = sets.test.labels, sets.schema.num_classes
    share = learners.agreement(truth, predict(sets.test.pixels), classes)["accuracy"]
    real = sets.predictor(model, "train", n, sets.seed)(sets.test.pixels)
    roles = {
        "score": share,
        "floor": learners.majority(sets.prior, truth)["accuracy"],
        "ceiling": learners.agreement(truth, real, classes)["accuracy"],
    }
    protocol = _protocol(sets, "tstr_soft", learners.VERSION, model, 1, n)
    return ImageOutcome(
        learners.VERSION,
        {key: roles},
        rows={"classifier_train": n, "classifier_test": len(sets.test)},
        intervals={key: learners.wilson(share, len(sets.test))},
        protocol={**protocol, "estimator": {"temperature": temperature}},
    )


def class_structure(sets: ImageSets, model: str, rows: int, extractor: Extractor) -> ImageOutcome:
    """What classes there are, by label and by a classifier trained on real images, and how varied images are.

    ``fidelity/class_distance`` (labels against the public prior, no floor), ``predicted_entropy``,
    ``mode_coverage`` (classes predicted with at least half of their prior share), ``distinct_images`` and
    ``near_duplicates`` (share with another image of the set nearer than nearly all real ones have).
    """
    n, classes = min(rows, sets.n), sets.schema.num_classes
    roles = {role: sets.images[name] for role, name in sets.compared.items()}
    distances = structure.within(sets.features(extractor, sets.reference)[:n])
    limit = float(np.percentile(distances, PERCENTILE))
    scores = {
        "fidelity/distinct_images": {role: structure.distinct_share(x.pixels) for role, x in roles.items()},
        f"fidelity/near_duplicates_{extractor.name}": {
            role: structure.near_duplicate_share(sets.features(extractor, name)[:n], limit)
            for role, name in sets.compared.items()
        },
    }
    alone = {}
    if classes > 1:
        alone["fidelity/class_distance"] = structure.class_distance(sets.images["score"].labels, sets.prior)
        predict = sets.predictor(model, "train", sets.lesson_rows(rows), sets.seed)
        guessed = {role: predict(x.pixels) for role, x in roles.items()}
        scores["fidelity/predicted_entropy"] = {
            role: structure.class_entropy(labels, classes) for role, labels in guessed.items()
        }
        scores["fidelity/mode_coverage"] = {
            role: float(structure.mode_coverage(labels, sets.prior)) for role, labels in guessed.items()
        }
    rows = sets.lesson_rows(rows)
    protocol = _protocol(sets, "class_structure", structure.VERSION, model, 1, rows, extractor)
    return ImageOutcome(structure.VERSION, scores, alone, protocol=protocol)


def _per_seed(
    sets: ImageSets, model: str, name: str, seeds: int, n: int, pixels: np.ndarray
) -> list[np.ndarray]:
    """Predictions for ``pixels`` of one classifier a seed, trained on ``n`` images of the set ``name``."""
    # Logistic regression has no randomness to repeat.
    starts = [sets.seed + i for i in range(1 if model == "lr" else seeds)]
    return [sets.predictor(model, name, n, start)(pixels) for start in starts]


def _measured(sets: ImageSets, predictions: list[np.ndarray]) -> dict[str, list[float]]:
    truth, classes = sets.test.labels, sets.schema.num_classes
    found = [learners.agreement(truth, predicted, classes) for predicted in predictions]
    return {measure: [values[measure] for values in found] for measure in MEASURES}


def _floor(sets: ImageSets, model: str, seeds: int, n: int) -> dict[str, list[float]]:
    if sets.floor == "public":
        return _measured(sets, _per_seed(sets, model, "floor", seeds, n, sets.test.pixels))
    return {key: [value] for key, value in learners.majority(sets.prior, sets.test.labels).items()}


def _accuracies(values: dict[str, float]) -> list[tuple[str, float]]:
    kinds = ("utility/trtr_accuracy", "utility/trtr_full_accuracy", "utility/trts_accuracy")
    return [(key, value) for key, value in values.items() if key.startswith(kinds)]


def _recalls(sets: ImageSets, predictions: dict[str, list[np.ndarray]]) -> pd.DataFrame:
    truth, classes = sets.test.labels, sets.schema.num_classes
    means = {
        role: np.mean([learners.class_recall(truth, guess, classes) for guess in guesses], axis=0)
        for role, guesses in predictions.items()
    }
    return pd.DataFrame({"class": list(sets.schema.classes), **means})


def _class_notes(sets: ImageSets, n: int) -> tuple[str, ...]:
    tested, made = set(sets.test.labels.tolist()), set(sets.lessons("score", n).labels.tolist())
    absent = len(tested - made)
    return (
        (f"the synthetic images lack {absent} of the classes tested; none of these is found",)
        if absent
        else ()
    )


def _protocol(
    sets: ImageSets,
    metric: str,
    version: str,
    model: str,
    seeds: int,
    n: int,
    extractor: Extractor | None = None,
) -> dict[str, object]:
    classifier = {
        "model": model,
        "recipe": sets.training.recipe(model),
        "seeds": 1 if model == "lr" else seeds,
        "selection": "last",
        "train_images": n,
    }
    reference = "test" if "test" in sets.images else sets.reference
    return protocol_of(sets, metric, version, extractor=extractor, classifier=classifier, reference=reference)


def validity(sets: ImageSets, given: Images) -> ImageOutcome:
    """``validity/schema_violations``: synthetic images of another size or number of channels, best 0.

    Grey images with repeated channels, as sample files hold them, count as grey.
    """
    height, width, channels = sets.schema.shape
    wrong = given.pixels.shape[1:3] != (height, width)
    if channels == 1 and given.pixels.shape[3] == 3:
        colours = np.ptp(given.pixels, axis=3).max(axis=(1, 2), initial=0) > 0
        count = len(given) if wrong else int(colours.sum())
    else:
        count = len(given) if wrong else 0
    notes = (f"{count} synthetic images differ from the schema in size or colour",) if count else ()
    protocol = protocol_of(sets, "validity", VALIDITY_VERSION)
    alone = {"validity/schema_violations": float(count)}
    return ImageOutcome(VALIDITY_VERSION, alone=alone, notes=notes, protocol=protocol)
