"""The margins of the papers, by name."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from arcface_jax.arguments import check_between, check_floating, check_labels
from arcface_jax.errors import InputError
from arcface_jax.margins.annealed import AnnealedMargin, annealed
from arcface_jax.margins.combined import CombinedMargin, Psi, combined


def softmax_on_sphere() -> CombinedMargin:
    """psi(cosθ) = cosθ: no margin; softmax over cosines, as in NormFace (arXiv:1704.06369)."""
    return combined(1.0, 0.0, 0.0)


def normface() -> CombinedMargin:
    """Another name for `softmax_on_sphere`."""
    return softmax_on_sphere()


def sphereface(m1: Any = 1.35, *, past_pi: str = "none", gradient: str = "exact") -> CombinedMargin:
    """psi(cosθ) = cos(m1·θ); 1.35 is the ArcFace paper's setting. See `sphereface_original` for
    SphereFace's own.
    """
    return combined(m1, 0.0, 0.0, past_pi=past_pi, gradient=gradient)


def arcface(margin: Any = 0.5, *, past_pi: str = "none", gradient: str = "exact") -> CombinedMargin:
    """psi(cosθ) = cos(θ + margin), margin in radians: the additive angular margin
    (arXiv:1801.07698, eq. 3).
    """
    check_between("margin", margin, 0.0, math.pi)
    return combined(1.0, margin, 0.0, past_pi=past_pi, gradient=gradient)


# The default psi of every loss.
ARCFACE = arcface(0.5)


def cosface(margin: Any = 0.35) -> CombinedMargin:
    """psi(cosθ) = cosθ − margin: the additive cosine margin (arXiv:1801.09414). Its slope is 1
    and no rule applies.
    """
    check_between("margin", margin, 0.0, 2.0)
    return combined(1.0, 0.0, margin)


def cm1(*, past_pi: str = "none", gradient: str = "exact") -> CombinedMargin:
    """CM1 of the ArcFace paper: (m1, m2, m3) = (1, 0.3, 0.2)."""
    return combined(1.0, 0.3, 0.2, past_pi=past_pi, gradient=gradient)


def cm2(*, past_pi: str = "none", gradient: str = "exact") -> CombinedMargin:
    """CM2 of the ArcFace paper: (m1, m2, m3) = (0.9, 0.4, 0.15)."""
    return combined(0.9, 0.4, 0.15, past_pi=past_pi, gradient=gradient)


def sphereface_original(
    m: int = 4, *, weight: Any = 5.0, gradient: str = "exact"
) -> AnnealedMargin:
    """SphereFace's own margin: (λ·cosθ + (−1)^k·cos(mθ) − 2k)/(1 + λ) with k = ⌊mθ/π⌋.

    The paper multiplies it by the length of the embedding, not by a constant: pass
    scale=row_norms(embeddings).

    Args:
      m: a whole number from 1 to 10.
      weight: λ; see `sphereface_annealing`. The paper ends at 5.
      gradient: exact or straight_through.

    Returns: psi.

    Raises:
      InputError: for an m that is not whole or out of range, or λ below zero.

    References:
      Liu et al., SphereFace, arXiv:1704.08063, eq. 7.
    """
    if int(m) != m:
        raise InputError(f"m is {m}; pass a whole number (`sphereface` takes a real one)")
    return annealed(combined(m, 0.0, 0.0, past_pi="reflect", gradient=gradient), weight)


def class_wise(margins: jax.Array, labels: jax.Array) -> jax.Array:
    """Each example's margin from a margin for each class: arcface(class_wise(margins, labels)).

    Args:
      margins: [C].
      labels: [N] integers in [0, C); an ignored label, −1, gets some class's margin, which its loss
        of 0 hides.

    Returns: [N].

    Raises:
      InputError: for a wrong shape, dtype or label.
    """
    margins = check_floating("margins", margins, 1)
    labels = check_labels(labels, jnp.size(labels), margins.shape[0])
    return jnp.take(margins, labels, mode="clip")


# Every margin with fixed numbers that the ArcFace paper compares, by the name used in commands and
# figures.
NAMED_MARGINS: dict[str, Psi] = {
    "softmax": softmax_on_sphere(),
    "sphereface": sphereface(),
    "arcface": arcface(),
    "cosface": cosface(),
    "cm1": cm1(),
    "cm2": cm2(),
    "sphereface_original": sphereface_original(),
}
