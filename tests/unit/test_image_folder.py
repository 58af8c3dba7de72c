"""A folder of own images: classes, labels, bad files, keyed splits, and what stays private."""

from __future__ import annotations

import logging
import os

import numpy as np
import pytest
from PIL import Image

from dpforge.data import image_parts
from dpforge.data.image_folder import ImageFolder
from dpforge.data.image_listing import image_files
from dpforge.data.image_source import own_images
from dpforge.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DPFORGE_CACHE", str(tmp_path / "cache"))


def _picture(path, value, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def folder(tmp_path):
    """Forty pictures of two classes in nested folders; the classes alternate."""
    root = tmp_path / "mine"
    for i in range(40):
        _picture(root / f"part{i % 3}" / f"{['dog', 'cat'][i % 2]}_{i:03}.PNG", i)
    return root


def _source(root, **fields):
    settings = {"class_names": ["cat", "dog"], "nominal_rows": 40, "image_size": 8} | fields
    return own_images(str(root), **settings)


def _as_set(images):
    return {
        (pixels.tobytes(), int(label)) for pixels, label in zip(images.pixels, images.labels, strict=True)
    }


def test_labels_come_from_the_name_before_the_first_underscore_in_the_order_of_the_configured_classes(folder):
    data = _source(folder, class_names=["dog", "cat"], holdout_fraction=0.0).load()
    assert data.schema.classes == ("dog", "cat")
    assert np.bincount(data.train.labels).tolist() == [20, 20]
    first = np.random.default_rng(3).integers(0, 256, (8, 8, 3), dtype=np.uint8)  # part0/cat_003
    assert np.array_equal(data.train.pixels[0], first)
    assert data.train.labels[0] == 1
    assert not data.public_benchmark
    assert data.schema.nominal_rows == 40


def test_labels_come_from_the_name_of_the_folder_when_asked(tmp_path):
    for i, name in enumerate(("a", "b", "b")):
        _picture(tmp_path / "mine" / "x" / name / f"{i}.png", i)
    _picture(tmp_path / "mine" / "loose.png", 9)  # in no class's folder
    source = _source(tmp_path / "mine", class_names=["a", "b"], label_from="folder", holdout_fraction=0.0)
    assert source.load().train.labels.tolist() == [0, 1, 1]


def test_images_without_labels_are_one_class_without_a_name(folder):
    source = _source(folder, class_names=None, label_from="none", holdout_fraction=0.0)
    assert source.public_schema().classes == ()
    assert not source.public_schema().unconfirmed
    assert set(source.load().train.labels.tolist()) == {0}


def test_removing_a_record_moves_no_other_between_training_holdout_and_the_left_out_ones(folder):
    def parts():
        data = _source(folder, holdout_fraction=0.3, max_records=14).load()
        return _as_set(data.train), _as_set(data.holdout)

    train, holdout = parts()
    assert 0 < len(train) < 28
    assert 0 < len(holdout) < 24
    for name in ("part0/dog_000.PNG", "part1/cat_019.PNG", "part2/dog_038.PNG"):
        gone = folder / name
        content = gone.read_bytes()
        gone.unlink()
        fewer_train, fewer_holdout = parts()
        assert fewer_train <= train
        assert fewer_holdout <= holdout
        assert len(train) + len(holdout) - len(fewer_train) - len(fewer_holdout) <= 1
        gone.write_bytes(content)


def test_another_image_size_moves_no_record_to_the_other_side(folder):
    small, large = (_source(folder, image_size=size, holdout_fraction=0.5).load() for size in (8, [10, 12]))
    assert large.train.pixels.shape[1:] == (10, 12, 3)
    assert np.array_equal(small.train.labels, large.train.labels)
    assert np.abs(small.train.pixels.mean((1, 2)) - large.train.pixels.mean((1, 2))).max() < 25


def test_the_public_number_of_images_follows_the_configuration_and_never_the_folder(folder):
    assert _source(folder, nominal_rows=1000, holdout_fraction=0.1).public_schema().nominal_rows == 900
    assert _source(folder, nominal_rows=1000, max_records=50).public_schema().nominal_rows == 50
    assert _source(folder, nominal_rows=1000, holdout_path="x").public_schema().nominal_rows == 1000


def test_a_second_folder_is_the_holdout_part(folder, tmp_path):
    _picture(tmp_path / "test" / "cat_1.png", 77)
    data = _source(folder, holdout_path=str(tmp_path / "test")).load()
    assert (len(data.train), len(data.holdout)) == (40, 1)


def test_classes_that_nobody_stated_are_unconfirmed_and_are_not_read_from_the_folder(folder):
    source = _source(folder, class_names=None, nominal_rows=None)
    assert source.public_schema().unconfirmed == ("nominal_rows", "classes")
    assert source.public_schema().classes == ()
    with pytest.raises(ConfigError, match="declared_public"):
        source.load()


def test_classes_declared_public_are_the_sorted_names_of_the_folder(folder):
    schema = _source(folder, class_names="declared_public").public_schema()
    assert schema.classes == ("cat", "dog")
    assert not schema.unconfirmed


def test_what_a_draft_proposes_stays_unconfirmed_until_its_name_is_removed(folder):
    drafted = _source(folder, unconfirmed=["class_names", "nominal_rows"])
    assert drafted.public_schema().unconfirmed == ("nominal_rows", "classes")
    with pytest.raises(ConfigError, match="not confirmed"):
        drafted.load()
    assert not _source(folder, unconfirmed=[]).public_schema().unconfirmed


BAD = {
    "cat_empty.png": b"",
    "dog_text.jpg": b"Dear Mr Miller",
    "cat_short.png": b"\x89PNG\r\n\x1a\n\0\0",
}


def test_bad_files_are_left_out_and_only_their_number_is_logged(folder, caplog):
    before = _source(folder).load()
    for name, content in BAD.items():
        (folder / name).write_bytes(content)
    _picture(folder / "secretdisease_1.png", 99)
    (folder / "notes.txt").write_text("not an image, not looked at")
    (folder / "._cat_1.png").write_bytes(b"hidden")
    with caplog.at_level(logging.INFO):
        after = _source(folder).load()
    assert _as_set(after.train) == _as_set(before.train)
    assert _as_set(after.holdout) == _as_set(before.holdout)
    text = caplog.text
    assert (
        "4 files of the image folder were left out: 2 broken, 1 empty, 1 of a class that is not listed"
        in text
    )
    assert not any(word in text for word in ("secret", "Miller", "cat_", "dog_"))


def test_on_error_fail_stops_at_a_bad_file_without_naming_it(folder):
    (folder / "cat_Miller.png").write_bytes(b"x")
    with pytest.raises(DataError) as error:
        _source(folder, on_error="fail").load()
    assert "broken" in str(error.value)
    assert "Miller" not in str(error.value)


@pytest.mark.parametrize("case", ["none usable", "empty", "absent", "file"])
def test_a_folder_that_gives_no_image_is_an_error_that_says_what_to_check(tmp_path, case):
    root = tmp_path / "mine"
    if case == "file":
        root.write_text("")
    elif case != "absent":
        root.mkdir()
    if case == "none usable":
        (root / "cat_Miller.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"dataset\.path") as error:
        _source(root).load()
    assert "Miller" not in str(error.value)


def test_links_to_a_folder_are_followed_once_and_never_in_a_circle(folder, tmp_path):
    (folder / "round").symlink_to(folder)
    _picture(tmp_path / "elsewhere" / "cat_900.png", 900)
    (folder / "away").symlink_to(tmp_path / "elsewhere")
    data = _source(folder, holdout_fraction=0.0).load()
    assert len(data.train) == 41


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may read every folder")
def test_a_folder_inside_that_cannot_be_read_is_an_error_and_not_fewer_records(folder):
    (folder / "part1").chmod(0)
    with pytest.raises(DataError, match="permissions"):
        _source(folder).load()
    (folder / "part1").chmod(0o700)


def test_pixels_above_the_memory_limit_lie_in_a_nameless_file_and_are_the_same(folder, monkeypatch, tmp_path):
    usual = _source(folder).load()
    monkeypatch.setattr(image_parts, "BLOCK", 7)
    for i in range(40, 150):
        _picture(folder / f"cat_{i}.png", i, (60, 60))
    large = _source(folder, image_size=64, memory_limit_mb=1).load()
    assert isinstance(large.train.pixels, np.memmap)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    again = _source(folder, image_size=64).load()
    assert not isinstance(again.train.pixels, np.memmap)
    assert np.array_equal(again.train.pixels, large.train.pixels)
    assert again.fingerprint == large.fingerprint != usual.fingerprint


def test_progress_tells_the_files_done(folder):
    seen = []
    _source(folder).load(progress=lambda *report: seen.append(report))
    assert seen[-1] == (40, 40)


def test_every_mistake_of_the_settings_is_reported_at_once():
    with pytest.raises(ConfigError) as error:
        ImageFolder(
            "x", class_names="cat", nominal_rows=0, image_size=0, channels=2, label_from="fil",
            on_error="skip",
            holdout_fraction=1.0, max_records=0, dicom_window=[3, 1], unconfirmed=["rows"], memory_limit_mb=0,
        )  # fmt: skip
    assert len(error.value.mistakes) == 11
    assert "Did you mean 'file'?" in str(error.value)


def test_dicom_files_without_an_ending_are_found_by_their_content(tmp_path):
    dicom = bytes(128) + b"DICM" + bytes(8)
    for name in ("IM0001", "1.2.840.10008", "DICOMDIR", "notes", "slide.old"):
        (tmp_path / name).write_bytes(b"short" if name == "notes" else dicom)
    os.mkfifo(tmp_path / "pipe")
    assert [path.name for path in image_files(tmp_path)] == ["1.2.840.10008", "IM0001"]


@pytest.mark.parametrize("pattern", [r"CONTRAST_(\d)", r"^(ID)_(\d+)_.*CONTRAST_(?P<label>\d)_"])
def test_a_pattern_finds_the_class_anywhere_in_a_name(pattern, tmp_path):
    root = tmp_path / "mine"
    for i in range(4):
        _picture(root / f"ID_{i:04}_AGE_0060_CONTRAST_{i % 2}_CT.png", i)
    _picture(root / "ID_0009_AGE_0060_CT.png", 9)  # of no class
    fields = {"label_pattern": pattern, "holdout_fraction": 0.0}
    found = _source(root, class_names=["0", "1"], **fields).load()
    assert found.train.labels.tolist() == [0, 1, 0, 1]
    declared = _source(root, class_names="declared_public", **fields)
    assert declared.public_schema().classes == ("0", "1")


@pytest.mark.parametrize(
    ("pattern", "more", "text"),
    [
        ("CONTRAST_(", {}, "no regular expression"),
        (r"CONTRAST_\d", {}, "0 groups"),
        (r"(\d)_(\d)", {}, "2 groups"),
        (7, {}, "label_pattern=7"),
        (r"(\d)", {"label_from": "folder"}, "label_from=folder"),
    ],
)
def test_a_pattern_that_finds_no_class_is_refused_before_data_is_read(pattern, more, text):
    with pytest.raises(ConfigError, match=text):
        ImageFolder("x", label_pattern=pattern, **more)
