"""Writing a converted checkpoint, with a forward pass as its proof."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import dpforge
from dpforge.errors import ConfigError, DataError, RunError
from dpforge.generators.private_evolution.apis.batching import import_optional
from dpforge.generators.private_evolution.apis.unet_folder import (
    NOISE_SCHEDULES,
    SIDECAR,
    schedule_arguments,
    set_heads,
)
from dpforge.pretrain.openai_layout import Layout, State, converted, layout_of, original_forward, unet_config

TOLERANCE = 1e-3
CHUNK = 1 << 20


@dataclass(frozen=True)
class Conversion:
    """What a checkpoint does not tell about itself.

    Args:
        heads: Attention heads of every attention block.
        image_size: Height and width the network was trained with.
        noise_schedule: ``cosine`` or ``linear``.
        diffusion_steps: Length of the noise schedule.
        rescale_timesteps: Whether the network was given times scaled to 0 … 1000.
        half: Write float16 weights.

    Raises:
        ConfigError: With every mistake among the values.
    """

    heads: int = 4
    image_size: int = 64
    noise_schedule: str = "cosine"
    diffusion_steps: int = 4000
    rescale_timesteps: bool = False
    half: bool = False

    def __post_init__(self) -> None:
        mistakes = [
            f"{key}={getattr(self, key)!r}: expected a whole number >= 1."
            for key in ("heads", "image_size", "diffusion_steps")
            if getattr(self, key) < 1
        ]
        if self.noise_schedule not in NOISE_SCHEDULES:
            mistakes.append(f"noise_schedule={self.noise_schedule!r}: expected cosine or linear.")
        if mistakes:
            raise ConfigError(mistakes)


def convert(checkpoint: Path, out: Path, settings: Conversion) -> dict[str, Any]:
    """Write ``checkpoint`` as a diffusers folder ``out``.

    Returns:
        The record that is also written as ``dpforge.json``.

    Raises:
        DataError: The file is no checkpoint of improved diffusion.
        RunError: ``out`` exists, cannot be written, or computes something else than the checkpoint.
    """
    if out.exists():
        raise RunError(f"{out} exists. Give a folder that does not.")
    state = read_checkpoint(checkpoint)
    layout = layout_of(state)
    unet = build(state, layout, settings)
    difference = compare(state, layout, unet, settings)
    if not difference < TOLERANCE:
        raise RunError(
            f"the converted network differs from the checkpoint by {difference:.2g} of the output's scale;"
            f" expected less than {TOLERANCE:g}. Check --heads={settings.heads}."
        )
    record = asdict(settings) | {
        "attention_heads": settings.heads,
        "checkpoint_sha256": _sha256(checkpoint),
        "parameters": sum(p.numel() for p in unet.parameters()),
        "largest_difference": difference,
        "dpforge": dpforge.__version__,
    }
    _write(unet, record, out, settings)
    return record


def read_checkpoint(path: Path) -> State:
    """Load a file of tensors; nothing in it is executed.

    Raises:
        DataError: No such file, or more than tensors in it.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} cannot be read as a file of tensors ({type(error).__name__}). Expected a .pt file of"
            " improved diffusion."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise DataError(f"{path} holds more than named tensors. Expected a .pt file of improved diffusion.")
    return {str(name): tensor.float() for name, tensor in state.items()}


def build(state: State, layout: Layout, settings: Conversion) -> Any:
    """Return the diffusers network with the tensors of the checkpoint.

    Raises:
        ConfigError: diffusers is not installed, or ``heads`` does not divide a width.
        DataError: The tensors do not fill the network.
    """
    odd = [width for width in layout.widths if width % settings.heads]
    if odd:
        raise ConfigError(f"heads={settings.heads}: expected a divisor of the widths {odd}.")
    unet = import_optional("diffusers", "diffusion").UNet2DModel(**unet_config(layout, settings.image_size))
    try:
        unet.load_state_dict(converted(state, layout, settings.heads))
    except RuntimeError as error:
        raise DataError(f"the checkpoint does not fill a UNet2DModel: {str(error)[:300]}") from error
    set_heads(unet, settings.heads)
    return unet.eval().requires_grad_(False)


def compare(state: State, layout: Layout, unet: Any, settings: Conversion) -> float:
    """The largest difference of one forward pass, relative to the output's standard deviation."""
    generator = torch.Generator().manual_seed(0)
    side = settings.image_size
    x = torch.randn(2, layout.inputs, side, side, generator=generator)
    times = torch.tensor([3, settings.diffusion_steps - 1])
    labels = torch.tensor([0, layout.classes - 1]) if layout.classes else None
    with torch.inference_mode():
        expected = original_forward(state, x, times, labels, settings.heads)
        found = unet(x, times, class_labels=labels).sample
    return float((found - expected).abs().max() / expected.std())


def _write(unet: Any, record: dict[str, Any], out: Path, settings: Conversion) -> None:
    arguments = schedule_arguments(settings.noise_schedule, settings.diffusion_steps)
    scheduler = import_optional("diffusers", "diffusion").DDPMScheduler(**arguments)
    beside = out.with_name(f"{out.name}.unfinished")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        (unet.half() if settings.half else unet).save_pretrained(beside)
        scheduler.save_pretrained(beside)
        (beside / SIDECAR).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        os.replace(beside, out)
    except OSError as error:
        raise RunError(f"{out} cannot be written ({error.strerror}). Free the disk and try again.") from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()
