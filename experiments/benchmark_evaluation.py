"""Measures the evaluator at the sizes of the published benchmarks, on random embeddings.

python -m experiments.benchmark_evaluation                     ten folds, IJB-C 1:1, search of 10⁶ × 10⁴
python -m experiments.benchmark_evaluation --gallery 100000    a smaller search
"""

import dataclasses
import importlib
import importlib.util
import math
import sys
import time
from collections.abc import Callable

import jax
import numpy as np
import tyro
from rich.console import Console

from arcface_jax.evaluation.folds import fold_numbers, ten_fold_accuracy
from arcface_jax.evaluation.identification import cumulative_match
from arcface_jax.evaluation.published import ACCURACY_GRID, published_ten_fold_accuracy
from arcface_jax.evaluation.scoring import score_pairs
from arcface_jax.evaluation.search import search_gallery
from arcface_jax.evaluation.templates import verify_scores
from experiments.command import help_text, run_command

Report = Callable[[str, str, str], None]
"""Takes what was measured, its time, and what to say beside it."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The command line; the defaults are LFW's and IJB-C's sizes."""

    pairs: int = 6000
    """Pairs of the ten-fold protocol."""
    templates: int = 23_124
    """Templates of 1:1 verification."""
    template_pairs: int = 15_658_489
    """Their comparisons."""
    same_pairs: int = 19_557
    """How many of them are of one subject."""
    gallery: int = 1_000_000
    """Entries of the gallery."""
    probes: int = 10_000
    """Searches in it."""
    dimension: int = 512
    """D of the embeddings."""


def seconds(work: Callable[[], object], repeats: int = 1) -> float:
    """The shortest of some runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def peak_gigabytes() -> float:
    """The most memory this process has had so far; nan on Windows, which does not tell this way."""
    if importlib.util.find_spec("resource") is None:
        return math.nan
    resource = importlib.import_module("resource")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def random_units(rng: np.random.Generator, rows: int, dimension: int) -> np.ndarray:
    """float32 unit rows, made in parts so that no second copy is needed."""
    embeddings = np.empty((rows, dimension), np.float32)
    for start in range(0, rows, 10_000):
        part = rng.standard_normal((min(10_000, rows - start), dimension), dtype=np.float32)
        embeddings[start : start + 10_000] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return embeddings


def loop_over_thresholds(distances: np.ndarray, same: np.ndarray) -> float:
    """Ten folds as a plain loop over the published grid: what sorting once replaces."""
    folds, accuracies = fold_numbers(len(same)), []
    for fold in range(10):
        train, test = folds != fold, folds == fold
        on_train = [np.mean((distances[train] < threshold) == same[train]) for threshold in ACCURACY_GRID]
        best = ACCURACY_GRID[int(np.argmax(on_train))]
        accuracies.append(np.mean((distances[test] < best) == same[test]))
    return float(np.mean(accuracies))


def measure_folds(report: Report, arguments: Arguments, rng: np.random.Generator) -> None:
    """The loop, the same numbers from one sort, and the exact protocol."""
    same = np.tile(np.arange(arguments.pairs // 10) < arguments.pairs // 20, 10)
    similarities = np.where(same, 0.6, 0.1) + 0.2 * rng.standard_normal(len(same))
    distances = 2 - 2 * similarities
    loop = seconds(lambda: loop_over_thresholds(distances, same), 3)
    report(f"ten folds, {len(same):,} pairs: loop over {len(ACCURACY_GRID)} thresholds", f"{1e3 * loop:.1f} ms", "")
    for name, work in (
        ("published grid, counted once", lambda: published_ten_fold_accuracy(distances, same)),
        ("exact thresholds, sorted once", lambda: ten_fold_accuracy(similarities, same)),
    ):
        taken = seconds(work, 20)
        report(f"ten folds: {name}", f"{1e3 * taken:.2f} ms", f"{loop / taken:.0f} × faster than the loop")


def measure_templates(report: Report, arguments: Arguments, rng: np.random.Generator) -> None:
    """1:1 verification: cosines, then the full ROC."""
    templates = random_units(rng, arguments.templates, arguments.dimension)
    first, second = rng.integers(0, arguments.templates, (2, arguments.template_pairs), dtype=np.int32)
    same = np.arange(arguments.template_pairs) < arguments.same_pairs
    scores = np.empty(0, np.float32)

    def score() -> None:
        nonlocal scores
        scores = score_pairs(templates, templates, first, second)

    size = f"{arguments.template_pairs:,} pairs of {arguments.templates:,} templates, {arguments.dimension}-d"
    report(f"1:1, {size}: cosines", f"{seconds(score):.1f} s", f"{peak_gigabytes():.2f} GB at most so far")
    taken = seconds(lambda: verify_scores(scores, same))
    report("1:1: full ROC, TAR at 1e-6 … 1e-1, EER, AUC", f"{taken:.1f} s", f"{peak_gigabytes():.2f} GB")


def measure_search(report: Report, arguments: Arguments, rng: np.random.Generator) -> None:
    """1:N search."""
    gallery = random_units(rng, arguments.gallery, arguments.dimension)
    labels = np.arange(arguments.gallery)
    enrolled = rng.choice(arguments.gallery, arguments.probes, replace=False)
    probes = gallery[enrolled] + 0.08 * rng.standard_normal((arguments.probes, arguments.dimension), dtype=np.float32)
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    before = peak_gigabytes()

    def search() -> None:
        cumulative_match(search_gallery(gallery, labels, probes, enrolled))

    taken = seconds(search)
    speed = 2e-9 * arguments.gallery * arguments.probes * arguments.dimension / taken
    report(
        f"1:N, {arguments.probes:,} probes in {arguments.gallery:,} entries, {arguments.dimension}-d",
        f"{taken:.1f} s",
        f"{speed:.0f} GFLOP/s; {peak_gigabytes():.2f} GB at most, {before:.2f} before",
    )


def run(arguments: Arguments) -> None:
    """Measures, and prints each result as it comes."""
    console = Console()

    def report(what: str, time_taken: str, beside: str) -> None:
        console.print(f"{what}: {time_taken}" + (f" ({beside})" if beside else ""), highlight=False, soft_wrap=True)

    console.print(f"{jax.device_count()} × {jax.devices()[0].device_kind}, JAX {jax.__version__}", highlight=False)
    rng = np.random.default_rng(0)
    for measure in (measure_folds, measure_templates, measure_search):
        measure(report, arguments, rng)


if __name__ == "__main__":
    run_command(
        lambda: run(
            tyro.cli(Arguments, prog="python -m experiments.benchmark_evaluation", description=help_text(__doc__))
        )
    )
