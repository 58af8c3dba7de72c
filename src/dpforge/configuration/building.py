"""From a composed configuration to objects."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dpforge.configuration.keys import COMPONENTS
from dpforge.errors import ConfigError, DPForgeError


@dataclass(frozen=True)
class Experiment:
    """Everything one run needs, built but not started; no data has been read.

    Args:
        dataset: A source: ``public_schema() -> Schema`` and ``load() -> Dataset``.
        model: A generator: ``plan``, ``fit`` and ``sample``.
        privacy: A ``PrivacySpec``.
        evaluation: ``evaluate(train, holdout, synthetic, schema, seed=...) -> Results``.
        runtime: Speed only.
        logger: Configuration of the tracker.
        study: Name of the group of runs.
        seed: Public experiment seed, >= 0.
        rows: Synthetic rows to write; None follows the row policy of the schema.
        output_root: Folder of all studies.
    """

    dataset: Any
    model: Any
    privacy: Any
    evaluation: Any
    runtime: Any
    logger: Any
    study: str
    seed: int
    rows: int | None
    output_root: str


def build(config: DictConfig) -> Experiment:
    """Instantiate every component of ``config``.

    Raises:
        ConfigError: With the mistakes of all components together.
    """
    built, mistakes = instantiate_components(config)
    mistakes += value_mistakes(config)
    if mistakes:
        raise ConfigError(mistakes)
    return experiment_of(built, config)


def experiment_of(built: dict[str, Any], config: DictConfig) -> Experiment:
    """Combine instantiated components with the plain values of ``config``."""
    return Experiment(
        **built,
        study=str(config.study),
        seed=config.seed,
        rows=config.rows,
        output_root=str(config.output_root),
    )


def instantiate_components(
    config: DictConfig, skip: frozenset[str] = frozenset()
) -> tuple[dict[str, Any], list[str]]:
    """Return the components that could be built, and the mistakes of the others; ``skip`` is not tried."""
    built: dict[str, Any] = {}
    mistakes: list[str] = []
    for name in COMPONENTS:
        if name in skip:
            continue
        if OmegaConf.select(config, f"{name}._target_") is None:
            mistakes.append(f"no '{name}' is chosen. Add {name}=CHOICE; 'dpforge --help' lists the choices.")
            continue
        try:
            built[name] = instantiate(config[name], _convert_="all")
        except (HydraException, OmegaConfBaseException) as error:
            mistakes += _component_mistakes(name, error)
    return built, mistakes


def _component_mistakes(name: str, error: BaseException) -> list[str]:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConfigError):
            return list(cause.mistakes)
        if isinstance(cause, DPForgeError):
            return [str(cause)]
        error, cause = cause, cause.__cause__
    return [f"{name}: {str(error).splitlines()[0]}"]


def value_mistakes(config: DictConfig) -> list[str]:
    """Return what is wrong with the plain values ``study``, ``seed``, ``rows`` and ``output_root``."""
    mistakes = []
    study, seed, rows = (config.get(key) for key in ("study", "seed", "rows"))
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", str(study)):
        mistakes.append(f"study={study!r}: expected letters, digits, '.', '_' and '-'; it names a folder.")
    if not _is_int(seed) or seed < 0:
        mistakes.append(f"seed={seed!r}: expected an integer >= 0.")
    if rows is not None and (not _is_int(rows) or rows < 1):
        mistakes.append(
            f"rows={rows!r}: expected an integer >= 1, or null to follow the schema's row policy."
        )
    if not config.get("output_root"):
        mistakes.append(
            "output_root is empty: give the folder that keeps the runs, such as output_root=outputs."
        )
    return mistakes


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
