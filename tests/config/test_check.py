"""Everything wrong with a command line is said at once, before data is read."""

from __future__ import annotations

import dataclasses

import pytest
from omegaconf import OmegaConf

import dpforge.data
from dpforge.config import build, check, check_delta, compose, noise_seed
from dpforge.errors import ConfigError

CHEAP = ["dataset=toy", "model=independent", "evaluation=quick", "logger=csv"]


def mistakes(*overrides, multirun=None):
    with pytest.raises(ConfigError) as caught:
        check([*CHEAP, *overrides], multirun=multirun)
    return list(caught.value.mistakes)


def only(*overrides, **options):
    found = mistakes(*overrides, **options)
    assert len(found) == 1, found
    return found[0]


def test_the_cheap_command_line_passes_and_reads_no_data(monkeypatch):
    def refuse(self):
        raise AssertionError("data was read")

    monkeypatch.setattr(dpforge.data.ToySource, "load", refuse)
    (run,) = check(CHEAP).runs
    assert run.plan.epsilon() == pytest.approx(3.0, rel=1e-6)
    assert run.schema.nominal_rows == run.experiment.dataset.public_schema().nominal_rows


def test_all_mistakes_of_a_command_line_come_together():
    found = mistakes(
        "privacy.target_epsilonn=1",
        "seed=-1",
        "privacy.max_grad_norm=0",
        "runtime=gpuu",
        "model.steps=[",
        "rows=0",
    )
    for piece in ("target_epsilonn", "seed=-1", "max_grad_norm", "gpuu", "model.steps=[", "rows=0"):
        assert sum(piece in text for text in found) == 1, (piece, found)
    assert len(found) == 6


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "privacy.target_epsilonn=1",
            "unknown key 'privacy.target_epsilonn'. Did you mean 'privacy.target_epsilon'?",
        ),
        ("+privacy.target_epsilonn=1", "Did you mean 'privacy.target_epsilon'?"),
        ("++privacy.target_epsilonn=1", "Did you mean 'privacy.target_epsilon'?"),
        ("+model.allocatoin=uniform", "Did you mean 'model.allocation'?"),
        ("target_epsilon=1", "Did you mean 'privacy.target_epsilon'?"),
        ("+sed=1", "unknown key 'sed'. Did you mean 'seed'?"),
        ("privacy.target_epsilon.x=1", "unknown key 'privacy.target_epsilon.x'"),
        ("~privacy.target_epsilonn", "Did you mean 'privacy.target_epsilon'?"),
        ("dataset=toyy", "unknown choice 'dataset=toyy'. Did you mean 'toy'?"),
        ("+experiment=smke", "Did you mean 'smoke'?"),
        ("paper=dp_maf/adlt", "Did you mean 'dp_maf/adult'?"),
        ("experiment=[smoke,dmo]", "Did you mean 'demo'?"),
    ],
)
def test_a_misspelt_word_is_answered_with_the_closest_one(override, expected):
    assert expected in only(override)


def test_a_valid_key_that_the_file_leaves_out_is_explained_not_called_unknown():
    key = next(
        field.name
        for field in dataclasses.fields(check(CHEAP).runs[0].experiment.evaluation)
        if field.name not in compose(CHEAP).evaluation
    )
    assert f"write '+evaluation.{key}=" in only(f"evaluation.{key}=1")


@pytest.mark.parametrize("target", ["os.system", "builtins.eval", "dpforgery.Thing", "numpy.load"])
def test_a_target_outside_the_allowed_packages_is_refused_and_never_called(target):
    assert "is not allowed" in only(f"model._target_={target}")


def test_a_nested_target_outside_the_allowed_packages_is_refused_too():
    found = mistakes("+privacy.split={_target_: os.getcwd}")
    assert any("privacy.split._target_='os.getcwd' is not allowed" in text for text in found)


def test_a_target_that_does_not_exist_says_so():
    assert "Nope" in only("model._target_=dpforge.generators.independent.Nope")


def test_a_missing_argument_of_a_target_is_named():
    found = mistakes("privacy._target_=dpforge.identity.Identity")
    assert any("'privacy.run_id' is required" in text for text in found)


def test_an_unset_value_is_named_with_its_remedy():
    found = mistakes("dataset=csv")
    assert any("'dataset.path' is not set" in text and "dataset.path=VALUE" in text for text in found)


def test_an_unresolvable_interpolation_is_named():
    assert "nowhere" in only("seed=${nowhere}")


def test_a_deleted_component_is_missed():
    assert "no 'model' is chosen" in only("~model")


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        (["privacy.target_epsilon=0"], "target_epsilon"),
        (["privacy.target_epsilon=-1"], "target_epsilon"),
        (["privacy.target_epsilon=null"], "exactly one"),
        (["privacy.noise_multiplier=1"], "exactly one"),
        (["privacy.target_epsilon=null", "privacy.noise_multiplier=0"], "noise_multiplier"),
        (["privacy.delta=0"], "delta"),
        (["privacy.delta=1"], "delta"),
        (["privacy.max_grad_norm=-1"], "max_grad_norm"),
        (["privacy.relation=replacee"], "replace"),
        (["study=a/../b"], "study"),
        (["seed=1.5"], "seed"),
        (["seed=true"], "seed"),
        (["output_root=null"], "output_root"),
    ],
)
def test_values_out_of_range_are_refused(overrides, word):
    assert word in only(*overrides)


def test_too_large_a_sampling_rate_is_refused():
    assert "sampling_rate" in only(
        "model=dp_maf", "model.expected_batch_size=null", "model.sampling_rate=1.5"
    )


def test_keys_of_another_model_are_not_offered_as_known():
    found = mistakes("experiment=smoke", "dataset=toy", "model=independent")
    assert any("unknown key 'model.steps'" in text for text in found)
    assert not any("model.hidden" in text and "unknown key 'model.hidden'" not in text for text in found)


def test_delta_must_be_below_one_over_the_nominal_rows():
    limit = 1 / check(CHEAP).runs[0].schema.nominal_rows
    text = only(f"privacy.delta={limit}")
    assert "is not below 1/nominal_rows" in text
    assert "privacy.allow_large_delta=true" in text
    suggested = float(text.split("Use privacy.delta=")[1].split(",")[0])
    assert suggested < limit
    check([*CHEAP, f"privacy.delta={suggested}"])
    check([*CHEAP, f"privacy.delta={limit}", "privacy.allow_large_delta=true"])


def test_delta_is_of_no_concern_without_dp():
    run = check([*CHEAP, "privacy=none"]).runs[0]
    large = dataclasses.replace(run.experiment.privacy, delta=0.5)
    check_delta(large, run.schema)
    with pytest.raises(ConfigError):
        check_delta(dataclasses.replace(large, enabled=True, target_epsilon=1.0), run.schema)


def test_values_nobody_confirmed_are_refused_by_name(monkeypatch):
    schema = check(CHEAP).runs[0].schema
    column = next(column for column in schema.columns if column.bounds is not None)
    drafted = dataclasses.replace(column, bounds=dataclasses.replace(column.bounds, provenance="unconfirmed"))
    monkeypatch.setattr(dpforge.data.ToySource, "public_schema", lambda self: schema.with_column(drafted))
    text = only()
    assert f"{column.name}.bounds" in text
    assert "provenance: public" in text


def test_a_model_and_an_evaluation_for_other_data_are_refused(monkeypatch):
    monkeypatch.setattr(dpforge.data.ToySource, "modality", "image")
    model, evaluation = mistakes()
    assert "model=table data, dataset=image data" in model
    assert "evaluation=table data, dataset=image data" in evaluation


def test_every_job_of_a_sweep_is_checked_and_each_mistake_said_once():
    found = mistakes("privacy.target_epsilon=1,-2", "seed=range(0,4)")
    assert len(found) == 1
    assert "-2" in found[0]


def test_a_sweep_counts_its_jobs_and_gives_each_its_own_folder():
    checked = check([*CHEAP, "privacy.target_epsilon=1,2", "seed=range(0,3)"], multirun=True)
    assert checked.total == 6
    assert len({run.identity.folder for run in checked.runs}) == 6


def test_a_sweep_over_choices_names_the_unknown_one():
    assert "model=nope" in only("model=independent,nope")


def test_a_huge_sweep_is_counted_without_being_listed(monkeypatch):
    monkeypatch.setattr("dpforge.configuration.checking.MOST_JOBS", 10)
    checked = check([*CHEAP, "seed=range(0,100000)", "rows=range(1,100000)"])
    assert checked.total == 100000 * 99999
    assert len(checked.runs) == 10


def test_several_values_without_a_sweep_are_refused_with_the_remedy():
    assert "add -m" in only("seed=1,2", multirun=False)


def test_a_sweep_file_is_a_sweep_without_the_flag():
    checked = check([*CHEAP, "sweep=seeds"], multirun=False)
    assert checked.multirun
    assert [run.config.seed for run in checked.runs] == [0, 1, 2, 3, 4]


def test_the_command_line_narrows_the_sweep_of_a_file():
    checked = check([*CHEAP, "sweep=epsilon", "privacy.target_epsilon=7"])
    assert [run.config.privacy.target_epsilon for run in checked.runs] == [7]


def test_compose_reports_a_broken_file_without_a_hydra_error():
    with pytest.raises(ConfigError, match="nope"):
        compose(["model=nope"])


def test_build_gives_the_components_and_refuses_bad_values_together():
    experiment = build(compose([*CHEAP, "seed=4", "rows=10"]))
    assert (experiment.seed, experiment.rows) == (4, 10)
    with pytest.raises(ConfigError) as caught:
        build(compose([*CHEAP, "seed=-4", "privacy.delta=7"]))
    assert len(caught.value.mistakes) == 2


def test_runs_of_a_paper_take_noise_that_differs_by_seed_and_is_not_the_public_seed():
    seeds = {}
    for seed in range(5):
        config = compose(["paper=dp_maf/adult", f"seed={seed}"])
        resolved = OmegaConf.to_container(config, resolve=True)
        seeds[seed] = resolved["privacy"]["seed"]
        assert resolved["privacy"]["rng"] == "seeded"
    assert len(set(seeds.values())) == 5
    assert all(public != private for public, private in seeds.items())
    assert seeds[3] == noise_seed(3)


def test_a_public_pool_is_no_private_set_and_may_be_used_without_privacy():
    words = ["model=dpwgan", "dataset=tiny_imagenet32"]
    with pytest.raises(ConfigError, match=r"pool of public images.*privacy=none"):
        check(words)
    assert check([*words, "privacy=none"]).runs
