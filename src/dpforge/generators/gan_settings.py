"""How a GAN is trained: losses, optimisers, the critic's constraint, and when a generator step is due."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpforge.generators.optimization import Optimization

FAKE_MEDIAN = "fake_median"
# With it: steps between two looks, and pairs of fakes a look.
SCALE_EVERY, SCALE_PAIRS = 50, 32
# Adaptive critics: least accuracy on fakes, decay of its mean, generator steps between changes, most steps.
ACCURACY, DECAY, PATIENCE, MOST = 0.7, 0.9, 10, 256


@dataclass(frozen=True)
class GANSettings:
    """How a GAN is trained; see :class:`dpforge.generators.dpwgan.DPWGAN`.

    Args:
        critic, generator: Learning rates, schedules and (generator only) average.
        optimizer: ``rmsprop`` or ``adam``.
        betas: Of Adam.
        loss: ``wasserstein``, ``hinge`` or ``logistic``.
        loss_scale: Factor of the critic's loss, > 0; or ``fake_median``.
        penalty_weight: Of the gradient penalty; 0 for none.
        constraint: ``clamp``, ``spectral`` or ``none``, after each critic step.
        weight_clip: Bound of the constraint, > 0.
        n_critics: Critic steps a generator step, >= 1.
        adaptive: Whether ``n_critics`` grows while the critic takes too many fakes for real.
        generator_rows: Fakes in a generator step.
        pool: Fakes that the records of a critic step draw their partners from.
    """

    critic: Optimization
    generator: Optimization
    optimizer: str
    betas: tuple[float, float]
    loss: str
    loss_scale: float | str
    constraint: str
    weight_clip: float
    n_critics: int
    adaptive: bool
    generator_rows: int
    pool: int
    penalty_weight: float = 0.0

    def make_optimizer(self, parameters: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
        """Return the optimiser of one network."""
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, rate, betas=self.betas)
        return torch.optim.RMSprop(parameters, rate)

    def critic_losses(self, fake: Tensor, real: Tensor) -> Tensor:
        """Return the critic's loss ``(B,)`` of each pair of scores, before its scale."""
        if self.loss == "hinge":
            return functional.relu(1 + fake) + functional.relu(1 - real)
        if self.loss == "logistic":
            return functional.softplus(fake) + functional.softplus(-real)
        return fake - real

    def generator_loss(self, fake: Tensor) -> Tensor:
        """Return the generator's mean loss."""
        return functional.softplus(-fake).mean() if self.loss == "logistic" else -fake.mean()


class CriticSchedule:
    """When a generator step is due, from released values alone.

    Args:
        n_critics: Critic steps before each generator step, at first.
        adaptive: Double them when the critic's mean accuracy on fakes falls below 0.7.

    References:
        Bie, Kamath and Zhang, *Private GANs, Revisited* (TMLR 2023), for the adaptive rule.
    """

    def __init__(self, n_critics: int, adaptive: bool) -> None:
        self.adaptive = adaptive
        self.n_critics, self.since, self.steps, self.accuracy = n_critics, 0, 0, 1.0

    def due(self) -> bool:
        """Count a critic step; return whether a generator step follows it."""
        self.since += 1
        if self.since < self.n_critics:
            return False
        self.since = 0
        return True

    def saw(self, accuracy: float) -> None:
        """Take note of the critic's accuracy on the fakes of a generator step, in [0, 1]."""
        if not self.adaptive:
            return
        self.steps += 1
        self.accuracy = DECAY * self.accuracy + (1 - DECAY) * accuracy
        if self.steps >= PATIENCE and self.accuracy < ACCURACY and self.n_critics < MOST:
            self.n_critics, self.steps, self.accuracy = 2 * self.n_critics, 0, 1.0

    def state(self) -> dict[str, float]:
        """Return what :meth:`restore` takes."""
        return {name: getattr(self, name) for name in ("n_critics", "since", "steps", "accuracy")}

    def restore(self, state: Mapping[str, float]) -> None:
        """Continue from a state."""
        for name, value in state.items():
            setattr(self, name, value)


def constrain(critic: nn.Module, settings: GANSettings) -> None:
    """Clamp every weight to ±``weight_clip``, or matrices to that spectral norm: post-processing."""
    if settings.constraint == "none":
        return
    with torch.no_grad():
        for parameter in critic.parameters():
            if settings.constraint == "clamp":
                parameter.clamp_(-settings.weight_clip, settings.weight_clip)
            elif parameter.dim() > 1:
                norm = torch.linalg.matrix_norm(parameter.flatten(1), 2)
                parameter.mul_((settings.weight_clip / norm.clamp(min=1e-12)).clamp(max=1.0))
