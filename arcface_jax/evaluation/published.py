"""The pair protocol of the published scripts, quirks and all, to the last digit.

For comparing with old tables: insightface's `verification.evaluate` with SciPy 1.6.0 to 1.9.2.
Before, VAL depended on an unstable sort; from 1.9.3 on the scripts raise, because SciPy refuses
their repeated rates. The quirks, which the default does not have:

* thresholds are a grid, 0, 0.01 … 3.99 of squared distance (0.001 for VAL), so accuracy depends on
  where the grid falls between the scores, and one grid step can hold many pairs;
* a pair is "same" if distance < threshold, strictly, so identical images (distance 0) are rejected
  at threshold 0;
* the best threshold is the first maximum, the strictest of the grid;
* VAL's threshold is interpolated linearly between the two grid thresholds whose FAR straddles the
  target, so the training folds' FAR can exceed the target; if FAR never reaches the target on the
  grid, the threshold is 0 and VAL too.

No loop over the grid: one `searchsorted` gives the first threshold that accepts each pair.
"""

import numpy as np

from arcface_jax.data.pairs import check_both_kinds
from arcface_jax.evaluation.array_checks import check_same, check_scores
from arcface_jax.evaluation.folds import FoldAccuracy, FoldRates, fold_numbers

ACCURACY_GRID = np.arange(0, 4, 0.01)
VAL_GRID = np.arange(0, 4, 0.001)


def squared_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """‖a − b‖² of each pair of rows, in the arrays' own precision, as the scripts compute it."""
    return np.sum(np.square(np.subtract(first, second)), axis=1)


def published_ten_fold_accuracy(
    distances: np.ndarray, same: np.ndarray, num_folds: int = 10
) -> FoldAccuracy:
    """Ten-fold accuracy on the grid 0, .01 … 3.99 of squared distance, strict <, first maximum.

    Args:
      distances: [P], squared Euclidean distances of unit embeddings, 2 − 2 cos.
      same: [P] bool.
      num_folds: contiguous folds.

    Returns: the result; its thresholds are squared distances.
    """
    true_accepts, false_accepts, num_same, num_different = _count_accepts(
        distances, same, num_folds, ACCURACY_GRID
    )
    correct = true_accepts + num_different[:, None] - false_accepts  # [F, T]
    sizes = num_same + num_different
    train_accuracy = (correct.sum(0) - correct) / (sizes.sum() - sizes)[:, None]
    best = np.argmax(train_accuracy, axis=1)
    per_fold = correct[np.arange(num_folds), best] / sizes
    return FoldAccuracy(
        float(per_fold.mean()), float(per_fold.std()), per_fold, ACCURACY_GRID[best]
    )


def published_val_at_far(
    distances: np.ndarray, same: np.ndarray, far: float = 1e-3, num_folds: int = 10
) -> FoldRates:
    """VAL@FAR on the grid 0, .001 … 3.999 of squared distance, interpolated.

    If several thresholds share the FAR left of the target, the interpolation starts at the largest,
    as in SciPy's degree-1 spline over points in a stable order.

    Returns: the result; its thresholds are squared distances.
    """
    distances = check_scores(distances, "distances")
    same = check_same(same, len(distances))
    folds = fold_numbers(len(same), num_folds)
    check_both_kinds(folds, same, num_folds)
    _, false_accepts, _, num_different = _count_accepts(distances, same, num_folds, VAL_GRID)
    train_far = (false_accepts.sum(0) - false_accepts) / (num_different.sum() - num_different)[
        :, None
    ]
    val, achieved, thresholds = np.zeros(num_folds), np.zeros(num_folds), np.zeros(num_folds)
    for fold in range(num_folds):
        if train_far[fold].max() >= far:
            thresholds[fold] = np.interp(far, train_far[fold], VAL_GRID)
        accepted = distances[folds == fold] < thresholds[fold]
        same_here = same[folds == fold]
        val[fold], achieved[fold] = accepted[same_here].mean(), accepted[~same_here].mean()
    return FoldRates(float(val.mean()), float(val.std()), float(achieved.mean()), thresholds)


def _count_accepts(
    distances: np.ndarray, same: np.ndarray, num_folds: int, grid: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """True and false accepts [F, T] per threshold, and numbers of same and different pairs [F]."""
    distances = check_scores(distances, "distances")
    same = check_same(same, len(distances))
    folds = fold_numbers(len(same), num_folds)
    # The first threshold > distance.
    first_accepting = np.searchsorted(grid, distances, side="right")

    def accepts(mask: np.ndarray) -> np.ndarray:
        cell = folds[mask] * (len(grid) + 1) + first_accepting[mask]
        counts = np.bincount(cell, minlength=num_folds * (len(grid) + 1)).reshape(
            num_folds, len(grid) + 1
        )
        return np.cumsum(counts[:, :-1], axis=1)

    num_same = np.bincount(folds[same], minlength=num_folds)
    return (
        accepts(same),
        accepts(~same),
        num_same,
        np.bincount(folds, minlength=num_folds) - num_same,
    )
