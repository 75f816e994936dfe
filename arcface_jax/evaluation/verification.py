"""Pair verification as LFW, CFP, AgeDB-30, CALFW, CPLFW, YTF and RFW are scored."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from arcface_jax.errors import InputError
from arcface_jax.evaluation.array_checks import check_embeddings, check_same, check_scores
from arcface_jax.evaluation.embeddings import unit_embeddings
from arcface_jax.evaluation.folds import (
    FoldAccuracy,
    FoldRates,
    best_threshold,
    ten_fold_accuracy,
    val_at_far,
)
from arcface_jax.evaluation.published import (
    published_ten_fold_accuracy,
    published_val_at_far,
    squared_distances,
)
from arcface_jax.evaluation.roc import RocNumbers, roc_curve, roc_numbers


@dataclasses.dataclass(frozen=True)
class VerificationResult:
    """What a table of pair verification shows.

    Attributes:
      accuracy: mean over folds of the accuracy on the held-out fold.
      accuracy_std: its standard deviation over folds (ddof 0).
      threshold: cosine similarity that separates all the pairs best (accept if ≥). It has seen
        every pair: to deploy, take `thresholds.deployment_threshold` at the FAR you can accept.
      val: mean over folds of the TAR at the threshold with FAR 1e-3 on the other folds.
      val_std: its standard deviation over folds (ddof 0).
      val_far: the FAR of those thresholds on the held-out folds.
      tar: true accept rate on all pairs, at each false accept rate asked for.
      eer: equal error rate.
      auc: area under the ROC.
      num_same: number of same pairs.
      num_different: number of different pairs.
    """

    accuracy: float
    accuracy_std: float
    threshold: float
    val: float
    val_std: float
    val_far: float
    tar: Mapping[float, float]
    eer: float
    auc: float
    num_same: int
    num_different: int

    def numbers(self) -> dict[str, float]:
        """The result as flat names and numbers, for logs and tables."""
        flat = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "tar"
        }
        return flat | RocNumbers(self.tar, self.eer, self.auc).numbers()


VAL_FAR = 1e-3
"""The false accept rate at which the field quotes VAL."""


FlipRule = Literal["add", "concatenate", "none"]


def combine_flip(
    embedding: np.ndarray, mirrored: np.ndarray | None, rule: FlipRule = "add"
) -> np.ndarray:
    """One unit embedding from the embeddings of an image and its mirror image.

        "add":          (x + x′)/‖x + x′‖           (the rule of the field)
        "concatenate":  [x, x′]/‖[x, x′]‖           (twice the size; some projects)
        "none":         x/‖x‖                       (the mirror image left out)

    Args:
      embedding: x, [N, D], raw network output, not normalised.
      mirrored: x′, [N, D], of the mirrored images; None to only normalise x.
      rule: which of the three.

    Returns: float32 [N, D], or [N, 2D] for "concatenate".
    """
    embedding = check_embeddings(embedding, "embedding", unit=False)
    if rule not in get_args(FlipRule):
        raise InputError(
            f"rule: {rule!r} is unknown; use {', '.join(map(repr, get_args(FlipRule)))}"
        )
    if mirrored is None or rule == "none":
        return unit_embeddings(embedding, "embedding")
    mirrored = check_embeddings(mirrored, "mirrored", unit=False)
    if embedding.shape != mirrored.shape:
        raise InputError(
            f"mirrored: shape {mirrored.shape}, but embedding has {embedding.shape}; give one row "
            "each"
        )
    if rule == "add":
        return unit_embeddings(embedding + mirrored, "embedding + mirrored")
    return unit_embeddings(np.concatenate([embedding, mirrored], axis=1), "[embedding, mirrored]")


def pair_similarities(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine of each pair of unit rows, summed in float64.

    Args:
      first: [P, D], rows of norm 1.
      second: [P, D], rows of norm 1.

    Returns: [P], float64.

    Raises:
      InputError: shapes differ, or a row is NaN or not of norm 1 (the message gives the row).
    """
    first, second = check_embeddings(first, "first"), check_embeddings(second, "second")
    if first.shape != second.shape:
        raise InputError(
            f"second: shape {second.shape}, but first has {first.shape}; give one row per pair in "
            "each"
        )
    return np.einsum("pd,pd->p", first, second, dtype=np.float64)


def verify_pairs(
    first: np.ndarray,
    second: np.ndarray,
    same: np.ndarray,
    *,
    folds: int = 10,
    fars: Sequence[float] = (1e-2, 1e-3),
    published_scripts: bool = False,
) -> VerificationResult:
    """Scores pairs of embeddings by the LFW protocol.

    Args:
      first: [P, D], unit embeddings of the pairs' first images.
      second: [P, D], of the second ones.
      same: [P] bool, in the order of the pair list.
      folds: number of contiguous folds; each needs same and different pairs.
      fars: false accept rates at which to report TAR.
      published_scripts: compute accuracy and VAL as the published scripts do, to the last digit (a
        grid of squared distances; see `published`). The other numbers, which the scripts do not
        give, stay exact.

    Raises:
      InputError: mismatched lengths, a NaN or unnormalised row, a fold without one kind of pair.
    """
    similarities = pair_similarities(first, second)
    if not published_scripts:
        return verify_similarities(similarities, same, folds=folds, fars=fars)
    distances = squared_distances(np.asarray(first), np.asarray(second))
    accuracy = published_ten_fold_accuracy(distances, same, folds)
    val = published_val_at_far(distances, same, VAL_FAR, folds)
    exact = verify_similarities(similarities, same, folds=folds, fars=fars)
    return dataclasses.replace(exact, **_over_folds(accuracy, val))


def verify_similarities(
    similarities: np.ndarray,
    same: np.ndarray,
    *,
    folds: int = 10,
    fars: Sequence[float] = (1e-2, 1e-3),
    weights: np.ndarray | None = None,
) -> VerificationResult:
    """`verify_pairs` from given similarities [P]; higher means more similar.

    `weights` [P] say how often each pair counts, for bootstrap replicates; once each if None.
    """
    accuracy = ten_fold_accuracy(similarities, same, folds, weights)
    val = val_at_far(similarities, same, VAL_FAR, folds, weights)
    roc = roc_curve(similarities, same, weights)
    return VerificationResult(
        **_over_folds(accuracy, val),
        threshold=best_threshold(similarities, same, weights)[0],
        **vars(roc_numbers(roc, fars)),
        num_same=int(roc.num_same),
        num_different=int(roc.num_different),
    )


def _over_folds(accuracy: FoldAccuracy, val: FoldRates) -> dict[str, Any]:
    names = ("accuracy", "accuracy_std", "val", "val_std", "val_far")
    return dict(zip(names, (accuracy.mean, accuracy.std, val.val, val.std, val.far), strict=True))


def hardest_pairs(
    similarities: np.ndarray, same: np.ndarray, count: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """The worst pairs: different people that look alike, and same people that do not.

    Args:
      similarities: [P], higher means more similar.
      same: [P] bool.
      count: how many of each, at most.

    Returns: positions in the list: (different pairs by descending similarity, same pairs by
      ascending similarity). Ties keep the order of the list.
    """
    similarities = check_scores(similarities, "similarities")
    same = check_same(same, len(similarities))
    (different_pairs,), (same_pairs,) = np.nonzero(~same), np.nonzero(same)
    accepts = different_pairs[np.argsort(-similarities[different_pairs], kind="stable")[:count]]
    rejects = same_pairs[np.argsort(similarities[same_pairs], kind="stable")[:count]]
    return accepts, rejects
