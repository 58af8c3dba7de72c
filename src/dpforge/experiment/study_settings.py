"""Which settings tell the runs of a study apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dpforge.identity import NOT_IDENTITY, canonical

# What a cell holds fixed in columns of its own, or what is a seed.
_NO_SETTING = ("seed", "privacy.seed", "privacy.target_epsilon", "privacy.enabled", "privacy._target_")
_DESCRIPTIVE = ("dataset.about", "dataset.files")


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """A nested configuration as dotted keys, without what only describes the data or changes no number."""
    if not isinstance(config, dict) or not config:
        return {prefix: config}
    parts = [flat(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in config.items()]
    found = {key: value for part in parts for key, value in part.items()}
    outside = (*_DESCRIPTIVE, *(f"{name}." for name in NOT_IDENTITY))
    return {k: v for k, v in found.items() if not k.startswith(outside) and k not in NOT_IDENTITY}


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys whose values are not the same in all of ``configs``, seeds and budgets apart."""
    keys = dict.fromkeys(key for config in configs for key in config if key not in _NO_SETTING)
    return [key for key in keys if len({canonical(config.get(key)) for config in configs}) > 1]


def shown(value: Any) -> str:
    """A value of the configuration as one short text."""
    return value if isinstance(value, str) else canonical(value).replace('"', "")
