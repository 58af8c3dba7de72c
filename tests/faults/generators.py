"""The smallest run of every generator: seeded noise, so that two runs can be compared bit by bit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from dpforge.config import build, compose
from dpforge.identity import Identity, identify

COMMON = (
    "logger=csv",
    "study=f",
    "runtime.threads=1",
    "runtime.progress=false",
    "runtime.pictures=false",
    "runtime.checkpoint_every=3",
    "privacy.rng=seeded",
    "privacy.seed=7",
    "privacy.target_epsilon=null",
    "privacy.noise_multiplier=2",
)
TABLE = (
    "dataset=toy",
    "dataset.rows=300",
    "evaluation=quick",
    "evaluation.metrics=[tvd_1way,validity]",
    "evaluation.max_rows=100",
)
DIGITS = ("dataset=digits", "evaluation=images_quick", "evaluation.metrics=[validity]")
SHORT = ("model.steps=7", "model.expected_batch_size=16")
WORDS: dict[str, tuple[str, ...]] = {
    "independent": (*TABLE, "model=independent"),
    "mst": (*TABLE, "model=mst", "model.iterations=10"),
    "aim": (*TABLE, "model=aim", "model.iterations=10", "model.round_iterations=4", "model.max_rounds=4"),
    "dp_maf": (*TABLE, "model=dp_maf", *SHORT, "model.ema=0.5"),
    "tabular_argn": (*TABLE, "model=tabular_argn", *SHORT, "model.refine=1"),
    "dpwgan": (*TABLE, "model=dpwgan", *SHORT, "model.hidden=[8]", "model.n_critics=2"),
    "dpwgan_digits": (*DIGITS, "model=dpwgan", *SHORT, "model.width=4", "model.n_critics=2", "rows=20"),
    "private_evolution": (
        *DIGITS,
        "model=private_evolution",
        "model.api.system_fonts=false",
        "model.num_samples_schedule=20",
        "model.num_iterations=3",
        "model.lookahead_degree=1",
        "model.save_grid=false",
    ),
    "dp_imgsyn": (
        *DIGITS,
        "model=dp_imgsyn",
        "model.public={name: font_digits, rows: 40, image_size: 8}",
        "model.num_samples=20",
        "model.teacher.width=4",
        "model.teacher.groups=2",
        "model.teacher.steps=7",
        "model.teacher.pretrain_epochs=1",
        "model.student.width=4",
        "model.student.epochs=1",
    ),
}


@dataclass(frozen=True)
class Case:
    """One generator's run, composed once: an attempt at it costs no interpreter and no composition."""

    name: str
    config: Any
    identity: Identity

    def tracked(self) -> Any:
        """The same run with Weights & Biases beside the local log."""
        words = [word for word in (*COMMON, *WORDS[self.name]) if word != "logger=csv"]
        return compose([*words, "logger=wandb"])


@cache
def case(name: str) -> Case:
    """Compose the run of a generator."""
    config = compose([*COMMON, *WORDS[name]])
    schema = build(config).dataset.public_schema()
    return Case(name, config, identify(config, schema, {"model": name, "dataset": schema.name}))
