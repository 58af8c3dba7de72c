"""MobileNetV2 with the parameter names of the widely used ImageNet weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Expansion, output channels, repeats, stride of the first (Table 2 of the paper).
STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    padding = (kernel - 1) // 2
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """Widen, filter each channel by itself, narrow without activation; a skip when the shape stays.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        stride: Of the middle convolution.
        expansion: How much wider the middle is; 1 leaves the widening convolution out.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        widen = [] if expansion == 1 else [_convolution(inputs, hidden, 1)]
        self.conv = nn.Sequential(
            *widen,
            _convolution(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, inputs, H, W)`` to ``(n, outputs, H / stride, W / stride)``."""
        return x + self.conv(x) if self.skip else self.conv(x)


class MobileNetV2(nn.Module):
    """Classifier of colour images, width 1.0.

    Args:
        classes: Number of classes; the ImageNet weights have 1,000.

    References:
        Sandler et al., *MobileNetV2: Inverted Residuals and Linear Bottlenecks* (CVPR 2018), Table 2.
    """

    dim = 1280

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(3, 32, 3, 2)]
        width = 32
        for expansion, outputs, repeats, stride in STAGES:
            for i in range(repeats):
                layers.append(InvertedResidual(width, outputs, stride if i == 0 else 1, expansion))
                width = outputs
        self.features = nn.Sequential(*layers, _convolution(width, self.dim, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(self.dim, classes))

    def pooled(self, x: Tensor) -> Tensor:
        """Means over the last map, ``(n, 1280)``, for normalised images ``(n, 3, H, W)``."""
        return self.features(x).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Class scores ``(n, classes)`` for normalised images ``(n, 3, H, W)``."""
        return self.classifier(self.pooled(x))


def fused(net: MobileNetV2) -> MobileNetV2:
    """Fold every batch normalisation into the convolution before it: the same function, fewer passes.

    Changes ``net``, which must be in evaluation mode and then has other parameter names.
    """
    for module in net.modules():
        if isinstance(module, nn.Sequential):
            _fuse_pairs(module)
    return net


def _fuse_pairs(layers: nn.Sequential) -> None:
    for i in range(len(layers) - 1):
        convolution, norm = layers[i], layers[i + 1]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            layers[i] = torch.nn.utils.fuse_conv_bn_eval(convolution, norm)
            layers[i + 1] = nn.Identity()
