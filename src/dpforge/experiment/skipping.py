"""Recognising a finished run from its folder alone, without torch and without any accounting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dpforge.experiment.display import warning_line
from dpforge.experiment.rundir import RunDir


def finished(source: Any, path: Path) -> bool:
    """Whether a run is complete and nothing about it has to be looked at again.

    Args:
        source: Its data source. An own file may have changed; only the runner can tell.
        path: Its run folder.
    """
    return getattr(source, "path", None) is None and RunDir(path).complete()


def announce(folder: RunDir, text: str) -> None:
    """Print one line about a finished run, with its epsilon and whatever must stand beside it."""
    certificate = folder.read_json(folder.certificate)
    epsilon = certificate["epsilon"]
    facts = {"epsilon": epsilon, "rng": certificate["rng"]}
    stated = warning_line(facts) or f"ε {epsilon:.4g} at δ {certificate['delta']:g}"
    print(f"{folder.root}: {text} ({stated})")


SKIPPED = "finished already; nothing was run again"
