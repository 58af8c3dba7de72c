"""Configurations that name code, leave their folder, or hold values nothing can be run with."""

from __future__ import annotations

import pytest

from dpforge.config import check
from dpforge.data.schema import load_schema

from .examining import MARK, examined

CHEAP = ("dataset=toy", "model=independent", "evaluation=quick", "logger=csv")
FLOW = ("dataset=toy", "model=dp_maf", "evaluation=quick", "logger=csv")
IMAGES = ("dataset=digits", "evaluation=images_quick", "logger=csv")
TOUCH = "command:'touch executed'"
CODE = {
    f"{key} is {target}": (CHEAP, [f"{key}._target_={target}"], "is not allowed")
    for key, target in (
        ("model", "os.system"),
        ("dataset", "subprocess.run"),
        ("privacy", "builtins.exec"),
        ("evaluation", "pickle.loads"),
        ("runtime", "shutil.rmtree"),
        ("logger", "torch.load"),
        ("model", "dpforgery.Thing"),
        ("model", "hydra.utils.instantiate"),
        ("model", "torch.hub.load"),
        ("model", "numpy.load"),
    )
}
HIDDEN = {
    f"code behind {target}": (CHEAP, [f"model._target_={target}"], "cannot be used")
    for target in (
        "dpforge.data.opening.os.system",
        "dpforge.data.packages.subprocess.run",
        "dpforge.data.fetch.os.system",
        "dpforge.errors.__builtins__.eval",
        "dpforge.errors.DPForgeError.__init__.__globals__",
        "dpforge.data.opening.os",
        "dpforge..os.system",
        "dpforge.",
        "lightning.os.system",
        "torch.optim.os.system",
    )
}
NESTED = {
    "code in a value of the model": (
        CHEAP,
        ["model.floor={_target_:os.system," + TOUCH + "}"],
        "not allowed",
    ),
    "code in a list": (FLOW, ["model.hidden=[{_target_:os.system," + TOUCH + "}]"], "not allowed"),
    "code deep inside": (CHEAP, ["privacy.split={a:{b:{_target_:os.system," + TOUCH + "}}}"], "not allowed"),
    "code in an added key": (CHEAP, ["+model.x={_target_:os.system," + TOUCH + "}"], ""),
    "code in a new group": (CHEAP, ["+extra={_target_:os.system," + TOUCH + "}"], ""),
    "code in the seed": (CHEAP, ["seed={_target_:os.system," + TOUCH + "}"], ""),
    "code in the public images": (
        (*IMAGES, "model=dp_imgsyn"),
        ["model.public={_target_:os.system," + TOUCH + "}"],
        "not allowed",
    ),
    "code in the image generator": (
        (*IMAGES, "model=private_evolution"),
        ["model.api._target_=os.system"],
        "not allowed",
    ),
    "code as a partial": (CHEAP, ["model._target_=os.system", "+model._partial_=true"], "not allowed"),
    "a target that is a number": (CHEAP, ["model._target_=7"], "not allowed"),
    "a target that is a list": (CHEAP, ["model._target_=[os,system]"], ""),
    "no target": (CHEAP, ["model._target_=null"], ""),
    "an empty target": (CHEAP, ["model._target_=''"], ""),
}
PLACES = {
    "a study above": (CHEAP, ["study=../../x"], "study"),
    "a study of the root": (CHEAP, ["study=/etc"], "study"),
    "a hidden study": (CHEAP, ["study=.ssh"], "study"),
    "a study with a line end": (CHEAP, ['study="a\\nb"'], "study"),
    "an empty study": (CHEAP, ["study=''"], "study"),
    "a study of blanks": (CHEAP, ["study='  '"], "study"),
    "a study that is a path": (CHEAP, ["study=a/b"], "study"),
    "no place for runs": (CHEAP, ["output_root=''"], "output_root"),
    "a schema above": (CHEAP, ["dataset.schema=../../../etc/passwd"], ""),
    "a table that is a device": (("model=independent", "dataset=csv"), ["dataset.path=/dev/zero"], ""),
    "a choice that is a path": (CHEAP, ["model=../../../etc/passwd"], "unknown choice"),
    "a dataset that is a path": (CHEAP, ["dataset=/etc/passwd"], "unknown choice"),
    "an experiment above": (CHEAP, ["+experiment=../../x"], ""),
    "a paper above": (CHEAP, ["paper=../x"], ""),
}
VALUES = {
    word: (base, [word], "")
    for base, words in (
        (
            CHEAP,
            (
                "privacy.target_epsilon=.nan",
                "privacy.target_epsilon=[1]",
                "privacy.target_epsilon=true",
                "privacy.delta=.nan",
                "privacy.delta=-1e-9",
                "privacy.rng=dice",
                "seed=1e99",
                "rows=1.5",
                "runtime.threads=-1",
                "runtime.checkpoint_every=0",
                "runtime.device=/dev/sda",
                "runtime.engine=rm",
                "evaluation.metrics=[os.system]",
                "model.floor=.nan",
                "model.noise=none",
                "seed=${oc.env:HOME}",
                "seed=${seed}",
                "privacy.delta=${privacy.delta}",
                "model.default_bins=0",
            ),
        ),
        (
            FLOW,
            (
                "model.steps=0",
                "model.steps=1e30",
                "model.hidden=[0]",
                "model.hidden=wide",
                "model.expected_batch_size=-4",
                "model.ema=2",
            ),
        ),
    )
    for word in words
}
WORDS = {
    "a misspelt key": (CHEAP, ["privacy.epsilonn=1"], ""),
    "half a word": (CHEAP, ["privacy.delta"], ""),
    "unbalanced brackets": (CHEAP, ["model={a:[1"], ""),
    "a zero byte": (CHEAP, ["study=a\0b"], ""),
    "a flag of Python": (CHEAP, ["-c"], ""),
    "1,000 brackets": (CHEAP, ["model.floor=" + "[" * 1000], ""),
    "nothing": (CHEAP, [""], ""),
    "another language": (CHEAP, ["модель=independent"], ""),
}
CASES = {**CODE, **HIDDEN, **NESTED, **PLACES, **VALUES, **WORDS}


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_configuration_is_refused_and_nothing_in_it_is_called(name, tmp_path, monkeypatch):
    base, words, text = CASES[name]
    monkeypatch.chdir(tmp_path)
    found = examined(lambda: check([*base, *words]), tmp_path)
    assert found.refused is not None, "it was accepted"
    assert text in found.refused


SCHEMAS = {
    "a tag that calls": "!!python/object/apply:os.system ['touch executed']",
    "a tag that calls, inside": "columns: {a: !!python/object/apply:os.system ['touch executed']}",
    "a tag that imports": "columns: !!python/module:os",
    "a tag of a name": "name: !!python/name:os.system",
    "a list": "[1, 2]",
    "a number": "7",
    "nothing": "",
    "binary": "\x00\x01",
    "a tab": "columns:\n\ta: 1",
    "a column of nothing": "{nominal_rows: 9, columns: {a: null}}",
    "columns in a number": "{nominal_rows: 9, columns: 7}",
    "rows without end": "{nominal_rows: .inf, columns: {a: {kind: integer, bounds: {min: 0, max: 1}}}}",
    "a bound that is none": "{nominal_rows: 9, columns: {a: {kind: integer, bounds: {min: .nan, max: 1}}}}",
    "huge bounds": "{nominal_rows: 9, columns: {a: {kind: numeric, bounds: {min: 0, max: 1e999}}}}",
    "a date beyond all": "{nominal_rows: 9, columns: {a: {kind: datetime, bounds: {min: 0, max: 9999-9-9}}}}",
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_hostile_schema_is_refused_and_nothing_in_it_is_called(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text(SCHEMAS[name])
    found = examined(lambda: load_schema(tmp_path / "my.yaml"), tmp_path)
    assert found.refused is not None, "it was accepted"


@pytest.mark.parametrize("where", ["hydra.callbacks.evil", "hydra.launcher", "hydra.sweeper"])
def test_code_in_the_settings_of_the_launcher_is_never_called_by_a_check(where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [f"++{where}._target_=os.system", f"++{where}.command='touch {MARK}'"]
    examined(lambda: check([*CHEAP, *words]), tmp_path)


def test_there_are_at_least_sixty_hostile_configurations():
    assert len(CASES) + len(SCHEMAS) >= 60
