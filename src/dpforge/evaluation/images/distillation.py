"""Training of a classifier on a teacher's logits instead of labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from dpforge.nets.classifiers import Recipe, train_classifier


class Tempered(nn.Module):
    """A network whose logits are divided by a temperature.

    Args:
        net: Maps images to logits.
        temperature: > 0.
    """

    def __init__(self, net: nn.Module, temperature: float) -> None:
        super().__init__()
        self.net, self.temperature = net, temperature

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(n, classes)`` over the temperature."""
        return self.net(x) / self.temperature


def train_softly(
    net: nn.Module,
    pixels: Tensor,
    logits: np.ndarray,
    temperature: float,
    recipe: Recipe,
    *,
    seed: int,
    device: str = "cpu",
) -> None:
    """Train ``net`` in place on T² KL(softmax(logits / T) ‖ softmax(net / T)); see ``train_classifier``.

    The factor T² is in the step size of SGD, whose weight decay is divided by it; Adam does not see it.

    Args:
        pixels: uint8 ``(n, H, W, C)``.
        logits: ``(n, classes)``.
    """
    targets = (torch.from_numpy(np.array(logits)).double() / temperature).softmax(1).float()
    if recipe.optimizer == "sgd":
        factor = temperature**2
        recipe = replace(
            recipe, learning_rate=recipe.learning_rate * factor, weight_decay=recipe.weight_decay / factor
        )
    train_classifier(Tempered(net, temperature), pixels, targets, recipe, seed=seed, device=device)
