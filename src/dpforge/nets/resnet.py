"""Image classifiers whose normalisation and activation are chosen: ResNet18, ResNet9 and a small network.

With group normalisation every layer has a per-example gradient; with batch normalisation they are for images
that are released or public.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

NormLayer = Callable[[int], nn.Module]
ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


def group_norm(groups: int) -> NormLayer:
    """Return a maker of group normalisation with ``min(groups, channels)`` groups."""
    return lambda channels: nn.GroupNorm(min(groups, channels), channels)


def batch_norm() -> NormLayer:
    """Return a maker of batch normalisation."""
    return nn.BatchNorm2d


@dataclass(frozen=True)
class Layers:
    """What the layers of a network are made of.

    Args:
        norm: ``channels -> module``.
        activation: ``() -> module``.
    """

    norm: NormLayer
    activation: Callable[[], nn.Module] = nn.ReLU

    def convolution(self, inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
        """A 3×3 convolution, its normalisation and its activation."""
        conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        return [conv, self.norm(outputs), self.activation()]

    def head(self, inputs: int, classes: int) -> list[nn.Module]:
        """Mean over space and a linear layer."""
        return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut, which is a 1×1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, layers: Layers) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *layers.convolution(inputs, outputs, stride), *layers.convolution(outputs, outputs)[:2]
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut.extend([conv, layers.norm(outputs)])
        self.activation = layers.activation()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, inputs, H, W)`` to ``(n, outputs, H/stride, W/stride)``."""
        return self.activation(self.body(x) + self.shortcut(x))


def resnet18(channels: int, classes: int, layers: Layers, width: int = 64) -> nn.Module:
    """ResNet18 for small images: a 3×3 stem of stride 1, four stages of two blocks, no first pooling.

    20 normalisation layers; with 3 channels, 10 classes and width 64 it has 11,173,962 parameters.

    References:
        He et al., *Deep Residual Learning for Image Recognition* (CVPR 2016).
    """
    found, before = layers.convolution(channels, width), width
    for stage in range(4):
        after = width * 2**stage
        found += [
            ResidualBlock(before, after, 1 if stage == 0 else 2, layers),
            ResidualBlock(after, after, 1, layers),
        ]
        before = after
    return nn.Sequential(*found, *layers.head(before, classes))


def resnet9(channels: int, classes: int, layers: Layers, width: int = 64) -> nn.Module:
    """ResNet9: convolutions of 1, 2, 4 and 8 widths with three poolings, and two blocks without projection.

    For images of 8×8 pixels or more.
    """
    return nn.Sequential(
        *layers.convolution(channels, width),
        *layers.convolution(width, 2 * width), nn.MaxPool2d(2),
        ResidualBlock(2 * width, 2 * width, 1, layers),
        *layers.convolution(2 * width, 4 * width), nn.MaxPool2d(2),
        *layers.convolution(4 * width, 8 * width), nn.MaxPool2d(2),
        ResidualBlock(8 * width, 8 * width, 1, layers),
        *layers.head(8 * width, classes),
    )  # fmt: skip


def small_cnn(channels: int, classes: int, layers: Layers, width: int = 16) -> nn.Module:
    """Four 3×3 convolutions of 1, 2, 4 and 4 widths with strides 1, 2, 2, 2, and a mean over space.

    With 1 channel, 10 classes and width 16 it has 61,050 parameters and 176 normalised channels.
    """
    widths, strides = (channels, width, 2 * width, 4 * width, 4 * width), (1, 2, 2, 2)
    found: list[nn.Module] = []
    for before, after, stride in zip(widths, widths[1:], strides, strict=False):
        found += layers.convolution(before, after, stride)
    return nn.Sequential(*found, *layers.head(4 * width, classes))


BUILDERS: Mapping[str, Callable[..., nn.Module]] = {
    "resnet18": resnet18,
    "resnet9": resnet9,
    "small_cnn": small_cnn,
}
WIDTHS = {"resnet18": 64, "resnet9": 64, "small_cnn": 16}
GROUPS = {"resnet18": 32, "resnet9": 32, "small_cnn": 8}


def classifier(
    arch: str,
    channels: int,
    classes: int,
    *,
    seed: int,
    width: int | None = None,
    groups: int | None = None,
    activation: str = "relu",
    batch: bool = False,
    pool: int = 1,
) -> nn.Module:
    """Return a network of :data:`BUILDERS` with weights drawn by ``seed``.

    Args:
        width: Channels of the first layer; None for those of :data:`WIDTHS`.
        groups: Groups of the group normalisation; None for those of :data:`GROUPS`.
        activation: ``relu`` or ``tanh``.
        batch: Batch normalisation instead: never for private images.
        pool: Average squares of so many pixels a side first; 1 for none.
    """
    norm = batch_norm() if batch else group_norm(groups or GROUPS[arch])
    layers = Layers(norm, ACTIVATIONS[activation])
    build = partial(BUILDERS[arch], channels, classes, layers, width or WIDTHS[arch])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build()
    return net if pool == 1 else nn.Sequential(nn.AvgPool2d(pool, ceil_mode=True), net)
