"""Which options of ``dpforge-sample`` go together, and what ``--balance`` may say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dpforge.cli import sample
from dpforge.errors import ConfigError
from dpforge.experiment.conditional import numbered_files

VALUES = {
    "-n": "5",
    "--temperature": "0.5",
    "--top-p": "0.9",
    "--balance": '{"a": {"b": 1}}',
    "--given": "g.csv",
    "--impute": "t.csv",
    "--draws": "2",
    "--predict": "a",
    "--separator": ";",
    "--encoding": "latin-1",
}
GOOD = [
    "-n",
    "-n --temperature",
    "-n --top-p",
    "-n --temperature --top-p",
    "-n --balance",
    "--given",
    "--given --temperature --top-p --separator --encoding",
    "--given --predict --separator",
    "--impute",
    "--impute --draws --encoding",
]
BAD = {
    "": "add -n ROWS",
    "--temperature": "add -n ROWS",
    "--balance": "add -n ROWS",
    "-n --given": "-n does not go with --given",
    "-n --impute": "-n does not go with --impute",
    "--given --impute": "--given and --impute do not go together",
    "--given --balance": "--given and --balance do not go together",
    "--impute --balance": "--impute and --balance do not go together",
    "--predict": "--predict needs",
    "-n --predict": "--predict needs",
    "--given --impute --predict": "--predict and --impute do not go together",
    "--given --predict --balance": "--predict and --balance do not go together",
    "--impute --temperature": "--temperature does not go with --impute",
    "-n --balance --top-p": "--top-p does not go with --balance",
    "--given --predict --temperature": "--temperature does not go with --predict",
    "-n --draws": "--draws goes with --impute",
    "--given --draws": "--draws goes with --impute",
    "-n --separator": "--separator describes a file",
    "-n --encoding": "--encoding describes a file",
}


def mistakes(options):
    words = [word for option in options.split() for word in (option, VALUES[option])]
    return sample.argument_mistakes(sample._parser().parse_args(["RUN", "--out", "x.csv", *words]))


@pytest.mark.parametrize("options", GOOD)
def test_options_that_go_together_are_accepted(options):
    assert mistakes(options) == []


@pytest.mark.parametrize("options", BAD)
def test_options_that_are_missing_or_exclude_each_other_are_named(options):
    assert any(BAD[options] in text for text in mistakes(options)), mistakes(options)


def test_a_refusal_comes_before_the_run_is_looked_at_and_names_every_mistake(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        sample.main(["nowhere", "--out", "x.csv", "-n", "5", "--given", "g.csv", "--draws", "2"])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.count("ConfigError") == 2
    assert "-n does not go with --given" in said
    assert "--draws goes with --impute" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a=b", "x:y", "p,q", 'say "no"', "größer", ">50K"])
def test_shares_may_be_of_any_name_and_value(name):
    wanted = {name: {name: 0.25, "<=50K": 0.75}}
    assert sample.parse_shares(json.dumps(wanted)) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "income:>50K=0.5",
        "[]",
        "{}",
        '{"a": 0.5}',
        '{"a": {}}',
        '{"a": {"b": "0.5"}}',
        '{"a": {"b": true}}',
        '{"a": {"b": null}}',
        '{"a": {"b": 0.1}, "c": {"d": 0.1}}',
        '{"a": {"b": 0.1, "b": 0.9}}',
        '{"a": {"b": 0.1}, "a": {"b": 0.9}}',
        "[" * 100_000,
    ],
)
def test_shares_that_are_not_those_of_one_column_are_refused_with_an_example(text):
    with pytest.raises(ConfigError, match=r"--balance.*\{\"income\"") as caught:
        sample.parse_shares(text)
    assert len(caught.value.mistakes) == 1


@pytest.mark.parametrize(
    ("out", "draws", "files"),
    [
        ("a/t.csv", 1, ["a/t.csv"]),
        ("a/t.csv", 3, ["a/t-1.csv", "a/t-2.csv", "a/t-3.csv"]),
        ("t.v2.csv.gz", 2, ["t.v2-1.csv.gz", "t.v2-2.csv.gz"]),
        ("T.PARQUET", 2, ["T-1.PARQUET", "T-2.PARQUET"]),
    ],
)
def test_files_of_several_draws_are_numbered_before_the_ending(out, draws, files):
    assert numbered_files(Path(out), draws) == tuple(map(Path, files))


def test_help_and_refused_options_import_neither_torch_nor_pandas():
    code = (
        "import sys; from dpforge.cli import sample\n"
        "for words in (['--help'], ['run', '--out', 'x.csv', '--draws', '2']):\n"
        "    try: sample.main(words)\n"
        "    except SystemExit: pass\n"
        "print(sorted({'torch', 'pandas'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"
    assert "--impute FILE" in done.stdout
