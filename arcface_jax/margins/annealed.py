"""A margin that is brought in gradually, as SphereFace does."""

import dataclasses
import math
from typing import Any, Self

import jax
import jax.numpy as jnp

from arcface_jax.arguments import check_between
from arcface_jax.margins.combined import CombinedMargin, Psi, number


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True)
class AnnealedMargin:
    """psi(cosθ) = (λ·cosθ + inner(cosθ))/(1 + λ); make one with `annealed`."""

    inner: Psi
    weight: Any

    def __call__(self, cosine: jax.Array) -> jax.Array:
        """psi of each cosine, in the cosine's dtype."""
        cosine = jnp.asarray(cosine)
        return ((self.weight * cosine + self.inner(cosine)) / (1.0 + self.weight)).astype(
            cosine.dtype
        )

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Leaves: what of the inner psi and of the weight is arrays."""
        inner_is_tree = isinstance(self.inner, CombinedMargin | AnnealedMargin)
        weight_is_static = isinstance(self.weight, float)
        leaves = (self.inner if inner_is_tree else None, None if weight_is_static else self.weight)
        return leaves, (
            None if inner_is_tree else self.inner,
            self.weight if weight_is_static else None,
        )

    @classmethod
    def tree_unflatten(cls, static: tuple[Any, ...], leaves: tuple[Any, ...]) -> Self:
        """The inverse of `tree_flatten`."""
        inner, weight = (
            leaf if fixed is None else fixed for fixed, leaf in zip(static, leaves, strict=True)
        )
        return cls(inner, weight)


def annealed(inner: Psi, weight: Any) -> AnnealedMargin:
    """psi(cosθ) = (λ·cosθ + inner(cosθ))/(1 + λ): a margin that comes in as λ falls from large to
    small.

    Args:
      inner: any psi.
      weight: λ ≥ 0; a number, or a scalar array that changes from step to step without recompiling.

    Returns: psi.

    Raises:
      InputError: for λ below zero.

    References:
      Liu et al., SphereFace, arXiv:1704.08063, section 3.
    """
    check_between("weight", weight, 0.0, math.inf)
    return AnnealedMargin(inner, number(weight))


def sphereface_annealing(
    step: Any,
    *,
    base: float = 1000.0,
    gamma: float = 0.12,
    power: float = 1.0,
    minimum: float = 5.0,
) -> jax.Array:
    """λ at a step: max(minimum, base·(1 + gamma·step)^−power), with the values of SphereFace's
    published solver.

    Args:
      step: 0, 1, 2, …; a number or an array.
      base: λ at step 0.
      gamma: how fast it falls.
      power: of the fall.
      minimum: the λ it ends at.

    Returns: λ, an array like `step`.
    """
    return jnp.maximum(minimum, base * (1.0 + gamma * jnp.asarray(step)) ** -power)
