"""The report of one run: complete for its owner, silent in public, honest about its label."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from reported import INDEPENDENT, PRIVATE_PICTURES, make_run, small_picture
from whole_runs import certificate, snapshot

from dpforge import verify
from dpforge.cli.report import main as report
from dpforge.errors import RunError
from dpforge.experiment.report.page import Figure, Table, Text, render
from dpforge.experiment.report.run_page import run_page

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of the flow on toy data."""
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it that a test may change."""
    return shutil.copytree(finished, tmp_path / finished.name)


def blocks(page, kind):
    return [block for section in page.sections for block in section.blocks if isinstance(block, kind)]


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_the_command_writes_page_and_scores_and_prints_where(run, command):
    outcome = command(run, main=report)
    assert (outcome.code, outcome.out.strip()) == (0, str(run / "report" / "index.html"))
    assert {path.name for path in (run / "report").iterdir()} == {"index.html", "scores.csv", "scores.md"}
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    scores = pd.read_csv(run / "report" / "scores.csv").set_index("score")
    for name, row in scores.iterrows():
        assert row["value"] == pytest.approx(metrics[name]["value"], abs=1e-15)
        if f"floor/{name}" in metrics:
            assert row["floor"] == pytest.approx(metrics[f"floor/{name}"]["value"], abs=1e-15)
    assert len(scores) == sum(n.split("/")[0] in ("fidelity", "utility", "validity") for n in metrics)


def test_every_score_stands_on_the_page_with_floor_ceiling_and_normalised(run):
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    tables = [table for table in blocks(run_page(run, public=False), Table) if table.columns[0] == "score"]
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for table in tables for row in table.rows}
    for name, row in rows.items():
        assert row["value"] == metrics[name]["value"]
        for role in ("floor", "ceiling", "normalised"):
            if f"{role}/{name}" in metrics:
                assert row[role] == metrics[f"{role}/{name}"]["value"]
    assert {"fidelity/tvd_2way", "utility/tstr_auroc_hgb", "validity/schema_violations"} <= rows.keys()


def test_legacy_scores_stand_beside_their_corrections_with_a_warning(run):
    values = {"legacy/sra": 0.9, "floor/legacy/sra": 0.8}
    values |= {"fidelity/sra_tsts": 0.6, "ceiling/fidelity/sra_tsts": 0.7}

    def add(content):
        for name, value in values.items():
            content["metrics"][name] = {"value": value, "version": "v", "visibility": "private"}

    change(run / "metrics.json", add)
    page = run_page(run, public=False)
    (table,) = [table for table in blocks(page, Table) if table.title.startswith("Legacy")]
    assert list(table.rows) == [["legacy/sra", 0.9, 0.8, "fidelity/sra_tsts", 0.6, None, 0.7]]
    warned = [text for text in blocks(page, Text) if text.tone == "warning"]
    assert any("rank nothing" in paragraph for text in warned for paragraph in text.paragraphs)
    public = blocks(run_page(run, public=True), Table)
    assert not [table for table in public if table.title.startswith("Legacy")]


def test_the_guarantee_on_the_page_is_the_one_of_the_certificate(run):
    page = run_page(run, public=False)
    stated = certificate(run)
    assert page.badge == (f"ε = {stated['epsilon']:.3f} at δ = {stated['delta']:g}", "good")
    pieces = next(table for table in blocks(page, Table) if table.title == "Pieces of the plan")
    assert [row[0] for row in pieces.rows] == [piece["name"] for piece in stated["pieces"]]
    touched = next(table for table in blocks(page, Table) if table.title == "Accesses to the real rows")
    assert [row[1:3] for row in touched.rows] == [[piece["count"]] * 2 for piece in stated["pieces"]]


def test_a_private_report_shows_every_picture_of_the_run(run):
    shown = {figure.png for figure in blocks(run_page(run, public=False), Figure)}
    for number, name in enumerate(PRIVATE_PICTURES):
        small_picture(run / "plots" / f"{name}.png", shade=number / 20)
    now = {figure.png for figure in blocks(run_page(run, public=False), Figure)}
    assert len(now - shown) == len(PRIVATE_PICTURES)


def test_a_public_report_does_not_depend_on_anything_private(run):
    before, private_before = (render(run_page(run, public=public)) for public in (True, False))

    def other_numbers(content):
        for entry in content["metrics"].values():
            if entry["visibility"] == "private":
                entry["value"] = 0.123456
        content["rows"], content["notes"] = {"real": 777}, ["a secret remark"]

    change(run / "metrics.json", other_numbers)
    change(run / "status.json", lambda content: content["stages"]["fit"].update(seconds=777.0))
    change(run / "tables.json", lambda content: content["tables"].clear())
    curve = pd.read_csv(run / "metrics.csv")
    curve.assign(**{"private/train/loss": 777.0}).to_csv(run / "metrics.csv", index=False)
    for name in PRIVATE_PICTURES:
        small_picture(run / "plots" / f"{name}.png", shade=0.9)
    assert render(run_page(run, public=True)) == before
    assert render(run_page(run, public=False)) != private_before


def test_a_public_report_keeps_the_guarantee_and_the_released_columns_and_says_what_it_lacks(run):
    page = run_page(run, public=True)
    text = render(page)
    assert "left out is everything computed from real rows" in text
    assert page.badge[1] == "good"
    assert [figure.title for figure in blocks(page, Figure)] == [
        "ε after each part", "ε over training", "Released columns",
    ]  # fmt: skip
    titles = [table.title for table in blocks(page, Table)]
    assert "Pieces of the plan" in titles
    assert "Distance of marginals" not in titles


def test_a_picture_that_private_values_reached_is_not_public(run):
    def taint(content):
        content["tainted_sinks"]["plots/epsilon.png"] = ["plots/epsilon"]

    change(run / "certificate.json", taint)
    titles = [figure.title for figure in blocks(run_page(run, public=True), Figure)]
    assert "ε over training" not in titles


@pytest.mark.parametrize(
    ("words", "label"),
    [(("privacy=none",), "NOT DP"), (("privacy.rng=seeded", "privacy.seed=1"), "RESEARCH NOISE")],
)
def test_a_run_that_may_not_be_released_says_so_first_and_shows_no_rows_in_public(tmp_path, words, label):
    run = make_run(tmp_path, *words, base=INDEPENDENT)
    for public in (True, False):
        page = run_page(run, public=public)
        assert page.badge[0] == label
        assert page.sections[0].blocks[0].paragraphs[0].startswith(label)
    assert not [f for f in blocks(run_page(run, public=True), Figure) if f.title == "Released columns"]


def test_a_private_report_is_recorded_as_a_reader_of_private_values(run, command):
    command(run, main=report)
    stated = certificate(run)
    assert {"scores", "pictures"} <= set(stated["tainted_sinks"]["report/"])
    assert "equal to the certificate" in verify.compare(run)
    before = {name: (run / name).read_bytes() for name in ("ledger.jsonl", "certificate.json")}
    command(run, main=report)
    assert before == {name: (run / name).read_bytes() for name in before}


def test_a_public_report_elsewhere_changes_nothing_in_the_run_folder(run, command, tmp_path):
    before = snapshot(run)
    outcome = command(run, "--public", "--out", tmp_path / "elsewhere", main=report)
    assert outcome.code == 0
    assert (tmp_path / "elsewhere" / "index.html").is_file()
    assert snapshot(run) == before


def test_a_report_does_not_vouch_for_a_sample_that_was_changed(run, command):
    path = run / "samples" / "preview.csv"
    path.write_text(path.read_text() + "\n")
    command(run, main=report)
    with pytest.raises(verify.Wrong, match=r"preview\.csv"):
        verify.compare(run)


@pytest.mark.parametrize("state", ["running", "failed"])
def test_an_unfinished_run_is_refused_with_its_state_and_how_to_go_on(run, command, state):
    change(run / "status.json", lambda content: content.update(state=state))
    outcome = command(run, main=report)
    assert outcome.code == 2
    assert state in outcome.err
    assert "fit, sample, evaluate" in outcome.err
    assert "dpforge experiment=smoke" in outcome.err


def test_a_run_without_its_scores_is_refused_by_their_name(run, command):
    (run / "metrics.json").unlink()
    outcome = command(run, main=report)
    assert outcome.code == 2
    assert "metrics.json" in outcome.err


def test_what_is_no_run_is_refused(run, command, tmp_path):
    (tmp_path / "empty").mkdir()
    missing, empty = command(tmp_path / "none", main=report), command(tmp_path / "empty", main=report)
    assert missing.code == empty.code == 2
    assert "not a folder" in missing.err
    assert "no run folder" in empty.err
    with pytest.raises(RunError, match="not a run folder"):
        run_page(tmp_path / "empty", public=False)


def test_published_numbers_are_for_studies(run, command, tmp_path):
    (tmp_path / "expected.csv").write_text("")
    outcome = command(run, "--expected", tmp_path / "expected.csv", main=report)
    assert outcome.code == 2
    assert "is one run" in outcome.err


def test_one_bad_folder_does_not_keep_the_others_from_their_report(run, command, tmp_path):
    (tmp_path / "empty").mkdir()
    outcome = command(tmp_path / "empty", run, "--public", main=report)
    assert outcome.code == 2
    assert (run / "report" / "index.html").is_file()


def test_the_help_imports_no_heavy_library():
    code = (
        "import sys\nfrom dpforge.cli.report import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'pandas', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search("--public", done.stdout)
