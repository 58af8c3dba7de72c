"""Runs each mutant in a process of its own until a test objects, and prints what caught it."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from dpforge import verify
from dpforge.errors import ConfigError, DPForgeError

from .collection import MUTANTS
from .library import Mutant, planted
from .planter import load_everything

TESTS = Path(__file__).resolve().parents[1]
PATIENCE = 300.0  # seconds
# A check that failed, or the code's own refusal.
OBJECTIONS = (AssertionError, DPForgeError, verify.Wrong, pytest.fail.Exception)
# Seconds each, one of every kind.
QUICK = (
    "no_clip",
    "tied_weights_are_let_in",
    "noise_two_percent_too_small",
    "quantile_without_the_half",
    "ledger_not_flushed",
    "a_resumed_run_forgets_what_it_spent",
    "batches_of_fixed_size",
    "packed_copies_counted_as_different",
    "each_layer_clipped_alone",
    "verifier_skips_the_chain",
)


@dataclass(frozen=True)
class Outcome:
    """What a run of tests came to.

    Args:
        caught: First test that objected; empty if none did.
        crashed: First test that failed otherwise, with its error; a mere crash is no catch.
        passed: Tests that passed before.
        seconds: Wall time.
    """

    caught: str = ""
    crashed: str = ""
    passed: int = 0
    seconds: float = 0.0


class _Watcher:
    """Notes the first failure and whether it is an objection."""

    def __init__(self) -> None:
        self.caught, self.crashed, self.passed = "", "", 0

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> object:
        report = yield
        if report.passed and call.when == "call":
            self.passed += 1
        if call.excinfo is None or report.skipped or self.caught or self.crashed:
            return report
        error = call.excinfo.value
        if isinstance(error, OBJECTIONS):
            self.caught = item.nodeid.removeprefix("tests/")
        else:
            self.crashed = f"{item.nodeid}: {type(error).__name__}: {error}"[:300]
        return report

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.crashed = f"{report.nodeid}: not collected: {str(report.longrepr)[-200:]}"


def warm_up() -> None:
    """Load the contract and calibrate its plans once, for every fork."""
    sys.path.insert(0, str(TESTS))
    contract = importlib.import_module("contract.test_generators")
    rows = contract.PrivacySpec
    for name in contract.NAMES:
        model, schema = contract.generator(name)
        users = contract.dataclasses.replace(schema, unit=contract.Unit("user", "person", 3))
        model.plan(schema, rows())
        with contextlib.suppress(ConfigError):  # bought values are offered for rows only
            model.plan(users, rows(max_grad_norm=0.1))
    model, schema = contract.generator("dp_maf_seed")
    model = contract.dataclasses.replace(model, sampling_rate=0.7, transform="dp_marginal_cdf")
    model.plan(schema, rows(max_grad_norm=0.05))


def run_tests(mutant: Mutant | None, tests: Sequence[str]) -> Outcome:
    """Run tests in a fork with the bug planted; stop at the first failure."""
    here, there = multiprocessing.Pipe(duplex=False)
    started = time.perf_counter()
    child = multiprocessing.get_context("fork").Process(target=_child, args=(mutant, list(tests), there))
    child.start()
    there.close()
    outcome = Outcome(crashed=f"no answer within {PATIENCE:.0f} s")
    with contextlib.suppress(EOFError):
        if here.poll(PATIENCE):
            outcome = here.recv()
    child.kill()
    child.join()
    seconds = time.perf_counter() - started
    return Outcome(outcome.caught, outcome.crashed, outcome.passed, seconds)


def _child(mutant: Mutant | None, tests: list[str], answer: Connection) -> None:
    watcher = _Watcher()
    arguments = ["-q", "-x", "-p", "no:cacheprovider", *(str(TESTS / test) for test in tests)]
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            planted(mutant.name) if mutant else contextlib.nullcontext(),
        ):
            pytest.main(arguments, plugins=[watcher])
    except Exception as error:  # of planting itself
        watcher.crashed = f"{type(error).__name__}: {error}"
    answer.send(Outcome(watcher.caught, watcher.crashed, watcher.passed))
    answer.close()
    os._exit(0)


def table(outcomes: dict[str, Outcome]) -> str:
    """Return one line a mutant: caught by what, after how long."""
    lines = []
    for name, outcome in outcomes.items():
        by = outcome.caught or f"SURVIVED ({outcome.crashed or f'{outcome.passed} tests passed'})"
        lines.append(f"{name:50s} {outcome.seconds:6.1f} s  {by}")
    return "\n".join(lines)


def chosen(names: Sequence[str]) -> list[Mutant]:
    """Return mutants by name; all of them for none. Exits with the known names for an unknown one."""
    unknown = sorted(set(names) - set(MUTANTS))
    if unknown:
        sys.exit(f"no mutant {unknown[0]!r}; there are: {', '.join(MUTANTS)}")
    return [MUTANTS[name] for name in names or MUTANTS]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; exit code 1 if a mutant survives or a test fails without one."""
    parser = argparse.ArgumentParser("python -m tests.mutants", description=__doc__)
    parser.add_argument("name", nargs="*", help="mutants to plant; all if none is named")
    parser.add_argument("--list", action="store_true", help="print what each mutant plants, and its origin")
    parser.add_argument("--quick", action="store_true", help="a few mutants of every kind")
    parser.add_argument(
        "--clean", action="store_true", help="first run the tests that catch them without any"
    )
    parser.add_argument(
        "--random", type=int, metavar="N", help="no mutant: check N random small configurations"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random configurations")
    found = parser.parse_args(arguments)
    if found.list:
        print("\n".join(f"{m.name}: {m.plants} [{m.origin}]" for m in MUTANTS.values()))
        return
    load_everything()
    if found.random:
        from .random_runs import check_random

        sys.exit(check_random(found.random, found.seed))
    sys.exit(_mutants(chosen(QUICK if found.quick else found.name), clean=found.clean))


def _mutants(mutants: Sequence[Mutant], *, clean: bool) -> int:
    if clean:
        outcome = run_tests(None, sorted({test for mutant in mutants for test in mutant.tests}))
        failed = outcome.caught or outcome.crashed
        said = f"{outcome.passed} tests pass, {failed or 'none fails'}"
        print(f"without a mutant: {said} ({outcome.seconds:.0f} s)", flush=True)
        if failed:
            return 1
    if len(mutants) > len(QUICK):
        warm_up()
    outcomes = {}
    for mutant in mutants:
        outcomes[mutant.name] = run_tests(mutant, mutant.tests)
        print(table({mutant.name: outcomes[mutant.name]}), flush=True)
    survivors = [name for name, outcome in outcomes.items() if not outcome.caught]
    print(f"{len(outcomes)} mutants, {len(outcomes) - len(survivors)} caught, {len(survivors)} survived")
    return 1 if survivors else 0
