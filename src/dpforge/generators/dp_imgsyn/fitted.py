"""A finished run: released images with soft labels, the teacher, and the student that learnt from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from dpforge.data import Images, ImageSchema
from dpforge.errors import RunError
from dpforge.generators.dp_imgsyn.student import Lessons, logits_of, student_net, train_student
from dpforge.generators.dp_imgsyn.teacher import teacher_net
from dpforge.generators.dp_imgsyn.transform import Normalization
from dpforge.generators.storage import load_any_model, save_model
from dpforge.privacy.rng import public_random

if TYPE_CHECKING:
    from dpforge.generators.dp_imgsyn.generator import DPImgSyn


@dataclass(frozen=True, eq=False)
class ReleasedImages:
    """Synthetic images with what belongs to each; sorted by label.

    Args:
        pixels: Aligned images, uint8 ``(n, H, W, C)``.
        labels: The teacher's most likely class of each, int64 ``(n,)``.
        targets: Class each was aligned with, int64 ``(n,)``.
        teacher_logits: float32 ``(n, K)``.
        public: The public image each started from, uint8 ``(n, H, W, C)``.
        public_labels: The teacher's most likely class of those, int64 ``(n,)``.
    """

    pixels: np.ndarray
    labels: np.ndarray
    targets: np.ndarray
    teacher_logits: np.ndarray
    public: np.ndarray
    public_labels: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    def sorted(self) -> ReleasedImages:
        """Return them with those of a class adjacent, class 0 first, otherwise in their order."""
        order = np.argsort(self.labels, kind="stable")
        return replace(self, **{f.name: getattr(self, f.name)[order] for f in fields(self)})


class FittedImgSyn:
    """Released images, teacher and student; reads no private data.

    Args:
        model: Settings.
        schema: Shape and classes.
        images: The synthetic images.
        teacher, student: Classifiers in evaluation mode.
        normalization: Public constants of both.
        facts: What else was released, by name: arrays of layer statistics.
        seed: Public seed that the student was trained with.
    """

    def __init__(
        self,
        model: DPImgSyn,
        schema: ImageSchema,
        images: ReleasedImages,
        teacher: nn.Module,
        student: nn.Module,
        normalization: Normalization,
        facts: Mapping[str, np.ndarray],
        seed: int,
    ) -> None:
        self.model, self.schema, self.images = model, schema, images.sorted()
        self.teacher, self.student, self.normalization = teacher.eval(), student.eval(), normalization
        self.facts, self.seed = dict(facts), seed

    @property
    def released_rows(self) -> int:
        """Number of synthetic images."""
        return len(self.images)

    @property
    def public_floor(self) -> Images:
        """The public images the synthetic ones started from, in their order, as the teacher labels them."""
        return Images(self.images.public, self.images.public_labels)

    @property
    def public_start(self) -> Images:
        """The public image behind each synthetic one, in the order in which all of these are sampled."""
        return self.public_floor

    def sample(self, rows: int, rng: np.random.Generator) -> Images:
        """Return released images with ``teacher_logits`` and ``targets``; those of a class are adjacent.

        All of them if ``rows`` is their number; a random part of fewer. There are no others: of more rows,
        every image is repeated equally often before the rest is drawn.
        """
        whole, rest = divmod(rows, len(self.images))
        drawn = rng.permutation(len(self.images))[:rest]
        picked = np.sort(np.concatenate([np.tile(np.arange(len(self.images)), whole), drawn]))
        extra = {
            "teacher_logits": self.images.teacher_logits[picked],
            "targets": self.images.targets[picked],
        }
        return Images(self.images.pixels[picked], self.images.labels[picked], extra)

    def predict_logits(self, pixels: np.ndarray) -> np.ndarray:
        """Return the student's logits of images, uint8 ``(n, H, W, C)`` to float32 ``(n, K)``."""
        return logits_of(self.student, pixels, self.normalization)

    def teacher_logits(self, pixels: np.ndarray) -> np.ndarray:
        """Return the teacher's logits of images, uint8 ``(n, H, W, C)`` to float32 ``(n, K)``."""
        return logits_of(self.teacher, pixels, self.normalization)

    def train_student(
        self,
        on_epoch: Callable[[int, Callable[[np.ndarray], np.ndarray]], None],
        *,
        public: bool = False,
        seed: int | None = None,
    ) -> None:
        """Train the student again and show it after every epoch; a choice among epochs is the caller's.

        Args:
            on_epoch: Called with (epochs done, ``pixels -> logits``).
            public: Learn from the public images instead, as a baseline of no alignment.
            seed: Public seed; None for that of the run, whose student comes back.
        """
        pixels = self.images.public if public else self.images.pixels
        logits = self.teacher_logits(pixels) if public else self.images.teacher_logits
        random = public_random(self.seed if seed is None else seed)
        net = new_student(self.model, self.schema, self.seed if seed is None else seed)
        train_student(
            net,
            Lessons(pixels, logits, self.normalization, self.teacher),
            self.model.student,
            random,
            on_epoch=lambda epoch, student, _: on_epoch(
                epoch, lambda shown: logits_of(student, shown, self.normalization)
            ),
        )

    def save(self, folder: Path) -> None:
        """Write everything; see :func:`dpforge.generators.storage.save_model`."""
        tensors = {f"images.{f.name}": getattr(self.images, f.name) for f in fields(self.images)}
        tensors |= {f"released.{name}": values for name, values in self.facts.items()}
        found = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in tensors.items()}
        for who, net in (("teacher", self.teacher), ("student", self.student)):
            found |= {f"{who}.{name}": tensor.cpu() for name, tensor in net.state_dict().items()}
        arrays = {"mean": self.normalization.mean, "std": self.normalization.std, "seed": self.seed}
        save_model(folder, found, arrays, self.schema)


def new_student(model: DPImgSyn, schema: ImageSchema, seed: int) -> nn.Module:
    """Return the student of a public seed before its training."""
    start = int(public_random(seed).generator("student/initialisation").integers(2**31))
    return student_net(model.student, schema, start)


def load_fitted(model: DPImgSyn, folder: Path) -> FittedImgSyn:
    """Read back a finished run; raises ``RunError`` if it is damaged or none."""
    tensors, arrays, schema = load_any_model(folder)
    if not isinstance(schema, ImageSchema):
        raise RunError(f"the model in {folder.name} makes tables, not images.")
    parts = {part: _part(tensors, part) for part in ("images", "released", "teacher", "student")}
    teacher = teacher_net(model.teacher, schema, 0).requires_grad_(False)
    student = student_net(model.student, schema, 0)
    try:
        teacher.load_state_dict(parts["teacher"])
        student.load_state_dict(parts["student"])
        images = ReleasedImages(**{name: tensor.numpy() for name, tensor in parts["images"].items()})
        normalization = Normalization(tuple(arrays["mean"]), tuple(arrays["std"]))
        seed = int(arrays["seed"])
    except (RuntimeError, TypeError, KeyError) as error:
        raise RunError(f"the model in {folder.name} is not one of these settings: {error}") from error
    facts = {name: tensor.numpy() for name, tensor in parts["released"].items()}
    return FittedImgSyn(model, schema, images, teacher, student, normalization, facts, seed)


def _part(tensors: Mapping[str, torch.Tensor], name: str) -> dict[str, Any]:
    start = f"{name}."
    return {key[len(start) :]: tensor for key, tensor in tensors.items() if key.startswith(start)}
