"""The commands as a user meets them: exit codes, clean errors, and little waiting."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import dpforge.experiment.runner
from dpforge.cli import account, check, evaluate, main
from dpforge.cli.errors import clean_errors, describe
from dpforge.config import compose, groups
from dpforge.errors import ConfigError, DataError, Interrupted, RunError

CHEAP = ["dataset=toy", "model=independent", "evaluation=quick", "logger=csv"]

NO_CALIBRATION = ["privacy.target_epsilon=null", "privacy.noise_multiplier=2"]
FLOW = ["dataset=toy", "evaluation=quick", "model.steps=40", "model.expected_batch_size=16", *NO_CALIBRATION]


def call(command, *words):
    """Run a command in this process; return its exit code."""
    try:
        command.main(list(words))
    except SystemExit as stop:
        return stop.code or 0
    return 0


def shell(*words, **environment):
    code = (
        "import sys; from dpforge.cli.main import main\ntry: main(sys.argv[1:])\nfinally: print(*sys.modules)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """Replace the runner by one that notes what it is asked to run; seed 3 fails, seed 4 is skipped."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dpforge"])
    for name in ("DPFORGE_CONF_DIGEST", "HYDRA_FULL_ERROR"):
        monkeypatch.setenv(name, "restored afterwards")
    noted = []

    def run(config, *, identity, overrides):
        noted.append(SimpleNamespace(config=config, identity=identity, overrides=overrides))
        if config.seed == 3:
            raise KeyError("a secret cell")
        if config.seed == 5:
            raise DataError("the file is gone. Fetch it again.")
        return SimpleNamespace(path=identity.folder, skipped=config.seed == 4, ok=config.seed != 6)

    monkeypatch.setattr(dpforge.experiment.runner, "run", run)
    return noted


def test_one_run_gets_its_configuration_identity_and_overrides(runs):
    assert call(main, *CHEAP, "seed=1") == 0
    (noted,) = runs
    assert noted.config.seed == 1
    assert "hydra" not in noted.config
    assert noted.overrides == [*CHEAP, "seed=1"]
    assert noted.identity.folder.as_posix().startswith("outputs/default/independent-toy-eps3-seed1-")


def test_check_and_run_agree_on_the_folder(runs, capsys):
    assert call(main, *CHEAP) == 0
    assert call(check, *CHEAP) == 0
    assert str(runs[0].identity.folder) in capsys.readouterr().out


def test_a_run_leaves_no_file_of_hydra_behind(runs, tmp_path):
    assert call(main, *CHEAP) == 0
    assert list(tmp_path.rglob("*")) == []


def test_a_sweep_leaves_files_only_in_its_study(runs, tmp_path):
    assert call(main, "-m", *CHEAP, "seed=0,1", "study=mine") == 0
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert all(path.parts[:2] == ("outputs", "mine") and len(path.parts) == 3 for path in files), files


def test_a_wrong_configuration_exits_with_2_before_any_job(runs, capsys):
    assert call(main, *CHEAP, "privacy.target_epsilonn=1", "seed=-1") == 2
    text = capsys.readouterr().err
    assert "Did you mean 'privacy.target_epsilon'?" in text
    assert "seed=-1" in text
    assert "Traceback" not in text
    assert runs == []


def test_a_failed_job_does_not_stop_the_others_and_the_table_shows_each(runs, capsys):
    assert call(main, "-m", *CHEAP, "seed=3,4,5,1,6") == 1
    assert [noted.config.seed for noted in runs] == [3, 4, 5, 1, 6]
    captured = capsys.readouterr()
    assert (captured.out.count(" failed "), captured.out.count(" skipped "), captured.out.count(" ok ")) == (
        3,
        1,
        1,
    )
    assert "Traceback" not in captured.err
    assert "secret" not in captured.out + captured.err


def test_a_sweep_that_succeeds_exits_with_0(runs):
    assert call(main, "-m", *CHEAP, "seed=0,4") == 0


def test_a_sweep_file_needs_no_flag(runs):
    assert call(main, *CHEAP, "sweep=epsilon") == 0
    assert [noted.config.privacy.target_epsilon for noted in runs] == [1, 3, 10]


@pytest.mark.parametrize(("seed", "code", "word"), [(5, 2, "Fetch it again"), (3, 1, "KeyError"), (6, 1, "")])
def test_a_failed_single_run_tells_by_its_exit_code(runs, capsys, seed, code, word):
    assert call(main, *CHEAP, f"seed={seed}") == code
    text = capsys.readouterr().err
    assert word in text
    assert "secret" not in text
    assert "Traceback" not in text
    assert "Error executing job" not in text


def test_an_interrupt_exits_with_130(runs, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(dpforge.experiment.runner, "run", interrupt)
    assert call(main, *CHEAP) == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(("words", "started"), [(["seed=0"], 1), (["-m", "seed=0,1,2"], 1)])
def test_a_signal_to_stop_ends_the_whole_sweep_with_130(runs, monkeypatch, capsys, words, started):
    calls = []

    def stopped(config, *, identity, overrides):
        calls.append(config.seed)
        raise Interrupted("stopped; the same command continues the run.")

    monkeypatch.setattr(dpforge.experiment.runner, "run", stopped)
    assert call(main, *CHEAP, *words) == 130
    assert len(calls) == started
    assert "the same command continues" in capsys.readouterr().err


def test_an_edited_configuration_fails_the_jobs_after_the_edit(runs, monkeypatch, capsys):
    monkeypatch.setattr("dpforge.configuration.places.conf_digest", iter(["a", "a", "b", "b"]).__next__)
    assert call(main, "-m", *CHEAP, "seed=0,1") == 1
    assert [noted.config.seed for noted in runs] == [0]
    assert "changed after the sweep started" in capsys.readouterr().err


def test_an_output_folder_that_is_a_file_gives_a_clean_error(runs, tmp_path, capsys):
    (tmp_path / "taken").write_text("")
    assert call(main, "-m", *CHEAP, "seed=0,1", "output_root=taken") in (1, 2)
    text = capsys.readouterr().err
    assert "taken" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    "flag", ["--config-name=x", "--config-path=/tmp", "--config-dir=/tmp", "--experimental-rerun=x"]
)
def test_flags_that_would_go_round_the_checks_are_refused(runs, capsys, flag):
    assert call(main, flag) == 2
    assert flag.split("=")[0] in capsys.readouterr().err


def test_help_and_completion_import_neither_torch_nor_pandas():
    for words in (["--help"], ["-sc", "install=bash"], ["--cfg", "job"]):
        done = shell(*words)
        assert done.returncode == 0, done.stderr
        modules = set(done.stdout.splitlines()[-1].split())
        assert "hydra" in modules
        assert not modules & {"torch", "pandas", "numpy"}


def test_help_lists_the_groups_and_the_other_commands():
    text = shell("--help").stdout
    for name in ("model: aim, dp_imgsyn, dp_maf", "dpforge-account", "target_epsilon"):
        assert name in text


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("dpforge model=", {"model=dp_maf", "model=independent"}),
        ("dpforge privacy.targ", {"privacy.target_epsilon="}),
        ("dpforge experiment=", {"experiment=demo", "experiment=smoke"}),
    ],
)
def test_bash_completion_offers_the_choices(line, expected):
    done = shell("-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
    assert expected <= set(done.stdout.splitlines()[0].split())


def test_bash_completion_installs_for_the_command():
    script = shell("-sc", "install=bash").stdout
    assert "hydra_bash_completion" in script
    assert script.splitlines()[-2].endswith(" dpforge")


def test_account_shows_every_piece_both_accountants_and_more_steps(capsys):
    assert call(account, *FLOW) == 0
    text = capsys.readouterr().out
    for word in ("train", "PLD", "RDP", "* 40", " 80 ", "sensitivity"):
        assert word in text


def test_epsilon_over_steps_grows_and_equals_the_plan_at_its_own_count():
    from dpforge.config import check as check_configuration

    plan = check_configuration(FLOW).runs[0].plan
    rows = account.over_steps(plan)
    values = [found["pld"] for _, found in rows]
    assert values == sorted(values)
    assert dict(rows)[40]["pld"] == pytest.approx(plan.epsilon("pld"))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["privacy=none"], "NOT DP"),
        (["privacy.rng=seeded", "privacy.seed=1"], "RESEARCH NOISE"),
    ],
)
def test_an_epsilon_that_means_less_is_never_shown_without_its_warning(capsys, overrides, words):
    for command in (account, check):
        assert call(command, *CHEAP, *overrides) == 0
        assert words in capsys.readouterr().out


def test_every_choice_of_every_group_is_covered_by_check_all():
    said = {word for overrides in check.every_choice() for word in overrides}
    for group, choices in groups().items():
        for choice in choices:
            beside = ["model=private_evolution", "dataset=digits"] if group == "model/api" else []
            may_wait = group in ("dataset", "model/api", "paper")
            waits = may_wait and "???" in str(compose([*beside, f"{group}={choice}"]))
            assert (f"{group}={choice}" in said) != (waits or group == "local")


def test_evaluate_goes_on_after_a_run_that_cannot_be_evaluated(monkeypatch, tmp_path, capsys):
    def evaluate_run(path):
        if path.name == "bad":
            raise RunError("no samples. Run it first.")
        return SimpleNamespace(path=path, ok=True, skipped=False)

    monkeypatch.setattr(dpforge.experiment.runner, "evaluate", evaluate_run)
    for name in ("bad", "good"):
        (tmp_path / name).mkdir()
    words = [str(tmp_path / name) for name in ("bad", "missing", "good")]
    assert call(evaluate, *words) == 2
    captured = capsys.readouterr()
    assert f"ok {tmp_path / 'good'}" in captured.out
    assert "no samples" in captured.err
    assert "not a run folder" in captured.err
    assert call(evaluate, words[2]) == 0


def test_every_mistake_has_a_line_of_its_own():
    assert describe(ConfigError(["one", "two"])) == ["ConfigError: one", "ConfigError: two"]


def test_square_brackets_of_a_message_survive_the_terminal(capsys):
    with pytest.raises(SystemExit), clean_errors():
        raise ConfigError("use [red] or [/] here")
    assert "use [red] or [/] here" in capsys.readouterr().err


def test_the_text_of_an_unexpected_error_is_withheld_unless_asked_for(monkeypatch, capsys):
    for wanted in ("", "1"):
        monkeypatch.setenv("DPFORGE_DEBUG", wanted)
        with pytest.raises(SystemExit) as stop, clean_errors():
            float("a private cell")
        assert stop.value.code == 1
        assert ("a private cell" in capsys.readouterr().err) == (wanted == "1")


def test_a_full_or_forbidden_disk_names_the_path():
    (line,) = describe(OSError(28, "No space left on device", str(Path("outputs") / "x")))
    assert "No space left on device" in line
    assert "outputs" in line
