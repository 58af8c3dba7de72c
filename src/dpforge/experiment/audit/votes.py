"""Canaries in the votes of Private Evolution: images that vote for candidates of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dpforge.data import ImageSchema
from dpforge.experiment.audit.door import audit_context
from dpforge.experiment.audit.evidence import Channel, Evidence
from dpforge.generators.base import RunContext, Runtime, rows_per_unit
from dpforge.generators.private_evolution.budget import iterations_of, vote_use
from dpforge.generators.private_evolution.loop import Evolution
from dpforge.generators.private_evolution.population import Population
from dpforge.generators.private_evolution.voting import Electorate
from dpforge.privacy.plan import Plan
from dpforge.privacy.spec import PrivacySpec

BYSTANDERS, DIMENSIONS = 16, 48


class Election(Evolution):
    """The voting of a run, with electorate and candidates made up; no image is drawn or embedded.

    Args:
        model, schema, run: As of the run.
        voters: Who votes.
        places: Where each candidate stands, float32 ``(candidates, d)``.
        labels: Class of each candidate, ascending.
    """

    def __init__(
        self,
        model: Any,
        schema: ImageSchema,
        run: RunContext,
        voters: Electorate,
        places: np.ndarray,
        labels: np.ndarray,
    ) -> None:
        self.model, self.run, self.voters = model, run, voters
        self.schema = model.released_schema(schema)
        self._places = places
        blank = np.zeros((len(labels), 1, 1, 3), dtype=np.uint8)
        self._candidates = Population(blank, labels, np.zeros(len(labels)))

    def _points(self, iteration: int, candidates: Population) -> list[np.ndarray]:
        """Every point of a candidate stands where the candidate stands."""
        return [self._places] * self.model.packing

    def released(self, iteration: int) -> np.ndarray:
        """Return the noisy votes of an iteration, ``(candidates,)``."""
        return self._release(iteration, self._candidates)


def audit_votes(
    model: Any,
    schema: ImageSchema,
    plan: Plan,
    spec: PrivacySpec,
    runtime: Runtime,
    *,
    canaries: int,
    rng: np.random.Generator,
) -> Evidence:
    """Hold all elections of a plan with canaries among the voters.

    A canary whose coin is heads votes for candidates that nobody else can reach; one whose coin is tails
    does not vote, or under ``replace`` votes for others of its own. Bystanders vote elsewhere.
    """
    coins = rng.random(canaries) < 0.5
    replaced = plan.relation == "replace"
    sides, votes = 2 if replaced else 1, model.num_nearest_neighbors
    classes = model.released_schema(schema).num_classes
    # One spot for each side of a canary, then one for bystanders; ``votes`` candidates at each.
    spots = rng.standard_normal((sides * canaries + 1, DIMENSIONS))
    spots /= np.linalg.norm(spots, axis=1, keepdims=True)
    spot_labels = np.r_[np.tile(np.arange(canaries) % classes, sides), 0]
    order = np.argsort(np.repeat(spot_labels, votes), kind="stable")
    owner = np.repeat(np.arange(len(spots)), votes)[order]
    present = np.flatnonzero(coins) if not replaced else np.where(coins, 0, canaries) + np.arange(canaries)
    voting = np.r_[np.full(BYSTANDERS, sides * canaries), present]
    voters = _electorate(schema, spots.astype(np.float32), spot_labels, voting)
    places = spots[owner].astype(np.float32)
    with audit_context(schema, plan, spec, runtime) as (access, run):
        election = Election(model, schema, run, voters, places, spot_labels[owner])
        uses = iterations_of(plan)
        noisy = [election.released(iteration) for iteration in range(1, uses + 1)]
        names = [vote_use(plan, iteration)[0] for iteration in range(1, uses + 1)]
        scales = [access.declared(name) for name in names]
    columns = [np.flatnonzero(owner == spot) for spot in range(sides * canaries)]
    seen = [_received(votes_, columns, canaries) for votes_ in noisy]
    low = -np.sqrt(0.5) if replaced else 0.0
    high = np.sqrt(0.5) if replaced else 1.0
    channels = [Channel(float(high), float(low), scale, model.subsample) for scale in scales]
    return Evidence("votes", tuple(dict.fromkeys(names)), uses, coins, seen, channels)


def _electorate(schema: ImageSchema, spots: np.ndarray, labels: np.ndarray, voting: np.ndarray) -> Electorate:
    """Voters at these spots; of users, each is a user with as many images as the schema allows."""
    rows = rows_per_unit(schema)
    chosen = np.repeat(voting, rows)
    units = np.repeat(np.arange(len(voting)), rows) if schema.unit.kind == "user" else None
    return Electorate(spots[chosen], labels[chosen].astype(np.int64), units)


def _received(noisy: np.ndarray, columns: Sequence[np.ndarray], canaries: int) -> np.ndarray:
    """What each canary's own candidates received, in units of its vote; sides are set against each other."""
    own = np.array([noisy[column].sum() / np.sqrt(len(column)) for column in columns])
    if len(columns) == canaries:
        return own
    return (own[:canaries] - own[canaries:]) / np.sqrt(2)
