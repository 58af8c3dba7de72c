"""Membership attacks on the classifiers of a model of images: was this image among those trained on?"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.special import log_softmax

from dpforge.data.images import Images
from dpforge.evaluation.attack_statistics import AttackResult, Scores
from dpforge.evaluation.images.copying import unshared
from dpforge.evaluation.images.outcomes import ImageMeasure, ImageOutcome, protocol_of
from dpforge.evaluation.images.sets import ImageSets
from dpforge.evaluation.images.student import Distilled, is_distilled, student

VERSION = "classifier-attack-1"
LEAST_ATTACKED = 100
STUDENT_METRICS = ("student", "student_attack")


def student_measures(model: object | None, rows: int) -> dict[str, ImageMeasure]:
    """Return the measurements of :data:`STUDENT_METRICS` of a model that has a student, else none."""
    if not is_distilled(model):
        return {}
    return {
        "student": partial(student, model=model),
        "student_attack": partial(student_attack, model=model, rows=rows),
    }


def log_likelihoods(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Minus the loss of each image: the log-probability of its true class, ``(n,)``.

    References:
        Yeom et al., *Privacy Risk in Machine Learning: Analyzing the Connection to Overfitting* (CSF 2018).
    """
    return log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels]


def confidences(logits: np.ndarray) -> np.ndarray:
    """Log-probability of the most likely class of each image, ``(n,)``: needs no label.

    References:
        Salem et al., *ML-Leaks* (NDSS 2019).
    """
    return log_softmax(logits.astype(np.float64), axis=1).max(axis=1)


def student_attack(sets: ImageSets, model: Distilled, rows: int) -> ImageOutcome:
    """``attack/{student_loss,student_confidence,teacher_loss}_…`` of :meth:`AttackResult.metrics`.

    Training images are members, held-out ones are not; images that both share are left out. The student
    never saw a member, so what it knows of them came through the teacher and the released images. With
    fewer than 100 images a side nothing is reported.
    """
    groups = unshared(sets, rows)
    n = min(len(group) for group in groups)
    if n < LEAST_ATTACKED:
        note = f"attack/student… left out: {n} images a side, expected {LEAST_ATTACKED}"
        return ImageOutcome(VERSION, notes=(note,))
    names = ("train", "holdout")
    sides = [sets.images[name].take(found[:n]) for name, found in zip(names, groups, strict=True)]
    attacks = [AttackResult(k, VERSION, s, *s.halves(sets.seed)) for k, s in _scores(model, sides).items()]
    delta = sets.guarantee.delta if sets.guarantee else 0.0
    return ImageOutcome(
        VERSION,
        alone={key: value for found in attacks for key, value in found.metrics(delta).items()},
        notes=tuple(_note(found, sets) for found in attacks),
        rows={"student_attack": n},
        protocol=protocol_of(sets, "student_attack", VERSION, estimator={"n": n}, reference="train"),
    )


def _scores(model: Distilled, sides: list[Images]) -> dict[str, Scores]:
    student, teacher = (
        [predict(side.pixels) for side in sides] for predict in (model.predict_logits, model.teacher_logits)
    )
    labels = [side.labels for side in sides]
    return {
        "student_loss": Scores(*map(log_likelihoods, student, labels)),
        "student_confidence": Scores(*map(confidences, student)),
        "teacher_loss": Scores(*map(log_likelihoods, teacher, labels)),
    }


def _note(found: AttackResult, sets: ImageSets) -> str:
    area = found.auc
    text = f"attack/{found.name}: {found.sentence(*(sets.guarantee or (None, 0.0)))}; AUC {area.value:.3f}"
    return f"{text} [{area.low:.3f}, {area.high:.3f}]"
