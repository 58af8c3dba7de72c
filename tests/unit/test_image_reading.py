"""Decoding single image files: conversions, and bad files as reasons without content."""

from __future__ import annotations

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dpforge.data.image_folder import ImageFolder
from dpforge.data.image_reading import ReadingLimits, Unreadable, decoded, file_bytes, fitted, quiet_decoders


@pytest.fixture
def ramp():
    """A colour image of 6 x 8 pixels, every pixel another colour."""
    return np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def _saved(image, path, kind="PNG", **options):
    image.save(path, kind, **options)
    return path


def _read(path, size=(6, 8), channels=3, **limits):
    with quiet_decoders():
        allowed = ReadingLimits(**limits)
        return decoded(file_bytes(path, allowed.max_bytes), size, channels, allowed)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_a_lossless_picture_of_the_wanted_size_keeps_its_pixels(ramp, tmp_path, kind):
    assert np.array_equal(_read(_saved(Image.fromarray(ramp), tmp_path / "a", kind)), ramp)


def test_a_wrong_ending_does_not_matter_the_content_decides(ramp, tmp_path):
    assert np.array_equal(_read(_saved(Image.fromarray(ramp), tmp_path / "a.jpg", "PNG")), ramp)


def test_a_jpeg_in_cmyk_becomes_red_green_blue(tmp_path):
    image = Image.new("RGB", (8, 6), (200, 40, 90)).convert("CMYK")
    pixels = _read(_saved(image, tmp_path / "a.jpg", "JPEG", quality=95))
    assert pixels.shape == (6, 8, 3)
    assert np.abs(pixels.astype(int) - [200, 40, 90]).max() <= 6


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    values = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    pixels = _read(_saved(Image.fromarray(values), tmp_path / "a.png"), (1, 4), 1)
    assert pixels[0, :, 0].tolist() == [0, 1, 128, 255]


def test_a_palette_becomes_its_colours_and_what_is_transparent_becomes_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    pixels = _read(_saved(image, tmp_path / "a.png", transparency=1), (1, 2))
    assert pixels[0].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_half_transparency_is_laid_over_white(tmp_path):
    image = Image.fromarray(np.array([[[0, 0, 0, 128]]], np.uint8), "RGBA")
    assert _read(_saved(image, tmp_path / "a.png"), (1, 1))[0, 0].tolist() == [127, 127, 127]


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    assert _read(tmp_path / "a.gif", (4, 4))[0, 0].tolist() == [255, 0, 0]


def test_a_rotation_noted_by_the_camera_is_applied(ramp, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees to the right
    path = _saved(Image.fromarray(ramp), tmp_path / "a.png", exif=exif)
    assert np.array_equal(_read(path, (8, 6)), np.rot90(ramp, -1))


def test_grey_is_repeated_in_a_colour_set_and_colour_becomes_luma_in_a_grey_one(ramp, tmp_path):
    grey = _saved(Image.fromarray(ramp[..., 0]), tmp_path / "g.png")
    assert np.array_equal(_read(grey), np.repeat(ramp[..., :1], 3, axis=2))
    colour = _read(_saved(Image.fromarray(ramp), tmp_path / "c.png"), channels=1)
    assert np.array_equal(colour[..., 0], np.rint(ramp @ np.array([0.299, 0.587, 0.114])))


def test_another_size_covers_the_target_and_is_cut_in_the_middle():
    wide = np.zeros((10, 30, 1), np.uint8)
    wide[:, 10:20] = 200
    assert (fitted(wide, (10, 10)) == 200).all()
    tall = fitted(wide.transpose(1, 0, 2), (5, 5))
    assert tall.mean() > 190  # only the black beside the cut shines in
    assert fitted(wide, (7, 3)).shape == (7, 3, 1)


def _png_with_header_of(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def _content(kind):
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"this is a letter to a patient", "broken"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "broken"),
        (_content("PNG")[:3000], "broken"),
        (_content("JPEG")[:1000], "broken"),
        (_content("GIF")[:60], "broken"),
        (_png_with_header_of(60_000, 60_000), "too large"),
        (_png_with_header_of(9_000, 9_000), "too large"),
        (bytes(128) + b"DICM" + b"\xff" * 300, "broken"),
    ],
)
def test_a_file_that_gives_no_image_is_a_reason_that_says_nothing_of_its_content(tmp_path, content, reason):
    (tmp_path / "Smith_1.png").write_bytes(content)
    with pytest.raises(Unreadable) as error:
        _read(tmp_path / "Smith_1.png")
    assert str(error.value) == reason


def test_a_file_above_the_size_limit_is_not_read_whole(ramp, tmp_path):
    path = _saved(Image.fromarray(ramp), tmp_path / "a.png")
    with pytest.raises(Unreadable, match="too large"):
        _read(path, max_bytes=50)


def test_real_numbers_without_a_range_are_refused(tmp_path):
    path = _saved(Image.fromarray(np.ones((3, 3), np.float32)), tmp_path / "a.tif", "TIFF")
    with pytest.raises(Unreadable, match="real numbers"):
        _read(path)


def test_links_in_a_circle_pipes_folders_and_absent_files_are_reasons_and_never_block(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("a.png", "absent.png", "pipe.png", "folder.png"):
        with pytest.raises(Unreadable, match=r"not readable|not a regular file"):
            _read(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may read every file")
def test_a_file_without_permission_is_a_reason(ramp, tmp_path):
    path = _saved(Image.fromarray(ramp), tmp_path / "a.png")
    path.chmod(0)
    with pytest.raises(Unreadable, match="not readable"):
        _read(path)


def _dicom(path, values, photometric="MONOCHROME2", **attributes):
    pydicom = pytest.importorskip("pydicom")
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data = pydicom.Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Rows, data.Columns = values.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, photometric
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelRepresentation = 0
    for name, value in attributes.items():
        setattr(data, name, value)
    data.PixelData = values.astype("<u2").tobytes()
    data.save_as(path, enforce_file_format=True)
    return path


def test_a_ct_slice_is_shown_through_the_public_window_in_hounsfield_units(tmp_path):
    values = np.array([[0, 24, 1024, 2047, 4095]])
    path = _dicom(tmp_path / "a.dcm", values, RescaleSlope=1, RescaleIntercept=-1024)
    shown = _read(path, (1, 5), 1, dicom_window=(-1000.0, 1000.0))[0, :, 0]
    assert shown.tolist() == [0, 0, 128, 255, 255]


def test_slices_whose_files_have_no_ending_are_read(tmp_path):
    for i in range(4):
        _dicom(tmp_path / f"scan{i % 2}_{i}", np.full((1, 8, 8), 1000 * i))
    source = ImageFolder(str(tmp_path), ["scan0", "scan1"], 4, image_size=8, channels=1, holdout_fraction=0.0)
    found = source.load().train
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.pixels[:, 0, 0, 0].argsort().tolist() == [0, 2, 1, 3]


def test_without_a_window_a_slice_shows_the_one_noted_in_it_else_every_value_its_bits_hold(tmp_path):
    values = np.array([[0, 99, 200, 4095]])
    noted = _dicom(tmp_path / "a.dcm", values, WindowCenter=100, WindowWidth=200)
    assert _read(noted, (1, 4), 1)[0, :, 0].tolist() == [0, 126, 255, 255]
    assert _read(_dicom(tmp_path / "b.dcm", values), (1, 4), 1)[0, :, 0].tolist() == [0, 6, 12, 255]


def test_a_slice_with_inverted_grey_is_turned_and_of_several_frames_the_first_is_taken(tmp_path):
    values = np.array([[0, 4095]])
    assert _read(_dicom(tmp_path / "a.dcm", values, "MONOCHROME1"), (1, 2), 1)[0, :, 0].tolist() == [255, 0]
    two = np.array([[[0, 4095]], [[4095, 4095]]])
    path = _dicom(tmp_path / "b.dcm", two, NumberOfFrames=2)
    assert _read(path, (1, 2), 1)[0, :, 0].tolist() == [0, 255]
