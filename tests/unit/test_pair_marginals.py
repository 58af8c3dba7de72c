"""All pairs of a junction tree at once: against the full joint, on wide tables, and within bounds."""

from __future__ import annotations

import time
from itertools import combinations

import numpy as np
import pytest

from dpforge.generators.marginals import pairs
from dpforge.generators.marginals.graphical import GraphicalModel, calibrated, summed
from dpforge.generators.marginals.junction import junction_tree, shape


def model_of(sizes, cliques, rng):
    tree = junction_tree(sizes, cliques)
    logits = [rng.standard_normal(shape(sizes, clique)) for clique in tree.cliques]
    return GraphicalModel(tree, tuple(calibrated(tree, logits)))


def joint_of(model):
    """The probability of every combination of cells, from the model's own log-probabilities."""
    sizes = model.tree.sizes
    cells = np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), axis=1)
    return np.exp(model.log_prob(cells)).reshape(sizes)


def small_model(seed):
    rng = np.random.default_rng(seed)
    width = int(rng.integers(3, 8))
    sizes = rng.integers(1, 5, width).tolist()
    cliques = [
        tuple(sorted(rng.choice(width, int(rng.integers(1, 4)), replace=False).tolist()))
        for _ in range(int(rng.integers(0, width + 2)))
    ]
    return model_of(sizes, cliques, rng)


@pytest.mark.parametrize("seed", range(40))
def test_every_pair_equals_the_sum_of_the_full_joint(seed):
    model = small_model(seed)
    width = len(model.tree.sizes)
    joint, everything = joint_of(model), tuple(range(width))
    cliques = [clique for size in (1, 2) for clique in combinations(range(width), size)]
    starts = np.cumsum([0, *model.tree.sizes])
    table = pairs.pair_table(model)
    for a, b in combinations(range(width), 2):
        expected = summed(joint, everything, (a, b))
        for first, second, values in ((a, b, expected), (b, a, expected.T)):
            block = table[starts[first] : starts[first + 1], starts[second] : starts[second + 1]]
            np.testing.assert_allclose(block, values, atol=1e-12)
    for clique, found in zip(cliques, pairs.marginals(model, cliques), strict=True):
        np.testing.assert_allclose(found, summed(joint, everything, clique), atol=1e-12)


@pytest.mark.parametrize("tree", ["chain", "star", "apart"])
def test_sixty_columns_have_the_same_pairs_together_and_one_by_one(tree):
    rng = np.random.default_rng(0)
    links = {
        "chain": [(i, i + 1) for i in range(59)],
        "star": [(30, i) for i in range(60) if i != 30],
        "apart": [],
    }
    cliques = [tuple(sorted(link)) for link in links[tree]]
    model = model_of(rng.integers(2, 6, 60).tolist(), cliques, rng)
    asked = list(combinations(range(60), 2))
    for pair, found in zip(asked, pairs.marginals(model, asked), strict=True):
        if sum(pair) % 7 == 0:
            np.testing.assert_allclose(found, model.marginal(pair), atol=1e-12)


def test_cells_of_probability_zero_stay_so():
    rng = np.random.default_rng(1)
    model = model_of([3, 3, 3], [(0, 1), (1, 2)], rng)
    tree = model.tree
    logits = [np.where(np.indices(shape(tree.sizes, c))[c.index(1)] == 2, -np.inf, 0.0) for c in tree.cliques]
    beliefs = [np.exp(table) / np.exp(table).sum() for table in logits]
    found = pairs.pair_table(GraphicalModel(tree, tuple(beliefs)))
    assert np.isfinite(found).all()
    assert found[:3, 6:9].sum() == pytest.approx(1)


def test_messages_are_counted_before_they_are_made_and_large_ones_are_not(monkeypatch):
    model = small_model(3)
    made = []
    upward = pairs._Node.upward

    def counted(node, messages):
        message = upward(node, messages)
        made.append(message.joint.size)
        return message

    monkeypatch.setattr(pairs._Node, "upward", counted)
    pairs.pair_table(model)
    assert pairs.message_cells(model) == sum(made) > 0
    made.clear()
    monkeypatch.setattr(pairs, "MOST_MESSAGE_CELLS", 0)
    asked = list(combinations(range(len(model.tree.sizes)), 2))
    several = [*asked, *asked]
    found = list(pairs.marginals(model, several))
    assert not made
    for pair, table in zip(several, found, strict=True):
        np.testing.assert_allclose(table, model.marginal(pair))


def test_the_tree_of_two_hundred_columns_is_found_in_no_time():
    rng = np.random.default_rng(2)
    links = [tuple(sorted((i, int(rng.integers(i))))) for i in range(1, 200)]
    start = time.process_time()
    tree = junction_tree([3] * 200, links)
    assert time.process_time() - start < 2
    assert all(len(separator) == 1 for separator in tree.separators[1:])
