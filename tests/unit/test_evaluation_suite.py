"""The whole evaluation: floors, ceilings, visibility, degenerate tables and the JSON it leaves."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

from dpforge.data.schema import Bounds, Categories, Column, Schema
from dpforge.errors import ConfigError, DataError
from dpforge.evaluation import Results, TabularEvaluation, headline, total_variation, train_on_test_on
from dpforge.evaluation.results import normalised
from dpforge.evaluation.suite import METRICS

TIERS = ("a", "b", "c")


def schema_for(target: str | None = "paid", columns: int = 4) -> Schema:
    all_columns = (
        Column("tier", "categorical", categories=Categories(TIERS), unseen="drop", nullable=True),
        Column("spend", "numeric", bounds=Bounds(0.0, 20.0), nullable=True),
        Column("visits", "integer", bounds=Bounds(0, 30)),
        Column("paid", "categorical", categories=Categories(("no", "yes")), unseen="drop"),
    )
    return Schema("customers", 1000, all_columns[:columns], target=target)


def table(rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    tier = rng.integers(0, 3, rows)
    spend = np.clip(4.0 * tier + rng.normal(5.0, 2.0, rows), 0.0, 20.0)
    paid = (rng.random(rows) < 0.2 + 0.3 * tier).astype(int)
    spend[rng.random(rows) < 0.05] = np.nan
    return pd.DataFrame(
        {
            "tier": pd.Categorical.from_codes(tier, list(TIERS)),
            "spend": spend,
            "visits": pd.array(rng.poisson(3 + tier).clip(0, 30), dtype="Int64"),
            "paid": pd.Categorical.from_codes(paid, ["no", "yes"]),
        }
    )


@pytest.fixture(scope="module")
def results() -> Results:
    train, fresh = table(1500, 1), table(1500, 2)
    return TabularEvaluation().evaluate(train, fresh, table(1500, 3), schema_for(), seed=1)


def test_every_score_stands_beside_its_floor_ceiling_and_normalised_value(results):
    expected = {f"fidelity/tvd_{k}way" for k in (1, 2, 3)}
    expected |= {f"fidelity/accuracy_{k}" for k in ("univariate", "bivariate", "trivariate", "overall")}
    expected |= {"fidelity/c2st_auc", "fidelity/correlation_mae"}
    expected |= {f"fidelity/{k}" for k in ("range_coverage", "category_coverage", "category_mass")}
    expected |= {f"utility/tstr_auroc_{k}" for k in ("lr", "hgb")}
    alone = {"utility/trtr_auroc_lr", "utility/trtr_auroc_hgb"}
    alone |= {"validity/schema_violations", "validity/duplicate_share"}
    every = {f"{kind}{key}" for kind in ("", "floor/", "ceiling/", "normalised/") for key in expected}
    assert set(results.metrics) == every | alone


def test_only_validity_is_public(results):
    public = [key for key in results.metrics if results.visibility(key) == "public"]
    assert public == ["validity/schema_violations"]


def test_fresh_rows_of_the_real_distribution_score_near_one_where_dependence_matters(results):
    for key in ("fidelity/tvd_2way", "fidelity/accuracy_bivariate", "fidelity/correlation_mae"):
        assert results.metrics[f"normalised/{key}"] == pytest.approx(1.0, abs=0.2)
    assert results.metrics["fidelity/c2st_auc"] == pytest.approx(0.5, abs=0.05)


def test_independent_columns_as_synthetic_table_score_near_zero():
    train, fresh = table(1500, 1), table(1500, 2)
    shuffled = pd.DataFrame({c: train[c].sample(frac=1.0, random_state=i).array for i, c in enumerate(train)})
    evaluation = TabularEvaluation(metrics=["tvd_2way", "correlation", "accuracy"])
    metrics = evaluation.evaluate(train, fresh, shuffled, schema_for(), seed=1).metrics
    for key in ("fidelity/tvd_2way", "fidelity/accuracy_bivariate", "fidelity/correlation_mae"):
        assert metrics[f"normalised/{key}"] == pytest.approx(0.0, abs=0.1)


def test_scores_equal_those_of_the_pure_functions(results):
    train, fresh, synthetic, schema = table(1500, 1), table(1500, 2), table(1500, 3), schema_for()
    assert results.metrics["fidelity/tvd_2way"] == total_variation(train, synthetic, schema, 2)["tvd_2way"]
    ceiling = total_variation(train, fresh, schema, 2)["tvd_2way"]
    assert results.metrics["ceiling/fidelity/tvd_2way"] == pytest.approx(ceiling, abs=1e-12)
    utility = train_on_test_on(synthetic, fresh, schema, "lr", seed=1).value
    assert results.metrics["utility/tstr_auroc_lr"] == utility
    trtr = train_on_test_on(train, fresh, schema, "lr", seed=1).value
    assert results.metrics["utility/trtr_auroc_lr"] == trtr
    assert results.metrics["ceiling/utility/tstr_auroc_lr"] == trtr


def test_a_repeated_evaluation_gives_the_same_numbers_and_another_seed_another_floor():
    train, fresh, synthetic = table(300, 1), table(300, 2), table(300, 3)
    evaluation = TabularEvaluation(metrics=["tvd_2way", "c2st", "tstr"], c2st_rows=60)
    first, again, other = (
        evaluation.evaluate(train, fresh, synthetic, schema_for(), seed=s).metrics for s in (4, 4, 5)
    )
    assert first == again
    assert first["floor/fidelity/tvd_2way"] != other["floor/fidelity/tvd_2way"]
    assert first["fidelity/tvd_2way"] == other["fidelity/tvd_2way"]


def test_the_order_of_rows_does_not_change_marginal_scores():
    train, fresh, synthetic = table(300, 1), table(300, 2), table(300, 3)
    evaluation = TabularEvaluation(metrics=["tvd_3way", "accuracy", "correlation"])
    shuffled = [t.sample(frac=1.0, random_state=0) for t in (train, fresh, synthetic)]
    first = evaluation.evaluate(train, fresh, synthetic, schema_for(), seed=0).metrics
    second = evaluation.evaluate(*shuffled, schema_for(), seed=0).metrics
    for key in ("fidelity/tvd_3way", "ceiling/fidelity/tvd_3way", "fidelity/accuracy_overall"):
        assert first[key] == second[key]
    assert first["fidelity/correlation_mae"] == pytest.approx(second["fidelity/correlation_mae"], abs=1e-12)


def test_the_json_is_complete_and_has_no_nan(results):
    content = json.loads(json.dumps(results.to_json(), allow_nan=False))
    entry = content["metrics"]["fidelity/accuracy_overall"]
    assert entry == {
        "value": results.metrics["fidelity/accuracy_overall"],
        "version": "mostly-1",
        "visibility": "private",
    }
    assert all(e["version"] for e in content["metrics"].values())
    assert content["rows"]["real"] == 1500
    nan = Results({"a": math.nan}, {"a": "v"}, []).to_json()
    assert nan["metrics"]["a"]["value"] is None


def test_one_way_distance_of_permuted_columns_and_its_normalised_value_are_exact(results):
    assert results.metrics["floor/fidelity/tvd_1way"] == 0.0
    assert normalised(0.3, 0.1, 0.5) == pytest.approx(0.5)
    assert math.isnan(normalised(0.3, 0.2, 0.2 + 1e-7))


def test_floor_and_ceiling_that_coincide_are_noted():
    train = table(200, 1)
    evaluation = TabularEvaluation(metrics=["tvd_1way"])
    found = evaluation.evaluate(train, train, table(200, 2), schema_for(), seed=0)
    assert math.isnan(found.metrics["normalised/fidelity/tvd_1way"])
    assert any(note.startswith("fidelity/tvd_1way: floor and ceiling") for note in found.notes)


def test_the_headline_has_a_row_per_score_with_its_context(results):
    rows = {row.name: row for row in headline(results)}
    row = rows["fidelity/tvd_3way"]
    assert row.floor == results.metrics["floor/fidelity/tvd_3way"]
    assert row.ceiling == results.metrics["ceiling/fidelity/tvd_3way"]
    assert math.isnan(rows["validity/schema_violations"].floor)
    assert not any(name.startswith(("floor/", "ceiling/")) for name in rows)


def test_without_a_holdout_ceilings_and_utility_are_left_out_with_notes():
    train, synthetic = table(200, 1), table(200, 2)
    for holdout in (None, train.iloc[:0]):
        found = TabularEvaluation(c2st_rows=100).evaluate(train, holdout, synthetic, schema_for(), seed=0)
        assert not any(key.startswith(("ceiling/", "normalised/", "utility/")) for key in found.metrics)
        assert any("tstr left out" in note for note in found.notes)
        assert any("no holdout" in note for note in found.notes)


def test_a_smaller_holdout_is_bootstrapped_with_a_note_but_never_repeated_for_classifiers():
    found = TabularEvaluation(metrics=["tvd_1way", "c2st"]).evaluate(
        table(400, 1), table(100, 2), table(400, 3), schema_for(), seed=0
    )
    assert any("bootstrap" in note for note in found.notes)
    assert found.rows["c2st"] == 100
    assert found.metrics["ceiling/fidelity/c2st_auc"] < 0.65


def test_a_numeric_target_is_scored_by_r2_and_no_target_by_nothing():
    train, fresh, synthetic = table(300, 1), table(300, 2), table(300, 3)
    evaluation = TabularEvaluation(metrics=["tstr"], learners=["lr"])
    found = evaluation.evaluate(train, fresh, synthetic, schema_for("spend"), seed=0).metrics
    assert set(found) == {
        "utility/trtr_r2_lr",
        *(f"{kind}utility/tstr_r2_lr" for kind in ("", "floor/", "ceiling/", "normalised/")),
    }
    nothing = evaluation.evaluate(train, fresh, synthetic, schema_for(None), seed=0)
    assert nothing.metrics == {}
    assert nothing.notes == ["tstr left out: the schema names no target"]


def test_tables_of_marginals_and_associations_come_along(results):
    assert list(results.tables["columns"]["column"]) == list(schema_for().names)
    assert len(results.tables["pairs"]) == 6
    assert results.tables["columns"]["score"].mean() == pytest.approx(results.metrics["fidelity/tvd_1way"])
    assert results.tables["correlation_real"].shape == (4, 4)


def test_max_rows_bounds_every_table_and_is_noted():
    found = TabularEvaluation(metrics=["tvd_1way", "tstr"], max_rows=50, learners=["lr"]).evaluate(
        table(300, 1), table(300, 2), table(300, 3), schema_for(), seed=0
    )
    assert {found.rows[k] for k in ("real", "synthetic", "holdout", "learner_train", "learner_test")} == {50}
    assert any("max_rows" in note for note in found.notes)


def test_repeats_give_the_mean_and_the_standard_deviation():
    train, fresh, synthetic = table(200, 1), table(200, 2), table(200, 3)
    tables, schema = (train, fresh, synthetic), schema_for()
    once = TabularEvaluation(metrics=["tvd_2way"])
    single = [once.evaluate(*tables, schema, seed=s).metrics for s in (3, 4)]
    both = TabularEvaluation(metrics=["tvd_2way"], repeats=2).evaluate(*tables, schema, seed=3)
    floors = [m["floor/fidelity/tvd_2way"] for m in single]
    assert both.metrics["floor/fidelity/tvd_2way"] == pytest.approx(np.mean(floors))
    assert both.spread["floor/fidelity/tvd_2way"] == pytest.approx(np.std(floors, ddof=1))
    assert "std" in both.to_json()["metrics"]["floor/fidelity/tvd_2way"]


def test_progress_counts_up_to_the_total():
    calls: list[tuple[str, int, int]] = []
    TabularEvaluation(metrics=["tvd_1way", "validity"]).evaluate(
        table(50, 1),
        table(50, 2),
        table(50, 3),
        schema_for(),
        seed=0,
        progress=lambda *call: calls.append(call),
    )
    assert calls == [("tvd_1way", 0, 2), ("validity", 1, 2), ("done", 2, 2)]


def test_violations_of_the_schema_are_counted_and_named():
    synthetic = table(50, 3)
    synthetic.loc[:2, "spend"] = 99.0
    evaluation = TabularEvaluation(metrics=["validity"])
    found = evaluation.evaluate(table(50, 1), None, synthetic, schema_for(), seed=0)
    assert found.metrics["validity/schema_violations"] == 3.0
    assert any("3 bounds" in note for note in found.notes)
    clean = evaluation.evaluate(table(50, 1), None, table(50, 2), schema_for(), seed=0)
    assert clean.metrics["validity/schema_violations"] == 0.0


DEGENERATE = {
    "one row": lambda t: t.iloc[:1],
    "constant columns": lambda t: t.assign(
        tier=pd.Categorical(["a"] * len(t), list(TIERS)),
        spend=3.0,
        visits=pd.array([2] * len(t), dtype="Int64"),
    ),
    "missing columns of values": lambda t: t.assign(
        tier=pd.Categorical([None] * len(t), list(TIERS)), spend=np.nan
    ),
    "one class": lambda t: t.assign(paid=pd.Categorical(["no"] * len(t), ["no", "yes"])),
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("side", ["real", "synthetic", "both"])
def test_degenerate_tables_give_finite_scores(name, side):
    change, same = DEGENERATE[name], lambda t: t
    real, synthetic = {"real": (change, same), "synthetic": (same, change), "both": (change, change)}[side]
    found = TabularEvaluation(c2st_rows=40).evaluate(
        real(table(60, 1)), real(table(60, 2)), synthetic(table(60, 3)), schema_for(), seed=0
    )
    bad = [k for k, v in found.metrics.items() if not math.isfinite(v) and not k.startswith("normalised/")]
    assert bad == []


@pytest.mark.parametrize("columns", [1, 2])
def test_narrow_tables_skip_what_needs_more_columns(columns):
    train, fresh, synthetic = (table(60, s).iloc[:, :columns] for s in (1, 2, 3))
    found = TabularEvaluation(c2st_rows=30).evaluate(
        train, fresh, synthetic, schema_for("tier", columns), seed=0
    )
    assert "fidelity/tvd_1way" in found.metrics
    assert "fidelity/tvd_3way" not in found.metrics
    assert ("fidelity/tvd_2way" in found.metrics) == (columns == 2)
    assert any("tvd_3way left out" in note for note in found.notes)


def test_an_empty_synthetic_table_is_refused_with_a_remedy():
    train = table(20, 1)
    with pytest.raises(DataError, match=r"synthetic table has 0 rows.*Sample more rows"):
        TabularEvaluation().evaluate(train, train, train.iloc[:0], schema_for(), seed=0)


def test_all_mistakes_of_the_options_are_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        TabularEvaluation(metrics=["tvd_2ways", "validity"], learners=["hgbb"], max_rows=0, repeats=0)
    text = str(caught.value)
    assert "Did you mean 'tvd_2way'?" in text
    assert "Did you mean 'hgb'?" in text
    assert "evaluation.max_rows=0" in text
    assert "evaluation.repeats=0" in text


def test_metrics_can_be_chosen_one_by_one():
    train, fresh, synthetic = table(60, 1), table(60, 2), table(60, 3)
    for name in set(METRICS) - {"log_likelihood"}:
        found = TabularEvaluation(metrics=[name], c2st_rows=30, learners=["lr"]).evaluate(
            train, fresh, synthetic, schema_for(), seed=0
        )
        assert found.metrics
        assert not any("left out" in note for note in found.notes)
