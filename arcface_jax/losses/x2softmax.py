"""X2-Softmax: a parabola of the angle in place of its cosine, a margin that grows with the angle.

References:
  Xu et al., X2-Softmax, arXiv:2312.05281; a, h and k are those of the authors' run.
"""

import dataclasses
from typing import Literal

from arcface_jax.losses.loss import Context
from arcface_jax.losses.softmax import MarginSoftmax
from arcface_jax.margins import QuadraticMargin, x2softmax


@dataclasses.dataclass(frozen=True)
class X2Softmax(MarginSoftmax, name="x2softmax"):
    """s·(a·(θ − h)² + k): a quadratic margin (arXiv:2312.05281)."""

    a: float = -0.9
    """How steeply it falls with the angle; in [−100, −0.001]."""
    h: float = 0.0
    """The angle of its top, radians, in [−π, 0]: from 0 on it falls."""
    k: float = 0.65
    """Its height there, in [−1, 1]."""
    gradient: Literal["exact", "straight_through"] = "straight_through"
    """exact: of the margin as written. straight_through: the margin counts as a constant, as in the
    authors' code.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.psi(Context())

    def formula(self) -> str:
        """The target logit over s, for people."""
        rule = "" if self.gradient == "exact" else ", straight-through gradient"
        away = f"(θ + {-self.h:g})" if self.h else "θ"
        return f"({self.a:g}·{away}² + {self.k:g}){rule}"

    def psi(self, context: Context) -> QuadraticMargin:
        """The margin, the same at every step."""
        return x2softmax(self.a, self.h, self.k, gradient=self.gradient)
