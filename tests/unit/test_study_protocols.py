"""Scores of different protocols never stand in one column of a study."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from study_folders import TVD, write_run

from dpforge.experiment.report.study_page import page_of
from dpforge.experiment.study import read_study, table
from dpforge.experiment.study_cells import aggregate, comparisons, metrics_of
from dpforge.experiment.study_metrics import best, column_names, of_one_protocol, shown_name

CNN = "utility/accuracy_cnn"
ONE, OTHER = "aaaaaaaa" * 8, "bbbbbbbb" * 8


def run_with(folder: Path, protocol: str, *, value: float = 0.9, **options) -> None:
    path = write_run(folder, scores={CNN: value, TVD: 0.1}, **options) / "metrics.json"
    content = json.loads(path.read_text())
    content["metrics"][CNN]["protocol_id"] = protocol
    path.write_text(json.dumps(content))


def texts(page) -> str:
    return " ".join(str(block) for section in page.sections for block in section.blocks)


def test_runs_of_one_protocol_share_a_column_under_the_plain_name(tmp_path):
    run_with(tmp_path, ONE, seed=0, value=0.8)
    run_with(tmp_path, ONE, seed=1, value=0.9)
    study = read_study(tmp_path)
    assert list(aggregate(study)[CNN]) == [pytest.approx(0.85)]
    assert not any(map(of_one_protocol, metrics_of(study)))
    assert "different protocols" not in texts(page_of(study, {}, (), public=False))


def test_another_protocol_gets_a_column_of_its_own_and_neither_keeps_the_plain_name(tmp_path):
    run_with(tmp_path, ONE, seed=0, value=0.8)
    run_with(tmp_path, OTHER, seed=1, value=0.9)
    study = read_study(tmp_path)
    found = table(study)
    assert CNN not in found
    names = [f"{CNN} (protocol aaaaaaaa)", f"{CNN} (protocol bbbbbbbb)"]
    for name, seed, value in zip(names, (0, 1), (0.8, 0.9), strict=True):
        column = found.set_index("seed")[name].dropna()
        assert column.to_dict() == {seed: value}
    assert TVD in found
    assert "different protocols" in texts(page_of(study, {}, (), public=False))


def test_generators_scored_by_different_protocols_are_not_compared(tmp_path):
    for seed in range(2):
        run_with(tmp_path, ONE, seed=seed, model="dp_maf")
        run_with(tmp_path, OTHER, seed=seed, model="aim")
    study = read_study(tmp_path)
    rows = comparisons(study, metrics_of(study))
    assert set(rows["metric"]) == {TVD, "privacy/delta"}


def test_other_versions_of_a_metric_are_other_protocols(tmp_path):
    for seed, version in enumerate(("1", "2")):
        path = write_run(tmp_path, seed=seed) / "metrics.json"
        path.write_text(path.read_text().replace('"version": "1"', f'"version": "{version}"'))
    assert TVD not in table(read_study(tmp_path))


def test_another_data_set_is_no_other_protocol_of_this_one():
    places = [("mnist", CNN, ONE), ("cifar10", CNN, OTHER)]
    assert set(column_names(places).values()) == {CNN}


def test_a_column_of_one_protocol_keeps_name_and_best_value_of_its_metric():
    name = f"{CNN} (protocol aaaaaaaa)"
    assert shown_name(name) == "accuracy, CNN (protocol aaaaaaaa)"
    assert best(name) == best(CNN)
    assert shown_name(CNN) == "accuracy, CNN"
