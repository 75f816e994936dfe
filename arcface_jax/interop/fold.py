"""Folds batch normalisations into the layers before them: the same function, but faster."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from arcface_jax.interop.tracing import ModulePath, calls


@dataclasses.dataclass(frozen=True)
class FoldedBackbone:
    """A backbone for inference; a bias replaces some of its batch normalisations.

    Attributes:
      backbone: the network as it was trained.
      folded: the paths of those normalisations.
    """

    backbone: nn.Module
    folded: frozenset[ModulePath]

    def apply(
        self, variables: Mapping[str, Any], images: jax.Array, train: bool = False
    ) -> jax.Array:
        """Embeds normalised `images` [N, H, W, 3] with the variables of `fold_batch_norm`."""
        if train:
            raise TypeError(
                "a folded network has no batch statistics to train with; train the network it "
                "came from"
            )

        def replace(next_function: Any, args: Any, kwargs: Any, context: Any) -> Any:
            layer = context.module
            if not isinstance(layer, nn.BatchNorm) or layer.path not in self.folded:
                return next_function(*args, **kwargs)
            bias: jax.Array = layer.get_variable("params", "bias")
            return args[0] + bias.astype(args[0].dtype)

        with nn.intercept_methods(replace):
            return jnp.asarray(self.backbone.apply(variables, images))


def fold_batch_norm(
    backbone: nn.Module, variables: Mapping[str, Any], image_size: tuple[int, int]
) -> tuple[FoldedBackbone, dict[str, Any]]:
    """Folds each batch normalisation that follows a convolution or dense layer.

        γ (W x + a − μ)/√(σ² + ε) + β  =  (f W) x + [β + f (a − μ)],   f = γ/√(σ² + ε)

    A normalisation *before* a padded convolution stays, as its shift would differ at the border.

    Args:
      backbone: a module of `arcface_jax.models`.
      variables: its {"params", "batch_stats"}.
      image_size: (height, width); any size that fits the variables.

    Returns: the folded network and its variables, computed in float64 and stored in float32.
    """
    params, stats = (
        {path: np.asarray(v) for path, v in flax.traverse_util.flatten_dict(dict(tree)).items()}
        for tree in (variables["params"], variables["batch_stats"])
    )
    folded = set()
    for call in calls(backbone, variables, image_size):
        source = call.input_of
        if (
            not isinstance(call.layer, nn.BatchNorm)
            or source is None
            or (*source, "kernel") not in params
        ):
            continue
        mean, variance = (
            stats.pop((*call.path, name)).astype(np.float64) for name in ("mean", "var")
        )
        factor = params.pop((*call.path, "scale"), np.ones(mean.shape)) / np.sqrt(
            variance + call.layer.epsilon
        )
        shift = params.get((*source, "bias"), np.zeros(mean.shape)) - mean
        bias = params.get((*call.path, "bias"), np.zeros(mean.shape)) + factor * shift
        params[*source, "kernel"] = (params[*source, "kernel"] * factor).astype(np.float32)
        if (*source, "bias") in params:
            params[*source, "bias"] = np.zeros(mean.shape, np.float32)
        params[*call.path, "bias"] = bias.astype(np.float32)
        folded.add(call.path)
    result = {"params": params, "batch_stats": stats}
    arrays = {
        name: jax.tree.map(jnp.asarray, flax.traverse_util.unflatten_dict(tree))
        for name, tree in result.items()
    }
    return FoldedBackbone(backbone, frozenset(folded)), arrays
