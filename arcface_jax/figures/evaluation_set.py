"""All the pictures of one evaluated set, written to a folder."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from arcface_jax.evaluation.identification import cumulative_match, open_set_roc
from arcface_jax.evaluation.suite import EmbeddedSet, SetResult
from arcface_jax.evaluation.verification import hardest_pairs
from arcface_jax.figures.evaluation import (
    cmc_figure,
    det_figure,
    pair_sheet,
    reject_figure,
    reliability_figure,
    roc_figure,
    score_histogram,
)
from arcface_jax.figures.style import save

_NUM_HARDEST = 10
_CMC_RANKS = 20


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG file and its caption."""

    caption: str
    file: pathlib.Path


def draw_set(data: EmbeddedSet, result: SetResult, folder: pathlib.Path) -> list[Picture]:
    """Draws ROC, DET, scores, search, quality and the hardest pairs, if the set has them."""
    return [
        Picture(caption, save(figure, folder / name)[0])
        for name, (caption, figure) in _figures(data, result).items()
    ]


def _figures(data: EmbeddedSet, result: SetResult) -> dict[str, tuple[str, Figure]]:
    """Caption and figure by file name."""
    count = f"{result.pairs.same.sum():,} same and {(~result.pairs.same).sum():,} different pairs"
    threshold = result.thresholds[0].threshold.estimate
    kind = "cosine similarity" if data.score_norm is None else str(data.score_norm)
    scores = score_histogram(result.similarities, result.pairs.same, threshold, kind)
    det = det_figure({data.name: result.roc})
    pictures = {
        "roc": (f"Verification: {count}.", roc_figure({data.name: result.roc})),
        "det": ("Detection error trade-off of the same pairs.", det),
        "scores": ("Similarities; the line is the first proposed threshold.", scores),
    }
    if result.search is not None:
        known, unknown = int(result.search.enrolled.sum()), int((~result.search.enrolled).sum())
        curve = cumulative_match(result.search, min(_CMC_RANKS, result.gallery_size))
        caption = f"Search: {known:,} probes of the {result.gallery_size:,} people enrolled."
        pictures["cmc"] = (caption, cmc_figure({data.name: curve}))
        if unknown:
            caption = f"Search with rejection: {unknown:,} probes of unknown people as well."
            det = det_figure({data.name: open_set_roc(result.search)}, identification=True)
            pictures["identification_det"] = (caption, det)
    if not isinstance(result.reliability, str):
        pairs = f"{result.reliability.num_pairs.sum():,} pairs"
        caption = f"Probabilities of {pairs} of people they were not fitted to, both kinds alike."
        pictures["reliability"] = (caption, reliability_figure(result.reliability))
    if result.reject is not None:
        caption = "Errors left when the images with the shortest embeddings are rejected."
        pictures["reject"] = (caption, reject_figure({"by embedding norm": result.reject}))
    if data.images is not None:
        pictures |= _hardest(data.images, data.places, result)
    return pictures


def _hardest(
    images: np.ndarray, places: Sequence[str] | None, result: SetResult
) -> dict[str, tuple[str, Figure]]:
    accepts, rejects = hardest_pairs(result.similarities, result.pairs.same, _NUM_HARDEST)
    sheets = {}
    for name, title, chosen in (
        ("false_accepts", "Different people who look most alike", accepts),
        ("false_rejects", "Pictures of one person that look least alike", rejects),
    ):
        first, second = images[result.pairs.first[chosen]], images[result.pairs.second[chosen]]
        of_both = None
        if places is not None:
            pairs = zip(result.pairs.first[chosen], result.pairs.second[chosen], strict=True)
            of_both = [(places[one], places[other]) for one, other in pairs]
        sheet = pair_sheet(first, second, result.similarities[chosen].tolist(), title, of_both)
        files = "" if places is None else ", and the files of the left and the right one"
        sheets[name] = (f"With their similarities{files}.", sheet)
    return sheets
