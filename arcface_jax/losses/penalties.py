"""The geometric penalties that the ArcFace paper compares and combines: Intra and Inter.

Both come back per example, [N], and are 0 without gradient where the label is −1. Angles are in
radians and have finite slopes everywhere, between identical and between opposite vectors too.

References:
  Deng et al., ArcFace, arXiv:1801.07698, eq. 5 and 6, section 3.3 and table 2.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from arcface_jax.arguments import check_between, check_floating, check_labels
from arcface_jax.cosine import (
    angle,
    cosine_logits,
    has_class,
    normalise_rows,
    own_cosines,
    target_mask,
)
from arcface_jax.errors import InputError
from arcface_jax.heads.softmax import blank_ignored
from arcface_jax.losses.loss import AT_START, Context, LossOutput
from arcface_jax.losses.softmax import MarginSoftmax, margin_softmax_loss
from arcface_jax.losses.triplet import angular_triplet_loss
from arcface_jax.margins import ARCFACE, Psi, normface


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
    cosine = own_cosines(blank_ignored(embeddings, labels), class_weights, labels)
    return jnp.where(has_class(labels, class_weights.shape[0]), angle(cosine) / math.pi, 0.0)


def inter_penalty(
    class_weights: jax.Array, labels: jax.Array, *, precision: str = "highest"
) -> jax.Array:
    """−mean over j ≠ y of the angle between W_y and W_j, over π. The Inter loss adds it to the
    softmax (eq. 6).

    Args:
      class_weights: [C, D], C ≥ 2.
      labels: [N] integers in [0, C), or −1 for a row to ignore.
      precision: of the matrix product; see `arcface_jax.cosine.product`.

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
    own = jnp.take(class_weights, labels, axis=0, mode="clip")
    cosine = cosine_logits(own, class_weights, precision=precision)
    angles = jnp.where(target_mask(labels, classes), 0.0, angle(cosine))
    return jnp.where(
        has_class(labels, classes), -jnp.sum(angles, axis=-1) / (math.pi * (classes - 1)), 0.0
    )


def distillation_penalty(embeddings: jax.Array, teacher_embeddings: jax.Array) -> jax.Array:
    """1 − cos(x, t): how far an embedding points from that of a trained network, the teacher.

    Args:
      embeddings: [N, D], of the student.
      teacher_embeddings: [N, D], of the same images; without a gradient.

    Returns: [N], in [0, 2].

    Raises:
      InputError: the shapes differ, or are no matrices.

    References:
      Hinton et al., Distilling the Knowledge in a Neural Network, arXiv:1503.02531; of embeddings
      by cosine: Yan et al., VarGFaceNet, arXiv:1910.04985, section 2.4.
    """
    embeddings = check_floating("embeddings", embeddings, 2)
    taught = check_floating("teacher_embeddings", teacher_embeddings, 2)
    if embeddings.shape != taught.shape:
        raise InputError(
            f"teacher_embeddings: of shape {taught.shape}, but the embeddings are "
            f"{embeddings.shape}; give as many, of the same size"
        )
    unit, taught = (normalise_rows(rows) for rows in (embeddings, jax.lax.stop_gradient(taught)))
    return 1.0 - jnp.sum(unit * taught, axis=-1)


@dataclasses.dataclass(frozen=True)
class Intra(MarginSoftmax, name="intra"):
    """s·cosθ, plus w·θ_y/π: the paper's Intra loss (arXiv:1801.07698, eq. 5)."""

    weight: float = 1.0
    """w, of the penalty."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_between("weight", self.weight, 0.0, math.inf)

    def formula(self) -> str:
        """The target logit over s, for people."""
        return f"cos(θ), plus {self.weight:g}·θ/π"

    def psi(self, context: Context) -> Psi:
        """No margin."""
        return normface()

    def penalty(self, context: Context, target_cosine: jax.Array) -> jax.Array:
        """w·θ_y/π."""
        return self.weight * angle(target_cosine) / math.pi


@dataclasses.dataclass(frozen=True)
class Inter(MarginSoftmax, name="inter"):
    """s·cosθ, minus w times the mean angle between W_y and the other centres, over π (arXiv:
    1801.07698, eq. 6).
    """

    any_head: ClassVar[bool] = False

    weight: float = 1.0
    """w, of the penalty."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_between("weight", self.weight, 0.0, math.inf)

    def formula(self) -> str:
        """The target logit over s, for people."""
        return f"cos(θ), plus {self.weight:g} times the mean of −θ(W, W′)/π"

    def psi(self, context: Context) -> Psi:
        """No margin."""
        return normface()

    def __call__(
        self,
        params: dict[str, Any],
        state: dict[str, Any],
        embeddings: jax.Array,
        labels: jax.Array,
        context: Context = AT_START,
        **over: Any,
    ) -> LossOutput:
        """With `inter_penalty` of the class weights."""
        out = super().__call__(params, state, embeddings, labels, context, **over)
        penalty = inter_penalty(params["class_weights"], labels, precision=context.precision)
        return out._replace(loss=out.loss + self.weight * penalty)


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
