"""Generators: every way of making synthetic data, behind one interface. Loaded on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpforge.generators.base import Runtime as Runtime
    from dpforge.generators.dp_maf import DPMAF as DPMAF
    from dpforge.generators.independent import Independent as Independent
    from dpforge.generators.marginals.aim import AIM as AIM
    from dpforge.generators.marginals.mst import MST as MST
    from dpforge.generators.tabular_argn import TabularARGN as TabularARGN

_HOMES = {
    "Runtime": "base",
    "AIM": "marginals.aim",
    "DPMAF": "dp_maf",
    "Independent": "independent",
    "MST": "marginals.mst",
    "TabularARGN": "tabular_argn",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dpforge.generators' has no attribute '{name}'")
    return getattr(import_module(f"dpforge.generators.{_HOMES[name]}"), name)
