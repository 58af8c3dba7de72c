"""The schema file: what it accepts, and how it reports what is wrong."""

from __future__ import annotations

import copy
import json
import pathlib

import pytest
import yaml

from dpforge.data.schema import Categories, Column, load_schema, schema_from_dict
from dpforge.errors import ConfigError

TEXT = """
schema_version: 1
name: adult
nominal_rows: 32561
unit: {kind: row}
rows: {policy: fixed, value: 32561}
target: income
constraints: ["capital_gain == 0 or capital_loss == 0"]
columns:
  age:
    kind: integer
    bounds: {min: 17, max: 90, provenance: public, note: "top-coded at 90"}
    units: years
  capital_gain:
    kind: integer
    bounds: {min: 0, max: 99999}
    special_values: [99999, 0]
    bins: {edges: [1, 1000, 50000, 99999], provenance: public}
  capital_loss: {kind: integer, bounds: {min: 0, max: 5000}}
  workclass:
    kind: categorical
    categories: {values: [Private, "No", 1], provenance: public}
    nullable: true
    null_tokens: ["?"]
    unseen: {map: Private}
  occupation_text:
    kind: categorical
    categories: {provenance: private, epsilon: 0.05, delta: 1.0e-7, max_values: 500, public_values: []}
  income_usd:
    kind: numeric
    bounds: {provenance: private, epsilon: 0.05, outer: [-1.0e7, 1e9], granularity: 1.0}
  admitted:
    kind: datetime
    bounds: {min: 2006-12-16, max: 2010-11-26, provenance: unconfirmed}
    resolution: minute
  income:
    kind: categorical
    categories: {values: [<=50K, ">50K"]}
"""


@pytest.fixture
def raw():
    return yaml.safe_load(TEXT)


def mistakes_of(raw) -> str:
    with pytest.raises(ConfigError) as caught:
        schema_from_dict(raw)
    return "\n".join(caught.value.mistakes)


def test_a_full_schema_file_reads_as_written(tmp_path):
    path = tmp_path / "adult.yaml"
    path.write_text(TEXT)
    schema = load_schema(path)
    assert schema.names == tuple(yaml.safe_load(TEXT)["columns"])
    assert schema.column("age").bounds.max == 90
    assert schema.column("capital_gain").special_values == (0, 99999)
    assert schema.column("workclass").categories.values == ("Private", "No", "1")
    assert schema.column("workclass").levels == ("Private", "No", "1")
    assert schema.column("income").levels == ("<=50K", ">50K", "unknown")
    assert schema.column("income_usd").bounds.outer == (-1e7, 1e9)
    assert schema.private_columns == ("occupation_text.categories", "income_usd.bounds")
    assert schema.unconfirmed == ("admitted.bounds",)


def test_an_inclusive_bare_date_contains_its_whole_day(raw):
    bounds = schema_from_dict(raw).column("admitted").bounds
    assert (bounds.min, bounds.max) == ("2006-12-16", "2010-11-26T23:59:00")


def test_a_schema_survives_its_own_mapping_even_when_json_sorts_the_keys(raw):
    schema = schema_from_dict(raw)
    assert schema_from_dict(json.loads(json.dumps(schema.to_dict(), sort_keys=True))) == schema
    assert schema_from_dict(yaml.safe_load(yaml.safe_dump(schema.to_dict()))) == schema


def test_the_digest_changes_with_every_public_statement(raw):
    schema = schema_from_dict(raw)
    variants = [schema]
    for path, value in (
        (("columns", "age", "bounds", "max"), 91),
        (("columns", "age", "bounds", "provenance"), "unconfirmed"),
        (("columns", "workclass", "categories", "values"), ["No", "Private", "1"]),
        (("nominal_rows",), 32562),
        (("target",), None),
    ):
        other = copy.deepcopy(raw)
        place = other
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        variants.append(schema_from_dict(other))
    reordered = {**raw, "columns": dict(reversed(raw["columns"].items()))}
    variants.append(schema_from_dict(reordered))
    assert len({variant.digest for variant in variants}) == len(variants)
    assert schema_from_dict(copy.deepcopy(raw)).digest == schema.digest


def test_all_mistakes_of_a_file_come_in_one_error():
    raw = {
        "nominal_rows": 0,
        "targett": "a",
        "target": "agee",
        "unit": {"kind": "user"},
        "rows": {"policy": "noisy"},
        "columns": {
            "age": {"kind": "integr", "bounds": {"min": 5, "max": 1}},
            "size": {"kind": "numeric", "bounds": {"min": 5, "max": 5, "provenance": "publik"}},
            "city": {"kind": "categorical", "categories": {"values": ["a", "b", "a"]}, "nulable": True},
            "text": {"kind": "categorical", "categories": {"provenance": "private"}},
            "when": {"kind": "datetime", "bounds": {"min": "yesterday", "max": "2020-01-01"}},
            "wage": {"kind": "integer", "bounds": {"min": 0, "max": 9}, "bins": {"edges": [0, 5, 5, 12]}},
            "cost": {"kind": "numeric"},
            "kind": {"kind": "categorical", "categories": {"values": []}},
        },
    }
    text = mistakes_of(raw)
    for part in (
        "nominal_rows=0",
        "'targett'. Did you mean 'target'?",
        "target='agee' is not a column. Did you mean 'age'?",
        "unit.kind=user needs unit.column",
        "rows.policy=noisy needs rows.epsilon",
        "columns.age.kind='integr': expected one of categorical, integer, numeric, datetime.",
        "Did you mean 'integer'?",
        "columns.size.bounds: min=5 must be below max=5",
        "Did you mean 'public'?",
        "columns.city.categories.values lists 'a' more than once",
        "'columns.city.nulable'. Did you mean 'nullable'?",
        "columns.text.categories.provenance=private needs epsilon and delta",
        "columns.when.bounds.min='yesterday'",
        "columns.wage.bins.edges must be at least two strictly increasing",
        "columns.wage.bins.edges leave the bounds 0 to 9",
        "columns.cost.bounds is missing",
        "columns.kind.categories.values is empty",
    ):
        assert part in text


@pytest.mark.parametrize("word", ["No", "yes", "off", "~", "null"])
def test_an_unquoted_yaml_word_among_categories_is_refused_with_a_hint_to_quote(word, tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(
        f"nominal_rows: 5\ncolumns:\n  a: {{kind: categorical, categories: {{values: [x, {word}]}}}}\n"
    )
    with pytest.raises(ConfigError, match="in quotes"):
        load_schema(path)


def test_a_yaml_tag_that_would_run_code_is_refused_and_nothing_runs(tmp_path):
    marker = tmp_path / "ran"
    path = tmp_path / "evil.yaml"
    path.write_text(
        f"name: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{marker}']]"
    )
    with pytest.raises(ConfigError, match="not plain YAML"):
        load_schema(path)
    assert not marker.exists()


def test_a_column_named_twice_is_a_mistake_and_not_silently_the_last_one(tmp_path):
    path = tmp_path / "s.yaml"
    column = "{kind: integer, bounds: {min: 0, max: 1}}"
    path.write_text(f"nominal_rows: 5\ncolumns:\n  a: {column}\n  a: {column}\n")
    with pytest.raises(ConfigError, match="'a' appears twice"):
        load_schema(path)


@pytest.mark.parametrize("content", ["", "- 1\n- 2", "just text", "a: [1, 2", "nominal_rows: 3"])
def test_a_file_that_is_no_schema_gives_a_configuration_error(content, tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError):
        load_schema(path)


def test_an_absent_schema_file_is_named_in_the_error(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_schema(pathlib.Path(tmp_path / "nowhere.yaml"))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"bounds": {"provenance": "private", "epsilon": 0.1}}, "outer"),
        ({"bounds": {"provenance": "private", "outer": [0, 9]}}, "epsilon"),
        ({"bounds": {"min": 0.5, "max": 9}}, "whole"),
        ({"bounds": {"min": 0, "max": 9}, "special_values": [10]}, "outside the bounds"),
        ({"bounds": {"min": 0, "max": 9}, "outside": "null"}, "needs nullable"),
        ({"bounds": {"min": 0, "max": 9}, "categories": {"values": ["a"]}}, "bounds, not categories"),
        ({"bounds": {"min": 0, "max": 9}, "bins": {"dp_quantile": 8}}, "needs epsilon"),
        ({"bounds": {"min": 0, "max": 9}, "bins": {"edges": [0, 9], "equal_width": 3}}, "exactly one"),
        ({"bounds": {"min": 0, "max": 9}, "granularity": -1}, "granularity"),
        ({"bounds": {"min": 0, "max": float("inf")}}, "finite"),
        ({"bounds": {"min": 0, "max": 9}, "special_values": 5}, "a list"),
        ({"bounds": {"min": 0, "max": True}}, "finite number"),
        ({"bounds": [0, 9]}, "give a mapping"),
    ],
)
def test_a_wrong_number_column_is_explained(change, text):
    assert text in mistakes_of({"nominal_rows": 5, "columns": {"a": {"kind": "integer", **change}}})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("age >", "not an expression"),
        ("agee == 0", "Did you mean 'age'?"),
        ("age", "not a condition"),
        ("__import__('os').system('true')", "not allowed"),
        ("age.real == 0", "not allowed"),
        ("age ** 2 == 4", "not allowed"),
        ("age == 'x'", "compared with"),
        ("income < '>50K'", "== and != only"),
        ("age == True", "not allowed"),
        ("[age][0] == 1", "not allowed"),
        ("age = position(capital_loss)", "position() needs"),
        ("admitted > 'soon'", "not an ISO 8601"),
        ("(" * 400 + "age" + ")" * 400, "longer than"),
        ("age + income == 3", "expected"),
    ],
)
def test_a_constraint_outside_the_small_language_is_refused(raw, text, reason):
    raw["constraints"] = [text]
    assert reason in mistakes_of(raw)


def test_position_needs_bounds_that_hold_every_position(raw):
    raw["columns"]["rank"] = {"kind": "integer", "bounds": {"min": 1, "max": 2}}
    raw["constraints"] = ["rank = position(workclass)"]
    assert "must contain 1 to 3" in mistakes_of(raw)
    raw["columns"]["rank"]["bounds"]["max"] = 3
    assert schema_from_dict(raw).constraints == ("rank = position(workclass)",)


def test_table_wide_defaults_hold_unless_a_column_says_otherwise(raw):
    raw |= {"unseen": "drop", "outside": "drop"}
    schema = schema_from_dict(raw)
    assert schema.column("income").unseen == "drop"
    assert schema.column("workclass").unseen == "map"
    assert schema.column("age").outside == "drop"


def test_a_category_named_unknown_is_the_place_for_unlisted_ones(raw):
    raw["columns"]["income"]["categories"]["values"] = ["low", "unknown"]
    column = schema_from_dict(raw).column("income")
    assert column.levels == ("low", "unknown")
    assert (column.unseen, column.unseen_map) == ("map", "unknown")


def test_an_order_list_arranges_the_categories_and_must_name_them_all(raw):
    raw["columns"]["income"]["order"] = [">50K", "<=50K"]
    assert schema_from_dict(raw).column("income").categories.values == (">50K", "<=50K")
    raw["columns"]["income"]["order"] = [">50K"]
    assert "order" in mistakes_of(raw)


def test_replacing_a_column_keeps_its_place_and_the_others(raw):
    schema = schema_from_dict(raw)
    bought = Column(
        "occupation_text", "categorical", categories=Categories(("a", "b"), "private", "", 0.05, 1e-7)
    )
    other = schema.with_column(bought)
    assert other.names == schema.names
    assert other.column("occupation_text") is bought
    assert schema_from_dict(other.to_dict()) == other
    assert other.with_nominal_rows(7).nominal_rows == 7
    with pytest.raises(ConfigError, match="Did you mean 'age'"):
        schema.column("agee")
    with pytest.raises(ConfigError):
        schema.with_nominal_rows(0)


def test_the_unit_column_is_not_a_generated_column(raw):
    raw["unit"] = {"kind": "user", "column": "age", "max_rows": 4}
    assert "must not be one of the generated columns" in mistakes_of(raw)
    raw["unit"]["column"] = "person"
    assert schema_from_dict(raw).unit.max_rows == 4
