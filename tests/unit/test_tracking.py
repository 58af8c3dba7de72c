from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dpforge.errors import ConfigError, PrivacyError, RunError
from dpforge.experiment import tracking_wandb
from dpforge.experiment.tracking import (
    CsvConfig,
    Tracker,
    Visibility,
    WandbConfig,
    dp,
    private,
    public,
    without_credentials,
)
from dpforge.experiment.tracking_calls import Calls
from dpforge.experiment.tracking_csv import MetricsCsv


class FakeRun:
    def __init__(self, module, options):
        self.module, self.options = module, options
        self.logged, self.summary, self.artifacts, self.exit_codes = [], {}, [], []
        self.axes = {}

    def define_metric(self, name, step_metric):
        self.axes[name] = step_metric

    def log(self, values):
        self.module.hold_log.wait()
        if self.module.broken:
            raise ConnectionError(f"refused {values}")
        self.logged.append(values)

    def log_artifact(self, artifact):
        self.artifacts.append(artifact)

    def finish(self, exit_code):
        self.exit_codes.append(exit_code)


class FakeArtifact:
    def __init__(self, name, type):
        self.name, self.files = name, []

    def add_file(self, path, policy=None):
        self.files.append(path)


class FakeWandb(types.ModuleType):
    def __init__(self):
        super().__init__("wandb")
        self.runs, self.broken, self.start_error = [], False, None
        self.hold_init, self.hold_log = threading.Event(), threading.Event()
        self.hold_init.set()
        self.hold_log.set()
        self.Settings = lambda **options: options
        self.Image = lambda path: ("image", path)
        self.Table = lambda columns, data: ("table", columns, data)
        self.Artifact = FakeArtifact

    def init(self, **options):
        self.hold_init.wait()
        if self.start_error:
            raise self.start_error
        self.runs.append(FakeRun(self, options))
        return self.runs[-1]


@pytest.fixture
def wandb(monkeypatch):
    module = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr(tracking_wandb._Service, "absent", False)
    yield module
    module.hold_init.set()
    module.hold_log.set()


def tracker(folder: Path, config=None, **changes) -> Tracker:
    options = {
        "run_dir": folder,
        "csv_path": folder / "metrics.csv",
        "run_id": "abc123",
        "study": "paper",
        "name": "adult-dp_maf",
        "run_config": {"privacy": {"target_epsilon": 1.0}},
        **changes,
    }
    return Tracker(config or CsvConfig(), **options)


def read(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "metrics.csv")


def test_an_untyped_value_is_refused_and_nothing_is_logged(tmp_path):
    with tracker(tmp_path) as run:
        with pytest.raises(
            PrivacyError, match=r"untyped value 'loss': wrap it in public\(\), dp\(\)"
        ) as caught:
            run.log(0, {"epsilon": dp(0.1), "loss": 3.0})
        assert isinstance(caught.value, TypeError)
        assert not (tmp_path / "metrics.csv").exists()


def test_a_private_value_cannot_be_wrapped_again_as_public():
    with pytest.raises(PrivacyError, match="private value was wrapped again as public"):
        public(private(3.0))


def test_the_csv_gets_everything_and_marks_private_columns(tmp_path):
    with tracker(tmp_path, CsvConfig(release="public")) as run:
        run.log(0, {"epsilon": dp(np.float64(0.25)), "loss": private(np.array(3.5)), "lr": public(1e-3)})
        run.log(1, {"epsilon": dp(0.5), "loss": private(float("nan")), "lr": public(1e-3)})
    frame = read(tmp_path)
    assert list(frame.columns) == ["step", "epsilon", "private/loss", "lr"]
    assert frame["epsilon"].tolist() == [0.25, 0.5]
    assert frame["private/loss"][0] == 3.5
    assert np.isnan(frame["private/loss"][1])


def test_two_calls_for_one_step_fill_one_row_and_new_columns_keep_old_rows(tmp_path):
    with tracker(tmp_path) as run:
        run.log(0, {"a": dp(1)})
        run.log(1, {"a": dp(2)})
        run.log(1, {"b": dp(20)})
        run.log(1, {"b": dp(21)})
        run.log(2, {"a": dp(3), "b": dp(30)})
    frame = read(tmp_path)
    assert frame["step"].tolist() == [0, 1, 2]
    assert frame["a"].tolist() == [1, 2, 3]
    assert frame["b"].fillna(-1).tolist() == [-1, 21, 30]


@pytest.mark.parametrize("explicit", [True, False])
def test_a_resumed_run_has_each_step_once_with_the_new_values(tmp_path, explicit):
    with tracker(tmp_path) as run:
        for step in range(10):
            run.log(step, {"x": dp(step)})
    with tracker(tmp_path) as run:
        if explicit:
            run.resume(6)
            assert read(tmp_path)["step"].tolist() == list(range(6))
        for step in range(6, 12):
            run.log(step, {"x": dp(100 + step), "late": private(1)})
    frame = read(tmp_path)
    assert frame["step"].tolist() == list(range(12))
    assert frame["x"].tolist() == [*range(6), *range(106, 112)]


def test_a_row_is_on_disk_as_soon_as_it_is_logged(tmp_path):
    with tracker(tmp_path) as run:
        for step in range(3):
            run.log(step, {"x": dp(step)})
            assert read(tmp_path)["x"].tolist() == list(range(step + 1))


def test_a_torn_last_line_is_dropped_on_resume(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,x\n0,1\n1,2\n2,0.33")
    log = MetricsCsv(path)
    log.write(2, {"x": 0.3333})
    log.close()
    assert path.read_text() == "step,x\n0,1\n1,2\n2,0.3333\n"


def test_zero_is_kept_when_a_column_is_added(tmp_path):
    with tracker(tmp_path) as run:
        run.log(0, {"x": dp(0), "flag": public(False)})
        run.log(1, {"x": dp(1), "new": dp(2)})
    assert read(tmp_path)["x"].tolist() == [0, 1]
    assert str(read(tmp_path)["flag"][0]) == "False"


def test_an_unwritable_csv_gives_an_error_that_names_the_remedy(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with tracker(tmp_path, csv_path=blocked / "metrics.csv") as run, pytest.raises(RunError, match="resumes"):
        run.log(0, {"x": dp(1)})


def test_each_sink_is_tainted_once_per_private_name_and_before_the_value_arrives(tmp_path, wandb):
    told = []

    def ledger(name, sink):
        written = (tmp_path / "metrics.csv").exists()
        told.append((name, sink, written, [len(run.logged) for run in wandb.runs]))

    with tracker(tmp_path, WandbConfig(project="study-x"), on_taint=ledger) as run:
        run.log(0, {"epsilon": dp(0.1), "loss": private(3.0)})
        run.log(1, {"epsilon": dp(0.2), "loss": private(2.0)})
        run.image("plots/age", tmp_path / "plots" / "age.png", Visibility.PRIVATE)
    assert told[0] == ("loss", "metrics.csv", False, [0])
    assert told[1][:2] == ("loss", "wandb project study-x")
    assert told[1][3] == [0]
    assert run.tainted == {
        "metrics.csv": ["loss"],
        "wandb project study-x": ["loss", "plots/age"],
        "plots/age.png": ["plots/age"],
    }
    assert len(told) == 4


def test_a_failing_ledger_stops_the_private_value(tmp_path):
    def full_disk(name, sink):
        raise RunError("the ledger cannot be written")

    with tracker(tmp_path, on_taint=full_disk) as run, pytest.raises(RunError, match="ledger"):
        run.log(0, {"loss": private(3.0)})
    assert not (tmp_path / "metrics.csv").exists()
    assert run.tainted == {}


def test_release_public_sends_only_public_and_dp_to_wandb(tmp_path, wandb):
    frame = pd.DataFrame({"column": ["age", None], "tvd": [0.1, np.nan]})
    (tmp_path / "s.parquet").write_bytes(b"x")
    with tracker(tmp_path, WandbConfig(release="public")) as run:
        run.log(3, {"epsilon": dp(0.1), "loss": private(3.0), "lr": public(0.5)})
        run.log(4, {"loss": private(3.0)})
        run.summary({"fidelity/tvd_1way": private(0.1), "privacy/epsilon": dp(1.0)})
        run.image("plots/age", tmp_path / "age.png", Visibility.PRIVATE)
        run.table("columns", frame, Visibility.PRIVATE)
        run.table("synthetic", frame, Visibility.DP)
        run.artifact(tmp_path / "s.parquet", Visibility.DP)
    (sent,) = wandb.runs
    cells = [["age", 0.1], [None, None]]
    assert sent.logged == [
        {"step": 3, "epsilon": 0.1, "lr": 0.5},
        {"synthetic": ("table", ["column", "tvd"], cells)},
    ]
    assert sent.summary == {"privacy/epsilon": 1.0}
    assert [(a.name, a.files) for a in sent.artifacts] == [
        ("abc123-s.parquet", [str(tmp_path / "s.parquet")])
    ]
    assert not any("wandb" in sink for sink in run.tainted)
    assert read(tmp_path)["private/loss"].tolist() == [3.0, 3.0]


def test_release_all_sends_private_values_under_their_own_prefix(tmp_path, wandb):
    with tracker(tmp_path, WandbConfig()) as run:
        run.log(0, {"loss": private(3.0), "private/grad": private(1.0)})
        run.summary({"fidelity/tvd_1way": private(0.1)})
        run.image("plots/age", tmp_path / "age.png", Visibility.PRIVATE)
    (sent,) = wandb.runs
    assert sent.logged[0] == {"step": 0, "private/loss": 3.0, "private/grad": 1.0}
    assert sent.logged[1] == {"private/plots/age": ("image", str(tmp_path / "age.png"))}
    assert sent.summary == {"private/fidelity/tvd_1way": 0.1}


def test_a_file_that_received_private_values_cannot_be_declared_public(tmp_path):
    with tracker(tmp_path) as run:
        run.log(0, {"loss": private(3.0)})
        with pytest.raises(PrivacyError, match=r"'metrics\.csv' received private values"):
            run.artifact(tmp_path / "metrics.csv", Visibility.DP)


def test_the_wandb_run_has_the_identity_of_the_run_and_no_credentials(tmp_path, wandb):
    config = {
        "privacy": {"target_epsilon": 1.0, "secret_key": "S3"},
        "sources": [{"url": "u", "Password": "P"}],
        "api_token": "T",
    }
    options = WandbConfig(entity="lab", tags=("a", "b"))
    with tracker(tmp_path, options, run_config=config):
        pass
    (sent,) = wandb.runs
    shown = sent.options
    assert (shown["id"], shown["group"], shown["resume"], shown["mode"]) == (
        "abc123",
        "paper",
        "allow",
        "offline",
    )
    assert (shown["dir"], shown["entity"], shown["tags"]) == (str(tmp_path), "lab", ["a", "b"])
    assert shown["config"] == {"privacy": {"target_epsilon": 1.0}, "sources": [{"url": "u"}]}
    assert shown["settings"]["disable_git"]
    assert shown["settings"]["init_timeout"] <= 30
    assert sent.exit_codes == [0]


def test_the_online_mode_is_left_to_wandb(tmp_path, wandb):
    with tracker(tmp_path, WandbConfig(offline=False)):
        pass
    assert wandb.runs[0].options["mode"] is None


def test_the_wandb_run_is_finished_as_failed_after_an_error(tmp_path, wandb):
    with pytest.raises(ValueError, match="boom"), tracker(tmp_path, WandbConfig()):
        raise ValueError("boom")
    assert wandb.runs[0].exit_codes == [1]


def test_two_trackers_in_one_process_never_share_a_wandb_run(tmp_path, wandb):
    for number in range(2):
        folder = tmp_path / str(number)
        with tracker(folder, WandbConfig(), run_id=f"run{number}") as run:
            run.log(0, {"x": dp(number)})
    assert [(run.options["id"], run.logged) for run in wandb.runs] == [
        ("run0", [{"step": 0, "x": 0}]),
        ("run1", [{"step": 0, "x": 1}]),
    ]
    assert all(run.options["reinit"] == "create_new" and run.exit_codes == [0] for run in wandb.runs)


@pytest.mark.parametrize("error", [TimeoutError("30 s"), ImportError("libcrypto"), RuntimeError("no key")])
def test_wandb_that_cannot_start_gives_one_warning_and_the_csv_goes_on(tmp_path, wandb, caplog, error):
    wandb.start_error = error
    with caplog.at_level(logging.WARNING), tracker(tmp_path, WandbConfig()) as run:
        for step in range(3):
            run.log(step, {"loss": private(step)})
        run.summary({"x": dp(1)})
    assert [record.getMessage().count(str(error)) for record in caplog.records] == [1]
    assert read(tmp_path)["step"].tolist() == [0, 1, 2]
    assert list(run.tainted) == ["metrics.csv"]


def test_a_run_without_noise_sends_nothing_as_dp(tmp_path, wandb):
    (tmp_path / "s.parquet").write_bytes(b"x")
    with tracker(tmp_path, WandbConfig(release="public"), guaranteed=False) as run:
        run.log(3, {"largest_vote": dp(143), "lr": public(0.5)})
        run.table("samples/preview", pd.DataFrame({"a": [1]}), Visibility.DP)
        run.artifact(tmp_path / "s.parquet", Visibility.DP)
    (sent,) = wandb.runs
    assert sent.logged == [{"step": 3, "lr": 0.5}]
    assert not sent.artifacts
    with tracker(tmp_path, WandbConfig(), guaranteed=False) as run:
        run.summary({"votes": dp(143)})
    assert wandb.runs[1].summary == {"private/votes": 143}
    assert "votes" in str(run.tainted)


def test_the_label_of_a_run_is_a_tag_of_it(tmp_path, wandb):
    with tracker(tmp_path, WandbConfig(tags=("mine",)), label="RESEARCH NOISE"):
        pass
    assert wandb.runs[0].options["tags"] == ["mine", "RESEARCH NOISE"]


def test_a_login_in_an_address_is_in_no_warning(tmp_path, wandb, caplog):
    wandb.start_error = RuntimeError("cannot reach https://user:c4n4ry@host/api")
    with caplog.at_level(logging.WARNING), tracker(tmp_path, WandbConfig()):
        pass
    assert "https://host/api" in caplog.text
    assert "c4n4ry" not in caplog.text


@pytest.mark.parametrize("variable", ["WANDB_DATA_DIR", "WANDB_CACHE_DIR"])
def test_a_public_record_is_staged_away_from_the_home_unless_the_user_chose_a_place(
    tmp_path, wandb, monkeypatch, variable
):
    monkeypatch.setattr(tracking_wandb.tempfile, "tempdir", str(tmp_path))
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, "restored afterwards")
        monkeypatch.delenv(name)
    with tracker(tmp_path, WandbConfig()):
        pass
    assert variable not in os.environ
    with tracker(tmp_path, WandbConfig(release="public")):
        pass
    assert Path(os.environ[variable]).parent == tmp_path
    monkeypatch.setenv(variable, "chosen")
    with tracker(tmp_path, WandbConfig(release="public")):
        pass
    assert os.environ[variable] == "chosen"


def test_a_wandb_that_is_not_installed_gives_one_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with tracker(tmp_path, WandbConfig()) as run:
        run.log(0, {"x": dp(1)})
    assert len(caplog.records) == 1
    assert read(tmp_path)["x"].tolist() == [1]


def test_a_wandb_failure_during_the_run_warns_once_and_shows_no_logged_value(tmp_path, wandb, caplog):
    with tracker(tmp_path, WandbConfig()) as run:
        wandb.broken = True
        run.log(0, {"loss": private(31.4159)})
        run.log(1, {"loss": private(2.0)})
    assert len(caplog.records) == 1
    assert "31.4159" not in caplog.text
    assert read(tmp_path)["step"].tolist() == [0, 1]


@pytest.mark.parametrize("stage", ["hold_init", "hold_log"])
def test_a_wandb_that_hangs_holds_up_neither_the_steps_nor_the_end_beyond_the_bound(
    tmp_path, wandb, caplog, monkeypatch, stage
):
    monkeypatch.setattr(tracking_wandb, "_START_SECONDS", 0.2)
    getattr(wandb, stage).clear()
    start = time.monotonic()
    with tracker(tmp_path, WandbConfig(patience_s=0.3)) as run:
        for step in range(200):
            run.log(step, {"loss": private(step)})
        stepped = time.monotonic() - start
    ended = time.monotonic() - start
    assert stepped < 2
    assert ended - stepped < 1.5
    assert ["did not finish within 0.3 s" in r.getMessage() for r in caplog.records] == [True]
    assert read(tmp_path)["step"].tolist() == list(range(200))
    assert run.tainted["wandb project dpforge"] == ["loss"]


def test_a_wandb_that_answers_late_gets_every_value_in_order(tmp_path, wandb, monkeypatch):
    monkeypatch.setattr(tracking_wandb, "_START_SECONDS", 0.05)
    wandb.hold_init.clear()
    with tracker(tmp_path, WandbConfig()) as run:
        for step in range(20):
            run.log(step, {"x": dp(step)})
        assert wandb.runs == []
        wandb.hold_init.set()
    assert [sent["x"] for sent in wandb.runs[0].logged] == list(range(20))
    assert wandb.runs[0].exit_codes == [0]


def test_after_a_wandb_that_did_not_start_later_runs_of_the_process_hardly_wait(tmp_path, wandb, monkeypatch):
    monkeypatch.setattr(tracking_wandb, "_START_SECONDS", 0.6)
    monkeypatch.setattr(tracking_wandb, "_AGAIN_SECONDS", 0.05)

    def seconds(name):
        start = time.monotonic()
        with tracker(tmp_path / name, WandbConfig(patience_s=0.6)) as run:
            run.log(0, {"x": dp(1)})
        return time.monotonic() - start

    wandb.hold_init.clear()
    assert seconds("first") > 1.2
    assert max(seconds("second"), seconds("third")) < 0.5
    wandb.hold_init.set()
    seconds("fourth")
    wandb.hold_init.clear()
    assert seconds("fifth") > 1.2  # it had started since


def test_calls_that_pile_up_are_refused_instead_of_filling_the_memory(monkeypatch):
    monkeypatch.setattr("dpforge.experiment.tracking_calls.CAPACITY", 3)
    calls, go = Calls("test"), threading.Event()
    accepted = [calls.submit(go.wait) for _ in range(6)]
    assert 3 <= sum(accepted) <= 4
    assert accepted[-1] is False
    assert not calls.wait(0.05)
    go.set()
    assert calls.wait(5)
    calls.stop()


@pytest.mark.parametrize(("axis", "metric"), [("step", "step"), ("epsilon", "privacy/epsilon_rdp")])
def test_curves_are_drawn_over_steps_or_over_the_epsilon_spent(tmp_path, wandb, axis, metric):
    with tracker(tmp_path, WandbConfig(x_axis=axis, job_type="sweep")):
        pass
    assert wandb.runs[0].axes == {"*": metric}
    assert wandb.runs[0].options["job_type"] == "sweep"


def test_logins_in_addresses_are_dropped():
    config = {"proxy": "https://me:hunter2@host:80/x", "plain": "https://host/x@y"}
    assert without_credentials(config) == {"proxy": "https://host:80/x", "plain": "https://host/x@y"}


def test_all_mistakes_of_a_logger_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        WandbConfig(
            offline="no", project="", entity=" ", release="pubic", tags="adult",
            job_type="", x_axis="epsilonn", patience_s=0,
        )  # fmt: skip
    text = str(caught.value)
    assert len(caught.value.mistakes) == 8
    assert "Did you mean 'epsilon'?" in text
    assert "Did you mean 'public'?" in text
    for key in ("offline", "project", "entity", "tags", "job_type", "patience_s"):
        assert f"logger.{key}=" in text
    with pytest.raises(ConfigError, match="release"):
        CsvConfig(release="none")


def test_the_certificate_name_of_a_wandb_project_includes_its_owner():
    assert WandbConfig(project="p").sink == "wandb project p"
    assert WandbConfig(project="p", entity="lab").sink == "wandb project lab/p"


def test_credentials_are_dropped_at_any_depth_and_the_input_is_not_changed():
    config = {"a": [{"API_KEY": 1, "b": ({"wandb_token": 2, "c": 3},)}]}
    assert without_credentials(config) == {"a": [{"b": [{"c": 3}]}]}
    assert config["a"][0]["API_KEY"] == 1


REAL_RUN = """
import sys
from pathlib import Path
from dpforge.experiment.tracking import Tracker, WandbConfig, dp, private
folder = Path(sys.argv[1])
for number in range(2):
    run_dir = folder / str(number)
    run_dir.mkdir()
    with Tracker(
        WandbConfig(release="public"), run_dir=run_dir, csv_path=run_dir / "metrics.csv",
        run_id=f"identity{number}", study="paper", name="n",
        run_config={"api_key": "CREDENTIAL", "visible": 1},
    ) as run:
        run.log(0, {"epsilon_spent": dp(0.5), "secretloss": private(3.0)})
        run.summary({"final_epsilon": dp(0.5)})
"""


def test_a_real_offline_run_writes_below_its_own_folder_and_sends_no_private_name(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    done = subprocess.run(
        [sys.executable, "-c", REAL_RUN, str(tmp_path)],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "failed" not in done.stderr
    for number in range(2):
        (log,) = (tmp_path / str(number) / "wandb").glob("offline-run-*/*.wandb")
        sent = b"".join(p.read_bytes() for p in (tmp_path / str(number) / "wandb").rglob("*") if p.is_file())
        assert f"identity{number}".encode() in sent
        assert f"identity{1 - number}".encode() not in log.read_bytes()
        assert b"epsilon_spent" in log.read_bytes()
        assert b"secretloss" not in sent
        assert b"CREDENTIAL" not in sent
        assert "private/secretloss" in (tmp_path / str(number) / "metrics.csv").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]
