"""``dpforge [overrides]``: one run, or with ``-m`` a sweep."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpforge.cli.errors import FAILED, INTERRUPTED, clean_errors, describe, report
from dpforge.errors import ConfigError, Interrupted

_NOT_OURS = {
    "experimental_rerun": "--experimental-rerun executes a pickle. Repeat the command of the run instead.",
    "config_path": "--config-path is not used here. Set DPFORGE_CONF to a folder that holds config.yaml.",
    "config_name": "--config-name is not used here. Choose an experiment: experiment=NAME.",
    "config_dir": "--config-dir is not used here. Set DPFORGE_CONF, or put files into conf/local.",
}


@dataclass(frozen=True)
class Job:
    """What became of one job: ``state`` is ok, skipped or failed."""

    overrides: tuple[str, ...]
    state: str
    folder: Path | None
    error: Exception | None = None


class Jobs:
    """The task that Hydra calls for every job; remembers what became of each.

    It does not raise, so that a failed job does not stop the others of a sweep.
    """

    def __init__(self) -> None:
        self.done: list[Job] = []
        self.multirun = False

    def __call__(self, config: Any) -> str:
        from hydra.core.hydra_config import HydraConfig

        hydra = HydraConfig.get()
        overrides = tuple(hydra.overrides.task)
        job = _run_job(config, overrides, dict(hydra.runtime.choices))
        if job.error is not None and self.multirun:
            report(job.error)
        self.done.append(job)
        if self.multirun and isinstance(job.error, Interrupted):
            sys.exit(INTERRUPTED)  # the signal was meant for the sweep, not for one job
        return job.state


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exits with 0, 1 (a run failed), 2 (refused) or 130 (interrupted)."""
    if argv is not None:
        sys.argv = ["dpforge", *argv]
    with clean_errors():
        sys.exit(_main())


def _main() -> int:
    from dpforge.config import check, stamp

    args = _arguments()
    jobs = Jobs()
    if _runs_something(args):
        jobs.multirun = check(args.overrides, multirun=args.multirun).multirun
    stamp()
    try:
        _hydra(jobs)
    finally:
        if jobs.multirun:
            _print_table(jobs.done)
    if not jobs.multirun and jobs.done and jobs.done[0].error is not None:
        raise jobs.done[0].error
    return FAILED if any(job.state == "failed" for job in jobs.done) else 0


def _arguments() -> argparse.Namespace:
    from hydra._internal.utils import get_args_parser

    words = sys.argv[1:]
    args = get_args_parser().parse_intermixed_args(words)
    # Hydra reads sys.argv again, and takes no flag between two overrides.
    sys.argv[1:] = [*(word for word in words if word not in args.overrides), *args.overrides]
    refused = [text for name, text in _NOT_OURS.items() if getattr(args, name) is not None]
    if refused:
        raise ConfigError(refused)
    return args


def _runs_something(args: argparse.Namespace) -> bool:
    return not (args.help or args.hydra_help or args.cfg or args.shell_completion or args.info)


def _hydra(task: Jobs) -> None:
    import hydra

    from dpforge.config import conf_dir, register
    from dpforge.configuration.composing import COMPOSITION_ERRORS, explain

    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra hand its errors to us instead of printing them
    register()

    def dpforge_job(config: Any) -> str:
        return task(config)

    try:
        hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")(dpforge_job)()
    except COMPOSITION_ERRORS as error:
        raise ConfigError(explain(error)) from None


def _run_job(config: Any, overrides: Sequence[str], choices: Mapping[str, str]) -> Job:
    folder: Path | None = None
    try:
        from dpforge.config import check_stamp
        from dpforge.experiment.runner import run

        check_stamp()
        identity = _identity(config, choices)
        folder = identity.folder
        outcome = run(config, identity=identity, overrides=list(overrides))
    except Exception as error:
        return Job(tuple(overrides), "failed", folder, error)
    state = "skipped" if outcome.skipped else "ok"
    return Job(tuple(overrides), state if outcome.ok else "failed", outcome.path)


def _identity(config: Any, choices: Mapping[str, str]) -> Any:
    from dpforge.config import build
    from dpforge.identity import identify

    schema = build(config).dataset.public_schema()
    return identify(config, schema, choices)


def _print_table(jobs: Sequence[Job]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "skipped": "cyan", "failed": "red"}
    studies = sorted({str(job.folder.parent) for job in jobs if job.folder is not None})
    elsewhere = "" if jobs else "they ran in other processes; status.json in each run folder tells more"
    table = Table(title="Runs of this sweep", caption=", ".join(studies) or elsewhere)
    for name in ("#", "state", "folder"):
        table.add_column(name, no_wrap=True)
    table.add_column("overrides", overflow="fold")
    for number, job in enumerate(jobs):
        what = describe(job.error)[0] if job.error is not None else " ".join(job.overrides)
        folder = job.folder.name if job.folder is not None else "-"
        table.add_row(str(number), Text(job.state, colours[job.state]), Text(folder), Text(what))
    Console().print(table)


if __name__ == "__main__":
    main()
