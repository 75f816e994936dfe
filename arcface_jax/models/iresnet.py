"""IResNet, the improved residual network that the ArcFace paper trains, and its variants.

References: Deng et al., ArcFace (arXiv:1801.07698), §3.1, and its first version (v1),
§3.2, for the input and output options; Duta et al., Improved Residual Networks
(arXiv:2004.04989).
"""

from collections.abc import Sequence
from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from arcface_jax.errors import InputError
from arcface_jax.models.layers import (
    Dtype,
    EmbeddingBatchNorm,
    PReLU,
    SqueezeExcite,
    batch_norm,
    convolution,
    flatten_channels_first,
    norm_prelu,
    rematerialised,
)

STAGE_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
    152: (3, 8, 36, 3),
    200: (6, 26, 60, 6),
}
"""Residual blocks in each of the four stages, by the network's published depth."""

Stem = Literal["conv3", "conv7"]
"""Input options. conv3: conv3×3 at full resolution (the paper's prefix L). conv7: conv7×7
stride 2, max pooling.
"""

Output = Literal["A", "B", "C", "D", "E"]
"""Output options: what stands between the last residual block and the embedding.

A: global pooling. B: pooling – FC. C: pooling – FC – BN. D: pooling – FC – BN – PReLU.
E: BN – dropout – FC – BN on the whole feature map, the paper's choice. Before the
pooling the trunk is closed by BN – PReLU, since its blocks end without either.
"""

Shortcut = Literal["projected", "subsampled"]
"""Where a block changes its shape. projected: conv1×1 – BN. subsampled: that only if the number of
channels changes, otherwise every stride-th pixel as it is.
"""


class IResNetBlock(nn.Module):
    """BN – conv3×3 – BN – PReLU – conv3×3 (strided) – BN – [squeeze and excitation], plus the
    shortcut.
    """

    features: int
    stride: int
    dtype: Dtype
    epsilon: float
    axis_name: str | None
    squeeze: int
    shortcut: Shortcut
    inner_norm: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [N, H, W, channels] to [N, ⌈H/stride⌉, ⌈W/stride⌉, features]."""
        norm = batch_norm(train, dtype=self.dtype, epsilon=self.epsilon, axis_name=self.axis_name)

        def conv(kernel: int, stride: int, name: str) -> nn.Conv:
            return convolution(
                self.features, (kernel, kernel), stride, train=train, dtype=self.dtype, name=name
            )

        residual = norm("bn1")(x)
        residual = conv(3, 1, "conv1")(residual)
        prelu = PReLU(self.dtype, name="prelu")
        residual = norm_prelu(residual, norm("bn2"), prelu) if self.inner_norm else prelu(residual)
        residual = conv(3, self.stride, "conv2")(residual)
        residual = norm("bn3")(residual)
        if self.squeeze:
            residual = SqueezeExcite(self.squeeze, self.dtype, name="se")(residual)
        widens = x.shape[-1] != self.features
        if widens or (self.stride != 1 and self.shortcut == "projected"):
            x = norm("downsample_bn")(conv(1, self.stride, "downsample_conv")(x))
        elif self.stride != 1:
            x = x[:, :: self.stride, :: self.stride]
        return x + residual


class IResNet(nn.Module):
    """Maps normalised images to embeddings (not L2-normalised; the loss does that).

    Stem conv3×3 – BN – PReLU; four stages, each starting with stride 2; BN –
    dropout – flatten in channel, height, width order (so that published weights
    fit) – dense – batch normalisation with its scale frozen at 1.

    Attributes:
      stage_blocks: residual blocks in each stage, see STAGE_BLOCKS.
      embedding_size: D, 512 in the paper.
      width: channels of the stem and the first stage, 64 in the paper; the stages
        have width × 1, 2, 4, 8.
      dropout: rate before the dense layer; .4 in the paper's MXNet code, 0 in arcface_torch.
      epsilon: of the batch normalisations; 1e-5 (arcface_torch) or 2e-5 (MXNet).
      dtype: of the computation. Parameters, batch statistics and the embedding stay float32.
      axis_name: mapped axis over which batch statistics are averaged, or None for local ones.
      stem: the input option, see `Stem`. With conv7 the first stage keeps its resolution.
      output: the output option, see `Output`.
      squeeze: reduction of squeeze and excitation in every block (16 as published); 0 for none.
      shortcut: see `Shortcut`; AdaFace and CurricularFace subsample.
      inner_norm: whether a BN stands between a block's first convolution and its PReLU;
        CurricularFace has none.
      embedding_affine: whether the last BN has its (frozen) scale and bias.
      remat: compute each block again for its gradient, instead of keeping what it computed.
    """

    stage_blocks: Sequence[int]
    embedding_size: int = 512
    width: int = 64
    dropout: float = 0.0
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32
    axis_name: str | None = None
    stem: Stem = "conv3"
    output: Output = "E"
    squeeze: int = 0
    shortcut: Shortcut = "projected"
    inner_norm: bool = True
    embedding_affine: bool = True
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Embeds `images` [N, height, width, 3], any size; returns float32 [N, embedding_size].

        With train=True the batch's statistics are used and the running ones, in
        the collection `batch_stats`, updated; dropout > 0 then needs a `dropout` key.
        """
        x = self._stem(images.astype(self.dtype), train)
        block_type = rematerialised(IResNetBlock, self.remat)
        for stage, blocks in enumerate(self.stage_blocks):
            for block in range(blocks):
                x = block_type(
                    self.width * 2**stage,
                    stride=2 if block == 0 and (stage > 0 or self.stem == "conv3") else 1,
                    dtype=self.dtype,
                    epsilon=self.epsilon,
                    axis_name=self.axis_name,
                    squeeze=self.squeeze,
                    shortcut=self.shortcut,
                    inner_norm=self.inner_norm,
                    name=f"layer{stage + 1}_{block}",
                )(x, train)
        return self._ending(x, train)

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        if self.stem not in get_args(Stem):
            raise InputError(
                f"stem: {self.stem!r} is no input option; take one of {', '.join(get_args(Stem))}"
            )
        kernel, stride = (3, 1) if self.stem == "conv3" else (7, 2)
        x = convolution(
            self.width, (kernel, kernel), stride, train=train, dtype=self.dtype, name="conv1"
        )(x)
        norm = batch_norm(train, dtype=self.dtype, epsilon=self.epsilon, axis_name=self.axis_name)
        x = norm_prelu(x, norm("bn1"), PReLU(self.dtype, name="prelu"))
        return x if self.stem == "conv3" else nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))

    def _ending(self, x: jax.Array, train: bool) -> jax.Array:
        if self.shortcut not in get_args(Shortcut):
            raise InputError(
                f"shortcut: {self.shortcut!r} is none; take one of {', '.join(get_args(Shortcut))}"
            )
        if self.output not in get_args(Output):
            raise InputError(
                f"output: {self.output!r} is none of the paper's options "
                f"{', '.join(get_args(Output))}"
            )
        norm = batch_norm(train, dtype=self.dtype, epsilon=self.epsilon, axis_name=self.axis_name)
        x = norm("bn2")(x)
        if self.output == "E":
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            x = flatten_channels_first(x).astype(jnp.float32)
        else:
            x = PReLU(self.dtype, name="prelu2")(x)
            x = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
            if self.output == "A":
                if self.embedding_size != x.shape[-1]:
                    raise InputError(
                        f"embedding_size: {self.embedding_size}, but output option A gives the "
                        f"{x.shape[-1]} channels of the last stage; take that size, or another "
                        "option"
                    )
                return x
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = nn.Dense(self.embedding_size, dtype=jnp.float32, name="fc")(x)
        if self.output == "B":
            return x
        x = EmbeddingBatchNorm(
            self.epsilon, self.axis_name, self.embedding_affine, name="features"
        )(x, train)
        return PReLU(name="prelu3")(x) if self.output == "D" else x
