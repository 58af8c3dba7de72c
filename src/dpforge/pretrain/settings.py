"""What a public diffusion model is trained with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from dpforge.errors import ConfigError, did_you_mean
from dpforge.generators.private_evolution.apis.unet_folder import NOISE_SCHEDULES

PRECISIONS = ("32-true", "bf16-mixed")
PREDICTIONS = ("v_prediction", "epsilon")


@dataclass(frozen=True)
class PretrainSettings:
    """Settings of a public diffusion model.

    Args:
        dataset: Name of an image data set, or a folder of public images named ``<label>_<rest>.<ext>``.
        size: Height and width in pixels, a multiple of ``2**(levels - 1)``.
        channels: 1 (grey) or 3 (colour).
        block_channels: Channels of each level; a level has half the resolution of the one before.
        layers_per_block: Residual blocks a level, >= 1.
        norm_groups: Groups of every group normalisation; divides each of ``block_channels``.
        attention: Self-attention in the middle block.
        diffusion_steps: Length of the noise schedule, >= 2.
        noise_schedule: ``linear`` or ``cosine`` (Nichol and Dhariwal, ICML 2021).
        prediction: ``v_prediction`` (Salimans and Ho, ICLR 2022), which stays useful after a short training,
            or ``epsilon``, the noise (Ho et al., NeurIPS 2020).
        label_dropout: Share of labels replaced by the class "none", in [0, 1); needed for guidance.
        flip: Mirror half of the images; not for digits or letters.
        batch_size, steps, learning_rate, warmup: Adam, with a linear warm-up over ``warmup`` steps.
        ema: Decay of the averaged weights, in [0, 1); shorter averages at the start.
        gradient_clip: Largest norm of a gradient, > 0.
        precision: ``32-true`` or ``bf16-mixed``.
        max_images: Use the first so many images of each class; ``None`` uses all.
        save_every: Steps between checkpoints, >= 1.
        seed: Seed of weights, batches and noise, >= 0.

    Raises:
        ConfigError: With every mistake among the values.
    """

    dataset: str
    size: int = 32
    channels: int = 3
    block_channels: tuple[int, ...] = (32, 64, 128, 128)
    layers_per_block: int = 1
    norm_groups: int = 8
    attention: bool = True
    diffusion_steps: int = 1000
    noise_schedule: str = "cosine"
    prediction: str = "v_prediction"
    label_dropout: float = 0.1
    flip: bool = False
    batch_size: int = 64
    steps: int = 20_000
    learning_rate: float = 2e-4
    warmup: int = 100
    ema: float = 0.999
    gradient_clip: float = 1.0
    precision: str = "32-true"
    max_images: int | None = None
    save_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "block_channels", tuple(self.block_channels))
        mistakes = [*self._count_mistakes(), *self._share_mistakes(), *self._shape_mistakes()]
        if mistakes:
            raise ConfigError(mistakes)

    def to_dict(self) -> dict[str, Any]:
        """The settings as a mapping for JSON."""
        return {**asdict(self), "block_channels": list(self.block_channels)}

    def _count_mistakes(self) -> list[str]:
        least = {"layers_per_block": 1, "diffusion_steps": 2, "batch_size": 1, "steps": 1, "save_every": 1}
        least |= {"warmup": 0, "seed": 0, "norm_groups": 1, "size": 1}
        wrong = [key for key, low in least.items() if not _is_count(getattr(self, key), low)]
        if self.max_images is not None and not _is_count(self.max_images, 1):
            return [f"max_images={self.max_images!r}: expected null or a whole number >= 1."]
        return [f"{key}={getattr(self, key)!r}: expected a whole number >= {least[key]}." for key in wrong]

    def _share_mistakes(self) -> list[str]:
        mistakes = [
            f"{key}={getattr(self, key)!r}: expected a number in [0, 1)."
            for key in ("label_dropout", "ema")
            if not 0 <= getattr(self, key) < 1
        ]
        mistakes += [
            f"{key}={getattr(self, key)!r}: expected a number > 0."
            for key in ("learning_rate", "gradient_clip")
            if not getattr(self, key) > 0
        ]
        known = {"noise_schedule": tuple(NOISE_SCHEDULES), "precision": PRECISIONS, "prediction": PREDICTIONS}
        for key, choices in known.items():
            value = getattr(self, key)
            if value not in choices:
                mistakes.append(
                    f"{key}={value!r}: expected {' or '.join(choices)}.{did_you_mean(str(value), choices)}"
                )
        return mistakes

    def _shape_mistakes(self) -> list[str]:
        if self.channels not in (1, 3):
            return [f"channels={self.channels!r}: expected 1 (grey) or 3 (colour)."]
        widths = self.block_channels
        if not widths or any(not _is_count(width, 1) or width % self.norm_groups for width in widths):
            return [f"block_channels={list(widths)}: expected multiples of norm_groups={self.norm_groups}."]
        factor = 2 ** (len(widths) - 1)
        if self.size % factor:
            return [f"size={self.size}: expected a multiple of {factor}, as there are {len(widths)} levels."]
        return []


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def settings_from(content: Mapping[str, Any]) -> PretrainSettings:
    """Build settings from a mapping.

    Raises:
        ConfigError: Unknown keys (with the closest known one), no ``dataset``, or wrong values.
    """
    known = [f.name for f in fields(PretrainSettings)]
    mistakes = [f"unknown key '{key}'.{did_you_mean(str(key), known)}" for key in content if key not in known]
    if not content.get("dataset"):
        mistakes.append("no dataset is given. Add dataset=NAME, such as dataset=fashion_mnist.")
    if mistakes:
        raise ConfigError(mistakes)
    try:
        return PretrainSettings(**content)
    except TypeError as error:
        raise ConfigError(f"a value has the wrong type: {error}") from error
