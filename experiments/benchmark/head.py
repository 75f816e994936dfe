"""Measures a training step of the head, beside dense and PyTorch, what it sends, and what lower
precision does to it.
"""

import dataclasses
import functools
import importlib.util
import itertools
import pathlib
import statistics
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from arcface_jax.commands.command import Count, Positive, new_console, progress_bar, table_of
from arcface_jax.errors import InputError
from arcface_jax.figures.benchmark import head_growth
from arcface_jax.heads.chunks import DEFAULT_CHUNK
from arcface_jax.heads.sampling import hard_classes, partition_recall, sample_classes
from arcface_jax.heads.traffic import collective_bytes
from arcface_jax.losses import margin_softmax_loss
from arcface_jax.training.head_plan import HeadSize, compile_step, predicted_memory

from .head_cases import CASES, TORCH, head_size
from .measured_process import measure_in_process
from .report import BenchmarkOptions, Ratio, Record, Report, group, ratio_of_rounds, round_seconds

Records = list[Record]


@dataclasses.dataclass(frozen=True)
class HeadBenchmark(BenchmarkOptions):
    """A training step of the head (loss, gradients, SGD with momentum): time and peak memory."""

    batches: tuple[Count, ...] = (256, 1024)
    """Batch sizes N."""
    classes: tuple[Count, ...] = (10_000, 100_000, 1_000_000)
    """Numbers of identities C."""
    dim: Count = 512
    """Length of the embeddings, D."""
    chunk: Count = DEFAULT_CHUNK
    """Classes at a time."""
    heads: Annotated[tuple[str, ...], tyro.conf.arg(metavar="HEAD …")] = (TORCH, *CASES)
    """Which: torch, dense, chunked, fused-float32, fused-bfloat16, partial-0.1."""
    rounds: Count = 3
    """How many times every head is measured; each round runs all heads one after the other."""
    steps: Count = 2
    """Steps timed in a measurement, after one that is not."""
    memory_gb: Positive = 12.0
    """Heads that would need more than this are left out, and said to be."""
    traffic: bool = False
    """Count instead what travels between devices, in programs compiled for 2, 4 and 8 of them."""
    recall: bool = False
    """Measure instead how much of the exact partition function a part of the classes holds."""
    errors: bool = False
    """Measure instead how far loss and gradients are from float64 at each precision of products."""
    output: pathlib.Path = pathlib.Path("runs/benchmark-head")
    """Folder for records.json and the pictures."""


def run_head_benchmark(config: HeadBenchmark) -> int:
    """Does what `config` asks for."""
    for head in config.heads:
        if head not in (TORCH, *CASES):
            raise InputError(f"heads has {head!r}; choose among {', '.join((TORCH, *CASES))}")
    instead = {"traffic": count_traffic, "recall": measure_recall, "errors": measure_errors}
    wanted = [name for name in instead if getattr(config, name)]
    if not wanted:
        if TORCH in config.heads and importlib.util.find_spec("torch") is None:
            print("torch is not installed: no comparison with it")
            config = dataclasses.replace(
                config, heads=tuple(head for head in config.heads if head != TORCH)
            )
        return measure_heads(config)
    if config.compare is not None:
        raise InputError(f"--compare is for time and memory; leave out --{wanted[0]}, or --compare")
    for name in wanted:
        instead[name](new_console(), config)
    return 0


# Time and memory
# ----------------------------------------------------------------------------------------


def needed_gb(case: str, batch: int, classes: int, config: HeadBenchmark) -> float:
    """GB a case needs; PyTorch's keeps the normalised weights and their gradient besides."""
    size = head_size(case, batch, classes, config.dim, config.chunk)
    extra = 2 * classes * config.dim * 4 + 2 * batch * classes * 4 if case == TORCH else 0
    return (predicted_memory(size).total + extra) / 1e9


def measure_case(case: str, batch: int, classes: int, config: HeadBenchmark) -> Record:
    """Runs `head_cases` for one case."""
    numbers = (batch, classes, config.dim, config.chunk, config.steps)
    return measure_in_process(
        f"{__package__}.head_cases", case, numbers, f"{case} with N = {batch}, C = {classes}"
    )


def measure_heads(config: HeadBenchmark) -> int:
    """Measures every head at every size, prints tables, and draws growth with C for every N."""
    report = Report("head", config, [TORCH] if TORCH in config.heads else [])
    ratios: dict[str, Ratio] = {}
    for batch in config.batches:
        for classes in config.classes:
            kept = [
                head
                for head in config.heads
                if needed_gb(head, batch, classes, config) <= config.memory_gb
            ]
            for head in set(config.heads) - set(kept):
                need = needed_gb(head, batch, classes, config)
                report.say(f"N = {batch}, C = {classes:,}: {head} left out, it needs {need:.1f} GB")
            turns = list(kept) * config.rounds
            here = []
            with report.work(f"N = {batch}, C = {classes:,}", len(turns)) as move:
                for head in turns:
                    move(0, head)
                    here.append(measure_case(head, batch, classes, config))
                    move(1)
            report.add(*here)
            report.console.print(size_table(here, batch, classes))
            ratios |= head_ratios(here, batch, classes)
    for batch in config.batches:
        chosen = [record for record in report.records if record["batch"] == batch]
        seconds, megabytes = by_head(chosen, "seconds"), by_head(chosen, "peak_mb")
        if seconds:
            title = (
                f"One step of the head: N = {batch}, D = {config.dim}, "
                f"{jax.devices()[0].device_kind}"
            )
            report.draw(head_growth(seconds, megabytes, title), f"head_growth_{batch}")
    return report.finish(ratios, "times as fast, or as small", bars=False)


def by_head(records: Records, quantity: str) -> dict[str, dict[int, float]]:
    """Medians over steps and rounds, by head and number of identities."""
    medians: dict[str, dict[int, float]] = {}
    for (head, classes), found in group(records, "case", "classes").items():
        values = np.concatenate([np.atleast_1d(record[quantity]) for record in found])
        medians.setdefault(head, {})[classes] = float(np.median(values))
    return medians


def head_ratios(records: Records, batch: int, classes: int) -> dict[str, Ratio]:
    """How many times as fast and small as PyTorch's head, or the dense one, each is at a size."""
    rounds, ratios = group(records, "case"), {}
    other, name = (TORCH, "PyTorch") if TORCH in rounds else ("dense", "dense")
    for head, measured in rounds.items():
        if head == other or other not in rounds:
            continue
        what = f"N = {batch}, C = {classes:,}, {head} beside {name}"
        ratios[f"{what}: speed"] = ratio_of_rounds(
            round_seconds(rounds[other]), round_seconds(measured)
        )
        theirs, own = ([one["peak_mb"] for one in found] for found in (rounds[other], measured))
        if min(*theirs, *own) > 0:  # a tiny head may fit in pages that the process has already
            ratios[f"{what}: memory"] = ratio_of_rounds(theirs, own)
    return ratios


def size_table(records: Records, batch: int, classes: int) -> Table:
    """All heads at one size. × is how many times as fast: medians of the rounds' own ratios, so
    that a slow moment counts for all. temp. is what XLA plans besides the state.
    """
    rounds, rows = group(records, "case"), []

    def ratio(top: str, bottom: str) -> str:
        if top not in rounds or bottom not in rounds:
            return "–"
        of_rounds = ratio_of_rounds(round_seconds(rounds[top]), round_seconds(rounds[bottom]))
        return f"{of_rounds.median:.2f}"

    for head, measured in rounds.items():
        rates = [
            r["operations"] / statistics.median(r["seconds"]) / r["matmul_rate"] for r in measured
        ]
        row = (
            head,
            f"{statistics.median(round_seconds(measured)):.3f}",
            ratio(TORCH, head),
            ratio("dense", head),
            "–" if head == TORCH else f"{100 * statistics.median(rates):.0f} %",
            f"{statistics.median(r['peak_mb'] for r in measured):.0f}",
            "–" if head == TORCH else f"{measured[0]['planned_temporary_mb']:.1f}",
        )
        rows.append(row)
    header = ("head", "s/step", "× torch", "× dense", "of matmul rate", "peak MB", "temp. MB")
    table = table_of(header, rows, title=f"N = {batch}, C = {classes:,}: medians")
    table.columns[0].no_wrap = True
    return table


# Traffic, recall, errors
# ----------------------------------------------------------------------------------------


def count_traffic(console: Console, config: HeadBenchmark) -> None:
    """Bytes by collective on each device, of programs compiled for simulated devices."""
    jax.config.update("jax_num_cpu_devices", 8)
    kinds, rows = ("all-gather", "all-reduce", "reduce-scatter"), []
    cases = list(
        itertools.product(
            ("chunked", "fused", "partial"), (2, 4, 8), config.batches, config.classes
        )
    )
    with progress_bar(console, "Compiling", len(cases)) as move:
        for head, devices, batch, classes in cases:
            size = HeadSize(head, classes, config.dim, batch, devices=devices, chunk=config.chunk)
            sent = collective_bytes(compile_step(size).as_text())
            named = [sent.pop(kind, 0) for kind in kinds]
            numbers = (devices, classes, batch, *named, sum(sent.values()))
            rows.append((head, *(f"{number:,}" for number in numbers)))
            move(1)
    title = f"What the collectives of a step put out on each device, bytes (D = {config.dim})"
    header = ("head", "devices", "identities", "N", *kinds, "others")
    console.print(table_of(header, rows, title=title))


def measure_recall(console: Console, config: HeadBenchmark) -> None:
    """How much softmax a random and the nearest part of grouped classes hold."""
    classes, batch = config.classes[0], config.batches[0]
    keys = jax.random.split(jax.random.key(0), 5)
    # A hundred look-alikes share a direction: centres lie 0.3 to 0.4 in cosine from each other
    # within a group.
    groups = jax.random.normal(keys[0], (max(classes // 100, 1), config.dim))
    own = jax.random.normal(keys[1], (classes, config.dim))
    weights = 0.6 * groups[jnp.arange(classes) % groups.shape[0]] + 0.8 * own
    labels = jax.random.randint(keys[2], (batch,), 0, classes)
    noise = jax.random.normal(keys[3], (batch, config.dim))
    recall = jax.jit(partition_recall)
    mine, rows = jax.jit(hard_classes, static_argnames="count"), []
    cosines, rates = (0.0, 0.4, 0.8), (0.01, 0.03, 0.1, 0.3)
    with progress_bar(console, "Sampling", len(cosines) * len(rates)) as move:
        for cosine in cosines:
            embeddings = cosine * weights[labels] + (1 - cosine**2) ** 0.5 * noise
            for rate in rates:
                random = sample_classes(keys[4], labels, num_classes=classes, rate=rate)
                nearest = mine(embeddings, weights, labels, count=int(rate * classes))
                parts = [
                    float(recall(embeddings, weights, labels, sample).mean())
                    for sample in (random, nearest)
                ]
                rows.append(
                    (f"{cosine:.1f}", f"{100 * rate:g} %", *(f"{part:.3f}" for part in parts))
                )
                move(1)
    title = f"Mean part of the exact Σ over wrong classes: N = {batch}, C = {classes:,}, s = 64"
    header = ("embedding: cosine to its centre", "classes used", "random part", "nearest part")
    console.print(table_of(header, rows, left=0, title=title))


SIMULATED = ("highest", "tf32", "bfloat16")
"""Precisions whose rounding is the same on every device."""


@functools.partial(jax.jit, static_argnames=("precision", "chunk"))
def loss_and_slopes(
    embeddings: jax.Array, weights: jax.Array, labels: jax.Array, precision: str, chunk: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(ArcFace's losses [N], gradients of their sum by embeddings and by class weights)."""

    def total(embeddings: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        loss = margin_softmax_loss(embeddings, weights, labels, precision=precision, chunk=chunk)
        return loss.sum(), loss

    slopes, loss = jax.grad(total, argnums=(0, 1), has_aux=True)(embeddings, weights)
    return loss, *slopes


def measure_errors(console: Console, config: HeadBenchmark) -> None:
    """Errors beside float64, of a batch that is not trained and of one that is: embeddings with a
    cosine of 0 and of .8 to their centres.
    """
    batch, rows, cosines = config.batches[0], [], (0.0, 0.8)
    turns = len(cosines) * len(config.classes) * len(SIMULATED)
    with progress_bar(console, "Computing", turns) as move:
        for cosine, classes in itertools.product(cosines, config.classes):
            random = np.random.default_rng(classes)
            weights = random.standard_normal((classes, config.dim), np.float32)
            labels = random.integers(0, classes, batch)
            noise = random.standard_normal((batch, config.dim), np.float32)
            embeddings = np.float32(cosine) * weights[labels]
            embeddings += np.float32((1 - cosine**2) ** 0.5) * noise
            with jax.enable_x64(True):
                wide = (array.astype(np.float64) for array in (embeddings, weights))
                exact = loss_and_slopes(*wide, labels, "highest", config.chunk)
                exact = [np.asarray(array) for array in exact]
            for precision in SIMULATED:
                found = loss_and_slopes(embeddings, weights, labels, precision, config.chunk)
                errors = [np.asarray(one) - two for one, two in zip(found, exact, strict=True)]
                parts = (
                    np.linalg.norm(e) / np.linalg.norm(x)
                    for e, x in zip(errors, exact, strict=True)
                )
                numbers = (exact[0].mean(), errors[0].mean(), np.abs(errors[0]).max(), *parts)
                cells = (f"{number:.2g}" for number in numbers[1:3])
                shares = (f"{number:.1e}" for number in numbers[4:])
                about = (f"{cosine:g}", f"{classes:,}", precision)
                rows.append((*about, f"{numbers[0]:.2f}", *cells, *shares))
                move(1)
    title = f"ArcFace beside float64: N = {batch}, D = {config.dim}, s = 64"
    header = (
        *("cosine to centre", "classes", "precision", "loss", "error of the mean", "largest"),
        *("embeddings' gradient, relative", "class weights'"),
    )
    console.print(table_of(header, rows, left=0, title=title))
