"""SphereFace-R: SphereFace's multiplied angle, in two ways that a network learns from at once.

Version 1 multiplies the angle to the true class and stops at π, where SphereFace's own psi goes on
in steps. Version 2 divides the angles to all other classes, so that nothing passes π. Both take
the gradient of the cosine in place of the margin's, "characteristic gradient detachment", which is
`gradient="straight_through"`. Features are normalised hard, as in the paper's SphereFace-R (HFN).

References:
  Liu et al., SphereFace Revived, arXiv:2109.05565 (TPAMI 2022); the authors' OpenSphere for s = 30,
  m = 1.5.
"""

import dataclasses
import functools
from typing import ClassVar, Literal

import jax

from arcface_jax.arguments import check_between, check_choice
from arcface_jax.heads.class_sums import Eta
from arcface_jax.losses.arcface import SphereFace
from arcface_jax.losses.loss import Context
from arcface_jax.losses.softmax import MarginSoftmax
from arcface_jax.margins import (
    GRADIENTS,
    LARGEST_M1,
    Psi,
    guarded_sine,
    multiple_angle,
    normface,
    straight_through,
)


@dataclasses.dataclass(frozen=True)
class SphereFaceR(SphereFace, name="sphereface_r"):
    """s·cos(min(m·θ, π)): SphereFace-R, version 1 (arXiv:2109.05565)."""

    scale: float = 30.0
    margin: float = 1.5
    past_pi: Literal["none", "linear", "easy", "clip", "reflect"] = "clip"
    gradient: Literal["exact", "straight_through"] = "straight_through"


def divided_angle(cosine: jax.Array, factor: float, *, gradient: str = "exact") -> jax.Array:
    """η(cosθ) = cos(θ/m), version 2's margin, on the wrong classes.

    Args:
      cosine: cosθ, any shape.
      factor: m > 0.
      gradient: exact or straight_through.

    Returns: an array like `cosine`.
    """
    value, _ = multiple_angle(cosine, guarded_sine(cosine), 1.0 / factor)
    return straight_through(cosine, value) if gradient == "straight_through" else value


@dataclasses.dataclass(frozen=True)
class SphereFaceRV2(MarginSoftmax, name="sphereface_r_v2"):
    """s·cosθ, and s·cos(θ/m) of every wrong class: SphereFace-R, version 2 (arXiv:2109.05565)."""

    any_kernel: ClassVar[bool] = False

    scale: float = 30.0
    margin: float = 1.5
    """m, a divisor of the angle, in (0, 10]; above 1 it is a margin."""
    gradient: Literal["exact", "straight_through"] = "straight_through"
    """exact: of the margin as written. straight_through: the margin counts as a constant, as in the
    paper.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        check_between("margin", self.margin, 0.0, LARGEST_M1, open_low=True)
        check_choice("gradient", self.gradient, GRADIENTS)

    def formula(self) -> str:
        """The target logit over s, for people."""
        rule = "" if self.gradient == "exact" else ", straight-through gradient"
        return f"cos(θ), wrong classes {self.scale:g}·cos(θ/{self.margin:g}){rule}"

    def psi(self, context: Context) -> Psi:
        """None on the true class."""
        return normface()

    def eta(self, context: Context) -> Eta:
        """cos(θ/m)."""
        return functools.partial(divided_angle, factor=self.margin, gradient=self.gradient)
