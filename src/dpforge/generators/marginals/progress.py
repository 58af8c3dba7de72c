"""Where the rounds stand, on disk: released values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dpforge.generators.base import RunContext
from dpforge.generators.marginals.estimation import Measurement, Potentials
from dpforge.generators.marginals.junction import Clique
from dpforge.generators.storage import load_state, save_state


@dataclass(frozen=True)
class Progress:
    """State between two rounds.

    Args:
        round: Rounds that are complete.
        costs: Every rho spent so far, in order.
        cost: Rho of the next round; infinite without DP.
        done: Whether no round is left.
        measurements: Measured marginals, in order.
    """

    round: int
    costs: tuple[float, ...]
    cost: float
    done: bool
    measurements: tuple[Measurement, ...]


def save_progress(run: RunContext, state: Progress, potentials: Potentials) -> None:
    """Write the state with the potentials of its model; the state before it is kept as a fallback."""
    content = {
        "costs": list(state.costs),
        "cost": state.cost,
        "done": state.done,
        "measurements": [
            [list(m.clique), torch.from_numpy(m.values), torch.from_numpy(m.variances)]
            for m in state.measurements
        ],
        "potentials": [[list(clique), torch.from_numpy(table)] for clique, table in potentials.items()],
    }
    save_state(
        run.checkpoints,
        {"step": state.round, "key_id": run.access.random.key_id, "module": content, "optimizer": {}},
    )


def load_progress(run: RunContext) -> tuple[Progress, Potentials] | None:
    """Return what :func:`save_progress` wrote last, or None; a state of another key is ignored."""
    state = load_state(run.checkpoints)
    if state is None or state["key_id"] != run.access.random.key_id:
        return None
    content: dict[str, Any] = state["module"]
    measurements = tuple(
        Measurement(_clique(clique), values.numpy(), variances.numpy())
        for clique, values, variances in content["measurements"]
    )
    potentials: Potentials = {
        _clique(clique): np.asarray(table.numpy()) for clique, table in content["potentials"]
    }
    progress = Progress(
        int(state["step"]),
        tuple(content["costs"]),
        float(content["cost"]),
        bool(content["done"]),
        measurements,
    )
    return progress, potentials


def _clique(columns: list[int]) -> Clique:
    return tuple(columns)
