from __future__ import annotations

import dataclasses
import importlib

import pytest
import yaml

from dpforge.data.places import conf_folder

NAMES = ("stable_diffusion", "improved_diffusion", "dalle")


@pytest.mark.parametrize("name", NAMES)
def test_the_file_of_an_api_lists_every_setting_with_its_default(name):
    content = yaml.safe_load((conf_folder() / "model" / "api" / f"{name}.yaml").read_text(encoding="utf-8"))
    module, _, kind = content.pop("_target_").rpartition(".")
    settings = [f for f in dataclasses.fields(getattr(importlib.import_module(module), kind)) if f.init]
    assert set(content) == {f.name for f in settings}
    for setting in settings:
        if setting.default is dataclasses.MISSING:
            assert content[setting.name] == "???"
        else:
            expected = list(setting.default) if isinstance(setting.default, tuple) else setting.default
            assert content[setting.name] == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_the_protocol_is_not_missing(name):
    module = importlib.import_module(f"dpforge.generators.private_evolution.apis.{name}")
    (kind,) = [c for c in vars(module).values() if isinstance(c, type) and getattr(c, "name", None) == name]
    for attribute in (
        "image_size", "channels", "class_aware", "max_batch", "degree_mistakes", "default_degrees", "prepare",
        "random", "variation", "describe",
    ):  # fmt: skip
        assert hasattr(kind, attribute) or attribute in {f.name for f in dataclasses.fields(kind)}
