"""Synthetic images on disk: the npz file, its reading by class name, single pictures; and public images."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dpforge.data import Images, ImageSchema
from dpforge.data.image_files import export_pictures, read_samples, write_samples
from dpforge.data.image_folder import ImageFolder
from dpforge.data.public_images import load_public_images
from dpforge.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
NAMES = ("cat", "dog", "T-shirt/top")


def _images(channels=3, n=9):
    pixels = RNG.integers(0, 256, (n, 5, 4, channels), dtype=np.uint8)
    return Images(pixels, np.repeat(np.arange(3), n // 3))


def _schema(channels=3, classes=NAMES, size=(5, 4)):
    return ImageSchema("s", 9, *size, channels, classes)


@pytest.mark.parametrize("channels", [1, 3])
def test_written_images_are_read_back_with_the_channels_of_the_schema(tmp_path, channels):
    images = _images(channels)
    write_samples(tmp_path / "a" / "samples.npz", images, NAMES)
    again, names = read_samples(tmp_path / "a" / "samples.npz", _schema(channels))
    assert np.array_equal(again.pixels, images.pixels)
    assert np.array_equal(again.labels, images.labels)
    assert names == NAMES


def test_the_file_holds_three_channels_labels_and_names_that_numpy_reads_without_objects(tmp_path):
    images = _images(1)
    extra = {"additional_info": np.array(["ä"] * 9)}
    write_samples(tmp_path / "s.npz", images, NAMES, extra)
    with np.load(tmp_path / "s.npz", allow_pickle=False) as file:
        assert set(file.files) == {"samples", "labels", "class_names", "additional_info"}
        assert file["samples"].shape == (9, 5, 4, 3)
        assert file["samples"].dtype == np.uint8
        assert file["labels"].dtype == np.int64
        assert file["class_names"].tolist() == list(NAMES)
        assert file["additional_info"].tolist() == ["ä"] * 9


def test_equal_images_give_equal_bytes_and_nothing_else_is_left_in_the_folder(tmp_path, monkeypatch):
    images = _images()
    write_samples(tmp_path / "a.npz", images, NAMES)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    write_samples(tmp_path / "b.npz", images, NAMES)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"a.npz", "b.npz"}


def test_a_write_that_fails_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    write_samples(tmp_path / "a.npz", _images(), NAMES)
    before = (tmp_path / "a.npz").read_bytes()
    monkeypatch.setattr("dpforge.data.image_files.npy.write_array", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_samples(tmp_path / "a.npz", _images(), NAMES)
    assert (tmp_path / "a.npz").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("extra", [{"labels": np.zeros(1)}, {"x": np.array([{}], object)}])
def test_objects_and_taken_names_are_refused_as_extra_arrays(tmp_path, extra):
    with pytest.raises(DataError, match="extra array"):
        write_samples(tmp_path / "a.npz", _images(), NAMES, extra)


def test_labels_are_matched_by_the_name_of_the_class_and_not_by_its_number(tmp_path):
    images = _images()
    write_samples(tmp_path / "a.npz", images, NAMES)
    turned = ("T-shirt/top", "cat", "dog")
    again, names = read_samples(tmp_path / "a.npz", _schema(classes=turned))
    assert names == turned
    assert [turned[i] for i in again.labels] == [NAMES[i] for i in images.labels]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (_schema(classes=("cats", "dog", "T-shirt/top")), "Did you mean 'cats'"),
        (_schema(size=(4, 5)), "not 4 x 5"),
    ],
)
def test_samples_that_do_not_fit_the_schema_are_an_error(tmp_path, schema, reason):
    write_samples(tmp_path / "a.npz", _images(), NAMES)
    with pytest.raises(DataError, match=reason):
        read_samples(tmp_path / "a.npz", schema)


def test_a_file_with_samples_alone_is_read_as_one_class_and_labels_out_of_range_are_an_error(tmp_path):
    images = _images()
    np.savez(tmp_path / "a.npz", samples=images.pixels)
    again, names = read_samples(tmp_path / "a.npz")
    assert names == ()
    assert again.labels.tolist() == [0] * 9
    np.savez(tmp_path / "b.npz", samples=images.pixels, labels=images.labels + 1, class_names=np.array(NAMES))
    with pytest.raises(DataError, match="outside its 3 class names"):
        read_samples(tmp_path / "b.npz")
    with pytest.raises(DataError, match="check the path"):
        read_samples(tmp_path / "absent.npz")


def test_exported_pictures_are_read_back_by_an_image_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DPFORGE_CACHE", str(tmp_path / "cache"))
    images = _images(n=12)
    places = export_pictures(tmp_path / "out", images, NAMES)
    assert places[0].name == "cat_00.png"
    source = ImageFolder(
        str(tmp_path / "out"), ["cat", "dog", "T-shirt-top"], 12, (5, 4), holdout_fraction=0.0
    )
    again = source.load().train
    order = np.argsort([place.name for place in places], kind="stable")
    assert np.array_equal(again.pixels, images.pixels[order])
    assert np.array_equal(again.labels, images.labels[order])


def test_classes_that_would_share_a_file_label_are_refused(tmp_path):
    with pytest.raises(DataError, match="alike"):
        export_pictures(tmp_path, _images(), ("a_b", "a-b", "c"))


@pytest.fixture
def pool(tmp_path, monkeypatch):
    monkeypatch.setenv("DPFORGE_CACHE", str(tmp_path / "cache"))
    for i in range(6):
        (tmp_path / "pool" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(
            tmp_path / "pool" / "ab"[i % 2] / f"{'xy'[i % 2]}_{i}.png"
        )
    return tmp_path / "pool"


def test_public_images_come_from_a_name_a_folder_a_mapping_an_object_and_a_file(pool, tmp_path):
    images, names = load_public_images(str(pool), size=8)
    assert (len(images), names, images.pixels.shape[1:]) == (6, ("x", "y"), (8, 8, 3))
    grey, names = load_public_images({"path": str(pool), "label_from": "folder"}, size=(6, 8), channels=1)
    assert (names, grey.pixels.shape) == (("a", "b"), (6, 6, 8, 1))
    assert load_public_images({"path": str(pool), "label_from": "none", "image_size": 4})[1] == ()
    digits, names = load_public_images("digits")
    assert (len(digits), len(names)) == (1797, 10)
    fonts, _ = load_public_images({"name": "font_digits", "rows": 50}, size=14, channels=3)
    assert fonts.pixels.shape == (50, 14, 14, 3)
    source = ImageFolder(str(pool), ["x", "y"], 6, 9)
    same, _ = load_public_images(source)
    assert len(same) == 6
    write_samples(tmp_path / "p.npz", same, ("x", "y"))
    again, names = load_public_images(tmp_path / "p.npz")
    assert np.array_equal(again.pixels, same.pixels)
    assert names == ("x", "y")


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        ("digitz", "Did you mean 'digits'"),
        ("adult", "not a data set of images"),
        ({"name": "digits", "image_siz": 3}, "Did you mean 'image_size'"),
        ({"_target_": "os.system", "command": "true"}, "not a data set of dpforge"),
        ({"_target_": "dpforge.data.nothing.Here"}, "there is no"),
        ({"name": "x"}, "unknown name"),
        (3, "got a int"),
    ],
)
def test_what_names_no_public_images_is_an_error_that_says_what_there_is(node, reason):
    with pytest.raises(ConfigError, match=reason):
        load_public_images(node)


def test_a_public_folder_needs_a_size(pool):
    with pytest.raises(ConfigError, match="need a size"):
        load_public_images(str(pool))
