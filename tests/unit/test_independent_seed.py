"""The basic synthesizer of the published experiments: reproduced, defects and all, and never called DP."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dpforge.config import compose
from dpforge.data import Dataset, load_schema
from dpforge.data.places import schema_path
from dpforge.data.schema import Bounds, Categories, Column, Schema, schema_from_dict
from dpforge.errors import ConfigError
from dpforge.evaluation import legacy_propensity, legacy_ranking_agreement, legacy_wasserstein
from dpforge.experiment.certificate import make_certificate
from dpforge.generators.base import RunContext, Runtime
from dpforge.generators.independent_seed import IndependentSeed
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.rng import fresh_random
from dpforge.privacy.spec import PrivacySpec

SCHEMA = Schema(
    "mixed",
    100,
    (
        Column("tier", "categorical", categories=Categories(("a", "b", "c")), unseen="drop"),
        Column("visits", "integer", bounds=Bounds(0, 30)),
        Column("spend", "numeric", bounds=Bounds(0.0, 20.0), nullable=True),
    ),
)
ROW = {
    "adult": (0.145, 0.998),
    "pums": (0.141, 0.661),
    "power": (0.144, 1.141),
}


def fitted(table, schema, folder):
    plan = IndependentSeed().plan(schema, PrivacySpec())
    ledger = Ledger.create(folder / "ledger.jsonl", plan, {"rng": "entropy", "unit": {}, "nominal_rows": 1})
    access = PrivateAccess(ledger, fresh_random("entropy"))
    run = RunContext(access, PrivacySpec(), Runtime(), 0, folder)
    return IndependentSeed().fit(Dataset(schema, table, table.head(0), None, True, ""), run), ledger


def mixed(rows=500):
    rng = np.random.default_rng(0)
    spend = rng.normal(10, 3, rows)
    spend[:7] = np.nan
    tier = pd.Categorical.from_codes(rng.choice(3, rows, p=[0.6, 0.3, 0.1]), ["a", "b", "c"])
    visits = pd.array(rng.poisson(4, rows), dtype="Int64")
    return pd.DataFrame({"tier": tier, "visits": visits, "spend": spend})


@pytest.mark.parametrize("spec", [PrivacySpec(target_epsilon=1.0), PrivacySpec(enabled=False)])
def test_no_setting_of_privacy_gives_it_an_epsilon(spec):
    plan = IndependentSeed().plan(SCHEMA, spec)
    assert plan.epsilon() == math.inf
    assert plan.target_epsilon is None


def test_the_certificate_says_not_dp_and_the_ledger_names_the_access(tmp_path):
    _, ledger = fitted(mixed(), SCHEMA, tmp_path)
    found = make_certificate(ledger, {})
    assert found["status"] == "NOT DP"
    assert found["epsilon"] is None
    assert "without noise" in found["pieces"][0]["reason"]


def test_all_number_columns_are_one_draw_as_in_the_original(tmp_path):
    model, _ = fitted(mixed(), SCHEMA, tmp_path)
    sample = model.sample(400, np.random.default_rng(0))
    assert np.corrcoef(sample["visits"], sample["spend"])[0, 1] == pytest.approx(1.0)
    again = model.sample(400, np.random.default_rng(1))
    pd.testing.assert_frame_equal(sample, again)


def test_means_deviations_and_frequencies_are_those_of_the_training_rows(tmp_path):
    table = mixed()
    model, _ = fitted(table, SCHEMA, tmp_path)
    known = table["spend"].dropna()
    assert model.columns[2] == pytest.approx([known.mean(), np.sqrt(((known - known.mean()) ** 2).mean())])
    sample = model.sample(20_000, np.random.default_rng(0))
    counts = table["tier"].value_counts(normalize=True)
    for level, share in sample["tier"].value_counts(normalize=True).items():
        assert share == pytest.approx(counts[level], abs=0.02)


def test_a_saved_model_gives_the_same_rows(tmp_path):
    model, _ = fitted(mixed(), SCHEMA, tmp_path)
    model.save(tmp_path)
    again = IndependentSeed().load(tmp_path)
    rng = np.random.default_rng(0)
    pd.testing.assert_frame_equal(again.sample(50, rng), model.sample(50, rng))


def test_dates_are_one_more_number_column(tmp_path):
    bounds = {"provenance": "public", "min": "2020-01-01", "max": "2020-12-31"}
    columns = {
        "day": {"kind": "datetime", "bounds": bounds, "resolution": "day"},
        "x": {"kind": "numeric", "bounds": {"provenance": "public", "min": 0, "max": 9}},
    }
    schema = schema_from_dict({"nominal_rows": 9, "columns": columns})
    days = np.datetime64("2020-03-01", "s") + np.arange(90).astype("timedelta64[D]")
    sample = fitted(pd.DataFrame({"day": days, "x": np.arange(90.0)}), schema, tmp_path)[0].sample(200, None)
    seconds = sample["day"].to_numpy().astype("datetime64[s]").astype(float)
    assert np.corrcoef(seconds, sample["x"])[0, 1] == pytest.approx(1.0)
    assert abs(sample["day"].mean() - pd.Timestamp("2020-04-14 12:00")) < pd.Timedelta(days=6)


def test_private_values_are_refused():
    private = {"provenance": "private", "epsilon": 0.1, "outer": [0, 9]}
    bought = schema_from_dict({"nominal_rows": 9, "columns": {"x": {"kind": "numeric", "bounds": private}}})
    with pytest.raises(ConfigError, match="buys no private values"):
        IndependentSeed().plan(bought, PrivacySpec())


def test_the_configuration_tree_names_it():
    config = compose(["model=independent_seed", "dataset=toy"])
    assert config.model._target_.endswith("IndependentSeed")


@pytest.mark.parametrize("name", ROW)
def test_the_published_row_of_the_basic_synthesizer_comes_out(name, tmp_path):
    path = Path(os.environ.get("DPFORGE_DATA", "")) / f"tabular/maf_{name}_subset.csv"
    if "DPFORGE_DATA" not in os.environ or not path.exists():
        pytest.skip("the 3,000-row tables are not at hand (DPFORGE_DATA)")
    schema = load_schema(schema_path(f"{name}_subset"))
    table = pd.read_csv(path).astype(float)
    synthetic = fitted(table, schema, tmp_path)[0].sample(len(table), np.random.default_rng(0))
    distance, pmse = ROW[name]
    assert legacy_ranking_agreement(table, synthetic, schema)["sra"] == 1.0
    found = legacy_wasserstein(table, synthetic, schema)["wasserstein_ratio"]
    assert found == pytest.approx(distance, abs=0.004)
    assert legacy_propensity(table, synthetic, schema)["pmse_ratio"] == pytest.approx(pmse, abs=0.005)
