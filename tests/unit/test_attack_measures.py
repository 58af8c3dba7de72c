"""Membership attacks inside an evaluation: fair groups, calibration, and the sentence about the guarantee."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from dpforge.data.schema import Bounds, Categories, Column, Schema, Unit
from dpforge.data.split import keyed_split
from dpforge.errors import ConfigError
from dpforge.evaluation import Guarantee, TabularEvaluation, attack_notes
from dpforge.evaluation.attack_measures import LEAST_ROWS, attack_groups

NUMBERS = tuple(f"n{i}" for i in range(7))
SCHEMA = Schema(
    "people",
    1000,
    (
        Column("group", "categorical", categories=Categories(("a", "b")), unseen="drop"),
        *(Column(name, "numeric", bounds=Bounds(-5.0, 5.0)) for name in NUMBERS),
    ),
)
ATTACK = TabularEvaluation(metrics=["attacks"], attack_rows=1100)


def table(rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    group = pd.Categorical.from_codes(rng.integers(0, 2, rows), ["a", "b"])
    numbers = rng.normal(size=(rows, len(NUMBERS)))
    return pd.DataFrame(numbers, columns=list(NUMBERS)).assign(group=group)[["group", *NUMBERS]]


def attacked(synthetic, guarantee=None, schema=SCHEMA):
    return ATTACK.evaluate(table(1300, 1), table(2400, 2), synthetic, schema, seed=0, guarantee=guarantee)


@pytest.fixture(scope="module")
def copied():
    return attacked(table(1300, 1), Guarantee(0.5, 1e-5))


@pytest.fixture(scope="module")
def fresh():
    return attacked(table(1300, 3), Guarantee(0.5, 1e-5))


def test_a_generator_that_copies_its_rows_is_found_and_called_a_violation(copied):
    for name in ("domias", "dcr"):
        assert copied.metrics[f"attack/{name}_auc"] > 0.8
        assert copied.metrics[f"attack/{name}_epsilon_lower_bound"] > 0.5
    assert copied.metrics["attack/dcr_tpr_at_fpr_0.1pct"] > 0.9
    assert all("VIOLATION" in note and "ε=0.5" in note for note in attack_notes(copied))


def test_rows_that_no_member_made_show_no_violation_and_an_auc_near_one_half(fresh):
    for name in ("domias", "dcr"):
        assert fresh.metrics[f"attack/{name}_auc"] == pytest.approx(0.5, abs=0.04)
        low, high = (fresh.metrics[f"attack/{name}_auc_{end}"] for end in ("low", "high"))
        assert low < 0.5 < high
        assert fresh.metrics[f"attack/{name}_epsilon_lower_bound"] < 0.5
    notes = attack_notes(fresh)
    assert len(notes) == 2
    assert all("no violation found" in note and "no proof of privacy" in note for note in notes)


def test_the_same_attack_on_its_own_members_stands_beside_every_result(fresh, copied):
    for found in (fresh, copied):
        for name in ("domias", "dcr"):
            value = found.metrics[f"attack/{name}_calibration_auc"]
            assert value > 0.8
            assert any(f"released as they are {value:.3f}" in note for note in attack_notes(found))


def test_an_attack_that_does_not_even_find_its_own_members_is_called_too_weak():
    columns = ["group", "n0", "n1"]
    narrow = Schema("people", 1000, SCHEMA.columns[:3])
    tables = [table(rows, seed)[columns] for rows, seed in ((1300, 1), (2400, 2), (1300, 3))]
    notes = attack_notes(ATTACK.evaluate(*tables, narrow, seed=0))
    assert "too weak on this table" in next(note for note in notes if "domias" in note)
    assert "too weak" not in next(note for note in notes if "dcr" in note)


def test_every_attack_score_is_private(fresh):
    assert all(fresh.visibility(key) == "private" for key in fresh.metrics)


def test_without_a_guarantee_the_bound_stands_alone_and_no_dp_has_nothing_to_violate(copied):
    unknown = attack_notes(attacked(table(1300, 3)))
    assert all("no guarantee is known" in note and "violation found" not in note for note in unknown)
    no_dp = attack_notes(attacked(table(1300, 1), Guarantee(math.inf, 1e-5)))
    assert all("the run is NOT DP" in note and "VIOLATION" not in note for note in no_dp)


def test_a_guarantee_for_users_is_said_to_be_out_of_reach():
    schema = Schema("people", 1000, SCHEMA.columns, unit=Unit("user", "person", 2))
    notes = attack_notes(attacked(table(1300, 3), Guarantee(1.0, 1e-5), schema))
    assert any("one for users" in note for note in notes)


def test_too_few_rows_give_no_number_but_a_note():
    found = ATTACK.evaluate(table(1300, 1), table(1500, 2), table(500, 3), SCHEMA, seed=0)
    assert {f"attack/{name}_auc" for name in ("domias", "dcr")} <= found.metrics.keys()
    assert all(math.isnan(value) for value in found.metrics.values())
    assert f"expected at least {LEAST_ROWS} of each" in attack_notes(found)[0]
    assert all(entry["value"] is None for entry in found.to_json()["metrics"].values())


def test_without_a_holdout_there_is_no_attack():
    found = ATTACK.evaluate(table(50, 1), None, table(50, 3), SCHEMA, seed=0)
    assert not found.metrics
    assert "attacks left out: there is no holdout to test on" in found.notes


def test_groups_share_no_row_and_hold_none_that_occurs_twice():
    train, holdout = table(300, 1), table(300, 2)
    train = pd.concat([train, train.head(20), holdout.head(30)], ignore_index=True)
    groups = attack_groups(train, holdout, 0)
    pooled = pd.concat(groups, ignore_index=True)
    assert not pooled.duplicated().any()
    assert len(groups.members) == 280
    assert len(groups.non_members) + len(groups.reference) == 270
    assert 100 < len(groups.reference) < 170
    expected = {tuple(row) for row in holdout.iloc[30:].itertuples(index=False)}
    assert {tuple(row) for part in groups[1:] for row in part.itertuples(index=False)} == expected


def test_the_halves_do_not_follow_the_draw_that_made_the_holdout():
    rows = table(4000, 5)
    held = keyed_split(rows, 0.2, 0)
    groups = attack_groups(rows.loc[~held], rows.loc[held], 0)
    assert len(groups.reference) == pytest.approx(held.sum() / 2, rel=0.15)


def test_a_row_stays_on_its_side_when_another_is_removed():
    train, holdout = table(100, 1), table(200, 2)
    whole, less = attack_groups(train, holdout, 3), attack_groups(train, holdout.iloc[1:], 3)
    for before, after in zip(whole, less, strict=True):
        kept = before.merge(after, how="inner")
        assert len(kept) == len(after)
        assert len(before) - len(after) in (0, 1)


def test_the_number_of_attacked_rows_must_be_positive():
    with pytest.raises(ConfigError, match="attack_rows=0"):
        TabularEvaluation(attack_rows=0)
