"""Hydra's door to ``dpforge.sweep``, as sweepers live in ``hydra_plugins``; it imports nothing heavy.

Hydra executes this file outside ``sys.modules``, where dataclasses cannot look up postponed annotations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


@dataclass
class SearchSweeperConf:
    """Defaults of the sweeper; ``dpforge.sweep.settings.SearchSettings`` says what they mean."""

    _target_: str = "hydra_plugins.dpforge_search.SearchSweeper"
    objectives: list[str] = field(default_factory=lambda: ["fidelity/tvd_2way"])
    directions: list[str] | None = None
    selection: str = "${oc.select:privacy.selection,none}"
    n_trials: int = 20
    n_jobs: int = 1
    sampler: str = "tpe"
    seed: int = 0
    mean_runs: float = 10.0
    shape: float = 0.0
    score_sensitivity: float | None = None
    score_noise: float | None = None
    params: dict[str, Any] | None = None


ConfigStore.instance().store(
    group="hydra/sweeper", name="dpforge_search", node=SearchSweeperConf, provider="dpforge"
)


class SearchSweeper(Sweeper):
    """Ask for configurations, launch them in batches, tell their scores.

    Args:
        params: Search space by key, in Hydra's override grammar; the command line adds to it.
        settings: The other keys of the sweeper.
    """

    def __init__(self, params: dict[str, Any] | None = None, **settings: Any) -> None:
        self.params = dict(params or {})
        self.settings = settings
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra composed, and make the launcher it asks for."""
        from hydra.core.plugins import Plugins

        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the whole search; returns what the launcher returned, batch by batch."""
        from dpforge.sweep.search import run_search
        from dpforge.sweep.settings import SearchSettings

        if self.config is None or self.launcher is None:
            raise RuntimeError("setup() comes first")
        plain: dict[str, Any] = {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for key, value in self.settings.items()
        }
        words = [f"{key}={value}" for key, value in self.params.items()]
        returned: list[Any] = []

        def launch(batch: Sequence[Sequence[str]]) -> None:
            assert self.launcher is not None
            self.validate_batch_is_legal(batch)
            first = sum(len(results) for results in returned)
            returned.append(self.launcher.launch([list(job) for job in batch], initial_job_idx=first))

        run_search(SearchSettings(**plain), [*words, *arguments], launch)
        return returned
