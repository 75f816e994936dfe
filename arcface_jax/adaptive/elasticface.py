"""ElasticFace: a margin drawn anew for every example at every step."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from arcface_jax.arguments import check_between, check_choice, check_floating, check_labels
from arcface_jax.losses import margin_softmax_loss
from arcface_jax.margins import CombinedMargin, Psi

KINDS = ("arc", "cos")


def elastic_margins(
    key: jax.Array,
    target_cosine: jax.Array,
    valid: jax.Array,
    *,
    mean: float,
    std: float,
    plus: bool = False,
    axis_name: Any = None,
) -> jax.Array:
    """Margins drawn from N(mean, std²); with `plus`, the farther from its class, the larger an
    example's margin.

    Args:
      key: a PRNG key; under `axis_name` the same on every device, which then hold the parts of one
        draw.
      target_cosine: cosθ_y, [N], by which `plus` sorts.
      valid: [N] booleans; `plus` sorts these rows among themselves.
      mean: of the normal distribution.
      std: its standard deviation.
      plus: whether to sort.
      axis_name: of the devices that share the batch.

    Returns: [N], in the dtype of the cosines; no gradient.
    """
    rows, dtype = target_cosine.shape[0], target_cosine.dtype
    cosine = jax.lax.stop_gradient(target_cosine)
    start: Any = 0
    if axis_name is not None:
        start = rows * jax.lax.axis_index(axis_name)
        cosine = jax.lax.all_gather(cosine, axis_name, tiled=True)
        valid = jax.lax.all_gather(valid, axis_name, tiled=True)
    margins = mean + std * jax.random.normal(key, cosine.shape, dtype)
    if plus:
        # Padding goes last on both sides, so that valid rows share out the margins drawn for valid
        # rows.
        ascending = jnp.sort(jnp.where(valid, margins, jnp.inf))
        nearest_first = jnp.argsort(jnp.where(valid, -cosine, jnp.inf))
        margins = jnp.where(
            valid, jnp.zeros_like(margins).at[nearest_first].set(ascending), margins
        )
    return jax.lax.dynamic_slice_in_dim(margins, start, rows)


def elasticface_psi(
    key: jax.Array,
    valid: jax.Array,
    *,
    kind: str = "arc",
    mean: float = 0.5,
    std: float = 0.0125,
    plus: bool = False,
    axis_name: Any = None,
) -> Psi:
    """psi(cosθ) = cos(θ + m) (kind "arc") or cosθ − m (kind "cos") with m from `elastic_margins`.

    Args:
      key: a PRNG key.
      valid: [N] booleans.
      kind: arc or cos.
      mean: of m.
      std: of m.
      plus: whether the margins are sorted.
      axis_name: of the devices that share the batch.

    Returns: psi, a function of cosines [N].

    Raises:
      InputError: for an unknown kind or a number out of range.
    """
    check_choice("kind", kind, KINDS)
    check_between("mean", mean, 0.0, math.pi)
    check_between("std", std, 0.0, 1.0)

    def psi(cosine: jax.Array) -> jax.Array:
        margins = elastic_margins(
            key, cosine, valid, mean=mean, std=std, plus=plus, axis_name=axis_name
        )
        margin = CombinedMargin(m2=margins) if kind == "arc" else CombinedMargin(m3=margins)
        return margin(cosine)

    return psi


def elasticface_loss(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    *,
    kind: str = "arc",
    mean: float = 0.5,
    std: float = 0.0125,
    plus: bool = False,
    scale: Any = 64.0,
    axis_name: Any = None,
) -> jax.Array:
    """ElasticFace and ElasticFace+: margin softmax with a random margin for each example.

    The paper's settings: Arc 0.5 ± 0.0125 and, with `plus`, 0.5 ± 0.0175; Cos 0.35 ± 0.0125 and
    0.35 ± 0.025.

    Args:
      embeddings: [N, D].
      class_weights: [C, D].
      labels: [N] integers in [0, C), or −1 for a row to ignore.
      key: a PRNG key, new at every step; under `axis_name` the same on every device.
      kind: arc, cos(θ + m), or cos, cosθ − m.
      mean: of m; radians for arc. Give 0.35 with kind cos.
      std: of m.
      plus: give the largest margins to the examples farthest from their class. (The authors' code
        applies the sorting permutation where its inverse is meant; this follows the paper.)
      scale: s > 0.
      axis_name: of the devices that share the batch, which then draw what one device with the whole
        batch would.

    Returns: [N].

    Raises:
      InputError: for a wrong shape, dtype, label, kind or number.

    References:
      Boutros et al., ElasticFace, arXiv:2109.09416, section 3.3.
    """
    embeddings = check_floating("embeddings", embeddings, 2)
    labels = check_labels(labels, embeddings.shape[0], jnp.shape(class_weights)[0])
    psi = elasticface_psi(
        key, labels >= 0, kind=kind, mean=mean, std=std, plus=plus, axis_name=axis_name
    )
    return margin_softmax_loss(embeddings, class_weights, labels, psi=psi, scale=scale)
