"""One fit of dpmm's AIM and one sample, timed from outside.

Run in the peer's own environment: ``python -m benchmarks.peers.dpmm table.csv domain.json out.csv 0.9 0.1``.
The last two are the epsilon of AIM and that of the bins of all number columns. It prints one JSON line.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.memory import peak_of_process

DELTA = 1e-5
MODEL_MB = 80  # the default of its AIM; its pipeline's default, no bound, ran for over 25 minutes here


def measure(table: Path, domain: dict[str, Any], target: Path, epsilon: float, bins: float) -> dict[str, Any]:
    """Fit, sample as many rows as the table has into ``target``, and return seconds and peak memory in MB.

    Args:
        table: CSV whose empty cells are missing.
        domain: By column ``categories``, or ``lower`` and ``upper``: public.
        target: CSV to write.
        epsilon: Budget of AIM.
        bins: Budget of PrivTree, for all number columns together.
    """
    import pandas as pd
    from dpmm.pipelines import AIMPipeline

    texts: Any = {name: str for name, known in domain.items() if "categories" in known}
    frame = pd.read_csv(table, dtype=texts, keep_default_na=False, na_values=[""])
    pipeline = AIMPipeline(epsilon=epsilon, delta=DELTA, proc_epsilon=bins, max_model_size=MODEL_MB, n_jobs=1)
    start = time.perf_counter()
    pipeline.fit(frame, domain=domain, random_state=0)
    fitted = time.perf_counter()
    pipeline.generate(n_records=len(frame), random_state=0).to_csv(target, index=False)
    return {
        "fit_seconds": fitted - start,
        "sample_seconds": time.perf_counter() - fitted,
        "memory_mb": peak_of_process(),
    }


if __name__ == "__main__":
    found = measure(
        Path(sys.argv[1]),
        json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")),
        Path(sys.argv[3]),
        float(sys.argv[4]),
        float(sys.argv[5]),
    )
    print(json.dumps(found))
