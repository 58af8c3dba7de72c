"""Bins bought by noisy halving: what a schema may say, what comes back, and how good it is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from contract.harness import fit, raw_table, schema_of, small_model

from dpforge.data.encode.cells import CellCodec
from dpforge.data.schema import schema_from_dict
from dpforge.data.table import conform, violations
from dpforge.errors import ConfigError
from dpforge.generators.tabular_argn import TabularARGN
from dpforge.privacy.events import NonPrivate
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.mechanisms import PrivateAccess, quantile_logits
from dpforge.privacy.plan import Plan
from dpforge.privacy.rng import KeyedRandom
from dpforge.privacy.spec import PrivacySpec
from dpforge.privacy.values import edge_candidates, protect_values, stand_in, value_pieces

BOUNDS = {"min": 0, "max": 1000}
EVERY_MODEL = ("independent", "mst", "aim", "dp_maf", "tabular_argn")


def schema(bins=8, epsilon=1.0, kind="numeric", **extra):
    column = {"kind": kind, "bounds": BOUNDS, "bins": {"dp_quantile": bins, "epsilon": epsilon}, **extra}
    return schema_of({"x": column})


def access_to(folder, plan, number=0):
    folder.mkdir(parents=True, exist_ok=True)
    ledger = Ledger.create(folder / f"ledger{number}.jsonl", plan, {"rng": "entropy"})
    return PrivateAccess(ledger, KeyedRandom("entropy", number.to_bytes(32, "big")))


def released(described, values, folder, *, exact=False, number=0):
    """The column after its bins were bought for ``values``."""
    pieces = value_pieces(described, "add_remove")
    if exact:
        pieces = [dataclasses.replace(piece, mechanism="none", event=NonPrivate()) for piece in pieces]
    access = access_to(folder, Plan(tuple(pieces), 1e-5), number)
    table = conform(pd.DataFrame({"x": values}), described)
    found, _ = protect_values(described, table, access)
    access.ledger.check_complete()
    return found


def shares(values, edges):
    """Share of the values in each half-open bin; the last one is closed."""
    return np.histogram(values, bins=edges)[0] / len(values)


def test_quantile_bins_are_private_unless_said_otherwise_and_survive_a_round_trip():
    described = schema()
    assert described.column("x").bins.provenance == "private"
    assert described.private_columns == ("x.bins",)
    assert schema_from_dict(described.to_dict()) == described


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"bins": {"dp_quantile": 8}}, "needs epsilon > 0"),
        ({"bins": {"dp_quantile": 1, "epsilon": 1}}, "a whole number >= 2"),
        ({"bins": {"dp_quantile": 8, "epsilon": 0}}, "a finite number > 0"),
        ({"bins": {"dp_quantile": 8, "epsilon": 1, "provenance": "public"}}, "reads the rows"),
        ({"bins": {"dp_quantile": 8, "epsilon": 1, "equal_width": 4}}, "exactly one of"),
        ({"bins": {"equal_width": 4, "provenance": "private"}}, "needs dp_quantile"),
        ({"codec": "digit", "granularity": 1}, "no bins"),
        ({"kind": "datetime", "bounds": {"min": "2020-01-01", "max": "2020-12-31"}}, "use equal_width"),
    ],
)
def test_a_price_that_buys_nothing_or_bins_without_a_price_are_refused(change, text):
    with pytest.raises(ConfigError, match=text):
        schema(**{"kind": "numeric", **change}) if "bins" not in change else schema_of(
            {"x": {"kind": "numeric", "bounds": BOUNDS, **change}}
        )


def test_cells_cannot_be_laid_out_before_the_bins_are_bought(tmp_path):
    with pytest.raises(ConfigError, match="bins of column 'x' are private"):
        CellCodec(schema())
    bought = released(schema(), np.linspace(0, 1000, 500), tmp_path)
    assert not bought.private_columns
    assert CellCodec(bought).sizes == (8,)
    assert schema_from_dict(bought.to_dict()) == bought


@pytest.mark.parametrize("count", [2, 3, 7, 32])
def test_without_noise_the_edges_are_the_quantiles_that_numpy_finds(count, tmp_path):
    values = np.random.default_rng(0).gamma(2.0, 60.0, 20_000).clip(0, 1000)
    edges = released(schema(count), values, tmp_path, exact=True).column("x").bins.edges
    expected = np.quantile(values, np.arange(1, count) / count)
    assert (edges[0], edges[-1]) == (0.0, 1000.0)
    np.testing.assert_allclose(edges[1:-1], expected, atol=1.0)


def test_at_a_small_price_every_bin_holds_about_as_many_rows(tmp_path):
    values = np.random.default_rng(0).lognormal(4, 1, 30_000).clip(0, 1000)
    edges = released(schema(16, 0.1), values, tmp_path).column("x").bins.edges
    assert len(edges) == 17
    assert np.abs(shares(values, edges) - 1 / 16).max() < 0.03


def test_halving_has_bins_nearer_to_equal_than_separate_quantiles_of_the_same_price(tmp_path):
    """The plain way: K - 1 exponential mechanisms of epsilon/(K - 1) each, over the same candidates."""
    described, count, epsilon = schema(32, 0.05), 32, 0.05
    values, rng = np.random.default_rng(0).gamma(2.0, 60.0, 10_000).clip(0, 1000), np.random.default_rng(1)
    places = edge_candidates(described.column("x"))
    below = np.searchsorted(np.sort(values), places)

    def separate():
        found = []
        for k in range(1, count):
            level = k / count
            utility = -np.abs(below - level * values.size)
            logits = quantile_logits(utility, epsilon / (count - 1), level)
            found.append(places[np.argmax(logits + rng.gumbel(size=places.size))])
        return (0.0, *np.unique(found), 1000.0)

    def unevenness(edges):
        return float((shares(values, edges) ** 2).sum() * count)

    halved = [released(described, values, tmp_path, number=n).column("x").bins.edges for n in range(1, 5)]
    assert np.mean([unevenness(e) for e in halved]) < np.mean([unevenness(separate()) for _ in range(4)])
    assert np.mean([unevenness(e) for e in halved]) < 1.3


def test_few_possible_values_give_each_at_most_one_bin_and_every_level_is_still_charged(tmp_path):
    described = schema_of(
        {"x": {"kind": "integer", "bounds": {"min": 0, "max": 3}, "bins": {"dp_quantile": 32, "epsilon": 50}}}
    )
    bought = released(described, np.repeat([0, 1, 2, 3], 100), tmp_path)
    assert bought.column("x").bins.edges == (0.0, 1.0, 2.0, 3.0)


def test_special_values_have_their_own_cells_and_do_not_draw_edges_to_themselves(tmp_path):
    values = np.concatenate([np.zeros(9000), np.linspace(1, 1000, 1000)])
    bought = released(schema(4, 5.0, special_values=[0], granularity=1), values, tmp_path)
    np.testing.assert_allclose(bought.column("x").bins.edges[1:-1], [250, 500, 750], atol=30)


@pytest.mark.parametrize("values", [[], [np.nan] * 20, [5.0] * 20], ids=["no rows", "missing", "constant"])
def test_columns_without_spread_still_give_bins_inside_the_bounds(values, tmp_path):
    bought = released(schema(nullable=True), np.array(values, dtype=float), tmp_path)
    edges = bought.column("x").bins.edges
    assert edges[0] == 0.0
    assert edges[-1] == 1000.0
    assert list(edges) == sorted(set(edges))


def test_candidates_reach_both_scales_of_a_wide_column_and_follow_its_grid():
    wide = schema_of(
        {
            "x": {
                "kind": "numeric",
                "bounds": {"min": -1e6, "max": 1e9},
                "granularity": 0.5,
                "bins": {"dp_quantile": 8, "epsilon": 1},
            }
        }
    )
    places = edge_candidates(wide.column("x"))
    assert places.size < 2 * 4096
    assert np.all(np.diff(places) > 0)
    assert np.allclose(places * 2, np.rint(places * 2))
    assert np.any((places > 0) & (places < 5))
    assert np.all((places > -1e6) & (places < 1e9))


def test_bounds_are_bought_first_and_bins_lie_inside_them(tmp_path):
    private = {"provenance": "private", "epsilon": 1.0, "outer": [-1e6, 1e6]}
    described = schema_of(
        {"x": {"kind": "numeric", "bounds": private, "bins": {"dp_quantile": 8, "epsilon": 1.0}}}
    )
    assert [piece.name for piece in value_pieces(described, "add_remove")] == ["bounds/x", "bins/x"]
    column = released(described, np.random.default_rng(0).uniform(100, 900, 5000), tmp_path).column("x")
    assert (column.bins.edges[0], column.bins.edges[-1]) == (column.bounds.min, column.bounds.max)
    inner = column.bins.edges[1:-1]
    np.testing.assert_allclose(inner, np.linspace(100, 900, 9)[1:-1], atol=40)


def test_the_stand_in_has_as_many_bins_as_can_come_back():
    assert CellCodec(stand_in(schema(13))).sizes == (13,)


MIXED_COLUMNS = {
    "age": {
        "kind": "integer",
        "bounds": {"min": 18, "max": 90},
        "bins": {"dp_quantile": 6, "epsilon": 0.2},
    },
    "income": {
        "kind": "numeric",
        "bounds": {"min": 0, "max": 1000},
        "granularity": 0.5,
        "nullable": True,
        "bins": {"dp_quantile": 4, "epsilon": 0.2},
    },
    "answer": {"kind": "categorical", "categories": {"values": ["no", "yes"]}},
}


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_every_table_generator_buys_its_bins_before_anything_else(name, tmp_path):
    described = schema_of(MIXED_COLUMNS)
    table = conform(raw_table(80)[list(described.names)], described)
    spec = PrivacySpec(target_epsilon=None, noise_multiplier=2.0)
    trace = fit(small_model(name), described, table, tmp_path, spec=spec)
    names = [piece.name for piece in trace.plan.pieces]
    assert names[:2] == ["bins/age", "bins/income"]
    trace.ledger.check_complete()
    assert [r.step for r in trace.releases if r.name == "bins/age"] == [0, 1, 2]
    bought = trace.fitted.schema
    assert not bought.private_columns
    assert 1 <= len(bought.column("age").bins.edges) - 1 <= 6
    sample = trace.fitted.sample(200, np.random.default_rng(0))
    assert not any(violations(sample, bought).values())
    trace.fitted.save(tmp_path)
    again = small_model(name).load(tmp_path).sample(200, np.random.default_rng(0))
    pd.testing.assert_frame_equal(sample, again)


def test_a_plan_counts_the_sub_columns_of_bins_that_are_still_private():
    model = TabularARGN(steps=2)
    spec = PrivacySpec(target_epsilon=None, noise_multiplier=2.0)
    marginals = model.plan(schema_of(MIXED_COLUMNS), spec).piece("marginals")
    assert marginals.sensitivity == pytest.approx(np.sqrt(3))
