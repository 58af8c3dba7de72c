"""``dpforge-verify RUN``: epsilon from the ledger, with dp-accounting and the standard library alone."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from pathlib import Path
from typing import Any

from dp_accounting.pld import common
from dp_accounting.pld import privacy_loss_distribution as pld

GRID: Any = {"value_discretization_interval": 1e-4}
KINDS = {"reserve", "spend", "commit", "taint", "close"}
RHO: Any = {"gaussian": lambda e: 0.5 / e["noise_multiplier"] ** 2, "zcdp": lambda e: e["rho"]}
RHO["epsilon_delta"] = lambda e: e["epsilon"] ** 2 / 2  # costs in zCDP, and the orders of RDP for their sum
DAMAGED = (ValueError, LookupError, TypeError, ArithmeticError, AttributeError, RecursionError)
ORDERS = (*(1 + x / 10 for x in range(1, 100)), *range(12, 64), 96, 128, 256, 512, 1024)


class Wrong(Exception):
    """What does not hold, with the line of the ledger."""


def read_ledger(path: Path) -> tuple[list[dict[str, Any]], str]:
    """Return the records and the hash of the last line, after checking the chain."""
    records, last = [], "0" * 64
    for number, line in enumerate((text := path.read_bytes().decode()).split("\n")[:-1], start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise Wrong(f"line {number}: not JSON ({error.msg})") from error
        if not isinstance(record, dict) or (record.get("previous"), record.get("seq")) != (last, number - 1):
            raise Wrong(f"line {number}: does not continue the line before (altered, removed or inserted)")
        records.append(record)
        last = hashlib.sha256(line.encode()).hexdigest()
    if text.endswith("\n") and records and records[0].get("kind") == "header":
        return records, last
    raise Wrong("line 1: no header, or the last line does not end")


def check_reservations(records: list[dict[str, Any]]) -> list[tuple[dict[str, Any], int]]:
    """Return (event, uses) of every piece, after comparing reservations with the authorised plan."""
    pieces = {piece["name"]: piece for piece in records[0]["plan"]["pieces"]}
    kinds = {record["kind"] for record in records[1:]}
    if len(pieces) < len(records[0]["plan"]["pieces"]) or "close" not in kinds or kinds - KINDS:
        raise Wrong(f"ledger: repeated pieces, no close, or records other than {sorted(KINDS)}")
    used, spent, keys = dict.fromkeys(pieces, 0), dict.fromkeys(pieces, 0.0), set()
    costly = [(n, r) for n, r in enumerate(records, start=1) if r["kind"] in ("reserve", "spend")]
    for number, record in costly:
        keys.add(record["key_id"])
        if (piece := pieces.get(name := record["piece"])) is None:
            raise Wrong(f"line {number}: '{name}' is not in the plan")
        if record["kind"] == "spend":  # uses inside a zCDP reservation, which covers their sum
            spent[name] += record["rho"]
            if not (record["rho"] > 0 and spent[name] <= piece["event"]["rho"] * used[name]):
                raise Wrong(f"line {number}: '{name}' spends more than was reserved")
            continue
        for field in ("event", "sensitivity", "mechanism"):
            if record[field] != piece[field]:
                raise Wrong(f"line {number}: {field} differs from the plan")
        if record["first"] != used[name] or record["count"] < 1:
            raise Wrong(f"line {number}: uses {record['first']}… do not follow use {used[name]}")
        used[name] += record["count"]
    for name, piece in pieces.items():
        if used[name] != piece["count"]:
            raise Wrong(f"'{name}' was reserved {used[name]} times, the plan says {piece['count']}")
    if len(keys) > 1:
        raise Wrong("noise came from more than one key")
    return [(pieces[name]["event"], uses) for name, uses in used.items()]


def event_pld(event: dict[str, Any], uses: int) -> Any:
    """Return the privacy loss distribution of ``uses`` times ``event``."""
    kind, inner = event["type"], event.get("event", event)
    if kind == "gaussian":
        return pld.from_gaussian_mechanism(inner["noise_multiplier"] / math.sqrt(uses), **GRID)
    if kind == "poisson_sampled" and inner["type"] == "gaussian":
        q = event["sampling_rate"]
        one = pld.from_gaussian_mechanism(inner["noise_multiplier"], sampling_prob=q, **GRID)
    elif kind == "laplace":
        one = pld.from_laplace_mechanism(inner["noise_multiplier"], **GRID)
    elif kind == "epsilon_delta":
        brick = common.DifferentialPrivacyParameters(event["epsilon"], event["delta"])
        one = pld.from_privacy_parameters(brick, **GRID)
    else:
        raise Wrong(f"event of type {kind!r} cannot be certified by this program")
    return one.self_compose(uses) if uses > 1 else one


def recompute(records: list[dict[str, Any]]) -> float:
    """Return the epsilon of everything reserved, at the header's delta; ``inf`` if something had no noise."""
    total, delta, used = pld.identity(**GRID), records[0]["plan"]["delta"], check_reservations(records)
    inner = [event.get("event", event) for event, _ in used]
    if any(event["type"] == "non_private" or event.get("noise_multiplier", 1) == 0 for event in inner):
        return math.inf
    if any(event["type"] == "zcdp" for event, _ in used):  # which PLD cannot certify
        rho = sum(uses * RHO[event["type"]](event) for event, uses in used)
        delta -= sum(uses * event.get("delta", 0) for event, uses in used)
        bounds = (rho * a + math.log1p(-1 / a) - math.log(delta * a) / (a - 1) for a in ORDERS)
        return min(bounds) if delta > 0 else math.inf
    for event, uses in used:
        total = total.compose(event_pld(event, uses))
    return float(total.get_epsilon_for_delta(delta))


def compare(run: Path) -> str:
    """Check one run folder; return the sentence to print, raise :class:`Wrong` if something differs."""
    records, last = read_ledger(run / "ledger.jsonl")
    certificate = json.loads((run / "certificate.json").read_text(encoding="utf-8"))
    plan, rng, epsilon = records[0]["plan"], records[0]["rng"], recompute(records)
    status = "NOT DP" if math.isinf(epsilon) else "RESEARCH NOISE" if rng == "seeded" else "DP"
    taints = [(record["sink"], record["name"]) for record in records if record["kind"] == "taint"]
    sinks = {sink: list(dict.fromkeys(name for to, name in taints if to == sink)) for sink, _ in taints}
    expected = {name: plan[name] for name in ("delta", "relation", "unit", "target_epsilon", "pieces")}
    expected |= {"rng": rng, "status": status, "tainted_sinks": sinks, "ledger_hash": last}
    for field, value in expected.items():
        if certificate[field] != value:
            raise Wrong(f"certificate: {field}={certificate[field]!r}, the ledger says {value!r}")
    stated = math.inf if certificate["epsilon"] is None else float(certificate["epsilon"])
    if not (stated == epsilon or abs(stated - epsilon) <= 1e-6):
        raise Wrong(f"certificate: epsilon={stated}, the ledger gives {epsilon}")
    for name, digest in certificate["files"].items():
        if (path := run / name).is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise Wrong(f"{name}: is not the file the certificate was issued for")
    if status == "NOT DP":
        return f"{run.name}: NOT DP (an access without noise), as its certificate says"
    about = f"at delta {plan['delta']:g} ({plan['unit']}-level, {plan['relation']})"
    label = "" if status == "DP" else f"{status}: "
    return f"{run.name}: {label}epsilon {epsilon:.6f} {about}, equal to the certificate"


def main(arguments: list[str] | None = None) -> None:
    """Command line: one line a run; exit code 1 if any run does not verify."""
    parser = argparse.ArgumentParser("dpforge-verify", description="Recompute epsilon from a ledger.")
    parser.add_argument("run", nargs="+", type=Path, help="run folder with ledger.jsonl and certificate.json")
    failed = False
    for run in parser.parse_args(arguments).run:
        try:
            print(compare(run))
        except (Wrong, OSError, *DAMAGED) as error:
            failed = True
            print(f"{run.name}: WRONG, {type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
