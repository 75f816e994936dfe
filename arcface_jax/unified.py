"""Losses that judge every pair of embedding and class by itself, against one threshold: SphereFace2
and UniFace.

Each of the C cosines of an example is a binary decision with a bias that all share and that is
learnt. Losses come back per example, [N], summed over the classes; 0 where the label is −1.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from arcface_jax.angles import straight_through
from arcface_jax.arguments import (
    check_between,
    check_choice,
    check_floating,
    check_labels,
    check_positive,
)
from arcface_jax.logits import cosine_logits, take_target, target_mask
from arcface_jax.losses import apply_psi, blank_ignored, column_of_scales
from arcface_jax.margins import GRADIENTS, Psi, cosface

UNIFACE_MARGIN = cosface(0.4)


def _cosines_and_mask(
    embeddings: jax.Array, class_weights: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    embeddings = check_floating("embeddings", embeddings, 2)
    labels = check_labels(labels, embeddings.shape[0], jnp.shape(class_weights)[0])
    cosine = cosine_logits(blank_ignored(embeddings, labels), class_weights)
    return cosine, target_mask(labels, cosine.shape[1])


def _binary_sum(
    logits: jax.Array, mask: jax.Array, positive_weight: float, negative_weight: float
) -> jax.Array:
    """w₊·ln(1 + e^{−logit_y}) + w₋·Σ_{j≠y} ln(1 + e^{logit_j}); 0 for a row without a true
    class.
    """
    positive, negative = jax.nn.softplus(-logits), jax.nn.softplus(logits)
    loss = jnp.sum(jnp.where(mask, positive_weight * positive, negative_weight * negative), axis=-1)
    return jnp.where(jnp.any(mask, axis=-1), loss, 0.0)


def power_similarity(cosine: jax.Array, exponent: float, *, gradient: str = "exact") -> jax.Array:
    """g(cosθ) = 2·((cosθ + 1)/2)^t − 1: SphereFace2's similarity, which spreads the large cosines.

    Args:
      cosine: any shape.
      exponent: t ≥ 1; 1 leaves the cosine as it is.
      gradient: exact or straight_through.

    Returns: an array like `cosine`, in [−1, 1].
    """
    base = 0.5 * (cosine + 1.0)
    value = 2.0 * jnp.where(base > 0.0, base, 0.0) ** exponent - 1.0
    return straight_through(cosine, value) if gradient == "straight_through" else value


def sphereface2_loss(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    bias: jax.Array,
    *,
    balance: float = 0.7,
    scale: float = 40.0,
    margin: float = 0.4,
    exponent: float = 3.0,
    gradient: str = "exact",
) -> jax.Array:
    r"""SphereFace2, its additive-cosine form:

        L = λ/r·ln(1 + e^{−r(g(cosθ_y) − m) − b}) + (1 − λ)/r·Σ_{j≠y} ln(1 + e^{r(g(cosθ_j) + m) +
        b}), g(z) = 2((z + 1)/2)^t − 1.

    The authors' code multiplies this by 50 and uses the straight-through gradient for g and m.

    Args:
      embeddings: [N, D].
      class_weights: [C, D].
      labels: [N] integers in [0, C), or −1 for a row to ignore.
      bias: b, a scalar array to learn; start from `sphereface2_bias`.
      balance: λ in (0, 1], the weight of the true class.
      scale: r > 0.
      margin: m, in [0, 2].
      exponent: t ≥ 1.
      gradient: of g: exact or straight_through.

    Returns: [N].

    Raises:
      InputError: for a wrong shape, dtype, label or number.

    References:
      Wen et al., SphereFace2, arXiv:2108.01513, eq. 5.
    """
    bias = check_floating("bias", bias, 0)
    _check_sphereface2(balance, scale, margin, exponent)
    check_choice("gradient", gradient, GRADIENTS)
    cosine, mask = _cosines_and_mask(embeddings, class_weights, labels)
    similarity = power_similarity(cosine, exponent, gradient=gradient)
    logits = scale * (similarity + jnp.where(mask, -margin, margin)) + bias.astype(cosine.dtype)
    return _binary_sum(logits, mask, balance / scale, (1.0 - balance) / scale)


def _check_sphereface2(balance: float, scale: float, margin: float, exponent: float) -> None:
    check_between("balance", balance, 0.0, 1.0, open_low=True)
    check_positive("scale", scale)
    check_between("margin", margin, 0.0, 2.0)
    check_between("exponent", exponent, 1.0, math.inf)


def sphereface2_bias(
    num_classes: int,
    *,
    balance: float = 0.7,
    scale: float = 40.0,
    margin: float = 0.4,
    exponent: float = 3.0,
) -> float:
    """The bias at which, with all cosines 0, the true class pulls as hard as all the others
    together push.

    It solves λ·σ(−a₊ − b) = (1 − λ)(C − 1)·σ(a₋ + b) with a± = r(g(0) ∓ m), a quadratic in e^b.

    Args:
      num_classes: C ≥ 2.
      balance: λ in (0, 1).
      scale: r.
      margin: m.
      exponent: t.

    Returns: b.

    Raises:
      InputError: for a number out of range.

    References:
      Wen et al., SphereFace2, arXiv:2108.01513.
    """
    check_between("num_classes", num_classes, 2, math.inf)
    _check_sphereface2(balance, scale, margin, exponent)
    check_between("balance", balance, 0.0, 1.0 - 1e-9, open_low=True)
    ratio = balance / ((1.0 - balance) * (num_classes - 1))
    similarity = 2.0 * 0.5**exponent - 1.0
    positive, negative = scale * (similarity - margin), scale * (similarity + margin)
    root = math.sqrt((1.0 - ratio) ** 2 + 4.0 * ratio * math.exp(positive - negative))
    if ratio > 1.0:  # the same root of the quadratic, in the form that does not cancel here
        return math.log(ratio - 1.0 + root) - math.log(2.0) - positive
    return math.log(2.0 * ratio) - negative - math.log(1.0 - ratio + root)


def uniface_loss(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    bias: jax.Array,
    *,
    psi: Psi = UNIFACE_MARGIN,
    scale: Any = 64.0,
    negative_weight: float = 1.0,
) -> jax.Array:
    r"""UniFace's unified cross-entropy with a margin:

        L = ln(1 + e^{−s·psi(cosθ_y) + b}) + λ·Σ_{j≠y} ln(1 + e^{s·cosθ_j − b}).

    One threshold b/s divides the cosines of all positive pairs from those of all negative ones.

    Args:
      embeddings: [N, D].
      class_weights: [C, D].
      labels: [N] integers in [0, C), or −1 for a row to ignore.
      bias: b, a scalar array to learn; start from `uniface_bias`.
      psi: the margin; the paper's is cosface(0.4).
      scale: s > 0; a number, a scalar array or [N].
      negative_weight: λ > 0, which balances the many wrong classes against the one right one.

    Returns: [N].

    Raises:
      InputError: for a wrong shape, dtype, label or number.

    References:
      Zhou et al., UniFace: Unified Cross-Entropy Loss for Deep Face Recognition, ICCV 2023.
    """
    bias = check_floating("bias", bias, 0)
    check_positive("negative_weight", negative_weight)
    cosine, mask = _cosines_and_mask(embeddings, class_weights, labels)
    scale = column_of_scales(scale, cosine.shape[0], cosine.dtype)
    target = apply_psi(psi, take_target(cosine, mask))[:, None]
    logits = scale * jnp.where(mask, target, cosine) - bias.astype(cosine.dtype)
    return _binary_sum(logits, mask, 1.0, negative_weight)


def uniface_bias(num_classes: int) -> float:
    """ln(10·C), the bias that the authors of UniFace start from.

    Args:
      num_classes: C ≥ 1.

    Returns: b.

    Raises:
      InputError: for a number below 1.
    """
    check_between("num_classes", num_classes, 1, math.inf)
    return math.log(10.0 * num_classes)
