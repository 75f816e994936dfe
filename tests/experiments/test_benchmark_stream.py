"""The benchmark of orders: on a small set, with what it must find there."""

import contextlib
import json
import os

import numpy as np
import pytest

from arcface_jax.buckets import BLOCK, cache
from arcface_jax.data.samplers import Shuffled
from experiments.benchmark import __main__ as benchmark
from experiments.benchmark.stream import (
    SimulatedFaces,
    SimulatedFile,
    StreamBenchmark,
    measure_memory,
    measure_mixing,
)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch):
    """A cache of 20 MiB, where the benchmark would set its own for the whole process."""
    monkeypatch.setenv(cache.CACHE_GIB, "1")
    with contextlib.closing(cache.RingBuffer(20 << 20)) as ring:
        monkeypatch.setattr("arcface_jax.buckets.ranged.process_cache", lambda: ring)
        yield


def test_both_orders_are_measured(tmp_path, type_command):
    options = "--images 4000 --stored 20000 --batch 32 --late 100"
    status, printed, error = type_command(
        benchmark.main, "stream", *options.split(), "--output", tmp_path
    )
    assert status == 0, error
    uniform, by_pieces = json.loads((tmp_path / "records.json").read_text())["records"]
    assert (uniform["order"], by_pieces["order"]) == ("uniform", "by pieces")
    assert uniform["same_piece"] == pytest.approx(1, abs=0.3)
    assert uniform["span"] == pytest.approx(1, abs=0.02)
    assert by_pieces["span"] < 0.2
    assert max(abs(one["correlation"]) for one in (uniform, by_pieces)) < 0.3
    assert by_pieces["requests_1"] < uniform["requests_1"] / 10
    assert by_pieces["bytes_1"] < 2 < uniform["bytes_1"]
    assert by_pieces["requests_8"] < uniform["requests_8"]
    assert "requests for 1,000 images" in printed
    assert os.environ[cache.CACHE_GIB] != "1"


def test_a_simulated_file_counts_what_is_asked():
    file = SimulatedFile(10 * BLOCK, "zeros")
    assert file.read(5, 9) == bytes(4)
    assert (file.requests, file.fetched) == (1, BLOCK // 32)


def test_simulated_faces_are_a_source():
    faces = SimulatedFaces(120)
    assert len(faces) == 120
    assert len(faces.identity_names) > faces.labels.max()
    assert faces.render(np.arange(3)).shape == (3, *faces[0].shape)


def test_an_order_that_stays_in_place_is_found_out():
    class InOrder(Shuffled):
        def rows(self, step, start, stop):
            return step * self.batch_size + np.arange(start, stop)

    found = measure_mixing(InOrder(4000, 32, 0), StreamBenchmark(stored=4000, batch=32))
    assert found["correlation"] == pytest.approx(1, abs=1e-3)
    assert found["same_piece"] > 20
    assert found["span"] < 0.05


def test_memory_is_measured_through_the_pipeline():
    found = measure_memory("by pieces", StreamBenchmark(images=4000, batch=32))
    assert found.keys() == {"mib", "mib_of_epoch"}
