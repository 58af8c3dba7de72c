"""A start from an earlier private run, whole noise on whole votes, and the original's arithmetic."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from contract.harness import KEY
from scipy import stats
from unit.private_evolution_runs import EXACT, context, dataset, fit, model, schema_of

from dpforge.data.columns import Unit
from dpforge.errors import ConfigError, PrivacyError
from dpforge.experiment.certificate import NOT_DP, make_certificate
from dpforge.experiment.rundir import RunDir
from dpforge.generators.private_evolution.budget import evolution_plan
from dpforge.privacy.accounting import gaussian_delta
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.noise import discrete_gaussian
from dpforge.privacy.rng import KeyedRandom
from dpforge.privacy.spec import PrivacySpec
from dpforge.verify import read_ledger, recompute

UNIT = {"kind": "row", "column": None, "max_rows": 1}


def sigma(value, **more):
    return PrivacySpec(target_epsilon=None, noise_multiplier=value, **more)


def finished(folder, settings=None, spec=None, unit=UNIT):
    """A run of Private Evolution with its certificate, as the runner leaves it."""
    settings, spec, data = settings or model(), spec or sigma(8.0), dataset(schema_of())
    plan = settings.plan(data.schema, spec)
    header = {"rng": spec.rng, "unit": unit, "nominal_rows": data.schema.nominal_rows}
    folder.mkdir(parents=True)
    Ledger.create(folder / "ledger.jsonl", plan, header)
    run = context(folder, plan, spec)
    settings.fit(data, run)
    run.access.ledger.close()
    certificate = make_certificate(run.access.ledger, RunDir(folder).released())
    (folder / "certificate.json").write_text(json.dumps(certificate))
    return certificate


def last(folder):
    return str(folder / "samples/3/samples.npz")


def closed_form(epsilon, *noises):
    return gaussian_delta(math.sqrt(math.fsum(noise**-2 for noise in noises)), epsilon)


def test_a_start_from_a_private_run_costs_both_runs_together(tmp_path):
    alone = finished(tmp_path / "first")["epsilon"]
    second = finished(tmp_path / "second", model(initial_samples=last(tmp_path / "first")), sigma(5.0))
    assert second["epsilon"] > alone
    assert closed_form(second["epsilon"], *[8.0] * 3, *[5.0] * 3) == pytest.approx(1e-5, rel=0.01)
    third = finished(tmp_path / "third", model(initial_samples=last(tmp_path / "second")), sigma(20.0))
    noises = [*[8.0] * 3, *[5.0] * 3, *[20.0] * 3]
    assert closed_form(third["epsilon"], *noises) == pytest.approx(1e-5, rel=0.01)


def test_the_ledger_alone_tells_a_stranger_what_both_runs_cost(tmp_path):
    finished(tmp_path / "first")
    second = finished(tmp_path / "second", model(initial_samples=last(tmp_path / "first")), sigma(5.0))
    read, _ = read_ledger(tmp_path / "second/ledger.jsonl")
    assert recompute(read) == pytest.approx(second["epsilon"], abs=1e-6)
    records = [json.loads(line) for line in (tmp_path / "second/ledger.jsonl").read_text().splitlines()]
    reserved = [record["piece"] for record in records if record["kind"] == "reserve"]
    assert reserved[0].startswith("earlier/")  # before the first own vote


def test_a_target_leaves_for_new_votes_what_the_earlier_run_did_not_spend(tmp_path):
    finished(tmp_path / "first")
    settings = model(initial_samples=last(tmp_path / "first"))
    plan = settings.plan(schema_of(), PrivacySpec(target_epsilon=3.0))
    fresh = model().plan(schema_of(), PrivacySpec(target_epsilon=3.0))
    assert plan.epsilon() == pytest.approx(3.0, abs=1e-3)
    own, alone = (each.piece("votes").noise_multiplier ** -2 for each in (plan, fresh))
    assert own == pytest.approx(alone - 8.0**-2, rel=1e-3)  # squared mu of T = 3 releases add up
    with pytest.raises(PrivacyError, match="already spend it"):
        settings.plan(schema_of(), PrivacySpec(target_epsilon=0.2))


def test_a_run_from_earlier_samples_begins_with_them_and_resumes(tmp_path):
    finished(tmp_path / "first")
    settings, data = model(initial_samples=last(tmp_path / "first")), dataset(schema_of())
    fit(settings, data, tmp_path / "second", sigma(5.0))
    start = np.load(tmp_path / "second/samples/0/samples.npz")["samples"]
    assert np.array_equal(start, np.load(last(tmp_path / "first"))["samples"])
    before = (tmp_path / "second/ledger.jsonl").read_bytes()
    fit(settings, data, tmp_path / "second", sigma(5.0))
    assert (tmp_path / "second/ledger.jsonl").read_bytes().startswith(before)
    assert b'"kind":"reserve"' not in (tmp_path / "second/ledger.jsonl").read_bytes()[len(before) :]


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (sigma(5.0, relation="replace"), "relation=add_remove"),
        (sigma(5.0, relation="zero_out"), "relation=add_remove"),
    ],
)
def test_costs_of_another_relation_are_not_added(tmp_path, spec, text):
    finished(tmp_path / "first")
    with pytest.raises(ConfigError, match=text):
        model(initial_samples=last(tmp_path / "first")).plan(schema_of(), spec)


def test_a_start_that_was_not_private_or_protected_others_is_refused(tmp_path):
    finished(tmp_path / "exact", spec=EXACT)
    finished(tmp_path / "seeded", spec=sigma(8.0, rng="seeded", seed=1))
    finished(tmp_path / "users", unit={"kind": "user", "column": "who", "max_rows": 4})
    for name, text in (("exact", "NOT DP"), ("seeded", "RESEARCH NOISE"), ("users", "protects a user")):
        with pytest.raises(ConfigError, match=text):
            model(initial_samples=last(tmp_path / name)).plan(schema_of(), sigma(5.0))
    again = model(initial_samples=last(tmp_path / "seeded"))
    assert again.plan(schema_of(), sigma(5.0, rng="seeded", seed=1)).pieces[0].name.startswith("earlier/")


def test_only_files_that_the_certificate_covers_can_be_a_start(tmp_path):
    finished(tmp_path / "first")
    path = tmp_path / "first/samples/3/samples.npz"
    other = tmp_path / "first/private.npz"
    other.write_bytes(path.read_bytes())
    with pytest.raises(ConfigError, match="certificate of its run covers"):
        model(initial_samples=str(other)).plan(schema_of(), sigma(5.0))
    path.write_bytes((tmp_path / "first/samples/2/samples.npz").read_bytes())
    with pytest.raises(ConfigError, match="changed since"):
        model(initial_samples=str(path)).plan(schema_of(), sigma(5.0))


def test_a_run_that_leaves_the_earlier_cost_out_gets_no_certificate(tmp_path, monkeypatch):
    finished(tmp_path / "first")
    monkeypatch.setattr("dpforge.generators.private_evolution.loop.take_over", lambda access: None)
    with pytest.raises(PrivacyError, match="differs from the plan"):
        finished(tmp_path / "second", model(initial_samples=last(tmp_path / "first")), sigma(5.0))


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.7, 14.0])
def test_discrete_noise_has_the_discrete_gaussian_law(scale):
    drawn = discrete_gaussian(np.random.default_rng(0).random(200_000), scale)
    values = np.arange(-math.ceil(9 * scale), math.ceil(9 * scale) + 1)
    law = np.exp(-(values**2) / (2 * scale**2))
    law /= law.sum()
    observed = np.array([(drawn == value).sum() for value in values])
    assert observed.sum() == len(drawn)
    wide = law * len(drawn) >= 10
    expected = law[wide] * len(drawn)
    statistic = ((observed[wide] - expected) ** 2 / expected).sum()
    assert statistic < stats.chi2.ppf(0.999, wide.sum())


def test_discrete_noise_keeps_the_digits_of_its_far_tails():
    tail = discrete_gaussian(np.array([1e-16, 1 - 2**-53]), 10.0)
    assert tail[0] == pytest.approx(-stats.norm.isf(1e-16) * 10, abs=1)
    assert tail[1] == pytest.approx(stats.norm.isf(2**-53) * 10, abs=1)


def test_discrete_votes_are_whole_and_accounted_as_zcdp(tmp_path):
    made = model(noise="discrete_gaussian")
    fit(made, dataset(schema_of()), tmp_path, sigma(3.0))
    votes = np.load(tmp_path / "samples/1/histogram.npz")["count"]
    assert np.array_equal(votes, np.rint(votes))
    assert len(np.unique(votes)) > 5
    plan = made.plan(schema_of(), sigma(3.0))
    rho = 3 / (2 * 3.0**2)
    # Bun and Steinke (2016), proposition 1.3, is an upper bound; the Gaussian of the same scale a lower one.
    assert plan.epsilon() <= rho + 2 * math.sqrt(rho * math.log(1e5))
    assert plan.epsilon() >= model().plan(schema_of(), sigma(3.0)).epsilon()


def test_discrete_noise_is_refused_where_its_cost_is_unknown_or_votes_are_no_whole_numbers(tmp_path):
    with pytest.raises(ConfigError, match="sampled zCDP"):
        model(noise="discrete_gaussian", subsample=0.5).plan(schema_of(), sigma(3.0))
    with pytest.raises(ConfigError, match="needs whole votes"):
        model(noise="discrete_gaussian", num_nearest_neighbors=2)
    plan = evolution_plan(sigma(3.0), iterations=1, noise="discrete_gaussian")
    ledger = Ledger.create(tmp_path / "ledger.jsonl", plan, {"rng": "entropy"})
    with pytest.raises(PrivacyError, match="whole numbers only"):
        PrivateAccess(ledger, KeyedRandom("entropy", KEY)).gaussian("votes", np.array([0.5]))


def test_the_original_arithmetic_is_certified_as_not_private(tmp_path):
    certificate = finished(tmp_path / "run", model(mode="upstream"), sigma(8.0))
    assert certificate["status"] == "NOT DP"
    assert certificate["epsilon"] is None
    assert certificate["caveats"][0] == NOT_DP


def test_the_original_arithmetic_counts_raw_votes_and_keeps_both_counts_in_private(tmp_path):
    where = np.array([3, 3, 9])
    data = dataset(schema_of(), 90, where=where)
    logged = []
    made = model(mode="upstream", num_nearest_neighbors=2, lookahead_degree=0, num_iterations=1)
    fit(made, data, tmp_path, sigma(50.0), log=lambda step, values, kind: logged.append((values, kind)))
    labels = np.bincount(data.train.labels, minlength=3)
    noise = []
    for label in range(3):
        found = np.load(tmp_path / f"private/upstream/1/count_class{label}.npz")
        assert found["clean_count"].sum() == 2 * labels[label]  # k votes of 1 each
        noise.append(found["count"] - found["clean_count"])
    deviation = np.std(np.concatenate(noise))
    assert deviation == pytest.approx(50 * math.sqrt(2), rel=0.3)  # 60 cells
    assert all(kind == "private" for values, kind in logged if "evolution/largest_vote" in values)
    outside = [p for p in tmp_path.rglob("count_class*") if "private" not in p.parts]
    assert not outside


def test_the_original_arithmetic_meets_no_target():
    with pytest.raises(ConfigError, match="NOT DP and meets no"):
        model(mode="upstream").plan(schema_of(), PrivacySpec(target_epsilon=1.0))
    with pytest.raises(ConfigError, match="Did you mean 'upstream'"):
        model(mode="upstram")


def test_users_are_no_reason_for_smaller_votes_in_the_original_arithmetic(tmp_path):
    data = dataset(schema_of(), 40)
    schema = replace(data.schema, unit=Unit("user", "who", 20))
    users = replace(data, schema=schema, units=np.zeros(40, dtype=np.int64))
    fit(model(mode="upstream", num_iterations=1), users, tmp_path, EXACT)
    files = sorted((tmp_path / "private/upstream/1").glob("*.npz"))
    assert sum(np.load(path)["clean_count"].sum() for path in files) == 40
