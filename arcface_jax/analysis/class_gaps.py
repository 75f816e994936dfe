"""How far apart classes lie: the empty angle between two classes, and the width of each.

The ArcFace paper draws eight identities on a circle to show the gap that the margin leaves between
them. Here the gap is a number, in any dimension.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from arcface_jax.arguments import check_between, check_positive
from arcface_jax.counts import number_of
from arcface_jax.errors import InputError
from arcface_jax.margins import Psi

_TINY = 1e-9  # length below which a direction is noise


@dataclasses.dataclass(frozen=True)
class ClassGaps:
    """Gaps between classes, in degrees.

    Attributes:
      classes: int [C], the labels, ascending.
      between: float64 [C, C], the gap of each pair of classes; negative where they overlap,
        infinite on the diagonal.
      spread: float64 [C], mean angle of each class's embeddings to its centre.
    """

    classes: np.ndarray
    between: np.ndarray
    spread: np.ndarray

    @property
    def nearest(self) -> np.ndarray:
        """float64 [C], each class's smallest gap to another."""
        return self.between.min(axis=1)

    def numbers(self) -> dict[str, float]:
        """The smallest and the median gap of a class to its nearest class, and the mean spread."""
        return {
            "smallest_gap": float(self.nearest.min()),
            "median_gap": float(np.median(self.nearest)),
            "spread": float(self.spread.mean()),
        }


def class_gaps(embeddings: np.ndarray, labels: np.ndarray, *, quantile: float = 0.0) -> ClassGaps:
    """The empty angle between each pair of classes, along the great circle through their centres.

    Let a and b be the centres (the directions of the mean unit embeddings). Project x onto their
    plane; φ(x) is its angle there, counted from a towards b. Then

        gap(a, b) = Q_q{φ(x): x of b} − Q_{1−q}{φ(x): x of a}.

    In two dimensions this is the empty arc. In more it is the angle between two hyperplanes through
    the origin that both separate the classes; if it is positive the classes are linearly separable.
    Only the gaps of neighbours mean anything: other classes may lie between distant ones.

    Args:
      embeddings: [N, D], D ≥ 2; lengths do not matter.
      labels: int [N], at least two classes.
      quantile: q, the share of each class's embeddings to leave out on the other class's side; 0
        counts all.

    Returns: the gaps and spreads of the classes present.

    Raises:
      InputError: for wrong shapes, one class, a quantile outside [0, 0.5], or a row or class with
        no direction.

    References: Deng et al., ArcFace (arXiv:1801.07698), the toy example of eight identities.
    """
    check_between("quantile", quantile, 0.0, 0.5)
    embeddings, labels = np.asarray(embeddings, np.float64), np.asarray(labels)
    if embeddings.ndim != 2 or embeddings.shape[1] < 2 or labels.shape != embeddings.shape[:1]:
        raise InputError(
            f"embeddings {embeddings.shape} and labels {labels.shape} do not fit; give [N, D] with "
            "D ≥ 2, and [N]"
        )
    classes = np.unique(labels)
    if len(classes) < 2:
        raise InputError(f"labels: {number_of(len(classes), 'class')}; a gap needs two")
    unit = _directions(embeddings, "embeddings: row", range(len(labels)))
    members = [unit[labels == label] for label in classes]
    centres = _directions(
        np.stack([each.mean(axis=0) for each in members]), "labels: the mean of class", classes
    )
    between = np.full((len(classes), len(classes)), np.inf)
    for i in range(len(classes)):
        for j in range(i + 1, len(classes)):
            towards = _orthogonal_part(centres[j], centres[i])
            # 180° may come as −180°.
            middle = np.abs(_angle_at(centres[j], centres[i], towards)) / 2
            first, second = (
                _wrapped(_angle_at(each, centres[i], towards) - middle)
                for each in (members[i], members[j])
            )
            between[i, j] = between[j, i] = np.quantile(second, quantile) - np.quantile(
                first, 1.0 - quantile
            )
    spread = [
        np.mean(
            2
            * np.arctan2(
                np.linalg.norm(each - centre, axis=1), np.linalg.norm(each + centre, axis=1)
            )
        )
        for each, centre in zip(members, centres, strict=True)
    ]
    return ClassGaps(classes, np.degrees(between), np.degrees(spread))


def even_circle_probability(num_classes: int, psi: Psi, scale: float) -> float:
    """Probability of the true class for C even centres on the circle and embeddings on them.

        p = e^{s·psi(1)} / (e^{s·psi(1)} + Σ_{k=1}^{C−1} e^{s·cos(2πk/C)})

    The best a two-dimensional embedding of C classes can reach. On a circle ArcFace's margin is
    feasible only for m < 2π/C: at the centre θ_y + m must be below the angle 2π/C to the next
    centre. An embedding may be off by (2π/C − m)/2 before it violates the margin. From m = 2π/C on,
    p is below 1/3 at any scale, and a larger scale makes it worse.

    Args:
      num_classes: C ≥ 2.
      psi: the margin.
      scale: s > 0.

    Returns: p.

    Raises:
      InputError: for fewer than two classes, or a scale that is not positive.
    """
    check_between("num_classes", num_classes, 2, math.inf)
    check_positive("scale", scale)
    target = float(psi(jnp.ones(())))
    others = np.cos(2 * np.pi * np.arange(1, num_classes) / num_classes)
    return float(1.0 / (1.0 + np.sum(np.exp(scale * (others - target)))))


def _directions(rows: np.ndarray, name: str, numbers: range | np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1)
    bad = ~(np.isfinite(lengths) & (lengths > _TINY))
    if bad.any():
        at = int(np.argmax(bad))
        raise InputError(
            f"{name} {numbers[at]} has length {lengths[at]:g} and so no direction; leave it out"
        )
    return rows / lengths[:, None]


def _orthogonal_part(vector: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """The unit vector orthogonal to `axis` in the plane of both; any where they are parallel."""
    for candidate in (vector, *np.eye(len(axis))):
        part = candidate - (candidate @ axis) * axis
        length = np.linalg.norm(part)
        if length > _TINY:
            break
    return np.asarray(part / length)


def _angle_at(x: np.ndarray, axis: np.ndarray, towards: np.ndarray) -> np.ndarray:
    return np.arctan2(x @ towards, x @ axis)


def _wrapped(angle: np.ndarray) -> np.ndarray:
    return np.asarray((angle + np.pi) % (2 * np.pi) - np.pi)
