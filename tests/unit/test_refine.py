"""Fine cells and their merging: what is a part of what, and which cells stand alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpforge.data.encode.refine import LEAST_SPIKE, MOST_CELLS, fine_codec, merge_cells, spikes
from dpforge.data.encode.subcolumns import SubColumnCodec
from dpforge.data.schema import schema_from_dict
from dpforge.data.table import conform


def schema_of(**columns):
    return schema_from_dict({"nominal_rows": 10, "columns": columns})


def number(kind, low, high, **more):
    return {"kind": kind, "bounds": {"min": low, "max": high}, **more}


COLUMNS = {
    "wide integer": number("integer", 0, 99_999, special_values=[0]),
    "specials inside a bin": number("integer", 0, 9999, special_values=[0, 1234, 9999], nullable=True),
    "coarse steps": number("numeric", 0, 1000, granularity=2.5, nullable=True),
    "continuous": number("numeric", -3, 7, special_values=[-3, 0.5]),
    "public edges": number("integer", 0, 5000, bins={"edges": [0, 10, 500, 5000]}, special_values=[10]),
    "small": number("integer", 1, 16),
}


def values_of(column, rng):
    low, high = column["bounds"]["min"], column["bounds"]["max"]
    drawn = rng.uniform(low, high, 3000)
    special = np.asarray(column.get("special_values", [low]), dtype=float)
    drawn[:300] = rng.choice([low, high, *special, *(special + 1e-4)], 300).clip(low, high)
    if column["kind"] == "integer":
        drawn = np.rint(drawn)
    drawn = pd.Series(drawn)
    return drawn.where(drawn.index % 50 != 49) if column.get("nullable") else drawn


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("parts", [2, 16])
def test_a_fine_cell_belongs_to_the_bin_that_holds_its_values(name, parts):
    schema = schema_of(a=COLUMNS[name])
    fine, coarse = fine_codec(schema, parts, ["a"]), SubColumnCodec(schema)
    table = conform(pd.DataFrame({"a": values_of(COLUMNS[name], np.random.default_rng(0))}), schema)
    small, large = fine.codec.encode(table)[:, 0], coarse.encode(table)[:, 0]
    assert np.array_equal(fine.groups[0][small], large)
    assert (np.diff(fine.groups[0]) >= 0).all()
    assert fine.groups[0].max() == coarse.sizes[0] - 1
    assert fine.refined == (name != "small",)


@pytest.mark.parametrize("name", COLUMNS)
def test_fine_cells_decode_into_the_values_of_their_cell(name):
    schema = schema_of(a=COLUMNS[name])
    fine = fine_codec(schema, 8, ["a"])
    codes = np.repeat(np.arange(fine.codec.sizes[0]), 5)[:, None]
    again = fine.codec.encode(fine.codec.decode(codes, np.random.default_rng(0)))
    assert np.array_equal(again, codes)


@pytest.mark.parametrize("name", COLUMNS)
def test_missing_and_special_values_are_lone_and_nothing_else_is(name):
    column, schema = COLUMNS[name], schema_of(a=COLUMNS[name])
    fine = fine_codec(schema, 4, ["a"])
    assert int(fine.lone[0].sum()) == len(column.get("special_values", [])) + column.get("nullable", False)


def test_one_part_or_a_column_that_is_not_named_is_left_as_it_is():
    schema = schema_of(a=COLUMNS["wide integer"], b=COLUMNS["continuous"])
    for fine in (fine_codec(schema, 1, ["a", "b"]), fine_codec(schema, 16, [])):
        assert fine.codec.sizes == SubColumnCodec(schema).sizes
        assert fine.refined == (False, False)
        for sub, size in enumerate(fine.codec.sizes):
            assert np.array_equal(fine.groups[sub], np.arange(size))


def test_only_the_named_column_is_cut_and_never_into_too_many_cells():
    schema = schema_of(a=COLUMNS["wide integer"], b=COLUMNS["continuous"])
    fine = fine_codec(schema, 10**6, ["a"])
    assert fine.refined == (True, False)
    assert 32 < fine.codec.sizes[0] <= MOST_CELLS + 1
    assert fine.codec.sizes[1] == SubColumnCodec(schema).sizes[1]


def test_categories_digits_and_dates_keep_their_codes():
    schema = schema_of(
        c={"kind": "categorical", "categories": {"values": ["x", "y"]}, "nullable": True},
        d=number("integer", 0, 999),
        t=number("datetime", "2020-01-01", "2020-12-31", resolution="day", codec="datetime_parts"),
    )
    fine = fine_codec(schema, 16, ["c", "d", "t"], codecs={"d": "digit"})
    plain = SubColumnCodec(schema, codecs={"d": "digit"})
    assert (fine.codec.names, fine.codec.sizes) == (plain.names, plain.sizes)
    assert fine.refined == (False,) * len(plain.names)


def test_a_column_without_a_refined_bin_does_not_depend_on_the_parts():
    schema = schema_of(a=COLUMNS["small"])
    assert fine_codec(schema, 16, ["a"]).codec.sizes == SubColumnCodec(schema).sizes


# ---- merging

GROUPS = np.repeat([0, 1, 2], [1, 10, 5])


def merged(masses, deviation=1.0, rows=10_000.0, threshold=4.0, rise=3.0):
    masses = np.asarray(masses, dtype=float)
    return merge_cells(masses / masses.sum(), GROUPS, deviation, rows, threshold, rise)


def test_an_even_bin_becomes_one_piece():
    assert merged(np.ones(16)).tolist() == [0, *[1] * 10, *[2] * 5]


def test_a_cell_that_stands_out_is_a_piece_behind_the_rest_of_its_bin():
    masses = np.ones(16)
    masses[4] = 50
    pieces = merged(masses)
    assert pieces.tolist() == [0, 1, 1, 1, 2, *[1] * 6, *[3] * 5]
    assert spikes(pieces, GROUPS).tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    ("changes", "stands"),
    [
        ({}, True),
        ({"deviation": 1500.0}, False),  # lost in its noise
        ({"deviation": 1500.0, "threshold": 1.0}, True),
        ({"rise": 9.0}, False),  # not steep enough in a bin of ten
        ({"rows": 20.0}, False),  # fewer than the least number of records
    ],
)
def test_a_spike_must_pass_noise_rise_and_a_least_number_of_records(changes, stands):
    masses = np.ones(16)
    masses[4] = 10
    assert bool(merged(masses, **changes).max() == 3) == stands
    assert LEAST_SPIKE == 20


def test_noise_alone_makes_no_spikes_to_speak_of():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(32), 16)
    found = 0
    for _ in range(20):
        counts = np.maximum(20 + rng.normal(0, 10, groups.size), 1)
        pieces = merge_cells(counts / counts.sum(), groups, 10.0, counts.sum(), 4.0, 3.0)
        found += pieces.max() + 1 - 32
    assert found <= 10  # of 10,240 cells


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=8),
    st.integers(0, 10**6),
    st.floats(0.5, 5),
    st.floats(0, 50),
)
def test_pieces_part_the_cells_never_mix_bins_and_spikes_are_what_stood_out(sizes, seed, rise, deviation):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    masses = np.random.default_rng(seed).dirichlet(np.full(groups.size, 0.3)) + 1e-6
    masses /= masses.sum()
    pieces = merge_cells(masses, groups, deviation, 1000.0, 4.0, rise)
    assert set(pieces) == set(range(pieces.max() + 1))
    for piece in range(pieces.max() + 1):
        assert len(set(groups[pieces == piece])) == 1
    for first, second in zip(range(pieces.max()), range(1, pieces.max() + 1), strict=True):
        assert groups[pieces == first][0] <= groups[pieces == second][0]
    alone = spikes(pieces, groups)
    for piece in np.flatnonzero(alone):
        (cell,) = np.flatnonzero(pieces == piece)
        mean = masses[groups == groups[cell]].mean()
        assert masses[cell] > rise * mean
        assert masses[cell] * 1000 > max(4 * deviation, LEAST_SPIKE)
