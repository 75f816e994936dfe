"""Measures tracing, lowering and compiling a training step, without and with the cache."""

import dataclasses
import pathlib
import statistics
import tempfile
from collections.abc import Sequence
from typing import Annotated

import tyro
from rich.table import Table

from arcface_jax.arguments import check_choice
from arcface_jax.commands.command import Count, table_of
from arcface_jax.errors import InputError
from arcface_jax.models.registry import names
from arcface_jax.training.abstract import cost

from .compile_cases import step_config
from .measured_process import measure_in_process
from .report import BenchmarkOptions, Ratio, Record, Report, group, ratio_of_rounds

COLD, FILLING, WARM = "no cache", "filling", "cache"
STAGES = ("trace", "lower", "compile")


@dataclasses.dataclass(frozen=True)
class CompileBenchmark(BenchmarkOptions):
    """Published networks with ArcFace and SGD, compiled for one device in a fresh process each."""

    networks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME …")] = (
        "iresnet18",
        "iresnet100",
    )
    """Backbones, by `arcface_jax.models.registry.names()`."""
    image_size: Count = 112
    """Side of the images."""
    width: Count = 64
    """Channels of the first stage; 64 as published."""
    embedding_size: Count = 512
    """Length of the embeddings, D."""
    batch: Count = 8
    """Images of a step, N."""
    classes: Count = 1000
    """Identities of the head, C."""
    rounds: Count = 3
    """How often each is compiled without the cache, and then with it."""
    output: pathlib.Path = pathlib.Path("runs/benchmark-compile")
    """Folder for records.json and the picture."""


def run_compile_benchmark(config: CompileBenchmark) -> int:
    """Fills a cache of its own once for each network, measures, prints a table."""
    for network in config.networks:
        check_choice("networks", network, names())
    if not config.networks:
        raise InputError("--networks: give at least one")
    sizes = ("image_size", "width", "embedding_size", "batch", "classes")
    numbers = [getattr(config, name) for name in sizes]
    report = Report("compile", config)
    with tempfile.TemporaryDirectory() as folder:
        for network in config.networks:
            measure_network(report, network, numbers, config.rounds, folder)
    report.console.print(compile_table(report.records))
    return report.finish(compile_ratios(report.records), "ratio")


def measure_network(
    report: Report, network: str, numbers: Sequence[int], rounds: int, cache: str
) -> None:
    """One process that fills the cache, then a cold and a warm one in every round."""
    kept = {
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    settings = {COLD: {"JAX_ENABLE_COMPILATION_CACHE": "false"}, FILLING: kept, WARM: kept}

    def measure(case: str) -> Record:
        what = f"{network}, {case}"
        found = measure_in_process(
            f"{__package__}.compile_cases", network, numbers, what, settings[case]
        )
        return {"case": case, **found, "flops_needed": needed}

    needed = cost(step_config(network, *numbers[:-1]), numbers[-1], (1,)).step_operations
    with report.work(f"Compiling {network}", 1 + 2 * rounds) as move:
        move(0, FILLING)
        report.add(measure(FILLING))
        move(1)
        for number in range(rounds):
            for case in (COLD, WARM):
                move(0, case)
                report.add({"round": number, **measure(case)})
                move(1)


def compile_ratios(records: Sequence[Record]) -> dict[str, Ratio]:
    """What the cache saves, and how near the compiled operations are to those needed."""
    ratios = {}
    for network, of_network in group(records, "network").items():
        cases = group(of_network, "case")
        one = cases[COLD][0]
        what = (
            f"{network}, {one['image']}×{one['image']}, width {one['width']}, batch {one['batch']}"
        )
        for name, stages in (("all stages", STAGES), ("compile alone", ("compile",))):
            cold, warm = (
                [sum(r[stage] for stage in stages) for r in cases[case]] for case in (COLD, WARM)
            )
            ratios[f"{what}: {name}, no cache / cache"] = ratio_of_rounds(cold, warm)
        counted = [(r["flops_needed"], r["flops"]) for r in cases[COLD] if r["flops"]]
        if counted:
            needed, compiled = zip(*counted, strict=True)
            ratios[f"{what}: operations needed / compiled"] = ratio_of_rounds(needed, compiled)
    return ratios


def compile_table(records: Sequence[Record]) -> Table:
    """Medians over rounds; memory is arguments, results and temporaries together."""
    rows = []
    for case, found in group(records, "network", "case").items():
        seconds = [statistics.median(record[stage] for record in found) for stage in STAGES]
        total = statistics.median(sum(record[stage] for stage in STAGES) for record in found)
        sizes = [found[0][key] for key in ("flops", "bytes_accessed", "peak_bytes")]
        cells = ["–" if size is None else f"{size / 1e9:.2f}" for size in sizes]
        rows.append([*case, *(f"{value:.2f}" for value in (*seconds, total)), *cells])
    header = ("network", "", *STAGES, "all", "GFLOP", "GB moved", "peak GB")
    return table_of(header, rows, left=2, title="Seconds to compile a training step")
