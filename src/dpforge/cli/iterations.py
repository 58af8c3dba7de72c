"""``dpforge-iterations RUN…``: scores and pictures of every iteration of Private Evolution; private."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dpforge.cli.errors import clean_errors, exit_code, report
from dpforge.errors import RunError

if TYPE_CHECKING:
    from dpforge.experiment.iterations import IterationScores

_EPILOG = """\
dpforge-iterations outputs/my-study/private_evolution-mnist-eps1-seed0-0123456789
dpforge-iterations RUN --only 0 3 6 --images 1000

Extractors and classifiers are those of the run's own evaluation. The last row are as many real images.
"""
_PRIVATE = (
    "Scores are private: they were computed from the real images without noise. To choose a number of"
    " iterations by them is not covered by the run's epsilon."
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exits with 1 or 2 when a run could not be scored, after trying the others."""
    parser = argparse.ArgumentParser(
        prog="dpforge-iterations",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument("--only", nargs="+", type=int, metavar="T", help="these iterations (default: all)")
    parser.add_argument("--images", type=int, metavar="N", help="at most so many images of each")
    arguments = parser.parse_args(argv)
    if arguments.images is not None and arguments.images < 2:
        parser.error(f"--images {arguments.images}: expected at least 2")
    with clean_errors():
        sys.exit(max(_score(path, arguments) for path in arguments.runs))


def _score(run: Path, arguments: argparse.Namespace) -> int:
    from dpforge.experiment.iterations import score_iterations

    try:
        if not run.is_dir():
            raise RunError(f"'{run}' is not a run folder. Name one, such as outputs/<study>/<run>.")
        found = score_iterations(
            run, arguments.only, limit=arguments.images, report=lambda text: print(text, file=sys.stderr)
        )
    except Exception as error:
        report(error)
        return exit_code(error)
    _show(found)
    return 0


def _show(found: IterationScores) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(title=f"{found.images:,} images of each")
    for heading in ("iteration", *found.table.columns):
        table.add_column(heading, justify="right")
    for name, row in found.table.iterrows():
        table.add_row(str(name), *(f"{value:.4g}" for value in row))
    console.print(table)
    console.print(_PRIVATE, style="bold")
    console.print(f"{found.path}\n{found.picture}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
