"""Networks of well-known layers as JSON and back, so that a saved generator needs no code to be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from dpforge.nets.gan import ConvGenerator, MultiCategoryGumbelSoftmax

_CONVOLUTION = (
    "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode",
)  # fmt: skip
# Of no effect on a finished network.
_IDLE = ("training", "inplace", "momentum")
# Layers by the attributes that are their constructor's arguments of the same names.
LAYERS: Mapping[type[nn.Module], Sequence[str]] = {
    nn.Linear: ("in_features", "out_features"),
    nn.ReLU: (),
    nn.LeakyReLU: ("negative_slope",),
    nn.Tanh: (),
    nn.Sigmoid: (),
    nn.ELU: ("alpha",),
    nn.GELU: ("approximate",),
    nn.Flatten: ("start_dim", "end_dim"),
    nn.Unflatten: ("dim", "unflattened_size"),
    nn.LayerNorm: ("normalized_shape", "eps"),
    nn.GroupNorm: ("num_groups", "num_channels", "eps"),
    nn.BatchNorm1d: ("num_features", "eps"),
    nn.BatchNorm2d: ("num_features", "eps"),
    nn.Conv2d: _CONVOLUTION,
    nn.ConvTranspose2d: (*_CONVOLUTION, "output_padding"),
    MultiCategoryGumbelSoftmax: ("input_dim", "output_dims", "tau"),
    ConvGenerator: ("noise_dim", "size", "start", "channels", "width", "classes"),
}
_NAMES = {kind.__name__: kind for kind in LAYERS}


def described(net: nn.Module) -> dict[str, Any] | None:
    """Return a network of ``nn.Sequential`` and the layers above as JSON, or None if it has others.

    Only constructor arguments in ``LAYERS`` are written; a layer that they do not explain (one without a
    bias, with a hook, of another precision) is one of the others.
    """
    if type(net) is nn.Sequential and _same(net, nn.Sequential(*net)):
        parts = [described(layer) for layer in net]
        return None if None in parts else {"layer": "Sequential", "parts": parts}
    if type(net) not in LAYERS:
        return None
    given = {name: getattr(net, name) for name in LAYERS[type(net)]}
    content = {"layer": type(net).__name__, "arguments": given}
    return content if _same(net, rebuilt(content)) else None


def _same(one: nn.Module, other: nn.Module) -> bool:
    return _form(one) == _form(other)


def _form(net: nn.Module) -> list[Any]:
    """Return what two modules that compute the same from the same weights have in common."""
    layers = [
        (
            name,
            type(layer),
            {key: repr(v) for key, v in vars(layer).items() if key[0] != "_" and key not in _IDLE},
            len(layer._forward_hooks) + len(layer._forward_pre_hooks),
        )
        for name, layer in net.named_modules()
    ]
    return [*layers, {name: (tensor.shape, tensor.dtype) for name, tensor in net.state_dict().items()}]


def rebuilt(content: Mapping[str, Any]) -> nn.Module:
    """Return the network that :func:`described` wrote, with new weights; raises ``KeyError`` for others."""
    if content["layer"] == "Sequential":
        return nn.Sequential(*(rebuilt(part) for part in content["parts"]))
    arguments = {name: tuple(a) if isinstance(a, list) else a for name, a in content["arguments"].items()}
    return _NAMES[content["layer"]](**arguments)
