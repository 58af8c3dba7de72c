"""The page: what it holds, what it never fetches, and how cells are shown and sorted."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure as Canvas
from scipy import optimize, stats

from dpforge.errors import RunError
from dpforge.evaluation import Results
from dpforge.experiment.report.composition import composition_blocks, parts_of
from dpforge.experiment.report.heatmap import pair_blocks
from dpforge.experiment.report.page import (
    Figure,
    Page,
    Section,
    Table,
    Text,
    Tiles,
    render,
    shown_number,
    write_page,
)
from dpforge.experiment.report.wording import FAMILIES, OTHER, family_of
from dpforge.experiment.rundir import RunDir
from dpforge.experiment.score_tables import read_tables, write_tables
from dpforge.privacy.events import Gaussian, NonPrivate, PoissonSampled
from dpforge.privacy.plan import Piece, Plan


class Reader(HTMLParser):
    """Collects addresses, cells (text, sort key) and pictures of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses, self.cells, self.images, self.tags = [], [], [], []
        self._cell = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.addresses += [found[name] for name in ("src", "href", "srcset", "action") if name in found]
        if tag == "img":
            self.images.append(found)
        if tag == "td":
            self._cell = found["data-value"]

    def handle_data(self, data):
        if self._cell is not None:
            self.cells.append((data, self._cell))
            self._cell = None


def png() -> bytes:
    buffer = io.BytesIO()
    Canvas(figsize=(2, 1), dpi=50).savefig(buffer)
    return buffer.getvalue()


def page(*blocks, title="A title", badge=("", "plain")) -> Page:
    return Page(title, "A subtitle", [Section("First part", blocks)], badge)


def cells(*rows, columns=("name", "value"), digits=3):
    return Reader(render(page(Table("t", columns, rows, digits=digits)))).cells


def test_no_address_of_a_page_leaves_it():
    text = render(page(Figure("f", png()), Table("t", ["a"], [[1]]), Text(["https://example.org/x"])))
    addresses = Reader(text).addresses
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)


def test_the_policy_admits_exactly_the_style_and_the_script_of_the_page():
    text = render(page(Text(["x"])))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1].replace("&#39;", "'")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag in ("style", "script"):
        (source,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"


def test_markup_in_any_text_stays_text():
    bad = "<script>alert(1)</script>"
    blocks = (
        Text([bad]), Tiles([(bad, bad, bad)]), Table(bad, [bad], [[bad]], bad), Figure(bad, png(), bad, bad),
    )  # fmt: skip
    text = render(Page(bad, bad, [Section(bad, blocks)], (bad, "bad")))
    assert bad not in text
    assert Reader(text).tags.count("script") == 1


def test_a_picture_keeps_its_bytes_and_states_its_size_and_what_it_shows():
    (image,) = Reader(render(page(Figure("Title", png(), alt="A grey box")))).images
    assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == png()
    assert (image["width"], image["height"], image["alt"]) == ("100", "50", "A grey box")


def test_what_is_no_png_is_refused():
    with pytest.raises(RunError, match="no PNG"):
        render(page(Figure("f", b"GIF89a" + bytes(40))))


def test_a_row_with_a_wrong_number_of_cells_is_refused():
    with pytest.raises(RunError, match="3 cells, expected 2"):
        cells(["a", 1, 2])


def test_numbers_are_rounded_for_the_eye_and_exact_for_sorting():
    assert cells(["a", 1 / 3], ["b", math.inf]) == [
        ("a", "a"),
        ("0.333", repr(1 / 3)),
        ("b", "b"),
        ("∞", "Infinity"),
    ]


@pytest.mark.parametrize("missing", [None, math.nan, ""])
def test_a_missing_cell_has_no_sort_key(missing):
    assert cells(["a", 1.0], ["b", missing])[-1] == ("–", "")


def test_a_text_that_begins_with_a_number_sorts_by_it_if_its_whole_column_does():
    assert [key for _, key in cells(["a", "0.91 ± 0.02"], ["b", "−1,200"], ["c", 3])][1::2] == [
        "0.91",
        "-1200",
        "3.0",
    ]
    assert [key for _, key in cells(["a", "0.91 ± 0.02"], ["b", "unknown"])][1::2] == [
        "0.91 ± 0.02",
        "unknown",
    ]
    assert cells(["01-age", 1])[0] == ("01-age", "01-age")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0.000"),
        (-0.25, "−0.250"),
        (1e-5, "1.0e−05"),
        (12345.678, "12,345.678"),
        (3_000_000, "3,000,000"),
    ],
)
def test_a_number_is_shown_with_as_many_digits_as_help(value, shown):
    assert shown_number(value) == shown


def test_a_page_is_written_whole_into_a_folder_it_makes(tmp_path):
    path = tmp_path / "new" / "index.html"
    write_page(page(Text(["x"])), path)
    assert path.read_text(encoding="utf-8") == render(page(Text(["x"])))
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]


def test_a_report_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="--out"):
        write_page(page(Text(["x"])), tmp_path / "file" / "report" / "index.html")


def plan(*pieces, target=None) -> Plan:
    return Plan(pieces, 1e-5, target_epsilon=target)


def gaussian_epsilon(mu: float, delta: float) -> float:
    def excess(epsilon: float) -> float:
        right = math.exp(epsilon) * stats.norm.cdf(-epsilon / mu - mu / 2)
        return float(stats.norm.cdf(-epsilon / mu + mu / 2) - right - delta)

    return optimize.brentq(excess, 1e-6, 200)


def test_each_part_alone_and_all_together_have_the_epsilon_of_the_closed_form():
    parts = parts_of(
        plan(
            Piece("one/a", "gaussian", Gaussian(4.0), 1, 1.0, "r"),
            Piece("one/b", "gaussian", Gaussian(4.0), 2, 1.0, "r"),
            Piece("two", "gaussian", Gaussian(3.0), 1, 1.0, "r"),
        )
    )
    assert [part.name for part in parts] == ["one", "two"]
    assert parts[0].alone == pytest.approx(gaussian_epsilon(math.sqrt(3) / 4, 1e-5), abs=2e-3)
    assert parts[1].alone == pytest.approx(gaussian_epsilon(1 / 3, 1e-5), abs=2e-3)
    assert parts[0].after == parts[1].before == parts[0].alone
    assert parts[1].after == pytest.approx(gaussian_epsilon(math.sqrt(3 / 16 + 1 / 9), 1e-5), abs=2e-3)


def test_the_words_compare_the_sum_of_the_parts_with_their_composition():
    event = PoissonSampled(0.1, Gaussian(2.0))
    made = plan(
        Piece("first", "gaussian", Gaussian(3.0), 1, 1.0, "r"), Piece("train", "dp_sgd", event, 5, 1.0, "r")
    )
    blocks = composition_blocks(made.to_json())
    (words,) = [block.paragraphs[0] for block in blocks if isinstance(block, Text)]
    added = sum(part.alone for part in parts_of(made))
    assert f"{added:.3f}" in words
    assert f"{made.epsilon():.3f}" in words
    assert added > made.epsilon()


def test_a_plan_without_noise_shows_no_epsilon_and_says_so():
    blocks = composition_blocks(plan(Piece("train", "none", NonPrivate(), 1, 1.0, "r")).to_json())
    assert not [block for block in blocks if isinstance(block, Figure)]
    assert [block.tone for block in blocks if isinstance(block, Text)] == ["warning"]
    assert ("∞", "Infinity") in Reader(render(page(*blocks))).cells


def results(**tables: pd.DataFrame) -> Results:
    return Results({}, {}, [], tables=tables)


def pairs() -> pd.DataFrame:
    names = [("a", "b", 0.1), ("a", "c", 0.4), ("b", "c", 0.2)]
    frame = pd.DataFrame(names, columns=["first", "second", "score"])
    return frame.assign(floor=0.5, ceiling=np.nan, noise=np.float64(0.01))


def test_tables_of_single_pairs_survive_the_run_folder(tmp_path):
    names = write_tables(RunDir(tmp_path), results(pairs=pairs(), marginals_2way=pairs()))
    assert names == ["tables/pairs"]
    read = read_tables(RunDir(tmp_path))["pairs"]
    pd.testing.assert_frame_equal(read.drop(columns="ceiling"), pairs().drop(columns="ceiling"))
    assert read["ceiling"].isna().all()


def test_a_damaged_table_file_is_a_clear_error_and_a_missing_one_is_none(tmp_path):
    assert read_tables(RunDir(tmp_path)) == {}
    (tmp_path / "tables.json").write_text('{"tables": {"pairs": {"rows": 3}}}')
    with pytest.raises(RunError, match="dpforge-evaluate"):
        read_tables(RunDir(tmp_path))


def test_pairs_are_listed_worst_first():
    heatmap, table = pair_blocks({"pairs": pairs()}, ["a", "b", "c"])
    assert "a and c" in heatmap.alt
    assert [row[:3] for row in table.rows] == [["a", "c", 0.4], ["b", "c", 0.2], ["a", "b", 0.1]]


def test_every_score_of_the_suite_belongs_to_one_family():
    names = (
        "utility/tstr_auroc_lr", "fidelity/tvd_3way", "fidelity/accuracy_overall", "fidelity/correlation_mae",
        "fidelity/c2st_auc", "fidelity/sra_tsts", "fidelity/wasserstein_ratio_1d", "fidelity/pmse_z_main",
        "fidelity/range_coverage", "fidelity/category_mass", "fidelity/log_likelihood",
        "validity/duplicate_share", "hint/dcr_share", "attack/domias_auc",
    )  # fmt: skip
    for name in names:
        assert len([family for family in FAMILIES if name.startswith(family.prefixes)]) == 1
    assert family_of("fidelity/of_tomorrow") is OTHER
