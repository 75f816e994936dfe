"""The thin residual networks for 32×32 images, with an embedding for a classifier's input.

References: He et al., Deep Residual Learning (arXiv:1512.03385), §4.2.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from arcface_jax.models.layers import (
    Dtype,
    EmbeddingBatchNorm,
    batch_norm,
    convolution,
    rematerialised,
)

DEPTHS = (20, 32, 44, 56, 110)
"""The published depths, 6n + 2 with n blocks in each of the three stages."""


class BasicBlock(nn.Module):
    """ReLU(conv3×3 (strided) – BN – ReLU – conv3×3 – BN, plus x), x subsampled and zero-padded
    where it widens.
    """

    features: int
    stride: int
    dtype: Dtype
    epsilon: float
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [N, H, W, channels] to [N, ⌈H/stride⌉, ⌈W/stride⌉, features]."""
        norm = batch_norm(train, dtype=self.dtype, epsilon=self.epsilon, axis_name=self.axis_name)
        conv = functools.partial(convolution, self.features, (3, 3), train=train, dtype=self.dtype)
        y = nn.relu(norm("bn1")(conv(self.stride, name="conv1")(x)))
        y = norm("bn2")(conv(1, name="conv2")(y))
        x = x[:, :: self.stride, :: self.stride]
        return nn.relu(jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.features - x.shape[-1]))) + y)


class ResNet(nn.Module):
    """conv3×3 – BN – ReLU – three stages of width, 2·width, 4·width – global pooling – FC – BN.

    Attributes:
      blocks: in each stage; the depth is 6·blocks + 2.
      embedding_size: D.
      width: 64 is the published size, for which the stages have 16, 32 and 64 channels; others in
        proportion.
      dropout: rate before the FC.
      epsilon: of the batch normalisations.
      dtype: of the computation; parameters, statistics and the embedding stay float32.
      axis_name: mapped axis over which batch statistics are averaged, or None.
      remat: compute each block again for its gradient, instead of keeping what it computed.
    """

    blocks: int
    embedding_size: int = 64
    width: int = 64
    dropout: float = 0.0
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Embeds `images` [N, height, width, 3], any size; returns float32 [N, embedding_size]."""
        first = max(1, self.width // 4)
        norm = batch_norm(train, dtype=self.dtype, epsilon=self.epsilon, axis_name=self.axis_name)
        conv = convolution(first, (3, 3), 1, train=train, dtype=self.dtype, name="conv1")
        x = nn.relu(norm("bn1")(conv(images.astype(self.dtype))))
        block_type = rematerialised(BasicBlock, self.remat)
        for stage in range(3):
            for block in range(self.blocks):
                x = block_type(
                    first * 2**stage,
                    stride=2 if stage > 0 and block == 0 else 1,
                    dtype=self.dtype,
                    epsilon=self.epsilon,
                    axis_name=self.axis_name,
                    name=f"layer{stage + 1}_{block}",
                )(x, train)
        x = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = nn.Dense(self.embedding_size, dtype=jnp.float32, name="fc")(x)
        return EmbeddingBatchNorm(self.epsilon, self.axis_name, name="features")(x, train)
