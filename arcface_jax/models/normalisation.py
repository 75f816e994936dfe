"""Batch normalisation and the PReLU after it, differentiated by hand; for training on a CPU.

XLA's CPU compiler writes x − μ and every product that is summed to memory, once for each sum. Here
the sums that a gradient needs are taken a few images at a time, while these are in cache, and
nothing of a batch's size is kept but x.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from arcface_jax.models.convolution import CACHE_BYTES


class Normalised(NamedTuple):
    """What `normalise_batch` returns.

    Attributes:
      output: [N, …, C].
      mean: [C], the batch's.
      variance: [C], the batch's.
    """

    output: jax.Array
    mean: jax.Array
    variance: jax.Array


@jax.custom_vjp
def normalise_batch(
    x: jax.Array, scale: jax.Array, bias: jax.Array, slope: jax.Array | None, epsilon: float
) -> Normalised:
    """y = scale · (x − μ) / √(σ² + ε) + bias, then max(y, 0) + slope · min(y, 0).

    μ and σ² = E[x²] − μ² are the batch's, for each channel; they are returned for the running
    statistics.

    Args:
      x: [N, …, C], float32.
      scale: [C].
      bias: [C].
      slope: [C], or None for no PReLU.
      epsilon: ε, not differentiated.
    """
    return _forward(x, scale, bias, slope, epsilon)[0]


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, slope: jax.Array | None, epsilon: float
) -> tuple[Normalised, tuple[Any, ...]]:
    mean = jnp.mean(x, axis=_all_but_last(x))
    variance = jnp.maximum(0.0, jnp.mean(x**2, axis=_all_but_last(x)) - mean**2)
    inverse = lax.rsqrt(variance + epsilon)
    y = (x - mean) * (inverse * scale) + bias
    output = y if slope is None else jnp.where(y >= 0, y, y * slope)
    return Normalised(output, mean, variance), (x, scale, bias, slope, mean, inverse)


def _backward(saved: tuple[Any, ...], gradients: Normalised) -> tuple[jax.Array | None, ...]:
    x, scale, bias, slope, mean, inverse = saved
    gradient = gradients.output

    def before_activation(
        x: jax.Array, gradient: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """x − μ, ∂L/∂y, and the example's part of ∂L/∂slope."""
        centred = x - mean
        if slope is None:
            return centred, gradient, jnp.zeros(())
        y = centred * (inverse * scale) + bias
        return (
            centred,
            jnp.where(y >= 0, gradient, gradient * slope),
            jnp.where(y >= 0, 0.0, gradient * y),
        )

    def sums(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        centred, through, to_slope = before_activation(x, gradient)
        axes = _all_but_last(x)
        slope_sum = jnp.zeros(()) if slope is None else jnp.sum(to_slope, axes)
        return jnp.sum(through, axes), jnp.sum(through * centred, axes), slope_sum

    to_bias, to_scale, to_slope = _sum_over_parts(sums, x, gradient)
    to_scale = to_scale * inverse
    centred, through, _ = before_activation(x, gradient)
    count = x.size // x.shape[-1]
    to_x = (through - to_bias / count - centred * (inverse * to_scale / count)) * (inverse * scale)
    to_x = to_x + (gradients.mean + 2.0 * centred * gradients.variance) / count
    return to_x, to_scale, to_bias, None if slope is None else to_slope, None


normalise_batch.defvjp(_forward, _backward)


def _all_but_last(x: jax.Array) -> tuple[int, ...]:
    return tuple(range(x.ndim - 1))


def _sum_over_parts(function: Any, x: jax.Array, gradient: jax.Array) -> Any:
    """Σ function(images of x, images of gradient), of as many images at a time as stay in cache."""
    images = x.shape[0]
    count = min(images, max(1, CACHE_BYTES * images // (2 * x.size * x.dtype.itemsize)))

    def part(start: jax.Array | int, size: int) -> Any:
        return function(*(lax.dynamic_slice_in_dim(array, start, size) for array in (x, gradient)))

    def add(total: Any, number: jax.Array) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, part(number * count, count)), None

    if count == images:
        return function(x, gradient)
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(lambda: part(0, count))
    )
    total = lax.scan(add, zeros, jnp.arange(images // count))[0]
    left = images % count
    return jax.tree.map(jnp.add, total, part(images - left, left)) if left else total
