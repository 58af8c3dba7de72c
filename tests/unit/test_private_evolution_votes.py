"""Votes against a double loop, and the public generators that come with the loop."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from scipy import stats

from dpforge.config import compose
from dpforge.data import Images
from dpforge.data.glyphs import GLYPH_DTYPE, GlyphRanges
from dpforge.errors import ConfigError
from dpforge.generators.private_evolution import nearest as nearest_module
from dpforge.generators.private_evolution.apis.image_pool import ImagePool
from dpforge.generators.private_evolution.apis.simulator import Simulator
from dpforge.generators.private_evolution.nearest import nearest
from dpforge.generators.private_evolution.voting import Ballot, Electorate, count_votes

DISTANCES = ("l2", "ip", "cosine")


def order_by(distance, x, e):
    """Every point by nearness in double precision, ties by position."""
    x, e = x.astype(float), e.astype(float)
    if distance == "l2":
        score = [float(((x - point) ** 2).sum()) for point in e]
    else:
        unit = [math.sqrt(float(p @ p)) or 1.0 for p in e] if distance == "cosine" else [1.0] * len(e)
        score = [-float(x @ point) / length for point, length in zip(e, unit, strict=True)]
    return sorted(range(len(e)), key=lambda j: (round(score[j], 9), j))


def by_loop(features, labels, points, blocks, ballot, units=None):
    """Votes by two loops over voters and candidates, then norms by unit."""
    size = len(points[0])
    votes = {}
    for i, (x, label) in enumerate(zip(features, labels, strict=True)):
        block = blocks[label]
        count = block.stop - block.start
        stacked = np.concatenate([p[block] for p in points])
        mine = np.zeros(size)
        for j in order_by(ballot.distance, x, stacked)[: min(ballot.neighbors, count)]:
            mine[block.start + j % count] += 1
        norm = np.linalg.norm(mine)
        unit = i if units is None else units[i]
        votes[unit] = votes.get(unit, np.zeros(size)) + (mine / norm if norm else mine)
    total = np.zeros(size)
    for vote in votes.values():
        total += vote / max(1.0, float(np.linalg.norm(vote)))
    return total


def election(seed, whole=False, voters=40, sizes=(5, 0, 7), dim=3, packing=1):
    rng = np.random.default_rng(seed)

    def draw(n):
        values = rng.integers(-2, 3, (n, dim)) if whole else rng.normal(size=(n, dim))
        return values.astype(np.float32)

    edges = np.r_[0, np.cumsum(sizes)].tolist()
    blocks = [slice(a, b) for a, b in pairwise(edges)]
    points = [draw(edges[-1]) for _ in range(packing)]
    return draw(voters), rng.integers(len(sizes), size=voters), points, blocks


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("neighbors", [1, 2, 3, 6])
@pytest.mark.parametrize("packing", [1, 3])
def test_votes_equal_a_double_loop(distance, neighbors, packing):
    features, labels, points, blocks = election(neighbors, packing=packing)
    ballot = Ballot(neighbors, packing, distance)
    units = np.random.default_rng(9).integers(12, size=len(labels))
    for owner in (None, units):
        votes = count_votes(Electorate(features, labels, owner), points, blocks, ballot)
        np.testing.assert_allclose(
            votes, by_loop(features, labels, points, blocks, ballot, owner), rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("distance", ["l2", "ip"])
@pytest.mark.parametrize("neighbors", [1, 3, 4])
@pytest.mark.parametrize("seed", range(6))
def test_equal_distances_and_equal_candidates_go_to_the_lowest_position(distance, neighbors, seed):
    features, labels, points, blocks = election(seed, whole=True, sizes=(9, 4, 12), dim=2)
    ballot = Ballot(neighbors, 1, distance)
    votes = count_votes(Electorate(features, labels), points, blocks, ballot)
    np.testing.assert_allclose(votes, by_loop(features, labels, points, blocks, ballot), rtol=1e-12)


def test_blocks_of_rows_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    voters, points = (rng.normal(size=(n, 8)).astype(np.float32) for n in (300, 50))
    whole = nearest(voters, points, 3)
    monkeypatch.setattr(nearest_module, "SCORES", 1)
    monkeypatch.setattr(nearest_module, "LEAST_ROWS", 7)
    assert np.array_equal(nearest(voters, points, 3), whole)


@pytest.mark.parametrize("neighbors", [1, 3])
def test_points_that_agree_almost_everywhere_are_told_apart_and_copies_are_not(neighbors):
    rng = np.random.default_rng(0)
    points = np.zeros((40, 200), dtype=np.float32)
    points[:, 101] = rng.permutation(40) // 2  # twenty values, two points each, in one column
    points[3] = -points[3] * 0  # a negative zero is a zero
    voters = np.zeros((100, 200), dtype=np.float32)
    voters[:, 101] = rng.uniform(-1, 20, 100)
    exact = np.abs(voters[:, None, 101].astype(np.float64) - points[None, :, 101])
    order = np.argsort(exact, axis=1, kind="stable")[:, :neighbors]
    assert np.array_equal(nearest(voters, points, neighbors), order)


def test_the_scores_held_at_once_do_not_grow_with_the_voters(monkeypatch):
    held = []
    product = torch.addmm
    monkeypatch.setattr(
        torch, "addmm", lambda a, b, c, **kw: held.append(b.shape[0] * c.shape[1]) or product(a, b, c, **kw)
    )
    points = np.random.default_rng(0).normal(size=(3000, 2)).astype(np.float32)
    nearest(np.zeros((5000, 2), dtype=np.float32), points)
    assert max(held) <= nearest_module.SCORES


@pytest.mark.parametrize("neighbors", [1, 3, 7])
def test_a_voter_gives_norm_one_even_if_points_of_one_candidate_crowd_around_it(neighbors):
    """Three points of each candidate, all of one candidate nearest: the vote must still have norm 1."""
    one = np.zeros((1, 2), dtype=np.float32)
    points = [np.array([[0.1 * p, 0], [9, 9], [8, 8 + p]], dtype=np.float32) for p in range(3)]
    votes = count_votes(Electorate(one, np.zeros(1, int)), points, [slice(0, 3)], Ballot(neighbors, 3))
    assert np.linalg.norm(votes) == pytest.approx(1)
    if neighbors >= 3:
        assert votes[0] == 1.0


def test_the_joint_vote_of_a_user_in_four_classes_has_norm_one():
    features = np.zeros((4, 2), dtype=np.float32)
    blocks = [slice(2 * c, 2 * c + 2) for c in range(4)]
    points = [np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)]
    votes = count_votes(Electorate(features, np.arange(4), np.zeros(4, int)), points, blocks, Ballot())
    assert np.linalg.norm(votes) == pytest.approx(1)
    assert np.count_nonzero(votes) == 4


def test_a_threshold_is_in_votes_of_norm_one():
    """Four neighbours: eight raw votes of a quarter norm each are four votes of norm one here."""
    features = np.zeros((8, 1), dtype=np.float32)
    points = [np.arange(4, dtype=np.float32)[:, None]]
    votes = count_votes(Electorate(features, np.zeros(8, int)), points, [slice(0, 4)], Ballot(4))
    np.testing.assert_allclose(votes, 4.0)


@pytest.fixture(scope="module")
def simulator():
    api = Simulator(system_fonts=False)
    api.prepare([str(d) for d in range(10)], "cpu")
    return api


def test_the_simulator_draws_the_digit_of_each_class(simulator):
    labels = np.repeat(np.arange(10), 4)
    images, info = simulator.random(labels, np.random.default_rng(0))
    assert images.shape == (40, 28, 28, 3)
    assert info.dtype == GLYPH_DTYPE
    assert np.array_equal(info["text"], labels)
    assert (images.reshape(40, -1).max(1) > 100).all()
    again = simulator.random(labels, np.random.default_rng(0))[0]
    assert np.array_equal(images, again)


@pytest.mark.parametrize("steps", ["linear", "sim_pe"])
def test_a_variation_changes_parameters_by_no_more_than_its_degree_says(steps):
    api = Simulator(system_fonts=False, steps=steps, elastic=1.0)
    api.prepare(["0"], "cpu")
    rng = np.random.default_rng(0)
    _, info = api.random(np.zeros(800, int), rng)
    for degree in (0.0, 0.25, 1.0):
        images, after = api.variation(np.zeros(0), info, degree, rng)
        share = (after["font"] != info["font"]).mean()
        redrawn = np.interp(1 - degree, np.linspace(0, 1, 5), [1, 0.8, 0.4, 0.2, 0])
        assert share == pytest.approx(redrawn if steps == "sim_pe" else degree, abs=0.06)
        expected = np.interp(1 - degree, np.linspace(0, 1, 5), [6, 5, 4, 3, 2])
        most = expected if steps == "sim_pe" else degree * 9.5
        moved = np.abs(after["size"] - info["size"])
        assert moved.max() <= most + 1e-4
        assert moved.max() > 0.9 * most - 1e-9
        assert after["size"].min() >= 10
        assert after["size"].max() <= 29
        if degree == 0.0 and steps == "linear":
            assert np.array_equal(after, info)
            assert np.array_equal(images, api._render(info))


WIDER = [("size", [5, 40], (5, 40)), ("stroke", [2, 4], (2, 4)), ("rotation", 80, (-80, 80))]


@pytest.mark.parametrize(("name", "value", "limits"), WIDER, ids=[name for name, _, _ in WIDER])
def test_size_stroke_and_rotation_are_drawn_and_varied_within_the_given_range(name, value, limits):
    drawn = {}
    for settings in ({}, {name: value}):
        api = Simulator(system_fonts=False, **settings)
        api.prepare([], "cpu")
        images, info = api.random(np.zeros(400, int), np.random.default_rng(0))
        varied, after = api.variation(images, info, 1.0, np.random.default_rng(1))
        drawn[len(settings)] = images, info, varied
    for parameters in (info, after):
        assert limits[0] <= parameters[name].min() <= limits[0] + 0.02 * (limits[1] - limits[0])
        assert limits[1] >= parameters[name].max() >= limits[1] - 0.02 * (limits[1] - limits[0])
    assert all(np.array_equal(drawn[0][1][other], info[other]) for other in info.dtype.names if other != name)
    assert not np.array_equal(drawn[0][0], images)
    assert not np.array_equal(drawn[0][2], varied)


def test_the_ranges_of_the_simulator_are_those_of_the_glyphs_unless_given():
    spelled = Simulator(system_fonts=False, size=[10, 29], stroke=[0, 2], rotation=30, image_size=(56, 56))
    ranges = replace(GlyphRanges(), scale=(1 / 1.3, 1.3)).scaled(56, 56)
    assert spelled._ranges() == Simulator(system_fonts=False, image_size=(56, 56))._ranges() == ranges
    settings = compose(["model=private_evolution", "model/api=simulator", "dataset=digits"]).model.api
    assert instantiate(settings)._ranges() == Simulator()._ranges()


def test_schedules_of_the_simulator_fall_over_the_iterations():
    assert Simulator().default_degrees(5) == pytest.approx([0.8, 0.67, 0.54, 0.41, 0.28, 0.15])
    assert Simulator(steps="sim_pe").default_degrees(4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert ImagePool("mnist").default_degrees(6) == [1000, 1000, 500, 200, 100, 50, 20]
    assert len(ImagePool("mnist").default_degrees(3)) == 4


def test_without_classes_the_simulator_draws_every_text():
    api = Simulator(system_fonts=False)
    api.prepare([], "cpu")
    _, info = api.random(np.zeros(500, int), np.random.default_rng(0))
    assert set(info["text"].tolist()) == set(range(10))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"image_size": [28]}, "[height, width]"),
        ({"texts": []}, "at least one text"),
        ({"texts": ["a", "a"]}, "each once"),
        ({"steps": "simpe"}, "Did you mean 'sim_pe'"),
        ({"scale": 0.5}, ">= 1"),
        ({"elastic": -1.0}, ">= 0"),
        ({"rotation": -1.0}, "model.api.rotation=-1.0: expected a number >= 0"),
        ({"size": 20}, "model.api.size=[20]: expected two numbers"),
        ({"size": [29, 10]}, "[smallest, largest], both at least 1,"),
        ({"size": [1, 20], "image_size": (14, 14)}, "both at least 2,"),
        ({"stroke": [0, 1.5]}, "model.api.stroke=[0, 1.5]: expected [thinnest, thickest]"),
        ({"stroke": [2, 1]}, "whole numbers >= 0"),
    ],
)
def test_impossible_settings_of_the_simulator_are_refused(settings, text):
    with pytest.raises(ConfigError) as caught:
        Simulator(**settings)
    assert text in str(caught.value)


def test_degrees_outside_the_range_of_an_api_are_refused():
    assert len(Simulator().degree_mistakes([0.0, 1.0, 1.1, -0.1])) == 2
    assert len(ImagePool("mnist").degree_mistakes([1, 20, 0, 1.5])) == 2


@pytest.fixture
def pool(monkeypatch):
    grey = (np.arange(40) * 6).astype(np.uint8)
    pixels = np.broadcast_to(grey[:, None, None, None], (40, 4, 4, 3)).copy()
    images = Images(pixels, np.zeros(40, int))
    monkeypatch.setattr("dpforge.data.public_images.load_public_images", lambda *a, **k: (images, ("x",)))
    api = ImagePool("mnist", image_size=(4, 4), max_batch=7)
    api.prepare([], "cpu")
    return api


def test_the_pool_is_drawn_without_replacement_until_it_is_empty(pool):
    images, info = pool.random(np.zeros(40, int), np.random.default_rng(0))
    assert sorted(info.tolist()) == list(range(40))
    assert np.array_equal(images[:, 0, 0, 0], 6 * info)
    _, more = pool.random(np.zeros(90, int), np.random.default_rng(0))
    assert np.bincount(more).max() == 3
    assert np.bincount(more).min() == 2


def test_a_variation_from_the_pool_is_one_of_the_nearest_images(pool):
    info = np.tile(np.arange(5, 35), 60)
    _, found = pool.variation(np.zeros(0), info, 5, np.random.default_rng(0))
    assert np.abs(found - info).max() == 2
    counts = np.bincount(found - info + 2)
    assert counts.min() > 0.8 * len(info) / 5
    assert np.array_equal(pool.variation(np.zeros(0), info, 1, np.random.default_rng(0))[1], info)


def test_the_record_of_a_pool_follows_its_pixels(pool):
    said = pool.describe()
    assert said["images"] == 40
    assert len(said["pool_sha256"]) == 64


@pytest.fixture
def mixed(monkeypatch):
    def make(**options):
        pixels = np.random.default_rng(0).integers(60, 190, (30, 4, 4, 3)).astype(np.uint8)
        images = Images(pixels, np.zeros(30, int))
        monkeypatch.setattr("dpforge.data.public_images.load_public_images", lambda *a, **k: (images, ("x",)))
        api = ImagePool("mnist", image_size=(4, 4), **options)
        api.prepare([], "cpu")
        return api, pixels.astype(float).reshape(30, -1)

    return make


def test_with_all_components_a_mixture_lies_between_an_image_and_a_neighbour(mixed):
    api, pixels = mixed(mixing=0.8, components=48)
    info = np.zeros(400, dtype=np.int64)
    plain, _ = mixed(mixing=0.0)
    _, found = plain.variation(np.zeros(0), info, 3, np.random.default_rng(1))
    images = pixels[info].astype(np.uint8).reshape(-1, 4, 4, 3)
    made, nearer = api.variation(images, info, 3, np.random.default_rng(1))
    steps = made.reshape(400, -1) - pixels[0]
    ways = pixels[found] - pixels[0]
    moved = found != 0
    shares = (steps * ways).sum(1)[moved] / (ways**2).sum(1)[moved]
    # 30 images span 29 axes through their mean; what rounding to whole pixels leaves is small beside a way.
    off = np.linalg.norm(steps[moved] - shares[:, None] * ways[moved], axis=1)
    assert off.max() < 0.05 * np.linalg.norm(ways[moved], axis=1).min()
    assert stats.kstest(shares, stats.uniform(0, 0.8).cdf).pvalue > 1e-3
    clear = np.abs(shares - 0.5) > 0.02
    assert np.array_equal(nearer[moved][clear], np.where(shares[clear] > 0.5, found[moved][clear], 0))


def test_few_components_change_an_image_along_them_only(mixed):
    api, pixels = mixed(mixing=1.0, components=2)
    info = np.arange(30).repeat(10)
    made, _ = api.variation(
        pixels[info].astype(np.uint8).reshape(-1, 4, 4, 3), info, 5, np.random.default_rng(0)
    )
    steps = made.reshape(len(info), -1) - pixels[info]
    strengths = np.linalg.svd(steps, compute_uv=False)
    assert strengths[1] > 4 * strengths[2]  # two directions; the rest is rounding to whole pixels


def test_impossible_mixtures_are_refused():
    with pytest.raises(ConfigError, match=r"mixing=1\.5"):
        ImagePool("mnist", mixing=1.5)
    with pytest.raises(ConfigError, match="components=0"):
        ImagePool("mnist", mixing=0.5, components=0)
