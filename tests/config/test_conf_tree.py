"""Every file of the configuration tree makes a run that passes all checks."""

from __future__ import annotations

import pytest

from dpforge.cli.check import every_choice
from dpforge.config import check, compose
from dpforge.generators.dp_maf import DPMAF

GIVEN_NOISE = ["privacy.target_epsilon=null", "privacy.noise_multiplier=2"]  # spares the calibration


@pytest.mark.parametrize("overrides", list(every_choice()), ids=" ".join)
def test_every_file_of_the_tree_passes_the_checks(overrides):
    calibrated = {"privacy=none", "sweep=epsilon"} & set(overrides)
    checked = check([*overrides, *([] if calibrated else GIVEN_NOISE)])
    assert checked.runs


@pytest.mark.parametrize("paper", ["adult", "pums", "power"])
def test_a_paper_runs_three_budgets_and_five_seeds(monkeypatch, paper):
    config = compose([f"paper=dp_maf/{paper}"])
    assert config.study == f"paper-dp_maf-{paper}"
    assert config.dataset.name == f"{paper}_subset"
    assert (config.model.sampling_rate, config.model.expected_batch_size) == (0.1, None)
    monkeypatch.setattr(DPMAF, "plan", lambda self, schema, privacy: None)
    checked = check([f"paper=dp_maf/{paper}"])
    assert checked.multirun
    assert checked.total == 15


def test_the_default_run_is_a_flow_on_adult_at_epsilon_three():
    config = compose()
    assert config.dataset.name == "adult"
    assert config.model._target_.endswith("DPMAF")
    assert (config.privacy.target_epsilon, config.privacy.delta) == (3.0, 1e-5)
    assert config.logger.offline is True


def test_without_dp_the_same_keys_exist_so_that_one_word_switches():
    assert set(compose(["privacy=none"]).privacy) == set(compose().privacy)
    assert compose(["privacy=none"]).privacy.enabled is False


def test_gpu_changes_the_device_alone():
    cpu, gpu = compose().runtime, compose(["runtime=gpu"]).runtime
    assert {key for key in cpu if cpu[key] != gpu[key]} == {"device"}
