"""What Private Evolution spends and what leaves it: plan, sensitivity, noise, nothing else."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import pytest
from contract.harness import KEY
from scipy import stats
from unit.private_evolution_runs import Dots, dataset, fit, model, schema_of

from dpforge.data import ImageDataset, Images
from dpforge.data.columns import Unit
from dpforge.errors import BudgetExceeded, ConfigError, PrivacyError
from dpforge.generators.base import RunContext, Runtime
from dpforge.generators.private_evolution import loop
from dpforge.generators.private_evolution.budget import evolution_plan, iterations_of, vote_use
from dpforge.privacy.accounting import gaussian_delta
from dpforge.privacy.events import Gaussian, SelfComposed
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.mechanisms import Observation, PrivateAccess
from dpforge.privacy.plan import Plan
from dpforge.privacy.rng import KeyedRandom
from dpforge.privacy.spec import PrivacySpec

SIGMA = PrivacySpec(target_epsilon=None, noise_multiplier=3.0)


def sigma(value, delta=1e-5, **more):
    return PrivacySpec(target_epsilon=None, noise_multiplier=value, delta=delta, **more)


@pytest.mark.parametrize(
    ("noise", "iterations", "delta", "epsilon"),
    [
        (5 * math.sqrt(2), 20, 1e-5, 2.594383),
        (5 * math.sqrt(2), 5, 1e-5, 1.199370),
        (2 * math.sqrt(2), 5, 1e-5, 3.341409),
        (10 * math.sqrt(2), 7, 1e-5, 0.674460),
        (2 * math.sqrt(2), 29, 3e-6, 9.921071),
        (2.1793, 19, 3e-6, 10.533652),
        (2.0, 13, 1e-3, 6.618920),
        (2.0, 17, 1e-3, 7.890076),
        (8.0, 17, 1e-5, 2.061750),
        (1.0, 1, 1e-5, 4.377178),
    ],
)
def test_a_plan_costs_what_the_closed_form_says(noise, iterations, delta, epsilon):
    plan = evolution_plan(sigma(noise, delta), iterations=iterations)
    assert plan.epsilon() == pytest.approx(epsilon, abs=1e-3)
    assert gaussian_delta(math.sqrt(iterations) / noise, epsilon) == pytest.approx(delta, rel=1e-3)
    assert plan.piece("votes").count == iterations


def test_a_noise_schedule_costs_what_the_closed_form_says():
    plan = evolution_plan(sigma(1.0), iterations=5, schedule=[10, 8, 6, 5, 4])
    assert plan.epsilon() == pytest.approx(1.532789, abs=1e-3)
    assert [vote_use(plan, t) for t in (1, 5)] == [("votes/1", 0), ("votes/5", 0)]
    assert iterations_of(plan) == 5


def test_bought_class_counts_are_part_of_the_same_composition():
    """Shares of 40 to 1 put counts at sigma 10 beside twenty votes at 5 sqrt 2."""
    spec = sigma(5 * math.sqrt(2), split={"votes": 40, "class_counts": 1})
    plan = evolution_plan(spec, iterations=20, class_counts=True)
    assert plan.piece("class_counts").noise_multiplier == pytest.approx(10.0)
    assert plan.epsilon() == pytest.approx(2.630767, abs=1e-3)


@pytest.mark.parametrize(
    ("target", "rows", "iterations", "noise"),
    [
        (1.0, 45_000, 5, 9.10735),
        (10.0, 45_000, 5, 1.18144),
        (1.0, 55_000, 4, 8.23794),
        (1.0, 145_064, 7, 11.47028),
    ],
)
def test_a_target_gives_the_published_noise(target, rows, iterations, noise):
    delta = 1 / (rows * math.log(rows))
    plan = evolution_plan(PrivacySpec(target_epsilon=target, delta=delta), iterations=iterations)
    assert plan.piece("votes").noise_multiplier == pytest.approx(noise, rel=2e-3)
    assert plan.epsilon() <= target


def test_sampled_voters_cost_what_pld_says():
    plan = evolution_plan(sigma(5.0), iterations=20, sampling_rate=0.5)
    assert plan.epsilon() == pytest.approx(1.8461, abs=2e-3)
    with pytest.raises(ConfigError, match="add_remove and zero_out only"):
        evolution_plan(sigma(5.0, relation="replace"), iterations=20, sampling_rate=0.5)


def test_replacing_a_record_is_paid_with_more_noise_not_with_another_relation():
    add, other = (
        evolution_plan(PrivacySpec(target_epsilon=1.0, relation=r), iterations=5)
        for r in ("add_remove", "replace")
    )
    noise = [p.piece("votes").sensitivity * p.piece("votes").noise_multiplier for p in (add, other)]
    assert noise[1] == pytest.approx(math.sqrt(2) * noise[0])
    # With the smaller noise a replacement would cost 1.760057 rather than 1.199370 (five times 5 sqrt 2).
    moved = Plan((replace(add.pieces[0], event=Gaussian(5.0)),), 1e-5)
    assert moved.epsilon() == pytest.approx(1.760057, abs=1e-3)


def test_five_iterations_extended_to_ten_cost_more_than_either_plan():
    first = evolution_plan(PrivacySpec(target_epsilon=1.0), iterations=5).piece("votes")
    second = evolution_plan(PrivacySpec(target_epsilon=1.0), iterations=10).piece("votes")
    assert first.noise_multiplier == pytest.approx(8.34195, rel=1e-3)
    assert second.noise_multiplier == pytest.approx(11.79729, rel=1e-3)
    extended = Plan((first, replace(second, name="more", count=5)), 1e-5)
    assert extended.epsilon() == pytest.approx(1.2499, abs=1e-3)


def test_a_limit_authorises_the_most_iterations_below_it(tmp_path):
    spec = sigma(8.0, max_epsilon=1.0)
    plan = evolution_plan(spec, iterations=17)
    count = iterations_of(plan)
    assert 1 <= count < 17
    assert plan.epsilon() <= 1.0 < evolution_plan(sigma(8.0), iterations=count + 1).epsilon()
    with pytest.raises(BudgetExceeded, match="nothing is released"):
        evolution_plan(sigma(8.0, max_epsilon=0.1), iterations=17)
    fitted = fit(model(), dataset(schema_of()), tmp_path, sigma(8.0, max_epsilon=0.7))
    assert (tmp_path / "samples/2").exists()
    assert not (tmp_path / "samples/3").exists()
    assert fitted.degree == 0.5


class Replay(PrivateAccess):
    """Gives back earlier outputs, so that two runs stay on one path."""

    def __init__(self, ledger, random, observers, outputs):
        super().__init__(ledger, random, observers)
        self.earlier, self.outputs = list(outputs), []

    def gaussian(self, name, value, **details):
        noisy = super().gaussian(name, value, **details)
        self.outputs.append(self.earlier.pop(0) if self.earlier else noisy)
        return self.outputs[-1]


def traced(settings, data, folder, spec=SIGMA, outputs=(), log=None):
    folder.mkdir(parents=True)
    plan = settings.plan(data.schema, spec)
    ledger = Ledger.create(folder / "ledger.jsonl", plan, {"rng": spec.rng})
    releases: list[Observation] = []
    access = Replay(ledger, KeyedRandom("entropy", KEY), [releases.append], outputs)
    (folder / "checkpoints").mkdir()
    options = {} if log is None else {"log": log}
    run = RunContext(
        access, spec, Runtime(), 0, folder / "checkpoints", samples=folder / "samples", **options
    )
    settings.fit(data, run)
    return releases, access.outputs, ledger


OPTIONS = [
    {},
    {"num_nearest_neighbors": 3},
    {"num_nearest_neighbors": 7, "num_samples_schedule": 12},
    {"packing": 3, "num_nearest_neighbors": 3, "lookahead_degree": 1},
    {"class_prior": "dp_counts"},
    {"conditional": False, "lookahead_degree": 0},
    {"noise_schedule": [3.0, 2.0, 1.0]},
    {"distance": "ip", "selection": "systematic", "keep_selected": True},
]


@pytest.mark.parametrize("settings", OPTIONS, ids=str)
@pytest.mark.parametrize("rows", [1, 2, 93])
def test_one_record_moves_a_release_by_at_most_one(settings, rows, tmp_path):
    data = dataset(schema_of(), rows)
    less = replace(data, train=data.train.head(rows - 1))
    made = model(**settings)
    whole, outputs, ledger = traced(made, data, tmp_path / "whole")
    other, _, other_ledger = traced(made, less, tmp_path / "less", outputs=outputs)
    assert [(r.name, r.step, r.value.shape, r.scale) for r in whole] == [
        (r.name, r.step, r.value.shape, r.scale) for r in other
    ]
    moved = [a.distance(b) for a, b in zip(whole, other, strict=True)]
    assert max(moved) == pytest.approx(1.0)
    assert {r.sensitivity for r in whole} == {1.0}
    for spent in (ledger, other_ledger):
        spent.check_complete()


def test_the_last_user_moves_a_release_by_at_most_one_over_all_classes(tmp_path):
    schema = replace(schema_of(), unit=Unit("user", "who", 20))
    data = dataset(schema, 120)
    units = np.sort(np.random.default_rng(0).integers(12, size=120)).astype(np.int64) * 7919
    data = replace(data, units=units)
    kept = units < units.max()
    less = replace(data, train=data.train.take(kept), units=units[kept])
    made = model(class_prior="dp_counts")
    whole, outputs, _ = traced(made, data, tmp_path / "whole")
    other, _, _ = traced(made, less, tmp_path / "less", outputs=outputs)
    moved = [a.distance(b) for a, b in zip(whole, other, strict=True)]
    assert max(moved) <= 1 + 1e-9
    assert max(moved) > 0.9


def test_users_that_the_schema_does_not_know_of_are_refused(tmp_path):
    data = dataset(schema_of(), 20)
    with pytest.raises(PrivacyError, match="cannot be bounded"):
        fit(model(), replace(data, units=np.zeros(20, dtype=np.int64)), tmp_path / "one", SIGMA)
    users = replace(data, schema=replace(data.schema, unit=Unit("user", "who", 20)))
    with pytest.raises(PrivacyError, match="lack users"):
        fit(model(), users, tmp_path / "two", SIGMA)


def test_a_record_of_a_crowded_class_changes_no_block_size(tmp_path):
    data = dataset(schema_of(), 60)
    heavy = replace(data, train=data.train.take(np.r_[np.arange(60), np.zeros(30, int)]))
    for name, kind in (("even", data), ("heavy", heavy)):
        fit(model(), kind, tmp_path / name, SIGMA)
    sizes = [
        np.bincount(np.load(tmp_path / name / "samples/3/samples.npz")["labels"])
        for name in ("even", "heavy")
    ]
    assert np.array_equal(*sizes)


@pytest.mark.parametrize("classes", [1, 10])
def test_one_event_an_iteration_however_many_classes_there_are(classes, tmp_path):
    schema = schema_of(tuple(map(str, range(classes))))
    releases, _, ledger = traced(model(), dataset(schema), tmp_path / "run")
    assert [(r.name, r.step) for r in releases] == [("votes", 0), ("votes", 1), ("votes", 2)]
    assert ledger.plan.event().events == (SelfComposed(Gaussian(3.0), 3),)
    assert ledger.reserved("votes") == 3


def test_noise_is_drawn_for_every_cell_with_the_declared_scale(tmp_path):
    made = model(num_samples_schedule=10_000, num_iterations=10, lookahead_degree=0)
    releases, _, _ = traced(made, dataset(schema_of(), 30), tmp_path / "run")
    noise = np.stack([r.noise for r in releases]) / 3.0
    assert noise.size == 100_000
    low, high = stats.chi2.ppf([1e-5, 1 - 1e-5], noise.size) / noise.size
    assert low < np.mean(noise**2) < high
    assert stats.kstest(noise.reshape(-1), "norm").pvalue > 1e-4
    assert np.unique(noise).size == noise.size
    correlation = np.corrcoef(noise) - np.eye(10)
    assert np.abs(correlation).max() < 5 / math.sqrt(10_000)


def test_whole_votes_stay_whole_and_others_are_not_rounded(tmp_path):
    for neighbors, whole in ((1, True), (2, False)):
        folder = tmp_path / str(neighbors)
        fit(model(num_nearest_neighbors=neighbors), dataset(schema_of()), folder, SIGMA)
        count = np.load(folder / "samples/1/histogram.npz")["count"]
        assert np.array_equal(count, np.rint(count)) == whole


def test_clean_votes_are_in_no_file_and_in_no_log(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    clean, logged = [], []
    count = loop.count_votes
    monkeypatch.setattr(loop, "count_votes", lambda *a: clean.append(count(*a)) or clean[-1])
    data = dataset(schema_of())
    # Without rounding, a noisy vote that equals a clean one is no coincidence.
    made = model(noise="gaussian")
    traced(made, data, tmp_path / "run", log=lambda *entry: logged.append(entry))
    assert len(clean) == 3
    arrays = []
    for path in (tmp_path / "run").rglob("*.npz"):
        with np.load(path, allow_pickle=False) as content:
            arrays += [content[key] for key in content.files]
    for votes in clean:
        assert votes.sum() == len(data.train)
        assert not any(a.shape == votes.shape and np.allclose(a, votes) for a in arrays if a.dtype != "<U1")
        texts = caplog.text + str(logged)
        assert repr(votes.tolist())[1:20] not in texts
    counted = "evolution/candidates_kept"  # a small whole number of candidates, not of votes
    values = {value for _, entries, _ in logged for name, value in entries.items() if name != counted}
    assert {float(v.max()) for v in clean}.isdisjoint(values)
    assert {kind for _, _, kind in logged} == {"public", "dp"}


def test_voters_of_an_iteration_are_a_poisson_sample_of_the_units(tmp_path, monkeypatch):
    seen = []
    count = loop.count_votes
    monkeypatch.setattr(
        loop, "count_votes", lambda voters, *a: seen.append(len(voters.labels)) or count(voters, *a)
    )
    made = model(subsample=0.3, num_iterations=30, lookahead_degree=0)
    releases, _, ledger = traced(made, dataset(schema_of(), 500), tmp_path / "run")
    assert ledger.plan.piece("votes").sampling_rate == 0.3
    assert len(set(seen)) > 5
    assert np.mean(seen) == pytest.approx(150, abs=5 * math.sqrt(500 * 0.21 / 30))
    assert [r.value.sum() for r in releases] == seen


def test_no_call_of_the_public_generator_holds_a_private_image(tmp_path):
    class Watching(Dots):
        def variation(self, images, info, degree, rng):
            assert images[..., 0].max(initial=0) in (0, 255)
            return super().variation(images, info, degree, rng)

    schema = schema_of()
    marked = np.full((50, 4, 4, 1), 77, dtype=np.uint8)
    images = Images(marked, np.arange(50) % 3)
    data = ImageDataset(schema, images, images.head(0), None, True, "f")
    fit(replace(model(), api=Watching()), data, tmp_path, SIGMA)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert bytes([77] * 16) not in path.read_bytes()
