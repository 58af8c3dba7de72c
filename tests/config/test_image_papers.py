"""The published settings of Private Evolution and DPWGAN: they compose, and cost what was published."""

from __future__ import annotations

import functools
import itertools
import math
import re
import shlex

import pytest
from dp_accounting import dp_event, pld
from omegaconf import OmegaConf
from scipy.optimize import brentq
from scipy.stats import norm

from dpforge.config import check, compose, experiments_dir, groups
from dpforge.experiment.report.expected import read_expected
from dpforge.generators.private_evolution.apis.diffusion_sampling import kept_steps

CHECKPOINT = ["model.api.checkpoint=models/imagenet64"]
FOLDER = [*CHECKPOINT, "dataset.path=images"]
GIVEN = {
    "cifar10": CHECKPOINT,
    "cifar10_unconditional": CHECKPOINT,
    "camelyon17": FOLDER,
    "cat_cookie": FOLDER,
    "cat_doudou": FOLDER,
}
SMALL = ["cifar10", "cifar10_unconditional", "camelyon17", "cat_cookie", "cat_doudou"]
SCRIPT_DEGREES = [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
SCRIPT = [
    "privacy.noise_multiplier=2.1793", "model.num_iterations=19", "model.threshold=4",
    "model.api.timestep_respacing=ddim10", f"model.variation_degree_schedule={SCRIPT_DEGREES}",
]  # fmt: skip
ROOT2 = math.sqrt(2)

# Settings, noise multiplier, iterations, delta, published or computed epsilon.
VOTES = [
    ("cifar10", [], 5 * ROOT2, 20, 1e-5, 2.594383),
    ("cifar10_unconditional", [], 5 * ROOT2, 20, 1e-5, 2.594383),
    ("cifar10_small", [], 5 * ROOT2, 20, 1e-5, 2.594383),
    ("cifar10_unconditional_small", [], 5 * ROOT2, 20, 1e-5, 2.594383),
    (
        "cifar10",
        ["privacy.noise_multiplier=14.142135623730951", "privacy.max_epsilon=0.675"],
        10 * ROOT2, 7, 1e-5, 0.674460,
    ),
    (
        "cifar10",
        ["privacy.noise_multiplier=2.8284271247461903", "privacy.max_epsilon=3.342"],
        2 * ROOT2, 5, 1e-5, 3.341409,
    ),
    ("camelyon17", [], 2 * ROOT2, 29, 3e-6, 9.921071),
    ("camelyon17_small", [], 2 * ROOT2, 29, 3e-6, 9.921071),
    ("camelyon17", SCRIPT, 2.1793, 19, 3e-6, 10.533652),
    ("cat_cookie", [], 2.0, 13, 1e-3, 6.618920),
    ("cat_doudou", [], 2.0, 13, 1e-3, 6.618920),
    ("cat_cookie_small", [], 2.0, 13, 1e-3, 6.618920),
    ("cat_doudou_small", [], 2.0, 13, 1e-3, 6.618920),
    ("cat_cookie", ["privacy.max_epsilon=null"], 2.0, 17, 1e-3, 7.890076),
]  # fmt: skip
# Settings, expected batch, rows, critic steps, noise multiplier, delta, epsilon.
CRITICS = [
    ("simple", ["privacy.noise_multiplier=1.0", "seed=0"], 128, 30_000, 4_685, 1.0, 1e-6, 1.7993),
    ("simple", ["privacy.noise_multiplier=0.790569415", "seed=0"], 128, 30_000, 4_685, 0.79057, 1e-6, 3.1199),
    ("census", ["seed=0"], 128, 24_421, 9_535, 1.0, 1e-6, 3.2567),
    ("mnist", [], 64, 12_000, 935, 1.0, 1e-6, 1.0686),
    ("xray", [], 64, 3_882, 605, 1.0, 1e-5, 2.4667),
]


@functools.cache
def only_run(paper, *overrides):
    (run,) = check([f"paper={paper}", *overrides]).runs
    return run


def evolution(name, *overrides):
    return only_run(f"private_evolution/{name}", *GIVEN.get(name, []), *overrides)


def iterations(run):
    return sum(piece.count for piece in run.plan.pieces)


def images_made(run):
    model, sizes = run.experiment.model, run.experiment.model.sizes()
    growth = [model.lookahead_degree * a + b for a, b in itertools.pairwise(sizes)]
    return sizes[0] + sum(growth[: iterations(run)])


def closed_form(noise_multiplier, count, delta):
    """Epsilon of ``count`` Gaussian releases, from the trade-off curve of one Gaussian."""
    mu = math.sqrt(count) / noise_multiplier

    def excess(epsilon):
        left, right = norm.cdf(mu / 2 - epsilon / mu), norm.cdf(-mu / 2 - epsilon / mu)
        return left - math.exp(epsilon) * right - delta

    return brentq(excess, 0, 100, xtol=1e-10)


@pytest.mark.parametrize(("name", "overrides", "noise", "count", "delta", "published"), VOTES)
def test_private_evolution_costs_what_was_published(name, overrides, noise, count, delta, published):
    run = evolution(name, *overrides)
    assert (iterations(run), run.plan.delta) == (count, delta)
    assert run.plan.epsilon() == pytest.approx(published, abs=1e-4)
    assert closed_form(noise, count, delta) == pytest.approx(published, abs=2e-6)


@pytest.mark.parametrize(("name", "records"), [("mnist", 55_000), ("mnist_small", 10_000)])
def test_the_simulator_runs_take_delta_from_the_number_of_records(name, records):
    run = evolution(name, "privacy.target_epsilon=1", "seed=0")
    assert run.schema.nominal_rows == records
    assert run.plan.delta == pytest.approx(1 / (records * math.log(records)), rel=1e-12)
    assert run.plan.epsilon() == pytest.approx(1, abs=1e-6)


def test_the_simulator_run_has_the_published_noise_at_epsilon_one_and_ten():
    for epsilon, noise in ((1, 8.23794), (10, 1.06442)):
        run = evolution("mnist", f"privacy.target_epsilon={epsilon}", "seed=0")
        assert run.plan.pieces[0].noise_multiplier == pytest.approx(noise, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "overrides", "batch", "rows", "steps", "noise", "delta", "published"), CRITICS
)
def test_dpwgan_costs_what_its_settings_cost(name, overrides, batch, rows, steps, noise, delta, published):
    run = only_run(f"dpwgan/{name}", *overrides)
    assert (run.schema.nominal_rows, run.plan.delta) == (rows, delta)
    assert run.experiment.model.critic_steps(run.schema) == steps
    accountant = pld.PLDAccountant(value_discretization_interval=1e-4)
    event = dp_event.PoissonSampledDpEvent(batch / rows, dp_event.GaussianDpEvent(noise))
    accountant.compose(dp_event.SelfComposedDpEvent(event, steps))
    assert accountant.get_epsilon(delta) == pytest.approx(published, abs=1e-3)
    assert run.plan.epsilon() == pytest.approx(published, abs=1e-3)


def test_sweeps_cover_the_budgets_and_seeds_they_announce():
    for paper, total in (("dpwgan/simple", 10), ("private_evolution/mnist_small", 6)):
        assert check([f"paper={paper}"]).total == total


def test_only_runs_on_data_or_weights_of_the_user_wait_for_a_value():
    names = [name for name in groups()["paper"] if name.startswith(("private_evolution/", "dpwgan/"))]
    waiting = {
        name.split("/")[1] for name in names if OmegaConf.missing_keys(compose([f"paper={name}"]))
    }  # fmt: skip
    assert waiting == set(GIVEN)
    assert {f"private_evolution/{name}_small" for name in (*SMALL, "mnist")} < set(names)


@pytest.mark.parametrize("name", SMALL)
def test_a_small_variant_differs_from_the_published_run_in_data_generator_and_scale_alone(name):
    large, small = (compose([f"paper=private_evolution/{name}{suffix}"]) for suffix in ("", "_small"))
    for key in ("noise_multiplier", "max_epsilon", "delta", "target_epsilon", "relation"):
        assert small.privacy[key] == large.privacy[key], key
    for key in ("num_iterations", "lookahead_degree", "threshold", "conditional", "num_nearest_neighbors"):
        assert small.model[key] == large.model[key], key
    assert small.model.num_samples_schedule <= large.model.num_samples_schedule
    assert small.privacy.rng == "seeded"
    assert large.privacy.rng == "entropy"


@pytest.mark.parametrize(("name", "published"), [("cifar10", 10), ("camelyon17", 4), ("cat_cookie", 2)])
def test_the_threshold_is_the_published_one(name, published):
    config = compose([f"paper=private_evolution/{name}"])
    threshold = config.model.threshold
    votes = ROOT2 * config.privacy.noise_multiplier if threshold == "auto" else threshold
    assert votes == pytest.approx(published)


def test_forty_kept_steps_reach_the_noise_levels_of_the_published_ten():
    forty, ten = (kept_steps(4000, text) for text in ("40", "ddim10"))
    degrees = compose(["paper=private_evolution/camelyon17"]).model.variation_degree_schedule
    published = [0] * 5 + [1] * 5 + [2] * 5 + [3] * 4
    for ours, theirs in zip(degrees, published, strict=False):
        assert abs(forty[39 - ours] - ten[9 - theirs]) <= 50
    assert list(degrees[19:]) == list(range(20, 31))


def test_the_document_states_the_images_and_the_epsilon_of_each_published_run():
    text = (experiments_dir() / "private_evolution.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .* × \d+ \| [\d.]+e-\d \| ([\d.]+).* \| ([\d,]+) \| .* \|$", text, re.MULTILINE)
    cases = [case for case in VOTES if case[0] in ("cifar10", "camelyon17", "cat_cookie")]
    runs = [evolution(name, *overrides) for name, overrides, *_ in cases]
    runs.append(evolution("mnist", "privacy.target_epsilon=1", "seed=0"))
    assert [int(images.replace(",", "")) for _, images in rows] == [images_made(run) for run in runs]
    assert [float(shown) for shown, _ in rows] == pytest.approx(
        [run.plan.epsilon() for run in runs], abs=6e-5
    )


def commands(text):
    """The command lines of the code blocks, split into words."""
    lines = re.findall(r"^(dpforge \S.*)$", text, flags=re.MULTILINE)
    return [shlex.split(line)[1:] for line in lines]


def test_every_command_of_the_document_passes_the_checks():
    found = commands((experiments_dir() / "private_evolution.md").read_text(encoding="utf-8"))
    assert len(found) >= 10
    for words in found:
        assert check(words).runs, words


@pytest.mark.parametrize("name", ["private_evolution", "dpwgan"])
def test_published_numbers_are_readable_and_name_their_confidence(name):
    entries = read_expected(experiments_dir() / "expected" / f"{name}.csv")
    assert all(re.search(r"\([TQK]\)$", entry.source) for entry in entries)
    assert all(entry.value <= 1 for entry in entries if entry.metric.startswith("utility/"))
    known = {case[-1] for case in (*VOTES, *CRITICS)}
    oracles = {entry.value for entry in entries if entry.kind == "O"}
    assert all(any(value == pytest.approx(other, abs=2e-6) for other in known) for value in oracles)
    assert all(entry.value == entry.epsilon for entry in entries if entry.kind == "O")
