"""Where configuration and schema files lie, and plain Python values of a configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dpforge.errors import ConfigError, did_you_mean


def conf_folder() -> Path:
    """The configuration tree: ``DPFORGE_CONF``, else that of a checkout, else the one inside the wheel."""
    if own := os.environ.get("DPFORGE_CONF"):
        return Path(own).expanduser()
    package = Path(__file__).resolve().parents[1]
    checkout = package.parents[1] / "conf"
    return checkout if (checkout / "dataset").is_dir() else package / "conf"


def schema_folder() -> Path:
    """Where the schema files of the project lie."""
    return conf_folder() / "dataset" / "schema"


def schema_path(schema: str) -> Path:
    """The file of a schema given by name or by path.

    Raises:
        ConfigError: There is no such file.
    """
    named = schema_folder() / f"{schema}.yaml"
    if Path(schema).name == schema and named.is_file():
        return named
    own = Path(schema).expanduser()
    if own.is_file():
        return own
    if own.suffix in (".yaml", ".yml") or own.name != schema:
        raise ConfigError(
            f"dataset.schema: there is no file {own}. "
            f"Draft one with 'dpforge-data schema <table> --out {own}'"
        )
    known = sorted(path.stem for path in schema_folder().glob("*.yaml"))
    raise ConfigError(
        f"dataset.schema={schema!r} is not known.{did_you_mean(schema, known)} "
        f"Known: {', '.join(known)}; or give the path of a schema YAML"
    )


def plain(value: Any) -> Any:
    """An OmegaConf node as plain Python; anything else unchanged."""
    if not type(value).__module__.startswith("omegaconf"):
        return value
    from omegaconf import OmegaConf

    return OmegaConf.to_container(value, resolve=True)
