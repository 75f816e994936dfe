"""The benchmark of compiling: stages and settings of each process, and what is made of them."""

import functools
import json
import os
from types import SimpleNamespace

import pytest

from arcface_jax.errors import InputError
from experiments.benchmark import compile as benchmark_compile
from experiments.benchmark import compile_cases
from experiments.benchmark.compile import (
    COLD,
    FILLING,
    WARM,
    CompileBenchmark,
    compile_ratios,
    run_compile_benchmark,
)
from experiments.benchmark.report import Ratio
from tests.experiments import small_network  # noqa: F401 - registers one_convolution

SMALL = {
    "image_size": 16,
    "width": 2,
    "embedding_size": 8,
    "batch": 4,
    "classes": 10,
}


def check_small(folder, network):
    saved = json.loads((folder / "records.json").read_text())
    assert [record["case"] for record in saved["records"]] == [FILLING, COLD, WARM]
    assert all(
        record[stage] > 0 for record in saved["records"] for stage in ("trace", "lower", "compile")
    )
    filling, cold, warm = saved["records"]
    assert filling["flops"] == cold["flops"] == warm["flops"]
    # The forward pass three times and the head's products are the least that a step can do.
    assert cold["flops"] > 0.9 * cold["flops_needed"]
    assert cold["peak_bytes"] > 0
    assert set(saved["ratios"]) == {
        f"{network}, 16×16, width 2, batch 4: all stages, no cache / cache",
        f"{network}, 16×16, width 2, batch 4: compile alone, no cache / cache",
        f"{network}, 16×16, width 2, batch 4: operations needed / compiled",
    }
    assert (folder / "ratios.svg").exists()


def test_a_small_step_is_measured(tmp_path, monkeypatch, capsys):
    once = functools.cache(
        compile_cases.measure
    )  # the processes of the benchmark are for the slow test below

    def measure_here(module, network, numbers, what, environment):
        assert module == compile_cases.__name__
        return dict(once(network, *numbers))

    monkeypatch.setattr(benchmark_compile, "measure_in_process", measure_here)
    options = CompileBenchmark(("one_convolution",), **SMALL, rounds=1, output=tmp_path)
    assert run_compile_benchmark(options) == 0
    check_small(tmp_path, "one_convolution")
    assert "Seconds to compile a training step" in capsys.readouterr().out


@pytest.mark.slow
def test_a_small_step_is_compiled_in_processes_with_and_without_the_cache(tmp_path):
    options = CompileBenchmark(("resnet20",), **SMALL, rounds=1, output=tmp_path)
    assert run_compile_benchmark(options) == 0
    check_small(tmp_path, "resnet20")


def record(case, compile, **more):
    return {
        "case": case,
        "network": "n",
        "image": 112,
        "width": 64,
        "batch": 8,
        "trace": 1.0,
        "lower": 1.0,
        "compile": compile,
        "flops": 200.0,
        "flops_needed": 100.0,
        "bytes_accessed": None,
        "peak_bytes": 2e9,
        **more,
    }


def test_the_cache_and_nothing_else_differs_between_the_processes(tmp_path, monkeypatch):
    seen = []

    def measure(module, network, numbers, what, environment):
        assert os.path.isdir(environment.get("JAX_COMPILATION_CACHE_DIR", tmp_path))
        seen.append((what, numbers, environment))
        return {
            key: value for key, value in record("", 4.0, network=network).items() if key != "case"
        }

    monkeypatch.setattr(benchmark_compile, "measure_in_process", measure)
    monkeypatch.setattr(
        benchmark_compile, "cost", lambda *_: SimpleNamespace(step_operations=100.0)
    )
    run_compile_benchmark(CompileBenchmark(("iresnet18", "iresnet34"), rounds=2, output=tmp_path))
    assert [what for what, _, _ in seen] == [
        f"{network}, {case}"
        for network in ("iresnet18", "iresnet34")
        for case in (FILLING, COLD, WARM, COLD, WARM)
    ]
    assert all(numbers == [112, 64, 512, 8, 1000] for _, numbers, _ in seen)
    on = [environment for what, _, environment in seen if COLD not in what]
    assert all(
        environment == on[0] and environment["JAX_ENABLE_COMPILATION_CACHE"] == "true"
        for environment in on
    )
    off = [environment for what, _, environment in seen if COLD in what]
    assert off == [{"JAX_ENABLE_COMPILATION_CACHE": "false"}] * 4


def test_ratios_are_of_the_same_round():
    records = [
        record(FILLING, 99.0),
        record(COLD, 18.0),
        record(WARM, 2.0),
        record(COLD, 6.0),
        record(WARM, 1.0),
    ]
    assert compile_ratios(records) == {
        "n, 112×112, width 64, batch 8: all stages, no cache / cache": Ratio(
            (20 / 4 + 8 / 3) / 2, 8 / 3, 5.0
        ),
        "n, 112×112, width 64, batch 8: compile alone, no cache / cache": Ratio(7.5, 6.0, 9.0),
        "n, 112×112, width 64, batch 8: operations needed / compiled": Ratio(0.5, 0.5, 0.5),
    }
    silent = [record(COLD, 1.0, flops=None), record(WARM, 1.0, flops=None)]
    assert "n, 112×112, width 64, batch 8: operations needed / compiled" not in compile_ratios(
        silent
    )
    cells = {
        column.header: list(column.cells)
        for column in benchmark_compile.compile_table(records).columns
    }
    assert cells[""] == [FILLING, COLD, WARM]
    assert cells["compile"] == ["99.00", "12.00", "1.50"]
    assert cells["all"] == ["101.00", "14.00", "3.50"]
    assert cells["GB moved"] == ["–"] * 3
    assert cells["peak GB"] == ["2.00"] * 3


def test_the_step_has_the_sizes_that_were_asked_for():
    config = compile_cases.step_config("iresnet34", 48, 32, 256, 16)
    assert (config.model.name, config.model.width, config.model.embedding_size) == (
        "iresnet34",
        32,
        256,
    )
    assert (config.data.image_size, config.run.batch_size) == (48, 16)


def test_an_unknown_network_is_named():
    with pytest.raises(InputError, match="networks is 'resnet9000'"):
        run_compile_benchmark(CompileBenchmark(networks=("resnet9000",)))
