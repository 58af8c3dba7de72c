"""Training of a public diffusion model with Lightning; reads no private data."""

from __future__ import annotations

import json
import logging
import shutil
import time
import warnings
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint, Timer, WeightAveraging
from torch import Tensor
from torch.utils.data import DataLoader

import dpforge
from dpforge.data import Images
from dpforge.errors import ConfigError, DataError, RunError
from dpforge.pretrain.batches import Batch, Batches
from dpforge.pretrain.network import RECORD, build_scheduler, build_unet, save_folder
from dpforge.pretrain.settings import PretrainSettings

Report = Callable[[int, int, float], None]
WINDOW = 100


def _silent(done: int, total: int, loss: float) -> None:
    """Show nothing."""


class DiffusionModule(L.LightningModule):
    """A class-conditional diffusion model that predicts the noise, or v.

    References:
        Ho et al., *Denoising Diffusion Probabilistic Models* (NeurIPS 2020), equation 14; Salimans and Ho,
        *Progressive Distillation for Fast Sampling of Diffusion Models* (ICLR 2022), appendix D.
    """

    def __init__(self, unet: torch.nn.Module, scheduler: Any, settings: PretrainSettings) -> None:
        super().__init__()
        self.unet = unet
        self.scheduler = scheduler
        self.settings = settings

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        given = batch["clean"], batch["noise"], batch["times"]
        noisy = self.scheduler.add_noise(*given)
        wanted = (
            batch["noise"] if self.settings.prediction == "epsilon" else self.scheduler.get_velocity(*given)
        )
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        predicted = self.unet(noisy, batch["times"], class_labels=batch["labels"]).sample
        return F.mse_loss(predicted.float(), wanted)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.unet.parameters(), lr=self.settings.learning_rate)
        warmup = max(1, self.settings.warmup)
        rise = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rise, "interval": "step"}}


class _Average(WeightAveraging):
    """Exponential moving average with a short memory at the start."""

    def __init__(self, decay: float) -> None:
        def blend(averaged: Tensor, current: Tensor, count: Tensor) -> Tensor:
            weight = min(decay, (1 + int(count)) / (10 + int(count)))
            return averaged + (1 - weight) * (current - averaged)

        super().__init__(avg_fn=blend)


class _Report(L.Callback):
    """Mean loss of the last steps, and where to tell it."""

    def __init__(self, report: Report, total: int) -> None:
        self.losses: deque[float] = deque(maxlen=WINDOW)
        self._report, self._total = report, total

    @property
    def loss(self) -> float:
        """Mean loss of the last 100 steps; not a number before the first."""
        return sum(self.losses) / len(self.losses) if self.losses else float("nan")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(float(outputs["loss"]))
        self._report(trainer.global_step, self._total, self.loss)


class _Limit(Timer):
    """A limit on the time of this call: what earlier calls took is not counted."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Forget the time that a stopped training took."""


def train_diffusion(
    images: Images,
    class_names: tuple[str, ...],
    settings: PretrainSettings,
    folder: Path,
    *,
    device: str = "cpu",
    max_minutes: float | None = None,
    report: Report = _silent,
) -> dict[str, Any]:
    """Train on public images and write a diffusers folder; the same call continues a stopped training.

    Args:
        images: Public images of ``settings.size`` and ``settings.channels``; labels count ``class_names``.
        class_names: Names of the classes, in the order of the labels.
        settings: Network, schedule and optimiser.
        folder: Where the model is written; ``checkpoints/`` in it holds the state until all steps are done.
        device: ``cpu`` or ``cuda``.
        max_minutes: End this call after so many minutes with what is reached; ``None`` trains all steps.
        report: Called after every step with steps done, steps in all, and the mean loss of 100 steps.

    Returns:
        The record of the training, which is also written as ``training.json``; ``minutes`` are those of all
        calls that ended with a model.

    Raises:
        DataError: The images have another shape, or no classes.
        RunError: The folder holds a finished model.
    """
    _check(images, class_names, settings, folder)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    start, earlier = _start(checkpoint, settings), _recorded(folder).get("minutes", 0.0)
    torch.manual_seed(settings.seed)
    unet = build_unet(settings, len(class_names)).to(memory_format=torch.channels_last)
    module = DiffusionModule(unet, build_scheduler(settings), settings)
    meter, begun = _Report(report, settings.steps), time.monotonic()
    trainer = _trainer(settings, folder, device, max_minutes, meter)
    loader = DataLoader(Batches(images, len(class_names), settings, start), batch_size=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        resume = {"ckpt_path": checkpoint, "weights_only": True} if start else {}
        trainer.fit(module, loader, **resume)
    if trainer.interrupted:
        raise KeyboardInterrupt
    minutes = round(earlier + (time.monotonic() - begun) / 60, 2)
    loss = round(meter.loss, 5) if meter.losses else None
    reached = {"steps_done": trainer.global_step, "loss": loss, "minutes": minutes}
    record = _record(settings, images, class_names, unet) | reached
    save_folder(unet.cpu(), module.scheduler, record, folder)
    if trainer.global_step >= settings.steps:
        shutil.rmtree(checkpoint.parent, ignore_errors=True)
    return record


def _check(images: Images, class_names: tuple[str, ...], settings: PretrainSettings, folder: Path) -> None:
    expected = (settings.size, settings.size, settings.channels)
    if images.pixels.shape[1:] != expected:
        raise DataError(f"the images have the shape {images.pixels.shape[1:]}: expected {expected}.")
    if not class_names or not len(images):
        raise DataError(f"{len(images)} images of {len(class_names)} classes: expected at least one of each.")
    done = _recorded(folder).get("steps_done", settings.steps) >= settings.steps
    stopped = (folder / "checkpoints" / "last.ckpt").is_file()
    if (folder / RECORD).exists() and done and not stopped:
        raise RunError(f"{folder} holds a finished model. Delete it, or give another folder with --out.")


def _recorded(folder: Path) -> dict[str, Any]:
    """The record of an earlier call that ran out of time."""
    path = folder / RECORD
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _start(checkpoint: Path, settings: PretrainSettings) -> int:
    """The step to go on from: that of the checkpoint, if there is one of the same network."""
    if not checkpoint.is_file():
        return 0
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    width = content["state_dict"]["unet.conv_in.weight"].shape[0]
    if width != settings.block_channels[0]:
        raise ConfigError(
            f"block_channels={list(settings.block_channels)}: the stopped training in {checkpoint.parent}"
            f" began with {width} channels. Give its settings, or another folder with --out."
        )
    return int(content["global_step"])


def _trainer(
    settings: PretrainSettings, folder: Path, device: str, max_minutes: float | None, meter: _Report
) -> L.Trainer:
    for logger in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    kept = ModelCheckpoint(
        folder / "checkpoints", filename="last", every_n_train_steps=settings.save_every,
        save_top_k=1, enable_version_counter=False, save_on_exception=True,
    )  # fmt: skip
    limits = [_Limit(timedelta(minutes=max_minutes), verbose=False)] if max_minutes else []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return L.Trainer(
            accelerator="gpu" if device.startswith("cuda") else "cpu",
            devices=1,
            precision=settings.precision,  # pyright: ignore[reportArgumentType]
            gradient_clip_val=settings.gradient_clip,
            max_steps=settings.steps,
            callbacks=[_Average(settings.ema), meter, kept, *limits],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )


def _record(
    settings: PretrainSettings, images: Images, class_names: tuple[str, ...], unet: torch.nn.Module
) -> dict[str, Any]:
    return {
        "settings": settings.to_dict(),
        "images": len(images),
        "classes": list(class_names),
        "null_class": len(class_names),
        "parameters": sum(p.numel() for p in unet.parameters()),
        "dpforge": dpforge.__version__,
        "torch": torch.__version__,
    }
