"""Canaries in the layer statistics of DP-ImgSyn: records whose moments point in directions of their own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import nn

from dpforge.data import ImageDataset, Images, ImageSchema
from dpforge.experiment.audit.door import audit_context
from dpforge.experiment.audit.evidence import Channel, Evidence
from dpforge.generators.base import RunContext, Runtime, rows_per_unit
from dpforge.generators.dp_imgsyn.stages import Stages
from dpforge.generators.dp_imgsyn.statistics import STATISTICS, count_coordinate, public_reference
from dpforge.privacy.plan import Plan
from dpforge.privacy.spec import PrivacySpec

BYSTANDERS, PUBLIC = 8, 64
GAIN = 1e3
NUMBER_BYTES = 4


class Moments(Stages):
    """The release of layer statistics of a run, with the moments of every image made up.

    Args:
        model, data, run: As of the run; the pixels of an image are its number, see :func:`numbered`.
        public, private: Moments ``(n, D)`` of public images and, by number, of private ones.
    """

    def __init__(
        self, model: Any, data: ImageDataset, run: RunContext, public: np.ndarray, private: np.ndarray
    ) -> None:
        self.model, self.data, self.run = model, data, run
        self.schema, self.device, self.steps = data.schema, "cpu", 0
        self._public, self._private = public, private

    def _moments(
        self, teacher: nn.Module, layers: list[nn.GroupNorm], pixels: np.ndarray
    ) -> Iterator[np.ndarray]:
        yield self._private[numbers_of(pixels)] if pixels.shape[2] == NUMBER_BYTES else self._public

    def release(self) -> None:
        """Release the statistics; what was released is with the access."""
        chosen = self.model.statistics.layers
        count = 1 if isinstance(chosen, str) else max(chosen) + 1
        teacher = nn.Sequential(*[nn.GroupNorm(1, 1) for _ in range(count)])
        self._released(teacher, np.zeros((PUBLIC, 1, 1, 1), dtype=np.uint8))


def numbered(count: int) -> np.ndarray:
    """Return images whose pixels are the bytes of their number, so that a sample tells who is in it."""
    return np.arange(count, dtype="<u4").view(np.uint8).reshape(count, 1, NUMBER_BYTES, 1)


def numbers_of(pixels: np.ndarray) -> np.ndarray:
    """Return the numbers behind :func:`numbered` images."""
    return np.ascontiguousarray(pixels).reshape(-1, NUMBER_BYTES).view("<u4").reshape(-1)


def audit_layers(
    model: Any,
    schema: ImageSchema,
    plan: Plan,
    spec: PrivacySpec,
    runtime: Runtime,
    *,
    canaries: int,
    rng: np.random.Generator,
) -> Evidence:
    """Release the layer statistics of made-up moments with canaries among the records.

    A canary's moments lie far outside the clip in one coordinate; the count that all records share is not
    looked at, which costs the auditor a little.
    """
    coins = rng.random(canaries) < 0.5
    replaced, rows = plan.relation == "replace", rows_per_unit(schema)
    width = 2 * math.ceil(canaries / 2)
    public = rng.standard_normal((PUBLIC, width))
    reference = public_reference(public, model.statistics.radius)
    present = np.repeat(np.arange(canaries) if replaced else np.flatnonzero(coins), rows)
    private = np.tile(reference.center, (BYSTANDERS + len(present), 1))
    reach = GAIN * reference.radius * math.sqrt(width) * reference.scale[present]
    private[BYSTANDERS + np.arange(len(present)), present] += np.where(coins[present], reach, -reach)
    units = None
    if schema.unit.kind == "user":
        units = np.r_[np.arange(BYSTANDERS), BYSTANDERS + np.unique(present, return_inverse=True)[1]]
    images = Images(numbered(len(private)), np.zeros(len(private), dtype=int))
    data = ImageDataset(schema, images, images.take(np.arange(0)), units, True, "")
    with audit_context(schema, plan, spec, runtime) as (access, run):
        Moments(model, data, run, public, private).release()
        released = [seen for seen in access.released if seen.name == STATISTICS]
    count = count_coordinate(plan.relation, model.statistics.count_weight)
    high = rows / math.hypot(1, count)
    rate = plan.piece(STATISTICS).sampling_rate
    channel = Channel(high, -high if replaced else 0.0, released[0].scales[0], rate)
    seen = [one.values[0][:canaries] for one in released]
    return Evidence("layer statistics", (STATISTICS,), len(seen), coins, seen, [channel] * len(seen))
