"""The closing table has a line for every set that a run was verified on."""

import io

import pytest
from rich.console import Console

from arcface_jax import progress
from arcface_jax.runs.console import ConsoleReporter, print_results


def numbers(accuracy, different, prefix=""):
    values = {
        "accuracy": accuracy,
        "accuracy_std": 0.01,
        "tar@far=0.01": 0.4,
        "tar@far=0.001": 0.3,
        "eer": 0.1,
    }
    return {
        f"{prefix}{name}": value
        for name, value in (values | {"auc": 0.9, "num_different": different}).items()
    }


def test_every_set_and_the_moving_average_have_a_line():
    before = numbers(0.5, 90_000) | numbers(0.51, 80_000, "lfw/")
    after = numbers(0.8, 90_000) | numbers(0.9, 80_000, "lfw/") | numbers(0.85, 90_000, "average/")
    console = Console(file=io.StringIO(), width=120)
    print_results(console, {0: before, 4: after})
    printed = console.file.getvalue()
    lines = [line for line in printed.splitlines() if "%" in line]
    assert [line.split("│")[1].strip() for line in lines] == [
        "before training",
        "after 4 steps",
        "after 4 steps, lfw",
        "after 4 steps, moving average",
    ]
    assert [
        "50.00%" in lines[0],
        "80.00%" in lines[1],
        "90.00%" in lines[2],
        "85.00%" in lines[3],
    ] == [True] * 4
    assert "Note" not in printed


def test_the_note_goes_by_the_set_with_the_fewest_pairs():
    console = Console(file=io.StringIO(), width=120)
    print_results(console, {4: numbers(0.8, 90_000) | numbers(0.9, 80, "small/")})
    assert "Note: 80 different pairs" in console.file.getvalue()


@pytest.mark.parametrize(
    ("tars", "cells"),
    [
        (
            {"0.1": 0.6, "0.01": 0.5, "0.001": 0.4, "0.0001": 0.3},
            ["60.00", "50.00", "40.00", "30.00", "–"],
        ),
        ({"0.1": 0.6, "0.01": 0.5}, ["60.00", "50.00", "–", "–", "–"]),
        ({}, []),
    ],
)
def test_a_table_of_all_pairs_where_they_were_scored(tars, cells):
    console = Console(file=io.StringIO(), width=120)
    scored = {f"all_pairs_tar@far={far}": tar for far, tar in tars.items()}
    print_results(console, {0: numbers(0.5, 90_000), 4: numbers(0.8, 90_000) | scored})
    printed = console.file.getvalue()
    assert ("all pairs" in printed) == bool(cells)
    if cells:
        line = [one.split("│")[1:-1] for one in printed.splitlines() if "after 4 steps" in one][-1]
        assert [cell.strip() for cell in line] == ["after 4 steps", *cells]


def test_few_drawn_pairs_say_nothing_where_all_were_scored():
    console = Console(file=io.StringIO(), width=120)
    scored = numbers(0.8, 80) | {"all_pairs_tar@far=0.1": 0.6}
    print_results(console, {0: scored, 4: scored})
    printed = console.file.getvalue()
    assert "60.00" in printed
    assert "40.00%" not in printed
    assert "Note" not in printed


@pytest.mark.parametrize("expected", [None, 12.5])
def test_the_first_loss_stands_beside_the_expected_one_if_that_is_known(expected):
    console = Console(file=io.StringIO(), width=120)
    ConsoleReporter(console, 4).first_loss(12.0, expected)
    printed = console.file.getvalue()
    assert "Initial loss: 12.00 seen" in printed
    assert ("12.50 expected before training" in printed) == (expected is not None)


def test_what_is_under_way_is_said_until_there_are_metrics(monkeypatch):
    """Not a first verification that is over."""
    now = [0.0]
    monkeypatch.setattr(progress, "clock", lambda: now[0])
    console = Console(file=io.StringIO(), width=120)
    reporter = ConsoleReporter(console, 4)
    with reporter:
        for what in ("verifying first", "compiling the step"):
            reporter.begins(what)
            now[0] += 11.0
            reporter._lines.speak_if_due()
    lines = console.file.getvalue().splitlines()
    assert lines[:2] == [
        "Training: 11 s so far; verifying first",
        "Training: 22 s so far; compiling the step",
    ]
