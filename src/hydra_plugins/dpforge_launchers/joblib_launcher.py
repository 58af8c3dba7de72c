"""``launch=joblib``: the runs of a sweep in parallel processes on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig

from hydra_plugins.dpforge_launchers._stopping import INTERRUPTED, Stopping, listen_in_worker, stopped


class JoblibLauncher(Launcher):
    """Runs jobs in loky workers; outlives the death of a worker, and lets runs save when it is stopped.

    Args:
        n_jobs: Runs at once; None takes cores / ``runtime.threads``.
        gpus: GPUs to share among the workers; None takes those that are visible.
    """

    def __init__(self, n_jobs: int | None = None, gpus: int | None = None) -> None:
        self.n_jobs, self.gpus = n_jobs, gpus

    def setup(self, *, hydra_context: HydraContext, task_function: Any, config: DictConfig) -> None:
        """Keep what Hydra hands over; raises ``ConfigError`` without hydra-joblib-launcher."""
        from dpforge.cli.launching import require

        require("hydra_joblib_launcher", "joblib")
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; returns what became of each, in order.

        When a worker dies (out of memory, say), loky ends all of them. The runs that were going on are then
        repeated alone, so that only the one that kills its process is lost. After SIGTERM or Ctrl-C the
        process exits with 130, once the runs have saved and what became of each is on record.
        """
        from dpforge.cli.launching import lost, notes_folder, threads_of, worker_environment

        jobs = dict(enumerate(map(list, job_overrides), initial_job_idx))
        returned: dict[int, JobReturn] = {}
        batches = [list(jobs)]
        with worker_environment(threads_of(self.config)), notes_folder() as notes:
            stopping = Stopping(notes)
            while batches and not stopping.asked:
                batch = [number for number in batches.pop(0) if number not in returned]
                if self._run({number: jobs[number] for number in batch}, returned, notes, stopping):
                    continue
                if stopping.asked:
                    break
                suspects = [n for n in batch if n not in returned and (notes / f"started-{n}").exists()]
                left = [n for n in batch if n not in returned and n not in suspects]
                if len(batch) == 1 or not suspects:
                    returned |= {n: lost(jobs[n], "its process was killed.") for n in [*suspects, *left]}
                    continue
                batches = [*([n] for n in suspects), *([left] if left else []), *batches]
        if stopping.asked:
            why = "stopped before it was saved. The same command continues it."
            returned |= {number: stopped(jobs[number], why) for number in jobs if number not in returned}
        self._collect(returned)
        if stopping.asked:
            sys.exit(INTERRUPTED)
        return [returned[number] for number in jobs]

    def _run(
        self, jobs: dict[int, list[str]], returned: dict[int, JobReturn], notes: Path, stopping: Stopping
    ) -> bool:
        """Run some jobs at once; returns whether all workers lived to the end."""
        from joblib import Parallel, delayed
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        from dpforge.cli.launching import gpus, threads_of, workers_for

        if not jobs:
            return True
        again = bool(returned) or any(notes.glob("started-*"))
        workers = workers_for(self.n_jobs, threads_of(self.config), len(jobs))
        # One worker would mean this very process.
        workers = max(2, workers) if again else workers
        options: dict[str, Any] = {"backend": "loky", "batch_size": 1, "return_as": "generator_unordered"}
        work: Any = Parallel(n_jobs=workers, **options)
        home, names, state = os.getpid(), gpus(self.gpus), Singleton.get_state()
        calls = [
            delayed(execute)(home, notes, names, number, words, self.context, self.config, self.task, state)
            for number, words in jobs.items()
        ]
        try:
            with stopping.listening() if workers > 1 else nullcontext():
                returned.update(work(calls))  # one by one: those that came before a crash are kept
        except TerminatedWorkerError:
            return False
        return True

    def _collect(self, returned: dict[int, JobReturn]) -> None:
        for _, result in sorted(returned.items()):
            self.task.add(result.return_value)


def execute(
    home: int,
    notes: Path,
    gpus: list[str],
    number: int,
    overrides: list[str],
    context: HydraContext,
    config: DictConfig,
    task: Any,
    state: dict[Any, Any],
) -> tuple[int, JobReturn]:
    """Run one job in a worker, or in the process ``home`` of the sweep; leaves a note that it began."""
    from hydra_plugins.hydra_joblib_launcher._core import execute_job

    from dpforge.cli.launching import claim_gpu

    if os.getpid() != home and listen_in_worker(notes):
        return number, stopped(overrides, "not begun. The same command starts it.")
    (notes / f"started-{number}").touch()
    claim_gpu(gpus, notes)
    return number, execute_job(number, overrides, context, config, task, state)
