"""Losses that judge every pair of embedding and class by itself, against one threshold: SphereFace2
and UniFace.

Each of the C cosines of an example is a binary decision with a bias that all share and that is
learnt. Losses come back per example, [N], summed over the classes; 0 where the label is −1.
"""

import dataclasses
import functools
import math
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from arcface_jax.arguments import (
    check_between,
    check_choice,
    check_floating,
    check_positive,
)
from arcface_jax.heads.class_sums import Eta
from arcface_jax.heads.softmax import apply_psi, sum_options
from arcface_jax.losses.loss import AT_START, Context, Loss, LossOutput
from arcface_jax.losses.softmax import sums_of_batch
from arcface_jax.margins import GRADIENTS, Psi, cosface, straight_through


@dataclasses.dataclass(frozen=True)
class Binary(Loss):
    """w₊·ln(1 + e^{−s·psi(cosθ_y)}) + w₋·Σ_{j≠y} ln(1 + e^{s·eta(cosθ_j)}): a decision a class."""

    any_head: ClassVar[bool] = True
    any_kernel: ClassVar[bool] = False

    def output(
        self,
        params: dict[str, Any],
        state: dict[str, Any],
        embeddings: jax.Array,
        labels: jax.Array,
        context: Context,
        *,
        psi: Psi,
        eta: Eta,
        scale: Any,
        weights: tuple[float, float],
        chunk: int | None = None,
        kernel: str = "xla",
        skip: float = 0.0,
        **over: Any,
    ) -> LossOutput:
        """The loss, with axis_name, num_classes and sample of `margin_softmax_loss` in `over`."""
        options = sum_options(
            chunk=chunk,
            label_smoothing=0.0,
            filter_threshold=None,
            scale=scale,
            precision=context.precision,
            nearest_wrong=True,
            kernel=kernel,
            skip=skip,
            binary=True,
        )
        class_weights = params["class_weights"]
        sums, batch, own = sums_of_batch(
            embeddings, class_weights, labels, scale, options, eta=eta, **over
        )
        positive = jax.nn.softplus(-batch.scale * apply_psi(psi, sums.target))
        loss = weights[0] * positive + weights[1] * sums.binary_sum
        hit = own & (sums.target > sums.nearest_wrong)
        return LossOutput(jnp.where(own, loss, 0.0), state, sums.target, hit)


def _shifted(cosine: jax.Array, shift: jax.Array) -> jax.Array:
    return cosine + shift


def power_similarity(cosine: jax.Array, exponent: float, *, gradient: str = "exact") -> jax.Array:
    """g(cosθ) = 2·((cosθ + 1)/2)^t − 1: SphereFace2's similarity, which spreads the large cosines.

    Args:
      cosine: any shape.
      exponent: t ≥ 1; 1 leaves the cosine as it is.
      gradient: exact or straight_through.

    Returns: an array like `cosine`, in [−1, 1].
    """
    base = 0.5 * (cosine + 1.0)
    value = 2.0 * jnp.where(base > 0.0, base, 0.0) ** exponent - 1.0
    return straight_through(cosine, value) if gradient == "straight_through" else value


def _similarity(cosine: jax.Array, shift: jax.Array, exponent: float, gradient: str) -> jax.Array:
    return power_similarity(cosine, exponent, gradient=gradient) + shift


def _check_sphereface2(balance: float, scale: float, margin: float, exponent: float) -> None:
    check_between("balance", balance, 0.0, 1.0, open_low=True)
    check_positive("scale", scale)
    check_between("margin", margin, 0.0, 2.0)
    check_between("exponent", exponent, 1.0, math.inf)


def sphereface2_bias(
    num_classes: int,
    *,
    balance: float = 0.7,
    scale: float = 40.0,
    margin: float = 0.4,
    exponent: float = 3.0,
) -> float:
    """The bias at which, with all cosines 0, the true class pulls as hard as all the others
    together push.

    It solves λ·σ(−a₊ − b) = (1 − λ)(C − 1)·σ(a₋ + b) with a± = r(g(0) ∓ m), a quadratic in e^b.

    Args:
      num_classes: C ≥ 2.
      balance: λ in (0, 1).
      scale: r.
      margin: m.
      exponent: t.

    Returns: b.

    Raises:
      InputError: for a number out of range.

    References:
      Wen et al., SphereFace2, arXiv:2108.01513.
    """
    check_between("num_classes", num_classes, 2, math.inf)
    _check_sphereface2(balance, scale, margin, exponent)
    check_between("balance", balance, 0.0, 1.0 - 1e-9, open_low=True)
    ratio = balance / ((1.0 - balance) * (num_classes - 1))
    similarity = 2.0 * 0.5**exponent - 1.0
    positive, negative = scale * (similarity - margin), scale * (similarity + margin)
    root = math.sqrt((1.0 - ratio) ** 2 + 4.0 * ratio * math.exp(positive - negative))
    if ratio > 1.0:  # the same root of the quadratic, in the form that does not cancel here
        return math.log(ratio - 1.0 + root) - math.log(2.0) - positive
    return math.log(2.0 * ratio) - negative - math.log(1.0 - ratio + root)


@dataclasses.dataclass(frozen=True)
class SphereFace2(Binary, name="sphereface2"):
    r"""λ/r·ln(1 + e^{−r(g(cosθ_y) − m) − b}) + (1 − λ)/r·Σ_{j≠y} ln(1 + e^{r(g(cosθ_j) + m) + b}),
    g(z) = 2((z + 1)/2)^t − 1 (arXiv:2108.01513, eq. 5).

    The additive-cosine form, with a learnt bias b. The authors' code multiplies this by 50 and uses
    the straight-through gradient for g and m.
    """

    scale: float = 40.0
    """r > 0."""
    margin: float = 0.4
    """m, of the similarity, in [0, 2]."""
    balance: float = 0.7
    """λ in (0, 1], the weight of the true class."""
    exponent: float = 3.0
    """t ≥ 1, which spreads the large cosines."""
    gradient: Literal["exact", "straight_through"] = "exact"
    """Of g: exact or straight_through."""

    def __post_init__(self) -> None:
        check_choice("gradient", self.gradient, GRADIENTS)
        _check_sphereface2(self.balance, self.scale, self.margin, self.exponent)

    def __str__(self) -> str:
        similarity = f"2((cosθ + 1)/2)^{self.exponent:g} − 1"
        return f"one binary classifier a class, {self.scale:g}·({similarity} ∓ {self.margin:g})"

    def init_params(self, key: jax.Array, num_classes: int, embedding_size: int) -> dict[str, Any]:
        """{"class_weights", "bias"}."""
        bias = sphereface2_bias(
            num_classes,
            balance=self.balance,
            scale=self.scale,
            margin=self.margin,
            exponent=self.exponent,
        )
        params = super().init_params(key, num_classes, embedding_size)
        return {**params, "bias": jnp.asarray(bias, jnp.float32)}

    def __call__(
        self,
        params: dict[str, Any],
        state: dict[str, Any],
        embeddings: jax.Array,
        labels: jax.Array,
        context: Context = AT_START,
        **over: Any,
    ) -> LossOutput:
        """Losses from all cosines."""
        threshold = check_floating("bias", params["bias"], 0) / self.scale
        g = functools.partial(_similarity, exponent=self.exponent, gradient=self.gradient)
        return self.output(
            params,
            state,
            embeddings,
            labels,
            context,
            psi=lambda cosine: g(cosine, threshold - self.margin),
            eta=Partial(g, shift=threshold + self.margin),
            scale=self.scale,
            weights=(self.balance / self.scale, (1.0 - self.balance) / self.scale),
            **over,
        )


def sphereface2_loss(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    bias: jax.Array,
    **numbers: Any,
) -> jax.Array:
    """`SphereFace2` as a function.

    Args:
      embeddings: [N, D].
      class_weights: [C, D].
      labels: [N] integers in [0, C), or −1 for a row to ignore.
      bias: b, a scalar array to learn; start from `sphereface2_bias`.
      **numbers: fields of `SphereFace2`.

    Returns: [N].

    Raises:
      InputError: for a wrong shape, dtype, label or number.
    """
    params = {"class_weights": class_weights, "bias": bias}
    return SphereFace2(**numbers)(params, {}, embeddings, labels).loss


@dataclasses.dataclass(frozen=True)
class UniFace(Binary, name="uniface"):
    r"""ln(1 + e^{−s·(cosθ_y − m) + b}) + λ·Σ_{j≠y} ln(1 + e^{s·cosθ_j − b}): UniFace's unified
    cross-entropy with a margin (Zhou et al., ICCV 2023).

    One learnt threshold b/s divides the cosines of all positive pairs from those of all negative
    ones.
    """

    scale: float = 64.0
    """s > 0."""
    margin: float = 0.4
    """m, of the cosine, in [0, 2]."""
    negative_weight: float = 1.0
    """λ > 0, which balances the many wrong classes against the one right one."""

    def __post_init__(self) -> None:
        check_positive("scale", self.scale)
        check_positive("negative_weight", self.negative_weight)
        cosface(self.margin)

    def __str__(self) -> str:
        return f"one threshold for all pairs, {self.scale:g}·(cosθ − {self.margin:g})"

    def init_params(self, key: jax.Array, num_classes: int, embedding_size: int) -> dict[str, Any]:
        """{"class_weights", "bias"}."""
        params = super().init_params(key, num_classes, embedding_size)
        return {**params, "bias": jnp.asarray(uniface_bias(num_classes), jnp.float32)}

    def __call__(
        self,
        params: dict[str, Any],
        state: dict[str, Any],
        embeddings: jax.Array,
        labels: jax.Array,
        context: Context = AT_START,
        *,
        psi: Psi | None = None,
        **over: Any,
    ) -> LossOutput:
        """Losses from all cosines; `psi` in place of the margin, if given."""
        margin = psi or cosface(self.margin)
        threshold = check_floating("bias", params["bias"], 0) / jnp.asarray(self.scale)
        return self.output(
            params,
            state,
            embeddings,
            labels,
            context,
            psi=lambda cosine: apply_psi(margin, cosine) - threshold,
            eta=Partial(_shifted, shift=-threshold),
            scale=self.scale,
            weights=(1.0, self.negative_weight),
            **over,
        )


def uniface_loss(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    bias: jax.Array,
    *,
    psi: Psi | None = None,
    **numbers: Any,
) -> jax.Array:
    """`UniFace` as a function.

    Args:
      embeddings: [N, D].
      class_weights: [C, D].
      labels: [N] integers in [0, C), or −1 for a row to ignore.
      bias: b, a scalar array to learn; start from `uniface_bias`.
      psi: a margin in place of the paper's cosface(0.4).
      **numbers: fields of `UniFace`; scale may be an array, scalar or [N].

    Returns: [N].

    Raises:
      InputError: for a wrong shape, dtype, label or number.
    """
    params = {"class_weights": class_weights, "bias": bias}
    return UniFace(**numbers)(params, {}, embeddings, labels, psi=psi).loss


def uniface_bias(num_classes: int) -> float:
    """ln(10·C), the bias that the authors of UniFace start from.

    Args:
      num_classes: C ≥ 1.

    Returns: b.

    Raises:
      InputError: for a number below 1.
    """
    check_between("num_classes", num_classes, 1, math.inf)
    return math.log(10.0 * num_classes)
