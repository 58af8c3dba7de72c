"""A study is what its run folders say: every run, its state, its cost, its scores over seeds."""

from __future__ import annotations

import math

import pytest
from scipy import stats
from study_folders import AUROC, DELTA, TVD, write_run

from dpforge.errors import RunError
from dpforge.experiment.intervals import holm
from dpforge.experiment.study import read_study, table
from dpforge.experiment.study_cells import aggregate, cells, comparisons, compositions, leaders
from dpforge.privacy.accounting import gaussian_delta, gaussian_noise_multiplier


def composed_exactly(*epsilons: float) -> float:
    """Epsilon of Gaussian mechanisms composed, by the closed form of one with their summed squared shift."""
    mu = math.sqrt(sum(gaussian_noise_multiplier(epsilon, DELTA) ** -2 for epsilon in epsilons))
    low, high = 0.0, 100.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(mu, middle) > DELTA else (low, middle)
    return high


def test_every_run_below_the_folder_is_listed_whatever_its_state(tmp_path):
    write_run(tmp_path / "deep" / "er", seed=0)
    write_run(tmp_path, seed=1, state="failed", reserved=1)
    write_run(tmp_path, seed=2, state="running", reserved=1)
    (tmp_path / "notes").mkdir()
    found = read_study(tmp_path)
    assert {run.seed: run.status for run in found.runs} == {0: "done", 1: "failed", 2: "running"}
    assert [run.error for run in found.runs if run.status == "failed"] == ["it broke"]
    assert list(table(found)["state"]) == [run.status for run in found.runs]


def test_a_finished_run_whose_samples_are_gone_is_incomplete_and_keeps_its_scores(tmp_path):
    (write_run(tmp_path) / "samples" / "synthetic.parquet").unlink()
    (run,) = read_study(tmp_path).runs
    assert run.status == "incomplete"
    assert run.scores[TVD].value == 0.1


def test_scores_that_a_failed_attempt_left_behind_are_not_used(tmp_path):
    path = write_run(tmp_path)
    (path / "status.json").write_text('{"state": "failed", "stages": {}}')
    (run,) = read_study(tmp_path).runs
    assert not run.scores


def test_a_folder_with_an_unreadable_configuration_is_named(tmp_path):
    write_run(tmp_path)
    broken = write_run(tmp_path, seed=1)
    (broken / "config.yaml").write_text("a: [")
    found = read_study(tmp_path)
    assert len(found.runs) == 1
    assert [path for path, _ in found.ignored] == [broken]


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_folder_without_a_run_is_refused(tmp_path, name):
    with pytest.raises(RunError, match=r"folder"):
        read_study(tmp_path / name)


def test_reading_changes_nothing_even_of_a_run_that_is_being_written(tmp_path):
    path = write_run(tmp_path, state="running", reserved=1)
    torn = (path / "ledger.jsonl").read_bytes() + b'{"seq":2,"kind":"reser'
    (path / "ledger.jsonl").write_bytes(torn)
    (run,) = read_study(tmp_path).runs
    assert run.reserved is not None
    assert [count for _, count in run.reserved] == [1]
    assert (path / "ledger.jsonl").read_bytes() == torn


def test_cells_hold_runs_that_differ_in_the_seed_alone(tmp_path):
    for seed in (0, 1, 2):
        for width in (16, 32):
            write_run(tmp_path, seed=seed, width=width)
        write_run(tmp_path, seed=seed, epsilon=3.0, width=16)
        write_run(tmp_path, seed=seed, model="independent", bins=8)
    found = cells(read_study(tmp_path))
    named = {(cell.first.generator, cell.budget): len(cell.runs) for cell in found}
    expected = {("dp_maf (width=16)", 1.0), ("dp_maf (width=32)", 1.0), ("dp_maf (width=16)", 3.0)}
    assert named == dict.fromkeys([*expected, ("independent", 1.0)], 3)


def test_means_and_intervals_over_seeds_are_those_of_scipy(tmp_path):
    values = [0.11, 0.14, 0.12, 0.19]
    for seed, value in enumerate(values):
        write_run(tmp_path, seed=seed, scores={TVD: value})
    (row,) = aggregate(read_study(tmp_path)).to_dict("records")
    low, high = stats.t.interval(0.95, 3, sum(values) / 4, stats.sem(values))
    assert (row[TVD], row[f"{TVD}:n"]) == (pytest.approx(0.14), 4)
    assert (row[f"{TVD}:low"], row[f"{TVD}:high"]) == (pytest.approx(low), pytest.approx(high))
    assert (row[f"{TVD}:floor"], row[f"{TVD}:ceiling"]) == (pytest.approx(0.4), pytest.approx(0.05))


def test_one_seed_has_a_mean_and_no_interval(tmp_path):
    write_run(tmp_path)
    (row,) = aggregate(read_study(tmp_path)).to_dict("records")
    assert row[f"{TVD}:n"] == 1
    assert math.isnan(row[f"{TVD}:low"])
    assert math.isnan(row[f"{TVD}:sd"])


def test_the_composed_epsilon_is_that_of_all_releases_together(tmp_path):
    for seed in range(3):
        write_run(tmp_path, seed=seed)
    write_run(tmp_path, epsilon=3.0)
    (composed,) = compositions(read_study(tmp_path).runs)
    assert composed.runs == 4
    assert composed.epsilon == pytest.approx(composed_exactly(1, 1, 1, 3), abs=2e-3)
    assert 3 < composed.epsilon < 6


def test_a_failed_run_counts_with_what_it_reserved_and_no_more(tmp_path):
    write_run(tmp_path, seed=0)
    write_run(tmp_path, seed=1, state="failed", reserved=1)
    (composed,) = compositions(read_study(tmp_path).runs)
    half = gaussian_noise_multiplier(1.0, DELTA) * 2**0.5
    mu = math.sqrt(3) / half
    assert gaussian_delta(mu, composed.epsilon) == pytest.approx(DELTA, rel=0.01)


def test_runs_without_noise_and_unreadable_ledgers_are_counted_apart(tmp_path):
    write_run(tmp_path, seed=0)
    write_run(tmp_path, epsilon=None)
    (write_run(tmp_path, seed=1) / "ledger.jsonl").write_text("not a ledger\n")
    (composed,) = compositions(read_study(tmp_path).runs)
    assert (composed.runs, composed.without_noise, composed.unreadable) == (2, 1, 1)
    assert composed.epsilon == pytest.approx(1.0, abs=2e-3)


def test_data_sets_are_composed_apart(tmp_path):
    write_run(tmp_path, dataset="toy")
    write_run(tmp_path, dataset="other", epsilon=3.0)
    found = {composed.dataset: composed.epsilon for composed in compositions(read_study(tmp_path).runs)}
    assert found == {"toy": pytest.approx(1, abs=2e-3), "other": pytest.approx(3, abs=2e-3)}


def test_the_public_view_holds_no_value_computed_from_real_rows(tmp_path):
    write_run(tmp_path, seed=0)
    write_run(tmp_path, seed=1, state="failed", reserved=1)
    found = read_study(tmp_path).public()
    assert all(not run.rows and not run.seconds and not run.error for run in found.runs)
    assert {key for run in found.runs for key in run.scores} == {"privacy/delta"}


def test_scores_of_a_table_that_may_not_be_released_are_not_public_either(tmp_path):
    path = write_run(tmp_path, rng="seeded")
    text = (path / "metrics.json").read_text().replace('"visibility": "private"', '"visibility": "public"')
    (path / "metrics.json").write_text(text)
    assert set(read_study(tmp_path).public().runs[0].scores) == {"privacy/delta"}


def test_generators_are_compared_at_equal_epsilon_over_common_seeds(tmp_path):
    better = {0: 0.10, 1: 0.13, 2: 0.12}
    worse = {0: 0.15, 1: 0.17, 2: 0.19, 3: 0.5}
    for seed, value in better.items():
        write_run(tmp_path, seed=seed, scores={TVD: value, AUROC: 0.8 + value})
    for seed, value in worse.items():
        write_run(tmp_path, model="independent", seed=seed, scores={TVD: value, AUROC: 0.7 + value / 3})
    write_run(tmp_path, model="independent", epsilon=3.0)
    frame = comparisons(read_study(tmp_path), [TVD, AUROC])
    assert list(frame["metric"]) == [TVD, AUROC]
    expected = stats.ttest_rel(list(better.values()), [worse[seed] for seed in better])
    row = frame.iloc[0]
    assert (row["first"], row["second"], row["n"]) == ("dp_maf", "independent", 3)
    assert row["p"] == pytest.approx(expected.pvalue)
    assert list(frame["p_holm"]) == pytest.approx(holm(list(frame["p"])))
    assert frame["p_holm"].min() == pytest.approx(2 * frame["p"].min())


def test_of_many_generators_each_is_compared_with_the_baseline_only(tmp_path):
    for width in range(5):
        write_run(tmp_path, width=width)
    write_run(tmp_path, model="independent")
    frame = comparisons(read_study(tmp_path), [TVD])
    assert len(frame) == 5
    assert set(frame["second"]) == {"independent"}


def test_a_seed_that_was_run_twice_is_reported(tmp_path):
    write_run(tmp_path / "a", seed=0)
    write_run(tmp_path / "b", seed=0)
    (cell,) = cells(read_study(tmp_path))
    assert cell.repeated_seeds == [0]


def test_the_leader_at_each_epsilon_is_named_with_those_that_the_seeds_cannot_tell_from_it(tmp_path):
    tvd = {"aim": (0.05, 0.051, 0.049), "mst": (0.10, 0.101, 0.099), "independent": (0.04, 0.12, 0.02)}
    for model, values in tvd.items():
        for seed, value in enumerate(values):
            write_run(tmp_path, model=model, seed=seed, scores={TVD: value})
    write_run(tmp_path, model="aim", epsilon=3.0, scores={TVD: 0.02})
    write_run(tmp_path, model="mst", epsilon=3.0, scores={TVD: 0.01})
    low, high = leaders(read_study(tmp_path), [TVD, "fidelity/unknown"]).sort_values("epsilon").itertuples()
    assert (low.best, low.n, low.not_told_apart, low.behind) == ("aim", 3, ("independent",), ("mst",))
    assert low.mean == pytest.approx(0.05)
    assert (high.best, high.not_told_apart, high.behind) == ("mst", ("aim",), ())
