"""The loop: embed, vote, release, choose parents, vary; complete on disk after every iteration."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from dpforge.data import ImageDataset, Images
from dpforge.data.image_files import export_pictures
from dpforge.errors import Interrupted, PrivacyError
from dpforge.generators.base import RunContext
from dpforge.generators.private_evolution.budget import CLASS_COUNTS, VOTES, iterations_of, vote_use
from dpforge.generators.private_evolution.calls import varied
from dpforge.generators.private_evolution.earlier import take_over
from dpforge.generators.private_evolution.embedding import make_extractor, mean_features, private_features
from dpforge.generators.private_evolution.files import load_progress, sample_file
from dpforge.generators.private_evolution.fitted import FittedEvolution
from dpforge.generators.private_evolution.initial import initial_population
from dpforge.generators.private_evolution.population import Population, kept_votes, parents, together
from dpforge.generators.private_evolution.upstream import noise_scale, noisy_counts
from dpforge.generators.private_evolution.voting import Ballot, Electorate, count_classes, count_votes
from dpforge.privacy.sampling import PoissonSampler

if TYPE_CHECKING:
    from dpforge.generators.private_evolution.settings import PrivateEvolution

FEW = 24  # candidates of a class that can win more votes than the threshold takes
_log = logging.getLogger("dpforge")


class Evolution:
    """One run of Private Evolution.

    Args:
        model: Settings.
        data: Private images; read through their votes alone.
        run: Access, samples folder, progress.
    """

    def __init__(self, model: PrivateEvolution, data: ImageDataset, run: RunContext) -> None:
        self.model, self.run = model, run
        self.schema = model.released_schema(data.schema)
        self.iterations = iterations_of(run.access.ledger.plan)
        self.degrees = model.degrees()
        self.extract = make_extractor(
            model.embedding, self.schema, run.runtime.device, model.embedding_weights
        )
        self.voters = self._electorate(data)
        # Without noise a count is private, whatever it is called.
        self.clean = model.not_dp or not run.spec.enabled
        self.progress = load_progress(run, self.schema, clean=self.clean)

    def finish(self) -> FittedEvolution:
        """Run all iterations, from the last complete one if there is one.

        Raises:
            Interrupted: The run was asked to stop; what is complete is on disk.
        """
        take_over(self.run.access)
        estimate = getattr(self.model.api, "estimate", None)
        if estimate is not None:
            _log.info("%s", estimate(*self.model.api_images(self.schema.nominal_rows)))
        self.model.api.prepare(self.schema.classes, self.run.runtime.device, self.run.checkpoints.parent)
        self.progress.check_public({"api": self.model.api.describe(), "embedding": self.extract.describe()})
        population = self.progress.population()
        shares = self._shares()
        if population is None:
            population = initial_population(self.model, self.schema, shares, self.run)
            self.progress.keep_population(self.run, population, grid=self.model.save_grid)
            self._show(0, population, {})
        begun = self.progress.iteration
        for iteration in range(begun + 1, self.iterations + 1):
            self._pause(iteration)
            population = self._iterate(iteration, population, shares)
        if begun < self.iterations:
            self._commit()
        if self.model.save_png:
            pictures = Images(population.pixels, population.labels)
            export_pictures(self.progress.folder / "png", pictures, self.schema.classes, self.progress.origin)
        return FittedEvolution(
            self.schema,
            population,
            self.model.api,
            self.degrees[self.iterations],
            self.run.runtime.device,
            sample_file(self.progress.folder, 0),
        )

    def _iterate(self, iteration: int, candidates: Population, shares: np.ndarray) -> Population:
        noisy = self.progress.votes()
        if noisy is None:
            noisy = self._release(iteration, candidates)
            self.progress.keep_votes(self.run, noisy, candidates.labels)
        chosen = self._chosen(iteration, candidates, noisy, shares)
        selected = candidates.take(chosen)
        folds = [
            self._vary(selected, iteration, "children", fold)
            for fold in range(self.model.next_variation_fold)
        ]
        kept = [selected] if self.model.keep_selected else []
        population = together([*folds, *kept])
        self.progress.keep_population(self.run, population, grid=self.model.save_grid)
        self._show(iteration, population, {"parents": float(len(np.unique(chosen)))})
        return population

    def _release(self, iteration: int, candidates: Population) -> np.ndarray:
        """Count votes and return them with noise: the only values that leave the private images."""
        points = self._points(iteration, candidates)
        raw = self.model.mode == "upstream"
        ballot = Ballot(self.model.num_nearest_neighbors, self.model.packing, self.model.distance, raw)
        name, use = vote_use(self.run.access.ledger.plan, iteration)
        blocks = candidates.blocks(self.schema.num_classes)
        voters = self._turnout(iteration)
        votes = count_votes(voters, points, blocks, ballot, self.run.runtime.device)
        noisy = self.run.access.gaussian(name, votes, step=use, sampling_rate=self.model.subsample)
        if raw:
            rng = self.run.random.generator("evolution/upstream noise", iteration)
            folder = self.run.checkpoints.parent / "private" / "upstream" / str(iteration)
            return noisy_counts(noisy, blocks, self._noise(iteration)[0], rng, folder)
        # Rounding a noisy count is post-processing.
        return np.rint(noisy) if self.model.whole_votes(self.schema) else noisy

    def _points(self, iteration: int, candidates: Population) -> list[np.ndarray]:
        """Where candidates stand: themselves, or the mean of their variations, once for each point."""
        ahead = self.model.lookahead_degree
        if ahead == 0:
            return [self.extract(candidates.pixels)]

        def variation(number: int) -> np.ndarray:
            self._pause(iteration)
            return self._vary(candidates, iteration, "lookahead", number).pixels

        return [
            mean_features(self.extract, lambda number, first=first: variation(first + number), ahead)
            for first in range(0, ahead * self.model.packing, ahead)
        ]

    def _vary(self, images: Population, iteration: int, purpose: str, number: int) -> Population:
        rng = self.run.random.generator(f"evolution/{purpose}/{number}", iteration)
        return varied(self.model.api, images, self.degrees[iteration], rng)

    def _turnout(self, iteration: int) -> Electorate:
        if self.model.subsample == 1:
            return self.voters
        sampler = PoissonSampler(
            self.voters.unit_count, self.model.subsample, self.run.access.random, name=VOTES
        )
        return self.voters.of_units(sampler.sample(iteration - 1))

    def _chosen(
        self, iteration: int, candidates: Population, noisy: np.ndarray, shares: np.ndarray
    ) -> np.ndarray:
        """Positions of the parents, class by class."""
        scale, threshold = self._noise(iteration)
        worth = kept_votes(noisy, threshold)
        rng = self.run.random.generator("evolution/parents", iteration)
        wanted = self.model.block_sizes(iteration, shares, self.schema.nominal_rows)
        blocks = candidates.blocks(self.schema.num_classes)
        self._log_votes(iteration, noisy, worth, blocks, scale, threshold)
        return np.concatenate(
            [
                block.start + parents(worth[block], int(count), self.model.selection, rng)
                for block, count in zip(blocks, wanted, strict=True)
            ]
        )

    def _noise(self, iteration: int) -> tuple[float, float]:
        """Standard deviation of the noise on a vote, and the threshold; public."""
        piece = self.run.access.piece(vote_use(self.run.access.ledger.plan, iteration)[0])
        scale = piece.sensitivity * piece.noise_multiplier
        if self.model.mode == "upstream":
            scale = noise_scale(self.run.spec, self.model.num_nearest_neighbors)
        threshold = self.model.threshold
        return scale, math.sqrt(2) * scale if isinstance(threshold, str) else float(threshold)

    def _log_votes(
        self,
        iteration: int,
        noisy: np.ndarray,
        worth: np.ndarray,
        blocks: list[slice],
        scale: float,
        threshold: float,
    ) -> None:
        cells = max(block.stop - block.start for block in blocks)
        floor = noise_floor(cells, scale, threshold)
        self.run.log(iteration, {"evolution/noise_floor": floor, "evolution/threshold": threshold}, "public")
        released = {
            "evolution/votes_kept": float(worth[np.isfinite(worth)].sum()),
            "evolution/candidates_kept": float((worth > 0).sum()),
            "evolution/largest_vote": float(noisy.max(initial=0.0)),
        }
        self.run.log(iteration, released, "private" if self.clean else "dp")
        voters = self.schema.nominal_rows * self.model.subsample / len(blocks)
        if iteration == 1 and threshold > 0 and voters / threshold < FEW:
            _log.warning(
                "at most %.0f candidates of a class can win more than the threshold of %.3g votes: the choice"
                " is close to random. Use fewer iterations, fewer candidates, or a smaller model.threshold.",
                voters / threshold, threshold,
            )  # fmt: skip

    def _shares(self) -> np.ndarray:
        """Share of each class, ``(K,)``: public, or from noisy counts."""
        if not self.model.buys_counts(self.schema):
            return self.model.public_shares(self.schema)
        counts = count_classes(self.voters, self.schema.num_classes)
        positive = np.maximum(self.run.access.gaussian(CLASS_COUNTS, counts), 0.0)
        return positive / positive.sum() if positive.sum() > 0 else np.full(len(counts), 1 / len(counts))

    def _electorate(self, data: ImageDataset) -> Electorate:
        if (data.units is not None) != (data.schema.unit.kind == "user"):
            raise PrivacyError(
                f"the schema's unit is a {data.schema.unit.kind}, and the images"
                f" {'have' if data.units is not None else 'lack'} users: votes cannot be bounded as planned."
            )
        features = private_features(self.extract, data.train.pixels, self.run.checkpoints.parent / "private")
        conditional = len(self.schema.classes) > 0
        labels = data.train.labels if conditional else np.zeros_like(data.train.labels)
        units = (
            None
            if data.units is None or self.model.mode == "upstream"
            else np.unique(data.units, return_inverse=True)[1].reshape(-1)
        )
        return Electorate(features, labels, units)

    def _commit(self) -> None:
        for piece in self.run.access.ledger.plan.pieces:
            self.run.access.ledger.commit(piece.name, piece.count)

    def _pause(self, iteration: int) -> None:
        if self.run.stopping():
            raise Interrupted(
                f"stopped before iteration {iteration} of {self.iterations}; the same command continues the"
                " run."
            )

    def _show(self, iteration: int, population: Population, values: dict[str, float]) -> None:
        self.run.progress(iteration, self.iterations, {"images": float(len(population)), **values})


def noise_floor(cells: int, scale: float, threshold: float) -> float:
    """Return the votes that ``cells`` candidates without any are expected to keep: public.

    The mean of max(N(0, scale^2) − threshold, 0), times ``cells``.
    """
    if scale == 0 or math.isinf(threshold):
        return 0.0 if threshold >= 0 else math.inf
    a = threshold / scale
    return float(cells * scale * (stats.norm.pdf(a) - a * stats.norm.sf(a)))
