"""How the networks of table generators are optimised: a fixed schedule and an average of weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Optimization:
    """Settings of an optimiser; see :class:`dpforge.generators.dp_maf.DPMAF`."""

    learning_rate: float
    weight_decay: float
    lr_decay: bool
    ema: float
    steps: int

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: constant, or falling linearly to zero."""
        return self.learning_rate * (1 - step / self.steps if self.lr_decay else 1)

    def average(self, mean: nn.Module, net: nn.Module, step: int) -> None:
        """Move the average ``mean`` of released weights towards ``net``, with a warm-up of the decay."""
        decay = min(self.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for old, new in zip(mean.parameters(), net.parameters(), strict=True):
                old.lerp_(new, 1 - decay)
