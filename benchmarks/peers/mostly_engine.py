"""One training run of mostlyai-engine's TabularARGN and one sample, timed from outside.

Run in the peer's own environment: ``python -m benchmarks.peers.mostly_engine table.parquet dp 1 10000``.
It reads the table, trains for some epochs at the engine's own defaults, samples, and prints one JSON line.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.memory import peak_of_process

# As published: noise multiplier 1.5, clip 1, value protection 1; max_epsilon is lifted, it would end the run.
PRIVACY = {"noise_multiplier": 1.5, "max_grad_norm": 1.0, "delta": 1e-5, "max_epsilon": 100.0}


def measure(table: Path, private: bool, epochs: float, rows: int) -> dict[str, Any]:
    """Return rows per second of training steps and of sampling, and the peak memory after each, in MB."""
    import pandas as pd
    import torch
    from mostlyai import engine
    from mostlyai.engine.domain import DifferentialPrivacyConfig
    from torch.optim.optimizer import register_optimizer_step_post_hook

    torch.set_num_threads(1)
    base = peak_of_process()
    moments: list[float] = []
    register_optimizer_step_post_hook(lambda *_: moments.append(time.perf_counter()))
    messages: list[dict[str, Any]] = []
    privacy = DifferentialPrivacyConfig(**PRIVACY) if private else None
    with tempfile.TemporaryDirectory() as folder:
        place = {"workspace_dir": folder}
        start = time.perf_counter()
        engine.split(tgt_data=pd.read_parquet(table), **place)
        engine.analyze(differential_privacy=privacy, **place)
        engine.encode(**place)
        prepared = time.perf_counter() - start
        engine.train(
            max_epochs=epochs, differential_privacy=privacy, **place, update_progress=_kept(messages)
        )
        trained = peak_of_process()
        start = time.perf_counter()
        engine.generate(sample_size=rows, **place)
        generated = time.perf_counter() - start
    steps = [after - before for before, after in pairwise(moments[2:])]
    samples = [message for message in messages if message.get("samples")][-1]
    batch = samples["samples"] / samples["steps"]
    return {
        "step_ms": 1000 * statistics.median(steps),
        "steps": samples["steps"],
        "batch": batch,
        "train_rows_per_second": batch / statistics.median(steps),
        "prepare_seconds": prepared,
        "sample_rows_per_second": rows / generated,
        "import_mb": base,
        "train_mb": trained,
        "sample_mb": peak_of_process(),
    }


def _kept(messages: list[dict[str, Any]]) -> Any:
    """A progress callback that keeps every message of the training loop."""

    def note(*arguments: Any, **named: Any) -> dict[str, Any]:
        message = named.get("message")
        if message is not None:
            messages.append(message if isinstance(message, dict) else message.model_dump())
        return {}

    return note


if __name__ == "__main__":
    found = measure(Path(sys.argv[1]), sys.argv[2] == "dp", float(sys.argv[3]), int(sys.argv[4]))
    print(json.dumps(found))
