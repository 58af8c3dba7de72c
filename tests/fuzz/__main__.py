"""``python -m tests.fuzz``: damage files at random until the time is over; print executions and findings."""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from .targets import Target, targets


def fuzz(target: Target, seconds: float, seed: int, place: Path) -> tuple[int, float, dict[str, bytes]]:
    """Run one target; returns executions, seconds, and one input for each kind of failure."""
    chance, found, done = random.Random(f"{target.name} {seed}"), {}, 0
    path, begin = place / "input", time.perf_counter()
    while time.perf_counter() - begin < seconds:
        data = target.mutate(chance.choice(target.seeds), chance)
        path.write_bytes(data)
        done += 1
        try:
            target.run(path)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            found.setdefault(
                f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}: {error}", data
            )
    return done, time.perf_counter() - begin, found


def main() -> int:
    """Fuzz every target in turn; exit code 1 if anything was found."""
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="time for all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", help="only targets whose name holds this text")
    parser.add_argument("--out", type=Path, default=Path("fuzz-findings"), help="where findings are kept")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    chosen = [target for target in targets() if (options.target or "") in target.name]
    findings = 0
    print(f"{'target':26}{'executions':>12}{'a second':>10}{'findings':>10}")
    for target in chosen:
        with tempfile.TemporaryDirectory() as place:
            share = options.seconds / len(chosen)
            done, seconds, found = fuzz(target, share, options.seed, Path(place))
        print(f"{target.name:26}{done:12,}{done / seconds:10,.0f}{len(found):10}", flush=True)
        findings += len(found)
        for what, data in found.items():
            options.out.mkdir(parents=True, exist_ok=True)
            name = hashlib.sha256(data).hexdigest()[:16]
            (options.out / name).write_bytes(data)
            print(f"  {options.out / name}: {what[:200]}")
    return int(findings > 0)


if __name__ == "__main__":
    sys.exit(main())
