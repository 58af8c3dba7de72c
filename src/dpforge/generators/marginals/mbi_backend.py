"""Estimation by the ``mbi`` library (an extra): the same problem, compiled by JAX."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from dpforge.errors import ConfigError
from dpforge.generators.marginals.estimation import Estimate, Measurement, combined, fitted_by
from dpforge.generators.marginals.junction import Clique, shape


def require_mbi() -> None:
    """Raise ``ConfigError`` unless ``mbi`` is installed; imports nothing."""
    if find_spec("mbi") is None:
        raise ConfigError(
            "model.estimator=mbi needs the library mbi, which is not installed."
            " Run: pip install 'dpforge[marginals]', or use model.estimator=native."
        )


def estimate_mbi(
    sizes: Sequence[int],
    measurements: Sequence[Measurement],
    total: float,
    *,
    iterations: int,
    start: Mapping[Clique, np.ndarray] | None = None,
) -> Estimate:
    """Minimise the same loss as :func:`.estimation.estimate`, with mbi's mirror descent.

    Every new set of cliques is compiled anew, for seconds.
    """
    mbi = _library()
    known = list(combined(measurements).values())
    domain = mbi.Domain([str(c) for c in range(len(sizes))], list(sizes))
    queries = [
        mbi.LinearMeasurement(
            m.values / np.sqrt(m.variances),
            _names(m.clique),
            query=mbi.WeightedQuery(1 / np.sqrt(m.variances)),
        )
        for m in known
    ]
    warm = None
    if start:
        tables = {_names(c): mbi.Factor(domain.project(_names(c)), table) for c, table in start.items()}
        warm = mbi.CliqueVector(domain, list(tables), tables)
    model = mbi.estimation.MirrorDescent().estimate(
        domain, queries, known_total=float(total), iters=iterations, warm_start=warm
    )
    found: dict[Clique, np.ndarray] = {}
    for names in model.potentials.cliques:
        table = np.asarray(model.potentials.tables[names].values, dtype=np.float64)
        columns = [int(name) for name in names]
        found[tuple(sorted(columns))] = table.transpose(np.argsort(columns))
    for m in known:
        if not any(set(m.clique) <= set(clique) for clique in found):
            found[m.clique] = np.zeros(shape(sizes, m.clique))
    return fitted_by(sizes, known, total, found)


def _names(clique: Clique) -> tuple[str, ...]:
    return tuple(str(c) for c in clique)


def _library() -> Any:
    require_mbi()
    jax = import_module("jax")
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_enable_compilation_cache", False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module("mbi")
