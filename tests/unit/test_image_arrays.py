"""Files that hold a whole set of images: their formats, and hostile or broken ones."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
from numpy.lib import format as npy
from PIL import Image

from dpforge.data.image_arrays import READERS, read_idx, read_npz
from dpforge.errors import DataError

RNG = np.random.default_rng(0)


def _idx(path, array, pack=True):
    content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if pack else content)
    return path


@pytest.mark.parametrize("pack", [True, False])
def test_an_idx_file_gives_the_array_it_was_made_from(tmp_path, pack):
    array = RNG.integers(0, 256, (5, 3, 4), dtype=np.uint8)
    assert np.array_equal(read_idx(_idx(tmp_path / "a", array, pack)), array)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\x0d\1\0\0\0\1\0\0\0\0",  # floats
        b"\0\0\x08\3\0\0",  # cut in the header
        b"\0\0\x08\1\0\0\0\x09abc",  # cut in the data
        b"\0\0\x08\1\xff\xff\xff\xff",  # four gigabytes announced, none there
        b"\0\0\x08\4" + b"\xff" * 16,  # 2**128 announced
        gzip.compress(b"\0\0\x08\1\0\0\0\x09abcdefghi", mtime=0)[:-12],
    ],
)
def test_a_broken_idx_file_is_an_error_with_its_name_and_not_its_content(tmp_path, content):
    (tmp_path / "images.idx").write_bytes(content)
    with pytest.raises(DataError, match=r"images\.idx"):
        read_idx(tmp_path / "images.idx", max_bytes=2**20)


def test_an_npz_file_gives_its_arrays_in_any_order_and_type(tmp_path):
    x, y = np.asfortranarray(RNG.integers(0, 256, (3, 4, 5), dtype=np.uint8)), np.array(["a", "é"])
    np.savez_compressed(tmp_path / "a.npz", x=x, y=y)
    arrays = read_npz(tmp_path / "a.npz", {"images": "x", "names": "y"})
    assert np.array_equal(arrays["images"], x)
    assert arrays["names"].tolist() == ["a", "é"]


class _Bomb:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_python_objects_in_an_npz_file_are_refused_and_never_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "a.npz", x=np.array([_Bomb()], object))
    with pytest.raises(DataError, match="Python objects"):
        read_npz(tmp_path / "a.npz", {"images": "x"})
    assert not (tmp_path / "executed").exists()


def test_an_npz_file_that_unpacks_to_more_than_the_limit_is_refused_before_it_is_unpacked(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(50_000_000, np.uint8))
    assert (tmp_path / "a.npz").stat().st_size < 100_000
    with pytest.raises(DataError, match="more than the limit of 1,000,000"):
        read_npz(tmp_path / "a.npz", {"images": "x"}, max_bytes=1_000_000)


def test_an_npz_header_that_announces_more_than_the_file_holds_is_a_truncated_file(tmp_path):
    header = io.BytesIO()
    npy.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (1000,)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue() + bytes(10))
    with pytest.raises(DataError, match="truncated"):
        read_npz(tmp_path / "a.npz", {"images": "x"})


@pytest.mark.parametrize(
    ("content", "reason"), [(b"PK not a zip", "not a readable file"), (None, "no array 'x'")]
)
def test_what_is_no_npz_file_or_lacks_an_array_is_an_error(tmp_path, content, reason):
    np.savez(tmp_path / "a.npz", other=np.zeros(1))
    if content:
        (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=reason):
        read_npz(tmp_path / "a.npz", {"images": "x"})


def _pair(n):
    return (RNG.integers(0, 256, (n, 784)) / 256).astype(np.float32), RNG.integers(0, 10, n)


def test_only_number_arrays_are_built_from_the_pickle_and_everything_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    read = READERS["mnist_pickle"][0]
    for content in (_Bomb(), [(_Bomb(), 1)], np.array([_Bomb()], object), {"a": os.path.join}):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(DataError, match=r"a\.pkl is not a readable file"):
            read({"archive": tmp_path / "a.pkl"}, {})
    assert not (tmp_path / "executed").exists()


def _latin(array):
    """An array as Python 2 pickled it: its state holds bytes as a text of latin-1."""
    code = array.dtype.str
    dtype = f"cnumpy\ndtype\n(S'{code[1:]}'\nI0\nI1\ntR(I3\nS'{code[0]}'\nNNNI-1\nI-1\nI0\ntb"
    shape = "".join(f"I{n}\n" for n in array.shape)
    head = f"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n({shape}t{dtype}I00\n"
    data = array.tobytes()
    return head.encode() + b"T" + struct.pack("<I", len(data)) + data + b"tb"


def test_the_pickled_digits_become_bytes_and_their_three_parts_become_two(tmp_path):
    pairs = [_pair(n) for n in (4, 3, 2)]
    content = b"(" + b"".join(b"(" + _latin(x) + _latin(y) + b"t" for x, y in pairs) + b"t."
    (tmp_path / "a.pkl").write_bytes(gzip.compress(content))
    parts = READERS["mnist_pickle"][0]({"archive": tmp_path / "a.pkl"}, {})
    train = np.concatenate([x for x, _ in pairs[:2]])
    assert np.array_equal(parts["train"].pixels.reshape(7, 784), (train * 256).astype(np.uint8))
    assert np.array_equal(parts["holdout"].labels, pairs[2][1])


def test_the_digits_of_text_are_scaled_from_sixteen_to_two_hundred_and_fifty_five(tmp_path):
    rows = np.concatenate([RNG.integers(0, 17, (5, 64)), np.arange(5)[:, None]], axis=1)
    np.savetxt(tmp_path / "a.csv", rows, delimiter=",", fmt="%d")
    images = READERS["digits"][0]({"archive": tmp_path / "a.csv"}, {})["train"]
    assert images.labels.tolist() == [0, 1, 2, 3, 4]
    assert np.array_equal(images.pixels.reshape(5, 64), np.floor(rows[:, :64] * 255 / 16 + 0.5))


def test_binary_batches_and_picture_strips_of_the_same_images_are_read_alike(tmp_path):
    pixels = RNG.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    labels = RNG.integers(0, 10, 6)
    binary, strips = {}, {}
    for role, rows in (("data_batch_1", [0, 1]), ("data_batch_2", [2, 3]), ("test_batch", [4, 5])):
        records = [bytes([labels[i]]) + pixels[i].transpose(2, 0, 1).tobytes() for i in rows]
        binary[role] = tmp_path / f"{role}.bin"
        binary[role].write_bytes(b"".join(records))
        strips[role] = tmp_path / f"{role}.png"
        Image.fromarray(pixels[rows].reshape(2, 1024, 3)).save(strips[role])
    for role, part in (("train_labels", labels[:4]), ("test_labels", labels[4:])):
        strips[role] = tmp_path / f"{role}.json"
        strips[role].write_text(json.dumps(part.tolist()))
    one, two = READERS["cifar_binary"][0](binary, {}), READERS["cifar_strips"][0](strips, {})
    for part, rows in (("train", slice(0, 4)), ("holdout", slice(4, 6))):
        assert np.array_equal(one[part].pixels, pixels[rows])
        assert np.array_equal(two[part].pixels, pixels[rows])
        assert one[part].labels.tolist() == two[part].labels.tolist() == labels[rows].tolist()
        assert one[part].pixels.flags.writeable
        assert two[part].pixels.flags.writeable
