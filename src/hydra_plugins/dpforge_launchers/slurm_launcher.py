"""``launch=slurm``: the runs of a sweep as one SLURM array; requeued and timed-out runs continue exactly."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGTERM, getsignal, signal
from types import FrameType
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher

try:
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher as _Engine
except ImportError:  # without the extra, choosing it is refused when a sweep starts
    _Engine = Launcher

_ENDED = 130
# Parameters that submitit knows for every cluster; those of SLURM alone get a prefix.
_GENERAL = (
    "timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name",
    "stderr_to_stdout",
)  # fmt: skip
_QUEUE_SECONDS = 2.0
# A result may take this long to show on a shared disk after its job has left the queue.
_DISK_SECONDS = 10.0


class SlurmLauncher(_Engine):  # type: ignore[misc, valid-type]
    """Submits the jobs with submitit and waits until each has a result or has left the queue.

    The keys are those of hydra-submitit-launcher. Unlike it, this one needs no accounting database to see
    that a job was killed, waits for the others when one fails, and lets a run finish its step before it is
    requeued.
    """

    def __init__(self, **params: Any) -> None:
        self.params = {name: value for name, value in params.items() if value is not None}

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Keep what Hydra hands over; raises ``ConfigError`` without hydra-submitit-launcher or SLURM."""
        from dpforge.cli.launching import require
        from dpforge.errors import ConfigError

        require("hydra_submitit_launcher", "slurm")
        if shutil.which("sbatch") is None:
            raise ConfigError("launch=slurm found no 'sbatch'. Start the sweep on a machine of the cluster.")
        self.config, self.hydra_context, self.task_function = config, hydra_context, task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit the jobs as one array; returns what became of each, in order."""
        from dpforge.cli.launching import threads_of, worker_environment

        state = Singleton.get_state()
        calls = [
            (list(words), "hydra.sweep.dir", number, f"job_id_for_{number}", state)
            for number, words in enumerate(job_overrides, initial_job_idx)
        ]
        with worker_environment(threads_of(self.config)):
            jobs = self._executor().map_array(self, *zip(*calls, strict=True))
        array = jobs[0].job_id.split("_")[0]
        print(f"SLURM array {array}: {len(jobs)} runs. 'scancel {array}' stops them.", flush=True)
        found: dict[int, JobReturn] = {}
        try:
            returned = _wait(jobs, job_overrides, found)
        except KeyboardInterrupt:
            for number, job in enumerate(jobs):
                result = found.get(number) or _left(job, job_overrides[number])
                self.task_function.add(result.return_value)
            raise
        for result in returned:
            self.task_function.add(result.return_value)
        return returned

    def __call__(self, *args: Any, **kwargs: Any) -> JobReturn:
        """Run one job on its node; an interrupted one leaves no result, so that it can come back."""
        with _stopping() as asked:
            result = super().__call__(*args, **kwargs)  # type: ignore[misc]
        if result.return_value.state == "interrupted":
            asked.finish()
        return result

    def _executor(self) -> Any:
        import submitit

        given = dict(self.params)
        folder, retries = given.pop("submitit_folder"), given.pop("max_num_timeout", 0)
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=retries)
        executor.update_parameters(
            **{name if name in _GENERAL else f"slurm_{name}": value for name, value in given.items()}
        )
        return executor


class _Asked:
    """Which signal asked a job to stop, and what SLURM is to do with the job."""

    def __init__(self, requeue: Callable[[int, FrameType | None], Any] | None) -> None:
        self.requeue = requeue
        self.signal: int | None = None

    def finish(self) -> None:
        """Requeue the job if its time is up, and end the process without a result."""
        if self.signal is not None and self.requeue is not None:
            self.requeue(self.signal, None)
        sys.exit(_ENDED)


@contextmanager
def _stopping() -> Iterator[_Asked]:
    """Turn the signals of SLURM into a request that the run answers at its next step.

    SIGTERM comes with a requeue, a preemption or ``scancel``; submitit's own signal (USR2, or the one named
    by ``SUBMITIT_PREEMPT_SIGNAL``) some time before the time limit, and asks for a requeue.
    """
    from submitit.core.job_environment import JobEnvironment

    from dpforge.errors import Interrupted

    number = JobEnvironment._usr_sig()
    before = {SIGTERM: getsignal(SIGTERM), number: getsignal(number)}
    requeue: Any = before[number]
    asked = _Asked(requeue if callable(requeue) else None)

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Interrupted("stopped before its first step; the same command continues the run.")

    def time_is_up(_number: int, _frame: FrameType | None) -> None:
        asked.signal = number
        os.kill(os.getpid(), SIGTERM)  # the run listens to this one, and ends at its step

    signal(SIGTERM, stop)
    signal(number, time_is_up)
    try:
        yield asked
    finally:
        for name, handler in before.items():
            signal(name, handler)


def _left(job: Any, overrides: Sequence[str]) -> JobReturn:
    """Return the result of a job that the cluster goes on with after the sweep."""
    from hydra_plugins.dpforge_launchers._stopping import stopped

    return stopped(
        overrides, f"SLURM job {job.job_id} goes on; 'scancel {job.job_id}' stops it.", "elsewhere"
    )


def _wait(
    jobs: Sequence[Any], overrides: Sequence[Sequence[str]], found: dict[int, JobReturn] | None = None
) -> list[JobReturn]:
    """Wait for every job; one that leaves the queue without a result is lost. ``found`` fills meanwhile."""
    from dpforge.cli.launching import lost

    found = {} if found is None else found
    gone: dict[int, float] = {}
    while len(found) < len(jobs):
        queued = _queued(sorted({job.job_id.split("_")[0] for job in jobs}))
        for number, job in enumerate(jobs):
            if number in found:
                continue
            if job.paths.result_pickle.exists():
                found[number] = _result(job, overrides[number])
            elif queued is None or job.job_id in queued:
                gone.pop(number, None)
            elif time.monotonic() - gone.setdefault(number, time.monotonic()) > _DISK_SECONDS:
                found[number] = lost(overrides[number], f"SLURM job {job.job_id} ended without a result.")
        time.sleep(_QUEUE_SECONDS)
    return [found[number] for number in range(len(jobs))]


def _result(job: Any, overrides: Sequence[str]) -> JobReturn:
    from dpforge.cli.launching import lost

    try:
        return job.results()[0]
    except Exception as error:  # what went wrong outside the run, such as too many time-outs
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = re.sub(r"^[\w.]*(Error|Exception): ", "", lines[-1]) if lines else type(error).__name__
        return lost(overrides, f"SLURM job {job.job_id}: {reason}")


def _queued(arrays: Sequence[str]) -> set[str] | None:
    """Return the ids of all jobs that wait or run; None if SLURM does not answer now."""
    with suppress(OSError, subprocess.TimeoutExpired):
        command = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={','.join(arrays)}"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if answer.returncode == 0:
            return set(answer.stdout.split())
        if "Invalid job id" in answer.stderr:
            return set()
    return None
