"""``dpforge-verify RUN``: epsilon from the ledger, with dp-accounting and the standard library alone."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from pathlib import Path
from typing import Any

from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.pld.common import DifferentialPrivacyParameters as Brick

GRID: Any = {"value_discretization_interval": 1e-4}
ORDERS = (*(1 + x / 10 for x in range(1, 100)), *range(12, 64), 96, 128, 256, 512, 1024)
RHO: Any = {"gaussian": lambda e: 0.5 / e["noise_multiplier"] ** 2, "zcdp": lambda e: e["rho"]}
RHO["epsilon_delta"] = lambda e: e["epsilon"] ** 2 / 2  # costs in zCDP, and the orders of RDP for their sum
FIELDS = {"gaussian": "noise_multiplier", "laplace": "noise_multiplier", "zcdp": "rho", "non_private": ""}
FIELDS |= {"epsilon_delta": "epsilon delta", "poisson_sampled": "sampling_rate event"}


class Wrong(Exception):
    """What does not hold, with the line of the ledger."""


def demand(held: bool, what: str) -> None:
    if not held:
        raise Wrong(what)


def read_ledger(path: Path) -> tuple[list[dict[str, Any]], str]:
    """Return the records and the hash of the last line, after checking the chain."""
    records, last, text = [], "0" * 64, path.read_bytes().decode()
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        records.append(record := json.loads(line))
        demand((record["previous"], record["seq"]) == (last, number - 1), f"line {number}: altered or moved")
        last = hashlib.sha256(line.encode()).hexdigest()
    demand(text.endswith("\n") and records[0]["kind"] == "header", "line 1: no header, or no end of the last")
    return records, last


def sound(event: dict[str, Any]) -> bool:
    """Whether an event has the fields of its type and no others, each in its range."""
    fields, tops = FIELDS[event["type"]].split(), {"sampling_rate": 1, "delta": math.nextafter(1, 0)}
    numbers = [(name, event[name], tops.get(name, 1e308)) for name in fields if name != "event"]
    held = all(type(x) in (int, float) and 0 <= x <= top and (x or n == "delta") for n, x, top in numbers)
    held = held and ("event" not in event or (event["event"]["type"] == "gaussian" and sound(event["event"])))
    return held and set(event) == {"type", *fields}


def check_reservations(records: list[dict[str, Any]]) -> list[tuple[dict[str, Any], int]]:
    """Return (event, uses) of every piece, after comparing reservations with the authorised plan."""
    plan, moves = records[0]["plan"], {"add_remove": 1, "zero_out": 1, "replace": 2}  # a sum by so many clips
    pieces = {piece["name"]: piece for piece in plan["pieces"]}
    for name, piece in pieces.items():
        held = piece["mechanism"] != "none" and 0 < piece["sensitivity"] < math.inf
        held = (held or piece["event"]["type"] == "non_private") and sound(piece["event"])
        demand(held and type(n := piece["count"]) is int and n >= 1, f"plan: '{name}' is no possible piece")
    used, spent = dict.fromkeys(pieces, 0), dict.fromkeys(pieces, 0.0)
    costly = [(n, r) for n, r in enumerate(records[1:], 2) if r["kind"] not in ("commit", "taint", "close")]
    for number, record in costly:
        piece = pieces[name := record["piece"]]
        if record["kind"] == "spend":  # uses inside a zCDP reservation, which covers their sum
            spent[name] += record["rho"]
            held = record["rho"] > 0 and spent[name] <= piece["event"]["rho"] * used[name]
            demand(held, f"line {number}: '{name}' spends more than was reserved")
            continue
        held = all(record[field] == piece[field] for field in ("event", "sensitivity", "mechanism"))
        held = held and 0 <= record.get("clip", 0) * moves[plan["relation"]] <= piece["sensitivity"]
        held = held and record["first"] == used[name] and record["count"] >= 1 and record["kind"] == "reserve"
        demand(held, f"line {number}: differs from the plan, or does not follow use {used[name]} of '{name}'")
        used[name] += record["count"]
    demand(all(used[name] == pieces[name]["count"] for name in pieces), f"{used}: not as often as planned")
    held = len(pieces) == len(plan["pieces"]) and len({record["key_id"] for _, record in costly}) <= 1
    demand(held and 0 < plan["delta"] < 1 and "close" in [r["kind"] for r in records], "keys, delta or close")
    return [(pieces[name]["event"], uses) for name, uses in used.items()]


def event_pld(event: dict[str, Any], uses: int) -> Any:
    """Return the privacy loss distribution of ``uses`` times ``event``."""
    if event["type"] == "epsilon_delta":
        return pld.from_privacy_parameters(Brick(event["epsilon"], event["delta"]), **GRID).self_compose(uses)
    if event["type"] == "laplace":
        return pld.from_laplace_mechanism(event["noise_multiplier"], **GRID).self_compose(uses)
    if event["type"] == "gaussian":
        return pld.from_gaussian_mechanism(event["noise_multiplier"] / math.sqrt(uses), **GRID)
    sigma, q = event["event"]["noise_multiplier"], event["sampling_rate"]
    return pld.from_gaussian_mechanism(sigma, sampling_prob=q, **GRID).self_compose(uses)


def recompute(records: list[dict[str, Any]]) -> float:
    """Return the epsilon of everything reserved, at the header's delta; ``inf`` if something had no noise."""
    total, delta, used = pld.identity(**GRID), records[0]["plan"]["delta"], check_reservations(records)
    if any(event["type"] == "non_private" for event, _ in used):
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
    stated = json.loads((run / "certificate.json").read_text(encoding="utf-8"))
    head, plan, epsilon = records[0], records[0]["plan"], recompute(records)
    status = "NOT DP" if math.isinf(epsilon) else "RESEARCH NOISE" if head["rng"] == "seeded" else "DP"
    taints = [(record["sink"], record["name"]) for record in records if record["kind"] == "taint"]
    sinks = {sink: list(dict.fromkeys(name for to, name in taints if to == sink)) for sink, _ in taints}
    by = "rdp" if any(piece["event"]["type"] == "zcdp" for piece in plan["pieces"]) else "pld"
    claims = {"pld": None, "rdp": stated["epsilon_by_accountant"]["rdp"], by: stated["epsilon"]}
    expected = {**plan, "status": status, "tainted_sinks": sinks, "ledger_hash": last, "rng": head["rng"]}
    expected |= {"unit_details": head["unit"], "nominal_rows": head["nominal_rows"]}
    expected |= {"accountant_of_record": by, "epsilon_by_accountant": claims}
    for field, value in expected.items():
        demand(stated[field] == value, f"certificate: {field}={stated[field]!r}, the ledger says {value!r}")
    spent, bound = (math.inf if claims[name] is None else float(claims[name]) for name in (by, "rdp"))
    held = spent == epsilon or abs(spent - epsilon) <= 1e-6  # any bound above it is true
    demand(held and bound >= epsilon - 1e-6, f"epsilon={spent} (RDP {bound}), the ledger gives {epsilon}")
    names = {n for n in stated["files"] if (run / n.split("/")[0]).exists()}  # a folder may be left out
    for path in [run / "schema.json", *(run / "samples").rglob("*"), *(run / "model").glob("model.*")]:
        names |= {path.relative_to(run).as_posix()} if path.is_file() and path.suffix != ".tmp" else set()
    for name in sorted(names):
        digest = hashlib.sha256((run / name).read_bytes()).hexdigest()
        demand(digest == stated["files"].get(name), f"{name}: is not the file the certificate was issued for")
    about = f"at delta {plan['delta']:g} ({plan['unit']}-level, {plan['relation']})"
    return f"{run.name}: {status}: epsilon {epsilon:.6f} {about}, equal to the certificate"


def main(arguments: list[str] | None = None) -> None:
    """Command line: one line a run; exit code 1 if any run does not verify."""
    parser = argparse.ArgumentParser("dpforge-verify", description="Recompute epsilon from a ledger.")
    parser.add_argument("run", nargs="+", type=Path, help="run folder with ledger.jsonl and certificate.json")
    failed = False
    for run in parser.parse_args(arguments).run:
        try:
            print(compare(run))
        except Exception as error:  # whatever is in the folder
            failed = True
            print(f"{run.name}: WRONG, {type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
