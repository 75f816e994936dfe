"""IResNet, the improved residual network that the ArcFace paper trains.

References: Deng et al., ArcFace (arXiv:1801.07698), §3.1; Duta et al., Improved
Residual Networks (arXiv:2004.04989).
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from arcface_jax.models.layers import Dtype, EmbeddingBatchNorm, PReLU, batch_norm, conv_init

STAGE_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
    200: (6, 26, 60, 6),
}
"""Residual blocks in each of the four stages, by the network's published depth."""


class IResNetBlock(nn.Module):
    """BN – conv3×3 – BN – PReLU – conv3×3 (strided) – BN, plus the shortcut.

    The shortcut is conv1×1 (strided) – BN where the shape changes.
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

        def conv(kernel: int, stride: int, name: str) -> nn.Conv:
            return nn.Conv(
                self.features,
                (kernel, kernel),
                stride,
                padding=kernel // 2,
                use_bias=False,
                dtype=self.dtype,
                kernel_init=conv_init,
                name=name,
            )

        residual = norm("bn1")(x)
        residual = conv(3, 1, "conv1")(residual)
        residual = norm("bn2")(residual)
        residual = PReLU(self.dtype, name="prelu")(residual)
        residual = conv(3, self.stride, "conv2")(residual)
        residual = norm("bn3")(residual)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = norm("downsample_bn")(conv(1, self.stride, "downsample_conv")(x))
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
    """

    stage_blocks: Sequence[int]
    embedding_size: int = 512
    width: int = 64
    dropout: float = 0.0
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Embeds `images` [N, height, width, 3], any size; returns float32 [N, embedding_size].

        With train=True the batch's statistics are used and the running ones, in
        the collection `batch_stats`, updated; dropout > 0 then needs a `dropout` key.
        """
        norm = batch_norm(train, dtype=self.dtype, epsilon=self.epsilon, axis_name=self.axis_name)
        x = images.astype(self.dtype)
        x = nn.Conv(
            self.width, (3, 3), padding=1, use_bias=False, dtype=self.dtype, kernel_init=conv_init, name="conv1"
        )(x)
        x = PReLU(self.dtype, name="prelu")(norm("bn1")(x))
        for stage, blocks in enumerate(self.stage_blocks):
            for block in range(blocks):
                x = IResNetBlock(
                    self.width * 2**stage,
                    stride=2 if block == 0 else 1,
                    dtype=self.dtype,
                    epsilon=self.epsilon,
                    axis_name=self.axis_name,
                    name=f"layer{stage + 1}_{block}",
                )(x, train)
        x = norm("bn2")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = jnp.transpose(x, (0, 3, 1, 2)).reshape(x.shape[0], -1).astype(jnp.float32)
        x = nn.Dense(self.embedding_size, dtype=jnp.float32, name="fc")(x)
        return EmbeddingBatchNorm(self.epsilon, self.axis_name, name="features")(x, train)
