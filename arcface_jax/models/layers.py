"""Layers that the backbones share and Flax does not have as the papers use them."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Dtype = Any

FROZEN_SCALE = "frozen_scale"
"""Name of the one parameter that no optimiser may touch, weight decay included."""

# Batch normalisation follows every convolution, so only the ratio between a kernel's
# scale and its gradient matters; fan-out He initialisation is what the paper's code uses.
conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class PReLU(nn.Module):
    """max(x, 0) + a·min(x, 0) with one learnt slope a for each channel, .25 at first.

    References: He et al., Delving Deep into Rectifiers (arXiv:1502.01852).
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the activation to x [..., channels]."""
        slope = self.param("slope", nn.initializers.constant(0.25), (x.shape[-1],), jnp.float32)
        return jnp.where(x >= 0, x, x * slope.astype(self.dtype))


def batch_norm(
    train: bool, *, dtype: Dtype, epsilon: float, axis_name: str | None = None, affine: bool = True
) -> Callable[..., nn.BatchNorm]:
    """Batch normalisation as every backbone here uses it: running momentum .9, statistics in float32."""

    def make(name: str) -> nn.BatchNorm:
        return nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=epsilon,
            dtype=dtype,
            axis_name=axis_name if train else None,
            use_scale=affine,
            use_bias=affine,
            name=name,
        )

    return make


class EmbeddingBatchNorm(nn.Module):
    """The batch normalisation that ends a backbone: its scale is a parameter frozen at 1.

    A learnt scale would let the network weigh embedding dimensions after the
    features were whitened; published models freeze it, but store and count it.
    """

    epsilon: float
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalises x [N, D] over the batch, in float32."""
        norm = batch_norm(train, dtype=jnp.float32, epsilon=self.epsilon, axis_name=self.axis_name, affine=False)
        scale = self.param(FROZEN_SCALE, nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return norm("norm")(x) * jax.lax.stop_gradient(scale) + bias
