"""Autoregressive flow whose conditional distribution functions are piecewise linear."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from dpforge.nets.drawing import evenly_spread, quantile, raked, ranks
from dpforge.nets.made import ACTIVATIONS, MaskedAutoregressiveFlow
from dpforge.nets.masked import MaskedLinear


class MaskedConditioner(nn.Module):
    """Masked network with direct connections from inputs to outputs and, optionally, hidden layers.

    Args:
        degrees: Position in the autoregressive order of the column of each input and output, ``(F,)``. An
            output sees the inputs of columns before its own.
        columns: Number of columns d >= 2.
        hidden: Widths of the hidden layers; may be empty.
        activation: A key of ``ACTIVATIONS``.
        zero_init: Start as the constant 0.

    References:
        Germain et al., *MADE: Masked Autoencoder for Distribution Estimation* (ICML 2015), section 4.
    """

    def __init__(
        self, degrees: Tensor, columns: int, hidden: Sequence[int], activation: str, zero_init: bool
    ) -> None:
        super().__init__()
        self.direct = _last(degrees[:, None] > degrees[None, :], zero_init)
        layers: list[nn.Module] = []
        before = degrees
        for width in hidden:
            after = torch.arange(width) % max(columns - 1, 1)
            layers += [MaskedLinear((after[:, None] >= before[None, :]).float()), ACTIVATIONS[activation]()]
            before = after
        if hidden:
            layers.append(_last(degrees[:, None] > before[None, :], zero_init))
        self.deep = nn.Sequential(*layers) if hidden else None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, F)`` to ``(B, F)``."""
        return self.direct(x) if self.deep is None else self.direct(x) + self.deep(x)


def _last(mask: Tensor, zero_init: bool) -> MaskedLinear:
    layer = MaskedLinear(mask.float())
    return layer.zero_() if zero_init else layer


class PiecewiseFlow(nn.Module):
    r"""Flow with piecewise constant conditionals: on piece k of column j,

    .. math:: p(u_j \mid u_{<j}) \propto \exp(c_j(u_{<j})^\top \phi_{jk}).

    The conditional density is constant on each piece, so its distribution function is piecewise linear with
    knots that are given. With coefficients c = 0 every column is uniform: the flow starts as the identity.
    Inputs and latents are standard normal quantiles of uniforms. The basis functions are also the inputs of
    the conditioner; with no hidden layer the model is a log-linear one of all pairs of columns.

    Args:
        masses: Length of each piece in u, ``(K_j,)`` a column, summing to 1.
        functions: Basis functions at each piece, ``(K_j, B_j)`` a column.
        order: Autoregressive order of the columns.
        hidden, activation: Of the conditioner; see :class:`MaskedConditioner`.
        zero_init_last: Start as the identity map.
        rest: Affine flow on the latents, or ``None``.

    References:
        Müller et al., *Neural Importance Sampling* (ACM TOG 2019), section 4.2; Durkan et al., *Neural Spline
        Flows* (NeurIPS 2019).
    """

    edge: ClassVar[float] = 1e-6

    def __init__(
        self,
        masses: Sequence[Tensor],
        functions: Sequence[Tensor],
        order: Sequence[int],
        hidden: Sequence[int] = (),
        activation: str = "relu",
        zero_init_last: bool = True,
        rest: MaskedAutoregressiveFlow | None = None,
    ) -> None:
        super().__init__()
        self.features, self.order, self.rest = len(masses), list(order), rest
        # Plain attributes: per-example gradient hooks refuse modules with buffers.
        self.masses = [mass.float() for mass in masses]
        self.knots = [_knots(mass) for mass in masses]
        self.functions = [function.float() for function in functions]
        self.widths = [function.shape[1] for function in functions]
        place = torch.argsort(torch.as_tensor(self.order))
        degrees = place.repeat_interleave(torch.as_tensor(self.widths))
        self.conditioner = MaskedConditioner(degrees, self.features, hidden, activation, zero_init_last)

    @property
    def permutations(self) -> list[Tensor]:
        """The order of the columns, then the permutations of the affine blocks."""
        return [torch.as_tensor(self.order), *(self.rest.permutations if self.rest is not None else [])]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map data ``(B, d)`` to latents ``(B, d)`` and the log-determinant ``(B,)`` of that map."""
        u = torch.special.ndtr(x)
        pieces = self._pieces(u)
        log_ratio, columns = self._log_ratios(pieces), []
        for j, logits in enumerate(self._logits(pieces)):
            p, piece = torch.softmax(logits, 1), pieces[:, j]
            chosen = p.gather(1, piece[:, None])[:, 0]
            below = p.cumsum(1).gather(1, piece[:, None])[:, 0] - chosen
            inside = (u[:, j] - self.knots[j][piece]) / self.masses[j][piece]
            columns.append(below + chosen * inside.clamp(0, 1))
        latent = torch.special.ndtri(torch.stack(columns, 1).clamp(self.edge, 1 - self.edge))
        log_det = log_ratio + 0.5 * (latent.square() - x.square()).sum(dim=1)
        if self.rest is None:
            return latent, log_det
        latent, more = self.rest(latent)
        return latent, log_det + more

    def inverse(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Map latents ``(B, d)`` to data and the log-determinant ``(B,)`` of the inverse map: d passes."""
        x = self._generate(latent, recalibrate=False)
        return x, -self(x)[1]

    def recalibrated(self, latent: Tensor) -> Tensor:
        """Map latents ``(B, d)`` to a sample ``(B, d)`` whose marginals are those of ``masses``.

        Every column's conditional probabilities are raked: multiplied by one factor a piece, so that their
        mean over the sample is the mass of the piece. Without affine blocks, the uniforms of similar rows are
        also spread evenly (a Kronecker sequence), which takes sampling noise out of the marginals; with them,
        uniforms are replaced by their ranks.
        """
        return self._generate(latent, recalibrate=True)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density ``(B,)`` in nats of ``x``, shape ``(B, d)``."""
        if self.rest is None:
            return self._log_ratios(self._pieces(torch.special.ndtr(x))) + _log_normal(x)
        latent, log_det = self(x)
        return _log_normal(latent) + log_det

    def _pieces(self, u: Tensor) -> Tensor:
        columns = zip(self.knots, u.unbind(1), strict=True)
        found = [torch.searchsorted(knots[1:], column.contiguous(), right=True) for knots, column in columns]
        return torch.stack(found, 1)

    def _logits(self, pieces: Tensor) -> list[Tensor]:
        coefficients = self.conditioner(self._inputs(pieces)).split(self.widths, dim=1)
        return [self._tilted(j, coefficient) for j, coefficient in enumerate(coefficients)]

    def _tilted(self, column: int, coefficients: Tensor) -> Tensor:
        return self.masses[column].log() + coefficients @ self.functions[column].T

    def _inputs(self, pieces: Tensor) -> Tensor:
        return torch.cat([values[pieces[:, j]] for j, values in enumerate(self.functions)], 1)

    def _log_ratios(self, pieces: Tensor) -> Tensor:
        """Return log p(u | columns before) summed over the columns, ``(B,)``."""
        total = torch.zeros(pieces.shape[0], device=pieces.device, dtype=self.masses[0].dtype)
        for j, logits in enumerate(self._logits(pieces)):
            piece = pieces[:, j : j + 1]
            chosen = logits.gather(1, piece)[:, 0] - logits.logsumexp(1)
            total = total + chosen - self.masses[j][piece[:, 0]].log()
        return total

    def _generate(self, latent: Tensor, *, recalibrate: bool) -> Tensor:
        if self.rest is not None:
            latent = self.rest.inverse(latent)[0]
        uniform = torch.special.ndtr(latent)
        pieces = torch.zeros(latent.shape, dtype=torch.long, device=latent.device)
        u = torch.empty_like(latent)
        for j in self.order:
            coefficients = self.conditioner(self._inputs(pieces)).split(self.widths, dim=1)[j]
            logits, v = self._tilted(j, coefficients), uniform[:, j]
            if recalibrate and len(v):
                logits = raked(logits, self.masses[j])
                v = evenly_spread(logits, v) if self.rest is None else ranks(v)
            pieces[:, j], inside = quantile(logits, v)
            u[:, j] = self.knots[j][pieces[:, j]] + self.masses[j][pieces[:, j]] * inside
        return torch.special.ndtri(u.clamp(self.edge, 1 - self.edge))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PiecewiseFlow:
        super()._apply(fn, recurse)
        for name in ("masses", "knots", "functions"):
            setattr(self, name, [fn(tensor) for tensor in getattr(self, name)])
        return self


def _knots(mass: Tensor) -> Tensor:
    """The ends of the pieces below 1: 0 and the cumulative sums, ``(K,)``."""
    total = mass.double().cumsum(0)
    return torch.cat([total.new_zeros(1), total[:-1]]).float()


def _log_normal(x: Tensor) -> Tensor:
    return -0.5 * (x.square() + math.log(2 * math.pi)).sum(dim=1)
