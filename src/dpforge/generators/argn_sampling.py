"""Drawing codes from an autoregressive network: freely, or with some of them given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dpforge.errors import ConfigError, RunError
from dpforge.nets.autoregressive import AutoregressiveNet
from dpforge.nets.drawing import evenly_spread, quantile, raked

LEAST_TEMPERATURE = 1e-3


@dataclass(frozen=True)
class Drawing:
    """How codes are drawn from their probabilities.

    Args:
        temperature: Logits are divided by it, > 0; 1 for the model's own distribution.
        top_p: Only the likeliest codes that together exceed this mass are drawn, in (0, 1].
        recalibrate: Rake every sub-column to its released marginal within the sample.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    recalibrate: bool = False

    def __post_init__(self) -> None:
        mistakes = []
        if not self.temperature >= LEAST_TEMPERATURE:
            mistakes.append(f"temperature={self.temperature!r}: expected a number >= {LEAST_TEMPERATURE}.")
        if not 0 < self.top_p <= 1:
            mistakes.append(f"top_p={self.top_p!r}: expected a number in (0, 1].")
        if mistakes:
            raise ConfigError(mistakes)


def draw_codes(
    net: AutoregressiveNet,
    null_of: Sequence[int],
    rows: int,
    rng: np.random.Generator,
    drawing: Drawing,
    *,
    given: Tensor | None = None,
    forbidden: Sequence[Tensor | None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw every sub-column after those before it in the order of the network.

    Args:
        net: In the order to be used.
        null_of: Sub-column that says whether each one is there, or −1.
        rows: Number of rows.
        rng: Public randomness.
        drawing: How to draw.
        given: Codes ``(rows, S)``, −1 where the code is to be drawn.
        forbidden: Codes that are not drawn, bool ``(K_s,)`` a sub-column or ``None``.

    Returns:
        Codes ``(rows, S)``, equal to the size of a sub-column where it is not there; and the log-probability
        of the given codes, each given the codes before it, ``(rows,)``.
    """
    codes = torch.zeros(rows, len(net.columns), dtype=torch.long)
    log_given = torch.zeros(rows, dtype=torch.float64)
    prefix = net.begin(rows)
    for sub in net.steps:
        logits = prefix.logits(sub)
        absent = codes[:, null_of[sub]] == 1 if null_of[sub] >= 0 else None
        if given is not None and bool((given[:, sub] >= 0).any()):
            log_given += _log_probability(logits, given[:, sub], absent)
        drawn = _draw(net, sub, logits, rng, drawing, None if forbidden is None else forbidden[sub], absent)
        if given is not None:
            drawn = torch.where(given[:, sub] >= 0, given[:, sub], drawn)
        codes[:, sub] = drawn if absent is None else torch.where(absent, net.sizes[sub], drawn)
        prefix.fill(sub, codes[:, sub])
    return codes, log_given


def _draw(
    net: AutoregressiveNet,
    sub: int,
    logits: Tensor,
    rng: np.random.Generator,
    drawing: Drawing,
    forbidden: Tensor | None,
    absent: Tensor | None,
) -> Tensor:
    if not bool(torch.isfinite(logits).all()):
        raise RunError("the model's logits are not finite; train again with a smaller learning rate.")
    v = torch.from_numpy(rng.random(len(logits)))
    if forbidden is not None:
        logits = logits.masked_fill(forbidden, -torch.inf)
    there = torch.arange(len(v)) if absent is None else torch.nonzero(~absent)[:, 0]
    if drawing.recalibrate and len(there):
        logits = logits.clone()
        logits[there] = raked(logits[there], net.masses[sub])
        v[there] = evenly_spread(logits[there], v[there])
    return quantile(tempered(logits, drawing.temperature, drawing.top_p), v)[0]


def _log_probability(logits: Tensor, codes: Tensor, absent: Tensor | None) -> Tensor:
    """Log-probability of given codes; 0 where none is given or the sub-column is not there."""
    known = (codes >= 0) if absent is None else (codes >= 0) & ~absent
    inside = codes.clamp(0, logits.shape[1] - 1)
    found = torch.log_softmax(logits.double(), 1).gather(1, inside[:, None])[:, 0]
    return torch.where(known, found, torch.zeros_like(found))


def tempered(logits: Tensor, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    """Divide logits ``(n, K)`` by the temperature and cut the tail beyond the mass ``top_p``.

    The likeliest codes are kept until their mass reaches ``top_p``, always at least one.

    References:
        Holtzman et al., *The Curious Case of Neural Text Degeneration* (ICLR 2020).
    """
    if temperature != 1:
        logits = logits / temperature
    if top_p == 1:
        return logits
    ordered, place = logits.sort(dim=1, descending=True)
    before = torch.softmax(ordered, 1).cumsum(1) - torch.softmax(ordered, 1)
    cut = torch.empty_like(before, dtype=torch.bool).scatter_(1, place, before >= top_p)
    return logits.masked_fill(cut, -torch.inf)


def cells_of(
    pieces: np.ndarray, of_cell: np.ndarray, cell_masses: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw a fine cell of each piece by the released masses, int64 ``(n,)``.

    Args:
        pieces: Pieces ``(n,)``.
        of_cell: Piece of each cell ``(K,)``.
        cell_masses: Probability of each cell within its piece ``(K,)``.
        rng: Public randomness.
    """
    if len(of_cell) == int(of_cell.max()) + 1:
        return np.argsort(of_cell)[pieces]
    order = np.argsort(of_cell, kind="stable")
    upper = np.cumsum(cell_masses[order])  # every piece has mass 1, so piece p ends at p + 1
    found = np.searchsorted(upper, pieces + rng.random(len(pieces)), side="right")
    first = np.searchsorted(of_cell[order], pieces, side="left")
    last = np.searchsorted(of_cell[order], pieces, side="right") - 1
    return order[np.clip(found, first, last)]
