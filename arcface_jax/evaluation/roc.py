"""The receiver operating characteristic (ROC) that every protocol here uses.

A pair is *accepted* (called the same person) if its score is at least the threshold, so equal
scores are accepted together and the curve has one point per distinct score. No point is dropped.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Literal

import numpy as np

from arcface_jax.counts import number_of
from arcface_jax.errors import InputError
from arcface_jax.evaluation.array_checks import check_same, check_scores, check_weights


@dataclasses.dataclass(frozen=True)
class Roc:
    """A full ROC, from "accept nothing" (threshold +∞) to "accept everything".

    Attributes:
      thresholds: [K], descending; +∞, then each distinct score once.
      false_accepts: [K], different pairs with score ≥ threshold.
      true_accepts: [K], same pairs with score ≥ threshold.
      num_different: number (or total weight) of different pairs.
      num_same: number (or total weight) of same pairs.
      complete: False if only the highest scores were kept (a streamed tail); then the curve ends at
        `far[-1]` < 1.
    """

    thresholds: np.ndarray
    false_accepts: np.ndarray
    true_accepts: np.ndarray
    num_different: float
    num_same: float
    complete: bool = True

    @cached_property
    def far(self) -> np.ndarray:
        """[K] false accept rate (false match rate, FPR), ascending."""
        return self.false_accepts / self.num_different

    @cached_property
    def tar(self) -> np.ndarray:
        """[K] true accept rate (1 − false reject rate, TPR), ascending."""
        return self.true_accepts / self.num_same

    @cached_property
    def frr(self) -> np.ndarray:
        """[K] false reject rate, 1 − TAR, descending."""
        return (self.num_same - self.true_accepts) / self.num_same


def roc_curve(scores: np.ndarray, same: np.ndarray, weights: np.ndarray | None = None) -> Roc:
    """The full ROC of pair scores, by one sort.

        FAR(t) = #{different, score ≥ t} / #different
        TAR(t) = #{same, score ≥ t} / #same

    Args:
      scores: [P], higher means more similar; finite.
      same: [P], bool: whether the pair is one person.
      weights: [P], ≥ 0: how often each pair counts (bootstrap replicates); once each if None.

    Returns: the curve, with one point per distinct score and +∞ in front.

    Raises:
      InputError: a score is NaN or infinite, mismatched lengths, or a kind of pair is missing.
    """
    scores = check_scores(scores, "scores")
    same = check_same(same, len(scores))
    weights = None if weights is None else check_weights(weights, len(scores))
    thresholds, true_accepts, false_accepts = _count_accepts(scores, same, weights)
    num_same, num_different = true_accepts[-1], false_accepts[-1]
    if num_same == 0 or num_different == 0:
        kind = "same" if num_same == 0 else "different"
        raise InputError(
            f"same: none of the {number_of(len(scores), 'pair')} is a {kind} pair, so there is no "
            "ROC; give both kinds"
        )
    return Roc(thresholds, false_accepts, true_accepts, num_different.item(), num_same.item())


def roc_from_kinds(
    same_scores: np.ndarray,
    different_scores: np.ndarray,
    *,
    num_same: int | None = None,
    num_different: int | None = None,
) -> Roc:
    """The ROC of two arrays of scores, one per kind; each may hold only the highest scores.

    Args:
      same_scores: [S], scores of same pairs.
      different_scores: [I], scores of different pairs.
      num_same: how many same pairs there are; more than S if some can never be accepted, such as a
        known person whom a search did not find. S if None.
      num_different: how many different pairs there are; more than I if only the highest were kept:
        no other score may exceed the lowest of them. I if None.

    Returns: the curve; with a kept tail only, `complete` is False, and the curve is exact and ends
      above the lowest kept score.
    """
    num_same = len(same_scores) if num_same is None else num_same
    num_different = len(different_scores) if num_different is None else num_different
    if num_same < max(len(same_scores), 1) or num_different < max(len(different_scores), 1):
        raise InputError(
            f"num_same, num_different: {num_same}, {num_different}, but {len(same_scores)} same "
            f"and {len(different_scores)} different scores were given; give at least one pair of "
            "each kind"
        )
    scores = check_scores(np.concatenate([same_scores, different_scores]))
    thresholds, true_accepts, false_accepts = _count_accepts(
        scores, np.arange(len(scores)) < len(same_scores), None
    )
    complete = num_different == len(different_scores)
    if not complete:
        known = thresholds > (np.min(different_scores) if len(different_scores) else np.inf)
        known[0] = True
        thresholds = thresholds[known]
        true_accepts = true_accepts[known]
        false_accepts = false_accepts[known]
    return Roc(thresholds, false_accepts, true_accepts, num_different, num_same, complete)


def _count_accepts(
    scores: np.ndarray, same: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds, true and false accepts of the full curve, by one sort (none if sorted)."""
    if not (np.diff(scores) <= 0).all():
        order = np.argsort(-scores)
        scores, same = scores[order], same[order]
        weights = None if weights is None else weights[order]
    # The last of each run of equal scores.
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    if weights is None:
        true_accepts, total = np.cumsum(same, dtype=np.int64)[last], last + 1
    else:
        true_accepts, total = np.cumsum(np.where(same, weights, 0))[last], np.cumsum(weights)[last]
    thresholds = np.concatenate([[np.inf], scores[last]]).astype(scores.dtype)
    start = np.zeros(1, total.dtype)
    return (
        thresholds,
        np.concatenate([start, true_accepts]),
        np.concatenate([start, total - true_accepts]),
    )


Rule = Literal["nearest", "at_most"]


def operating_point(roc: Roc, far: float, rule: Rule = "nearest") -> int:
    """The index of the ROC point for a wanted false accept rate.

    "nearest" is the usual rule for IJB-B and IJB-C: the point with the nearest FAR; among equally
    near points the one with the larger TAR. "at_most" is the conservative rule for deployment: the
    point with the largest TAR whose FAR does not exceed the wanted one.

    Raises:
      InputError: `far` is not in [0, 1] or lies beyond the end of a streamed tail.
    """
    if not 0.0 <= far <= 1.0:
        raise InputError(f"far: {far} is not a false accept rate; give a number from 0 to 1")
    if not roc.complete and far > roc.far[-1]:
        raise InputError(
            f"far: {far:g} lies beyond the kept tail, which ends at {roc.far[-1]:g}; keep more of "
            "the highest scores"
        )
    if rule == "at_most":
        return int(np.searchsorted(roc.far, far, side="right")) - 1
    if rule != "nearest":
        raise InputError(f"rule: {rule!r} is unknown; use 'nearest' or 'at_most'")
    distance = np.abs(roc.far - far)
    return len(distance) - 1 - int(np.argmin(distance[::-1]))


def tar_at_far(roc: Roc, far: float, rule: Rule = "nearest") -> float:
    """True accept rate at a wanted false accept rate; see `operating_point` for the rules.

    With fewer than 1/far different pairs the nearest point may be FAR = 0;
    `thresholds.deployment_threshold` warns about this.
    """
    return float(roc.tar[operating_point(roc, far, rule)])


def equal_error_rate(roc: Roc) -> float:
    """The rate at which FAR = FRR, on the ROC joined by straight lines.

    The crossing between the last point with FAR < FRR and the first with FAR ≥ FRR is computed in
    closed form, so no root finder has to converge.
    """
    far, frr = roc.far, roc.frr
    if not roc.complete and far[-1] < frr[-1]:
        raise InputError(
            "roc: the kept tail ends before FAR = FRR; keep more of the highest scores"
        )
    right = int(np.searchsorted(far - frr, 0.0, side="left"))
    left = right - 1  # never negative: the first point has FAR 0 and FRR 1
    gap_left, gap_right = frr[left] - far[left], far[right] - frr[right]
    return float(far[left] + (far[right] - far[left]) * gap_left / (gap_left + gap_right))


def area_under_curve(roc: Roc) -> float:
    """Area under the ROC: P(same score > different score) + ½ P(equal).

    The trapezoid rule on the full curve equals the Mann–Whitney statistic with ties counted half.
    """
    if not roc.complete:
        raise InputError(
            "roc: only a tail was kept, and the area needs every score; use a complete ROC"
        )
    return float(np.trapezoid(roc.tar, roc.far))


@dataclasses.dataclass(frozen=True)
class RocNumbers:
    """What a table shows of an ROC.

    Attributes:
      tar: true accept rate at each false accept rate asked for, by `tar_at_far`.
      eer: equal error rate.
      auc: area under the curve.
    """

    tar: Mapping[float, float]
    eer: float
    auc: float

    def numbers(self) -> dict[str, float]:
        """The same as flat names and numbers."""
        return {f"tar@far={far:g}": value for far, value in self.tar.items()} | {
            "eer": self.eer,
            "auc": self.auc,
        }


def roc_numbers(roc: Roc, fars: Sequence[float]) -> RocNumbers:
    """TAR at each wanted false accept rate, EER and AUC of a complete ROC.

    Raises:
      InputError: one of `fars` is no rate, or the ROC holds only a tail.
    """
    return RocNumbers(
        {far: tar_at_far(roc, far) for far in fars}, equal_error_rate(roc), area_under_curve(roc)
    )
