"""The vote step against the matrix product it needs: ``python -m benchmarks.votes``.

Both see the same float32 arrays, one after the other on one thread. The bare product is what no vote can
do without: every private image times every candidate of its class, in blocks of rows, nothing kept.
The vote step adds norms, the nearest candidate of every image, and the counts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tracemalloc
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import Laps, Row, in_turns, show
from dpforge.generators.private_evolution.voting import Ballot, Electorate, count_votes

AIM = 1.5
# Private images, candidates, dimension, classes: MNIST with pixels, CIFAR-10 with MobileNetV2 and Inception.
SIZES = {
    "quick": [(2000, 300, 64, 1)],
    "standard": [(20_000, 1000, 196, 10), (6000, 3000, 196, 1), (4000, 2000, 1280, 1), (1000, 8000, 2048, 1)],
}
BLOCK = 1024


def arrays(
    voters: int, candidates: int, dim: int, classes: int
) -> tuple[Electorate, np.ndarray, list[slice]]:
    """Return voters in random classes, and candidates in equal class blocks."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(voters, dim)).astype(np.float32)
    points = rng.normal(size=(candidates, dim)).astype(np.float32)
    edges = np.linspace(0, candidates, classes + 1).astype(int).tolist()
    blocks = [slice(low, high) for low, high in itertools.pairwise(edges)]
    return Electorate(features, rng.integers(classes, size=voters)), points, blocks


def bare_product(electorate: Electorate, points: np.ndarray, blocks: list[slice]) -> None:
    """Multiply every voter with every candidate of its class and keep nothing."""
    for label, block in enumerate(blocks):
        voters = torch.from_numpy(electorate.features[electorate.labels == label])
        candidates = torch.from_numpy(points[block]).T
        for start in range(0, len(voters), BLOCK):
            torch.matmul(voters[start : start + BLOCK], candidates)


def race(size: tuple[int, int, int, int], neighbors: int, repeats: int) -> Laps:
    """Return the seconds of the product and of the votes, in turns."""
    electorate, points, blocks = arrays(*size)
    ballot = Ballot(neighbors)
    return in_turns(
        {
            "product": lambda: bare_product(electorate, points, blocks),
            "votes": lambda: count_votes(electorate, [points], blocks, ballot),
        },
        repeats,
        warmup=1,
    )


def memory_row(voters: int) -> Row:
    """Return the peak of what numpy allocates while voting, beside the arrays themselves.

    torch's own blocks are bounded by a constant of the code; a test checks it.
    """
    electorate, points, blocks = arrays(voters, 500, 16, 1)
    tracemalloc.start()
    count_votes(electorate, [points], blocks, Ballot())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return Row("memory", f"{voters:,} voters: bytes a voter", peak / voters, "B")


def rows(preset: str, repeats: int) -> list[Row]:
    """Measure every size of a preset."""
    found = []
    for size in SIZES[preset]:
        for neighbors in (1, 3):
            laps = race(size, neighbors, repeats)
            voters, candidates, dim, classes = size
            what = f"{voters:,} x {candidates:,} x {dim}, {classes} classes, k={neighbors}"
            aim = AIM if neighbors == 1 else None
            ratio = laps.ratio("votes", "product")
            found.append(
                Row("votes / bare product", what, ratio, "ratio", aim, laps.note("votes", "product"))
            )
    return [*found, *(memory_row(voters) for voters in (10_000, 100_000))]


def main(arguments: list[str] | None = None) -> None:
    """Run a preset, print a table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.votes", description=__doc__)
    parser.add_argument("--preset", choices=sorted(SIZES), default="standard")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for the rows")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    measured = rows(chosen.preset, chosen.repeats)
    show(measured)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps([row.to_dict() for row in measured], indent=1) + "\n")


if __name__ == "__main__":
    main()
