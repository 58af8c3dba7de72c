"""More rows of a finished run: any number, written block by block in the memory of one block.

Reads only what the certificate already covers, so it costs no privacy and needs no private data.
"""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
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
ABLE = ("tabular_argn",)  # the models that can be given cells
_NEEDED = ("model", "runtime")
Append = Callable[[pd.DataFrame], None]
Draw = Callable[[int, np.random.Generator], pd.DataFrame]


@runtime_checkable
class ConditionalTable(FittedTable, Protocol):
    """A finished model that can draw some cells given others; see :class:`FittedARGN` for the methods."""

    def generate(
        self, rows: int, rng: np.random.Generator, *, temperature: float = 1.0, top_p: float = 1.0
    ) -> pd.DataFrame:
        """Return rows drawn at a temperature, or from the likeliest codes only."""
        ...

    def complete(
        self, given: pd.DataFrame, rng: np.random.Generator, *, temperature: float = 1.0, top_p: float = 1.0
    ) -> pd.DataFrame:
        """Return one row for each row of ``given``, whose cells are kept."""
        ...

    def impute(self, frame: pd.DataFrame, rng: np.random.Generator, *, draws: int = 1) -> list[pd.DataFrame]:
        """Return tables in which every missing cell is drawn given the others."""
        ...

    def rebalance(
        self, rows: int, rng: np.random.Generator, shares: Mapping[str, Mapping[str, float]]
    ) -> pd.DataFrame:
        """Return rows in which one column has given proportions."""
        ...

    def predict_proba(self, frame: pd.DataFrame, column: str) -> pd.DataFrame:
        """Return p(column | all other columns)."""
        ...


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
    mistakes = [*number_mistakes(rows, seed), *place_mistakes(out, run, overwrite)]
    if mistakes:
        raise ConfigError(mistakes)
    fitted = finished_model(RunDir(run))
    write_blocks([out], ((0, block) for block in blocks(fitted.sample, rows, seed)), rows, bar=bar)


def blocks(draw: Draw, rows: int, seed: int, size: int | None = None) -> Iterator[pd.DataFrame]:
    """Yield ``rows`` rows as typed tables of at most ``size`` rows, each drawn from its own public stream.

    Every block is drawn whole and then cut, because generators restore marginals within a block: a last
    block of a few rows would lose the dependence between columns.

    Args:
        draw: Makes so many rows from public randomness.
        rows: At least 1.
        seed: Public seed, >= 0.
        size: Rows drawn at a time; ``None`` is 50,000.
    """
    random, size = public_random(seed), size or BLOCK
    for number, start in enumerate(range(0, rows, size)):
        yield draw(size, random.generator("more rows", number)).head(rows - start)


def write_blocks(
    outs: Sequence[Path], numbered: Iterable[tuple[int, pd.DataFrame]], total: int, *, bar: bool = True
) -> None:
    """Write tables block by block; all of them appear once the last block is written, or none does.

    Args:
        outs: Files to write, each ending in one of ``ENDINGS``.
        numbered: The number of a file in ``outs``, and the rows that it gets next.
        total: Rows of all files together, for the progress bar.
        bar: Whether to draw progress on a terminal.

    Raises:
        DataError: A file cannot be written.
        Interrupted: Asked to stop; nothing was written.
    """
    with (
        StopFlag().installed() as stopping,
        progress(bar) as display,
        ExitStack() as files,
        display.task("sample", total) as stage,
    ):
        appends = [
            files.enter_context(_writing(files.enter_context(replacing(out)), _ending(out))) for out in outs
        ]
        for number, block in numbered:
            appends[number](block)
            stage.advance(len(block))
            if stopping():
                names = ", ".join(str(out) for out in outs)
                were = "was" if len(outs) == 1 else "were"
                raise Interrupted(f"stopped; {names} {were} not written. Start the same command again.")


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


def conditional_model(folder: RunDir) -> ConditionalTable:
    """Load the model of a finished run; raises ``ConfigError`` if it can only draw whole rows."""
    fitted = finished_model(folder)
    if isinstance(fitted, ConditionalTable):
        return fitted
    model = str(stored_config(folder)["model"]["_target_"]).rpartition(".")[2]
    raise ConfigError(
        f"the model of {folder.root} ({model}) draws whole rows only: -n without further options. Use a run"
        f" with model={' or '.join(ABLE)}."
    )


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


def number_mistakes(rows: int, seed: int) -> list[str]:
    """Return what is wrong with a number of rows and a public seed."""
    mistakes = []
    if rows < 1:
        mistakes.append(f"-n {rows}: expected at least 1 row.")
    if seed < 0:
        mistakes.append(f"--seed {seed}: expected an integer >= 0.")
    return mistakes


def place_mistakes(out: Path, run: Path, overwrite: bool) -> list[str]:
    """Return why rows of ``run`` cannot be written to ``out``."""
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
