"""Rendered characters and the fonts that draw them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from dpforge.data.glyphs import (
    DIGITS,
    GLYPH_DTYPE,
    FontFile,
    GlyphRanges,
    draw_glyphs,
    find_fonts,
    render_glyphs,
)
from dpforge.errors import ConfigError, DataError

FONTS = find_fonts(system=False)
NAMES = [font.name for font in FONTS]


def glyph(n=1, font="DejaVu Sans Book", **values):
    """Upright glyphs of the digit 4 unless told otherwise."""
    params = np.zeros(n, dtype=GLYPH_DTYPE)
    font = NAMES.index(font) if isinstance(font, str) else font
    params["text"], params["font"], params["size"], params["scale"] = 4, font, 20, 1
    for name, value in values.items():
        params[name] = value
    return params


def drawn(params, height=28, width=28, channels=1):
    return render_glyphs(params, DIGITS, FONTS, height, width, channels)


def one(**values):
    return drawn(glyph(**values))[0, :, :, 0].astype(float)


def centroid(image):
    rows, columns = np.indices(image.shape) + 0.5
    return np.array([(rows * image).sum(), (columns * image).sum()]) / image.sum()


def middle_of_ink(image):
    rows, columns = np.nonzero(image.max(axis=1))[0], np.nonzero(image.max(axis=0))[0]
    return (rows[0] + rows[-1] + 1) / 2, (columns[0] + columns[-1] + 1) / 2


@pytest.mark.parametrize("digit", range(10))
def test_an_upright_glyph_is_what_pillow_draws_moved_to_the_middle(digit):
    image = one(text=digit)
    face = ImageFont.truetype(str(FONTS[NAMES.index("DejaVu Sans Book")].path), 20)
    reference = Image.new("L", (60, 60))
    ImageDraw.Draw(reference).text((20, 20), str(digit), fill=255, font=face)
    reference = np.asarray(reference).astype(float)
    assert image.sum() == pytest.approx(reference.sum(), rel=0.02)
    offset = np.subtract(centroid(reference), middle_of_ink(reference))
    np.testing.assert_allclose(centroid(image) - 14, offset, atol=0.15)


def test_a_quarter_turn_turns_counter_clockwise():
    assert np.abs(one(rotation=90) - np.rot90(one())).mean() < 0.5


def test_whole_pixels_of_offset_move_the_image_right_and_down():
    assert np.array_equal(one(dx=3, dy=-2), np.roll(one(), (-2, 3), axis=(0, 1)))


def test_slant_moves_the_upper_part_to_the_right():
    plain, slanted = one(text=1, font="DejaVu Sans Bold"), one(text=1, font="DejaVu Sans Bold", slant=0.4)
    assert centroid(slanted[:14])[1] > centroid(plain[:14])[1] + 1
    assert centroid(slanted[14:])[1] < centroid(plain[14:])[1] - 1


def test_scale_stretches_the_width_alone():
    def extent(image, axis):
        return (image.max(axis=axis) > 60).sum()

    narrow, wide = one(size=14), one(size=14, scale=1.8)
    assert extent(wide, 1) == extent(narrow, 1)
    assert extent(wide, 0) / extent(narrow, 0) == pytest.approx(1.8, abs=0.25)


def test_area_grows_with_the_square_of_the_size_also_between_whole_sizes():
    sizes = np.linspace(12, 26, 57)
    area = drawn(glyph(n=57, size=sizes, font="DejaVu Sans Bold")).reshape(57, -1).sum(axis=1)
    slope = np.polyfit(np.log(sizes), np.log(area), 1)[0]
    assert slope == pytest.approx(2, abs=0.25)


def test_a_stroke_adds_ink_around_the_outline():
    thin, thick = one(), one(stroke=2)
    assert thick.sum() > 1.5 * thin.sum()
    assert (thick >= thin - 30).mean() > 0.99


def test_elastic_noise_bends_the_glyph_by_its_own_seed():
    params = glyph(n=3, elastic=1.5, seed=[1, 2, 1])
    images = drawn(params)[..., 0].astype(float)
    assert np.array_equal(images[0], images[2])
    assert not np.array_equal(images[0], images[1])
    assert images[1].sum() == pytest.approx(one().sum(), rel=0.4)
    weak = drawn(glyph(elastic=0.05, seed=1))[0, :, :, 0].astype(float)
    assert np.abs(weak - one()).mean() < 0.2 * np.abs(images[0] - one()).mean()


def test_elastic_strength_is_the_distance_that_pixels_move():
    ranges = GlyphRanges(size=(40, 40), stroke=(4, 4), elastic=(1.0, 1.0))
    params = draw_glyphs(400, ["l"], FONTS[:1], ranges, np.random.default_rng(0))
    for name in ("rotation", "slant", "dx", "dy"):
        params[name] = 0
    params["scale"] = 1
    bent = render_glyphs(params, ["l"], FONTS, 28, 28)[:, 14, :, 0].astype(float)
    params["elastic"] = 0
    bar = render_glyphs(params[:1], ["l"], FONTS, 28, 28)[0, 14, :, 0].astype(float)
    columns = np.arange(28)
    moved = (bent @ columns) / bent.sum(axis=1) - (bar @ columns) / bar.sum()
    # A bar shows the sideways part of the movement alone, averaged over its width.
    assert 0.45 < np.sqrt(np.mean(moved**2)) < 0.75


def test_an_image_depends_on_its_own_parameters_alone():
    ranges = GlyphRanges(elastic=(0, 1.5))
    params = draw_glyphs(50, DIGITS, FONTS, ranges, np.random.default_rng(0))
    order = np.random.default_rng(1).permutation(50)
    assert np.array_equal(drawn(params)[order], drawn(params[order]))
    assert np.array_equal(drawn(params)[7:8], drawn(params[7:8]))


def test_a_small_canvas_is_the_average_of_a_large_one():
    params = draw_glyphs(20, DIGITS, FONTS, GlyphRanges().scaled(8, 8), np.random.default_rng(0))
    large = params.copy()
    for name in ("size", "dx", "dy"):
        large[name] *= 4
    averaged = drawn(large, 32, 32).reshape(20, 8, 4, 8, 4).mean(axis=(2, 4))
    assert np.abs(averaged - drawn(params, 8, 8)[..., 0]).max() <= 1


@pytest.mark.parametrize(("height", "width", "channels"), [(28, 28, 1), (20, 44, 3), (64, 64, 1)])
def test_images_have_the_size_asked_for_and_equal_channels(height, width, channels):
    params = draw_glyphs(5, DIGITS, FONTS, GlyphRanges().scaled(height, width), np.random.default_rng(0))
    images = drawn(params, height, width, channels)
    assert images.shape == (5, height, width, channels)
    assert images.dtype == np.uint8
    assert (images == images[..., :1]).all()
    assert images.reshape(5, -1).max(axis=1).min() > 60


def test_parameters_are_spread_over_their_ranges():
    ranges = GlyphRanges(elastic=(0.5, 1.0))
    params = draw_glyphs(4000, DIGITS, FONTS, ranges, np.random.default_rng(0))
    for name, (low, high) in ranges.items():
        assert low <= params[name].min() <= params[name].max() <= high
        assert params[name].mean() == pytest.approx((low + high) / 2, abs=0.04 * (high - low))
    assert np.bincount(params["text"], minlength=10).min() > 320
    assert set(params["font"]) == set(range(len(FONTS)))
    assert set(params["stroke"]) == {0, 1, 2}
    assert len(np.unique(params["seed"])) > 3990


def test_the_same_generator_state_gives_the_same_glyphs():
    draws = [draw_glyphs(9, DIGITS, FONTS, GlyphRanges(), np.random.default_rng(3)) for _ in range(2)]
    assert np.array_equal(*draws)


def test_no_glyph_gives_no_image():
    none = draw_glyphs(0, DIGITS, FONTS, GlyphRanges(), np.random.default_rng(0))
    assert drawn(none).shape == (0, 28, 28, 1)


def test_ranges_grow_with_the_canvas_where_they_are_lengths():
    ranges = GlyphRanges(elastic=(0, 1)).scaled(56, 70)
    assert ranges == GlyphRanges(size=(20, 58), stroke=(0, 4), dx=(-4, 4), dy=(-4, 4), elastic=(0, 2))


def test_clipping_brings_perturbed_parameters_back_into_range():
    params = glyph(n=2, size=[5, 90], rotation=[-80, 80], stroke=[7, 0])
    clipped = GlyphRanges().clipped(params)
    assert clipped["size"].tolist() == [10, 29]
    assert clipped["rotation"].tolist() == [-30, 30]
    assert clipped["stroke"].tolist() == [2, 0]
    assert params["size"].tolist() == [5, 90]


@pytest.mark.parametrize(
    "values",
    [{"size": (9, 3)}, {"size": (0, 3)}, {"scale": (-1, 1)}, {"stroke": (-1, 2)}, {"dx": (0, np.nan)}],
)
def test_impossible_ranges_are_refused_by_name(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        GlyphRanges(**values)


@pytest.mark.parametrize(
    "values", [{"text": 10}, {"font": 99}, {"text": -1}, {"size": np.nan}, {"size": 0.2}, {"scale": 0}]
)
def test_glyphs_that_cannot_be_drawn_are_refused_by_name(values):
    with pytest.raises(DataError, match=next(iter(values))):
        drawn(glyph(**values))


def test_wrong_shapes_are_refused():
    with pytest.raises(DataError, match="GLYPH_DTYPE"):
        drawn(np.zeros(3))
    with pytest.raises(ConfigError, match="channels"):
        drawn(glyph(), channels=2)
    with pytest.raises(ConfigError, match="at least one"):
        draw_glyphs(3, DIGITS, (), GlyphRanges(), np.random.default_rng(0))


def test_faces_without_ten_digits_are_left_out():
    assert len(FONTS) >= 20
    for symbols in ("cmsy10", "cmex10", "STIXSize", "STIXNonUnicode", "Last Resort", "Display"):
        assert not any(symbols in name for name in NAMES)
    assert {"DejaVu Sans Book", "STIXGeneral Italic", "cmti10 Regular"} < set(NAMES)
    assert FONTS[-1].path is None


def test_every_face_draws_ten_different_digits():
    params = glyph(n=10 * len(FONTS), text=np.tile(range(10), len(FONTS)), size=22)
    params["font"] = np.repeat(range(len(FONTS)), 10)
    images = drawn(params).reshape(len(FONTS), 10, -1).astype(float)
    apart = np.abs(images[:, :, None] - images[:, None]).mean(axis=3)
    assert (apart[:, ~np.eye(10, dtype=bool)]).min() > 3


def test_without_the_system_folders_all_faces_come_with_the_libraries():
    homes = {font.path.parent for font in FONTS if font.path}
    assert len(homes) == 1
    assert homes.pop().parts[-3:] == ("mpl-data", "fonts", "ttf")


def test_given_folders_come_first_once_and_bad_files_are_skipped(tmp_path):
    (tmp_path / "deep").mkdir()
    original = next(font for font in FONTS if font.name == "STIXGeneral Bold")
    shutil.copy(original.path, tmp_path / "deep" / "a.TTF")
    shutil.copy(original.path, tmp_path / "deep" / "b.ttf")
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    (tmp_path / "notes.txt").write_text("no font either")
    found = find_fonts((tmp_path,), system=False)
    assert found[0] == FontFile(tmp_path / "deep" / "a.TTF", original.sha256, original.name)
    assert sum(font.sha256 == original.sha256 for font in found) == 1
    assert len(found) == len(FONTS)


def test_a_missing_font_folder_is_named():
    with pytest.raises(ConfigError, match="no_such_folder"):
        find_fonts(("no_such_folder",))


def test_a_font_that_vanished_is_a_typed_error():
    gone = replace(FONTS[0], path=Path("gone.ttf"))
    with pytest.raises(DataError, match="cannot be read"):
        render_glyphs(glyph(font="DejaVu Sans Bold"), DIGITS, (gone, *FONTS[1:]), 28, 28)
