"""Measures the input pipeline beside plain loops: images a second, from a file to a batch."""

import dataclasses
import importlib
import importlib.util
import io
import pathlib
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Literal

import numpy as np
from PIL import Image
from rich.table import Table

from arcface_jax.commands.command import Count, Range, table_of
from arcface_jax.data.convert import convert
from arcface_jax.data.decode import decode
from arcface_jax.data.pipeline import batches
from arcface_jax.data.samplers import Shuffled
from arcface_jax.data.sources.encoded import EncodedSource
from arcface_jax.data.sources.folder import FolderSource
from arcface_jax.data.sources.recordio import RecordIOSource
from arcface_jax.data.synthetic import SyntheticFaces
from arcface_jax.errors import InputError

from .report import BenchmarkOptions, Ratio, Record, Report, rates, ratio_of_rounds

PIPELINE, DECODING, PILLOW, OPENCV = "arcface-jax", "decoding alone", "Pillow", "OpenCV"
FORMATS: tuple[Literal["recordio", "folder"], ...] = ("recordio", "folder")
_NAMES = {"recordio": "RecordIO", "folder": "folder of JPEGs"}
DecodeOne = Callable[[bytes], np.ndarray]


@dataclasses.dataclass(frozen=True)
class DataBenchmark(BenchmarkOptions):
    """Shuffled batches of JPEGs in a RecordIO file and in a folder, of the synthetic faces."""

    identities: Count = 100
    """People."""
    images_per_identity: Count = 20
    """Images of each."""
    stored_sizes: tuple[Count, ...] = (112, 224)
    """Sides of the stored images; others than --image-size are scaled when read."""
    image_size: Count = 112
    """Side of the images in a batch."""
    quality: Annotated[int, Range(1, 100)] = 95
    """Of the JPEGs, 1 … 100."""
    batch: Count = 128
    """Images in a batch."""
    batches: Count = 24
    """Batches in a measurement."""
    threads: Count = 4
    """That decode, in the pipeline and in every loop."""
    rounds: Count = 5
    """How often each is measured, one after the other."""
    output: pathlib.Path = pathlib.Path("runs/benchmark-data")
    """Folder for records.json and the picture; the images go to a temporary folder."""


def run_data_benchmark(config: DataBenchmark) -> int:
    """Writes the files, measures, prints a table."""
    if config.batches < read_ahead(config):
        raise InputError(
            f"batches is {config.batches}; pass {read_ahead(config)} or more: so many are read "
            "ahead"
        )
    if config.identities * config.images_per_identity < config.batch:
        raise InputError(
            f"batch is {config.batch}; pass no more than identities × images-per-identity"
        )
    packages = ["simplejpeg"] if importlib.util.find_spec("simplejpeg") else []
    report = Report("data", config, ["grain", "pillow", *packages])
    decoders = {PILLOW: pillow_decoder(config.image_size)}
    if importlib.util.find_spec("cv2") is None:
        report.say("OpenCV (cv2) is not installed: beside Pillow alone")
    else:
        decoders[OPENCV] = opencv_decoder(config.image_size)
    ratios: dict[str, Ratio] = {}
    with tempfile.TemporaryDirectory() as folder:
        for stored in config.stored_sizes:
            faces = SyntheticFaces(config.identities, config.images_per_identity, image_size=stored)
            for kind in FORMATS:
                place = pathlib.Path(folder) / f"{kind}-{stored}"
                with report.work(f"Writing {_NAMES[kind]}, {stored}×{stored}"):
                    source = write_images(faces, place, kind, config.quality)
                with report.work(f"Reading {_NAMES[kind]}, {stored}×{stored}"):
                    records = measure_source(source, decoders, config)
                report.add(*({"format": kind, "stored": stored, **record} for record in records))
                what = (
                    f"{_NAMES[kind]}, {stored}×{stored} to {config.image_size}×{config.image_size}"
                )
                ratios |= source_ratios(what, records)
    report.console.print(data_table(report.records))
    return report.finish(ratios)


def write_images(
    faces: SyntheticFaces,
    destination: pathlib.Path,
    kind: Literal["recordio", "folder"],
    quality: int,
) -> EncodedSource:
    """The faces as JPEGs on disk, opened."""
    convert(faces, destination, kind, jpeg_quality=quality)
    if kind == "recordio":
        return RecordIOSource(destination / "train.rec")
    return FolderSource(destination)


# What is measured
# ----------------------------------------------------------------------------------------


def pillow_decoder(size: int) -> DecodeOne:
    """The usual line with Pillow."""

    def read(encoded: bytes) -> np.ndarray:
        image = Image.open(io.BytesIO(encoded)).convert("RGB")
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BICUBIC)
        return np.asarray(image)

    return read


def opencv_decoder(size: int) -> DecodeOne:
    """The usual lines with OpenCV; area interpolation does not alias where it scales down."""
    cv2 = importlib.import_module("cv2")
    cv2.setNumThreads(1)  # the loop has its own

    def read(encoded: bytes) -> np.ndarray:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
        if image.shape[:2] != (size, size):
            image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    return read


def read_ahead(config: DataBenchmark) -> int:
    """The most batches that are ready, or in the making, before they are asked for."""
    return max(config.threads, 4)


def pipeline_rate(source: EncodedSource, config: DataBenchmark, seed: int) -> float:
    """Images a second of the pipeline under way, by the times at which batches come out of it.

    Those read ahead are not counted: they would be a gift.
    """
    with batches(source, config.batch, config.image_size, seed, threads=config.threads) as iterator:
        for _ in range(read_ahead(config)):
            next(iterator)
        begun = time.perf_counter()
        for _ in range(config.batches):
            next(iterator)
        return config.batches * config.batch / (time.perf_counter() - begun)


def loop_rate(
    work: Callable[[np.ndarray], object], source: EncodedSource, config: DataBenchmark, seed: int
) -> float:
    """Images a second of a function of a batch's image numbers, called by a pool of threads."""
    sampler = Shuffled(len(source), config.batch, seed)
    with ThreadPoolExecutor(config.threads) as pool:
        begun = time.perf_counter()
        for _ in pool.map(
            lambda step: work(sampler.rows(step, 0, config.batch)), range(config.batches)
        ):
            pass
        return config.batches * config.batch / (time.perf_counter() - begun)


def measure_source(
    source: EncodedSource, decoders: dict[str, DecodeOne], config: DataBenchmark
) -> list[Record]:
    """Images a second of everything in every round."""
    # Decoding alone has them in memory.
    encoded = [source.encoded(index) for index in range(len(source))]

    def decode_alone(rows: np.ndarray) -> None:
        for row in rows:
            decode(encoded[row], "image")

    def plain(read: DecodeOne) -> Callable[[np.ndarray], np.ndarray]:
        return lambda rows: np.stack([read(source.encoded(int(row))) for row in rows])

    loops = {DECODING: decode_alone, **{name: plain(read) for name, read in decoders.items()}}
    found: dict[str, list[float]] = {name: [] for name in (PIPELINE, *loops)}
    for seed in range(config.rounds):
        found[PIPELINE].append(pipeline_rate(source, config, seed))
        for name, work in loops.items():
            found[name].append(loop_rate(work, source, config, seed))
    return [{"case": name, "images_per_second": measured} for name, measured in found.items()]


def source_ratios(what: str, records: list[Record]) -> dict[str, Ratio]:
    """The pipeline's speed over every loop's."""
    found = {record["case"]: record["images_per_second"] for record in records}
    ours = found.pop(PIPELINE)
    return {f"{what}, beside {name}": ratio_of_rounds(ours, one) for name, one in found.items()}


def data_table(records: list[Record]) -> Table:
    """Medians over rounds, and the range."""
    rows = [
        [_NAMES[one["format"]], str(one["stored"]), one["case"], *rates(one["images_per_second"])]
        for one in records
    ]
    header = ("files", "stored", "", "median", "lowest", "highest")
    return table_of(header, rows, left=3, title="Images a second")
