"""Sweeps and searches: they end, resume, share their work, and say what they cost."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import re
import secrets
import shutil
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from unit.study_folders import write_run
from wandb.sdk.launch.sweeps import utils as wandb_sweeps

import dpforge.experiment.runner
from dpforge.config import conf_dir, experiments_dir
from dpforge.errors import ConfigError
from dpforge.experiment.attempt import locked
from dpforge.experiment.dataset_ledger import totals
from dpforge.experiment.rundir import RunDir
from dpforge.privacy.accounting import compose, epsilon
from dpforge.privacy.events import Gaussian, SelfComposed
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.selection import RepeatAndSelect
from dpforge.sweep.runs import Candidate
from dpforge.sweep.search import run_search
from dpforge.sweep.settings import SearchSettings
from dpforge.sweep.space import parse_space

pytestmark = pytest.mark.integration

TVD = "fidelity/tvd_2way"
FIXED = ["dataset=toy", "model=independent", "evaluation=quick", "logger=csv", "study=s"]
NOISE = "privacy.noise_multiplier"
WORDS = [*FIXED, "privacy.target_epsilon=null", f"{NOISE}=tag(log, interval(1.0, 8.0))"]
NOISY = {"score_noise": 3.0, "score_sensitivity": 0.01}


def sigma_of(words) -> float:
    return float(next(word.partition("=")[2] for word in words if word.startswith(NOISE)))


class FakeLauncher:
    """Makes finished run folders at once; ``score`` gives the objectives of a run."""

    def __init__(self, score=None, **events):
        self.score = score or (lambda sigma: {TVD: abs(math.log(sigma) - 1.0)})
        self.events = events  # what to do instead, by number of the run
        self.launched, self.batches = [], []

    def __call__(self, batch):
        self.batches.append(len(batch))
        for words in batch:
            self.launched.append(tuple(words))
            candidate = Candidate.of(*words)
            event = self.events.get(f"at{len(self.launched)}")
            if event is not None:
                event(candidate)
            elif not candidate.folder.root.exists():
                finish(candidate, self.score(sigma_of(words)))


def finish(candidate, scores, state="done", place=None):
    folder = candidate.folder
    made = write_run(
        place or folder.root.parent, model="independent", seed=candidate.config.seed, state=state,
        scores=scores, floor=float(candidate.config.privacy.noise_multiplier),
    )  # fmt: skip
    made.rename(folder.root)
    folder.write_json(folder.schema, candidate.schema.to_dict())


def fail(candidate):
    finish(candidate, {}, state="failed")


def stop(candidate):
    finish(candidate, {}, state="running")
    sys.exit(130)


@pytest.fixture
def search(monkeypatch, tmp_path):
    """Run a search in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DPFORGE_CONF_DIGEST", "")
    monkeypatch.delenv("DPFORGE_CONF_DIGEST")

    def call(launch, words=WORDS, **settings):
        run_search(SearchSettings(**{"n_trials": 5, **settings}), words, launch)

    return call


class SharedLauncher(FakeLauncher):
    """Makes run folders that another process may be making too; whoever is first is kept."""

    def __call__(self, batch):
        for words in batch:
            candidate = Candidate.of(*words)
            if candidate.folder.root.exists():
                continue
            candidate.folder.root.parent.mkdir(parents=True, exist_ok=True)
            place = Path(f"made-by-{os.getpid()}")
            with suppress(OSError):  # the folder of the other has come in between
                finish(candidate, self.score(sigma_of(words)), place=place)
            shutil.rmtree(place)


def in_two_processes(action):
    """Do the same in two processes that start together; returns their exit codes."""
    context = multiprocessing.get_context("fork")
    together = context.Barrier(2)

    def work():
        together.wait(60)
        action()

    both = [context.Process(target=work) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    return [process.exitcode for process in both]


def slowly(monkeypatch, owner, name, seconds=0.05):
    """Make a function slow, so that another process has time to come in between."""
    real = getattr(owner, name)

    def slow(*args, **options):
        time.sleep(seconds)
        return real(*args, **options)

    monkeypatch.setattr(owner, name, slow)


def search_ledger():
    return [json.loads(line) for line in Path("outputs/s/search/ledger.jsonl").read_text().splitlines()]


def trials(folder="outputs/s"):
    storage = f"sqlite:///{folder}/search/optuna.db"
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage).trials


def test_the_grammar_of_overrides_spells_a_search_space():
    space = parse_space(
        [
            "a=1",
            "lr=tag(log, interval(1e-3, 0.1))",
            "width=int(interval(16, 64))",
            "depth=range(1, 8, 2)",
            "rate=range(0.1, 0.6, 0.25)",
            "hidden=[16,16],[32,32]",
            "model=choice(dp_maf, aim)",
            "a=2",
        ]
    )
    assert space.axes == {
        "lr": FloatDistribution(1e-3, 0.1, log=True),
        "width": IntDistribution(16, 64),
        "depth": IntDistribution(1, 7, step=2),
        "rate": FloatDistribution(0.1, 0.35, step=0.25),
        "hidden": CategoricalDistribution(["[16,16]", "[32,32]"]),
        "model": CategoricalDistribution(["dp_maf", "aim"]),
    }
    params = {"lr": 0.01, "width": 20, "depth": 3, "rate": 0.1, "hidden": "[16,16]", "model": "aim"}
    assert space.words(params) == [
        "a=2", "lr=0.01", "width=20", "depth=3", "rate=0.1", "hidden=[16,16]", "model=aim",
    ]  # fmt: skip


def test_a_search_without_a_range_or_with_an_impossible_one_is_refused():
    with pytest.raises(ConfigError, match="nothing to vary"):
        parse_space(["dataset=toy"])
    with pytest.raises(ConfigError) as caught:
        parse_space(
            ["a=tag(log, choice(1, 2))", "b=tag(log, interval(0, 1))", "c=tag(quick, interval(1, 2))"]
        )
    assert len(caught.value.mistakes) == 3


def test_all_mistakes_of_the_settings_are_told_together():
    with pytest.raises(ConfigError) as caught:
        SearchSettings(selection="repeat_and_selec", n_trials=0, sampler="x", score_noise=-1.0, mean_runs=0.5)
    assert len(caught.value.mistakes) >= 5
    assert "Did you mean 'repeat_and_select'?" in str(caught.value)


def test_a_search_ends_at_its_number_of_trials_and_tells_both_epsilons(search, capsys):
    launch = FakeLauncher()
    search(launch, n_jobs=2)
    assert launch.batches == [2, 2, 1]
    found = trials()
    assert [trial.state.name for trial in found] == ["COMPLETE"] * 5
    for trial in found:
        assert trial.value == pytest.approx(abs(math.log(trial.params[NOISE]) - 1.0))
    text = capsys.readouterr().out
    best = min(found, key=lambda trial: trial.value)
    winner = Candidate.of(*WORDS[:-1], f"{NOISE}={best.params[NOISE]!r}").identity.folder
    assert f"Best: {winner}" in text
    one = Gaussian(json.loads((winner / "ledger.jsonl").read_text().splitlines()[0])["plan"]["pieces"][0][
        "event"
    ]["noise_multiplier"])  # fmt: skip
    assert f"Search: ε {epsilon(SelfComposed(one, 10), 1e-5):.4g} at δ 1e-05 for all 5 runs composed" in text
    assert "No ε covers that choice" in text


def test_an_interrupted_search_finishes_the_remaining_trials_and_repeats_none(search):
    first = FakeLauncher(at3=stop)
    with pytest.raises(SystemExit):
        search(first)
    assert [trial.state.name for trial in trials()] == ["COMPLETE", "COMPLETE", "RUNNING"]
    shutil.rmtree(Candidate.of(*first.launched[2]).folder.root)  # what the launcher makes instead of resuming
    second = FakeLauncher()
    search(second)
    assert second.launched[0] == first.launched[2]
    assert len(second.launched) == 3
    assert len(set(first.launched) | set(second.launched)) == 5
    assert [trial.state.name for trial in trials()] == ["COMPLETE"] * 5
    third = FakeLauncher()
    search(third)
    assert third.launched == []
    search(third, n_trials=6)
    assert len(third.launched) == 1


def test_a_trial_whose_process_was_killed_while_it_was_asked_for_is_replaced(search, capsys):
    with pytest.raises(SystemExit):
        search(FakeLauncher(at2=stop), n_trials=3, **NOISY)
    shutil.rmtree(Candidate.of(*words_of(trials()[1])).folder.root)
    storage = "sqlite:///outputs/s/search/optuna.db"
    (name,) = optuna.get_all_study_names(storage)
    optuna.load_study(study_name=name, storage=storage).ask()  # on disk, and without a value
    search(FakeLauncher(), n_trials=3, **NOISY)
    assert [trial.state.name for trial in trials()] == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]
    assert sum(line.get("count", 0) for line in search_ledger()) == 3
    assert "for all 3 runs composed" in capsys.readouterr().out


def words_of(trial):
    return [*WORDS[:-1], f"{NOISE}={trial.params[NOISE]!r}"]


def test_two_launches_of_one_search_share_its_trials_and_its_ledger(search, monkeypatch):
    slowly(monkeypatch, optuna.Trial, "_suggest")
    slowly(monkeypatch, Ledger, "reserve")
    codes = in_two_processes(lambda: search(SharedLauncher(), n_trials=8, sampler="random", **NOISY))
    assert codes == [0, 0]
    found = trials()
    assert [trial.state.name for trial in found] == ["COMPLETE"] * 8
    assert len({trial.params[NOISE] for trial in found}) == 8
    lines = search_ledger()
    assert [line["seq"] for line in lines] == list(range(len(lines)))
    assert [line["count"] for line in lines if line["kind"] == "reserve"] == [8]


def test_failed_trials_are_marked_and_the_search_goes_on(search):
    search(FakeLauncher(at2=fail))
    assert [trial.state.name for trial in trials()] == [
        "COMPLETE",
        "FAIL",
        "COMPLETE",
        "COMPLETE",
        "COMPLETE",
    ]


def test_a_run_that_another_process_works_on_is_left_to_it_and_told_later(search):
    held = []

    def elsewhere(candidate):
        finish(candidate, {}, state="running")
        held.append(locked(candidate.folder))
        held[0].__enter__()

    launch = FakeLauncher(at1=elsewhere)
    search(launch)
    assert [trial.state.name for trial in trials()] == ["RUNNING", *["COMPLETE"] * 4]
    held[0].__exit__(None, None, None)
    shutil.rmtree(Candidate.of(*launch.launched[0]).folder.root)
    again = FakeLauncher()
    search(again)
    assert again.launched == launch.launched[:1]
    assert {trial.state.name for trial in trials()} == {"COMPLETE"}


def test_two_objectives_give_the_pareto_front(search, capsys):
    def score(sigma):
        return {TVD: 0.1 + 0.05 * math.floor(sigma), "privacy/spent": 1 / sigma + (sigma > 4)}

    search(
        FakeLauncher(score), n_trials=10, sampler="random",
        objectives=(TVD, "privacy/spent"), directions=("minimize", "minimize"),
    )  # fmt: skip
    found = [tuple(trial.values) for trial in trials()]
    front = {
        number
        for number, one in enumerate(found)
        if not any(all(o <= v for o, v in zip(other, one, strict=True)) and other != one for other in found)
    }
    marked = {int(number) for number in re.findall(r"^\*\s+(\d+)", capsys.readouterr().out, re.MULTILINE)}
    assert marked == front
    assert 1 < len(front) < 10


def test_a_direction_turns_the_search_around(search):
    search(FakeLauncher(lambda sigma: {TVD: sigma}), directions=("maximize",), n_trials=3)
    assert [trial.value for trial in trials()] == [-trial.params[NOISE] for trial in trials()]


def test_an_objective_that_no_run_has_is_refused_with_those_there_are(search):
    with pytest.raises(ConfigError, match=r"no value of fidelity/tvd_9way.*fidelity/tvd_2way"):
        search(FakeLauncher(), objectives=("fidelity/tvd_9way",))


def test_an_edited_configuration_stops_the_search_and_no_trial_counts_as_failed(search, monkeypatch):
    launch = FakeLauncher(at2=lambda candidate: monkeypatch.setenv("DPFORGE_CONF_DIGEST", "another"))
    with pytest.raises(ConfigError, match="changed after the sweep started"):
        search(launch)
    assert [trial.state.name for trial in trials()] == ["COMPLETE", "RUNNING"]


def test_public_proxy_refuses_private_scores_before_any_run(search):
    launch = FakeLauncher()
    with pytest.raises(ConfigError, match="is a private score, because dataset 'toy'"):
        search(launch, selection="public_proxy")
    assert launch.launched == []


def test_public_proxy_takes_an_objective_that_is_public(search, capsys):
    def score(sigma):
        return {TVD: 0.1}

    search(FakeLauncher(score), selection="public_proxy", objectives=("privacy/delta",), n_trials=2)
    text = capsys.readouterr().out
    assert "public scores alone" in text
    assert "Search: ε" not in text


def test_noisy_scores_are_reserved_before_they_steer_and_are_in_the_total(search):
    search(FakeLauncher(lambda sigma: {TVD: 0.1}), n_trials=4, **NOISY)
    lines = [json.loads(line) for line in Path("outputs/s/search/ledger.jsonl").read_text().splitlines()]
    assert sum(line["count"] for line in lines if line["kind"] == "reserve") == 4
    values = [trial.value for trial in trials()]
    assert len(set(values)) == 4
    assert 0.001 < max(abs(value - 0.1) for value in values) < 0.3
    before = next(total for total in totals(Path("outputs"), "toy") if not total.study)
    assert before.runs == 5
    shutil.rmtree("outputs/s/search")
    after = next(total for total in totals(Path("outputs"), "toy") if not total.study)
    assert after.composed < before.composed


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"score_sensitivity": 0.02}, "score_sensitivity=0.02: the scores of this search are paid for"),
        ({"score_noise": 1.0}, "score_noise=1.0: the scores of this search are paid for with 3"),
        ({"n_trials": 3}, "n_trials=3: the ledger of this search authorises 2 noisy"),
        ({"directions": ("maximize",)}, "another space, objective or direction"),
    ],
)  # fmt: skip
def test_noisy_scores_that_are_not_authorised_are_refused_before_any_run(search, changes, said):
    settings = {"n_trials": 2, **NOISY}
    search(FakeLauncher(), **settings)
    launch = FakeLauncher()
    with pytest.raises(ConfigError, match=re.escape(said)):
        search(launch, **{**settings, **changes})
    assert launch.launched == []
    search(launch, **settings)
    assert launch.launched == []


def test_a_private_selection_asks_for_scores_that_are_paid_for(search):
    with pytest.raises(ConfigError, match="score_sensitivity"):
        search(FakeLauncher(), selection="repeat_and_select")


def select(search, launch, **changes):
    settings = {"selection": "repeat_and_select", "n_trials": 3, "mean_runs": 4.0, **NOISY, **changes}
    search(launch, **settings)


def test_a_private_selection_releases_one_winner_and_charges_run_and_score(search, capsys):
    launch = FakeLauncher()
    select(search, launch, n_jobs=3)
    draw = Path("outputs/s/search/private/draw.json")
    picks = json.loads(draw.read_text())["picks"]
    assert stat.S_IMODE(draw.stat().st_mode) == 0o600
    assert len(launch.launched) == len(picks)
    assert len(set(launch.launched)) == len(picks)  # each with a seed of its own
    winner = json.loads(Path("outputs/s/search/winner.json").read_text())
    candidates = {Candidate.of(*words).plan.event() for words in launch.launched}
    events = [compose(plan, Gaussian(3.0)) for plan in candidates]
    assert winner["epsilon_of_the_selection"] >= RepeatAndSelect(4.0).epsilon(events, 1e-5) - 1e-9
    assert winner["run"] in {Candidate.of(*words).folder.root.name for words in launch.launched}
    text = capsys.readouterr().out
    assert "for a reader of the winner alone" in text
    assert not any(f"seed{n}-" in text for n in range(20) if f"seed{n}-" not in winner["run"])
    (study, whole) = totals(Path("outputs"), "toy")
    assert study.selected == pytest.approx(winner["epsilon_of_the_selection"], abs=1e-6)
    assert whole.selected == study.selected


def test_an_interrupted_selection_keeps_its_secret_number_of_runs(search):
    first = FakeLauncher(at1=stop)
    with pytest.raises(SystemExit):
        select(search, first)
    drawn = Path("outputs/s/search/private/draw.json").read_text()
    shutil.rmtree(Candidate.of(*first.launched[0]).folder.root)
    second = FakeLauncher()
    select(search, second)
    assert Path("outputs/s/search/private/draw.json").read_text() == drawn
    assert second.launched[0] == first.launched[0]
    with pytest.raises(ConfigError, match="other settings"):
        select(search, FakeLauncher(), mean_runs=50.0)


@pytest.fixture
def three(monkeypatch):
    """The secret number of runs is three."""
    monkeypatch.setattr(RepeatAndSelect, "draw", lambda *_: 3)


def test_a_selection_names_one_winner_even_if_a_failed_run_could_be_repeated(search, three, capsys):
    select(search, FakeLauncher(at2=fail))
    written = Path("outputs/s/search/winner.json").read_text()
    first = capsys.readouterr().out
    assert f"Winner: outputs/s/{json.loads(written)['run']}" in first
    again = FakeLauncher()
    select(search, again)
    assert again.launched == []
    assert Path("outputs/s/search/winner.json").read_text() == written
    assert capsys.readouterr().out == first


def test_the_number_of_runs_at_once_is_no_part_of_a_selection(search, three):
    first = FakeLauncher(at1=stop)
    with pytest.raises(SystemExit):
        select(search, first)
    shutil.rmtree(Candidate.of(*first.launched[0]).folder.root)
    second = FakeLauncher()
    select(search, second, n_jobs=3)
    assert second.batches == [3]


def test_two_launches_of_one_selection_draw_once_and_name_one_winner(search, monkeypatch):
    slowly(monkeypatch, secrets, "randbits", 0.5)
    codes = in_two_processes(lambda: select(search, SharedLauncher(), n_jobs=3))
    assert codes == [0, 0]
    picks = json.loads(Path("outputs/s/search/private/draw.json").read_text())["picks"]
    runs = list(Path("outputs/s").glob("independent-*/status.json"))
    assert len(runs) == len(picks)
    assert (Path("outputs/s/search/winner.json")).is_file()


def test_a_private_selection_wants_a_study_and_seeds_of_its_own(search):
    write_run(Path("outputs/s"))
    with pytest.raises(ConfigError, match="holds runs already"):
        select(search, FakeLauncher())
    with pytest.raises(ConfigError, match="'seed' out of the search"):
        search(FakeLauncher(), [*WORDS, "seed=0,1"], selection="repeat_and_select", **NOISY)


def test_the_optuna_sweep_runs_from_the_command_line_and_resumes(command, place, no_pictures):
    words = [
        "sweep=optuna", *FIXED, "privacy.target_epsilon=null", "runtime.progress=false",
        f"{NOISE}=tag(log, interval(1.0, 8.0))",
    ]  # fmt: skip
    done = command(*words, "hydra.sweeper.n_trials=1")
    assert done.code == 0, done.said
    assert "Search: ε" in done.out
    runs = sorted(Path("outputs/s").glob("independent-*/status.json"))
    stamps = [path.stat().st_mtime_ns for path in runs]
    assert len(runs) == 1
    again = command(*words, "hydra.sweeper.n_trials=2")
    assert again.code == 0, again.said
    assert len(list(Path("outputs/s").glob("independent-*/status.json"))) == 2
    assert [path.stat().st_mtime_ns for path in runs] == stamps
    wrong = command("sweep=optuna", *FIXED, "hydra.sweeper.n_trials=1", "model.florr=interval(0.0, 1.0)")
    assert wrong.code == 2
    assert "florr" in wrong.err
    both = command("sweep=optuna", *FIXED, f"{NOISE}=tag(log, interval(1.0, 8.0))")
    assert both.code == 2
    assert "privacy.target_epsilon" in both.err
    assert len(list(Path("outputs/s").glob("independent-*/status.json"))) == 2


def test_the_optuna_sweep_runs_in_worker_processes(tmp_path):
    words = [
        *WORDS, "sweep=optuna", "launch=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_jobs=2",
        "hydra.sweeper.n_trials=2", "runtime.pictures=false",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "dpforge.cli.main", *words],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "for all 2 runs composed" in done.stdout
    assert [trial.state.name for trial in trials(tmp_path / "outputs/s")] == ["COMPLETE"] * 2
    runs = [RunDir(path.parent) for path in (tmp_path / "outputs" / "s").glob("independent-*/status.json")]
    assert len({attempt["pid"] for run in runs for attempt in run.status()["attempts"]}) == 2


def test_an_edit_in_mid_sweep_is_refused_by_the_jobs_that_follow(command, place, monkeypatch):
    shutil.copytree(conf_dir(), place / "conf")
    shutil.copytree(experiments_dir(), place / "experiments")
    monkeypatch.setenv("DPFORGE_CONF", str(place / "conf"))
    ran = []

    def run(config, *, identity, overrides):
        ran.append(config.seed)
        with (place / "conf" / "model" / "independent.yaml").open("a") as file:
            file.write("\n# edited\n")
        return SimpleNamespace(path=identity.folder, skipped=False, ok=True)

    monkeypatch.setattr(dpforge.experiment.runner, "run", run)
    done = command("-m", *FIXED, "privacy.target_epsilon=null", f"{NOISE}=2", "seed=0,1,2")
    assert done.code == 1
    assert ran == [0]
    assert "changed after the sweep started" in done.err


def test_two_launches_of_one_sweep_share_the_work(tmp_path):
    words = [
        "-m", *FIXED, "privacy.target_epsilon=null", f"{NOISE}=2", "seed=0,1,2",
        "runtime.pictures=false", "runtime.progress=false",
    ]  # fmt: skip
    code = "import sys; from dpforge.cli.main import main; main(sys.argv[1:])"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, *words],
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=170)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    runs = [RunDir(path.parent) for path in (tmp_path / "outputs" / "s").glob("*/status.json")]
    assert len(runs) == 3
    for folder in runs:
        assert folder.complete()
        assert [attempt["outcome"] for attempt in folder.status()["attempts"]] == ["done"]
        reserved = [line for line in folder.ledger.read_text().splitlines() if '"kind":"reserve"' in line]
        assert len(reserved) == 1


def test_the_command_of_a_wandb_agent_is_a_run_of_dpforge(command, place, no_pictures):
    sweep = yaml.safe_load((experiments_dir() / "wandb_sweep.yaml").read_text())
    assert set(sweep["parameters"]) == {"model.learning_rate", "model.hidden", "privacy.target_epsilon"}
    values = {"model.learning_rate": 0.02, "model.hidden": "[16,16]", "privacy.target_epsilon": 3}
    args = {key: {"value": value} for key, value in values.items()}
    parts = wandb_sweeps.create_sweep_command_args({"args": args})
    line = []
    for word in wandb_sweeps.create_sweep_command(sweep["command"]):
        macro = re.fullmatch(r"\$\{(.+)\}", word)
        line += parts[macro[1]] if macro else [word]
    assert line[0] == "dpforge"
    small = ["dataset=toy", "evaluation=quick", "logger=csv", "model.steps=5", "runtime.progress=false"]
    small += ["privacy.target_epsilon=null", f"{NOISE}=2"]
    kept = [word for word in line[1:] if not word.startswith("logger")]
    done = command(*kept, *small)
    assert done.code == 0, done.said
    (run,) = Path("outputs/wandb-sweep").glob("dp_maf-toy-*")
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["model"]["learning_rate"], config["model"]["hidden"]) == (0.02, [16, 16])
