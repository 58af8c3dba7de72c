"""Where the configuration is found, and how a change of it is noticed."""

from __future__ import annotations

import shutil

import pytest

from dpforge.config import check_stamp, conf_digest, conf_dir, experiments_dir, groups, stamp
from dpforge.errors import ConfigError


@pytest.fixture
def own_tree(tmp_path, monkeypatch):
    """A copy of the configuration tree that a test may edit."""
    shutil.copytree(conf_dir(), tmp_path / "conf")
    shutil.copytree(experiments_dir(), tmp_path / "experiments")
    monkeypatch.setenv("DPFORGE_CONF", str(tmp_path / "conf"))
    monkeypatch.setenv("DPFORGE_CONF_DIGEST", "set so that it is restored")
    return tmp_path


def test_the_environment_variable_moves_the_configuration_and_the_papers_beside_it(own_tree):
    assert conf_dir() == own_tree / "conf"
    assert experiments_dir() == own_tree / "experiments"


def test_a_configuration_folder_without_a_primary_file_is_refused_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("DPFORGE_CONF", str(tmp_path))
    with pytest.raises(ConfigError, match=r"config\.yaml.*DPFORGE_CONF"):
        conf_dir()


def test_groups_list_every_file_and_no_schema(own_tree):
    (own_tree / "conf" / "model" / "mine.yaml").write_text("{}")
    found = groups()
    assert "mine" in found["model"]
    assert "dp_maf/adult" in found["paper"]
    assert found["dataset"]
    assert not any(choice.startswith("schema/") for choice in found["dataset"])


def test_the_digest_follows_content_and_names_but_not_time(own_tree):
    before = conf_digest()
    path = own_tree / "conf" / "privacy" / "dp.yaml"
    path.touch()
    assert conf_digest() == before
    path.write_text(path.read_text() + "\n# a comment\n")
    after_edit = conf_digest()
    assert after_edit != before
    path.rename(path.with_name("renamed.yaml"))
    assert conf_digest() not in (before, after_edit)


@pytest.mark.parametrize("edited", ["conf/model/independent.yaml", "experiments/paper/dp_maf/adult.yaml"])
def test_an_edit_after_the_stamp_stops_the_jobs_that_follow(own_tree, edited):
    stamp()
    check_stamp()
    (own_tree / edited).write_text("changed: 1\n")
    with pytest.raises(ConfigError, match="changed after the sweep started"):
        check_stamp()


def test_without_a_stamp_nothing_is_compared(own_tree, monkeypatch):
    stamp()
    (own_tree / "conf" / "model" / "independent.yaml").write_text("changed: 1\n")
    with pytest.raises(ConfigError):
        check_stamp()
    monkeypatch.delenv("DPFORGE_CONF_DIGEST")
    check_stamp()
