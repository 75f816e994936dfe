"""The vision transformers of arcface_torch: patches of 9×9 pixels, no class token, every token in
the embedding.

References: Dosovitskiy et al., An Image is Worth 16×16 Words (arXiv:2010.11929); Huang et
al., Deep Networks with Stochastic Depth (arXiv:1603.09382); insightface, recognition/arcface_torch.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from arcface_jax.errors import InputError
from arcface_jax.models.layers import Dtype, batch_norm, rematerialised

# Variances are of the centred values: E[x²] − E[x]² loses digits where a token has an outlier.
_layer_norm = functools.partial(nn.LayerNorm, epsilon=1e-5, use_fast_variance=False)
_token_init = nn.initializers.truncated_normal(0.02)


class Attention(nn.Module):
    """softmax(q kᵀ/√d) v in `heads` subspaces, the softmax in float32."""

    heads: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens [N, T, C] to [N, T, C]."""
        batch, tokens, channels = x.shape
        qkv = nn.Dense(
            3 * channels, use_bias=False, dtype=self.dtype, kernel_init=_token_init, name="qkv"
        )(x)
        q, k, v = jnp.moveaxis(
            qkv.reshape(batch, tokens, 3, self.heads, channels // self.heads), 2, 0
        )
        scores = jnp.einsum("nqhd,nkhd->nhqk", q, k, preferred_element_type=jnp.float32)
        weights = nn.softmax(scores * (channels // self.heads) ** -0.5, axis=-1).astype(self.dtype)
        mixed = jnp.einsum("nhqk,nkhd->nqhd", weights, v).reshape(batch, tokens, channels)
        return nn.Dense(channels, dtype=self.dtype, kernel_init=_token_init, name="proj")(mixed)


class Block(nn.Module):
    """x + attention(LN x), then x + MLP(LN x) with ReLU6; each branch left out at random in
    training.
    """

    heads: int
    drop_path: float
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps tokens [N, T, C] to [N, T, C]; the sum stays in the type of x."""
        channels = x.shape[-1]
        # One decision for each example and branch: the mask is broadcast over tokens and channels.
        drop = nn.Dropout(self.drop_path, broadcast_dims=(1, 2), deterministic=not train)
        x = x + drop(
            Attention(self.heads, self.dtype, name="attn")(
                _layer_norm(dtype=self.dtype, name="norm1")(x)
            )
        )
        y = _layer_norm(dtype=self.dtype, name="norm2")(x)
        y = nn.Dense(4 * channels, dtype=self.dtype, kernel_init=_token_init, name="fc1")(y)
        y = nn.Dense(channels, dtype=self.dtype, kernel_init=_token_init, name="fc2")(nn.relu6(y))
        return x + drop(y)


class VisionTransformer(nn.Module):
    """Patches – positions – blocks – LN – all tokens side by side – FC – BN – FC – BN.

    In training a share of the tokens is left out of the blocks and comes back as
    a learnt token before the first FC.

    Attributes:
      channels: of a token, C.
      depth: blocks.
      heads: of attention; C is a multiple of it.
      embedding_size: D, 512 as published.
      patch: side of a patch in pixels; what is left at the right and bottom edge is not seen.
      drop_path: probability of leaving out a branch of the last block; it rises linearly from 0.
      mask_ratio: share of the tokens that training leaves out.
      dropout: rate before the first FC.
      epsilon: of the two batch normalisations.
      dtype: of the computation; parameters, statistics, the sum of the branches and the embedding
        stay float32.
      axis_name: mapped axis over which batch statistics are averaged, or None.
      remat: compute each block again for its gradient, instead of keeping what it computed.
    """

    channels: int
    depth: int
    heads: int = 8
    embedding_size: int = 512
    patch: int = 9
    drop_path: float = 0.1
    mask_ratio: float = 0.1
    dropout: float = 0.0
    epsilon: float = 2e-5
    dtype: Dtype = jnp.float32
    axis_name: str | None = None
    remat: bool = False

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
        patches = nn.Conv(
            self.channels,
            (self.patch, self.patch),
            self.patch,
            padding="VALID",
            dtype=self.dtype,
            kernel_init=nn.initializers.lecun_normal(),
            name="patch_embed",
        )(images.astype(self.dtype))
        x = patches.reshape(batch, -1, self.channels).astype(jnp.float32)
        x = x + self.param("pos_embed", _token_init, (1, x.shape[1], self.channels), jnp.float32)
        mask_token = self.param(
            "mask_token", nn.initializers.normal(0.02), (1, 1, self.channels), jnp.float32
        )
        tokens, order = x.shape[1], None
        if train and self.mask_ratio > 0:
            noise = jax.random.uniform(self.make_rng("dropout"), (batch, tokens))
            order = jnp.argsort(noise, axis=1)[:, :, None]
            x = jnp.take_along_axis(x, order[:, : int(tokens * (1 - self.mask_ratio))], axis=1)
        block_type = rematerialised(Block, self.remat)
        for number in range(self.depth):
            rate = self.drop_path * number / max(1, self.depth - 1)
            x = block_type(self.heads, rate, self.dtype, name=f"blocks_{number}")(x, train)
        x = _layer_norm(dtype=jnp.float32, name="norm")(x)
        if order is not None:
            left_out = jnp.broadcast_to(mask_token, (batch, tokens - x.shape[1], self.channels))
            x = jnp.take_along_axis(
                jnp.concatenate([x, left_out], axis=1), jnp.argsort(order, axis=1), axis=1
            )
        x = nn.Dropout(self.dropout, deterministic=not train)(x.reshape(batch, -1))
        norm = batch_norm(train, dtype=jnp.float32, epsilon=self.epsilon, axis_name=self.axis_name)
        x = nn.Dense(self.channels, use_bias=False, kernel_init=_token_init, name="feature_fc1")(x)
        x = norm("feature_bn1")(x)
        x = nn.Dense(
            self.embedding_size, use_bias=False, kernel_init=_token_init, name="feature_fc2"
        )(x)
        return norm("feature_bn2")(x)
