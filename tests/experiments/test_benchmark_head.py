"""The head's benchmark and planner as a person types them, at small sizes."""

import json
import os
import pathlib
import sys

import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.figures.benchmark import head_growth, loss_by_storage, planned_memory
from experiments.benchmark.head import (
    HeadBenchmark,
    by_head,
    head_ratios,
    run_head_benchmark,
    size_table,
)
from experiments.benchmark.head_cases import CASES
from experiments.benchmark.report import Ratio
from experiments.plan import PlanConfig, plan_table
from tests import processes

ROOT = pathlib.Path(__file__).resolve().parents[2]


def command(*arguments):
    environment = os.environ | {"COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    return processes.run([sys.executable, "-m", *arguments], cwd=ROOT, env=environment)


@pytest.mark.slow
def test_two_heads_measured(tmp_path):
    options = [
        "--batches",
        "8",
        "--classes",
        "500",
        "--dim",
        "16",
        "--chunk",
        "128",
        "--rounds",
        "1",
        "--steps",
        "1",
    ]
    heads = ["--heads", "dense", "fused-bfloat16"]
    result = command("experiments.benchmark", "head", *options, *heads, "--output", str(tmp_path))
    assert result.returncode == 0, result.stderr
    saved = json.loads((tmp_path / "records.json").read_text())
    dense, fused = saved["records"]
    assert (dense["case"], fused["case"]) == ("dense", "fused-bfloat16")
    assert abs(dense["first_loss"] - fused["first_loss"]) < 0.5  # the same problem, to bfloat16
    assert all(record["seconds"][0] > 0 and record["matmul_rate"] > 0 for record in (dense, fused))
    assert "fused-bfloat16" in result.stdout
    assert (tmp_path / "head_growth_8.png").stat().st_size > 1000
    assert saved["machine"]["device"] == "cpu"
    ratio = saved["ratios"]["N = 8, C = 500, fused-bfloat16 beside dense: speed"]
    assert ratio["median"] == pytest.approx(dense["seconds"][0] / fused["seconds"][0])


def test_a_head_unknown_is_one_line():
    result = command("experiments.benchmark", "head", "--heads", "sparse")
    assert result.returncode == 2
    assert result.stderr.strip() == (
        "error: heads has 'sparse'; choose among torch, dense, chunked, fused-float32, "
        "fused-bfloat16, partial-0.1"
    )


def test_only_measured_heads_are_compared():
    with pytest.raises(InputError, match="--compare is for time and memory"):
        run_head_benchmark(HeadBenchmark(traffic=True, compare=pathlib.Path("records.json")))


def record(case, seconds, classes=100, megabytes=10.0):
    return {
        "case": case,
        "classes": classes,
        "seconds": seconds,
        "peak_mb": megabytes,
        "operations": 1e9,
        "matmul_rate": 1e10,
        "planned_temporary_mb": 1.0,
    }


def test_ratios_are_of_the_same_round():
    records = [
        record("torch", [4.0]),
        record("dense", [2.0]),
        record("torch", [40.0]),
        record("dense", [20.0]),
    ]
    table = size_table(records, 8, 100)
    cells = {column.header: list(column.cells) for column in table.columns}
    assert cells["× torch"] == ["1.00", "2.00"]
    assert cells["× dense"] == ["0.50", "1.00"]
    assert cells["of matmul rate"] == [
        "–",
        "3 %",
    ]  # 1e9 operations in 2 s and in 20 s, of 1e10 a second
    assert by_head(records, "seconds") == {"torch": {100: 22.0}, "dense": {100: 11.0}}


def test_speed_and_memory_are_compared_with_pytorch_or_the_dense_head():
    torch = [record("torch", [4.0], megabytes=30.0), record("torch", [9.0], megabytes=30.0)]
    dense = [record("dense", [2.0], megabytes=15.0), record("dense", [3.0], megabytes=10.0)]
    fused = [record("fused", [1.0], megabytes=5.0), record("fused", [1.0], megabytes=0.0)]
    size = "N = 8, C = 100"
    assert head_ratios([*torch, *dense, *fused], 8, 100) == {
        f"{size}, dense beside PyTorch: speed": Ratio(2.5, 2.0, 3.0),
        f"{size}, dense beside PyTorch: memory": Ratio(2.5, 2.0, 3.0),
        f"{size}, fused beside PyTorch: speed": Ratio(
            6.5, 4.0, 9.0
        ),  # no ratio to a memory of nothing
    }
    assert head_ratios([*dense, *fused], 8, 100) == {
        f"{size}, fused beside dense: speed": Ratio(2.5, 2.0, 3.0)
    }
    assert head_ratios(fused, 8, 100) == {}


def test_the_growth_is_drawn_for_every_head():
    figure = head_growth(
        {"dense": {10: 1.0, 100: 9.0}, "fused": {10: 0.5}}, {"dense": {10: 3.0, 100: 4.0}}, "title"
    )
    left, right = figure.axes
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["dense", "fused"]
    assert left.lines[0].get_xydata().tolist() == [[10, 1], [100, 9]]
    assert right.lines[0].get_xydata().tolist() == [[10, 3], [100, 4]]
    assert left.get_xscale() == right.get_yscale() == "log"
    with pytest.raises(InputError, match="seconds has no head"):
        head_growth({}, {}, "title")


def test_without_pytorch_the_others_are_measured(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(
        "experiments.benchmark.head.measure_heads", lambda config: asked.append(config) or 0
    )
    assert run_head_benchmark(HeadBenchmark()) == 0
    assert asked[0].heads == tuple(CASES)
    assert "torch is not installed" in capsys.readouterr().out


def test_planned_memory_is_drawn_beside_what_a_device_has():
    figure = planned_memory({"dense": {10: 1.0, 100: 9.0}, "fused": {10: 0.5}}, device=4.0)
    (axes,) = figure.axes
    assert [line.get_xydata().tolist() for line in axes.lines[:2]] == [
        [[10, 1], [100, 9]],
        [[10, 0.5]],
    ]
    assert [text.get_text() for text in axes.texts] == ["the device has 4 GiB"]
    with pytest.raises(InputError, match="plans has no head"):
        planned_memory({}, device=4.0)


def test_the_plan_names_the_first_head_that_fits():
    table, best = plan_table(PlanConfig(29_000_000, chunk=8192))
    assert best == "fused in bfloat16"
    cells = {column.header: list(column.cells) for column in table.columns}
    assert cells["fits"] == ["no", "no", "no", "yes", "no", "yes"]
    assert plan_table(PlanConfig(10_000))[1] == "dense in float32"
    assert plan_table(PlanConfig(2_000_000_000))[1] is None
    assert plan_table(PlanConfig(100_000, dim=64, batch=32, compile=True))[1] == "dense in float32"


def test_the_plan_command():
    result = command("experiments.plan", "29000000", "--batch", "510", "--devices", "4")
    assert result.returncode == 2
    assert result.stderr.strip() == "error: batch is 510; pass a multiple of the 4 devices"
    result = command("experiments.plan", "1000000", "--tflops", "20")
    assert result.returncode == 0
    assert "The first that fits 80 GiB: dense in float32, the exact softmax." in result.stdout


@pytest.mark.slow
def test_the_storage_benchmark(tmp_path):
    options = ["--classes", "50", "--dim", "8", "--batch", "32", "--steps", "40", "--seeds", "2"]
    result = command("experiments.benchmark", "head-storage", *options, "--output", str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert all(kept in result.stdout for kept in ("bfloat16, to nearest", "bfloat16, at random"))
    assert (tmp_path / "loss_by_storage.png").stat().st_size > 1000
    saved = json.loads((tmp_path / "records.json").read_text())
    exact, nearest, *_ = (record["loss"] for record in saved["records"])
    ratio = saved["ratios"]["C = 50, N = 32, 40 steps: loss in float32 / in bfloat16, to nearest"]
    assert ratio["high"] == pytest.approx(max(a / b for a, b in zip(exact, nearest, strict=True)))
    assert (tmp_path / "ratios.svg").exists()


def test_a_loss_curve_is_the_mean_over_seeds_and_steps():
    axes = loss_by_storage(
        {"float32": np.array([[1.0, 3.0, 5.0, 7.0, 9.0], [3.0, 5.0, 7.0, 9.0, 0.0]])}, 2
    ).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[1.0, 3.0], [3.0, 7.0]])
    with pytest.raises(InputError, match="curve 'a' has 5 steps; pass 20 or more"):
        loss_by_storage({"a": np.zeros((1, 5))})
