"""The pairs that a TabularARGN connects: chosen by noisy distances from independence."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from dpforge.data import Dataset
from dpforge.data.schema import schema_from_dict
from dpforge.data.table import conform
from dpforge.errors import ConfigError
from dpforge.generators.argn_structure import Structure, candidate_pairs, strongest
from dpforge.generators.base import RunContext, Runtime
from dpforge.generators.tabular_argn import TabularARGN
from dpforge.nets.autoregressive import AutoregressiveNet
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.rng import fresh_random
from dpforge.privacy.spec import PrivacySpec

ROWS = 4000
NAMES = [f"c{i}" for i in range(8)]
LINKED = {(0, 1), (2, 3), (4, 5)}
WORDS = {"kind": "categorical", "categories": {"values": ["a", "b", "c"]}, "unseen": "drop"}
SCHEMA = schema_from_dict({"nominal_rows": ROWS, "target": "c7", "columns": dict.fromkeys(NAMES, WORDS)})
MODEL = TabularARGN(steps=3, refine=1, cross_columns="all", parents=0.5, target_parents=1)


def table():
    """Independent columns but for three pairs that agree in 11 of 15 rows, and c7 that follows c6."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, (ROWS, 8))
    for a, b in [*LINKED, (6, 7)]:
        codes[:, b] = np.where(rng.random(ROWS) < 0.6, codes[:, a], codes[:, b])
    return conform(pd.DataFrame(np.array(["a", "b", "c"])[codes], columns=NAMES), SCHEMA)


def fit(model, folder, spec, observers=()):
    ledger = Ledger.create(folder / "ledger.jsonl", model.plan(SCHEMA, spec), {})
    access = PrivateAccess(ledger, fresh_random("seeded", 1), list(observers))
    run = RunContext(access, spec, Runtime(), 0, folder)
    data = table()
    return model.fit(Dataset(SCHEMA, data, data.head(0), None, False, "fingerprint"), run)


@pytest.mark.parametrize("spec", [PrivacySpec(enabled=False), PrivacySpec(target_epsilon=3.0)])
def test_the_dependent_pairs_and_the_targets_partner_are_connected(spec, tmp_path):
    found = fit(MODEL, tmp_path, spec).net.pairs
    assert set(found) == LINKED | {(6, 7)}


def test_what_is_released_is_the_distance_of_each_pair_from_the_product_of_released_marginals(tmp_path):
    seen = []
    fitted = fit(MODEL, tmp_path, PrivacySpec(), [seen.append])
    (release,) = [one for one in seen if one.name == "pairs"]
    data, masses = table(), fitted.marginals.masses
    for value, (a, b) in zip(release.value, itertools.combinations(range(8), 2), strict=True):
        joint = pd.crosstab(data[NAMES[a]], data[NAMES[b]]).to_numpy()
        assert value == pytest.approx(np.abs(joint - ROWS * np.outer(masses[a], masses[b])).sum())
    assert release.sensitivity == pytest.approx(math.sqrt(8 * 7 / 2))


def test_the_released_values_choose_the_pairs_and_the_exact_ones_do_not(tmp_path, monkeypatch):
    """The release is replaced by one that names other pairs: those are connected."""
    pairs = list(itertools.combinations(range(8), 2))
    named = {(0, 2), (1, 3), (4, 6), (5, 7)}
    gaussian = PrivateAccess.gaussian

    def other(self, name, value, *args, **details):
        released = gaussian(self, name, value, *args, **details)
        return np.array([1e6 * (pair in named) for pair in pairs]) if name == "pairs" else released

    monkeypatch.setattr(PrivateAccess, "gaussian", other)
    assert set(fit(MODEL, tmp_path, PrivacySpec(target_epsilon=3.0)).net.pairs) == named


def test_cells_that_are_independent_score_about_nothing():
    rng, rows, k = np.random.default_rng(0), 5000, 12
    joint = rng.multinomial(rows, np.full(k * k, 1 / k**2), size=200)
    distance = np.abs(joint - rows / k**2).sum(axis=1).mean()
    chance = math.sqrt(2 / math.pi * rows / k**2) * k * k
    assert abs(distance - chance) < 0.02 * chance
    assert stats.binom(rows, 1 / k**2).expect(lambda n: abs(n - rows / k**2)) * k * k == pytest.approx(
        chance, rel=0.02
    )


def test_the_highest_scores_are_kept_the_targets_apart_and_what_may_be_noise_is_not():
    scores = {(0, 1): 9.0, (0, 2): 8.0, (1, 2): 7.0, (0, 3): 1.0, (1, 3): 2.0, (2, 3): 0.5}
    found = strongest(scores, 4, Structure(0.75, 2), 7.5, 3)
    assert sorted(found) == [(0, 1), (0, 2), (0, 3), (1, 3)]
    assert strongest(scores, 4, Structure(0.25, 2), 0.0, None) == [(0, 1)]


def test_parts_of_one_column_are_no_candidates():
    assert candidate_pairs([[0, 1], [2], [3, 4]]) == [
        (0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4), (2, 3), (2, 4)
    ]  # fmt: skip


def test_all_pairs_connected_cost_no_release_and_one_column_has_none():
    assert [p.name for p in TabularARGN().plan(SCHEMA, PrivacySpec()).pieces] == ["marginals", "train"]
    alone = schema_from_dict({"nominal_rows": ROWS, "columns": {"c": WORDS}})
    assert [p.name for p in MODEL.plan(alone, PrivacySpec()).pieces] == ["marginals", "train"]


def test_a_replaced_record_counts_twice_in_every_distance():
    pieces = [MODEL.plan(SCHEMA, PrivacySpec(relation=r)).piece("pairs") for r in ("add_remove", "replace")]
    assert pieces[1].sensitivity == pytest.approx(2 * pieces[0].sensitivity)


def test_a_saved_model_keeps_its_pairs_and_rows(tmp_path):
    fitted = fit(MODEL, tmp_path, PrivacySpec())
    fitted.save(tmp_path)
    again = MODEL.load(tmp_path)
    assert again.net.pairs == fitted.net.pairs
    drawn = [model.sample(50, np.random.default_rng(1)) for model in (fitted, again)]
    pd.testing.assert_frame_equal(*drawn)


@pytest.mark.parametrize("size", [None, "S"])
def test_a_logit_depends_on_connected_sub_columns_before_it_and_on_no_other(size):
    torch.manual_seed(0)
    mass, eye = torch.full((3,), 1 / 3), torch.eye(3)
    pairs = [(0, 2), (1, 3)]
    net = AutoregressiveNet(range(4), [mass] * 4, [eye] * 4, [eye] * 4, range(4), size=size, pairs=pairs)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        net.set_order(order)
        base = torch.zeros(1, 4, dtype=torch.long)
        for changed, seen in itertools.permutations(range(4), 2):
            other = base.clone()
            other[0, changed] = 1
            moved = not torch.equal(net.logits(base)[seen], net.logits(other)[seen])
            connected = tuple(sorted((changed, seen))) in pairs
            assert moved == (connected and order.index(changed) < order.index(seen))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"parents": 0}, "model.parents=0"),
        ({"target_parents": 0}, "model.target_parents=0"),
        ({"structure_share": 0.0}, "model.structure_share=0.0"),
        ({"marginal_share": 0.96}, "sum below 1"),
        ({"cross_columns": "al"}, "Did you mean 'all'"),
        ({"cross_target": False}, "needs model.cross_target"),
    ],
)
def test_mistakes_among_the_settings_are_explained(changes, text):
    with pytest.raises(ConfigError, match=text):
        dataclasses.replace(MODEL, **changes)
