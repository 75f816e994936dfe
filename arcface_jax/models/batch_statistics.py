"""A network's embeddings together with the inputs of its batch normalisations."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from arcface_jax.analysis.inversion import LayerStatistics, Network


def with_statistics(backbone: nn.Module, variables: Mapping[str, Any]) -> Network:
    """The backbone's inference, with each batch normalisation's input and running statistics.

    It intercepts the calls of every `nn.BatchNorm` and takes the statistics of its input over all
    axes but the channels. So it works for any backbone built from that layer, and the embeddings do
    not change.

    Args:
      backbone: a Flax module mapping (images, train) to embeddings.
      variables: {"params", "batch_stats"}.

    Returns: normalised images [N, H, W, 3] -> (embeddings [N, D], statistics in the order of the
      calls, empty for a network without batch normalisation).
    """

    def network(images: jax.Array) -> tuple[jax.Array, list[LayerStatistics]]:
        seen: list[LayerStatistics] = []

        def watch(
            call: Any, arguments: Any, options: Any, context: nn.module.InterceptorContext
        ) -> Any:
            layer = context.module
            if isinstance(layer, nn.BatchNorm) and context.method_name == "__call__":
                inputs = jnp.asarray(arguments[0], jnp.float32)
                axes = tuple(range(inputs.ndim - 1))
                running: Any = (layer.get_variable("batch_stats", name) for name in ("mean", "var"))
                seen.append(
                    LayerStatistics(jnp.mean(inputs, axes), jnp.var(inputs, axes), *running)
                )
            return call(*arguments, **options)

        with nn.intercept_methods(watch):
            embeddings = backbone.apply(variables, images, train=False)
        return jnp.asarray(embeddings, jnp.float32), seen

    return network
