"""``dpforge [overrides]``: one run, or with ``-m`` a sweep."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dpforge.cli.errors import clean_errors
from dpforge.cli.jobs import Job, Jobs, print_table
from dpforge.errors import ConfigError

if TYPE_CHECKING:
    from dpforge.config import Checked

_NOT_OURS = {
    "experimental_rerun": "--experimental-rerun executes a pickle. Repeat the command of the run instead.",
    "config_path": "--config-path is not used here. Set DPFORGE_CONF to a folder that holds config.yaml.",
    "config_name": "--config-name is not used here. Choose an experiment: experiment=NAME.",
    "config_dir": "--config-dir is not used here. Set DPFORGE_CONF, or put files into conf/local.",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exits with 0, 1 (a run failed), 2 (refused) or 130 (interrupted)."""
    if argv is not None:
        sys.argv = ["dpforge", *argv]
    with clean_errors():
        sys.exit(_main())


def _main() -> int:
    args = _arguments()
    if args.help:
        from dpforge.cli.helping import print_help

        print_help(args.overrides)
        return 0
    if not _runs_something(args):
        _hydra()
        return 0
    return _run_all(args)


def _run_all(args: argparse.Namespace) -> int:
    from dpforge.config import check, stamp
    from dpforge.experiment.skipping import finished

    checked = check(args.overrides, multirun=args.multirun, finished=finished)
    if checked.nothing_left:
        _show_finished(checked)
        return 0
    stamp()
    jobs = Jobs(multirun=checked.multirun)
    try:
        with _stopping_all(jobs):
            _launch(jobs, args.overrides)
    finally:
        if jobs.multirun:
            print_table(jobs.done)
    if not jobs.multirun and jobs.error is not None:
        raise jobs.error
    return jobs.exit_code()


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
    return not (args.hydra_help or args.cfg or args.shell_completion or args.info)


def _show_finished(checked: Checked) -> None:
    from dpforge.experiment.rundir import RunDir
    from dpforge.experiment.skipping import SKIPPED, announce

    if checked.multirun:
        print_table([Job(words, "skipped", str(found.folder)) for words, found in checked.finished])
        return
    announce(RunDir(checked.finished[0][1].folder), SKIPPED)


@contextmanager
def _stopping_all(jobs: Jobs) -> Iterator[None]:
    """Let SIGTERM end a sweep as Ctrl-C does, so that its table is still printed."""
    import signal
    import threading

    if not jobs.multirun or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _launch(jobs: Jobs, overrides: Sequence[str]) -> None:
    """Let Hydra compose the runs and hand them to the launcher."""
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.global_hydra import GlobalHydra

    from dpforge.config import conf_dir, register
    from dpforge.configuration.composing import COMPOSITION_ERRORS, explain

    register()
    version.setbase("1.3")
    hydra = Hydra.create_main_hydra2("dpforge", create_config_search_path(str(conf_dir())))
    start = hydra.multirun if jobs.multirun else hydra.run
    try:
        start("config", jobs, list(overrides))
    except COMPOSITION_ERRORS as error:
        raise ConfigError(explain(error)) from None
    finally:
        GlobalHydra.instance().clear()


def _hydra() -> None:
    """Answer what Hydra knows: the configuration, its own help, shell completion."""
    import hydra

    from dpforge.config import conf_dir, register
    from dpforge.configuration.composing import COMPOSITION_ERRORS, explain

    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra hand its errors to us instead of printing them
    register()

    def dpforge_job(config: Any) -> None:
        raise ConfigError("nothing was asked for. 'dpforge --help' shows what there is.")

    try:
        hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")(dpforge_job)()
    except COMPOSITION_ERRORS as error:
        raise ConfigError(explain(error)) from None


if __name__ == "__main__":
    main()
