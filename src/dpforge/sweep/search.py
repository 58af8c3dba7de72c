"""A search over configurations: which search it is, and what holds before its first run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dpforge.errors import ConfigError, RunLocked
from dpforge.sweep.runs import Candidate
from dpforge.sweep.settings import SearchSettings
from dpforge.sweep.space import Space

FOLDER = "search"
# Whoever holds the lock of a search reads and writes a few small files; it holds it for no run.
_PATIENCE_SECONDS = 120.0
Launch = Callable[[Sequence[Sequence[str]]], None]


def run_search(settings: SearchSettings, words: Sequence[str], launch: Launch) -> None:
    """Run a search to its end, or the rest of one that was interrupted.

    Args:
        settings: What to look for.
        words: Overrides and sweeps; a later word for a key replaces an earlier one.
        launch: Runs a batch of jobs, each given by its overrides, and returns when they have ended.

    Raises:
        ConfigError: The space, the objective or the selection does not fit; nothing was run.
    """
    try:
        import optuna

        from dpforge.sweep.space import parse_space
    except ModuleNotFoundError as error:
        raise ConfigError(f"sweep=optuna needs {error.name}: pip install 'dpforge[optuna]'.") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = parse_space(words)
    _check_proxy(settings, space)
    if settings.selection == "repeat_and_select":
        from dpforge.sweep.repeat import repeat_and_select

        repeat_and_select(settings, space, launch)
        return
    from dpforge.sweep.adaptive import Adaptive

    Adaptive(settings, space, launch).run()


def search_folder(candidate: Candidate) -> Path:
    """Where the search of a candidate's study keeps what it knows."""
    return candidate.identity.folder.parent / FOLDER


class SearchLock:
    """Keeps what launches of one search read and then write from mixing; may be entered again inside itself.

    Args:
        folder: ``<study>/search``; made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / ".lock", timeout=_PATIENCE_SECONDS)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the search; raises ``RunLocked`` if another launch keeps it for two minutes."""
        try:
            self._lock.acquire()
        except Timeout:
            raise RunLocked(
                f"another launch holds {self._lock.lock_file} for {_PATIENCE_SECONDS:g} s; expected an"
                " instant. Wait until it goes on or stop it, then start the same command again."
            ) from None
        try:
            yield
        finally:
            self._lock.release()


def _check_proxy(settings: SearchSettings, space: Space) -> None:
    """Refuse ``public_proxy`` before any run unless the data are public, or the objective is by its name."""
    if settings.selection != "public_proxy" or settings.public_by_name:
        return
    config = Candidate.of(*space.fixed).config
    if not config.dataset.get("public_benchmark", False):
        names = ", ".join(settings.objectives)
        raise ConfigError(
            f"privacy.selection=public_proxy: {names} is a private score, because dataset"
            f" '{config.dataset.get('name')}' is not declared public. Search on a public data set (one with"
            " dataset.public_benchmark=true), or use selection=none or repeat_and_select."
        )
