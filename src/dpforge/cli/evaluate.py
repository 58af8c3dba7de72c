"""``dpforge-evaluate``: evaluate finished runs again, or tables made by any system."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dpforge.cli.errors import FAILED, clean_errors, exit_code, report
from dpforge.errors import ConfigError, DataError

if TYPE_CHECKING:
    from dpforge.evaluation import Results

_EPILOG = """\
dpforge-evaluate outputs/my-study/*
dpforge-evaluate outputs/my-study/run --shadow --targets 2 --shadows 8
dpforge-evaluate --real train.csv --holdout test.csv --synthetic synthetic.csv --schema adult"""
_NEEDED = ("real", "synthetic", "schema")
_OPTIONAL = ("holdout", "full", "raw", "out", "separator", "encoding", "rename")
_SHADOW = ("targets", "shadows")
_PRIVATE = (
    "All scores are private: they were computed from the real rows without noise. Show them only to those"
    " who may see the real table."
)
_WORDS = {
    "dataset.schema": "--schema",
    "format.separator": "--separator",
    "format.encoding": "--encoding",
    "format.rename": "--rename FILE=SCHEMA",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exits with 1 or 2 when something could not be evaluated, after trying the others."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    given = [name for name in (*_NEEDED, *_OPTIONAL) if getattr(arguments, name)]
    if not given and not arguments.runs:
        parser.error("name a RUN, or give --real, --synthetic and --schema")
    with clean_errors():
        _check_words(arguments, given)
        if given:
            _tables(arguments)
            return
        action = _attack if arguments.shadow else _evaluate
        sys.exit(max(_tried(action, path, arguments) for path in arguments.runs))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dpforge-evaluate",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="a run folder")
    attack = parser.add_argument_group("shadow-model attack on runs with public benchmark data")
    attack.add_argument(
        "--shadow", action="store_true", help="fit the run's model again and again, with and without rows"
    )
    attack.add_argument("--targets", type=int, metavar="K", help="rows to look for (default: 2)")
    attack.add_argument(
        "--shadows", type=int, metavar="N", help="fits with and fits without each target (default: 8)"
    )
    tables = parser.add_argument_group("tables made by any system (.csv, .csv.gz or .parquet, with a header)")
    tables.add_argument("--real", type=Path, help="real rows")
    tables.add_argument("--synthetic", type=Path, help="the table to score")
    tables.add_argument("--schema", help="a schema YAML, or the name of a shipped schema")
    tables.add_argument(
        "--holdout", type=Path, help="real rows no generator saw (default: a fifth of --real)"
    )
    tables.add_argument("--full", action="store_true", help="every metric and learner; minutes, not seconds")
    tables.add_argument(
        "--raw",
        action="store_true",
        help="score the number columns as they stand, without clipping or rounding: published scores and"
        " their corrected variants",
    )
    tables.add_argument("--out", type=Path, help="write the scores here, as .json")
    tables.add_argument("--separator", help="separator of a CSV, or 'tab' (default: ,)")
    tables.add_argument("--encoding", help="text encoding of a CSV (default: utf-8)")
    tables.add_argument(
        "--rename",
        action="append",
        metavar="FILE=SCHEMA",
        help="a column's name in a file and in the schema; repeatable",
    )
    return parser


def _tried(
    action: Callable[[Path, argparse.Namespace], int], path: Path, arguments: argparse.Namespace
) -> int:
    from dpforge.errors import RunError

    try:
        if not path.is_dir():
            raise RunError(f"'{path}' is not a run folder. Name one, such as outputs/<study>/<run>.")
        return action(path, arguments)
    except Exception as error:
        report(error)
        return exit_code(error)


def _evaluate(path: Path, arguments: argparse.Namespace) -> int:
    from dpforge.experiment.runner import evaluate

    outcome = evaluate(path)
    print(f"{'ok' if outcome.ok else 'failed'} {outcome.path}")
    return 0 if outcome.ok else FAILED


def _attack(path: Path, arguments: argparse.Namespace) -> int:
    from dpforge.experiment.display import progress
    from dpforge.experiment.shadow import SHADOWS, TARGETS, attack_run

    targets = TARGETS if arguments.targets is None else arguments.targets
    shadows = SHADOWS if arguments.shadows is None else arguments.shadows
    with progress() as display:
        found = attack_run(path, display, targets=targets, shadows=shadows)
    auc = found.result.auc
    print(f"attack/shadow: {found.sentence}; AUC {auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}]")
    print(f"Private scores: {found.path}")
    return 0


def _check_words(arguments: argparse.Namespace, given: Sequence[str]) -> None:
    shadow = [name for name in _SHADOW if getattr(arguments, name) is not None]
    mistakes = [f"--{name} needs --shadow." for name in shadow if not arguments.shadow]
    if given:
        mistakes += [f"--{name} is missing; tables need it." for name in _NEEDED if name not in given]
    if given and arguments.shadow:
        mistakes.append(f"--shadow needs a RUN; it does not go together with --{given[0]}.")
    if arguments.raw and arguments.full:
        mistakes.append("--raw and --full do not go together; --raw scores number columns alone.")
    if given and arguments.runs:
        mistakes = [f"RUN '{arguments.runs[0]}' and --{given[0]} do not go together. Use two commands."]
    mistakes += [
        f"--rename {pair}: expected FILE=SCHEMA, such as education.num=education_num."
        for pair in arguments.rename or ()
        if not all(pair.partition("="))
    ]
    if arguments.out is not None:
        mistakes += _place_mistakes(arguments.out)
    if mistakes:
        raise ConfigError(mistakes)


def _place_mistakes(out: Path) -> list[str]:
    """Why scores cannot be written to ``out``; said before minutes are spent on them."""
    if out.suffix.lower() != ".json" or out.is_dir():
        return [f"--out {out}: expected the name of a .json file."]
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        return [f"--out {out}: {above} cannot be written. Choose another place."]
    return []


def _tables(arguments: argparse.Namespace) -> None:
    from dpforge.experiment.display import progress
    from dpforge.experiment.tables import TableFiles, evaluate_tables

    files = TableFiles(
        arguments.real,
        arguments.synthetic,
        arguments.schema,
        arguments.holdout,
        arguments.separator or ",",
        arguments.encoding or "utf-8",
        dict(pair.split("=", 1) for pair in arguments.rename or ()),
    )
    with _in_own_words(), progress() as display:
        choice = "raw" if arguments.raw else "full" if arguments.full else "tabular"
        results = evaluate_tables(files, display, choice=choice)
    if arguments.out is not None:
        _write(results, arguments)
    _print(results, arguments.out)


@contextmanager
def _in_own_words() -> Iterator[None]:
    """Name the options of this command where an error names keys of the configuration."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError([_own_words(text) for text in error.mistakes]) from None
    except DataError as error:
        raise DataError(_own_words(str(error))) from None


def _own_words(text: str) -> str:
    for key, option in _WORDS.items():
        text = text.replace(key, option)
    return text


def _write(results: Results, arguments: argparse.Namespace) -> None:
    import json

    from dpforge.data.opening import replacing

    names = {name: str(value) for name in (*_NEEDED, "holdout") if (value := getattr(arguments, name))}
    content = {"tables": names, **results.to_json()}
    with replacing(arguments.out) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _print(results: Results, out: Path | None) -> None:
    from rich.console import Console

    from dpforge.evaluation import headline
    from dpforge.experiment.display import scores_table

    console = Console(highlight=False)
    console.print(scores_table(headline(results)))
    legacy = headline(results, ("legacy",))
    if legacy:
        console.print(scores_table(legacy))
    for note in results.notes:
        console.print(f"Note: {note}.", markup=False)
    console.print(_PRIVATE, style="bold", markup=False)
    if out is not None:
        console.print(f"Scores: {out}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
