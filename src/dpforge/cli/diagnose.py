"""``dpforge-diagnose RUN…``: latents and histograms of a finished run, drawn again; private."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dpforge.cli.errors import clean_errors, exit_code, report
from dpforge.errors import RunError

if TYPE_CHECKING:
    from dpforge.experiment.diagnostics import Diagnosis

_CAPTION = (
    "A fitting flow: mean 0, sd 1, p above .01, small correlations.\nErrors of the codec are invisible in u."
)
_PRIVATE = "Pictures and numbers are private: they were computed from the real rows without noise."


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exits with 1 or 2 when a run could not be diagnosed, after trying the others."""
    parser = argparse.ArgumentParser(prog="dpforge-diagnose", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="the folder of a finished run")
    arguments = parser.parse_args(argv)
    with clean_errors():
        sys.exit(max(_diagnose(path) for path in arguments.runs))


def _diagnose(run: Path) -> int:
    from dpforge.experiment.diagnostics import diagnose

    try:
        if not run.is_dir():
            raise RunError(f"'{run}' is not a run folder. Name one, such as outputs/<study>/<run>.")
        found = diagnose(run)
    except Exception as error:
        report(error)
        return exit_code(error)
    _show(run, found)
    return 0


def _show(run: Path, found: Diagnosis) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if found.dimensions:
        title = (
            f"Latents of {found.rows:,} held-out rows; largest |correlation| {found.largest_correlation:.3f}"
        )
        table = Table(title=title, caption=_CAPTION)
        table.add_column("dimension", overflow="fold")
        for heading in ("mean", "sd", "KS", "p"):
            table.add_column(heading, justify="right", no_wrap=True)
        for d in found.dimensions:
            numbers = (f"{d.mean:.3f}", f"{d.deviation:.3f}", f"{d.statistic:.3f}", f"{d.p_value:.2g}")
            table.add_row(d.name, *numbers)
        console.print(table)
    else:
        console.print("This model has no latents; the columns were drawn side by side.")
    console.print(_PRIVATE, style="bold")
    console.print(f"{len(found.pictures)} pictures: {run / 'plots'}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
