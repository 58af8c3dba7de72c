"""Any set of images as *public* ones: for extractors, starting points, baselines. No ledger covers them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

from dpforge.data.image_files import read_samples
from dpforge.data.image_folder import DECLARED_PUBLIC, ImageFolder
from dpforge.data.image_parts import converted
from dpforge.data.image_settings import size_mistakes, wanted_size
from dpforge.data.images import Images, ImageSchema
from dpforge.data.origin import reached, refuse_released
from dpforge.data.overlap import overlaps
from dpforge.data.places import conf_folder, plain
from dpforge.errors import ConfigError, DPForgeError, did_you_mean

_HOME = "dpforge.data."


def load_public_images(
    name_or_node: str | Path | Mapping[str, Any] | Any,
    *,
    size: int | Sequence[int] | None = None,
    channels: int | None = None,
) -> tuple[Images, tuple[str, ...]]:
    """All images of a data set or folder but those of its published test set, and the names of their classes.

    Who calls this states that the images are public: they are read without any accounting.

    Args:
        name_or_node: A name in ``conf/dataset``; a folder of image files (classes as in the names of the
            files); an npz file with ``samples``; or a mapping: ``name`` and keys of that data set, ``path``
            and keys of :class:`~dpforge.data.image_folder.ImageFolder`, or ``_target_`` and its keys. A data
            set object is taken as it is.
        size: A number of pixels or ``(height, width)``; ``None`` for the set's own. A folder needs one.
        channels: 1 or 3; ``None`` for the set's own.

    Raises:
        ConfigError: An unknown name or key, a set that is not one of images, or images that a run on
            private data made.
        DataError: The images cannot be fetched or read.
    """
    if mistakes := size_mistakes(size, "size"):
        raise ConfigError(mistakes)
    wanted = wanted_size(size)
    node = plain(name_or_node)
    if isinstance(node, str | Path) and str(node).endswith(".npz"):
        path = Path(node).expanduser()
        refuse_released(path)
        images, names = read_samples(path)
    else:
        source = _source(node, wanted)
        if getattr(source, "modality", None) != "image":
            raise ConfigError(
                f"{_shown(node)} is not a data set of images; choose one of {', '.join(_names())}"
            )
        for place in _places(source):
            refuse_released(place)
        data = replace(source, holdout_fraction=0.0).load()
        images, names = data.train, data.schema.classes
    shape = wanted or (images.pixels.shape[1], images.pixels.shape[2])
    return converted(images, shape, channels or images.pixels.shape[3]), names


def refuse_private_as_public(public: Any, dataset: Any, key: str) -> None:
    """Refuse public images that are, hold or come from the private ones; reads no image.

    Compared are names, described files and real places. A copy of private images elsewhere goes unnoticed.

    Args:
        public: As :func:`load_public_images` takes it.
        dataset: The private data set, or its schema, of which only the name is known.
        key: Setting that names the public images, for the error.

    Raises:
        ConfigError: They share records.
    """
    node = plain(public)
    try:
        source = _source(node, (1, 1))
    except DPForgeError:  # said by whoever reads it, or a file
        source = None
    reason = _shared_name(node, source, dataset) or _shared_files(source, dataset)
    reason = reason or _shared_place(node, source, dataset)
    if reason:
        raise ConfigError(
            f"{key}={_shown(node)}: {reason}: these are the private images themselves, or some of them."
            " Public images are read without any noise. Choose another public set."
        )


def _shared_name(node: Any, source: Any, dataset: Any) -> str:
    private = str(dataset.name)
    given = node.get("name") if isinstance(node, Mapping) else node
    names = {str(name) for name in (given, getattr(source, "name", None)) if isinstance(name, str)}
    if source is not None and _places(source) and private == ImageFolder.name:
        return ""  # two folders without names of their own: their places tell
    found = [name for name in sorted(names) if overlaps(name, private)]
    return f"the public set '{found[0]}' overlaps the private set '{private}'" if found else ""


def _shared_files(source: Any, dataset: Any) -> str:
    if isinstance(dataset, ImageSchema) or not _described(source) & _described(dataset):
        return ""
    return f"it is read from published files of the private set '{dataset.name}'"


def _described(source: Any) -> set[str]:
    """The digests by which a data set knows its files and images."""
    specs = source.file_specs() if hasattr(source, "file_specs") else {}
    content = getattr(source, "content", None) or {}
    return {spec.sha256 for spec in specs.values()} | {str(digest) for digest in content.values()}


def _shared_place(node: Any, source: Any, dataset: Any) -> str:
    private = [place.resolve() for place in _places(dataset)]
    named = [Path(node).expanduser()] if source is None and isinstance(node, str | Path) else _places(source)
    for place in (real for root in named if private for real in reached(root)):
        if any(place.is_relative_to(other) or other.is_relative_to(place) for other in private):
            return f"it leads to the files of the private set '{dataset.name}' (dataset.path)"
    return ""


def _places(source: Any) -> list[Path]:
    """The files or folders of the user that a data set reads."""
    given = (getattr(source, key, None) for key in ("path", "holdout_path"))
    return [Path(place).expanduser() for place in given if place]


def _source(node: Any, size: tuple[int, int] | None) -> Any:
    if is_dataclass(node):
        return node
    if isinstance(node, Mapping):
        return _from_mapping(dict(node), size)
    if not isinstance(node, str | Path):
        raise ConfigError(
            f"public images: expected a name, a folder or a mapping, got a {type(node).__name__}"
        )
    if str(node) in _names():
        return _named(str(node), {})
    if Path(node).expanduser().is_dir():
        return _from_mapping({"path": str(node)}, size)
    raise ConfigError(
        f"public images: {str(node)!r} is neither a data set nor a folder."
        f"{did_you_mean(str(node), _names())} Known: {', '.join(_names())}"
    )


def _from_mapping(entries: dict[str, Any], size: tuple[int, int] | None) -> Any:
    if "_target_" in entries:
        return _built(entries)
    if "path" not in entries:
        name = str(entries.pop("name", ""))
        if name not in _names():
            raise ConfigError(f"public images: unknown name {name!r}.{did_you_mean(name, _names())}")
        return _named(name, entries)
    defaults: dict[str, Any] = {"nominal_rows": 1, "public_benchmark": True}
    if entries.get("label_from") != "none":
        defaults["class_names"] = DECLARED_PUBLIC
    if size is not None:
        defaults["image_size"] = size
    elif "image_size" not in entries:
        raise ConfigError("public images of a folder need a size: give image_size")
    return _called(ImageFolder, {**defaults, **entries})


def _named(name: str, entries: Mapping[str, Any]) -> Any:
    import yaml

    node = yaml.safe_load((conf_folder() / "dataset" / f"{name}.yaml").read_text(encoding="utf-8"))
    return _built({**node, **entries})


def _built(entries: Mapping[str, Any]) -> Any:
    target = str(entries["_target_"])
    module, _, attribute = target.rpartition(".")
    if not f"{module}.".startswith(_HOME):
        raise ConfigError(f"public images: _target_={target!r} is not a data set of dpforge")
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"public images: there is no _target_={target!r}") from error
    return _called(kind, {key: entries[key] for key in entries if key not in ("_target_", "defaults")})


def _called(kind: Callable[..., Any], entries: Mapping[str, Any]) -> Any:
    known = list(inspect.signature(kind).parameters)
    unknown = [f"unknown key '{key}'.{did_you_mean(key, known)}" for key in entries if key not in known]
    if unknown:
        raise ConfigError(unknown)
    return kind(**entries)


def _names() -> list[str]:
    return sorted(path.stem for path in (conf_folder() / "dataset").glob("*.yaml"))


def _shown(node: Any) -> str:
    return repr(str(node)) if isinstance(node, str | Path) else "this"
