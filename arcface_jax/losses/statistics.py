"""Statistics of a batch, over every device that holds a part of it, and their running values."""

from typing import Any

import jax
import jax.numpy as jnp


def batch_statistics(
    values: jax.Array, valid: jax.Array, axis_name: Any = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Count, mean and standard deviation (with n − 1) of the valid values, the same on every
    device.

    Args:
      values: [N].
      valid: [N] booleans.
      axis_name: of the devices that hold the other parts of the batch, if any.

    Returns: (count, mean, standard deviation), scalars; 0 for a mean of nothing and a deviation of
      fewer than two.
    """

    def total(x: jax.Array) -> jax.Array:
        local = jnp.sum(jnp.where(valid, x, 0.0))
        return local if axis_name is None else jax.lax.psum(local, axis_name)

    count = total(jnp.ones_like(values))
    mean = total(values) / jnp.maximum(count, 1.0)
    variance = total((values - mean) ** 2) / jnp.maximum(count - 1.0, 1.0)
    return count, mean, jnp.sqrt(variance)


def moving_average(old: jax.Array, new: jax.Array, weight: float, usable: jax.Array) -> jax.Array:
    """weight·new + (1 − weight)·old where `usable`, old elsewhere; in `old`'s dtype, so that a
    scan can carry it.
    """
    old = jnp.asarray(old)
    return jnp.where(usable, weight * new + (1.0 - weight) * old, old).astype(old.dtype)
