"""The arithmetic of the original command line, for reproduction only: NOT DP.

Raw votes instead of votes of norm 1, the clean counts on disk beside the noisy ones, noise from a known seed.
The plan of such a run is one of accesses without noise, so its certificate says NOT DP.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dpforge.errors import ConfigError
from dpforge.generators.private_evolution.files import npz_bytes
from dpforge.generators.storage import write_atomic
from dpforge.privacy.spec import PrivacySpec

MODES = ("dp", "upstream")


def unaccounted(spec: PrivacySpec) -> PrivacySpec:
    """Return the privacy settings that the plan of such a run is made from: none.

    Raises:
        ConfigError: A target epsilon, which nothing of this mode could meet.
    """
    if spec.enabled and spec.noise_multiplier is None:
        raise ConfigError(
            f"model.mode=upstream is NOT DP and meets no privacy.target_epsilon={spec.target_epsilon}. Set"
            " privacy.target_epsilon=null and privacy.noise_multiplier, or use model.mode=dp."
        )
    return replace(spec, enabled=False, target_epsilon=None, noise_multiplier=None, max_epsilon=None)


def noise_scale(spec: PrivacySpec, neighbors: int) -> float:
    """Return the standard deviation of the original's noise on raw votes: sigma times sqrt(k)."""
    return float(spec.noise_multiplier or 0.0) * math.sqrt(neighbors) if spec.enabled else 0.0


def noisy_counts(
    clean: np.ndarray, blocks: Sequence[slice], scale: float, rng: np.random.Generator, folder: Path
) -> np.ndarray:
    """Add noise to raw votes ``(m,)`` and write both below ``folder``, as ``count_class<c>.npz`` a class."""
    noisy = clean + scale * rng.standard_normal(len(clean))
    for place in (*folder.parents[1::-1], folder):  # private, private/upstream, …
        place.mkdir(exist_ok=True, mode=0o700)
    for label, block in enumerate(blocks):
        content = {"count": noisy[block], "clean_count": clean[block]}
        write_atomic(folder / f"count_class{label}.npz", npz_bytes(content), private=True)
    return noisy
