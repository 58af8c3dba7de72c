"""The configuration of a run: where its files are, how they compose, and whether they make sense.

``check`` says everything that is wrong with a command line before any data is read; ``build`` turns a
composed configuration into objects. Nothing here imports torch or pandas until components are built.
"""

from __future__ import annotations

from dpforge.configuration.building import Experiment, build
from dpforge.configuration.checked import Checked, CheckedRun
from dpforge.configuration.checking import check
from dpforge.configuration.composing import compose, hydra_session, noise_seed, register
from dpforge.configuration.guards import check_delta, check_pool, check_public, check_release
from dpforge.configuration.places import (
    check_stamp,
    conf_digest,
    conf_dir,
    experiments_dir,
    groups,
    stamp,
)

__all__ = [
    "Checked",
    "CheckedRun",
    "Experiment",
    "build",
    "check",
    "check_delta",
    "check_pool",
    "check_public",
    "check_release",
    "check_stamp",
    "compose",
    "conf_digest",
    "conf_dir",
    "experiments_dir",
    "groups",
    "hydra_session",
    "noise_seed",
    "register",
    "stamp",
]
