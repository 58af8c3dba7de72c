"""The generated wide table: reproducible, valid, really dependent, and its mistakes."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy.stats import chi2_contingency
from sklearn.metrics import mutual_info_score

from dpforge.data.columns import Bounds, Column
from dpforge.data.places import conf_folder
from dpforge.data.schema import Schema
from dpforge.data.sources.wide import WideSource, level_count, network, wide_rows
from dpforge.data.table import violations
from dpforge.errors import ConfigError

SOURCE = WideSource()
SCHEMA = SOURCE.public_schema()


@pytest.fixture(scope="module")
def data():
    return SOURCE.load()


@pytest.fixture(scope="module")
def codes(data):
    """Every column in at most eight classes, missing cells apart."""
    found = {}
    for column in SCHEMA.columns:
        values = data.train[column.name]
        if column.kind != "categorical":
            values = pd.qcut(values.astype(float), 7, labels=False, duplicates="drop")
        found[column.name] = pd.factorize(values)[0]
    return pd.DataFrame(found)


def test_the_configured_table_has_sixty_columns_of_mixed_kinds_and_twenty_thousand_rows(data):
    kinds = [column.kind for column in SCHEMA.columns]
    assert (len(kinds), len(data.train) + len(data.holdout)) == (60, 20_000)
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "categorical": 31,
        "integer": 14,
        "numeric": 15,
    }
    sizes = [len(c.levels) for c in SCHEMA.columns if c.kind == "categorical"]
    assert (min(sizes), max(sizes)) == (2, 12)
    assert (SCHEMA.target, len(SCHEMA.columns[-1].levels)) == ("outcome", 2)
    assert data.public_benchmark
    assert not SCHEMA.private_columns


def test_the_yaml_builds_the_source_that_the_tests_use():
    raw = OmegaConf.load(conf_folder() / "dataset" / "wide.yaml")
    built = instantiate(raw, _convert_="all")
    fields = ("name", "schema", "rows", "seed", "holdout_fraction", "split_seed", "public_benchmark")
    assert {name: getattr(built, name) for name in fields} == {name: getattr(SOURCE, name) for name in fields}


def test_equal_seeds_give_equal_tables_and_other_seeds_other_rows_of_the_same_dependences(data):
    again, other = WideSource().load(), WideSource(seed=1).load()
    pd.testing.assert_frame_equal(data.train, again.train)
    assert data.fingerprint == again.fingerprint != other.fingerprint
    assert not data.train["amount_01"].head(1000).equals(other.train["amount_01"].head(1000))
    tables = [
        pd.crosstab(d.train["outcome"], d.train["group_30"], normalize=True).to_numpy() for d in (data, other)
    ]
    assert np.abs(tables[0] - tables[1]).sum() < 0.05


def test_every_cell_lies_in_its_public_domain_and_missing_cells_are_where_they_may_be(data):
    assert not any(violations(pd.concat([data.train, data.holdout]), data.schema).values())
    nullable = {column.name for column in SCHEMA.columns if column.nullable}
    missing = data.train.isna().mean()
    assert set(missing.index[missing > 0]) == nullable
    assert missing[list(nullable)].between(0.03, 0.15).all()


def test_special_values_are_atoms_and_every_category_occurs(data):
    for column in SCHEMA.columns:
        values = data.train[column.name].dropna()
        if column.kind == "categorical":
            assert values.nunique() == len(column.levels)
        for special in column.special_values:
            assert (values == special).mean() > 0.01


def test_a_third_of_all_pairs_depends_on_each_other_and_a_column_on_its_parents_most_of_all(codes):
    names = list(SCHEMA.names)
    pairs = list(combinations(range(len(names)), 2))
    few = codes.head(4000).to_numpy()
    information = {(a, b): mutual_info_score(few[:, a], few[:, b]) for a, b in pairs}
    related = {(parent, i) for i, node in enumerate(network(SCHEMA)) for parent in node.parents}
    inside = [value for pair, value in information.items() if pair in related]
    outside = [value for pair, value in information.items() if pair not in related]
    assert np.median(inside) > 10 * np.median(outside)
    some = pairs[::40]
    p_values = [chi2_contingency(pd.crosstab(codes[names[a]], codes[names[b]])).pvalue for a, b in some]
    assert np.mean(np.array(p_values) < 1e-4) > 0.3


def test_the_network_is_sparse_acyclic_and_ends_in_the_target():
    nodes = network(SCHEMA)
    assert all(parent < index for index, node in enumerate(nodes) for parent in node.parents)
    assert max(len(node.parents) for node in nodes[:-1]) == 2
    assert len(nodes[-1].parents) == 8
    for node in nodes:
        shapes = [(level_count(nodes[p].column), level_count(node.column)) for p in node.parents]
        assert [table.shape for table in node.logits] == shapes


def test_a_model_predicts_the_outcome_but_not_perfectly(data, codes):
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    parents = [SCHEMA.names[p] for p in network(SCHEMA)[-1].parents]
    inputs = pd.get_dummies(codes[parents].astype(str)).astype(float)
    answer = (data.train["outcome"] == "yes").to_numpy()
    half = len(answer) // 2
    model = LogisticRegression(max_iter=500).fit(inputs[:half], answer[:half])
    assert 0.8 < roc_auc_score(answer[half:], model.predict_proba(inputs[half:])[:, 1]) < 0.97


def test_a_table_of_few_columns_is_generated_from_a_schema_of_few_columns():
    few = Schema("few", 100, SCHEMA.columns[-4:], target="outcome")
    assert wide_rows(few, 50, 0).shape == (50, 4)


def test_mistakes_of_the_source_and_of_its_schema_are_reported_together():
    with pytest.raises(ConfigError) as error:
        WideSource(rows=1, seed=-1, holdout_fraction=2)
    assert len(error.value.mistakes) == 3
    when = Column("when", "datetime", bounds=Bounds("2020-01-01", "2021-01-01"))
    with pytest.raises(ConfigError) as error:
        network(Schema("other", 100, (SCHEMA.columns[-1], when), target="outcome"))
    text = str(error.value)
    assert "column 'when' of schema 'other' is a datetime" in text
    assert "not its last column" in text
