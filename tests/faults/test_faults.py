"""A selection of faults, one of each kind; ``python -m tests.faults`` injects as many as one likes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .cells import Cell
from .selection import SELECTION

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What became of the whole selection, injected by one process that forks."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", "--selection", "--json"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.stdout.strip(), done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return {Cell(**outcome.pop("cell")): outcome for outcome in found}


@pytest.mark.parametrize("cell", SELECTION, ids=lambda cell: cell.name)
def test_after_a_fault_a_run_continues_to_the_same_end_or_says_what_to_do(cell, outcomes):
    outcome = outcomes[cell]
    assert outcome["ended"] not in ("BROKEN", "not hit"), outcome["problem"]


def test_the_selection_has_every_generator_and_every_kind_of_fault(outcomes):
    assert len({cell.generator for cell in SELECTION}) >= 8
    assert len({cell.family for cell in SELECTION}) == 8
