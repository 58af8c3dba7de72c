"""Mutants of single systems: votes, layer statistics, critics, marginals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from dpforge.data.encode.cells import CellCodec
from dpforge.generators import argn_structure, dpwgan, gan_settings, gan_training
from dpforge.generators.dp_imgsyn import statistics
from dpforge.generators.dp_imgsyn.stages import Stages
from dpforge.generators.dpwgan import DPWGAN
from dpforge.generators.gan_module import GANModule
from dpforge.generators.marginals import settings
from dpforge.generators.marginals.rounds import Rounds
from dpforge.generators.private_evolution import loop, voting
from dpforge.generators.private_evolution.loop import Evolution

from .library import CONTRACT, SENSITIVITY, UNRELATED, mutant
from .planter import Planter

EVOLUTION = "privacy/test_private_evolution_privacy.py"
VOTES = "unit/test_private_evolution_votes.py"
IMGSYN = "privacy/test_dp_imgsyn_privacy.py"
WGAN = "privacy/test_dpwgan_privacy.py"
STRUCTURE = "unit/test_argn_structure.py"
HOLDS = f"{CONTRACT}::test_the_ledger_holds_exactly_what_was_released"
USER = f"{EVOLUTION}::test_the_last_user_moves_a_release_by_at_most_one_over_all_classes"


@mutant(
    "TabularARGN: pairs chosen by exact distances, released ones unused",
    f"{STRUCTURE}::test_the_released_values_choose_the_pairs_and_the_exact_ones_do_not",
)
def structure_from_exact_distances(p: Planter) -> None:
    """The release is made and booked, and the choice looks at what went into it."""
    exact: list[np.ndarray] = []

    def kept(distances):
        def remembered(*args):
            exact.append(distances(*args))
            return exact[-1]

        return remembered

    def by_exact(choose):
        def chosen(scores, *rest):
            return choose(dict(zip(scores, exact[-1], strict=True)), *rest)

        return chosen

    p.swap(argn_structure, "_distances", kept)
    p.swap(argn_structure, "strongest", by_exact)


@mutant(
    "Private Evolution: H of raw votes",
    f"{EVOLUTION}::test_one_record_moves_a_release_by_at_most_one",
    SENSITIVITY,
)
def votes_of_norm_root_k(p: Planter) -> None:
    """Each of the k candidates that a record names gets a whole vote."""
    p.swap(voting, "_shares", lambda _: lambda named, packing: np.ones(named.shape))


@mutant(
    "Private Evolution: packing names copies of one candidate",
    f"{EVOLUTION}::test_one_record_moves_a_release_by_at_most_one",
    VOTES,
)
def packed_copies_counted_as_different(p: Planter) -> None:
    """A candidate that is named twice gets two votes of weight 1 / sqrt(k)."""
    p.swap(
        voting,
        "_shares",
        lambda _: lambda named, packing: np.full(named.shape, 1 / math.sqrt(max(named.shape[1], 1))),
    )


@mutant("Private Evolution: votes of a client normalised within each label", USER)
def users_normalised_within_each_class(p: Planter) -> None:
    """A user with images in j classes has votes of norm sqrt(j)."""

    def make(count):
        def by_class(voters, points, blocks, *rest):
            total = np.zeros(len(points[0]))
            for label, block in enumerate(blocks):
                rows = voters.labels == label
                units = None if voters.units is None else voters.units[rows]
                own = voting.Electorate(voters.features[rows], voters.labels[rows], units)
                total[block] += count(own, points, blocks, *rest)[block]
            return total

        return by_class

    p.swap(voting, "count_votes", make)


@mutant(
    "Private Evolution: two events for one",
    f"{EVOLUTION}::test_one_record_moves_a_release_by_at_most_one",
    SENSITIVITY,
)
def every_image_votes_twice(p: Planter) -> None:
    """Each private image has two votes."""
    p.swap(voting, "count_votes", lambda f: lambda *a: 2 * f(*a))


@mutant(
    "Private Evolution: clean histograms on disk",
    f"{EVOLUTION}::test_clean_votes_are_in_no_file_and_in_no_log",
)
def clean_votes_in_a_file(p: Planter) -> None:
    """The votes before noise are written beside the noisy ones."""

    def make(release):
        def leaking(self, iteration, candidates):
            clean = []
            count = loop.count_votes
            loop.count_votes = lambda *a: clean.append(count(*a)) or clean[-1]
            try:
                noisy = release(self, iteration, candidates)
            finally:
                loop.count_votes = count
            np.savez(self.run.samples / f"clean{iteration}.npz", clean_count=clean[0])
            return noisy

        return leaking

    p.wrap(Evolution, "_release", make)


@mutant(
    "Private Evolution: 50 largest clean counts in the log",
    f"{EVOLUTION}::test_clean_votes_are_in_no_file_and_in_no_log",
)
def clean_votes_in_the_log(p: Planter) -> None:
    """The largest vote before noise is logged as a released value."""

    def make(count):
        def logged(self, iteration, candidates):
            votes = []
            original = loop.count_votes
            loop.count_votes = lambda *a: votes.append(original(*a)) or votes[-1]
            try:
                noisy = count(self, iteration, candidates)
            finally:
                loop.count_votes = original
            self.run.log(iteration, {"evolution/top": float(votes[0].max())}, "dp")
            return noisy

        return logged

    p.wrap(Evolution, "_release", make)


@mutant(
    "Private Evolution: exact private label shares taken for public",
    f"{EVOLUTION}::test_a_record_of_a_crowded_class_changes_no_block_size",
    SENSITIVITY,
)
def exact_shares_of_the_classes(p: Planter) -> None:
    """Blocks of candidates have the shares of the private labels."""

    def shares(self):
        counts = np.bincount(self.voters.labels, minlength=self.schema.num_classes) + 1.0
        return counts / counts.sum()

    p.put(Evolution, "_shares", shares)


@mutant("planted bug: exact label counts", HOLDS, SENSITIVITY)
def exact_class_counts_of_a_critic(p: Planter) -> None:
    """Classes of samples follow the private labels, unpaid."""

    def exact(data, *args):
        counts = np.bincount(data.train.labels, minlength=data.schema.num_classes) + 1.0
        return counts / counts.sum()

    p.swap(gan_training, "class_mass", lambda _: exact)


@mutant("DPWGAN: critic steps counted as generator steps", WGAN)
def generator_steps_in_the_plan(p: Planter) -> None:
    """The plan has one event a generator step."""

    def make(training):
        return lambda rate, steps, reason, sensitivity: training(
            rate, max(1, steps // 2), reason, sensitivity
        )

    p.put(dpwgan, "Training", make(dpwgan.Training))


@mutant(
    "first DPWGAN code: first critic step on unclamped weights",
    f"{WGAN}::test_the_critic_is_constrained_before_its_first_step_and_after_each",
)
def first_critic_step_unconstrained(p: Planter) -> None:
    """Weights are constrained after each step only."""

    def make(init):
        def started(self, *args, **kw):
            place = init.__globals__
            keep = place["constrain"]
            place["constrain"] = lambda critic, settings: None
            try:
                init(self, *args, **kw)
            finally:
                place["constrain"] = keep

        return started

    p.wrap(GANModule, "__init__", make)


@mutant(
    "a real record's partner depends on the other records",
    f"{WGAN}::test_partners_are_uniform_in_the_class_and_stay_when_another_record_goes",
)
def partners_without_replacement(p: Planter) -> None:
    """Fakes are dealt out like cards, so one record's removal pairs the others anew."""

    def partners(self, rows, labels, step):
        rng = self._random.generator("train/partners", step)
        places = torch.from_numpy(rng.permutation(max(rows, self._per_class))[:rows] % self._per_class)
        return places if labels is None else places + self._per_class * labels

    p.put(GANModule, "partners", partners)


@mutant(
    "weight clipping taken for privacy",
    f"{WGAN}::test_the_upstream_arithmetic_has_no_epsilon_under_any_privacy",
)
def upstream_mode_has_an_epsilon(p: Planter) -> None:
    """The arithmetic of the original is planned as if it were DP-SGD."""
    p.put(DPWGAN, "not_dp", property(lambda self: False))


@mutant(
    "DP-ImgSyn: layers released apart and charged once",
    f"{IMGSYN}::test_one_record_moves_the_statistics_by_at_most_their_sensitivity",
)
def each_layer_clipped_alone(p: Planter) -> None:
    """Each of several layers is clipped to the radius; the sum of all is charged once."""

    def clipped(self, moments):
        u = self.standardized(moments) / self.radius
        parts = np.array_split(u, 3, axis=1)
        return np.concatenate(
            [a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1) for a in parts], axis=1
        )

    p.put(statistics.Reference, "clipped", clipped)


@mutant(
    "DP-ImgSyn: clamp of each element",
    f"{IMGSYN}::test_one_record_moves_the_statistics_by_at_most_their_sensitivity",
)
def each_element_clamped(p: Planter) -> None:
    """Elements are clamped one by one, so the norm grows with their number."""
    p.put(statistics.Reference, "clipped", lambda self, m: (self.standardized(m) / self.radius).clip(-1, 1))


@mutant(
    "DP-ImgSyn: the un-noised recorder",
    SENSITIVITY,
    f"{IMGSYN}::test_two_noise_keys_give_statistics_that_differ_in_every_entry_by_the_declared_noise",
)
def statistics_without_noise(p: Planter) -> None:
    """The release is bought, and the exact sum is used."""

    def make(released):
        def exact(self, teacher, public):
            access = self.run.access
            own = type(access).gaussian

            class Exact(type(access)):
                def gaussian(self, name, value, **kw):
                    own(self, name, value, **kw)
                    return value

            kind, access.__class__ = access.__class__, Exact
            try:
                return released(self, teacher, public)
            finally:
                access.__class__ = kind

        return exact

    p.wrap(Stages, "_released", make)


@mutant("DP-ImgSyn: moments over the realised batch", SENSITIVITY)
def statistics_over_the_rows_there_are(p: Planter) -> None:
    """The noisy sum is divided by the exact number of private images."""

    def make(released):
        def exact(self, teacher, public):
            place = released.__globals__
            keep, rows = place["released_statistics"], len(self.data.train)
            place["released_statistics"] = lambda noisy, reference, count, nominal: keep(
                noisy, reference, 0.0, rows
            )
            try:
                return released(self, teacher, public)
            finally:
                place["released_statistics"] = keep

        return exact

    p.wrap(Stages, "_released", make)


@mutant("DP-ImgSyn: reference moments of private images", SENSITIVITY)
def statistics_centred_by_private_images(p: Planter) -> None:
    """Centre, scale and radius come from private images."""
    p.wrap(
        Stages, "_released", lambda f: lambda self, teacher, public: f(self, teacher, self.data.train.pixels)
    )


@mutant("MST: a score moves by two, declared one", SENSITIVITY)
def score_sensitivity_halved(p: Planter) -> None:
    """Scores of marginals are declared to move half as far as they do."""
    p.swap(settings, "score_sensitivity", lambda f: lambda *a: f(*a) / 2)


@mutant("MST: rare cells merged by exact counts, released ones unused", UNRELATED)
def cells_merged_by_exact_counts(p: Planter) -> None:
    """Which cells are too rare to be told from noise is read off the private counts."""
    exact: list[Sequence[np.ndarray]] = []

    def remembering(histogram):
        def counted(self, codes):
            exact.append(histogram(self, codes))
            return exact[-1]

        return counted

    def by_exact(compressed):
        return lambda codec, noisy, *rest: compressed(codec, exact[-1], *rest)

    p.wrap(CellCodec, "histogram", remembering)
    p.swap(settings, "compressed", by_exact)


@mutant("AIM: sensitivity without the largest weight", SENSITIVITY, "unit/test_marginal_generators.py")
def weights_of_candidates_forgotten(p: Planter) -> None:
    """Scores are weighted and their sensitivity is not: it is a tenth of what it should be."""

    def make(choose):
        def low(self, state, estimate, rho):
            access, own = self.run.access, self.run.access.choose
            access.choose = lambda name, scores, **kw: own(
                name, scores, **{**kw, "sensitivity": kw["sensitivity"] / 10}
            )
            try:
                return choose(self, state, estimate, rho)
            finally:
                del access.choose

        return low

    p.wrap(Rounds, "_choose", make)


@mutant("batch statistics inside a loss", SENSITIVITY, WGAN)
def critic_loss_centred_over_the_batch(p: Planter) -> None:
    """Losses of a critic are centred over the batch, so records enter each other's gradients."""

    def make(losses):
        def centred(self, fakes, reals):
            found = losses(self, fakes, reals)
            return found - found.mean() if len(found) else found

        return centred

    p.wrap(gan_settings.GANSettings, "critic_losses", make)
