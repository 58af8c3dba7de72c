"""MST and AIM: inference against brute force and mbi, choices on planted structure, resume, planted bugs."""

from __future__ import annotations

import itertools
import math
import warnings
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
from contract.harness import KEY, MIXED, fit, schema_of, table_for
from scipy import stats
from scipy.sparse.csgraph import minimum_spanning_tree

from dpforge.data import Dataset
from dpforge.data.encode.cells import CellCodec
from dpforge.errors import BudgetExceeded, ConfigError, Interrupted, PrivacyError
from dpforge.generators.base import RunContext, Runtime
from dpforge.generators.marginals import aim as aims
from dpforge.generators.marginals import mbi_backend, rounds
from dpforge.generators.marginals import mst as msts
from dpforge.generators.marginals.aim import AIM
from dpforge.generators.marginals.compression import Domain, compressed
from dpforge.generators.marginals.estimation import Measurement, combined, estimate
from dpforge.generators.marginals.graphical import summed
from dpforge.generators.marginals.junction import cells, junction_tree, model_megabytes
from dpforge.generators.marginals.mbi_backend import estimate_mbi
from dpforge.generators.marginals.mst import MST
from dpforge.generators.marginals.workload import candidates, count, count_all, workload
from dpforge.privacy import selection
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.rng import KeyedRandom
from dpforge.privacy.spec import PrivacySpec

SIZES = (3, 4, 2, 5, 3)
CLIQUES = [(0,), (1,), (2,), (3,), (4,), (0, 1), (1, 2), (2, 3), (0, 3), (3, 4)]
SMALL = {"iterations": 60, "compress_sigmas": 0.0}


def noisy_marginals(seed=0, total=1000, scale=3.0):
    rng = np.random.default_rng(seed)
    joint = rng.dirichlet(np.full(math.prod(SIZES), 0.3)).reshape(SIZES)
    tables = [summed(joint, tuple(range(5)), clique) * total for clique in CLIQUES]
    return [
        Measurement(c, (t + rng.normal(0, scale, t.shape)).reshape(-1), np.full(t.size, scale**2))
        for c, t in zip(CLIQUES, tables, strict=True)
    ]


@pytest.fixture(scope="module")
def fitted():
    return estimate(SIZES, noisy_marginals(), 1000, iterations=2000, tolerance=1e-8)


def full_joint(model):
    codes = np.array(list(itertools.product(*map(range, SIZES))))
    return np.exp(model.log_prob(codes)).reshape(SIZES)


def test_every_marginal_equals_that_of_the_whole_joint_table(fitted):
    joint = full_joint(fitted.model)
    assert joint.sum() == pytest.approx(1)
    for order in range(1, 5):
        for columns in itertools.combinations(range(5), order):
            expected = summed(joint, tuple(range(5)), columns)
            np.testing.assert_allclose(fitted.model.marginal(columns), expected, atol=1e-12)


def test_samples_have_the_marginals_of_the_model(fitted):
    rows = 50_000
    codes = fitted.model.sample(rows, np.random.default_rng(0))
    for column in range(5):
        drawn = np.bincount(codes[:, column], minlength=SIZES[column])
        assert np.abs(drawn / rows - fitted.model.marginal((column,))).max() < 0.003
    for columns in itertools.combinations(range(5), 3):
        drawn = count(codes, SIZES, columns)
        assert np.abs(drawn / rows - fitted.model.marginal(columns).reshape(-1)).sum() < 0.04


def test_no_other_distribution_near_the_estimate_fits_better(fitted):
    """The loss is convex in the marginals: moving towards any other distribution must not lower it."""
    known, joint, rng = noisy_marginals(), full_joint(fitted.model), np.random.default_rng(1)

    def loss(table):
        total = 0.0
        for m in known:
            residual = 1000 * summed(table, tuple(range(5)), m.clique).reshape(-1) - m.values
            total += 0.5 * float((residual**2 / m.variances).sum())
        return total

    assert loss(joint) == pytest.approx(fitted.loss, rel=1e-6)
    for _ in range(50):
        other = rng.dirichlet(np.full(joint.size, 0.05)).reshape(SIZES)
        assert loss(0.999 * joint + 0.001 * other) >= fitted.loss * (1 - 1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(find_spec("mbi") is None, reason="needs the extra 'marginals'")
def test_the_library_mbi_finds_the_same_distribution(fitted):
    other = estimate_mbi(SIZES, noisy_marginals(), 1000, iterations=1500)
    for columns in itertools.combinations(range(5), 2):
        np.testing.assert_allclose(other.model.marginal(columns), fitted.model.marginal(columns), atol=1e-5)
    warm = estimate_mbi(SIZES, noisy_marginals(), 1000, iterations=0, start=other.potentials)
    assert warm.loss == pytest.approx(other.loss)


def test_estimation_repeats_bit_by_bit_and_starts_warm(fitted):
    again = estimate(SIZES, noisy_marginals(), 1000, iterations=2000, tolerance=1e-8)
    assert all(np.array_equal(a, b) for a, b in zip(again.model.beliefs, fitted.model.beliefs, strict=True))
    warm = estimate(SIZES, noisy_marginals(), 1000, iterations=0, start=fitted.potentials)
    assert warm.loss == fitted.loss
    assert all(np.array_equal(a, b) for a, b in zip(warm.model.beliefs, fitted.model.beliefs, strict=True))


def test_repeated_measurements_of_a_marginal_are_averaged_by_their_precision():
    a = Measurement((0,), np.array([10.0, 0.0]), np.array([1.0, 4.0]))
    b = Measurement((0,), np.array([20.0, 6.0]), np.array([4.0, 2.0]))
    both = combined([a, b])[(0,)]
    np.testing.assert_allclose(both.values, [12.0, 4.0])
    np.testing.assert_allclose(both.variances, [0.8, 4 / 3])


@pytest.mark.parametrize("seed", range(20))
def test_junction_trees_hold_every_clique_and_have_the_running_intersection(seed):
    rng = np.random.default_rng(seed)
    sizes = tuple(int(k) for k in rng.integers(2, 6, 8))
    cliques = [
        tuple(sorted(rng.choice(8, int(rng.integers(1, 4)), replace=False).tolist())) for _ in range(9)
    ]
    tree = junction_tree(sizes, cliques)
    assert all(tree.home(clique) is not None for clique in cliques)
    assert {c for clique in tree.cliques for c in clique} == set(range(8))
    for column in range(8):
        nodes = [i for i, clique in enumerate(tree.cliques) if column in clique]
        tops = [i for i in nodes if tree.parents[i] < 0 or column not in tree.cliques[tree.parents[i]]]
        assert len(tops) == 1
    assert tree.megabytes == pytest.approx(model_megabytes(sizes, cliques))
    assert tree.megabytes * 2**17 == sum(cells(sizes, clique) for clique in tree.cliques)


def test_candidates_are_all_subsets_weighted_by_the_columns_they_share():
    served = workload(4, 3, target=2, target_weight=5.0)
    found = candidates(served, (2, 3, 4, 5), most=30)
    assert (1, 2, 3) not in found  # 60 cells
    assert (0, 1, 2) in found
    for clique, weight in found.items():
        expected = sum((5.0 if 2 in s else 1.0) * len(set(s) & set(clique)) for s in served)
        assert weight == pytest.approx(expected)


def test_counts_equal_those_of_pandas():
    codes = np.stack([np.random.default_rng(0).integers(0, k, 500) for k in SIZES], axis=1)
    table = pd.DataFrame(codes)
    expected = table.groupby([0, 3]).size().reindex(pd.MultiIndex.from_product([range(3), range(5)]))
    assert np.array_equal(count(codes, SIZES, (0, 3)), expected.fillna(0))
    counts = count_all(codes, SIZES, [(0,), (0, 3), (1, 2)])
    assert np.array_equal(counts.of(1), expected.fillna(0))
    zero = counts.distances([np.zeros(3), np.zeros((3, 5)), np.zeros((4, 2))])
    assert zero.tolist() == [500, 500, 500]


def test_rare_categories_are_pooled_and_rare_bins_join_their_neighbours():
    three = {**MIXED["city"], "categories": {**MIXED["city"]["categories"], "values": ["a", "b", "c"]}}
    schema = schema_of({"city": three, "income": MIXED["income"]})
    codec = CellCodec(schema, default_bins=8)
    city, income = codec.sizes  # null, unknown, a, b, c; null and eight bins
    noisy = [np.array([1.0, -2.0, 90.0, 4.0, 70.0]), np.array([2.0, 50, 50, 5, 5, 5, 9, 40, 1])]
    domain = compressed(codec, noisy, [3.0, 3.0], 165.0, 3.0)
    assert (city, income) == (5, 9)
    assert domain.groups[0].tolist() == [2, 2, 0, 2, 1]
    assert domain.groups[1].tolist() == [
        0,
        1,
        2,
        3,
        3,
        3,
        3,
        4,
        4,
    ]  # 15 lies below 9 sqrt(3), 24 above 9 sqrt(4)
    kept = compressed(codec, noisy, [3.0, 3.0], 165.0, 0.0)
    assert kept.sizes == (5, 9)


def test_merged_cells_are_split_in_their_released_proportions():
    domain = Domain((np.array([0, 1, 0, 1, 0]),), (np.array([0.1, 0.0, 0.3, 0.0, 0.6]),))
    rng = np.random.default_rng(0)
    first = domain.decode(np.zeros((20_000, 1), dtype=int), rng)[:, 0]
    assert stats.chisquare(np.bincount(first, minlength=5)[[0, 2, 4]], [2000, 6000, 12000]).pvalue > 1e-3
    assert set(first) == {0, 2, 4}
    second = domain.decode(np.ones((20_000, 1), dtype=int), rng)[:, 0]
    assert stats.chisquare(np.bincount(second)[[1, 3]]).pvalue > 1e-3


def categorical(columns, levels=3):
    values = [f"v{i}" for i in range(levels)]
    column = {"kind": "categorical", "categories": {"provenance": "public", "values": values}}
    return schema_of({f"c{j}": dict(column) for j in range(columns)})


def chain_table(schema, rows=600, seed=0):
    """Column j + 1 copies column j more often the larger j is."""
    rng = np.random.default_rng(seed)
    columns = [rng.integers(0, 3, rows)]
    for j in range(1, len(schema.columns)):
        copies = rng.random(rows) < 0.3 + 0.15 * j
        columns.append(np.where(copies, columns[-1], rng.integers(0, 3, rows)))
    names = schema.names
    text = {name: [f"v{v}" for v in column] for name, column in zip(names, columns, strict=True)}
    from dpforge.data.table import conform

    return conform(pd.DataFrame(text), schema)


def test_without_noise_mst_finds_the_maximum_spanning_tree(tmp_path):
    schema = categorical(5)
    table = chain_table(schema)
    trace = fit(MST(**SMALL), schema, table, tmp_path, spec=PrivacySpec(enabled=False))
    codes = CellCodec(schema).encode(table).codes
    distance = np.zeros((5, 5))
    for a, b in itertools.combinations(range(5), 2):
        both = pd.crosstab(codes[:, a], codes[:, b]).to_numpy()
        alone = np.outer(both.sum(1), both.sum(0)) / len(codes)
        distance[a, b] = np.abs(both - alone).sum()
    tree = {tuple(sorted(pair)) for pair in np.argwhere(minimum_spanning_tree(-distance).toarray())}
    assert {c for c in trace.fitted.model.tree.cliques if len(c) == 2} == {tuple(map(int, t)) for t in tree}


@pytest.mark.parametrize("model", [MST(**SMALL), AIM(**SMALL, max_rounds=8)], ids=["mst", "aim"])
def test_with_a_large_budget_pairs_come_out_right(model, tmp_path):
    schema = categorical(4)
    table = chain_table(schema, 2000)
    trace = fit(model, schema, table, tmp_path, spec=PrivacySpec(target_epsilon=20.0))
    sample = trace.fitted.sample(20_000, np.random.default_rng(0))
    for a, b in itertools.pairwise(schema.names):
        levels = [f"v{i}" for i in range(3)]
        shares = (pd.crosstab(t[a].astype(str), t[b].astype(str), normalize=True) for t in (table, sample))
        real, made = (s.reindex(levels, axis=0).reindex(levels, axis=1).to_numpy() for s in shares)
        assert 0.5 * np.abs(real - made).sum() < 0.02
    trace.ledger.check_complete()


def test_aim_spends_all_it_reserved_and_says_what_on(tmp_path):
    schema = categorical(4)
    trace = fit(AIM(**SMALL), schema, chain_table(schema), tmp_path, spec=PrivacySpec(target_epsilon=1.0))
    uses, rho = trace.spends("aim"), trace.plan.piece("aim").event.rho
    assert rho * (1 - 1e-6) < math.fsum(use["rho"] for use in uses) <= rho
    assert [use["mechanism"] for use in uses[:3]] == ["rounded_gaussian", "exponential", "rounded_gaussian"]
    assert all(use["rho"] == pytest.approx(uses[1]["rho"] * 9) for use in uses[2:3])
    measured = [use["what"][0] for use in uses[2::2]]
    assert all(1 <= len(clique) <= 2 for clique in measured)
    costs = [use["rho"] for use in uses[2:-2:2]]
    assert all(b in (pytest.approx(a), pytest.approx(4 * a)) for a, b in itertools.pairwise(costs))
    assert len(costs) < 16 * 4  # some round taught too little


@pytest.mark.parametrize("model", [AIM(**SMALL, max_rounds=12), MST(**SMALL)], ids=["aim", "mst"])
def test_the_model_never_outgrows_its_limit(model, tmp_path):
    schema = categorical(6, levels=3)
    small = replace(model, max_model_size=40 * 8 / 2**20)
    trace = fit(small, schema, chain_table(schema), tmp_path, spec=PrivacySpec(target_epsilon=50.0))
    assert trace.fitted.model.tree.megabytes <= small.max_model_size
    large = replace(small, max_model_size=16.0)
    (tmp_path / "large").mkdir()
    other = fit(large, schema, chain_table(schema), tmp_path / "large", spec=PrivacySpec(target_epsilon=50.0))
    assert other.fitted.model.tree.megabytes > small.max_model_size


@pytest.mark.parametrize("spare", [-1, 0, 100])
def test_a_tree_never_outgrows_its_limit(spare, tmp_path):
    schema = categorical(6, levels=3)
    sizes = MST().codec(schema).sizes
    needed = sum(sizes) + 5 * max(sizes) ** 2
    model = MST(max_model_size=(needed + spare) * 8 / 2**20, compress_sigmas=0)
    trace = fit(model, schema, chain_table(schema), tmp_path, spec=PrivacySpec(target_epsilon=50.0))
    assert trace.fitted.model.tree.megabytes <= model.max_model_size
    pairs = [clique for clique in trace.fitted.model.tree.cliques if len(clique) == 2]
    assert len(pairs) == (5 if spare >= 0 else 0)


def resumed(model, schema, table, folder, stop_after):
    """Fit in attempts that each end after so many rounds; every attempt starts from the files alone."""
    spec = PrivacySpec(target_epsilon=2.0)
    folder.mkdir()
    Ledger.create(folder / "ledger.jsonl", model.plan(schema, spec), {"rng": "entropy"})
    data = Dataset(schema, table, table.head(0), None, False, "fingerprint")
    for _ in range(100):
        calls = itertools.count(1)
        access = PrivateAccess(Ledger.open(folder / "ledger.jsonl"), KeyedRandom("entropy", KEY))
        stopping = (lambda calls=calls: next(calls) >= stop_after) if stop_after else (lambda: False)
        run = RunContext(access, spec, Runtime(), 0, folder, stopping=stopping)
        try:
            return model.fit(data, run), access.ledger
        except Interrupted:
            continue
    raise AssertionError("never finished")


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_stopped_and_resumed_fit_is_bit_identical(stop_after, tmp_path):
    schema = categorical(4)
    model = AIM(**SMALL, max_rounds=6)
    straight, ledger = resumed(model, schema, chain_table(schema), tmp_path / "straight", 0)
    pieces, other = resumed(model, schema, chain_table(schema), tmp_path / "pieces", stop_after)
    for a, b in zip(straight.model.beliefs, pieces.model.beliefs, strict=True):
        assert np.array_equal(a, b)
    uses = [[r for r in log._records if r["kind"] == "spend"] for log in (ledger, other)]
    keep = ("step", "rho", "mechanism", "sensitivity", "what")
    assert [[u.get(k) for k in keep] for u in uses[0]] == [[u.get(k) for k in keep] for u in uses[1]]


def test_a_kill_between_choice_and_measurement_repeats_the_choice(tmp_path, monkeypatch):
    schema, model = categorical(4), AIM(**SMALL, max_rounds=4)
    straight, whole = resumed(model, schema, chain_table(schema), tmp_path / "straight", 0)
    measure, calls = PrivateAccess.measure, itertools.count()

    def killed(self, *arguments, **details):
        if next(calls) == 3:
            raise Interrupted("killed")
        return measure(self, *arguments, **details)

    monkeypatch.setattr(PrivateAccess, "measure", killed)
    pieces, ledger = resumed(model, schema, chain_table(schema), tmp_path / "pieces", 0)
    assert next(calls) > 3
    assert [r["kind"] for r in ledger._records] == [r["kind"] for r in whole._records]
    for a, b in zip(straight.model.beliefs, pieces.model.beliefs, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("kind", [MST, AIM])
def test_all_mistakes_are_reported_at_once(kind):
    with pytest.raises(ConfigError) as caught:
        kind(iterations=0, max_model_size=0.0, estimator="mbj", compress_sigmas=-1.0)
    assert len(caught.value.mistakes) == 4
    assert "Did you mean 'mbi'" in str(caught.value)


def test_mistakes_of_aim_are_reported_too():
    with pytest.raises(ConfigError) as caught:
        AIM(order=4, target_weight=0, max_rounds=0, one_way_share=1.0, selection_share=0.0)
    assert len(caught.value.mistakes) == 5


def test_a_missing_library_is_said_before_data_is_read(monkeypatch):
    monkeypatch.setattr(mbi_backend, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"dpforge\[marginals\]"):
        AIM(estimator="mbi").plan(categorical(3), PrivacySpec())
    AIM().plan(categorical(3), PrivacySpec())


def test_a_column_too_wide_for_the_model_is_refused_by_name():
    with pytest.raises(ConfigError, match="columns c0, c1 have more cells"):
        MST(max_model_size=4 * 8 / 2**20).plan(categorical(2, levels=6), PrivacySpec())


def test_a_split_that_aim_cannot_follow_is_refused():
    with pytest.raises(ConfigError, match="one_way_share"):
        AIM().plan(categorical(3), PrivacySpec(split={"aim": 1.0}))


@pytest.mark.parametrize("model", [MST(**SMALL), AIM(**SMALL)], ids=["mst", "aim"])
def test_a_single_column_works(model, tmp_path):
    schema = categorical(1)
    trace = fit(model, schema, chain_table(schema), tmp_path)
    trace.ledger.check_complete()
    assert len(trace.fitted.sample(10, np.random.default_rng(0))) == 10


def test_three_way_workloads_measure_triples(tmp_path):
    schema = categorical(4)
    model = AIM(**SMALL, order=3, max_rounds=4)
    trace = fit(model, schema, chain_table(schema, 2000), tmp_path, spec=PrivacySpec(target_epsilon=20.0))
    assert any(len(use["what"][0]) == 3 for use in trace.spends("aim")[2::2])


def check(model, folder):
    """What the contract demands of choices and measurements, in one function."""
    schema = schema_of(MIXED)
    table = table_for(schema, 40)
    whole = fit(model, schema, table, folder / "whole")
    less = fit(model, schema, table.iloc[:-1], folder / "less", replay=whole.outputs)
    for a, b in zip(whole.releases, less.releases, strict=True):
        assert a.distance(b) <= a.sensitivity * (1 + 1e-9), "sensitivity"
    lengths = {piece.name: max(len(whole.spends(piece.name)), piece.count) for piece in whole.plan.pieces}
    for name, uses in lengths.items():
        assert [r.step for r in whole.releases if r.name == name] == list(range(uses)), "every use on record"
    noise = np.concatenate([r.noise / r.scale for r in whole.releases if r.kind == "noise"])
    low, high = stats.chi2.ppf([1e-6, 1 - 1e-6], noise.size) / noise.size
    assert low < np.mean(noise**2) < high * 1.15, "variance"
    for piece in whole.plan.pieces:
        if piece.mechanism == "adaptive":
            assert math.fsum(s["rho"] for s in whole.spends(piece.name)) <= piece.event.rho, "filter"
    whole.ledger.check_complete()


def half_score_sensitivity(monkeypatch):
    for module in (msts, aims):
        full = module.score_sensitivity
        monkeypatch.setattr(module, "score_sensitivity", lambda *a, full=full: full(*a) / 2)


def choice_not_charged(monkeypatch):
    charge = selection.ChoiceAccess._charge

    def free(self, piece, step, rho, mechanism, *rest):
        if mechanism == "exponential":
            return rho or piece.event.rho
        return charge(self, piece, step, rho, mechanism, *rest)

    monkeypatch.setattr(selection.ChoiceAccess, "_charge", free)


def noise_without_sigma(monkeypatch):
    noise = selection.rounded_gaussian
    monkeypatch.setattr(selection, "rounded_gaussian", lambda uniforms, scale: noise(uniforms, 1.0))


def every_row_counts_twice(monkeypatch):
    monkeypatch.setattr(
        "dpforge.generators.marginals.workload.mixed_radix",
        lambda codes, sizes, c: np.ravel_multi_index(
            [np.tile(codes[:, j], 2) for j in c], [sizes[j] for j in c]
        ),
    )


def rounds_go_on_after_the_budget(monkeypatch):
    monkeypatch.setattr(rounds, "MARGIN", 1.5)


def filter_off(monkeypatch):
    rounds_go_on_after_the_budget(monkeypatch)
    monkeypatch.setattr(
        "dpforge.privacy.ledger.math", type("Fake", (), {"fsum": staticmethod(lambda v: 0.0)})
    )


@pytest.mark.parametrize("model", [MST(**SMALL), AIM(**SMALL, max_rounds=2)], ids=["mst", "aim"])
def test_the_checks_pass_without_a_mutant(model, tmp_path):
    check(model, tmp_path)


MUTANTS = [half_score_sensitivity, noise_without_sigma, every_row_counts_twice]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
@pytest.mark.parametrize("model", [MST(**SMALL), AIM(**SMALL, max_rounds=2)], ids=["mst", "aim"])
def test_a_planted_bug_is_caught(mutant, model, monkeypatch, tmp_path):
    mutant(monkeypatch)
    with pytest.raises((AssertionError, PrivacyError)):
        check(model, tmp_path)


def test_a_choice_that_is_not_charged_is_caught_in_aim(monkeypatch, tmp_path):
    choice_not_charged(monkeypatch)
    with pytest.raises((AssertionError, PrivacyError)):
        check(AIM(**SMALL, max_rounds=2), tmp_path)


def test_every_choice_is_reserved_before_its_noise_exists(monkeypatch, tmp_path):
    reserved = []

    def watched(self, observation):
        reserved.append(self.ledger.reserved(observation.name) > observation.step)

    monkeypatch.setattr(selection.ChoiceAccess, "_report", watched)
    fit(MST(**SMALL), schema_of(MIXED), table_for(schema_of(MIXED), 40), tmp_path / "sound")
    assert all(reserved)
    choice_not_charged(monkeypatch)
    fit(MST(**SMALL), schema_of(MIXED), table_for(schema_of(MIXED), 40), tmp_path / "mutant")
    assert not all(reserved)


def test_rounds_that_would_overspend_are_stopped_by_the_ledger(monkeypatch, tmp_path):
    rounds_go_on_after_the_budget(monkeypatch)
    with pytest.raises(BudgetExceeded):
        check(AIM(**SMALL, max_rounds=2), tmp_path)


def test_a_filter_that_is_off_is_caught(monkeypatch, tmp_path):
    filter_off(monkeypatch)
    with pytest.raises(AssertionError, match="filter"):
        check(AIM(**SMALL, max_rounds=2), tmp_path)


@pytest.mark.parametrize("model", [MST(), AIM(max_rounds=3)], ids=["mst", "aim"])
def test_log_probabilities_of_a_sample_match_its_frequencies(model, tmp_path):
    schema = categorical(2)
    fitted = fit(model, schema, chain_table(schema), tmp_path).fitted
    sample = fitted.sample(20_000, np.random.default_rng(0))
    cells_ = sample.groupby(list(schema.names), observed=True).size() / len(sample)
    one = sample.drop_duplicates()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = dict(zip(map(tuple, one.astype(str).to_numpy()), np.exp(fitted.log_prob(one)), strict=True))
    assert sum(found.values()) == pytest.approx(1, abs=0.01)
    for values, share in cells_.items():
        assert found[tuple(map(str, values))] == pytest.approx(share, abs=0.01)
    alone = fitted.independent_log_prob(one)
    assert alone.shape == (len(one),)
