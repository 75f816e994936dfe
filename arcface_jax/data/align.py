"""From five facial landmarks to the crop that face networks are trained on."""

import math

import numpy as np
from PIL import Image
from skimage.transform import estimate_transform

from arcface_jax.data.aligned_crop import (
    LANDMARK_NAMES,
    TEMPLATE,
    TEMPLATE_SIZE,
    alignment_residuals,
    order_of_landmarks,
)
from arcface_jax.errors import InputError

_MAX_RESIDUAL = 18.0
_MIN_SPAN = 2.0  # pixels between the outermost landmarks, in x or y; shares span no more
_FEWEST_INSIDE = 3  # landmarks; faces at an edge have some outside
_MARGIN = 0.25  # of the span, around the photo


def similarity(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The similarity transform that maps points onto targets with the least squared error.

    Rotation, uniform scale and shift, without reflection (Umeyama's solution).

    Args:
      points: [n, 2], n ≥ 2, (x, y).
      targets: [n, 2].

    Returns: float64 [2, 3], A = [sR | t], so that target ≈ sR · point + t.

    Raises:
      InputError: fewer than two different points, or points that are not finite.

    References: Umeyama, Least-squares estimation of transformation parameters between two point
    patterns (1991).
    """
    points, targets = np.asarray(points, np.float64), np.asarray(targets, np.float64)
    if points.ndim != 2 or points.shape != targets.shape or points.shape[1] != 2:
        raise InputError(
            f"points of shape {points.shape} and targets of shape {targets.shape}; both must be "
            "[n, 2]"
        )
    _check_spread(points)
    matrix = np.asarray(estimate_transform("similarity", points, targets).params)[:2]
    if not np.isfinite(matrix).all():
        raise InputError("points: no similarity transform maps them onto the targets")
    return matrix


def align(image: np.ndarray, landmarks: np.ndarray, size: int = TEMPLATE_SIZE) -> np.ndarray:
    """Cuts an aligned face out of a photograph.

    A similarity transform maps the landmarks onto `TEMPLATE`, scaled to `size`. Pixels are
    interpolated bicubically; if the face has to shrink, they are averaged first. Outside the
    photograph the crop is black, as in the published training sets.

    Args:
      image: uint8 [height, width, 3], RGB.
      landmarks: [5, 2], (x, y) in pixels: left eye, right eye, nose, left and right corner of the
        mouth, as seen in the picture.
      size: side of the crop in pixels.

    Returns: uint8 [size, size, 3], RGB.

    Raises:
      InputError: not an RGB image, or the landmarks cannot be a face in it: wrong shape, not
        finite, in another order, less than 2 pixels apart, or fewer than three in or near the
        photograph.
    """
    landmarks = np.asarray(landmarks, np.float64)
    check_photo(image)
    check_landmarks(landmarks, image.shape[:2])
    to_crop = similarity(landmarks, TEMPLATE * (size / TEMPLATE_SIZE))
    to_photo = np.linalg.inv(to_crop[:, :2])
    shift = -to_photo @ to_crop[:, 2]
    # Halving, thirding … before sampling: interpolation alone would skip pixels of large faces.
    factor = max(1, math.floor(math.sqrt(abs(np.linalg.det(to_photo)))))
    photo = Image.fromarray(image)
    if factor > 1:
        photo = photo.reduce(factor)
    # Pillow counts from the first pixel's corner, landmarks from its centre.
    offset = (shift + 0.5 - to_photo @ [0.5, 0.5]) / factor
    rows = np.column_stack([to_photo / factor, offset])
    crop = photo.transform(
        (size, size), Image.Transform.AFFINE, tuple(rows.ravel()), Image.Resampling.BICUBIC
    )
    return np.asarray(crop)


def check_photo(image: np.ndarray) -> None:
    """Raises unless the image is uint8 [height, width, 3]."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputError(
            f"image must be uint8 [height, width, 3], got {image.dtype} of shape {image.shape}"
        )


def check_landmarks(landmarks: np.ndarray, size: tuple[int, ...]) -> None:
    """Raises unless the landmarks [5, 2] can be a face in a photo of (height, width)."""
    if landmarks.shape != (5, 2):
        raise InputError(f"landmarks must be [5, 2], got {landmarks.shape}")
    residual = alignment_residual(landmarks)
    span, (height, width) = float(np.ptp(landmarks, axis=0).max()), size
    if span < _MIN_SPAN:
        raise InputError(
            f"landmarks lie within {span:.2g} pixels of each other; if they are shares of the "
            "photo's size, multiply x by its width and y by its height"
        )
    outside = np.maximum(-landmarks, landmarks - [width - 1, height - 1]).max(axis=1)
    inside = int((outside <= _MARGIN * span).sum())
    if inside < _FEWEST_INSIDE:
        raise InputError(
            f"{5 - inside} of 5 landmarks lie outside the photo of {width}×{height} pixels; are "
            "they of another size of it, or in another order than x1 y1 … x5 y5?"
        )
    due = (
        "the order is left eye, right eye, nose, left and right corner of the mouth, as seen in "
        "the picture, and x before y of each"
    )
    order = order_of_landmarks(landmarks)
    if order is not None:
        looks = ", ".join(LANDMARK_NAMES[point] for point in order)
        raise InputError(f"landmarks look like {looks}; {due}")
    if residual > _MAX_RESIDUAL:
        raise InputError(f"landmarks lie {residual:.0f} pixels from the template's shape; {due}")


def alignment_residual(landmarks: np.ndarray) -> float:
    """RMS distance of aligned landmarks to the template, in pixels of the 112×112 crop."""
    landmarks = np.asarray(landmarks, np.float64)
    _check_spread(landmarks)
    return float(alignment_residuals(landmarks[None])[0])


def _check_spread(points: np.ndarray) -> None:
    if not np.isfinite(points).all() or np.ptp(points, axis=0).max() < 1e-6:
        raise InputError("points: at least two different, finite ones are needed")
