"""Checkpoints of OpenAI's improved diffusion as diffusers networks, and the proof that both compute the same.

The layout: ``input_blocks`` holds the first convolution, then for each level its residual blocks (each with
attention at some levels) and a strided convolution; ``middle_block`` is residual, attention, residual;
``output_blocks`` mirrors the input with one more residual block a level, each joined with the output of an
input block.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dpforge.errors import DataError

State = Mapping[str, Tensor]
GROUPS = 32
_RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_TOP = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


@dataclass(frozen=True)
class Layout:
    """What the names and shapes of a checkpoint tell.

    Args:
        widths: Channels of each level, the finest first.
        blocks: Residual blocks of a level.
        attention: Whether a level has attention.
        inputs, outputs: Channels of the images, and of the network's output.
        classes: Classes of the network; 0 without labels.
        scale_shift: Whether the time scales and shifts, or is added.
    """

    widths: tuple[int, ...]
    blocks: int
    attention: tuple[bool, ...]
    inputs: int
    outputs: int
    classes: int
    scale_shift: bool


def layout_of(state: State) -> Layout:
    """Read the architecture from a checkpoint.

    Raises:
        DataError: The names are not those of improved diffusion, or levels differ in their blocks.
    """
    if "input_blocks.0.0.weight" not in state or "out.2.weight" not in state:
        raise DataError(
            "the checkpoint is not one of OpenAI's improved diffusion: it has no input_blocks.0.0.weight."
        )
    levels = _levels(state)
    counts = {len(level) for level in levels}
    mixed = [level for level in levels if len(set(level)) != 1]
    if len(counts) != 1 or mixed:
        raise DataError(
            "the blocks of a level differ, or levels have different numbers of them, as with residual blocks"
            " that change the resolution: not supported."
        )
    time_width = state["input_blocks.1.0.emb_layers.1.weight"].shape[0]
    return Layout(
        widths=tuple(level[0][0] for level in levels),
        blocks=counts.pop(),
        attention=tuple(level[0][1] for level in levels),
        inputs=state["input_blocks.0.0.weight"].shape[1],
        outputs=state["out.2.weight"].shape[0],
        classes=state["label_emb.weight"].shape[0] if "label_emb.weight" in state else 0,
        scale_shift=time_width == 2 * levels[0][0][0],
    )


def _levels(state: State) -> list[list[tuple[int, bool]]]:
    """Width and attention of every residual block of the input, level by level."""
    levels: list[list[tuple[int, bool]]] = [[]]
    for index in range(1, _count(state, "input_blocks")):
        if f"input_blocks.{index}.0.op.weight" in state:
            levels.append([])
        else:
            width = state[f"input_blocks.{index}.0.out_layers.3.weight"].shape[0]
            levels[-1].append((width, f"input_blocks.{index}.1.qkv.weight" in state))
    return levels


def _count(state: State, part: str) -> int:
    return 1 + max(int(name.split(".")[1]) for name in state if name.startswith(f"{part}."))


def unet_config(layout: Layout, size: int) -> dict[str, Any]:
    """The arguments of a diffusers ``UNet2DModel`` for images of ``size`` pixels."""
    down = ["AttnDownBlock2D" if attended else "DownBlock2D" for attended in layout.attention]
    up = ["AttnUpBlock2D" if attended else "UpBlock2D" for attended in reversed(layout.attention)]
    return {
        "sample_size": size,
        "in_channels": layout.inputs,
        "out_channels": layout.outputs,
        "layers_per_block": layout.blocks,
        "block_out_channels": layout.widths,
        "down_block_types": tuple(down),
        "up_block_types": tuple(up),
        "norm_num_groups": GROUPS,
        # Without it diffusers leaves the normalisation of the middle attention out under scale_shift.
        "attn_norm_num_groups": GROUPS,
        "num_class_embeds": layout.classes or None,
        "resnet_time_scale_shift": "scale_shift" if layout.scale_shift else "default",
    }


def converted(state: State, layout: Layout, heads: int) -> dict[str, Tensor]:
    """Rename the tensors for diffusers; queries, keys and values of the heads are taken apart.

    Raises:
        DataError: A tensor has no counterpart.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        part, _, kind = name.rpartition(".")
        if name == "label_emb.weight":
            found["class_embedding.weight"] = tensor
        elif part in _TOP:
            found[f"{_TOP[part]}.{kind}"] = tensor
        else:
            found |= _block_tensors(part, kind, tensor, state, layout, heads)
    return found


def _block_tensors(
    part: str, kind: str, tensor: Tensor, state: State, layout: Layout, heads: int
) -> dict[str, Tensor]:
    match = re.fullmatch(r"(input_blocks|output_blocks)\.(\d+)\.(\d)\.(.+)|middle_block\.(\d)\.(.+)", part)
    if match is None:
        raise DataError(f"the checkpoint has a tensor '{part}.{kind}' that diffusers has no place for.")
    section, index, inner, rest, middle, middle_rest = match.groups()
    if middle is not None:
        block = "mid_block.attentions.0" if middle == "1" else f"mid_block.resnets.{int(middle) // 2}"
        return _renamed(block, middle_rest, kind, tensor, heads)
    level, position = divmod(int(index) - (section == "input_blocks"), layout.blocks + 1)
    prefix = f"{'down' if section == 'input_blocks' else 'up'}_blocks.{level}"
    if rest == "op":
        return {f"{prefix}.downsamplers.0.conv.{kind}": tensor}
    if rest == "conv":
        return {f"{prefix}.upsamplers.0.conv.{kind}": tensor}
    module = "resnets" if inner == "0" else "attentions"
    return _renamed(f"{prefix}.{module}.{position}", rest, kind, tensor, heads)


def _renamed(block: str, rest: str, kind: str, tensor: Tensor, heads: int) -> dict[str, Tensor]:
    if rest in _RESIDUAL:
        return {f"{block}.{_RESIDUAL[rest]}.{kind}": tensor}
    if rest == "norm":
        return {f"{block}.group_norm.{kind}": tensor}
    flat = tensor.squeeze(-1) if kind == "weight" else tensor
    if rest == "proj_out":
        return {f"{block}.to_out.0.{kind}": flat}
    if rest != "qkv":
        raise DataError(f"the checkpoint has a tensor '{rest}.{kind}' that diffusers has no place for.")
    width = flat.shape[0] // 3
    # The rows lie head by head, and within a head queries, keys and values follow each other.
    split = flat.reshape(heads, 3, width // heads, *flat.shape[1:])
    return {
        f"{block}.{name}.{kind}": split[:, position].reshape(width, *flat.shape[1:]).contiguous()
        for position, name in enumerate(("to_q", "to_k", "to_v"))
    }


def original_forward(state: State, x: Tensor, times: Tensor, labels: Tensor | None, heads: int) -> Tensor:
    """Compute the network's output straight from the checkpoint, block by block as its layout says.

    Args:
        state: The checkpoint.
        x: Noisy images, float ``(n, C, H, W)``.
        times: Float or int ``(n,)``.
        labels: int64 ``(n,)``; ``None`` without classes.
        heads: Attention heads of every attention block.

    Returns:
        float ``(n, outputs, H, W)``.
    """
    emb = _linear(state, "time_embed.0", _sinusoids(times, state["time_embed.0.weight"].shape[1]))
    emb = _linear(state, "time_embed.2", F.silu(emb))
    if labels is not None:
        emb = emb + state["label_emb.weight"][labels]
    skips = []
    for index in range(_count(state, "input_blocks")):
        x = _block(state, f"input_blocks.{index}", x, emb, heads)
        skips.append(x)
    x = _block(state, "middle_block", x, emb, heads)
    for index in range(_count(state, "output_blocks")):
        x = _block(state, f"output_blocks.{index}", torch.cat([x, skips.pop()], 1), emb, heads)
    return _conv(state, "out.2", F.silu(_norm(state, "out.0", x)))


def _block(state: State, name: str, x: Tensor, emb: Tensor, heads: int) -> Tensor:
    for position in range(3):
        part = f"{name}.{position}"
        if f"{part}.in_layers.0.weight" in state:
            x = _residual(state, part, x, emb)
        elif f"{part}.qkv.weight" in state:
            x = _attention(state, part, x, heads)
        elif f"{part}.op.weight" in state:
            x = _conv(state, f"{part}.op", x, stride=2)
        elif f"{part}.conv.weight" in state:
            x = _conv(state, f"{part}.conv", F.interpolate(x, scale_factor=2.0, mode="nearest"))
        elif f"{part}.weight" in state:
            x = _conv(state, part, x)
    return x


def _residual(state: State, name: str, x: Tensor, emb: Tensor) -> Tensor:
    h = _conv(state, f"{name}.in_layers.2", F.silu(_norm(state, f"{name}.in_layers.0", x)))
    given = _linear(state, f"{name}.emb_layers.1", F.silu(emb))[:, :, None, None]
    if given.shape[1] == 2 * h.shape[1]:
        scale, shift = given.chunk(2, 1)
        h = _norm(state, f"{name}.out_layers.0", h) * (1 + scale) + shift
    else:
        h = _norm(state, f"{name}.out_layers.0", h + given)
    h = _conv(state, f"{name}.out_layers.3", F.silu(h))
    return h + (
        _conv(state, f"{name}.skip_connection", x) if f"{name}.skip_connection.weight" in state else x
    )


def _attention(state: State, name: str, x: Tensor, heads: int) -> Tensor:
    n, width, pixels = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    normed = _norm(state, f"{name}.norm", x).reshape(n, width, pixels)
    weight, bias = state[f"{name}.qkv.weight"], state[f"{name}.qkv.bias"]
    qkv = F.conv1d(normed, weight, bias).reshape(n * heads, 3 * width // heads, pixels)
    q, k, v = qkv.chunk(3, 1)
    weights = torch.softmax(torch.einsum("bct,bcs->bts", q, k) / math.sqrt(width / heads), -1)
    mixed = torch.einsum("bts,bcs->bct", weights, v).reshape(n, width, pixels)
    out = F.conv1d(mixed, state[f"{name}.proj_out.weight"], state[f"{name}.proj_out.bias"])
    return x + out.reshape(x.shape)


def _conv(state: State, name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state[f"{name}.bias"], stride=stride, padding=weight.shape[-1] // 2)


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.group_norm(x, GROUPS, state[f"{name}.weight"], state[f"{name}.bias"])


def _sinusoids(times: Tensor, width: int) -> Tensor:
    half = width // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half) / half)
    angles = times.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1)
