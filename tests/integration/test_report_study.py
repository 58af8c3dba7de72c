"""The report of a small study of real runs: what its files hold, and what a public one leaves out."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pandas as pd
import pytest
from whole_runs import certificate

from dpforge.errors import DataError, RunError
from dpforge.experiment.report.files import write_study
from dpforge.experiment.report.study_page import PICTURES
from dpforge.verify import compare as verify

pytestmark = pytest.mark.integration
SMOKE = ("experiment=smoke", "study=small", "model.steps=3")
QUICK = ("dataset=toy", "model=independent", "evaluation=quick", "logger=csv", "study=small")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Five finished runs and one that failed, made once."""
    from dpforge.cli.main import main
    from dpforge.experiment import pictures

    place = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(pictures, "draw", lambda *_: None)
        patch.setattr("sys.argv", ["dpforge"])
        for name in ("DPFORGE_CONF_DIGEST", "HYDRA_FULL_ERROR"):
            patch.setenv(name, "restored afterwards")
        jobs = [(*SMOKE, "seed=0"), (*SMOKE, "seed=1"), (*SMOKE, "seed=0", "privacy=none")]
        for words in [*jobs, (*QUICK, "seed=0"), (*QUICK, "seed=1")]:
            with pytest.raises(SystemExit):
                main(list(words))
    (finished,) = place.glob("outputs/small/dp_maf*eps3-seed0*")
    failed = finished.with_name(finished.name.replace("seed0", "seed9"))
    shutil.copytree(finished, failed)
    (failed / "config.yaml").write_text(
        (failed / "config.yaml").read_text().replace("\nseed: 0", "\nseed: 9")
    )
    failure = {"state": "failed", "stages": {}, "error": "the disk was full"}
    (failed / "status.json").write_text(json.dumps(failure))
    (failed / "certificate.json").unlink()
    return place / "outputs" / "small"


@pytest.fixture
def study(runs, tmp_path) -> Path:
    """A copy that a test may report on."""
    return Path(shutil.copytree(runs, tmp_path / "small"))


def text_of(folder: Path) -> str:
    return "\n".join(p.read_text() for p in sorted(folder.iterdir()) if p.suffix in (".html", ".csv", ".md"))


def test_the_report_holds_every_run_the_means_and_the_composed_epsilon(study):
    page = write_study(study)
    assert {path.name for path in page.parent.iterdir()} == {
        "index.html", "table.csv", "table.md", "runs.csv", *PICTURES,
    }  # fmt: skip
    frame = pd.read_csv(page.parent / "runs.csv")
    assert sorted(frame["state"]) == ["done"] * 5 + ["failed"]
    means = pd.read_csv(page.parent / "table.csv").set_index(["model", "private"])
    scores = frame[(frame["model"] == "independent")]["fidelity/tvd_2way"]
    row = means.loc[("independent", True)]
    assert row["fidelity/tvd_2way"] == pytest.approx(scores.mean())
    assert 3 < row["epsilon_composed"] < 6
    html = page.read_text()
    for words in ("the disk was full", "NOT DP", "further release", "Paired differences"):
        assert words in html


def test_the_page_fetches_nothing(study):
    html = write_study(study).read_text()
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert "https://" not in html
    assert html.count("data:image/png;base64,") >= len(PICTURES)


def test_certificates_name_the_report_among_the_places_with_private_values_and_still_verify(study):
    page = write_study(study)
    for path in study.glob("independent-*"):
        assert certificate(path)["tainted_sinks"]["report/ of the study"] == ["scores", "times"]
        assert "equal to the certificate" in verify(path)
    before = {path: path.read_bytes() for path in study.glob("*/ledger.jsonl")}
    write_study(study, out=page.parent)
    assert before == {path: path.read_bytes() for path in before}


def test_a_public_report_replaces_private_files_and_touches_no_run(study):
    folder = write_study(study).parent
    private = (
        pd.read_csv(folder / "runs.csv").filter(regex="^(fidelity|utility|floor|ceiling|seconds)").stack()
    )
    ledgers = {path: path.read_bytes() for path in study.glob("*/ledger.jsonl")}
    write_study(study, public=True)
    assert not list(folder.glob("*.png"))
    left = text_of(folder)
    assert "<img" not in left
    assert "the disk was full" not in left
    assert "Left out" in left
    assert not [value for value in private if value not in (0, 1) and repr(float(value)) in left]
    assert "fidelity/" not in left
    assert ledgers == {path: path.read_bytes() for path in ledgers}


def test_a_public_report_still_states_what_was_spent(study, tmp_path):
    html = write_study(study, public=True, out=tmp_path / "shown").read_text()
    assert "ε of all runs, toy" in html
    assert "dp_maf-toy-eps3-seed0" in html
    assert not (study / "report").exists()


def test_published_numbers_stand_beside_measured_ones(study, tmp_path):
    known = tmp_path / "known.csv"
    known.write_text(
        "dataset,model,epsilon,metric,value,tolerance,kind,source\n"
        "toy,independent,3,fidelity/tvd_2way,0.2,0.2,R,a paper\n"
        "toy,x,3,fidelity/tvd_2way,9,0,B,another paper\n"
    )
    html = write_study(study, expected=known).read_text()
    assert "a paper" in html
    assert "within" in html
    assert "better" in html


def test_nothing_is_written_if_the_published_numbers_are_wrong(study, tmp_path):
    (tmp_path / "known.csv").write_text("dataset\n")
    with pytest.raises(DataError, match=r"line 1"):
        write_study(study, expected=tmp_path / "known.csv")
    assert not (study / "report").exists()


def test_a_folder_without_runs_is_refused_and_left_empty(tmp_path):
    with pytest.raises(RunError, match=r"no readable run"):
        write_study(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_report_older_than_its_runs_is_no_run_of_the_next_report(study):
    write_study(study)
    first = pd.read_csv(study / "report" / "runs.csv")
    os.utime(study / "report", (time.time() - 100,) * 2)
    write_study(study)
    assert list(pd.read_csv(study / "report" / "runs.csv")["run"]) == list(first["run"])
