"""AdaFace: a margin that follows the quality of the image, read from the length of its embedding.

References:
  Kim et al., AdaFace, arXiv:2204.00964, eq. 14 to 17.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from arcface_jax.arguments import check_between
from arcface_jax.losses.loss import Context
from arcface_jax.losses.softmax import MarginSoftmax
from arcface_jax.losses.statistics import batch_statistics, moving_average
from arcface_jax.margins import CombinedMargin

_EPSILON = 1e-3
_SMALLEST_NORM, _LARGEST_NORM = 1e-3, 100.0


class AdaFaceState(NamedTuple):
    """Running mean and standard deviation of the embeddings' lengths, scalars."""

    mean: jax.Array
    std: jax.Array


def adaface_init(mean: float = 20.0, std: float = 100.0) -> AdaFaceState:
    """The state to start from; the defaults are the authors'.

    Args:
      mean: of the lengths, 0 or more.
      std: of the lengths, 0 or more.

    Returns: the state.

    Raises:
      InputError: for a negative number.
    """
    check_between("mean", mean, 0.0, math.inf)
    check_between("std", std, 0.0, math.inf)
    return AdaFaceState(jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32))


def _clipped(norms: jax.Array) -> jax.Array:
    return jax.lax.stop_gradient(jnp.clip(norms, _SMALLEST_NORM, _LARGEST_NORM))


def adaface_update(
    state: AdaFaceState,
    norms: jax.Array,
    valid: jax.Array,
    *,
    ema: float = 0.01,
    axis_name: Any = None,
) -> AdaFaceState:
    """new = ema·(batch's) + (1 − ema)·old, for the mean and the standard deviation (with n − 1) of
    the lengths.

    A batch with no valid row changes nothing, and one with a single valid row leaves the deviation
    as it was.

    Args:
      state: the old state.
      norms: [N], lengths of the embeddings; clipped to [0.001, 100].
      valid: [N] booleans, false for padding.
      ema: in [0, 1].
      axis_name: of the devices that share the batch; the statistics are those of the whole batch.

    Returns: the new state, the same on every device.
    """
    check_between("ema", ema, 0.0, 1.0)
    count, mean, std = batch_statistics(_clipped(norms), valid, axis_name)
    return AdaFaceState(
        mean=moving_average(state.mean, mean, ema, count >= 1),
        std=moving_average(state.std, std, ema, count >= 2),
    )


def _check_numbers(margin: float, concentration: float) -> None:
    check_between("margin", margin, 0.0, math.pi / 2)
    check_between("concentration", concentration, 0.0, math.inf, open_low=True)


def adaface_psi(
    norms: jax.Array, state: AdaFaceState, *, margin: float = 0.4, concentration: float = 0.333
) -> CombinedMargin:
    """psi(cosθ) = cos(clip(θ − m·ẑ)) − (m + m·ẑ) with ẑ = clip(h·(‖x‖ − μ)/(σ + 0.001), −1, 1),
    for each example.

    ẑ = −1, a poor image, makes it ArcFace with margin m, ẑ = 0 CosFace with margin m, and ẑ = 1, a
    good image, an angle lessened by m and a cosine lessened by 2m. No gradient flows through the
    lengths.

    Args:
      norms: ‖x‖, [N], clipped to [0.001, 100].
      state: μ and σ.
      margin: m in [0, π/2].
      concentration: h > 0.

    Returns: psi for cosines [N].

    Raises:
      InputError: for a number out of range.
    """
    _check_numbers(margin, concentration)
    deviation = concentration * (_clipped(norms) - state.mean) / (state.std + _EPSILON)
    quality = jnp.clip(deviation, -1.0, 1.0)
    return CombinedMargin(
        1.0, -margin * quality, margin + margin * quality, past_pi="clip", clip_epsilon=_EPSILON
    )


@dataclasses.dataclass(frozen=True)
class AdaFace(MarginSoftmax, name="adaface"):
    """s·(cos(θ − m·ẑ) − m·(1 + ẑ)), ẑ the normalised length of the embedding (arXiv:2204.00964)."""

    margin: float = 0.4
    """m, in [0, π/2]."""
    concentration: float = 0.333
    """h > 0: ẑ = clip(h·(‖x‖ − μ)/σ, −1, 1)."""
    ema: float = 0.01
    """t: weight of a batch in the running mean μ and deviation σ of the lengths."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_numbers(self.margin, self.concentration)
        check_between("ema", self.ema, 0.0, 1.0)

    def formula(self) -> str:
        """The target logit over s, for people."""
        m = f"{self.margin:g}"
        return f"cos(θ − {m}·ẑ) − {m}·(1 + ẑ), ẑ from the embedding's length"

    def init(self) -> dict[str, Any]:
        """Running mean and deviation of the lengths."""
        return {"adaface": adaface_init()}

    def advance(self, state: dict[str, Any], context: Context) -> dict[str, Any]:
        """With the lengths of this batch."""
        valid, axis = context.labels >= 0, context.axis_name
        new = adaface_update(state["adaface"], context.norms, valid, ema=self.ema, axis_name=axis)
        return {"adaface": new}

    def psi(self, context: Context) -> CombinedMargin:
        """By the lengths of this batch."""
        running, h = context.state["adaface"], self.concentration
        return adaface_psi(context.norms, running, margin=self.margin, concentration=h)


def adaface_loss(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    state: AdaFaceState,
    *,
    axis_name: Any = None,
    **numbers: Any,
) -> tuple[jax.Array, AdaFaceState]:
    """`AdaFace` as a function.

    Args:
      embeddings: [N, D], not normalised: their lengths stand for the image's quality.
      class_weights: [C, D].
      labels: [N] integers in [0, C), or −1 for a row to ignore, also in the statistics.
      state: from `adaface_init` or the previous step.
      axis_name: of the devices that share the batch.
      **numbers: fields of `AdaFace`: margin, concentration, scale, ema ….

    Returns: (loss [N], the new state).

    Raises:
      InputError: for a wrong shape, dtype, label or number.
    """
    params, context = {"class_weights": class_weights}, Context(axis_name=axis_name)
    out = AdaFace(**numbers)(params, {"adaface": state}, embeddings, labels, context)
    return out.loss, out.state["adaface"]
