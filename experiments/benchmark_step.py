"""Measures a training step of a network beside the same network in plain PyTorch, if that is installed."""

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import statistics
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import tyro
from rich.console import Console
from rich.table import Table

from arcface_jax.errors import InputError
from arcface_jax.models.iresnet import STAGE_BLOCKS
from experiments.measured_process import measure_in_process
from experiments.step_cases import OURS, TORCH

Records = Sequence[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class StepBenchmark:
    """A training step of IResNet with ArcFace (forward, backward, SGD with momentum), float32, everything in turn."""

    sizes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="IMAGE,WIDTH,BATCH …")] = (
        "32,16,64",
        "112,32,16",
        "112,64,8",
    )
    """Side of the images, channels of the first stage (64 as published), batch."""
    depth: int = 18
    """Of the IResNet."""
    embedding_size: int = 512
    """D."""
    classes: int = 1000
    """C, identities of the head."""
    rounds: int = 5
    """How many times each is measured, the two one after the other, each in a process of its own."""
    steps: int = 10
    """Steps timed in a measurement, after two that are not."""
    output: pathlib.Path = pathlib.Path("runs/benchmark-step")
    """Folder for records.json."""


def run_step_benchmark(config: StepBenchmark) -> None:
    """Measures, prints a table, writes every record."""
    if config.depth not in STAGE_BLOCKS:
        raise InputError(f"depth is {config.depth}; choose one of {', '.join(map(str, STAGE_BLOCKS))}")
    if config.rounds < 1 or config.steps < 1:
        raise InputError(f"rounds and steps are {config.rounds} and {config.steps}; pass 1 or more")
    console = Console()
    sizes = [read_size(text) for text in config.sizes]
    cases = (OURS, TORCH) if importlib.util.find_spec("torch") else (OURS,)
    about = machine(cases)
    console.print(", ".join(f"{key} {value}" for key, value in about.items()), highlight=False, soft_wrap=True)
    if TORCH not in cases:
        console.print("torch is not installed: no comparison")
    records = []
    for size in sizes:
        for number in range(config.rounds):
            records += [{"round": number, **measure_case(case, size, config)} for case in cases]
        config.output.mkdir(parents=True, exist_ok=True)
        (config.output / "records.json").write_text(json.dumps({"machine": about, "records": records}, indent=1))
    console.print(step_table(records, f"iresnet{config.depth}, one training step"))
    console.print(str(config.output / "records.json"), highlight=False, soft_wrap=True)


def read_size(text: str) -> tuple[int, int, int]:
    """(image, width, batch) of "112,64,8"."""
    parts = text.split(",")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f"sizes has {text!r}; write image side, width and batch, such as 112,64,8")
    image, width, batch = map(int, parts)
    return image, width, batch


def machine(cases: Sequence[str]) -> dict[str, str]:
    """What figures depend on."""
    names = ["jax", "jaxlib", "flax", *(["torch"] if TORCH in cases else [])]
    versions = {name: importlib.metadata.version(name) for name in names}
    processor = platform.processor() or platform.machine()
    information = pathlib.Path("/proc/cpuinfo")
    if information.exists():
        models = [
            line.split(":", 1)[1].strip() for line in information.read_text().splitlines() if "model name" in line
        ]
        processor = models[0] if models else processor
    tuned = {name: os.environ[name] for name in ("GLIBC_TUNABLES", "XLA_FLAGS") if name in os.environ}
    return {
        "device": jax.devices()[0].device_kind,
        "processor": processor,
        "cores": str(os.cpu_count()),
        "Python": platform.python_version(),
        **versions,
        **tuned,
    }


def measure_case(case: str, size: tuple[int, int, int], config: StepBenchmark) -> dict[str, Any]:
    """Runs `experiments.step_cases` for one case."""
    numbers = (config.depth, *size, config.embedding_size, config.classes, config.steps)
    return measure_in_process("experiments.step_cases", case, numbers, f"{case} at {','.join(map(str, size))}")


def step_table(records: Records, title: str) -> Table:
    """Medians over rounds of each round's median; ratios are of the same round.

    start is the time until the first step is done, compilation included; temporary, what XLA plans beside the state.
    """
    table = Table(title=title)
    for column in ("image, width, batch", "", "images/s", "lowest", "highest", "× torch", "start, s", "temporary MB"):
        table.add_column(column, justify="right" if column else "left")
    groups: dict[tuple[int, int, int], dict[str, list[dict[str, Any]]]] = {}
    for record in records:
        size = (record["image"], record["width"], record["batch"])
        groups.setdefault(size, {}).setdefault(record["case"], []).append(record)
    for size, cases in groups.items():
        seconds = {case: [statistics.median(r["seconds"]) for r in rounds] for case, rounds in cases.items()}
        for case, rounds in cases.items():
            rates = [size[2] / value for value in seconds[case]]
            ratio = "–"
            if TORCH in seconds:
                pairs = zip(seconds[TORCH], seconds[case], strict=True)
                ratio = f"{statistics.median(theirs / ours for theirs, ours in pairs):.2f}"
            planned = rounds[0]["planned_temporary_mb"]
            table.add_row(
                ", ".join(map(str, size)),
                case,
                *(f"{rate:.1f}" for rate in (statistics.median(rates), min(rates), max(rates))),
                ratio,
                f"{statistics.median(r['seconds_until_ready'] for r in rounds):.1f}",
                "–" if planned is None else f"{planned:.0f}",
            )
    return table
