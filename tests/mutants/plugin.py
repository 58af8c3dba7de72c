"""``pytest -p tests.mutants.plugin --mutant NAME``: any tests with a planted bug in place."""

from __future__ import annotations

import pytest

from .collection import MUTANTS
from .library import planted

_PLANTED = []


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--mutant``."""
    parser.addoption("--mutant", choices=sorted(MUTANTS), help="plant this bug before tests are collected")


def pytest_configure(config: pytest.Config) -> None:
    """Plant before test modules are imported, so that they too see the patched names."""
    name = config.getoption("--mutant")
    if name:
        _PLANTED.append(planted(name))
        _PLANTED[-1].__enter__()


def pytest_unconfigure() -> None:
    """Take the bug back."""
    while _PLANTED:
        _PLANTED.pop().__exit__(None, None, None)
