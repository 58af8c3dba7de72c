"""``dpforge --help``: the template of ``conf/config.yaml``, filled without Hydra's slow listing of groups."""

from __future__ import annotations

import string
from collections.abc import Sequence


def print_help(overrides: Sequence[str]) -> None:
    """Print the groups and the configuration that ``overrides`` compose.

    Raises:
        ConfigError: The overrides do not compose.
    """
    from hydra import compose
    from omegaconf import OmegaConf, open_dict

    from dpforge.config import groups, hydra_session
    from dpforge.configuration.composing import COMPOSITION_ERRORS, explain
    from dpforge.errors import ConfigError

    with hydra_session():
        try:
            config = compose("config", overrides=list(overrides), return_hydra_config=True)
        except COMPOSITION_ERRORS as error:
            raise ConfigError(explain(error)) from None
    template = string.Template(config.hydra.help.template)
    with open_dict(config):
        del config["hydra"]
    listed = "\n".join(f"{group}: {', '.join(choices)}" for group, choices in groups().items() if choices)
    print(template.substitute(APP_CONFIG_GROUPS=f"{listed}\n", CONFIG=OmegaConf.to_yaml(config)))
