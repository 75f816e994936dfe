"""Is one model better than another, or is it noise? A paired bootstrap over identities."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from arcface_jax.evaluation.bootstrap import (
    RESAMPLING,
    NamedFigures,
    Resampling,
    Statistics,
    defined_values,
    pair_replicates,
    percentile_intervals,
    roc_statistics,
    verification_statistics,
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two models on the same pairs.

    Attributes:
      difference: second − first.
      low: lower end of the difference's interval.
      high: upper end.
      p_value: two-sided; twice the share of replicates whose difference has the other sign.
      verdict: "significant" if the interval leaves out zero, else "noise".
    """

    difference: float
    low: float
    high: float
    p_value: float
    verdict: str


def compare_pairs(
    first_statistics: Statistics,
    second_statistics: Statistics,
    same: np.ndarray,
    first_identity: np.ndarray,
    second_identity: np.ndarray,
    *,
    resampling: Resampling = RESAMPLING,
) -> dict[str, Comparison]:
    """A paired test of two models on one list of pairs: both see the same replicates.

    What is hard for both models cancels, so the difference is much more precise than either figure.

    Args:
      first_statistics: weights [P] (None: each pair once) → the first model's named figures.
      second_statistics: of the second.
      same: [P] bool.
      first_identity: [P], see `pair_replicates`.
      second_identity: [P].
      resampling: how many replicates, which confidence, which seed.
    """

    def difference(weights: np.ndarray | None) -> NamedFigures:
        first, second = first_statistics(weights), second_statistics(weights)
        return {name: second[name] - first[name] for name in first}

    replicates = [
        difference(weights)
        for weights in pair_replicates(same, first_identity, second_identity, resampling=resampling)
    ]
    comparisons = {}
    for name, interval in percentile_intervals(
        difference(None), replicates, resampling.confidence
    ).items():
        values = defined_values(replicates, name)
        tail = min(np.count_nonzero(values <= 0), np.count_nonzero(values >= 0))
        verdict = "significant" if interval.low > 0 or interval.high < 0 else "noise"
        p_value = min(1.0, 2 * (tail + 1) / (len(values) + 1))
        ends = interval.low, interval.high
        comparisons[name] = Comparison(interval.estimate, *ends, p_value, verdict)
    return comparisons


def compare_roc(
    first_scores: np.ndarray,
    second_scores: np.ndarray,
    same: np.ndarray,
    first_identity: np.ndarray,
    second_identity: np.ndarray,
    *,
    fars: Sequence[float] = (1e-4, 1e-3, 1e-2),
    resampling: Resampling = RESAMPLING,
) -> dict[str, Comparison]:
    """`compare_pairs` for `roc_intervals`, from two models' scores [P] of a list without folds."""
    first = roc_statistics(first_scores, same, fars)
    second = roc_statistics(second_scores, same, fars)
    identities = (first_identity, second_identity)
    return compare_pairs(first, second, same, *identities, resampling=resampling)


def compare_similarities(
    first_similarities: np.ndarray,
    second_similarities: np.ndarray,
    same: np.ndarray,
    first_identity: np.ndarray,
    second_identity: np.ndarray,
    *,
    folds: int = 10,
    fars: Sequence[float] = (1e-2, 1e-3),
    resampling: Resampling = RESAMPLING,
) -> dict[str, Comparison]:
    """`compare_pairs` for `verify_similarities`, from two models' similarities [P]."""
    first = verification_statistics(first_similarities, same, folds, fars)
    second = verification_statistics(second_similarities, same, folds, fars)
    identities = (first_identity, second_identity)
    return compare_pairs(first, second, same, *identities, resampling=resampling)
