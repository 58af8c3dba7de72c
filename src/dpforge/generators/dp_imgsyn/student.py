"""Stage 4: a classifier that learns the teacher's soft labels of released images; sees nothing private."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dpforge.data import ImageSchema
from dpforge.generators.dp_imgsyn.settings import StudentSettings, pool_of, stepped
from dpforge.generators.dp_imgsyn.transform import Normalization, random_views
from dpforge.nets.resnet import classifier
from dpforge.privacy.rng import KeyedRandom

PREDICTION_CHUNK = 256
OnEpoch = Callable[[int, nn.Module, torch.optim.Optimizer], None]


@dataclass(frozen=True, eq=False)
class Lessons:
    """What a student learns from.

    Args:
        pixels: Released images, uint8 ``(n, H, W, C)``.
        logits: The teacher's logits of them, float32 ``(n, K)``.
        normalization: Public constants.
        teacher: The released teacher, asked about mixtures; not needed without them.
    """

    pixels: np.ndarray
    logits: np.ndarray
    normalization: Normalization
    teacher: nn.Module | None = None

    def batch(
        self, rows: np.ndarray, settings: StudentSettings, rng: np.random.Generator, device: str
    ) -> tuple[Tensor, Tensor]:
        """Return what a student sees of images, normalised ``(b, C, H, W)``, and the teacher's logits."""
        views = random_views(self.pixels[rows], rng, shift=settings.shift, flip=settings.flip)[:, 0]
        x = self.normalization.normalized(views).to(device)
        if not settings.mix or self.teacher is None:
            return x, torch.from_numpy(self.logits[rows]).to(device)
        share = torch.from_numpy(rng.random((len(rows), 1, 1, 1), dtype=np.float32)).to(device)
        x = share * x + (1 - share) * x[torch.from_numpy(rng.permutation(len(rows))).to(device)]
        with torch.no_grad():
            return x, self.teacher(x)


def student_net(settings: StudentSettings, schema: ImageSchema, seed: int) -> nn.Module:
    """Return an untrained student: batch normalisation, for it sees released images only."""
    return classifier(
        settings.arch,
        schema.channels,
        schema.num_classes,
        seed=seed,
        width=settings.width,
        batch=True,
        pool=pool_of(settings, schema.height, schema.width),
    )


def distillation_loss(student: Tensor, teacher: Tensor, settings: StudentSettings) -> Tensor:
    """Return α T² KL(softmax(teacher/T) ‖ softmax(student/T)) + β CE(student, argmax teacher), batch mean."""
    temperature = settings.temperature
    soft = functional.kl_div(
        functional.log_softmax(student / temperature, 1),
        functional.log_softmax(teacher / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )
    loss = settings.alpha * temperature**2 * soft
    if settings.beta:
        loss = loss + settings.beta * functional.cross_entropy(student, teacher.argmax(1))
    return loss


def student_optimizer(net: nn.Module, settings: StudentSettings) -> torch.optim.Optimizer:
    """Return SGD over all parameters."""
    return torch.optim.SGD(
        net.parameters(), settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )


def learning_rate(settings: StudentSettings, epoch: int) -> float:
    """Return the learning rate of an epoch, counted from 0."""
    done = epoch / settings.epochs
    rate = settings.lr * (1 - done) if settings.lr_decay else settings.lr
    return stepped(rate, done, settings.milestones)


def train_student(
    net: nn.Module,
    lessons: Lessons,
    settings: StudentSettings,
    random: KeyedRandom,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    first_epoch: int = 0,
    device: str = "cpu",
    on_epoch: OnEpoch | None = None,
) -> nn.Module:
    """Train ``net`` in place from ``first_epoch`` on; return it in evaluation mode.

    Args:
        net: With the weights it has before ``first_epoch``.
        lessons: Released images and soft labels.
        settings: How to train.
        random: Public streams; those of an epoch do not depend on the epochs before.
        optimizer: With its state before ``first_epoch``; None for a new one.
        first_epoch: Epochs that are done.
        device: Where to train.
        on_epoch: Called with (epochs done, the student in evaluation mode, its optimiser) after each epoch.
    """
    net.to(device)
    optimizer = optimizer or student_optimizer(net, settings)
    if lessons.teacher is not None:
        lessons.teacher.to(device).eval()
    for epoch in range(first_epoch, settings.epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, epoch)
        rng = random.generator("student/epoch", epoch)
        net.train()
        for rows in _batches(rng.permutation(len(lessons.pixels)), settings.batch_size):
            x, logits = lessons.batch(rows, settings, rng, device)
            loss = distillation_loss(net(x), logits, settings)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        net.eval()
        if on_epoch is not None:
            on_epoch(epoch + 1, net, optimizer)
    return net.eval()


def _batches(order: np.ndarray, size: int) -> list[np.ndarray]:
    """Parts of ``order``; a last part of one image, which has no variance, is left out."""
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    return parts[:-1] if len(parts) > 1 and len(parts[-1]) == 1 else parts


def logits_of(
    net: nn.Module, pixels: np.ndarray, normalization: Normalization, device: str = "cpu"
) -> np.ndarray:
    """Return the logits of a classifier in evaluation mode, float32 ``(n, K)``."""
    net.to(device).eval()
    parts = [np.zeros((0, 0), np.float32)]
    with torch.no_grad():
        for start in range(0, len(pixels), PREDICTION_CHUNK):
            x = normalization.normalized(pixels[start : start + PREDICTION_CHUNK])
            parts.append(net(x.to(device)).float().cpu().numpy())
    return np.concatenate(parts[1:]) if len(parts) > 1 else parts[0]
