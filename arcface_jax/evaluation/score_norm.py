"""Scores relative to an image's scores with strangers: T-norm and S-norm.

Some images look similar to everybody. Each image's cosines with a cohort of strangers give its own
baseline, so one threshold then suits more pairs.
"""

import dataclasses
from typing import Literal, get_args

import numpy as np

from arcface_jax.counts import number_of
from arcface_jax.errors import InputError
from arcface_jax.evaluation.array_checks import check_embeddings, check_indices, check_length
from arcface_jax.evaluation.embeddings import unit_embeddings

ScoreNormKind = Literal["t", "s"]

_ROWS = 1024
_ITSELF = 1 - 1e-5


@dataclasses.dataclass(frozen=True)
class ScoreNorm:
    """How to normalise.

    Attributes:
      cohort: [C, D], embeddings of people outside the evaluation, made by the same rule.
      kind: "t" uses only the second image of a pair; "s" uses both.
      top: how many of the cohort count, the most similar to the image (adaptive S-norm); all if
        None.
    """

    cohort: np.ndarray
    kind: ScoreNormKind = "s"
    top: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(ScoreNormKind):
            raise InputError(f"kind: {self.kind!r} is unknown; use t or s")
        size = len(check_embeddings(self.cohort, "cohort", unit=False))
        count = size if self.top is None else self.top
        if not 2 <= count <= size:
            raise InputError(
                f"cohort: {count} of {number_of(size, 'embedding')}; give from 2 to all of them"
            )

    def __str__(self) -> str:
        """E.g. "S-norm by the 50 most alike of 200"."""
        which = "" if self.top is None else f"the {self.top:,} most alike of "
        return f"{self.kind.upper()}-norm by {which}{len(self.cohort):,}"


def normalise_scores(
    scores: np.ndarray, unit: np.ndarray, first: np.ndarray, second: np.ndarray, norm: ScoreNorm
) -> np.ndarray:
    """Pair scores, in deviations above the mean of their images' cosines with a cohort.

        T-norm:  (s − μ_b)/σ_b
        S-norm:  ½·((s − μ_a)/σ_a + (s − μ_b)/σ_b)

    where μ and σ are mean and deviation (ddof 0) of an image's cosines with the cohort; a is the
    first image of a pair, b the second.

    Args:
      scores: [P], the cosines.
      unit: [N, D], unit rows.
      first: int [P], rows of the pairs' first images.
      second: int [P].
      norm: how.

    Returns: float64 [P].

    Raises:
      InputError: the cohort has embeddings of another length, holds one of the images, or has equal
        cosines with an image.

    References: Auckenthaler et al., Score normalization for text-independent speaker verification
      systems (Digital Signal Processing, 2000); Matějka et al., Analysis of score normalization in
      multilingual speaker recognition (Interspeech 2017).
    """
    unit = check_embeddings(unit, "unit")
    cohort = unit_embeddings(norm.cohort, "cohort")
    if cohort.shape[1] != unit.shape[1]:
        raise InputError(
            f"cohort: embeddings of {number_of(cohort.shape[1], 'number')}, but the set has "
            f"{unit.shape[1]}; embed both with the same model and --flip"
        )
    first = check_indices(first, len(unit), "first")
    second = check_indices(second, len(unit), "second")
    scores = check_length(scores, len(first), "scores", "pairs").astype(np.float64)
    needed = np.unique(second if norm.kind == "t" else np.concatenate([first, second]))
    means, deviations = np.zeros(len(unit)), np.ones(len(unit))
    for at in range(0, len(needed), _ROWS):
        rows = needed[at : at + _ROWS]
        cosines = unit[rows].astype(np.float64) @ cohort.T.astype(np.float64)
        own = cosines.max(axis=1) > _ITSELF
        if own.any():
            raise InputError(
                f"cohort: holds image {rows[np.argmax(own)]} of the set itself; give other people"
            )
        if norm.top is not None and norm.top < len(cohort):
            cosines = -np.partition(-cosines, norm.top - 1, axis=1)[:, : norm.top]
        means[rows], deviations[rows] = cosines.mean(axis=1), cosines.std(axis=1)
        if (deviations[rows] < 1e-9).any():
            raise InputError(
                f"cohort: all of it is equally alike to image {rows[np.argmin(deviations[rows])]} "
                "of the set; give different images"
            )
    of_second = (scores - means[second]) / deviations[second]
    if norm.kind == "t":
        return of_second
    return ((scores - means[first]) / deviations[first] + of_second) / 2
