"""Frontiers and papers at a small size: one command each, every generator on the same data, one report."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf

from dpforge.cli.report import main as report
from dpforge.configuration.places import experiments_dir
from dpforge.errors import ConfigError, DataError

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import papers

pytestmark = pytest.mark.integration
GIVEN_NOISE = ("privacy.target_epsilon=null", "privacy.noise_multiplier=2")  # nothing to calibrate
TABULAR = ("frontier=tabular_small", *GIVEN_NOISE, "evaluation.metrics=[tvd_2way]")
IMAGE = (
    "frontier=image_small",
    *GIVEN_NOISE,
    "seed=0",
    "evaluation.classifiers=[lr]",
    "evaluation.metrics=[tstr]",
)


def test_the_small_table_frontier_compares_every_generator_on_the_same_rows(command, place):
    outcome = command(*TABULAR)
    assert outcome.code == 0, outcome.said
    assert command(place / "outputs" / "frontier-tabular_small", main=report).code == 0
    table = _table(place / "outputs" / "frontier-tabular_small")
    full = OmegaConf.load(experiments_dir() / "frontier" / "tabular.yaml")
    assert set(table.index) == set(full.hydra.sweeper.params.model.split(","))
    assert table["fidelity/tvd_2way"]["aim"] < table["fidelity/tvd_2way"]["independent"]


def test_the_small_image_frontier_compares_every_image_generator_on_the_same_images(command, place):
    outcome = command(*IMAGE)
    assert outcome.code == 0, outcome.said
    assert command(place / "outputs" / "frontier-image_small", main=report).code == 0
    table = _table(place / "outputs" / "frontier-image_small")
    assert set(table.index) == {"dpwgan", "private_evolution", "dp_imgsyn"}
    assert (table["utility/accuracy_lr"] > 0.2).all()  # a tenth is a guess; one protocol, so one column
    assert "accuracy, LR" in (place / "outputs" / "frontier-image_small" / "report" / "table.md").read_text()


def test_the_papers_that_run_anywhere_exist_and_every_small_variant_is_among_them():
    known = papers.papers()
    assert set(papers.SMALL) <= set(known)
    assert {name for name in known if name.endswith("_small")} <= set(papers.SMALL)
    for name in papers.SMALL:
        source = name.split("/")[0]
        assert (experiments_dir() / "expected" / f"{papers.EXPECTED.get(source, source)}.csv").is_file()


def test_a_misspelt_paper_is_answered_with_the_closest_one(capsys):
    with pytest.raises(SystemExit) as stop:
        papers.main(["dp_maf/adlut"])
    assert stop.value.code == 2
    assert "Did you mean 'dp_maf/adult'?" in capsys.readouterr().err


def test_a_paper_whose_data_are_not_at_hand_is_left_out_and_said(monkeypatch, place, capsys):
    def nowhere(config):
        raise DataError("data set 'pums_subset' is found nowhere.")

    monkeypatch.setattr(papers, "build", nowhere)
    assert papers.main(["dp_maf/pums"]) == 0
    said = capsys.readouterr()
    assert "data not at hand" in said.out
    assert "found nowhere" in said.err
    assert not (place / "outputs").exists()


def test_a_paper_that_needs_own_files_says_which_setting_names_them(place):
    with pytest.raises(ConfigError, match=r"dataset\.path"):
        papers.main(["private_evolution/cat_cookie"])


def _table(study: Path) -> pd.DataFrame:
    return pd.read_csv(study / "report" / "table.csv", index_col="model")
