"""Linear layers with a fixed sparsity pattern."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


class MaskedLinear(nn.Linear):
    r"""Linear layer whose weight is multiplied by a fixed binary mask.

    .. math:: y = x (W \odot M)^\top + b

    The mask is a plain attribute, not a buffer: per-example gradient hooks refuse layers with buffers.
    Entries under the mask start at zero, receive no gradient and, while the mask stays, remain zero.

    Args:
        mask: Connections to keep, shape ``(out_features, in_features)``.

    Attributes:
        mask_factors: ``(P, S)`` with ``P.T @ S == mask``: the k distinct columns of the mask,
            ``(k, out_features)``, and which inputs have them, ``(k, in_features)``. The masks of a MADE have
            one such column a degree.

    References:
        Germain et al., *MADE: Masked Autoencoder for Distribution Estimation* (ICML 2015).
    """

    def __init__(self, mask: Tensor) -> None:
        self.mask = torch.ones(1)
        super().__init__(mask.shape[1], mask.shape[0])
        self.set_mask(mask, _factors(mask))
        self.reset_masked()

    def set_mask(self, mask: Tensor, factors: tuple[Tensor, Tensor]) -> None:
        """Use another mask of the same shape from now on; weights outside it are kept but have no effect.

        Args:
            mask: Connections to keep ``(out_features, in_features)``.
            factors: See ``mask_factors``.
        """
        self.mask = mask.to(self.weight)
        self.mask_factors = (factors[0].to(self.weight), factors[1].to(self.weight))

    def reset_masked(self) -> None:
        """Draw each row uniformly within 1/sqrt of its number of kept inputs."""
        fan_in = self.mask.sum(dim=1, keepdim=True).clamp(min=1)
        with torch.no_grad():
            self.weight.uniform_(-1, 1).mul_(self.mask / fan_in.sqrt())
            self.bias.uniform_(-1, 1).div_(fan_in.squeeze(1).sqrt())

    def zero_(self) -> MaskedLinear:
        """Set weight and bias to zero, so that the layer starts as the constant 0."""
        with torch.no_grad():
            self.weight.zero_()
            self.bias.zero_()
        return self

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(…, in_features)`` to ``(…, out_features)``."""
        return functional.linear(input, self.weight * self.mask, self.bias)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MaskedLinear:
        super()._apply(fn, recurse)
        self.mask = fn(self.mask)
        self.mask_factors = (fn(self.mask_factors[0]), fn(self.mask_factors[1]))
        return self


def _factors(mask: Tensor) -> tuple[Tensor, Tensor]:
    columns, column_of = torch.unique(mask, dim=1, return_inverse=True)
    members = torch.arange(columns.shape[1])[:, None] == column_of
    return columns.T.contiguous(), members
