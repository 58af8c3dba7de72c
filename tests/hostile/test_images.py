"""Images that are broken, absurd or meant to harm."""

from __future__ import annotations

import logging
import os

import pytest

from dpforge.data.image_folder import ImageFolder
from dpforge.data.image_reading import ReadingLimits, Unreadable, decoded, file_bytes, quiet_decoders

from .examining import CANARY, examined
from .image_cases import HANDLED, REFUSED, png

LIMITS = ReadingLimits(max_bytes=2**24)


def read(path):
    with quiet_decoders():
        return decoded(file_bytes(path, LIMITS.max_bytes), (8, 8), 3, LIMITS)


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_image_is_a_reason_that_says_nothing_of_its_content(name, tmp_path, monkeypatch):
    content, reason = REFUSED[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(content)
    found = examined(lambda: read(tmp_path / "a.png"), tmp_path, Unreadable)
    assert found.refused is not None, "it was decoded"
    assert reason in found.refused


@pytest.mark.parametrize("name", HANDLED)
def test_an_odd_image_becomes_pixels_of_the_wanted_size(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(HANDLED[name])
    found = examined(lambda: read(tmp_path / "a.png"), tmp_path, Unreadable)
    assert found.result is not None, found.refused
    assert found.result.shape == (8, 8, 3)


def test_a_folder_of_hostile_files_is_read_and_none_is_named(tmp_path, monkeypatch, caplog):
    """Links in a circle, a pipe, a bomb and private names among good images."""
    monkeypatch.setenv("DPFORGE_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "images"
    root.mkdir()
    for number in range(4):
        (root / f"a_{CANARY}{number}.png").write_bytes(HANDLED["one pixel"])
    (root / f"a_{CANARY}bomb.png").write_bytes(png(60_000, 60_000))
    (root / f"{CANARY}_1.png").write_bytes(HANDLED["one pixel"])
    os.mkfifo(root / "a_pipe.png")
    (root / "a_loop.png").symlink_to(root / "a_loop.png")
    (root / "circle").symlink_to(root)
    (root / "a_folder.png").mkdir()
    source = ImageFolder(str(root), class_names=["a"], nominal_rows=10, holdout_fraction=0.0)
    with caplog.at_level(logging.INFO):
        found = examined(source.load, root)
    assert found.refused is None, found.refused
    assert len(found.result.train) == 4
    assert CANARY not in caplog.text
    assert "4 files of the image folder were left out" in caplog.text


@pytest.mark.parametrize("on_error", ["drop", "fail"])
def test_a_folder_without_one_good_image_is_refused_without_a_name(on_error, tmp_path, monkeypatch):
    monkeypatch.setenv("DPFORGE_CACHE", str(tmp_path.parent / "cache"))
    (tmp_path / f"a_{CANARY}.png").write_bytes(b"broken")
    source = ImageFolder(str(tmp_path), class_names=["a"], nominal_rows=10, on_error=on_error)
    found = examined(source.load, tmp_path)
    assert found.refused is not None
    assert "no file of the folder can be used" in found.refused


def test_there_are_at_least_twenty_five_hostile_images():
    assert len(REFUSED) + len(HANDLED) >= 25
