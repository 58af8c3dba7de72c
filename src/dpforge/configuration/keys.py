"""The signature is the schema: which keys a configuration may have, and which it must."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from dpforge.errors import did_you_mean

COMPONENTS = ("dataset", "model", "privacy", "evaluation", "runtime", "logger")
VALUES = ("study", "seed", "rows", "output_root")
ALLOWED_TARGETS = ("dpforge.", "torch.optim.", "lightning.")
_HYDRA_KEYS = ("_target_", "_convert_", "_recursive_", "_partial_", "_args_")


def group_mistake(override: Override, groups: Mapping[str, Sequence[str]]) -> str | None:
    """Return what is wrong with ``group=choice``, or None; ``override`` must name a group of ``groups``."""
    group = override.key_or_group
    value = override.value()
    chosen = [str(item) for item in value] if isinstance(value, list) else [str(value)]
    for choice in chosen:
        if value is None or choice in groups[group]:
            continue
        known = ", ".join(groups[group]) or "none"
        hint = did_you_mean(choice, groups[group])
        return f"unknown choice '{group}={choice}'.{hint} Available: {known}."
    return None


def override_mistake(override: Override, config: DictConfig) -> str | None:
    """Return why a ``key=value``, ``+key=value`` or ``~key`` does not fit ``config``, or None."""
    key = override.key_or_group
    if _exists(config, key):
        return None
    if override.is_delete():
        return f"cannot delete '{key}': there is no such key.{did_you_mean(key, known_keys(config))}"
    owner = _owner(config, key)
    if owner is None or _below_a_value(config, key):
        return unknown_key(key, config)
    accepted = parameters(str(owner[1]["_target_"]))
    first = key[len(owner[0]) + 1 :].split(".")[0]
    if first not in accepted and not any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
        return unknown_key(key, config)
    if override.is_add() or override.is_force_add():
        return None
    return f"'{key}' is valid but not in the configuration yet: write '+{override.input_line}'."


def unknown_key(key: str, config: DictConfig) -> str:
    """Return the text for a key that nothing reads, with the closest known one."""
    known = [name for name in known_keys(config) if name != key]
    parent = _parent(key)
    siblings = [name for name in known if _parent(name) == parent]
    closest = _closest(key, siblings, known)
    listed = ", ".join(sorted(siblings or [*VALUES, *COMPONENTS]))
    hint = f" Did you mean '{closest}'?" if closest else f" Known here: {listed}."
    return f"unknown key '{key}'.{hint}"


def _closest(key: str, siblings: Sequence[str], known: Sequence[str]) -> str | None:
    """A sibling spelt like it, else the same name under another key, else a key spelt almost the same."""
    name = _name(key)
    spelt_like = difflib.get_close_matches(name, [_name(sibling) for sibling in siblings], n=1)
    if spelt_like:
        return next(sibling for sibling in siblings if _name(sibling) == spelt_like[0])
    elsewhere = [other for other in known if _name(other) == name]
    return next(iter([*elsewhere, *difflib.get_close_matches(key, known, n=1, cutoff=0.8)]), None)


def _parent(key: str) -> str:
    return key.rpartition(".")[0]


def _name(key: str) -> str:
    return key.rpartition(".")[2]


def known_keys(config: DictConfig) -> Iterator[str]:
    """Yield every dotted key of ``config`` that something reads, and every argument its targets accept."""
    unread: set[str] = set()
    for path, value in _walk(OmegaConf.to_container(config, resolve=False)):
        if path and path not in unread and not path.endswith(("_target_", "]")):
            yield path
        if isinstance(value, dict) and "_target_" in value:
            accepted = parameters(str(value["_target_"]))
            unread |= {f"{path}.{name}" for name in value if accepted and name not in accepted}
            yield from (f"{path}.{name}" for name in accepted if name not in value)


def node_mistakes(config: DictConfig, components: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """Return what is wrong with the keys and targets, as pairs of top-level key and text.

    Args:
        config: The whole configuration.
        components: Look at these top-level keys only; the libraries of the others are not imported.
    """
    mistakes = [
        (str(key), unknown_key(str(key), config)) for key in config if key not in (*COMPONENTS, *VALUES)
    ]
    nodes = config if components is None else OmegaConf.masked_copy(config, list(components))
    for path, value in _walk(OmegaConf.to_container(nodes, resolve=False)):
        texts = []
        if value == "???":
            texts.append(f"'{path}' is not set and has no default: add {path}=VALUE.")
        if isinstance(value, dict) and "_target_" in value:
            texts += _target_mistakes(path, value, config)
        mistakes += [(path.split(".")[0], text) for text in texts]
    return mistakes


def _target_mistakes(path: str, node: dict[str, Any], config: DictConfig) -> list[str]:
    target = node["_target_"]
    if not isinstance(target, str) or not target.startswith(ALLOWED_TARGETS):
        allowed = ", ".join(f"{prefix}*" for prefix in ALLOWED_TARGETS)
        return [f"{path}._target_={target!r} is not allowed. Expected one of {allowed}."]
    accepted, reason = signature(target)
    if accepted is None:
        return [
            f"{path}._target_={target!r} cannot be used: {reason}. Check the spelling and what is installed."
        ]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()):
        return []
    given = [key for key in node if key not in _HYDRA_KEYS]
    mistakes = [unknown_key(f"{path}.{key}", config) for key in given if key not in accepted]
    required = [name for name, parameter in accepted.items() if parameter.default is parameter.empty]
    missing = [name for name in required if name not in given]
    return mistakes + [
        f"'{path}.{name}' is required by {target}: add +{path}.{name}=VALUE." for name in missing
    ]


def parameters(target: str) -> dict[str, inspect.Parameter]:
    """Return the parameters of an allowed target by name; empty if it may not or cannot be imported."""
    return (signature(target)[0] or {}) if target.startswith(ALLOWED_TARGETS) else {}


def signature(target: str) -> tuple[dict[str, inspect.Parameter] | None, str]:
    """Import ``target`` and return its parameters, or None and the reason why there are none."""
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        return None, str(error)
    if not callable(found):
        return None, f"'{name}' is not a class or function"
    return dict(inspect.signature(found).parameters), ""


def _exists(config: DictConfig, key: str) -> bool:
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(config, parent, throw_on_missing=False) if parent else config
    return OmegaConf.is_dict(node) and last in node.keys()  # noqa: SIM118 (`in` hides missing values)


def _below_a_value(config: DictConfig, key: str) -> bool:
    """Whether the key above ``key`` holds a plain value, which has no keys of its own."""
    above = OmegaConf.select(config, _parent(key), throw_on_missing=False)
    return above is not None and not OmegaConf.is_config(above)


def _owner(config: DictConfig, key: str) -> tuple[str, Mapping[str, Any]] | None:
    """The innermost node above ``key`` that has a target, with its path."""
    parts = key.split(".")
    for length in range(len(parts) - 1, 0, -1):
        path = ".".join(parts[:length])
        node = OmegaConf.select(config, path, throw_on_missing=False)
        if OmegaConf.is_dict(node) and "_target_" in node:
            return path, node
    return None


def _walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _walk(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _walk(inner, f"{path}[{index}]")
