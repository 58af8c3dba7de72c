"""Log-likelihood of fresh rows: probabilities of cells that sum to one, and what stands beside them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch

from dpforge.data.encode.cells import CellCodec
from dpforge.data.encode.transforms import MarginalTransform, affine_transform
from dpforge.data.schema import schema_from_dict
from dpforge.evaluation import Likelihood, TabularEvaluation, headline
from dpforge.generators.dp_maf import DPMAF
from dpforge.generators.independent import FittedIndependent
from dpforge.generators.maf_model import FittedMAF

PUBLIC = {"provenance": "public"}
COLUMNS = {
    "kind": {
        "kind": "categorical",
        "categories": {**PUBLIC, "values": ["a", "b", "c"]},
        "nullable": True,
        "unseen": "drop",
    },
    "count": {"kind": "integer", "bounds": {**PUBLIC, "min": 0, "max": 4}},
    "answer": {"kind": "categorical", "categories": {**PUBLIC, "values": ["no", "yes"]}, "unseen": "drop"},
}
SIZE = {"kind": "numeric", "bounds": {**PUBLIC, "min": 0, "max": 1}}
STEPS = {"kind": "integer", "bounds": {**PUBLIC, "min": 0, "max": 11}, "bins": {**PUBLIC, "equal_width": 3}}
ONLY = TabularEvaluation(metrics=["log_likelihood"])


def schema_of(**columns):
    return schema_from_dict({"schema_version": 1, "name": "tiny", "nominal_rows": 100, "columns": columns})


def independent(schema, zero=False):
    codec, rng = CellCodec(schema), np.random.default_rng(0)
    masses = [rng.dirichlet(np.ones(size)) for size in codec.sizes]
    if zero:
        masses[-1] = np.array([0.0, 1.0])
    return FittedIndependent(codec, masses)


def flow(schema, resolution=32, **options):
    """A flow with random weights: far from independent columns."""
    torch.manual_seed(1)
    codec, rng = CellCodec(schema), np.random.default_rng(0)
    transform = MarginalTransform(codec, [rng.dirichlet(np.ones(size) * 3) for size in codec.sizes])
    settings = DPMAF(resolution=resolution, **options)
    net = settings.network(transform, [list(range(len(codec.sizes)))] * settings.blocks)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4)
    return FittedMAF(transform, schema, net, settings.recalibrate_marginals)


def every_row(schema):
    """One row for each combination of cells of a schema whose cells are single values."""
    codec = CellCodec(schema)
    codes = np.array(list(itertools.product(*(range(size) for size in codec.sizes))))
    return codec.decode(codes, np.random.default_rng(0))


def test_the_probabilities_of_all_rows_under_independent_columns_sum_to_one_and_are_products_of_shares():
    schema = schema_of(**COLUMNS)
    model, rows = independent(schema), every_row(schema)
    found = np.exp(model.log_prob(rows))
    assert found.sum() == pytest.approx(1.0)
    expected = [np.prod(shares) for shares in itertools.product(*model.masses)]
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("options", [{}, {"hidden": (8,)}], ids=["direct", "hidden"])
def test_the_probabilities_of_all_rows_under_a_flow_sum_to_one(options):
    schema = schema_of(**COLUMNS)
    model, rows = flow(schema, **options), every_row(schema)
    found = np.exp(model.log_prob(rows))
    assert found.sum() == pytest.approx(1.0, abs=1e-4)
    assert np.abs(np.log(found) - model.independent_log_prob(rows)).max() > 0.5


def test_the_probability_of_a_row_is_how_often_the_flow_draws_it():
    schema = schema_of(**COLUMNS)
    model, rows = flow(schema), every_row(schema)
    model.recalibrate = "none"
    codec = CellCodec(schema)
    key = codec.sizes[1] * codec.sizes[2], codec.sizes[2], 1
    drawn = codec.encode(model.sample(100_000, np.random.default_rng(2))).codes @ key
    shares = np.bincount(drawn, minlength=len(rows)) / 100_000
    expected = np.exp(model.log_prob(rows))
    assert np.abs(shares - expected).max() < 5 * math.sqrt(0.25 / 100_000)


def test_within_bins_the_density_of_the_place_integrates_to_the_probability_of_the_cells():
    schema = schema_of(size=SIZE, answer=COLUMNS["answer"])
    model = flow(schema, resolution=64)
    places = (np.arange(3200) + 0.5) / 3200
    rows = pd.DataFrame(
        {"size": np.tile(places, 2), "answer": pd.Categorical(np.repeat(["no", "yes"], 3200), ["no", "yes"])}
    )
    assert np.exp(model.log_prob(rows)).sum() / 100 == pytest.approx(1.0, abs=2e-3)


def test_grid_values_in_a_bin_share_its_probability():
    schema = schema_of(steps=STEPS, answer=COLUMNS["answer"])
    model = flow(schema, resolution=1)
    rows = pd.DataFrame(
        {
            "steps": pd.array(np.tile(np.arange(12), 2), dtype="Int64"),
            "answer": pd.Categorical(np.repeat(["no", "yes"], 12), ["no", "yes"]),
        }
    )
    assert np.exp(model.log_prob(rows)).sum() / 4 == pytest.approx(1.0, abs=1e-4)


def test_affine_conditionals_give_a_bound_that_is_close_to_the_probability_and_below_it():
    schema = schema_of(**COLUMNS)
    options = {"conditional": "affine", "hidden": (8,), "recalibrate_marginals": "rank", "blocks": 2}
    model, rows = flow(schema, **options), every_row(schema)
    drawn = np.random.default_rng(9).standard_normal((400_000, 3), dtype=np.float32)
    with torch.no_grad():
        y = model.net.inverse(torch.from_numpy(drawn))[0].double().numpy()
    codec = CellCodec(schema)
    codes = codec.encode(model.transform.decode(y, np.random.default_rng(0), ranks=False)).codes
    key = codec.sizes[1] * codec.sizes[2], codec.sizes[2], 1
    shares = np.bincount(codes @ key, minlength=len(rows)) / len(drawn)
    common = shares > 1e-3
    expected, found = np.log(shares[common]).mean(), model.log_prob(rows)[common].mean()
    assert expected - 1.0 < found < expected + 0.05


def test_a_flow_without_cells_gives_a_density_in_units_and_no_floor():
    schema = schema_of(size=SIZE, other=SIZE)
    settings = DPMAF(conditional="affine", hidden=(8,), transform="affine", recalibrate_marginals="none")
    transform = affine_transform(schema)
    model = FittedMAF(transform, schema, settings.network(transform, [[0, 1]]), "none")
    grid = np.stack(np.meshgrid(*[(np.arange(200) + 0.5) / 200 * 8 - 3.5] * 2), -1).reshape(-1, 2)
    rows = pd.DataFrame(grid, columns=["size", "other"])
    assert np.exp(model.log_prob(rows)).sum() * (8 / 200) ** 2 == pytest.approx(1.0, abs=0.02)
    assert model.independent_log_prob(rows) is None
    assert "units" in model.codec_name
    found = ONLY.evaluate(rows.head(50), rows.tail(50), rows.head(50), schema, model=model)
    assert "floor/fidelity/log_likelihood" not in found.metrics


def test_the_score_is_the_mean_over_the_holdout_with_the_marginals_as_its_floor():
    schema = schema_of(**COLUMNS)
    rows, fresh = every_row(schema), every_row(schema).iloc[3:25]
    model = flow(schema)
    found = ONLY.evaluate(rows, fresh, rows, schema, model=model)
    mean = float(model.log_prob(fresh).mean())
    assert found.metrics["fidelity/log_likelihood"] == pytest.approx(mean)
    assert found.metrics["fidelity/log_likelihood_bits_per_dim"] == pytest.approx(-mean / 3 / math.log(2))
    floor = float(model.independent_log_prob(fresh).mean())
    row = next(row for row in headline(found) if row.name == "fidelity/log_likelihood")
    assert (row.score, row.floor) == (pytest.approx(mean), pytest.approx(floor))
    assert found.visibility("fidelity/log_likelihood") == "private"
    assert model.codec_name in " ".join(found.notes)
    assert found.rows["log_likelihood"] == len(fresh)


def test_models_with_one_schema_share_a_codec_and_others_do_not():
    schema, other = schema_of(**COLUMNS), schema_of(**COLUMNS, size=SIZE)
    assert independent(schema).codec_name == flow(schema).codec_name
    assert independent(schema).codec_name != independent(other).codec_name


def test_impossible_rows_make_the_score_undefined_and_are_counted():
    schema = schema_of(**COLUMNS)
    rows = every_row(schema)
    model = independent(schema, zero=True)
    found = ONLY.evaluate(rows, rows, rows, schema, model=model)
    assert found.metrics["fidelity/log_likelihood"] == -math.inf
    assert found.to_json()["metrics"]["fidelity/log_likelihood"]["value"] is None
    assert any(f"{len(rows) // 2} of {len(rows)} holdout rows have probability 0" in n for n in found.notes)


def test_a_model_without_likelihood_is_passed_over_in_silence_unless_it_was_asked_for():
    schema = schema_of(**COLUMNS)
    rows = every_row(schema)
    assert not isinstance(object(), Likelihood)
    evaluation = TabularEvaluation(learners=["lr"])
    assert not any("log_likelihood" in note for note in evaluation.evaluate(rows, rows, rows, schema).notes)
    asked = TabularEvaluation(metrics=["log_likelihood", "tvd_1way"])
    found = asked.evaluate(rows, rows, rows, schema, model=object())
    assert "log_likelihood left out: the model that made the table has none, or is not at hand" in found.notes
    without = asked.evaluate(rows, None, rows, schema, model=independent(schema))
    assert "log_likelihood left out: there is no holdout to test on" in without.notes
