"""Where the time of a DP step goes, beside the matrix products that it cannot do without."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.fixtures import Preset, dp_step
from benchmarks.harness import Row, in_turns, milliseconds
from dpforge.nets.masked import MaskedLinear
from dpforge.privacy.batches import StepBatch
from dpforge.privacy.engines import make_engine
from dpforge.privacy.norms import rule_for
from dpforge.privacy.rng import fresh_random

Call = Callable[[], object]


def breakdown_rows(preset: Preset, batch: int, lightning: float, repeats: int) -> list[Row]:
    """Return the DP step over its matrix products, and the share of each part of the step.

    Args:
        preset: Network.
        batch: Rows of the batch.
        lightning: Seconds that Lightning adds to a step.
        repeats: Turns of the clock.
    """
    seconds = _measure(preset, batch, repeats)
    group = f"8. where a DP step goes: {preset.name}, batch {batch}"
    plain, norm = seconds["plain products"], seconds["norm products"]
    total = seconds["step"] + lightning
    note = (
        f"{milliseconds(total)} / ({milliseconds(plain)} forward, data, weight + {milliseconds(norm)} norm)"
    )
    rows = [
        Row(group, "DP step / its four matrix products a layer", total / (plain + norm), "ratio", note=note)
    ]
    for name, value in _parts(seconds, lightning).items():
        rows.append(Row(group, name, 100 * value / total, "%", note=milliseconds(value)))
    return rows


def _parts(seconds: dict[str, float], lightning: float) -> dict[str, float]:
    engine = seconds["forward"] + seconds["backward"] + seconds["norms"] + seconds["sums"]
    after = seconds["noise"] + seconds["optimiser"]
    return {
        "forward": seconds["forward"],
        "backward (data gradients)": seconds["backward"],
        "per-example norms": seconds["norms"],
        "clipped sums (weight gradients)": seconds["sums"],
        "noise": seconds["noise"],
        "optimiser": seconds["optimiser"],
        "hooks, clip factors, accumulation, reservation": max(seconds["step"] - engine - after, 0.0),
        "Lightning": lightning,
    }


def _measure(preset: Preset, batch: int, repeats: int) -> dict[str, float]:
    module, x = preset.module(), torch.randn(batch, preset.features)
    optimizer = module.configure_optimizers()
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    size, steps = sum(p.numel() for p in module.parameters()), count()
    random = fresh_random("entropy")
    engine = make_engine("ghost", module.net)
    graph: list[Tensor] = []

    def forward() -> None:
        graph[:] = [module.per_example_loss((x,)).sum()]

    with dp_step(preset, batch, 100_000) as step:
        calls: dict[str, Call] = {
            "step": lambda: step(StepBatch(next(steps), (x,))),
            "forward": forward,
            "backward": lambda: graph[0].backward(),
            "noise": lambda: random.normal("benchmark", next(steps), size),
            "optimiser": optimizer.step,
            **_layer_calls(module.net, batch),
        }
        laps = in_turns(calls, repeats)
    engine.close()
    return {name: laps.median(name) for name in calls}


def _layer_calls(net: torch.nn.Module, batch: int) -> dict[str, Call]:
    layers = [layer for layer in net.modules() if isinstance(layer, MaskedLinear)]
    sizes = [(layer.in_features, layer.out_features) for layer in layers]
    inputs = [
        (layer, torch.randn(batch, i), torch.randn(batch, o))
        for layer, (i, o) in zip(layers, sizes, strict=True)
    ]
    weights = torch.rand(batch)

    def products() -> None:
        for layer, a, g in inputs:
            weight = layer.weight.detach()
            functional.linear(a, weight)
            torch.mm(g, weight)
            torch.mm(g.T, a)

    return {
        "plain products": products,
        "norm products": lambda: [torch.mm(g, layer.mask) for layer, _, g in inputs],
        "norms": lambda: [rule_for(layer).squared_norm(layer, a, g) for layer, a, g in inputs],
        "sums": lambda: [rule_for(layer).weighted_sum(layer, a, g, weights) for layer, a, g in inputs],
    }
