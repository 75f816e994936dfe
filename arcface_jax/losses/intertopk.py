"""ArcFace with a penalty on the nearest wrong classes, as speaker verification has it."""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from arcface_jax.arguments import check_between
from arcface_jax.cosine import take_target
from arcface_jax.losses.arcface import ArcFace
from arcface_jax.losses.loss import AT_START, Context, LossOutput
from arcface_jax.losses.softmax import cosines_and_mask, margin_cross_entropy
from arcface_jax.margins import CombinedMargin


@dataclasses.dataclass(frozen=True)
class InterTopK(ArcFace, name="intertopk"):
    """s·cos(θ + m); the k nearest wrong classes have s·cos(θ_j − m′) (arXiv:2110.05042).

    With sub_centers 3 it is what WeSpeaker and its followers train AAM-softmax with. All logits are
    needed to find the nearest, so that only the dense head has it.
    """

    any_head: ClassVar[bool] = False

    margin: float = 0.2
    """m, radians, in [0, π]."""
    top_k: int = 5
    """k: how many wrong classes of each example are made harder; all where there are no more."""
    top_margin: float = 0.06
    """m′, radians, in [0, π]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_between("top_k", self.top_k, 1, math.inf)
        check_between("top_margin", self.top_margin, 0.0, math.pi)

    def formula(self) -> str:
        """The target logit over s, for people."""
        nearest = f"the {self.top_k} nearest wrong classes cos(θ − {self.top_margin:g})"
        return f"{super().formula()}, {nearest}"

    def __call__(
        self,
        params: dict[str, Any],
        state: dict[str, Any],
        embeddings: jax.Array,
        labels: jax.Array,
        context: Context = AT_START,
        **over: Any,
    ) -> LossOutput:
        """Losses from all logits."""
        weights = params["class_weights"]
        cosine, mask = cosines_and_mask(embeddings, weights, labels, context.precision)
        classes = cosine.shape[1]
        state, context = self.begin(state, embeddings, jnp.asarray(labels), context)
        wrong = jax.lax.stop_gradient(jnp.where(mask, -jnp.inf, cosine))
        nearest = jax.lax.top_k(wrong, max(1, min(self.top_k, classes - 1)))[0]
        harder = CombinedMargin(m2=-self.top_margin)(cosine)
        loss = margin_cross_entropy(
            jnp.where((wrong >= nearest[:, -1:]) & ~mask, harder, cosine),
            labels,
            psi=self.sized_psi(context, classes),
            scale=self.scale,
            label_smoothing=self.label_smoothing,
            filter_threshold=self.filter_threshold,
        )
        importance = self.example_weights(context, classes)
        loss = loss if importance is None else loss * importance
        target, valid = take_target(cosine, mask), jnp.any(mask, axis=-1)
        return LossOutput(loss, state, target, valid & (target > nearest[:, 0]))
