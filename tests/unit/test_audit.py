"""Audits: bounds against exact laws, canaries through the code of every generator, planted bugs."""

from __future__ import annotations

import dataclasses
import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from contract.harness import IMAGES, MIXED, NUMBERS, model_of, schema_of, small_model
from scipy import stats

from dpforge.cli import audit as command
from dpforge.data.schema import Unit
from dpforge.errors import ConfigError
from dpforge.experiment.audit.auditing import Effort, audit
from dpforge.experiment.audit.bounds import epsilon_of_shift, guess_bound, guess_p_value, shift_bound
from dpforge.experiment.audit.evidence import Channel, Evidence, best_guesses, judged, right_guesses
from dpforge.experiment.audit.layers import audit_layers
from dpforge.experiment.audit.marginals import audit_marginals
from dpforge.experiment.audit.training import audit_training, with_canaries
from dpforge.experiment.audit.votes import audit_votes
from dpforge.generators.base import Runtime
from dpforge.generators.training import TrainingData
from dpforge.privacy import engines
from dpforge.privacy.accounting import epsilon
from dpforge.privacy.events import Gaussian
from dpforge.privacy.rng import KeyedRandom
from dpforge.privacy.spec import PrivacySpec

QUIET = Runtime(progress=False)
FAINT = 0.05


def faint(relation="add_remove"):
    """Noise so small that each canary is seen as it is."""
    return PrivacySpec(target_epsilon=None, noise_multiplier=FAINT, relation=relation)


def tail(trials, rate, least):
    """P[Binomial >= least] by its definition."""
    return math.fsum(
        math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(max(least, 0), trials + 1)
    )


# --- bounds


@pytest.mark.parametrize("level", [0.0, 0.5, 2.0])
def test_without_delta_the_p_value_is_the_tail_of_randomised_response(level):
    rate = math.exp(level) / (1 + math.exp(level))
    for correct in range(13):
        assert guess_p_value(20, 12, correct, level) == pytest.approx(min(tail(12, rate, correct), 1))


@pytest.mark.parametrize("delta", [1e-6, 1e-3, 0.05])
def test_the_term_of_delta_is_that_of_the_theorem(delta):
    rate = math.e / (1 + math.e)
    for correct in range(1, 10):
        below = [
            2 / i * (tail(9, rate, correct - i) - tail(9, rate, correct)) for i in range(1, 31)
        ]  # i up to m
        expected = tail(9, rate, correct) + 30 * delta * max(below)
        assert guess_p_value(30, 9, correct, 1.0, delta) == pytest.approx(min(expected, 1.0))


@pytest.mark.parametrize("delta", [0.01, 0.1])
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_no_mechanism_that_keeps_epsilon_and_delta_exceeds_the_p_value(delta, level):
    rate, m = math.exp(level) / (1 + math.exp(level)), 15
    for correct in range(m + 1):
        all_at_once = delta + (1 - delta) * tail(m, rate, correct)
        one_by_one = tail(m, delta + (1 - delta) * rate, correct)
        allowed = guess_p_value(m, m, correct, level, delta)
        assert max(all_at_once, one_by_one) <= allowed + 1e-12


@pytest.mark.parametrize("level", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("guesses", [5, 40, 200])
def test_randomised_response_exceeds_its_epsilon_in_at_most_one_of_twenty_audits(level, guesses):
    law = stats.binom(guesses, math.exp(level) / (1 + math.exp(level)))
    wrong = sum(law.pmf(v) for v in range(guesses + 1) if guess_bound(guesses, guesses, v) > level)
    assert wrong <= 0.05


def test_the_bound_is_where_the_p_value_crosses_one_in_twenty():
    bound = guess_bound(1000, 100, 85, 1e-5)
    assert guess_p_value(1000, 100, 85, bound, 1e-5) < 0.05 < guess_p_value(1000, 100, 85, bound + 1e-3, 1e-5)
    assert all(
        guess_bound(1000, 100, low, 1e-5) <= guess_bound(1000, 100, high, 1e-5)
        for low, high in pairwise(range(50, 101, 5))
    )
    assert guess_bound(1000, 100, 50) == 0
    assert guess_bound(1000, 100, 85, 1e-3) < bound


def test_impossible_counts_are_refused():
    with pytest.raises(ConfigError, match="correct=5, guesses=4"):
        guess_p_value(10, 4, 5, 1.0)
    with pytest.raises(ConfigError, match="delta=1"):
        guess_p_value(10, 4, 2, 1.0, 1.0)


@pytest.mark.parametrize("mu", [0.3, 1.5])
def test_a_gaussian_mechanism_exceeds_its_shift_in_at_most_one_of_twenty_audits(mu):
    trials = 60
    law = stats.binom(trials, stats.norm.sf(mu / 2))
    masses = law.pmf(np.arange(trials + 1))
    wrong = math.fsum(
        masses[a] * masses[b]
        for a in range(trials + 1)
        for b in range(trials + 1)
        if masses[a] * masses[b] > 1e-9 and shift_bound(a, trials, b, trials) > mu
    )
    assert wrong <= 0.05


@pytest.mark.parametrize("multiplier", [0.4, 1.0, 5.0])
def test_the_epsilon_of_a_shift_is_what_the_accountant_certifies(multiplier):
    assert epsilon_of_shift(1 / multiplier, 1e-5) == pytest.approx(
        epsilon(Gaussian(multiplier), 1e-5), abs=1e-3
    )
    assert epsilon_of_shift(0.0, 1e-5) == 0


# --- guesses


def test_log_odds_are_those_of_the_declared_law():
    x = np.array([-1.0, 0.2, 3.0])
    sampled = Channel(2.0, -2.0, 1.5, rate=0.3)
    p = [0.7 * stats.norm.pdf(x, 0, 1.5) + 0.3 * stats.norm.pdf(x, mean, 1.5) for mean in (2.0, -2.0)]
    assert sampled.log_odds(x) == pytest.approx(np.log(p[0] / p[1]))
    laplace = Channel(1.0, 0.0, 2.0, law="laplace")
    expected = stats.laplace.logpdf(x, 1, 2) - stats.laplace.logpdf(x, 0, 2)
    assert laplace.log_odds(x) == pytest.approx(expected)


def test_a_rehearsal_has_the_declared_law():
    rng = np.random.default_rng(0)
    coins = np.repeat([True, False], 20000)
    seen = Channel(3.0, 1.0, 0.5, rate=0.25).rehearse(coins, rng)
    assert seen[coins].mean() == pytest.approx(0.75, abs=0.05)
    assert seen[~coins].mean() == pytest.approx(0.25, abs=0.05)
    assert (
        stats.kstest(Channel(0, 0, 2, law="laplace").rehearse(coins, rng), stats.laplace(0, 2).cdf)[1] > 1e-4
    )


def test_only_the_most_decided_coins_are_guessed():
    scores, coins = np.array([5.0, -4.0, 0.1, -0.2]), np.array([True, False, False, True])
    assert [right_guesses(scores, coins, r) for r in range(5)] == [0, 1, 2, 2, 2]


def test_less_noise_calls_for_more_guesses():
    loud, still = (best_guesses([Channel(1.0, 0.0, scale)], 300, 1e-5) for scale in (1.5, 0.1))
    assert loud < still == 300


def test_honest_noise_is_not_accused_and_far_too_little_is():
    rng = np.random.default_rng(1)
    coins = rng.random(1000) < 0.5
    declared = Channel(1.0, 0.0, 1.0)
    claim = epsilon(Gaussian(1.0), 1e-5)
    for scale, accused in ((1.0, False), (0.1, True)):
        seen = coins + scale * rng.standard_normal(1000)
        found = judged(Evidence("x", ("x",), 1, coins, [seen], [declared]), claim, 1e-5)
        assert found.violated is accused
        assert found.lower_bound <= found.ceiling
        assert json.loads(json.dumps(found.to_json()))["verdict"] == found.verdict


# --- canaries through the code


def expected_of(evidence):
    """What is seen without noise, if all take part."""
    return [np.where(evidence.coins, channel.high, channel.low) for channel in evidence.channels]


def check_seen(evidence, noises=6.0):
    """Each canary shows its coin, and the rest is noise of the declared scale."""
    assert 0 < evidence.coins.sum() < len(evidence.coins)
    for seen, expected, channel in zip(evidence.seen, expected_of(evidence), evidence.channels, strict=True):
        assert channel.high - channel.low > 8 * channel.scale
        assert seen == pytest.approx(expected, abs=noises * channel.scale + 1e-4 * abs(channel.high))
        assert np.abs(seen - expected).max() > 0


@pytest.mark.parametrize("relation", ["add_remove", "replace"])
@pytest.mark.parametrize("name", ["dp_maf", "tabular_argn", "dpwgan", "dp_imgsyn", "dpwgan on images"])
def test_a_canary_of_dp_sgd_is_seen_with_the_clip_whatever_its_gradient(name, relation):
    model = small_model(name.split()[0])
    image = "table" not in model.modalities or "images" in name
    schema = IMAGES if image else schema_of(NUMBERS)
    key = "teacher" if hasattr(model, "teacher") else None
    rate = {"sampling_rate": 1.0}
    model = dataclasses.replace(model, **({key: dataclasses.replace(model.teacher, **rate)} if key else rate))
    spec = faint(relation)
    plan = model.plan(schema, spec)
    found = audit_training(
        model, schema, plan, spec, QUIET, name="train", canaries=20, steps=2, rng=np.random.default_rng(3)
    )
    assert found.uses == 2
    assert found.channels[0].scale == pytest.approx(plan.piece("train").sensitivity * FAINT)
    check_seen(found)


def test_canaries_are_sampled_at_the_rate_of_the_plan():
    model, schema, spec = small_model("dp_maf"), schema_of(MIXED), faint()
    plan = model.plan(schema, spec)
    found = audit_training(
        model, schema, plan, spec, QUIET, name="train", canaries=300, steps=6, rng=np.random.default_rng(3)
    )
    present = np.array([seen[found.coins] > 0.5 for seen in found.seen])
    low, high = stats.binom.interval(1 - 1e-6, present.size, 0.3)
    assert low <= present.sum() <= high
    assert not np.array([seen[~found.coins] > 0.5 for seen in found.seen]).any()


def test_a_user_shares_the_clip_among_its_rows():
    units = np.repeat(np.arange(3), 2)
    data = TrainingData(lambda rows, step: (rows.float(),), 6, units)
    more = with_canaries(data, np.array([0, 1, -1]), 2)
    assert more.rows == 10
    assert more.unit_count() == 5
    values, marks = more.gather(torch.arange(10), 0)
    assert values.tolist() == [0, 1, 2, 3, 4, 5, 0, 0, 0, 0]
    assert marks.sum(0).tolist() == [0, 2, -2]
    assert more.rows_of()(np.array([4])).tolist() == [8, 9]


@pytest.mark.parametrize("relation", ["add_remove", "replace"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"num_nearest_neighbors": 3}, {"packing": 2}, {"distance": "cosine"}, {"lookahead_degree": 0}],
    ids=str,
)
def test_a_canary_vote_is_seen_at_its_own_candidates(settings, relation):
    model, spec = dataclasses.replace(small_model("private_evolution"), **settings), faint(relation)
    # Whole votes would be rounded, which hides a noise as small as this one's.
    model = dataclasses.replace(model, noise="gaussian")
    found = audit_votes(
        model, IMAGES, model.plan(IMAGES, spec), spec, QUIET, canaries=30, rng=np.random.default_rng(0)
    )
    assert found.uses == 3
    check_seen(found)


def test_a_user_has_one_vote_however_many_images():
    schema = dataclasses.replace(IMAGES, unit=Unit("user", "owner", 4))
    model, spec = small_model("private_evolution"), faint()
    found = audit_votes(
        model, schema, model.plan(schema, spec), spec, QUIET, canaries=30, rng=np.random.default_rng(0)
    )
    check_seen(found)


@pytest.mark.parametrize("relation", ["add_remove", "replace", "zero_out"])
def test_a_canary_of_the_layer_statistics_is_seen_in_its_own_direction(relation):
    model, spec = small_model("dp_imgsyn"), faint(relation)
    statistics = dataclasses.replace(model.statistics, noise_multiplier=FAINT)
    model = dataclasses.replace(model, statistics=statistics)
    found = audit_layers(
        model, IMAGES, model.plan(IMAGES, spec), spec, QUIET, canaries=31, rng=np.random.default_rng(0)
    )
    check_seen(found)


MARGINALS = {
    "independent": {},
    "independent with Laplace noise": {"noise": "laplace"},
    "mst": {},
    "aim": {},
    "dp_maf": {},
    "tabular_argn": {},
}


@pytest.mark.parametrize("relation", ["add_remove", "replace"])
@pytest.mark.parametrize("name", MARGINALS)
def test_a_canary_row_is_seen_in_its_own_cell_of_every_column(name, relation):
    model = dataclasses.replace(model_of(name.split()[0]), **MARGINALS[name])
    schema, spec = schema_of(NUMBERS), faint(relation)
    plan = model.plan(schema, spec)
    piece = "aim" if name == "aim" else "marginals"
    found, _ = audit_marginals(
        model, schema, plan, spec, QUIET, name=piece, canaries=25, rng=np.random.default_rng(0)
    )
    assert len(found.seen) == 3
    assert ((found.scores() > 0) == found.coins).mean() > 0.9
    if relation == "add_remove":
        rounding = [1 + 8 * channel.scale for channel in found.channels]
        seen = np.abs(np.array(found.seen) - np.array(expected_of(found)))
        assert (seen.max(1) <= rounding).all()


# --- whole configurations and planted bugs


def toy_experiment(*words):
    from dpforge.config import check

    return check(["dataset=toy", *words]).runs[0].experiment


QUICK = Effort(canaries=150, steps=2, repeats=0, seed=0)


def test_an_honest_configuration_is_not_accused_and_reads_no_data(monkeypatch):
    from dpforge.data import ToySource

    monkeypatch.setattr(ToySource, "load", lambda self: pytest.fail("data were read"))
    found = audit(toy_experiment("model=mst"), dataclasses.replace(QUICK, repeats=20))
    assert [finding.method for finding in found.findings] == ["one run", "repeated"]
    assert not found.violated
    assert set(found.left_out) == {"selection", "pairs"}
    assert found.epsilon == pytest.approx(3.0, abs=1e-3)
    assert all(finding.certified < found.epsilon for finding in found.findings)
    assert json.loads(json.dumps(found.to_json()))["verdict"] == "no violation found"


def test_a_configuration_without_privacy_has_nothing_to_refute():
    with pytest.raises(ConfigError, match="NOT DP"):
        audit(toy_experiment("model=independent", "privacy=none"), QUICK)


def test_effort_out_of_range_is_refused_with_every_mistake():
    with pytest.raises(ConfigError) as caught:
        Effort(canaries=2, steps=0, repeats=3)
    assert len(caught.value.mistakes) == 3


DPSGD = ("model=dp_maf", "model.sampling_rate=1", "model.expected_batch_size=null", "model.steps=2")


def test_gradients_that_are_not_clipped_are_a_violation(monkeypatch):
    monkeypatch.setattr(engines, "clip_weights", lambda squared, limit: torch.ones_like(squared))
    found = audit(toy_experiment(*DPSGD), dataclasses.replace(QUICK, canaries=600))
    verdicts = {finding.mechanism: finding.violated for finding in found.findings}
    assert verdicts == {"one-way counts": False, "DP-SGD steps": True}


def test_noise_that_is_never_drawn_is_a_violation_of_every_mechanism(monkeypatch):
    monkeypatch.setattr(KeyedRandom, "normal_double", lambda self, purpose, step, size: np.zeros(size))
    words = ["dataset=font_digits", "model=private_evolution", "model.num_iterations=2"]
    from dpforge.config import check

    found = audit(check(words).runs[0].experiment, dataclasses.replace(QUICK, repeats=40))
    assert [finding.violated for finding in found.findings] == [True, True]


def test_the_command_exits_with_1_on_a_violation_and_writes_what_it_found(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(KeyedRandom, "uniform", lambda self, purpose, step, size: np.full(size, 0.5))
    target = tmp_path / "audit.json"
    words = [
        "dataset=toy",
        "model=independent",
        "--repeats",
        "0",
        "--canaries",
        "150",
        "--output",
        str(target),
    ]
    with pytest.raises(SystemExit) as end:
        command.main(words)
    assert end.value.code == 1
    content = json.loads(target.read_text())
    assert [run["verdict"] for run in content.values()] == ["VIOLATION"]
    assert "VIOLATION" in capsys.readouterr().out


def test_attacks_on_a_configuration_that_is_no_run_are_refused(capsys):
    with pytest.raises(SystemExit) as end:
        command.main(["dataset=toy", "model=independent", "--attacks"])
    assert end.value.code == 2
    assert "finished run" in capsys.readouterr().err
