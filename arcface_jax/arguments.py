"""Checks of what a caller passes, at the moment of the call: each error names the argument and its
value.

Shapes and dtypes are known under `jit` too and are always checked. Values (a label's range, a
scale's sign) can be read only outside a trace, so under `jit`, `vmap`, `pmap` or `scan` they are
the caller's duty; each function says what it then does with them.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from arcface_jax.errors import InputError


def is_concrete(value: Any) -> bool:
    """Whether the value can be read here and now: not inside a JAX trace, and not partly on another
    host.
    """
    if isinstance(value, jax.core.Tracer):
        return False
    return not isinstance(value, jax.Array) or value.is_fully_addressable


def check_floating(name: str, value: jax.typing.ArrayLike, ndim: int | Sequence[int]) -> jax.Array:
    """`value` as a JAX array, if it holds floating-point numbers and has `ndim` axes (or one of
    several counts).
    """
    array = jnp.asarray(value)
    allowed = (ndim,) if isinstance(ndim, int) else tuple(ndim)
    if array.ndim not in allowed:
        wanted = " or ".join(str(n) for n in allowed)
        raise InputError(f"{name} has shape {array.shape}; pass an array with {wanted} axes")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise InputError(f"{name} has dtype {array.dtype}; pass floating-point numbers")
    return array


def check_dimensions(
    embeddings: jax.Array, class_weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Embeddings [N, D] and class weights [C, D] or [C, K, D] as floating arrays of one D."""
    embeddings = check_floating("embeddings", embeddings, 2)
    class_weights = check_floating("class_weights", class_weights, (2, 3))
    if embeddings.shape[-1] != class_weights.shape[-1]:
        raise InputError(
            f"embeddings has shape {embeddings.shape} and class_weights {class_weights.shape}; "
            "their last axes, the dimension of the embedding, must agree"
        )
    return embeddings, class_weights


def check_labels(
    labels: jax.typing.ArrayLike, rows: int, num_classes: int | None = None
) -> jax.Array:
    """`labels` as a JAX array [N] of integers, one for each of `rows` rows, each −1 (ignored) or in
    [0, num_classes).

    The range is read only when the labels are concrete. `num_classes=None` leaves the upper end
    open.
    """
    array = jnp.asarray(labels)
    if array.shape != (rows,):
        raise InputError(
            f"labels has shape {array.shape}; pass one label for each embedding, shape {(rows,)}"
        )
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise InputError(f"labels has dtype {array.dtype}; pass integers")
    if rows and is_concrete(labels):
        values = np.asarray(labels)  # as they came: JAX's 32 bits would turn 2³² into 0
        bad = (values < -1) | (values >= num_classes) if num_classes is not None else values < -1
        if bad.any():
            row = int(np.argmax(bad))
            wanted = "0 or more" if num_classes is None else f"a class, 0 to {num_classes - 1}"
            raise InputError(
                f"labels[{row}] is {values[row]}; pass {wanted}, or −1 for a row to ignore"
            )
    return array


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises unless `value` is one of `choices`."""
    if value not in choices:
        raise InputError(f"{name} is {value!r}; pass one of {', '.join(choices)}")


def check_between(
    name: str, value: Any, low: float, high: float, *, open_low: bool = False
) -> None:
    """Raises unless every number of `value` is finite and in [low, high] (in (low, high] with
    `open_low`).

    Does nothing for a traced value. Use an infinite end for a one-sided range.
    """
    if not is_concrete(value):
        return
    numbers = np.asarray(value, dtype=np.float64)
    inside = (
        (numbers > low if open_low else numbers >= low) & (numbers <= high) & np.isfinite(numbers)
    )
    if inside.all():
        return
    first = numbers[~inside].flat[0] if numbers.ndim else float(numbers)
    if math.isinf(low) and math.isinf(high):
        wanted = "a finite number"
    elif math.isinf(high):
        wanted = f"a finite number {'above' if open_low else 'not below'} {low:g}"
    else:
        wanted = f"a number in {'(' if open_low else '['}{low:g}, {high:g}]"
    raise InputError(f"{name} is {first:g}; pass {wanted}")


def check_positive(name: str, value: Any) -> None:
    """Raises unless every number of `value` is finite and above zero; does nothing for a traced
    value.
    """
    check_between(name, value, 0.0, math.inf, open_low=True)
