"""``launch=ray``: the runs of a sweep as tasks of Ray, on this machine or on a cluster that exists."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from signal import SIG_DFL, SIGTERM, getsignal, signal
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

_Options = Mapping[str, Any] | None
_LOCAL = {"include_dashboard": False, "object_store_memory": 100_000_000}


class RayLauncher(Launcher):
    """Runs jobs as Ray tasks; Ray starts one again whose worker died, and the run then continues.

    Args:
        init: Arguments of ``ray.init``; ``address`` null starts Ray on this machine.
        remote: Arguments of ``ray.remote``; ``num_cpus`` null takes ``runtime.threads``.
    """

    def __init__(self, init: _Options = None, remote: _Options = None) -> None:
        self.init, self.remote = _plain(init), _plain(remote)

    def setup(self, *, hydra_context: HydraContext, task_function: Any, config: DictConfig) -> None:
        """Keep what Hydra hands over; raises ``ConfigError`` without hydra-ray-launcher."""
        from dpforge.cli.launching import require

        require("hydra_ray_launcher", "ray")
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; returns what became of each, in order."""
        from dpforge.cli.launching import threads_of, worker_environment

        threads = threads_of(self.config)
        with worker_environment(threads):
            references = [
                self._start(number, words, threads)
                for number, words in enumerate(map(list, job_overrides), initial_job_idx)
            ]
            pairs = list(zip(references, job_overrides, strict=True))
            try:
                returned = [_get(*pair) for pair in pairs]
            except KeyboardInterrupt:
                for pair in pairs:
                    self.task.add(_so_far(*pair).return_value)
                raise
        for result in returned:
            self.task.add(result.return_value)
        return returned

    def _start(self, number: int, words: list[str], threads: int) -> Any:
        import ray
        from hydra_plugins.hydra_ray_launcher._launcher_util import launch_job_on_ray

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if not ray.is_initialized():
            before = getsignal(SIGTERM)
            ray.init(**{**({} if self.init.get("address") else _LOCAL), **self.init})
            if threading.current_thread() is threading.main_thread():
                signal(SIGTERM, before or SIG_DFL)  # Ray's would end the process without a table
        config = self.context.config_loader.load_sweep_config(self.config, words)
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = f"{config.hydra.job.name}_{number}", number
        remote = OmegaConf.create({**self.remote, "num_cpus": self.remote.get("num_cpus") or threads})
        return launch_job_on_ray(self.context, remote, config, self.task, Singleton.get_state())


def _get(reference: Any, overrides: Sequence[str]) -> JobReturn:
    import ray
    from ray.exceptions import RayError

    from dpforge.cli.launching import lost

    try:
        return ray.get(reference)
    except RayError as error:
        return lost(overrides, f"its task in Ray ended with {type(error).__name__}.")


def _so_far(reference: Any, overrides: Sequence[str]) -> JobReturn:
    import ray

    from hydra_plugins.dpforge_launchers._stopping import stopped

    ended, _ = ray.wait([reference], timeout=0)
    return (
        _get(reference, overrides) if ended else stopped(overrides, "stopped. The same command continues it.")
    )


def _plain(values: _Options) -> dict[str, Any]:
    """Return the values that were given, without OmegaConf and without null."""
    content: Any = OmegaConf.to_container(OmegaConf.create(dict(values or {})), resolve=True)
    return {str(key): value for key, value in content.items() if value is not None}
