"""Mutants of what is read of records, and what a generator does with it: samples, splits, bounds, counts."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd

from dpforge.data import split
from dpforge.data.columns import UNKNOWN
from dpforge.data.encode import transforms
from dpforge.generators import base, dp_maf, histograms, training
from dpforge.generators.training import TrainingData
from dpforge.privacy import dpsgd, values
from dpforge.privacy.access import Access
from dpforge.privacy.dpsgd import DPGradient, PrivateModule
from dpforge.privacy.rng import KeyedRandom, public_random
from dpforge.privacy.sampling import PoissonSampler

from .library import CONTRACT, IN_ONE, RELEASES, SENSITIVITY, mutant
from .planter import Planter

SAMPLING = "privacy/test_sampling.py"
SIZES = f"{CONTRACT}::test_neighbours_spend_and_release_the_same_however_many_rows_there_are"
LOSSES = f"{RELEASES}::test_private_losses_decide_nothing"
HOLDS = f"{CONTRACT}::test_the_ledger_holds_exactly_what_was_released"
USERS = f"{CONTRACT}::test_removing_a_user_with_all_rows_moves_each_release_by_at_most_its_sensitivity"


@mutant(
    "DP-MAF, DPWGAN, PrivSynth: fixed batches accounted as Poisson",
    f"{SAMPLING}::test_batch_sizes_are_dispersed_as_a_binomial_and_not_fixed",
)
def batches_of_fixed_size(p: Planter) -> None:
    """Every batch holds exactly q N rows."""

    def sample(self, step):
        rng = self.random.generator(f"{self.name}/fixed", step)
        return np.sort(rng.choice(self.units, round(self.units * self.sampling_rate), replace=False))

    p.put(PoissonSampler, "sample", sample)


@mutant("shuffled epochs accounted as Poisson", SAMPLING)
def shuffled_epochs(p: Planter) -> None:
    """Rows are shuffled and cut into batches: each is seen once an epoch."""

    def sample(self, step):
        parts = max(round(1 / self.sampling_rate), 1)
        order = self.random.generator(f"{self.name}/epoch", step // parts).permutation(self.units)
        return np.sort(np.array_split(order, parts)[step % parts])

    p.put(PoissonSampler, "sample", sample)


@mutant("tabular-ARGN engine: q from len(loader)", f"{SAMPLING}::test_every_unit_is_included_at_rate_q")
def sampling_rate_from_the_data(p: Planter) -> None:
    """The sampler draws a fixed expected number of the rows there are."""

    def make(sample):
        def other(self, step):
            rate = min(1.0, 12 / max(self.units, 1))
            twin = object.__new__(PoissonSampler)
            for f in dataclasses.fields(self):
                object.__setattr__(twin, f.name, getattr(self, f.name))
            object.__setattr__(twin, "sampling_rate", rate)
            return sample(twin, step)

        return other

    p.wrap(PoissonSampler, "sample", make)


@mutant("users sampled row by row", "privacy/test_dpsgd.py::test_rows_of_one_user_share_one_clip", USERS)
def rows_of_users_sampled_apart(p: Planter) -> None:
    """Units of the sampler are taken for rows."""
    p.put(TrainingData, "rows_of", lambda self: lambda indices: indices)


@mutant("planted bug: normaliser from len(data)", IN_ONE, SIZES)
def normaliser_from_the_data(p: Planter) -> None:
    """The sum is divided by q times the rows there are."""

    def make(train):
        def by_length(module, data, run, **kw):
            return train(
                module, data, run, **{**kw, "expected_rows": max(data.rows, 1) * kw["sampling_rate"]}
            )

        return by_length

    p.swap(training, "train", make)


@mutant("planted bug: steps from len(data)", SIZES, SENSITIVITY)
def steps_from_the_data(p: Planter) -> None:
    """Training takes one pass over the rows there are, at most as long as planned."""

    def make(train):
        def by_length(module, data, run, **kw):
            return train(module, data, run, **{**kw, "steps": max(1, min(kw["steps"], data.rows // 20))})

        return by_length

    p.swap(training, "train", make)


@mutant("issue: len(data) in a default", SENSITIVITY, SIZES)
def nominal_rows_are_the_rows_there_are(p: Planter) -> None:
    """A generator puts the number of private rows in the place of the public one."""

    def make(protect):
        def counted(schema, table, access):
            schema, table = protect(schema, table, access)
            return dataclasses.replace(schema, nominal_rows=max(len(table), 1)), table

        return counted

    p.swap(values, "protect_values", make)


@mutant("planted bug: bounds from data; most table generators", SENSITIVITY)
def bounds_from_the_data(p: Planter) -> None:
    """Number columns get the smallest and largest value of the rows as bounds."""

    def make(protect):
        def narrowed(schema, table, access):
            schema, table = protect(schema, table, access)
            for column in schema.columns:
                found = table[column.name].dropna()
                if column.kind in ("numeric", "integer") and len(found) and found.min() < found.max():
                    bounds = dataclasses.replace(
                        column.bounds, min=float(found.min()), max=float(found.max())
                    )
                    schema = schema.with_column(dataclasses.replace(column, bounds=bounds))
            return schema, table

        return narrowed

    p.swap(values, "protect_values", make)


@mutant("planted bug: vocabulary from data; DPWGAN code", SENSITIVITY)
def vocabulary_from_the_data(p: Planter) -> None:
    """Categories are those that occur."""

    def make(protect):
        def observed(schema, table, access):
            schema, table = protect(schema, table, access)
            for column in schema.columns:
                found = sorted({*table[column.name].dropna().astype(str)} - {UNKNOWN})
                if column.kind == "categorical" and found:
                    categories = dataclasses.replace(column.categories, values=tuple(found))
                    column = dataclasses.replace(column, categories=categories)
                    schema = schema.with_column(column)
                    cells = pd.Categorical(table[column.name].astype("str"), list(column.levels))
                    table = table.assign(**{column.name: cells})
            return schema, table

        return observed

    p.swap(values, "protect_values", make)


@mutant("planted bug: double vote", IN_ONE, SENSITIVITY)
def every_row_votes_twice(p: Planter) -> None:
    """Each row is counted twice in the histograms."""

    def make(release):
        return lambda access, codec, codes, *rest: release(
            access, codec, np.concatenate([codes, codes]), *rest
        )

    p.swap(histograms, "release_histograms", make)


@mutant("Delta of all columns taken for that of one", IN_ONE, SENSITIVITY)
def histogram_sensitivity_of_one_column(p: Planter) -> None:
    """All one-way histograms are declared to have sensitivity 1."""
    p.swap(
        histograms,
        "histogram_release",
        lambda f: lambda *a, **kw: dataclasses.replace(f(*a, **kw), sensitivity=1.0),
    )


@mutant("DP-MAF code: exact mean and deviation of the rows", SENSITIVITY)
def exact_moments_of_the_rows(p: Planter) -> None:
    """Standardisation is by the exact moments; the noisy ones are bought and thrown away."""

    def make(fit):
        def exact(self, schema, table, run):
            found = fit(self, schema, table, run)
            if self.transform != "dp_standardize":
                return found
            return transforms.standardize_transform(schema, transforms.moments(table, schema))

        return exact

    p.wrap(dp_maf.DPMAF, "_fit_transform", make)


@mutant("DP-MAF code: early stop on a private validation set", LOSSES, HOLDS)
def training_ends_by_the_private_loss(p: Planter) -> None:
    """Training ends early when the loss of a step rises."""

    def make(step):
        def watched(self, batch, batch_idx):
            before = self.last_loss
            step(self, batch, batch_idx)
            self._rose = self.last_loss > before

        return watched

    p.wrap(PrivateModule, "training_step", make)
    p.put(PrivateModule, "finished", property(lambda self: getattr(self, "_rose", False)))

    def loop(end):
        def stopped(self, trainer, module, outputs, batch, batch_idx):
            end(self, trainer, module, outputs, batch, batch_idx)
            trainer.should_stop = module.finished

        return stopped

    p.wrap(training._Loop, "on_train_batch_end", loop)


@mutant("planted bug: best checkpoint on private validation", LOSSES)
def weights_of_the_best_private_loss(p: Planter) -> None:
    """The weights that are released are those of the step with the smallest training loss."""

    def make(step):
        def watched(self, batch, batch_idx):
            step(self, batch, batch_idx)
            best = getattr(self, "_best", (float("inf"), {}))
            if self.last_loss < best[0]:
                self._best = (
                    self.last_loss,
                    {k: v.clone() for k, v in self.private_net().state_dict().items()},
                )

        return watched

    def finish(train):
        def chosen(module, *args, **kw):
            train(module, *args, **kw)
            if getattr(module, "_best", (0, {}))[1]:
                module.private_net().load_state_dict(module._best[1])
                getattr(module, "average", None) is not None and module.average.load_state_dict(
                    module._best[1]
                )

        return chosen

    p.wrap(PrivateModule, "training_step", make)
    p.swap(training, "train", finish)


@mutant("tabular-ARGN engine: validation loss drives the learning rate", LOSSES)
def learning_rate_by_the_private_loss(p: Planter) -> None:
    """The learning rate falls where the training loss is large."""

    def make(step):
        def slowed(self, batch, batch_idx):
            loss = self.last_loss
            rate = type(self).learning_rate
            if loss == loss:
                self.learning_rate = lambda number: (rate(self, number) or 0.1) / (1 + abs(loss))
            step(self, batch, batch_idx)

        return slowed

    p.wrap(PrivateModule, "training_step", make)


@mutant("issue: average of gradients without noise", SENSITIVITY, "privacy/test_dpsgd.py")
def average_of_gradients_before_noise(p: Planter) -> None:
    """A momentum of the clipped sums, before their noise, is added to each noisy gradient."""

    def make(call):
        def helped(self, module, batch):
            clipped = self.clipped_sum(module, batch.tensors).gradients
            loss = call(self, module, batch)
            for q, g in zip(self._parameters, clipped, strict=True):
                q.grad.add_(g, alpha=0.1 / self.normalizer)
            return loss

        return helped

    p.wrap(DPGradient, "__call__", make)


@mutant("a split by position", "unit/test_split.py")
def holdout_by_position(p: Planter) -> None:
    """A record's side depends on its place, so removing one moves others."""

    def make(draws):
        return lambda keys, seed, fraction: draws(np.arange(len(keys), dtype=np.uint64), seed, fraction)

    p.swap(split, "_draws", make)


@mutant(
    "public draws by place in a batch", f"{CONTRACT}::test_what_is_drawn_for_a_row_comes_from_the_secret_key"
)
def draws_for_rows_from_the_public_seed(p: Planter) -> None:
    """Dequantisation, dropout, views and partners of rows come from the public seed."""

    def make(generator):
        def public(self, purpose, *step):
            if self.kind != "public" and purpose.startswith("train/"):
                return public_random(0).generator(purpose, *step)
            return generator(self, purpose, *step)

        return public

    p.wrap(KeyedRandom, "generator", make)


@mutant("rule 1: the nominal number of units", USERS)
def rows_of_a_user_not_counted(p: Planter) -> None:
    """A user is taken to have one row."""
    p.swap(base, "rows_per_unit", lambda _: lambda schema: 1)


@mutant(
    "a unit larger than its clip accounts for",
    "privacy/test_dpsgd.py::test_a_unit_with_more_rows_than_its_clip_accounts_for_is_refused",
)
def large_units_are_let_in(p: Planter) -> None:
    """Users with more rows than stated are trained on."""
    p.put(TrainingData, "largest_unit", lambda self: 1)


@mutant(
    "loader without Poisson sampling",
    "privacy/test_dpsgd.py::test_a_sampler_at_another_rate_than_planned_is_refused",
)
def any_loader_is_let_in(p: Planter) -> None:
    """DP-SGD accepts any batches."""
    p.put(dpsgd.DPSGDCallback, "on_train_start", lambda self, trainer, module: None)


@mutant(
    "a clip above the planned sensitivity",
    "privacy/test_dpsgd.py::test_a_clip_above_the_planned_sensitivity_is_refused",
)
def planned_sensitivity_unchecked(p: Planter) -> None:
    """The clipping norm need not fit the plan."""
    p.put(dpsgd.DPSGDCallback, "_check_sensitivity", lambda self: None)


@mutant("moments of unclipped values", SENSITIVITY)
def moments_beyond_their_bound(p: Planter) -> None:
    """Released moments are twice as large as their sensitivity allows."""
    p.swap(transforms, "moments", lambda f: lambda *a: 3 * math.sqrt(2) * f(*a))


@mutant(
    "a piece declared public", "privacy/test_mechanisms.py::test_a_private_piece_cannot_be_read_without_noise"
)
def private_pieces_may_be_opened(p: Planter) -> None:
    """A private piece can be read without noise."""
    p.put(Access, "open_access", lambda self, name: self.reserve(name, 1))
