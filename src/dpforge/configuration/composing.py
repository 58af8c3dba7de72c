"""Hydra, kept at arm's length: composition, sweeps and its errors in our words."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from dpforge.configuration.places import conf_dir, experiments_dir
from dpforge.errors import ConfigError

COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError)
_BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


class ExperimentSearchPath(SearchPathPlugin):
    """Adds the folder of the groups ``paper`` and ``frontier`` to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("dpforge", f"file://{experiments_dir()}")


def noise_seed(seed: int) -> int:
    """Return a seed for research noise that differs from the public ``seed`` but follows it.

    In YAML: ``${noise_seed:${seed}}``.
    """
    return int.from_bytes(hashlib.sha256(f"dpforge noise {int(seed)}".encode()).digest()[:4], "big")


def register() -> None:
    """Make the groups beside ``conf`` and our resolvers known to Hydra; calling it again changes nothing."""
    OmegaConf.register_new_resolver("noise_seed", noise_seed, replace=True)
    plugins = Plugins.instance()
    if ExperimentSearchPath not in plugins.discover(SearchPathPlugin):
        plugins.register(ExperimentSearchPath)


@contextmanager
def hydra_session() -> Iterator[None]:
    """Initialise Hydra on :func:`conf_dir`, or join the session that is already open here."""
    register()
    if GlobalHydra.instance().is_initialized():
        yield
        return
    with initialize_config_dir(str(conf_dir()), job_name="dpforge", version_base="1.3"):
        yield


def explain(error: BaseException) -> str:
    """Return the text of a composition error without Hydra's advice, its cause included."""
    texts = [str(error)]
    if error.__cause__ is not None and str(error.__cause__) not in texts[0]:
        texts.append(str(error.__cause__))
    lines = [line.strip() for text in texts for line in text.splitlines()]
    noise = (
        "full_key:",
        "object_type=",
        "reference_type=",
        "See https",
        "Config search path",
        "provider=",
        "^",
    )
    return " ".join(line for line in lines if line and not line.startswith(noise)).strip()


@dataclass(frozen=True)
class Composition:
    """A composed configuration, the choice made for each group, and the sweep the files ask for."""

    config: DictConfig
    choices: dict[str, str]
    multirun: bool
    sweep: tuple[str, ...]
    enumerable: bool


def compose_all(overrides: Sequence[str]) -> Composition:
    """Compose overrides that contain no sweep; raises one of ``COMPOSITION_ERRORS``."""
    with hydra_session():
        config = hydra_compose("config", overrides=list(overrides), return_hydra_config=True)
    hydra = config.hydra
    choices = {str(k): str(v) for k, v in hydra.runtime.choices.items() if not str(k).startswith("hydra/")}
    params = hydra.sweeper.get("params") or {}
    mode = hydra.mode.name if hydra.mode is not None else "RUN"
    sweep = tuple(f"{key}={value}" for key, value in params.items())
    enumerable = hydra.sweeper.get("_target_") == _BASIC_SWEEPER
    with open_dict(config):
        del config["hydra"]
    return Composition(config, choices, mode == "MULTIRUN", sweep, enumerable)


def apply(override: Override, config: DictConfig) -> str | None:
    """Apply one value override in place as Hydra would; return what does not fit, or None."""
    try:
        ConfigLoaderImpl._apply_overrides_to_config([override], config)
    except COMPOSITION_ERRORS as error:
        return f"'{override.input_line}' does not fit: {explain(error)}"
    return None


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """Return the configuration of one run, as the ``dpforge`` command would compose it.

    Raises:
        ConfigError: The overrides or files do not compose; says why. Values are not checked here.
    """
    try:
        return compose_all(overrides).config
    except COMPOSITION_ERRORS as error:
        raise ConfigError(explain(error)) from None


def parse_overrides(texts: Sequence[str]) -> tuple[list[Override], list[str]]:
    """Parse command line words; return the good ones, and one mistake for each bad one."""
    parsed: list[Override] = []
    mistakes: list[str] = []
    with hydra_session():
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        for text in texts:
            try:
                parsed += parser.parse_overrides([text])
            except HydraException:
                mistakes.append(
                    f"cannot read the override '{text}'. Expected key=value, +key=value or ~key; "
                    "quote a value with special characters: 'key=\"a, b\"'."
                )
    return parsed, mistakes


def is_sweep(override: Override) -> bool:
    """Whether an override names several values: ``a=1,2``, ``range(5)``, ``choice(...)`` or ``glob(*)``."""
    return bool(override.is_sweep_override())


def expand(overrides: Sequence[Override]) -> tuple[Iterator[tuple[str, ...]], int]:
    """Return the overrides of every job of a sweep, lazily, and how many jobs there are.

    A later word for the same key replaces an earlier one.
    """
    words: dict[str, list[str]] = {}
    for override in overrides:
        words[override.get_key_element()] = _words(override)
    return itertools.product(*words.values()), math.prod(map(len, words.values()))


def _words(override: Override) -> list[str]:
    if not is_sweep(override):
        return [str(override.input_line)]
    key = override.get_key_element()
    if not override.is_discrete_sweep():
        raise ConfigError(f"'{override.input_line}' has no list of values. Use key=1,2,3 or key=range(0,5).")
    return [f"{key}={value}" for value in override.sweep_string_iterator()]
