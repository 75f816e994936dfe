"""The angle between an embedding and the centre of its own class, over a run."""

import math

import chex
import jax.numpy as jnp
import numpy as np

from arcface_jax.arguments import check_between, check_positive
from arcface_jax.cosine import normalise_rows
from arcface_jax.errors import InputError
from arcface_jax.margins import Psi


def target_angles(
    embeddings: np.ndarray, class_weights: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """θ_y = arccos(ê · Ŵ_y) of each example, the angle that the margin is added to.

    Args:
      embeddings: [N, D], need not be normalised.
      class_weights: [C, D], one centre per row, or [C, K, D] with K sub-centres: the nearest
        counts; need not be normalised.
      labels: int [N], each in 0 … C − 1.

    Returns: float32 [N], degrees, in [0, 180].

    References: Deng et al., ArcFace (arXiv:1801.07698), figure 3.
    """
    chex.assert_rank([embeddings, class_weights, labels], [2, {2, 3}, 1])
    centres = np.asarray(normalise_rows(jnp.asarray(class_weights)[labels]))
    unit = np.asarray(normalise_rows(jnp.asarray(embeddings)))
    if centres.ndim == 3:
        cosines = np.max(np.sum(unit[:, None] * centres, axis=-1), axis=-1)
    else:
        cosines = np.sum(unit * centres, axis=-1)
    return np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))


def angle_density(degrees: np.ndarray, grid: np.ndarray, bandwidth: float = 2.0) -> np.ndarray:
    """Density of angles per degree: a Gaussian around each angle, folded at 0° and 180° (area 1).

        p(x) = 1/n Σᵢ [φ(x − θᵢ) + φ(x + θᵢ) + φ(x − 360° + θᵢ)],  φ a normal density of deviation
        `bandwidth`

    Args:
      degrees: [N], in [0, 180], N ≥ 1.
      grid: [G], where to evaluate the density, in [0, 180].
      bandwidth: degrees.

    Returns: float64 [G].

    Raises:
      InputError: there is no angle, one is out of range, or the bandwidth is not positive.
    """
    check_positive("bandwidth", bandwidth)
    check_between("degrees", degrees, 0.0, 180.0)
    if not np.size(degrees):
        raise InputError("degrees is empty; a density needs at least one angle")
    angles = np.asarray(degrees, np.float64)
    centres = np.concatenate([angles, -angles, 360.0 - angles])
    distance = (np.asarray(grid, np.float64)[:, None] - centres) / bandwidth
    return np.exp(-(distance**2) / 2).sum(axis=1) / (
        len(angles) * bandwidth * math.sqrt(2.0 * math.pi)
    )


def logits_of_angles(degrees: np.ndarray, psi: Psi) -> np.ndarray:
    """ψ(cos θ) of each angle: the target logit over s.

    Args:
      degrees: [N].
      psi: cosines -> target logits over s.

    Returns: float32 [N].
    """
    return np.asarray(psi(jnp.cos(jnp.radians(jnp.asarray(degrees, jnp.float32)))))
