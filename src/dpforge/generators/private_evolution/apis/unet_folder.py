"""Folders of diffusers that hold a ``UNet2DModel`` and its noise schedule."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from dpforge.errors import DataError
from dpforge.generators.private_evolution.apis.batching import import_optional

WEIGHTS = "diffusion_pytorch_model.safetensors"
SIDECAR = "dpforge.json"
CHUNK = 1 << 20
NOISE_SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}


def schedule_arguments(noise_schedule: str, steps: int) -> dict[str, Any]:
    """The arguments of diffusers' schedulers for a ``linear`` or ``cosine`` schedule of ``steps`` steps.

    The linear schedule keeps its total noise whatever its length.

    References:
        Nichol and Dhariwal, *Improved Denoising Diffusion Probabilistic Models* (ICML 2021), section 3.2.
    """
    return {
        "num_train_timesteps": steps,
        "beta_schedule": NOISE_SCHEDULES[noise_schedule],
        "beta_start": 0.1 / steps,
        "beta_end": min(0.999, 20 / steps),
    }


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Read one of the folder's JSON files; empty if it is not there or damaged."""
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def unet_folder(checkpoint: str) -> Path:
    """The folder of the network: the one given, or ``unet/`` in the folder of a pipeline."""
    folder = Path(checkpoint).expanduser()
    return folder / "unet" if (folder / "unet" / "config.json").is_file() else folder


def schedule_config(checkpoint: str) -> dict[str, Any]:
    """The noise schedule stored beside the network, or in ``scheduler/``; empty if there is none."""
    folder = Path(checkpoint).expanduser()
    found = read_json(folder, "scheduler_config.json")
    return found or read_json(folder / "scheduler", "scheduler_config.json")


def weights_digest(checkpoint: str) -> str:
    """Sha256 of the weights file.

    Raises:
        DataError: The folder has no weights as safetensors.
    """
    path = unet_folder(checkpoint) / WEIGHTS
    try:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(CHUNK):
                digest.update(block)
        return digest.hexdigest()
    except OSError as error:
        raise missing(checkpoint) from error


def missing(checkpoint: str) -> DataError:
    """The error for a folder that holds no network."""
    return DataError(
        f"model.api.checkpoint={checkpoint}: expected a folder of diffusers with config.json and {WEIGHTS}."
        " Make one with 'dpforge-pretrain', or from an OpenAI checkpoint with 'dpforge-convert'."
    )


def load_unet(checkpoint: str, device: str, dtype: torch.dtype) -> Any:
    """Load a ``UNet2DModel`` for sampling; the number of attention heads is as the folder states it.

    Raises:
        ConfigError: diffusers is not installed.
        DataError: No such folder, or its files do not fit together.
    """
    diffusers = import_optional("diffusers", "diffusion")
    folder = unet_folder(checkpoint)
    if not (folder / "config.json").is_file() or not (folder / WEIGHTS).is_file():
        raise missing(checkpoint)
    try:
        unet = diffusers.UNet2DModel.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
        )
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        raise DataError(
            f"model.api.checkpoint={checkpoint} cannot be loaded ({type(error).__name__}): its files are"
            " damaged or are not a UNet2DModel. Make the folder again."
        ) from error
    if heads := read_json(folder, SIDECAR).get("attention_heads"):
        set_heads(unet, int(heads))
    return unet.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)


def set_heads(unet: torch.nn.Module, heads: int) -> None:
    """Give every attention module the same number of heads; diffusers itself fixes their width instead.

    Raises:
        DataError: The channels of a module are not a multiple of ``heads``.
    """
    modules: list[tuple[str, Any]] = list(unet.named_modules())
    for name, module in modules:
        if not (hasattr(module, "heads") and hasattr(module, "to_q")):
            continue
        width = module.to_q.out_features
        if heads < 1 or width % heads:
            raise DataError(f"{heads} attention heads do not divide the {width} channels of {name}.")
        module.heads = heads
        module.scale = (width // heads) ** -0.5
