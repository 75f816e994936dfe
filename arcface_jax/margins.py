r"""Margins: psi, the function of the true class's cosine that stands between cosine similarity and
cross-entropy.

Every margin of the family is

    psi(cosθ) = cos(m1·θ + m2) − m3

with three numbers (SphereFace m1, ArcFace m2, CosFace m3), a rule for angles whose m1·θ + m2 is
past π, and one of two gradients. A psi is a small frozen object, called with cosines and returning
cosines of the same shape:

    psi = arcface(0.5)
    psi(jnp.cos(theta))             # cos(θ + 0.5)

With numbers for margins it is hashable and compares by value, so it may be a static argument of
`jax.jit`; with arrays (a margin for each example) it is a pytree whose leaves are those arrays.
Wherever this library takes a psi, any function from cosines to cosines will do.

References:
  Deng et al., ArcFace, arXiv:1801.07698, eq. 4. Liu et al., SphereFace, arXiv:1704.08063.
  Wang et al., CosFace, arXiv:1801.09414. Wang et al., NormFace, arXiv:1704.06369.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from arcface_jax.arguments import check_between, check_choice, check_floating, check_labels
from arcface_jax.errors import InputError

Psi = Callable[[jax.Array], jax.Array]

PAST_PI = ("none", "linear", "easy", "clip", "reflect")
GRADIENTS = ("exact", "straight_through")
LARGEST_M1 = 10.0
SINE_GUARD = 1e-6


def guarded_sine(cosine: jax.Array, guard: float = SINE_GUARD) -> jax.Array:
    """sinθ = sqrt(1 − cos²θ + guard); its slope −cosθ/sinθ is finite (at most 1000) at cosθ = ±1.

    A cosine that rounding has carried outside [−1, 1] counts as ±1. 1 − cos² is formed as (1 −
    cos)(1 + cos), which does not cancel.

    Args:
      cosine: cosθ, any shape.
      guard: what is added under the root.

    Returns: an array like `cosine`.
    """
    square = (1.0 - cosine) * (1.0 + cosine)
    # `where` rather than `maximum`, which would halve the slope at exactly ±1.
    return jnp.sqrt(jnp.where(square < 0.0, 0.0, square) + guard)


def multiple_angle(cosine: jax.Array, sine: jax.Array, factor: Any) -> tuple[jax.Array, jax.Array]:
    """(cos kθ, sin kθ): Chebyshev polynomials for a Python float k that is whole, the angle itself
    otherwise.

    Args:
      cosine: cosθ, any shape.
      sine: sinθ, the same shape.
      factor: k > 0; a number or an array that broadcasts.

    Returns: two arrays like `cosine`.
    """
    if isinstance(factor, float) and factor.is_integer():
        first: tuple[Any, Any] = (1.0, cosine)  # T_0, T_1
        second: tuple[Any, Any] = (0.0, 1.0)  # U_−1, U_0
        for _ in range(int(factor) - 1):
            first = (first[1], 2.0 * cosine * first[1] - first[0])
            second = (second[1], 2.0 * cosine * second[1] - second[0])
        return first[1], sine * second[1]
    theta = factor * jnp.arctan2(sine, cosine)
    return jnp.cos(theta), jnp.sin(theta)


@jax.custom_jvp
def straight_through(cosine: jax.Array, value: jax.Array) -> jax.Array:
    """`value`, with the derivative of `cosine`: value − cosine is treated as a constant.

    For a margin this makes the loss's slope dL/dcosθ_y = s·(p_y − 1), whatever the margin. Nothing
    flows to what `value` was made from.

    Args:
      cosine: any shape.
      value: the same shape and dtype.

    Returns: `value`.
    """
    del cosine
    return value


@straight_through.defjvp
def _straight_through_jvp(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Any, Any]:
    return primals[1], tangents[0]


def _cos(x: Any) -> Any:
    """Cosine, as a Python float (which never widens a dtype) when x is one."""
    return math.cos(x) if isinstance(x, float) else jnp.cos(x)


def _sin(x: Any) -> Any:
    return math.sin(x) if isinstance(x, float) else jnp.sin(x)


def _angle_where(total: float, m1: Any, m2: Any) -> Any:
    """The θ in [0, π] at which m1·θ + m2 reaches `total`, or the nearer end where none does."""
    theta = (total - m2) / m1
    return (
        min(max(theta, 0.0), math.pi) if isinstance(theta, float) else jnp.clip(theta, 0.0, math.pi)
    )


def _formula(cosine: jax.Array, m1: Any, m2: Any, guard: float) -> jax.Array:
    """cos(m1·θ + m2) by the angle-addition formula."""
    if isinstance(m2, float) and m2 == 0.0 and isinstance(m1, float) and m1 == 1.0:
        return cosine
    multiple_cosine, multiple_sine = multiple_angle(cosine, guarded_sine(cosine, guard), m1)
    return multiple_cosine * _cos(m2) - multiple_sine * _sin(m2)


def _linear_drop(m1: Any, m2: Any) -> Any:
    """What the linear rule takes from cosθ: δ·sinδ, δ = π − θ*, θ* the angle of the switch; m·sin m
    for ArcFace.

    At θ* the first-order expansion of cos(m1θ + m2) about θ is cosθ − (π − θ*)·sinθ*, hence the
    form. Past δ = 2.33 rad that would make psi jump up at the switch, so 1 − cosδ is the least it
    takes.
    """
    delta = math.pi - _angle_where(math.pi, m1, m2)
    expansion, least = delta * _sin(delta), 1.0 - _cos(delta)
    return max(expansion, least) if isinstance(delta, float) else jnp.maximum(expansion, least)


def _half_turns(cosine: jax.Array, m1: Any, m2: Any) -> jax.Array:
    """How many multiples of π lie below m1·θ + m2 (π among them, 0 not), from comparisons of
    cosines alone.
    """
    most = (m1 if isinstance(m1, float) else LARGEST_M1) * math.pi + (
        m2 if isinstance(m2, float) else math.pi
    )

    def is_passed(k: int) -> jax.Array:
        below = cosine < _cos(_angle_where(k * math.pi, m1, m2))
        # An array's largest sum is not known: a multiple that it does not reach lies beyond π,
        # wherever the cosine is.
        reached = k * math.pi <= m1 * math.pi + m2
        return below & reached if isinstance(reached, jax.Array) else below

    passed = [is_passed(k) for k in range(1, math.floor(most / math.pi) + 1)]
    return sum((p.astype(cosine.dtype) for p in passed), jnp.zeros_like(cosine))


def number(value: Any) -> Any:
    """A margin as its psi keeps it: a Python float (static), or a JAX array (a leaf) if it is
    an array or traced.
    """
    if isinstance(value, jax.Array):
        return value
    return float(value) if np.ndim(value) == 0 else jnp.asarray(value)


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True)
class CombinedMargin:
    """psi(cosθ) = cos(m1·θ + m2) − m3 with a rule past π and a choice of gradient; make one with
    `combined`.

    The class does not check its numbers, so that adaptive losses can shift an angle either way.
    Python floats are static (part of the pytree's structure, hashed); arrays are leaves, and have
    no axis that the cosines lack. `exactness` w makes the slope w·psi' + 1 − w: a loss that changes
    its gradient during a run sets it.
    """

    m1: Any = 1.0
    m2: Any = 0.0
    m3: Any = 0.0
    past_pi: str = "none"
    gradient: str = "exact"
    clip_epsilon: float = 1e-4
    exactness: Any = 1.0

    def __call__(self, cosine: jax.Array) -> jax.Array:
        """psi of each cosine; computed in float32 (float64 for float64) and returned in the
        cosine's dtype.
        """
        given = jnp.asarray(cosine)
        cosine = given.astype(jnp.promote_types(given.dtype, jnp.float32))
        m1, m2, m3 = (self._fitted(name, cosine) for name in ("m1", "m2", "m3"))
        value = self._angular(cosine, m1, m2) - m3
        if self.gradient == "straight_through":
            value = straight_through(jnp.broadcast_to(cosine, value.shape), value)
        elif not isinstance(self.exactness, float) or self.exactness != 1.0:
            mixed = cosine + self._fitted("exactness", cosine) * (value - cosine)
            value = straight_through(mixed, value)
        return value.astype(given.dtype)

    def scaled(self, share: Any) -> Self:
        """The margin with this share of each number: m1 from 1, m2 and m3 from 0.

        Args:
          share: 0 for no margin, 1 for all of it; a number or an array, [N] for each example.
        """

        def part(margin: Any, none: float) -> Any:
            fixed = isinstance(margin, float) and margin == none  # stays a number
            return margin if fixed else none + share * (margin - none)

        return dataclasses.replace(
            self, m1=part(self.m1, 1.0), m2=part(self.m2, 0.0), m3=part(self.m3, 0.0)
        )

    def _fitted(self, name: str, cosine: jax.Array) -> Any:
        """The margin of this name, an array in the cosine's dtype and of a shape that
        broadcasts to the cosine's.
        """
        margin = getattr(self, name)
        if isinstance(margin, float):
            return margin
        if np.ndim(margin) and np.shape(margin) != cosine.shape[cosine.ndim - np.ndim(margin) :]:
            raise InputError(
                f"{name} has shape {np.shape(margin)}; pass a number or one for each of "
                f"{cosine.shape}"
            )
        return jnp.asarray(margin).astype(cosine.dtype)

    def _angular(self, cosine: jax.Array, m1: Any, m2: Any) -> jax.Array:
        """What stands for cos(m1·θ + m2) under the rule."""
        if self.past_pi == "clip":
            low, high = self.clip_epsilon, math.pi - self.clip_epsilon
            cosine = jnp.clip(cosine, -1.0 + self.clip_epsilon, 1.0 - self.clip_epsilon)
            value = _formula(
                cosine, m1, m2, guard=0.0
            )  # the clipped cosine keeps the sine from zero
            value = jnp.where(cosine < _cos(_angle_where(high, m1, m2)), math.cos(high), value)
            return jnp.where(cosine > _cos(_angle_where(low, m1, m2)), math.cos(low), value)
        value = _formula(cosine, m1, m2, SINE_GUARD)
        if self.past_pi == "linear":
            past = cosine < _cos(_angle_where(math.pi, m1, m2))
            return jnp.where(past, cosine - _linear_drop(m1, m2), value)
        if self.past_pi == "easy":
            return jnp.where(cosine > 0.0, value, cosine)
        if self.past_pi == "reflect":
            turns = _half_turns(cosine, m1, m2)
            return (1.0 - 2.0 * (turns % 2.0)) * value - 2.0 * turns
        return value

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """The margins that are arrays, then all that is static."""
        numbers = (self.m1, self.m2, self.m3, self.exactness)
        static = tuple(m if isinstance(m, float) else None for m in numbers)
        leaves = tuple(m for m in numbers if not isinstance(m, float))
        return leaves, (*static, self.past_pi, self.gradient, self.clip_epsilon)

    @classmethod
    def tree_unflatten(cls, static: tuple[Any, ...], leaves: tuple[Any, ...]) -> Self:
        """The inverse of `tree_flatten`."""
        remaining = iter(leaves)
        m1, m2, m3, exactness = (next(remaining) if m is None else m for m in static[:4])
        past_pi, gradient, clip_epsilon = static[4:]
        return cls(m1, m2, m3, past_pi, gradient, clip_epsilon, exactness)


def combined(
    m1: Any,
    m2: Any,
    m3: Any,
    *,
    past_pi: str = "none",
    gradient: str = "exact",
    clip_epsilon: float = 1e-4,
) -> CombinedMargin:
    r"""psi(cosθ) = cos(m1·θ + m2) − m3, the combined margin of the ArcFace paper (its eq. 4).

    Computed by the angle-addition formula with sinθ = sqrt(1 − cos²θ + 1e-6): no arccos, except
    where m1 is not a whole number, where θ = atan2(sinθ, cosθ). The slope is finite everywhere.

    `past_pi` says what stands in place of cos(m1θ + m2) where that angle is past π. (The
    subtraction of m3 stays.) With θ* = (π − m2)/m1, the angle where it reaches π:

      none     the formula goes on; psi turns round and rises again with θ. The paper's, and
               arcface_torch's.
      linear   cosθ − δ·sinδ, δ = π − θ*; for m1 = 1 that is cosθ − m2·sin m2. Falls throughout,
               jumps down at θ*.
      easy     cosθ, and that from θ = 90° on (the margin applies only where cosθ > 0). Jumps up at
               90°. MagFace's.
      clip     the angle is clipped to [ε, π − ε], after cosθ to [−1 + ε, 1 − ε]; ε is
               `clip_epsilon`; zero slope in the clipped part. AdaFace's.
      reflect  (−1)^k·cos(m1θ + m2) − 2k with k = ⌊(m1θ + m2)/π⌋; −2 − cos(θ + m2) for ArcFace.
               Continuous and falling throughout, to within the guard's m1²·1e-6; for m1 = 2, 3, 4
               this is SphereFace's own psi.

    For m1 ≥ 1, psi ≤ cosθ everywhere with linear and reflect, everywhere to within ε with clip, and
    with none and easy as long as (m1 + 1)·θ + m2 ≤ 2π.

    `gradient` is "exact" (of psi as written) or "straight_through" (psi − cosθ counts as a
    constant, so that dL/dcosθ_y = s(p_y − 1), as when arcface_torch computes the margin without
    gradients).

    Args:
      m1: multiplies the angle; in (0, 10]. A number, or an array whose shape is that of the cosines
        (or its end).
      m2: is added to the angle; radians, in [0, π]. A number or an array, [N] for a margin for each
        example.
      m3: is subtracted from the cosine; in [0, 2]. A number or an array.
      past_pi: one of none, linear, easy, clip, reflect.
      gradient: exact or straight_through.
      clip_epsilon: ε of the clip rule, in (0, 0.1]; no other rule has it.

    Returns: psi; cosines [...] -> cosines [...].

    Raises:
      InputError: for a value outside these ranges (not for values inside a trace).

    References:
      Deng et al., ArcFace, arXiv:1801.07698.
    """
    check_between("m1", m1, 0.0, LARGEST_M1, open_low=True)
    check_between("m2", m2, 0.0, math.pi)
    check_between("m3", m3, 0.0, 2.0)
    check_choice("past_pi", past_pi, PAST_PI)
    check_choice("gradient", gradient, GRADIENTS)
    check_between("clip_epsilon", clip_epsilon, 0.0, 0.1, open_low=True)
    return CombinedMargin(
        number(m1), number(m2), number(m3), past_pi, gradient, float(clip_epsilon)
    )


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True)
class AnnealedMargin:
    """psi(cosθ) = (λ·cosθ + inner(cosθ))/(1 + λ); make one with `annealed`."""

    inner: Psi
    weight: Any

    def __call__(self, cosine: jax.Array) -> jax.Array:
        """psi of each cosine, in the cosine's dtype."""
        cosine = jnp.asarray(cosine)
        return ((self.weight * cosine + self.inner(cosine)) / (1.0 + self.weight)).astype(
            cosine.dtype
        )

    def scaled(self, share: Any) -> Self:
        """With this share of the inner margin, as `CombinedMargin.scaled` has it."""
        inner: Any = self.inner
        return dataclasses.replace(self, inner=inner.scaled(share))

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Leaves: what of the inner psi and of the weight is arrays."""
        inner_is_tree = isinstance(self.inner, CombinedMargin | AnnealedMargin)
        weight_is_static = isinstance(self.weight, float)
        leaves = (self.inner if inner_is_tree else None, None if weight_is_static else self.weight)
        return leaves, (
            None if inner_is_tree else self.inner,
            self.weight if weight_is_static else None,
        )

    @classmethod
    def tree_unflatten(cls, static: tuple[Any, ...], leaves: tuple[Any, ...]) -> Self:
        """The inverse of `tree_flatten`."""
        inner, weight = (
            leaf if fixed is None else fixed for fixed, leaf in zip(static, leaves, strict=True)
        )
        return cls(inner, weight)


def annealed(inner: Psi, weight: Any) -> AnnealedMargin:
    """psi(cosθ) = (λ·cosθ + inner(cosθ))/(1 + λ): a margin that comes in as λ falls from large to
    small.

    Args:
      inner: any psi.
      weight: λ ≥ 0; a number, or a scalar array that changes from step to step without recompiling.

    Returns: psi.

    Raises:
      InputError: for λ below zero.

    References:
      Liu et al., SphereFace, arXiv:1704.08063, section 3.
    """
    check_between("weight", weight, 0.0, math.inf)
    return AnnealedMargin(inner, number(weight))


def sphereface_annealing(
    step: Any,
    *,
    base: float = 1000.0,
    gamma: float = 0.12,
    power: float = 1.0,
    minimum: float = 5.0,
) -> jax.Array:
    """λ at a step: max(minimum, base·(1 + gamma·step)^−power), with the values of SphereFace's
    published solver.

    Args:
      step: 0, 1, 2, …; a number or an array.
      base: λ at step 0.
      gamma: how fast it falls.
      power: of the fall.
      minimum: the λ it ends at.

    Returns: λ, an array like `step`.
    """
    return jnp.maximum(minimum, base * (1.0 + gamma * jnp.asarray(step)) ** -power)


def normface() -> CombinedMargin:
    """psi(cosθ) = cosθ: no margin; softmax over cosines, as in NormFace (arXiv:1704.06369)."""
    return combined(1.0, 0.0, 0.0)


softmax_on_sphere = normface


def sphereface(m1: Any = 1.35, *, past_pi: str = "none", gradient: str = "exact") -> CombinedMargin:
    """psi(cosθ) = cos(m1·θ); 1.35 is the ArcFace paper's setting. See `sphereface_original` for
    SphereFace's own.
    """
    return combined(m1, 0.0, 0.0, past_pi=past_pi, gradient=gradient)


def arcface(margin: Any = 0.5, *, past_pi: str = "none", gradient: str = "exact") -> CombinedMargin:
    """psi(cosθ) = cos(θ + margin), margin in radians: the additive angular margin
    (arXiv:1801.07698, eq. 3).
    """
    check_between("margin", margin, 0.0, math.pi)
    return combined(1.0, margin, 0.0, past_pi=past_pi, gradient=gradient)


# The default psi of every loss.
ARCFACE = arcface(0.5)


def cosface(margin: Any = 0.35) -> CombinedMargin:
    """psi(cosθ) = cosθ − margin: the additive cosine margin (arXiv:1801.09414). Its slope is 1
    and no rule applies.
    """
    check_between("margin", margin, 0.0, 2.0)
    return combined(1.0, 0.0, margin)


def cm1(*, past_pi: str = "none", gradient: str = "exact") -> CombinedMargin:
    """CM1 of the ArcFace paper: (m1, m2, m3) = (1, 0.3, 0.2)."""
    return combined(1.0, 0.3, 0.2, past_pi=past_pi, gradient=gradient)


def cm2(*, past_pi: str = "none", gradient: str = "exact") -> CombinedMargin:
    """CM2 of the ArcFace paper: (m1, m2, m3) = (0.9, 0.4, 0.15)."""
    return combined(0.9, 0.4, 0.15, past_pi=past_pi, gradient=gradient)


def sphereface_original(
    m: int = 4, *, weight: Any = 5.0, gradient: str = "exact"
) -> AnnealedMargin:
    """SphereFace's own margin: (λ·cosθ + (−1)^k·cos(mθ) − 2k)/(1 + λ) with k = ⌊mθ/π⌋.

    The paper multiplies it by the length of the embedding, not by a constant: pass
    scale=row_norms(embeddings).

    Args:
      m: a whole number from 1 to 10.
      weight: λ; see `sphereface_annealing`. The paper ends at 5.
      gradient: exact or straight_through.

    Returns: psi.

    Raises:
      InputError: for an m that is not whole or out of range, or λ below zero.

    References:
      Liu et al., SphereFace, arXiv:1704.08063, eq. 7.
    """
    if int(m) != m:
        raise InputError(f"m is {m}; pass a whole number (`sphereface` takes a real one)")
    return annealed(combined(m, 0.0, 0.0, past_pi="reflect", gradient=gradient), weight)


@dataclasses.dataclass(frozen=True)
class _AngleMargin:
    """psi as a function of the angle itself, which is never nearer to 0 and π than 1e-3."""

    gradient: str

    def of_angle(self, theta: jax.Array) -> jax.Array:
        raise NotImplementedError

    def __call__(self, cosine: jax.Array) -> jax.Array:
        """psi of each cosine; computed in float32 (float64 for float64) and returned in the
        cosine's dtype.
        """
        given = jnp.asarray(cosine)
        cosine = given.astype(jnp.promote_types(given.dtype, jnp.float32))
        value = self.of_angle(jnp.arctan2(guarded_sine(cosine), cosine))
        if self.gradient == "straight_through":
            value = straight_through(cosine, value)
        return value.astype(given.dtype)


@dataclasses.dataclass(frozen=True)
class PowerMargin(_AngleMargin):
    """psi(cosθ) = cos(π·(θ/π)^m); make one with `expface`."""

    m: float

    def of_angle(self, theta: jax.Array) -> jax.Array:
        """psi of each angle."""
        return jnp.cos(math.pi * (theta / math.pi) ** self.m)


@dataclasses.dataclass(frozen=True)
class QuadraticMargin(_AngleMargin):
    """psi(cosθ) = a·(θ − h)² + k; make one with `x2softmax`."""

    a: float
    h: float
    k: float

    def of_angle(self, theta: jax.Array) -> jax.Array:
        """psi of each angle."""
        return self.a * (theta - self.h) ** 2 + self.k


def expface(margin: float = 0.7, *, gradient: str = "exact") -> PowerMargin:
    """psi(cosθ) = cos(π·(θ/π)^m): the exponential angular margin. It falls from 1 to −1 with the
    angle, and never passes π.

    With m below 1 the exact slope grows towards θ = 0, as θ^{2m − 2}; the guard of the sine ends
    that at θ = 1e-3.

    Args:
      margin: m in (0, 1]; 1 is no margin.
      gradient: exact or straight_through; see `combined`.

    Returns: psi.

    Raises:
      InputError: for a number out of range, or another gradient.

    References:
      Zheng and Gong, ExpFace, arXiv:2509.19753.
    """
    check_between("margin", margin, 0.0, 1.0, open_low=True)
    check_choice("gradient", gradient, GRADIENTS)
    return PowerMargin(gradient, float(margin))


def x2softmax(
    a: float = -0.9, h: float = 0.0, k: float = 0.65, *, gradient: str = "exact"
) -> QuadraticMargin:
    """psi(cosθ) = a·(θ − h)² + k: a parabola, whose margin grows with the angle.

    Args:
      a: in [−100, −0.001].
      h: radians, in [−π, 0].
      k: in [−1, 1].
      gradient: exact or straight_through; see `combined`.

    Returns: psi.

    Raises:
      InputError: for a number out of range, or another gradient.

    References:
      Xu et al., X2-Softmax, arXiv:2312.05281.
    """
    check_between("a", a, -100.0, -1e-3)
    check_between("h", h, -math.pi, 0.0)
    check_between("k", k, -1.0, 1.0)
    check_choice("gradient", gradient, GRADIENTS)
    return QuadraticMargin(gradient, float(a), float(h), float(k))


def class_wise(margins: jax.Array, labels: jax.Array) -> jax.Array:
    """Each example's margin from a margin for each class: arcface(class_wise(margins, labels)).

    Args:
      margins: [C].
      labels: [N] integers in [0, C); an ignored label, −1, gets some class's margin, which its loss
        of 0 hides.

    Returns: [N].

    Raises:
      InputError: for a wrong shape, dtype or label.
    """
    margins = check_floating("margins", margins, 1)
    labels = check_labels(labels, jnp.size(labels), margins.shape[0])
    return jnp.take(margins, labels, mode="clip")


# Every margin with fixed numbers that the ArcFace paper compares, by the name used in commands and
# figures.
NAMED_MARGINS: dict[str, Psi] = {
    "softmax": normface(),
    "sphereface": sphereface(),
    "arcface": arcface(),
    "cosface": cosface(),
    "cm1": cm1(),
    "cm2": cm2(),
    "sphereface_original": sphereface_original(),
}
