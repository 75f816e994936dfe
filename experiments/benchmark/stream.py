"""Measures orders of a large set: memory, the time to go on, how well they mix, what they fetch."""

import dataclasses
import gc
import os
import pathlib
import time
from typing import Annotated

import numpy as np
from rich.table import Table

from arcface_jax.buckets import BLOCK, RangedFile
from arcface_jax.buckets.cache import CACHE_GIB
from arcface_jax.commands.command import Count, Range, table_of
from arcface_jax.data.pipeline import batches
from arcface_jax.data.samplers import Sampler, Shuffled
from arcface_jax.data.shuffled_pieces import ShuffledPieces
from arcface_jax.data.source import FaceSource, Pieces
from arcface_jax.errors import InputError

from .report import BenchmarkOptions, Record, Report

UNIFORM, BY_PIECES = "uniform", "by pieces"
_SIDE = 4
_BYTES = 10_240


@dataclasses.dataclass(frozen=True)
class StreamBenchmark(BenchmarkOptions):
    """The two orders of training images, on a simulated set: no image is stored or decoded."""

    images: Count = 10_000_000
    """Images of which the order's time and memory are measured, a hundred in a piece."""
    stored: Count = 1_000_000
    """Images of 10 KiB in a simulated bucket, of which the rest is counted."""
    batch: Count = 512
    """Images in a batch, over all processes."""
    cache: Annotated[float, Range(0, 1)] = 0.1
    """Part of the set that the cache of files in buckets holds; a quarter of it is the pool."""
    late: Count = 1_000_000
    """Step at which the order goes on."""
    output: pathlib.Path = pathlib.Path("runs/benchmark-stream")
    """Folder for records.json."""


def run_stream_benchmark(config: StreamBenchmark) -> int:
    """Measures both orders and prints a table."""
    if config.batch < 2 or config.stored < 4 * config.batch:
        raise InputError(
            f"--batch {config.batch:,} --stored {config.stored:,}: an order is judged by batches "
            "of two images or more, four of them in the set; give a smaller batch or more images"
        )
    report = Report("stream", config, ["grain"])
    os.environ[CACHE_GIB] = str(config.cache * config.stored * _BYTES / 2**30)
    for name in (UNIFORM, BY_PIECES):
        with report.work(f"An epoch of {config.images:,} images, {name}"):
            report.add({"order": name, **measure_order(name, config)})
    report.console.print(stream_table(report.records))
    return report.finish({}, bars=False)


class SimulatedFaces(FaceSource):
    """Black images, of which there is an index alone."""

    def __init__(self, count: int):
        self.labels = np.arange(count, dtype=np.int32) // 50
        self.identity_names, self.fingerprint = range(count // 50 + 1), f"{count} simulated"  # type: ignore[assignment]

    def __getitem__(self, index: int) -> np.ndarray:
        return np.zeros((_SIDE, _SIDE, 3), np.uint8)

    def render(self, indices: np.ndarray) -> np.ndarray:
        """All at once."""
        return np.zeros((len(indices), _SIDE, _SIDE, 3), np.uint8)


class SimulatedFile(RangedFile):
    """A file of zeros in object storage, which counts what is asked of it."""

    def __init__(self, size: int, name: str):
        self.path, self._size, self._key = name, size, (name, "1")
        self.requests = self.fetched = 0

    def _fetch(self, start: int, stop: int) -> bytes:
        self.requests += 1
        self.fetched += stop - start
        return bytes(stop - start)


# What is measured
# ----------------------------------------------------------------------------------------


def make_order(name: str, images: int, config: StreamBenchmark) -> Sampler:
    """An order with nothing made yet."""
    if name == UNIFORM:
        return Shuffled(images, config.batch, 0)
    pool = max(1, int(images * config.cache / 4))
    return ShuffledPieces(Pieces(piece_of_image(images), pool), config.batch, 0)


def piece_of_image(images: int) -> np.ndarray:
    """int32 [N]: the block of the file that each image begins in."""
    return (np.arange(images) * _BYTES // BLOCK).astype(np.int32)


def measure_order(name: str, config: StreamBenchmark) -> Record:
    """All that is measured of an order."""
    found: Record = {}
    for key, step in (("seconds_first", 0), ("seconds_late", config.late)):
        order = make_order(name, config.images, config)
        begun = time.perf_counter()
        order.rows(step, 0, config.batch)
        found[key] = time.perf_counter() - begun
        del order
    found |= measure_memory(name, config)
    found |= measure_mixing(make_order(name, config.stored, config), config)
    for processes in (1, 8):
        if config.batch % processes == 0:
            found |= measure_fetching(make_order(name, config.stored, config), config, processes)
    return found


def resident() -> float:
    """MiB of memory that this process has, where Linux tells; else nan."""
    try:
        pages = int(pathlib.Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return float("nan")
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure_memory(name: str, config: StreamBenchmark) -> Record:
    """MiB of the order after the first batches, and what a whole epoch and the start of the next
    add, through the pipeline, in about a thousand batches.
    """
    config = dataclasses.replace(config, batch=max(config.batch, config.images // 1000))
    source, order = SimulatedFaces(config.images), make_order(name, config.images, config)
    steps = config.images // config.batch
    gc.collect()
    before = resident()
    with batches(source, config.batch, _SIDE, 0, sampler=order, threads=1) as iterator:
        for _ in range(steps // 20 + 1):
            next(iterator)
        begin = resident()
        for _ in range(steps):
            next(iterator)
        return {"mib": begin - before, "mib_of_epoch": resident() - begin}


def middle_steps(config: StreamBenchmark) -> tuple[range, range]:
    """Steps in the middle of an epoch, in which the pool is used up once, and as many after."""
    middle = config.stored // config.batch // 2
    count = max(1, int(config.stored * config.cache / 4) // config.batch)
    return range(middle - count, middle), range(middle, middle + count)


def measure_mixing(order: Sampler, config: StreamBenchmark) -> Record:
    """How an order differs from a uniform one.

    Returns:
      same_piece: pairs of a batch's images in one piece, over the pairs that a uniform order has.
      span: the standard deviation of the steps of a piece's images, over that of steps anywhere
        in an epoch.
      correlation: of the place in storage and the time in an epoch, over all images.
    """
    of, steps = piece_of_image(config.stored), config.stored // config.batch
    time_of = np.full(len(of), -1, np.int32)
    pairs = 0
    for step in range(steps):
        images = order.rows(step, 0, config.batch)
        time_of[images] = step
        _, counts = np.unique(of[images], return_counts=True)
        pairs += (counts * (counts - 1)).sum()
    sizes = np.bincount(of)
    uniform = (sizes * (sizes - 1.0)).sum() / (len(of) * (len(of) - 1.0))
    seen = np.flatnonzero(time_of >= 0)
    mean = np.bincount(of[seen], time_of[seen], len(sizes)) / np.maximum(
        np.bincount(of[seen], minlength=len(sizes)), 1
    )
    spread = np.sqrt(np.mean((time_of[seen] - mean[of[seen]]) ** 2))
    return {
        "same_piece": float(pairs) / steps / (config.batch * (config.batch - 1)) / uniform,
        "span": float(spread * np.sqrt(12) / steps),
        "correlation": float(np.corrcoef(seen, time_of[seen])[0, 1]),
    }


def measure_fetching(order: Sampler, config: StreamBenchmark, processes: int) -> Record:
    """Requests for a thousand images, and bytes fetched for a byte used, of one of the processes
    in the middle of an epoch, from a bucket's file that the cache does not hold.
    """
    file = SimulatedFile(config.stored * _BYTES, f"{type(order).__name__} of {processes}")
    rows = config.batch // processes
    for steps in middle_steps(config):
        file.requests = file.fetched = 0
        for step in steps:
            for index in order.rows(step, (processes - 1) * rows, processes * rows):
                file.read(int(index) * _BYTES, (int(index) + 1) * _BYTES)
        used = rows * len(steps)
    return {
        f"requests_{processes}": 1000 * file.requests / used,
        f"bytes_{processes}": file.fetched / used / _BYTES,
    }


def stream_table(records: list[Record]) -> Table:
    """A column for each order."""
    words = {
        "seconds_first": "seconds to the first batch's images",
        "seconds_late": "seconds to those of a late step",
        "mib": "MiB of the order",
        "mib_of_epoch": "MiB more after an epoch",
        "same_piece": "pairs of a batch in one piece, over uniform",
        "span": "time between images of a piece, over uniform",
        "correlation": "correlation of place and time",
        "requests_1": "requests for 1,000 images",
        "bytes_1": "bytes fetched for a byte used",
        "requests_8": "requests, one of 8 processes",
        "bytes_8": "bytes fetched, one of 8 processes",
    }
    rows = [
        [text, *(f"{record[key]:.3g}" for record in records)]
        for key, text in words.items()
        if key in records[0]
    ]
    return table_of(("", *(record["order"] for record in records)), rows, title="Two orders")
