"""Measures training steps, heads, embedding and the input pipeline on one device, within a bound.

Every measurement runs in another process than this one, which leaves the device alone. The table
is written anew after each, so that a run that is stopped has measured something.
"""

import csv
import dataclasses
import importlib.util
import io
import pathlib
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Annotated

import jax
import tyro

from arcface_jax.commands.command import Count, Positive, table_of
from arcface_jax.errors import InputError
from arcface_jax.evaluation.tables import markdown_table
from arcface_jax.files import write_whole
from arcface_jax.heads.chunks import ACCELERATOR_CHUNK
from arcface_jax.models import registry
from arcface_jax.training.abstract import forward_operations
from arcface_jax.training.step_time import PEAKS

from .measured_process import records_of_process
from .report import BenchmarkOptions, Ratio, Record, Report, ratio_of_rounds

IN_TORCH = ("iresnet", "vit")
HEADER = (
    *("what", "case", "batch", "classes", "precision", "images/s", "ms", "TFLOP/s"),
    *("of product rate, %", "of peak, %", "planned GB", "held GB"),
    *("compile, s", "× PyTorch", "note"),
)


@dataclasses.dataclass(frozen=True)
class AcceleratorBenchmark(BenchmarkOptions):
    """Steps in bfloat16, heads at every precision, embedding and input pipeline on one device."""

    minutes: Positive = 8.0
    """The whole ends after so long; what was not reached is named."""
    networks: tuple[str, ...] = ("iresnet50", "iresnet100", "vit_b")
    """Networks to step; IResNet and ViT beside PyTorch, where it is installed."""
    batches: tuple[Count, ...] = (256, 512, 128, 64)
    """Images of a step; the first of every network, then all else, then the others."""
    image_size: Count = 112
    """Side of the images."""
    width: Count = 64
    """Channels of the first stage; 64 as published."""
    embedding_size: Count = 512
    """Length of the embeddings, D."""
    step_classes: Count = 10_000
    """Identities of the head in a network's step."""
    classes: tuple[Count, ...] = (100_000, 1_000_000, 10_000_000)
    """Numbers of identities of the head alone, C."""
    head_batch: Count = 1024
    """Embeddings of a step of the head alone, N."""
    chunk: Count = ACCELERATOR_CHUNK
    """Classes at a time."""
    steps: Count = 10
    """Steps timed in a measurement, after two that are not."""
    product: Count = 8192
    """Side of the square product whose rate the others are compared with."""
    output: Annotated[pathlib.Path, tyro.conf.arg(metavar="DIR")] = pathlib.Path(
        "runs/benchmark-accelerator"
    )
    """Folder for accelerator.md, accelerator.csv and records.json."""


@dataclasses.dataclass(frozen=True)
class Part:
    """What one process measures: its title, case and numbers."""

    title: str
    case: str
    numbers: tuple[int, ...]


def parts_of(config: AcceleratorBenchmark, torch: bool) -> list[Part]:
    """All parts after the device's, the most telling first."""
    sizes = (config.image_size, config.width, config.embedding_size, config.step_classes)
    first, *rest = config.batches

    def steps_of(*batches: int) -> Iterator[Part]:
        numbers = (*sizes, config.steps, *batches)
        for name in config.networks if batches else ():
            yield Part(f"step of {name}", name, numbers)
            if torch and name.startswith(IN_TORCH):
                yield Part(f"step of {name} in PyTorch", f"torch-{name}", numbers)

    heads = [
        Part(
            f"head over {classes:,} classes",
            "head",
            (classes, config.embedding_size, config.head_batch, config.chunk, config.steps),
        )
        for classes in config.classes
    ]
    name = config.networks[0]
    others = [
        Part(f"embedding by {name}", f"embed-{name}", (*sizes, config.steps, first)),
        Part("input pipeline", "data", (config.image_size, first, 8 * first)),
    ]
    return [*steps_of(first), *heads, *others, *steps_of(*rest)]


def run_accelerator_benchmark(config: AcceleratorBenchmark) -> int:
    """Measures part by part until the time is over; a table, a file, ratios."""
    if not config.networks or not config.batches:
        raise InputError("networks and batches: give one or more of each")
    unknown = [name for name in config.networks if name not in registry.names()]
    if unknown:
        raise InputError(f"networks has {unknown[0]!r}; choose among {', '.join(registry.names())}")
    end = time.monotonic() + 60 * config.minutes
    # The device is the other processes': a TPU can be had by one at a time.
    jax.config.update("jax_platforms", "cpu")
    module = f"{__package__}.accelerator_cases"
    numbers = (config.product,)
    device, *_ = records_of_process(module, "device", numbers, 60 * config.minutes)
    if "failed" in device:
        raise InputError(f"the device cannot be measured: {device['failed']}")
    torch = importlib.util.find_spec("torch") is not None
    report = Report("accelerator", config, ["torch"] if torch else [], device["what"])
    if not torch:
        report.say("torch is not installed: no comparison with it")
    add(report, config, device)
    parts = parts_of(config, torch)
    with report.work("Measuring", len(parts)) as move:
        for number, part in enumerate(parts):
            left = end - time.monotonic()
            if left <= 0:
                add(report, config, {"case": "left out", "what": part.title, "failed": "no time"})
                continue
            move(0, part.title)
            # One part may have twice its share of what is left.
            limit = min(left, 2 * left / (len(parts) - number))
            for record in records_of_process(module, part.case, part.numbers, limit):
                add(report, config, {"case": "ended", "what": part.title} | record)
            move(1)
    rows = rows_of(report.records, config)
    columns = [*range(7), 8, 9, 13, 14]
    shown = [[row[column] for column in columns] for row in rows]
    titles = [HEADER[column] for column in columns]
    report.console.print(table_of(titles, shown, left=2, title=device["what"]))
    for ending in ("md", "csv"):
        report.say(str(table_file(config, ending)))
    return report.finish(torch_ratios(report.records), bars=False)


def table_file(config: AcceleratorBenchmark, ending: str) -> pathlib.Path:
    """Where the table is written."""
    return config.output / f"accelerator.{ending}"


def add(report: Report, config: AcceleratorBenchmark, record: Record) -> None:
    """Keeps a record, and writes the tables with it."""
    report.add(record)
    rows, text = rows_of(report.records, config), io.StringIO()
    csv.writer(text).writerows([HEADER, *rows])
    write_whole(table_file(config, "csv"), text.getvalue())
    title = f"{report.records[0]['what']}, {config.image_size}×{config.image_size}"
    title += f", D = {config.embedding_size}\n\n"
    write_whole(table_file(config, "md"), title + markdown_table(HEADER, rows))


def operations_of(record: Record, config: AcceleratorBenchmark) -> float | None:
    """Floating-point operations of a step: forward and twice that backward, and the head's three
    products.
    """
    if record["case"] == "head":
        return float(record["operations"])
    if record["case"] not in ("step", "torch", "embed"):
        return None
    network = registry.create(
        record["what"], width=config.width, embedding_size=config.embedding_size
    )
    forward = forward_operations(network, config.image_size)
    if record["case"] == "embed":
        return record["batch"] * forward
    head = 6.0 * record["batch"] * config.step_classes * config.embedding_size
    return 3 * record["batch"] * forward + head


def torch_ratios(records: Sequence[Record]) -> dict[str, Ratio]:
    """How many times as fast as PyTorch a step is, where both were measured."""
    theirs = {(one["what"], one["batch"]): one for one in records if one["case"] == "torch"}
    ratios = {}
    for one in records:
        other = theirs.get((one["what"], one.get("batch")))
        if one["case"] == "step" and other and "seconds" in one and "seconds" in other:
            name = f"{one['what']}, batch {one['batch']}, beside PyTorch"
            ratios[name] = ratio_of_rounds(other["seconds"], one["seconds"])
    return ratios


def peak_of(device: str) -> float | None:
    """The maker's figure for a device, where it is known."""
    return next((peak for name, peak in PEAKS.items() if name in device), None)


def rows_of(records: Sequence[Record], config: AcceleratorBenchmark) -> list[list[str]]:
    """One row a record, the device's products first; a dash for what does not apply."""
    device, ratios = records[0], torch_ratios(records)
    peak = peak_of(device["what"])
    return [
        *device_rows(device, peak),
        *(row_of(one, config, device, peak, ratios) for one in records[1:]),
    ]


def device_rows(device: Record, peak: float | None) -> Iterator[list[str]]:
    """The measured product rates."""
    for precision in ("highest", "high", "bfloat16"):
        rate = device[precision]
        share = "–" if peak is None else f"{100 * rate / peak:.1f}"
        about = [device["what"], "product", "–", "–", precision, "–", "–", f"{rate / 1e12:.2f}"]
        yield [*about, "100", share, "–", "–", "–", "–", ""]


def row_of(
    record: Record,
    config: AcceleratorBenchmark,
    device: Record,
    peak: float | None,
    ratios: dict[str, Ratio],
) -> list[str]:
    """A record as text, in the order of `HEADER`."""
    batch, case = record.get("batch"), record["case"]
    classes = record.get("classes", config.step_classes if case in ("step", "torch") else None)
    precision = record.get("precision", "bfloat16" if case in ("step", "torch", "embed") else None)
    about = [record["what"], case, *("–" if x is None else str(x) for x in (batch, classes))]
    about.append(precision or "–")
    if "seconds" not in record:
        return [*about, *["–"] * 9, str(record.get("failed", ""))]
    seconds = statistics.median(record["seconds"])
    operations = operations_of(record, config)
    numbers = ["–"] * 3
    if operations is not None and precision is not None:
        rate = operations / seconds
        share = "–" if peak is None else f"{100 * rate / peak:.1f}"
        numbers = [f"{rate / 1e12:.2f}", f"{100 * rate / device[precision]:.1f}", share]
    compiled = record.get("seconds_to_compile")
    memory = [record.get(name) for name in ("planned_gb", "peak_gb")]
    ratio = ratios.get(f"{record['what']}, batch {batch}, beside PyTorch")
    return [
        *about,
        f"{record['batch'] / seconds:.0f}",
        f"{1e3 * seconds:.2f}",
        *numbers,
        *("–" if gigabytes is None else f"{gigabytes:.2f}" for gigabytes in memory),
        "–" if compiled is None else f"{compiled:.1f}",
        str(ratio) if ratio and case == "step" else "–",
        "",
    ]
