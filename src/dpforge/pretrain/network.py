"""The network and the noise schedule of a public diffusion model, and the folder that keeps them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpforge.errors import RunError
from dpforge.generators.private_evolution.apis.batching import import_optional
from dpforge.generators.private_evolution.apis.unet_folder import WEIGHTS, schedule_arguments
from dpforge.pretrain.settings import PretrainSettings

RECORD = "training.json"


def build_unet(settings: PretrainSettings, classes: int) -> Any:
    """Return an untrained ``UNet2DModel``; class number ``classes`` is "none", for dropped labels."""
    levels = len(settings.block_channels)
    return import_optional("diffusers", "diffusion").UNet2DModel(
        sample_size=settings.size,
        in_channels=settings.channels,
        out_channels=settings.channels,
        layers_per_block=settings.layers_per_block,
        block_out_channels=settings.block_channels,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
        norm_num_groups=settings.norm_groups,
        num_class_embeds=classes + 1,
        add_attention=settings.attention,
    )


def build_scheduler(settings: PretrainSettings) -> Any:
    """Return the noise schedule as a diffusers ``DDPMScheduler``."""
    arguments = schedule_arguments(settings.noise_schedule, settings.diffusion_steps)
    arguments |= {"clip_sample": True, "prediction_type": settings.prediction}
    return import_optional("diffusers", "diffusion").DDPMScheduler(**arguments)


def save_folder(unet: Any, scheduler: Any, record: Mapping[str, Any], folder: Path) -> None:
    """Write a folder that diffusers loads: float16 weights, noise schedule and the record of the training.

    The files are written beside the folder and moved into it, the record last: a folder with a record is
    complete.

    Raises:
        RunError: The folder cannot be written.
    """
    beside = folder / "unfinished"
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        unet.half().save_pretrained(beside)
        scheduler.save_pretrained(beside)
        digest = hashlib.sha256((beside / WEIGHTS).read_bytes()).hexdigest()
        text = json.dumps({**record, "weights_sha256": digest}, indent=2)
        (beside / RECORD).write_text(text + "\n", encoding="utf-8")
        for path in sorted(beside.iterdir(), key=lambda path: path.name == RECORD):
            os.replace(path, folder / path.name)
        beside.rmdir()
    except OSError as error:
        raise RunError(
            f"the model cannot be written to {folder} ({error.strerror}). Free the disk, or give another"
            " --out."
        ) from error
