"""The benchmark of embedding: what it measures, and what it refuses."""

import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.interop.inference import unit_embedding
from arcface_jax.interop.onnx import export_onnx
from experiments import benchmark_embed
from experiments.benchmark_embed import EmbedBenchmark, measure_embedding
from experiments.models import open_trained


def test_both_embed_the_same_and_are_compared_turn_by_turn(small_checkpoint, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("jax2onnx")
    now = iter(np.cumsum([0, 9, 0, 9, 0, 1, 0, 2, 0, 2, 0, 8, 0, 3, 0, 3]))  # starts and ends, the first two uncounted
    monkeypatch.setattr(benchmark_embed.time, "perf_counter", lambda: float(next(now)))
    result = measure_embedding(EmbedBenchmark(small_checkpoint, batches=(4,), rounds=3))
    assert result["largest difference"] < 1e-5
    assert result["batches"] == [{"batch": 4, "jax images/s": 2.0, "onnxruntime images/s": 1.3, "ratio": 2.0}]
    monkeypatch.undo()
    embed = unit_embedding(open_trained(small_checkpoint), shift_depthwise=False)
    export_onnx(lambda images: -embed(images), (32, 32), tmp_path / "n.onnx")
    with pytest.raises(InputError, match=r"--onnx: its embeddings differ by"):
        measure_embedding(EmbedBenchmark(small_checkpoint, batches=(4,), onnx=tmp_path / "n.onnx"))


def test_bad_numbers_are_named(small_checkpoint):
    with pytest.raises(InputError, match="give numbers of at least 1"):
        measure_embedding(EmbedBenchmark(small_checkpoint, batches=()))
