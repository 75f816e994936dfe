"""Angles from cosines, with slopes that stay finite at cosθ = ±1."""

from typing import Any

import jax
import jax.numpy as jnp

SINE_GUARD = 1e-6


def guarded_sine(cosine: jax.Array, guard: float = SINE_GUARD) -> jax.Array:
    """sinθ = sqrt(1 − cos²θ + guard), whose slope −cosθ/sinθ stays finite (at most 1000) at cosθ =
    ±1.

    A cosine that rounding has carried outside [−1, 1] counts as ±1. 1 − cos² is formed as (1 −
    cos)(1 + cos), which does not cancel.

    Args:
      cosine: cosθ, any shape.
      guard: what is added under the root.

    Returns: an array like `cosine`.
    """
    square = (1.0 - cosine) * (1.0 + cosine)
    # `where` rather than `maximum`, which would halve the slope at exactly ±1.
    return jnp.sqrt(jnp.where(square < 0.0, 0.0, square) + guard)


def angle(cosine: jax.Array) -> jax.Array:
    """θ = atan2(sinθ, cosθ) with the guarded sine: arccos with a finite slope everywhere.

    It differs from arccos by at most 1e-3 rad, at θ = 0 and π, and by 5e-7/tanθ elsewhere.

    Args:
      cosine: cosθ, any shape.

    Returns: θ in radians, an array like `cosine`.
    """
    return jnp.arctan2(guarded_sine(cosine), cosine)


def multiple_angle(cosine: jax.Array, sine: jax.Array, factor: Any) -> tuple[jax.Array, jax.Array]:
    """(cos kθ, sin kθ): Chebyshev polynomials for a Python float k that is whole, the angle itself
    otherwise.

    Args:
      cosine: cosθ, any shape.
      sine: sinθ, the same shape.
      factor: k > 0; a number or an array that broadcasts.

    Returns: two arrays like `cosine`.
    """
    if isinstance(factor, float) and factor.is_integer():
        first: tuple[Any, Any] = (1.0, cosine)  # T_0, T_1
        second: tuple[Any, Any] = (0.0, 1.0)  # U_−1, U_0
        for _ in range(int(factor) - 1):
            first = (first[1], 2.0 * cosine * first[1] - first[0])
            second = (second[1], 2.0 * cosine * second[1] - second[0])
        return first[1], sine * second[1]
    theta = factor * jnp.arctan2(sine, cosine)
    return jnp.cos(theta), jnp.sin(theta)


@jax.custom_jvp
def straight_through(cosine: jax.Array, value: jax.Array) -> jax.Array:
    """`value`, with the derivative of `cosine`: value − cosine is treated as a constant.

    For a margin this makes the loss's slope dL/dcosθ_y = s·(p_y − 1), whatever the margin. Nothing
    flows to what `value` was made from.

    Args:
      cosine: any shape.
      value: the same shape and dtype.

    Returns: `value`.
    """
    del cosine
    return value


@straight_through.defjvp
def _straight_through_jvp(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Any, Any]:
    return primals[1], tangents[0]
