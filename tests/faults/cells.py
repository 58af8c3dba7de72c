"""Cells: one generator, one fault, one seed; what must hold afterwards, and whether it did."""

from __future__ import annotations

import dataclasses
import functools
import json
import random
import re
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpforge import verify
from dpforge.errors import DPForgeError
from dpforge.experiment.rundir import RunDir

from . import plants
from .attempts import ESCAPED, HUNG, attempt, ended, records, releases, results, start, terminal, uses
from .damages import DAMAGES, FILES, damage, restored
from .generators import Case, case

SIGNALS = ("SIGKILL", "SIGTERM", "SIGUSR1", "SIGINT")
CLEAN = {0, 1, 2, 130}
DIED = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGUSR1}
REMEDY = re.compile(
    r"again|estore|free space|Delete|delete|Put the file|another study|Check the path|Free|Wait|Install"
)
TYPED = re.compile(r"^(\w+Error|BudgetExceeded|PlanMismatch|Interrupted): ", re.MULTILINE)
CROWD = 16
# These write a row of the local log after the checkpoint of its step: a kill in between loses the row.
LOSES_ROWS = {"aim", "dp_imgsyn"}


class Broken(Exception):
    """A promise that did not hold after a fault."""


@dataclass(frozen=True)
class Cell:
    """One injected fault: ``family`` groups faults in the table, ``what`` says which one it is."""

    generator: str
    family: str
    what: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.generator} · {self.what} · {self.seed}"


@dataclass(frozen=True)
class Outcome:
    """``ended`` is identical, refused (and identical once restored), caught by verify, not hit, or BROKEN."""

    cell: Cell
    ended: str
    problem: str = ""
    codes: tuple[int, ...] = ()
    seconds: float = 0.0


@dataclass
class Prepared:
    """The undisturbed run of a generator and copies of it stopped at several points."""

    case: Case
    whole: dict[str, Any]
    passed: dict[str, int]
    seconds: float
    stopped: dict[str, Path] = field(default_factory=dict)


class Lab:
    """Runs cells in scratch folders below ``scratch``; prepares each generator when it is first needed."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self._prepared: dict[str, Prepared] = {}
        self._number = 0
        verify.event_pld = _remembered(verify.event_pld)

    def prepared(self, name: str) -> Prepared:
        """Return what is needed to disturb a generator and to judge the end."""
        if name not in self._prepared:
            self._prepared[name] = self._prepare(case(name))
        return self._prepared[name]

    def place(self) -> Path:
        """Return a new empty working directory that anyone may enter."""
        self._number += 1
        path = self.scratch / f"cell{self._number}"
        path.mkdir()
        path.chmod(0o755)
        return path

    def _prepare(self, of: Case) -> Prepared:
        _expect(attempt(of, self.place()), 0, "the warming run")
        place = self.place()
        begin = time.monotonic()
        _expect(attempt(of, place, plants.counting(place / "passed.json")), 0, terminal(place))
        seconds = time.monotonic() - begin
        folder = _folder(of, place)
        made = Prepared(of, results(folder), json.loads((place / "passed.json").read_text()), seconds)
        made.stopped["finished"] = place
        saved = made.passed.get("after a checkpoint", 0)
        point, number = ("after a checkpoint", (saved + 1) // 2) if saved else ("after noise", 1)
        for stage, (where, n) in {
            "in the fit": (point, number),
            "fitted": ("in sampling", 1),
            "sampled": ("in evaluation", 1),
        }.items():
            made.stopped[stage] = self.place()
            _expect(attempt(of, made.stopped[stage], plants.at(where, "SIGKILL", n)), -9, stage)
        return made

    def run(self, cell: Cell) -> Outcome:
        """Inject one fault and judge what is left; never raises for a broken promise."""
        ready = self.prepared(cell.generator)
        place, begin = self.place(), time.monotonic()
        chance = random.Random(f"{cell.generator} {cell.what} {cell.seed}")
        trial = Trial(ready, place, chance)
        try:
            how, problem = trial.inject(cell), ""
        except Broken as error:
            how, problem = "BROKEN", str(error)
        if how == "BROKEN":
            problem += "\n" + terminal(place)[-1500:]
        else:
            shutil.rmtree(place, ignore_errors=True)
        return Outcome(cell, how, problem, tuple(trial.codes), time.monotonic() - begin)


@dataclass
class Trial:
    """One cell under way."""

    ready: Prepared
    place: Path
    chance: random.Random
    codes: list[int] = field(default_factory=list)

    @property
    def folder(self) -> RunDir:
        """The run folder of this trial."""
        return _folder(self.ready.case, self.place)

    def inject(self, cell: Cell) -> str:
        """Do what the cell says; return how it ended."""
        if cell.family == "files":
            return self._damaged(*cell.what.split(" | "))
        if cell.family == "crowd":
            return self._crowd()
        for _ in range(3 if cell.family == "storm" else 1):
            self._disturb(cell)
        return self._finish()

    def _disturb(self, cell: Cell) -> None:
        family, what = cell.family, cell.what
        if family == "storm":
            family, what = self._random_fault()
        if family == "signals, any time":
            self._signalled(what)
        else:
            self._attempt(self._plant(family, what), wandb=what == "W&B missing")

    def _random_fault(self) -> tuple[str, str]:
        names = [point for point in plants.POINTS if self.ready.passed.get(point)]
        return "points", f"{self.chance.choice(SIGNALS)} | {self.chance.choice(names)}"

    def _plant(self, family: str, what: str) -> Any:
        chance, passed = self.chance, self.ready.passed
        if family in ("points", "memory"):
            action, point = what.split(" | ") if " | " in what else (what, "")
            if not point:
                return plants.little_memory(chance.randrange(2**27))
            return plants.at(point, action, chance.randint(1, max(1, passed.get(point, 1))))
        if what == "files cannot grow":
            return plants.small_files(chance.randrange(20000))
        if what.startswith("no space"):
            call = what.split()[-1]
            return plants.full_disk(call, chance.randint(1, max(1, passed[call])), stays="stays" in what)
        if what == "read-only folder":
            stage = chance.choice(["", *self.ready.stopped])
            if stage:
                self._copy(stage)
            return plants.no_rights
        if what == "W&B missing":
            return plants.no_wandb
        far = chance.choice([0.0, 1.0, 4e9, 2e9])
        return plants.skewed_clock(far, chance.choice([-3600.0, 86400.0, 0.0]))

    def _copy(self, stage: str) -> None:
        shutil.rmtree(self.place)
        shutil.copytree(self.ready.stopped[stage], self.place)

    def _attempt(self, plant: Any = None, *, wandb: bool = False) -> int:
        config = self.ready.case.tracked() if wandb else None
        code = attempt(self.ready.case, self.place, plant, config)
        self._after(code)
        return code

    def _after(self, code: int) -> None:
        """What holds after every attempt, however it ended."""
        self.codes.append(code)
        if code == HUNG:
            raise Broken("the attempt hung")
        if code == ESCAPED or code not in CLEAN | DIED | {-signal.SIGABRT}:
            raise Broken(f"exit code {code}")
        said = terminal(self.place)
        if "Traceback" in said or "Exception ignored" in said or "Logging error" in said:
            raise Broken("a traceback is on the screen")
        for path in self.place.joinpath("outputs").rglob("*"):
            if path.is_dir() and not path.stat().st_mode & 0o200:
                path.chmod(0o755)
        self._spent()

    def _spent(self) -> None:
        """No release without its reservation, and no noise under two values."""
        counted = uses(records(self.folder))
        for (name, step), seen in releases(self.place).items():
            if len(seen) > 1:
                raise Broken(f"use {step} of '{name}' was released {len(seen)} times, differently")
            limit = len(counted.get(f"{name} rho", counted.get(name, [])))
            if step >= limit:
                raise Broken(f"use {step} of '{name}' was released; the ledger counts {limit}")

    def _signalled(self, what: str) -> None:
        pid = start(self.ready.case, self.place)
        time.sleep(self.chance.random() * self.ready.seconds)
        plants.os.kill(pid, getattr(signal, what))
        self._after(ended(pid))

    def _finish(self) -> str:
        """The same command, undisturbed, must end as if nothing had happened."""
        if self._attempt() != 0:
            raise Broken("the same command does not continue the run")
        self._identical()
        return "identical" if any(self.codes[:-1]) else "identical, finished at once"

    def _identical(self, *, without: str = "") -> None:
        now, whole = results(self.folder), self.ready.whole
        if self.ready.case.name in LOSES_ROWS and set(now["logged"]) <= set(whole["logged"]):
            without = "logged"
        wrong = [key for key, value in whole.items() if now[key] != value and key != without]
        if wrong:
            raise Broken(f"not as the undisturbed run: {', '.join(wrong)}")
        try:
            verify.compare(self.folder.root)
        except verify.Wrong as error:
            raise Broken(f"dpforge-verify: {error}") from error

    def _crowd(self) -> str:
        pids = [start(self.ready.case, self.place) for _ in range(CROWD)]
        for pid in pids:
            self._after(ended(pid))
        if not set(self.codes) <= {0, 2} or 0 not in self.codes:
            raise Broken(f"exit codes {sorted(self.codes)}")
        return self._finish()

    def _damaged(self, kind: str, name: str, stage: str) -> str:
        self._copy(stage)
        (self.place / "terminal.txt").unlink()
        path = self.folder.root / name
        whole = _folder(self.ready.case, self.ready.stopped[stage]).root / name
        if not path.is_file() or not damage(path, kind, self.chance):
            return "not hit"
        code = attempt(self.ready.case, self.place)
        self.codes.append(code)
        said = terminal(self.place)
        if "Traceback" in said or code not in (0, 2):
            raise Broken(f"exit code {code} or a traceback")
        if code == 0:
            return self._judged(name, stage)
        if not TYPED.search(said) or not REMEDY.search(said):
            raise Broken("refused without saying what to do")
        restored(path, whole)
        if attempt(self.ready.case, self.place) != 0:
            raise Broken("refused even after the file was put back")
        self._identical()
        return "refused"

    def _judged(self, name: str, stage: str) -> str:
        """The command went through with a damaged file: it was made again, or its damage must be seen."""
        try:
            self._spent()
            self._identical(without="logged" if name == "metrics.csv" else "")
        except (Broken, OSError, ValueError, LookupError, TypeError, DPForgeError) as error:
            if stage == "finished" and _verify_objects(self.folder.root):
                return "caught by dpforge-verify"
            raise Broken(f"went through: {error}") from error
        return "identical"


def _verify_objects(root: Path) -> bool:
    try:
        verify.compare(root)
    except (verify.Wrong, OSError, ValueError, LookupError, TypeError, ArithmeticError):
        return True
    return False


def _folder(of: Case, place: Path) -> RunDir:
    return RunDir(place / of.identity.folder)


def _expect(code: int, wanted: int, what: str) -> None:
    if code != wanted:
        raise AssertionError(f"exit code {code} instead of {wanted}: {what}")


def _remembered(original: Any) -> Any:
    """The certificate of one plan is recomputed many times: do each event once."""

    @functools.cache
    def known(text: str, count: int) -> Any:
        return original(json.loads(text), count)

    return lambda event, count: known(json.dumps(event, sort_keys=True), count)


def catalogue(passed: dict[str, int]) -> list[tuple[str, str]]:
    """Every (family, fault) that can happen to a run that passes these points."""
    points = [point for point in plants.POINTS if passed.get(point)]
    found = [("points", f"{name} | {point}") for point in points for name in SIGNALS]
    found += [("memory", f"out of memory | {point}") for point in points if point != "within a ledger line"]
    found += [("memory", "no memory left")]
    found += [("signals, any time", name) for name in SIGNALS]
    found += [("disk", f"no space {how} {call}") for how in ("once in", "stays in") for call in plants.FILES]
    found += [("disk", "files cannot grow"), ("disk", "read-only folder")]
    found += [("surroundings", "W&B missing"), ("surroundings", "clock skewed"), ("crowd", "16 processes")]
    found += [("storm", "three in a row")] * 3
    for stage, names in FILES.items():
        for name in names:
            for kind in (*DAMAGES, "removed", "a folder"):
                found.append(("files", f"{kind} | {name} | {stage}"))
    return found


def scratch_folder() -> Path:
    """A scratch folder in memory where the system has one: the faults are many, the disk is slow."""
    shared = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="faults", dir=shared if shared.is_dir() else None))
    place.chmod(0o755)
    return place


def cell(generator: str, family: str, what: str, seed: int = 0) -> Cell:
    """Shorthand for tests."""
    return dataclasses.replace(Cell(generator, family, what, seed))
