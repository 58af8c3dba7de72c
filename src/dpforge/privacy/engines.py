"""Two interchangeable ways to a clipped gradient sum: Opacus' per-example hooks, and ghost clipping."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from opacus.grad_sample import GradSampleHooks, register_grad_sampler
from torch import Tensor, nn

from dpforge.errors import ConfigError, PrivacyError, did_you_mean
from dpforge.nets.masked import MaskedLinear
from dpforge.privacy.norms import RULES, Call, Gradients, parameter_layers, rule_for

LossFunction = Callable[[Any], Tensor]


@dataclass(frozen=True)
class ClippedSum:
    """Sum of clipped per-example gradients of one microbatch.

    Args:
        gradients: One tensor a parameter, in the order of ``net.parameters()``.
        losses: Per-example losses ``(B,)``, detached; private.
    """

    gradients: list[Tensor]
    losses: Tensor


class Engine(Protocol):
    """Computes clipped sums for one network."""

    def clipped_sum(self, loss: LossFunction, batch: Any, max_grad_norm: float) -> ClippedSum:
        """Return the sum over ``batch`` of per-example gradients, each clipped to ``max_grad_norm``."""
        ...

    def close(self) -> None:
        """Remove hooks; the network is an ordinary module again."""
        ...


def clip_weights(squared_norms: Tensor, max_grad_norm: float) -> Tensor:
    """Return min(1, C / norm) per example, and 0 where the norm is not finite (the gradient is dropped)."""
    norms = squared_norms.sqrt()
    # A little below C, so that float32 rounding of norm and product cannot end above it.
    weights = (max_grad_norm * (1 - 4e-6) / norms.clamp(min=1e-30)).clamp(max=1.0)
    return torch.where(torch.isfinite(norms), weights, torch.zeros_like(weights))


class GhostEngine:
    """Norms from layer inputs and output gradients, then one reweighted product a layer: no second backward.

    Parameters are frozen while the engine is open, so the backward pass computes output gradients only.
    The calls of a layer that is called more than once in a forward pass count as one longer sequence.
    """

    def __init__(self, net: nn.Module) -> None:
        self._layers = parameter_layers(net)
        self._parameters = list(net.parameters())
        self._captured: dict[int, list[Call]] = {}
        self._frozen = [parameter for parameter in self._parameters if parameter.requires_grad]
        for parameter in self._frozen:
            parameter.requires_grad_(False)
        self._handles = [layer.register_forward_hook(self._capture) for _, layer in self._layers]

    def clipped_sum(self, loss: LossFunction, batch: Any, max_grad_norm: float) -> ClippedSum:
        """See :class:`Engine`."""
        self._captured.clear()
        with torch.enable_grad():
            losses = loss(batch)
            losses.sum().backward()
        with torch.no_grad():
            gradients = self._clip(losses.detach(), max_grad_norm)
        self._captured.clear()
        return ClippedSum(gradients, losses.detach())

    def close(self) -> None:
        """See :class:`Engine`."""
        for handle in self._handles:
            handle.remove()
        for parameter in self._frozen:
            parameter.requires_grad_(True)

    def _capture(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return output
        if not output.requires_grad:
            # With frozen parameters the first layers have no graph yet; it starts at their output.
            output = output.detach().requires_grad_()
        output.register_hook(partial(self._store, layer, inputs[0].detach()))
        return output

    def _store(self, layer: nn.Module, a: Tensor, g: Tensor) -> None:
        self._captured.setdefault(id(layer), []).append((a, g))

    def _clip(self, losses: Tensor, max_grad_norm: float) -> list[Tensor]:
        squared = torch.zeros_like(losses)
        used: list[tuple[nn.Module, list[Call]]] = []
        for _, layer in self._layers:
            calls = self._captured.get(id(layer), [])
            if not calls:
                continue
            for a, g in calls:
                _check_rows(layer, a, g, losses.shape[0])
            squared += _squared_norm(layer, calls)
            used.append((layer, calls))
        weights = clip_weights(squared, max_grad_norm)
        dropped = weights == 0
        drop = dropped if bool(dropped.any()) else None
        found: dict[int, Tensor] = {}
        for layer, calls in used:
            for name, gradient in _weighted(layer, calls, weights, drop).items():
                found[id(getattr(layer, name))] = gradient
        return [found[id(p)] if id(p) in found else torch.zeros_like(p) for p in self._parameters]


def _check_rows(layer: nn.Module, a: Tensor, g: Tensor, rows: int) -> None:
    if a.shape[0] != rows or g.shape[0] != rows:
        raise PrivacyError(
            f"{type(layer).__name__} saw another number of rows than the batch has; its input must have the"
            " examples in the first dimension."
        )


def _squared_norm(layer: nn.Module, calls: Sequence[Call]) -> Tensor:
    rule = rule_for(layer)
    return rule.squared_norm(layer, *calls[0]) if len(calls) == 1 else rule.joint_norm(layer, calls)


def _weighted(layer: nn.Module, calls: Sequence[Call], weights: Tensor, dropped: Tensor | None) -> Gradients:
    """Sum of weighted gradients over all calls: one product a call, whatever the number of examples."""
    total: Gradients = {}
    for a, g in calls:
        if dropped is not None:
            a, g = _drop(a, dropped), _drop(g, dropped)
        for name, addend in rule_for(layer).weighted_sum(layer, a, g, weights).items():
            total[name] = total[name] + addend if name in total else addend
    return total


def _drop(x: Tensor, dropped: Tensor) -> Tensor:
    return torch.where(dropped.view(-1, *[1] * (x.dim() - 1)), torch.zeros_like(x), x)


class HookEngine:
    """Per-example gradients materialised by Opacus' hooks: the reference."""

    def __init__(self, net: nn.Module) -> None:
        parameter_layers(net)
        self._net = net
        self._parameters = list(net.parameters())
        # Opacus unfolds a convolution's input by the strides of a contiguous tensor, whatever its own are.
        self._handles = [
            layer.register_forward_pre_hook(_contiguous)
            for layer in net.modules()
            if isinstance(layer, nn.Conv1d | nn.Conv2d)
        ]
        self._hooks = GradSampleHooks(net, batch_first=True, loss_reduction="sum", strict=True)

    def clipped_sum(self, loss: LossFunction, batch: Any, max_grad_norm: float) -> ClippedSum:
        """See :class:`Engine`."""
        self._clear()
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            losses = loss(batch)
            losses.sum().backward()
        with torch.no_grad():
            samples = {id(p): _grad_sample(p) for p in self._parameters if _grad_sample(p) is not None}
            squared = torch.zeros_like(losses)
            for sample in samples.values():
                squared += sample.flatten(1).square().sum(1)
            weights = clip_weights(squared, max_grad_norm)
            dropped = weights == 0
            gradients = [
                torch.einsum("b,b...->...", weights, _drop(samples[id(p)], dropped))
                if id(p) in samples
                else torch.zeros_like(p)
                for p in self._parameters
            ]
        self._clear()
        return ClippedSum(gradients, losses.detach())

    def close(self) -> None:
        """See :class:`Engine`."""
        self._clear()
        self._hooks.cleanup()
        for handle in self._handles:
            handle.remove()

    def _clear(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None
            if hasattr(parameter, "grad_sample"):
                setattr(parameter, "grad_sample", None)  # noqa: B010 - Opacus' attribute, unknown to torch


def _contiguous(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.contiguous() for x in inputs)


def _grad_sample(parameter: nn.Parameter) -> Any:
    return getattr(parameter, "grad_sample", None)


@register_grad_sampler(MaskedLinear)
def _masked_linear_grad_sample(
    layer: MaskedLinear, activations: list[Tensor], backprops: Tensor
) -> dict[nn.Parameter, Tensor]:
    gradients = RULES[MaskedLinear].per_example(layer, activations[0], backprops)
    return {getattr(layer, name): gradient for name, gradient in gradients.items()}


ENGINES: dict[str, Callable[[nn.Module], Engine]] = {"ghost": GhostEngine, "hooks": HookEngine}


def make_engine(name: str, net: nn.Module) -> Engine:
    """Attach the engine ``name`` to a network; raises ``ConfigError`` for an unknown name."""
    if name not in ENGINES:
        raise ConfigError(f"runtime.engine={name!r}: expected ghost or hooks.{did_you_mean(name, ENGINES)}")
    return ENGINES[name](net)
