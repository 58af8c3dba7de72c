"""Generators and critics of generative adversarial networks: categorical tables and small images.

Generators are called as ``generator(noise)`` or ``generator(noise, labels)``, critics as ``critic(x)`` or
``critic(x, labels)``; critics have one unbounded output and no layer that mixes examples.

References:
    Arjovsky, Chintala and Bottou, *Wasserstein GAN* (2017); Jang, Gu and Poole, *Categorical
    Reparameterization with Gumbel-Softmax* (ICLR 2017); Miyato and Koyama, *cGANs with Projection
    Discriminator* (ICLR 2018).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

LEAK = 0.2


class MultiCategoryGumbelSoftmax(nn.Module):
    """One linear head a categorical variable, each row's heads exactly one-hot, with soft gradients.

    Args:
        input_dim: Width of the input.
        output_dims: Number of categories of each variable.
        tau: Temperature of the relaxation, > 0.
    """

    def __init__(self, input_dim: int, output_dims: Sequence[int], tau: float = 2 / 3) -> None:
        super().__init__()
        self.input_dim, self.output_dims, self.tau = input_dim, tuple(output_dims), tau
        self.heads = nn.ModuleList(nn.Linear(input_dim, size) for size in self.output_dims)

    def logits(self, x: Tensor) -> list[Tensor]:
        """Return the log-probabilities of each variable, shapes ``(B, V_j)``."""
        return [functional.log_softmax(head(x), dim=-1) for head in self.heads]

    def forward(self, x: Tensor) -> Tensor:
        """Draw one-hot rows ``(B, sum of V_j)`` from torch's generator of the input's device."""
        drawn = [functional.gumbel_softmax(logit, self.tau, hard=True) for logit in self.logits(x)]
        return torch.cat(drawn, dim=-1)


def categorical_mlp(
    noise_dim: int, hidden: Sequence[int], output_dims: Sequence[int], tau: float = 2 / 3
) -> tuple[nn.Sequential, nn.Sequential]:
    """Return generator and critic of a categorical table: one-hot variables, layers of widths ``hidden``."""
    widths = [noise_dim, *hidden]
    body = [
        layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())
    ]  # fmt: skip
    generator = nn.Sequential(*body, MultiCategoryGumbelSoftmax(widths[-1], output_dims, tau))
    widths = [sum(output_dims), *hidden]
    body = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.LeakyReLU())]
    return generator, nn.Sequential(*body, nn.Linear(widths[-1], 1))


class ConvGenerator(nn.Module):
    """Transposed convolutions from noise to square images in [-1, 1].

    Args:
        noise_dim: Width of the noise.
        size: Height and width, ``start`` times a power of two.
        start: Height and width of the first feature map.
        channels: 1 or 3.
        width: Channels of the last feature map; those before it have twice as many each.
        classes: Number of classes, one-hot beside the noise; 0 for none.
    """

    def __init__(
        self, noise_dim: int, size: int, start: int, channels: int, width: int, classes: int = 0
    ) -> None:
        super().__init__()
        self.noise_dim, self.size, self.start = noise_dim, size, start
        self.channels, self.width, self.classes = channels, width, classes
        steps = doublings(size, start)
        maps = [min(width * 2**power, 512) for power in reversed(range(steps))]
        self.input = nn.Linear(noise_dim + classes, maps[0] * start**2)
        layers: list[nn.Module] = [nn.ReLU()]
        for before, after in itertools.pairwise(maps):
            layers += [nn.ConvTranspose2d(before, after, 4, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
        layers += [nn.ConvTranspose2d(maps[-1], channels, 4, 2, 1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return images ``(B, channels, size, size)``."""
        if self.classes and labels is not None:
            noise = torch.cat([noise, functional.one_hot(labels, self.classes).to(noise.dtype)], 1)
        x = self.input(noise)
        return self.layers(x.view(len(x), -1, self.start, self.start))


class ProjectionHead(nn.Module):
    """A linear score, plus the inner product of the features with an embedding of the class.

    Args:
        features: Width of the input.
        classes: Number of classes; 0 for the linear score alone.
    """

    def __init__(self, features: int, classes: int = 0) -> None:
        super().__init__()
        self.score = nn.Linear(features, 1)
        self.embedding = nn.Embedding(classes, features) if classes else None
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(features))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return scores ``(B,)``."""
        score = self.score(x).squeeze(1)
        if self.embedding is None or labels is None:
            return score
        return score + (self.embedding(labels) * x).sum(1)


class ConvCritic(nn.Module):
    """Strided convolutions, a leaky ReLU after each, and a linear (projection) head.

    Args:
        size: Height and width of the images.
        start: Height and width of the last feature map.
        channels: 1 or 3.
        width: Channels of the first feature map; those after it have twice as many each.
        classes: Number of classes; 0 for none.
    """

    def __init__(self, size: int, start: int, channels: int, width: int, classes: int = 0) -> None:
        super().__init__()
        maps = [channels, *(min(width * 2**power, 512) for power in range(doublings(size, start)))]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(maps):
            layers += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(LEAK)]
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.head = ProjectionHead(maps[-1] * start**2, classes)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return scores ``(B,)`` of images ``(B, channels, size, size)``."""
        return self.head(self.layers(x), labels)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with group norm and a shortcut.

    Args:
        before, after: Channels in and out.
        stride: Of the first convolution and of the shortcut.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.GroupNorm(16, after), nn.GroupNorm(16, after)])
        same = stride == 1 and before == after
        self.shortcut = nn.Identity() if same else nn.Conv2d(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return feature maps ``(B, after, H / stride, W / stride)``."""
        y = functional.leaky_relu(self.norms[0](self.first(x)), LEAK)
        return functional.leaky_relu(self.norms[1](self.second(y)) + self.shortcut(x), LEAK)


class ResNetCritic(nn.Module):
    """ResNet-18 with group norm instead of batch norm, without its first pooling.

    Args:
        size: Height and width of the images; above 64 the first convolution has stride 2.
        channels: 1 or 3.
        classes: Number of classes; 0 for none.

    References:
        He et al., *Deep Residual Learning for Image Recognition* (CVPR 2016).
    """

    def __init__(self, size: int, channels: int, classes: int = 0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 64, 3, 2 if size > 64 else 1, 1)
        widths = [64, 64, 128, 256, 512]
        blocks: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            blocks += [ResidualBlock(before, after, 1 if after == 64 else 2), ResidualBlock(after, after, 1)]
        self.blocks = nn.Sequential(*blocks)
        self.head = ProjectionHead(512, classes)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return scores ``(B,)`` of images ``(B, channels, size, size)``."""
        features = self.blocks(functional.leaky_relu(self.stem(x), LEAK))
        return self.head(features.mean((2, 3)), labels)


def doublings(size: int, start: int) -> int:
    """Return how often ``start`` doubles to become ``size``."""
    return round(math.log2(size / start))


# Height and width of a supported image, and of its smallest feature map.
SIZES = {8: 2, 16: 4, 28: 7, 32: 4, 64: 4, 128: 4, 256: 4}
# Small enough for two CPU cores; a GPU affords four times as many.
WIDTHS = {8: 32, 16: 32, 28: 16, 32: 32, 64: 32, 128: 16, 256: 16}
BUILDERS = {"conv8": (8,), "conv28": (28,), "conv32": (32,), "conv_pow2": (32, 64, 128, 256)}


def supported_size(network: str, height: int, width: int) -> int | None:
    """Return the least size of a builder (``auto``: of all) that holds an image, or None."""
    sizes = BUILDERS.get(network, tuple(SIZES))
    return next((size for size in sizes if size >= max(height, width)), None)


def conv_generator(
    size: int, channels: int, noise_dim: int, classes: int = 0, width: int = 0
) -> ConvGenerator:
    """Return the generator of a supported size; ``width`` 0 takes the size's own."""
    return ConvGenerator(noise_dim, size, SIZES[size], channels, width or WIDTHS[size], classes)


def conv_critic(size: int, channels: int, classes: int = 0, width: int = 0) -> ConvCritic:
    """Return the critic of a supported size; ``width`` 0 takes the size's own."""
    return ConvCritic(size, SIZES[size], channels, width or WIDTHS[size], classes)


def resnet18_gn(size: int, channels: int, classes: int = 0) -> ResNetCritic:
    """Return the critic for larger images."""
    return ResNetCritic(size, channels, classes)


def pad(x: Tensor, size: int) -> Tensor:
    """Centre images ``(n, C, h, w)`` in ``size`` × ``size`` pixels, the rest black (-1)."""
    top, left = (size - x.shape[2]) // 2, (size - x.shape[3]) // 2
    bottom, right = size - x.shape[2] - top, size - x.shape[3] - left
    return functional.pad(x, (left, right, top, bottom), value=-1.0)


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """Undo :func:`pad`."""
    top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
    return x[:, :, top : top + height, left : left + width]
