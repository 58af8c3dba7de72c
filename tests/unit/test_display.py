from __future__ import annotations

import io
import logging
import re

import pytest
from rich.console import Console

from dpforge.experiment.display import print_summary, progress, warning_line
from dpforge.experiment.visibility import private

FACTS = {
    "epsilon": 0.9987,
    "epsilon_rdp": 1.0841,
    "delta": 1e-5,
    "noise_multiplier": 8.4382,
    "steps": 1234567,
    "rows": 32561,
    "fit_s": 61.23,
    "sample_s": 1.5,
    "evaluate_s": 120.0,
    "rng": "entropy",
    "run_dir": "outputs/a-study-with-a-long-name/adult-dp_maf-epsilon1-seed1-0123456789abcdef-" + "x" * 40,
}
SCORES = [
    ("fidelity/tvd_1way", 0.0312, 0.2456, 0.0123, 0.9192),
    ("utility/tstr_auroc_hgb_with_a_very_long_name_that_does_not_fit", 0.8765, 0.5, 0.9234, -12.3456),
    ("fidelity/c2st_auc", 0.7111, None, None, None),
]


def summary(facts=FACTS, scores=SCORES, width=80) -> str:
    stream = io.StringIO()
    print_summary(facts, scores, Console(file=stream, width=width, color_system=None))
    return stream.getvalue()


def drawn(stream: io.StringIO) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())


def terminal(stream: io.StringIO, width: int = 100) -> Console:
    return Console(file=stream, force_terminal=True, width=width)


@pytest.mark.parametrize("width", [80, 120])
def test_the_summary_shows_every_number_whole_and_no_line_is_too_long(width):
    text = summary(width=width)
    numbers = ["0.9987", "1.084", "1e-05", "8.438", "1,234,567", "32,561", "61.23 s", "1.5 s", "120 s"]
    numbers += ["0.031", "0.246", "0.012", "0.919", "0.876", "0.500", "0.923", "-12.346", "0.711"]
    assert [number for number in numbers if number not in text] == []
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width


def test_the_summary_names_the_whole_run_folder():
    assert FACTS["run_dir"] in summary().replace("\n", "")


def test_a_sound_run_has_no_warning():
    assert warning_line(FACTS) == ""
    assert summary().splitlines()[0].lstrip().startswith("ε (of record)")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"noise_multiplier": 0.0}, "NOT DP"),
        ({"epsilon": float("inf")}, "NOT DP"),
        ({"epsilon": None}, "NOT DP"),
        ({"rng": "seeded"}, "RESEARCH NOISE"),
        ({"upstream": True}, "RESEARCH NOISE"),
        ({"warning": "subset of the rows"}, "subset of the rows"),
    ],
)
def test_the_first_line_says_when_epsilon_is_not_to_be_trusted(change, words):
    assert words in summary({**FACTS, **change}).splitlines()[0]


def test_the_warning_is_red_on_a_colour_terminal():
    stream = io.StringIO()
    print_summary({**FACTS, "rng": "seeded"}, [], Console(file=stream, force_terminal=True, width=80))
    assert stream.getvalue().startswith("\x1b[1;31mRESEARCH NOISE")


def test_a_mechanism_without_a_noise_multiplier_is_still_private():
    facts = {name: value for name, value in FACTS.items() if name != "noise_multiplier"}
    assert warning_line(facts) == ""


def test_markup_in_a_name_is_printed_as_it_is():
    assert "[red]score[/red]" in summary(scores=[("[red]score[/red]", 1.0, None, None, None)])


def test_on_a_terminal_a_stage_shows_its_steps_and_the_epsilon_spent():
    stream = io.StringIO()
    with progress(console=terminal(stream)) as display, display.task("train", total=5, epsilon=0.0) as stage:
        for step in range(5):
            stage.advance(epsilon=0.166 * (step + 1), loss=private(2.5))
    text = drawn(stream)
    assert "train" in text
    assert "5/5" in text
    assert "ε ≤ 0.83  loss 2.5" in text


def test_the_display_drives_the_stage_that_began_last():
    stream = io.StringIO()
    with progress(console=terminal(stream)) as display:
        display.task("fit", total=2)
        display.advance(2)
        display.task("sample", total=7)
        display.advance(3)
        display.update(epsilon=1.0)
    assert re.search(r"fit.*2/2", drawn(stream))
    assert re.search(r"sample.*3/7.*ε ≤ 1\.00", drawn(stream))


@pytest.mark.parametrize("enabled", [True, False])
def test_without_a_terminal_each_stage_is_one_line_at_its_start_and_one_at_its_end(caplog, enabled):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=not enabled)
    with caplog.at_level(logging.INFO), progress(enabled, console=console) as display:
        with display.task("train", total=100) as stage:
            for _ in range(100):
                stage.advance(epsilon=0.5)
        display.task("sample", total=2)
        display.advance(2)
    said = [record.getMessage() for record in caplog.records]
    assert stream.getvalue() == ""
    assert [line.split(" in ")[0] for line in said] == [
        "train: started",
        "train: finished",
        "sample: started",
        "sample: finished",
    ]
    assert said[1].endswith(", ε ≤ 0.50")


def test_an_error_in_a_stage_passes_through_and_leaves_the_terminal_usable():
    stream = io.StringIO()
    with (
        pytest.raises(KeyError),
        progress(console=terminal(stream)) as display,
        display.task("train", total=5),
    ):
        raise KeyError("x")
    assert "\x1b[?25h" in stream.getvalue()
