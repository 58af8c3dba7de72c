"""What gives two runs the same folder, and what must not."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from dpforge.config import check, compose
from dpforge.identity import canonical, identify

CHEAP = ["dataset=toy", "model=independent", "evaluation=quick", "logger=csv"]


@dataclasses.dataclass(frozen=True)
class FakeSchema:
    digest: str = "0" * 64


def identity(*overrides, digest="0" * 64):
    return identify(
        compose([*CHEAP, *overrides]), FakeSchema(digest), {"model": "independent", "dataset": "toy"}
    )


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "privacy.target_epsilon=1",
        "privacy.delta=1e-6",
        "model.allocation=uniform",
        "rows=7",
        "dataset.seed=5",
    ],
)
def test_whatever_changes_the_numbers_changes_the_id(override):
    assert identity(override).run_id != identity().run_id


@pytest.mark.parametrize(
    "override",
    [
        "runtime.threads=2",
        "runtime=gpu",
        "logger=wandb",
        "study=other",
        "output_root=elsewhere",
        "launch=local",
    ],
)
def test_speed_logging_and_place_do_not_change_the_id(override):
    assert identity(override).run_id == identity().run_id


def test_a_number_has_one_id_however_it_is_spelt():
    spellings = ("privacy.target_epsilon=2", "privacy.target_epsilon=2.0", "privacy.target_epsilon=2e0")
    assert len({identity(spelling).run_id for spelling in spellings}) == 1


def test_the_order_of_keys_does_not_change_the_id():
    config = compose(CHEAP)
    content = OmegaConf.to_container(config, resolve=True)
    turned = {
        key: dict(reversed(value.items())) if isinstance(value, dict) else value
        for key, value in reversed(content.items())
    }
    assert identify(OmegaConf.create(turned), FakeSchema()).run_id == identify(config, FakeSchema()).run_id


def test_another_schema_is_another_run():
    assert identity(digest="1" * 64).run_id != identity().run_id


def test_where_a_file_is_fetched_from_does_not_change_the_id():
    config = compose(["dataset=adult", "model=independent"])
    before = identify(config, FakeSchema()).run_id
    config.dataset.files.train.urls = ["https://elsewhere.example/adult.data"]
    config.dataset.about.notes = "rewritten"
    assert identify(config, FakeSchema()).run_id == before
    config.dataset.files.train.sha256 = "0" * 64
    assert identify(config, FakeSchema()).run_id != before


def test_the_folder_is_made_of_root_study_slug_and_id():
    found = identity("study=mine", "output_root=there", "seed=3")
    assert re.fullmatch(r"[0-9a-f]{10}", found.run_id)
    assert found.slug == "independent-toy-eps3-seed3"
    assert found.folder.as_posix() == f"there/mine/{found.slug}-{found.run_id}"


@pytest.mark.parametrize(
    ("overrides", "budget"),
    [
        (["privacy=none"], "nodp"),
        (["privacy.target_epsilon=0.5"], "eps0.5"),
        (["privacy.target_epsilon=null", "privacy.noise_multiplier=1.5"], "sigma1.5"),
    ],
)
def test_the_slug_tells_the_budget(overrides, budget):
    assert f"-{budget}-" in identity(*overrides).slug


def test_a_slug_holds_no_character_that_a_path_could_misread():
    config = compose(CHEAP)
    slug = identify(config, FakeSchema(), {"model": "a/../b", "dataset": "c d\n"}).slug
    assert re.fullmatch(r"[A-Za-z0-9._-]+", slug)
    assert "/" not in slug


def test_the_choice_of_model_names_the_slug_in_a_checked_run():
    (run,) = check([*CHEAP, "model=independent"]).runs
    assert run.identity.slug.startswith("independent-toy-")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_canonical_text_keeps_the_value_and_tells_booleans_from_numbers(value):
    assert json.loads(canonical(value)) == value
    assert canonical(True) != canonical(1)


def test_what_may_be_paid_for_images_does_not_change_the_id_but_what_is_asked_for_does():
    def run_id(**changes):
        words = ["model=private_evolution", "dataset=digits", "model/api=dalle", "model.api.prompts=[a]"]
        keys = {"max_requests": 10, **changes}
        words += [f"model.api.{key}={value}" for key, value in keys.items()]
        return identify(compose(words), FakeSchema(), {}).run_id

    assert run_id(max_requests=99, timeout_s=1, cost_per_image=0.02) == run_id()
    assert run_id(model="dall-e-3") != run_id()
