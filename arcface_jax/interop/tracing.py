"""The order in which a backbone calls its layers, and their inputs, by tracing it once."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from arcface_jax.models.layers import PReLU

_LAYERS = (nn.Conv, nn.Dense, nn.BatchNorm, PReLU)

ModulePath = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a layer.

    Attributes:
      path: of the module, such as ("layer1_0", "conv1").
      layer: the module, only to look up its class and options.
      input_of: path of the layer whose unchanged output is its input; None if something lies
        between.
    """

    path: ModulePath
    layer: nn.Module
    input_of: ModulePath | None


def calls(
    backbone: nn.Module, variables: Mapping[str, Any], image_size: tuple[int, int]
) -> list[Call]:
    """Every convolution, dense layer, batch normalisation and PReLU in order of evaluation."""
    found: list[Call] = []
    outputs: list[tuple[Any, ModulePath]] = []  # the tracers: no id is used twice

    def record(next_function: Any, args: Any, kwargs: Any, context: Any) -> Any:
        result = next_function(*args, **kwargs)
        if isinstance(context.module, _LAYERS) and context.method_name == "__call__":
            source = [path for output, path in outputs if output is args[0]]
            path, layer = context.module.path, context.module.clone(parent=None)
            found.append(Call(path, layer, source[0] if source else None))
            outputs.append((result, path))
        return result

    with nn.intercept_methods(record):
        jax.eval_shape(lambda v, x: backbone.apply(v, x), variables, jnp.zeros((1, *image_size, 3)))
    return found
