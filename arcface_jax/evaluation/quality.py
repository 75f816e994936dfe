"""Does a quality score find bad images? Error against the share of images rejected."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from arcface_jax.errors import InputError
from arcface_jax.evaluation.array_checks import check_indices, check_same, check_scores
from arcface_jax.evaluation.roc import operating_point, roc_curve

DEFAULT_FRACTIONS = tuple(round(0.05 * k, 2) for k in range(11))
"""0, 5 % … 50 % of the images rejected."""


@dataclasses.dataclass(frozen=True)
class RejectCurve:
    """Error rates once the worst images are gone.

    Attributes:
      fractions: [F], wanted shares of rejected images.
      rejected: [F], actual shares; smaller if images at the cut have equal quality, as all of these
        stay.
      frr: [F], false reject rate of the pairs left; nan where no same pair is left.
      far: [F], false accept rate of the pairs left; nan where no different pair is left.
      threshold: the score at or above which a pair is accepted, the same for all.
    """

    fractions: np.ndarray
    rejected: np.ndarray
    frr: np.ndarray
    far: np.ndarray
    threshold: float

    @property
    def area(self) -> float:
        """Mean FRR over the fractions (trapezoid rule); lower means a better quality score."""
        return float(
            np.trapezoid(self.frr, self.fractions) / (self.fractions[-1] - self.fractions[0])
        )


def error_versus_reject(
    scores: np.ndarray,
    same: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    quality: np.ndarray,
    *,
    far: float = 1e-3,
    fractions: Sequence[float] = DEFAULT_FRACTIONS,
) -> RejectCurve:
    """FRR at a fixed threshold, against the share of lowest-quality images rejected.

    The threshold is set once, on all pairs, by the conservative rule (FAR at most `far`). A pair is
    left out when either image is rejected. With MagFace and AdaFace the norm of the embedding is
    the quality.

    Args:
      scores: [P], higher means more similar.
      same: [P] bool.
      first: int [P], image indices.
      second: int [P].
      quality: [N], one per image; higher is better.
      far: false accept rate that sets the threshold.
      fractions: shares of images to reject, ascending, in [0, 1).

    References: Grother & Tabassi, Performance of biometric quality measures (TPAMI 2007); Meng et
      al., MagFace (arXiv:2103.06627), §4.4.
    """
    scores = check_scores(scores)
    same = check_same(same, len(scores))
    quality = check_scores(quality, "quality")
    first = check_indices(first, len(quality), "first")
    second = check_indices(second, len(quality), "second")
    if not len(first) == len(second) == len(scores):
        raise InputError(
            f"first, second: {len(first)} and {len(second)} for {len(scores)} scores; give one "
            "each a pair"
        )
    wanted = np.asarray(fractions, np.float64)
    if len(wanted) < 2 or not (np.diff(wanted) > 0).all() or wanted[0] < 0 or wanted[-1] >= 1:
        raise InputError(
            f"fractions: {tuple(fractions)}; give at least two ascending shares in [0, 1)"
        )
    roc = roc_curve(scores, same)
    threshold = roc.thresholds[operating_point(roc, far, "at_most")]
    accepted = scores >= threshold
    ascending = np.sort(quality)
    pair_quality = np.minimum(quality[first], quality[second])
    rejected, frr, false_accept = [], [], []
    for fraction in wanted:
        # So many images, or fewer, lie below it.
        cut = ascending[int(fraction * len(quality) * (1 + 1e-12))]
        rejected.append(np.mean(quality < cut))
        kept = pair_quality >= cut
        frr.append(_share(~accepted, kept & same))
        false_accept.append(_share(accepted, kept & ~same))
    return RejectCurve(
        wanted, np.array(rejected), np.array(frr), np.array(false_accept), float(threshold)
    )


def _share(condition: np.ndarray, among: np.ndarray) -> float:
    return float(condition[among].mean()) if among.any() else np.nan
