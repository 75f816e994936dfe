"""Weights in fewer bytes: bfloat16, or int8 with one scale per output channel."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from arcface_jax.errors import InputError

WeightType = Literal["float32", "bfloat16", "int8"]


class Int8Kernel(NamedTuple):
    """kernel ≈ values · scale.

    Attributes:
      values: int8, the kernel's shape.
      scale: float32 [output channels].
    """

    values: jax.Array
    scale: jax.Array


def quantise(variables: Mapping[str, Any], weights: WeightType) -> Any:
    """Stores kernels of convolutions and dense layers as `weights`; all else stays float32.

    int8 is symmetric: the largest magnitude of each output channel becomes 127, so no weight is off
    by more than half a scale, max|w|/254. The network's arithmetic does not change: `dequantise`
    runs first.
    """
    if weights not in get_args(WeightType):
        raise InputError(
            f"weights: {weights!r} is unknown; choose one of {', '.join(get_args(WeightType))}"
        )

    def convert(path: Any, leaf: Any) -> Any:
        leaf = np.asarray(leaf)
        if weights == "float32" or path[-1].key != "kernel":
            return jnp.asarray(leaf)
        if weights == "bfloat16":
            return jnp.asarray(leaf, jnp.bfloat16)
        largest = np.abs(leaf).max(axis=tuple(range(leaf.ndim - 1)))
        scale = np.where(largest > 0, largest / 127, 1.0).astype(np.float32)
        return Int8Kernel(jnp.asarray(np.rint(leaf / scale), jnp.int8), jnp.asarray(scale))

    paths = jax.tree_util.tree_leaves_with_path(dict(variables))
    if weights != "float32" and all(path[-1].key != "kernel" for path, _ in paths):
        raise InputError(
            f"weights {weights}: is for arrays called kernel, as Flax calls them, and this network "
            "has none; use float32"
        )
    return jax.tree_util.tree_map_with_path(convert, dict(variables))


def dequantise(variables: Any) -> Any:
    """The float32 variables that `quantise` stands for; call it inside the compiled function."""

    def convert(leaf: Any) -> jax.Array:
        if isinstance(leaf, Int8Kernel):
            return leaf.values.astype(jnp.float32) * leaf.scale
        return leaf.astype(jnp.float32) if leaf.dtype == jnp.bfloat16 else leaf

    return jax.tree.map(convert, variables, is_leaf=lambda leaf: isinstance(leaf, Int8Kernel))
