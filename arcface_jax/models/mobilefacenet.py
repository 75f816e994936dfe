"""MobileFaceNet, a million parameters for faces on a phone.

References: Chen et al., MobileFaceNets (arXiv:1804.07573), table 1; Sandler et al.,
MobileNetV2 (arXiv:1801.04381), for the inverted residual bottleneck.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from arcface_jax.models.layers import ConvNorm, Dtype, rematerialised


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
    by choice.

    Each convolution has its BN, the first two a PReLU.
    """

    inner: int
    features: int
    stride: int
    residual: bool
    dtype: Dtype
    epsilon: float
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [N, H, W, channels] to [N, ⌈H/stride⌉, ⌈W/stride⌉, features]."""
        unit = functools.partial(
            ConvNorm, dtype=self.dtype, epsilon=self.epsilon, axis_name=self.axis_name
        )
        y = unit(self.inner, name="expand")(x, train)
        y = unit(self.inner, (3, 3), self.stride, padding=1, groups=self.inner, name="depthwise")(
            y, train
        )
        y = unit(self.features, activate=False, name="project")(y, train)
        return x + y if self.residual else y


class MobileFaceNet(nn.Module):
    """The network of the paper: bottlenecks, then a depthwise convolution over the whole feature
    map.

    conv3×3 stride 2 – depthwise 3×3 – bottlenecks – conv1×1 to 512 – global
    depthwise convolution (its kernel is the feature map: 7×7 for 112×112
    images, 7×6 for 112×96) – linear conv1×1 to D – BN.

    Attributes:
      embedding_size: D, 128 in the paper.
      width: 64 is the published size; all channels are in proportion.
      dropout: rate before the embedding layer, 0 in the paper.
      epsilon: of the batch normalisations.
      dtype: of the computation; parameters, statistics and the embedding stay float32.
      axis_name: mapped axis over which batch statistics are averaged, or None.
      bottlenecks: the rows of the table.
      remat: compute each bottleneck again for its gradient, instead of keeping what it computed.
    """

    embedding_size: int = 128
    width: int = 64
    dropout: float = 0.0
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32
    axis_name: str | None = None
    bottlenecks: tuple[Bottlenecks, ...] = PUBLISHED_BOTTLENECKS
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Embeds `images` [N, height, width, 3] of at least 16 pixels; returns float32 [N,
        embedding_size].
        """
        unit = functools.partial(
            ConvNorm, dtype=self.dtype, epsilon=self.epsilon, axis_name=self.axis_name
        )

        def scaled(channels: int) -> int:
            return max(1, channels * self.width // 64)

        first = scaled(64)
        x = unit(first, (3, 3), 2, padding=1, name="conv1")(images.astype(self.dtype), train)
        x = unit(first, (3, 3), padding=1, groups=first, name="dw_conv1")(x, train)
        bottleneck = rematerialised(Bottleneck, self.remat)
        number = 0
        for row in self.bottlenecks:
            for place in range(row.count):
                stride = row.stride if place == 0 else 1
                features = scaled(row.channels)
                x = bottleneck(
                    inner=row.expansion * x.shape[-1],
                    features=features,
                    stride=stride,
                    residual=stride == 1 and features == x.shape[-1],
                    dtype=self.dtype,
                    epsilon=self.epsilon,
                    axis_name=self.axis_name,
                    name=f"blocks_{number}",
                )(x, train)
                number += 1
        last = scaled(512)
        x = unit(last, name="conv2")(x, train)
        kernel = (x.shape[1], x.shape[2])
        x = unit(last, kernel, groups=last, activate=False, name="linear7")(x, train)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        embed = functools.partial(unit, dtype=jnp.float32)
        x = embed(self.embedding_size, activate=False, name="linear1")(x.astype(jnp.float32), train)
        return x[:, 0, 0, :]
