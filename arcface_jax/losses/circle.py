"""Circle loss with class-level labels: the farther a cosine is from where it should be, the harder
it is pulled.

References:
  Sun et al., Circle Loss, arXiv:2002.10857, section 3; γ and m of its face recognition.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp

from arcface_jax.arguments import check_between
from arcface_jax.heads.class_sums import Eta
from arcface_jax.losses.loss import Context
from arcface_jax.losses.softmax import MarginSoftmax
from arcface_jax.margins import Psi


def circle_psi(cosine: jax.Array, margin: float) -> jax.Array:
    """α·(cosθ − (1 − m)) with α = max(0, 1 + m − cosθ), a constant to differentiation.

    Args:
      cosine: of the true class, any shape.
      margin: m.

    Returns: an array like `cosine`, whose slope is α.
    """
    weight = jax.lax.stop_gradient(jnp.maximum(1.0 + margin - cosine, 0.0))
    return weight * (cosine - (1.0 - margin))


def circle_eta(cosine: jax.Array, margin: float) -> jax.Array:
    """α·(cosθ − m) with α = max(0, cosθ + m), a constant to differentiation.

    Args:
      cosine: of wrong classes, any shape.
      margin: m.

    Returns: an array like `cosine`, whose slope is α.
    """
    weight = jax.lax.stop_gradient(jnp.maximum(cosine + margin, 0.0))
    return weight * (cosine - margin)


@dataclasses.dataclass(frozen=True)
class Circle(MarginSoftmax, name="circle"):
    """Softmax of γ·[1 + m − cosθ]₊·(cosθ − 1 + m), wrong classes γ·[cosθ + m]₊·(cosθ − m)
    (arXiv:2002.10857).
    """

    any_kernel: ClassVar[bool] = False

    scale: float = 256.0
    """γ."""
    margin: float = 0.25
    """m, in [0, 1]: the true class's cosine is to pass 1 − m, the others' to stay below m."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_between("margin", self.margin, 0.0, 1.0)

    def formula(self) -> str:
        """The target logit over γ, for people."""
        m = f"{self.margin:g}"
        return f"(1 + {m} − cosθ)·(cosθ − 1 + {m}), wrong classes [cosθ + {m}]₊·(cosθ − {m})"

    def psi(self, context: Context) -> Psi:
        """Of the true class."""
        return functools.partial(circle_psi, margin=self.margin)

    def eta(self, context: Context) -> Eta:
        """Of the wrong classes."""
        return functools.partial(circle_eta, margin=self.margin)
