"""Features of the Inception network of 2015: the only ones whose Fréchet distance may be called FID."""

from __future__ import annotations

from torch import Tensor

from dpforge.data.filespec import FileSpec, Mirror
from dpforge.features.network import (
    IMAGENET,
    TensorExtractor,
    file_of_weights,
    frozen,
    in_color,
    read_weights,
)  # fmt: skip
from dpforge.features.registry import Request
from dpforge.nets.images import resize
from dpforge.nets.inception import FIDInception

TRAINED_ON = IMAGENET
NAME = "inception_v3"
WEIGHTS = FileSpec(
    name="pt_inception-2015-12-05-6726825d.pth",
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    aliases=("weights-inception-2015-12-05-6726825d.pth",),
    urls=(
        Mirror(
            "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
            "pt_inception-2015-12-05-6726825d.pth"
        ),
    ),
    max_bytes=2**27,
)
BATCH = 32


def build(request: Request) -> TensorExtractor:
    """The 2,048 means of ``pool3``, for images brought to 299 x 299 by bicubic resizing of floats ("clean").

    References:
        Parmar et al., *On Aliased Resizing and Surprising Subtleties in GAN Evaluation* (CVPR 2022).
    """
    request.refuse(NAME, "pool", "size")
    net = FIDInception()
    read_weights(file_of_weights(WEIGHTS, request.weights), net)
    return around(net, request)


def around(net: FIDInception, request: Request) -> TensorExtractor:
    """The extractor of a network whose weights are in place."""
    frozen(net, request.device)
    side = (FIDInception.size, FIDInception.size)

    def embed(x: Tensor) -> Tensor:
        return net.pooled(resize(in_color(x), side, "bicubic").mul(2.0).sub(1.0))

    return TensorExtractor(
        name=NAME,
        dim=FIDInception.dim,
        request=request,
        embed=embed,
        layer="pool3",
        preprocessing={"size": list(side), "network_resize_filter": "bicubic", "range": [-1, 1]},
        batch_size=BATCH,
        weights_sha256=WEIGHTS.sha256,
        trained_on=TRAINED_ON,
        head=net.fc,
    )
