"""Masked autoregressive flow: stacked MADE conditioners with permutations between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from dpforge.nets.masked import MaskedLinear

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU, "gelu": nn.GELU}


def made_masks(features: int, hidden: Sequence[int]) -> list[Tensor]:
    """Return the masks of a MADE with ``2 * features`` outputs (shifts, then log-scales).

    Degrees: input j has j; hidden unit i has i mod (features − 1); output i has i − 1. A connection is
    kept iff the degree of its target is at least that of its source, so output i sees inputs < i.
    """
    degrees = [torch.arange(features)]
    degrees += [torch.arange(width) % max(features - 1, 1) for width in hidden]
    masks = [(after[:, None] >= before[None, :]).float() for before, after in pairwise(degrees)]
    outputs = (torch.arange(features) - 1).repeat(2)
    return [*masks, (outputs[:, None] >= degrees[-1][None, :]).float()]


class MADE(nn.Module):
    """Autoregressive conditioner that returns shifts and bounded log-scales.

    Args:
        features: Number of columns d >= 2.
        hidden: Widths of the hidden layers.
        activation: A key of ``ACTIVATIONS``.
        log_scale_limit: Log-scales are ``c tanh(r / c)``; ``None`` leaves them unbounded.
        zero_init_last: Start as the identity map.
        layer_norm: Normalise after each hidden layer, within units of equal degree (:class:`DegreeNorm`):
            an ordinary layer norm would let every output see every input.

    References:
        Germain et al. (ICML 2015); Papamakarios et al., *Masked Autoregressive Flow* (NeurIPS 2017).
    """

    def __init__(
        self,
        features: int,
        hidden: Sequence[int],
        activation: str = "relu",
        log_scale_limit: float | None = 1.5,
        zero_init_last: bool = True,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.log_scale_limit = log_scale_limit
        *inner, last = [MaskedLinear(mask) for mask in made_masks(features, hidden)]
        layers: list[nn.Module] = []
        for layer in inner:
            layers.append(layer)
            if layer_norm:
                layers.append(DegreeNorm(layer.out_features, max(features - 1, 1)))
            layers.append(ACTIVATIONS[activation]())
        self.net = nn.Sequential(*layers, last.zero_() if zero_init_last else last)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return shift and log-scale, each ``(B, d)``, for ``x`` of shape ``(B, d)``."""
        shift, raw = self.net(x).chunk(2, dim=-1)
        if self.log_scale_limit is None:
            return shift, raw
        return shift, self.log_scale_limit * torch.tanh(raw / self.log_scale_limit)


class DegreeNorm(nn.Module):
    """Root-mean-square normalisation among hidden units of equal degree: nothing leaks across degrees."""

    def __init__(self, width: int, degrees: int) -> None:
        super().__init__()
        self.degrees = min(degrees, width)
        self.index = torch.arange(width) % degrees

    def forward(self, x: Tensor) -> Tensor:
        """Scale ``(B, width)`` to unit root mean square in each degree group."""
        index = self.index.to(x.device).expand_as(x)
        total = torch.zeros(*x.shape[:-1], self.degrees, dtype=x.dtype, device=x.device)
        sums = total.scatter_add(-1, index, x.square())
        counts = torch.bincount(self.index, minlength=self.degrees).to(x)
        return x * (sums / counts + 1e-5).rsqrt().gather(-1, index)


class MaskedAutoregressiveFlow(nn.Module):
    """Blocks of MADE and a fixed permutation, with a standard normal base.

    Args:
        features: Number of columns d >= 2.
        blocks: Number of MADE blocks.
        permutations: One permutation of ``range(features)`` a block, applied after it.
        hidden, activation, log_scale_limit, zero_init_last, layer_norm: See :class:`MADE`.

    Attributes:
        edge: Uniforms are clipped to [edge, 1 − edge] before their normal quantiles enter.

    References:
        Papamakarios et al., *Masked Autoregressive Flow for Density Estimation* (NeurIPS 2017).
    """

    edge: ClassVar[float] = 5e-4

    def __init__(
        self,
        features: int,
        blocks: int,
        permutations: Sequence[Sequence[int]],
        hidden: Sequence[int] = (64, 64),
        activation: str = "relu",
        log_scale_limit: float | None = 1.5,
        zero_init_last: bool = True,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.features = features
        self.blocks = nn.ModuleList(
            MADE(features, hidden, activation, log_scale_limit, zero_init_last, layer_norm)
            for _ in range(blocks)
        )
        self.permutations = [torch.as_tensor(list(p)) for p in permutations]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map data ``(B, d)`` to latents ``(B, d)`` and the log-determinant ``(B,)`` of that map."""
        log_det = x.new_zeros(x.shape[0])
        for block, permutation in zip(self.blocks, self.permutations, strict=True):
            shift, log_scale = block(x)
            x = ((x - shift) * torch.exp(-log_scale))[:, permutation.to(x.device)]
            log_det = log_det - log_scale.sum(dim=1)
        return x, log_det

    def inverse(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Map latents ``(B, d)`` to data and the log-determinant ``(B,)`` of that map; d passes a block."""
        log_det = u.new_zeros(u.shape[0])
        for block, permutation in zip(reversed(self.blocks), reversed(self.permutations), strict=True):
            u = u[:, torch.argsort(permutation).to(u.device)]
            x = torch.zeros_like(u)
            for column in range(self.features):
                shift, log_scale = block(x)
                x[:, column] = u[:, column] * torch.exp(log_scale[:, column]) + shift[:, column]
            log_det = log_det + block(x)[1].sum(dim=1)
            u = x
        return u, log_det

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density ``(B,)`` in nats of ``x``, shape ``(B, d)``."""
        u, log_det = self(x)
        base = -0.5 * (u.square() + math.log(2 * math.pi)).sum(dim=1)
        return base + log_det
