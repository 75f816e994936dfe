"""The angular triplet loss among the examples of a batch: no classes."""

import dataclasses
import math
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from arcface_jax.arguments import check_between, check_choice, check_floating, check_labels
from arcface_jax.cosine import angle, cosine_logits, normalise_rows, product
from arcface_jax.heads.softmax import blank_ignored
from arcface_jax.losses.loss import AT_START, Context, Loss, LossOutput

MINING = ("hard", "semi_hard")


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
    labels = check_labels(labels, embeddings.shape[0])
    check_between("margin", margin, 0.0, math.pi)
    check_choice("mining", mining, MINING)
    cosine, positive, negative = pairs_of_batch(embeddings, labels, axis_name)
    if mining == "hard":
        loss = _hard(cosine, positive, negative, margin)
    else:
        loss = _semi_hard(cosine, positive, negative, margin)
    return jnp.where(jnp.any(positive, axis=-1) & jnp.any(negative, axis=-1), loss, 0.0)


def pairs_of_batch(
    embeddings: jax.Array, labels: jax.Array, axis_name: Any, precision: str = "highest"
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(cosines of this device's examples with those of all devices [n, N], which pairs are of one
    class and which of two, an example with itself and ignored ones being neither).
    """
    rows = embeddings.shape[0]
    unit = normalise_rows(blank_ignored(embeddings, labels))
    others, other_labels = unit, labels
    offset: Any = 0
    if axis_name is not None:
        others = jax.lax.all_gather(unit, axis_name, tiled=True)
        other_labels = jax.lax.all_gather(labels, axis_name, tiled=True)
        offset = rows * jax.lax.axis_index(axis_name)
    cosine = product("nd,md->nm", unit, others, precision)
    itself = (jnp.arange(rows) + offset)[:, None] == jnp.arange(others.shape[0])[None, :]
    taking_part = (labels >= 0)[:, None] & (other_labels >= 0)[None, :]
    same = labels[:, None] == other_labels[None, :]
    return cosine, same & taking_part & ~itself, ~same & taking_part


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


@dataclasses.dataclass(frozen=True)
class Triplet(Loss, name="triplet"):
    """max(0, θ(anchor, positive) + m − θ(anchor, negative)), positives and negatives found in the
    batch (arXiv:1801.07698, section 3).
    """

    over_pairs: ClassVar[bool] = True

    margin: float = 0.35
    """m, radians, in [0, π]."""
    mining: Literal["hard", "semi_hard"] = "semi_hard"
    """semi_hard: every positive with the nearest negative farther than it. hard: the farthest
    positive and the nearest negative.
    """

    def __post_init__(self) -> None:
        check_between("margin", self.margin, 0.0, math.pi)
        check_choice("mining", self.mining, MINING)

    def __str__(self) -> str:
        mining = self.mining.replace("_", "-")
        return f"max(0, θ(anchor, positive) + {self.margin:g} − θ(anchor, negative)), {mining}"

    def init_params(self, key: jax.Array, num_classes: int, embedding_size: int) -> dict[str, Any]:
        """Nothing is learnt beside the backbone."""
        return {}

    def __call__(
        self,
        params: dict[str, Any],
        state: dict[str, Any],
        embeddings: jax.Array,
        labels: jax.Array,
        context: Context = AT_START,
    ) -> LossOutput:
        """A hit is an anchor whose nearest other image on its device is of its own class."""
        options: Any = {"margin": self.margin, "mining": self.mining}
        loss = angular_triplet_loss(embeddings, labels, axis_name=context.axis_name, **options)
        labels, embeddings = jnp.asarray(labels), jax.lax.stop_gradient(embeddings)
        blanked = blank_ignored(embeddings, labels)
        cosines = cosine_logits(blanked, blanked)
        other = ~jnp.eye(len(labels), dtype=bool) & (labels >= 0)
        same = (labels[:, None] == labels) & other
        nearest = jnp.argmax(jnp.where(other, cosines, -2.0), axis=-1, keepdims=True)
        positive = jnp.sum(jnp.where(same, cosines, 0.0), axis=-1)
        positive = positive / jnp.maximum(jnp.sum(same, axis=-1), 1)
        return LossOutput(loss, state, positive, jnp.take_along_axis(same, nearest, axis=-1)[:, 0])

    def expected_initial_loss(self, num_classes: int, embedding_size: int, **options: Any) -> float:
        """Simulated, for batches with four images of each of sixteen identities."""
        return super().expected_initial_loss(min(num_classes, 16), embedding_size)
