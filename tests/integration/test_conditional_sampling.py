"""``dpforge-sample`` with given cells, missing cells, shares, temperatures and predictions."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.stats import chi2_contingency
from whole_runs import only_run, snapshot

from dpforge.cli import sample
from dpforge.data.schema import load_schema
from dpforge.data.table import read_table, violations
from dpforge.experiment import conditional, pictures
from dpforge.generators.argn_fitted import FittedARGN

pytestmark = [pytest.mark.integration]

KINDS = ("a", "b=1", "c,d")
LEVELS = {"a": 0.15, "b=1": 0.5, "c,d": 0.9}  # p(answer is yes | kind)
PUBLIC = {"provenance": "public", "note": "definition of the generated table"}
SCHEMA = {
    "schema_version": 1,
    "name": "kinds",
    "nominal_rows": 3000,
    "target": "answer",
    "constraints": ["rank = position(kind)", "gain == 0 or loss == 0"],
    "columns": {
        "kind": {"kind": "categorical", "unseen": "drop", "categories": {**PUBLIC, "values": list(KINDS)}},
        "rank": {"kind": "integer", "bounds": {**PUBLIC, "min": 1, "max": 3}},
        "gain": {"kind": "integer", "bounds": {**PUBLIC, "min": 0, "max": 4}},
        "loss": {"kind": "integer", "bounds": {**PUBLIC, "min": 0, "max": 4}},
        "size": {"kind": "numeric", "granularity": 0.1, "bounds": {**PUBLIC, "min": 0, "max": 10}},
        "mood": {
            "kind": "categorical",
            "nullable": True,
            "null_tokens": ["", "?"],
            "categories": {**PUBLIC, "values": ["dull", "gay"]},
        },
        "answer": {
            "kind": "categorical",
            "unseen": "drop",
            "categories": {**PUBLIC, "values": ["no", "yes"]},
        },
    },
}
COMMON = (
    "dataset=csv",
    "dataset.path=own.csv",
    "dataset.schema=own.yaml",
    "logger=csv",
    "evaluation=quick",
    "evaluation.metrics=[tvd_1way]",
    "study=given",
)
ARGN = (
    "model=tabular_argn",
    "privacy=none",
    "model.steps=150",
    "model.refine=1",
    "model.expected_batch_size=512",
)


def own_table(rows=3000) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    kind = rng.choice(3, rows, p=(0.5, 0.3, 0.2))
    gains = rng.integers(0, 5, rows)
    return pd.DataFrame(
        {
            "kind": np.array(KINDS)[kind],
            "rank": kind + 1,
            "gain": np.where(rng.random(rows) < 0.5, gains, 0),
            "loss": 0,
            "size": (rng.beta(2 + 3 * kind, 5, rows) * 10).round(1),
            "mood": rng.choice(["dull", "gay", "?"], rows, p=(0.4, 0.4, 0.2)),
            "answer": np.where(rng.random(rows) < np.array(list(LEVELS.values()))[kind], "yes", "no"),
        }
    ).assign(loss=lambda t: np.where(t["gain"] == 0, rng.integers(0, 5, rows), 0))


def finished(place, words):
    """Run the dpforge command in ``place``."""
    own_table().to_csv(place / "own.csv", index=False)
    (place / "own.yaml").write_text(yaml.safe_dump(SCHEMA, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(pictures, "draw", lambda *_: None)
        patch.setattr(sys, "argv", ["dpforge", *words])
        for name in ("DPFORGE_CONF_DIGEST", "HYDRA_FULL_ERROR"):
            patch.setenv(name, "restored afterwards")
        from dpforge.cli.main import main

        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code
    return only_run(place)


@pytest.fixture(scope="module", params=["schema", "random"])
def either(request, tmp_path_factory) -> Path:
    """A finished run of a network of fixed order, and of one of any order."""
    return finished(tmp_path_factory.mktemp("argn"), (*COMMON, *ARGN, f"model.column_order={request.param}"))


@pytest.fixture(scope="module")
def fixed(tmp_path_factory) -> Path:
    """A finished run of a network of fixed order, in which ``kind`` is first and ``answer`` last."""
    return finished(tmp_path_factory.mktemp("argn"), (*COMMON, *ARGN))


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    path = tmp_path_factory.mktemp("schema") / "own.yaml"
    path.write_text(yaml.safe_dump(SCHEMA))
    return load_schema(path)


@pytest.fixture
def sampled(command, place):
    """Call dpforge-sample, which must succeed, in an empty working directory."""

    def call(*words):
        done = command(*words, main=sample.main)
        assert done.code == 0, done.err
        return done.out

    return call


def free_rows(run, sampled, rows=8000):
    """Rows that the model draws without a condition: what conditional draws must agree with."""
    sampled(run, "-n", rows, "--out", "free.parquet")
    return pd.read_parquet("free.parquet")


def agree(a, b, by, of):
    """Whether p(of | by) is the same in two tables, by a chi-square test for each value of ``by``."""
    for value in a[by].unique():
        counts = [t.loc[t[by] == value, of].value_counts(sort=False).to_numpy() for t in (a, b)]
        table = np.stack(counts)
        table = table[:, table.sum(axis=0) > 0]
        assert chi2_contingency(table).pvalue > 1e-4, (by, value, of, table)


def test_given_cells_are_kept_in_order_and_the_others_follow_the_models_conditional(either, sampled):
    rng = np.random.default_rng(1)
    free = free_rows(either, sampled)
    for by, of in (("kind", "answer"), ("answer", "kind")):
        given = rng.choice(KINDS if by == "kind" else ["no", "yes"], 3000)
        pd.DataFrame({by: given}).to_csv("given.csv", index=False)
        said = sampled(either, "--given", "given.csv", "--out", f"{by}.parquet")
        drawn = pd.read_parquet(f"{by}.parquet")
        assert drawn[by].tolist() == given.tolist()
        agree(drawn, free, by, of)
        assert "As private as given.csv" in said
        assert "ε" not in said


def test_every_cell_of_a_ragged_table_is_kept_and_every_row_is_valid(either, sampled, schema):
    rng = np.random.default_rng(2)
    table = own_table(400).astype(object).where(lambda t: rng.random(t.shape) < 0.5, None)
    table.loc[:3, :] = None  # nothing given at all
    table.drop(columns="size").to_csv("given.csv", index=False)
    before = snapshot(either)
    sampled(either, "--given", "given.csv", "--out", "drawn.parquet")
    drawn = pd.read_parquet("drawn.parquet")
    assert list(drawn.columns) == list(SCHEMA["columns"])
    assert not any(violations(drawn, schema).values())
    for name in table.columns.drop("size"):
        kept = (table[name].notna() & (table[name] != "?")).to_numpy()
        assert drawn[name][kept].astype(str).tolist() == table[name][kept].astype(str).tolist(), name
    assert snapshot(either) == before


def test_an_imputed_table_has_no_gaps_keeps_its_cells_and_differs_by_draw(either, sampled, schema):
    rng = np.random.default_rng(3)
    table = own_table(500).astype(object).where(lambda t: rng.random(t.shape) < 0.8, None)
    table.to_csv("table.csv", index=False)
    said = sampled(either, "--impute", "table.csv", "--draws", 3, "--out", "filled.csv.gz")
    files = [f"filled-{k}.csv.gz" for k in (1, 2, 3)]
    assert sorted(p.name for p in Path().iterdir()) == sorted(["table.csv", *files])
    assert all(f"{name}: 500 rows" in said for name in files)
    texts = [pd.read_csv(name, dtype=str, keep_default_na=False) for name in files]
    for drawn in texts:
        assert not (drawn == "").any(axis=None)
        for name in table.columns:
            kept = (table[name].notna() & (table[name] != "?")).to_numpy()
            assert [*map(number_or_text, drawn[name][kept])] == [*map(number_or_text, table[name][kept])]
        assert not any(violations(drawn, schema).values())
    gaps = (table["size"].isna()).to_numpy()
    assert (texts[0]["size"][gaps] != texts[1]["size"][gaps]).mean() > 0.8
    assert (texts[1]["size"][gaps] != texts[2]["size"][gaps]).mean() > 0.8


def number_or_text(cell):
    try:
        return float(cell)
    except ValueError:
        return cell


def test_imputed_cells_follow_the_cells_that_are_there(fixed, sampled):
    table = own_table(2500).assign(answer="")
    table.to_csv("table.csv", index=False)
    sampled(fixed, "--impute", "table.csv", "--out", "filled.parquet")
    agree(pd.read_parquet("filled.parquet"), free_rows(fixed, sampled), "kind", "answer")


def test_one_draw_keeps_the_name_and_is_the_first_of_several(fixed, sampled):
    own_table(300).assign(size=None).to_csv("table.csv", index=False)
    sampled(fixed, "--impute", "table.csv", "--out", "one.csv")
    sampled(fixed, "--impute", "table.csv", "--draws", 2, "--out", "two.csv")
    assert Path("one.csv").read_bytes() == Path("two-1.csv").read_bytes() != Path("two-2.csv").read_bytes()


def test_shares_are_met_and_what_follows_from_the_column_stays_as_learned(either, sampled, monkeypatch):
    monkeypatch.setattr(conditional, "BLOCK", 1000)
    said = sampled(
        either, "-n", 3500, "--balance", json.dumps({"kind": {"c,d": 0.7, "a": 0}}), "--out", "x.parquet"
    )
    drawn = pd.read_parquet("x.parquet")
    share = drawn["kind"].value_counts(normalize=True)
    assert len(drawn) == 3500
    assert share["c,d"] == pytest.approx(0.7, abs=4 * np.sqrt(0.21 / 3500))
    assert share.get("a", 0) == 0
    assert (drawn["rank"] == drawn["kind"].map(dict(zip(KINDS, (1, 2, 3), strict=True))).astype(int)).all()
    agree(drawn, free_rows(either, sampled), "kind", "answer")
    assert "As private as" not in said


def test_predictions_average_to_the_shares_of_the_models_own_rows(either, sampled):
    free = free_rows(either, sampled)
    free.drop(columns="answer").to_csv("given.csv", index=False)
    sampled(either, "--predict", "answer", "--given", "given.csv", "--out", "p.csv")
    found = pd.read_csv("p.csv")
    assert list(found.columns) == ["no", "yes"]
    assert len(found) == len(free)
    assert np.allclose(found.sum(axis=1), 1)
    for kind in KINDS:
        rows = (free["kind"] == kind).to_numpy()
        assert found["yes"][rows].mean() == pytest.approx((free["answer"][rows] == "yes").mean(), abs=0.04)
    assert found["yes"].nunique() > 10  # more than the kind is used


def test_a_prediction_does_not_use_what_the_file_says_of_the_column(fixed, sampled):
    table = own_table(100)
    table.to_csv("whole.csv", index=False)
    table.drop(columns="answer").to_csv("without.csv", index=False)
    for name in ("whole", "without"):
        sampled(fixed, "--predict", "answer", "--given", f"{name}.csv", "--out", f"{name}.p.csv")
    assert Path("whole.p.csv").read_bytes() == Path("without.p.csv").read_bytes()


def test_a_temperature_below_one_gives_likelier_rows_and_one_gives_the_plain_rows(fixed, sampled):
    free = free_rows(fixed, sampled, 4000)
    sampled(fixed, "-n", 4000, "--temperature", 1, "--out", "one.parquet")
    assert Path("one.parquet").read_bytes() == Path("free.parquet").read_bytes()
    sampled(fixed, "-n", 4000, "--temperature", 0.3, "--out", "cold.parquet")
    sampled(fixed, "-n", 4000, "--top-p", 0.4, "--out", "top.parquet")
    plain, cold, top = (
        table["kind"].value_counts(normalize=True)["a"]
        for table in (free, pd.read_parquet("cold.parquet"), pd.read_parquet("top.parquet"))
    )
    assert cold == pytest.approx(0.5 ** (1 / 0.3) / sum(p ** (1 / 0.3) for p in (0.5, 0.3, 0.2)), abs=0.1)
    assert top == 1
    assert plain < 0.6


def test_rows_do_not_depend_on_how_the_file_is_written_and_repeat_with_their_seed(
    fixed, sampled, monkeypatch
):
    monkeypatch.setattr(conditional, "BLOCK", 70)
    table = own_table(200)[["answer", "size", "mood"]].replace("?", None)
    table.to_csv("given.csv", index=False, sep=";", encoding="utf-16")
    table.to_csv("given.csv.gz", index=False)
    table.to_parquet("given.parquet")
    sampled(fixed, "--given", "given.csv", "--separator", ";", "--encoding", "utf-16", "--out", "1.csv")
    sampled(fixed, "--given", "given.csv.gz", "--out", "2.csv")
    sampled(fixed, "--given", "given.parquet", "--out", "3.csv")
    sampled(fixed, "--given", "given.parquet", "--out", "4.csv", "--seed", 1)
    one, two, three, four = (Path(f"{k}.csv").read_bytes() for k in (1, 2, 3, 4))
    assert one == two == three != four


BAD_FILES = {
    "typo": ("kind,answr\na,yes\n", "1 of its 2 columns are not columns of the run"),
    "no header": ("secret,5\nsecret,6\n", "2 of its 2 columns"),
    "bounds": ("size\n5.0\n77.75\n", "'size' (expected 0 to 10)"),
    "text": ("size\nsecret\n5\n", "'size' (expected 0 to 10)"),
    "category": ("kind,mood\na,secret\n", "'mood' (expected one of its 3 values"),
    "constraint": ("gain,loss\n3,4\n", "contradict the constraint 'gain == 0 or loss == 0'"),
    "dependency": ("kind,rank\na,2\n", "contradict the constraint 'rank = position(kind)'"),
    "long record": ("kind,answer\na,yes\na,no,secret\n", "more cells than its header"),
    "separator": ("kind;answer\na;yes\n", "add --separator ';'"),
    "empty": ("kind,answer\n", "has no records"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_does_not_fit_is_refused_without_its_cells_and_leaves_nothing(
    name, fixed, place, command
):
    text, said = BAD_FILES[name]
    Path("given.csv").write_text(text)
    done = command(fixed, "--given", "given.csv", "--out", "x.csv", main=sample.main)
    assert done.code == 2
    assert said in done.err
    assert not any(cell in done.said for cell in ("secret", "77.75"))
    assert [path.name for path in place.iterdir()] == ["given.csv"]


ROW = {"kind": "a", "rank": 1, "gain": 0, "loss": 2, "size": 4.2, "mood": "", "answer": "no"}
REFUSED = [
    ("--impute FILE", {"size": None}, "lacks the columns ['size']"),
    ("--predict answer --given FILE", {"size": None}, "lacks the columns ['size']"),
    ("--predict answer --given FILE", {"size": ""}, "empty cells in the columns ['size']"),
    ("--predict anser --given FILE", {}, "no such column. Did you mean 'answer'?"),
    ("--given FILE --temperature 0", {}, "temperature=0.0: expected a number"),
    ("--given FILE --top-p 1.5", {}, "top_p=1.5: expected a number in (0, 1]"),
    ("--given FILE --temperature inf", {}, "expected a finite number"),
    ("--given FILE --seed -1", {}, "--seed -1"),
    ("--impute FILE --draws 0", {}, "--draws 0"),
    ("--given absent.csv", {}, "absent.csv"),
    ('-n 5 --balance {"kid":{"a":0.5}}', {}, "Did you mean 'kind'?"),
    ('-n 5 --balance {"size":{"a":0.5}}', {}, "'size' is no categorical column"),
    ('-n 5 --balance {"kind":{"A":0.5}}', {}, "expected known values"),
    ('-n 5 --balance {"answer":{"no":0.5,"yes":0.4}}', {}, "sum to 0.9"),
    ('-n 5 --balance {"answer":{"no":1.5}}', {}, "shares in [0, 1]"),
    ("-n 0 --temperature 0.5", {}, "-n 0"),
]


@pytest.mark.parametrize(("words", "change", "said"), REFUSED, ids=[f"{w} {c}" for w, c, _ in REFUSED])
def test_what_cannot_be_drawn_is_refused_before_anything_is_written(
    words, change, said, fixed, place, command
):
    row = {name: cell for name, cell in {**ROW, **change}.items() if cell is not None}
    with Path("file.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([row.keys(), row.values()])
    done = command(fixed, *words.replace("FILE", "file.csv").split(), "--out", "x.csv", main=sample.main)
    assert done.code == 2, done.said
    assert said in done.err
    assert [path.name for path in place.iterdir()] == ["file.csv"]


def test_the_file_that_is_read_is_never_replaced(fixed, place, command):
    text = "kind\na\n"
    for name in ("t.csv", "t-2.csv"):
        Path(name).write_text(text)
    for words in (
        ("--given", "t.csv", "--out", "../" + place.name + "/t.csv"),
        ("--impute", "t-2.csv", "--draws", 2, "--out", "t.csv"),
    ):
        done = command(fixed, *words, "--force", main=sample.main)
        assert done.code == 2
        assert "is the file to be read" in done.err
    assert Path("t.csv").read_text() == Path("t-2.csv").read_text() == text


def test_of_several_files_all_appear_or_none(fixed, place, command, monkeypatch):
    monkeypatch.setattr(conditional, "BLOCK", 50)
    own_table(120).assign(size=None).to_csv("table.csv", index=False)
    original, calls = FittedARGN.impute, []

    def full_disk(self, frame, rng, *, draws=1):
        calls.append(len(frame))
        if len(calls) == 5:
            raise OSError(28, "No space left on device")
        return original(self, frame, rng, draws=draws)

    monkeypatch.setattr(FittedARGN, "impute", full_disk)
    done = command(fixed, "--impute", "table.csv", "--draws", 2, "--out", "x.parquet", main=sample.main)
    assert (done.code, calls) == (2, [50, 50, 50, 50, 20])
    assert [path.name for path in place.iterdir()] == ["table.csv"]


def test_a_model_that_draws_whole_rows_only_is_named_with_those_that_can_do_more(tmp_path, place, command):
    (tmp_path / "run").mkdir()
    run = finished(tmp_path / "run", (*COMMON, "model=independent"))
    Path("g.csv").write_text("kind\na\n")
    for words in (
        ("--given", "g.csv"),
        ("--impute", "g.csv"),
        ("--predict", "answer", "--given", "g.csv"),
        ("-n", 5, "--balance", '{"kind": {"a": 0.5}}'),
        ("-n", 5, "--temperature", 0.5),
    ):
        done = command(run, *words, "--out", "x.csv", main=sample.main)
        assert done.code == 2
        assert "ConfigError" in done.err
        assert "(Independent) draws whole rows only" in done.err
        assert "model=tabular_argn" in done.err
        assert not Path("x.csv").exists()


def test_a_file_of_the_toolkit_reads_back_as_valid_rows(fixed, sampled, schema):
    Path("g.csv").write_text("kind,mood\nb=1,?\n,gay\n")
    sampled(fixed, "--given", "g.csv", "--out", "x.csv")
    drawn, _ = read_table("x.csv", schema)
    assert drawn.loc[0, "kind"] == "b=1"
    assert drawn.loc[1, "mood"] == "gay"
    assert not any(violations(drawn, schema).values())
