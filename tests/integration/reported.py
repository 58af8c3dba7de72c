"""A small finished run with cheap pictures, made once for all tests of its report."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from whole_runs import only_run

from dpforge.cli.main import main
from dpforge.experiment import pictures
from dpforge.experiment.score_tables import write_tables
from dpforge.experiment.visibility import Visibility

PRIVATE_PICTURES = (
    "scores", "correlation", "latent_marginals", "latent_pairs", "loss",
    "histograms/overview", "histograms/01-age", "histograms/02-income",
)  # fmt: skip
SMOKE = ("experiment=smoke",)
INDEPENDENT = ("dataset=toy", "model=independent", "evaluation=quick", "logger=csv")


def make_run(place: Path, *words: str, base: Sequence[str] = SMOKE) -> Path:
    """Run ``dpforge`` with ``base`` and ``words`` below ``place``; return the folder of the run."""
    threads, before = torch.get_num_threads(), Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dpforge"])
        for name in ("DPFORGE_CONF_DIGEST", "HYDRA_FULL_ERROR"):
            patch.setenv(name, "restored afterwards")
        patch.setattr(pictures, "draw", _draw)
        os.chdir(place)
        try:
            with suppress(SystemExit):
                main([*base, *words])
        finally:
            os.chdir(before)
            torch.set_num_threads(threads)
    return only_run(place)


def _draw(work: Any, data: Any, fitted: Any, synthetic: Any, results: Any) -> None:
    for name in ("epsilon", *PRIVATE_PICTURES):
        path = work.folder.plots / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        small_picture(path)
        kind = Visibility.PUBLIC if name == "epsilon" else Visibility.PRIVATE
        work.tracker.image(f"plots/{path.stem}", path, kind)
    for name in write_tables(work.folder, results):
        work.tracker.taint(name, "tables.json")


def small_picture(path: Path, shade: float = 0.5) -> None:
    """A PNG of one colour, wider than a phone."""
    figure = Figure(figsize=(8, 3), dpi=100)
    figure.figimage(np.full((300, 800), shade), vmin=0, vmax=1)
    figure.savefig(path)
