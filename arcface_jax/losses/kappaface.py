"""KappaFace: a margin for each class, larger where its embeddings are scattered or few.

The paper keeps a memory of every image's embedding, and takes the length r of each class's mean of
them once an epoch. Here r is the running mean of cosθ_y, how far embeddings reach along their own
class's weight, which is close to their mean direction once a network has learnt something: a number
a class, up to date at every step, and the same on every device.

References:
  Oinar et al., KappaFace, arXiv:2201.07394, section III; m, T and the shares are those of the
  authors' configuration.
"""

import dataclasses
import math
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from arcface_jax.arguments import check_between
from arcface_jax.counts import number_of
from arcface_jax.errors import InputError
from arcface_jax.losses.loss import AT_START, Context, LossOutput
from arcface_jax.losses.softmax import MarginSoftmax
from arcface_jax.margins import CombinedMargin, arcface, class_wise

_LONGEST = 0.999  # of r: at 1, as after one image, κ is infinite


class KappaFaceState(NamedTuple):
    """Of each class, [C]: decayed sum of the target cosines, and of the weights they came with."""

    cosines: jax.Array
    weights: jax.Array


def vmf_concentration(length: jax.Array, dim: int) -> jax.Array:
    """κ = r·(d − r²)/(1 − r²) of a von Mises–Fisher distribution, from the length r of the mean of
    unit vectors in d dimensions.

    Args:
      length: r, any shape; clipped to [0, 0.999].
      dim: d.

    Returns: κ, an array like `length`.

    References:
      Banerjee et al., Clustering on the unit hypersphere, JMLR 2005, eq. 4.4.
    """
    r = jnp.clip(length, 0.0, _LONGEST)
    return r * (dim - r**2) / (1.0 - r**2)


def kappaface_factors(
    kappa: jax.Array,
    known: jax.Array,
    counts: jax.Array,
    *,
    temperature: float = 0.4,
    concentration_share: float = 0.7,
) -> jax.Array:
    """ψ_c = γ·(1 − σ(T·κ̃_c)) + (1 − γ)·(1 + cos(π·n_c/max n))/2, κ̃ being κ less its mean over the
    classes, over its deviation: what the margin of each class is multiplied by.

    Args:
      kappa: κ, [C].
      known: [C] booleans; where false κ̃ is 0, and the class counts in neither mean nor deviation.
      counts: n, images of each class, [C].
      temperature: T, in (0, 1].
      concentration_share: γ, in [0, 1].

    Returns: [C], in [0, 1].

    Raises:
      InputError: for a number out of range.
    """
    check_between("temperature", temperature, 0.0, 1.0, open_low=True)
    check_between("concentration_share", concentration_share, 0.0, 1.0)
    some = jnp.maximum(jnp.sum(known), 1)
    away = jnp.where(known, kappa - jnp.sum(jnp.where(known, kappa, 0.0)) / some, 0.0)
    variance = jnp.sum(away**2) / some
    away = away * jnp.where(variance > 0.0, jax.lax.rsqrt(jnp.maximum(variance, 1e-12)), 0.0)
    scattered = jax.nn.sigmoid(-temperature * away)
    few = 0.5 * (1.0 + jnp.cos(math.pi * counts / jnp.max(counts)))
    return concentration_share * scattered + (1.0 - concentration_share) * few


@dataclasses.dataclass(frozen=True)
class KappaFace(MarginSoftmax, name="kappaface"):
    """s·cos(θ + m·ψ_c), ψ by the concentration of class c and by its images (arXiv:2201.07394)."""

    needs_target: ClassVar[bool] = True

    margin: float = 0.8
    """m, radians, in [0, π]: the most that a class can have."""
    temperature: float = 0.4
    """T, in (0, 1]: how far apart concentrations set the margins."""
    concentration_share: float = 0.7
    """Share of ψ that follows the concentration; the rest follows the number of images."""
    decay: float = 0.9
    """Of the running mean of a class's target cosines, at each batch that has one."""
    gradient: Literal["exact", "straight_through"] = "exact"
    """exact: of the margin as written. straight_through: the margin counts as a constant
    (arcface_torch).
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        arcface(self.margin, gradient=self.gradient)
        check_between("decay", self.decay, 0.0, 1.0)
        check_between("temperature", self.temperature, 0.0, 1.0, open_low=True)
        check_between("concentration_share", self.concentration_share, 0.0, 1.0)

    def formula(self) -> str:
        """The target logit over s, for people."""
        rule = "" if self.gradient == "exact" else ", straight-through gradient"
        return f"cos(θ + {self.margin:g}·ψ), ψ larger for scattered or small classes{rule}"

    def init_state(self, num_classes: int) -> dict[str, Any]:
        """Nothing known of any class."""
        zeros = jnp.zeros(num_classes, jnp.float32)
        return {"kappaface": KappaFaceState(zeros, zeros)}

    def init(self) -> dict[str, Any]:
        """Raises InputError: a class each is needed."""
        raise InputError("KappaFace has a state of each class; start with init_state(num_classes)")

    def __call__(
        self,
        params: dict[str, Any],
        state: dict[str, Any],
        embeddings: jax.Array,
        labels: jax.Array,
        context: Context = AT_START,
        **over: Any,
    ) -> LossOutput:
        """The margin softmax, for a state of as many classes as there are."""
        classes = over.get("num_classes") or jnp.shape(params["class_weights"])[0]
        if (known := state["kappaface"].cosines.shape[0]) != classes:
            raise InputError(
                f"state is of {number_of(known, 'class')} and class_weights of {classes}; start "
                f"with init_state({classes})"
            )
        return super().__call__(params, state, embeddings, labels, context, **over)

    def advance(self, state: dict[str, Any], context: Context) -> dict[str, Any]:
        """With the target cosines of this batch."""
        old: KappaFaceState = state["kappaface"]
        target = context.target.astype(old.cosines.dtype)
        slot = jnp.where(context.labels < 0, old.cosines.shape[0], context.labels)
        each = jnp.stack([target, jnp.ones_like(target)], axis=1)
        sums = jnp.zeros((*old.cosines.shape, 2), target.dtype).at[slot].add(each, mode="drop")
        if context.axis_name is not None:
            sums = jax.lax.psum(sums, context.axis_name)
        total, count = sums[:, 0], sums[:, 1]
        share = jnp.where(count > 0, 1.0 - self.decay, 0.0)
        kept = jnp.where(count > 0, self.decay, 1.0)
        cosines = kept * old.cosines + share * total / jnp.maximum(count, 1.0)
        return {"kappaface": KappaFaceState(cosines, kept * old.weights + share)}

    def psi(self, context: Context) -> CombinedMargin:
        """By the classes of this batch."""
        state: KappaFaceState = context.state["kappaface"]
        known = state.weights > 0
        length = state.cosines / jnp.where(known, state.weights, 1.0)
        counts = jnp.ones_like(length) if context.class_counts is None else context.class_counts
        numbers = {
            "temperature": self.temperature,
            "concentration_share": self.concentration_share,
        }
        factors = kappaface_factors(
            vmf_concentration(length, context.dim), known, jnp.asarray(counts), **numbers
        )
        return arcface(class_wise(self.margin * factors, context.labels), gradient=self.gradient)
