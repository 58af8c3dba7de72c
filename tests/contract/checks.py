"""What every recorded fit must satisfy, as functions: for the contract, planted bugs and random runs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from dpforge.data import Images
from dpforge.privacy.events import EpsilonDelta
from dpforge.privacy.mechanisms import GRID_BITS, Observation
from dpforge.privacy.plan import Piece

from .harness import Trace

# Two-sided; a suite of some thousand comparisons fails by chance once in about a thousand runs.
RARE = 1e-7
CHOSEN = ("exponential", "adaptive")


def described_release(release: Observation) -> tuple[Any, ...]:
    """What of a release may not depend on the records; which categories occur is not shown by their count."""
    shape = release.value.shape if release.names is None else None
    return release.name, release.step, shape, release.scale, release.kind


def check_neighbours(whole: Trace, less: Trace) -> None:
    """The same releases, none farther apart than its sensitivity, under the same public constants."""
    described = [[described_release(r) for r in t.releases] for t in (whole, less)]
    assert described[0] == described[1], "other releases, shapes, steps or scales"
    constants = [
        [(r.get("normalizer"), r.get("clip"), r.get("sampling_rate")) for r in t.ledger._records]
        for t in (whole, less)
    ]
    assert constants[0] == constants[1], "a normaliser, clip or rate depends on the records"
    for a, b in zip(whole.releases, less.releases, strict=True):
        assert a.sensitivity == b.sensitivity, "a sensitivity depends on the records"
        assert a.distance(b) <= a.sensitivity * (1 + 1e-5), f"{a.name} moves beyond its sensitivity"


def check_follows_from_releases(whole: Trace, less: Trace) -> None:
    """With the releases of one, both neighbours give the same samples: nothing else was kept."""
    sizes = [getattr(trace.fitted, "released_rows", None) for trace in (whole, less)]
    assert sizes[0] == sizes[1], "the number of samples depends on unreleased values"
    assert whole.fitted.schema == less.fitted.schema, "what is told of columns depends on unreleased values"
    first, second = (t.fitted.sample(60, np.random.default_rng(5)) for t in (whole, less))
    if isinstance(first, Images):
        assert np.array_equal(first.pixels, second.pixels), "images depend on unreleased values"
        assert np.array_equal(first.labels, second.labels), "labels depend on unreleased values"
        return
    pd.testing.assert_frame_equal(first, second)


def check_ledger(trace: Trace) -> None:
    """Releases, reservations and plan agree, use by use."""
    for piece in trace.plan.pieces:
        steps = [release.step for release in trace.releases if release.name == piece.name]
        uses = len(trace.spends(piece.name)) if piece.mechanism == "adaptive" else piece.count
        assert steps == list(range(uses)), f"{piece.name}: not every use was released once"
        assert trace.ledger.reserved(piece.name) == piece.count
    trace.ledger.check_complete()


def check_streams(trace: Trace) -> None:
    """Noise was on the ledger's file before it was drawn, and no stream of it was opened twice."""
    noise = [draw for draw in trace.draws if draw.is_noise]
    assert all(draw.reserved for draw in noise), "noise existed before its reservation was on disk"
    opened = [(draw.purpose, draw.step) for draw in trace.draws]
    assert len(set(opened)) == len(opened), "a stream was opened twice"
    released = {(release.name, release.step) for release in trace.releases if release.scale > 0}
    assert {(d.purpose.split("/noise")[0], d.step) for d in noise} == released, "noise without a release"


def check_outputs(trace: Trace) -> None:
    """What went on to the generator is the observed value plus the observed noise."""
    kept = zip(trace.releases, trace.outputs, trace.weights, trace.follows, strict=True)
    for release, output, weights, follows in kept:
        noisy = release.value.reshape(-1) + release.noise.reshape(-1)
        if follows is not None:
            assert output == follows(noisy), f"{release.name}: a choice does not follow from its noisy scores"
            continue
        assert release.kind != "choice"
        np.testing.assert_allclose(_flat(output, weights), noisy, rtol=1e-5, atol=_slack(release))


def _flat(output: Any, weights: Any) -> np.ndarray:
    if isinstance(output, np.ndarray):
        return output.reshape(-1)
    if weights is None:
        return torch.cat([part.reshape(-1) for part in output]).double().numpy()
    counts = output[0] if isinstance(output, tuple) else output
    return np.concatenate([count * weight for count, weight in zip(counts, weights, strict=True)])


def _slack(release: Observation) -> float:
    """Rounding to the public grid, and of float32 sums."""
    return max(release.scale, float(np.abs(release.value).max(initial=0)) * 1e-5) * 2.0**-GRID_BITS + 1e-12


def check_noise(trace: Trace) -> None:
    """Noise of every piece has the declared law and scale, is white and does not repeat."""
    for piece in trace.plan.pieces:
        if piece.mechanism in CHOSEN:
            check_chosen(trace, piece)
            continue
        event = piece.event
        brick = isinstance(event, EpsilonDelta)
        scale = piece.sensitivity * (1 / event.epsilon if brick else piece.noise_multiplier)
        mine = [release for release in trace.releases if release.name == piece.name]
        scales = {release.scale for release in mine}
        assert scales, f"{piece.name}: nothing was released"
        assert max(abs(s - scale) for s in scales) <= 1e-12 * scale, (
            f"{piece.name}: another scale than planned"
        )
        if mine[0].kind == "laplace":
            check_laplace(np.concatenate([release.noise for release in mine]), scale, piece)
            continue
        noise = np.concatenate([release.noise for release in mine]) / scale
        slack = 1.15 if piece.mechanism == "rounded_gaussian" else 1.0
        low, high = stats.chi2.ppf([RARE, 1 - RARE], noise.size) / noise.size
        assert low < np.mean(noise**2) < high * slack, f"{piece.name}: another variance than declared"
        if piece.mechanism == "dp_sgd":
            # Among so many float32 numbers a few are equal by chance; a stream used twice would halve them.
            assert np.unique(noise).size > 0.995 * noise.size, f"{piece.name}: noise repeats"
        if piece.mechanism in ("dp_sgd", "gaussian"):
            check_white([release.noise / scale for release in mine], piece.name)


def check_white(steps: list[np.ndarray], name: str) -> None:
    """Neither neighbours within a step nor entries of different steps are correlated."""
    pairs = [(step[:-lag], step[lag:]) for step in steps for lag in (1, 2) if step.size > 40]
    pairs += [
        (a, b) for i, a in enumerate(steps[:8]) for b in steps[i + 1 : 8] if a.size == b.size and a.size > 40
    ]
    for left, right in pairs:
        found = float(np.mean(left * right))
        assert abs(found) < stats.norm.isf(RARE / 2) / math.sqrt(left.size), f"{name}: noise is correlated"


def check_laplace(noise: np.ndarray, scale: float, piece: Piece) -> None:
    """Whole noise has the law of rounded, or of discrete, Laplace noise.

    Spread evenly over the probability of its step a whole number becomes uniform, and that exponential: so
    even a few entries show a scale that is too small.
    """
    law = stats.laplace(scale=scale)
    below, upto = law.cdf(noise - 0.5), law.cdf(noise + 0.5)
    if piece.mechanism != "laplace":
        below, upto = (stats.dlaplace.cdf(noise - less, 1 / scale) for less in (1, 0))
    assert np.array_equal(noise, np.rint(noise)), f"{piece.name}: noise on counts has a fraction"
    spread = below + (upto - below) * np.random.default_rng(0).uniform(size=noise.size)
    size = -np.log1p(-np.abs(2 * spread - 1)).sum()
    low, high = stats.gamma.ppf([RARE, 1 - RARE], max(noise.size, 1))
    assert noise.size == 0 or low < size < high, f"{piece.name}: another scale of noise than declared"
    assert noise.size == 0 or stats.kstest(spread, stats.uniform.cdf).pvalue > RARE, (
        f"{piece.name}: another law"
    )


def check_chosen(trace: Trace, piece: Piece) -> None:
    """Choices have Gumbel noise and measurements Gaussian noise of the scale that their cost asks for."""
    releases = [r for r in trace.releases if r.name == piece.name]
    adaptive = piece.mechanism == "adaptive"
    # An exponential mechanism that is epsilon-DP costs epsilon^2 / 8.
    brick = isinstance(piece.event, EpsilonDelta)
    each = piece.event.epsilon**2 / 8 if brick else piece.event.rho
    reserved = each * piece.count
    costs = [s["rho"] for s in trace.spends(piece.name)] if adaptive else [each] * piece.count
    assert math.fsum(costs) <= reserved
    assert math.fsum(costs) == pytest.approx(reserved)
    law: dict[str, list[np.ndarray]] = {"noise": [], "choice": []}
    for release, rho in zip(releases, costs, strict=True):
        scale = release.sensitivity / math.sqrt(2 * rho)
        scale = scale if release.kind == "noise" else scale * math.pi / math.sqrt(6)
        assert release.scale == pytest.approx(scale)
        law[release.kind].append(release.noise / release.scale)
    gumbel = stats.gumbel_r(-np.euler_gamma * math.sqrt(6) / math.pi, math.sqrt(6) / math.pi)
    assert stats.kstest(np.concatenate(law["choice"]), gumbel.cdf).pvalue > RARE
    if adaptive:
        assert stats.kstest(np.concatenate(law["noise"]), stats.norm.cdf).pvalue > RARE


def check_all(whole: Trace, less: Trace) -> None:
    """Every statement about a fit and its neighbour."""
    check_neighbours(whole, less)
    check_follows_from_releases(whole, less)
    for trace in (whole, less):
        check_ledger(trace)
        check_streams(trace)
        check_noise(trace)
    check_outputs(whole)
