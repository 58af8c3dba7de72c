"""What one image metric leaves: scores with the protocol that makes them comparable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dpforge.evaluation.collecting import collected
from dpforge.evaluation.comparisons import Outcome
from dpforge.evaluation.images.protocol import environment, index_hash, plain, preprocessing
from dpforge.evaluation.images.sets import ImageSets
from dpforge.evaluation.results import Results
from dpforge.features import Extractor

ROLES = ("floor/", "ceiling/", "normalised/")


@dataclass(frozen=True)
class ImageOutcome(Outcome):
    """An :class:`~dpforge.evaluation.comparisons.Outcome` with its protocol.

    Args:
        protocol: Of every score of the outcome.
        intervals: Ends of 95 % intervals, for keys of ``scores`` and ``alone``.
    """

    protocol: Mapping[str, Any] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)


ImageMeasure = Callable[[ImageSets], ImageOutcome]


def protocol_of(
    sets: ImageSets,
    metric: str,
    version: str,
    *,
    extractor: Extractor | None = None,
    estimator: Mapping[str, Any] | None = None,
    classifier: Mapping[str, Any] | None = None,
    reference: str | None = None,
) -> dict[str, Any]:
    """Everything that must be equal for two values of ``metric`` to be comparable.

    Which generator made the images, and under which guarantee, is left out: that is what is compared.

    Args:
        reference: Set that was compared with; None for ``sets.reference``.
    """
    schema, name = sets.schema, reference or sets.reference
    return plain(
        {
            "metric": metric,
            "version": version,
            "extractor": extractor.describe() if extractor else None,
            "preprocessing": preprocessing(*schema.shape),
            "reference": {
                "dataset": schema.name,
                "split": name,
                "n": len(sets.images[name]),
                "index_hash": index_hash(sets.positions[name]),
                "size": [schema.height, schema.width],
            },
            "synthetic": {"n": sets.n, "draw_seed": sets.draw_seed, "class_balance": "as released"},
            "floor": sets.floor,
            "estimator": estimator or {},
            "classifier": classifier,
            "environment": environment(sets.training.device),
        }
    )


def image_results(outcomes: Sequence[ImageOutcome], rows: Mapping[str, int], notes: Sequence[str]) -> Results:
    """One :class:`Results`, in which every number is private and has its protocol."""
    found = collected([list(outcomes)], dict(rows), list(notes))
    by_name = {name: o.protocol for o in outcomes for name in (*o.scores, *o.alone)}
    protocols = {key: _of_key(key, by_name[_base(key)]) for key in found.metrics}
    intervals = {key: ends for outcome in outcomes for key, ends in outcome.intervals.items()}
    return replace(found, private=list(found.metrics), protocols=protocols, intervals=intervals)


def _of_key(key: str, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """The protocol of a key: which floor there was matters to a floor and to what is normalised by it."""
    if key.startswith(("floor/", "normalised/")):
        return dict(protocol)
    return {name: value for name, value in protocol.items() if name != "floor"}


def _base(key: str) -> str:
    """The key without its role."""
    for role in ROLES:
        key = key.removeprefix(role)
    return key
