import csv
import io
import json
import sys

import pytest

from arcface_jax.commands.command import run_command
from arcface_jax.errors import InputError
from arcface_jax.losses import automatic_scale
from arcface_jax.margins import cosface
from arcface_jax.training.config import Config, DataConfig
from experiments import compare, figures
from experiments.study import pool
from experiments.study.run import Case
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
    first = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")]
    assert table.startswith("## synthetic\n")
    assert first[:2] == ["loss", "---"]
    assert set(first[2:4]) == {"arcface", "arcface_m0.3"}
    assert first[4] == "before training"
    assert "arcface − arcface_m0.3, accuracy, %" in first
    folder = tmp_path / "c" / "synthetic" / "arcface_m0.3-1"
    saved = json.loads((folder / "results.json").read_text())["verifications"]
    numbers = json.loads((tmp_path / "c" / "comparison.json").read_text())["synthetic"]
    assert numbers["losses"]["arcface_m0.3"]["eer"]["by_seed"]["1"] == saved["4"]["eer"]
    assert (tmp_path / "c" / "comparison.png").stat().st_size > 5000
    assert run(monkeypatch, compare, *arguments) == 0
    assert "[1/" not in capsys.readouterr().out
    changed = [*arguments, "--optimiser.learning-rate", "0.01"]
    assert run(monkeypatch, compare, *changed) == 2
    assert "another configuration" in capsys.readouterr().err


def runs_of(figures):
    """By loss and seed, runs that were verified on held-out classes and on a set called lfw."""

    def verified(value):
        return {"accuracy": value, "all_pairs_tar@far=0.01": value, "lfw/accuracy": 0.6}

    return {
        loss: {
            seed: {"verifications": {"0": verified(0.5), "9": verified(value)}}
            for seed, value in enumerate(values)
        }
        for loss, values in figures.items()
    }


def test_tables_for_a_paper(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "save", lambda *_: None)
    runs = runs_of(
        {"my_loss.A": [0.9, 0.91, 0.89], "softmax": [0.7, 0.72, 0.69], "late": [0.8], "none": []}
    )
    blocks = compare.blocks_of("50 %_&", runs)
    assert [block.title for block in blocks] == ["50 %_&", "50 %_&, lfw"]
    notes = [*compare.notes_on(blocks, 3), "Failed: late, seed 1: no_memory"]
    compare.write_comparison(tmp_path, blocks, (0, 1, 2), notes)
    text, latex, table = (
        (tmp_path / f"comparison.{end}").read_text() for end in ("md", "tex", "csv")
    )
    assert "| my_loss.A | **90.0 ± 1.0** | **90.0 ± 1.0** |" in text
    assert "| late | 80.0 | 80.0 |" in text
    assert "| my_loss.A | 60.0 ± 0.0 |" in text  # on lfw all are alike
    assert "Failed: late, seed 1: no_memory" in text
    assert r"loss & accuracy, \% & TAR@1e-2, \% \\" in latex
    assert r"\multicolumn{3}{l}{\textit{50 \%\_\&}} \\" in latex
    assert r"my\_loss.A & \textbf{90.0 $\pm$ 1.0} & \textbf{90.0 $\pm$ 1.0} \\" in latex
    assert r"my\_loss.A & 60.0 $\pm$ 0.0 & -- \\" in latex
    assert r"\multicolumn{3}{l}{\footnotesize Bold: the best, and what a paired t test" in latex
    assert (
        r"\multicolumn{3}{l}{\footnotesize Too few seeds to test a loss of fewer than 3." in latex
    )
    lines = list(csv.DictReader(io.StringIO(table)))
    worse, late = (
        next(one for one in lines if one["loss"] == name and one["figure"] == "accuracy")
        for name in ("softmax", "late")
    )
    assert (worse["set"], worse["seeds"], worse["verdict"]) == ("50 %_&", "3", "worse")
    assert 0 < float(worse["p"]) < 0.01
    assert [worse[f"seed {seed}"] for seed in range(3)] == ["0.7", "0.72", "0.69"]
    assert [late[name] for name in ("seeds", "deviation", "verdict", "p", "seed 1")] == [
        *("1", "", "too few seeds", "", "")
    ]


def test_one_seed_and_two_are_too_few(tmp_path):
    for values in ([0.9], [0.9, 0.8]):
        blocks = compare.blocks_of("a", runs_of({"x": values, "y": [0.5] * len(values)}))
        assert blocks[0].rows(blocks[0].columns)[1] == set()
        notes = compare.notes_on(blocks, len(values))
        assert notes[-1] == "Too few seeds to test a loss of fewer than 3."
        assert notes[0].startswith("Mean ± deviation") == (len(values) > 1)
    assert compare.blocks_of("a", {"x": {}}) == []


def test_each_mark_begins_a_data_set(monkeypatch):
    def parse(options):
        return Config(data=DataConfig(root=options[0] if options else None))

    monkeypatch.setattr(compare, "parse", parse)
    found = compare.data_sets(["/data/omni_glot.zip", "--", "people", "--"], ())
    assert [(name, one.config.data.root) for name, one in found.items()] == [
        ("omni_glot", "/data/omni_glot.zip"),
        ("people", "people"),
        ("synthetic", None),
    ]
    assert list(compare.data_sets([], ())) == ["synthetic"]
    assert list(compare.data_sets(["--"], ("A & B", "A & C"))) == ["A & B", "A & C"]
    assert compare.folder_of("../A & B%") == "A_B"
    said = "--names: 2 data sets are called"
    wrong = {(): said, ("A_B", "A & B"): said, ("A", "%"): said}
    for names, said in (wrong | {("A",): "--names: 1 name for 2 data sets"}).items():
        with pytest.raises(InputError, match=said):
            compare.data_sets(["--"], names)


def test_each_loss_has_its_own_automatic_numbers():
    options = ["--loss.scale", "auto", "--loss.margin=auto", "--data.identities", "40"]
    (base,) = compare.data_sets(options, ()).values()
    names = ("arcface", "arcface:0.3", "normface", "cosface", "softmax")
    losses = [compare.case_of(name, base, (0,), "a").config.loss for name in names]
    scales = [automatic_scale(30, psi) for psi in (0.5, 0.3, 0.0, cosface(0.35))]
    assert [one.scale for one in losses[:4]] == pytest.approx(scales, rel=1e-2)
    assert [one.margin for one in losses[:2]] == [0.5, 0.3]
    assert not hasattr(losses[4], "scale")


def test_a_run_that_fails_is_named_and_the_others_go_on(monkeypatch, tmp_path, capsys):
    def run_case(case, root, seed):
        if "softmax" in case.name:
            raise AttributeError("no such\nthing")
        return results(0.5, 0.9) | {"cpu_seconds": 1}

    monkeypatch.setattr(pool, "run_case", run_case)
    cases = [Case(name, Config(), (0, 1)) for name in ("softmax", "arcface")]
    done = pool.run_all(cases, tmp_path, 1, lambda _: None)
    assert [one.error for one in done] == ["AttributeError: no such thing"] * 2 + [None] * 2
    assert "Traceback" in capsys.readouterr().err


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
