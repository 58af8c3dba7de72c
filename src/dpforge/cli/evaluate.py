"""``dpforge-evaluate RUN...``: evaluate the samples of finished runs again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dpforge.cli.errors import FAILED, clean_errors, exit_code, report


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exits with 1 or 2 when a run could not be evaluated, after trying the others."""
    parser = argparse.ArgumentParser(prog="dpforge-evaluate", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run folder")
    arguments = parser.parse_args(argv)
    with clean_errors():
        sys.exit(max(_evaluate(path) for path in arguments.runs))


def _evaluate(path: Path) -> int:
    from dpforge.errors import RunError
    from dpforge.experiment.runner import evaluate

    try:
        if not path.is_dir():
            raise RunError(f"'{path}' is not a run folder. Name one, such as outputs/<study>/<run>.")
        outcome = evaluate(path)
    except Exception as error:
        report(error)
        return exit_code(error)
    print(f"{'ok' if outcome.ok else 'failed'} {outcome.path}")
    return 0 if outcome.ok else FAILED


if __name__ == "__main__":
    main()
