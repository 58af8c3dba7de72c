"""What launchers share: threads, GPUs, results that come back, lost runs, missing engines."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from dpforge.cli import launching
from dpforge.cli.jobs import Job, Jobs, print_table
from dpforge.cli.launching import cores, gpus, lost, threads_of, worker_environment, workers_for
from dpforge.config import check
from dpforge.errors import ConfigError, DataError, Interrupted, RunLocked
from dpforge.experiment.stages import StopFlag

SOURCE = Path(__file__).parents[2] / "src" / "hydra_plugins"
WORDS = [
    "dataset=toy",
    "model=independent",
    "evaluation=quick",
    "logger=csv",
    "privacy.target_epsilon=null",
    "privacy.noise_multiplier=2",
]


def test_cores_are_shared_among_runs_and_never_oversubscribed(monkeypatch):
    monkeypatch.setattr(launching, "cores", lambda: 8)
    assert workers_for(None, threads=3, jobs=100) == 2
    assert workers_for(None, threads=16, jobs=100) == 1
    assert workers_for(None, threads=1, jobs=5) == 5
    assert workers_for(4, threads=4, jobs=100) == 4
    with pytest.raises(ConfigError, match="n_jobs=0"):
        workers_for(0, threads=1, jobs=1)


def test_cores_are_those_this_process_may_use():
    assert cores() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("threads", "expected"), [(None, 1), (0, 1), (4, 4)])
def test_a_run_has_at_least_one_thread(threads, expected):
    assert threads_of(SimpleNamespace(runtime={"threads": threads})) == expected


def test_workers_get_threads_through_the_environment_unless_the_user_chose(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    before = dict(os.environ)
    with worker_environment(2):
        seen = subprocess.run(
            [sys.executable, "-c", "import os; print(os.environ['OPENBLAS_NUM_THREADS'])"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert os.environ["OMP_NUM_THREADS"] == "5"
    assert seen.stdout.strip() == "2"
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("visible", "told", "expected"),
    [
        ("2,5", None, ["2", "5"]),
        ("2,5", 1, ["2"]),
        ("", None, []),
        ("-1", None, []),
        (None, 3, ["0", "1", "2"]),
        (None, 0, []),
    ],
)
def test_the_gpus_to_share_are_those_visible_here(monkeypatch, visible, told, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus(told) == expected


def test_gpus_are_counted_with_nvidia_smi(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: A'\necho 'GPU 1: A'\necho '  MIG 1g'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert gpus() == ["0", "1"]


WORKER = (
    "import os, sys; from pathlib import Path; from dpforge.cli.launching import claim_gpu\n"
    "for _ in range(2): claim_gpu(['a', 'b'], Path(sys.argv[1]))\n"
    "print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); sys.stdin.read()"
)


def test_living_workers_take_gpus_in_turn_and_a_dead_one_gives_its_place_back(tmp_path):
    def worker():
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, tmp_path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return process, process.stdout.readline().strip()

    workers = [worker() for _ in range(3)]
    assert [gpu for _, gpu in workers] == ["a", "b", "a"]
    workers[1][0].kill()
    workers[1][0].wait()
    workers.append(worker())
    assert workers[-1][1] == "b"
    for process, _ in workers:
        process.communicate("")


def test_a_task_in_another_process_knows_place_and_variables_but_no_results(monkeypatch, tmp_path):
    monkeypatch.setenv("DPFORGE_DATA", "/somewhere")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    jobs = Jobs(multirun=True)
    jobs.add(Job(("a=1",), "ok", "x"))
    content = pickle.dumps(jobs)
    assert b"secret" not in content
    monkeypatch.setenv("DPFORGE_DATA", "elsewhere")
    monkeypatch.chdir(tmp_path)
    copy = pickle.loads(content)
    config = SimpleNamespace(runtime=SimpleNamespace(progress=True))
    copy._settle(config)
    assert (copy.done, copy.multirun, str(Path.cwd())) == ([], True, jobs.place)
    assert os.environ["DPFORGE_DATA"] == "/somewhere"
    assert not config.runtime.progress


def test_a_worker_knows_every_epsilon_that_its_parent_computed(tmp_path):
    from dpforge.privacy.accounting import epsilon
    from dpforge.privacy.events import Gaussian

    expected = epsilon(Gaussian(3.0), 1e-5)
    (tmp_path / "jobs").write_bytes(pickle.dumps(Jobs(multirun=True)))
    code = (
        "import pickle, sys; from dpforge.privacy import accounting, events\n"
        "jobs = pickle.load(open(sys.argv[1], 'rb'))\n"
        "accounting.learn_epsilons(pickle.loads(jobs._epsilons))\n"
        "accounting._epsilon = None; print(repr(accounting.epsilon(events.Gaussian(3.0), 1e-5)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "jobs"], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) == expected


@pytest.mark.parametrize(
    ("error", "state", "code"),
    [
        (None, "ok", 0),
        (RunLocked("another process works on it. Wait for it."), "elsewhere", 0),
        (Interrupted("stopped after step 3."), "interrupted", 130),
        (DataError("the file is gone. Fetch it again."), "failed", 1),
        (KeyError("a secret cell"), "failed", 1),
    ],
)
def test_every_end_of_a_run_has_its_state_and_comes_back_as_plain_values(monkeypatch, error, state, code):
    def run(config, overrides, choices, where, epsilons):
        where.append(Path("outputs/s/run"))
        if error is not None:
            raise error
        return "ok"

    monkeypatch.setattr("dpforge.cli.jobs._run", run)
    jobs = Jobs(multirun=True)
    job = jobs._attempt(None, ("a=1",), {})
    assert pickle.loads(pickle.dumps(job)) == job
    assert (job.state, job.folder) == (state, "outputs/s/run")
    assert "secret" not in " ".join(job.said)
    jobs.add(job)
    jobs.add(job)
    assert jobs.done == [job]
    assert jobs.exit_code() == code


def test_a_failure_outweighs_an_interruption_and_a_lost_run_is_a_failure():
    jobs = Jobs(multirun=True)
    jobs.add(Job((), "interrupted", None))
    assert jobs.exit_code() == 130
    jobs.add(lost(["a=1"], "its process was killed.").return_value)
    assert jobs.exit_code() == 1
    assert "The same command continues it" in jobs.done[-1].said[0]


def test_the_table_shows_every_state(capsys):
    states = ("ok", "skipped", "elsewhere", "interrupted", "failed", "lost")
    print_table([Job((f"seed={n}",), state, f"outputs/s/{n}") for n, state in enumerate(states)])
    shown = capsys.readouterr().out
    assert all(state in shown for state in states)
    assert "outputs/s" in shown


def test_a_finished_run_is_neither_built_nor_calibrated(monkeypatch):
    monkeypatch.setattr("dpforge.privacy.plan.make_plan", lambda *_, **__: pytest.fail("calibrated"))
    folders = []

    def finished(source, path):
        folders.append(path)
        return True

    checked = check([*WORDS, "seed=0,1"], multirun=True, finished=finished)
    assert checked.nothing_left
    assert (checked.total, checked.runs) == (2, ())
    assert [found.folder for _, found in checked.finished] == folders


def test_what_is_left_of_a_sweep_is_checked_in_full():
    checked = check([*WORDS, "seed=0,1"], multirun=True, finished=lambda _, path: "seed0" in path.name)
    assert not checked.nothing_left
    assert [run.config.seed for run in checked.runs] == [1]
    with pytest.raises(ConfigError, match="delta"):
        check([*WORDS, "seed=0,1", "privacy.delta=0.5"], finished=lambda _, path: "seed0" in path.name)


def test_finished_runs_leave_the_number_of_checked_ones_to_the_others(monkeypatch):
    monkeypatch.setattr("dpforge.configuration.checking.MOST_JOBS", 2)
    words = [*WORDS, "seed=range(0,6)"]
    assert check(words, multirun=True, finished=lambda *_: True).nothing_left
    most = check(words, multirun=True, finished=lambda _, path: "seed5" not in path.name)
    assert [run.config.seed for run in most.runs] == [5]
    late = [*words, "privacy.delta=0.5"]
    with pytest.raises(ConfigError, match="delta"):
        check(late, multirun=True, finished=lambda _, path: "seed5" not in path.name)
    assert len(check(words, multirun=True, finished=lambda *_: False).runs) == 2


SEARCH = ["sweep=optuna", *WORDS[:-2]]


@pytest.mark.parametrize(
    ("sweep", "expected"),
    [
        ("privacy.noise_multiplier=tag(log, interval(1, 16))", 4),
        ("privacy.noise_multiplier=interval(1.0, 4.0)", 2.5),
        ("privacy.noise_multiplier=range(2, 9, 3)", 2),
        ("privacy.noise_multiplier=choice(3, 5)", 3),
    ],
)
def test_a_search_is_checked_at_a_point_of_its_space(sweep, expected):
    (run,) = check([*SEARCH, "privacy.target_epsilon=null", sweep]).runs
    assert run.config.privacy.noise_multiplier == expected


def test_a_search_over_a_second_budget_is_refused():
    with pytest.raises(ConfigError, match="exactly one"):
        check([*SEARCH, "privacy.noise_multiplier=interval(1.0, 8.0)"])


def test_a_search_with_a_value_that_none_of_its_runs_can_have_is_refused():
    with pytest.raises(ConfigError, match="florr"):
        check([*SEARCH, "model.florr=interval(0.0, 1.0)"])


def test_without_its_engine_a_launcher_composes_and_says_what_to_install(tmp_path):
    code = (
        "import sys, hydra_plugins; hydra_plugins.__path__ = [sys.argv[1]]\n"
        "from dpforge.cli import check, main\n"
        "for name in ('joblib', 'slurm', 'ray'):\n"
        "    for command in ((check, main) if name == 'slurm' else (main,)):\n"
        "        try: command.main([*sys.argv[2:], f'launch={name}'])\n"
        "        except SystemExit as stop: print('code', stop.code or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, SOURCE, *WORDS],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    codes = [line for line in done.stdout.splitlines() if line.startswith("code")]
    assert codes == ["code 2", "code 0", "code 2", "code 2"]
    for extra in ("joblib", "slurm", "ray"):
        assert f"pip install 'dpforge[{extra}]'" in done.stderr


class TestJoblib:
    """The launcher after a worker died, without processes."""

    def launcher(self, killers):
        from hydra_plugins.dpforge_launchers.joblib_launcher import JoblibLauncher

        class Fake(JoblibLauncher):
            batches: list = []  # noqa: RUF012

            def _run(self, jobs, returned, notes, stopping):
                self.batches.append(list(jobs))
                for number in jobs:
                    (notes / f"started-{number}").touch()
                    if number in killers:
                        return False
                    if len(jobs) == 1 or number == 0:
                        returned[number] = launching.finished_return(Job((), "ok", None))
                    if len(returned) and number >= 2:
                        returned[number] = launching.finished_return(Job((), "ok", None))
                return True

        fake = Fake()
        fake.config = SimpleNamespace(runtime={"threads": 1})
        fake.task = Jobs(multirun=True)
        fake.batches = []
        return fake

    def test_only_the_run_that_kills_its_worker_is_lost(self):
        fake = self.launcher(killers={2})
        found = fake.launch([[f"seed={n}"] for n in range(5)], 0)
        assert [result.return_value.state for result in found] == ["ok", "ok", "lost", "ok", "ok"]
        assert fake.batches[0] == [0, 1, 2, 3, 4]
        assert [1] in fake.batches
        assert [2] in fake.batches
        assert len(fake.task.done) == 5


class TestSlurm:
    """Signals and the queue, without a cluster."""

    pytest.importorskip("submitit")

    def test_the_signal_before_the_time_limit_lets_a_run_end_its_step_and_then_requeues(self):
        from hydra_plugins.dpforge_launchers.slurm_launcher import _stopping

        called = []
        before = signal.signal(signal.SIGUSR2, lambda number, frame: called.append(number))
        try:
            with _stopping() as asked:
                with StopFlag().installed() as flag:
                    os.kill(os.getpid(), signal.SIGUSR2)
                    while not flag():
                        pass
                assert not called
            with pytest.raises(SystemExit) as stop:
                asked.finish()
        finally:
            signal.signal(signal.SIGUSR2, before)
        assert called == [signal.SIGUSR2]
        assert stop.value.code == 130

    def test_a_signal_before_the_first_step_ends_the_run_at_once(self):
        from hydra_plugins.dpforge_launchers.slurm_launcher import _stopping

        def receive():
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()

        with _stopping() as asked, pytest.raises(Interrupted, match="before its first step"):
            receive()
        with pytest.raises(SystemExit):
            asked.finish()

    def test_a_run_that_leaves_the_queue_without_a_result_is_lost_and_the_others_are_awaited(
        self, monkeypatch, tmp_path
    ):
        from hydra_plugins.dpforge_launchers import slurm_launcher as slurm

        good = launching.finished_return(Job(("seed=1",), "ok", None))
        late = tmp_path / "late.pkl"
        jobs = [
            SimpleNamespace(job_id="7_0", paths=SimpleNamespace(result_pickle=tmp_path / "never")),
            SimpleNamespace(job_id="7_1", paths=SimpleNamespace(result_pickle=late), results=lambda: [good]),
        ]
        answers = iter([{"7_0", "7_1"}, None, {"7_1"}, {"7_1"}])

        def queued(arrays):
            assert arrays == ["7"]
            answer = next(answers, set())
            with suppress(FileExistsError):
                if answer == set():
                    late.touch(exist_ok=False)
            return answer

        monkeypatch.setattr(slurm, "_queued", queued)
        monkeypatch.setattr(slurm, "_QUEUE_SECONDS", 0.01)
        monkeypatch.setattr(slurm, "_DISK_SECONDS", 0.0)
        found = slurm._wait(jobs, [["seed=0"], ["seed=1"]])
        assert [result.return_value.state for result in found] == ["lost", "ok"]
        assert "SLURM job 7_0 ended without a result" in found[0].return_value.said[0]

    def test_a_sweep_that_stops_waiting_tells_what_is_known_of_its_jobs(self, monkeypatch, tmp_path):
        from hydra_plugins.dpforge_launchers import slurm_launcher as slurm

        good = launching.finished_return(Job(("seed=0",), "ok", None))
        (tmp_path / "0").touch()
        jobs = [
            SimpleNamespace(
                job_id=f"7_{n}",
                paths=SimpleNamespace(result_pickle=tmp_path / f"{n}"),
                results=lambda: [good],
            )
            for n in range(2)
        ]

        def leave(_seconds):
            raise KeyboardInterrupt

        monkeypatch.setattr(slurm, "_queued", lambda arrays: {"7_1"})
        monkeypatch.setattr(slurm, "time", SimpleNamespace(sleep=leave, monotonic=lambda: 0.0))
        launcher = slurm.SlurmLauncher()
        launcher.task_function, launcher.config = Jobs(multirun=True), SimpleNamespace(runtime={})
        monkeypatch.setattr(launcher, "_executor", lambda: SimpleNamespace(map_array=lambda *_: jobs))
        with pytest.raises(KeyboardInterrupt):
            launcher.launch([["seed=0"], ["seed=1"]], 0)
        assert [job.state for job in launcher.task_function.done] == ["ok", "elsewhere"]
        assert "scancel 7_1" in launcher.task_function.done[1].said[0]
