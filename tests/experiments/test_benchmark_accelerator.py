"""The benchmark of a whole device: its parts at tiny sizes, and what becomes of their records."""

import csv
import dataclasses
import importlib.util
import itertools
import json

import pytest

from arcface_jax.errors import InputError
from experiments.benchmark import accelerator, accelerator_cases
from experiments.benchmark.accelerator import (
    HEADER,
    AcceleratorBenchmark,
    operations_of,
    parts_of,
    peak_of,
    run_accelerator_benchmark,
)
from experiments.benchmark.accelerator_cases import PRECISIONS, measure, measured

SMALL = AcceleratorBenchmark(
    networks=("iresnet18",),
    batches=(8, 4),
    image_size=16,
    width=4,
    embedding_size=8,
    step_classes=20,
    classes=(30,),
    head_batch=4,
    chunk=16,
    steps=2,
    product=8,
)
DEVICE = {"case": "device", "what": "NVIDIA H100 80GB HBM3", "platform": "gpu"}
DEVICE |= {"highest": 5e13, "high": 4e14, "bfloat16": 8e14}


@pytest.mark.parametrize("which", ["fused", pytest.param("all", marks=pytest.mark.slow)])
def test_every_head_is_measured_at_every_precision(which, monkeypatch):
    if which == "fused":
        monkeypatch.setattr(accelerator_cases, "HEADS", {"fused": "fused"})
        monkeypatch.setattr(accelerator_cases, "PRECISIONS", ("bfloat16",))
    found = list(measure("head", 30, 8, 4, 16, 2))
    assert {(one["what"], one["precision"]) for one in found} == {
        (head, precision)
        for head in accelerator_cases.HEADS
        for precision in accelerator_cases.PRECISIONS
    }
    for one in found:
        assert (len(one["seconds"]), one["classes"], one["batch"]) == (3, 30, 4), one
        assert min(one["seconds"]) > 0
        products = 3 if one["what"] == "dense" else 4
        assert one["operations"] == products * 2 * 4 * 30 * 8
        # Weights and momentum, and what a step works with.
        assert 2 * 30 * 8 * 4 <= 1e9 * one["planned_gb"] < 1e8


def test_the_device_says_what_it_multiplies_at():
    found = measure("device", 8)
    assert (found["what"], found["platform"]) == ("cpu", "cpu")
    assert all(found[precision] > 0 for precision in PRECISIONS)


def test_the_pipeline_is_measured():
    found = measure("data", 16, 4, 40)
    assert (found["case"], found["batch"]) == ("data", 4)
    assert found["seconds"][0] > 0


@pytest.mark.slow
@pytest.mark.parametrize("case", ["iresnet18", "embed-iresnet18", "torch-iresnet18", "torch-vit_t"])
def test_a_network_is_measured(case):
    if case.startswith("torch-") and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    width, side = 16, 27 if "vit" in case else 16  # PyTorch's narrowest; of some patches
    found = list(measure(case, side, width, 8, 20, 2, 8, 4))
    assert [one["batch"] for one in found] == [8, 4]
    assert all(len(one["seconds"]) == 3 for one in found), found


def test_what_does_not_fit_is_a_record():
    def begin():
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 40000000000 bytes.")

    assert measured(begin, 1) == {"failed": "out of memory"}


def records(module, case, numbers, seconds):
    """What the processes would measure: an hour, in no time."""
    sizes = {"batch": numbers[5] if len(numbers) > 5 else 8}
    if case == "device":
        yield DEVICE
    elif case == "head":
        about = {"case": "head", "what": "fused", "batch": 4, "classes": 30}
        yield about | {"precision": "bfloat16", "operations": 8e9, "seconds": [1e-3]}
        yield about | {"precision": "highest", "operations": 8e9, "failed": "out of memory"}
    elif case == "data":
        yield {"case": "data", "what": "RecordIO", "batch": 8, "seconds": [0.004]}
    else:
        kind, _, name = case.rpartition("-")
        long = {"torch": 0.3, "embed": 0.1, "": 0.2}[kind]
        yield {"case": kind or "step", "what": name, "seconds": [long, long]} | sizes
        yield {"failed": f"ended after {seconds:.0f} s"}


def test_every_record_is_in_the_table_and_the_ratio_beside_pytorch(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(accelerator, "records_of_process", records)
    monkeypatch.setattr(accelerator.importlib.util, "find_spec", lambda name: name)
    config = dataclasses.replace(SMALL, output=tmp_path, minutes=1.0)
    assert run_accelerator_benchmark(config) == 0
    with (tmp_path / "accelerator.csv").open() as lines:
        header, *rows = csv.reader(lines)
    assert tuple(header) == HEADER
    assert {len(row) for row in rows} == {len(HEADER)}
    # The first of each, which has the first batch.
    rows_by_case = {(row[0], row[1], row[4]): row for row in reversed(rows)}
    by_case = {case: dict(zip(header, row, strict=True)) for case, row in rows_by_case.items()}
    product = by_case["NVIDIA H100 80GB HBM3", "product", "bfloat16"]
    assert (product["TFLOP/s"], product["of peak, %"]) == ("800.00", "80.9")
    step = by_case["iresnet18", "step", "bfloat16"]
    assert (step["images/s"], step["ms"], step["× PyTorch"]) == ("40", "200.00", "1.5 (1.5–1.5)")
    head = by_case["fused", "head", "bfloat16"]
    assert (head["TFLOP/s"], head["of product rate, %"]) == ("8.00", "1.0")
    assert by_case["fused", "head", "highest"]["note"] == "out of memory"
    assert by_case["RecordIO", "data", "–"]["images/s"] == "2000"
    assert by_case["step of iresnet18", "ended", "–"]["note"].startswith("ended after ")
    saved = json.loads((tmp_path / "records.json").read_text())
    assert saved["machine"]["device"] == "NVIDIA H100 80GB HBM3"
    assert saved["ratios"]["iresnet18, batch 8, beside PyTorch"]["median"] == pytest.approx(1.5)
    markdown = (tmp_path / "accelerator.md").read_text()
    assert markdown.count("\n| ") == len(rows) + 2
    assert "iresnet18" in capsys.readouterr().out


def test_what_there_was_no_time_for_is_named(tmp_path, monkeypatch):
    clock = itertools.count(0.0, 25.0)
    monkeypatch.setattr(accelerator.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(accelerator, "records_of_process", records)
    run_accelerator_benchmark(dataclasses.replace(SMALL, output=tmp_path, minutes=1.0))
    saved = json.loads((tmp_path / "records.json").read_text())["records"]
    left = [one["what"] for one in saved if one["case"] == "left out"]
    parts = [part.title for part in parts_of(SMALL, importlib.util.find_spec("torch") is not None)]
    assert left
    assert left == parts[-len(left) :]


def test_the_most_telling_parts_come_first():
    config = AcceleratorBenchmark()
    titles = [part.title for part in parts_of(config, True)]
    steps = ["step of iresnet50", "step of iresnet50 in PyTorch"]
    steps += ["step of iresnet100", "step of iresnet100 in PyTorch"]
    steps += ["step of vit_b", "step of vit_b in PyTorch"]
    heads = [f"head over {classes} classes" for classes in ("100,000", "1,000,000", "10,000,000")]
    assert titles == [*steps, *heads, "embedding by iresnet50", "input pipeline", *steps]
    batches = [part.numbers[5:] for part in parts_of(config, True) if part.title == steps[0]]
    assert batches == [(256,), (512, 128, 64)]


def test_operations_are_the_networks_three_times_and_the_heads():
    record = {"what": "iresnet50", "batch": 2}
    config = AcceleratorBenchmark()
    forward = operations_of({"case": "embed", **record}, config) / 2
    assert forward == pytest.approx(2 * 6.3e9, rel=0.1)  # multiply-adds, by its authors
    whole = operations_of({"case": "step", **record}, config)
    assert whole == pytest.approx(6 * forward + 6 * 2 * 10_000 * 512)


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v4", 275e12),
        ("cpu", None),
    ],
)
def test_peaks_are_those_of_the_makers(device, peak):
    assert peak_of(device) == peak


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"networks": ("resnet",)}, "networks has 'resnet'; choose among .*iresnet50"),
        ({"networks": ()}, "networks and batches: give one or more of each"),
        ({"batches": ()}, "networks and batches: give one or more of each"),
    ],
)
def test_bad_options_are_named(changes, said):
    with pytest.raises(InputError, match=said):
        run_accelerator_benchmark(dataclasses.replace(SMALL, **changes))


def test_a_device_that_cannot_be_measured_is_one_line(monkeypatch):
    monkeypatch.setattr(
        accelerator, "records_of_process", lambda *_: iter([{"failed": "no such device"}])
    )
    with pytest.raises(InputError, match=r"^the device cannot be measured: no such device$"):
        run_accelerator_benchmark(SMALL)
