"""The benchmark of embedding: what it measures, and what it refuses."""

import dataclasses
import json
import time

import numpy as np
import pytest

from arcface_jax.commands.models import open_trained
from arcface_jax.errors import InputError
from arcface_jax.interop.inference import unit_embedding
from arcface_jax.interop.onnx import export_onnx
from experiments.benchmark.embed import EmbedBenchmark, run_embed_benchmark


def test_both_embed_the_same_and_are_compared_turn_by_turn(small_checkpoint, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("jax2onnx")
    now = iter(np.cumsum([0, 1, 0, 2, 0, 2, 0, 8, 0, 3, 0, 3]))  # starts and ends, of each in turn
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(now)))
    config = EmbedBenchmark(small_checkpoint, batches=(4,), rounds=3, output=tmp_path / "output")
    assert run_embed_benchmark(config) == 0
    saved = json.loads((tmp_path / "output" / "records.json").read_text())
    ours, theirs = saved["records"]
    assert ours["largest_difference"] < 1e-5
    assert (ours["case"], ours["seconds"]) == ("arcface-jax", [1.0, 2.0, 3.0])
    assert (theirs["case"], theirs["seconds"]) == ("ONNX Runtime", [2.0, 8.0, 3.0])
    assert saved["ratios"] == {
        "IResNet, 32×32, batch 4, beside ONNX Runtime": {"median": 2.0, "low": 1.0, "high": 4.0}
    }
    monkeypatch.undo()
    embed = unit_embedding(open_trained(small_checkpoint), shift_depthwise=False)
    export_onnx(lambda images: -embed(images), (32, 32), tmp_path / "n.onnx")
    with pytest.raises(InputError, match=r"--onnx: its embeddings differ by"):
        run_embed_benchmark(dataclasses.replace(config, onnx=tmp_path / "n.onnx"))
