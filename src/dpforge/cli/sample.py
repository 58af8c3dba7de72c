"""``dpforge-sample RUN -n ROWS --out FILE``: more rows of a finished run; costs no privacy."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dpforge.cli.errors import clean_errors
from dpforge.errors import RunError


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exits with 2 when it is refused."""
    arguments = _parser().parse_args(argv)
    with clean_errors():
        _sample(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dpforge-sample", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument("-n", "--rows", type=int, required=True, help="how many rows, any number")
    parser.add_argument("--out", type=Path, required=True, help="a .parquet, .csv or .csv.gz file")
    parser.add_argument("--seed", type=int, default=0, help="public seed of the draws (default: 0)")
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")
    return parser


def _sample(arguments: argparse.Namespace) -> None:
    if not arguments.run.is_dir():
        raise RunError(f"'{arguments.run}' is not a run folder. Name one, such as outputs/<study>/<run>.")
    from dpforge.experiment.sampling import sample_rows

    sample_rows(arguments.run, arguments.rows, arguments.out, seed=arguments.seed, overwrite=arguments.force)
    print(f"{arguments.out}: {arguments.rows:,} rows ({_stated(arguments.run)})")


def _stated(run: Path) -> str:
    """What the rows may claim: never an epsilon without the warning that belongs to it."""
    from dpforge.experiment.display import warning_line
    from dpforge.experiment.rundir import RunDir

    folder = RunDir(run)
    certificate = folder.read_json(folder.certificate)
    facts = {"epsilon": certificate["epsilon"], "rng": certificate["rng"]}
    spent = f"ε {certificate['epsilon'] or 0:.4g} at δ {certificate['delta']:g}, as the run's own rows"
    return warning_line(facts) or spent


if __name__ == "__main__":
    main()
