"""The margin softmax as a head: every rule for the margin, every way to go over the classes."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from arcface_jax.heads import (
    HeadState,
    RowSgd,
    chunked_margin_softmax_loss,
    fused_head_step,
    init_head,
    sample_classes,
    sampled_margin_softmax_loss,
    shard_classes,
    sharded_margin_softmax_loss,
)
from arcface_jax.heads.chunks import load
from arcface_jax.heads.nearest import nearest_class
from arcface_jax.logits import cosine_logits, normalise_rows
from arcface_jax.losses import expected_initial_loss, margin_softmax_loss
from arcface_jax.training.config import HeadConfig
from arcface_jax.training.margin_rules import MarginRule, largest_of_normals, typical_margin
from arcface_jax.training.objective import DifferentiableHead, Gradients, Moment, Outcome

_LOOKED_AT = 32
"""Examples of each device that accuracy and θ are measured on where the classes are too many
for all logits.
"""


def random_class_weights(
    key: jax.Array, num_classes: int, embedding_size: int, *, sub_centers: int = 1, shards: int = 1
) -> jax.Array:
    """[C, D], or [C, K, D] for K > 1 sub-centres, laid out for so many shards; the same classes for
    any number.

    Rows are normalised in the loss, so their length sets only how fast they turn; .01 is
    arcface_torch's.
    """
    shape = (
        (num_classes, embedding_size)
        if sub_centers == 1
        else (num_classes, sub_centers, embedding_size)
    )
    rows = 0.01 * jax.random.normal(key, shape, jnp.float32)
    return rows if shards == 1 else shard_classes(rows, shards).reshape(-1, *shape[1:])


@dataclasses.dataclass(frozen=True)
class MarginSoftmax(DifferentiableHead):
    """Softmax cross-entropy of s·cosines, with a margin on the true class.

    Attributes:
      rule: where the margins come from.
      scale: s.
      head: how to go over the classes.
      num_classes: C; the sharded head and sampling need it.
      sub_centers: K.
      label_smoothing: ε.
      filter_threshold: see `margin_softmax_loss`.
    """

    rule: MarginRule
    scale: float
    head: HeadConfig = HeadConfig()  # noqa: RUF009 (frozen)
    num_classes: int | None = None
    sub_centers: int = 1
    label_smoothing: float = 0.0
    filter_threshold: float | None = None

    def __str__(self) -> str:
        """The target logit as a formula, for people."""
        centres = f", {self.sub_centers} sub-centres" if self.sub_centers > 1 else ""
        return f"{self.scale:g}·{self.rule}{centres}"

    @property
    def splits_classes(self) -> bool:
        """Whether the head is sharded."""
        return self.head.kind == "sharded"

    def init(
        self, key: jax.Array, num_classes: int, embedding_size: int, shards: int = 1
    ) -> dict[str, Any]:
        """{"class_weights": [C, D]}."""
        weights = random_class_weights(
            key, num_classes, embedding_size, sub_centers=self.sub_centers, shards=shards
        )
        return {"class_weights": weights}

    def init_state(
        self, key: jax.Array, num_classes: int, embedding_size: int, shards: int = 1
    ) -> dict[str, Any]:
        """The rule's."""
        return self.rule.init()

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
        weights = params["class_weights"]
        margin = self.rule(embeddings, labels, state, moment, axis_name)
        loss = self._softmax(axis_name, labels, moment)(embeddings, weights, labels, psi=margin.psi)
        return Outcome(
            loss + margin.penalty, *self.look(weights, embeddings, labels, axis_name), margin.state
        )

    def _softmax(self, axis_name: str | None, labels: jax.Array, moment: Moment) -> Any:
        """The loss function of (embeddings, class_weights, labels, psi=…)."""
        head, common = self.head, self.loss_options
        if head.kind == "dense":
            return functools.partial(margin_softmax_loss, **common)
        if head.sample_rate < 1.0:
            split = self.class_axis(axis_name)
            sample = sample_classes(moment.key, labels, rate=head.sample_rate, **split)
            return lambda e, w, y, psi: sampled_margin_softmax_loss(
                e, w, y, sample, psi=psi, chunk=head.chunk, **split, **common
            )
        if head.kind == "chunked":
            return functools.partial(chunked_margin_softmax_loss, chunk=head.chunk, **common)
        return functools.partial(
            sharded_margin_softmax_loss, chunk=head.chunk, **self.class_axis(axis_name), **common
        )

    @property
    def loss_options(self) -> dict[str, Any]:
        """What every margin softmax takes besides its margin."""
        return {
            "scale": self.scale,
            "label_smoothing": self.label_smoothing,
            "filter_threshold": self.filter_threshold,
        }

    def class_axis(self, axis_name: str | None) -> dict[str, Any]:
        """Over what the classes are split, as the functions of `arcface_jax.heads` take it."""
        return {
            "axis_name": axis_name if self.splits_classes else None,
            "num_classes": self.num_classes,
        }

    def look(
        self, weights: jax.Array, embeddings: jax.Array, labels: jax.Array, axis_name: str | None
    ) -> tuple[jax.Array, jax.Array]:
        """(hits, target cosines) of an `Outcome`; no gradient."""
        weights, embeddings = jax.lax.stop_gradient((weights, embeddings))
        if self.head.kind == "dense":
            cosines = cosine_logits(embeddings, weights)
            own = jnp.take_along_axis(cosines, labels[:, None], axis=1, mode="clip")[:, 0]
            return jnp.argmax(cosines, axis=-1) == labels, own
        embeddings, labels = embeddings[:_LOOKED_AT], labels[:_LOOKED_AT]
        found = nearest_class(
            embeddings, weights, labels, chunk=self.head.chunk, **self.class_axis(axis_name)
        )
        return found.label == labels, found.own_cosine

    def class_weights(self, params: Any, state: Any) -> jax.Array:
        """See `Objective`."""
        weights: jax.Array = params["class_weights"]
        return weights

    def expected_initial_loss(self, num_classes: int, embedding_size: int) -> float:
        """See `arcface_jax.losses.expected_initial_loss`; for K sub-centres all cosines are the
        largest of K.
        """
        mean, variance = largest_of_normals(self.sub_centers)
        cosine = mean / embedding_size**0.5
        psi, penalty = typical_margin(self.rule, cosine, embedding_size)
        seen = self.num_classes_in_softmax(num_classes)
        loss = float(
            expected_initial_loss(
                seen, lambda _: jnp.asarray(psi - cosine), self.scale, embedding_size
            )
        )
        wider = self.scale**2 * (variance - 1.0) / (2 * embedding_size)
        return loss + wider + self.label_smoothing * self.scale * (psi - cosine) + penalty

    def num_classes_in_softmax(self, num_classes: int) -> int:
        """C, or about so many of a sample."""
        return max(1, round(self.head.sample_rate * num_classes))


@dataclasses.dataclass(frozen=True)
class FusedMarginSoftmax:
    """A margin softmax that updates its class weights itself, by SGD, without ever storing their
    gradient.

    Attributes:
      softmax: what it computes.
      optimiser: of the rows.
    """

    softmax: MarginSoftmax
    optimiser: RowSgd

    def __str__(self) -> str:
        """As the softmax's."""
        return f"{self.softmax}, fused with its update"

    @property
    def splits_classes(self) -> bool:
        """Whether the head is sharded."""
        return self.softmax.splits_classes

    def init(
        self, key: jax.Array, num_classes: int, embedding_size: int, shards: int = 1
    ) -> dict[str, Any]:
        """Nothing is left for the optimiser."""
        return {}

    def init_state(
        self, key: jax.Array, num_classes: int, embedding_size: int, shards: int = 1
    ) -> dict[str, Any]:
        """{"rows": `HeadState`} and the rule's."""
        weights = self.softmax.init(key, num_classes, embedding_size, shards)["class_weights"]
        head = init_head(weights, self.optimiser, dtype=jnp.dtype(self.softmax.head.dtype))
        return {"rows": head, **self.softmax.rule.init()}

    def gradients(
        self,
        params: Any,
        state: Any,
        embeddings: jax.Array,
        labels: jax.Array,
        moment: Moment,
        axis_name: str | None = None,
    ) -> tuple[Outcome, Gradients]:
        """See `Objective`; embeddings that are not finite leave the rows untouched."""
        softmax, config = self.softmax, self.softmax.head
        rows: HeadState = state["rows"]
        rule_state = {name: part for name, part in state.items() if name != "rows"}
        margin = softmax.rule(embeddings, labels, rule_state, moment, axis_name)
        hits, target_cosine = softmax.look(load(rows.weights), embeddings, labels, axis_name)
        split = softmax.class_axis(axis_name)
        sample_key, rounding_key = jax.random.split(moment.key)
        sample = None
        if config.sample_rate < 1.0:
            sample = sample_classes(sample_key, labels, rate=config.sample_rate, **split)

        def update(rows: HeadState) -> tuple[HeadState, jax.Array, jax.Array]:
            step = fused_head_step(
                rows,
                embeddings,
                labels,
                moment.learning_rate,
                optimiser=self.optimiser,
                psi=margin.psi,
                chunk=config.chunk,
                rounding_key=rounding_key if config.dtype == "bfloat16" else None,
                sample=sample,
                update_unsampled=config.unsampled == "update",
                **softmax.loss_options,
                **split,
            )
            return step.state, step.loss, step.embedding_gradients

        def leave(rows: HeadState) -> tuple[HeadState, jax.Array, jax.Array]:
            return (
                rows,
                jnp.full_like(embeddings[:, 0], jnp.nan),
                jnp.full_like(embeddings, jnp.nan),
            )

        # Of unit length, for long ones have no finite length: their rows would be NaN, and so would
        # all classes'.
        finite = jnp.all(jnp.isfinite(normalise_rows(embeddings.astype(jnp.float32))))
        shards = 1
        if axis_name is not None:
            finite = jax.lax.pmin(finite.astype(jnp.int32), axis_name) > 0
            shards = jax.lax.axis_size(axis_name)
        rows, loss, of_embeddings = jax.lax.cond(finite, update, leave, rows)
        # `fused_head_step` differentiates the mean over all devices; a `Gradients` is of this
        # device's mean.
        gradients = Gradients({}, of_embeddings * (shards if split["axis_name"] is not None else 1))
        return Outcome(loss, hits, target_cosine, {"rows": rows, **margin.state}), gradients

    def class_weights(self, params: Any, state: Any) -> jax.Array:
        """See `Objective`."""
        return load(state["rows"].weights)

    def expected_initial_loss(self, num_classes: int, embedding_size: int) -> float:
        """As the softmax's."""
        return self.softmax.expected_initial_loss(num_classes, embedding_size)
