"""Error rates by group: RFW's four, or any attribute column, and the gaps between groups."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from arcface_jax.evaluation.array_checks import (
    check_indices,
    check_length,
    check_same,
    check_scores,
)
from arcface_jax.evaluation.bootstrap import RESAMPLING, Interval, Resampling, bootstrap_pairs
from arcface_jax.evaluation.verification import VerificationResult, verify_similarities

MIXED = "mixed"
"""The group of pairs whose two images belong to different groups."""


def pair_groups(image_groups: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The group of each pair: that of both its images, or "mixed" if they differ.

    Args:
      image_groups: [N], a column of any attribute.
      first: int [P], image indices.
      second: int [P].

    Returns: [P], text.
    """
    names = np.asarray(image_groups).astype(str)
    left = names[check_indices(first, len(names), "first")]
    right = names[check_indices(second, len(names), "second")]
    return np.where(left == right, left, MIXED)


def verify_by_group(
    similarities: np.ndarray,
    same: np.ndarray,
    groups: np.ndarray,
    *,
    folds: int = 10,
    fars: Sequence[float] = (1e-2, 1e-3),
) -> dict[str, VerificationResult]:
    """RFW's protocol: ten folds within each group's pairs, in order, with their own thresholds.

    Args:
      similarities: [P].
      same: [P] bool.
      groups: [P], the group of each pair; "mixed" pairs are left out.
      folds: contiguous folds within each group.
      fars: false accept rates at which to report TAR.

    Returns: group → result.

    References: Wang et al., Racial Faces in-the-Wild (arXiv:1812.00194).
    """
    similarities = check_scores(similarities, "similarities")
    same = check_same(same, len(similarities))
    groups = _check_groups(groups, len(similarities))
    return {
        str(name): verify_similarities(
            similarities[groups == name], same[groups == name], folds=folds, fars=fars
        )
        for name in np.unique(groups)
        if name != MIXED
    }


def _check_groups(groups: np.ndarray, length: int) -> np.ndarray:
    return check_length(groups, length, "groups", "pairs").astype(str)


@dataclasses.dataclass(frozen=True)
class GroupRates:
    """Error rates of each group at one common threshold, with intervals over identities.

    Attributes:
      far: false accept rate of each group; only of groups with different pairs.
      frr: false reject rate of each group; only of groups with same pairs.
      gaps: "far" and "frr": highest minus lowest rate of the groups, with intervals.
    """

    far: Mapping[str, Interval]
    frr: Mapping[str, Interval]
    gaps: Mapping[str, Interval]


def group_rates(
    scores: np.ndarray,
    same: np.ndarray,
    groups: np.ndarray,
    threshold: float,
    first_identity: np.ndarray,
    second_identity: np.ndarray,
    *,
    resampling: Resampling = RESAMPLING,
) -> GroupRates:
    """FAR and FRR of each group at one common threshold, and the gaps between groups.

    A gap is never negative, so its interval seldom reaches zero even if the groups are alike. To
    claim that two groups differ, check that their own intervals do not overlap.

    Args:
      scores: [P], higher means more similar; accepted if ≥ threshold.
      same: [P] bool.
      groups: [P], e.g. from `pair_groups`; "mixed" pairs are left out of the gaps.
      threshold: common to all groups.
      first_identity: [P], see `bootstrap.pair_replicates`.
      second_identity: [P].
      resampling: how many replicates, which confidence, which seed.
    """
    scores = check_scores(scores)
    same = check_same(same, len(scores))
    groups = _check_groups(groups, len(scores))
    accepted = scores >= threshold
    wrong = np.where(same, ~accepted, accepted)
    names, numbers = np.unique(groups, return_inverse=True)
    # One cell for each group and kind of pair.
    cells = 2 * numbers + same
    num_cells = 2 * len(names)
    present = np.bincount(cells, minlength=num_cells).reshape(-1, 2) > 0
    kinds = ("far", "frr")

    def statistics(weights: np.ndarray | None) -> dict[str, float]:
        total = np.bincount(cells, weights, minlength=num_cells).reshape(-1, 2)
        errors = np.bincount(
            cells, wrong if weights is None else wrong * weights, minlength=num_cells
        ).reshape(-1, 2)
        # NaN: lost in this replicate.
        rates = np.divide(errors, total, out=np.full(total.shape, np.nan), where=total > 0)
        named = {
            f"{kinds[kind]} {names[group]}": float(rates[group, kind])
            for group, kind in zip(*np.nonzero(present), strict=True)
        }
        for kind in range(2):
            known = rates[(names != MIXED) & ~np.isnan(rates[:, kind]), kind]
            named[f"gap {kinds[kind]}"] = float(np.ptp(known)) if len(known) else np.nan
        return named

    intervals = bootstrap_pairs(
        statistics, same, first_identity, second_identity, resampling=resampling
    )
    parts: dict[str, dict[str, Interval]] = {"far": {}, "frr": {}, "gap": {}}
    for name, interval in intervals.items():
        kind, group = name.split(" ", 1)
        parts[kind][group] = interval
    return GroupRates(parts["far"], parts["frr"], parts["gap"])
