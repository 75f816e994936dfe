"""Where the five landmarks lie in the crop that face networks are trained on."""

import os

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

_CLEARLY = 1.25  # faces read in the other order are 1.7 times as far off, profiles too


def alignment_residuals(landmarks: np.ndarray) -> np.ndarray:
    """RMS distances [N], in pixels of the 112×112 crop, of landmarks [N, 5, 2] to the template,
    each face mapped onto it by the similarity transform that fits best.

    With points and template as centred complex numbers z and t, the least squares over similarity
    transforms without reflection leave Σ|t|² − |Σ z̄t|² / Σ|z|².
    """
    points = np.asarray(landmarks, np.float64)
    points = points / np.maximum(np.abs(points).max(axis=(1, 2), keepdims=True), 1e-300)
    points = points @ [1, 1j]
    points = points - points.mean(axis=1, keepdims=True)
    targets = TEMPLATE @ [1, 1j]
    targets = targets - targets.mean()
    explained = np.abs(points.conj() @ targets) ** 2 / np.maximum(
        (np.abs(points) ** 2).sum(axis=1), 1e-12
    )
    left = (np.abs(targets) ** 2).sum() - explained
    return np.sqrt(np.maximum(left, 0) / len(TEMPLATE))


def check_order(points: np.ndarray, path: str | os.PathLike[str], advice: str) -> None:
    """Raises where the points [N, 5, 2] of a list, read as x1 y1 … x5 y5, are faces only as
    x1 … x5 y1 … y5: single ones can pass as a turned face, the middle one of them cannot.

    Args:
      points: in pixels; those with a NaN are passed over.
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
