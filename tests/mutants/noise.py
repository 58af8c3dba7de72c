"""Mutants of noise: its law, its streams, and whether it reaches what is released."""

from __future__ import annotations

import numpy as np
import torch

from dpforge.privacy import mechanisms, noise, rng, selection
from dpforge.privacy.access import Access
from dpforge.privacy.dpsgd import DPGradient
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.rng import KeyedRandom

from .gradients import TEXTBOOK
from .library import CONTRACT, IN_ONE, RELEASES, SENSITIVITY, mutant
from .planter import Planter

LAW = f"{CONTRACT}::test_noise_is_per_element_of_the_declared_scale_and_never_repeats"
OUTPUTS = f"{RELEASES}::test_what_a_generator_gets_is_the_value_plus_the_noise"
RNG = "privacy/test_rng.py"
MECHANISMS = "privacy/test_mechanisms.py"


def scaled(p: Planter, factor: float) -> None:
    for name in ("normal", "normal_double"):
        p.wrap(KeyedRandom, name, lambda draw: lambda *a: draw(*a) * factor)


@mutant("planted bug: half noise", IN_ONE, RNG)
def half_noise(p: Planter) -> None:
    """All normal noise is half as large as declared."""
    scaled(p, 0.5)


@mutant("a deficit that only statistics see", f"{RNG}::test_noise_has_the_declared_scale_and_law")
def noise_two_percent_too_small(p: Planter) -> None:
    """All normal noise is 2 % smaller than declared."""
    scaled(p, 0.98)


@mutant("planted bug: noise missing", IN_ONE, LAW)
def no_noise(p: Planter) -> None:
    """Normal noise is zero."""
    scaled(p, 0.0)


@mutant("first DPWGAN code: a closure over the loop variable", IN_ONE, LAW)
def one_scalar_of_noise_broadcast(p: Planter) -> None:
    """One normal number is added to all entries."""
    p.wrap(
        KeyedRandom,
        "normal",
        lambda draw: lambda self, purpose, step, size: draw(self, purpose, step, 1).repeat(size),
    )


@mutant("planted bug: noise reused", IN_ONE, RNG)
def noise_the_same_at_every_step(p: Planter) -> None:
    """The step is left out of the stream."""
    p.wrap(KeyedRandom, "normal", lambda draw: lambda self, purpose, step, size: draw(self, purpose, 0, size))


@mutant("rule 3: separate purposes", f"{RNG}::test_another_step_purpose_or_key_gives_unrelated_noise")
def sampling_and_noise_share_a_stream(p: Planter) -> None:
    """The purpose is left out of the stream: noise can be computed from who was sampled."""
    p.wrap(KeyedRandom, "_subkey", lambda subkey: lambda self, purpose, step: subkey(self, "", step))


@mutant(
    "DP-MAF code: noise from the public seed 42",
    f"{CONTRACT}::test_another_key_gives_other_noise_with_the_same_public_seed",
    RNG,
)
def noise_from_the_public_seed(p: Planter) -> None:
    """Noise follows from purpose and step alone; anyone can subtract it."""
    p.wrap(KeyedRandom, "_subkey", lambda subkey: lambda self, *a: subkey(rng.public_random(42), *a))


@mutant("torch keeps 32 bits of a seed", f"{RNG}::test_all_256_bits_of_a_key_matter")
def key_cut_to_32_bits(p: Planter) -> None:
    """Only four bytes of the key reach the generator."""
    p.wrap(
        KeyedRandom,
        "_subkey",
        lambda subkey: lambda self, *a: subkey(KeyedRandom(self.kind, self.key[:4] * 8), *a),
    )


@mutant("DP-ImgSyn code: noise drawn, recorded without it", OUTPUTS, "privacy/test_dp_imgsyn_privacy.py")
def noise_drawn_and_not_added_to_a_vector(p: Planter) -> None:
    """A Gaussian release draws its noise, reports it, and gives back the value."""

    def make(gaussian):
        def clean(self, name, value, **kw):
            gaussian(self, name, value, **kw)
            return value

        return clean

    p.wrap(PrivateAccess, "gaussian", make)


@mutant("noise drawn, not added", OUTPUTS, TEXTBOOK)
def noise_drawn_and_not_added_to_a_sum(p: Planter) -> None:
    """A clipped sum reports noise and is released without it."""

    def make(gaussian_sum):
        def clean(self, name, step, parts):
            before = [part.clone() for part in parts]
            gaussian_sum(self, name, step, parts)
            for part, value in zip(parts, before, strict=True):
                part.copy_(value)
            return list(parts)

        return clean

    p.wrap(PrivateAccess, "gaussian_sum", make)


@mutant("planted bug: noise divided by the batch", OUTPUTS, TEXTBOOK)
def noise_divided_by_the_batch(p: Planter) -> None:
    """Noise of a mean is added to a sum: a sixteenth of what is reported."""

    def make(gaussian_sum):
        def less(self, name, step, parts):
            before = [part.clone() for part in parts]
            for part, value in zip(gaussian_sum(self, name, step, parts), before, strict=True):
                part.copy_(value + (part - value) / 16)
            return list(parts)

        return less

    p.wrap(PrivateAccess, "gaussian_sum", make)


@mutant("noise before clipping", TEXTBOOK)
def noise_before_clipping(p: Planter) -> None:
    """The noisy sum is clipped, which takes most of the noise away again."""

    def make(call):
        def clipped(self, module, batch):
            loss = call(self, module, batch)
            norm = torch.sqrt(sum(q.grad.square().sum() for q in self._parameters))
            for q in self._parameters:
                q.grad.mul_(min(1.0, self.clip / self.normalizer / float(norm)))
            return loss

        return clipped

    p.wrap(DPGradient, "__call__", make)


@mutant("histograms released as they are", OUTPUTS, MECHANISMS)
def histograms_without_their_noise(p: Planter) -> None:
    """Counts of a histogram release are exact."""

    def make(histograms):
        def exact(self, name, counts, weights, **kw):
            histograms(self, name, counts, weights, **kw)
            return [count.astype(float) for count in counts]

        return exact

    p.wrap(PrivateAccess, "histograms", make)


@mutant(
    "one stream for the histograms of all columns",
    f"{RELEASES}::test_histograms_of_one_release_have_unrelated_noise",
)
def columns_share_one_stream_of_noise(p: Planter) -> None:
    """Every column's histogram gets the same noise, so differences of columns have none."""

    def make(uniform):
        def shared(self, purpose, step, size):
            return uniform(
                self, purpose.split("/noise/")[0] + "/noise" if "/noise/" in purpose else purpose, step, size
            )

        return shared

    p.wrap(KeyedRandom, "uniform", make)


@mutant(
    "a step drawn twice for two sums", f"{MECHANISMS}::test_the_noise_of_a_step_is_drawn_once_in_a_process"
)
def a_step_may_be_drawn_again(p: Planter) -> None:
    """Two values may be released under one step's noise; their difference has none."""
    p.put(Access, "_draw_once", lambda self, name, step: None)


@mutant(
    "low bits of a float (Mironov, 2012)",
    f"{MECHANISMS}::test_a_released_vector_lies_on_a_public_grid_whatever_the_value",
)
def released_vectors_off_the_grid(p: Planter) -> None:
    """A Gaussian release keeps all bits of the sum of value and noise."""

    def gaussian(self, name, value, *, step=0, **details):
        piece = self.piece(name)
        self.reserve(name, step + 1, **details)
        scale = piece.sensitivity * piece.noise_multiplier
        self._draw_once(name, step)
        drawn = scale * self.random.normal_double(f"{name}/noise", step, value.size)
        self._observe(piece, step, value.reshape(-1), drawn, scale)
        return value + drawn.reshape(value.shape)

    p.put(PrivateAccess, "gaussian", gaussian)


@mutant(
    "tabular-ARGN engine: exponent without 1/2",
    f"{MECHANISMS}::test_quantile_output_distributions_of_neighbours_stay_within_epsilon",
)
def quantile_without_the_half(p: Planter) -> None:
    """The exponential mechanism's exponent lacks its factor 1/2."""
    p.swap(mechanisms, "quantile_logits", lambda f: lambda *a: 2 * f(*a))


@mutant("tabular-ARGN engine: threshold 5 on observed categories", MECHANISMS)
def category_threshold_of_five(p: Planter) -> None:
    """A category is kept from a fixed noisy count of 5."""
    p.swap(mechanisms, "category_threshold", lambda _: lambda epsilon, delta: 5)


@mutant(
    "exponential mechanism with half its noise",
    f"{CONTRACT}::test_noise_is_per_element_of_the_declared_scale_and_never_repeats",
    "privacy/test_selection.py",
)
def choices_with_half_the_noise(p: Planter) -> None:
    """Gumbel noise of a choice lacks the factor 2."""
    p.swap(selection, "choice_scale", lambda f: lambda *a: f(*a) / 2)


@mutant("sqrt(2 rho) taken for 2 sqrt(rho)", LAW, "privacy/test_selection.py")
def measurements_with_less_noise(p: Planter) -> None:
    """The standard deviation of a measured marginal lacks sqrt(2)."""
    p.swap(selection, "measurement_scale", lambda f: lambda *a: f(*a) / 2**0.5)


@mutant("scale of the noise from private values", SENSITIVITY, IN_ONE)
def scale_of_the_noise_from_the_data(p: Planter) -> None:
    """The standard deviation depends on the value it hides."""

    def make(observe):
        def scaled_by_value(self, piece, step, value, drawn, scale, *names):
            observe(self, piece, step, value, drawn, scale * (1 + abs(float(np.sum(value))) * 1e-6), *names)

        return scaled_by_value

    p.wrap(Access, "_observe", make)


@mutant("Box-Muller of one draw for two", f"{RNG}::test_noise_is_white_and_never_repeats", LAW)
def noise_correlated_within_a_step(p: Planter) -> None:
    """Neighbouring entries share half of their noise; each alone has the right law."""

    def make(normal):
        def smooth(self, purpose, step, size):
            drawn = normal(self, purpose, step, size + 1)
            return (drawn[1:] + drawn[:-1]) / 2**0.5

        return smooth

    p.wrap(KeyedRandom, "normal", make)


@mutant(
    "continuous noise on counts shows their fraction",
    f"{MECHANISMS}::test_rounded_gaussian_is_the_rounding_of_its_gaussian",
    f"{MECHANISMS}::test_histograms_get_weighted_integer_noise",
)
def noise_on_counts_not_rounded(p: Planter) -> None:
    """Noise on counts keeps its fraction."""
    p.swap(noise, "rounded_gaussian", lambda _: lambda u, scale: scale * noise.special.ndtri(u))
