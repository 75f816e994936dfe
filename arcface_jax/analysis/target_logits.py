"""A margin over the angle: target logit, slopes, and where the loss pulls the embedding.

Below, psi is any margin that acts on each cosine alone, with the gradient that training uses;
`degrees` [K] are θ_y, in [0°, 180°] (InputError outside).
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from arcface_jax.arguments import check_between, check_positive
from arcface_jax.errors import InputError
from arcface_jax.losses import margin_cross_entropy
from arcface_jax.margins import Psi

# Rounding and the guard under the sine's root stay far below this; a psi that truly rises does not.
_RISING = 1e-5


def psi_at(psi: Psi, theta: np.ndarray) -> np.ndarray:
    """psi(cosθ) in float64, whatever JAX's default precision.

    `theta` is in radians, of any shape; the result has the same shape.
    """
    with jax.enable_x64(True):
        return np.asarray(psi(jnp.cos(jnp.asarray(theta, jnp.float64))))


@dataclasses.dataclass(frozen=True)
class TargetCurve:
    """A target-logit curve, all float64 [K].

    Attributes:
      degrees: θ.
      value: psi(cosθ), what takes the place of the true class's cosine.
      cosine_slope: d psi/d cosθ.
      angle_slope: d psi/dθ, θ in radians; −sinθ · cosine_slope. Positive where psi rises with the
        angle.
    """

    degrees: np.ndarray
    value: np.ndarray
    cosine_slope: np.ndarray
    angle_slope: np.ndarray


def target_curve(psi: Psi, degrees: np.ndarray) -> TargetCurve:
    """psi and its slopes over the angle, by automatic differentiation (the paper's analysis).

    Training sees these slopes: with `gradient="straight_through"` the slope d psi/d cosθ is 1,
    whatever psi's values.

    References:
      Deng et al., ArcFace, arXiv:1801.07698, section "comparison with SphereFace and CosFace", the
      target-logit curves.
    """
    theta = _radians(degrees)
    with jax.enable_x64(True):
        # Compiled as one: op by op, each new number of angles would compile every operation.
        cosine_slope = jax.jit(jax.vmap(jax.grad(lambda cosine: psi(cosine))))(
            jnp.cos(jnp.asarray(theta))
        )
        angle_slope = _angle_slope(psi)(jnp.asarray(theta))
    return TargetCurve(
        np.degrees(theta), psi_at(psi, theta), np.asarray(cosine_slope), np.asarray(angle_slope)
    )


def _angle_slope(psi: Psi) -> Callable[[jax.Array], jax.Array]:
    """d psi(cosθ)/dθ of angles [K], compiled."""
    return jax.jit(jax.vmap(jax.grad(lambda theta: psi(jnp.cos(theta)))))


@dataclasses.dataclass(frozen=True)
class LossCurve:
    """The loss over the angle to the true class, all float64 [K].

    Attributes:
      degrees: θ_y.
      loss: L, in nats.
      gradient: dL/dθ_y, per radian. Positive where descent turns the embedding towards its class,
        negative where it turns it away.
    """

    degrees: np.ndarray
    loss: np.ndarray
    gradient: np.ndarray


def loss_curve(
    psi: Psi, degrees: np.ndarray, *, scale: float = 64.0, num_classes: int = 10_572
) -> LossCurve:
    r"""The loss and its gradient with respect to θ_y, all other classes at 90°:

        L = −log( e^{s·psi(cosθ_y)} / (e^{s·psi(cosθ_y)} + C − 1) ),
        dL/dθ_y = s·(p_y − 1)·d psi/dθ_y = s·(1 − p_y)·sinθ_y·d psi/d cosθ_y.

    With a straight-through gradient d psi/d cosθ_y is 1. p_y lies between 0 and 1, so the sign is
    that of −d psi/dθ_y, for any scale and number of classes; see `repulsive_intervals`.

    Args:
      degrees: θ_y, [K].
      scale: s.
      num_classes: C ≥ 2; the default is CASIA-WebFace's.

    Returns: the curve, from `losses.margin_cross_entropy` and automatic differentiation.

    Raises:
      InputError: for an angle outside [0°, 180°], a scale that is not positive, or fewer than two
        classes.

    References: Deng et al., ArcFace, arXiv:1801.07698, eq. 3.
    """
    theta = _radians(degrees)
    check_positive("scale", scale)
    check_between("num_classes", num_classes, 2, math.inf)
    # C − 1 rivals at cosine 0 weigh e^{s·0}·(C − 1) in the sum: as much as a single one at ln(C −
    # 1)/s.
    rival = math.log(num_classes - 1) / scale
    labels = jnp.zeros(theta.shape, jnp.int32)

    def losses(angles: jax.Array) -> jax.Array:
        target = jnp.cos(angles)
        cosines = jnp.stack([target, jnp.full_like(target, rival)], axis=1)
        return margin_cross_entropy(cosines, labels, psi=psi, scale=scale)

    with jax.enable_x64(True):
        # Each loss depends on its own angle alone, so moving all angles at once gives every
        # derivative.
        value, gradient = jax.jit(
            lambda angles: jax.jvp(losses, (angles,), (jnp.ones_like(angles),))
        )(theta)
        return LossCurve(np.degrees(theta), np.asarray(value), np.asarray(gradient))


def repulsive_intervals(psi: Psi, *, step: float = 0.05) -> list[tuple[float, float]]:
    """Where the loss pushes embeddings away from their class: d psi/dθ > 0, so dL/dθ_y < 0.

    An embedding that stays there ends up opposite to its class. For ArcFace with the formula's
    exact gradient this begins at π − m. Ends are accurate to 0.001°; an interval narrower than
    `step` may be missed.

    Args:
      step: of the first grid of angles, in degrees.

    Returns: (first, last) in degrees, in order; none if descent never pushes the embedding away
      from its class.

    Raises:
      InputError: for a step that is not positive, or above one degree.
    """
    check_between("step", step, 0.0, 1.0, open_low=True)
    # The slope is zero at both ends by symmetry: begin half a step inside.
    degrees = np.linspace(0.5 * step, 180.0 - 0.5 * step, max(round(180.0 / step), 2))

    slope = _angle_slope(psi)

    def rises(at: np.ndarray) -> np.ndarray:
        with jax.enable_x64(True):
            return np.asarray(slope(jnp.radians(jnp.asarray(at)))) > _RISING

    inside = rises(degrees)
    changes = np.flatnonzero(inside[1:] != inside[:-1])
    edges = _bisect(rises, degrees[changes], degrees[changes + 1]) if len(changes) else np.zeros(0)
    ends = [*([0.0] if inside[0] else []), *edges.tolist(), *([180.0] if inside[-1] else [])]
    return list(zip(ends[::2], ends[1::2], strict=True))


def common_push(psi: Psi, degrees: np.ndarray) -> np.ndarray:
    r"""The part of the gradient that all cosines share, for one example at the angle θ_y:

        Σ_j ∂L/∂cosθ_j = s·(1 − p_y)·(1 − d psi/d cosθ_y),     of which this is the last factor.

    Where it is positive, descent pushes the embedding and all class weights apart; where it is
    zero, the pull on the true class equals the push on the others. It is zero everywhere for a
    softmax, for CosFace, and for any margin with a straight-through gradient. For ArcFace it is 1 −
    sin(θ + m)/sinθ, positive above θ = 90° − m/2. An untrained network starts there, at 90°, with
    all embeddings pointing one way, so one push moves them all. Unless they part soon, all angles
    grow together. A larger scale or margin makes this likelier. A margin that grows slowly avoids
    it, and so does the rule past π called "easy", which has no margin above 90°.

    Returns: 1 − d psi/d cosθ_y, float64 [K].
    """
    return np.asarray(1.0 - target_curve(psi, degrees).cosine_slope)


def _bisect(
    flag: Callable[[np.ndarray], np.ndarray], low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """The place where a truth value changes between each low and high."""
    at_low = flag(low)
    for _ in range(20):
        middle = 0.5 * (low + high)
        as_low = flag(middle) == at_low
        low, high = np.where(as_low, middle, low), np.where(as_low, high, middle)
    return 0.5 * (low + high)


def _radians(degrees: np.ndarray) -> np.ndarray:
    degrees = np.asarray(degrees, np.float64)
    if degrees.ndim != 1:
        raise InputError(f"degrees has shape {degrees.shape}; pass a list of angles, [K]")
    check_between("degrees", degrees, 0.0, 180.0)
    return np.radians(degrees)
