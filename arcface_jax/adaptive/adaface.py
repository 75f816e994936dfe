"""AdaFace: a margin that follows the quality of the image, read from the length of its
embedding.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from arcface_jax.adaptive.statistics import batch_statistics, moving_average
from arcface_jax.arguments import check_between, check_floating, check_labels
from arcface_jax.logits import row_norms
from arcface_jax.losses import blank_ignored, margin_softmax_loss
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
      axis_name: of the devices that share the batch; the statistics are then those of the whole
        batch.

    Returns: the new state, the same on every device.
    """
    check_between("ema", ema, 0.0, 1.0)
    count, mean, std = batch_statistics(_clipped(norms), valid, axis_name)
    return AdaFaceState(
        mean=moving_average(state.mean, mean, ema, count >= 1),
        std=moving_average(state.std, std, ema, count >= 2),
    )


def adaface_psi(
    norms: jax.Array, state: AdaFaceState, *, margin: float = 0.4, concentration: float = 0.333
) -> CombinedMargin:
    """psi(cosθ) = cos(clip(θ − m·ẑ)) − (m + m·ẑ) with ẑ = clip(h·(‖x‖ − μ)/(σ + 0.001), −1, 1), for
    each example.

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
    check_between("margin", margin, 0.0, math.pi / 2)
    check_between("concentration", concentration, 0.0, math.inf, open_low=True)
    deviation = concentration * (_clipped(norms) - state.mean) / (state.std + _EPSILON)
    quality = jnp.clip(deviation, -1.0, 1.0)
    return CombinedMargin(
        1.0, -margin * quality, margin + margin * quality, past_pi="clip", clip_epsilon=_EPSILON
    )


def adaface_loss(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    state: AdaFaceState,
    *,
    margin: float = 0.4,
    concentration: float = 0.333,
    scale: Any = 64.0,
    ema: float = 0.01,
    axis_name: Any = None,
) -> tuple[jax.Array, AdaFaceState]:
    """AdaFace: margin softmax with the psi of `adaface_psi`, after `adaface_update` of the running
    statistics.

    Args:
      embeddings: [N, D], not normalised: their lengths stand for the image's quality.
      class_weights: [C, D].
      labels: [N] integers in [0, C), or −1 for a row to ignore, also in the statistics.
      state: from `adaface_init` or the previous step.
      margin: m.
      concentration: h.
      scale: s > 0.
      ema: the weight of this batch in the running statistics.
      axis_name: of the devices that share the batch.

    Returns: (loss [N], the new state).

    Raises:
      InputError: for a wrong shape, dtype, label or number.

    References:
      Kim et al., AdaFace, arXiv:2204.00964, eq. 14 to 17.
    """
    embeddings = check_floating("embeddings", embeddings, 2)
    labels = check_labels(labels, embeddings.shape[0], jnp.shape(class_weights)[0])
    norms = row_norms(blank_ignored(embeddings, labels))
    state = adaface_update(state, norms, labels >= 0, ema=ema, axis_name=axis_name)
    psi = adaface_psi(norms, state, margin=margin, concentration=concentration)
    return margin_softmax_loss(embeddings, class_weights, labels, psi=psi, scale=scale), state
