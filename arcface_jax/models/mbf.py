"""The MobileFaceNet of arcface_torch, `mbf`: twice as wide as the paper's, with a 512-d embedding.

References: Chen et al., MobileFaceNets (arXiv:1804.07573); insightface, recognition/arcface_torch.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from arcface_jax.models.layers import Backbone, ConvNorm, he_normal
from arcface_jax.models.mobilefacenet import Bottleneck

_STAGES = ((64, 128, 128), (128, 256, 256), (128, 512, 256))
"""Channels (times `scale`), inner channels of the strided bottleneck and of the others, stage
by stage.
"""


class ArcFaceTorchMobileFaceNet(Backbone):
    """conv3×3 stride 2 – stem – three stages, each starting with stride 2 – conv1×1 – global
    depthwise – FC – BN.

    It also has the settings of every `Backbone`.

    Attributes:
      blocks: bottlenecks of the stem, and of the three stages after the strided one. With 1 the
        stem is one grouped convolution instead.
      scale: channels in multiples of the paper's; 2 for `mbf`, 4 for `mbf_large`.
      embedding_size: D, 512 as published.
      width: 64 is the published size; all channels scale with it.
    """

    blocks: tuple[int, int, int, int] = (1, 4, 6, 2)
    scale: int = 2
    embedding_size: int = 512
    width: int = 64

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Embeds `images` [N, height, width, 3] of at least 16 pixels; returns float32 [N,
        embedding_size].
        """
        conv, norm = self.conv(), self.norm(train)
        unit = functools.partial(ConvNorm, conv, norm)
        bottleneck = functools.partial(nn.remat(Bottleneck) if self.remat else Bottleneck, unit)

        def scaled(channels: int) -> int:
            return max(1, channels * self.width // 64)

        def bottlenecks(x: jax.Array, inner: int, count: int, name: str) -> jax.Array:
            for number in range(count):
                x = bottleneck(inner, x.shape[-1], 1, True, name=f"{name}_{number}")(x)
            return x

        first, last = scaled(64) * self.scale, scaled(512)
        x = unit(first, (3, 3), 2, padding=1, name="layers_0")(images.astype(self.dtype))
        if self.blocks[0] == 1:
            x = unit(first, (3, 3), padding=1, groups=scaled(64), name="layers_1")(x)
        else:
            x = bottlenecks(x, scaled(128), self.blocks[0], "layers_1")
        for stage, (channels, strided, inner) in enumerate(_STAGES):
            features, name = scaled(channels) * self.scale, f"layers_{2 * stage + 2}"
            x = bottleneck(scaled(strided), features, 2, False, name=name)(x)
            x = bottlenecks(x, scaled(inner), self.blocks[stage + 1], f"layers_{2 * stage + 3}")
        x = unit(last, name="conv_sep")(x)
        kernel = (x.shape[1], x.shape[2])
        norm = functools.partial(norm, dtype=jnp.float32)
        x = ConvNorm(conv, norm, last, kernel, groups=last, activate=False, name="gdc")(x)
        x = x[:, 0, 0, :]
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        dense = functools.partial(self.embedding_layer(), use_bias=False, kernel_init=he_normal)
        x = dense(self.embedding_size, name="fc")(x)
        return norm(name="features")(x)
