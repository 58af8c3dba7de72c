"""Stable Diffusion through diffusers: text to image, and image to image."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from dpforge.errors import ConfigError, DataError, did_you_mean
from dpforge.generators.private_evolution.apis.batching import (
    PRECISIONS,
    image_seeds,
    import_optional,
    in_batches,
    torch_dtype,
)
from dpforge.generators.private_evolution.apis.prompts import Prompts, parse_prompts
from dpforge.nets.images import resize, to_pixels, to_unit

MOST_CHANGE, LEAST_CHANGE = 1.0, 0.4
SIDE_MULTIPLE = 8
_LOADING = (OSError, ValueError, RuntimeError, TypeError, KeyError)


@dataclass(frozen=True)
class StableDiffusion:
    """A text-to-image model of the Stable Diffusion family, versions 1 and 2.

    The degree of a variation is ``strength`` in (0, 1]: the share of the denoising steps that is run again.

    Args:
        checkpoint: Folder of a diffusers pipeline, or its name on the Hugging Face hub.
        prompts: A text, a list of texts or of ``{prompt, weight}``, or a map of class name to such a list.
        image_size: Height and width in pixels, multiples of 8.
        random_checkpoint, variation_checkpoint: Another model for drawing or for varying; ``None`` uses
            ``checkpoint``.
        random_guidance_scale, variation_guidance_scale: Weight of classifier-free guidance, >= 0.
        random_num_inference_steps, variation_num_inference_steps: Denoising steps, >= 1.
        batch_size: Images made at once; halved when the accelerator's memory is full.
        precision: ``auto`` (float16 on an accelerator), ``float32``, ``float16`` or ``bfloat16``.
        safety_checker: Use the pipeline's own filter, which turns what it finds black.
        revision: Version on the hub; ``None`` takes the newest.
        local_files_only: Never download.

    Raises:
        ConfigError: With every mistake among the values.

    References:
        Rombach et al., *High-Resolution Image Synthesis with Latent Diffusion Models* (CVPR 2022); Meng et
        al., *SDEdit* (ICLR 2022); Lin et al., *Differentially Private Synthetic Data via Foundation Model
        APIs 1: Images* (ICLR 2024).
    """

    name: ClassVar[str] = "stable_diffusion"
    channels: ClassVar[int] = 3

    checkpoint: str
    prompts: Any
    image_size: tuple[int, int] = (512, 512)
    random_checkpoint: str | None = None
    variation_checkpoint: str | None = None
    random_guidance_scale: float = 7.5
    variation_guidance_scale: float = 7.5
    random_num_inference_steps: int = 50
    variation_num_inference_steps: int = 50
    batch_size: int = 10
    precision: str = "auto"
    safety_checker: bool = False
    revision: str | None = None
    local_files_only: bool = False
    _prompts: Prompts = field(init=False, repr=False, compare=False)
    _loaded: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", tuple(self.image_size))
        mistakes = self._value_mistakes()
        try:
            object.__setattr__(self, "_prompts", parse_prompts(self.prompts))
        except ConfigError as error:
            mistakes += error.mistakes
        if mistakes:
            raise ConfigError(mistakes)

    @property
    def class_aware(self) -> bool:
        """Whether the classes have prompts of their own."""
        return self._prompts.class_aware

    @property
    def max_batch(self) -> int:
        return self.batch_size

    def class_mistakes(self, classes: Sequence[str]) -> list[str]:
        """Return what does not fit between the prompts and the classes of the data."""
        return self._prompts.mistakes(classes)

    def degree_mistakes(self, degrees: Sequence[float]) -> list[str]:
        steps = self.variation_num_inference_steps
        return [
            f"model.variation_degree_schedule has {degree!r}: expected a strength from {1 / steps:g} (one of"
            f" {steps} steps is run again) to 1."
            for degree in degrees
            if not (degree <= 1 and int(steps * degree) >= 1)
        ]

    def default_degrees(self, iterations: int) -> list[float]:
        return [round(float(d), 4) for d in np.linspace(MOST_CHANGE, LEAST_CHANGE, iterations + 1)]

    def prepare(self, class_names: Sequence[str], device: str, folder: Path | None = None) -> None:
        mistakes = self.class_mistakes(class_names)
        if mistakes:
            raise ConfigError(mistakes)
        self._loaded["classes"] = tuple(class_names)
        if self._loaded.get("device") == device:
            return
        import_optional("transformers", "diffusion")
        diffusers = import_optional("diffusers", "diffusion")
        draws = self._load(diffusers.StableDiffusionPipeline, self._names()[0], device)
        if self._names()[0] == self._names()[1]:
            varies = diffusers.StableDiffusionImg2ImgPipeline(
                **draws.components, requires_safety_checker=False
            )
        else:
            varies = self._load(diffusers.StableDiffusionImg2ImgPipeline, self._names()[1], device)
        for pipeline in (draws, varies):
            pipeline.set_progress_bar_config(disable=True)
        self._loaded.update(device=device, random=draws, variation=varies, diffusers=diffusers.__version__)

    def random(self, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        pipeline, _ = self._ready("random")
        info = self._prompts.assign(labels, self._loaded["classes"])
        seeds = image_seeds(rng, len(labels))
        height, width = self.image_size

        def make(part: slice) -> np.ndarray:
            made = pipeline(
                prompt=info[part].tolist(),
                height=height,
                width=width,
                num_inference_steps=self.random_num_inference_steps,
                guidance_scale=self.random_guidance_scale,
                generator=_generators(seeds[part]),
                output_type="pt",
            )
            return to_pixels(made.images.float().cpu())

        return in_batches(make, len(labels), self.batch_size), info

    def variation(
        self, images: np.ndarray, info: np.ndarray, degree: float, rng: np.random.Generator
    ) -> np.ndarray:
        mistakes = self.degree_mistakes([degree])
        if mistakes:
            raise ConfigError(mistakes)
        pipeline, device = self._ready("variation")
        seeds = image_seeds(rng, len(images))

        def make(part: slice) -> np.ndarray:
            given = resize(to_unit(images[part]), self.image_size, "bicubic").clamp(0, 1)
            made = pipeline(
                prompt=info[part].tolist(),
                image=given.to(device),
                strength=degree,
                num_inference_steps=self.variation_num_inference_steps,
                guidance_scale=self.variation_guidance_scale,
                generator=_generators(seeds[part]),
                output_type="pt",
            )
            return to_pixels(made.images.float().cpu())

        return in_batches(make, len(images), self.batch_size)

    def describe(self) -> dict[str, Any]:
        names = dict(zip(("random_checkpoint", "variation_checkpoint"), self._names(), strict=True))
        if "random" not in self._loaded:
            return {"api": self.name, **names}
        return {
            "api": self.name,
            **names,
            "revision": self.revision,
            "random_weights_sha256": _digest(self._loaded["random"].unet),
            "variation_weights_sha256": _digest(self._loaded["variation"].unet),
            "image_size": list(self.image_size),
            "prompts": self._prompts.texts(),
            "diffusers": self._loaded["diffusers"],
        }

    def _names(self) -> tuple[str, str]:
        return self.random_checkpoint or self.checkpoint, self.variation_checkpoint or self.checkpoint

    def _ready(self, kind: str) -> tuple[Any, str]:
        if kind not in self._loaded:
            raise DataError("Stable Diffusion is not loaded. Call prepare() before asking for images.")
        return self._loaded[kind], self._loaded["device"]

    def _load(self, pipeline: Any, name: str, device: str) -> Any:
        folder = Path(name).expanduser()
        options: dict[str, Any] = {} if self.safety_checker else {"safety_checker": None}
        try:
            loaded = pipeline.from_pretrained(
                folder if folder.is_dir() else name,
                dtype=torch_dtype(self.precision, device),
                use_safetensors=True,
                low_cpu_mem_usage=False,
                requires_safety_checker=self.safety_checker,
                revision=self.revision,
                local_files_only=self.local_files_only or folder.is_dir(),
                **options,
            )
        except _LOADING as error:
            raise DataError(
                f"model.api.checkpoint={name} cannot be loaded ({type(error).__name__}). Expected the"
                " folder of a Stable Diffusion pipeline with model_index.json and safetensors, or its name on"
                " the Hugging Face hub and a connection to it."
            ) from error
        return loaded.to(device)

    def _value_mistakes(self) -> list[str]:
        mistakes = [
            f"model.api.{key}={getattr(self, key)!r}: expected a whole number >= 1."
            for key in ("random_num_inference_steps", "variation_num_inference_steps", "batch_size")
            if not _is_count(getattr(self, key))
        ]
        mistakes += [
            f"model.api.{key}={getattr(self, key)!r}: expected a number >= 0."
            for key in ("random_guidance_scale", "variation_guidance_scale")
            if not getattr(self, key) >= 0
        ]
        sides = self.image_size
        if len(sides) != 2 or any(not _is_count(side) or side % SIDE_MULTIPLE for side in sides):
            mistakes.append(
                f"model.api.image_size={list(sides)}: expected height and width, multiples of"
                f" {SIDE_MULTIPLE}."
            )
        if self.precision not in PRECISIONS:
            mistakes.append(
                f"model.api.precision={self.precision!r}: expected {' or '.join(PRECISIONS)}."
                + did_you_mean(str(self.precision), PRECISIONS)
            )
        if not self.checkpoint and not (self.random_checkpoint and self.variation_checkpoint):
            mistakes.append("model.api.checkpoint is empty: give a folder or a name on the hub.")
        return mistakes


def _generators(seeds: np.ndarray) -> list[torch.Generator]:
    return [torch.Generator("cpu").manual_seed(int(seed)) for seed in seeds]


def _digest(network: torch.nn.Module) -> str:
    """Sha256 over names, shapes and values; the same for the same weights, wherever they were loaded from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
