"""The library of mutants is complete, harmless when taken back, and a few of each kind are caught here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mutants.collection import MUTANTS
from mutants.library import planted
from mutants.runner import QUICK, TESTS, chosen

ROOT = Path(__file__).resolve().parents[2]


def defined(path):
    """Names of the tests of a file."""
    return set(re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.M))


def test_every_mutant_says_what_it_plants_and_names_tests_that_exist():
    assert len(MUTANTS) >= 45
    for mutant in MUTANTS.values():
        assert mutant.plants.endswith(".")
        assert mutant.origin
        assert mutant.tests
        for test in mutant.tests:
            file, _, name = test.partition("::")
            assert (TESTS / file).is_file(), f"{mutant.name}: {file}"
            assert not name or name.partition("[")[0] in defined(TESTS / file), f"{mutant.name}: {test}"


def test_a_mutant_leaves_nothing_behind():
    from dpforge.privacy import engines, ledger, rng

    watched = {
        engines: dict(vars(engines)),
        rng.KeyedRandom: dict(vars(rng.KeyedRandom)),
        ledger.Ledger: dict(vars(ledger.Ledger)),
        ledger: dict(vars(ledger)),
    }
    changed = 0
    for name in ("no_clip", "half_noise", "another_key_continues_a_run", "ledger_not_flushed"):
        with planted(name):
            changed += any(dict(vars(owner)) != before for owner, before in watched.items())
        assert all(dict(vars(owner)) == before for owner, before in watched.items())
    assert changed == 4


def test_an_unknown_mutant_is_refused_with_the_known_names():
    with pytest.raises(SystemExit, match="there are: "):
        chosen(["no_such_bug"])


def test_a_quick_selection_of_mutants_is_caught():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutants", "--quick"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert f"{len(QUICK)} mutants, {len(QUICK)} caught, 0 survived" in done.stdout


def test_every_test_and_mutant_that_the_pitfalls_name_exists():
    text = (ROOT / "PITFALLS.md").read_text(encoding="utf-8")
    files = set(re.findall(r"`((?:\w+/)+test_\w+\.py)`", text))
    assert len(files) > 15
    assert [file for file in files if not (TESTS / file).is_file()] == []
    named = {word for word in re.findall(r"`(\w+)`", text) if word.count("_") >= 1} & set(MUTANTS)
    assert named == set(MUTANTS), "a mutant without a pitfall"


def test_every_critical_pitfall_has_a_test():
    text = (ROOT / "PITFALLS.md").read_text(encoding="utf-8")
    critical = text[text.index("## Critical") : text.index("## Theoretical")]
    rows = [line for line in critical.splitlines() if line.startswith("| ") and "pitfall |" not in line]
    assert len(rows) >= 40
    assert [row for row in rows if "test_" not in row] == []
