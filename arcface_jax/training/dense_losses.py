"""Heads that need all logits: plain softmax, CurricularFace, Intra, Inter, SphereFace2,
UniFace; the triplet loss.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from arcface_jax.adaptive import curricularface_init, curricularface_loss
from arcface_jax.errors import InputError
from arcface_jax.logits import cosine_logits, normalise_rows
from arcface_jax.losses import softmax_loss
from arcface_jax.pairwise import angular_triplet_loss, combination_loss
from arcface_jax.training.margin_softmax import random_class_weights
from arcface_jax.training.objective import DifferentiableHead, Moment, Outcome
from arcface_jax.unified import sphereface2_bias, sphereface2_loss, uniface_bias, uniface_loss

LossFunction = Callable[
    [Any, Any, jax.Array, jax.Array, str | None], tuple[jax.Array, dict[str, Any]]
]
"""(params, state, embeddings, labels, axis_name) -> (loss [n], new state)."""


def _nearest_by(
    scores: jax.Array, embeddings: jax.Array, weights: jax.Array, labels: jax.Array
) -> dict[str, Any]:
    own = normalise_rows(jnp.take(weights, labels, axis=0, mode="clip"))
    return {
        "hits": jnp.argmax(scores, axis=-1) == labels,
        "target_cosine": jnp.sum(normalise_rows(embeddings) * own, axis=-1),
    }


@dataclasses.dataclass(frozen=True)
class DenseLoss(DifferentiableHead):
    """A loss over class weights that is computed from all logits.

    Attributes:
      formula: the loss, for people.
      loss: the function.
      initial_state: of an adaptive loss.
      bias: from the number of classes, the start of a learnt bias: a number, or [C]; None for a
        loss without.
      by_dot_product: whether classes are told apart by w·x + b instead of the cosine.
    """

    formula: str
    loss: LossFunction
    initial_state: Callable[[], dict[str, Any]] = dict
    bias: Callable[[int], Any] | None = None
    by_dot_product: bool = False
    splits_classes = False

    def __str__(self) -> str:
        """The loss as a formula, for people."""
        return self.formula

    def init(
        self, key: jax.Array, num_classes: int, embedding_size: int, shards: int = 1
    ) -> dict[str, Any]:
        """{"class_weights": [C, D]} and perhaps a "bias"."""
        bias = (
            {} if self.bias is None else {"bias": jnp.asarray(self.bias(num_classes), jnp.float32)}
        )
        return {"class_weights": random_class_weights(key, num_classes, embedding_size), **bias}

    def init_state(
        self, key: jax.Array, num_classes: int, embedding_size: int, shards: int = 1
    ) -> dict[str, Any]:
        """The adaptive loss's."""
        return self.initial_state()

    def evaluate(
        self,
        params: Any,
        state: Any,
        embeddings: jax.Array,
        labels: jax.Array,
        moment: Moment,
        axis_name: str | None = None,
    ) -> Outcome:
        """See `DifferentiableHead`."""
        loss, state = self.loss(params, state, embeddings, labels, axis_name)
        embeddings, params = jax.lax.stop_gradient((embeddings, params))
        weights = params["class_weights"]
        by_dot_product = self.by_dot_product
        scores = (
            embeddings @ weights.T + params["bias"]
            if by_dot_product
            else cosine_logits(embeddings, weights)
        )
        return Outcome(loss, state=state, **_nearest_by(scores, embeddings, weights, labels))

    def class_weights(self, params: Any, state: Any) -> jax.Array:
        """See `Objective`."""
        weights: jax.Array = params["class_weights"]
        return weights

    def expected_initial_loss(self, num_classes: int, embedding_size: int) -> float:
        """Simulated: the mean loss of independent standard normal embeddings."""
        params = self.init(jax.random.key(0), num_classes, embedding_size)
        return simulated_loss(self, params, num_classes, embedding_size)


@dataclasses.dataclass(frozen=True)
class TripletLoss(DifferentiableHead):
    """The angular triplet loss among the examples of a batch: no classes.

    Attributes:
      margin: radians.
    """

    margin: float
    splits_classes = False

    def __str__(self) -> str:
        """The loss as a formula, for people."""
        return f"max(0, θ(anchor, positive) + {self.margin:g} − θ(anchor, negative)), semi-hard"

    def init(
        self, key: jax.Array, num_classes: int, embedding_size: int, shards: int = 1
    ) -> dict[str, Any]:
        """Nothing is learnt beside the backbone."""
        return {}

    def init_state(
        self, key: jax.Array, num_classes: int, embedding_size: int, shards: int = 1
    ) -> dict[str, Any]:
        """Nothing is remembered."""
        return {}

    def evaluate(
        self,
        params: Any,
        state: Any,
        embeddings: jax.Array,
        labels: jax.Array,
        moment: Moment,
        axis_name: str | None = None,
    ) -> Outcome:
        """See `DifferentiableHead`. A hit is an anchor whose nearest other image in the batch
        is of its own class.
        """
        loss = angular_triplet_loss(embeddings, labels, margin=self.margin, axis_name=axis_name)
        embeddings = jax.lax.stop_gradient(embeddings)
        cosines = cosine_logits(embeddings, embeddings)
        other = ~jnp.eye(len(labels), dtype=bool)
        same = (labels[:, None] == labels) & other
        nearest = jnp.argmax(jnp.where(other, cosines, -2.0), axis=-1)
        positive = jnp.sum(jnp.where(same, cosines, 0.0), axis=-1) / jnp.maximum(
            jnp.sum(same, axis=-1), 1
        )
        return Outcome(loss, labels[nearest] == labels, positive, state)

    def class_weights(self, params: Any, state: Any) -> None:
        """See `Objective`."""
        return None

    def expected_initial_loss(self, num_classes: int, embedding_size: int) -> float:
        """Simulated, for batches with four images of each of sixteen identities."""
        return simulated_loss(self, {}, min(num_classes, 16), embedding_size)


def simulated_loss(objective: Any, params: Any, num_classes: int, embedding_size: int) -> float:
    """The mean loss of 64 independent standard normal embeddings, labelled in turn."""
    embeddings = jax.random.normal(jax.random.key(1), (64, embedding_size))
    labels = jnp.arange(64) % num_classes
    state = objective.init_state(jax.random.key(2), num_classes, embedding_size)
    now = Moment(jnp.zeros((), jnp.int32), jax.random.key(3), jnp.zeros(()))
    return float(jnp.mean(objective.evaluate(params, state, embeddings, labels, now).loss))


def plain_softmax(label_smoothing: float) -> DenseLoss:
    """The paper's baseline: a dense layer with bias, no sphere, no margin."""

    def loss(
        params: Any, state: Any, embeddings: jax.Array, labels: jax.Array, axis_name: str | None
    ) -> Any:
        weights, bias = params["class_weights"], params["bias"]
        return softmax_loss(
            embeddings, weights, bias, labels, label_smoothing=label_smoothing
        ), state

    return DenseLoss(
        "w·x + b, nothing normalised",
        loss,
        bias=lambda classes: jnp.zeros(classes),
        by_dot_product=True,
    )


def curricularface(scale: float) -> DenseLoss:
    """CurricularFace with the authors' margin."""

    def loss(
        params: Any, state: Any, embeddings: jax.Array, labels: jax.Array, axis_name: str | None
    ) -> Any:
        losses, new = curricularface_loss(
            embeddings,
            params["class_weights"],
            labels,
            state["curricularface"],
            scale=scale,
            axis_name=axis_name,
        )
        return losses, {"curricularface": new}

    formula = f"{scale:g}·cos(θ + 0.5), hard wrong classes {scale:g}·cosθ(t + cosθ)"
    return DenseLoss(formula, loss, lambda: {"curricularface": curricularface_init()})


def combination(
    psi: Any, scale: float, label_smoothing: float, *, intra: float = 0.0, inter: float = 0.0
) -> DenseLoss:
    """The paper's Intra and Inter losses: penalties beside a softmax on the sphere."""
    if not intra and not inter:
        raise InputError("intra and inter are both 0; give one of them a weight")

    def loss(
        params: Any, state: Any, embeddings: jax.Array, labels: jax.Array, axis_name: str | None
    ) -> Any:
        losses = combination_loss(
            embeddings,
            params["class_weights"],
            labels,
            psi=psi,
            scale=scale,
            label_smoothing=label_smoothing,
            intra_weight=intra,
            inter_weight=inter,
        )
        return losses, state

    penalty = "θ/π" if intra else "the mean of −θ(W, W′)/π"
    return DenseLoss(f"{scale:g}·cos(θ), plus {penalty}", loss)


def sphereface2(scale: float) -> DenseLoss:
    """SphereFace2, additive-cosine form, with a learnt bias."""

    def loss(
        params: Any, state: Any, embeddings: jax.Array, labels: jax.Array, axis_name: str | None
    ) -> Any:
        weights, bias = params["class_weights"], params["bias"]
        return sphereface2_loss(embeddings, weights, labels, bias, scale=scale), state

    formula = f"one binary classifier a class, {scale:g}·(2((cosθ + 1)/2)³ − 1 ∓ 0.4)"
    return DenseLoss(formula, loss, bias=lambda classes: sphereface2_bias(classes, scale=scale))


def uniface(scale: float) -> DenseLoss:
    """UniFace's unified cross-entropy with the margin cosface(0.4), with a learnt bias."""

    def loss(
        params: Any, state: Any, embeddings: jax.Array, labels: jax.Array, axis_name: str | None
    ) -> Any:
        return uniface_loss(
            embeddings, params["class_weights"], labels, params["bias"], scale=scale
        ), state

    return DenseLoss(
        f"one threshold for all pairs, {scale:g}·(cosθ − 0.4)", loss, bias=uniface_bias
    )
