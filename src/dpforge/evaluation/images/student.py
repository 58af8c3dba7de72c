"""The classifier that a model of images brings along, on real test images: last epoch, and best of all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeGuard

import numpy as np
import pandas as pd

from dpforge.data.images import Images
from dpforge.evaluation.images.learners import wilson
from dpforge.evaluation.images.outcomes import ImageOutcome, protocol_of
from dpforge.evaluation.images.protocol import index_hash
from dpforge.evaluation.images.sets import ImageSets

VERSION = "student-1"
LAST, BEST = "utility/student_accuracy", "utility/student_accuracy_best"
SELECTION_NOTE = (
    f"{BEST} takes the epoch that the test images like most: selection on test data, for comparison with"
    f" figures published that way; {LAST} is the last epoch"
)
Predict = Callable[[np.ndarray], np.ndarray]
OnEpoch = Callable[[int, Predict], None]


class Distilled(Protocol):
    """A fitted model with a private teacher and a student that learnt from released images only."""

    @property
    def public_floor(self) -> Images:
        """Public images that the released ones started from."""
        ...

    def predict_logits(self, pixels: np.ndarray) -> np.ndarray:
        """The student's logits ``(n, K)`` of images, uint8 ``(n, H, W, C)``."""
        ...

    def teacher_logits(self, pixels: np.ndarray) -> np.ndarray:
        """The teacher's logits."""
        ...

    def train_student(self, on_epoch: OnEpoch, *, public: bool = False) -> None:
        """Train the student again, of public images if asked for, and show it after every epoch."""
        ...


@dataclass(frozen=True)
class Course:
    """Accuracies of one training.

    Args:
        epochs: On the test images after each epoch, at least one.
    """

    epochs: tuple[float, ...]

    @property
    def last(self) -> float:
        """Of the student that is released."""
        return self.epochs[-1]

    @property
    def best(self) -> float:
        """The largest: chosen by the test images."""
        return max(self.epochs)


def is_distilled(model: object | None) -> TypeGuard[Distilled]:
    """Whether a fitted model brings a teacher and a student along."""
    return all(hasattr(model, name) for name in ("predict_logits", "teacher_logits", "train_student"))


def student(sets: ImageSets, model: Distilled) -> ImageOutcome:
    """``utility/student_accuracy`` and ``…_best``: the model's student on all held-out images, in [0, 1].

    The floor is the same student of the public images before they were aligned, with the labels of the same
    teacher; the ceiling is the teacher, also ``utility/teacher_accuracy``. Students are trained again for
    their accuracy after every epoch (table ``student_epochs``). Intervals are Wilson's.
    """
    test = sets.images["all_holdout"]
    made = _course(model, test, public=False)
    moved = not np.array_equal(model.public_floor.pixels, sets.images["all_score"].pixels)
    floor = _course(model, test, public=True) if moved else made
    last = accuracy(model.predict_logits(test.pixels), test.labels)
    teacher = accuracy(model.teacher_logits(test.pixels), test.labels)
    # The released student is one more epoch to choose from: it was trained on another device, perhaps.
    values = {LAST: (last, floor.last), BEST: (max(made.best, last), floor.best)}
    scores = {key: {"score": score, "floor": low, "ceiling": teacher} for key, (score, low) in values.items()}
    alone = {"utility/teacher_accuracy": teacher}
    shares = {key: score for key, (score, _) in values.items()} | alone
    return ImageOutcome(
        VERSION,
        scores,
        alone,
        notes=(SELECTION_NOTE,),
        rows={"student_test": len(test)},
        tables={"student_epochs": _table(made, floor)},
        intervals={key: wilson(share, len(test)) for key, share in shares.items()},
        protocol=_protocol(sets, len(test)),
    )


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose largest logit is that of their label."""
    return float((logits.argmax(1) == labels).mean())


def _course(model: Distilled, test: Images, *, public: bool) -> Course:
    found: list[float] = []

    def look(epoch: int, predict: Predict) -> None:
        found.append(accuracy(predict(test.pixels), test.labels))

    model.train_student(look, public=public)
    return Course(tuple(found))


def _protocol(sets: ImageSets, tested: int) -> dict[str, object]:
    classifier = {"model": "the model's own student", "selection": "last epoch; …_best by test data"}
    found = protocol_of(sets, "student", VERSION, classifier=classifier, reference="holdout")
    whole = {"n": tested, "index_hash": index_hash(np.arange(tested))}
    return {**found, "reference": {**found["reference"], **whole}}


def _table(made: Course, floor: Course) -> pd.DataFrame:
    epochs = range(1, len(made.epochs) + 1)
    return pd.DataFrame({"epoch": list(epochs), "score": list(made.epochs), "floor": list(floor.epochs)})
