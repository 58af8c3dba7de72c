from __future__ import annotations

import numpy as np
import pytest

from dpforge.errors import ConfigError
from dpforge.generators.private_evolution.apis.prompts import parse_prompts

CLASSES = ("cat", "dog")


def counts(assigned):
    names, sizes = np.unique(assigned, return_counts=True)
    return dict(zip(names.tolist(), sizes.tolist(), strict=True))


@pytest.mark.parametrize("n", [1, 2, 7, 12])
def test_images_are_shared_out_evenly_over_the_prompts_of_a_list(n):
    prompts = parse_prompts(["a", "b", "c"])
    found = counts(prompts.assign(np.zeros(n, dtype=np.int64), ()))
    assert [found.get(text, 0) for text in "abc"] == [(n + i) // 3 for i in range(3)]


def test_a_list_is_spread_over_every_class_so_that_prompts_do_not_become_classes():
    labels = np.repeat([0, 1], 4)
    assigned = parse_prompts(["a", "b"]).assign(labels, CLASSES)
    for label in (0, 1):
        assert counts(assigned[labels == label]) == {"a": 2, "b": 2}


def test_a_map_gives_each_class_its_own_prompts():
    prompts = parse_prompts({"dog": ["a dog"], "cat": ["a cat", "a kitten"]})
    assigned = prompts.assign(np.array([0, 0, 1]), CLASSES)
    assert assigned.tolist() == ["a cat", "a kitten", "a dog"]
    assert prompts.class_aware
    assert assigned.dtype.kind == "U"


def test_weights_decide_the_shares():
    prompts = parse_prompts([{"prompt": "rare", "weight": 1}, {"prompt": "common", "weight": 3}])
    assert counts(prompts.assign(np.zeros(8, dtype=np.int64), ())) == {"rare": 2, "common": 6}


def test_a_map_that_does_not_fit_the_classes_names_both_sides():
    texts = parse_prompts({"cat": "a cat", "bird": "a bird"}).mistakes(CLASSES)
    assert "dog" in texts[0]
    assert "bird" in texts[1]
    assert parse_prompts("anything").mistakes(CLASSES) == []


@pytest.mark.parametrize(
    "given", [[], {}, [""], [3], [{"prompt": "a", "weight": 0}], [{"prompt": "a", "wieght": 1}], {"cat": []}]
)
def test_prompts_of_another_form_are_refused(given):
    with pytest.raises(ConfigError, match="prompts"):
        parse_prompts(given)
