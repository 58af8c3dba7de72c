from __future__ import annotations

import re
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import StepPatch
from scipy import stats

from dpforge.data.schema import Bins, Bounds, Categories, Column, Schema
from dpforge.data.table import conform
from dpforge.errors import DataError, RunError
from dpforge.experiment import plots, plots_style
from dpforge.experiment.plots_columns import Bars, _fold, _root_ticks

COUNTRIES = tuple(f"country-{i}" for i in range(30))
SCHEMA = Schema(
    name="toy",
    nominal_rows=500,
    columns=(
        Column("sex", "categorical", categories=Categories(("F", "M"))),
        Column("country $x_1$", "categorical", categories=Categories(COUNTRIES)),
        Column("age", "integer", Bounds(17, 90), units="years", nullable=True),
        Column("gain", "integer", Bounds(0, 99999), bins=Bins(log_width=16), special_values=(0.0,)),
        Column("power/kW", "numeric", Bounds(-3.0, 3.0), units="kW"),
        Column("seen", "datetime", Bounds("2020-01-01", "2021-12-31"), resolution="day"),
    ),
)


def table(seed: int, rows: int = 500) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    days = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 700, rows), unit="D")
    frame = pd.DataFrame(
        {
            "sex": rng.choice(["F", "M"], rows, p=[0.3, 0.7]),
            "country $x_1$": rng.choice(COUNTRIES, rows, p=stats.zipfian(2.0, 30).pmf(np.arange(1, 31))),
            "age": pd.array(rng.integers(17, 91, rows), dtype="Int64"),
            "gain": np.where(rng.random(rows) < 0.9, 0, rng.integers(1, 99999, rows)),
            "power/kW": rng.normal(0, 1, rows).clip(-3, 3),
            "seen": days.astype("datetime64[s]"),
        }
    )
    frame.loc[:9, "age"] = pd.NA
    return conform(frame, SCHEMA)


@pytest.fixture
def drawn(monkeypatch):
    """The figures by file name; each is still written."""
    figures = {}
    write = plots_style._write

    def keep(figure, path):
        write(figure, path)
        figures[path.name] = figure

    monkeypatch.setattr(plots_style, "_write", keep)
    return figures


@pytest.fixture(scope="module")
def columns(tmp_path_factory):
    """The folder and the figures of 500 real rows against 200 synthetic ones."""
    folder, figures = tmp_path_factory.mktemp("plots"), {}
    write = plots_style._write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots_style, "_write", lambda f, path: (write(f, path), figures.update({path.name: f})))
        plots.histograms(table(0), table(1, 200), SCHEMA, folder)
    return folder, figures


def texts(figure) -> str:
    found = figure.findobj(mpl.text.Text)
    return "\n".join(text.get_text() for text in found if text.get_visible())


def is_png(path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


def test_every_column_and_an_overview_become_a_png(columns):
    folder, _ = columns
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "01-sex.png",
        "02-country_x_1_.png",
        "03-age.png",
        "04-gain.png",
        "05-power_kW.png",
        "06-seen.png",
        "overview.png",
    ]
    assert all(is_png(folder / name) for name in names)


def test_category_bars_are_the_shares_of_each_table_normalised_separately(columns):
    real, synthetic = table(0), table(1, 200)
    (axes,) = columns[1]["01-sex.png"].axes
    widths = [bar.get_width() for bar in axes.patches]
    shares = [float((frame["sex"] == value).mean()) for frame in (real, synthetic) for value in ("F", "M")]
    assert widths == pytest.approx(shares)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["F", "M"]
    difference = abs(shares[0] - shares[2])
    assert f"TVD {difference:.3f}" in axes.get_title(loc="left")


def test_twenty_levels_and_more_are_folded_into_other_and_keep_their_mass(columns):
    (axes,) = columns[1]["02-country_x_1_.png"].axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert len(labels) == 20
    assert re.fullmatch(r"other \(\d+ levels\)", labels[-1])
    assert sum(bar.get_width() for bar in axes.patches) == pytest.approx(2.0)
    assert r"country \$x_1\$" in axes.get_ylabel()


def test_folding_keeps_the_largest_levels_in_order():
    bars = Bars(("a", "b", "c", "d"), (np.array([0.1, 0.5, 0.3, 0.1]), np.array([0.4, 0.3, 0.2, 0.1])))
    folded = _fold(bars, 3)
    assert folded.labels == ("b", "c", "other (2 levels)")
    assert folded.shares[0].tolist() == pytest.approx([0.5, 0.3, 0.2])
    assert folded.shares[1].tolist() == pytest.approx([0.3, 0.2, 0.5])
    assert _fold(bars, 5) is bars


def test_a_discrete_column_is_drawn_value_by_value_with_missing_cells_beside_it(columns):
    real = table(0)
    left, right = columns[1]["03-age.png"].axes
    assert left.patches[0].get_height() == pytest.approx(10 / 500)
    steps = [patch for patch in right.patches if isinstance(patch, StepPatch)]
    heights, edges, _ = steps[0].get_data()
    expected = [float((real["age"] == value).sum()) / 500 for value in range(17, 91)]
    assert heights.tolist() == pytest.approx(expected)
    assert edges.tolist() == pytest.approx(np.arange(16.5, 91).tolist())
    assert right.get_xlabel() == "age [years]"


def test_a_dominating_special_value_stands_beside_the_bins_not_among_them(columns):
    real = table(0)
    left, right = columns[1]["04-gain.png"].axes
    zero = float((real["gain"] == 0).mean())
    heights, edges, _ = right.patches[0].get_data()
    assert left.patches[0].get_height() == pytest.approx(zero)
    assert heights.sum() == pytest.approx(1 - zero)
    assert edges[0] >= 0
    assert right.get_xscale() == "symlog"


def test_numeric_bins_match_a_plain_histogram(columns):
    real = table(0)
    (axes,) = columns[1]["05-power_kW.png"].axes
    heights, edges, _ = axes.patches[0].get_data()
    expected, _ = np.histogram(real["power/kW"], bins=edges)
    assert len(heights) == 32
    assert heights.tolist() == pytest.approx((expected / 500).tolist())
    assert axes.get_xlabel() == "power/kW [kW]"


def test_a_datetime_axis_starts_at_the_public_minimum(columns):
    (axes,) = columns[1]["06-seen.png"].axes
    assert mpl.dates.num2date(axes.get_xlim()[0]).strftime("%Y-%m-%d") == "2020-01-01"
    assert mpl.dates.num2date(axes.get_xlim()[1]).year in (2021, 2022)


def test_a_picture_of_synthetic_rows_alone_does_not_claim_to_be_private(tmp_path, drawn):
    plots.histograms(None, table(1), SCHEMA, tmp_path)
    for figure in drawn.values():
        assert "Private" not in texts(figure)
        assert "real" not in texts(figure)
    (axes,) = drawn["01-sex.png"].axes
    assert sum(bar.get_width() for bar in axes.patches) == pytest.approx(1.0)


def test_pictures_of_real_rows_say_that_they_are_private(tmp_path, columns, drawn):
    plots.latent_pairs(np.random.default_rng(0).normal(size=(50, 2)), ["a", "b"], tmp_path / "pairs.png")
    plots.learning_curve(pd.DataFrame({"step": [0, 1], "private/loss": [2, 1]}), tmp_path / "loss.png")
    assert all("Private" in texts(figure) for figure in [*columns[1].values(), *drawn.values()])


@pytest.mark.parametrize("rows", [0, 1])
def test_tiny_tables_and_unused_levels_are_drawn(tmp_path, rows):
    plots.histograms(table(0, 20).head(rows), table(1, 20).head(1), SCHEMA, tmp_path)
    assert (tmp_path / "overview.png").exists()


def test_letters_the_font_lacks_and_long_names_do_not_stop_a_picture(tmp_path):
    values = ("東京", "a" * 300, "$\\frac{1$", "x\ny")
    schema = Schema("t", 10, (Column("名前 $", "categorical", categories=Categories(values)),))
    frame = conform(pd.DataFrame({"名前 $": list(values)}), schema)
    plots.histograms(frame, frame, schema, tmp_path)
    assert (tmp_path / "overview.png").exists()


@pytest.mark.parametrize("peak", [1e-4, 0.03, 0.21, 0.9, 1.0])
def test_ticks_of_a_square_root_axis_do_not_crowd(peak):
    ticks = _root_ticks(peak)
    gaps = np.diff(np.sqrt(sorted(ticks))) / np.sqrt(peak)
    assert len(ticks) >= 2
    assert gaps.min() >= 1 / 6 - 1e-9
    assert max(ticks) <= 1.06 * peak


def test_an_interrupted_picture_leaves_the_old_one_whole(tmp_path, monkeypatch):
    path = tmp_path / "loss.png"
    path.write_bytes(b"old")

    def full_disk(self, draft, **_):
        draft.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full_disk)
    with pytest.raises(OSError, match="No space"):
        plots.epsilon_over_steps([1, 2], [0.1, 0.2], [0.2, 0.3], 1.0, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_epsilon_is_drawn_for_both_accountants_with_the_target(tmp_path, drawn):
    plots.epsilon_over_steps([1, 2, 3], [0.1, 0.2, 0.3], [0.2, 0.3, 0.4], 0.3, tmp_path / "e.png")
    (axes,) = drawn["e.png"].axes
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert list(lines["PLD (of record)"]) == [0.1, 0.2, 0.3]
    assert list(lines["RDP (looser)"]) == [0.2, 0.3, 0.4]
    assert set(lines["target ε = 0.3"]) == {0.3}


def test_the_learning_curve_skips_steps_without_a_loss(tmp_path, drawn):
    frame = pd.DataFrame({"step": range(6), "private/loss": [5, np.nan, 4, np.inf, 3, 2.0]})
    plots.learning_curve(frame, tmp_path / "loss.png")
    (axes,) = drawn["loss.png"].axes
    assert list(axes.lines[0].get_xdata()) == [0, 2, 4, 5]
    assert axes.lines[1].get_ydata()[1] == pytest.approx(4.0)
    with pytest.raises(RunError, match="no column 'train/loss'"):
        plots.learning_curve(frame, tmp_path / "loss.png", column="train/loss")


def test_the_correlation_picture_shows_both_matrices_and_their_difference(tmp_path, drawn):
    real = np.array([[1, 0.5, np.nan], [0.5, 1, 0], [np.nan, 0, 1]])
    synthetic = np.array([[1, 0.1, 0.2], [0.1, 1, 0.1], [0.2, 0.1, 1]])
    plots.correlation_difference(real, synthetic, ["a", "b", "c"], tmp_path / "c.png")
    images = [axes.images[0].get_array() for axes in drawn["c.png"].axes[:3]]
    assert np.ma.filled(images[2], np.nan)[0, 1] == pytest.approx(-0.4)
    assert "mean 0.250, largest 0.400" in texts(drawn["c.png"])
    with pytest.raises(DataError, match=r"\(2, 2\)"):
        plots.correlation_difference(real, synthetic, ["a", "b"], tmp_path / "c.png")


def test_latent_titles_carry_the_kolmogorov_smirnov_test(tmp_path, drawn):
    u = np.random.default_rng(3).normal(0.5, 2.0, size=(300, 3))
    u[:, 2] = 0.0
    u[0, 0] = np.inf
    plots.latent_marginals(u, ["a", "b", "c"], tmp_path / "u.png")
    test = stats.kstest(u[:, 1], "norm")
    title = drawn["u.png"].axes[1].get_title(loc="left")
    assert f"KS {test.statistic:.3f} (p {test.pvalue:.2g})" in title
    assert f"mean {np.mean(u[:, 1]):.2f}  sd {np.std(u[:, 1]):.2f}" in title
    assert drawn["u.png"].axes[0].get_xlim() == (-5, 5)
    assert "does not imply right data marginals" in texts(drawn["u.png"])


def test_latent_pairs_draw_the_ten_most_correlated_dimensions(tmp_path, drawn):
    rng = np.random.default_rng(0)
    u = rng.normal(size=(2000, 13))
    u[:, :10] += 0.8 * rng.normal(size=(2000, 1))
    names = [f"u{i}" for i in range(13)]
    plots.latent_pairs(u[:, ::-1], names[::-1], tmp_path / "pairs.png")
    figure = drawn["pairs.png"]
    shown = {axes.get_xlabel() for axes in figure.axes} - {""}
    assert shown == set(names[:10])
    largest = np.abs(np.corrcoef(u, rowvar=False) - np.eye(13)).max()
    assert f"largest |correlation| {largest:.3f}; 10 of 13 dimensions" in texts(figure)
    assert figure.axes[1].get_xlim() == (-8, 8)


@pytest.mark.parametrize("shape", [(0, 2), (1, 2), (5, 3), (5,)])
def test_latent_values_of_a_wrong_shape_are_refused(tmp_path, shape):
    for draw in (plots.latent_marginals, plots.latent_pairs):
        with pytest.raises(DataError, match="latent values of shape"):
            draw(np.zeros(shape), ["a", "b"], tmp_path / "u.png")


def test_a_score_is_placed_between_its_floor_and_its_ceiling_in_either_direction(tmp_path, drawn):
    rows = [
        ("higher", 0.8, 0.5, 0.9, None),
        ("lower", 0.04, 0.2, 0.0, None),
        ("beyond", 5.0, 0.0, 1.0, 5.0),
        ("alone", 3.0, None, None, None),
        ("flat", 0.5, 0.5, 0.5, None),
    ]
    plots.scores(rows, tmp_path / "s.png")
    (axes,) = drawn["s.png"].axes
    assert [float(line.get_xdata()[0]) for line in axes.lines] == pytest.approx([1.12, 0.8, 0.75])
    assert [label.get_text() for label in axes.get_yticklabels()] == [row[0] for row in reversed(rows)]
    assert texts(drawn["s.png"]).count("(no range)") == 2
    plots.scores([], tmp_path / "empty.png")


def test_drawing_uses_no_global_figure_state():
    code = "import sys, dpforge.experiment.plots; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
