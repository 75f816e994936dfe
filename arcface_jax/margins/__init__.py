r"""Margins: psi, the function of the true class's cosine that stands between cosine similarity and
cross-entropy.

Every margin of the family is

    psi(cosθ) = cos(m1·θ + m2) − m3

with three numbers (SphereFace m1, ArcFace m2, CosFace m3), a rule for angles whose m1·θ + m2 is
past π, and one of two gradients. A psi is a small frozen object, called with cosines and returning
cosines of the same shape:

    psi = arcface(0.5)
    psi(jnp.cos(theta))             # cos(θ + 0.5)

With numbers for margins it is hashable and compares by value, so it may be a static argument of
`jax.jit`; with arrays (a margin for each example) it is a pytree whose leaves are those arrays.
Wherever this library takes a psi, any function from cosines to cosines will do.

References:
  Deng et al., ArcFace, arXiv:1801.07698, eq. 4. Liu et al., SphereFace, arXiv:1704.08063. Wang et
  al., CosFace,
  arXiv:1801.09414. Wang et al., NormFace, arXiv:1704.06369.
"""

from arcface_jax.margins.annealed import AnnealedMargin, annealed, sphereface_annealing
from arcface_jax.margins.combined import GRADIENTS, PAST_PI, CombinedMargin, Psi, combined
from arcface_jax.margins.named import (
    ARCFACE,
    NAMED_MARGINS,
    arcface,
    class_wise,
    cm1,
    cm2,
    cosface,
    normface,
    softmax_on_sphere,
    sphereface,
    sphereface_original,
)

__all__ = [
    "ARCFACE",
    "GRADIENTS",
    "NAMED_MARGINS",
    "PAST_PI",
    "AnnealedMargin",
    "CombinedMargin",
    "Psi",
    "annealed",
    "arcface",
    "class_wise",
    "cm1",
    "cm2",
    "combined",
    "cosface",
    "normface",
    "softmax_on_sphere",
    "sphereface",
    "sphereface_annealing",
    "sphereface_original",
]
