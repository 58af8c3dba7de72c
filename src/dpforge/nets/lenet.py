"""A small convolutional net for characters, in the shape of LeNet-5."""

from __future__ import annotations

from torch import Tensor, nn


class LeNet(nn.Module):
    """Two convolutions and three linear layers for grey images of 28 x 28 pixels in [0, 1].

    Args:
        classes: Number of classes.
        channels: Widths of the two convolutions; LeNet-5 has 6 and 16.

    References:
        LeCun et al., *Gradient-Based Learning Applied to Document Recognition* (Proc. IEEE 1998).
    """

    size = 28
    dim = 84

    def __init__(self, classes: int = 10, channels: tuple[int, int] = (16, 32)) -> None:
        super().__init__()
        first, second = channels
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, first, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(first, second, 5), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.dense = nn.Sequential(
            nn.Linear(second * 25, 120), nn.ReLU(), nn.Linear(120, self.dim), nn.ReLU()
        )
        self.classifier = nn.Linear(self.dim, classes)

    def features(self, x: Tensor) -> Tensor:
        """Values of the layer before the last, ``(n, 84)``, for images ``(n, 1, 28, 28)``."""
        return self.dense(self.convolutions(x).flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        """Class scores ``(n, classes)`` for images ``(n, 1, 28, 28)``."""
        return self.classifier(self.features(x))
