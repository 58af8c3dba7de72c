"""Whole runs through the real commands, in this process: fast enough to try every way they can go wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from dpforge.cli.main import main as dpforge
from dpforge.experiment import pictures


@dataclass(frozen=True)
class Outcome:
    """What a command left on the terminal, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err


@pytest.fixture
def command(monkeypatch, capsys) -> Iterator[Callable[..., Outcome]]:
    """Call the ``main`` of a command (``dpforge`` if none is named) as the shell would."""
    monkeypatch.setattr(sys, "argv", ["dpforge"])
    for name in ("DPFORGE_CONF_DIGEST", "HYDRA_FULL_ERROR"):
        monkeypatch.setenv(name, "restored afterwards")
    threads = torch.get_num_threads()

    def call(*words: Any, main: Callable[[list[str]], None] = dpforge) -> Outcome:
        capsys.readouterr()
        code: Any = 0
        try:
            main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return Outcome(code, captured.out, captured.err)

    yield call
    torch.set_num_threads(threads)


@pytest.fixture
def place(monkeypatch, tmp_path) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_pictures(monkeypatch) -> None:
    """Leave out the plots, which take longer than all the rest of a small run."""
    monkeypatch.setattr(pictures, "draw", lambda *_: None)
