"""Pixel diffusion models: any folder with a diffusers ``UNet2DModel``, sampled with DDIM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from dpforge.data.images import with_channels
from dpforge.errors import ConfigError, DataError, did_you_mean
from dpforge.generators.private_evolution.apis.batching import (
    PRECISIONS,
    image_seeds,
    import_optional,
    in_batches,
    noise_of,
    torch_dtype,
)
from dpforge.generators.private_evolution.apis.diffusion_sampling import Sampler, kept_steps
from dpforge.generators.private_evolution.apis.unet_folder import (
    NOISE_SCHEDULES,
    SIDECAR,
    load_unet,
    missing,
    read_json,
    schedule_arguments,
    schedule_config,
    unet_folder,
    weights_digest,
)
from dpforge.nets.images import to_pixels, to_unit

DIFFUSION_STEPS = 1000
CLEANEST_SHARE = 0.4


@dataclass(frozen=True)
class ImprovedDiffusion:
    """A public pixel diffusion model; an image keeps the class of the generator it was drawn with.

    The classes of the generator have nothing to do with those of the private data: a class is drawn evenly
    for each image, and a variation is made with the class of its ancestor. The degree of a variation is a
    whole number s in 0 … S − 1, where S is the number of kept steps: the image is noised as at the kept step
    S − 1 − s and denoised again, so 0 changes most.

    Args:
        checkpoint: Folder with ``config.json`` and safetensors, as ``dpforge-pretrain`` and
            ``dpforge-convert`` write it, or the folder of a diffusers pipeline with ``unet/``.
        timestep_respacing: Kept steps: a number, ``ddimN``, numbers of sections, or empty for all.
        batch_size: Images made at once; halved when the accelerator's memory is full.
        model_image_size: Height and width in pixels; ``None`` is what the network was trained with.
        diffusion_steps, noise_schedule: The schedule; ``None`` is the one stored with the network.
        rescale_timesteps: Whether the network was given times scaled to 0 … 1000; ``None`` as stored.
        clip_denoised: Whether predicted images are cut to the range of pixels at every step.
        guidance_scale: Weight of classifier-free guidance; 1 is none. Above 1 the network must have a class
            "none", as those of ``dpforge-pretrain`` have.
        precision: ``auto`` (float16 on an accelerator), ``float32``, ``float16`` or ``bfloat16``.

    Raises:
        ConfigError: With every mistake among the values.

    References:
        Nichol and Dhariwal, *Improved Denoising Diffusion Probabilistic Models* (ICML 2021); Lin et al.,
        *Differentially Private Synthetic Data via Foundation Model APIs 1: Images* (ICLR 2024).
    """

    name: ClassVar[str] = "improved_diffusion"
    class_aware: ClassVar[bool] = False

    checkpoint: str
    timestep_respacing: str | int = "100"
    batch_size: int = 100
    model_image_size: int | None = None
    diffusion_steps: int | None = None
    noise_schedule: str | None = None
    rescale_timesteps: bool | None = None
    clip_denoised: bool = True
    guidance_scale: float = 1.0
    precision: str = "auto"
    _loaded: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        mistakes = [
            f"model.api.{key}={getattr(self, key)!r}: expected a whole number >= 1."
            for key in ("batch_size", "model_image_size", "diffusion_steps")
            if not _is_count(getattr(self, key)) and (key == "batch_size" or getattr(self, key) is not None)
        ]
        for key, known in (("noise_schedule", tuple(NOISE_SCHEDULES)), ("precision", PRECISIONS)):
            value = getattr(self, key)
            if value is not None and value not in known:
                mistakes.append(
                    f"model.api.{key}={value!r}: expected {' or '.join(known)}."
                    + did_you_mean(str(value), known)
                )
        if not self.guidance_scale >= 0:
            mistakes.append(f"model.api.guidance_scale={self.guidance_scale!r}: expected a number >= 0.")
        if not self.checkpoint:
            mistakes.append("model.api.checkpoint is empty: give the folder of a diffusion model.")
        if not mistakes:
            mistakes += self._respacing_mistakes()
        if mistakes:
            raise ConfigError(mistakes)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images; raises ``DataError`` when the folder is missing."""
        size = self.model_image_size or self._unet_config().get("sample_size")
        if size is None:
            raise missing(self.checkpoint)
        return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))

    @property
    def channels(self) -> int:
        """1 for a network of grey images, else 3."""
        return int(self._unet_config().get("in_channels", 3))

    @property
    def max_batch(self) -> int:
        return self.batch_size

    def public_images(self) -> dict[str, Any]:
        """Return what the network was trained on, as its folder states it, by setting."""
        trained = self._record().get("settings", {}).get("dataset")
        return {} if trained is None else {"model.api.checkpoint (training.json)": trained}

    def degree_mistakes(self, degrees: Sequence[float]) -> list[str]:
        steps = len(self._kept())
        return [
            f"model.variation_degree_schedule has {degree!r}: expected a whole number from 0 (most change) to"
            f" {steps - 1}, as timestep_respacing={self.timestep_respacing!r} keeps {steps} steps."
            for degree in degrees
            if degree != int(degree) or not 0 <= degree < steps
        ]

    def default_degrees(self, iterations: int) -> list[float]:
        last = CLEANEST_SHARE * len(self._kept())
        return [float(int(d)) for d in np.linspace(0, min(last, len(self._kept()) - 1), iterations + 1)]

    def prepare(self, class_names: Sequence[str], device: str, folder: Path | None = None) -> None:
        if self._loaded.get("device") == device:
            return
        digest = weights_digest(self.checkpoint)
        unet = load_unet(self.checkpoint, device, torch_dtype(self.precision, device))
        null = self._record().get("null_class")
        if self.guidance_scale != 1 and null is None:
            raise ConfigError(
                f"model.api.guidance_scale={self.guidance_scale}: this network has no class 'none'. Use"
                " guidance_scale=1, or a network of dpforge-pretrain."
            )
        self._loaded.update(device=device, digest=digest, sampler=self._sampler(unet, null))

    def info_mistake(self, info: np.ndarray) -> str:
        """Return what is wrong with side information that this did not make; empty for nothing."""
        most = max(1, self._generator_classes())
        if info.dtype.kind not in "iu" or info.ndim != 1:
            return f"is of type {info.dtype} {info.shape}; expected whole numbers, one an image"
        if 0 <= info.min(initial=0) <= info.max(initial=0) < most:
            return ""
        return f"has values from {info.min()} to {info.max()}; expected classes from 0 to {most - 1}"

    def random(self, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        classes = self._generator_classes()
        info = rng.integers(classes, size=len(labels)) if classes else np.zeros(len(labels), np.int64)
        return self._make(None, info, 0, rng), info.astype(np.int64)

    def variation(
        self, images: np.ndarray, info: np.ndarray, degree: float, rng: np.random.Generator
    ) -> np.ndarray:
        mistakes = self.degree_mistakes([degree])
        if mistakes:
            raise ConfigError(mistakes)
        return self._make(images, info, int(degree), rng)

    def describe(self) -> dict[str, Any]:
        if not self._loaded:
            return {"api": self.name, "checkpoint": self.checkpoint}
        sampler: Sampler = self._loaded["sampler"]
        return {
            "api": self.name,
            "weights_sha256": self._loaded["digest"],
            "image_size": list(self.image_size),
            "generator_classes": self._generator_classes(),
            "kept_steps": len(sampler.kept),
            "diffusion_steps": len(sampler.signal),
            "guidance_scale": self.guidance_scale,
            "diffusers": import_optional("diffusers", "diffusion").__version__,
            "training_data": self._record().get("settings", {}).get("dataset", "as the weights state"),
        }

    def _make(
        self, images: np.ndarray | None, info: np.ndarray, start: int, rng: np.random.Generator
    ) -> np.ndarray:
        sampler, device = self._ready()
        seeds = image_seeds(rng, len(info))
        shape = (sampler.channels, *self.image_size)

        def make(part: slice) -> np.ndarray:
            x = noise_of(seeds[part], shape).to(device)
            if images is not None:
                clean = to_unit(with_channels(images[part], sampler.channels)).to(device) * 2 - 1
                x = sampler.noised(clean, x, start)
            with torch.inference_mode():
                made = sampler.denoised(x, self._labels(info[part], device), start)
            return with_channels(to_pixels((made.cpu() + 1) / 2), 3)

        return in_batches(make, len(info), self.batch_size)

    def _ready(self) -> tuple[Sampler, str]:
        if not self._loaded:
            raise DataError("the diffusion model is not loaded. Call prepare() before asking for images.")
        return self._loaded["sampler"], self._loaded["device"]

    def _labels(self, info: np.ndarray, device: str) -> torch.Tensor | None:
        if not self._generator_classes():
            return None
        return torch.from_numpy(np.ascontiguousarray(info, dtype=np.int64)).to(device)

    def _generator_classes(self) -> int:
        embedded = self._unet_config().get("num_class_embeds") or 0
        return int(self._record().get("null_class") or embedded)

    def _sampler(self, unet: Any, null: int | None) -> Sampler:
        stored = self._schedule()
        signal = _signal(stored)
        rescale = self.rescale_timesteps
        if rescale is None:
            rescale = bool(read_json(unet_folder(self.checkpoint), SIDECAR).get("rescale_timesteps"))
        return Sampler(
            unet=unet,
            signal=signal,
            kept=self._kept(),
            prediction=stored.get("prediction_type", "epsilon"),
            time_scale=1000 / len(signal) if rescale else 1.0,
            clip=self.clip_denoised,
            null_class=null,
            guidance=self.guidance_scale,
        )

    def _schedule(self) -> dict[str, Any]:
        stored = dict(schedule_config(self.checkpoint))
        if self.diffusion_steps or self.noise_schedule or not stored:
            steps = self.diffusion_steps or stored.get("num_train_timesteps", DIFFUSION_STEPS)
            known = {theirs: ours for ours, theirs in NOISE_SCHEDULES.items()}
            name = self.noise_schedule or known.get(stored.get("beta_schedule", ""), "linear")
            stored |= {"trained_betas": None, **schedule_arguments(name, int(steps))}
        return stored

    def _kept(self) -> tuple[int, ...]:
        steps = int(self._schedule().get("num_train_timesteps", DIFFUSION_STEPS))
        return kept_steps(steps, str(self.timestep_respacing))

    def _respacing_mistakes(self) -> list[str]:
        try:
            self._kept()
        except ConfigError as error:
            return list(error.mistakes)
        return []

    def _unet_config(self) -> dict[str, Any]:
        return read_json(unet_folder(self.checkpoint), "config.json")

    def _record(self) -> dict[str, Any]:
        return read_json(unet_folder(self.checkpoint), "training.json")


def _signal(stored: dict[str, Any]) -> torch.Tensor:
    diffusers = import_optional("diffusers", "diffusion")
    keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    given = {key: stored[key] for key in keys if stored.get(key) is not None}
    return diffusers.DDPMScheduler(**given).alphas_cumprod.double()


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
