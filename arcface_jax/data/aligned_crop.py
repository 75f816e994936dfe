"""Where the five landmarks lie in the crop that face networks are trained on."""

import itertools
import os
from collections.abc import Sequence

import numpy as np

from arcface_jax.errors import InputError

TEMPLATE = np.array(
    [
        [38.2946, 51.6963],  # left eye, as seen in the picture
        [73.5318, 51.5014],  # right eye
        [56.0252, 71.7366],  # tip of the nose
        [41.5493, 92.3655],  # left corner of the mouth
        [70.7299, 92.2041],  # right corner
    ]
)
"""Landmarks of a 112×112 crop: (x, y) in pixels, the centre of the first pixel at (0, 0)."""

TEMPLATE_SIZE = 112

LANDMARK_NAMES = (
    *("left eye", "right eye", "nose"),
    *("left corner of the mouth", "right corner of the mouth"),
)

_CLEARLY = 1.25  # faces read in the other order are 1.7 times as far off, profiles too
_FRONTAL = 10.0  # pixels; LFW's faces are up to 13 off, in median 3
_OTHER_ORDER = 2.5  # LFW's are up to 1.5 times as far off as in their best order, profiles 2.2
_ORDERS = np.array(list(itertools.permutations(range(len(TEMPLATE)))))


def alignment_residuals(landmarks: np.ndarray) -> np.ndarray:
    """RMS distances [N] of landmarks [N, 5, 2] to the template, in pixels of the 112×112 crop,
    after the best similarity transform of each face.

    With points and template as centred complex numbers z and t, the least-squares residual over
    similarity transforms without reflection is Σ|t|² − |Σ z̄t|² / Σ|z|².
    """
    return _residuals(landmarks, TEMPLATE[None])[:, 0]


def order_of_landmarks(landmarks: np.ndarray) -> Sequence[int] | None:
    """Which template landmark each of the landmarks [5, 2] looks like; None if they seem to be in
    the template's order.

    Tries every order. Another one is reported if the landmarks are over 10 pixels from the
    template's shape (`alignment_residuals`), and over 2.5 times as far as in that order.
    CenterFace's landmarks of LFW's 13,233 faces reach at most 12.7 pixels and 1.5 times; with
    swapped eyes, swapped corners of the mouth, or both, 99 % exceed 12 pixels and 2.6 times. Drawn
    heads turned by 90° and nodding by 45° reach at most 2.2 times. Rotating the picture changes
    nothing.
    """
    residuals = _residuals(np.asarray(landmarks)[None], TEMPLATE[_ORDERS])[0]
    best = int(np.argmin(residuals))
    if residuals[0] <= max(_FRONTAL, _OTHER_ORDER * residuals[best]):
        return None
    return [int(point) for point in _ORDERS[best]]


def _residuals(landmarks: np.ndarray, templates: np.ndarray) -> np.ndarray:
    """`alignment_residuals` [N, K] of landmarks [N, 5, 2] to templates [K, 5, 2]."""
    points = np.asarray(landmarks, np.float64)
    points = points / np.maximum(np.abs(points).max(axis=(1, 2), keepdims=True), 1e-300)
    points = points @ [1, 1j]
    points = points - points.mean(axis=1, keepdims=True)
    targets = templates @ [1, 1j]
    targets = targets - targets.mean(axis=1, keepdims=True)
    explained = np.abs(points.conj() @ targets.T) ** 2 / np.maximum(
        (np.abs(points) ** 2).sum(axis=1, keepdims=True), 1e-12
    )
    left = (np.abs(targets) ** 2).sum(axis=1) - explained
    return np.sqrt(np.maximum(left, 0) / len(TEMPLATE))


def check_order(points: np.ndarray, path: str | os.PathLike[str], advice: str) -> None:
    """Raises if the points [N, 5, 2] of a list, read as x1 y1 … x5 y5, are faces only as x1 … x5 y1
    … y5. Single ones can pass as a turned face; the median one cannot.

    Args:
      points: in pixels; points with NaN are skipped.
      path: the list.
      advice: what to do, for the message.

    Raises:
      InputError: see above.
    """
    points = points[~np.isnan(points).any(axis=(1, 2))]
    if not len(points):
        return
    by_axis = points.reshape(-1, 2, 5).swapaxes(1, 2)
    as_read, otherwise = (np.median(alignment_residuals(each)) for each in (points, by_axis))
    if _CLEARLY * otherwise < as_read:
        raise InputError(
            f"{os.fspath(path)}: its numbers look like x1 … x5 y1 … y5, and x1 y1 … x5 y5 are due; "
            f"{advice}"
        )
