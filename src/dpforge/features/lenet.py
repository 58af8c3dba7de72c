"""Features of a small net that learned rendered digits, which are public."""

from __future__ import annotations

import hashlib
from importlib import resources

from safetensors.torch import load
from torch import Tensor

from dpforge.data.images import LUMA
from dpforge.errors import DataError
from dpforge.features.network import TensorExtractor, frozen
from dpforge.features.registry import Request
from dpforge.nets.images import resize
from dpforge.nets.lenet import LeNet

NAME = "lenet_public"
FILE = "lenet_public.safetensors"
TRAINED_ON = ("font_digits",)
BATCH = 1024


def build(request: Request) -> TensorExtractor:
    """The 84 values before the last layer, for grey images brought to 28 x 28; expects white ink on black.

    The weights come with the package; ``python -m dpforge.features.train_lenet`` makes them. Raises
    ``DataError`` if they are gone.
    """
    request.refuse(NAME, "weights", "size", "pool")
    content = _content()
    net = LeNet()
    net.load_state_dict({name: tensor.float() for name, tensor in load(content).items()}, strict=True)
    frozen(net, request.device)

    def embed(x: Tensor) -> Tensor:
        return net.features(resize(_grey(x), (LeNet.size, LeNet.size)))

    return TensorExtractor(
        name=NAME,
        dim=LeNet.dim,
        request=request,
        embed=embed,
        layer="dense.3",
        preprocessing={"size": [LeNet.size, LeNet.size], "range": [0, 1], "network_color": "luma"},
        batch_size=BATCH,
        weights_sha256=hashlib.sha256(content).hexdigest(),
        trained_on=TRAINED_ON,
        head=net.classifier,
    )


def _content() -> bytes:
    try:
        return resources.files("dpforge.features").joinpath("weights", FILE).read_bytes()
    except OSError as error:
        raise DataError(f"the file {FILE} of this package is missing; install dpforge again") from error


def _grey(x: Tensor) -> Tensor:
    if x.shape[1] == 1:
        return x
    return (x * x.new_tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True)
