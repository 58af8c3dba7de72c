"""Reading a ledger back: every line continues the line before and says what this version can count.

A file may be damaged or crafted: whatever is wrong with a line is one error that names the line.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any, NoReturn

from dpforge.errors import PrivacyError, RunError
from dpforge.privacy.events import ZCDp
from dpforge.privacy.plan import Piece, Plan, plan_from_json
from dpforge.privacy.spec import replace_factor

GENESIS = "0" * 64
RESTORE = "Restore the file from a copy, or delete the run folder to start a new run."
_FIELDS: dict[str, dict[str, type]] = {
    "reserve": {"piece": str, "count": int, "first": int, "key_id": str},
    "spend": {"piece": str, "step": int, "rho": float, "key_id": str},
    "commit": {"piece": str, "steps": int},
    "taint": {"name": str, "sink": str},
    "close": {},
}


def digest(line: str) -> str:
    """Return the SHA-256 of a line without its end: what the next line carries."""
    return hashlib.sha256(line.encode()).hexdigest()


def read_records(path: Path) -> tuple[list[dict[str, Any]], str, int]:
    """Return the records, the digest of the last line, and how many bytes the whole lines take.

    Raises:
        RunError: The file is missing, its chain is broken, or a record cannot be counted; names the line.
    """
    lines, whole = _lines(path)
    records, last = [], GENESIS
    for number, line in enumerate(lines, start=1):
        record = _parsed(line, number, path)
        if (record.get("previous"), record.get("seq")) != (last, number - 1):
            raise RunError(
                f"{path.name} line {number} does not continue the line before: one of them was altered."
                f" {RESTORE}"
            )
        records.append(record)
        last = digest(line)
    if not records or records[0]["kind"] != "header":
        raise RunError(f"{path.name} has no header. Delete the run folder to start anew.")
    _check_uses(records, _plan(records[0], path), path)
    return records, last, whole


def _lines(path: Path) -> tuple[list[str], int]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(f"the ledger {path} cannot be read ({error.strerror}).") from error
    whole = data.rfind(b"\n") + 1
    lines = data[:whole].split(b"\n")[:-1]
    return [line.decode("utf-8", errors="replace") for line in lines], whole


def _parsed(line: str, number: int, path: Path) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise RunError(f"{path.name} line {number} is damaged: {error.msg}. {RESTORE}") from error
    except (ValueError, RecursionError) as error:
        _refuse(path, number, f"is damaged ({type(error).__name__})")
    if not isinstance(record, dict) or "kind" not in record:
        _refuse(path, number, "is not a ledger record")
    return record


def _plan(header: dict[str, Any], path: Path) -> Plan:
    """Read the authorised plan; a missing field or a value of another type is an error of line 1."""
    try:
        plan = plan_from_json(header["plan"])
    except PrivacyError as error:
        raise RunError(f"{path.name} line 1: {error} {RESTORE}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, ArithmeticError) as error:
        _refuse(path, 1, f"has no plan that can be read ({type(error).__name__})")
    return plan


def _check_uses(records: list[dict[str, Any]], plan: Plan, path: Path) -> None:
    """Refuse records that would be counted wrongly: a reservation can neither be taken back nor repeated."""
    pieces = {piece.name: piece for piece in plan.pieces}
    reserved, spent = dict.fromkeys(pieces, 0), dict.fromkeys(pieces, 0)
    for number, record in enumerate(records[1:], start=2):
        kind = record["kind"]
        fields = _FIELDS.get(kind) if isinstance(kind, str) else None
        if fields is None or not all(_typed(record.get(name), of) for name, of in fields.items()):
            _refuse(path, number, "is not a ledger record of this version")
        if kind not in ("reserve", "spend"):
            continue
        piece = pieces.get(record["piece"])
        if piece is None:
            _refuse(path, number, "uses a piece that the plan does not have")
        if kind == "reserve":
            if record["count"] < 1 or record["first"] != reserved[piece.name]:
                _refuse(path, number, "reserves uses that do not follow those before")
            if not _within(record.get("clip"), piece, plan):
                _refuse(path, number, "clips to more than the sensitivity that the plan declares")
            reserved[piece.name] += record["count"]
        else:
            if not isinstance(piece.event, ZCDp) or record["step"] != spent[piece.name]:
                _refuse(path, number, "spends a use that does not follow those before")
            if not (math.isfinite(record["rho"]) and record["rho"] > 0):
                _refuse(path, number, "spends a use without a price")
            spent[piece.name] += 1
        if reserved[piece.name] > piece.count:
            _refuse(path, number, "reserves more than the plan authorises")


def _within(clip: Any, piece: Piece, plan: Plan) -> bool:
    """Whether a sum clipped to ``clip`` moves by no more than the piece's sensitivity."""
    if clip is None:
        return True
    factor = replace_factor(plan.relation, histogram=False)
    return _typed(clip, float) and 0 <= clip * factor <= piece.sensitivity


def _typed(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, (int, float)) if kind is float else isinstance(value, kind)


def _refuse(path: Path, number: int, what: str) -> NoReturn:
    raise RunError(f"{path.name} line {number} {what}. {RESTORE}")
