"""ArcFace with its own value and another slope: which part of its gradient does what.

Each keeps psi(cos θ) = cos(θ + m) and changes dpsi/dcos θ = sin(θ + m)/sin θ. That is below 1 for
angles above 90° − m/2, where a run begins, and above 1 for smaller ones, where it ends.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from arcface_jax.cosine import normalise_rows
from arcface_jax.losses import ArcFace, Context, LossOutput
from arcface_jax.losses.loss import AT_START
from arcface_jax.margins import Psi, straight_through

_constant = jax.lax.stop_gradient


def slope_of(psi: Psi, cosine: jax.Array) -> jax.Array:
    """dpsi/dcos θ, the shape of `cosine`."""
    return jax.jvp(psi, (cosine,), (jnp.ones_like(cosine),))[1]


def with_slope(psi: Psi, rule: Callable[[jax.Array], Any]) -> Psi:
    """The values of psi, with rule(its slope) for a slope."""

    def changed(cosine: jax.Array) -> jax.Array:
        slope = _constant(rule(slope_of(psi, cosine)))
        return straight_through(slope * cosine, psi(cosine))

    return changed


@dataclasses.dataclass(frozen=True)
class AtMostOne(ArcFace):
    """min(slope, 1): no pull to the own class beyond the push from the others."""

    def psi(self, context: Context) -> Psi:
        """The margin with the changed slope."""
        return with_slope(super().psi(context), lambda slope: jnp.minimum(slope, 1.0))


@dataclasses.dataclass(frozen=True)
class AtLeastOne(ArcFace):
    """max(slope, 1): never less pull to the own class than push from the others."""

    def psi(self, context: Context) -> Psi:
        """The margin with the changed slope."""
        return with_slope(super().psi(context), lambda slope: jnp.maximum(slope, 1.0))


@dataclasses.dataclass(frozen=True)
class ZeroSum(ArcFace):
    """Exact, less the mean over the classes of dL/dcos θ_j, so that these add up to zero.

    They add up to s(1 − p)(1 − slope), so what is subtracted is the gradient of that times
    x·mean_j W_j, both unit rows. The value stays.
    """

    def __call__(
        self,
        params: dict[str, Any],
        state: dict[str, Any],
        embeddings: jax.Array,
        labels: jax.Array,
        context: Context = AT_START,
        **over: Any,
    ) -> LossOutput:
        """The dense head's output, with that gradient."""
        out = super().__call__(params, state, embeddings, labels, context, **over)
        slope = slope_of(self.psi(context), out.target_cosine)
        push = _constant(self.scale * (1.0 - jnp.exp(-out.loss)) * (1.0 - slope))
        mean = jnp.mean(normalise_rows(params["class_weights"]), axis=0)
        shared = normalise_rows(embeddings) @ mean
        return out._replace(loss=out.loss - push * (shared - _constant(shared)))


@dataclasses.dataclass(frozen=True)
class Balanced(ArcFace):
    """The slope on all classes: pull and push of an example are both as strong as its slope says,
    which is the straight-through gradient times the slope. The value stays.
    """

    def __call__(
        self,
        params: dict[str, Any],
        state: dict[str, Any],
        embeddings: jax.Array,
        labels: jax.Array,
        context: Context = AT_START,
        **over: Any,
    ) -> LossOutput:
        """The output, with that gradient."""
        plain = dataclasses.replace(self, gradient="straight_through")
        out = ArcFace.__call__(plain, params, state, embeddings, labels, context, **over)
        slope = _constant(slope_of(self.psi(context), out.target_cosine))
        return out._replace(loss=slope * out.loss + _constant((1.0 - slope) * out.loss))
