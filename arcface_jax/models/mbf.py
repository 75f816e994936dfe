"""The MobileFaceNet of arcface_torch, `mbf`: twice as wide as the paper's, with a 512-d embedding.

References: Chen et al., MobileFaceNets (arXiv:1804.07573); insightface, recognition/arcface_torch.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from arcface_jax.models.layers import ConvNorm, Dtype, batch_norm, conv_init, rematerialised
from arcface_jax.models.mobilefacenet import Bottleneck

_STAGES = ((64, 128, 128), (128, 256, 256), (128, 512, 256))
"""Channels (times `scale`), inner channels of the strided bottleneck and of the others, stage
by stage.
"""


class ArcFaceTorchMobileFaceNet(nn.Module):
    """conv3×3 stride 2 – stem – three stages, each begun with stride 2 – conv1×1 – global depthwise
    – FC – BN.

    Attributes:
      blocks: bottlenecks of the stem and of the three stages after their strided
        one. With 1 the stem is one grouped convolution instead.
      scale: channels in multiples of the paper's; 2 for `mbf`, 4 for `mbf_large`.
      embedding_size: D, 512 as published.
      width: 64 is the published size; all channels are in proportion.
      dropout: rate before the embedding layer.
      epsilon: of the batch normalisations.
      dtype: of the computation; parameters, statistics and the embedding stay float32.
      axis_name: mapped axis over which batch statistics are averaged, or None.
      remat: compute each bottleneck again for its gradient, instead of keeping what it computed.
    """

    blocks: tuple[int, int, int, int] = (1, 4, 6, 2)
    scale: int = 2
    embedding_size: int = 512
    width: int = 64
    dropout: float = 0.0
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Embeds `images` [N, height, width, 3] of at least 16 pixels; returns float32 [N,
        embedding_size].
        """
        unit = functools.partial(
            ConvNorm, dtype=self.dtype, epsilon=self.epsilon, axis_name=self.axis_name
        )
        bottleneck = functools.partial(
            rematerialised(Bottleneck, self.remat),
            dtype=self.dtype,
            epsilon=self.epsilon,
            axis_name=self.axis_name,
        )

        def scaled(channels: int) -> int:
            return max(1, channels * self.width // 64)

        def bottlenecks(x: jax.Array, inner: int, count: int, name: str) -> jax.Array:
            for number in range(count):
                x = bottleneck(inner, x.shape[-1], 1, True, name=f"{name}_{number}")(x, train)
            return x

        x = unit(scaled(64) * self.scale, kernel=(3, 3), stride=2, padding=1, name="layers_0")(
            images.astype(self.dtype), train
        )
        if self.blocks[0] == 1:
            x = unit(x.shape[-1], kernel=(3, 3), padding=1, groups=scaled(64), name="layers_1")(
                x, train
            )
        else:
            x = bottlenecks(x, scaled(128), self.blocks[0], "layers_1")
        for stage, (channels, strided, inner) in enumerate(_STAGES):
            features = scaled(channels) * self.scale
            begin = bottleneck(scaled(strided), features, 2, False, name=f"layers_{2 * stage + 2}")
            x = bottlenecks(
                begin(x, train), scaled(inner), self.blocks[stage + 1], f"layers_{2 * stage + 3}"
            )
        last = scaled(512)
        x = unit(last, name="conv_sep")(x, train).astype(jnp.float32)
        kernel = (x.shape[1], x.shape[2])
        whole = functools.partial(unit, dtype=jnp.float32)
        x = whole(last, kernel=kernel, groups=last, activate=False, name="gdc")(x, train)[
            :, 0, 0, :
        ]
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = nn.Dense(self.embedding_size, use_bias=False, kernel_init=conv_init, name="fc")(x)
        return batch_norm(train, dtype=jnp.float32, epsilon=self.epsilon, axis_name=self.axis_name)(
            "features"
        )(x)
