"""What a run may claim: epsilon, what it covers, and what it does not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dpforge.privacy.accounting import certifying_accountant, has_noise
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.plan import Plan

CAVEATS = (
    "The guarantee holds for the released model and synthetic files, not for readers of the tainted sinks.",
    "Bounds and categories marked public in schema.json are taken to be public knowledge.",
    "Training noise is float32; attacks on floating-point residues and timing are outside the guarantee.",
)
SEEDED = "Noise came from a known seed: anyone can subtract it. RESEARCH NOISE, do not release."
NOT_DP = "At least one access to private data had no noise. NOT DP."


def make_certificate(ledger: Ledger, files: Mapping[str, str]) -> dict[str, Any]:
    """Return the certificate of a complete ledger.

    Args:
        ledger: Every piece reserved as planned.
        files: SHA-256 of the files it covers, by path below the run folder.

    Raises:
        PlanMismatch: Ledger and plan differ.
    """
    ledger.check_complete()
    plan = ledger.plan
    epsilon, rdp = plan.epsilon(), plan.epsilon("rdp")
    accountant = certifying_accountant(plan.event())
    rng = ledger.header["rng"]
    status = "NOT DP" if math.isinf(epsilon) else "RESEARCH NOISE" if rng == "seeded" else "DP"
    extra = {"NOT DP": [NOT_DP], "RESEARCH NOISE": [SEEDED], "DP": []}[status]
    return {
        "status": status,
        "epsilon": _finite(epsilon),
        "epsilon_by_accountant": {
            "pld": _finite(epsilon) if accountant == "pld" else None,
            "rdp": _finite(rdp),
        },
        "accountant_of_record": accountant,
        "delta": plan.delta,
        "unit": plan.unit,
        "unit_details": ledger.header["unit"],
        "nominal_rows": ledger.header["nominal_rows"],
        "relation": plan.relation,
        "target_epsilon": plan.target_epsilon,
        "rng": rng,
        "pieces": [piece.to_json() for piece in plan.pieces],
        "tainted_sinks": ledger.taints(),
        "caveats": [*extra, *CAVEATS],
        "files": dict(files),
        "ledger_hash": ledger.last_hash,
    }


def caution(plan: Plan, rng: str) -> str:
    """Return the words that stand beside any epsilon of a run under way; empty if none are needed."""
    return "NOT DP" if not has_noise(plan.event()) else "RESEARCH NOISE" if rng == "seeded" else ""


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
