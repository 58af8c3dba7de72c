"""``dpforge-report PATH…``: one self-contained HTML page about a run, or about all runs of a study."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dpforge.cli.errors import clean_errors, exit_code, report
from dpforge.errors import ConfigError, RunError

_EPILOG = """\
dpforge-report outputs/my-study/dp_maf-adult-eps3-seed0-1fd7686846
dpforge-report outputs/paper-dp_maf-adult --expected experiments/expected/dp_maf.csv
dpforge-report outputs/my-study --public --out to-show

The pages hold their style, script and pictures; they open without a network. --public leaves out all that
was computed from real rows without noise."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exits with 1 or 2 when a report could not be written, after trying the others."""
    arguments = _parser().parse_args(argv)
    with clean_errors():
        _check(arguments)
        sys.exit(max(_report(path, arguments) for path in arguments.paths))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dpforge-report",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a run folder, or a study's")
    parser.add_argument("--public", action="store_true", help="leave out every value that was not charged")
    parser.add_argument(
        "--expected", type=Path, metavar="CSV", help="published numbers to set beside a study's"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write here, not to PATH/report")
    return parser


def _check(arguments: argparse.Namespace) -> None:
    mistakes = [
        f"'{path}' is not a folder. Name a run, such as outputs/<study>/<run>, or a study."
        for path in arguments.paths
        if not path.is_dir()
    ]
    names = [path.resolve().name for path in arguments.paths]
    if arguments.out is not None and len(set(names)) < len(names):
        mistakes.append("--out needs paths with different last parts. Use one command for each.")
    if arguments.expected is not None and not arguments.expected.is_file():
        mistakes.append(f"--expected {arguments.expected}: there is no such file.")
    if mistakes:
        raise ConfigError(mistakes)


def _report(path: Path, arguments: argparse.Namespace) -> int:
    try:
        print(_write(path, arguments))
    except Exception as error:
        report(error)
        return exit_code(error)
    return 0


def _write(path: Path, arguments: argparse.Namespace) -> Path:
    from dpforge.experiment.report.finished import is_run

    out = arguments.out
    if out is not None and len(arguments.paths) > 1:
        out = out / path.resolve().name
    if is_run(path):
        return _write_run(path, arguments, out)
    if not any(is_run(config.parent) for config in path.rglob("config.yaml")):
        raise RunError(f"'{path}' is neither a run nor a study: no run folder is in it. Name another.")
    return _write_study(path, arguments, out)


def _write_run(path: Path, arguments: argparse.Namespace, out: Path | None) -> Path:
    from dpforge.experiment.report.run_page import write_run

    if arguments.expected is not None:
        raise ConfigError(f"--expected compares studies, and '{path}' is one run. Name the folder above it.")
    return write_run(path, public=arguments.public, out=out)


def _write_study(path: Path, arguments: argparse.Namespace, out: Path | None) -> Path:
    from dpforge.experiment.report.files import write_study

    return write_study(path, public=arguments.public, expected=arguments.expected, out=out)


if __name__ == "__main__":
    main()
