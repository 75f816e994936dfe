import json
import sys

import pytest

from arcface_jax.commands.command import run_command
from experiments import compare, figures
from experiments.study.tables import cell, seed_differences, verification_rows
from tests.experiments.small_network import SMALL_OPTIONS


def run(monkeypatch, module, *arguments):
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit) as stop:
        run_command(module.main)
    return stop.value.code


def results(first, last):
    return {
        "verifications": {
            "0": {"accuracy": first},
            "20": {"accuracy": 0.5},
            "100": {"accuracy": last},
        }
    }


def test_mean_and_deviation_over_seeds():
    assert cell([0.8, 0.9, 0.7], 100) == "80.0 ± 10.0"
    assert cell([0.8], 100) == "80.0"
    assert cell([]) == "–"


def test_rows_are_in_the_order_of_the_last_accuracy():
    runs = {
        "softmax": {0: results(0.6, 0.8), 1: results(0.6, 0.8)},
        "arcface": {0: results(0.6, 0.9)},
        "none": {},
    }
    assert verification_rows(runs, {"accuracy": "accuracy"}) == [
        ["arcface", "90.0"],
        ["softmax", "80.0 ± 0.0"],
        ["before training", "60.0 ± 0.0"],
    ]


def test_columns_are_those_that_every_run_has():
    """A run of an earlier version has no TAR over all pairs, nor has one of few people."""
    old = {"accuracy": 0.5, "tar@far=0.01": 0.4}
    new = old | {"all_pairs_tar@far=0.01": 0.5}
    for numbers, names in (
        (new, ["accuracy", "all_pairs_tar@far=0.01"]),
        (old, ["accuracy", "tar@far=0.01"]),
    ):
        runs = {
            "a": {0: {"verifications": {"9": numbers}}},
            "b": {0: {"verifications": {"9": new}}},
        }
        assert list(compare.columns_of(runs)) == names
    assert compare.COLUMNS["all_pairs_tar@far=0.0001"] == "TAR at FAR 1e-4, all pairs, %"


def test_losses_are_tested_over_the_seeds_that_both_have():
    runs = {
        "arcface": {0: results(0, 0.9), 1: results(0, 0.8), 2: results(0, 0.7)},
        "softmax": {2: results(0, 0.6), 1: results(0, 0.75)},
        "normface": {0: results(0, 0.5)},
    }
    found = seed_differences(runs, "arcface", ["softmax", "normface"], {"accuracy": "accuracy"})
    assert list(found) == [("softmax", "accuracy")]
    assert found["softmax", "accuracy"].mean == pytest.approx(0.075)
    assert found["softmax", "accuracy"].count == 2


def test_less_of_an_error_is_ahead():
    runs = {
        name: {
            seed: {"verifications": {"0": {"eer": 0.5}, "9": {"eer": value + seed / 100}}}
            for seed in (0, 1)
        }
        for name, value in (("arcface", 0.3), ("softmax", 0.2))
    }
    for first, second, wins in (("arcface", "softmax", 0), ("softmax", "arcface", 2)):
        found = seed_differences(runs, first, [second], {"eer": "EER"})[second, "eer"]
        assert (found.wins, found.mean > 0) == (wins, wins == 0)


def test_runs_are_compared_and_finished_ones_not_repeated(
    monkeypatch, tmp_path, capsys, without_pictures
):
    monkeypatch.chdir(tmp_path)
    options = [
        "--losses",
        "arcface",
        "arcface:0.3",
        "--seeds",
        "0",
        "1",
        "--folder",
        "c",
        "--processes",
        "1",
    ]
    arguments = [*options, "--", *SMALL_OPTIONS]
    assert run(monkeypatch, compare, *arguments) == 0
    assert "[4/4]" in capsys.readouterr().out
    table = (tmp_path / "c" / "comparison.md").read_text()
    first = [line.split("|")[1].strip() for line in table.splitlines() if line]
    assert first[:2] == ["loss", "---"]
    assert set(first[2:4]) == {"arcface", "arcface_m0.3"}
    assert first[4] == "before training"
    assert "arcface − arcface_m0.3, accuracy, %" in first
    saved = json.loads((tmp_path / "c" / "arcface_m0.3-1" / "results.json").read_text())[
        "verifications"
    ]
    numbers = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert numbers["losses"]["arcface_m0.3"]["eer"]["by_seed"]["1"] == saved["4"]["eer"]
    assert (tmp_path / "c" / "comparison.png").stat().st_size > 5000
    assert run(monkeypatch, compare, *arguments) == 0
    assert "[1/" not in capsys.readouterr().out
    changed = [*arguments, "--optimiser.learning-rate", "0.01"]
    assert run(monkeypatch, compare, *changed) == 2
    assert "another configuration" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("arcfice", "loss.name arcfice: no such loss; choose one of "),
        ("arcface:big", "'big' is no number"),
    ],
)
def test_unknown_losses_are_named(monkeypatch, tmp_path, capsys, loss, message):
    assert run(monkeypatch, compare, "--losses", loss, "--folder", str(tmp_path)) == 2
    assert message in capsys.readouterr().err


def test_figures_are_drawn_by_name(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, figures, "faces", "--folder", str(tmp_path)) == 0
    assert (tmp_path / "faces.png").stat().st_size > 10_000
    assert run(monkeypatch, figures, "portraits") == 2
    assert "no figure is called 'portraits'; choose one of faces" in capsys.readouterr().err
    assert run(monkeypatch, figures) == 2
