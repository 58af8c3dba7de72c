"""Image classifiers for downstream scores: a small convolutional net, and ResNet18 for small images.

They are trained on released or public images only, so batch normalisation is allowed here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpforge.nets.images import to_unit

# Below this side, unpadded convolutions would leave nothing to pool.
SMALL_SIDE = 16
LEAST_SIDE = 4
CROP = 4


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained: fixed, never tuned on what it is tested on; the last epoch counts.

    Args:
        optimizer: ``adam`` or ``sgd`` (momentum .9, cosine schedule to 0).
        learning_rate: Initial step size.
        epochs: Passes over the images, >= 1.
        batch_size: Images a step.
        weight_decay: L2 penalty.
        crop: Shift by up to 4 pixels (an eighth of smaller sides) with zeros moving in.
        flip: Mirror half of the images left to right; wrong for digits and letters.
    """

    optimizer: str
    learning_rate: float
    epochs: int
    batch_size: int = 256
    weight_decay: float = 0.0
    crop: bool = False
    flip: bool = False


def cnn(height: int, width: int, channels: int, classes: int) -> nn.Module:
    """Three 3×3 convolutions (32, 64, 64), two poolings and a layer of 128, for images ``(n, C, H, W)``.

    Convolutions are padded only where a side is below 16 pixels. Sides of at least 4 pixels.
    """
    padding = 1 if min(height, width) < SMALL_SIDE else 0
    sides = [((side - 4 * (1 - padding)) // 2 - 2 * (1 - padding)) // 2 for side in (height, width)]
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=padding), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=padding), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=padding), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.25), nn.Linear(64 * sides[0] * sides[1], 128), nn.ReLU(),
        nn.Linear(128, classes),
    )  # fmt: skip


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with batch normalisation beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut.extend([nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)])

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, inputs, H, W)`` to ``(n, outputs, H/stride, W/stride)``."""
        return functional.relu(self.body(x) + self.shortcut(x))


def resnet18(channels: int, classes: int, width: int = 64) -> nn.Module:
    """ResNet18 with a 3×3 stem of stride 1 and no first pooling, for images ``(n, C, H, W)``.

    Args:
        width: Channels of the first stage; 64 in the paper.

    References:
        He et al., *Deep Residual Learning for Image Recognition* (CVPR 2016).
    """
    layers: list[nn.Module] = [
        nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    ]  # fmt: skip
    before = width
    for stage in range(4):
        after = width * 2**stage
        layers += [ResidualBlock(before, after, 1 if stage == 0 else 2), ResidualBlock(after, after, 1)]
        before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


def new_classifier(
    name: str, shape: tuple[int, int, int], classes: int, *, seed: int, width: int = 64
) -> nn.Module:
    """A ``cnn`` or ``resnet`` (:func:`resnet18`) with weights drawn by ``seed``.

    Args:
        shape: Height, width and channels of the images.
        width: Channels of the first stage of the ResNet.
    """
    height, columns, channels = shape
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return (
            cnn(height, columns, channels, classes) if name == "cnn" else resnet18(channels, classes, width)
        )


def train_classifier(
    net: nn.Module, pixels: Tensor, labels: Tensor, recipe: Recipe, *, seed: int, device: str = "cpu"
) -> None:
    """Train ``net`` in place on uint8 images ``(n, H, W, C)`` and labels ``(n,)``.

    Equal seeds give equal weights on the same machine. The seed drives batches, augmentation and dropout.

    Raises:
        ValueError: Fewer than 2 images, or an unknown optimizer.
    """
    if len(pixels) < 2:
        raise ValueError(f"{len(pixels)} images: expected at least 2 to train a classifier")
    net.to(device, memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    draws = torch.Generator().manual_seed(seed)
    optimizer = _optimizer(net, recipe)
    batches = _batches(len(pixels), recipe.batch_size)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for epoch in range(recipe.epochs):
            order = torch.randperm(len(pixels), generator=draws)
            for i, (start, stop) in enumerate(batches):
                if recipe.optimizer == "sgd":
                    done = (epoch + i / len(batches)) / recipe.epochs
                    optimizer.param_groups[0]["lr"] = (
                        recipe.learning_rate * (1 + math.cos(math.pi * done)) / 2
                    )
                rows = order[start:stop]
                x = _augmented(to_unit(pixels[rows]), recipe, draws).to(device)
                loss = functional.cross_entropy(net(x), labels[rows].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()


@torch.no_grad()
def class_probabilities(
    net: nn.Module, pixels: Tensor, *, batch_size: int = 512, device: str = "cpu"
) -> Tensor:
    """Class probabilities ``(n, classes)`` of uint8 images ``(n, H, W, C)``, on the CPU."""
    net.to(device).eval()
    parts = [net(to_unit(part).to(device)).softmax(dim=1).cpu() for part in pixels.split(batch_size)]
    return torch.cat(parts)


def _optimizer(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "adam":
        return torch.optim.Adam(net.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            net.parameters(), recipe.learning_rate, momentum=0.9, weight_decay=recipe.weight_decay
        )
    raise ValueError(f"optimizer='{recipe.optimizer}': expected adam or sgd")


def _batches(n: int, size: int) -> list[tuple[int, int]]:
    """Ends of the batches of an epoch; a last batch of one image, which has no variance, is left out."""
    found = [(start, min(start + size, n)) for start in range(0, n, size)]
    return found[:-1] if len(found) > 1 and found[-1][1] - found[-1][0] == 1 else found


def _augmented(x: Tensor, recipe: Recipe, draws: torch.Generator) -> Tensor:
    if recipe.flip:
        mirrored = torch.rand(len(x), generator=draws) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    if not recipe.crop:
        return x
    height, width = x.shape[2:]
    pad = max(1, min(CROP, min(height, width) // 8))
    padded = functional.pad(x, (pad,) * 4)
    rows, columns = torch.randint(0, 2 * pad + 1, (2, len(x)), generator=draws)
    shifted = [
        padded[i, :, r : r + height, c : c + width]
        for i, (r, c) in enumerate(zip(rows, columns, strict=True))
    ]
    return torch.stack(shifted)
