"""Recompute a run's epsilon from its ledger alone: ``dpforge-verify RUN`` or ``python verify.py RUN``.

Independent of the rest of dpforge: this file imports dp-accounting and the standard library, so a stranger
can copy it next to a run folder and check the certificate.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import sys
from pathlib import Path
from typing import Any

from dp_accounting.pld import common
from dp_accounting.pld import privacy_loss_distribution as pld

GRID: Any = {"value_discretization_interval": 1e-4}
TOLERANCE = 1e-6


class Wrong(Exception):
    """What does not hold, with the line of the ledger."""


def read_ledger(path: Path) -> tuple[list[dict[str, Any]], str]:
    """Return the records and the hash of the last line, after checking the chain."""
    records: list[dict[str, Any]] = []
    last = "0" * 64
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise Wrong(f"line {number}: not JSON ({error.msg})") from error
        if not isinstance(record, dict) or record.get("previous") != last:
            raise Wrong(f"line {number}: does not continue the line before (altered, removed or inserted)")
        if record.get("seq") != number - 1:
            raise Wrong(f"line {number}: sequence number {record.get('seq')}, expected {number - 1}")
        records.append(record)
        last = hashlib.sha256(line.encode()).hexdigest()
    if not records or records[0].get("kind") != "header":
        raise Wrong("line 1: no header")
    return records, last


def check_reservations(records: list[dict[str, Any]]) -> list[tuple[dict[str, Any], int]]:
    """Return (event, uses) of every piece, after comparing reservations with the authorised plan."""
    pieces = {piece["name"]: piece for piece in records[0]["plan"]["pieces"]}
    used = dict.fromkeys(pieces, 0)
    keys = set()
    for number, record in enumerate(records, start=1):
        if record["kind"] != "reserve":
            continue
        piece = pieces.get(record["piece"])
        if piece is None:
            raise Wrong(f"line {number}: '{record['piece']}' is not in the plan")
        for field in ("event", "sensitivity", "mechanism"):
            if record[field] != piece[field]:
                raise Wrong(f"line {number}: {field} differs from the plan")
        if record["first"] != used[record["piece"]] or record["count"] < 1:
            raise Wrong(f"line {number}: uses {record['first']}… do not follow use {used[record['piece']]}")
        used[record["piece"]] += record["count"]
        keys.add(record["key_id"])
    for name, piece in pieces.items():
        if used[name] != piece["count"]:
            raise Wrong(f"'{name}' was reserved {used[name]} times, the plan says {piece['count']}")
    if len(keys) > 1:
        raise Wrong("noise came from more than one key")
    return [(pieces[name]["event"], uses) for name, uses in used.items()]


def event_pld(event: dict[str, Any], uses: int) -> Any:
    """Return the privacy loss distribution of ``uses`` times ``event``; ``None`` if it is not private."""
    kind, rate = event["type"], None
    if kind == "poisson_sampled":
        event, rate = event["event"], float(event["sampling_rate"])
        if event["type"] != "gaussian":
            raise Wrong(f"sampled event of type {event['type']!r}")
        kind = "gaussian"
    if kind == "non_private" or event.get("noise_multiplier", 1) == 0:
        return None
    if kind == "gaussian" and rate is None:
        return pld.from_gaussian_mechanism(event["noise_multiplier"] / math.sqrt(uses), **GRID)
    if rate is not None:
        one = pld.from_gaussian_mechanism(event["noise_multiplier"], sampling_prob=rate, **GRID)
    elif kind == "laplace":
        one = pld.from_laplace_mechanism(event["noise_multiplier"], **GRID)
    elif kind == "epsilon_delta":
        brick = common.DifferentialPrivacyParameters(event["epsilon"], event["delta"])
        one = pld.from_privacy_parameters(brick, **GRID)
    else:
        raise Wrong(f"event of type {kind!r} cannot be certified by this program")
    return one.self_compose(uses) if uses > 1 else one


def recompute(records: list[dict[str, Any]]) -> float:
    """Return the epsilon of everything reserved, at the header's delta; ``inf`` if something had no noise."""
    total = pld.identity(**GRID)
    for event, uses in check_reservations(records):
        one = event_pld(event, uses)
        if one is None:
            return math.inf
        total = total.compose(one)
    return float(total.get_epsilon_for_delta(records[0]["plan"]["delta"]))


def compare(run: Path) -> str:
    """Check one run folder; return the sentence to print, raise :class:`Wrong` if something differs."""
    records, last = read_ledger(run / "ledger.jsonl")
    certificate = json.loads((run / "certificate.json").read_text(encoding="utf-8"))
    epsilon = recompute(records)
    if certificate["ledger_hash"] != last:
        raise Wrong(f"line {len(records)}: is not the line the certificate was issued for")
    for field in ("delta", "relation", "unit"):
        said, planned = certificate[field], records[0]["plan"][field]
        if said != planned:
            raise Wrong(f"certificate: {field}={said!r}, the ledger says {planned!r}")
    stated = math.inf if certificate["epsilon"] is None else float(certificate["epsilon"])
    if not (stated == epsilon or abs(stated - epsilon) <= TOLERANCE):
        raise Wrong(f"certificate: epsilon={stated}, the ledger gives {epsilon}")
    status = "NOT DP" if math.isinf(epsilon) else "RESEARCH NOISE" if records[0]["rng"] == "seeded" else "DP"
    if certificate["status"] != status:
        raise Wrong(f"certificate: status={certificate['status']!r}, the ledger says {status!r}")
    if math.isinf(epsilon):
        return f"{run.name}: NOT DP (an access without noise), as its certificate says"
    about = f"at delta {certificate['delta']:g} ({certificate['unit']}-level, {certificate['relation']})"
    label = "" if status == "DP" else f"{status}: "
    return f"{run.name}: {label}epsilon {epsilon:.6f} {about}, equal to the certificate"


def main(arguments: list[str] | None = None) -> None:
    """Command line: one line a run; exit code 1 if any run does not verify."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(prog="dpforge-verify", description="Recompute epsilon from a ledger.")
    parser.add_argument("run", nargs="+", type=Path, help="run folder with ledger.jsonl and certificate.json")
    failed = False
    for run in parser.parse_args(arguments).run:
        try:
            print(compare(run))
        except (Wrong, OSError, ValueError, KeyError, TypeError) as error:
            failed = True
            print(f"{run.name}: WRONG, {type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
