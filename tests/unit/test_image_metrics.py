"""The image metrics as functions: published oracles, second derivations and refused input."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from sklearn.datasets import load_digits
from sklearn.metrics import balanced_accuracy_score, f1_score, recall_score

from dpforge.errors import ConfigError, DataError
from dpforge.evaluation.images import (
    exact_duplicates,
    frechet,
    frechet_inf,
    inception_score,
    kernel_distance,
    nearest_neighbor,
    neighbours,
    peak_signal_to_noise,
    precision_recall,
    structural_similarity,
    structure,
)
from dpforge.evaluation.images.frechet_distance import Moments, moments
from dpforge.evaluation.images.kernel import squared_mmd
from dpforge.evaluation.images.learners import agreement, class_recall, majority, wilson
from dpforge.evaluation.images.manifold import nearest
from dpforge.evaluation.images.memorisation import closest_pairs, copying_sentence


def normal(mean, covariance) -> Moments:
    return Moments(np.atleast_1d(np.asarray(mean, float)), np.atleast_2d(np.asarray(covariance, float)), 100)


def features(n: int, d: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)


def digits() -> np.ndarray:
    return np.rint(load_digits().images * 255 / 16).astype(np.uint8)[..., None]


# Fréchet distance


def test_frechet_of_shifted_unit_normals_is_the_squared_shift():
    assert frechet(normal([0, 0, 0], np.eye(3)), normal([1, 2, -2], np.eye(3))) == pytest.approx(9.0)


def test_frechet_of_variances_four_and_one_is_one():
    assert frechet(normal(0, 4), normal(0, 1)) == pytest.approx(1.0)


def test_frechet_of_correlated_and_independent_normals_has_its_known_value():
    first, second = normal([0, 0], [[2, 1], [1, 2]]), normal([0, 0], np.diag([1, 3]))
    assert frechet(first, second) == pytest.approx(0.5166852, abs=1e-7)
    assert frechet(second, first) == pytest.approx(0.5166852, abs=1e-7)


def test_frechet_agrees_with_the_matrix_square_root_of_scipy():
    a, b = features(200, 12, 0), features(150, 12, 1)
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    cross = np.trace(sqrtm(s @ t)).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * cross
    assert frechet(a, b) == pytest.approx(expected, rel=1e-6)


def test_frechet_with_fewer_images_than_features_agrees_with_singular_values_of_the_cross_gram_matrix():
    a, b = features(20, 50, 2), features(25, 50, 3)
    x, y = (m - m.mean(0) for m in (a, b))
    cross = np.linalg.svd(x @ y.T / math.sqrt(19 * 24), compute_uv=False).sum()
    spread = (x**2).sum() / 19 + (y**2).sum() / 24
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + spread - 2 * cross
    assert frechet(a, b) == pytest.approx(expected, rel=1e-6)
    assert moments(a).rank_deficient
    assert not moments(features(51, 50, 4)).rank_deficient


def test_frechet_of_identical_sets_is_zero_in_any_order():
    a = features(300, 20, 5)
    assert frechet(a, a[::-1]) <= 1e-6
    b = features(200, 20, 6)
    assert frechet(a, b) == pytest.approx(frechet(a[::-1], b), rel=1e-9)


def test_frechet_of_constant_images_is_their_squared_distance():
    assert frechet(np.zeros((5, 3)), np.full((4, 3), 2.0)) == pytest.approx(12.0)


def test_extrapolation_removes_most_of_the_bias_between_two_samples_of_one_distribution():
    rng = np.random.default_rng(0)
    pairs = [(rng.normal(size=(400, 30)), rng.normal(size=(400, 30))) for _ in range(5)]
    raw = np.mean([frechet(a, b) for a, b in pairs])
    extrapolated = np.mean([frechet_inf(a, b, seed=0) for a, b in pairs])
    assert raw > 1.0
    assert abs(extrapolated) < raw / 3


@pytest.mark.parametrize("metric", [frechet, squared_mmd, precision_recall])
def test_features_that_are_not_finite_are_refused_with_their_number(metric):
    wrong = features(20, 3, 0)
    wrong[4, 1] = np.nan
    with pytest.raises(DataError, match="1 of 20 images have features that are not finite"):
        metric(wrong, features(20, 3, 1))


@pytest.mark.parametrize("metric", [frechet, squared_mmd, precision_recall])
def test_one_image_is_refused(metric):
    with pytest.raises(DataError, match="needs at least"):
        metric(features(20, 3, 0), np.zeros((1, 3)))


@pytest.mark.parametrize("metric", [frechet, squared_mmd, precision_recall])
def test_features_of_two_extractors_are_refused(metric):
    with pytest.raises(DataError, match="use one extractor"):
        metric(features(20, 3, 0), features(20, 4, 0))


def test_a_covariance_with_a_negative_eigenvalue_is_refused():
    with pytest.raises(DataError, match="eigenvalue"):
        frechet(normal([0, 0], np.diag([1.0, -0.1])), normal([0, 0], np.eye(2)))


# Kernel distance


def test_kernel_distance_of_a_two_point_set_with_itself_has_its_known_value():
    points = np.array([[0.0], [1.0]])
    assert squared_mmd(points, points) == pytest.approx(-3.5)


def test_kernel_distance_agrees_with_sums_over_pairs():
    a, b = features(15, 4, 0), features(12, 4, 1)
    k = lambda x, y: (float(x @ y) / 4 + 1) ** 3  # noqa: E731
    within = [np.mean([k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j]) for s in (a, b)]
    between = np.mean([k(x, y) for x in a for y in b])
    assert squared_mmd(a, b) == pytest.approx(sum(within) - 2 * between)


def test_kernel_distance_over_subsets_centres_on_zero_for_one_distribution():
    rng = np.random.default_rng(1)
    found = kernel_distance(rng.normal(size=(600, 5)), rng.normal(size=(600, 5)), size=200, seed=0)
    assert abs(found.mean) < 3 * found.std
    shifted = kernel_distance(rng.normal(size=(600, 5)), rng.normal(1.0, 1, (600, 5)), size=200, seed=0)
    assert shifted.mean > 10 * shifted.std


def test_kernel_distance_refuses_subsets_of_one_image():
    with pytest.raises(ConfigError, match="size=1"):
        kernel_distance(features(20, 3, 0), features(20, 3, 1), size=1, seed=0)


# Precision, recall, density, coverage


def test_precision_recall_density_and_coverage_have_their_known_values():
    found = precision_recall(np.array([[0.0], [1.0], [2.0]]), np.array([[0.5], [10.0]]), k=1)
    expected = {"precision": 0.5, "recall": 1.0, "density": 1.0, "coverage": 2 / 3}
    assert found == pytest.approx(expected)


def test_precision_and_recall_agree_with_a_full_distance_matrix(monkeypatch):
    monkeypatch.setattr("dpforge.evaluation.images.manifold.CELLS", 700)
    a, b = features(90, 4, 0), features(70, 4, 1)
    between = cdist(a, b)
    radii = [np.sort(cdist(x, x), axis=1)[:, 3] for x in (a, b)]
    inside = between <= radii[0][:, None]
    found = precision_recall(a, b, k=3)
    assert found["precision"] == pytest.approx(inside.any(axis=0).mean())
    assert found["coverage"] == pytest.approx(inside.any(axis=1).mean())
    assert found["density"] == pytest.approx(inside.sum() / (3 * len(b)))
    assert found["recall"] == pytest.approx((between <= radii[1][None, :]).any(axis=1).mean())


def test_identical_sets_have_full_precision_and_recall_and_distant_ones_none():
    a = features(100, 6, 0)
    same = precision_recall(a, a)
    assert same["precision"] == same["recall"] == same["coverage"] == 1.0
    assert set(precision_recall(a, a + 1e4).values()) == {0.0}


def test_repeated_images_lie_within_their_own_balls_of_radius_zero():
    a = np.repeat(features(20, 6, 3) * 1e3, 6, axis=0)
    assert precision_recall(a, a)["precision"] == 1.0


def test_recall_may_use_another_neighbour():
    a, b = features(90, 4, 0), features(70, 4, 1)
    assert precision_recall(a, b, k=3, recall_k=5)["recall"] == precision_recall(a, b, k=5)["recall"]
    assert precision_recall(a, b, k=3, recall_k=5)["precision"] == precision_recall(a, b, k=3)["precision"]


@pytest.mark.slow
def test_precision_and_recall_of_ten_thousand_wide_features_stay_below_four_gigabytes():
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(10_000, 1_280)).astype(np.float32) for _ in range(2))
    tracemalloc.start()
    precision_recall(a, b)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e9


# Inception score


def test_inception_score_is_the_number_of_classes_for_certain_balanced_predictions():
    assert inception_score(np.tile(np.eye(7), (5, 1))) == pytest.approx(7.0)


def test_inception_score_of_equal_predictions_is_one():
    assert inception_score(np.full((20, 4), 0.25)) == pytest.approx(1.0)


def test_inception_score_of_two_opposite_halves_has_its_known_value():
    p = np.repeat([[0.9, 0.1], [0.1, 0.9]], 10, axis=0)
    assert inception_score(p) == pytest.approx(1.444935, abs=1e-6)
    assert inception_score(p, splits=2) == pytest.approx(1.0)


def test_inception_score_refuses_class_scores_before_the_softmax():
    with pytest.raises(DataError, match="softmax"):
        inception_score(np.array([[3.0, -1.0], [0.0, 2.0]]))


# Agreement


def test_agreement_is_that_of_scikit_learn_over_the_classes_present():
    rng = np.random.default_rng(0)
    truth, predicted = rng.choice([0, 1, 3], 200), rng.integers(0, 4, 200)
    found = agreement(truth, predicted, 5)
    assert found["accuracy"] == pytest.approx((truth == predicted).mean())
    recalls = recall_score(truth, predicted, labels=[0, 1, 3], average=None)
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert class_recall(truth, predicted, 5)[[0, 1, 3]] == pytest.approx(recalls)
    assert np.isnan(class_recall(truth, predicted, 5)[[2, 4]]).all()
    expected = f1_score(truth, predicted, labels=[0, 1, 3], average="macro")
    assert found["macro_f1"] == pytest.approx(expected)
    assert balanced_accuracy_score(truth, truth) == agreement(truth, truth, 5)["balanced_accuracy"]


def test_the_majority_floor_is_the_largest_share_of_the_public_prior():
    prior, truth = np.array([0.2, 0.7, 0.1]), np.repeat([0, 1, 2], [20, 70, 10])
    found = majority(prior, truth)
    assert found["accuracy"] == 0.7
    assert found["balanced_accuracy"] == pytest.approx(1 / 3)
    assert found["macro_f1"] == pytest.approx(f1_score(truth, np.ones(100, int), average="macro"))


def test_the_wilson_interval_of_nine_in_ten_is_the_published_one():
    assert wilson(0.9, 10_000) == pytest.approx((0.8940, 0.9057), abs=1e-4)


# Class structure


def test_class_distance_is_half_the_sum_of_absolute_differences():
    assert structure.class_distance(np.array([0, 0, 1, 1]), np.full(4, 0.25)) == pytest.approx(0.5)
    assert structure.class_distance(np.arange(4), np.full(4, 0.25)) == 0.0


def test_class_entropy_runs_from_zero_to_the_log_of_the_classes():
    assert structure.class_entropy(np.zeros(9, int), 5) == 0.0
    assert structure.class_entropy(np.arange(5), 5) == pytest.approx(math.log(5))


def test_a_class_counts_as_covered_from_half_of_its_prior_share_on():
    labels = np.repeat([0, 1, 2], [80, 13, 7])
    assert structure.mode_coverage(labels, np.full(4, 0.25)) == 2
    assert structure.mode_coverage(labels, np.array([0.8, 0.1, 0.1, 0.0])) == 3


def test_a_prior_of_another_length_or_sum_is_refused():
    for prior in ([0.5, 0.5, 0.0], [0.7, 0.7], [1.5, -0.5]):
        with pytest.raises(ConfigError, match=r"evaluation\.prior"):
            structure.class_prior(prior, 2)


def test_class_shares_of_no_image_are_refused():
    with pytest.raises(DataError, match="0 labels"):
        structure.class_distance(np.zeros(0, int), np.full(2, 0.5))


def test_distinct_images_and_near_duplicates_are_counted():
    images = digits()[:10]
    assert structure.distinct_share(np.concatenate([images, images])) == 0.5
    points = np.array([[0.0], [0.1], [5.0], [9.0]])
    assert structure.near_duplicate_share(points, 0.5) == 0.5
    assert structure.within(np.array([[1.0], [1.0], [1.0], [3.0]])) == pytest.approx([0, 0, 0, 2])


# Copying


def spread_out(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 6, 6, 1), dtype=np.uint8)


def verdict(train, holdout, synthetic) -> str:
    found = neighbours(*(x.reshape(len(x), -1) / 255 for x in (train, holdout, synthetic)))
    copies = [exact_duplicates(real, synthetic) for real in (train, holdout)]
    return copying_sentence(nearest_neighbor(found), *copies)


def test_copying_one_percent_of_the_training_images_is_found():
    synthetic = np.concatenate([spread_out(990, 2), spread_out(1000, 0)[:10]])
    sentence = verdict(spread_out(1000, 0), spread_out(1000, 1), synthetic)
    assert sentence.startswith("signs of copying: 10 exact copies of training images against 0")


def test_slightly_changed_copies_are_found_by_their_distance():
    train = spread_out(1000, 0)
    noise = np.random.default_rng(3).integers(-3, 4, (30, 6, 6, 1))
    near = np.clip(train[:30] + noise, 0, 255).astype(np.uint8)
    sentence = verdict(train, spread_out(1000, 1), np.concatenate([spread_out(970, 2), near]))
    assert "very near to a training image" in sentence


def test_a_bootstrap_of_the_holdout_and_fresh_images_are_no_copying():
    train, holdout = spread_out(1000, 0), spread_out(1000, 1)
    bootstrap = holdout[np.random.default_rng(0).integers(0, 1000, 1000)]
    assert verdict(train, holdout, bootstrap) == "no copying found at this resolution"
    assert verdict(train, holdout, spread_out(1000, 2)) == "no copying found at this resolution"


def test_a_generator_of_few_images_is_no_copying_however_the_binomial_test_reads():
    train, holdout = spread_out(500, 0), spread_out(500, 1)
    rng = np.random.default_rng(4)
    smallest = 1.0
    for centre in spread_out(12, 5):
        few = np.clip(centre[None] + rng.integers(-2, 3, (300, 6, 6, 1)), 0, 255).astype(np.uint8)
        assert verdict(train, holdout, few) == "no copying found at this resolution"
        flat = [x.reshape(len(x), -1) / 255 for x in (train, holdout, few)]
        smallest = min(smallest, nearest_neighbor(neighbours(*flat))["closer_to_train_p"])
    assert smallest < 1e-6


def test_the_exchange_p_value_is_that_of_random_halves_of_the_real_images():
    rng = np.random.default_rng(6)
    real, synthetic = rng.normal(size=(60, 4)), rng.normal(size=(40, 4))
    synthetic[:5] = real[:5] + 0.01
    owner = cdist(synthetic, real).argmin(axis=1)
    observed = (owner < 30).sum()
    halves = [(np.isin(owner, rng.permutation(60)[:30])).sum() for _ in range(5_000)]
    # Half of the ties, as the normal approximation is continuous.
    expected = np.mean(np.array(halves) > observed) + np.mean(np.array(halves) == observed) / 2
    found = nearest_neighbor(neighbours(real[:30], real[30:], synthetic))
    assert found["closer_to_train_exchange_p"] == pytest.approx(expected, abs=0.02)


def test_copying_half_of_the_train_set_moves_the_share_nearer_to_train():
    train, holdout = spread_out(400, 0), spread_out(400, 1)
    synthetic = np.concatenate([train[:200], spread_out(200, 2)])
    flat = [x.reshape(400, -1) / 255 for x in (train, holdout, synthetic)]
    found = nearest_neighbor(neighbours(*flat))
    distances = [cdist(flat[2], real).min(axis=1) for real in flat[:2]]
    assert found["closer_to_train"] == pytest.approx((distances[0] < distances[1]).mean())
    assert found["near_duplicates"] >= 0.5
    assert found["closer_to_train_p"] < 1e-6
    assert found["closer_to_train_exchange_p"] < 1e-6
    assert found["train_p5"] == 0.0
    assert found["holdout_p5"] == pytest.approx(np.percentile(distances[1], 5))


def test_the_closest_pairs_name_the_copies_first():
    train, holdout = spread_out(200, 0), spread_out(200, 1)
    synthetic = np.concatenate([spread_out(190, 2), train[:10]])
    pairs = closest_pairs(neighbours(*(x.reshape(200, -1) / 255 for x in (train, holdout, synthetic))))
    assert len(pairs) == 16
    assert set(pairs["synthetic"][:10]) == set(range(190, 200))
    assert (pairs["train"][:10] == pairs["synthetic"][:10] - 190).all()


def test_train_and_holdout_of_unequal_size_are_refused():
    with pytest.raises(DataError, match="equally many"):
        neighbours(features(20, 3, 0), features(19, 3, 0), features(20, 3, 1))


def test_nearest_returns_exact_distances_and_repeats_the_last_point_when_there_are_few():
    reference, queries = features(1, 5, 0) * 1e3, features(4, 5, 1)
    distances, positions = nearest(reference, np.concatenate([queries, reference]), 2)
    assert positions.tolist() == [[0, 0]] * 5
    assert distances[-1].tolist() == [0.0, 0.0]
    assert distances[:4, 0] == pytest.approx(cdist(queries, reference)[:, 0])


# Visual similarity


def test_ssim_is_one_for_equal_images_and_lower_the_more_noise_is_added():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (3, 16, 20, 3), dtype=np.uint8)
    assert structural_similarity(x, x) == pytest.approx([1.0] * 3)
    noisy = [np.clip(x + rng.normal(0, s, x.shape), 0, 255).astype(np.uint8) for s in (10, 60)]
    little, much = (structural_similarity(x, y) for y in noisy)
    assert (little > much).all()
    assert peak_signal_to_noise(x, x)[0] == math.inf
    expected = 20 * np.log10(255 / np.sqrt(((x[0].astype(float) - noisy[0][0]) ** 2).mean()))
    assert peak_signal_to_noise(x, noisy[0])[0] == pytest.approx(expected)


def test_ssim_is_the_mean_of_its_definition_over_all_windows_of_the_mirrored_image():
    rng = np.random.default_rng(1)
    x, y = (rng.integers(0, 256, (1, 8, 9, 1), dtype=np.uint8) for _ in range(2))
    axis = np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
    weights = np.outer(axis, axis) / np.outer(axis, axis).sum()
    wide = [np.pad(z[0, :, :, 0] / 255, 5, mode="reflect") for z in (x, y)]
    found = []
    for i, j in np.ndindex(8, 9):
        a, b = (z[i : i + 11, j : j + 11] for z in wide)
        mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
        var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
        joint = (weights * (a - mean_a) * (b - mean_b)).sum()
        top = (2 * mean_a * mean_b + 1e-4) * (2 * joint + 9e-4)
        found.append(top / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)))
    assert structural_similarity(x, y)[0] == pytest.approx(np.mean(found))


@pytest.mark.slow
def test_ssim_agrees_with_torchmetrics():
    torch = pytest.importorskip("torch")
    image = pytest.importorskip("torchmetrics.functional.image")
    rng = np.random.default_rng(2)
    x, y = (rng.integers(0, 256, (2, 24, 28, 1), dtype=np.uint8) for _ in range(2))
    tensors = [torch.tensor(z / 255.0).permute(0, 3, 1, 2) for z in (x, y)]
    found = image.structural_similarity_index_measure(*tensors, sigma=1.5, data_range=1.0, reduction="none")
    assert structural_similarity(x, y) == pytest.approx(found.numpy(), abs=1e-6)


def test_ssim_refuses_images_below_its_window():
    with pytest.raises(DataError, match="6×6"):
        structural_similarity(digits()[:2, :5], digits()[:2, :5])
