"""What a study costs beside its training: start, re-launch, parallel runs, imports.

``python -m benchmarks.overheads`` (some minutes; ``--quick`` for a look) prints one table. Times are
wall-clock seconds, with the processor seconds of the same processes beside them: on a busy machine only the
latter mean much.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Row, show

_ROOT = Path(__file__).parent.parent
_RUN = (
    "dataset=toy",
    "evaluation=quick",
    "evaluation.metrics=[tvd_1way,validity]",
    "logger=csv",
    "runtime.pictures=false",
    "runtime.progress=false",
)
_KNOWN_NOISE = ("privacy.target_epsilon=null", "privacy.noise_multiplier=2")
_GIVEN = (*_RUN, *_KNOWN_NOISE)
_FIRST_STEP = """
import sys, time
import lightning, opacus, pandas, sklearn.ensemble, torch
import dpforge.experiment.runner, dpforge.generators.dp_maf, dpforge.generators.training as training
from dpforge.cli.main import main
from dpforge.config import check
def step(*_, **__):
    print("first step", time.perf_counter() - begun, time.process_time() - worked, file=sys.stderr)
    raise KeyboardInterrupt
training._Loop.on_train_batch_end = step
begun, worked = time.perf_counter(), time.process_time()
main(sys.argv[1:])
"""


@dataclass(frozen=True)
class Size:
    """How much is measured: runs of the finished study, steps and number of parallel runs, repeats."""

    finished: int
    steps: int
    parallel: int
    repeats: int


FULL = Size(200, 3000, 8, 3)
QUICK = Size(20, 40, 2, 1)


@dataclass(frozen=True)
class Cost:
    """Seconds by the clock, and processor seconds of a process and all that it waited for."""

    wall: float
    cpu: float

    @property
    def note(self) -> str:
        """The processor seconds, for the last column."""
        return f"{self.cpu:.2f} s of processor"


def command(place: Path, *words: str) -> Cost:
    """Run ``dpforge`` in ``place`` and return what it cost; raises if it fails."""
    return _timed(place, [sys.executable, "-m", "dpforge.cli.main", *words])


def _timed(place: Path, words: Sequence[str]) -> Cost:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": _path()}
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words[:6])} … ended with {done.returncode}: {done.stderr[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall, cpu)


def _path() -> str:
    return os.pathsep.join(filter(None, [str(_ROOT / "src"), os.environ.get("PYTHONPATH")]))


def least(costs: Sequence[Cost]) -> Cost:
    """Return the repeat that the rest of the machine disturbed least."""
    return min(costs, key=lambda cost: cost.wall)


def import_rows(place: Path, size: Size) -> list[Row]:
    """Return the time of ``dpforge --help`` and of the imports of a worker."""
    group = "imports, whole process"
    worker = "import dpforge.experiment.runner, dpforge.generators.dp_maf"
    light = "import dpforge.cli.jobs, dpforge.experiment.skipping, dpforge.data.sources.toy"
    cases = {
        "dpforge --help": ([sys.executable, "-m", "dpforge.cli.main", "--help"], 0.5),
        "a worker that trains": ([sys.executable, "-c", worker], None),
        "a worker that finds its run finished": ([sys.executable, "-c", light], None),
    }
    rows = []
    for what, (words, aim) in cases.items():
        cost = least([_timed(place, words) for _ in range(size.repeats)])
        rows.append(Row(group, what, cost.wall, "s", aim, cost.note))
    return rows


def first_step_rows(place: Path, size: Size) -> list[Row]:
    """Return the time from the command to the end of the first training step, imports left out."""
    rows = []
    for what, words in (("given noise", _KNOWN_NOISE), ("calibrated noise", ())):
        costs = []
        for repeat in range(size.repeats):
            name = f"study=first-{what.split()[0]}-{repeat}"
            call = [sys.executable, "-c", _FIRST_STEP, "model=dp_maf", name, *_RUN, *words]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": _path()}
            done = subprocess.run(
                call, cwd=place, env=environment, capture_output=True, text=True, check=False
            )
            line = next(line for line in done.stderr.splitlines() if line.startswith("first step "))
            costs.append(Cost(*map(float, line.split()[2:])))
        cost = least(costs)
        rows.append(Row("command to first step", what, cost.wall, "s", 2.0, cost.note))
    return rows


def relaunch_rows(place: Path, size: Size) -> list[Row]:
    """Return the time to launch a finished study again."""
    from dpforge.config import check

    words = ("model=independent", "study=finished", *_RUN, *_KNOWN_NOISE)
    sweep = (*words, f"seed=range(0,{size.finished})")
    command(place, *words, "seed=0")
    first, *others = [run.identity.folder for run in check(sweep).runs]
    for folder in others:
        shutil.copytree(place / first, place / folder)
    cost = least([command(place, "-m", *sweep) for _ in range(size.repeats)])
    return [Row("re-launch", f"a finished study of {size.finished} runs", cost.wall, "s", 15.0, cost.note)]


def parallel_rows(place: Path, size: Size) -> list[Row]:
    """Return how many times as fast ``launch=joblib`` with two workers is as one run after another."""
    words = ("model=dp_maf", f"model.steps={size.steps}", f"seed=range(0,{size.parallel})", *_GIVEN)
    serial = command(place, "-m", *words, "study=serial")
    joblib = command(place, "launch=joblib", "hydra.launcher.n_jobs=2", *words, "study=joblib")
    behind = f"{serial.wall:.1f} s / {joblib.wall:.1f} s; processor {serial.cpu:.1f} s / {joblib.cpu:.1f} s"
    what = f"{size.parallel} runs, two workers against one process (aim: at least 1.8)"
    return [Row("joblib", what, serial.wall / joblib.wall, "x", None, behind)]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller studies, one repeat")
    parser.add_argument("--json", type=Path, help="write the rows there too")
    arguments = parser.parse_args(argv)
    size = QUICK if arguments.quick else FULL
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        for measure in (import_rows, first_step_rows, relaunch_rows, parallel_rows):
            rows += measure(Path(name), size)
    show(rows, title="Overheads")
    if arguments.json:
        arguments.json.write_text(json.dumps([row.to_dict() for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
