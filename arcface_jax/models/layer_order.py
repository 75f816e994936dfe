"""How deep in a network each of its parameters is, whatever it is written in."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal


def depths(apply: Callable[..., Any], params: Any, *inputs: Any) -> Any:
    """0 for the first weights that the images meet, 1 for the last, in equal steps from layer to
    layer; biases and scales are of the layer before them.

    It follows the computation, so that it needs no names. Weights that a network stacks to loop
    over them are one layer.

    Args:
      apply: (params, *inputs) -> features; it is traced, not computed.
      params: tree of arrays or their shapes.
      inputs: what depends on the images, or its shape.

    Returns: a tree of numbers like `params`; 1 for a parameter that is not used.
    """
    leaves, structure = jax.tree.flatten(params)
    jaxpr = jax.make_jaxpr(apply)(params, *inputs).jaxpr
    data = [None] * (len(jaxpr.invars) - len(leaves))
    met: dict[int, None] = {}  # in order
    _walk(jaxpr, [*({number} for number in range(len(leaves))), *data], met)
    layer, layers = -1, {}
    for number in met:
        layer += sum(size > 1 for size in jnp.shape(leaves[number])) > 1
        layers[number] = max(0, layer)
    found = [layers.get(number, layer) / max(1, layer) for number in range(len(leaves))]
    return jax.tree.unflatten(structure, found)


def _walk(jaxpr: Any, inputs: Sequence[set[int] | None], met: dict[int, None]) -> list[Any]:
    """Adds the parameters to `met` in the order in which they meet the images.

    Args:
      jaxpr: a computation.
      inputs: of each of its inputs the parameters in it; None if it depends on the images.
      met: the parameters' numbers.

    Returns: the same of each output.
    """
    known: dict[Any, set[int] | None] = dict(zip(jaxpr.invars, inputs, strict=True))

    def of(variable: Any) -> set[int] | None:
        return set() if isinstance(variable, Literal) else known.get(variable, set())

    for equation in jaxpr.eqns:
        given = [of(variable) for variable in equation.invars]
        parameters: set[int] = set().union(*filter(None, given))
        inner = [getattr(one, "jaxpr", one) for one in equation.params.values()]
        inner = [one for one in inner if len(getattr(one, "invars", ())) == len(given) > 0]
        if None not in given:
            made: list[Any] = [parameters] * len(equation.outvars)
        elif len(inner) == 1 and len(inner[0].outvars) == len(equation.outvars):
            made = _walk(inner[0], given, met)
        else:
            met |= dict.fromkeys(sorted(parameters))
            made = [None] * len(equation.outvars)
        known.update(zip(equation.outvars, made, strict=True))
    return [of(variable) for variable in jaxpr.outvars]
