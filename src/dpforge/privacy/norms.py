"""Per-example gradients of single layers: their norms, their weighted sums, and the gradients themselves.

For a layer with input ``a`` and output gradient ``g`` of each example, the norm of the parameter gradient
often follows from ``a`` and ``g`` without forming it (ghost norms), and the sum of clipped gradients is one
product of reweighted ``g`` with ``a``.

References:
    Goodfellow, *Efficient Per-Example Gradient Computations* (2015); Li et al., *Large Language Models Can Be
    Strong Differentially Private Learners* (ICLR 2022); Bu et al., *Differentially Private Optimization on
    Large Model at Small Cost* (ICML 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv1d_weight, conv2d_weight

from dpforge.errors import PrivacyError
from dpforge.nets.masked import MaskedLinear

Gradients = dict[str, Tensor]
Call = tuple[Tensor, Tensor]


class LayerRule:
    """How one kind of layer yields per-example gradients from input ``a`` and output gradient ``g``."""

    def per_example(self, layer: nn.Module, a: Tensor, g: Tensor) -> Gradients:
        """Return gradients of shape ``(B, *parameter.shape)`` by parameter name."""
        raise TypeError(f"{type(self).__name__} has no per-example gradient")

    def squared_norm(self, layer: nn.Module, a: Tensor, g: Tensor) -> Tensor:
        """Return the squared L2 norm ``(B,)`` of each example's gradient over all parameters of the layer."""
        return _norms(self.per_example(layer, a, g))

    def joint_norm(self, layer: nn.Module, calls: Sequence[Call]) -> Tensor:
        """Return the squared norm ``(B,)`` of the gradients summed over several calls of the layer."""
        every = [self.per_example(layer, a, g) for a, g in calls]
        return _norms({name: torch.stack([one[name] for one in every]).sum(0) for name in every[0]})

    def weighted_sum(self, layer: nn.Module, a: Tensor, g: Tensor, weights: Tensor) -> Gradients:
        """Return the sum of per-example gradients weighted by ``weights``, shape ``(B,)``."""
        gradients = self.per_example(layer, a, g)
        return {name: torch.einsum("b,b...->...", weights, gradient) for name, gradient in gradients.items()}


class LinearRule(LayerRule):
    """``nn.Linear`` and ``MaskedLinear`` on inputs ``(B, …, in_features)``."""

    def per_example(self, layer: nn.Module, a: Tensor, g: Tensor) -> Gradients:
        a, g = _as_sequence(a), _as_sequence(g)
        gradients = {"weight": torch.einsum("bto,bti->boi", g, a)}
        if isinstance(layer, MaskedLinear):
            gradients["weight"] = gradients["weight"] * layer.mask
        if layer.bias is not None:
            gradients["bias"] = g.sum(1)
        return gradients

    def squared_norm(self, layer: nn.Module, a: Tensor, g: Tensor) -> Tensor:
        if a.dim() > 2:
            return self._sequence_norm(layer, _as_sequence(a), _as_sequence(g))
        a2, g2 = a.square(), g.square()
        total = _masked_products(layer, a2, g2) if isinstance(layer, MaskedLinear) else g2.sum(1) * a2.sum(1)
        return total + g2.sum(1) if layer.bias is not None else total

    def joint_norm(self, layer: nn.Module, calls: Sequence[Call]) -> Tensor:
        a, g = (torch.cat([_as_sequence(call[part]) for call in calls], 1) for part in (0, 1))
        return self._sequence_norm(layer, a, g)

    def _sequence_norm(self, layer: nn.Module, a: Tensor, g: Tensor) -> Tensor:
        if isinstance(layer, MaskedLinear) or not _gram_is_cheaper(a, g):
            return super().squared_norm(layer, a, g)
        total = _gram(a, g)
        return total + g.sum(1).square().sum(1) if layer.bias is not None else total

    def weighted_sum(self, layer: nn.Module, a: Tensor, g: Tensor, weights: Tensor) -> Gradients:
        g = g * weights.view(-1, *[1] * (g.dim() - 1))
        weight = _outer_sum(g.flatten(0, -2), a.flatten(0, -2))
        gradients = {"weight": weight.mul_(layer.mask) if isinstance(layer, MaskedLinear) else weight}
        if layer.bias is not None:
            gradients["bias"] = g.flatten(0, -2).sum(0)
        return gradients


def _masked_products(layer: MaskedLinear, a2: Tensor, g2: Tensor) -> Tensor:
    """Return the sum over kept connections (o, i) of ``g2[:, o] * a2[:, i]``, shape ``(B,)``.

    Inputs that share a column of the mask are added up first: k (o + i) products a row instead of o i.
    """
    columns, members = layer.mask_factors
    return (functional.linear(g2, columns) * functional.linear(a2, members)).sum(1)


def _outer_sum(g: Tensor, a: Tensor) -> Tensor:
    """Return ``g.T @ a``; matrix libraries take much less time when the wide factor is on the right."""
    return g.T @ a if a.shape[1] >= g.shape[1] else (a.T @ g).T


class EmbeddingRule(LayerRule):
    """``nn.Embedding`` on indices ``(B,)`` or ``(B, T)``."""

    def per_example(self, layer: nn.Module, a: Tensor, g: Tensor) -> Gradients:
        weight = cast(nn.Embedding, layer).weight
        index, g = a.reshape(a.shape[0], -1), g.reshape(a.shape[0], -1, weight.shape[1])
        out = g.new_zeros(a.shape[0], *weight.shape)
        out.scatter_add_(1, index.unsqueeze(-1).expand_as(g), g)
        padding = cast(nn.Embedding, layer).padding_idx
        if padding is not None:
            out[:, padding] = 0
        return {"weight": out}

    def squared_norm(self, layer: nn.Module, a: Tensor, g: Tensor) -> Tensor:
        return self._token_norm(*self._tokens(layer, a, g))

    def joint_norm(self, layer: nn.Module, calls: Sequence[Call]) -> Tensor:
        tokens = [self._tokens(layer, a, g) for a, g in calls]
        return self._token_norm(*(torch.cat([call[part] for call in tokens], 1) for part in (0, 1)))

    def _token_norm(self, index: Tensor, g: Tensor) -> Tensor:
        same, g = index.unsqueeze(1) == index.unsqueeze(2), g.double()
        return (same * torch.bmm(g, g.mT)).sum((1, 2)).clamp_min(0).float()

    def weighted_sum(self, layer: nn.Module, a: Tensor, g: Tensor, weights: Tensor) -> Gradients:
        index, g = self._tokens(layer, a, g)
        out = torch.zeros_like(cast(nn.Embedding, layer).weight)
        return {"weight": out.index_add_(0, index.reshape(-1), (g * weights.view(-1, 1, 1)).flatten(0, 1))}

    def _tokens(self, layer: nn.Module, a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        index, g = a.reshape(a.shape[0], -1), g.reshape(a.shape[0], -1, g.shape[-1])
        padding = cast(nn.Embedding, layer).padding_idx
        return index, g if padding is None else g * (index != padding).unsqueeze(-1)


class LayerNormRule(LayerRule):
    """``nn.LayerNorm`` with an affine part."""

    def per_example(self, layer: nn.Module, a: Tensor, g: Tensor) -> Gradients:
        norm = cast(nn.LayerNorm, layer)
        normal = functional.layer_norm(a, norm.normalized_shape, eps=norm.eps)
        shape = (a.shape[0], -1, *norm.normalized_shape)
        gradients = {"weight": (g * normal).reshape(shape).sum(1)}
        if norm.bias is not None:
            gradients["bias"] = g.reshape(shape).sum(1)
        return gradients


class GroupNormRule(LayerRule):
    """``nn.GroupNorm`` on ``(B, C, …)``."""

    def per_example(self, layer: nn.Module, a: Tensor, g: Tensor) -> Gradients:
        norm = cast(nn.GroupNorm, layer)
        normal = functional.group_norm(a, norm.num_groups, eps=norm.eps)
        return {"weight": (g * normal).flatten(2).sum(2), "bias": g.flatten(2).sum(2)}


class ConvRule(LayerRule):
    """``nn.Conv1d`` and ``nn.Conv2d`` with zero padding, any stride, dilation and number of groups."""

    def per_example(self, layer: nn.Module, a: Tensor, g: Tensor) -> Gradients:
        columns, g = self._columns(layer, a), _grouped(layer, g)
        weight = torch.einsum("bkot,bkit->bkoi", g, columns)
        gradients = {"weight": weight.reshape(a.shape[0], *cast(nn.Conv2d, layer).weight.shape)}
        if layer.bias is not None:
            gradients["bias"] = g.sum(3).flatten(1)
        return gradients

    def squared_norm(self, layer: nn.Module, a: Tensor, g: Tensor) -> Tensor:
        return self._column_norm(layer, self._columns(layer, a), _grouped(layer, g))

    def joint_norm(self, layer: nn.Module, calls: Sequence[Call]) -> Tensor:
        columns = torch.cat([self._columns(layer, a) for a, _ in calls], 3)
        return self._column_norm(layer, columns, torch.cat([_grouped(layer, g) for _, g in calls], 3))

    def _column_norm(self, layer: nn.Module, columns: Tensor, g: Tensor) -> Tensor:
        if _gram_is_cheaper(columns.mT, g.mT):
            total = _gram(columns.mT, g.mT)
        else:
            total = torch.einsum("bkot,bkit->bkoi", g, columns).flatten(1).square().sum(1)
        return total + g.sum(3).flatten(1).square().sum(1) if layer.bias is not None else total

    def weighted_sum(self, layer: nn.Module, a: Tensor, g: Tensor, weights: Tensor) -> Gradients:
        g = g * weights.view(-1, *[1] * (g.dim() - 1))
        conv = cast(nn.Conv2d, layer)
        weight = _conv_weight_gradient(conv, a, g)
        return {"weight": weight} | ({} if conv.bias is None else {"bias": g.flatten(2).sum((0, 2))})

    def _columns(self, layer: nn.Module, a: Tensor) -> Tensor:
        conv = cast(nn.Conv2d, layer)
        flat = len(conv.kernel_size) == 1
        image = a.unsqueeze(2) if flat else a
        two = (lambda value: (0, *value)) if flat else (lambda value: value)
        kernel = (1, *conv.kernel_size) if flat else conv.kernel_size
        stride, dilation = [((1, *v) if flat else v) for v in (conv.stride, conv.dilation)]
        columns = functional.unfold(image, kernel, dilation, two(conv.padding), stride)
        return columns.reshape(a.shape[0], conv.groups, -1, columns.shape[2])


def _conv_weight_gradient(conv: nn.Module, a: Tensor, g: Tensor) -> Tensor:
    layer = cast(nn.Conv2d, conv)
    gradient = conv1d_weight if isinstance(conv, nn.Conv1d) else conv2d_weight
    function = cast(Callable[..., Tensor], gradient)
    return function(a, layer.weight.shape, g, layer.stride, layer.padding, layer.dilation, layer.groups)


def _grouped(layer: nn.Module, g: Tensor) -> Tensor:
    return g.flatten(2).reshape(g.shape[0], cast(nn.Conv2d, layer).groups, -1, g.flatten(2).shape[2])


def _gram_is_cheaper(a: Tensor, g: Tensor) -> bool:
    """Compare products of positions, in float64, with those of channels: ``(…, T, i)``, ``(…, T, o)``."""
    return 2 * a.shape[-2] * (a.shape[-1] + g.shape[-1]) < a.shape[-1] * g.shape[-1]


def _gram(a: Tensor, g: Tensor) -> Tensor:
    """Return the squared norm of ``sum_t g_t a_t^T`` per example; float64, for its terms cancel."""
    a, g = a.double(), g.double()
    return ((a @ a.mT) * (g @ g.mT)).flatten(1).sum(1).clamp_min(0).float()


def _norms(gradients: Gradients) -> Tensor:
    return torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients.values()]).sum(0)


def _as_sequence(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], -1, x.shape[-1])


RULES: dict[type[nn.Module], LayerRule] = {
    nn.Linear: LinearRule(),
    MaskedLinear: LinearRule(),
    nn.Embedding: EmbeddingRule(),
    nn.LayerNorm: LayerNormRule(),
    nn.GroupNorm: GroupNormRule(),
    nn.Conv1d: ConvRule(),
    nn.Conv2d: ConvRule(),
}


def rule_for(layer: nn.Module) -> LayerRule:
    """Return the rule of a layer.

    Raises:
        PrivacyError: The layer mixes examples (batch norm) or has no rule.
    """
    check_layer(layer)
    if type(layer) not in RULES:
        known = ", ".join(sorted(kind.__name__ for kind in RULES))
        raise PrivacyError(
            f"no per-example gradient rule for {type(layer).__name__}; expected one of {known}."
        )
    padding_mode = getattr(layer, "padding_mode", "zeros")
    if padding_mode != "zeros" or isinstance(getattr(layer, "padding", 0), str):
        raise PrivacyError(f"{type(layer).__name__} needs numeric zero padding; got {padding_mode!r}.")
    return RULES[type(layer)]


def kept_entries(net: nn.Module) -> list[Tensor | None]:
    """Return for each parameter the flat indices that can have a gradient, or ``None`` for all of them."""
    masks = {id(layer.weight): layer.mask for layer in net.modules() if isinstance(layer, MaskedLinear)}
    kept = [masks.get(id(parameter)) for parameter in net.parameters()]
    return [None if mask is None else mask.flatten().nonzero().squeeze(1) for mask in kept]


def check_layer(layer: nn.Module) -> None:
    """Raise ``PrivacyError`` for a layer that mixes examples, rewrites its weights or draws at random."""
    name = type(layer).__name__
    tracks = isinstance(layer, nn.modules.batchnorm._NormBase) and layer.track_running_stats
    if tracks or isinstance(layer, nn.modules.batchnorm._BatchNorm):
        raise PrivacyError(f"{name} mixes the examples of a batch; use GroupNorm or LayerNorm.")
    if isinstance(layer, nn.Embedding) and layer.max_norm is not None:
        raise PrivacyError(f"{name}(max_norm=…) rewrites the rows it reads, without noise; leave it out.")
    if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0:
        raise PrivacyError(f"{name} draws from a stream that a resumed run cannot replay; set its p to 0.")


def parameter_layers(net: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the layers that own parameters, with their names, after checking that each has a rule.

    Raises:
        PrivacyError: A layer without a rule, or a parameter that two layers share.
    """
    found, seen = [], set()
    for name, layer in net.named_modules():
        own = list(layer.parameters(recurse=False))
        check_layer(layer)
        if not own:
            continue
        rule_for(layer)
        if any(id(parameter) in seen for parameter in own):
            raise PrivacyError(f"layer '{name}' shares a parameter with another layer; untie them.")
        seen.update(id(parameter) for parameter in own)
        found.append((name, layer))
    return found
