"""How often audits accuse honest noise, and how often noise that is too weak: ``python benchmarks/audit.py``.

Each mechanism is audited again and again with the noise at a share of what its plan declares. One-run audits
have 1,000 canaries; repeated ones the number of repetitions in the table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np

from dpforge.config import check
from dpforge.experiment.audit import auditing
from dpforge.experiment.audit.auditing import Effort, repeated
from dpforge.experiment.audit.evidence import Finding, judged
from dpforge.privacy import mechanisms, noise, selection
from dpforge.privacy.plan import Plan
from dpforge.privacy.rng import KeyedRandom

SHARES = (1.0, 0.9, 0.5, 0.25)
CANARIES = 1000
DPSGD = ("model.sampling_rate=1", "model.expected_batch_size=null", "model.steps=10", "model.hidden=[8,8]")
MECHANISMS = {
    "votes": ("votes", ("dataset=font_digits", "model=private_evolution")),
    "layer statistics": (
        "statistics",
        ("dataset=mnist", "model=dp_imgsyn", "model.statistics.share=0.5"),
    ),
    "one-way counts": ("marginals", ("dataset=toy", "model=independent")),
    "DP-SGD, q = 1": ("train", ("dataset=toy", "model=dp_maf", *DPSGD)),
}


@contextmanager
def weakened(share: float) -> Iterator[None]:
    """Multiply all noise by ``share``, behind the back of plan and ledger."""
    normal, double = KeyedRandom.normal, KeyedRandom.normal_double

    def rounded(uniforms: np.ndarray, scale: float) -> np.ndarray:
        return noise.rounded_gaussian(uniforms, share * scale)

    with (
        mock.patch.object(KeyedRandom, "normal", lambda self, *a: normal(self, *a).mul_(share)),
        mock.patch.object(KeyedRandom, "normal_double", lambda self, *a: share * double(self, *a)),
        mock.patch.dict(mechanisms._COUNT_NOISE, {"rounded_gaussian": rounded}),
        mock.patch.object(selection, "rounded_gaussian", rounded),
    ):
        yield


def measure(words: tuple[str, ...], name: str, audits: dict[str, int], repeats: int) -> Iterator[str]:
    """Audit one mechanism at every share of its noise; yields rows of a table."""
    experiment = check(words).runs[0].experiment
    schema = experiment.dataset.public_schema()
    plan = experiment.model.plan(schema, experiment.privacy)
    trial: Any = auditing._trial(experiment, schema, plan, plan.piece(name), Effort())
    rng = np.random.default_rng(0)
    _, used = trial(10, rng)
    certified = Plan(used, plan.delta, plan.relation, plan.unit).epsilon()
    for share in SHARES:
        with weakened(share):
            count = audits["honest" if share == 1 else "weak"]
            one = [judged(trial(CANARIES, rng)[0], certified, plan.delta) for _ in range(count)]
            yield _row(share, certified, one, "one run", CANARIES)
            if name == "train" or share < 0.5:
                continue
            size = 50 * repeats if share == 0.9 else repeats  # a tenth less noise takes many trials to see
            many = {1.0: audits["again"], 0.9: 2}.get(share, 10)
            again = [repeated(trial, size, rng, certified, plan.delta) for _ in range(many)]
            yield _row(share, certified, again, "repeated", size)


def _row(share: float, certified: float, found: list[Finding], method: str, size: int) -> str:
    bounds = np.array([finding.lower_bound for finding in found])
    accused = sum(finding.violated for finding in found)
    return (
        f"{share:.2f} | {method} | {size:,} | {certified:.2f} | {bounds.mean():.2f} ± {bounds.std():.2f}"
        f" | {accused} of {len(found)} |"
    )


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--honest", type=int, default=100, help="audits of honest noise of each mechanism")
    parser.add_argument("--weak", type=int, default=20, help="audits at each share of the noise")
    parser.add_argument("--again", type=int, default=30, help="repeated audits of honest noise")
    parser.add_argument("--repeats", type=int, default=300, help="repetitions of a repeated audit")
    arguments = parser.parse_args()
    print("| mechanism | noise | method | m or repetitions | certified ε | lower bound | violations |")
    print("|---|---|---|---|---|---|---|")
    begun = time.perf_counter()
    audits = {"honest": arguments.honest, "weak": arguments.weak, "again": arguments.again}
    for title, (name, words) in MECHANISMS.items():
        for row in measure(words, name, audits, arguments.repeats):
            print(f"| {title} | {row}", flush=True)
    print(f"\n{time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
