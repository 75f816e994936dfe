"""Evaluates embeddings of any model: verification, search, angles, quality, thresholds, each with its interval.

python -m experiments.evaluate --embeddings faces.npz
python -m experiments.evaluate --embeddings model_a.npz model_b.npz      one set of images, two models: what differs

A file holds `embeddings` [N, D] and `labels` [N]; it may hold `mirrored` [N, D] (embeddings of the mirrored images,
combined with the others by --flip), `images` uint8 [N, height, width, 3] (for pictures of the hardest pairs), `groups`
[N] (an attribute, for rates by group), and `first`, `second`, `same` [P] (a pair list; otherwise all pairs are scored).
"""

import dataclasses
import pathlib
import zipfile
from typing import Literal

import numpy as np
import tyro
from rich.console import Console

from arcface_jax.data.pairs import Pairs
from arcface_jax.errors import InputError
from arcface_jax.evaluation.bootstrap import Comparison, Resampling, compare_roc, compare_similarities
from arcface_jax.evaluation.checks import check_same
from arcface_jax.evaluation.suite import EmbeddedSet, Options, SetResult, evaluate_set
from arcface_jax.evaluation.tables import Figures, to_text
from arcface_jax.evaluation.verification import combine_flip
from arcface_jax.figures.evaluation_set import draw_set
from experiments.command import run_command
from experiments.evaluation_report import html_report, write_tables


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The command line."""

    embeddings: tuple[pathlib.Path, ...]
    """NumPy .npz files, see above. Files with equal labels and pairs are compared with the first."""
    output: pathlib.Path = pathlib.Path("evaluation")
    """Folder to write: report.html, table.txt, .md, .tex, .csv, .json, and the pictures."""
    flip: Literal["add", "concatenate"] = "add"
    """How `mirrored` is combined with `embeddings`."""
    folds: int = 10
    """Contiguous folds of a pair list (with 1, only what needs no folds); all pairs have none."""
    fars: tuple[float, ...] = (1e-3, 1e-2)
    """False accept rates at which TAR is reported."""
    deployment_fars: tuple[float, ...] = (1e-2, 1e-3, 1e-4)
    """False accept rates for which thresholds are proposed."""
    enrolled: float = 0.5
    """Share of the people whom the gallery of the search knows, by one image each; the others are unknown."""
    replicates: int = 1000
    """Bootstrap replicates."""
    confidence: float = 0.95
    """Of the intervals."""
    seed: int = 0
    """Of the bootstrap and of who is enrolled."""


def read_set(path: pathlib.Path, flip: Literal["add", "concatenate"], folds: int) -> EmbeddedSet:
    """Reads one file of embeddings.

    Raises:
      InputError: not an .npz file, an array missing, or arrays that do not fit; the message names the file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise InputError(f"{path}: not an .npz file of plain arrays ({str(error).splitlines()[0]})") from None
    for name in ("embeddings", "labels"):
        if name not in arrays:
            raise InputError(
                f"{path}: has no array {name!r}, only {', '.join(sorted(arrays))}; save one under that name"
            )
    embeddings, labels = arrays["embeddings"], arrays["labels"]
    for name in ("labels", "mirrored", "images", "groups"):
        if name in arrays and len(arrays[name]) != len(embeddings):
            raise InputError(f"{path}: {len(arrays[name])} {name} for {len(embeddings)} embeddings; give one each")
    quality = None
    if "mirrored" in arrays:
        quality = np.linalg.norm(embeddings, axis=1)  # before the mirror image is added and lengths are lost
        embeddings = combine_flip(embeddings, arrays["mirrored"], flip)
    return EmbeddedSet(
        path.stem,
        embeddings,
        labels,
        pairs=_read_pairs(path, arrays, folds),
        images=arrays.get("images"),
        groups=arrays.get("groups"),
        quality=quality,
    )


def _read_pairs(path: pathlib.Path, arrays: dict[str, np.ndarray], folds: int) -> Pairs | None:
    present = [name for name in ("first", "second", "same") if name in arrays]
    if not present:
        return None
    if len(present) < 3 or len({arrays[name].shape for name in present}) > 1:
        raise InputError(f"{path}: a pair list needs first, second and same of one length; it has {', '.join(present)}")
    same = check_same(arrays["same"], len(arrays["first"]), f"{path}: same")
    return Pairs(arrays["first"], arrays["second"], same, folds, False)


def compare_results(
    sets: list[EmbeddedSet], results: list[SetResult], arguments: Arguments
) -> dict[str, dict[str, Comparison]]:
    """Every set against the first, where they have the same people and pairs."""
    comparisons = {}
    resampling = Resampling(arguments.replicates, arguments.confidence, arguments.seed)
    first = results[0]
    for data, result in zip(sets[1:], results[1:], strict=True):
        alike = all(
            np.array_equal(getattr(first, name), getattr(result, name)) for name in ("first_cluster", "second_cluster")
        )
        if not alike or not np.array_equal(first.pairs.same, result.pairs.same):
            continue
        clusters = (first.pairs.same, first.first_cluster, first.second_cluster)
        if first.pairs.num_folds > 1:
            comparison = compare_similarities(
                first.similarities,
                result.similarities,
                *clusters,
                folds=first.pairs.num_folds,
                fars=arguments.fars,
                resampling=resampling,
            )
        else:
            comparison = compare_roc(
                first.similarities, result.similarities, *clusters, fars=arguments.fars, resampling=resampling
            )
        comparisons[f"{data.name} − {sets[0].name}"] = comparison
    return comparisons


def report(arguments: Arguments, console: Console, sets: list[EmbeddedSet], results: list[SetResult]) -> None:
    """Prints the table and writes everything."""
    rows: dict[str, Figures] = {data.name: result.figures for data, result in zip(sets, results, strict=True)}
    comparisons = compare_results(sets, results, arguments)
    tables = write_tables(rows, arguments.output)
    drawn = {
        data.name: (result, draw_set(data, result, arguments.output / "figures" / data.name))
        for data, result in zip(sets, results, strict=True)
    }
    page = arguments.output / "report.html"
    page.write_text(html_report("Evaluation", rows, drawn, comparisons, arguments.confidence), encoding="utf-8")
    console.print(to_text(rows), markup=False, highlight=False, soft_wrap=True)
    for pair, figures in comparisons.items():
        for name, c in figures.items():
            line = (
                f"{pair}, {name}: {c.difference:+.4f} [{c.low:+.4f}, {c.high:+.4f}], p = {c.p_value:.3f}: {c.verdict}"
            )
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    for data, result in zip(sets, results, strict=True):
        for found in result.thresholds:
            text = f"{data.name}: for FAR {found.wanted_far:g} accept from {found.threshold}, TAR {found.tar}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)
            if found.warning is not None:
                console.print(
                    f"  warning: {found.warning}", style="yellow", markup=False, highlight=False, soft_wrap=True
                )
    console.print(
        f"\nWritten: {page} and beside it {len(tables)} tables and the pictures.", markup=False, highlight=False
    )


def run(arguments: Arguments) -> None:
    """Reads, evaluates, reports."""
    if not arguments.embeddings:
        raise InputError("--embeddings: no file given; give at least one .npz file")
    names = [path.stem for path in arguments.embeddings]
    if len(set(names)) < len(names):
        raise InputError(f"--embeddings: two files are called {max(names, key=names.count)}; rename one")
    console = Console()
    options = Options(
        fars=arguments.fars,
        deployment_fars=arguments.deployment_fars,
        enrolled=arguments.enrolled,
        resampling=Resampling(arguments.replicates, arguments.confidence, arguments.seed),
    )
    sets = [read_set(path, arguments.flip, arguments.folds) for path in arguments.embeddings]
    results = []
    for data in sets:
        console.print(f"Evaluating {data.name} …", markup=False, highlight=False)
        results.append(evaluate_set(data, options))
    report(arguments, console, sets, results)


if __name__ == "__main__":
    run_command(lambda: run(tyro.cli(Arguments, description=__doc__)))
