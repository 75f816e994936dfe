"""From uint8 images to embeddings with a trained backbone, in batches of one shape."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from arcface_jax.pixels import ARCFACE_TORCH, PixelConvention, normalise

EmbedFunction = Callable[[Mapping[str, Any], jax.typing.ArrayLike], jax.Array]


def make_embed_function(
    backbone: nn.Module, pixels: PixelConvention = ARCFACE_TORCH
) -> EmbedFunction:
    """Returns the jitted (variables, uint8 [N, H, W, 3] RGB) -> float32 [N, D], running
    statistics in use.
    """

    @jax.jit
    def embed(variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
        return jnp.asarray(
            backbone.apply(variables, normalise(images, pixels), train=False), jnp.float32
        )

    return embed


def embed_images(
    embed: EmbedFunction, variables: Mapping[str, Any], images: np.ndarray, *, batch_size: int = 256
) -> np.ndarray:
    """Embeds all `images` in batches of `batch_size`, the last one padded so that one program
    serves.

    Args:
      embed: what `make_embed_function` returned.
      variables: the backbone's {"params", "batch_stats"}.
      images: uint8 [N, H, W, 3], RGB.
      batch_size: images in one call.

    Returns: float32 [N, D], not normalised.
    """
    batches = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        padding = batch_size - len(batch)
        padded = np.pad(batch, ((0, padding), (0, 0), (0, 0), (0, 0))) if padding else batch
        batches.append(np.asarray(embed(variables, padded))[: len(batch)])
    return np.concatenate(batches)


def mirror(images: np.ndarray) -> np.ndarray:
    """The images [..., H, W, channels] as seen in a mirror, the paper's only augmentation."""
    return images[..., ::-1, :]
