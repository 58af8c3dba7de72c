"""Replaces attributes of loaded code and puts them back."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable
from typing import Any

# Where bugs are planted, and who may have imported what is replaced.
PLACES = ("data", "privacy", "generators", "nets", "verify", "experiment.certificate")
IMPORTERS = ("dpforge", "contract")
# What needs optional libraries.
LEFT_OUT = "dpforge.generators.private_evolution.apis"


def load_everything() -> None:
    """Import the modules of the package, so that a patch finds every name bound to what it replaces."""
    for place in PLACES:
        module = importlib.import_module(f"dpforge.{place}")
        for part in pkgutil.walk_packages(getattr(module, "__path__", []), f"{module.__name__}."):
            if not part.name.startswith(LEFT_OUT):
                importlib.import_module(part.name)


class Planter:
    """Plants patches; :meth:`undo` takes them back in reverse order."""

    def __init__(self) -> None:
        self._before: list[tuple[Any, str, Any]] = []

    def put(self, owner: Any, name: str, value: Any) -> None:
        """Set one attribute of a class or module."""
        self._before.append((owner, name, vars(owner)[name]))
        setattr(owner, name, value)

    def wrap(self, owner: type, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Replace a method by ``make(method)``."""
        self.put(owner, name, make(vars(owner)[name]))

    def swap(self, module: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Replace a function by ``make(function)`` in every module that has imported it."""
        original = getattr(module, name)
        new = make(original)
        for place in [m for key, m in list(sys.modules.items()) if key.split(".")[0] in IMPORTERS]:
            for key, value in list(vars(place).items()):
                if value is original:
                    self.put(place, key, new)

    def undo(self) -> None:
        """Put everything back."""
        while self._before:
            owner, name, value = self._before.pop()
            setattr(owner, name, value)
