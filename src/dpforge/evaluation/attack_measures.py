"""Membership attacks of one evaluation: who is a member, who is not, and what the attacks prove."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from dpforge.data.schema import Schema
from dpforge.data.split import keyed_split
from dpforge.evaluation.attack_statistics import AttackResult, Scores
from dpforge.evaluation.attacks import DISTANCE_VERSION, DOMIAS_VERSIONS, distance_attack, domias
from dpforge.evaluation.comparisons import Outcome, Tables
from dpforge.evaluation.frames import aligned, drawn_rows

VERSION = "attacks-1"
LEAST_ROWS = 1_000
# Rows released as they are must be found better than this, or the attack is too weak to say anything.
TOO_WEAK = 0.6
# The holdout itself was drawn by a small seed; the same one would put all of it on one side.
SPLIT_PURPOSE = 0xA77AC4ED
ATTACKS = {"domias": DOMIAS_VERSIONS["kde"], "dcr": DISTANCE_VERSION}
_USERS = (
    "attack/…: the attacks look for single rows, the guarantee is one for users: they are weak against it"
)


class Groups(NamedTuple):
    """Rows that were trained on, rows that were not, and rows that say how common a row is; disjoint."""

    members: pd.DataFrame
    non_members: pd.DataFrame
    reference: pd.DataFrame


def attack_groups(train: pd.DataFrame, holdout: pd.DataFrame, seed: int) -> Groups:
    """Disjoint groups of equally typed rows; the holdout is split in halves by a draw keyed by content.

    Rows that occur more than once in the two tables together are left out: whether such a row was trained
    on has no clear answer, and leaving it out on one side only would make the sides differ in rarity.
    """
    pooled = pd.concat([train, holdout], ignore_index=True)
    single = ~pooled.duplicated(keep=False).to_numpy()
    members = train.loc[single[: len(train)]]
    fresh = holdout.loc[single[len(train) :]]
    side = keyed_split(fresh, 0.5, seed ^ SPLIT_PURPOSE)
    parts = (members, fresh.loc[~side], fresh.loc[side])
    return Groups(*(part.reset_index(drop=True) for part in parts))


def attacks(tables: Tables, max_rows: int) -> Outcome:
    """``attack/{domias,dcr}_…`` of :meth:`AttackResult.metrics`, with ``…_calibration_auc`` beside each.

    The calibration runs the same attack against its own members, released as they are: an attack that
    does not find those says nothing about the synthetic table. Below 1,000 members or non-members every
    value is NaN. The bounds are at the δ of ``tables.guarantee``, 0 without one.
    """
    assert tables.test is not None
    schema = tables.schema
    groups = attack_groups(tables.real, aligned(tables.test, schema, "holdout"), tables.seed)
    rows = min(max_rows, len(groups.members), len(groups.non_members))
    if min(rows, len(groups.reference)) < LEAST_ROWS:
        return _too_few(groups)
    members, others = (drawn_rows(t, rows, tables.seed, 38 + i) for i, t in enumerate(groups[:2]))
    runs = _runs(members, others, groups.reference, schema, tables.seed)
    alone: dict[str, float] = {}
    notes = [_USERS] if schema.unit.kind == "user" else []
    for name, run in runs.items():
        found, calibration = run(tables.others["score"]), run(members).auc
        alone |= found.metrics(tables.guarantee.delta if tables.guarantee else 0.0)
        alone[f"attack/{name}_calibration_auc"] = calibration.value
        notes.append(_note(found, calibration.value, tables))
    return Outcome(VERSION, alone=alone, notes=tuple(notes), rows={"attacks": rows})


def _runs(
    members: pd.DataFrame, others: pd.DataFrame, reference: pd.DataFrame, schema: Schema, seed: int
) -> dict[str, Callable[[pd.DataFrame], AttackResult]]:
    rows = len(members)

    def density(released: pd.DataFrame) -> AttackResult:
        return domias(members, others, released, reference, schema, seed=seed, max_rows=rows)

    def distance(released: pd.DataFrame) -> AttackResult:
        return distance_attack(members, others, released, schema, seed=seed, max_rows=rows)

    return {"domias": density, "dcr": distance}


def _note(found: AttackResult, calibration: float, tables: Tables) -> str:
    sentence = found.sentence(*(tables.guarantee or (None, 0.0)))
    text = f"attack/{found.name}: {sentence}; AUC {found.auc.value:.3f} [{found.auc.low:.3f},"
    text += f" {found.auc.high:.3f}], against its own members released as they are {calibration:.3f}"
    return text if calibration > TOO_WEAK else f"{text}: too weak on this table to say anything"


def _too_few(groups: Groups) -> Outcome:
    nobody = Scores(np.zeros(0), np.zeros(0))
    keys = [
        key
        for name, version in ATTACKS.items()
        for key in (
            *AttackResult(name, version, nobody, nobody, nobody).metrics(),
            f"attack/{name}_calibration_auc",
        )
    ]
    counts = [len(table) for table in groups]
    sizes = f"{counts[0]} members, {counts[1]} non-members and {counts[2]} reference rows"
    note = (
        f"attack/…: not run: {sizes} that occur once only, expected at least {LEAST_ROWS} of each;"
        " a larger holdout would do"
    )
    return Outcome(VERSION, alone=dict.fromkeys(keys, float("nan")), notes=(note,))
