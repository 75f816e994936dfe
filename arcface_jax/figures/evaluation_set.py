"""All the pictures of one evaluated set, written to a folder."""

import dataclasses
import pathlib

import numpy as np
from matplotlib.figure import Figure

from arcface_jax.counts import number_of
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
from arcface_jax.figures.samples import Mark
from arcface_jax.figures.style import save

_NUM_HARDEST = 9
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
    different = number_of((~result.pairs.same).sum(), "different pair")
    count = f"{result.pairs.same.sum():,} same and {different}"
    threshold = result.thresholds[0].threshold.estimate
    kind = "cosine similarity" if data.score_norm is None else str(data.score_norm)
    scores = score_histogram(result.similarities, result.pairs.same, threshold, kind)
    det = det_figure({data.name: result.roc})
    pictures = {
        "roc": (f"Verification: {count}.", roc_figure({data.name: result.roc})),
        "det": ("Detection error trade-off of the same pairs.", det),
        "scores": (
            "Similarities. Each bar is the share of the pairs of its kind that have them; the line "
            f"is the threshold for FAR {result.thresholds[0].wanted_far:g}.",
            scores,
        ),
    }
    if result.search is not None:
        known, unknown = int(result.search.enrolled.sum()), int((~result.search.enrolled).sum())
        curve = cumulative_match(result.search, min(_CMC_RANKS, result.gallery_size))
        enrolled = number_of(result.gallery_size, "person")
        caption = f"Search: {number_of(known, 'probe')} of the {enrolled} enrolled."
        pictures["cmc"] = (caption, cmc_figure({data.name: curve}))
        if unknown:
            caption = (
                f"Search with rejection: {number_of(unknown, 'probe')} of unknown people as well."
            )
            det = det_figure({data.name: open_set_roc(result.search)}, identification=True)
            pictures["identification_det"] = (caption, det)
    if not isinstance(result.reliability, str):
        pairs = f"{number_of(result.reliability.num_pairs.sum(), 'pair')}"
        caption = f"Probabilities of {pairs} of people they were not fitted to, both kinds alike."
        by_folds = not data.identities_known
        figure = reliability_figure(result.reliability, by_folds=by_folds)
        pictures["reliability"] = (caption, figure)
    if result.reject is not None:
        caption = "Errors left when the images with the shortest embeddings are rejected."
        pictures["reject"] = (caption, reject_figure({"by embedding norm": result.reject}))
    if data.images is not None:
        pictures |= _hardest(data, data.images, result)
    return pictures


def _hardest(
    data: EmbeddedSet, images: np.ndarray, result: SetResult
) -> dict[str, tuple[str, Figure]]:
    accepts, rejects = hardest_pairs(result.similarities, result.pairs.same, _NUM_HARDEST)
    proposed = result.thresholds[0]
    threshold = proposed.threshold.estimate
    places = data.places or [f"image {row}" for row in range(len(images))]
    people = data.people
    if people is None and data.identities_known:
        people = [f"identity {label}" for label in data.labels]
    caption = (
        f"With their similarities, and what is decided at the threshold for FAR "
        f"{proposed.wanted_far:g}, {threshold:.3f}."
    )
    sheets = {}
    for name, title, chosen in (
        ("false_accepts", "Different people who look most alike", accepts),
        ("false_rejects", "Pictures of one person that look least alike", rejects),
    ):
        first, second = result.pairs.first[chosen], result.pairs.second[chosen]
        both = list(zip(first.tolist(), second.tolist(), strict=True))
        scores = result.similarities[chosen].tolist()
        files = [(places[one], places[other]) for one, other in both]
        names = None if people is None else [(people[one], people[other]) for one, other in both]
        marks = [decision(score >= threshold, name == "false_rejects") for score in scores]
        sheet = pair_sheet(
            images[first], images[second], scores, title, files, names=names, marks=marks
        )
        sheets[name] = (caption, sheet)
    return sheets


def decision(accepted: bool, same: bool) -> Mark:
    """What the decision on a pair is worth, and which it is."""
    return Mark("accepted as one person" if accepted else "rejected", accepted == same)
