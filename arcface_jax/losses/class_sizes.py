"""What follows from the number of training images of a class: its margin, and what it weighs."""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from arcface_jax.arguments import check_between, check_choice, is_concrete
from arcface_jax.errors import InputError

Balance = Literal["none", "inverse", "effective"]


def check_counts(counts: Any, num_classes: int | None = None) -> Any:
    """Images of each class, [C], in NumPy unless traced; a class without any counts as one of one.

    Raises:
      InputError: there are none, or not one for each class, or a negative one.
    """
    if counts is None:
        raise InputError(
            "class_counts is missing; margins and weights by class size need the number of "
            "training images of each class, [C]"
        )
    shape = np.shape(counts)
    wanted = "(C,)" if num_classes is None else str((num_classes,))
    if len(shape) != 1 or num_classes not in (None, shape[0]) or shape[0] == 0:
        raise InputError(f"class_counts has shape {shape}; pass one for each class, {wanted}")
    check_between("class_counts", counts, 0, math.inf)
    if is_concrete(counts):
        return np.maximum(np.asarray(counts, np.float64), 1.0)
    return jnp.maximum(counts.astype(jnp.float32), 1.0)


def _numpy_of(counts: Any) -> Any:
    return np if isinstance(counts, np.ndarray) else jnp


def margins_by_size(
    counts: Any, smallest: float = 0.05, largest: float = 0.5, power: float = 0.25
) -> jax.Array:
    """m_c = a·n_c^(−λ) + b: the more images a class has, the smaller its margin.

    a and b follow from the ends: the class with the fewest images has the `largest` margin, that
    with the most the `smallest`. Where all have as many, all have the largest. For a loss as a
    function: arcface(class_wise(margins_by_size(counts), labels)).

    Args:
      counts: n_c, [C].
      smallest: margin of the class with the most images.
      largest: margin of the class with the fewest.
      power: λ, in (0, 10].

    Returns: [C], float32.

    Raises:
      InputError: for counts of another shape, or a number out of range.

    References:
      Ha et al., Google Landmark Recognition 2020, arXiv:2010.05350, whose defaults these are.
    """
    check_between("power", power, 0.0, 10.0, open_low=True)
    check_between("largest", largest, 0.0, math.inf)
    check_between("smallest", smallest, 0.0, largest)
    counts = check_counts(counts)
    xp = _numpy_of(counts)
    # (n_c/n_min)^−λ is 1 for the fewest, whatever the numbers; expm1, since λ may be small.
    above = -xp.expm1(-power * xp.log(counts / xp.min(counts)))
    most = xp.max(above)
    margins = largest - (largest - smallest) * above / xp.where(most > 0.0, most, 1.0)
    return jnp.asarray(margins, jnp.float32)


def weights_by_size(counts: Any, balance: Balance = "inverse", beta: float = 0.999) -> jax.Array:
    """What an example of each class weighs, so that rare classes count as much as others.

    "inverse" is 1/n_c. "effective" is (1 − β)/(1 − β^n_c), the inverse of the effective number of
    images: for small n_c nearly 1/n_c, and from n_c = 1/(1 − β) on nearly the same for all. They
    are scaled so that a training image weighs 1 on average: Σ n_c·w_c = Σ n_c. (The paper has
    Σ w_c = C.)

    Args:
      counts: n_c, [C].
      balance: inverse or effective; none gives ones.
      beta: β in (0, 1).

    Returns: w_c, [C], float32.

    Raises:
      InputError: for counts of another shape, another balance, or β out of range.

    References:
      Cui et al., Class-balanced loss based on effective number of samples, arXiv:1901.05555.
    """
    check_choice("balance", balance, ("none", "inverse", "effective"))
    check_beta("beta", beta)
    counts = check_counts(counts)
    if balance == "none":
        return jnp.ones(counts.shape, jnp.float32)
    xp = _numpy_of(counts)
    effective = -xp.expm1(counts * math.log(beta)) if balance == "effective" else counts
    return jnp.asarray(xp.sum(counts) / xp.sum(counts / effective) / effective, jnp.float32)


def check_beta(name: str, beta: float) -> None:
    """Raises InputError unless β is in (0, 1)."""
    if not 0.0 < beta < 1.0:
        raise InputError(f"{name} is {beta:g}; pass a number above 0 and below 1")
