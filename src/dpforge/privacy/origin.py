"""What a file of images says about the run that made it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dpforge.data.origin import Origin, header_digest
from dpforge.privacy.plan import plan_from_json


def origin_of(header: Mapping[str, Any], dataset: str) -> Origin:
    """Return the origin of images of a run, at the cost of all that it is authorised to spend.

    Args:
        header: Of the run's ledger.
        dataset: Name of the private set.
    """
    plan = plan_from_json(header["plan"])
    epsilon = plan.epsilon()
    if math.isinf(epsilon):
        return Origin(dataset, "NOT DP", None, plan.delta, header_digest(header))
    status = "RESEARCH NOISE" if header.get("rng") == "seeded" else "DP"
    return Origin(dataset, status, epsilon, plan.delta, header_digest(header))
