"""``dpforge-audit RUN|overrides``: canaries through the code of a configuration; lower bounds on epsilon."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpforge.cli.errors import FAILED, clean_errors

if TYPE_CHECKING:
    from rich.table import Table

    from dpforge.experiment.audit.auditing import Audit, Effort
    from dpforge.experiment.audit.membership import Membership

_EPILOG = (
    "Records are made up and the noise is fresh: a finished run's own noise cannot be looked at again. No"
    " budget is charged and no private record is read, except by --attacks. Exits with 1 if a lower bound"
    " exceeds what is certified."
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exits with 1 on a violation, with 2 when something was refused."""
    parser = argparse.ArgumentParser(prog="dpforge-audit", description=__doc__, epilog=_EPILOG)
    parser.add_argument(
        "words",
        nargs="*",
        metavar="RUN|OVERRIDE",
        help="the folder of a finished run, or words as for dpforge",
    )
    parser.add_argument("--canaries", type=int, default=1000, help="coins of a one-run audit (default 1000)")
    parser.add_argument("--steps", type=int, default=200, help="most DP-SGD steps to take (default 200)")
    parser.add_argument(
        "--repeats",
        type=int,
        default=500,
        help="repetitions of each cheap mechanism, 0 for none (default 500)",
    )
    parser.add_argument("--attacks", action="store_true", help="attack the table of RUN now; private")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write; default RUN/audit.json")
    arguments = parser.parse_intermixed_args(argv)
    with clean_errors():
        sys.exit(FAILED if _audit(arguments) else 0)


def _audit(arguments: argparse.Namespace) -> bool:
    """Audit what was asked for; returns whether anything was violated."""
    from dpforge.errors import ConfigError
    from dpforge.experiment.audit.auditing import Effort

    effort = Effort(arguments.canaries, arguments.steps, arguments.repeats)
    words = arguments.words
    if len(words) == 1 and Path(words[0]).is_dir():
        return _audit_run(Path(words[0]), effort, arguments)
    if arguments.attacks:
        raise ConfigError("--attacks needs the folder of a finished run.")
    return _audit_words(words, effort, arguments.output)


def _audit_run(path: Path, effort: Effort, arguments: argparse.Namespace) -> bool:
    from dpforge.experiment.audit.auditing import audit
    from dpforge.experiment.audit.membership import FILE, evaluated_attacks, fresh_attacks
    from dpforge.experiment.diagnostics import finished_experiment
    from dpforge.experiment.rundir import RunDir

    folder = RunDir(path)
    experiment = finished_experiment(folder)
    attacks = fresh_attacks(folder, experiment) if arguments.attacks else evaluated_attacks(folder)
    found = audit(experiment, effort, _progress)
    _show(str(path), found, attacks)
    private = {"membership": attacks.to_json()} if attacks else {}
    _write(folder, arguments.output or path / FILE, {"run": path.name, **found.to_json(), **private})
    return found.violated or bool(attacks and attacks.violated)


def _audit_words(words: Sequence[str], effort: Effort, output: Path | None) -> bool:
    from dpforge.config import check
    from dpforge.experiment.audit.auditing import audit
    from dpforge.experiment.rundir import RunDir

    content: dict[str, Any] = {}
    violated = False
    for run in check(words).runs:
        found = audit(run.experiment, effort, _progress)
        _show(run.identity.slug, found, None)
        content[run.identity.slug] = {"overrides": list(run.overrides), **found.to_json()}
        violated |= found.violated
    if output is not None:
        _write(RunDir(output.parent), output, content)
    return violated


def _write(folder: Any, path: Path, content: dict[str, Any]) -> None:
    from rich.console import Console

    plain = json.loads(json.dumps(content), parse_constant=lambda _: None)  # a measure may be undefined
    folder.write_json(path, plain)
    Console(highlight=False).print(f"written: {path}", markup=False, soft_wrap=True)


def _progress(name: str, done: int, total: int) -> None:
    if done < total:
        print(f"auditing {name} ({done + 1} of {total})", file=sys.stderr)


def _show(title: str, found: Audit, attacks: Membership | None) -> None:
    from rich.console import Console

    from dpforge.experiment.audit.auditing import ABOUT

    console = Console(highlight=False)
    console.print(
        f"\n[bold]{title}[/]: certified ε {found.epsilon:.4g} at δ {found.delta:g} for the whole run"
    )
    console.print(_table(found))
    for name, reason in found.left_out.items():
        console.print(f"  not audited: {name} ({reason})", markup=False, style="dim", soft_wrap=True)
    if attacks is not None:
        console.print("Membership attacks on the released samples (private):", style="bold")
        for sentence in attacks.sentences or ("their values are in the file",):
            console.print(f"  {sentence}", markup=False, soft_wrap=True)
    console.print(ABOUT, style="dim", soft_wrap=True)


def _table(found: Audit) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("mechanism", "method"):
        table.add_column(name, no_wrap=True)
    for name in ("right guesses", "ε >", "certified"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for f in found.findings:
        name = f.mechanism if f.uses == 1 else f"{f.mechanism} ×{f.uses}"
        cells = (f"{f.correct}/{f.guesses} of {f.canaries}", f"{f.lower_bound:.3f}", f"{f.certified:.3f}")
        verdict = "VIOLATION" if f.violated else "none found"
        table.add_row(name, f.method, *cells, verdict, style="bold red" if f.violated else "")
    return table


if __name__ == "__main__":
    main()
