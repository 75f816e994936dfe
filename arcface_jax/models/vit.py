"""The vision transformers of arcface_torch: 9×9 pixel patches, no class token, all tokens in the
embedding.

References: Dosovitskiy et al., An Image is Worth 16×16 Words (arXiv:2010.11929); Huang et
al., Deep Networks with Stochastic Depth (arXiv:1603.09382); insightface, recognition/arcface_torch.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from arcface_jax.errors import InputError
from arcface_jax.models.layers import (
    Backbone,
    Dtype,
    LayerType,
    bias_apart,
    torch_start,
    wide_product,
)

# Variances are of the centred values: E[x²] − E[x]² loses digits where a token has an outlier.
_layer_norm = functools.partial(nn.LayerNorm, epsilon=1e-5, use_fast_variance=False)


class Attention(nn.Module):
    """softmax(q kᵀ/√d) v in `heads` subspaces, the softmax in float32."""

    dense: LayerType
    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens [N, T, C] to [N, T, C]."""
        batch, tokens, channels = x.shape
        qkv = self.dense(3 * channels, use_bias=False, name="qkv")(x)
        q, k, v = jnp.moveaxis(
            qkv.reshape(batch, tokens, 3, self.heads, channels // self.heads), 2, 0
        )
        scores = wide_product("nqhd,nkhd->nhqk", q, k)
        weights = nn.softmax(scores * (channels // self.heads) ** -0.5, axis=-1).astype(v.dtype)
        mixed = jnp.einsum("nhqk,nkhd->nqhd", weights, v).reshape(batch, tokens, channels)
        return self.dense(channels, name="proj")(mixed)


class Block(nn.Module):
    """x + attention(LN x), then x + MLP(LN x) with ReLU6; training drops branches at random."""

    dense: LayerType
    heads: int
    drop_path: float
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps tokens [N, T, C] to [N, T, C]; the sum stays in the type of x."""
        channels = x.shape[-1]
        # One decision for each example and branch: the mask is broadcast over tokens and channels.
        drop = nn.Dropout(self.drop_path, broadcast_dims=(1, 2), deterministic=not train)
        y = _layer_norm(dtype=self.dtype, name="norm1")(x)
        x = x + drop(Attention(self.dense, self.heads, name="attn")(y))
        y = _layer_norm(dtype=self.dtype, name="norm2")(x)
        y = nn.relu6(self.dense(4 * channels, name="fc1")(y).astype(self.dtype))
        return x + drop(self.dense(channels, name="fc2")(y))


class VisionTransformer(Backbone):
    """Patches – positions – blocks – LN – all tokens side by side – FC – BN – FC – BN.

    In training a share of the tokens skips the blocks; a learnt token replaces them before the
    first FC.

    Dense layers and positions start as N(0, .02²) cut off at two standard deviations, patch kernels
    as N(0, 1/fan_in). With initial_weights="arcface_torch" there is no cut-off, and the patches'
    kernel and bias are uniform in ±1/√fan_in.

    It also has the settings of every `Backbone`.

    Attributes:
      channels: of a token, C, at the published width; made a multiple of `heads`.
      depth: blocks.
      heads: of attention.
      embedding_size: D, 512 as published.
      patch: side of a patch in pixels; a remainder at the right and bottom edge is ignored.
      width: 64 is the published size; C scales with it.
      drop_path: probability of leaving out a branch of the last block; it rises linearly from 0.
      mask_ratio: share of the tokens that training leaves out.
      epsilon: of the two batch normalisations.
    """

    channels: int
    depth: int
    heads: int = 8
    embedding_size: int = 512
    patch: int = 9
    width: int = 64
    _: dataclasses.KW_ONLY
    drop_path: float = 0.1
    mask_ratio: float = 0.1
    epsilon: float = 2e-5

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Embeds `images` [N, height, width, 3]; returns float32 [N, embedding_size].

        Training with drop_path, mask_ratio or dropout above 0 needs a `dropout` key.
        """
        batch, height, width, _ = images.shape
        if min(height, width) < self.patch:
            raise InputError(
                f"image size {height}×{width} is smaller than a patch of {self.patch}×{self.patch}"
            )
        channels = max(1, self.channels * self.width // (64 * self.heads)) * self.heads
        from_torch = self.initial_weights == "arcface_torch"
        init = (nn.initializers.normal if from_torch else nn.initializers.truncated_normal)(0.02)
        lecun = {"kernel_init": nn.initializers.lecun_normal()}
        patches = nn.Conv(
            channels,
            (self.patch, self.patch),
            self.patch,
            padding="VALID",
            dtype=self.dtype,
            promote_dtype=bias_apart,
            name="patch_embed",
            **(torch_start(3 * self.patch**2) if from_torch else lecun),
        )(images.astype(self.dtype))
        x = patches.reshape(batch, -1, channels).astype(jnp.float32)
        x = x + self.param("pos_embed", init, (1, x.shape[1], channels), jnp.float32)
        mask_token = self.param(
            "mask_token", nn.initializers.normal(0.02), (1, 1, channels), jnp.float32
        )
        tokens, order = x.shape[1], None
        if train and self.mask_ratio > 0:
            noise = jax.random.uniform(self.make_rng("dropout"), (batch, tokens))
            order = jnp.argsort(noise, axis=1)[:, :, None]
            x = jnp.take_along_axis(x, order[:, : int(tokens * (1 - self.mask_ratio))], axis=1)
        block_type = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        in_blocks = functools.partial(
            nn.Dense, kernel_init=init, dtype=self.dtype, promote_dtype=bias_apart
        )
        last = functools.partial(self.embedding_layer(), use_bias=False, kernel_init=init)
        for number in range(self.depth):
            rate = self.drop_path * number / max(1, self.depth - 1)
            block = block_type(in_blocks, self.heads, rate, self.dtype, name=f"blocks_{number}")
            x = block(x, train)
        x = _layer_norm(dtype=jnp.float32, name="norm")(x)
        if order is not None:
            left_out = jnp.broadcast_to(mask_token, (batch, tokens - x.shape[1], channels))
            x = jnp.take_along_axis(
                jnp.concatenate([x, left_out], axis=1), jnp.argsort(order, axis=1), axis=1
            )
        x = nn.Dropout(self.dropout, deterministic=not train)(x.reshape(batch, -1))
        norm = functools.partial(self.norm(train), dtype=jnp.float32)
        x = norm(name="feature_bn1")(last(channels, name="feature_fc1")(x))
        x = last(self.embedding_size, name="feature_fc2")(x)
        return norm(name="feature_bn2")(x)
