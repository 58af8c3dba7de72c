"""The benchmark of overheads counts what it says; how fast anything is, is not a test."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def test_a_cost_has_the_clock_and_the_processor_of_the_whole_process(tmp_path):
    from benchmarks.overheads import _timed

    begun = time.perf_counter()
    sleeping = _timed(tmp_path, [sys.executable, "-c", "import time; time.sleep(0.5)"])
    assert 0.5 <= sleeping.wall <= time.perf_counter() - begun
    assert sleeping.cpu < 0.4
    working = _timed(
        tmp_path,
        [sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass"],
    )
    assert 0.5 <= working.cpu < 1.0


def test_a_command_that_fails_is_not_measured(tmp_path):
    from benchmarks.overheads import _timed

    with pytest.raises(RuntimeError, match="ended with 3"):
        _timed(tmp_path, [sys.executable, "-c", "raise SystemExit(3)"])


def test_the_repeat_that_was_disturbed_least_counts():
    from benchmarks.overheads import Cost, least

    assert least([Cost(3.0, 1.0), Cost(1.5, 1.2), Cost(9.0, 0.9)]) == Cost(1.5, 1.2)


def test_imports_are_measured_by_whole_processes_with_the_aim_beside_them(tmp_path):
    from benchmarks.overheads import QUICK, import_rows

    rows = import_rows(tmp_path, QUICK)
    assert [row.aim for row in rows] == [0.5, None, None]
    assert all(row.value > 0 for row in rows)
    assert rows[1].value > rows[0].value
