"""Stage 3: public images are moved until the teacher sees the released statistics in them.

Reads the released teacher, the released statistics and public images; no private record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dpforge.generators.dp_imgsyn.settings import SynthesisSettings
from dpforge.generators.dp_imgsyn.statistics import LayerStatistics, taps
from dpforge.generators.dp_imgsyn.transform import Normalization

BETAS = (0.5, 0.99)
JITTER_SHARE = 8  # images roll by up to 1/8 of a side
TERMS = ("total", "statistics", "ce", "tv", "l2")


@dataclass(frozen=True, eq=False)
class Target:
    """What images are aligned with.

    Args:
        teacher: Released classifier, in evaluation mode.
        layers: Its layers whose moments count.
        statistics: Released moments; None to leave them out.
        normalization: Public constants.
        device: Where the teacher is.
    """

    teacher: nn.Module
    layers: Sequence[nn.GroupNorm]
    statistics: LayerStatistics | None
    normalization: Normalization
    device: str = "cpu"

    def moments(self) -> list[tuple[Tensor, Tensor]]:
        """Return mean and variance of each layer, float32."""
        if self.statistics is None:
            return []
        sizes = [layer.num_channels for layer in self.layers]
        means, variances = (
            torch.from_numpy(values).float().to(self.device).split(sizes)
            for values in (self.statistics.mean, self.statistics.variance)
        )
        return list(zip(means, variances, strict=True))


def statistics_loss(seen: Sequence[Tensor], moments: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Sum over layers the distances of population variances and of means, over batch and space."""
    total = torch.zeros(())
    for a, (mean, variance) in zip(seen, moments, strict=False):
        values = a.transpose(0, 1).flatten(1)
        distance = (values.var(1, correction=0) - variance).norm() + (values.mean(1) - mean).norm()
        total = total.to(a.device) + distance
    return total


def total_variation(x: Tensor) -> Tensor:
    """Mean absolute differences to the right, below, and along both diagonals, added up."""
    pairs = (
        (x[..., :, 1:], x[..., :, :-1]),
        (x[..., 1:, :], x[..., :-1, :]),
        (x[..., 1:, 1:], x[..., :-1, :-1]),
        (x[..., 1:, :-1], x[..., :-1, 1:]),
    )
    return torch.stack([(one - other).abs().mean() for one, other in pairs]).sum()


def jittered(x: Tensor, settings: SynthesisSettings, rng: np.random.Generator) -> Tensor:
    """Roll images ``(n, C, H, W)`` by random offsets and mirror some, as the settings say."""
    count, _, height, width = x.shape
    draws = rng.random((count if settings.augment_per_image else 1, 3))
    if settings.jitter:
        reach = np.array([height, width]) // JITTER_SHARE
        offsets = np.floor(draws[:, :2] * (2 * reach + 1)).astype(np.int64) - reach
        rows, columns = (
            torch.from_numpy((np.arange(side) - offsets[:, axis, None]) % side).to(x.device)
            for axis, side in enumerate((height, width))
        )
        x = x.gather(2, rows[:, None, :, None].expand(x.shape))
        x = x.gather(3, columns[:, None, None, :].expand(x.shape))
    if settings.flip:
        mirrored = torch.from_numpy(draws[:, 2] < 0.5).to(x.device)[:, None, None, None]
        x = torch.where(mirrored, x.flip(3), x)
    return x


def loss_terms(
    x: Tensor, labels: Tensor, target: Target, settings: SynthesisSettings, rng: np.random.Generator
) -> dict[str, Tensor]:
    """Return the terms of the loss of a batch, unweighted, and their weighted ``total``."""
    looked_at = jittered(x, settings, rng)
    with taps(target.layers) as seen:
        logits = target.teacher(looked_at)
    terms = {
        "statistics": statistics_loss(seen, target.moments()),
        "ce": functional.cross_entropy(logits, labels),
        "tv": total_variation(looked_at),
        "l2": x.norm() / len(x),
    }
    weights = {name: getattr(settings, f"{name}_weight") for name in terms}
    total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
    return {"total": total, **terms}


def aligned(
    pixels: np.ndarray,
    labels: np.ndarray,
    target: Target,
    settings: SynthesisSettings,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Move one batch of images by ``settings.steps`` steps of Adam.

    Args:
        pixels: Public images, uint8 ``(n, H, W, C)``; with 0 steps they come back as they are.
        labels: Classes that the teacher should see, int64 ``(n,)``.
        target: Teacher and statistics.
        settings: Steps, weights, jitter.
        rng: Of the jitter.

    Returns:
        The images, uint8 ``(n, H, W, C)``, and the loss terms before each step, ``(steps, len(TERMS))``.
    """
    if not settings.steps:
        return pixels, np.zeros((0, len(TERMS)))
    x = target.normalization.normalized(pixels).to(target.device).requires_grad_()
    wanted = torch.from_numpy(labels).to(target.device)
    optimizer = torch.optim.Adam([x], settings.lr, betas=BETAS)
    history, best, lowest = [], x.detach().clone(), float("inf")
    for _ in range(settings.steps):
        terms = loss_terms(x, wanted, target, settings, rng)
        history.append([float(terms[name].detach()) for name in TERMS])
        if history[-1][0] < lowest:
            # A copy: the optimiser writes into the images in place.
            best, lowest = x.detach().clone(), history[-1][0]
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
        with torch.no_grad():
            x.copy_(target.normalization.clamped(x))
    if settings.keep == "best":
        with torch.no_grad():
            last = float(loss_terms(x, wanted, target, settings, rng)["total"])
        x = x.detach() if last < lowest else best
    return target.normalization.pixels(x), np.asarray(history)
