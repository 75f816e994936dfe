"""What is known of a margin softmax before any training: its first loss, scales that suit it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from arcface_jax.arguments import check_between, check_positive
from arcface_jax.errors import InputError
from arcface_jax.margins import Psi, arcface

_ANGLES, _LOGARITHMS = 1001, 1000
_NEAR, _LIKELY = math.radians(30.0), 0.75


def expected_initial_loss(num_classes: int, margin: float | Psi, scale: float, dim: int) -> float:
    """The mean loss of random embeddings and class weights, as an untrained network has them.

    With C classes in d dimensions it is

        E ln(e^{s·psi(c_1)} + Σ_{j>1} e^{s·c_j}) − s·E psi(c_1),

    c_j independent with density ∝ (1 − c²)^{(d−3)/2}. For many classes, of which no single one
    makes up the sum, that is nearly s·sin m + ln C + s²/(2d) for ArcFace; for few classes or a
    small d it is far below. A first loss far from this says that something is wrong before any
    training (labels, normalisation, scale).

    Args:
      num_classes: C.
      margin: ArcFace's m in radians, or any psi.
      scale: s.
      dim: d, the dimension of the embedding.

    Returns: the loss, in nats.

    Raises:
      InputError: for a number of classes or dimension below 1, an impossible margin, or scale ≤ 0.
    """
    check_between("num_classes", num_classes, 1, math.inf)
    check_between("dim", dim, 1, math.inf)
    check_positive("scale", scale)
    if not callable(margin):
        check_between("margin", margin, 0.0, math.pi)
        margin = arcface(margin)
    cosines, weights = random_cosines(dim)
    targets = np.asarray(margin(jnp.asarray(cosines, jnp.float32)), np.float64)
    mean_target = float(weights @ targets)
    log_sum = mean_log_sum(scale * targets, weights, scale * cosines, weights, num_classes - 1)
    return log_sum - scale * mean_target


def random_cosines(dim: int, sub_centers: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A grid of cosines between random directions, and the probability of each; with sub-centres
    of the largest of several.
    """
    angles = (np.arange(_ANGLES) + 0.5) * (math.pi / _ANGLES)
    logarithms = (dim - 2) * np.log(np.sin(angles))
    weights = np.exp(logarithms - logarithms.max())
    cosines, weights = np.cos(angles)[::-1], weights[::-1] / weights.sum()
    if sub_centers > 1:
        below = np.append(0.0, np.cumsum(weights)) ** sub_centers
        weights = np.diff(below / below[-1])
    kept = weights > 1e-14
    return cosines[kept], weights[kept] / weights[kept].sum()


def mean_log_sum(
    targets: np.ndarray,
    target_weights: np.ndarray,
    others: np.ndarray,
    other_weights: np.ndarray,
    count: int,
) -> float:
    """E ln(e^t + Σ e^{o_j}) for a target logit t and `count` independent other ones.

    With ln S = ∫ (exp(−e^u) − exp(−S·e^u)) du over the real line and independent terms, the mean
    of exp(−S·e^u) is a product of means: one integral for any number of classes.

    Args:
      targets, target_weights: values of t and their probabilities.
      others, other_weights: values of each o_j and their probabilities.
      count: how many other logits there are.
    """
    largest = max(targets.max(), others.max())
    smallest = min(targets.min(), others.min())
    u = np.linspace(-largest - math.log(count + 1) - 35.0, 5.0 - min(smallest, 0.0), _LOGARITHMS)

    def transform(logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.exp(-np.exp(np.minimum(u[:, None] + logits, 50.0))) @ weights

    product = transform(targets, target_weights) * transform(others, other_weights) ** count
    return float(np.trapezoid(np.exp(-np.exp(np.minimum(u, 50.0))) - product, u))


def first_loss_tolerance(expected: float, scale: float, dim: int, drawn: int) -> float:
    """How far the first loss of a batch may be from the expected one before it is a surprise: a
    fifth, and six deviations of a mean over what is drawn independently, s·√(2/d) being more than
    an example's: `drawn` images, or people where a batch has several images of each.
    """
    return 0.2 * abs(expected) + 6.0 * scale * math.sqrt(2.0 / (dim * drawn))


def minimum_scale(num_classes: int, probability: float) -> float:
    """The least s with which softmax over cosines can give the true class this probability.

        s ≥ (C − 1)/C · ln((C − 1)·P/(1 − P)),

    reached when the classes' weights form a regular simplex and every embedding sits on its own.

    Args:
      num_classes: C ≥ 2.
      probability: P, above 1/C and below 1.

    Returns: the scale.

    Raises:
      InputError: for fewer than two classes or a probability outside that range.

    References:
      Wang et al., CosFace, arXiv:1801.09414, eq. 6; Wang et al., NormFace, arXiv:1704.06369,
      proposition 2.
    """
    check_between("num_classes", num_classes, 2, math.inf)
    if not 1.0 / num_classes < probability < 1.0:
        raise InputError(
            f"probability is {probability:g}; pass a number above 1/num_classes and below 1"
        )
    return (num_classes - 1) / num_classes * _lead(num_classes, probability)


def _lead(num_classes: int, probability: float) -> float:
    """By how much one logit must exceed all others, which are equal, for this probability."""
    return math.log((num_classes - 1) * probability / (1.0 - probability))


def automatic_margin(num_classes: int, dim: int) -> float:
    """ArcFace's m: the paper's .5, or less where so many classes have no room for it.

        m = min(.5, a),   C·A(a) = 1,   A(a) = I_{sin² a}((d − 1)/2, ½)/2,

    A(a) the share of the sphere in d dimensions that lies within a of a point: each class's share
    has the radius a, so its neighbours are no farther away than 2a, and m takes half of that. In
    two dimensions a is π/C. In 64 there is room for any number of classes that fits in memory.

    Args:
      num_classes: C ≥ 2.
      dim: d, the dimension of the embedding, 2 or more.

    Returns: the margin, radians.

    Raises:
      InputError: a number is out of range.
    """
    check_between("num_classes", num_classes, 2, math.inf)
    check_between("dim", dim, 2, math.inf)
    squared_sine = float(scipy.special.betaincinv((dim - 1) / 2, 0.5, 2.0 / num_classes))
    return min(0.5, math.asin(math.sqrt(squared_sine)))


def automatic_scale(num_classes: int, margin: float | Psi = 0.5) -> float:
    """The s that gives an embedding 30° from its class the probability P = 3/4 if all other classes
    are at right angles:

        s = ln((C − 1)·P/(1 − P)) / psi(cos 30°).

    A smaller s leaves a gradient on images that are well placed already; a larger one takes it from
    images that are not yet, and from scratch may collapse. The papers' 64 is far above it for any
    number of classes.

    Args:
      num_classes: C ≥ 2.
      margin: ArcFace's m in radians, or any psi.

    Returns: the scale.

    Raises:
      InputError: a number is out of range, or psi(cos 30°) is not positive.

    References:
      Zhang et al., AdaCos, arXiv:1905.00292, has P = 1/2 at 45°, without a margin: √2·ln(C − 1).
    """
    check_between("num_classes", num_classes, 2, math.inf)
    if not callable(margin):
        check_between("margin", margin, 0.0, math.pi)
        margin = arcface(margin)
    with jax.ensure_compile_time_eval():
        target = float(margin(jnp.asarray([math.cos(_NEAR)], jnp.float32))[0])
    if target <= 0.0:
        raise InputError(
            f"the margin leaves a target of {target:.2g} at 30°, which must be positive; pass a "
            "smaller margin"
        )
    return _lead(num_classes, _LIKELY) / target
