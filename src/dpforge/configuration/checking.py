"""Everything that can be said about a run before any data is read, all mistakes at once."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dpforge.configuration.building import experiment_of, instantiate_components, value_mistakes
from dpforge.configuration.checked import Checked, CheckedRun
from dpforge.configuration.composing import (
    COMPOSITION_ERRORS,
    Composition,
    apply,
    compose_all,
    expand,
    explain,
    hydra_session,
    is_sweep,
    parse_overrides,
)
from dpforge.configuration.examples import example_of
from dpforge.configuration.guards import attempt, check_delta, check_pool, check_public, unconfirmed
from dpforge.configuration.keys import COMPONENTS, group_mistake, node_mistakes, override_mistake
from dpforge.configuration.places import groups
from dpforge.errors import ConfigError
from dpforge.identity import Identity, canonical, identify

MOST_JOBS = 256
_Mistake = tuple[str, str]  # the component that it keeps from being built, and the text
_NO_COMPONENT = ""


Finished = Callable[[Any, Path], bool]


def check(
    overrides: Sequence[str] = (), *, multirun: bool | None = None, finished: Finished | None = None
) -> Checked:
    """Check a command line without reading data.

    Args:
        overrides: The words after ``dpforge``.
        multirun: Whether ``-m`` was given. None accepts a sweep either way.
        finished: Says of a data source and a run folder that the run is finished. What is finished passed
            every check when it began: it is listed apart, and neither calibrated nor built.

    Raises:
        ConfigError: All mistakes of all jobs together, each once.
    """
    with hydra_session():
        return _Checker(finished).check(overrides, multirun)


class _Checker:
    """The checks of one command line; keeps what several jobs of a sweep share."""

    def __init__(self, finished: Finished | None = None) -> None:
        self.is_finished = finished
        self.finished: list[tuple[tuple[str, ...], Identity]] = []
        self.groups = groups()
        self.plans: dict[str, Any] = {}
        self.bases: dict[tuple[str, ...], Composition] = {}

    def check(self, overrides: Sequence[str], multirun: bool | None) -> Checked:
        parsed, mistakes = parse_overrides(overrides)
        sweep, from_files, enumerable = self._sweep_of(parsed)
        if multirun is False and not from_files:
            mistakes += [_not_a_sweep(override) for override in parsed if is_sweep(override)]
        jobs, total, found = _jobs([*sweep, *parsed], enumerable)
        mistakes += found
        runs: list[CheckedRun] = []
        left = MOST_JOBS  # finished ones cost no calibration, and are all looked at
        for words in jobs:
            known = len(self.finished)
            try:
                run = self._job(words)
            except ConfigError as error:
                mistakes += error.mistakes
                run = None
            runs += [run] if run is not None else []
            left -= len(self.finished) == known
            if left == 0:
                break
        if mistakes:
            raise ConfigError(list(dict.fromkeys(mistakes)))
        return Checked(tuple(runs), bool(multirun) or from_files, total, tuple(self.finished), enumerable)

    def _sweep_of(self, parsed: Sequence[Override]) -> tuple[list[Override], bool, bool]:
        """The sweep written in the files, whether they ask for one, and whether its jobs can be listed."""
        single = [override for override in parsed if not is_sweep(override)]
        words = [_line(override) for override in single if self._is_choice(override) or _is_hydra(override)]
        try:
            composition = self._base(tuple(words), [])
        except ConfigError:
            return [], False, True
        sweep = parse_overrides(composition.sweep)[0] if composition.multirun else []
        return sweep, composition.multirun, composition.enumerable

    def _is_choice(self, override: Override) -> bool:
        return override.key_or_group in self.groups and group_mistake(override, self.groups) is None

    def _job(self, words: tuple[str, ...]) -> CheckedRun | None:
        composition, mistakes = self._compose(words)
        config = composition.config
        done = None if mistakes else self._finished(composition)
        if done is not None:
            self.finished.append((words, done))
            return None
        mistakes += node_mistakes(config)
        unresolved = _interpolation_mistakes(config)
        mistakes += unresolved
        if not unresolved:
            mistakes += [(_NO_COMPONENT, text) for text in value_mistakes(config)]
        built, found = instantiate_components(config, frozenset(component for component, _ in mistakes))
        schema, plan, joint = self._together(built, config)
        texts = [text for _, text in mistakes] + found + joint
        if texts:
            raise ConfigError(texts)
        identity = identify(config, schema, composition.choices)
        return CheckedRun(words, config, experiment_of(built, config), schema, plan, identity)

    def _finished(self, composition: Composition) -> Identity | None:
        """The identity of a run that is finished; builds nothing but its data source."""
        config = composition.config
        if self.is_finished is None or value_mistakes(config) or _interpolation_mistakes(config):
            return None
        if any(component == "dataset" for component, _ in node_mistakes(config, ("dataset",))):
            return None
        built, _ = instantiate_components(config, frozenset(COMPONENTS) - {"dataset"})
        schema, _ = attempt(built["dataset"].public_schema) if "dataset" in built else (None, [])
        if schema is None:
            return None
        identity = identify(config, schema, composition.choices)
        return identity if self.is_finished(built["dataset"], identity.folder) else None

    def _compose(self, words: Sequence[str]) -> tuple[Composition, list[_Mistake]]:
        """Compose what can be composed; a wrong choice or key is a mistake and is left out."""
        parsed = parse_overrides(words)[0]
        choices = [override for override in parsed if override.key_or_group in self.groups]
        found = {_line(override): group_mistake(override, self.groups) for override in choices}
        mistakes = [(o.key_or_group, text) for o in choices if (text := found[_line(o)]) is not None]
        good = [_line(o) for o in parsed if _is_hydra(o) or (o in choices and found[_line(o)] is None)]
        base = self._base(tuple(good), mistakes)
        config = copy.deepcopy(base.config)
        wrong = {component for component, _ in mistakes}
        for override in parsed:
            component = override.key_or_group.split(".")[0]
            if override in choices or _is_hydra(override) or component in wrong:
                continue
            text = override_mistake(override, config) or apply(override, config)
            if text is not None:
                mistakes.append((_NO_COMPONENT, text))
        return dataclasses.replace(base, config=config), mistakes

    def _base(self, words: tuple[str, ...], mistakes: Sequence[_Mistake]) -> Composition:
        if words not in self.bases:
            try:
                self.bases[words] = compose_all(words)
            except COMPOSITION_ERRORS as error:
                raise ConfigError([*(text for _, text in mistakes), explain(error)]) from None
        return self.bases[words]

    def _together(self, built: dict[str, Any], config: DictConfig) -> tuple[Any, Any, list[str]]:
        """The schema, the plan and the mistakes that only show when components meet."""
        dataset, model, privacy = (built.get(name) for name in ("dataset", "model", "privacy"))
        if dataset is None:
            return None, None, []
        schema, mistakes = attempt(dataset.public_schema)
        if schema is None:
            return None, None, mistakes
        mistakes += unconfirmed(schema)
        if privacy is not None:
            mistakes += attempt(lambda: check_delta(privacy, schema))[1]
            mistakes += attempt(lambda: check_pool(privacy, dataset))[1]
        for group, component in (("model", model), ("evaluation", built.get("evaluation"))):
            if component is not None and dataset.modality not in component.modalities:
                mistakes.append(_other_modality(group, component.modalities, dataset.modality))
        if mistakes or model is None or privacy is None:
            return schema, None, mistakes
        plan, mistakes = self._plan(model, privacy, schema, config)
        return schema, plan, [*mistakes, *attempt(lambda: check_public(model, dataset))[1]]

    def _plan(self, model: Any, privacy: Any, schema: Any, config: DictConfig) -> tuple[Any, list[str]]:
        nodes = {name: OmegaConf.to_container(config[name], resolve=True) for name in ("model", "privacy")}
        key = canonical({**nodes, "schema": schema.digest})
        if key not in self.plans:
            self.plans[key] = attempt(lambda: model.plan(schema, privacy))
        return self.plans[key]


def _other_modality(group: str, able: Sequence[str], modality: str) -> str:
    return (
        f"{group}={' or '.join(able)} data, dataset={modality} data: they do not fit. "
        f"Choose another {group} for {modality} data, or another dataset."
    )


def _jobs(
    overrides: Sequence[Override], enumerable: bool
) -> tuple[Iterator[tuple[str, ...]], int, list[str]]:
    """The jobs to check, how many there are in all, and the mistakes of sweeps that cannot be listed.

    Of a search, whose runs nobody knows before it starts, one example is checked.
    """
    try:
        return *expand(overrides if enumerable else example_of(_latest(overrides))), []
    except ConfigError as error:
        return iter(()), 0, list(error.mistakes)


def _latest(overrides: Sequence[Override]) -> list[Override]:
    return list({override.get_key_element(): override for override in overrides}.values())


def _interpolation_mistakes(config: DictConfig) -> list[_Mistake]:
    mistakes = []
    for key in config:
        try:
            node = OmegaConf.select(config, str(key))
            OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else None
        except OmegaConfBaseException as error:
            mistakes.append((str(key), f"{key}: {explain(error)}"))
    return mistakes


def _not_a_sweep(override: Override) -> str:
    key = override.get_key_element()
    return (
        f"'{_line(override)}' names several values: add -m for a sweep, or quote one value: {key}='\"a,b\"'."
    )


def _is_hydra(override: Override) -> bool:
    return bool(override.is_hydra_override())


def _line(override: Override) -> str:
    return str(override.input_line)
