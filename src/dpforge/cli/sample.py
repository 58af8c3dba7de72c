"""``dpforge-sample RUN``: more rows or images of a finished run, also with given cells; costs no privacy."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpforge.cli.errors import clean_errors
from dpforge.errors import ConfigError, RunError

if TYPE_CHECKING:
    from dpforge.experiment.conditional import Written

_EPILOG = """\
dpforge-sample RUN -n 100000 --out more.parquet
dpforge-sample RUN -n 1000 --out more.npz
dpforge-sample RUN -n 1000 --temperature 0.7 --out likelier.csv
dpforge-sample RUN -n 1000 --balance '{"income": {">50K": 0.5}}' --out balanced.csv
dpforge-sample RUN --given rows.csv --out completed.csv
dpforge-sample RUN --impute table.csv --draws 5 --out filled.csv
dpforge-sample RUN --predict income --given rows.csv --out shares.csv

Only -n alone works with every model; the other options need one that can be given cells (tabular_argn).
"""
_SHARES = '\'{"column": {"value": share}}\', such as \'{"income": {">50K": 0.5}}\''
LONGEST_SHOWN = 200


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exits with 2 when it is refused."""
    arguments = _parser().parse_args(argv)
    with clean_errors():
        _sample(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dpforge-sample",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument("-n", "--rows", type=int, help="how many rows or images, any number")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="a .parquet, .csv or .csv.gz file; of a run that makes images a .npz file or a folder",
    )
    parser.add_argument("--seed", type=int, default=0, help="public seed of the draws (default: 0)")
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")
    drawing = parser.add_argument_group("how rows are drawn, with -n (the first two also with --given)")
    drawing.add_argument(
        "--temperature", type=float, metavar="T", help="below 1 for likelier rows, above for more varied ones"
    )
    drawing.add_argument(
        "--top-p", type=float, metavar="P", help="draw only the likeliest values, up to this mass"
    )
    drawing.add_argument(
        "--balance", metavar="JSON", help="shares of the values of one column, as {column: {value: share}}"
    )
    files = parser.add_argument_group("from a table of yours; what is written is as private as that table")
    files.add_argument(
        "--given", type=Path, metavar="FILE", help="one row for each of its rows: cells kept, others drawn"
    )
    files.add_argument("--impute", type=Path, metavar="FILE", help="fill its missing cells given the others")
    files.add_argument(
        "--draws", type=int, metavar="K", help="imputed tables: OUT with -1 to -K (default: 1)"
    )
    files.add_argument(
        "--predict",
        metavar="COLUMN",
        help="the probability of each of its values, given the cells of --given",
    )
    files.add_argument("--separator", help="separator of a CSV, or 'tab' (default: ,)")
    files.add_argument("--encoding", help="text encoding of a CSV (default: utf-8)")
    return parser


def _sample(arguments: argparse.Namespace) -> None:
    mistakes = argument_mistakes(arguments)
    if mistakes:
        raise ConfigError(mistakes)
    shares = None if arguments.balance is None else parse_shares(arguments.balance)
    if not arguments.run.is_dir():
        raise RunError(f"'{arguments.run}' is not a run folder. Name one, such as outputs/<study>/<run>.")
    file = arguments.given or arguments.impute
    if file is not None:
        _print(_from_file(arguments, file), _as_private_as(file, arguments.run))
    elif shares is not None or _tempered(arguments):
        _print(_from_model(arguments, shares), _stated(arguments.run))
    else:
        _more_rows(arguments)


def argument_mistakes(arguments: argparse.Namespace) -> list[str]:
    """Return which of the parsed options are missing or do not go together."""
    given = {name for name, value in vars(arguments).items() if value is not None}
    mistakes = [
        f"--{one} and --{other} do not go together. Use two commands."
        for one, other in (
            ("given", "impute"), ("given", "balance"), ("impute", "balance"),
            ("predict", "impute"), ("predict", "balance"),
        )
        if {one, other} <= given
    ]  # fmt: skip
    if "predict" in given and "given" not in given:
        mistakes.append("--predict needs the other cells of each row: add --given FILE.")
    mistakes += _row_mistakes(given)
    for name in ("temperature", "top_p"):
        other = next((mode for mode in ("predict", "impute", "balance") if mode in given), None)
        if name in given and other:
            mistakes.append(f"--{name.replace('_', '-')} does not go with --{other}; leave it out.")
    if "draws" in given and "impute" not in given:
        mistakes.append("--draws goes with --impute FILE only.")
    if not given & {"given", "impute"}:
        mistakes += [
            f"--{name} describes a file to read: it goes with --given or --impute."
            for name in ("separator", "encoding")
            if name in given
        ]
    return mistakes


def _row_mistakes(given: set[str]) -> list[str]:
    file = next((name for name in ("given", "impute") if name in given), None)
    if file and "rows" in given:
        return [f"-n does not go with --{file}, which writes one row for each row of its file; leave it out."]
    if file or "rows" in given or "predict" in given:
        return []
    return ["the number of rows is missing: add -n ROWS, or name a table with --given or --impute."]


def parse_shares(text: str) -> dict[str, dict[str, float]]:
    """Read ``{column: {value: share}}`` from JSON, which can spell every name and value.

    Raises:
        ConfigError: The text is something else, names a key twice, or does not name one column.
    """
    shown = text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"
    try:
        found = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--balance {shown}: {error}. Expected JSON: {_SHARES}.") from None
    columns = list(found.values()) if isinstance(found, dict) else []
    if len(columns) != 1 or not isinstance(columns[0], dict) or not columns[0]:
        raise ConfigError(f"--balance {shown}: expected the shares of one column: {_SHARES}.")
    if any(isinstance(share, bool) or not isinstance(share, int | float) for share in columns[0].values()):
        raise ConfigError(f"--balance {shown}: expected numbers in [0, 1] as shares: {_SHARES}.")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name stands twice")
    return dict(pairs)


def _more_rows(arguments: argparse.Namespace) -> None:
    from dpforge.experiment.rundir import RunDir
    from dpforge.experiment.sampling import sample_rows
    from dpforge.experiment.sampling_images import makes_images, sample_images

    images = makes_images(RunDir(arguments.run))
    write = sample_images if images else sample_rows
    write(arguments.run, arguments.rows, arguments.out, seed=arguments.seed, overwrite=arguments.force)
    what = "images" if images else "rows"
    print(f"{arguments.out}: {arguments.rows:,} {what} ({_stated(arguments.run)})")


def _tempered(arguments: argparse.Namespace) -> dict[str, float]:
    chosen = {"temperature": arguments.temperature, "top_p": arguments.top_p}
    return {name: value for name, value in chosen.items() if value is not None}


def _from_model(arguments: argparse.Namespace, shares: dict[str, dict[str, float]] | None) -> Written:
    from dpforge.experiment import conditional

    job = _job(arguments)
    if shares is not None:
        return conditional.balanced(job, arguments.rows, shares)
    return conditional.tempered(job, arguments.rows, **_tempered(arguments))


def _from_file(arguments: argparse.Namespace, file: Path) -> Written:
    from dpforge.experiment import conditional
    from dpforge.experiment.given import Cells

    job = _job(arguments)
    cells = Cells(file, arguments.separator or ",", arguments.encoding or "utf-8")
    if arguments.predict is not None:
        return conditional.predicted(job, cells, arguments.predict)
    if arguments.impute is not None:
        return conditional.imputed(job, cells, draws=1 if arguments.draws is None else arguments.draws)
    return conditional.completed(job, cells, **_tempered(arguments))


def _job(arguments: argparse.Namespace) -> Any:
    from dpforge.experiment.conditional import Job

    return Job(arguments.run, arguments.out, arguments.seed, arguments.force)


def _print(written: Written, stated: str) -> None:
    for file in written.files:
        print(f"{file}: {written.rows:,} rows")
    print(stated)


def _as_private_as(file: Path, run: Path) -> str:
    """What a table with cells of a file may claim: nothing beyond that file."""
    warning = _warning(run)
    text = f"As private as {file}, whose cells it is made of: the run's certificate covers the model only."
    return f"{text} {warning}" if warning else text


def _warning(run: Path) -> str:
    from dpforge.experiment.display import warning_line

    return warning_line(_certificate(run))


def _stated(run: Path) -> str:
    """What the rows may claim: never an epsilon without the warning that belongs to it."""
    certificate = _certificate(run)
    spent = f"ε {certificate['epsilon'] or 0:.4g} at δ {certificate['delta']:g}, as the run's own rows"
    return _warning(run) or spent


def _certificate(run: Path) -> dict[str, Any]:
    from dpforge.experiment.rundir import RunDir

    folder = RunDir(run)
    certificate = folder.read_json(folder.certificate)
    return {name: certificate[name] for name in ("epsilon", "delta", "rng")}


if __name__ == "__main__":
    main()
