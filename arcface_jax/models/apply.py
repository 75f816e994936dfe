"""Adapts a Flax module to the training step."""

from typing import Any

import flax.linen as nn
import jax

from arcface_jax.models import cpu
from arcface_jax.models.depthwise import ShiftedDepthwise


def linen_apply(module: nn.Module, *, train: bool = True) -> Any:
    """The module as a function (params, batch statistics, images, key) -> (embeddings, new batch
    statistics), for `arcface_jax.training.make_step`.

    Args:
      module: maps (images, train) to embeddings.
      train: with dropout and updated batch statistics; otherwise as in inference.
    """

    def apply(params: Any, batch_stats: Any, images: jax.Array, key: jax.Array) -> Any:
        variables = {"params": params, "batch_stats": batch_stats}
        if not train:
            return ShiftedDepthwise(module).apply(variables, images), batch_stats
        with cpu.training_layers():
            embeddings, new = module.apply(
                variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": key}
            )
        return embeddings, new.get("batch_stats", {})

    return apply
