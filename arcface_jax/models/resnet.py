"""The thin residual networks for 32×32 images; the classifier's input is the embedding.

References: He et al., Deep Residual Learning (arXiv:1512.03385), §4.2.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from arcface_jax.models.layers import Backbone, LayerType

DEPTHS = (20, 32, 44, 56, 110)
"""The published depths, 6n + 2 with n blocks in each of the three stages."""


class BasicBlock(nn.Module):
    """ReLU(conv3×3 (strided) – BN – ReLU – conv3×3 – BN, plus x); x is subsampled and zero-padded
    if the block widens.
    """

    conv: LayerType
    norm: LayerType
    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, channels] to [N, ⌈H/stride⌉, ⌈W/stride⌉, features]."""
        conv = functools.partial(self.conv, self.features, (3, 3), padding=1)
        y = nn.relu(self.norm(name="bn1")(conv(strides=self.stride, name="conv1")(x)))
        y = self.norm(name="bn2")(conv(name="conv2")(y))
        x = x[:, :: self.stride, :: self.stride]
        return nn.relu(jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.features - x.shape[-1]))) + y)


class ResNet(Backbone):
    """conv3×3 – BN – ReLU – three stages of width, 2·width, 4·width – global pooling – FC – BN.

    It also has the settings of every `Backbone`.

    Attributes:
      blocks: per stage; the depth is 6·blocks + 2.
      embedding_size: D.
      width: 64 is the published size, with stages of 16, 32 and 64 channels; other widths scale
        them.
    """

    blocks: int
    embedding_size: int = 64
    width: int = 64

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Embeds `images` [N, height, width, 3], any size; returns float32 [N, embedding_size]."""
        first = max(1, self.width // 4)
        conv, norm = self.conv(), self.norm(train)
        x = conv(first, (3, 3), padding=1, name="conv1")(images.astype(self.dtype))
        x = nn.relu(norm(name="bn1")(x))
        block_type = nn.remat(BasicBlock) if self.remat else BasicBlock
        for stage in range(3):
            for block in range(self.blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"layer{stage + 1}_{block}"
                x = block_type(conv, norm, first * 2**stage, stride, name=name)(x)
        x = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = self.embedding_layer()(self.embedding_size, name="fc")(x)
        return self.embedding_norm()(x, train)
