"""Measures a training step of a network beside the same one in plain PyTorch, if installed."""

import dataclasses
import importlib.util
import pathlib
import statistics
from collections.abc import Sequence
from typing import Annotated

import tyro
from rich.table import Table

from arcface_jax.commands.command import Count, table_of
from arcface_jax.errors import InputError
from arcface_jax.models.iresnet import STAGE_BLOCKS

from .measured_process import measure_in_process
from .report import (
    BenchmarkOptions,
    Ratio,
    Record,
    Report,
    group,
    rates,
    ratio_of_rounds,
    round_seconds,
)
from .step_cases import OURS, TORCH, TORCH_WIDTH

Size = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class StepBenchmark(BenchmarkOptions):
    """A float32 training step of IResNet with ArcFace: forward, backward, SGD with momentum."""

    sizes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="IMAGE,WIDTH,BATCH …")] = (
        "32,16,64",
        "112,32,16",
        "112,64,8",
    )
    """Side of the images, channels of the first stage (64 as published), batch."""
    depth: Count = 18
    """Of the IResNet."""
    embedding_size: Count = 512
    """Length of the embeddings, D."""
    classes: Count = 1000
    """Identities of the head, C."""
    rounds: Count = 5
    """How many times each is measured, in turn, each in a process of its own."""
    steps: Count = 10
    """Steps timed in a measurement, after two that are not."""
    output: pathlib.Path = pathlib.Path("runs/benchmark-step")
    """Folder for records.json and the picture."""


def run_step_benchmark(config: StepBenchmark) -> int:
    """Measures, prints a table, writes every record."""
    if config.depth not in STAGE_BLOCKS:
        raise InputError(
            f"depth is {config.depth}; choose one of {', '.join(map(str, STAGE_BLOCKS))}"
        )
    sizes = [read_size(text) for text in config.sizes]
    cases = (OURS, TORCH) if importlib.util.find_spec("torch") else (OURS,)
    narrow = [
        text for text, (_, width, _) in zip(config.sizes, sizes, strict=True) if width < TORCH_WIDTH
    ]
    if narrow and TORCH in cases:
        raise InputError(
            f"sizes has {narrow[0]!r}: PyTorch crashes with a width below {TORCH_WIDTH} (a fault "
            "of oneDNN's); take a wider network, or measure without PyTorch installed"
        )
    report = Report("step", config, [TORCH] if TORCH in cases else [])
    if TORCH not in cases:
        report.say("torch is not installed: no comparison")
    with report.work("Measuring", len(sizes) * config.rounds * len(cases)) as move:
        for size in sizes:
            for number in range(config.rounds):
                of_round = []
                for case in cases:
                    move(0, f"{case} at {','.join(map(str, size))}")
                    of_round.append({"round": number, **measure_case(case, size, config)})
                    move(1)
                report.add(*of_round)
    report.console.print(step_table(report.records, f"iresnet{config.depth}, one training step"))
    return report.finish(step_ratios(report.records))


def read_size(text: str) -> Size:
    """(image, width, batch) of "112,64,8"."""
    parts = text.split(",")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f"sizes has {text!r}; write image side, width and batch, such as 112,64,8")
    image, width, batch = map(int, parts)
    return image, width, batch


def measure_case(case: str, size: Size, config: StepBenchmark) -> Record:
    """Runs `step_cases` for one case."""
    numbers = (config.depth, *size, config.embedding_size, config.classes, config.steps)
    return measure_in_process(
        f"{__package__}.step_cases", case, numbers, f"{case} at {','.join(map(str, size))}"
    )


def by_size(records: Sequence[Record]) -> dict[Size, dict[str, list[Record]]]:
    """Records by image side, width and batch, then case, in the order of the rounds."""
    sizes = group(records, "image", "width", "batch")
    return {size: group(of_size, "case") for size, of_size in sizes.items()}


def step_ratios(records: Sequence[Record]) -> dict[str, Ratio]:
    """How many times as fast as PyTorch a step is at every size that both were measured at."""
    ratios = {}
    for (image, width, batch), cases in by_size(records).items():
        if TORCH in cases:
            name = (
                f"iresnet{cases[OURS][0]['depth']}, {image}×{image}, width {width}, batch {batch}, "
                "beside PyTorch"
            )
            ratios[name] = ratio_of_rounds(round_seconds(cases[TORCH]), round_seconds(cases[OURS]))
    return ratios


def step_table(records: Sequence[Record], title: str) -> Table:
    """Medians over rounds of each round's median; ratios are of the same round.

    start is the time until the first step is done, compilation included; temporary, what XLA plans
    beside the state.
    """
    rows = []
    for size, cases in by_size(records).items():
        for case, rounds in cases.items():
            seconds = round_seconds(rounds)
            ratio = "–"
            if TORCH in cases:
                ratio = f"{ratio_of_rounds(round_seconds(cases[TORCH]), seconds).median:.2f}"
            planned = rounds[0]["planned_temporary_mb"]
            start = statistics.median(one["seconds_until_ready"] for one in rounds)
            speeds = rates([size[2] / value for value in seconds])
            memory = "–" if planned is None else f"{planned:.0f}"
            rows.append((", ".join(map(str, size)), case, *speeds, ratio, f"{start:.1f}", memory))
    header = ("image, width, batch", "", "images/s", "lowest", "highest", "× torch", "start, s")
    table = table_of((*header, "temp. MB"), rows, left=2, title=title)
    table.columns[1].no_wrap = True
    return table
