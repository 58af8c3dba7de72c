"""The data set files of conf/: they load, say what the codebooks say, and state where every value is from."""

from __future__ import annotations

import re

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dpforge.data import TabularSource, load_schema
from dpforge.data.image_source import ImageSource
from dpforge.data.places import conf_folder, schema_folder

DATASETS = sorted(path.stem for path in (conf_folder() / "dataset").glob("*.yaml"))
SCHEMAS = sorted(path.stem for path in schema_folder().glob("*.yaml"))
OWN = {
    "csv": {"path": "my.csv", "schema": "toy"},
    "image_folder": {"path": "my_images", "class_names": ["a", "b"], "nominal_rows": 100},
}
GENERATED = ("toy", "weather", "wide", "font_digits")
IMAGES = {
    "digits", "mnist", "fashion_mnist", "cifar10", "cifar10_10k", "tiny_imagenet32", "pneumonia",
    "image_folder", "font_digits",
}  # fmt: skip


def _config(name):
    config = OmegaConf.load(conf_folder() / "dataset" / f"{name}.yaml")
    config.pop("defaults", None)
    return OmegaConf.merge(config, OWN.get(name, {}))


def _source(name):
    return instantiate(_config(name), _convert_="all")


def _schema(name):
    return load_schema(schema_folder() / f"{name}.yaml")


def test_the_data_sets_of_the_project_are_there():
    assert set(DATASETS) == {
        "adult", "census", "adult_subset", "pums_subset", "power_subset", "pums", "pums_users", "power",
        "power_hourly", "california", "compas", "german", "toy", "weather", "wide", "csv",
    } | IMAGES  # fmt: skip


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_is_built_and_states_its_public_schema_without_data(name, monkeypatch, tmp_path):
    monkeypatch.setenv("DPFORGE_CACHE", str(tmp_path / "cache"))
    source = _source(name)
    schema = source.public_schema()
    assert source.modality == schema.modality == ("image" if name in IMAGES else "table")
    assert schema.nominal_rows >= 1
    assert schema.target is None or schema.target in schema.names
    assert not schema.unconfirmed
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_built_from_configuration_nodes_equals_one_built_from_plain_values(name):
    config = _config(name)
    assert instantiate(config) == instantiate(config, _convert_="all")


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_value_of_a_shipped_schema_is_public_and_says_why(name):
    schema = _schema(name)
    assert not schema.unconfirmed
    assert not schema.private_columns
    for column in schema.columns:
        part = column.categories or column.bounds
        assert part is not None
        assert part.note, f"{name}.{column.name} does not say where its values are known from"


@pytest.mark.parametrize("name", [name for name in DATASETS if name not in (*GENERATED, *OWN)])
def test_every_file_of_a_data_set_is_pinned_by_a_checksum_and_described(name):
    source = _source(name)
    assert isinstance(source, TabularSource | ImageSource)
    assert source.public_benchmark
    for spec in source.file_specs().values():
        assert re.fullmatch("[0-9a-f]{64}", spec.sha256)
    assert {"title", "source", "licence"} <= set(source.about)


def test_adult_has_the_categories_of_its_codebook():
    schema = _schema("adult")
    sizes = {column.name: len(column.categories.values) for column in schema.columns if column.categories}
    assert sizes == {
        "workclass": 8, "education": 16, "marital_status": 7, "occupation": 14, "relationship": 6, "race": 5,
        "sex": 2, "native_country": 41, "income": 2,
    }  # fmt: skip
    assert [column.name for column in schema.columns if column.nullable] == [
        "workclass", "occupation", "native_country",
    ]  # fmt: skip
    assert schema.nominal_rows == 32561
    assert schema.column("capital_gain").special_values == (0, 99999)


def test_german_has_twenty_one_columns_and_the_category_counts_of_its_codebook():
    schema = _schema("german")
    sizes = [len(column.categories.values) for column in schema.columns if column.categories]
    assert len(schema.columns) == 21
    assert sizes == [4, 5, 11, 5, 5, 5, 3, 4, 3, 3, 4, 2, 2, 2]


def test_compas_reads_fourteen_columns_and_none_that_identifies_a_person():
    schema = _schema("compas")
    assert len(schema.columns) == 14
    assert not {"id", "name", "first", "last", "dob", "c_case_number", "r_case_number"} & set(schema.names)


@pytest.mark.parametrize("name", ["adult_subset", "pums_subset", "power_subset"])
def test_the_wide_columns_of_the_numeric_subsets_have_eight_to_thirteen_round_cells(name):
    for column in _schema(name).columns:
        if column.bins is not None:
            assert 8 <= len(column.bins.edges) - 1 + len(column.special_values) <= 13
        else:
            assert column.bounds.max - column.bounds.min < 20


def test_the_privacy_unit_of_the_user_table_is_not_a_generated_column():
    schema = _schema("pums_users")
    assert schema.unit.kind == "user"
    assert schema.unit.column == "pid"
    assert "pid" not in schema.names


@pytest.mark.parametrize("name", sorted(IMAGES - {*GENERATED, *OWN}))
def test_every_published_set_of_images_pins_the_decoded_images_of_each_part(name):
    source = _source(name)
    parts = {"train"} if name in ("digits", "tiny_imagenet32") else {"train", "holdout"}
    assert set(source.content) == parts
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in source.content.values())


@pytest.mark.parametrize(
    ("name", "rows", "shape", "classes"),
    [
        ("digits", 1438, (8, 8, 1), 10),
        ("mnist", 60000, (28, 28, 1), 10),
        ("fashion_mnist", 60000, (28, 28, 1), 10),
        ("cifar10", 50000, (32, 32, 3), 10),
        ("cifar10_10k", 10000, (32, 32, 3), 10),
        ("tiny_imagenet32", 20000, (32, 32, 3), 200),
        ("pneumonia", 3882, (28, 28, 1), 2),
        ("font_digits", 8000, (28, 28, 1), 10),
    ],
)
def test_the_public_schema_of_an_image_set_is_what_its_publisher_states(name, rows, shape, classes):
    schema = _source(name).public_schema()
    assert (schema.nominal_rows, schema.shape, schema.num_classes) == (rows, shape, classes)
    assert schema.classes_provenance == "public"


@pytest.mark.parametrize(
    ("name", "rows"), [("adult", 32561), ("census", 24421), ("pums", 800), ("toy", 1600)]
)
def test_the_nominal_rows_of_the_training_part_are_those_of_the_file_times_its_share(name, rows):
    schema = _source(name).public_schema()
    assert schema.nominal_rows == rows
    assert schema.rows.value == rows
