"""From uint8 images to embeddings with a trained backbone, in batches of one shape."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from arcface_jax.errors import InputError
from arcface_jax.models.depthwise import ShiftedDepthwise
from arcface_jax.pixels import ARCFACE_TORCH, PixelConvention, normalise

EmbedFunction = Callable[[Mapping[str, Any], jax.typing.ArrayLike], jax.Array]


def make_embed_function(
    backbone: nn.Module, pixels: PixelConvention = ARCFACE_TORCH
) -> EmbedFunction:
    """Returns the jitted (variables, uint8 [N, H, W, 3] RGB) -> float32 [N, D], with running
    statistics, and depthwise convolutions that are fast on a CPU.
    """
    network = ShiftedDepthwise(backbone)

    @jax.jit
    def embed(variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
        return jnp.asarray(
            network.apply(variables, normalise(images, pixels), train=False), jnp.float32
        )

    return embed


def embed_images(
    embed: EmbedFunction,
    variables: Mapping[str, Any],
    images: np.ndarray,
    *,
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Embeds all `images` in batches of `batch_size`; pads the last, so that one program is enough.

    Args:
      embed: what `make_embed_function` returned.
      variables: the backbone's {"params", "batch_stats"}.
      images: uint8 [N, H, W, 3], RGB.
      batch_size: images in one call; `default_batch_size` if None.
      progress: called with the number of images done since the last call.

    Returns: float32 [N, D], not normalised.
    """
    batch_size = default_batch_size() if batch_size is None else batch_size
    batches = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        padding = batch_size - len(batch)
        padded = np.pad(batch, ((0, padding), (0, 0), (0, 0), (0, 0))) if padding else batch
        batches.append(np.asarray(embed(variables, padded))[: len(batch)])
        if progress is not None:
            progress(len(batch))
    return np.concatenate(batches)


def check_embedded(
    embeddings: np.ndarray, name_of: Callable[[int], str] | None = None
) -> np.ndarray:
    """The embeddings [N, D] of N images unchanged, if they can be compared.

    Args:
      embeddings: a network's output.
      name_of: gives an image's name from its row; if None, row 3 is "image 3".

    Raises:
      InputError: one is NaN, infinite or zero; the message names its image and their number.
    """
    squared = np.einsum("nd,nd->n", embeddings, embeddings, dtype=np.float64)
    bad = np.flatnonzero(~(np.isfinite(squared) & (squared > 0)))
    if len(bad):
        first = int(bad[0])
        name = f"image {first}" if name_of is None else name_of(first)
        what = "zero" if squared[first] == 0 else "NaN or infinite"
        raise InputError(
            f"{name}: the model's embedding is {what}, as {len(bad)} of {len(embeddings)} are; the "
            "model is damaged or overflows, use another checkpoint of it"
        )
    return embeddings


def mirror(images: np.ndarray) -> np.ndarray:
    """The images [..., H, W, channels] as seen in a mirror, the paper's only augmentation."""
    return images[..., ::-1, :]


def default_batch_size() -> int:
    """Images in one call: as many as fit a CPU's caches, or keep an accelerator busy."""
    return 16 if jax.default_backend() == "cpu" else 256
