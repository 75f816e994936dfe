"""IResNet, the improved residual network that the ArcFace paper trains, and its variants.

References: Deng et al., ArcFace (arXiv:1801.07698), §3.1, and its first version (v1),
§3.2, for the input and output options; Duta et al., Improved Residual Networks
(arXiv:2004.04989).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from arcface_jax.counts import number_of
from arcface_jax.errors import InputError
from arcface_jax.models.layers import (
    Backbone,
    LayerType,
    PReLU,
    SqueezeExcite,
    flatten_channels_first,
    he_normal,
    torch_start,
)

STAGE_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
    152: (3, 8, 36, 3),
    200: (6, 26, 60, 6),
}
"""Residual blocks in each of the four stages, by published depth."""

Stem = Literal["conv3", "conv7"]
"""Input options. conv3: conv3×3 at full resolution (the paper's prefix L). conv7: conv7×7
stride 2, max pooling.
"""

Output = Literal["A", "B", "C", "D", "E"]
"""Output options: the layers between the last residual block and the embedding.

A: global pooling. B: pooling – FC. C: pooling – FC – BN. D: pooling – FC – BN – PReLU. E: BN –
dropout – FC – BN on the whole feature map, the paper's choice. BN – PReLU comes before the pooling,
as blocks end without either.
"""

Shortcut = Literal["projected", "subsampled"]
"""The shortcut of a block that changes shape. projected: conv1×1 – BN. subsampled: the same only if
the number of channels changes, otherwise every stride-th pixel unchanged.
"""


class IResNetBlock(nn.Module):
    """BN – conv3×3 – BN – PReLU – conv3×3 (strided) – BN – [squeeze and excitation], plus the
    shortcut.
    """

    conv: LayerType
    norm: LayerType
    features: int
    stride: int
    squeeze: int
    shortcut: Shortcut
    inner_norm: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, channels] to [N, ⌈H/stride⌉, ⌈W/stride⌉, features]."""
        conv = functools.partial(self.conv, self.features)
        residual = self.norm(name="bn1")(x)
        residual = conv((3, 3), padding=1, name="conv1")(residual)
        if self.inner_norm:
            residual = self.norm(name="bn2")(residual)
        residual = PReLU(name="prelu")(residual)
        residual = conv((3, 3), self.stride, padding=1, name="conv2")(residual)
        residual = self.norm(name="bn3")(residual)
        if self.squeeze:
            residual = SqueezeExcite(self.conv, self.squeeze, name="se")(residual)
        widens = x.shape[-1] != self.features
        if widens or (self.stride != 1 and self.shortcut == "projected"):
            x = conv((1, 1), self.stride, padding=0, name="downsample_conv")(x)
            x = self.norm(name="downsample_bn")(x)
        elif self.stride != 1:
            x = x[:, :: self.stride, :: self.stride]
        return x + residual


class IResNet(Backbone):
    """Maps normalised images to embeddings (not L2-normalised; the loss does that).

    Stem conv3×3 – BN – PReLU; four stages, each starting with stride 2; BN –
    dropout – flatten in channel, height, width order (so that published weights
    fit) – dense – batch normalisation with its scale frozen at 1.

    It also has the settings of every `Backbone`.

    Attributes:
      stage_blocks: residual blocks in each stage, see STAGE_BLOCKS.
      embedding_size: D, 512 in the paper.
      width: channels of the stem and the first stage, 64 in the paper; the stages
        have width × 1, 2, 4, 8.
      stem: the input option, see `Stem`. With conv7 the first stage keeps the resolution.
      output: the output option, see `Output`.
      squeeze: reduction of squeeze and excitation in every block (16 as published); 0 for none.
      shortcut: see `Shortcut`; AdaFace and CurricularFace subsample.
      inner_norm: whether a block has a BN between its first convolution and its PReLU;
        CurricularFace has none.
      embedding_affine: whether the last BN has its (frozen) scale and bias.
    """

    stage_blocks: Sequence[int]
    embedding_size: int = 512
    width: int = 64
    _: dataclasses.KW_ONLY
    stem: Stem = "conv3"
    output: Output = "E"
    squeeze: int = 0
    shortcut: Shortcut = "projected"
    inner_norm: bool = True
    embedding_affine: bool = True

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Embeds `images` [N, height, width, 3], any size; returns float32 [N, embedding_size].

        train=True uses the batch's statistics and updates the running ones in the collection
        `batch_stats`; dropout > 0 then needs a `dropout` key.
        """
        for name, options in (("stem", Stem), ("shortcut", Shortcut), ("output", Output)):
            if (option := getattr(self, name)) not in get_args(options):
                raise InputError(
                    f"{name}: {option!r} is no option; take one of {', '.join(get_args(options))}"
                )
        from_torch = self.initial_weights == "arcface_torch"
        conv = self.conv(nn.initializers.normal(0.1) if from_torch else he_normal)
        norm = self.norm(train)
        side, stride = (3, 1) if self.stem == "conv3" else (7, 2)
        x = images.astype(self.dtype)
        x = conv(self.width, (side, side), stride, padding=side // 2, name="conv1")(x)
        x = PReLU(name="prelu")(norm(name="bn1")(x))
        if self.stem == "conv7":
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        block_type = nn.remat(IResNetBlock) if self.remat else IResNetBlock
        for stage, blocks in enumerate(self.stage_blocks):
            for block in range(blocks):
                x = block_type(
                    conv,
                    norm,
                    self.width * 2**stage,
                    stride=2 if block == 0 and (stage > 0 or self.stem == "conv3") else 1,
                    squeeze=self.squeeze,
                    shortcut=self.shortcut,
                    inner_norm=self.inner_norm,
                    name=f"layer{stage + 1}_{block}",
                )(x)
        x = norm(name="bn2")(x)
        drop = nn.Dropout(self.dropout, deterministic=not train)
        if self.output == "E":
            x = flatten_channels_first(drop(x))
        else:
            x = PReLU(name="prelu2")(x)
            x = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
            if self.output == "A":
                if self.embedding_size != x.shape[-1]:
                    raise InputError(
                        f"embedding_size: {self.embedding_size}, but output option A gives the "
                        f"{number_of(x.shape[-1], 'channel')} of the last stage; take that size, "
                        "or another option"
                    )
                return x
            x = drop(x)
        start = torch_start(x.shape[-1]) if from_torch else {}
        x = self.embedding_layer()(self.embedding_size, name="fc", **start)(x)
        if self.output == "B":
            return x
        x = self.embedding_norm(self.embedding_affine)(x, train)
        return PReLU(name="prelu3")(x) if self.output == "D" else x
