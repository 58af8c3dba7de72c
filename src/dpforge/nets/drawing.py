"""From logits to draws: raked to given marginals, spread evenly, by quantiles."""

from __future__ import annotations

import math

import torch
from torch import Tensor

GOLDEN = (math.sqrt(5) - 1) / 2
RAKING_STEPS = 10
LEAST_SHARE = 1e-30


def raked(logits: Tensor, mass: Tensor) -> Tensor:
    """Add one number a code so that the mean of the probabilities over the rows becomes ``mass``.

    Args:
        logits: ``(B, K)``.
        mass: Probabilities ``(K,)``.
    """
    shares, factors = torch.softmax(logits, 1), torch.ones_like(mass)
    for _ in range(RAKING_STEPS):
        # The mean over the rows of softmax(logits + log factors), without another exponential of every entry.
        totals = (shares @ factors).clamp_min(LEAST_SHARE)
        mean = factors * (totals.reciprocal() @ shares) / max(len(shares), 1)
        factors = (factors * mass / mean.clamp_min(1e-12)).clamp(LEAST_SHARE, 1 / LEAST_SHARE)
    return logits + factors.log()


def evenly_spread(logits: Tensor, v: Tensor) -> Tensor:
    """Replace uniforms ``(B,)`` by an even sequence along rows of rising conditional mean.

    A Kronecker sequence: what is drawn with it has less sampling noise in its marginals.
    """
    mean = torch.softmax(logits, 1) @ torch.arange(logits.shape[1], dtype=logits.dtype, device=logits.device)
    # Rows of equal mean must not stay in the order they were generated in.
    order = torch.argsort(v)
    order = order[torch.argsort(mean[order], stable=True)]
    steps = torch.arange(len(v), dtype=torch.float64, device=v.device)
    even = torch.empty(len(v), dtype=torch.float64, device=v.device)
    even[order] = (v[0].double() + steps * GOLDEN) % 1
    return even


def ranks(v: Tensor) -> Tensor:
    """Return the ranks of ``v``, shape ``(B,)``, evenly spaced in (0, 1)."""
    return (v.argsort().argsort().double() + 0.5) / len(v)


def quantile(logits: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return the code of each quantile ``v`` and the place inside it in [0, 1], each ``(B,)``."""
    upper = torch.softmax(logits.double(), 1).cumsum(1)
    v = v.double()[:, None] * upper[:, -1:]
    piece = torch.searchsorted(upper, v, right=True).clamp(max=logits.shape[1] - 1)
    top = upper.gather(1, piece)
    bottom = torch.where(piece > 0, upper.gather(1, (piece - 1).clamp(min=0)), torch.zeros_like(top))
    inside = ((v - bottom) / (top - bottom).clamp_min(1e-300)).clamp(0, 1)
    return piece[:, 0], inside[:, 0].to(logits.dtype)
