"""More rows of a finished run: any number, written block by block in the memory of one block.

Reads only what the certificate already covers, so it costs no privacy and needs no private data.
"""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from dpforge.configuration.building import instantiate_components
from dpforge.configuration.keys import COMPONENTS, node_mistakes
from dpforge.data.opening import replacing
from dpforge.errors import ConfigError, DPForgeError, Interrupted, RunError
from dpforge.experiment.display import progress
from dpforge.experiment.rundir import RunDir
from dpforge.experiment.runner import stored_config
from dpforge.experiment.stages import StopFlag
from dpforge.generators.base import FittedTable
from dpforge.privacy.rng import public_random

BLOCK = 50_000
ENDINGS = (".csv.gz", ".csv", ".parquet")
_NEEDED = ("model", "runtime")
Append = Callable[[pd.DataFrame], None]


def sample_rows(
    run: Path, rows: int, out: Path, *, seed: int = 0, overwrite: bool = False, bar: bool = True
) -> None:
    """Write ``rows`` rows of a finished run to a table file, which appears complete or not at all.

    The same run, seed and ending give the same rows, and fewer rows are the first of more; they differ
    from the rows of the run itself for every seed.

    Args:
        run: Folder of a finished run; nothing in it is changed.
        rows: At least 1.
        out: Ends in ``.parquet``, ``.csv`` or ``.csv.gz``.
        seed: Public seed, >= 0.
        overwrite: Whether an existing ``out`` is replaced; files of the run never are.
        bar: Whether to draw progress on a terminal.

    Raises:
        ConfigError: With every mistake among the arguments.
        RunError: The run is not finished, or its model is missing or not the certified one.
        DataError: ``out`` cannot be written.
        Interrupted: Asked to stop; nothing was written.
    """
    folder = RunDir(run)
    mistakes = [*_number_mistakes(rows, seed), *_place_mistakes(out, run, overwrite)]
    if mistakes:
        raise ConfigError(mistakes)
    fitted = finished_model(folder)
    with (
        StopFlag().installed() as stopping,
        progress(bar) as display,
        replacing(out) as temporary,
        display.task("sample", rows) as stage,
        _writing(temporary, _ending(out)) as append,
    ):
        for block in blocks(fitted, rows, seed):
            append(block)
            stage.advance(len(block))
            if stopping():
                raise Interrupted(f"stopped; {out} was not written. Start the same command again.")


def blocks(fitted: FittedTable, rows: int, seed: int) -> Iterator[pd.DataFrame]:
    """Yield ``rows`` rows as typed tables of at most 50,000 rows, each drawn from its own public stream.

    Every block is drawn whole and then cut, because generators restore marginals within a block: a last
    block of a few rows would lose the dependence between columns.
    """
    random = public_random(seed)
    for number, start in enumerate(range(0, rows, BLOCK)):
        block = fitted.sample(BLOCK, random.generator("more rows", number))
        yield block.head(rows - start)


def finished_model(folder: RunDir) -> FittedTable:
    """Load the model of a finished run; raises ``RunError`` unless it is the one that was certified."""
    if folder.status()["state"] != "done":
        raise RunError(f"{folder.root} is not a finished run. Start its command again first.")
    _check_certified(folder)
    built = _components(folder)
    if built["runtime"].threads:
        torch.set_num_threads(built["runtime"].threads)
    try:
        return built["model"].load(folder.model)
    except DPForgeError:
        raise
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"the model of {folder.root} does not fit its config.yaml ({type(error).__name__}): another"
            " version of dpforge made it. Use that version (environment.json names it), or run again."
        ) from error


def _check_certified(folder: RunDir) -> None:
    certified = folder.read_json(folder.certificate).get("files", {})
    files = sorted(folder.model.glob("model.*"))
    if not files:
        raise RunError(f"the model of {folder.root} is gone. Restore the folder 'model'.")
    for path in files:
        if hashlib.sha256(path.read_bytes()).hexdigest() != certified.get(f"model/{path.name}"):
            raise RunError(
                f"{path} is not the file that the certificate of the run covers. Restore it;"
                " 'dpforge-verify' checks the whole run."
            )


def _components(folder: RunDir) -> dict[str, Any]:
    """The run's model and runtime. Its data set is left alone: the data may be elsewhere, or gone."""
    config = stored_config(folder)
    mistakes = [text for key, text in node_mistakes(config) if key in _NEEDED]
    built: dict[str, Any] = {}
    if not mistakes:
        built, mistakes = instantiate_components(config, skip=frozenset(COMPONENTS) - {*_NEEDED})
    if mistakes:
        raise ConfigError([f"{folder.config}: {text}" for text in mistakes])
    return built


def _number_mistakes(rows: int, seed: int) -> list[str]:
    mistakes = []
    if rows < 1:
        mistakes.append(f"-n {rows}: expected at least 1 row.")
    if seed < 0:
        mistakes.append(f"--seed {seed}: expected an integer >= 0.")
    return mistakes


def _place_mistakes(out: Path, run: Path, overwrite: bool) -> list[str]:
    if not _ending(out):
        return [f"--out {out}: expected a name that ends in .parquet, .csv or .csv.gz."]
    if out.is_dir():
        return [f"--out {out} is a folder. Give the name of a file in it."]
    if not out.exists():
        return []
    if out.resolve().is_relative_to(run.resolve()):
        return [f"--out {out} is a file of the run itself. Choose another name."]
    return [] if overwrite else [f"--out {out} exists. Choose another name, or replace it with --force."]


def _ending(out: Path) -> str:
    return next((ending for ending in ENDINGS if out.name.lower().endswith(ending)), "")


@contextmanager
def _writing(path: Path, ending: str) -> Iterator[Append]:
    if ending == ".parquet":
        with _parquet(path) as append:
            yield append
    else:
        with _csv(path, zipped=ending == ".csv.gz") as append:
            yield append


@contextmanager
def _parquet(path: Path) -> Iterator[Append]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with ExitStack() as stack:
        writers: list[pq.ParquetWriter] = []

        def append(frame: pd.DataFrame) -> None:
            table = pa.Table.from_pandas(frame, preserve_index=False)
            if not writers:
                writers.append(stack.enter_context(pq.ParquetWriter(path, table.schema)))
            writers[0].write_table(table)

        yield append


@contextmanager
def _csv(path: Path, zipped: bool) -> Iterator[Append]:
    with ExitStack() as stack:
        stream: Any = stack.enter_context(path.open("wb"))
        if zipped:
            # No name and no time, so that equal rows are equal bytes.
            stream = stack.enter_context(gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0))
        text = stack.enter_context(io.TextIOWrapper(stream, encoding="utf-8", newline=""))
        header = True

        def append(frame: pd.DataFrame) -> None:
            nonlocal header
            frame.to_csv(text, header=header, index=False, lineterminator="\n")
            header = False

        yield append
