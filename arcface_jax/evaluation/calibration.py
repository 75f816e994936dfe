"""What a score says about two photos: the likelihood ratio, and with a prior the probability.

    LR(s) = p(s | same person) / p(s | different people)
    P(same | s) = π·LR / (π·LR + 1 − π)        π: how likely it was before the photos were seen

The data give only LR. The share of same pairs in a list is no prior: the list's makers chose it.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy.special import expit

from arcface_jax.counts import number_of
from arcface_jax.errors import InputError
from arcface_jax.evaluation.array_checks import (
    check_length,
    check_same,
    check_scores,
    check_weights,
)
from arcface_jax.evaluation.bootstrap import RESAMPLING, Interval, Resampling, bootstrap_pairs

EVEN = 0.5
"""The prior if both are equally likely: the probability is LR / (LR + 1)."""

_BINS = 10
_ROWS = 10
_STEPS = 200
_CELLS = 16_384


@dataclasses.dataclass(frozen=True)
class Calibration:
    """log LR(s) = slope·s + offset, within the range that the number of pairs supports.

    Attributes:
      slope: above 0, so that the probability rises with the score.
      offset: of the natural logarithm.
      num_same: (weighted) number of same pairs it was fitted to; LR is never below 1/(num_same +
        1).
      num_different: different pairs; LR is never above num_different + 1.
      separable: whether every same pair scored above every different one; then the slope between
        them is unknown.
    """

    slope: float
    offset: float
    num_same: int
    num_different: int
    separable: bool = False

    def __post_init__(self) -> None:
        if not (0 < self.slope < math.inf and math.isfinite(self.offset)):
            raise InputError(f"slope, offset: {self.slope}, {self.offset}; give numbers, slope > 0")
        if min(self.num_same, self.num_different) < 1:
            raise InputError("num_same, num_different: give at least one pair of each kind")

    def log_ratio(self, scores: np.ndarray) -> np.ndarray:
        """Natural logarithm of LR of scores of any shape, float64."""
        raw = self.slope * np.asarray(scores, np.float64) + self.offset
        return np.clip(raw, -math.log1p(self.num_same), math.log1p(self.num_different))

    def probability(self, scores: np.ndarray, prior: float = EVEN) -> np.ndarray:
        """P(same | s) of scores of any shape for a prior in (0, 1), float64."""
        if not 0 < prior < 1:
            raise InputError(f"prior: {prior}; give a probability between 0 and 1")
        return np.asarray(expit(self.log_ratio(scores) + math.log(prior / (1 - prior))))


def percent(probability: float) -> str:
    """E.g. "97 %", "99.98 %", "0.3 %": two digits of the distance to certainty."""
    missing = min(probability, 1 - probability)
    decimals = 0 if missing >= 0.01 else min(12, math.ceil(-math.log10(max(missing, 1e-12))) - 2)
    return f"{100 * probability:.{max(decimals, 1 if missing < 0.01 else 0)}f} %"


def fit_calibration(
    scores: np.ndarray, same: np.ndarray, weights: np.ndarray | None = None
) -> Calibration:
    """Logistic regression of `same` on the score; each kind of pair has total weight ½.

    Minimises, with t⁺ = (n⁺ + 1)/(n⁺ + 2) and t⁻ = 1/(n⁻ + 2) as targets and z = slope·s + offset,

        Σ over pairs of  w·(log(1 + eᶻ) − t·z),     w = 1/(2n⁺) or 1/(2n⁻)

    so that z is log LR for any share of same pairs. Platt's targets, not quite 0 and 1, keep the
    slope finite if the score separates both kinds.

    With more than 32,768 pairs, scores within 1/16,384 of the range are merged into their mean;
    this changes slope and offset by less than a millionth.

    Args:
      scores: [P], higher means more similar; of pairs the model was not trained on.
      same: [P] bool.
      weights: [P], ≥ 0: how often each pair counts; once each if None.

    Raises:
      InputError: a kind of pair is missing, all scores are equal, or same pairs do not score higher
        than different ones.

    References: Platt, Probabilistic outputs for support vector machines (Advances in Large Margin
      Classifiers, 1999); Brümmer & du Preez, Application-independent evaluation of speaker
      detection (Computer Speech and Language, 2006).
    """
    scores = check_scores(scores).astype(np.float64)
    same = check_same(same, len(scores))
    counts = np.ones(len(scores)) if weights is None else check_weights(weights, len(scores))
    present = counts > 0
    scores, same, counts = scores[present], same[present], counts[present].astype(np.float64)
    num_same, num_different = float(counts[same].sum()), float(counts[~same].sum())
    if num_same == 0 or num_different == 0:
        kind = "same" if num_same == 0 else "different"
        raise InputError(f"same: holds no {kind} pair; a probability needs both kinds")
    lowest, highest = scores.min(), scores.max()
    if lowest == highest:
        raise InputError(f"scores: all are {lowest:g}; a score that never differs tells nothing")
    w = np.where(same, 0.5 / num_same, 0.5 / num_different) * counts
    targets = np.where(same, (num_same + 1) / (num_same + 2), 1 / (num_different + 2))
    # Over [−1, 1], so that the two numbers are of one size whatever the scores' unit.
    middle, half = (lowest + highest) / 2, (highest - lowest) / 2
    slope, offset = _newton(*_grouped((scores - middle) / half, same, targets, w))
    slope /= half
    if slope <= 0:
        raise InputError(
            "scores: same pairs do not score higher than different ones, so no probability can be "
            "had from them; use another model"
        )
    separable = bool(scores[same].min() > scores[~same].max())
    counted = max(1, round(num_same)), max(1, round(num_different))
    return Calibration(float(slope), float(offset - slope * middle), *counted, separable)


def _grouped(
    x: np.ndarray, same: np.ndarray, targets: np.ndarray, w: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x, targets, w) with x in [−1, 1]; many pairs are grouped by cells."""
    if len(x) <= 2 * _CELLS:
        return x, targets, w
    cell = np.minimum(((x + 1) / 2 * _CELLS).astype(np.int64), _CELLS - 1) + _CELLS * same
    total, sums, of_targets = (
        np.bincount(cell, each, 2 * _CELLS) for each in (w, w * x, w * targets)
    )
    filled = total > 0
    return sums[filled] / total[filled], of_targets[filled] / total[filled], total[filled]


def _newton(x: np.ndarray, targets: np.ndarray, w: np.ndarray) -> tuple[float, float]:
    """The (slope, offset) that minimise the convex sum of `fit_calibration`, by Newton's method
    with halved steps.
    """

    def loss(at: np.ndarray) -> float:
        z = at[0] * x + at[1]
        return float(w @ (np.logaddexp(0.0, z) - targets * z))

    found, least = np.zeros(2), loss(np.zeros(2))
    for _ in range(_STEPS):
        p = expit(found[0] * x + found[1])
        error, curvature = w * (p - targets), w * p * (1 - p)
        gradient = np.array([error @ x, error.sum()])
        across = curvature @ x
        hessian = np.array([[curvature @ (x * x), across], [across, curvature.sum()]])
        hessian += 1e-14 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        while (now := loss(found - step)) > least and np.abs(step).max() > 1e-12:
            step /= 2
        if now > least or np.abs(step).max() <= 1e-10 * (1 + np.abs(found).max()):
            break
        found, least = found - step, now
    return float(found[0]), float(found[1])


def calibration_loss(
    log_ratios: np.ndarray, same: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, float]:
    """How good likelihood ratios are; both kinds of pair have equal weight.

        cllr = ½·(mean of log₂(1 + 1/LR) of same pairs + mean of log₂(1 + LR) of different ones)
        ece  = Σ over ten bins of probability of |mean probability − share of same pairs| · weight

    Args:
      log_ratios: [P], natural logarithms, of pairs not used for the fit.
      same: [P] bool.
      weights: [P], ≥ 0; once each if None.

    Returns: "cllr" in bits (0: certain and right, 1: no information, more: misleading) and "ece" of
      the probability for an even prior, in [0, 1].

    References: Brümmer & du Preez (2006), eq. 15; Guo et al., On calibration of modern neural
      networks (arXiv:1706.04599).
    """
    log_ratios = check_scores(log_ratios, "log_ratios").astype(np.float64)
    same = check_same(same, len(log_ratios))
    return _Judge(log_ratios, same).loss(weights)


def telling_scores(scores: np.ndarray, same: np.ndarray) -> tuple[float, ...]:
    """Round scores, about ten, to tell the probability of: where those of the pairs lie.

    They are multiples of 1, 2 or 5 times a power of ten, and reach from the score that 5 % of the
    different pairs are below to the one that 5 % of the same pairs are above.

    Args:
      scores: [P].
      same: [P] bool, with both kinds.
    """
    scores = check_scores(scores).astype(np.float64)
    same = check_same(same, len(scores))
    ends = np.quantile(scores[~same], 0.05), np.quantile(scores[same], 0.95)
    low, high = float(min(ends)), float(max(ends))
    wanted = max((high - low) / _ROWS, 1e-5)
    power = 10.0 ** math.floor(math.log10(wanted))
    step = next(unit * power for unit in (1, 2, 5, 10) if unit * power >= wanted * (1 - 1e-9))
    decimals = max(0, math.ceil(-math.log10(step) - 1e-9))
    numbers = range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)
    # The sum makes 0 of -0.
    return tuple(round(number * step, decimals) + 0.0 for number in numbers)


def calibration_intervals(
    scores: np.ndarray,
    same: np.ndarray,
    first_identity: np.ndarray,
    second_identity: np.ndarray,
    points: Sequence[float],
    *,
    resampling: Resampling = RESAMPLING,
) -> dict[str, Interval]:
    """ "slope" and "offset" of `fit_calibration`, and "probability@SCORE" of each point for an even
    prior, with intervals over people.

    Args:
      scores: [P].
      same: [P] bool.
      first_identity: [P], see `bootstrap.pair_replicates`.
      second_identity: [P].
      points: scores to give the probability of.
      resampling: how many replicates, which confidence, which seed.

    Raises:
      InputError: as `fit_calibration` on all the pairs.
    """
    names = [f"probability@{point:g}" for point in points]

    def statistics(weights: np.ndarray | None) -> dict[str, float]:
        try:
            found = fit_calibration(scores, same, weights)
        except InputError:
            if weights is None:
                raise
            # A draw in which, for instance, same pairs score no higher.
            return dict.fromkeys(("slope", "offset", *names), math.nan)
        values = [found.slope, found.offset, *found.probability(np.array(points)).tolist()]
        return dict(zip(("slope", "offset", *names), values, strict=True))

    return bootstrap_pairs(statistics, same, first_identity, second_identity, resampling=resampling)


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Predicted probabilities (even prior) and observed shares, on people not used for the fit.

    Attributes:
      figures: "cllr" and "ece" of `calibration_loss`, with their intervals.
      probability: [B], the mean probability of each tenth that holds pairs.
      share: B shares of same pairs in it, both kinds with equal weight, with their intervals.
      num_pairs: int [B].
    """

    figures: dict[str, Interval]
    probability: np.ndarray
    share: tuple[Interval, ...]
    num_pairs: np.ndarray


def held_out_reliability(
    scores: np.ndarray,
    same: np.ndarray,
    first_identity: np.ndarray,
    second_identity: np.ndarray,
    *,
    resampling: Resampling = RESAMPLING,
) -> Reliability:
    """How far to trust a calibration, by people, not pairs.

    The people are split into random halves; a calibration fitted to the pairs within each half is
    applied to the pairs within the other. ECE is a sum of absolute values, so most replicates
    exceed its value on the data, and its interval can lie above it.

    Args:
      scores: [P], see `fit_calibration`.
      same: [P] bool.
      first_identity: [P], see `bootstrap.pair_replicates`.
      second_identity: [P].
      resampling: of the intervals; its seed also halves the people.

    Raises:
      InputError: as `fit_calibration`, or one half of the people has only one kind of pair.
    """
    scores = check_scores(scores)
    same = check_same(same, len(scores))
    clusters = (
        check_length(first_identity, len(scores), "first_identity", "scores"),
        check_length(second_identity, len(scores), "second_identity", "scores"),
    )
    held_out, ratios = _held_out_ratios(scores, same, clusters, resampling.seed)
    judge = _Judge(ratios, same[held_out])
    filled = np.unique(judge.bins)

    def statistics(weights: np.ndarray | None) -> dict[str, float]:
        _, _, share = judge.tenths(weights)
        return judge.loss(weights) | {str(at): share[at] for at in filled}

    first, second = (each[held_out] for each in clusters)
    found = bootstrap_pairs(statistics, judge.same, first, second, resampling=resampling)
    _, probability, _ = judge.tenths(None)
    share = tuple(found.pop(str(at)) for at in filled)
    return Reliability(found, probability[filled], share, np.bincount(judge.bins)[filled])


def _held_out_ratios(
    scores: np.ndarray, same: np.ndarray, clusters: tuple[np.ndarray, ...], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(positions of the pairs within one half of the people, their log LR fitted on the other)."""
    people, numbers = np.unique(np.concatenate(clusters), return_inverse=True)
    half = np.random.default_rng(seed).permutation(len(people)) < len(people) // 2
    in_first, in_second = half[numbers[: len(scores)]], half[numbers[len(scores) :]]
    parts = [np.flatnonzero(in_first & in_second), np.flatnonzero(~in_first & ~in_second)]
    for part in parts:
        if not same[part].any() or same[part].all():
            raise InputError(
                f"same: half of the {number_of(len(people), 'person', 'have')} only one kind of "
                "pair among themselves; more people are needed to tell how good a probability is"
            )
    fitted = [fit_calibration(scores[part], same[part]) for part in parts]
    ratios = [fitted[1].log_ratio(scores[parts[0]]), fitted[0].log_ratio(scores[parts[1]])]
    return np.concatenate(parts), np.concatenate(ratios)


class _Judge:
    """The sums of `calibration_loss`; computes once what does not depend on weights."""

    def __init__(self, log_ratios: np.ndarray, same: np.ndarray) -> None:
        self.same, self._probability = same, expit(log_ratios)
        self.bins = np.minimum((self._probability * _BINS).astype(np.int64), _BINS - 1)
        self._bits = np.logaddexp(0.0, np.where(same, -log_ratios, log_ratios)) / math.log(2)

    def _even(self, weights: np.ndarray | None) -> np.ndarray:
        """[P], of sum ½ over each kind."""
        same = self.same
        counts = np.ones(len(same)) if weights is None else check_weights(weights, len(same))
        num_same, num_different = counts[same].sum(), counts[~same].sum()
        if num_same == 0 or num_different == 0:
            kind = "same" if num_same == 0 else "different"
            raise InputError(f"same: holds no {kind} pair; give both kinds")
        return np.where(same, 0.5 / num_same, 0.5 / num_different) * counts

    def tenths(self, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(weight, mean probability, share of same pairs) of each tenth; NaN where it is empty."""
        w = self._even(weights)
        total, probability, share = (
            np.bincount(self.bins, each, _BINS)
            for each in (w, w * self._probability, w * self.same)
        )
        with np.errstate(invalid="ignore"):
            return total, probability / total, share / total

    def loss(self, weights: np.ndarray | None) -> dict[str, float]:
        total, probability, share = self.tenths(weights)
        filled = total > 0
        gaps = np.abs(probability[filled] - share[filled])
        cllr = float(self._even(weights) @ self._bits)
        return {"cllr": cllr, "ece": float(total[filled] @ gaps)}
