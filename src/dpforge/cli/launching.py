"""What every launcher needs: its engine, threads that fit the cores, a GPU for each worker, lost jobs."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dpforge.cli.jobs import Job
from dpforge.errors import ConfigError

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_held: list[FileLock] = []


def require(engine: str, extra: str) -> None:
    """Raise ``ConfigError`` with the extra to install if the Hydra plugin ``engine`` is missing."""
    if importlib.util.find_spec(f"hydra_plugins.{engine}") is None:
        raise ConfigError(
            f"launch={extra} needs a library that is not installed. Use pip install 'dpforge[{extra}]',"
            " or launch=local."
        )


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_of(config: Any) -> int:
    """Return the threads of one run, at least 1."""
    return max(1, int(config.runtime.get("threads") or 1))


def workers_for(n_jobs: int | None, threads: int, jobs: int) -> int:
    """Return how many runs to work on at once.

    Args:
        n_jobs: What was asked for; None takes as many as the cores bear with ``threads`` threads each.
        threads: Threads of one run.
        jobs: Runs there are.

    Raises:
        ConfigError: ``n_jobs`` is not positive.
    """
    if n_jobs is not None and n_jobs < 1:
        raise ConfigError(f"hydra.launcher.n_jobs={n_jobs}: expected at least 1, or null to use all cores.")
    return max(1, min(n_jobs or cores() // threads, jobs))


@contextmanager
def worker_environment(threads: int) -> Iterator[None]:
    """Let processes that are started in the block use ``threads`` threads, unless the user said otherwise.

    Libraries read these variables when they are imported, so setting them in the worker is too late.
    """
    added = {name: str(threads) for name in _THREADS if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def gpus(told: int | None = None) -> list[str]:
    """Return the names of the GPUs to share, as ``CUDA_VISIBLE_DEVICES`` takes them; imports no torch.

    Args:
        told: Use the first so many; None takes all that are visible.
    """
    visible = os.environ.get(_VISIBLE)
    if visible is not None:
        found = [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
    else:
        found = [str(number) for number in range(_count_gpus() if told is None else told)]
    return found if told is None else found[:told]


def _count_gpus() -> int:
    if shutil.which("nvidia-smi") is None:
        return 0
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def claim_gpu(names: Sequence[str], notes: Path) -> None:
    """Make one GPU the only visible one of this process, round-robin over the living workers.

    CUDA reads the variable once in a process, so a worker keeps its GPU for all its runs. The locks in
    ``notes`` fall when a worker dies, which gives its place to the next.
    """
    if not names or _held:
        return
    for slot in itertools.count():
        lock = FileLock(notes / f"worker-{slot}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            continue
        _held.append(lock)
        os.environ[_VISIBLE] = names[slot % len(names)]
        return


def finished_return(job: Job) -> Any:
    """Wrap what became of a job as Hydra's sweepers expect it."""
    from hydra.core.utils import JobReturn, JobStatus

    returned = JobReturn(overrides=list(job.overrides), status=JobStatus.COMPLETED)
    returned.return_value = job
    return returned


def lost(overrides: Sequence[str], why: str) -> Any:
    """Return the result of a job whose process ended without one."""
    said = f"RunError: {why} The same command continues it; finished runs are skipped."
    return finished_return(Job(tuple(overrides), "lost", None, (said,)))


@contextmanager
def notes_folder() -> Iterator[Path]:
    """Make a folder for the notes that workers of this machine leave for each other."""
    with tempfile.TemporaryDirectory(prefix="dpforge-sweep-") as name:
        yield Path(name)
