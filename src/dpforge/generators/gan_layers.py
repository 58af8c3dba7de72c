"""Networks of well-known layers as JSON and back, so that a saved generator needs no code to be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from dpforge.nets.gan import ConvGenerator, MultiCategoryGumbelSoftmax

_CONVOLUTION = ("in_channels", "out_channels", "kernel_size", "stride", "padding")
# Layers by the attributes that are their constructor's arguments, in its order.
LAYERS: Mapping[type[nn.Module], Sequence[str]] = {
    nn.Linear: ("in_features", "out_features"),
    nn.ReLU: (),
    nn.LeakyReLU: ("negative_slope",),
    nn.Tanh: (),
    nn.Sigmoid: (),
    nn.ELU: ("alpha",),
    nn.GELU: (),
    nn.Flatten: ("start_dim", "end_dim"),
    nn.Unflatten: ("dim", "unflattened_size"),
    nn.LayerNorm: ("normalized_shape", "eps"),
    nn.GroupNorm: ("num_groups", "num_channels", "eps"),
    nn.BatchNorm1d: ("num_features", "eps"),
    nn.BatchNorm2d: ("num_features", "eps"),
    nn.Conv2d: _CONVOLUTION,
    nn.ConvTranspose2d: _CONVOLUTION,
    MultiCategoryGumbelSoftmax: ("input_dim", "output_dims", "tau"),
    ConvGenerator: ("noise_dim", "size", "start", "channels", "width", "classes"),
}
_NAMES = {kind.__name__: kind for kind in LAYERS}


def described(net: nn.Module) -> dict[str, Any] | None:
    """Return a network of ``nn.Sequential`` and the layers above as JSON, or None if it has others.

    Only constructor arguments in ``LAYERS`` are written; a layer whose weights they do not explain (one
    without a bias, a grouped convolution) is one of the others.
    """
    if type(net) is nn.Sequential:
        parts = [described(layer) for layer in net]
        return None if None in parts else {"layer": "Sequential", "parts": parts}
    if type(net) not in LAYERS:
        return None
    content = {"layer": type(net).__name__, "arguments": [getattr(net, name) for name in LAYERS[type(net)]]}
    return content if _same_weights(net, rebuilt(content)) else None


def _same_weights(one: nn.Module, other: nn.Module) -> bool:
    shapes = [{name: tensor.shape for name, tensor in net.state_dict().items()} for net in (one, other)]
    return shapes[0] == shapes[1]


def rebuilt(content: Mapping[str, Any]) -> nn.Module:
    """Return the network that :func:`described` wrote, with new weights; raises ``KeyError`` for others."""
    if content["layer"] == "Sequential":
        return nn.Sequential(*(rebuilt(part) for part in content["parts"]))
    arguments = [tuple(a) if isinstance(a, list) else a for a in content["arguments"]]
    return _NAMES[content["layer"]](*arguments)
