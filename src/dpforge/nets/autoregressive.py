"""Autoregressive network over categorical codes, in one fixed or in any order of the columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpforge.nets.masked import MaskedLinear

EMBEDDING = {"S": (2, 0.15), "M": (3, 0.25), "L": (4, 0.33)}
REGRESSOR = {"S": (4,), "M": (16,), "L": (16, 16)}
LANES = 16  # float32 numbers of the widest vector registers


def embedding_width(size: int, preset: str) -> int:
    """Return min(K, max(10, k ceil(K^p))), the width of the embedding of a sub-column of K codes."""
    k, power = EMBEDDING[preset]
    return min(size, max(10, k * math.ceil(size**power)))


def regressor_widths(size: int, embedded: int, incoming: int, preset: str) -> list[int]:
    """Return the widths of a regressor's layers: unit · round(ln max(·, e)).

    Args:
        size: Codes of the sub-column.
        embedded: Width of its embedding.
        incoming: Width of all embeddings.
        preset: ``S``, ``M`` or ``L``.
    """
    units = REGRESSOR[preset]
    last = units[-1] * max(round(math.log(max(size, math.e))), 1)
    first = [units[0] * round(math.log(max(incoming, math.e)))] if len(units) > 1 else []
    return [*first, last]


class AutoregressiveNet(nn.Module):
    r"""Conditional distributions of sub-column s given the sub-columns before it:

    .. math:: p(x_s = k \mid x_{<s}) \propto m_{sk} \exp(c_s(x_{<s})^\top \phi_{sk} + h_s(x_{<s})_k),

    with released masses m, coefficients c linear in fixed functions of the codes before (``direct``), and an
    optional network h: embeddings, one masked layer for all regressors, one head a sub-column. With
    everything at zero it is the independent model.

    A code equal to the number of codes means "not there": no input, no loss.

    Args:
        columns: Column of each sub-column, ``(S,)``, ascending from 0.
        masses: ``(K_s,)`` a sub-column, positive, summing to 1.
        inputs: Fixed functions of the codes, ``(K_s, B_s)`` a sub-column.
        outputs: Fixed functions of the logits, ``(K_s, C_s)`` a sub-column.
        order: Order of the columns.
        direct: Whether c is there.
        size: ``S``, ``M`` or ``L`` of h, or ``None`` for none.
        pairs: Sub-columns that see each other, as far as the order lets them; ``None`` for all.

    References:
        Tiwald et al., *TabularARGN* (arXiv 2501.12012): embeddings, regressors, predictors, any-order
        training; Germain et al., *MADE* (ICML 2015), section 4: direct connections.
    """

    def __init__(
        self,
        columns: Sequence[int],
        masses: Sequence[Tensor],
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        order: Sequence[int],
        *,
        direct: bool = True,
        size: str | None = None,
        pairs: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        self.pairs = None if pairs is None else [(a, b) for a, b in pairs]
        self.columns, self.sizes = list(columns), [len(mass) for mass in masses]
        # Plain attributes: per-example gradient hooks refuse modules with buffers.
        self.masses = [mass.float() for mass in masses]
        self.inputs = [functional.pad(table.float(), (0, 0, 0, 1)) for table in inputs]
        self.outputs = [table.float() for table in outputs]
        self._widen()
        self.direct = _zeros(self._widths(outputs), self._widths(inputs)) if direct else None
        self._build_deep(size)
        self.set_order(order)

    def _widths(self, tables: Sequence[Tensor]) -> list[int]:
        return [table.shape[1] for table in tables]

    def _build_deep(self, size: str | None) -> None:
        self.embeddings = self.regressor = self.heads = None
        if size is None:
            return
        widths = [embedding_width(k, size) for k in self.sizes]
        hidden = [regressor_widths(k, e, sum(widths), size) for k, e in zip(self.sizes, widths, strict=True)]
        self.embeddings = nn.ModuleList(
            nn.Embedding(k + 1, e, padding_idx=k) for k, e in zip(self.sizes, widths, strict=True)
        )
        self.hidden, self.embedded = [h[0] for h in hidden], widths
        self.regressor = MaskedLinear(torch.ones(sum(self.hidden), sum(widths)))
        self.heads = nn.ModuleList(_head(h, k) for h, k in zip(hidden, self.sizes, strict=True))

    @property
    def steps(self) -> list[int]:
        """The sub-columns in the order in which they are generated."""
        return sorted(range(len(self.columns)), key=lambda s: self._rank[s])

    def set_order(self, order: Sequence[int]) -> None:
        """Let every sub-column see the columns before its own in ``order``, and the parts before it."""
        place = {column: rank for rank, column in enumerate(order)}
        self.order = list(order)
        self._rank = [place[column] * len(self.columns) + s for s, column in enumerate(self.columns)]
        if self.direct is not None:
            self._mask(self.direct, self._widths(self.outputs), self._widths(self.inputs))
        if self.regressor is not None:
            self._mask(self.regressor, self.hidden, self.embedded)

    def _mask(self, layer: MaskedLinear, outgoing: Sequence[int], incoming: Sequence[int]) -> None:
        rank = torch.as_tensor(self._rank)
        before = (rank[:, None] > rank[None, :]) & self._connected()
        out = torch.repeat_interleave(torch.arange(len(rank)), torch.as_tensor(list(outgoing)))
        inside = torch.repeat_interleave(torch.arange(len(rank)), torch.as_tensor(list(incoming)))
        columns = before[out].T.float()
        members = (torch.arange(len(rank))[:, None] == inside).float()
        layer.set_mask(before[out][:, inside].float(), (columns.contiguous(), members))

    def _connected(self) -> Tensor:
        """Whether two sub-columns may see each other, bool ``(S, S)``."""
        width = len(self.columns)
        if self.pairs is None:
            return torch.ones(width, width, dtype=torch.bool)
        found = torch.zeros(width, width, dtype=torch.bool)
        for a, b in self.pairs:
            found[a, b] = found[b, a] = True
        return found

    def log_probs(self, codes: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return log p(x_s | x_<s) in nats ``(B, S)`` of codes ``(B, S)``; 0 where a code is not there.

        Args:
            codes: int64 codes.
            keep: Multiplies the embeddings ``(B, E)``: dropout with a mask that the caller draws.
        """
        parts = [
            -functional.cross_entropy(logits, codes[:, s], ignore_index=self.sizes[s], reduction="none")
            for s, logits in enumerate(self._wide_logits(codes, keep))
        ]
        return torch.stack(parts, 1)

    def logits(self, codes: Tensor, keep: Tensor | None = None) -> list[Tensor]:
        """Return the logits ``(B, K_s)`` of every sub-column given the codes before it."""
        return [wide[:, :k] for wide, k in zip(self._wide_logits(codes, keep), self.sizes, strict=True)]

    def _widen(self) -> None:
        """Pad sub-columns of few codes by impossible ones: vectorised softmax needs ``LANES`` columns."""
        extra = [max(LANES - k, 0) for k in self.sizes]
        self._bases = [
            functional.pad(mass.log(), (0, more), value=-math.inf)
            for mass, more in zip(self.masses, extra, strict=True)
        ]
        self._tables = [
            functional.pad(table.T, (0, more)).contiguous()
            for table, more in zip(self.outputs, extra, strict=True)
        ]

    def _wide_logits(self, codes: Tensor, keep: Tensor | None) -> list[Tensor]:
        found: list[Tensor] = [base.expand(len(codes), -1) for base in self._bases]
        if self.direct is not None:
            coefficients = self.direct(self.functions(codes)).split(self._widths(self.outputs), dim=1)
            tables = zip(found, coefficients, self._tables, strict=True)
            found = [torch.addmm(logit, c, table) for logit, c, table in tables]
        if self.regressor is not None and self.heads is not None:
            embedded = self.embed(codes)
            regressed = self.regressor(embedded if keep is None else embedded * keep).split(
                self.hidden, dim=1
            )
            heads = [head(h) for head, h in zip(self.heads, regressed, strict=True)]
            found = [
                logit + functional.pad(z, (0, logit.shape[1] - z.shape[1]))
                for logit, z in zip(found, heads, strict=True)
            ]
        return found

    def functions(self, codes: Tensor) -> Tensor:
        """Return the fixed functions ``(B, F)`` of codes ``(B, S)``."""
        subs = codes.T.contiguous()
        return torch.cat([table.index_select(0, subs[s]) for s, table in enumerate(self.inputs)], 1)

    def embed(self, codes: Tensor) -> Tensor:
        """Return the embeddings ``(B, E)`` of codes ``(B, S)``."""
        assert self.embeddings is not None
        there = codes < codes.new_tensor(self.sizes)
        found = [layer(codes[:, s]) for s, layer in enumerate(self.embeddings)]
        # Noise of DP-SGD reaches the row of "not there" too, so that it does not stay zero by itself.
        return torch.cat(found, 1) * there.repeat_interleave(codes.new_tensor(self.embedded), dim=1)

    def begin(self, rows: int) -> Prefix:
        """Return the state of ``rows`` rows of which no code is known yet."""
        return Prefix(self, rows)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> AutoregressiveNet:
        super()._apply(fn, recurse)
        for name in ("masses", "inputs", "outputs", "_bases", "_tables"):
            setattr(self, name, [fn(tensor) for tensor in getattr(self, name)])
        return self


class Prefix:
    """Rows that are filled in one sub-column after another; a whole row costs one pass of the network.

    Args:
        net: The network, in the order it is to be used.
        rows: Number of rows.
    """

    def __init__(self, net: AutoregressiveNet, rows: int) -> None:
        self.net = net
        first = net.masses[0]
        self._functions = first.new_zeros(rows, sum(net._widths(net.inputs)))
        self._embedded = first.new_zeros(rows, sum(net.embedded)) if net.regressor is not None else None
        self._in = _slices(net._widths(net.inputs))
        self._out = _slices(net._widths(net.outputs))

    def logits(self, sub: int) -> Tensor:
        """Return the logits ``(rows, K)`` of a sub-column given what was filled in."""
        net = self.net
        found = net.masses[sub].log().expand(len(self._functions), -1)
        if net.direct is not None:
            part = _rows_of(net.direct, self._out[sub], self._functions)
            found = found + part @ net.outputs[sub].T
        if net.regressor is not None and net.heads is not None and self._embedded is not None:
            part = _rows_of(net.regressor, _slices(net.hidden)[sub], self._embedded)
            found = found + net.heads[sub](part)
        return found

    def fill(self, sub: int, codes: Tensor) -> None:
        """Set the codes ``(rows,)`` of a sub-column."""
        self._functions[:, self._in[sub]] = self.net.inputs[sub][codes]
        if self._embedded is not None and self.net.embeddings is not None:
            there = (codes < self.net.sizes[sub])[:, None]
            self._embedded[:, _slices(self.net.embedded)[sub]] = self.net.embeddings[sub](codes) * there


def _rows_of(layer: MaskedLinear, rows: slice, x: Tensor) -> Tensor:
    return functional.linear(x, layer.weight[rows] * layer.mask[rows], layer.bias[rows])


def _slices(widths: Sequence[int]) -> list[slice]:
    ends = [0, *torch.as_tensor(list(widths)).cumsum(0).tolist()]
    return [slice(start, end) for start, end in pairwise(ends)]


def _zeros(outgoing: Sequence[int], incoming: Sequence[int]) -> MaskedLinear:
    return MaskedLinear(torch.ones(sum(outgoing), sum(incoming))).zero_()


def _head(widths: Sequence[int], size: int) -> nn.Sequential:
    """Further layers of a regressor, one ReLU at its end, and the predictor with small weights."""
    inner = [nn.Linear(a, b) for a, b in pairwise(widths)]
    predictor = nn.Linear(widths[-1], size)
    with torch.no_grad():
        predictor.weight.uniform_(-0.1, 0.1).div_(math.sqrt(widths[-1]))
        predictor.bias.zero_()
    return nn.Sequential(*inner, nn.ReLU(), predictor)
