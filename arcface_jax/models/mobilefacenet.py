"""MobileFaceNet, a million parameters for faces on a phone.

References: Chen et al., MobileFaceNets (arXiv:1804.07573), table 1; Sandler et al.,
MobileNetV2 (arXiv:1801.04381), for the inverted residual bottleneck.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from arcface_jax.models.layers import Backbone, ConvNorm, LayerType, he_normal


@dataclasses.dataclass(frozen=True)
class Bottlenecks:
    """A row of the paper's table 1: `count` bottlenecks, the first with `stride`."""

    expansion: int
    channels: int
    count: int
    stride: int


PUBLISHED_BOTTLENECKS = (
    Bottlenecks(2, 64, 5, 2),
    Bottlenecks(4, 128, 1, 2),
    Bottlenecks(2, 128, 6, 1),
    Bottlenecks(4, 128, 1, 2),
    Bottlenecks(2, 128, 2, 1),
)


class Bottleneck(nn.Module):
    """conv1×1 to `inner` channels – depthwise 3×3 (strided) – linear conv1×1 to `features`, plus x
    if chosen.

    Each convolution has a BN, the first two also a PReLU.
    """

    unit: LayerType
    inner: int
    features: int
    stride: int
    residual: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, channels] to [N, ⌈H/stride⌉, ⌈W/stride⌉, features]."""
        depthwise = functools.partial(self.unit, self.inner, (3, 3), groups=self.inner, padding=1)
        y = self.unit(self.inner, name="expand")(x)
        y = depthwise(stride=self.stride, name="depthwise")(y)
        y = self.unit(self.features, activate=False, name="project")(y)
        return x + y if self.residual else y


class MobileFaceNet(Backbone):
    """The paper's network: bottlenecks, then a depthwise convolution over the whole feature map.

    conv3×3 stride 2 – depthwise 3×3 – bottlenecks – conv1×1 to 512 – global
    depthwise convolution (its kernel is the feature map: 7×7 for 112×112
    images, 7×6 for 112×96) – linear conv1×1 to D – BN.

    It also has the settings of every `Backbone`.

    Attributes:
      embedding_size: D, 128 in the paper.
      width: 64 is the published size; all channels scale with it.
      bottlenecks: the rows of the table.
    """

    embedding_size: int = 128
    width: int = 64
    _: dataclasses.KW_ONLY
    bottlenecks: tuple[Bottlenecks, ...] = PUBLISHED_BOTTLENECKS

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Embeds `images` [N, height, width, 3] of at least 16 pixels; returns float32 [N,
        embedding_size].
        """
        conv, norm = self.conv(), self.norm(train)
        unit = functools.partial(ConvNorm, conv, norm)

        def scaled(channels: int) -> int:
            return max(1, channels * self.width // 64)

        first = scaled(64)
        x = unit(first, (3, 3), 2, padding=1, name="conv1")(images.astype(self.dtype))
        x = unit(first, (3, 3), padding=1, groups=first, name="dw_conv1")(x)
        bottleneck = nn.remat(Bottleneck) if self.remat else Bottleneck
        number = 0
        for row in self.bottlenecks:
            for place in range(row.count):
                inner, features = row.expansion * x.shape[-1], scaled(row.channels)
                stride = row.stride if place == 0 else 1
                residual = stride == 1 and features == x.shape[-1]
                x = bottleneck(unit, inner, features, stride, residual, name=f"blocks_{number}")(x)
                number += 1
        last = scaled(512)
        x = unit(last, name="conv2")(x)
        kernel = (x.shape[1], x.shape[2])
        x = unit(last, kernel, groups=last, activate=False, name="linear7")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        conv = functools.partial(
            self.embedding_layer(nn.Conv), use_bias=False, kernel_init=he_normal
        )
        norm = functools.partial(norm, dtype=jnp.float32)
        embed = ConvNorm(conv, norm, self.embedding_size, activate=False, name="linear1")
        return embed(x)[:, 0, 0, :]
