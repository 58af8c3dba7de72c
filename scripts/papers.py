"""Reproduce published tables: run each setting's sweep and set the published figures beside ours.

run: python scripts/papers.py [PAPER ...] [--set KEY=VALUE]        make papers

Without names it runs the variants that end on two cores: finished runs are skipped, so a second call goes on
where the first one stopped. A data set that can be fetched from nowhere is said and left out.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dpforge.config import build, compose
from dpforge.configuration.places import experiments_dir
from dpforge.errors import DataError, did_you_mean

# Published figures by the first part of a paper's name; mostly/census has a file of its own.
EXPECTED = {"mostly": "mostly_census"}
SMALL = (
    "dp_maf/adult",
    "dp_maf/power",
    "dp_maf/pums",
    "mostly/census",
    "dpwgan/simple",
    "dpwgan/census",
    "dpwgan/mnist_small",
    "private_evolution/cat_cookie_small",
    "private_evolution/cat_doudou_small",
    "private_evolution/camelyon17_small",
    "private_evolution/cifar10_small",
    "private_evolution/cifar10_unconditional_small",
    "private_evolution/mnist_small",
    "dp_imgsyn/mnist_small",
    "dp_imgsyn/fashion_mnist_small",
    "dp_imgsyn/cifar10_small",
)


@dataclass(frozen=True)
class Outcome:
    """What became of one paper's sweep."""

    paper: str
    state: str
    seconds: float
    report: Path | None


def papers() -> list[str]:
    """Return every published setting, by name."""
    folder = experiments_dir() / "paper"
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def reproduce(paper: str, overrides: Sequence[str]) -> Outcome:
    """Run one sweep and write its report; a finished run is not run again."""
    begin = time.perf_counter()
    words = [f"paper={paper}", *overrides]
    config = compose(words)
    try:
        build(config).dataset.load()
    except DataError as error:
        print(error, file=sys.stderr)
        return Outcome(paper, "data not at hand", time.perf_counter() - begin, None)
    failed = _call("dpforge.cli.main", "-m", *words)
    study = Path(str(config.output_root)) / str(config.study)
    source = paper.split("/")[0]
    expected = experiments_dir() / "expected" / f"{EXPECTED.get(source, source)}.csv"
    reported = _call("dpforge.cli.report", str(study), "--expected", str(expected))
    state = "a run failed" if failed else "no report" if reported else "ok"
    page = study / "report" / "index.html"
    return Outcome(paper, state, time.perf_counter() - begin, page if page.is_file() else None)


def main(argv: Sequence[str] | None = None) -> int:
    """Reproduce the papers that were named, or the small ones; returns 1 if anything failed."""
    parser = argparse.ArgumentParser(description="Reproduce published tables on the hardware at hand.")
    parser.add_argument("papers", nargs="*", metavar="PAPER", help="such as dp_maf/adult; none: small ones")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for all of them")
    args = parser.parse_args(argv)
    known = papers()
    unknown = [name for name in args.papers if name not in known]
    if unknown:
        parser.error(f"no paper {unknown[0]}.{did_you_mean(unknown[0], known)} There are: {', '.join(known)}")
    outcomes = [reproduce(paper, args.set) for paper in args.papers or SMALL]
    _print(outcomes)
    return int(any(outcome.state not in ("ok", "data not at hand") for outcome in outcomes))


def _call(module: str, *words: str) -> int:
    return subprocess.run([sys.executable, "-m", module, *words], check=False).returncode


def _print(outcomes: Sequence[Outcome]) -> None:
    table = Table("paper", "state", "minutes", "report", title="Published tables, ours beside them")
    for outcome in outcomes:
        page = "-" if outcome.report is None else str(outcome.report)
        table.add_row(outcome.paper, outcome.state, f"{outcome.seconds / 60:.1f}", page)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
