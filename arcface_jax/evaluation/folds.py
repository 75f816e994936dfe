"""Ten folds: pick a threshold on nine, apply it to the tenth, exactly and by sorting once.

Every distinct threshold is a candidate, so no grid limits the result. The published scripts' grid
is in `published.py`.
"""

import dataclasses

import numpy as np

from arcface_jax.counts import number_of
from arcface_jax.data.pairs import check_both_kinds
from arcface_jax.errors import InputError
from arcface_jax.evaluation.array_checks import check_same, check_scores, check_weights


@dataclasses.dataclass(frozen=True)
class FoldAccuracy:
    """Accuracy over folds.

    Attributes:
      mean: mean of `per_fold`.
      std: their standard deviation (ddof 0).
      per_fold: [F], accuracy on each held-out fold.
      thresholds: [F], what the other folds chose.
    """

    mean: float
    std: float
    per_fold: np.ndarray
    thresholds: np.ndarray


@dataclasses.dataclass(frozen=True)
class FoldRates:
    """TAR on held-out folds, at the threshold that gives a wanted FAR on the other folds.

    Attributes:
      val: mean over folds of the TAR ("VAL") on the held-out fold.
      std: its standard deviation (ddof 0).
      far: mean over folds of the FAR that the threshold gave on the held-out fold.
      thresholds: [F], what the other folds chose.
    """

    val: float
    std: float
    far: float
    thresholds: np.ndarray


def fold_numbers(num_pairs: int, num_folds: int = 10) -> np.ndarray:
    """int [P]: each pair's fold; contiguous, the first num_pairs % num_folds one pair larger."""
    if not 2 <= num_folds <= num_pairs:
        raise InputError(
            f"num_folds: {number_of(num_folds, 'fold')} of {number_of(num_pairs, 'pair')}; give "
            "from 2 folds to one per pair"
        )
    sizes = np.full(num_folds, num_pairs // num_folds)
    sizes[: num_pairs % num_folds] += 1
    return np.repeat(np.arange(num_folds), sizes)


def threshold_between(upper: np.floating, lower: np.floating) -> float:
    """A threshold t with lower < t ≤ upper: the middle, if the number format has one."""
    middle = lower / 2 + upper / 2
    return float(middle if lower < middle <= upper else upper)


def best_threshold(
    scores: np.ndarray, same: np.ndarray, weights: np.ndarray | None = None
) -> tuple[float, float]:
    """The threshold with the highest accuracy on these pairs, and that accuracy.

    A threshold lies midway between two neighbouring distinct scores; among equally good ones the
    strictest (highest) wins. If rejecting everything is best it is just above the highest score; if
    accepting everything is best it is the lowest score.

    Args:
      scores: [P], higher means more similar.
      same: [P] bool.
      weights: [P], how often each pair counts; once each if None.
    """
    scores, same, weights = _checked(scores, same, weights, "scores")
    order = np.argsort(-scores)
    return _best_of_sorted(
        scores[order], np.where(same, weights, -weights)[order], float(weights.sum())
    )


def _checked(
    scores: np.ndarray, same: np.ndarray, weights: np.ndarray | None, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores = check_scores(scores, name)
    same = check_same(same, len(scores))
    weights = np.ones(len(same), np.int64) if weights is None else weights
    return scores, same, check_weights(weights, len(same))


def _best_of_sorted(scores: np.ndarray, signed: np.ndarray, total: float) -> tuple[float, float]:
    """`best_threshold` of descending scores; `signed`: weights, negative of different pairs."""
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    # correct(k) − #different, for k accepted runs of scores.
    gain = np.concatenate([[0], np.cumsum(signed)[ends]])  # correct(k) −
    best = int(np.argmax(gain))
    num_different = -float(signed[signed < 0].sum())
    accuracy = (num_different + float(gain[best])) / total if total else 0.0
    if best == 0:
        return float(np.nextafter(scores[0], np.asarray(np.inf, scores.dtype))), accuracy
    upper = scores[ends[best - 1]]
    if best == len(ends):
        return float(upper), accuracy
    return threshold_between(upper, scores[ends[best]]), accuracy


def ten_fold_accuracy(
    similarities: np.ndarray,
    same: np.ndarray,
    num_folds: int = 10,
    weights: np.ndarray | None = None,
) -> FoldAccuracy:
    """LFW's accuracy: the best threshold of the other folds, applied to each fold.

    A pair is called the same person if similarity ≥ threshold. The threshold is `best_threshold` of
    the training folds, which never see the held-out fold.

    Args:
      similarities: [P], e.g. cosine; in the order of the pair list, folds contiguous.
      same: [P] bool.
      num_folds: contiguous folds, as `fold_numbers` cuts them.
      weights: [P], how often each pair counts (bootstrap replicates); once each if None.

    References: Huang et al., Labeled Faces in the Wild (2007), §IV.
    """
    similarities, same, weights = _checked(similarities, same, weights, "similarities")
    folds = fold_numbers(len(same), num_folds)
    order = np.argsort(-similarities)
    ordered = similarities[order]
    signed = np.where(same, weights, -weights)[order]
    ordered_folds = folds[order]
    per_fold, thresholds = np.zeros(num_folds), np.zeros(num_folds)
    for fold in range(num_folds):
        held_out = folds == fold
        if not weights[held_out].any():
            per_fold[fold] = np.nan  # a bootstrap replicate without this fold
            continue
        train = ordered_folds != fold
        total = float(weights.sum() - weights[held_out].sum())
        thresholds[fold], _ = _best_of_sorted(ordered[train], signed[train], total)
        correct = (similarities[held_out] >= thresholds[fold]) == same[held_out]
        per_fold[fold] = np.average(correct, weights=weights[held_out])
    kept = ~np.isnan(per_fold)
    return FoldAccuracy(
        float(per_fold[kept].mean()), float(per_fold[kept].std()), per_fold, thresholds
    )


def val_at_far(
    similarities: np.ndarray,
    same: np.ndarray,
    far: float = 1e-3,
    num_folds: int = 10,
    weights: np.ndarray | None = None,
) -> FoldRates:
    """VAL@FAR: TAR of each fold at the threshold that keeps the other folds' FAR at or below `far`.

    The threshold is the smallest number that accepts at most ⌊far · n⌋ of the training folds' n
    different pairs: just above the score of the next pair.

    Args:
      similarities: [P], in the order of the pair list.
      same: [P] bool; every fold needs both kinds of pairs.
      far: wanted false accept rate.
      num_folds: contiguous folds.
      weights: [P], how often each pair counts (bootstrap replicates); once each if None. Folds that
        lose a kind of pair are left out of the means; nan if all do.

    References: Schroff et al., FaceNet (arXiv:1503.03832), §4 (VAL and FAR).
    """
    similarities, same, weights = _checked(similarities, same, weights, "similarities")
    if not 0.0 <= far < 1.0:
        raise InputError(f"far: {far} is not a false accept rate below 1; give e.g. 1e-3")
    folds = fold_numbers(len(same), num_folds)
    check_both_kinds(folds, same, num_folds)
    order = np.argsort(-similarities)
    order = order[~same[order]]
    impostors, impostor_weights, impostor_folds = similarities[order], weights[order], folds[order]
    rates, thresholds = np.full((num_folds, 2), np.nan), np.zeros(num_folds)
    for fold in range(num_folds):
        accepted_weight = np.cumsum(np.where(impostor_folds != fold, impostor_weights, 0))
        # .1 × 30 is 3, also in floating point.
        allowed = np.floor(far * accepted_weight[-1] * (1 + 1e-12))
        first_rejected = int(np.searchsorted(accepted_weight, allowed, side="right"))
        kinds = [weights * ((folds == fold) & kind) for kind in (same, ~same)]
        if first_rejected == len(impostors) or not all(kind.any() for kind in kinds):
            continue
        thresholds[fold] = np.nextafter(
            impostors[first_rejected], np.asarray(np.inf, impostors.dtype)
        )
        rates[fold] = [np.average(similarities >= thresholds[fold], weights=kind) for kind in kinds]
    kept = ~np.isnan(rates).any(axis=1)
    if not kept.any():  # only weights can do that
        return FoldRates(np.nan, np.nan, np.nan, thresholds)
    val, achieved = rates[kept].T
    return FoldRates(float(val.mean()), float(val.std()), float(achieved.mean()), thresholds)
