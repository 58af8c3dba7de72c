"""Sampling of pixel diffusion models: respaced steps, DDIM from noise, and DDIM from a noised image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dpforge.errors import ConfigError

PREDICTIONS = ("epsilon", "sample", "v_prediction")


def kept_steps(steps: int, respacing: str) -> tuple[int, ...]:
    """Choose the steps of a noise schedule that are used for sampling, cleanest first.

    Args:
        steps: Length of the schedule the model was trained with.
        respacing: Empty for every step; ``ddimN`` for N steps with one whole stride (Song et al., ICLR 2021);
            a number N for N steps from the first to the last; or numbers ``a,b,…``: the schedule is cut into
            as many sections, with so many steps each (Nichol and Dhariwal, ICML 2021).

    Raises:
        ConfigError: Not of these forms, or more steps than there are.
    """
    text = respacing.strip()
    if not text:
        return tuple(range(steps))
    if text.startswith("ddim") and text[4:].isdigit():
        return _strided(steps, int(text[4:]))
    counts = [part.strip() for part in text.split(",")]
    if not all(count.isdigit() for count in counts):
        raise ConfigError(
            f"model.api.timestep_respacing={respacing!r}: expected a number, 'ddimN', or numbers separated by"
            " commas."
        )
    return _sectioned(steps, [int(count) for count in counts])


def _strided(steps: int, count: int) -> tuple[int, ...]:
    for stride in range(1, steps + 1):
        if len(range(0, steps, stride)) == count:
            return tuple(range(0, steps, stride))
    raise ConfigError(
        f"model.api.timestep_respacing='ddim{count}': no whole stride gives {count} of {steps} steps."
        f" Use '{count}'."
    )


def _sectioned(steps: int, counts: Sequence[int]) -> tuple[int, ...]:
    size, longer = divmod(steps, len(counts))
    kept: list[int] = []
    begin = 0
    for position, count in enumerate(counts):
        length = size + (position < longer)
        if not 1 <= count <= length:
            raise ConfigError(
                f"model.api.timestep_respacing: {count} steps of a section of {length}; expected 1 to"
                f" {length}."
            )
        stride = (length - 1) / (count - 1) if count > 1 else 0.0
        kept += [begin + round(stride * i) for i in range(count)]
        begin += length
    return tuple(kept)


@dataclass(frozen=True)
class Sampler:
    """Deterministic DDIM sampling (η = 0) of a diffusers ``UNet2DModel``.

    Args:
        unet: The network; of its outputs the first ``channels`` are used.
        signal: Share of the signal's variance at each step of the whole schedule (ᾱ), float64 ``(steps,)``.
        kept: The steps that are used, ascending.
        prediction: What the network predicts: ``epsilon``, ``sample`` or ``v_prediction``.
        time_scale: Factor from a step to the time the network is given.
        clip: Whether predicted images are cut to [-1, 1].
        null_class: Class that stands for "none"; needed for guidance.
        guidance: Weight of classifier-free guidance (Ho and Salimans, 2022); 1 is none.

    References:
        Song, Meng and Ermon, *Denoising Diffusion Implicit Models* (ICLR 2021), equation 12.
    """

    unet: Any = field(repr=False)
    signal: Tensor = field(repr=False)
    kept: tuple[int, ...]
    prediction: str = "epsilon"
    time_scale: float = 1.0
    clip: bool = True
    null_class: int | None = None
    guidance: float = 1.0

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return int(self.unet.config.in_channels)

    def noised(self, clean: Tensor, noise: Tensor, start: int) -> Tensor:
        """Images in [-1, 1] as they look at ``start``: 0 is the noisiest kept step, S − 1 the cleanest."""
        share = float(self.signal[self.kept[len(self.kept) - 1 - start]])
        return share**0.5 * clean + (1 - share) ** 0.5 * noise

    def denoised(self, noisy: Tensor, labels: Tensor | None, start: int = 0) -> Tensor:
        """Run the S − ``start`` steps that are left, from images as they look at ``start``.

        Args:
            noisy: float ``(n, C, H, W)`` on the network's device.
            labels: int64 ``(n,)`` classes of the network; ``None`` for one without classes.
            start: Position in the kept steps, 0 for pure noise.

        Returns:
            Images in [-1, 1], float32 ``(n, C, H, W)``.
        """
        x = noisy.float()
        for position in range(len(self.kept) - 1 - start, -1, -1):
            x = self._step(x, labels, position)
        return x.clamp(-1, 1)

    def _step(self, x: Tensor, labels: Tensor | None, position: int) -> Tensor:
        here = float(self.signal[self.kept[position]])
        after = float(self.signal[self.kept[position - 1]]) if position else 1.0
        clean = self._clean(x, self._output(x, labels, self.kept[position]), here)
        noise = (x - here**0.5 * clean) / (1 - here) ** 0.5
        return after**0.5 * clean + (1 - after) ** 0.5 * noise

    def _clean(self, x: Tensor, output: Tensor, share: float) -> Tensor:
        if self.prediction == "epsilon":
            clean = (x - (1 - share) ** 0.5 * output) / share**0.5
        elif self.prediction == "v_prediction":
            clean = share**0.5 * x - (1 - share) ** 0.5 * output
        else:
            clean = output
        return clean.clamp(-1, 1) if self.clip else clean

    def _output(self, x: Tensor, labels: Tensor | None, step: int) -> Tensor:
        conditional = self._network(x, labels, step)
        if self.guidance == 1 or self.null_class is None or labels is None:
            return conditional
        free = self._network(x, torch.full_like(labels, self.null_class), step)
        return free + self.guidance * (conditional - free)

    def _network(self, x: Tensor, labels: Tensor | None, step: int) -> Tensor:
        given = x.to(self.unet.dtype)
        time = torch.full((len(x),), step * self.time_scale, device=x.device)
        return self.unet(given, time, class_labels=labels).sample[:, : self.channels].float()
