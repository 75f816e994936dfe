"""MagFace: the longer an embedding, the larger its margin, and a reward for being long.

References:
  Meng et al., MagFace, arXiv:2103.06627, eq. 2 to 4.
"""

import dataclasses
import math
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from arcface_jax.arguments import check_between, check_choice
from arcface_jax.errors import InputError
from arcface_jax.losses.loss import Context
from arcface_jax.losses.softmax import MarginSoftmax
from arcface_jax.margins import PAST_PI, CombinedMargin, combined


def _check_norms(**limits: float) -> None:
    """A lower and an upper limit of lengths, by the names the caller gave them."""
    (low_name, low), (high_name, high) = limits.items()
    check_between(low_name, low, 0.0, math.inf, open_low=True)
    if not high > low:
        raise InputError(f"{high_name} is {high:g}; pass a number above {low_name}, {low:g}")


def _check_margins(**limits: float) -> None:
    """A lower and an upper limit of margins."""
    (low_name, low), (high_name, high) = limits.items()
    check_between(low_name, low, 0.0, math.pi)
    check_between(high_name, high, low, math.pi)


def magface_margins(
    norms: jax.Array,
    *,
    lower_norm: float = 10.0,
    upper_norm: float = 110.0,
    lower_margin: float = 0.45,
    upper_margin: float = 0.8,
) -> jax.Array:
    """m(a) = l_m + (u_m − l_m)·(a − l_a)/(u_a − l_a), a the length of the embedding clipped to
    [l_a, u_a].

    Args:
      norms: [N].
      lower_norm: l_a > 0.
      upper_norm: u_a > l_a.
      lower_margin: l_m, radians, in [0, π].
      upper_margin: u_m, radians, in [l_m, π].

    Returns: [N] radians. The gradient to the length is part of the method.

    Raises:
      InputError: for a number out of range.
    """
    _check_norms(lower_norm=lower_norm, upper_norm=upper_norm)
    _check_margins(lower_margin=lower_margin, upper_margin=upper_margin)
    slope = (upper_margin - lower_margin) / (upper_norm - lower_norm)
    return lower_margin + slope * (jnp.clip(norms, lower_norm, upper_norm) - lower_norm)


def magface_psi(norms: jax.Array, *, past_pi: str = "easy", **limits: float) -> CombinedMargin:
    """psi(cosθ) = cos(θ + m(‖x‖)) for each example, with the authors' easy margin unless another
    rule is named.

    Args:
      norms: [N].
      past_pi: a rule of `arcface_jax.margins`.
      **limits: lower_norm, upper_norm, lower_margin and upper_margin of `magface_margins`.

    Returns: psi for cosines [N].
    """
    return combined(1.0, magface_margins(norms, **limits), 0.0, past_pi=past_pi)


def magface_regulariser(
    norms: jax.Array, *, lower_norm: float = 10.0, upper_norm: float = 110.0
) -> jax.Array:
    """g(a) = 1/a + a/u_a², a the length clipped to [l_a, u_a]: falls with the length, flat at u_a.

    Args:
      norms: [N].
      lower_norm: l_a > 0.
      upper_norm: u_a > l_a.

    Returns: [N].

    Raises:
      InputError: for a number out of range.
    """
    _check_norms(lower_norm=lower_norm, upper_norm=upper_norm)
    clipped = jnp.clip(norms, lower_norm, upper_norm)
    return 1.0 / clipped + clipped / upper_norm**2


@dataclasses.dataclass(frozen=True)
class MagFace(MarginSoftmax, name="magface"):
    """s·cos(θ + m(a)) plus λ_g·g(a), a = ‖x‖, m and g linear and convex (arXiv:2103.06627)."""

    needs_norms: ClassVar[bool] = True

    l_a: float = 10.0
    """Lengths are clipped to [l_a, u_a]; l_a > 0."""
    u_a: float = 110.0
    """Lengths are clipped to [l_a, u_a]; u_a > l_a."""
    l_m: float = 0.45
    """Margin at length l_a, radians, in [0, π]."""
    u_m: float = 0.8
    """Margin at length u_a, radians, in [l_m, π]."""
    regulariser_weight: float = 35.0
    """λ_g ≥ 0, of g(a) = 1/a + a/u_a², the reward for being long."""
    past_pi: Literal["none", "linear", "easy", "clip", "reflect"] = "easy"
    """What stands for cos(θ + m) where θ + m is past π; easy is the authors', linear their other
    choice.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        check_between("regulariser_weight", self.regulariser_weight, 0.0, math.inf)
        check_choice("past_pi", self.past_pi, PAST_PI)
        _check_norms(l_a=self.l_a, u_a=self.u_a)
        _check_margins(l_m=self.l_m, u_m=self.u_m)

    def formula(self) -> str:
        """The target logit over s, for people."""
        where = " where cosθ > 0" if self.past_pi == "easy" else ""
        return f"cos(θ + m(‖x‖)){where}, plus {self.regulariser_weight:g}·g(‖x‖)"

    def psi(self, context: Context) -> CombinedMargin:
        """By the lengths of this batch; their gradient is part of the method."""
        limits = {"lower_norm": self.l_a, "upper_norm": self.u_a}
        margins = {"lower_margin": self.l_m, "upper_margin": self.u_m}
        return magface_psi(context.norms, past_pi=self.past_pi, **limits, **margins)

    def penalty(self, context: Context, target_cosine: jax.Array) -> jax.Array:
        """λ_g·g(‖x‖)."""
        norms = {"lower_norm": self.l_a, "upper_norm": self.u_a}
        return self.regulariser_weight * magface_regulariser(context.norms, **norms)


def magface_loss(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    *,
    lower_norm: float = 10.0,
    upper_norm: float = 110.0,
    lower_margin: float = 0.45,
    upper_margin: float = 0.8,
    **numbers: Any,
) -> jax.Array:
    """`MagFace` as a function.

    Args:
      embeddings: x, [N, D], not normalised.
      class_weights: [C, D].
      labels: [N] integers in [0, C), or −1 for a row to ignore.
      lower_norm: l_a.
      upper_norm: u_a.
      lower_margin: l_m, radians.
      upper_margin: u_m, radians.
      **numbers: further fields of `MagFace`: regulariser_weight, scale, past_pi ….

    Returns: [N].

    Raises:
      InputError: for a wrong shape, dtype, label or number.
    """
    norms: Any = {"l_a": lower_norm, "u_a": upper_norm}
    loss = MagFace(l_m=lower_margin, u_m=upper_margin, **norms, **numbers)
    return loss({"class_weights": class_weights}, {}, embeddings, labels).loss
