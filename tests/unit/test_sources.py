"""Data sets: reading, splitting, own tables, the generated table, and mistakes in their configuration."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dpforge.data import TabularSource, ToySource, own_table
from dpforge.data.places import conf_folder, schema_path
from dpforge.data.sources.toy import toy_rows
from dpforge.data.table import violations
from dpforge.errors import ConfigError, DataError

SCHEMA = """
name: mine
nominal_rows: 100
{unit}
target: group
columns:
  age: {{kind: integer, bounds: {{min: 0, max: 120}}}}
  group: {{kind: categorical, categories: {{values: [a, b]}}}}
"""


@pytest.fixture
def mine(tmp_path):
    """An own table of 200 rows with its schema; returns (csv, schema)."""
    schema = tmp_path / "mine.yaml"
    schema.write_text(SCHEMA.format(unit=""))
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"age": rng.integers(0, 99, 200), "group": rng.choice(["a", "b"], 200)})
    frame.to_csv(tmp_path / "mine.csv", index=False)
    return tmp_path / "mine.csv", schema


def _load(name):
    return instantiate(OmegaConf.load(conf_folder() / "dataset" / f"{name}.yaml"), _convert_="all").load()


def test_an_own_table_is_split_by_key_and_adding_a_record_moves_no_other(mine):
    path, schema = mine
    before = own_table(str(path), str(schema)).load()
    assert len(before.train) + len(before.holdout) == 200
    assert before.schema.nominal_rows == 80
    assert not before.public_benchmark
    with path.open("a") as out:
        out.write("50,a\n")
    after = own_table(str(path), str(schema)).load()
    assert len(after.train) + len(after.holdout) == 201
    pd.testing.assert_frame_equal(after.train.iloc[: len(before.train)], before.train)
    pd.testing.assert_frame_equal(after.holdout.iloc[: len(before.holdout)], before.holdout)
    assert after.fingerprint != before.fingerprint


def test_another_split_seed_gives_another_split_of_the_same_rows(mine):
    path, schema = mine
    one, two = (own_table(str(path), str(schema), split_seed=seed).load() for seed in (0, 1))
    assert not one.train["age"].reset_index(drop=True).equals(two.train["age"].reset_index(drop=True))
    together = [pd.concat([part.train, part.holdout])["age"].sort_values().tolist() for part in (one, two)]
    assert together[0] == together[1]


def test_an_own_holdout_file_is_used_instead_of_a_split_and_the_nominal_rows_stay(mine, tmp_path):
    path, schema = mine
    (tmp_path / "held.csv").write_text("age,group\n1,a\n2,b\n")
    data = own_table(str(path), str(schema), holdout_path=str(tmp_path / "held.csv")).load()
    assert len(data.train) == 200
    assert data.holdout["age"].tolist() == [1, 2]
    assert data.schema.nominal_rows == 100


def test_an_own_table_without_header_takes_the_columns_of_the_schema(mine):
    path, schema = mine
    rows = path.read_text().splitlines()[1:]
    path.write_text("\n".join(rows).replace(",", ";"))
    data = own_table(str(path), str(schema), header=False, separator=";").load()
    assert len(data.train) + len(data.holdout) == 200


def test_an_own_parquet_table_equals_the_same_table_as_csv(mine, tmp_path):
    path, schema = mine
    pd.read_csv(path).to_parquet(tmp_path / "mine.parquet")
    left, right = (own_table(str(place), str(schema)).load() for place in (path, tmp_path / "mine.parquet"))
    pd.testing.assert_frame_equal(left.train, right.train)


def test_the_rows_of_one_user_stay_on_one_side_of_the_split(tmp_path):
    schema = tmp_path / "users.yaml"
    schema.write_text(SCHEMA.format(unit="unit: {kind: user, column: person, max_rows: 3}"))
    people = np.repeat(np.arange(60), 3)
    pd.DataFrame({"age": people, "group": "a", "person": people}).to_csv(tmp_path / "users.csv", index=False)
    data = own_table(str(tmp_path / "users.csv"), str(schema), holdout_fraction=0.5).load()
    assert not set(data.train["age"]) & set(data.holdout["age"])
    numbers = pd.factorize(data.units)[0]
    assert numbers.tolist() == np.repeat(np.arange(len(data.train) // 3), 3).tolist()
    assert "person" not in data.train


def test_a_split_that_leaves_no_training_row_is_a_clear_error(tmp_path, mine):
    _, schema = mine
    (tmp_path / "one.csv").write_text("age,group\n5,a\n")
    said = []
    for seed in range(20):
        with pytest.raises(DataError) as caught:
            own_table(str(tmp_path / "one.csv"), str(schema), holdout_fraction=0.5, split_seed=seed).load()
        said.append(str(caught.value))
    assert any("training part of the table has no rows" in text for text in said)
    assert any("holdout part of the table has no rows" in text for text in said)


def test_the_fingerprint_and_the_rows_are_not_in_the_text_form_of_the_units(mine):
    path, schema = mine
    data = own_table(str(path), str(schema)).load()
    assert data.fingerprint not in repr(data)


def test_every_mistake_of_a_data_set_is_reported_at_once():
    with pytest.raises(ConfigError) as error:
        TabularSource(
            name="x",
            schema="adult",
            files={"train": {"name": "x.csv", "sha256": "1"}, "holdot": {}},
            path="x.csv",
            format={"seperator": ";", "separator": ";;"},
            holdout_fraction=1.0,
            split_seed=-1,
            nominal_rows=0,
        )
    text = str(error.value)
    for part in (
        "path and dataset.files are both given",
        "dataset.holdout_fraction=1.0",
        "dataset.split_seed=-1",
        "dataset.nominal_rows=0",
        "Did you mean 'separator'",
        "expected one character",
        "sha256='1'",
    ):
        assert part in text


def test_a_misspelt_role_of_a_file_gets_a_suggestion():
    entry = {"name": "x.csv", "sha256": "0" * 64}
    with pytest.raises(ConfigError, match="Did you mean 'holdout'"):
        TabularSource(name="x", schema="adult", files={"train": entry, "holdot": entry})


def test_an_unknown_schema_name_gets_a_suggestion_and_a_missing_file_the_command_that_drafts_it():
    with pytest.raises(ConfigError, match="Did you mean 'adult'"):
        schema_path("adlt")
    with pytest.raises(ConfigError, match="dpforge-data schema"):
        schema_path("somewhere/mine.yaml")


@pytest.mark.parametrize("path", ["absent.csv", "."])
def test_a_path_that_is_no_file_is_a_clear_error(path, mine, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"does not exist|is a folder"):
        own_table(path, str(mine[1])).load()


def test_the_toy_table_is_the_same_for_the_same_seed_and_another_for_another():
    one, same, other = (ToySource(seed=seed).load() for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(one.train, same.train)
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert not one.train["income"].equals(other.train["income"])


def test_the_toy_table_is_valid_and_has_every_kind_of_column_atoms_and_missing_cells():
    data = ToySource().load()
    assert not any(violations(pd.concat([data.train, data.holdout]), data.schema).values())
    assert {column.kind for column in data.schema.columns} == {
        "integer",
        "numeric",
        "categorical",
        "datetime",
    }
    assert len(data.train) + len(data.holdout) == 2000
    assert 0.05 < (data.train["income"] == 0).mean() < 0.3
    assert 0.05 < data.train["score"].isna().mean() < 0.15
    assert 0.02 < data.train["employment"].isna().mean() < 0.1


def test_the_columns_of_the_toy_table_depend_on_each_other():
    from scipy.stats import chi2_contingency
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    rows = toy_rows(4000, 3)
    assert chi2_contingency(pd.crosstab(rows["region"], rows["education"])).pvalue < 1e-6
    inputs = pd.get_dummies(rows[["age", "education", "employment"]]).astype(float)
    inputs["age"] /= 100
    answer = rows["response"] == "yes"
    model = LogisticRegression(max_iter=1000).fit(inputs[:2000], answer[:2000])
    assert roc_auc_score(answer[2000:], model.predict_proba(inputs[2000:])[:, 1]) > 0.75


def test_loading_the_toy_table_takes_less_than_a_blink():
    ToySource().load()
    times = []
    for seed in range(5):
        start = time.perf_counter()
        ToySource(seed=seed).load()
        times.append(time.perf_counter() - start)
    assert min(times) < 0.1


def test_mistakes_of_the_toy_source_are_reported_together():
    with pytest.raises(ConfigError) as error:
        ToySource(rows=1, seed=-1, holdout_fraction=2)
    assert len(error.value.mistakes) == 3


def test_importing_the_data_package_imports_no_deep_learning_library():
    code = "import sys, dpforge.data; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.network
def test_adult_loads_with_the_row_and_missing_counts_of_its_description():
    data = _load("adult")
    assert len(data.train) == 32561
    assert len(data.holdout) == 16281
    missing = data.train[["workclass", "occupation", "native_country"]].isna()
    assert missing.sum().tolist() == [1836, 1843, 583]
    assert missing.any(axis=1).sum() == 2399
    assert data.holdout.isna().any(axis=1).sum() == 1221
    assert not any(violations(data.train, data.schema).values())
    assert set(data.holdout["income"].unique()) == {"<=50K", ">50K"}


@pytest.mark.network
@pytest.mark.parametrize(("name", "rows", "columns"), [("german", 1000, 21), ("compas", 7214, 14)])
def test_tables_that_a_registry_package_carries_load_completely(name, rows, columns):
    data = _load(name)
    assert len(data.train) + len(data.holdout) == rows
    assert data.train.shape[1] == columns


LOCAL = {
    "census": 48842, "adult_subset": 3000, "pums_subset": 3000, "power_subset": 3000, "pums": 1000,
    "pums_users": 1000, "power": 19446, "power_hourly": 34589, "california": 20640,
}  # fmt: skip


@pytest.mark.skipif("DPFORGE_DATA" not in os.environ, reason="DPFORGE_DATA names no folder with data files")
@pytest.mark.parametrize(("name", "rows"), LOCAL.items())
def test_every_row_of_a_table_in_the_users_folder_fits_its_public_schema(name, rows):
    data = _load(name)
    assert len(data.train) + len(data.holdout) == rows
    assert not any(violations(data.train, data.schema).values())
