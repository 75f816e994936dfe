import json
import sys

import pytest

from experiments import compare, figures
from experiments.command import run_command

TINY = [
    *("--data.image-size", "16", "--data.identities", "8", "--data.images-per-identity", "6", "--data.pairs", "60"),
    *("--data.test-fraction", "0.5", "--model.width", "4", "--model.embedding-size", "16", "--run.steps", "2"),
    *("--run.batch-size", "8", "--run.evaluate-every", "2", "--run.log-every", "1", "--run.devices", "1"),
]


def run(monkeypatch, module, *arguments):
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit) as stop:
        run_command(module.main)
    return stop.value.code


def test_median_and_range_over_seeds():
    numbers = [{"accuracy": 0.8, "auc": 0.9}, {"accuracy": 0.9, "auc": 0.95}, {"accuracy": 0.7, "auc": 0.5}]
    assert compare.summary(numbers, "accuracy") == "80.00% (70.00%–90.00%)"
    assert compare.summary(numbers, "auc") == "0.9000 (0.5000–0.9500)"


def test_runs_are_compared_and_finished_ones_not_repeated(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["--losses", "arcface", "softmax", "--seeds", "0", "--folder", "c", "--", *TINY]
    assert run(monkeypatch, compare, *arguments) == 0
    table = (tmp_path / "c" / "comparison.md").read_text()
    assert [line.split("|")[1].strip() for line in table.splitlines()] == [
        "loss",
        "---",
        "untrained",
        "arcface",
        "softmax",
    ]
    results = json.loads((tmp_path / "c" / "arcface-0" / "results.json").read_text())["verifications"]
    assert f"{results['2']['accuracy']:.2%}" in table.splitlines()[3]
    capsys.readouterr()
    assert run(monkeypatch, compare, *arguments) == 0
    assert "Preparing" not in capsys.readouterr().out
    changed = [*arguments, "--optimiser.learning-rate", "0.01"]
    assert run(monkeypatch, compare, *changed) == 2
    assert "another configuration" in capsys.readouterr().err


def test_figures_are_drawn_by_name(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, figures, "faces", "--folder", str(tmp_path)) == 0
    assert (tmp_path / "faces.png").stat().st_size > 10_000
    assert run(monkeypatch, figures, "portraits") == 2
    assert "no figure is called 'portraits'; choose among faces" in capsys.readouterr().err
    assert run(monkeypatch, figures) == 2
