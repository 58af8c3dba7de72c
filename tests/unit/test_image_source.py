"""Published sets of images as data sets: routes, the check of the decoded images, splits and subsets."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dpforge.data import Images
from dpforge.data.image_parts import content_digest, pixel_hashes, record_keys
from dpforge.data.image_source import ImageSource
from dpforge.data.places import conf_folder
from dpforge.data.sources.font_digits import FontDigits
from dpforge.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (200, 6, 6), dtype=np.uint8)
LABELS = np.arange(200) % 2


@pytest.fixture(autouse=True)
def own_places(tmp_path, monkeypatch):
    monkeypatch.setenv("DPFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DPFORGE_DATA", str(tmp_path))


def _file(path, **arrays):
    np.savez(path, **arrays)
    return {"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _route(file, test=False, **fields):
    keys = {"train_images": "x", "train_labels": "y"}
    keys |= {"test_images": "x", "test_labels": "y"} if test else {}
    return {"format": "npz", "keys": keys, "files": {"archive": file}, **fields}


def _source(*routes, **fields):
    settings = {
        "name": "s",
        "height": 6,
        "width": 6,
        "channels": 1,
        "classes": ["a", "b"],
        "nominal_rows": 200,
    }
    return ImageSource(routes=routes, **(settings | fields))


def _as_set(images):
    return {pixels.tobytes() for pixels in images.pixels}


def test_without_a_test_set_a_keyed_part_is_held_out_and_the_public_number_follows(tmp_path):
    source = _source(_route(_file(tmp_path / "a.npz", x=PIXELS, y=LABELS)), holdout_fraction=0.25)
    data = source.load()
    assert source.public_schema().nominal_rows == 150
    assert len(data.train) + len(data.holdout) == 200
    assert 25 <= len(data.holdout) <= 75
    assert not _as_set(data.train) & _as_set(data.holdout)


def test_a_published_test_set_is_the_holdout_part_and_holdout_fraction_has_no_effect(tmp_path):
    route = _route(_file(tmp_path / "a.npz", x=PIXELS, y=LABELS), test=True)
    data = _source(route, holdout_fraction=0.25).load()
    assert (len(data.train), len(data.holdout), data.schema.nominal_rows) == (200, 200, 200)


def test_a_subset_keeps_each_image_by_its_own_draw_and_scales_the_public_number(tmp_path):
    def kept(rows, name):
        route = _route(_file(tmp_path / name, x=PIXELS[rows], y=LABELS[rows]), test=True)
        source = _source(route, max_records=60)
        assert source.public_schema().nominal_rows == 60
        return _as_set(source.load().train)

    everything = kept(np.arange(200), "all.npz")
    assert 35 <= len(everything) <= 85
    for gone in (0, 50, 199):
        fewer = kept(np.delete(np.arange(200), gone), f"without{gone}.npz")
        assert everything - fewer == everything & {PIXELS[gone].tobytes()}
        assert not fewer - everything


def test_the_subset_and_the_holdout_part_are_drawn_independently(tmp_path):
    pixels = RNG.integers(0, 256, (4000, 6, 6), dtype=np.uint8)
    route = _route(_file(tmp_path / "a.npz", x=pixels, y=np.zeros(4000, np.int64)))
    data = _source(route, nominal_rows=4000, holdout_fraction=0.5, max_records=1000).load()
    assert 1860 <= len(data.holdout) <= 2140
    assert 880 <= len(data.train) <= 1120  # half of the training half; dependent draws would give 0 or 2,000


def test_equal_images_have_different_keys_and_a_key_depends_on_content_and_class_name_alone():
    pixels = np.zeros((3, 2, 2, 1), np.uint8)
    keys = record_keys(pixel_hashes(Images(pixels, np.array([0, 0, 1])), ["a", "b"]))
    assert len(set(keys.tolist())) == 3
    renumbered = record_keys(pixel_hashes(Images(pixels, np.array([1, 1, 0])), ["b", "a"]))
    assert np.array_equal(keys, renumbered)


def test_a_route_at_hand_is_preferred_to_a_download_of_an_earlier_one(tmp_path):
    file = _file(tmp_path / "a.npz", x=PIXELS, y=LABELS)
    absent = {"name": "absent.npz", "sha256": "0" * 64, "urls": ["http://127.0.0.1:9/never"]}
    assert len(_source(_route(absent), _route(file)).load().train) == 200
    places = _source(_route(absent), _route(file)).locate()
    assert places["archive"].origin == "folder"


def test_when_no_route_can_be_had_the_error_names_every_file_and_the_remedy(tmp_path):
    routes = [_route({"name": f"{name}.npz", "sha256": "0" * 64}) for name in ("one", "two")]
    with pytest.raises(DataError) as error:
        _source(*routes).load()
    assert all(word in str(error.value) for word in ("'one.npz'", "'two.npz'", "DPFORGE_DATA"))


def test_every_route_must_give_the_images_whose_digest_is_published(tmp_path):
    digest = content_digest(Images(PIXELS[..., None], LABELS))
    other = PIXELS.copy()
    other[7, 3, 3] ^= 1
    right, wrong = (_file(tmp_path / f"{i}.npz", x=x, y=LABELS) for i, x in enumerate((PIXELS, other)))
    assert _source(_route(right), content={"train": digest}).load()
    with pytest.raises(DataError, match="other ones than published"):
        _source(_route(wrong), content={"train": digest}).load()


def test_the_first_images_of_each_class_can_define_a_set(tmp_path):
    route = _route(_file(tmp_path / "a.npz", x=PIXELS, y=LABELS), first_per_class={"train": 3})
    data = _source(route, nominal_rows=6, holdout_fraction=0.0).load()
    assert np.array_equal(data.train.pixels[..., 0], PIXELS[:6])


def test_another_size_and_number_of_channels_are_made_without_moving_a_record(tmp_path):
    route = _route(_file(tmp_path / "a.npz", x=PIXELS, y=LABELS))
    usual = _source(route, holdout_fraction=0.3).load()
    large = _source(route, holdout_fraction=0.3, image_size=[12, 10], channels=3).load()
    assert large.schema.shape == large.train.pixels.shape[1:] == (12, 10, 3)
    assert np.array_equal(usual.train.labels, large.train.labels)
    assert np.array_equal(large.train.pixels[..., 0], large.train.pixels[..., 2])


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"x": PIXELS[:, :5], "y": LABELS}, "5 x 6 pixels, not the 6 x"),
        ({"x": PIXELS, "y": LABELS + 1}, "labels outside the 2 classes"),
        ({"x": PIXELS, "y": LABELS[:9]}, "labels of type"),
        ({"x": PIXELS.astype(np.float32), "y": LABELS}, "images of bytes"),
        ({"x": PIXELS}, "no array 'y'"),
    ],
)
def test_a_file_that_does_not_hold_the_images_described_is_an_error(tmp_path, arrays, reason):
    with pytest.raises(DataError, match=reason):
        _source(_route(_file(tmp_path / "a.npz", **arrays))).load()


def test_every_mistake_of_the_settings_is_reported_at_once():
    routes = [
        {"format": "np", "files": {}},
        {"format": "idx", "files": {"train_images": {"name": "a", "sha256": "0" * 64}}, "fils": 1},
    ]
    with pytest.raises(ConfigError) as error:
        _source(*routes, image_size=[1, 2, 3], max_records=-1, holdout_fraction=2, nominal_rows=0)
    text = str(error.value)
    for part in (
        "Did you mean 'npz'",
        "Did you mean 'files'",
        "train_labels is missing",
        "image_size",
        "above 0",
    ):
        assert part in text
    assert len(error.value.mistakes) == 7


def test_the_digits_come_from_the_installed_library_and_equal_its_own_reading():
    datasets = pytest.importorskip("sklearn.datasets")
    config = OmegaConf.load(conf_folder() / "dataset" / "digits.yaml")
    config.pop("defaults", None)
    data = instantiate(config).load()
    assert data.train.pixels.shape[1:] == (8, 8, 1)
    together = np.concatenate([data.train.pixels, data.holdout.pixels])[..., 0]
    ours = {image.tobytes() for image in together}
    theirs = np.floor(datasets.load_digits().images * 255 / 16 + 0.5).astype(np.uint8)
    assert ours == {image.tobytes() for image in theirs}
    assert len(together) == 1797
    assert data.schema.nominal_rows == 1438


def test_font_digits_are_the_same_for_the_same_seed_and_every_class_is_equally_frequent():
    one, two, other = (FontDigits(rows=200, seed=seed).load() for seed in (0, 0, 1))
    assert np.array_equal(one.train.pixels, two.train.pixels)
    assert not np.array_equal(one.train.pixels[:50], other.train.pixels[:50])
    counts = np.bincount(one.train.labels, minlength=10) + np.bincount(one.holdout.labels, minlength=10)
    assert counts.tolist() == [20] * 10
    assert one.schema.shape == (28, 28, 1)
    assert one.train.pixels.max() == 255
