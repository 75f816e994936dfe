"""The angle statistics of the ArcFace paper's Table 3, for any embeddings and centres."""

import dataclasses

import chex
import numpy as np

from arcface_jax.errors import InputError
from arcface_jax.evaluation.array_checks import check_embeddings, check_indices, check_length
from arcface_jax.evaluation.embeddings import unit_embeddings
from arcface_jax.evaluation.scoring import score_tiles


def class_centres(embeddings: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The direction of the mean of each class's unit embeddings.

    Args:
      embeddings: [N, D], unit rows.
      labels: int [N], each in 0 … num_classes − 1, every class present.
      num_classes: C.

    Returns: float32 [C, D], unit rows.
    """
    embeddings = check_embeddings(embeddings)
    labels = check_indices(labels, num_classes, "labels")
    check_length(labels, len(embeddings), "labels", "embeddings")
    counts = np.bincount(labels, minlength=num_classes)
    if not counts.all():
        raise InputError(
            f"labels: class {int(np.argmin(counts))} of {num_classes} has no embedding; renumber "
            "the classes"
        )
    order = np.argsort(labels, kind="stable")
    starts = np.cumsum(counts) - counts
    sums = np.zeros((num_classes, embeddings.shape[1]))
    # Some classes at a time, so that the sorted copy stays small.
    for first in range(0, num_classes, 1024):
        last = min(first + 1024, num_classes)
        rows = order[starts[first] : starts[last - 1] + counts[last - 1]]
        parts = starts[first:last] - starts[first]
        sums[first:last] = np.add.reduceat(embeddings[rows], parts, axis=0, dtype=np.float64)
    return unit_embeddings(sums, "class centres")


def degrees_between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Angle in degrees of each pair of unit rows, accurate near 0° and 180° too.

    θ = 2·atan2(‖a − b‖, ‖a + b‖), in float64; arccos of a float32 cosine errs by up to .03° near
    0°.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    chex.assert_rank([first, second], 2)
    chex.assert_equal_shape([first, second])
    return np.degrees(
        2
        * np.arctan2(np.linalg.norm(first - second, axis=1), np.linalg.norm(first + second, axis=1))
    )


def nearest_other_degrees(directions: np.ndarray) -> np.ndarray:
    """Each unit row's smallest angle, in degrees, to another row.

    Tiles of cosines find the nearest row; its angle is then computed in float64.

    Args:
      directions: [C, D], C ≥ 2.
    """
    directions = check_embeddings(directions, "directions")
    if len(directions) < 2:
        raise InputError("directions: one row only, which has no other; give at least two classes")
    nearest = np.zeros(len(directions), np.int64)
    best = np.full(len(directions), -np.inf, np.float32)
    for row, column, tile in score_tiles(directions, directions):
        rows = np.arange(row, row + tile.shape[0])
        columns = np.arange(column, column + tile.shape[1])
        cosines = np.where(rows[:, None] == columns[None, :], -np.inf, tile)
        index = cosines.argmax(axis=1)
        found = cosines[np.arange(len(rows)), index]
        better = found > best[rows]
        nearest[rows] = np.where(better, column + index, nearest[rows])
        best[rows] = np.where(better, found, best[rows])
    return degrees_between(directions, directions[nearest])


@dataclasses.dataclass(frozen=True)
class ClassAngles:
    """One angle per class; a figure of Table 3 is their mean.

    Attributes:
      degrees: float64 [C].
      counts: [C], the weight of each in the mean: its number of images for Intra, otherwise one.
    """

    degrees: np.ndarray
    counts: np.ndarray

    def mean(self, weights: np.ndarray | None = None) -> float:
        """Mean in degrees; `weights` [C]: how often a bootstrap replicate drew each class."""
        counts = self.counts if weights is None else self.counts * weights
        return float(np.average(self.degrees, weights=counts))


def class_angles(
    embeddings: np.ndarray, labels: np.ndarray, class_weights: np.ndarray | None = None
) -> dict[str, ClassAngles]:
    """The angles of each class that `angle_statistics` averages, by the same names.

    Args:
      embeddings: [N, D], unit rows.
      labels: int [N], as for `angle_statistics`.
      class_weights: [C, D], in any length, or None.

    Returns: "intra" (a class's angle is the mean over its embeddings), "inter", and, with class
      weights, "w_ec" and "w_inter".
    """
    labels = np.asarray(labels)
    if class_weights is None:
        names, labels = np.unique(labels, return_inverse=True)
        num_classes = len(names)
    else:
        num_classes = len(class_weights)
    centres = class_centres(embeddings, labels, num_classes)
    counts, once = np.bincount(labels, minlength=num_classes), np.ones(num_classes, np.int64)
    to_centre = np.concatenate(
        [
            degrees_between(embeddings[start : start + 8192], centres[labels[start : start + 8192]])
            for start in range(0, len(embeddings), 8192)
        ]
    )
    intra = np.bincount(labels, weights=to_centre, minlength=num_classes) / counts
    angles = {
        "intra": ClassAngles(intra, counts),
        "inter": ClassAngles(nearest_other_degrees(centres), once),
    }
    if class_weights is not None:
        weights = unit_embeddings(class_weights, "class_weights")
        angles["w_ec"] = ClassAngles(degrees_between(weights, centres), once)
        angles["w_inter"] = ClassAngles(nearest_other_degrees(weights), once)
    return angles


def angle_statistics(
    embeddings: np.ndarray, labels: np.ndarray, class_weights: np.ndarray | None = None
) -> dict[str, float]:
    """W-EC, W-Inter, Intra and Inter, in degrees.

        W-EC     mean over classes of the angle between W_j and the class's embedding centre
        W-Inter  mean over classes of the smallest angle between W_j and another W
        Intra    mean over embeddings of the angle to their class's centre
        Inter    mean over classes of the smallest angle between centres

    Args:
      embeddings: [N, D], unit rows.
      labels: int [N], classes; with `class_weights`, numbered 0 … C − 1 like its rows.
      class_weights: [C, D], in any length; without them only Intra and Inter are computed.

    Returns: {"intra": …, "inter": …} and, with class weights, "w_ec" and "w_inter".

    References: Deng et al., ArcFace (arXiv:1801.07698), Table 3.
    """
    return {
        name: angles.mean()
        for name, angles in class_angles(embeddings, labels, class_weights).items()
    }


def effective_dimensions(embeddings: np.ndarray) -> float:
    """How many directions embeddings fill: (Σλ)²/Σλ² with λ the eigenvalues of their covariance.

    It is D for an equal spread in all directions, and 1 on a line.

    Args:
      embeddings: [N, D], unit rows, not all equal.

    Raises:
      InputError: they do not differ.
    """
    embeddings = check_embeddings(embeddings)
    centred = embeddings - embeddings.mean(axis=0, dtype=np.float64)
    covariance = centred.T @ centred
    total = float(np.trace(covariance))
    if not total > 0.0:
        raise InputError("embeddings: all are alike; they fill no direction")
    return total**2 / float(np.sum(covariance**2))
