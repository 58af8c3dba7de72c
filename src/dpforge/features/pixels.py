"""Pixels themselves as features."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from dpforge.features.network import TensorExtractor
from dpforge.features.registry import Request

POOLED_FROM = 16
BATCH = 4096


def build(request: Request) -> TensorExtractor:
    """Flattened values in [0, 1]; from 16 pixels on, means of 2 x 2 squares unless ``pool`` says otherwise.

    Squares at the lower and right edge that stick out are averaged over the pixels inside.
    """
    request.refuse("pixels", "weights", "size")
    pool = request.pool or (2 if min(request.height, request.width) >= POOLED_FROM else 1)
    rows, columns = -(-request.height // pool), -(-request.width // pool)

    def embed(x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, pool, ceil_mode=True).flatten(1) if pool > 1 else x.flatten(1)

    return TensorExtractor(
        name="pixels",
        dim=rows * columns * request.channels,
        request=request,
        embed=embed,
        layer="input",
        preprocessing={"pool": pool, "size": [rows, columns], "range": [0, 1]},
        batch_size=BATCH,
    )
