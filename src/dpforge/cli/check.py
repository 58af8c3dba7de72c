"""``dpforge-check [overrides|--all]``: everything wrong with a configuration, before any data is read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dpforge.cli.errors import REFUSED, clean_errors, describe

if TYPE_CHECKING:
    from dpforge.config import Checked, CheckedRun

_CHEAP = ("dataset=toy", "model=independent", "evaluation=quick", "logger=csv")

# What a choice needs beside it: numeric columns only, or images.
_DATA_FOR = {"dp_maf_seed": "adult_subset", "private_evolution": "digits", "dp_imgsyn": "digits"}
_IMAGES = ("dataset=digits", "model=dpwgan", "logger=csv")
_APIS = ("dataset=digits", "model=private_evolution", "logger=csv")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exits with 2 when something is refused."""
    parser = argparse.ArgumentParser(prog="dpforge-check", description=__doc__)
    parser.add_argument("overrides", nargs="*", help="as for dpforge: GROUP=CHOICE, KEY=VALUE, KEY=A,B,C")
    parser.add_argument("-m", "--multirun", action="store_true", help="accepted as for dpforge")
    parser.add_argument("--all", action="store_true", help="check every file of the configuration tree")
    arguments = parser.parse_intermixed_args(argv)
    with clean_errors():
        sys.exit(_check_all() if arguments.all else _check_one(arguments.overrides))


def _check_one(overrides: Sequence[str]) -> int:
    from rich.console import Console

    from dpforge.config import check

    console = Console(highlight=False, soft_wrap=True)
    checked = check(overrides)
    if len(checked.runs) == 1:
        _show(checked.runs[0], console)
    else:
        _list(checked, console)
    return 0


def _show(run: CheckedRun, console: Any) -> None:
    from dpforge.cli.account import caveat

    warning = caveat(run)
    console.print(f"[bold green]ok[/] {run.identity.folder}")
    if warning is not None:
        console.print(f"[bold red]{warning}[/]")
    console.print(
        f"epsilon {run.plan.epsilon():.4g} at delta {run.plan.delta:g}, unit {run.plan.unit}, "
        f"{_shape(run.schema)}, {run.schema.nominal_rows} nominal rows"
    )
    console.print(run.plan.describe(), markup=False)


def _shape(schema: Any) -> str:
    if schema.modality == "image":
        return f"{schema.height}×{schema.width}×{schema.channels} images of {schema.num_classes} classes"
    return f"{len(schema.columns)} columns"


def _list(checked: Checked, console: Any) -> None:
    for run in checked.runs:
        console.print(f"[bold green]ok[/] {run.identity.folder}")
    left = checked.total - len(checked.runs)
    console.print(f"{len(checked.runs)} runs" + (f"; {left} more were not checked" if left else ""))


def _check_all() -> int:
    from rich.console import Console

    from dpforge.config import check
    from dpforge.errors import DPForgeError

    console = Console(highlight=False, soft_wrap=True)
    refused = 0
    for overrides in every_choice():
        words = " ".join(overrides)
        try:
            total = check(overrides).total
        except DPForgeError as error:
            refused += 1
            console.print(f"[bold red]no[/] {words}")
            console.print("\n".join(f"   {line}" for line in describe(error)), markup=False)
            continue
        console.print(f"[bold green]ok[/] {words}" + (f" ({total} runs)" if total > 1 else ""))
    return REFUSED if refused else 0


def every_choice() -> Iterator[list[str]]:
    """Yield overrides that together compose every file of the configuration tree once.

    Files that wait for a value of the user (``???``), such as ``dataset=csv``, are left out.
    """
    from dpforge.config import groups

    found = groups()
    yield from ([f"model={name}", f"dataset={_DATA_FOR.get(name, 'toy')}"] for name in found["model"])
    for name in found["dataset"]:
        if not _waits_for_user([f"dataset={name}"]):
            model = "dpwgan" if _chooses_images(f"dataset={name}") else "independent"
            # The default delta does not suit tables of a million rows, and need not.
            pool = _is_public_pool(f"dataset={name}")
            yield [f"dataset={name}", f"model={model}", "privacy=none" if pool else "privacy.delta=1e-9"]
    for group in sorted(set(found) - {"model", "dataset", "experiment", "paper", "frontier", "local"}):
        for name in found[group]:
            base = _IMAGES if name.startswith("images") else _APIS if group == "model/api" else _CHEAP
            words = [*(word for word in base if not word.startswith(f"{group}=")), f"{group}={name}"]
            if not _waits_for_user(words):
                yield words
    for group in ("experiment", "paper", "frontier"):
        yield from ([f"{group}={n}"] for n in found.get(group, ()) if not _waits_for_user([f"{group}={n}"]))


def _is_public_pool(choice: str) -> bool:
    from dpforge.config import compose

    return bool(compose([choice]).dataset.get("public_pool", False))


def _chooses_images(choice: str) -> bool:
    from dpforge.config import compose

    return str(compose([choice]).evaluation.get("_target_", "")).endswith("ImageEvaluation")


def _waits_for_user(choices: list[str]) -> bool:
    from omegaconf import OmegaConf

    from dpforge.config import compose

    return bool(OmegaConf.missing_keys(compose(choices)))


if __name__ == "__main__":
    main()
