"""ExpFace: a margin that is a power of the angle, largest in between and gone at 0 and π.

References:
  Zheng and Gong, ExpFace, arXiv:2509.19753.
"""

import dataclasses
from typing import Literal

from arcface_jax.losses.loss import Context
from arcface_jax.losses.softmax import MarginSoftmax
from arcface_jax.margins import PowerMargin, expface


@dataclasses.dataclass(frozen=True)
class ExpFace(MarginSoftmax, name="expface"):
    """s·cos(π·(θ/π)^m): the exponential angular margin (arXiv:2509.19753)."""

    margin: float = 0.7
    """m, a power, in (0, 1]; 1 is no margin."""
    gradient: Literal["exact", "straight_through"] = "straight_through"
    """exact: of the margin as written. straight_through: the margin counts as a constant, as in the
    authors' code.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        expface(self.margin, gradient=self.gradient)

    def formula(self) -> str:
        """The target logit over s, for people."""
        rule = "" if self.gradient == "exact" else ", straight-through gradient"
        return f"cos(π·(θ/π)^{self.margin:g}){rule}"

    def psi(self, context: Context) -> PowerMargin:
        """The margin, the same at every step."""
        return expface(self.margin, gradient=self.gradient)
