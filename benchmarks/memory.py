"""Peak memory of one DP step against its logical batch size, each in a fresh process.

One point by hand: ``python -m benchmarks.memory 4096 256`` (``0``: no microbatch).
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from benchmarks.harness import Row

ROWS = 200_000


def peak_megabytes(logical: int, microbatch: int | None) -> float:
    """Return how far one step of ``logical`` expected rows raises the peak of this process."""
    import torch

    from benchmarks.fixtures import SMALL, batch_steps, dp_step, encoded_table
    from dpforge.privacy.rng import fresh_random

    torch.set_num_threads(1)
    table = encoded_table(ROWS, SMALL.features)
    with dp_step(SMALL, logical, 3, microbatch) as step:
        step(next(iter(batch_steps(table, fresh_random("entropy"), 16, 1))))
        base = peak_of_process()
        for batch in batch_steps(table, fresh_random("entropy"), logical, 2):
            step(batch)
        return peak_of_process() - base


def peak_of_process() -> float:
    """Return the most memory that this process has had, in MB.

    On Linux the kernel's VmHWM: ``ru_maxrss`` starts at the size of the process that called this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)


def memory_rows(logicals: list[int], microbatch: int) -> list[Row]:
    """Return the peaks with a fixed microbatch, and that of the largest batch without one."""
    points = [(logical, microbatch) for logical in logicals] + [(logicals[-1], 0)]
    return [
        Row(
            "6. peak memory above the base process",
            f"logical batch {logical:,}, " + (f"microbatch {size}" if size else "no microbatch"),
            _in_fresh_process(logical, size),
            "MB",
        )
        for logical, size in points
    ]


def _in_fresh_process(logical: int, microbatch: int) -> float:
    command = [sys.executable, "-m", "benchmarks.memory", str(logical), str(microbatch)]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root, timeout=120)
    return float(done.stdout)


if __name__ == "__main__":
    print(peak_megabytes(int(sys.argv[1]), int(sys.argv[2]) or None))
