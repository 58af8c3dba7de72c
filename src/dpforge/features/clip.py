"""Features of CLIP ViT-B/32, from a local folder of the ``transformers`` library."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from dpforge.errors import DataError
from dpforge.features.network import TensorExtractor, frozen, in_color, normalised
from dpforge.features.registry import Request
from dpforge.nets.images import resize

NAME = "clip_vit_b_32"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
BATCH = 64
TRAINED_ON = ("clip_web_images",)
_HOW = (
    "Get the model 'openai/clip-vit-base-patch32' where the network allows it (files config.json and"
    " model.safetensors) and name its folder as the extractor's weights."
)


def build(request: Request) -> TensorExtractor:
    """The image embedding (512 values, not normalised to length 1).

    Images are brought to 224 pixels at the shorter side by bicubic resizing, cut at the middle and
    normalised, as for the published model. Nothing is downloaded and no file is executed.

    References:
        Radford et al., *Learning Transferable Visual Models From Natural Language Supervision* (ICML 2021).
    """
    request.refuse(NAME, "pool", "size")
    folder = _folder(request)
    net = _model(folder)
    side = int(net.config.image_size)
    frozen(net, request.device)

    def embed(x: Tensor) -> Tensor:
        return net(pixel_values=normalised(centred(in_color(x), side), MEAN, STD)).image_embeds

    return TensorExtractor(
        name=NAME,
        dim=int(net.config.projection_dim),
        request=request,
        embed=embed,
        layer="image_embeds",
        preprocessing={
            "size": [side, side], "crop": "centre", "network_resize_filter": "bicubic", "range": [0, 1],
            "mean": list(MEAN), "std": list(STD),
        },
        batch_size=BATCH,
        weights_sha256=_digest(folder / "model.safetensors"),
        trained_on=TRAINED_ON,
    )  # fmt: skip


def centred(x: Tensor, side: int) -> Tensor:
    """Bring the shorter side of ``(b, C, H, W)`` to ``side`` pixels and cut the middle square out."""
    height, width = x.shape[2:]
    scale = side / min(height, width)
    size = (max(side, int(height * scale)), max(side, int(width * scale)))
    x = resize(x, size, "bicubic").clamp(0, 1)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return x[:, :, top : top + side, left : left + side]


def _folder(request: Request) -> Path:
    if request.weights is None:
        raise DataError(f"the extractor '{NAME}' has no weights of its own. {_HOW}")
    folder = Path(request.weights)
    missing = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
    if missing:
        raise DataError(f"weights='{request.weights}' lacks {' and '.join(missing)}. {_HOW}")
    return folder


def _model(folder: Path) -> Any:
    try:
        from transformers import CLIPVisionModelWithProjection
    except ImportError as error:
        raise DataError(
            f"the extractor '{NAME}' needs the library 'transformers': pip install transformers"
        ) from error
    try:
        return CLIPVisionModelWithProjection.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(
            f"the folder '{folder.name}' holds no CLIP model ({type(error).__name__}). {_HOW}"
        ) from error


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
