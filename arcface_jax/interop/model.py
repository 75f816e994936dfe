"""A trained model with everything needed to use it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from arcface_jax.counts import number_of
from arcface_jax.errors import InputError
from arcface_jax.evaluation.embedding_rule import FLIP
from arcface_jax.evaluation.verification import FlipRule
from arcface_jax.models.embed import (
    check_embedded,
    default_batch_size,
    embed_images,
    make_embed_function,
)
from arcface_jax.pixels import PixelConvention


class EmbedImages(Protocol):
    """Embeds images in memory; see `TrainedModel.embedder`."""

    def __call__(
        self, images: np.ndarray, progress: Callable[[int], None] | None = None, /
    ) -> np.ndarray:
        """Images uint8 RGB [N, height, width, 3] -> float32 [N, D]."""


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A backbone, its weights, and what its images must look like.

    Attributes:
      backbone: Flax module of `arcface_jax.models`.
      variables: {"params", "batch_stats"}.
      pixels: colour order and value range of its training images.
      image_size: their (height, width).
      source: where it comes from, for human readers.
      class_weights: float32 [C, D], or [C, K, D] with sub-centres, its classifier in training; None
        if not kept.
      flip: how commands combine the embeddings of image and mirror image by default.
    """

    backbone: nn.Module
    variables: Mapping[str, Any]
    pixels: PixelConvention
    image_size: tuple[int, int]
    source: str
    class_weights: np.ndarray | None = None
    flip: FlipRule = FLIP

    @property
    def embedding_size(self) -> int:
        """D; of a network that does not tell, from what it gives for an image."""
        if isinstance(size := getattr(self.backbone, "embedding_size", None), int):
            return size
        images = jnp.zeros((1, *self.image_size, 3))
        found: Any = jax.eval_shape(self.backbone.apply, self.variables, images)
        return int(found.shape[-1])

    def embedder(self, batch_size: int | None = None) -> EmbedImages:
        """Returns uint8 RGB [N, height, width, 3] -> float32 [N, D], not normalised; compiled once.

        Args:
          batch_size: images in one call; `default_batch_size` if None.

        The function calls its `progress`, if given, with the number of images done since the last
        call. It raises InputError if an embedding is NaN, infinite or zero.
        """
        embed = make_embed_function(self.backbone, self.pixels)
        batch_size = default_batch_size() if batch_size is None else batch_size

        def embed_all(
            images: np.ndarray, progress: Callable[[int], None] | None = None
        ) -> np.ndarray:
            options: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
            return check_embedded(embed_images(embed, self.variables, images, **options))

        return embed_all


def check_floating(weights: Mapping[str, np.ndarray]) -> None:
    """Refuses weights that are whole numbers, as of a quantised model: what they stand for is told
    elsewhere.

    Args:
      weights: arrays by their names in the file.

    Raises:
      InputError: names the first, its type, and how many there are.
    """
    whole = [name for name, array in weights.items() if array.dtype.kind in "iub"]
    if whole:
        more = f", and {number_of(len(whole) - 1, 'other')} too" if len(whole) > 1 else ""
        raise InputError(
            f"{whole[0]} is stored as {weights[whole[0]].dtype}{more}, and weights are due; take "
            "the model before it was quantised"
        )


def check_finite(weights: Mapping[str, Any]) -> None:
    """Refuses weights that are not finite: they would make every embedding NaN.

    Args:
      weights: arrays by their names in the file.

    Raises:
      InputError: one holds NaN or infinity, as float32, or a running variance is negative; the
        message names it and says how many.
    """
    bad = {}
    for name, array in weights.items():
        with np.errstate(over="ignore"):
            numbers = np.asarray(array, np.float32)
        wrong = ~np.isfinite(numbers)
        if name.endswith(("running_var", "moving_var", "/var")):
            wrong |= numbers < 0
        if wrong.any():
            bad[name] = f"{name} ({np.count_nonzero(wrong)} of {wrong.size})"
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise InputError(
            f"weights that are NaN, infinite or a negative variance: "
            f"{', '.join(list(bad.values())[:5])}{more}; the training had failed, use an earlier "
            "checkpoint"
        )
