"""Private bins: the price in the plan, exact output laws of neighbours, and one group a record."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from contract.harness import fit, raw_table, schema_of, small_model
from scipy import stats
from scipy.special import log_softmax

from dpforge.data.columns import Unit
from dpforge.data.table import conform
from dpforge.errors import ConfigError, PrivacyError
from dpforge.privacy.events import EpsilonDelta
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.mechanisms import Group, PrivateAccess
from dpforge.privacy.plan import Piece, Plan
from dpforge.privacy.rng import KeyedRandom
from dpforge.privacy.spec import PrivacySpec
from dpforge.privacy.values import halvings, value_pieces

COLUMNS = {
    "age": {
        "kind": "integer",
        "bounds": {"min": 18, "max": 90},
        "bins": {"dp_quantile": 7, "epsilon": 0.3},
    },
    "income": {
        "kind": "numeric",
        "bounds": {"min": 0, "max": 1000},
        "nullable": True,
        "bins": {"dp_quantile": 4, "epsilon": 0.2},
    },
    "answer": {"kind": "categorical", "categories": {"values": ["no", "yes"]}},
}
TARGETS = {
    "in range": {},
    "far out of range": {"age": 10**9, "income": -1e300},
    "missing": {"income": np.nan},
    "infinite": {"income": np.inf},
}


def access_to(folder, events=1, epsilon=1.0, key=0, observers=()):
    folder.mkdir(parents=True, exist_ok=True)
    plan = Plan((Piece("bins/x", "exponential", EpsilonDelta(epsilon), events, 1.0, "test"),), 1e-5)
    ledger = Ledger.create(folder / f"{key}.jsonl", plan, {"rng": "entropy"})
    return PrivateAccess(ledger, KeyedRandom("entropy", key.to_bytes(32, "big")), observers)


@pytest.mark.parametrize(("bins", "levels"), [(2, 1), (3, 2), (4, 2), (5, 3), (32, 5), (33, 6)])
def test_the_price_is_divided_among_the_levels_of_halving(bins, levels):
    columns = {"age": {**COLUMNS["age"], "bins": {"dp_quantile": bins, "epsilon": 0.3}}}
    (piece,) = value_pieces(schema_of(columns), "add_remove")
    assert (piece.name, piece.mechanism, piece.count) == ("bins/age", "exponential", levels)
    assert piece.event.epsilon * piece.count == pytest.approx(0.3)
    assert Plan((piece,), 1e-9).epsilon() <= 0.3 * (1 + 1e-6)


def output_law(values, candidates, count, epsilon):
    """Log-probability of every pair (first edge, edges of the second level), by enumeration."""
    each = epsilon / halvings(count)

    def edge(values, candidates, parts):
        logits = each / 2 * Group(np.sort(values), candidates, (parts // 2) / parts).scores
        return dict(zip(candidates.tolist(), log_softmax(logits), strict=True))

    def second(values, candidates, parts):
        return edge(values, candidates, parts) if parts > 1 and candidates.size else {None: 0.0}

    law = {}
    for first, log_first in edge(values, candidates, count).items():
        left = second(values[values < first], candidates[candidates < first], count // 2)
        right = second(values[values >= first], candidates[candidates > first], count - count // 2)
        for a, b in itertools.product(left, right):
            law[first, a, b] = log_first + left[a] + right[b]
    return law


def worst_ratio(count, epsilon):
    """Largest change of a log-probability when one record leaves, over small random tables."""
    rng, candidates, worst = np.random.default_rng(0), np.arange(1.0, 8.0), 0.0
    for _ in range(25):
        values = rng.integers(0, 9, int(rng.integers(1, 12))).astype(float)
        law = output_law(values, candidates, count, epsilon)
        assert np.logaddexp.reduce(list(law.values())) == pytest.approx(0, abs=1e-9)
        for gone in range(values.size):
            other = output_law(np.delete(values, gone), candidates, count, epsilon)
            worst = max(worst, *(abs(law[outcome] - other[outcome]) for outcome in law))
    return worst


@pytest.mark.parametrize("count", [2, 3, 4])
def test_exact_output_laws_of_neighbours_stay_within_the_price(count):
    assert 0.3 < worst_ratio(count, 1.0) <= 1.0 + 1e-9


def test_the_whole_price_at_every_level_would_break_the_bound():
    """The planted bug: levels compose, only the groups of one level do not."""
    assert worst_ratio(4, 1.0 * halvings(4)) > 1.0 + 1e-3


def test_a_score_moves_by_at_most_one_with_a_record_more_or_less():
    rng, moved = np.random.default_rng(0), 0.0
    for _ in range(50):
        values, level = np.sort(rng.integers(0, 20, 30)).astype(float), float(rng.uniform(0.05, 0.95))
        whole = Group(values, np.arange(21.0), level).scores
        less = Group(np.delete(values, int(rng.integers(30))), np.arange(21.0), level).scores
        moved = max(moved, float(np.abs(whole - less).max()))
    assert 0.9 < moved <= 1 + 1e-12


def test_edges_are_drawn_with_the_probabilities_of_the_exponential_mechanism(tmp_path):
    values, candidates = np.array([1.0, 2.0, 2.0, 5.0]), np.array([1.5, 2.5, 4.0, 6.0])
    group = Group(values, candidates, 0.5)
    # |#{x < z} - 2| is 1, 1, 1, 2 and its unit max(q, 1 - q) is a half, by hand.
    np.testing.assert_allclose(group.scores, [-2, -2, -2, -4])
    expected = np.exp(0.8 * np.array([-2, -2, -2, -4.0]) / 2)
    draws = 3000
    access = access_to(tmp_path, draws, 0.8)
    found = [access.split("bins/x", step, [group, group]) for step in range(draws)]
    for column in np.array(found).T:
        counts = [int((column == z).sum()) for z in candidates]
        assert stats.chisquare(counts, draws * expected / expected.sum()).pvalue > 1e-4
    agree = float(np.mean([a == b for a, b in found]))
    assert agree == pytest.approx(((expected / expected.sum()) ** 2).sum(), abs=0.05)


def test_a_level_is_drawn_once_and_charged_when_there_is_nothing_to_part(tmp_path):
    access = access_to(tmp_path, 2)
    assert access.split("bins/x", 0, []) == []
    with pytest.raises(PrivacyError, match="drawn already"):
        access.split("bins/x", 0, [])
    access.split("bins/x", 1, [])
    access.ledger.check_complete()


@pytest.mark.parametrize("name", ["mst", "tabular_argn"])
@pytest.mark.parametrize("target", TARGETS)
def test_removing_a_record_moves_the_scores_of_one_group_a_level(name, target, tmp_path, monkeypatch):
    described, model = schema_of(COLUMNS), small_model(name)
    raw = raw_table(40)[list(described.names)].astype(object)
    for column, value in TARGETS[target].items():
        raw.loc[39, column] = value
    table, kept, sizes = conform(raw, described), [], []
    original = PrivateAccess.split

    def recorded(self, piece, step, groups):
        kept.append(original(self, piece, step, groups))
        return kept[-1]

    def replayed(self, piece, step, groups):
        sizes.append([group.candidates.size for group in groups])
        original(self, piece, step, groups)
        return kept[len(sizes) - 1]

    monkeypatch.setattr(PrivateAccess, "split", recorded)
    spec = PrivacySpec(target_epsilon=None, noise_multiplier=2.0)
    whole = fit(model, described, table, tmp_path / "whole", spec=spec)
    monkeypatch.setattr(PrivateAccess, "split", replayed)
    less = fit(model, described, table.iloc[:-1], tmp_path / "less", spec=spec, replay=whole.outputs)
    moved = []
    for a, b in zip(whole.releases, less.releases, strict=True):
        assert (a.name, a.step, a.value.shape) == (b.name, b.step, b.value.shape)
        moved.append(a.distance(b))
        assert moved[-1] <= a.sensitivity * (1 + 1e-5)
    bins = [pair for pair in zip(whole.releases, less.releases, strict=True) if pair[0].name[:5] == "bins/"]
    assert len(bins) == len(sizes) == 5
    for (a, b), widths in zip(bins, sizes, strict=True):
        changed = np.split(a.value != b.value, np.cumsum(widths)[:-1])
        assert sum(bool(part.any()) for part in changed) <= 1
    assert max(moved) > 0
    for trace in (whole, less):
        trace.ledger.check_complete()


def test_users_and_replacement_are_refused_because_the_price_is_for_one_row():
    described = schema_of(COLUMNS)
    with pytest.raises(ConfigError, match="bins are offered for row-level"):
        value_pieces(described, "replace")
    users = type(described)(
        described.name, described.nominal_rows, described.columns, Unit("user", "person", 3)
    )
    with pytest.raises(ConfigError, match="State the values publicly"):
        value_pieces(users, "add_remove")


@pytest.mark.parametrize("name", ["independent", "aim"])
def test_the_plan_with_bins_meets_its_target_and_says_so_without_noise(name):
    described, model = schema_of(COLUMNS), small_model(name)
    plan = model.plan(described, PrivacySpec(target_epsilon=2.0))
    assert 1.99 < plan.epsilon() <= 2.0
    assert math.isinf(model.plan(described, PrivacySpec(enabled=False)).epsilon())
