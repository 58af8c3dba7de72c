"""Random small configurations, each fitted on neighbouring data and checked by the whole contract."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Choice:
    """One random configuration."""

    name: str
    rows: int
    target: str
    privacy: dict[str, Any]
    runtime: dict[str, Any]
    options: dict[str, Any]
    key: int


# Settings that a model may have, with small values.
OPTIONS: dict[str, tuple[Any, ...]] = {
    "allocation": ("cube_root", "uniform"),
    "sampling_rate": (0.1, 0.5, 1.0),
    "steps": (1, 4, 9),
    "lr_decay": (True, False),
    "ema": (0.0, 0.9),
    "permutation": ("reverse", "random_public"),
    "cross_target": (True, False),
    "default_bins": (4, 32),
    "order": (2, 3),
    "n_critics": (1, 3),
    "loss": ("wasserstein", "hinge", "logistic"),
    "constraint": ("clamp", "spectral", "none"),
    "optimizer": ("adam", "rmsprop"),
    "num_iterations": (1, 3),
    "threshold": (0.0, 2.0),
    "num_nearest_neighbors": (1, 3),
    "keep_selected": (True, False),
}


def pick(rng: np.random.Generator, values: Any) -> Any:
    """Return one of ``values``."""
    return list(values)[int(rng.integers(len(values)))]


def draw(rng: np.random.Generator, names: list[str], targets: list[str], fields: Any) -> Choice:
    """Return a random configuration; ``fields`` gives the settings a model of that name has."""
    name = pick(rng, names)
    known = [option for option in OPTIONS if option in fields(name)]
    chosen = rng.permutation(known)[: int(rng.integers(0, 4))] if known else []
    noise = {"target_epsilon": None, "noise_multiplier": float(rng.uniform(0.5, 20))}
    privacy = {
        **(noise if rng.random() < 0.9 else {"target_epsilon": float(rng.uniform(0.5, 10))}),
        "delta": float(10 ** -rng.uniform(4, 8)),
        "max_grad_norm": float(10 ** rng.uniform(-2, 1)),
        "relation": pick(rng, ("add_remove", "add_remove", "replace", "zero_out")),
    }
    runtime = {"engine": pick(rng, ("ghost", "hooks")), "microbatch": pick(rng, (None, 1, 7))}
    options = {str(option): pick(rng, OPTIONS[option]) for option in chosen}
    rows = int(pick(rng, (1, 2, 3, 17, 64, 93, 100, 104)))
    return Choice(name, rows, pick(rng, targets), privacy, runtime, options, int(rng.integers(256)))


def check_one(choice: Choice, folder: Path) -> None:
    """Fit on neighbours and check; raises ``AssertionError`` where a statement of the contract fails."""
    from contract import checks, harness

    from dpforge.generators.base import Runtime
    from dpforge.privacy.spec import PrivacySpec

    plain = harness.small_model(choice.name)
    schema = harness.schema_for(plain, choice.name)
    model = dataclasses.replace(plain, **choice.options)
    shared = {
        "spec": PrivacySpec(**choice.privacy),
        "runtime": Runtime(**choice.runtime),
        "key": bytes([choice.key]) * 32,
    }
    table = harness.table_for(schema, choice.rows, harness.TARGETS[choice.target])
    whole = harness.fit(model, schema, table, folder / "whole", **shared)
    less = harness.without_last(table)
    checks.check_all(whole, harness.fit(model, schema, less, folder / "less", replay=whole.outputs, **shared))


def check_random(count: int, seed: int) -> int:
    """Check ``count`` configurations and print what failed; return 1 if one did.

    A configuration that the code itself refuses (``ConfigError``) is counted apart and drawn anew.
    """
    sys.path.insert(0, str(TESTS))
    from contract import harness, test_generators

    from dpforge.errors import ConfigError, Interrupted

    def fields(name: str) -> set[str]:
        return {f.name for f in dataclasses.fields(harness.model_of(name))}

    rng, done, refused, failed, started = np.random.default_rng(seed), 0, 0, [], time.perf_counter()
    seen: dict[str, int] = {}
    while done < count:
        choice = draw(rng, test_generators.NAMES, list(harness.TARGETS), fields)
        with tempfile.TemporaryDirectory() as folder:
            try:
                check_one(choice, Path(folder))
            except ConfigError:
                refused += 1
                continue
            except Interrupted:
                raise
            except Exception as error:  # whatever it is, it belongs into the list
                failed.append(choice)
                print(f"FAILED {choice}: {type(error).__name__}: {str(error)[:300]}", flush=True)
        done += 1
        seen[choice.name] = seen.get(choice.name, 0) + 1
        if done % 20 == 0:
            print(f"{done} checked, {len(failed)} failed, {time.perf_counter() - started:.0f} s", flush=True)
    kinds = ", ".join(f"{name} {number}" for name, number in sorted(seen.items()))
    print(f"{done} random configurations, {refused} refused beforehand, {len(failed)} failed ({kinds})")
    return 1 if failed else 0
