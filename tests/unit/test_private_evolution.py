"""Private Evolution: choice, blocks, files, resume, and what a population becomes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from contract.harness import KEY
from PIL import Image
from scipy import stats
from unit.private_evolution_runs import SIDE, Dots, dataset, files, fit, model, schema_of

from dpforge.data import ImageDataset, Images, ImageSchema
from dpforge.data.image_files import read_samples
from dpforge.errors import ConfigError, DataError, Interrupted, RunError
from dpforge.generators.private_evolution.apis.simulator import Simulator
from dpforge.generators.private_evolution.files import load_population, save_population
from dpforge.generators.private_evolution.loop import noise_floor
from dpforge.generators.private_evolution.population import Population, allocate, kept_votes, parents
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.spec import PrivacySpec


def test_images_divide_among_classes_by_largest_remainder():
    assert allocate(10, np.array([1.0, 1.0, 1.0])).tolist() == [4, 3, 3]
    assert allocate(10, np.array([0.26, 0.41, 0.33])).tolist() == [3, 4, 3]
    rng = np.random.default_rng(0)
    for total in range(40):
        shares = rng.dirichlet(np.full(7, 0.2))
        counts = allocate(total, shares)
        assert counts.sum() == total
        assert (counts >= (total >= 7)).all()
        if (total * shares >= 1).all():
            assert (np.abs(counts - total * shares) < 1).all()


@pytest.mark.parametrize("selection", ["sample", "systematic"])
def test_parents_are_drawn_in_proportion_to_their_worth(selection):
    worth = np.array([0.0, 1.0, 3.0, 0.0, 6.0])
    rng = np.random.default_rng(0)
    drawn = np.concatenate([parents(worth, 10, selection, rng) for _ in range(2000)])
    counts = np.bincount(drawn, minlength=5)
    np.testing.assert_allclose(counts / len(drawn), worth / worth.sum(), atol=0.01)
    assert counts[0] == counts[3] == 0


def test_systematic_selection_gives_each_parent_its_whole_share():
    worth = np.array([1.0, 2.0, 5.0, 2.0])
    for seed in range(20):
        drawn = parents(worth, 20, "systematic", np.random.default_rng(seed))
        assert np.bincount(drawn).tolist() == [2, 4, 10, 4]


def test_rank_takes_the_most_worth_and_ties_in_order():
    assert parents(np.array([1.0, 4.0, 2.0, 4.0]), 3, "rank", np.random.default_rng(0)).tolist() == [1, 3, 2]


@pytest.mark.parametrize("threshold", [1e9, -np.inf])
def test_a_threshold_that_leaves_nothing_or_everything_draws_uniformly(threshold):
    worth = kept_votes(np.array([5.0, 1.0, -2.0, 9.0]), threshold)
    drawn = parents(worth, 40_000, "sample", np.random.default_rng(0))
    assert stats.chisquare(np.bincount(drawn, minlength=4)).pvalue > 1e-4


def test_the_noise_floor_equals_a_simulation():
    noise = np.random.default_rng(0).normal(0, 5.0, 400_000)
    simulated = 100 * np.maximum(noise - 7.0, 0).mean()
    assert noise_floor(100, 5.0, 7.0) == pytest.approx(simulated, rel=0.02)
    assert noise_floor(100, 0.0, 0.0) == 0.0


def test_without_noise_the_population_becomes_the_private_distribution(tmp_path):
    """One place a class: in a few iterations every image of the class is there."""
    where = np.array([3, 8, 13])
    schema = schema_of()
    fitted = fit(model(num_iterations=4, num_samples_schedule=300), dataset(schema, where=where), tmp_path)
    assert np.array_equal(fitted.population.info, where[fitted.population.labels])


def test_divergence_from_the_private_distribution_falls_under_noise(tmp_path):
    schema = schema_of(("one",), rows=6000)
    shares = np.random.default_rng(4).dirichlet(np.full(SIDE * SIDE, 0.5))
    places = np.random.default_rng(1).choice(SIDE * SIDE, 6000, p=shares)
    images = Images(Dots().draw(places)[..., :1], np.zeros(6000, dtype=np.int64))
    data = ImageDataset(schema, images, images.head(0), None, True, "f")
    settings = model(num_samples_schedule=2000, num_iterations=3, lookahead_degree=0, threshold=5.0)
    settings = replace(settings, variation_degree_schedule=[0.0, 0.5, 0.2, 0.0])
    spec = PrivacySpec(target_epsilon=None, noise_multiplier=2.0)
    fit(settings, data, tmp_path, spec)

    def divergence(t):
        info = load_population(tmp_path / f"samples/{t}/samples.npz").info
        found = (np.bincount(info, minlength=SIDE * SIDE) + 0.5) / (len(info) + SIDE * SIDE / 2)
        return stats.entropy(found, shares + 1e-9)

    assert divergence(3) < 0.35 * divergence(0)


def test_files_of_every_iteration_hold_class_blocks_in_order(tmp_path):
    schema = schema_of(("x", "y", "z"))
    settings = model(num_samples_schedule=[10, 20, 31, 17])
    fit(settings, dataset(schema), tmp_path, SPEC)
    for iteration, size in enumerate([10, 20, 31, 17]):
        path = tmp_path / f"samples/{iteration}/samples.npz"
        with np.load(path, allow_pickle=False) as content:
            assert content["samples"].dtype == np.uint8
            assert content["samples"].shape == (size, SIDE, SIDE, 3)
            assert content["labels"].dtype == np.int64
            assert content["class_names"].tolist() == ["x", "y", "z"]
            assert len(content["additional_info"]) == size
            assert content["labels"].tolist() == sorted(content["labels"])
            expected = allocate(size, np.ones(3))
            assert np.bincount(content["labels"]).tolist() == expected.tolist()
        assert read_samples(path, schema)[1] == schema.classes
    with np.load(tmp_path / "samples/2/histogram.npz") as content:
        assert content["count"].shape == (20,)


def test_children_and_kept_parents_have_the_sizes_that_the_options_say(tmp_path):
    settings = model(initial_variation_fold=2, next_variation_fold=3, keep_selected=True)
    fitted = fit(settings, dataset(schema_of()), tmp_path)
    assert len(load_population(tmp_path / "samples/0/samples.npz")) == 180
    assert len(fitted.population) == 60 * 4
    assert Counter(fitted.population.labels.tolist()) == {0: 80, 1: 80, 2: 80}


@pytest.mark.parametrize(
    "options",
    [
        {"lookahead_degree": 2},
        {"num_samples_schedule": [10, 20, 31, 17], "lookahead_degree": 0},
        {"initial_variation_fold": 2, "next_variation_fold": 3, "keep_selected": True},
        {"packing": 3, "lookahead_degree": 2, "next_variation_fold": 2},
    ],
    ids=["lookahead", "schedule", "folds", "packing"],
)
def test_the_images_foreseen_are_those_the_api_is_asked_for(options, tmp_path):
    settings = model(**options)
    fit(settings, dataset(schema_of()), tmp_path)
    asked = Counter()
    for kind, count in settings.api.calls:
        asked[kind] += count
    assert (asked["random"], asked["variation"]) == settings.api_images()
    paper = model(num_samples_schedule=50_000, num_iterations=20, lookahead_degree=8)
    assert sum(paper.api_images()) == 9_050_000


def test_images_to_start_from_are_not_drawn_by_the_api(tmp_path):
    settings = model()
    fit(settings, dataset(schema_of()), tmp_path / "first")
    later = model(initial_samples=str(tmp_path / "first/samples/0/samples.npz"), packing=2)
    fit(later, dataset(schema_of()), tmp_path / "later")
    assert {kind for kind, _ in later.api.calls} == {"variation"}
    # An API that costs nothing first tries one image of the file.
    assert (0, sum(count for _, count in later.api.calls if count > 1)) == later.api_images()


@pytest.mark.parametrize(("rows", "images"), [(60, 500), (1797, 599), (5000, 1666), (60_000, 2000)])
def test_the_size_of_a_population_follows_the_public_number_of_private_images(rows, images):
    made = model(num_samples_schedule="auto")
    assert made.sizes(rows) == [images] * 4
    assert made.block_sizes(2, np.full(3, 1 / 3), rows).sum() == images
    assert made.api_images(rows)[0] == images
    with pytest.raises(ConfigError, match="expected auto, or whole numbers"):
        model(num_samples_schedule="many")


def test_labels_that_are_missing_from_the_data_keep_their_blocks(tmp_path):
    schema = schema_of(tuple("abcdefgh"))
    data = dataset(schema)
    data = replace(data, train=data.train.take(np.isin(data.train.labels, [3, 7])))
    fitted = fit(model(num_samples_schedule=16), data, tmp_path)
    assert np.bincount(fitted.population.labels).tolist() == [2] * 8


def test_an_unconditional_run_makes_images_without_classes(tmp_path):
    fitted = fit(model(conditional=False), dataset(schema_of()), tmp_path)
    assert fitted.schema.classes == ()
    assert set(fitted.population.labels.tolist()) == {0}


def test_public_class_shares_divide_the_population(tmp_path):
    settings = model(class_prior="public", class_fractions={"a": 3, "c": 1, "b": 2})
    fitted = fit(settings, dataset(schema_of()), tmp_path)
    assert np.bincount(fitted.population.labels).tolist() == [30, 20, 10]


SPEC = PrivacySpec(target_epsilon=None, noise_multiplier=3.0)


def test_the_same_keys_give_the_same_bytes_and_other_keys_do_not(tmp_path):
    data = dataset(schema_of())
    for name, key in (("one", KEY), ("two", KEY), ("three", bytes(32))):
        fit(model(), data, tmp_path / name, SPEC, key=key)
    one, two, three = (files(tmp_path / name / "samples") for name in ("one", "two", "three"))
    assert one == two
    assert one["0/samples.npz"] == three["0/samples.npz"]
    assert one["1/histogram.npz"] != three["1/histogram.npz"]


@pytest.mark.parametrize("stop", range(1, 9))
def test_a_run_stopped_anywhere_and_resumed_equals_an_uninterrupted_one(tmp_path, stop):
    data, settings = dataset(schema_of()), model(lookahead_degree=2, keep_selected=True)
    fit(settings, data, tmp_path / "whole", SPEC)
    asked = Counter()

    def stopping():
        asked["times"] += 1
        return asked["times"] == stop

    with pytest.raises(Interrupted):
        fit(settings, data, tmp_path / "part", SPEC, stopping=stopping)
    fit(settings, data, tmp_path / "part", SPEC)
    assert files(tmp_path / "part" / "samples") == files(tmp_path / "whole" / "samples")
    reserved = [
        [r["count"] for r in Ledger.open(tmp_path / name / "ledger.jsonl")._records if r["kind"] == "reserve"]
        for name in ("whole", "part")
    ]
    assert reserved == [[3], [3]]


def test_votes_that_were_released_are_not_drawn_again_on_resume(tmp_path, monkeypatch):
    """An API that answers differently would otherwise put the same noise on other votes."""
    data, settings = dataset(schema_of()), model()
    keep = "dpforge.generators.private_evolution.loop.Evolution._chosen"

    def killed(self, iteration, *arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(keep, killed)
        with pytest.raises(KeyboardInterrupt):
            fit(settings, data, tmp_path, SPEC)
    before = (tmp_path / "samples/1/histogram.npz").read_bytes()
    released = []
    gaussian = PrivateAccess.gaussian
    monkeypatch.setattr(
        PrivateAccess,
        "gaussian",
        lambda self, name, value, **kw: released.append(kw["step"]) or gaussian(self, name, value, **kw),
    )
    fit(settings, data, tmp_path, SPEC)
    assert released == [1, 2]
    assert (tmp_path / "samples/1/histogram.npz").read_bytes() == before


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_population_is_made_again_with_the_same_noise(tmp_path, damage, caplog):
    data, settings = dataset(schema_of()), model()
    fit(settings, data, tmp_path, SPEC)
    before = files(tmp_path / "samples")
    path = tmp_path / "samples/3/samples.npz"
    path.write_bytes(path.read_bytes()[:100]) if damage == "cut" else path.unlink()
    fit(settings, data, tmp_path, SPEC)
    assert files(tmp_path / "samples") == before
    assert "made again" in caplog.text


def test_a_run_does_not_continue_with_another_public_generator(tmp_path):
    data = dataset(schema_of())
    fit(model(), data, tmp_path, SPEC)
    with pytest.raises(RunError, match="another public api"):
        fit(replace(model(), api=Dots(name="other")), data, tmp_path, SPEC)


def test_a_saved_population_comes_back_whatever_its_side_information_is(tmp_path):
    schema = schema_of()
    fitted = fit(model(), dataset(schema), tmp_path / "run")
    for info in (
        fitted.population.info,
        np.array([f"a photo of {i}" for i in fitted.population.info]),
        np.array([(i, i / 3) for i in fitted.population.info], dtype=[("font", "i4"), ("size", "f4")]),
    ):
        kept = replace(fitted.population, info=info)
        fitted.population = kept
        folder = tmp_path / info.dtype.str.strip("<|=>")
        folder.mkdir()
        fitted.save(folder)
        back = model().load(folder)
        assert back.schema == schema
        assert back.population.info.dtype == info.dtype
        for name in ("pixels", "labels", "info"):
            assert np.array_equal(getattr(back.population, name), getattr(kept, name))


def test_samples_are_the_population_or_a_balanced_part_of_it_or_variations(tmp_path):
    fitted = fit(model(), dataset(schema_of()), tmp_path)
    assert fitted.released_rows == 60
    whole = fitted.sample(60, np.random.default_rng(0))
    assert np.array_equal(whole.rgb(), fitted.population.pixels)
    part = fitted.sample(20, np.random.default_rng(0))
    assert np.bincount(part.labels).tolist() == [7, 7, 6]
    assert part.labels.tolist() == sorted(part.labels)
    more = fitted.sample(150, np.random.default_rng(0))
    assert np.bincount(more.labels).tolist() == [50, 50, 50]
    assert more.labels.tolist() == sorted(more.labels)
    again = model().load(_saved(fitted, tmp_path / "model")).sample(150, np.random.default_rng(0))
    assert np.array_equal(more.pixels, again.pixels)


def _saved(fitted, folder):
    folder.mkdir()
    fitted.save(folder)
    return folder


def test_samples_have_the_size_and_channels_of_the_data(tmp_path):
    schema = ImageSchema("large", 300, 6, 8, 3, ("a", "b"))
    data = ImageDataset(
        schema,
        Images(np.zeros((50, 6, 8, 3), dtype=np.uint8), np.arange(50) % 2),
        Images(np.zeros((0, 6, 8, 3), dtype=np.uint8), np.zeros(0, dtype=np.int64)),
        None,
        True,
        "f",
    )
    made = fit(model(), data, tmp_path).sample(60, np.random.default_rng(0))
    assert made.pixels.shape == (60, 6, 8, 3)


def test_public_images_can_be_the_start(tmp_path):
    schema = schema_of()
    info = np.arange(60) % 16
    start = Population(Dots().draw(info), np.repeat(np.arange(3), 20), info)
    save_population(tmp_path / "public.npz", start, schema.classes)
    settings = model(initial_samples=str(tmp_path / "public.npz"))
    fit(settings, dataset(schema), tmp_path / "run")
    assert np.array_equal(load_population(tmp_path / "run/samples/0/samples.npz").pixels, start.pixels)
    assert ("random", 60) not in settings.api.calls
    larger = replace(settings, num_samples_schedule=90)
    with pytest.raises(DataError, match="too few images of: a, b, c"):
        fit(larger, dataset(schema), tmp_path / "larger")


def test_samples_of_an_unfinished_private_run_are_refused_as_a_start(tmp_path):
    fit(model(), dataset(schema_of()), tmp_path, SPEC)
    settings = model(initial_samples=str(tmp_path / "samples/3/samples.npz"))
    with pytest.raises(ConfigError, match="no readable certificate"):
        settings.plan(schema_of(), SPEC)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"num_samples_schedule": [10, 10]}, "has 2 entries, num_iterations asks for 4"),
        ({"variation_degree_schedule": [0.1] * 9}, "has 9 entries, num_iterations asks for 4"),
        ({"noise_schedule": [1.0] * 4}, "has 4 entries, num_iterations asks for 3"),
        ({"noise_schedule": [1.0, 0.0, 1.0]}, "finite numbers > 0"),
        ({"num_samples_schedule": [10, 10, 0, 10]}, "whole numbers >= 1"),
        ({"variation_degree_schedule": 1.5}, "degree 1.5"),
        ({"variation_degree_schedule": "linear"}, "expected auto"),
        ({"distance": "cosin"}, "Did you mean 'cosine'"),
        ({"selection": "ranks"}, "Did you mean 'rank'"),
        ({"num_nearest_neighbors": 0}, "whole number >= 1"),
        ({"lookahead_degree": 0, "packing": 2}, "on top of each other"),
        ({"noise": "rounded_gaussian", "num_nearest_neighbors": 2}, "whole votes"),
        ({"class_prior": "public"}, "takes fractions"),
        ({"class_fractions": [1, 1, 1]}, "takes fractions"),
        ({"threshold": "high"}, "auto or a number"),
        ({"threshold": float("nan")}, "auto or a number"),
        ({"subsample": 0.0}, "(0, 1]"),
        ({"selection": "rank", "class_prior": "dp_counts"}, "known beforehand"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_a_remedy(settings, text):
    with pytest.raises(ConfigError) as caught:
        model(**settings)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "schema", "text"),
    [
        ({"num_samples_schedule": 2}, schema_of(), "2 images for 3 classes"),
        ({"conditional": True}, schema_of(()), "has no classes"),
        ({"selection": "rank", "num_samples_schedule": [9, 9, 12, 12]}, schema_of(), "asks for 4 parents"),
        ({"class_prior": "public", "class_fractions": {"a": 1, "b": 1}}, schema_of(), "differ in c"),
        ({"class_prior": "public", "class_fractions": [1, 1]}, schema_of(), "expected 3 numbers"),
        ({"initial_samples": "absent.npz"}, schema_of(), "no such file"),
        ({"api": Simulator()}, schema_of(), "a, b, c is not among"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_refused_before_it_is_read(settings, schema, text):
    with pytest.raises(ConfigError) as caught:
        replace(model(), **settings).plan(schema, SPEC)
    assert text in str(caught.value)


def test_a_picture_of_each_population_shows_a_class_a_row(tmp_path):
    fit(model(save_grid=True, save_png=True), dataset(schema_of()), tmp_path)
    with Image.open(tmp_path / "samples/0/grid.png") as picture:
        shown = np.asarray(picture)
    assert shown.shape == (3 * SIDE, 10 * SIDE, 3)
    first = load_population(tmp_path / "samples/0/samples.npz")
    assert np.array_equal(shown[SIDE : 2 * SIDE, -SIDE:], first.pixels[39])
    assert len(list((tmp_path / "samples/png").glob("*.png"))) == 60


def test_an_api_that_returns_something_else_is_named(tmp_path):
    class Wrong(Dots):
        def random(self, labels, rng):
            images, info = super().random(labels, rng)
            return images[:-1], info

    with pytest.raises(DataError, match=r"model\.api=dots returned uint8 images of shape"):
        fit(replace(model(), api=Wrong()), dataset(schema_of()), tmp_path)
