"""``dpforge-study FOLDER [status|retry|rm|watch|ledger]``: the runs of a study, and what they cost."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dpforge.cli.errors import FAILED, clean_errors, report
from dpforge.errors import ConfigError, Interrupted, PrivacyError, RunError, RunLocked

if TYPE_CHECKING:
    from rich.table import Table

    from dpforge.experiment.dataset_ledger import Total
    from dpforge.experiment.study_status import RunState

_EPILOG = """\
dpforge-study outputs/my-study                          where every run stands
dpforge-study outputs/my-study watch                    the same, live
dpforge-study outputs/my-study retry                    start failed and interrupted runs again, one by one
dpforge-study outputs/my-study retry 1fd7               the one run whose name or id begins so
dpforge-study outputs/my-study rm 'dp_maf*seed0*'       remove runs; what they spent stays on record
dpforge-study --dataset adult outputs                   what all runs on a data set cost together

A run is named by its path, by the beginning of its name or id, or by a pattern in quotes."""
_ACTIONS = ("status", "retry", "rm", "watch", "ledger")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exits with 1 when a retried run fails again, 2 when something is refused."""
    arguments = _parser().parse_intermixed_args(argv)
    with clean_errors():
        sys.exit(_main(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dpforge-study",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a study, or the folder of all studies")
    parser.add_argument("action", nargs="?", default="status", help=", ".join(_ACTIONS))
    parser.add_argument("runs", nargs="*", metavar="RUN", help="runs to retry, to remove or to list")
    parser.add_argument(
        "--traceback", action="store_true", help="print tracebacks; they may quote private rows"
    )
    parser.add_argument(
        "--although-spent", action="store_true", help="remove runs that spent privacy; the record of it stays"
    )
    parser.add_argument(
        "--dataset", metavar="NAME", help="add up all runs on this data set (action 'ledger')"
    )
    parser.add_argument("--every", type=float, default=2.0, metavar="SECONDS", help="how often 'watch' looks")
    return parser


def _main(arguments: argparse.Namespace) -> int:
    from dpforge.errors import did_you_mean

    action, folder = arguments.action, arguments.folder
    if action not in _ACTIONS:
        hint = did_you_mean(action, _ACTIONS)
        raise ConfigError(f"unknown action '{action}'.{hint} Expected one of {', '.join(_ACTIONS)}.")
    if arguments.dataset is not None or action == "ledger":
        return _ledger(folder, arguments.dataset)
    if action == "watch":
        return _watch(folder, arguments.every)
    if action == "status":
        return _status(folder, arguments.runs, traceback=arguments.traceback)
    if action == "retry":
        return _retry(folder, arguments.runs)
    return _remove(folder, arguments.runs, although_spent=arguments.although_spent)


def _chosen(folder: Path, words: Sequence[str]) -> list[RunState]:
    from dpforge.experiment.study_status import named, read_states

    states = read_states(folder)
    return named(states, words) if words else states


def _status(folder: Path, words: Sequence[str], *, traceback: bool) -> int:
    from dpforge.experiment.study_watch import status_console, status_table

    states = _chosen(folder, words)
    status_console().print(status_table(states))
    for state in states if traceback else ():
        if state.traceback is not None:
            print(f"\n{state.path.name}\n{state.traceback.read_text(encoding='utf-8')}", end="")
    return 0


def _watch(folder: Path, every: float) -> int:
    from rich.console import Console

    from dpforge.experiment.study_watch import watch

    if not every > 0:
        raise ConfigError(f"--every={every:g}: expected seconds above 0.")
    watch(folder, Console(highlight=False), every=every)
    return 0


def _retry(folder: Path, words: Sequence[str]) -> int:
    from dpforge.config import stamp

    stamp()
    codes = [_retry_one(state, named=bool(words)) for state in _chosen(folder, words)]
    return max(codes, default=0)


def _retry_one(state: RunState, *, named: bool) -> int:
    if not state.retryable:
        if named:
            print(f"{state.path.name}: {state.state}; left alone")
        return 0
    try:
        _again(state.path)
    except Interrupted:
        raise
    except RunLocked:
        print(f"{state.path.name}: another process works on it; left alone")
    except Exception as error:
        print(f"{state.path.name}: failed", file=sys.stderr)
        report(error)
        return FAILED
    return 0


def _again(path: Path) -> None:
    """Start one run again from the overrides it stored, in its own folder."""
    import dataclasses

    from dpforge.config import build, check_stamp
    from dpforge.configuration.composing import COMPOSITION_ERRORS, compose_all, explain
    from dpforge.experiment.runner import run
    from dpforge.identity import identify

    check_stamp()
    words = _stored_overrides(path)
    try:
        composition = compose_all(words)
    except COMPOSITION_ERRORS as error:
        raise ConfigError(explain(error)) from None
    schema = build(composition.config).dataset.public_schema()
    identity = identify(composition.config, schema, composition.choices)
    if identity.folder.name != path.resolve().name:
        raise RunError(
            f"the command of {path.name} makes {identity.folder.name} now: the configuration, the schema or"
            " the version of dpforge changed since. Repeat the command to run that one; remove the old run."
        )
    run(composition.config, identity=dataclasses.replace(identity, folder=path), overrides=words)


def _stored_overrides(path: Path) -> list[str]:
    import yaml

    file = path / ".hydra" / "overrides.yaml"
    try:
        words = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RunError(
            f"{file} is missing or damaged ({type(error).__name__}). Repeat the command."
        ) from None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise RunError(f"{file} does not hold a list of overrides. Repeat the command of the run.")
    return words


def _remove(folder: Path, words: Sequence[str], *, although_spent: bool) -> int:
    from dpforge.experiment.spending import spending_of

    if not words:
        raise ConfigError("'rm' needs the runs to remove, such as: rm 1fd7686846, or rm '*' for all.")
    states = _chosen(folder, words)
    for state in states:
        spending = spending_of(state.path)
        if spending.events == () or although_spent or not (state.path / "ledger.jsonl").is_file():
            continue
        cost = "an unknown budget" if math.isnan(spending.single) else f"epsilon {spending.single:.4g}"
        raise PrivacyError(
            f"{state.path.name} has spent {cost} on '{spending.dataset}', and removing the run does not give"
            " it back. Add --although-spent to remove it; what it spent stays in the record of the data set."
        )
    for state in states:
        _remove_one(state.path)
    return 0


def _remove_one(path: Path) -> None:
    import shutil

    from dpforge.experiment.attempt import locked
    from dpforge.experiment.rundir import RunDir
    from dpforge.experiment.spending import remember, spending_of

    with locked(RunDir(path)):
        spending = spending_of(path)
        kept = ""
        if spending.events != () and (path / "ledger.jsonl").is_file():
            kept = f"; what it spent is kept in {remember(path, path.resolve().parents[1])}"
        shutil.rmtree(path)
    print(f"{path.name}: removed{kept}")


def _ledger(folder: Path, dataset: str | None) -> int:
    from rich.console import Console

    from dpforge.experiment.dataset_ledger import totals

    found = totals(folder, dataset)
    console = Console(highlight=False, soft_wrap=True)
    if not found:
        console.print(f"no run below {folder} has a ledger")
        return 0
    console.print(_ledger_table(found))
    for line in _remarks(found):
        console.print(line, markup=False)
    return 0


def _ledger_table(found: Sequence[Total]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("data set", "study"):
        table.add_column(name, overflow="fold")
    for name in ("runs", "ε single", "ε composed", "ε selected", "δ"):
        table.add_column(name, justify="right", no_wrap=True)
    for total in found:
        selected = "–" if total.selected is None else f"{total.selected:.4g}"
        numbers = [
            str(total.runs),
            f"{total.single:.4g}",
            f"{total.composed:.4g}",
            selected,
            f"{total.delta:g}",
        ]
        whole = not total.study
        table.add_row(total.dataset, total.study or "all", *numbers, style="bold" if whole else "")
    return table


def _remarks(found: Sequence[Total]) -> list[str]:
    lines = [
        "single: the largest of one run; composed: what a reader of every run has seen; selected: the same"
        " where a private selection released its winner alone."
    ]
    for total in (total for total in found if not total.study):
        about = {
            "removed since, and still counted": total.removed,
            "read rows without noise (NOT DP) and are in no sum": total.without_noise,
            "have a ledger that cannot be read; what they spent is unknown": total.unreadable,
        }
        lines += [f"{total.dataset}: {number} runs {text}." for text, number in about.items() if number]
        if total.schemas > 1:
            lines.append(f"{total.dataset}: {total.schemas} schemas; the rows are taken to be the same.")
    return lines


if __name__ == "__main__":
    main()
