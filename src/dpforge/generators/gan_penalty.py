"""What is read off a released critic by differentiating it: slopes for a penalty, norms of pairs of fakes.

An engine of clipped sums watches every call of the critic. Derivatives that are no part of a record's loss
are therefore taken of a copy with the same weights.

References:
    Gulrajani et al., *Improved Training of Wasserstein GANs* (NeurIPS 2017), for the penalty.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

# Half the distance, in the critic's input, over which a slope is taken.
STEP = 0.01

Scores = Callable[[nn.Module, Tensor, Tensor | None], Tensor]


class CriticTwin:
    """A copy of a critic that nothing watches; not a module, so that it belongs to no other one.

    Args:
        critic: Before an engine is attached.
        device: Where the copy lives.
    """

    def __init__(self, critic: nn.Module, device: torch.device) -> None:
        self.net = copy.deepcopy(critic).to(device)

    def follow(self, critic: nn.Module) -> None:
        """Take over the released weights of ``critic``."""
        with torch.no_grad():
            for own, theirs in zip(self.net.parameters(), critic.parameters(), strict=True):
                own.copy_(theirs)

    def directions(self, points: Tensor, labels: Tensor | None, score: Scores) -> Tensor:
        """Return the unit gradient of the score at each point, shape of ``points``; 0 where it vanishes."""
        with torch.enable_grad():
            points = points.detach().requires_grad_()
            (slope,) = torch.autograd.grad(score(self.net, points, labels).sum(), points)
        norms = slope.flatten(1).norm(dim=1).clamp(min=1e-12)
        return slope / norms.view(-1, *[1] * (slope.dim() - 1))

    def median_norm(self, losses: Callable[[nn.Module], Tensor]) -> float:
        """Median norm of the gradients of ``losses(net)``, shape ``(n,)``, over the weights."""
        weights = list(self.net.parameters())
        with torch.enable_grad():
            values = losses(self.net)
            found = [
                torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True) for value in values
            ]
        squares = [torch.stack([g.square().sum() for g in one if g is not None]).sum() for one in found]
        return float(torch.stack(squares).sqrt().median())


def slope_penalty(
    critic: nn.Module, twin: CriticTwin, points: Tensor, labels: Tensor | None, score: Scores
) -> Tensor:
    r"""Return :math:`(\lVert\nabla_x f(\hat x_i)\rVert - 1)^2` of each point, ``(B,)``.

    The norm is the slope along the gradient's own direction, taken as a central difference of two calls of
    ``critic`` with the direction held fixed. By the envelope theorem its derivative over the weights is that
    of the norm; for a critic of linear pieces the difference is exact unless a kink lies within
    :data:`STEP`. Every value depends on its own point alone, and the critic is called in the ordinary way, so
    clipped sums hold for it as they do for any loss.
    """
    away = STEP * twin.directions(points, labels, score)
    ahead, behind = score(critic, points + away, labels), score(critic, points - away, labels)
    return ((ahead - behind) / (2 * STEP) - 1).square()
