"""Measures the evaluator at the published benchmarks' sizes, beside what it replaces."""

import dataclasses
import functools
import importlib.util
import pathlib
import statistics
from collections.abc import Callable, Mapping
from typing import Annotated

import numpy as np

from arcface_jax.commands.command import Count, Range
from arcface_jax.commands.machine import peak_gigabytes
from arcface_jax.errors import InputError
from arcface_jax.evaluation.folds import fold_numbers, ten_fold_accuracy
from arcface_jax.evaluation.identification import cumulative_match
from arcface_jax.evaluation.published import ACCURACY_GRID, published_ten_fold_accuracy
from arcface_jax.evaluation.roc import area_under_curve, roc_curve
from arcface_jax.evaluation.scoring import score_pairs
from arcface_jax.evaluation.search import search_gallery
from arcface_jax.evaluation.templates import verify_scores

from .report import BenchmarkOptions, Ratio, Report, ratio_of_rounds, take_turns

Ratios = dict[str, Ratio]
_RANKS = 20
_BLOCK = 128
"""Probes that NumPy's search compares at a time."""


@dataclasses.dataclass(frozen=True)
class EvaluationBenchmark(BenchmarkOptions):
    """Folds, ROCs, 1:1 of templates and 1:N search; by default of LFW's and IJB-C's sizes."""

    pairs: Annotated[int, Range(20)] = 6000
    """Pairs of the ten-fold protocol."""
    roc_pairs: tuple[Count, ...] = (10_000, 100_000, 1_000_000)
    """Pairs of the ROCs that are measured beside scikit-learn's."""
    templates: Count = 23_124
    """Templates of 1:1 verification."""
    template_pairs: Count = 15_658_489
    """Their comparisons."""
    same_pairs: Count = 19_557
    """How many of them are of one subject."""
    gallery: Count = 1_000_000
    """Entries of the gallery."""
    probes: Count = 10_000
    """Searches in it."""
    dimension: Count = 512
    """D of the embeddings."""
    rounds: Count = 3
    """How often each is measured, in turn with what it is compared with."""
    output: pathlib.Path = pathlib.Path("runs/benchmark-evaluation")
    """Folder for records.json and the pictures."""


def run_evaluation_benchmark(config: EvaluationBenchmark) -> int:
    """Measures, and prints each result as it comes."""
    if config.probes > config.gallery:
        raise InputError(
            f"probes is {config.probes}; pass no more than the {config.gallery} entries of the "
            "gallery"
        )
    with_scikit_learn = importlib.util.find_spec("sklearn") is not None
    report = Report("evaluation", config, ["scikit-learn"] if with_scikit_learn else [])
    rng = np.random.default_rng(0)
    ratios = measure_folds(report, config, rng)
    if with_scikit_learn:
        ratios |= measure_rocs(report, config, rng)
    else:
        report.say("scikit-learn is not installed: no ROC beside its")
    measure_templates(report, config, rng)
    ratios |= measure_search(report, config, rng)
    return report.finish(ratios)


def random_units(rng: np.random.Generator, rows: int, dimension: int) -> np.ndarray:
    """float32 unit rows, made in parts so that no second copy is needed."""
    embeddings = np.empty((rows, dimension), np.float32)
    for start in range(0, rows, 10_000):
        part = rng.standard_normal((min(10_000, rows - start), dimension), dtype=np.float32)
        embeddings[start : start + 10_000] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return embeddings


def measure_cases(
    report: Report,
    what: str,
    cases: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warm: bool = True,
) -> dict[str, list[float]]:
    """Takes turns, records and prints; returns seconds by case."""
    seconds = take_turns(cases, rounds, warm=warm, begin=report.work)
    report.add(*({"what": what, "case": name, "seconds": taken} for name, taken in seconds.items()))
    for name, taken in seconds.items():
        report.say(f"{what}: {name} {statistics.median(taken):.4g} s")
    return seconds


# Ten folds, and ROCs
# ----------------------------------------------------------------------------------------


def loop_over_thresholds(distances: np.ndarray, same: np.ndarray) -> float:
    """Ten folds as a plain loop over the published grid: what sorting once replaces."""
    folds, accuracies = fold_numbers(len(same)), []
    for fold in range(10):
        train, test = folds != fold, folds == fold
        on_train = [
            np.mean((distances[train] < threshold) == same[train]) for threshold in ACCURACY_GRID
        ]
        best = ACCURACY_GRID[int(np.argmax(on_train))]
        accuracies.append(np.mean((distances[test] < best) == same[test]))
    return float(np.mean(accuracies))


def measure_folds(report: Report, config: EvaluationBenchmark, rng: np.random.Generator) -> Ratios:
    """The loop, the same numbers from one sort, and the exact protocol."""
    same = np.tile(np.arange(config.pairs // 10) < config.pairs // 20, 10)
    similarities = np.where(same, 0.6, 0.1) + 0.2 * rng.standard_normal(len(same))
    distances = 2 - 2 * similarities
    loop = f"loop over {len(ACCURACY_GRID)} thresholds"
    grid, exact = "published grid", "exact thresholds"
    what = f"ten folds of {len(same):,} pairs"
    cases: dict[str, Callable[[], object]] = {
        loop: lambda: loop_over_thresholds(distances, same),
        grid: lambda: published_ten_fold_accuracy(distances, same),
        exact: lambda: ten_fold_accuracy(similarities, same),
    }
    seconds = measure_cases(report, what, cases, config.rounds)
    return {
        f"{what}, {case}, beside a loop": ratio_of_rounds(seconds[loop], seconds[case])
        for case in (grid, exact)
    }


def scikit_learn_roc(scores: np.ndarray, same: np.ndarray) -> float:
    """Every point of scikit-learn's ROC, and the area under it."""
    from sklearn import metrics

    far, tar, _ = metrics.roc_curve(same, scores, drop_intermediate=False)
    return float(metrics.auc(far, tar))


def measure_rocs(report: Report, config: EvaluationBenchmark, rng: np.random.Generator) -> Ratios:
    """The full ROC and its area over growing numbers of pairs, beside scikit-learn's."""
    ratios = {}
    for pairs in config.roc_pairs:
        same = np.arange(pairs) % 2 == 0
        scores = (np.where(same, 0.6, 0.1) + 0.2 * rng.standard_normal(pairs)).astype(np.float32)
        what = f"ROC and AUC of {pairs:,} pairs"

        cases = {
            "arcface-jax": functools.partial(
                lambda *pairs: area_under_curve(roc_curve(*pairs)), scores, same
            ),
            "scikit-learn": functools.partial(scikit_learn_roc, scores, same),
        }
        seconds = measure_cases(report, what, cases, config.rounds)
        ratios[f"{what}, beside scikit-learn"] = ratio_of_rounds(
            seconds["scikit-learn"], seconds["arcface-jax"]
        )
    return ratios


# Templates and search
# ----------------------------------------------------------------------------------------


def measure_templates(
    report: Report, config: EvaluationBenchmark, rng: np.random.Generator
) -> None:
    """1:1 verification: cosines, then the full ROC."""
    templates = random_units(rng, config.templates, config.dimension)
    first, second = rng.integers(0, config.templates, (2, config.template_pairs), dtype=np.int32)
    same = np.arange(config.template_pairs) < config.same_pairs
    scores = np.empty(0, np.float32)

    def score() -> None:
        nonlocal scores
        scores = score_pairs(templates, templates, first, second)

    what = (
        f"1:1, {config.template_pairs:,} pairs of {config.templates:,} templates, "
        f"{config.dimension}-d"
    )
    steps = {
        "cosines": score,
        "full ROC, TAR at 1e-6 … 1e-1, EER, AUC": lambda: verify_scores(scores, same),
    }
    measure_cases(report, what, steps, config.rounds, warm=False)
    report.say(f"1:1: {peak_gigabytes():.2f} GB at most so far")


def numpy_cumulative_match(
    gallery: np.ndarray, labels: np.ndarray, probes: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """CMC of ranks 1 … 20 by NumPy: blocks of probes times the gallery, the best of each row."""
    ranks = min(_RANKS, len(gallery))
    hits = np.zeros(ranks, np.int64)
    for start in range(0, len(probes), _BLOCK):
        scores = probes[start : start + _BLOCK] @ gallery.T
        best = np.argpartition(scores, -ranks, axis=1)[:, -ranks:]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
        named = labels[np.take_along_axis(best, order, axis=1)]
        found = named == wanted[start : start + _BLOCK, None]
        hits += found.cumsum(axis=1).astype(bool).sum(axis=0)
    return hits / len(probes)


def measure_search(report: Report, config: EvaluationBenchmark, rng: np.random.Generator) -> Ratios:
    """1:N search, every probe enrolled."""
    gallery = random_units(rng, config.gallery, config.dimension)
    labels = np.arange(config.gallery)
    enrolled = rng.choice(config.gallery, config.probes, replace=False)
    probes = gallery[enrolled] + 0.08 * rng.standard_normal(
        (config.probes, config.dimension), dtype=np.float32
    )
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    what = f"1:N, {config.probes:,} probes in {config.gallery:,} entries, {config.dimension}-d"
    peaks = [peak_gigabytes()]

    def ours() -> None:
        cumulative_match(search_gallery(gallery, labels, probes, enrolled), _RANKS)
        peaks.append(peak_gigabytes())  # the first time before NumPy has used any

    # One tile of each, so that no measurement has the compilation in it.
    search_gallery(gallery[enrolled[:4096]], enrolled[:4096], probes[:256], enrolled[:256])
    cases = {
        "arcface-jax": ours,
        "NumPy": lambda: numpy_cumulative_match(gallery, labels, probes, enrolled),
    }
    seconds = measure_cases(report, what, cases, config.rounds, warm=False)
    operations = 2e-9 * config.gallery * config.probes * config.dimension
    speed = operations / statistics.median(seconds["arcface-jax"])
    report.say(f"1:N: {speed:.0f} GFLOP/s; {peaks[1]:.2f} GB at most, {peaks[0]:.2f} before")
    return {f"{what}, beside NumPy": ratio_of_rounds(seconds["NumPy"], seconds["arcface-jax"])}
