"""MagFace: the longer an embedding, the larger its margin, and a reward for being long."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from arcface_jax.arguments import check_between, check_floating, check_labels
from arcface_jax.errors import InputError
from arcface_jax.logits import has_class, row_norms
from arcface_jax.losses import blank_ignored, margin_softmax_loss
from arcface_jax.margins import CombinedMargin, combined


def _check_norms(lower_norm: float, upper_norm: float) -> None:
    check_between("lower_norm", lower_norm, 0.0, math.inf, open_low=True)
    if not upper_norm > lower_norm:
        raise InputError(
            f"upper_norm is {upper_norm:g}; pass a number above lower_norm, {lower_norm:g}"
        )


def magface_margins(
    norms: jax.Array,
    *,
    lower_norm: float = 10.0,
    upper_norm: float = 110.0,
    lower_margin: float = 0.45,
    upper_margin: float = 0.8,
) -> jax.Array:
    """m(a) = l_m + (u_m − l_m)·(a − l_a)/(u_a − l_a), a the length of the embedding clipped to
    [l_a, u_a].

    Args:
      norms: [N].
      lower_norm: l_a > 0.
      upper_norm: u_a > l_a.
      lower_margin: l_m, radians, in [0, π].
      upper_margin: u_m, radians, in [l_m, π].

    Returns: [N] radians. The gradient to the length is part of the method.

    Raises:
      InputError: for a number out of range.
    """
    _check_norms(lower_norm, upper_norm)
    check_between("lower_margin", lower_margin, 0.0, math.pi)
    check_between("upper_margin", upper_margin, lower_margin, math.pi)
    slope = (upper_margin - lower_margin) / (upper_norm - lower_norm)
    return lower_margin + slope * (jnp.clip(norms, lower_norm, upper_norm) - lower_norm)


def magface_psi(norms: jax.Array, *, past_pi: str = "easy", **limits: float) -> CombinedMargin:
    """psi(cosθ) = cos(θ + m(‖x‖)) for each example, with the authors' easy margin unless another
    rule is named.

    Args:
      norms: [N].
      past_pi: a rule of `arcface_jax.margins.combined`.
      **limits: lower_norm, upper_norm, lower_margin and upper_margin of `magface_margins`.

    Returns: psi for cosines [N].
    """
    return combined(1.0, magface_margins(norms, **limits), 0.0, past_pi=past_pi)


def magface_regulariser(
    norms: jax.Array, *, lower_norm: float = 10.0, upper_norm: float = 110.0
) -> jax.Array:
    """g(a) = 1/a + a/u_a², a the length clipped to [l_a, u_a]: falls with the length, flat at u_a.

    Args:
      norms: [N].
      lower_norm: l_a > 0.
      upper_norm: u_a > l_a.

    Returns: [N].

    Raises:
      InputError: for a number out of range.
    """
    _check_norms(lower_norm, upper_norm)
    clipped = jnp.clip(norms, lower_norm, upper_norm)
    return 1.0 / clipped + clipped / upper_norm**2


def magface_loss(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    *,
    lower_norm: float = 10.0,
    upper_norm: float = 110.0,
    lower_margin: float = 0.45,
    upper_margin: float = 0.8,
    regulariser_weight: float = 35.0,
    scale: Any = 64.0,
    past_pi: str = "easy",
) -> jax.Array:
    """MagFace: margin softmax with psi(cosθ) = cos(θ + m(a)), plus λ_g·g(a), a = ‖x‖.

    Args:
      embeddings: x, [N, D], not normalised.
      class_weights: [C, D].
      labels: [N] integers in [0, C), or −1 for a row to ignore.
      lower_norm: l_a.
      upper_norm: u_a.
      lower_margin: l_m, radians.
      upper_margin: u_m, radians.
      regulariser_weight: λ_g ≥ 0.
      scale: s > 0.
      past_pi: the rule past π; "easy" is the authors' default, "linear" their other choice.

    Returns: [N].

    Raises:
      InputError: for a wrong shape, dtype, label or number.

    References:
      Meng et al., MagFace, arXiv:2103.06627, eq. 2 to 4.
    """
    check_between("regulariser_weight", regulariser_weight, 0.0, math.inf)
    embeddings = check_floating("embeddings", embeddings, 2)
    labels = check_labels(labels, embeddings.shape[0], jnp.shape(class_weights)[0])
    norms = row_norms(blank_ignored(embeddings, labels))
    psi = magface_psi(
        norms,
        past_pi=past_pi,
        lower_norm=lower_norm,
        upper_norm=upper_norm,
        lower_margin=lower_margin,
        upper_margin=upper_margin,
    )
    loss = margin_softmax_loss(embeddings, class_weights, labels, psi=psi, scale=scale)
    regulariser = magface_regulariser(norms, lower_norm=lower_norm, upper_norm=upper_norm)
    usable = has_class(labels, jnp.shape(class_weights)[0])
    return loss + jnp.where(usable, regulariser_weight * regulariser, 0.0)
