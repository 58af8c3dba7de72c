"""The list of mutants and how one is declared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dpforge.privacy import accounting

from .planter import Planter, load_everything

Plant = Callable[[Planter], None]
CONTRACT = "contract/test_generators.py"
RELEASES = "contract/test_releases.py"
SENSITIVITY = f"{CONTRACT}::test_removing_one_record_moves_each_release_by_at_most_its_sensitivity"
UNRELATED = f"{RELEASES}::test_unrelated_records_with_the_same_releases_give_the_same_samples"
IN_ONE = "privacy/test_planted_bugs.py::test_the_checks_pass_without_a_mutant"


@dataclass(frozen=True)
class Mutant:
    """One planted bug.

    Args:
        name: Words joined by underscores.
        plants: What is wrong with it, in a sentence.
        origin: Where the defect was seen: a system's code, or a rule it breaks.
        plant: Patches the loaded package.
        tests: Files or tests below ``tests/``, of which the first that fails has caught it.
    """

    name: str
    plants: str
    origin: str
    plant: Plant
    tests: tuple[str, ...]


MUTANTS: dict[str, Mutant] = {}


def mutant(origin: str, *tests: str) -> Callable[[Plant], Plant]:
    """Declare a mutant; its function's docstring says what it plants."""

    def add(plant: Plant) -> Plant:
        name = plant.__name__
        MUTANTS[name] = Mutant(name, (plant.__doc__ or "").strip(), origin, plant, tests)
        return plant

    return add


def forget_epsilons() -> None:
    """Empty the caches of the accountant, which would hide that it changed."""
    for name, value in list(vars(accounting).items()):
        if hasattr(value, "cache_clear"):
            value.cache_clear()
        elif name == "_known":
            value.clear()


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Run the block with a mutant in place."""
    load_everything()
    if MUTANTS[name].plant.__module__.endswith("bookkeeping"):
        forget_epsilons()
    planter = Planter()
    MUTANTS[name].plant(planter)
    try:
        yield
    finally:
        planter.undo()
        forget_epsilons()
