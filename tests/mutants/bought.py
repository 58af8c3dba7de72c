"""Mutants of what is bought in a few numbers (choices, bounds, categories, counts), and of what follows."""

from __future__ import annotations

import dataclasses
import math
from types import ModuleType
from typing import Any

import numpy as np

from dpforge.experiment import stages as experiment_stages
from dpforge.generators import histograms
from dpforge.generators.dp_imgsyn import stages
from dpforge.generators.dp_imgsyn.statistics import STATISTICS
from dpforge.generators.private_evolution import earlier, loop
from dpforge.privacy import mechanisms, plan, values
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.rng import public_random
from dpforge.privacy.sampling import PoissonSampler
from dpforge.privacy.selection import ChoiceAccess

from .library import CONTRACT, RELEASES, SENSITIVITY, UNRELATED, mutant
from .planter import Planter

LAW = f"{CONTRACT}::test_noise_is_per_element_of_the_declared_scale_and_never_repeats"
OUTPUTS = f"{RELEASES}::test_what_a_generator_gets_is_the_value_plus_the_noise"
HOLDS = f"{CONTRACT}::test_the_ledger_holds_exactly_what_was_released"
SECRET = f"{CONTRACT}::test_what_is_drawn_for_a_row_comes_from_the_secret_key"
BOUGHT = "privacy/test_mechanisms.py::test_bought_counts_have_the_noise_of_their_price"


@mutant("AIM: noise of a choice drawn and not used", OUTPUTS)
def adaptive_choice_of_the_best_clean_score(p: Planter) -> None:
    """Inside a reservation a choice reports its noise and takes the largest clean score that is allowed."""

    def make(choose):
        def clean(self, name, scores, *, allowed=None, **kw):
            output = choose(self, name, scores, allowed=allowed, **kw)
            if self.piece(name).mechanism != "adaptive":
                return output
            order = np.argsort(-scores, kind="stable")
            return next(int(i) for i in order if allowed is None or allowed(int(i)))

        return clean

    p.wrap(ChoiceAccess, "choose", make)


def cheaper(p: Planter, method: str) -> None:
    """Give a release the discrete Laplace noise of ten times its epsilon."""

    def make(release):
        def less(self, *args):
            keep = mechanisms.discrete_laplace
            mechanisms.discrete_laplace = lambda uniforms, epsilon: keep(uniforms, 10 * epsilon)
            try:
                return release(self, *args)
            finally:
                mechanisms.discrete_laplace = keep

        return less

    p.wrap(PrivateAccess, method, make)


@mutant("epsilon of a brick multiplied", LAW, BOUGHT)
def bought_histograms_with_a_tenth_of_their_noise(p: Planter) -> None:
    """The histogram behind private bounds, and the number of rows, have a tenth of their noise."""
    cheaper(p, "log_histogram")


@mutant("epsilon of a brick multiplied", LAW, BOUGHT)
def bought_categories_with_a_tenth_of_their_noise(p: Planter) -> None:
    """Counts that decide which categories are kept have a tenth of their noise."""
    cheaper(p, "categories")


@mutant(
    "epsilon of a brick multiplied",
    LAW,
    "privacy/test_mechanisms.py::test_quantiles_are_drawn_with_the_probabilities_of_their_price",
)
def bought_quantiles_with_a_tenth_of_their_noise(p: Planter) -> None:
    """The exponential mechanism of private bounds takes ten times its epsilon."""
    p.swap(mechanisms, "quantile_logits", lambda f: lambda *a: 10 * f(*a))


@mutant("scale of Laplace noise divided", LAW)
def laplace_histograms_with_a_tenth_of_their_noise(p: Planter) -> None:
    """Histograms with Laplace noise have a tenth of it."""
    own = mechanisms._COUNT_NOISE
    less = {**own, "laplace": lambda uniforms, scale: own["laplace"](uniforms, scale / 10)}
    p.put(mechanisms, "_COUNT_NOISE", less)


@mutant("sensitivity in L2 under Laplace noise", SENSITIVITY)
def laplace_histograms_bounded_in_l2(p: Planter) -> None:
    """Histograms with Laplace noise are declared to move by the root of the number of columns."""

    def make(release):
        def short(*args, **kw):
            found = release(*args, **kw)
            if found.mechanism != "laplace":
                return found
            return dataclasses.replace(found, sensitivity=math.sqrt(found.sensitivity))

        return short

    p.swap(histograms, "histogram_release", make)


def sampled_in_public(p: Planter, place: ModuleType) -> None:
    def sampler(units: int, rate: float, random: Any, name: str = "train") -> PoissonSampler:
        return PoissonSampler(units, rate, public_random(0), name)

    p.put(place, "PoissonSampler", sampler)


@mutant("amplification by a sample that everybody can draw", SECRET)
def voters_sampled_from_the_public_seed(p: Planter) -> None:
    """Which private images vote follows from the public seed."""
    sampled_in_public(p, loop)


@mutant("amplification by a sample that everybody can draw", SECRET)
def images_for_statistics_sampled_from_the_public_seed(p: Planter) -> None:
    """Which private images enter the layer statistics follows from the public seed."""
    sampled_in_public(p, stages)


@mutant("DP-ImgSyn: a release a layer, charged once", HOLDS)
def layers_released_apart_under_one_charge(p: Planter) -> None:
    """Each third of the layer statistics is a release of its own, and one is charged."""

    def make(gaussian):
        def apart(self, name, value, *, step=0, **kw):
            if name != STATISTICS:
                return gaussian(self, name, value, step=step, **kw)
            parts = []
            for part in np.array_split(value, 3):
                self._drawn.discard((name, step))
                parts.append(gaussian(self, name, part, step=step, **kw))
            return np.concatenate(parts)

        return apart

    p.wrap(PrivateAccess, "gaussian", make)


@mutant("DPWGAN code: len(data) rows are drawn", SENSITIVITY)
def default_rows_of_a_model_are_the_rows_there_are(p: Planter) -> None:
    """A model's own default for the number of synthetic rows is that of private rows."""

    def make(protect):
        def counted(schema, table, access):
            schema, table = protect(schema, table, access)
            return dataclasses.replace(schema, rows=dataclasses.replace(schema.rows, value=len(table))), table

        return counted

    p.swap(values, "protect_values", make)


@mutant(
    "DPWGAN code: len(data) rows are drawn",
    "privacy/test_values.py::test_how_many_rows_a_run_draws_by_default_is_read_off_no_private_table",
)
def default_rows_of_a_run_are_the_rows_there_are(p: Planter) -> None:
    """A run without a number of synthetic rows draws as many as there are private ones."""

    def make(sample):
        def counted(work, fitted):
            place = sample.__globals__
            keep = place["default_rows"]
            place["default_rows"] = lambda fitted: len(work.load().train)
            try:
                return sample(work, fitted)
            finally:
                place["default_rows"] = keep

        return counted

    p.swap(experiment_stages, "sample", make)


@mutant("codes by frequency, as ordinal encoders do", UNRELATED, SENSITIVITY)
def categories_in_the_order_of_their_private_counts(p: Planter) -> None:
    """Categories are numbered by how many rows hold them."""

    def make(protect):
        def sorted_(schema, table, access):
            schema, table = protect(schema, table, access)
            for column in schema.columns:
                if column.kind == "categorical":
                    held = table[column.name].astype(str).value_counts()
                    by = sorted(column.categories.values, key=lambda value: -held.get(value, 0))
                    categories = dataclasses.replace(column.categories, values=tuple(by))
                    schema = schema.with_column(dataclasses.replace(column, categories=categories))
            return schema, values.conform(table, schema)

        return sorted_

    p.swap(values, "protect_values", make)


@mutant(
    "subset by place in the file",
    f"{CONTRACT}::test_removing_the_first_record_moves_no_other_into_a_release",
)
def first_half_of_the_file(p: Planter) -> None:
    """A model learns from the first half of the file: one row more moves the cut past another."""

    def make(protect):
        def first(schema, table, access):
            schema, table = protect(schema, table, access)
            return schema, table.head(len(table) // 2)

        return first

    p.swap(values, "protect_values", make)


@mutant(
    "a longer schedule that forgets the shorter one",
    "privacy/test_private_evolution_start_privacy.py::"
    "test_a_start_from_a_private_run_costs_both_runs_together",
)
def earlier_votes_cost_nothing(p: Planter) -> None:
    """A run that goes on from the samples of a finished one pays for its own iterations alone."""
    p.swap(earlier, "earlier_pieces", lambda _: lambda samples, spec, schema: ())


@mutant(
    "TabularARGN: weights released beyond the largest epsilon",
    "privacy/test_argn_privacy.py::"
    "test_planned_steps_that_a_largest_epsilon_cuts_are_the_steps_that_are_trained",
    "privacy/test_plan.py::test_max_epsilon_authorises_the_most_steps_that_stay_below_it",
)
def steps_beyond_the_largest_epsilon(p: Planter) -> None:
    """The plan has all steps, whatever privacy.max_epsilon says."""
    p.swap(plan, "_limited", lambda _: lambda plan, limit, training: plan)
