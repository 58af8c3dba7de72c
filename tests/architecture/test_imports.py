"""Imports go one way, and heavy libraries stay in their rooms."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

import dpforge

ROOT = Path(dpforge.__file__).parent
# Every package may import itself and what stands here; ``errors`` is open to all.
ALLOWED = {
    "nets": set(),
    "data": set(),
    "features": {"data", "nets"},
    "pretrain": {"data", "nets", "features", "generators"},
    "evaluation": {"data", "features", "nets"},
    "privacy": {"data", "nets"},
    "generators": {"data", "features", "nets", "privacy"},
    "configuration": {"config", "data", "identity"},
    "identity": set(),
    "config": {"configuration"},
    "experiment": {
        "data", "features", "nets", "privacy", "generators", "evaluation",
        "config", "configuration", "identity",
    },
    "sweep": {"config", "configuration", "experiment", "identity", "privacy"},
    "gan": {"config", "data", "nets", "privacy", "generators", "experiment"},
    "verify": set(),
    "errors": set(),
}  # fmt: skip
HOMES = {
    "opacus": "privacy",
    "wandb": "experiment/tracking",
    "dp_accounting": ("privacy", "verify"),
    "diffusers": ("generators/private_evolution/apis", "pretrain", "cli/convert"),
    "openai": "generators/private_evolution/apis",
}


@cache
def modules():
    return [
        (path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8")))
        for path in sorted(ROOT.rglob("*.py"))
    ]


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


@pytest.mark.parametrize("path", [path for path, _ in modules()], ids=str)
def test_imports_go_one_way(path):
    tree = dict(modules())[path]
    package = path.parts[0].removesuffix(".py")
    if package in ("cli", "__init__"):
        return
    inside = {name.split(".")[1] for name in imported(tree) if name.startswith("dpforge.")}
    assert inside - {package, "errors", "__version__"} <= ALLOWED[package]


@pytest.mark.parametrize("library", HOMES)
def test_a_library_with_one_home_is_imported_nowhere_else(library):
    homes = HOMES[library]
    homes = (homes,) if isinstance(homes, str) else homes
    strangers = [
        str(path)
        for path, tree in modules()
        if any(name.split(".")[0] == library for name in imported(tree))
        and not str(path).startswith(homes or ("-",))
    ]
    assert not strangers


def test_data_and_configuration_import_no_deep_learning_library():
    heavy = [
        str(path)
        for path, tree in modules()
        if path.parts[0] in ("data", "configuration", "evaluation")
        and path.parts[:2] != ("evaluation", "images")
        and any(name.split(".")[0] in ("torch", "lightning", "opacus") for name in imported(tree))
    ]
    assert not heavy


def test_every_file_is_annotated_and_of_a_readable_size():
    too_long, bare = [], []
    for path, tree in modules():
        lines = (ROOT / path).read_text(encoding="utf-8").count("\n")
        if lines > 300:
            too_long.append(f"{path}: {lines} lines")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                if node.end_lineno - node.lineno >= 80:
                    too_long.append(f"{path}:{node.name}")
                if node.returns is None:
                    bare.append(f"{path}:{node.name}")
    assert not too_long
    assert not bare
