"""``python -m tests.faults``: inject faults into runs of every generator; print injected and survived."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import time
from collections import Counter, defaultdict
from dataclasses import asdict

from .cells import Cell, Lab, Outcome, catalogue, scratch_folder
from .generators import WORDS
from .selection import SELECTION
from .warming import warm


def main() -> int:
    """Run the cells; exit code 1 if a promise was broken."""
    options = _options()
    names = options.generator or list(WORDS)
    scratch = scratch_folder()
    begin = time.monotonic()
    try:
        warm(names, scratch)
        lab = Lab(scratch)
        cells = SELECTION if options.selection else _drawn(lab, names, options)
        outcomes = _run(lab, cells, begin + options.minutes * 60, verbose=options.verbose)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if options.json:
        print(json.dumps([asdict(outcome) for outcome in outcomes]))
    else:
        _print(outcomes, len(cells), time.monotonic() - begin)
    return int(any(outcome.ended == "BROKEN" for outcome in outcomes))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.faults", description=__doc__)
    parser.add_argument("--cells", type=int, default=1000, help="how many faults to inject")
    parser.add_argument("--generator", action="append", choices=list(WORDS), help="only this; repeatable")
    parser.add_argument("--seed", type=int, default=0, help="which faults are drawn, and when they happen")
    parser.add_argument("--family", action="append", help="only faults of this family; repeatable")
    parser.add_argument("--minutes", type=float, default=60, help="begin no further cell after this time")
    parser.add_argument("--selection", action="store_true", help="the short list of the test-suite")
    parser.add_argument("--json", action="store_true", help="print the outcomes as JSON")
    parser.add_argument("--verbose", action="store_true", help="print every cell")
    return parser.parse_args()


def _drawn(lab: Lab, names: list[str], options: argparse.Namespace) -> list[Cell]:
    """Draw cells without repetition, one generator after the other in turn; the seed moves each round."""
    chance = random.Random(options.seed)
    piles = {}
    for name in names:
        faults = catalogue(lab.prepared(name).passed)
        faults = [fault for fault in faults if not options.family or fault[0] in options.family]
        piles[name] = chance.sample(faults, len(faults))
    cells, turn = [], 0
    while len(cells) < options.cells and any(piles.values()):
        for name, pile in piles.items():
            family, what = pile[turn % len(pile)]
            cells.append(Cell(name, family, what, options.seed + turn // len(pile)))
        turn += 1
    return cells[: options.cells]


def _run(lab: Lab, cells: list[Cell], deadline: float, *, verbose: bool) -> list[Outcome]:
    outcomes = []
    for number, cell in enumerate(cells, start=1):
        if time.monotonic() > deadline:
            break
        outcome = lab.run(cell)
        outcomes.append(outcome)
        if verbose or outcome.ended == "BROKEN":
            where = f"[{number}/{len(cells)}] {cell.name} ({outcome.seconds:.1f} s): {outcome.ended}"
            print(where, outcome.codes, outcome.problem, file=sys.stderr, flush=True)
    return outcomes


def _print(outcomes: list[Outcome], wanted: int, seconds: float) -> None:
    hit = [outcome for outcome in outcomes if outcome.ended != "not hit"]
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in hit:
        for row in (outcome.cell.generator, "all"):
            for column in (outcome.cell.family, "all"):
                table[row][column + " injected"] += 1
                table[row][column + " survived"] += outcome.ended != "BROKEN"
    families = [*dict.fromkeys(outcome.cell.family for outcome in hit), "all"]
    print("survived / injected".ljust(20) + "".join(name.rjust(19) for name in families))
    for row, counts in sorted(table.items(), key=lambda item: (item[0] == "all", item[0])):
        shown = (f"{counts[f + ' survived']} / {counts[f + ' injected']}" for f in families)
        print(row.ljust(20) + "".join(text.rjust(19) for text in shown))
    print("\nends:", ", ".join(f"{n} {name}" for name, n in Counter(o.ended for o in hit).most_common()))
    codes = Counter(code for outcome in hit for code in outcome.codes)
    print("exit codes of attempts:", ", ".join(f"{code}: {n}" for code, n in sorted(codes.items())))
    absent = len(outcomes) - len(hit)
    print(f"{len(hit)} faults in {seconds:.0f} s; {absent} had nothing to damage; {wanted} asked for")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
