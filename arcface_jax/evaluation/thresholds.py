"""Which threshold to deploy for a wanted false accept rate, and whether the data support it."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from arcface_jax.counts import number_of
from arcface_jax.errors import InputError
from arcface_jax.evaluation.array_checks import check_same, check_scores
from arcface_jax.evaluation.bootstrap import RESAMPLING, Interval, Resampling, bootstrap_pairs
from arcface_jax.evaluation.roc import Roc, operating_point, roc_curve


@dataclasses.dataclass(frozen=True)
class DeploymentThreshold:
    """Accept a pair if its score is at least `threshold.estimate`.

    Attributes:
      wanted_far: what was asked for.
      threshold: the lowest score in the data whose FAR is at most `wanted_far`, with its interval
        over identities.
      tar: the TAR there, with its interval.
      far: the threshold's FAR on the data.
      num_different: number of different pairs used.
      warning: one line saying why not to trust it; None if there are enough pairs.
    """

    wanted_far: float
    threshold: Interval
    tar: Interval
    far: float
    num_different: int
    warning: str | None


def deployment_threshold(
    scores: np.ndarray,
    same: np.ndarray,
    first_identity: np.ndarray,
    second_identity: np.ndarray,
    far: float,
    *,
    resampling: Resampling = RESAMPLING,
) -> DeploymentThreshold:
    """The threshold for a wanted FAR, by the conservative rule, with a bootstrap over identities.

    Two rules limit what n different pairs can say about a rate f. With f·n < 3 you do not even know
    that the rate is below f (no false accept in n trials leaves 3/n possible, at 95 %). Below f·n =
    30 the observed rate may be off by more than 30 % (at 90 %). Both treat pairs as independent;
    the interval does not.

    Args:
      scores: [P], higher means more similar.
      same: [P] bool.
      first_identity: [P], who each pair's first image shows; see `bootstrap.pair_replicates`.
      second_identity: [P].
      far: wanted false accept rate, above 0.
      resampling: how many replicates, which confidence, which seed.

    References: Doddington et al., The NIST speaker recognition evaluation (Speech Communication
      2000), rule of 30; Hanley & Lippman-Hand, If nothing goes wrong, is everything all right?
      (JAMA 1983), rule of three.
    """
    _check_far(far)
    scores = check_scores(scores)
    same = check_same(same, len(scores))
    order = np.argsort(-scores)  # once, for all replicates
    scores, same = scores[order], same[order]

    def statistics(weights: np.ndarray | None) -> dict[str, float]:
        curve = roc_curve(scores, same, weights)
        threshold, point = _strict_threshold(curve, far)
        return {"threshold": threshold, "tar": float(curve.tar[point])}

    intervals = bootstrap_pairs(
        statistics,
        same,
        np.asarray(first_identity)[order],
        np.asarray(second_identity)[order],
        resampling=resampling,
    )
    roc = roc_curve(scores, same)
    num_different = int(roc.num_different)
    return DeploymentThreshold(
        far,
        intervals["threshold"],
        intervals["tar"],
        float(roc.far[operating_point(roc, far, "at_most")]),
        num_different,
        too_few_pairs(num_different, far),
    )


def too_few_pairs(num_different: int, far: float) -> str | None:
    """A warning if `num_different` pairs cannot measure a FAR of `far`; None if they can."""
    expected = far * num_different
    if expected >= 30:
        return None
    wanted = f"{math.ceil(30 / far - 1e-9):,}"
    if expected < 3:
        return (
            f"{number_of(num_different, 'different pair')} cannot tell whether the FAR is below "
            f"{far:.3g} at all; collect at least {wanted}"
        )
    return (
        f"{number_of(num_different, 'different pair')} give about {expected:.0f} false accepts at "
        f"FAR {far:.3g}, so the true rate may be off by more than 30 %; collect at least {wanted}"
    )


def _check_far(far: float) -> None:
    if not 0 < far < 1:
        raise InputError(f"far: {far}; give a false accept rate between 0 and 1")


def fars_told(fars: Sequence[float], num_different: int) -> tuple[tuple[float, ...], str | None]:
    """Those of `fars` that n different pairs can tell from each other, and a line on the others.

    Where FAR·n < 1 not one pair may be accepted, so that all such rates have one threshold, above
    every score of a different pair. They are left out; of none but such ones the highest stays.
    """
    for far in fars:
        _check_far(far)
    told = tuple(far for far in fars if far * num_different * (1 + 1e-12) >= 1)
    told = told or (max(fars),)
    others = sorted(set(fars) - set(told), reverse=True)
    if not others:
        return told, None
    needed = f"{math.ceil(1 / others[0] - 1e-9):,}"
    verb = "is" if len(others) == 1 else "are"
    return told, (
        f"FAR {', '.join(f'{far:g}' for far in others)} {verb} left out: of {num_different:,} "
        "different pairs not one may be accepted there, so such rates cannot be told apart; "
        f"{needed} are needed at the least for {others[0]:g}"
    )


def _strict_threshold(roc: Roc, far: float) -> tuple[float, int]:
    """The `at_most` threshold and point; above all scores if even the highest accepts too many."""
    point = operating_point(roc, far, "at_most")
    if point == 0:
        return float(
            np.nextafter(roc.thresholds[1], np.asarray(np.inf, roc.thresholds.dtype))
        ), point
    return float(roc.thresholds[point]), point
