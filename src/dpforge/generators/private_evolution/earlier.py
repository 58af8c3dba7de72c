"""A start from images of an earlier private run: what that run spent becomes part of this one's plan.

Its samples depend on the private images through its votes. A run that goes on from them has seen both
releases, so its epsilon is that of both together.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from dpforge.data import ImageSchema
from dpforge.data.origin import header_digest, run_folder
from dpforge.errors import ConfigError, RunError
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.plan import Piece
from dpforge.privacy.spec import PrivacySpec

EARLIER = "earlier"
_UNIT = ("kind", "column", "max_rows")


def earlier_pieces(samples: str | None, spec: PrivacySpec, schema: ImageSchema) -> tuple[Piece, ...]:
    """Return what the run that made these samples reserved, as pieces of the new run's plan.

    Nothing for public samples. Every attempt of the earlier run counts, and so do the pieces that it took
    over from a run before it.

    Args:
        samples: A ``samples.npz``, or ``None``.
        spec: Privacy of the new run.
        schema: Public schema of the new run.

    Raises:
        ConfigError: The earlier run is not finished or not private, the file is not one that its certificate
            covers, or relation or unit differ, so that the two costs are not of one kind.
    """
    folder = run_folder(Path(samples)) if samples is not None else None
    if samples is None or folder is None or not spec.enabled:
        return ()
    try:
        certificate = json.loads((folder / "certificate.json").read_text(encoding="utf-8"))
        ledger = Ledger.open(folder / "ledger.jsonl")
    except (OSError, ValueError, RunError) as error:
        raise _refusal(samples, f"its run has no readable certificate and ledger ({error})") from None
    reason = _difference(certificate, ledger, spec, schema) or _uncovered(certificate, folder, Path(samples))
    if reason:
        raise _refusal(samples, reason)
    return _pieces(ledger)


def take_over(access: PrivateAccess) -> None:
    """Reserve what an earlier run spent, before anything is made from its samples; no noise is drawn."""
    for piece in access.ledger.plan.pieces:
        if piece.name.split("/")[0] == EARLIER:
            access.reserve(piece.name, piece.count, spent_by="an earlier run")


def _pieces(ledger: Ledger) -> tuple[Piece, ...]:
    name = header_digest(ledger.header)[:10]
    return tuple(
        Piece(
            f"{EARLIER}/{name}/{piece.name}",
            piece.mechanism,
            piece.event,
            ledger.reserved(piece.name),
            piece.sensitivity,
            f"spent by the run whose samples this one starts from: {piece.reason}",
        )
        for piece in ledger.plan.pieces
        if ledger.reserved(piece.name)
    )


def _difference(
    certificate: dict[str, Any], ledger: Ledger, spec: PrivacySpec, schema: ImageSchema
) -> str | None:
    status = certificate.get("status")
    if status != "DP" and not (status == "RESEARCH NOISE" and spec.rng == "seeded"):
        return f"its run is certified as {status}, so nothing made from it can be called private"
    if ledger.plan.relation != spec.relation:
        return (
            f"its run was accounted for relation={ledger.plan.relation}, this one for"
            f" {spec.relation}: the two costs do not add up"
        )
    unit = {"kind": schema.unit.kind, "column": schema.unit.column, "max_rows": schema.unit.max_rows}
    before = ledger.header.get("unit", {})
    if any(before.get(key) != unit[key] for key in _UNIT):
        return f"its run protects a {before.get('kind')}, this one a {schema.unit.kind}, or other ones"
    return None


def _uncovered(certificate: dict[str, Any], folder: Path, samples: Path) -> str | None:
    name = samples.resolve().relative_to(folder).as_posix()
    digest = hashlib.sha256(samples.read_bytes()).hexdigest() if samples.is_file() else ""
    if certificate.get("files", {}).get(name) == digest:
        return None
    return "it is not a file that the certificate of its run covers, or it was changed since"


def _refusal(samples: str, reason: str) -> ConfigError:
    return ConfigError(
        f"model.initial_samples={samples} lies in a run on private data, and {reason}. Start from a finished"
        " run with the same privacy.relation and unit, from public images, or make one run with more"
        " iterations."
    )
