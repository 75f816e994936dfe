"""The geometric losses that the ArcFace paper compares and combines: Intra, Inter and the angular
triplet.

All come back per example, [N], and are 0 without gradient where the label is −1. Angles are in
radians and have finite slopes everywhere, between identical and between opposite vectors too.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from arcface_jax.angles import angle
from arcface_jax.arguments import check_between, check_choice, check_floating, check_labels
from arcface_jax.errors import InputError
from arcface_jax.logits import cosine_logits, has_class, head_dtype, normalise_rows, target_mask
from arcface_jax.losses import blank_ignored, margin_softmax_loss
from arcface_jax.margins import ARCFACE, Psi

MINING = ("hard", "semi_hard")


def intra_penalty(embeddings: jax.Array, class_weights: jax.Array, labels: jax.Array) -> jax.Array:
    """θ_y/π, the angle between an embedding and its class's weight. The Intra loss adds it to the
    softmax (eq. 5).

    Args:
      embeddings: [N, D].
      class_weights: [C, D].
      labels: [N] integers in [0, C), or −1 for a row to ignore.

    Returns: [N], in [0, 1].

    Raises:
      InputError: for a wrong shape, dtype or label.

    References:
      Deng et al., ArcFace, arXiv:1801.07698, eq. 5.
    """
    embeddings = check_floating("embeddings", embeddings, 2)
    class_weights = check_floating("class_weights", class_weights, 2)
    labels = check_labels(labels, embeddings.shape[0], class_weights.shape[0])
    dtype = head_dtype(embeddings, class_weights)
    own = normalise_rows(jnp.take(class_weights, labels, axis=0, mode="clip").astype(dtype))
    cosine = jnp.sum(normalise_rows(blank_ignored(embeddings, labels).astype(dtype)) * own, axis=-1)
    return jnp.where(has_class(labels, class_weights.shape[0]), angle(cosine) / math.pi, 0.0)


def inter_penalty(class_weights: jax.Array, labels: jax.Array) -> jax.Array:
    """−mean over j ≠ y of the angle between W_y and W_j, over π. The Inter loss adds it to the
    softmax (eq. 6).

    Args:
      class_weights: [C, D], C ≥ 2.
      labels: [N] integers in [0, C), or −1 for a row to ignore.

    Returns: [N], in [−1, 0].

    Raises:
      InputError: for a wrong shape, dtype or label, or a single class.

    References:
      Deng et al., ArcFace, arXiv:1801.07698, eq. 6.
    """
    class_weights = check_floating("class_weights", class_weights, 2)
    classes = class_weights.shape[0]
    if classes < 2:
        raise InputError(
            f"class_weights has shape {class_weights.shape}; Inter needs two classes or more"
        )
    labels = check_labels(labels, jnp.size(labels), classes)
    cosine = cosine_logits(jnp.take(class_weights, labels, axis=0, mode="clip"), class_weights)
    angles = jnp.where(target_mask(labels, classes), 0.0, angle(cosine))
    return jnp.where(
        has_class(labels, classes), -jnp.sum(angles, axis=-1) / (math.pi * (classes - 1)), 0.0
    )


def angular_triplet_loss(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    margin: float = 0.35,
    mining: str = "semi_hard",
    axis_name: Any = None,
) -> jax.Array:
    r"""max(0, θ(a, p) + margin − θ(a, n)) with positives p and negatives n found in the batch.

    Every row is an anchor once. With mining "hard" its positive is the farthest one and its
    negative the nearest. With "semi_hard" every positive is used, each with the nearest negative
    that is farther than it (the farthest negative where none is), and the anchor's loss is the
    mean. The choice itself has no gradient.

    Args:
      embeddings: [N, D].
      labels: [N] integers, 0 or more; a row labelled −1 is neither anchor nor positive nor
        negative.
      margin: radians, in [0, π].
      mining: hard or semi_hard.
      axis_name: of the devices to search beside this one, under `pmap`, `shard_map` or `vmap`;
        anchors stay local.

    Returns: [N]; 0 for an anchor without a positive or without a negative.

    Raises:
      InputError: for a wrong shape, dtype, label, margin or mining.

    References:
      Deng et al., ArcFace, arXiv:1801.07698, section 3 (margin 0.35); Schroff et al., FaceNet,
      arXiv:1503.03832, and Hermans et al., arXiv:1703.07737, for the mining.
    """
    embeddings = check_floating("embeddings", embeddings, 2)
    rows = embeddings.shape[0]
    labels = check_labels(labels, rows)
    check_between("margin", margin, 0.0, math.pi)
    check_choice("mining", mining, MINING)
    unit = normalise_rows(blank_ignored(embeddings, labels))
    others, other_labels = unit, labels
    offset: Any = 0
    if axis_name is not None:
        others = jax.lax.all_gather(unit, axis_name, tiled=True)
        other_labels = jax.lax.all_gather(labels, axis_name, tiled=True)
        offset = rows * jax.lax.axis_index(axis_name)
    cosine = jnp.einsum("nd,md->nm", unit, others, precision="highest")

    itself = (jnp.arange(rows) + offset)[:, None] == jnp.arange(others.shape[0])[None, :]
    taking_part = (labels >= 0)[:, None] & (other_labels >= 0)[None, :]
    same = labels[:, None] == other_labels[None, :]
    positive, negative = same & taking_part & ~itself, ~same & taking_part
    if mining == "hard":
        loss = _hard(cosine, positive, negative, margin)
    else:
        loss = _semi_hard(cosine, positive, negative, margin)
    return jnp.where(jnp.any(positive, axis=-1) & jnp.any(negative, axis=-1), loss, 0.0)


def _hinge(positive_cosine: jax.Array, negative_cosine: jax.Array, margin: float) -> jax.Array:
    return jnp.maximum(angle(positive_cosine) + margin - angle(negative_cosine), 0.0)


def _pick(cosine: jax.Array, index: jax.Array) -> jax.Array:
    return jnp.take_along_axis(cosine, index, axis=-1)


def _hard(cosine: jax.Array, positive: jax.Array, negative: jax.Array, margin: float) -> jax.Array:
    farthest = jnp.argmin(jnp.where(positive, cosine, jnp.inf), axis=-1, keepdims=True)
    nearest = jnp.argmax(jnp.where(negative, cosine, -jnp.inf), axis=-1, keepdims=True)
    return _hinge(_pick(cosine, farthest), _pick(cosine, nearest), margin)[:, 0]


def _semi_hard(
    cosine: jax.Array, positive: jax.Array, negative: jax.Array, margin: float
) -> jax.Array:
    distance = -jax.lax.stop_gradient(cosine)  # grows with the angle
    candidates = jnp.where(negative, distance, jnp.inf)
    order = jnp.argsort(candidates, axis=-1)
    # The place, among the anchor's negatives from near to far, of the first that is farther than
    # the positive.
    place = jax.vmap(lambda row, query: jnp.searchsorted(row, query, side="right"))(
        _pick(candidates, order), distance
    )
    last = jnp.sum(negative, axis=-1, keepdims=True) - 1
    chosen = _pick(order, jnp.clip(place, 0, jnp.maximum(last, 0)))
    hinge = jnp.where(positive, _hinge(cosine, _pick(cosine, chosen), margin), 0.0)
    return jnp.sum(hinge, axis=-1) / jnp.maximum(jnp.sum(positive, axis=-1), 1)


def combination_loss(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    *,
    psi: Psi = ARCFACE,
    scale: Any = 64.0,
    label_smoothing: float = 0.0,
    intra_weight: float = 0.0,
    inter_weight: float = 0.0,
    triplet_weight: float = 0.0,
    triplet_margin: float = 0.35,
    mining: str = "semi_hard",
    axis_name: Any = None,
) -> jax.Array:
    """Margin softmax plus weighted Intra, Inter and triplet terms: the paper's combinations.

    psi=normface() with intra_weight=1 is the paper's Intra loss and with inter_weight=1 its Inter
    loss; psi=arcface() gives ArcFace+Intra, ArcFace+Inter, and with triplet_weight=1
    ArcFace+Triplet. A term of weight 0 is not computed.

    Args:
      embeddings: [N, D].
      class_weights: [C, D].
      labels: [N] integers in [0, C), or −1 for a row to ignore.
      psi: the margin of the softmax.
      scale: s > 0 of the softmax.
      label_smoothing: ε of the softmax.
      intra_weight: of `intra_penalty`; 0 or more, as the others.
      inter_weight: of `inter_penalty`.
      triplet_weight: of `angular_triplet_loss`.
      triplet_margin: its margin, radians.
      mining: its mining.
      axis_name: its devices.

    Returns: [N].

    Raises:
      InputError: for a wrong shape, dtype, label or number.

    References:
      Deng et al., ArcFace, arXiv:1801.07698, section 3.3 and table 2.
    """
    for name, weight in (
        ("intra", intra_weight),
        ("inter", inter_weight),
        ("triplet", triplet_weight),
    ):
        check_between(f"{name}_weight", weight, 0.0, math.inf)
    loss = margin_softmax_loss(
        embeddings, class_weights, labels, psi=psi, scale=scale, label_smoothing=label_smoothing
    )
    if intra_weight:
        loss = loss + intra_weight * intra_penalty(embeddings, class_weights, labels)
    if inter_weight:
        loss = loss + inter_weight * inter_penalty(class_weights, labels)
    if triplet_weight:
        loss = loss + triplet_weight * angular_triplet_loss(
            embeddings, labels, margin=triplet_margin, mining=mining, axis_name=axis_name
        )
    return loss
