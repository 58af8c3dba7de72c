"""A few seconds of every fuzz target, always the same inputs."""

from __future__ import annotations

import random

import pytest

from .targets import targets

EXECUTIONS = 60
TARGETS = {target.name: target for target in targets()}


@pytest.mark.parametrize("name", TARGETS)
def test_no_damage_to_a_file_breaks_its_reader(name, tmp_path):
    target, chance = TARGETS[name], random.Random(f"suite {name}")
    for _ in range(EXECUTIONS):
        (tmp_path / "input").write_bytes(target.mutate(chance.choice(target.seeds), chance))
        target.run(tmp_path / "input")


@pytest.mark.parametrize("name", [name for name in TARGETS if "verify" not in name])
def test_the_good_files_pass_their_reader(name, tmp_path):
    for seed in TARGETS[name].seeds:
        (tmp_path / "input").write_bytes(seed)
        TARGETS[name].run(tmp_path / "input")
