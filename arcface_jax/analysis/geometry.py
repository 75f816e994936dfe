r"""The geometry of a margin between two classes: where each region ends, how wide it is.

θ1 and θ2 are the angles of an embedding to the centres of class 1 and class 2. An example of class
1 is satisfied where psi(cosθ1) > cosθ2, one of class 2 where psi(cosθ2) > cosθ1. On the boundary of
class 1 the two-class margin softmax loss of an example of class 1 is ln 2 at any scale. The margin
lies between the two boundaries:

    softmax on the sphere  cosθ1 = cosθ2            no margin
    SphereFace             θ2 = m·θ1                 a margin that grows with the angle
    CosFace                cosθ2 = cosθ1 − m         constant in the cosine
    ArcFace                θ2 = θ1 + m               constant in the angle, which is the arc on the
    sphere

(as long as the psi is not past π). Below, psi is any margin that acts on each cosine alone. Angles
are in radians, in [0, π], of any shape (InputError outside). All numbers are float64.

References:
  Deng et al., ArcFace, arXiv:1801.07698, "geometric difference". Wang et al., CosFace,
  arXiv:1801.09414, figure 2.
"""

import math

import numpy as np

from arcface_jax.analysis.target_logits import psi_at
from arcface_jax.arguments import check_between, check_positive
from arcface_jax.errors import InputError
from arcface_jax.margins import Psi, softmax_on_sphere

# What `region` gives.
MARGIN, CLASS_1, CLASS_2, BOTH = 0, 1, 2, 3


def boundary(psi: Psi, theta1: np.ndarray) -> np.ndarray:
    """θ2 on the boundary of class 1, arccos(psi(cosθ1)): there psi(cosθ1) = cosθ2.

    Swap the two angles for the boundary of class 2.

    Returns: θ2 in [0, π], like `theta1`; NaN where psi is outside [−1, 1] and the boundary leaves
      the sphere: below −1 no θ2 satisfies an example of class 1, above 1 all do.
    """
    theta1 = _angles("theta1", theta1)
    return _arccos(psi_at(psi, theta1))


def softmax_boundary(theta1: np.ndarray, norm_ratio: float, offset: float = 0.0) -> np.ndarray:
    r"""θ2 on plain softmax's one boundary, which moves with the weights' lengths and biases:

        ‖W_1‖·‖x‖·cosθ1 + b_1 = ‖W_2‖·‖x‖·cosθ2 + b_2.

    Args:
      theta1: θ1.
      norm_ratio: ‖W_1‖/‖W_2‖ > 0.
      offset: (b_1 − b_2)/(‖W_2‖·‖x‖).

    Returns: θ2 in [0, π], like `theta1`; NaN where no θ2 is on the boundary.

    Raises:
      InputError: the ratio is not positive.

    References: Liu et al., SphereFace, arXiv:1704.08063, eq. 3; Deng et al., ArcFace, eq. 1.
    """
    check_positive("norm_ratio", norm_ratio)
    return _arccos(norm_ratio * np.cos(_angles("theta1", theta1)) + offset)


def region(psi: Psi, theta1: np.ndarray, theta2: np.ndarray) -> np.ndarray:
    """Whose region each pair of angles lies in.

    Returns: uint8 of the broadcast shape: CLASS_1 where psi(cosθ1) > cosθ2, CLASS_2 where
      psi(cosθ2) > cosθ1, MARGIN where neither holds, BOTH where both hold: there psi exceeds the
      cosine, and the margin has become a bonus.
    """
    theta1, theta2 = _angles("theta1", theta1), _angles("theta2", theta2)
    # Both sides of a comparison take the same cosine, so that without a margin no rounding shows on
    # the diagonal.
    first = psi_at(psi, theta1) > psi_at(softmax_on_sphere(), theta2)
    second = psi_at(psi, theta2) > psi_at(softmax_on_sphere(), theta1)
    return np.where(first, CLASS_1, MARGIN).astype(np.uint8) + np.where(
        second, CLASS_2, MARGIN
    ).astype(np.uint8)


def region_edge(psi: Psi, centre_angle: np.ndarray) -> np.ndarray:
    """How far class 1's region reaches from its centre along the arc to class 2's centre.

    The t in [0, α] with psi(cos t) = cos(α − t), by bisection. Over that range psi falls with the
    angle for every margin here, as long as m1·α/2 + m2 ≤ π.

    Returns: t in radians, like `centre_angle`; NaN if the centres are so close that even class 1's
      own centre fails, psi(1) < cosα (for ArcFace α < m).
    """
    alpha = _angles("centre_angle", centre_angle)
    low, high = np.zeros_like(alpha), alpha.copy()
    for _ in range(54):  # the bits of a float64
        middle = 0.5 * (low + high)
        satisfied = psi_at(psi, middle) >= np.cos(alpha - middle)
        low, high = np.where(satisfied, middle, low), np.where(satisfied, high, middle)
    # Rounding must not make a region of coinciding centres without margin vanish.
    reached = psi_at(psi, np.zeros(())) >= np.cos(alpha) - 1e-12
    return np.where(reached, 0.5 * (low + high), np.nan)


def margin_arc(psi: Psi, centre_angle: np.ndarray) -> np.ndarray:
    r"""The arc α − 2t between two classes' regions, on the great circle through their centres.

        ArcFace      m                                      whatever α
        CosFace      2·arcsin(m / (2·sin(α/2)))             wider for close centres
        SphereFace   α·(m − 1)/(m + 1)                      proportional to α
        combined     numerically, by `region_edge`

    Returns: radians (the arc's length on the unit sphere), like `centre_angle`; negative where the
      regions overlap, NaN where they do not exist: see `region_edge`.
    """
    return _angles("centre_angle", centre_angle) - 2.0 * region_edge(psi, centre_angle)


def centres(centre_angle: float) -> np.ndarray:
    """Unit vectors [2, 3], α apart in the plane z = 0, symmetric about x; the second has y > 0."""
    check_between("centre_angle", centre_angle, 0.0, math.pi)
    half = 0.5 * centre_angle
    return np.array([[math.cos(half), -math.sin(half), 0.0], [math.cos(half), math.sin(half), 0.0]])


def circle_regions(psi: Psi, centre_angle: float, phi: np.ndarray) -> np.ndarray:
    """`region` on the circle z = 0 that holds both `centres`.

    Args:
      centre_angle: α.
      phi: polar angle in radians, any shape; the centres are at ∓α/2.

    Returns: uint8, like `phi`.
    """
    phi = np.asarray(phi, np.float64)
    return _regions_of_points(
        psi, centre_angle, np.stack([np.cos(phi), np.sin(phi), np.zeros_like(phi)], axis=-1)
    )


def sphere_regions(psi: Psi, centre_angle: float, points: int = 401) -> np.ndarray:
    """`region` on the half sphere facing the midpoint of the two `centres`, as a square picture.

    Args:
      centre_angle: α.
      points: K, along each side of the square.

    Returns: float64 [K, K]; z rises with the row, y with the column, both from −1 to 1 (an
      orthographic projection along x); NaN outside the sphere's disc.

    Raises:
      InputError: fewer than two points.
    """
    check_between("points", points, 2, math.inf)
    y, z = np.meshgrid(np.linspace(-1.0, 1.0, points), np.linspace(-1.0, 1.0, points))
    square = 1.0 - y**2 - z**2
    visible = np.stack([np.sqrt(np.maximum(square, 0.0)), y, z], axis=-1)
    return np.where(square >= 0.0, _regions_of_points(psi, centre_angle, visible), np.nan)


def _regions_of_points(psi: Psi, centre_angle: float, points: np.ndarray) -> np.ndarray:
    angles = np.arccos(np.clip(points @ centres(centre_angle).T, -1.0, 1.0))
    return region(psi, angles[..., 0], angles[..., 1])


def _arccos(cosine: np.ndarray) -> np.ndarray:
    """arccos; NaN if beyond ±1 by more than rounding."""
    inside = np.abs(cosine) <= 1.0 + 1e-12
    return np.where(inside, np.arccos(np.clip(cosine, -1.0, 1.0)), np.nan)


def _angles(name: str, theta: np.ndarray) -> np.ndarray:
    theta = np.asarray(theta, np.float64)
    outside = ~((theta >= 0.0) & (theta <= math.pi))
    if outside.any():
        raise InputError(f"{name} holds {theta[outside].flat[0]:g}; pass radians in [0, π]")
    return theta
