"""From head coordinates to the aligned crop: rotation, projection, alignment, crop jitter.

The head is solid and seen from far away (orthographic projection). A feature at (X, Y, Z), Z
towards the viewer, moves by Z·sin(yaw) when the head turns, so nose, eyes and outline move by
different amounts. The picture is then aligned as after a detector, by the similarity transform that
fits the five landmarks to the template in the least-squares sense. Points of the image plane are
complex numbers x + iy: a similarity transform without reflection is t = a·p + b, and its
least-squares fit takes one line.
"""

from types import SimpleNamespace

import numpy as np

from arcface_jax.data.aligned_crop import TEMPLATE

# Depth of the features, in pixels of the crop: the head's half width is about 37.
_EYE_DEPTH, _MOUTH_DEPTH, _CORNER_DEPTH, _BRIDGE_DEPTH = 34.0, 42.0, 35.0, 39.0


def _project(
    x: np.ndarray, y: np.ndarray, z: np.ndarray | float, picture: SimpleNamespace
) -> np.ndarray:
    """Rotates by yaw, then pitch (both in radians), and drops the depth; complex [B]."""
    turned = x * np.cos(picture.yaw) + z * np.sin(picture.yaw)
    depth = z * np.cos(picture.yaw) - x * np.sin(picture.yaw)
    return turned + 1j * (y * np.cos(picture.pitch) + depth * np.sin(picture.pitch))


def _foreshortening(x: np.ndarray, depth: float, picture: SimpleNamespace) -> np.ndarray:
    """How much narrower a patch of the head at `x` looks when the head turns."""
    azimuth = np.arctan2(x, depth)
    return np.clip(np.cos(azimuth + picture.yaw) / np.cos(azimuth), 0.4, 1.2)


def landmarks(person: SimpleNamespace, picture: SimpleNamespace) -> SimpleNamespace:
    """Where the features are after the head has turned: complex [B], and foreshortenings [B]."""
    eye, corner = person.eye_distance, person.mouth_width
    smile_width = corner * (1.0 + 0.03 * (picture.smile - 3.2))
    return SimpleNamespace(
        eye_left=_project(-eye, person.eye_height, _EYE_DEPTH, picture),
        eye_right=_project(eye, person.eye_height, _EYE_DEPTH, picture),
        eye_left_width=_foreshortening(-eye, _EYE_DEPTH, picture),
        eye_right_width=_foreshortening(eye, _EYE_DEPTH, picture),
        bridge=_project(0.0 * eye, person.eye_height - 2.0, _BRIDGE_DEPTH, picture),
        nose=_project(
            person.nose_shift, person.nose_tip, _BRIDGE_DEPTH + person.nose_depth, picture
        ),
        mouth=_project(0.0 * eye, person.mouth_height, _MOUTH_DEPTH, picture),
        corner_left=_project(-smile_width, person.mouth_height, _CORNER_DEPTH, picture),
        corner_right=_project(smile_width, person.mouth_height, _CORNER_DEPTH, picture),
        chin=_project(0.0 * eye, person.chin_length - 8.0, 30.0, picture),
        forehead=_project(0.0 * eye, person.hair_line, 30.0, picture),
    )


def alignment(points: SimpleNamespace, picture: SimpleNamespace) -> tuple[np.ndarray, np.ndarray]:
    """a and b, complex [B], of the map p = a·t + b from the 112×112 crop to the projected head.

    The inverse of Umeyama's similarity transform (IEEE PAMI 13(4), 1991) of the five projected
    landmarks onto the template, then the picture's own shift, zoom and roll, which simulate a
    detector's errors.
    """
    found = (
        points.eye_left,
        points.eye_right,
        points.nose,
        points.corner_left,
        points.corner_right,
    )
    wanted = TEMPLATE[:, 0] + 1j * TEMPLATE[:, 1]
    middle, target = sum(found) / 5.0, wanted.mean()
    # Sums written out, as a reduction's order of addition may depend on the size of the batch.
    fit = sum(np.conj(p - middle) * (t - target) for p, t in zip(found, wanted, strict=True))
    fit = fit / sum(np.abs(p - middle) ** 2 for p in found)
    fit = fit * np.exp(picture.zoom + 1j * picture.roll)
    shift = target + picture.shift_x + 1j * picture.shift_y - fit * middle
    return 1.0 / fit, -shift / fit
