"""The Lightning module of TabularARGN."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dpforge.generators.optimization import Optimization
from dpforge.nets.autoregressive import AutoregressiveNet
from dpforge.privacy.batches import Tensors
from dpforge.privacy.dpsgd import PrivateModule
from dpforge.privacy.rng import KeyedRandom

RATE_FLOOR = 0.1
RATE_PATIENCE = 2
HELD = 10_000  # rows of one forward pass
HELD_ORDERS = 4


@dataclass(frozen=True)
class EarlyStop:
    """Rows that decide when training ends; without privacy only.

    Args:
        codes: Held-out codes ``(n, S)``.
        patience: Epochs without improvement before the end.
        every: Steps of an epoch.
    """

    codes: Tensor
    patience: int
    every: int


class ARGNModule(PrivateModule):
    """Maximum likelihood training of an autoregressive network.

    Args:
        net: All its parameters are trained on private rows.
        settings: How to optimise.
        weights: Weight of each sub-column's loss ``(S,)``, public.
        order: Public randomness for a fresh order of the columns in every step, or ``None`` for the net's.
        stop: When to end, or ``None`` for exactly ``settings.steps`` steps.
    """

    course: Tensor

    def __init__(
        self,
        net: AutoregressiveNet,
        settings: Optimization,
        weights: Tensor,
        order: KeyedRandom | None = None,
        stop: EarlyStop | None = None,
    ) -> None:
        super().__init__()
        self.net, self.settings, self.weights = net, settings, weights
        self.average = copy.deepcopy(net).requires_grad_(False) if settings.ema or stop else None
        self._order, self._stop = order, stop
        self._width = len(set(net.columns))
        # Best loss, epochs since, epochs since at this rate, factor of the rate: part of every checkpoint.
        self.register_buffer("course", torch.tensor([math.inf, 0.0, 0.0, 1.0], dtype=torch.float64))

    def per_example_loss(self, batch: Tensors) -> Tensor:
        """Weighted negative log-likelihood in nats, ``(B,)``."""
        return -(self.net.log_probs(batch[0], *batch[1:]) @ self.weights.to(batch[0].device))

    def private_net(self) -> nn.Module:
        """The network."""
        return self.net

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW, which is Adam where the weight decay is 0."""
        settings = self.settings
        return torch.optim.AdamW(
            list(self.net.parameters()), settings.learning_rate, weight_decay=settings.weight_decay
        )

    def learning_rate(self, step: int) -> float:
        """Constant or linearly falling; with early stopping, halved on plateaus of the held-out loss."""
        if self._stop is not None:
            return self.settings.learning_rate * float(self.course[3])
        return self.settings.rate(step)

    def before_step(self, step: int) -> None:
        """Draw the order of the columns of this step."""
        if self._order is not None:
            drawn = self._order.generator("order", step).permutation(self._width)
            self.net.set_order([int(column) for column in drawn])

    def after_step(self, step: int) -> None:
        """Average the released weights, or compare with the best ones so far."""
        if self._stop is not None:
            if (step + 1) % self._stop.every == 0:
                self._compare(self._stop)
        elif self.average is not None:
            self.settings.average(self.average, self.net, step)

    @property
    def finished(self) -> bool:
        """Whether the held-out loss has stopped falling."""
        return self._stop is not None and int(self.course[1]) >= self._stop.patience

    def _compare(self, stop: EarlyStop) -> None:
        losses = [self._held_out_loss(stop) for _ in self._fixed_orders()]
        loss = sum(losses) / len(losses)
        if loss < float(self.course[0]):
            self.course[:3] = torch.tensor([loss, 0.0, 0.0], dtype=torch.float64)
            assert self.average is not None
            self.average.load_state_dict(self.net.state_dict())
            return
        self.course[1:3] += 1
        if int(self.course[2]) >= RATE_PATIENCE:
            self.course[2], self.course[3] = 0.0, max(float(self.course[3]) / 2, RATE_FLOOR)

    def _fixed_orders(self) -> Iterator[None]:
        """Set the net to one order after another, the same ones every time: others would be noise."""
        if self._order is None:
            yield
            return
        before = list(self.net.order)
        for number in range(HELD_ORDERS):
            drawn = self._order.generator("held_out_order", number).permutation(self._width)
            self.net.set_order([int(column) for column in drawn])
            yield
        self.net.set_order(before)

    def _held_out_loss(self, stop: EarlyStop) -> float:
        with torch.no_grad():
            parts = [
                self.per_example_loss((codes.to(self.course.device),)) for codes in stop.codes.split(HELD)
            ]
        return float(torch.cat(parts).mean())

    def released_net(self) -> AutoregressiveNet:
        """The network to sample from: the average or the best one, if there is one."""
        return (self.net if self.average is None else self.average).cpu().requires_grad_(True)
