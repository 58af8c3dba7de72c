"""The identity of a run: a hash of everything that changes its numbers, and nothing else.

The content of the data is left out on purpose: a public hash of private rows would let anyone test a
guess about them. The schema, which is public, stands for the data.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig, OmegaConf

import dpforge

NOT_IDENTITY = ("runtime", "logger", "launch", "sweep", "hydra", "study", "output_root", "local")
_DESCRIPTION = (
    "about",
    "urls",
    "registry",
    "aliases",
)  # where a file comes from does not change what is in it
# How images are asked for, and how much may be paid for them, not which ones.
_REQUESTS = ("max_requests", "timeout_s", "cost_per_image", "key_variable", "batch_size", "local_files_only")
# How a run is chosen among others does not change what it computes.
_CHOOSING = ("selection",)
_LENGTH = 10


class HasDigest(Protocol):
    """What identity needs of a schema."""

    @property
    def digest(self) -> str: ...


@dataclass(frozen=True)
class Identity:
    """Where a run lives.

    Args:
        run_id: Ten hexadecimal digits; equal if and only if the numbers of two runs should be equal.
        slug: For people, such as ``dp_maf-adult-eps3-seed0``.
        folder: ``<output_root>/<study>/<slug>-<run_id>``.
    """

    run_id: str
    slug: str
    folder: Path


def identify(config: DictConfig, schema: HasDigest, choices: Mapping[str, str] | None = None) -> Identity:
    """Return the identity of a composed run.

    Args:
        config: The whole configuration of the run.
        schema: The public schema of its data set.
        choices: The choice made for each group, used for the names in the slug.
    """
    content = OmegaConf.to_container(config, resolve=True)
    if not isinstance(content, dict):
        raise TypeError(f"expected a mapping as configuration, got {type(content).__name__}")
    kept = {str(key): value for key, value in content.items() if key not in NOT_IDENTITY}
    kept["dataset"] = _without(kept.get("dataset"), _DESCRIPTION)
    kept["privacy"] = _without(kept.get("privacy"), _CHOOSING)
    model = kept.get("model")
    if isinstance(model, dict) and "api" in model:
        kept["model"] = {**model, "api": _without(model["api"], _REQUESTS)}
    version = ".".join(dpforge.__version__.split(".")[:2])
    text = canonical({"config": kept, "schema": schema.digest, "dpforge": version})
    run_id = hashlib.sha256(text.encode()).hexdigest()[:_LENGTH]
    slug = _slug(kept, choices or {})
    return Identity(run_id, slug, Path(content["output_root"]) / str(content["study"]) / f"{slug}-{run_id}")


def canonical(value: Any) -> str:
    """Return JSON in which key order and the spelling of a number (1, 1.0, 1e0) make no difference."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _without(value: Any, keys: tuple[str, ...]) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _without(inner, keys) for key, inner in value.items() if key not in keys}


def _slug(config: Mapping[str, Any], choices: Mapping[str, str]) -> str:
    parts = [
        choices.get("model") or _module_name(config.get("model")),
        choices.get("dataset") or str((config.get("dataset") or {}).get("name", "data")),
        _budget(config.get("privacy") or {}),
        f"seed{config.get('seed', 0)}",
    ]
    return "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", part) for part in parts)


def _module_name(node: Any) -> str:
    target = str((node or {}).get("_target_", "model"))
    return target.split(".")[-2] if "." in target else target


def _budget(privacy: Mapping[str, Any]) -> str:
    if not privacy.get("enabled", True):
        return "nodp"
    if privacy.get("target_epsilon") is not None:
        return f"eps{_short(privacy['target_epsilon'])}"
    return f"sigma{_short(privacy.get('noise_multiplier'))}"


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)
