"""Published numbers: what a file of them must look like, and when a measured mean meets one."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_folders import TVD, write_run

from dpforge.errors import DataError
from dpforge.experiment.report.expected import COLUMNS, compare, read_expected, remarks_of
from dpforge.experiment.report.frontier import best_lines, lines_of, spread_out
from dpforge.experiment.report.published import published_blocks
from dpforge.experiment.study import read_study
from dpforge.experiment.study_cells import cells
from dpforge.experiment.study_metrics import best, direction, shortfall, shown_name

SHIPPED = sorted((Path(__file__).parents[2] / "experiments" / "expected").glob("*.csv"))
DATASETS = Path(__file__).parents[2] / "conf" / "dataset"
HEAD = ",".join(COLUMNS)


def expect(tmp_path, *lines: str, head: str = HEAD):
    path = tmp_path / "expected.csv"
    path.write_text("\n".join([head, *lines]), encoding="utf-8")
    return read_expected(path)


def verdicts(study: Path, tmp_path: Path, *lines: str) -> list[str]:
    return list(compare(read_study(study), expect(tmp_path, *lines))["verdict"])


@pytest.fixture
def study(tmp_path) -> Path:
    """Mean 2-way TVD .11 at epsilon 1, .05 at 3, .03 without privacy."""
    for seed in (0, 1, 2):
        write_run(tmp_path / "s", seed=seed, scores={TVD: 0.10 + 0.01 * seed})
        write_run(tmp_path / "s", seed=seed, epsilon=3.0, scores={TVD: 0.05})
        write_run(tmp_path / "s", seed=seed, epsilon=None, scores={TVD: 0.03})
    return tmp_path / "s"


def test_comments_and_empty_lines_are_skipped_and_lines_are_counted(tmp_path):
    (entry,) = expect(tmp_path, "", "# a remark, with commas", f"toy,,,{TVD},0.1,,O,'a'")
    assert (entry.line, entry.epsilon, entry.tolerance) == (4, None, 0.0)


def test_columns_come_in_any_order(tmp_path):
    (entry,) = expect(
        tmp_path, "O,s,0.1,0,1,m,d," + TVD, head="kind,source,value,tolerance,epsilon,model,dataset,metric"
    )
    assert (entry.value, entry.epsilon, entry.model, entry.metric) == (0.1, 1.0, "m", TVD)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"toy,m,1,{TVD},abc,0.1,O,s", "line 2: value 'abc', expected a number"),
        (f"toy,m,-1,{TVD},1,0.1,O,s", "line 2: epsilon '-1', expected a number of at least 0"),
        (f"toy,m,1,{TVD},1,-0.1,O,s", "line 2: tolerance '-0.1'"),
        (f"toy,m,1,{TVD},inf,0.1,O,s", "line 2: value 'inf'"),
        (f"toy,m,1,{TVD},1,0.1,X,s", "line 2: kind 'X', expected one of R, B, O"),
        (f"toy,m,1,{TVD},1,0.1,O,", "line 2: 'source' is empty"),
        (f"toy,m,1,{TVD},1,0.1,O,a,b", "line 2: 9 cells, expected 8"),
        ("toy,m,1,legacy/sra,1,0.1,B,s", "line 2: 'legacy/sra' ranks nothing"),
    ],
)
def test_a_wrong_line_is_refused_by_its_number(tmp_path, line, words):
    with pytest.raises(DataError, match=words.replace("(", r"\(")):
        expect(tmp_path, line)


def test_an_unknown_column_is_named_with_the_one_that_was_meant(tmp_path):
    with pytest.raises(DataError, match=r"unknown column 'tolerence'\. Did you mean 'tolerance'"):
        expect(tmp_path, head=HEAD.replace("tolerance", "tolerence"))


@pytest.mark.parametrize("content", [None, "", "# only a remark\n", "dataset,model\n", HEAD + ",model\n"])
def test_a_file_without_the_columns_is_refused(tmp_path, content):
    path = tmp_path / "x.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=r"x\.csv"):
        read_expected(path)


def test_a_reproduction_is_within_its_tolerance_or_outside(study, tmp_path):
    line = f"toy,dp_maf,1,{TVD},{{}},0.005,R,s"
    assert verdicts(study, tmp_path, line.format(0.115), line.format(0.1151)) == ["within", "outside"]


def test_a_reproduction_needs_the_same_model_data_and_epsilon(study, tmp_path):
    others = [
        f"toy,mst,1,{TVD},0.11,1,R,s",
        f"adult,dp_maf,1,{TVD},0.11,1,R,s",
        f"toy,dp_maf,2,{TVD},0.11,1,R,s",
    ]
    assert verdicts(study, tmp_path, *others) == ["not measured"] * 3


def test_an_unknown_epsilon_meets_every_budget_and_inf_only_runs_without_privacy(study, tmp_path):
    frame = compare(
        read_study(study), expect(tmp_path, f"toy,dp_maf,,{TVD},0,1,R,s", f"toy,dp_maf,inf,{TVD},0,1,R,s")
    )
    assert list(frame["epsilon"]) == [1.0, 3.0, math.inf, math.inf]
    assert list(frame["mean"]) == pytest.approx([0.11, 0.05, 0.03, 0.03])


def test_a_number_to_beat_meets_the_largest_epsilon_that_is_no_larger(study, tmp_path):
    frame = compare(
        read_study(study), expect(tmp_path, f"toy,mst,2.96,{TVD},0.06,0,B,s", f"toy,mst,2,{TVD},0.06,0,B,s")
    )
    assert list(frame["epsilon"]) == [3.0, 1.0]
    assert list(frame["verdict"]) == ["better", "worse"]


def test_a_budget_below_all_of_ours_is_not_met_by_spending_more(study, tmp_path):
    assert verdicts(study, tmp_path, f"toy,mst,0.5,{TVD},0.9,0,B,s") == ["not measured"]


@pytest.mark.parametrize(
    ("metric", "measured", "published", "verdict"),
    [
        ("utility/tstr_auroc_hgb", 0.9, 0.8, "better"),
        ("fidelity/wasserstein_ratio_1d", 1.2, 0.5, "better"),
        ("fidelity/wasserstein_ratio_1d", 5.0, 4.0, "worse"),
        ("fidelity/c2st_auc", 0.45, 0.58, "better"),
        ("fidelity/log_likelihood", -3.0, -2.0, "worse"),
        ("fidelity/correlation_mae", 0.021, 0.02, "within"),
    ],
)
def test_better_is_nearer_to_what_the_metric_calls_best(tmp_path, metric, measured, published, verdict):
    write_run(tmp_path / "s", scores={metric: measured})
    assert verdicts(tmp_path / "s", tmp_path, f"toy,x,1,{metric},{published},0.002,B,s") == [verdict]


def test_floors_and_ceilings_have_expectations_of_their_own(study, tmp_path):
    lines = [f"toy,,1,floor/{TVD},0.4,0.001,O,s", f"toy,,1,ceiling/{TVD},0.4,0.001,O,s"]
    assert verdicts(study, tmp_path, *lines) == ["within", "outside"]


def test_a_public_report_gives_no_verdict_on_private_scores(study, tmp_path):
    known = expect(tmp_path, f"toy,dp_maf,1,{TVD},0.11,0.005,R,publisher")
    shown = repr(published_blocks(read_study(study).public(), known, public=True))
    assert "publisher" not in shown
    assert "publisher" in repr(published_blocks(read_study(study), known, public=False))


def test_legacy_numbers_never_stand_without_the_words_that_they_rank_nothing(tmp_path):
    write_run(tmp_path / "s", scores={"legacy/sra": 0.6})
    known = expect(tmp_path, "toy,dp_maf,,legacy/sra,0.6,0.005,R,s")
    assert "rank nothing" in repr(published_blocks(read_study(tmp_path / "s"), known, public=False))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_speak_of_data_sets_and_metrics_that_exist(path):
    # Published on data that a user must bring, through dataset=image_folder.
    brought = {"camelyon17", "cat_cookie", "cat_doudou", "celeba", "celeba_gender", "celeba_hair"}
    brought |= {"cifar100", "eurosat"}
    for entry in read_expected(path):
        assert entry.dataset in brought or (DATASETS / f"{entry.dataset}.yaml").is_file()
        name, _ = entry.part
        assert shown_name(name) != name, f"line {entry.line}"
        assert name.startswith("legacy/") == math.isnan(best(name))


def test_the_files_of_published_numbers_are_there():
    assert {path.stem for path in SHIPPED} >= {"dp_maf", "mostly_census"}


def test_directions_say_what_best_means():
    assert (direction("utility/tstr_auroc_lr"), direction("legacy/sra")) == ("1 is best", "ranks nothing")
    assert shortfall("fidelity/accuracy_overall", 0.9) < shortfall("fidelity/accuracy_overall", 0.8)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_labels_are_moved_apart_in_their_order(places):
    moved = spread_out(places, 0.1)
    order = sorted(range(len(places)), key=lambda i: places[i])
    gaps = [moved[b] - moved[a] for a, b in itertools.pairwise(order)]
    assert all(gap >= 0.1 - 1e-9 for gap in gaps)
    assert sum(moved) == pytest.approx(sum(places), abs=1e-9)


def test_lines_go_over_epsilon_with_runs_without_privacy_last(study):
    (line,) = lines_of(cells(read_study(study)), TVD)
    assert line.budgets == (1.0, 3.0, math.inf)
    assert [score.n for score in line.scores] == [3, 3, 3]


def test_of_too_many_lines_the_best_are_drawn(tmp_path):
    for width in range(5):
        write_run(tmp_path, width=width, scores={TVD: 0.1 * width})
    kept = best_lines(lines_of(cells(read_study(tmp_path)), TVD), TVD, most=2)
    assert [line.generator for line in kept] == ["dp_maf (width=0)", "dp_maf (width=1)"]


def test_the_difference_is_measured_minus_published(study, tmp_path):
    frame = compare(
        read_study(study), expect(tmp_path, f"toy,dp_maf,1,{TVD},0.15,0.1,R,s", f"toy,x,1,{TVD},1,0,R,s")
    )
    assert frame["difference"].iloc[0] == pytest.approx(0.11 - 0.15)
    assert math.isnan(frame["difference"].iloc[1])


def test_what_a_file_says_of_its_numbers_stands_beside_them(study, tmp_path):
    lines = (
        "# Accuracies are those",
        "",
        "# of the best epoch.",
        HEAD,
        f"toy,dp_maf,1,{TVD},0.1,0,R,s",
        "# later",
    )
    (tmp_path / "e.csv").write_text("\n".join(lines))
    remarks = remarks_of(tmp_path / "e.csv")
    assert remarks == ("Accuracies are those", "of the best epoch.")
    found = published_blocks(
        read_study(study), read_expected(tmp_path / "e.csv"), public=False, remarks=remarks
    )
    assert "Accuracies are those of the best epoch." in str(found)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_file_says_why_ours_may_differ(path):
    assert "Why ours may differ:" in " ".join(remarks_of(path))
