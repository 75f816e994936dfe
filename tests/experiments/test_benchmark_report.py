"""What the benchmarks share: the arithmetic of rounds, the file, the picture, and a former run
beside this one.
"""

import dataclasses
import json
import pathlib
import time

import numpy as np
import pytest

from arcface_jax.commands.machine import machine
from arcface_jax.errors import InputError
from arcface_jax.figures.benchmark import ratio_bars
from experiments.benchmark import __main__ as benchmark
from experiments.benchmark.report import (
    Ratio,
    Report,
    comparison,
    ratio_of_rounds,
    read_report,
    take_turns,
)

STEADY = Ratio(1.0, 0.9, 1.1)


@dataclasses.dataclass(frozen=True)
class Toy:
    output: pathlib.Path
    compare: pathlib.Path | None
    batch: int = 8
    rounds: int = 3


def test_ratios_are_of_the_same_round():
    # The machine is ten times slower in the second round: both are, and the ratio is not.
    assert ratio_of_rounds([2.0, 30.0, 4.0], [1.0, 10.0, 1.0]) == Ratio(3.0, 2.0, 4.0)
    with pytest.raises(InputError, match="2 and 1 numbers"):
        ratio_of_rounds([1.0, 2.0], [1.0])
    with pytest.raises(InputError, match="0 and 0 numbers"):
        ratio_of_rounds([], [])


def test_everything_takes_its_turn(monkeypatch):
    now, calls = [0.0], []

    def work(name, seconds):
        calls.append(name)
        now[0] += seconds

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    cases = {"slow": lambda: work("slow", 2.0), "quick": lambda: work("quick", 0.25)}
    assert take_turns(cases, 2, least=0.5) == {"slow": [2.0, 2.0], "quick": [0.25, 0.25]}
    # Once to get warm; then short work is repeated until it has lasted long enough to be timed.
    assert calls == ["slow", "quick", "slow", "quick", "quick", "slow", "quick", "quick"]
    calls.clear()
    take_turns(cases, 1, warm=False, least=0.0)
    assert calls == ["slow", "quick"]


@pytest.mark.parametrize(
    ("now", "worse"),
    [
        (Ratio(1.0, 0.9, 1.1), False),
        (Ratio(0.85, 0.75, 0.95), False),  # less, but the rounds overlap
        (Ratio(0.85, 0.8, 0.89), True),
        (Ratio(0.5, 0.1, 0.9), False),  # what varies so much says nothing
        (Ratio(2.0, 1.9, 2.1), False),
    ],
)
def test_worse_is_by_more_than_both_spreads(now, worse):
    assert now.worse_than(STEADY) is worse
    together = (STEADY.median - STEADY.low) + (now.high - now.median)
    assert (STEADY.median - now.median > together) is worse


def test_a_ratio_of_one_side_is_listed():
    table, worse = comparison(
        {"kept": STEADY, "gone": STEADY}, {"kept": Ratio(3.0, 2.0, 4.0), "new": STEADY}
    )
    cells = {column.header: list(column.cells) for column in table.columns}
    assert not worse
    assert cells["ratio"] == ["kept", "new", "gone"]
    assert cells[""] == ["better", "only now", "only then"]
    assert cells["then"] == ["1 (0.9–1.1)", "–", "1 (0.9–1.1)"]
    assert cells["now"] == ["3 (2–4)", "1 (0.9–1.1)", "–"]
    table, worse = comparison({"a": STEADY, "b": STEADY}, {"a": STEADY, "b": Ratio(0.5, 0.4, 0.6)})
    assert worse
    assert list(table.columns[-1].cells) == ["no difference", "worse"]


def test_a_run_is_compared_with_the_one_before(tmp_path, capsys):
    first = Report("toy", Toy(tmp_path / "first", None))
    first.add({"case": "a", "seconds": [1.0]})
    assert first.finish({"a / b": STEADY}) == 0
    saved = json.loads((tmp_path / "first" / "records.json").read_text())
    assert saved["benchmark"] == "toy"
    assert saved["machine"] == machine()
    assert saved["records"] == [{"case": "a", "seconds": [1.0]}]
    assert saved["ratios"] == {"a / b": {"median": 1.0, "low": 0.9, "high": 1.1}}
    assert saved["settings"] == {"batch": "8", "rounds": "3"}
    assert read_report(first.file, "toy") == (
        machine() | {"batch": "8", "rounds": "3"},
        {"a / b": STEADY},
    )
    assert (tmp_path / "first" / "ratios.png").stat().st_size > 1000
    assert "<svg" in (tmp_path / "first" / "ratios.svg").read_text()
    capsys.readouterr()

    saved["machine"]["cores"] = "1000"
    first.file.write_text(json.dumps(saved))
    again = Report("toy", Toy(tmp_path / "again", first.file, batch=9))
    assert again.finish({"a / b": Ratio(0.95, 0.9, 1.0)}) == 0
    printed = capsys.readouterr().out
    assert "another cores: 1000 then" in printed
    assert "another batch: 8 then, 9 now" in printed
    assert "no difference" in printed
    assert (
        Report("toy", Toy(tmp_path / "again", first.file)).finish({"a / b": Ratio(0.5, 0.4, 0.6)})
        == 1
    )
    assert "worse" in capsys.readouterr().out
    assert (
        Report("toy", Toy(tmp_path / "again", first.file)).finish({}) == 0
    )  # nothing to compare with, nothing drawn
    assert "only then" in capsys.readouterr().out


def test_one_round_is_not_compared(tmp_path):
    few = Report("toy", Toy(tmp_path / "few", None, rounds=1))
    assert few.finish({"a / b": STEADY}) == 0
    with pytest.raises(
        InputError, match=r"records.json: rounds 1: too few to tell a change from noise"
    ):
        Report("toy", Toy(tmp_path / "again", few.file))
    with pytest.raises(
        InputError,
        match="--rounds 2: too few to tell a change from noise; --compare needs 3 or more",
    ):
        Report("toy", Toy(tmp_path / "again", few.file, rounds=2))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "at line 1, column 2"),
        ("[1, 2]", "is damaged, or of another kind"),
        ('{"benchmark": "toy", "machine": {}, "settings": {}}', "it has no ratios"),
        (
            '{"benchmark": "toy", "machine": {}, "settings": {}, "ratios": {"a": {"median": 1, '
            '"low": 1}}}',
            "it has no high",
        ),
        (
            '{"benchmark": "toy", "machine": {}, "settings": {}, "ratios": {"a": 3}}',
            "is damaged, or of another kind",
        ),
        (
            '{"benchmark": "toy", "machine": {}, "settings": {}, "ratios": {"": {"median": NaN, '
            '"low": 1, "high": 1}}}',
            "not finite",
        ),
        (
            '{"benchmark": "head", "machine": {}, "settings": {}, "ratios": {}}',
            "of the benchmark 'head'",
        ),
        (None, "No such file"),
    ],
)
def test_another_file_is_one_line(tmp_path, content, said):
    path = tmp_path / "former.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError) as error:
        Report("toy", Toy(tmp_path / "output", path))
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{path}: ")
    assert said in line
    assert line.endswith("give records.json of a former `python -m experiments.benchmark toy`")


def test_bars_start_at_one():
    figure = ratio_bars({"quicker": (1.5, 2.0, 3.0), "slower": (0.4, 0.5, 0.6)}, "times")
    (axes,) = figure.axes
    assert [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches] == [
        (1.0, 2.0),
        (1.0, 0.5),
    ]
    ranges = np.concatenate([part.get_segments() for part in axes.collections])
    np.testing.assert_allclose(sorted(ranges[:, :, 0].tolist()), [[0.4, 0.6], [1.5, 3.0]])
    assert [text.get_text() for text in axes.texts] == ["2", "0.5"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["quicker", "slower"]
    assert axes.get_xlabel() == "times"
    assert axes.get_xscale() == "log"
    assert 1.0 in axes.get_xticks()
    assert 1.0 in ratio_bars({"wide": (1e-4, 1.0, 1e5)}).axes[0].get_xticks()
    for bad in ({}, {"zero": (0.0, 1.0, 1.0)}):
        with pytest.raises(InputError, match="give one or more, each above 0"):
            ratio_bars(bad)


def test_the_command_lists_every_benchmark(type_command):
    status, printed, _ = type_command(benchmark.main, "--help")
    assert status == 0
    assert all(f"experiments.benchmark {name} " in printed for name in benchmark.BENCHMARKS)
    status, _, error = type_command(benchmark.main, "heads")
    assert status == 2
    assert error.strip().startswith("error: no benchmark is called 'heads'; did you mean head?")


@pytest.mark.parametrize("name", list(benchmark.BENCHMARKS))
def test_every_benchmark_explains_its_options(type_command, name):
    status, printed, _ = type_command(benchmark.main, name, "--help")
    assert status == 0
    assert "--compare " in printed
    assert f"runs/benchmark-{name.removeprefix('head-')}" in printed
