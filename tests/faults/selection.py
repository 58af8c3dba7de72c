"""The faults of the test-suite: one of each kind, spread over the generators so that it takes seconds."""

from __future__ import annotations

from .cells import Cell

SELECTION = [
    Cell(generator, family, what, 1)
    for generator, family, what in (
        ("independent", "points", "SIGKILL | after a ledger line"),
        ("independent", "files", "truncated | ledger.jsonl | in the fit"),
        ("independent", "memory", "out of memory | in evaluation"),
        ("mst", "points", "SIGKILL | within a ledger line"),
        ("aim", "points", "SIGTERM | after noise"),
        ("aim", "files", "bit flipped | checkpoints/state.pt | in the fit"),
        ("aim", "files", "removed | ledger.jsonl | in the fit"),
        ("dp_imgsyn", "files", "removed | ledger.jsonl | in the fit"),
        ("dp_maf", "points", "SIGKILL | between two checkpoints"),
        ("dp_maf", "signals, any time", "SIGKILL"),
        ("dp_maf", "disk", "no space stays in fsync"),
        ("dp_maf", "disk", "files cannot grow"),
        ("dp_maf", "disk", "read-only folder"),
        ("dp_maf", "surroundings", "W&B missing"),
        ("dp_maf", "surroundings", "clock skewed"),
        ("dp_maf", "crowd", "16 processes"),
        ("dp_maf", "files", "bit flipped | model/model.safetensors | fitted"),
        ("dp_maf", "files", "removed | private/key | in the fit"),
        ("tabular_argn", "storm", "three in a row"),
        ("dpwgan", "points", "SIGKILL | before a checkpoint"),
        ("private_evolution", "points", "SIGKILL | after a checkpoint"),
        ("dp_imgsyn", "points", "SIGUSR1 | before the samples"),
    )
]
