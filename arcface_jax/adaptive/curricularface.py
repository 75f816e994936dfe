"""CurricularFace: hard wrong classes count little at first and more as training goes on."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from arcface_jax.adaptive.statistics import batch_statistics, moving_average
from arcface_jax.arguments import check_between, check_floating, check_labels
from arcface_jax.logits import cosine_logits, take_target, target_mask
from arcface_jax.losses import blank_ignored, margin_cross_entropy
from arcface_jax.margins import Psi, arcface

CURRICULARFACE_MARGIN = arcface(0.5, past_pi="linear")


class CurricularFaceState(NamedTuple):
    """t, the running mean of the cosine between an embedding and its class; a scalar."""

    t: jax.Array


def curricularface_init() -> CurricularFaceState:
    """t = 0: every class far from every embedding."""
    return CurricularFaceState(jnp.zeros((), jnp.float32))


def curricularface_update(
    state: CurricularFaceState,
    target_cosine: jax.Array,
    valid: jax.Array,
    *,
    decay: float = 0.99,
    axis_name: Any = None,
) -> CurricularFaceState:
    """t ← decay·t + (1 − decay)·mean of cosθ_y; unchanged by a batch without a valid row.

    Args:
      state: the old state.
      target_cosine: cosθ_y before the margin, [N].
      valid: [N] booleans, false for padding.
      decay: in [0, 1].
      axis_name: of the devices that share the batch; the mean is then that of the whole batch.

    Returns: the new state, the same on every device; no gradient flows into it.
    """
    check_between("decay", decay, 0.0, 1.0)
    count, mean, _ = batch_statistics(jax.lax.stop_gradient(target_cosine), valid, axis_name)
    return CurricularFaceState(moving_average(state.t, mean, 1.0 - decay, count >= 1))


def curricular_cosines(cosine: jax.Array, threshold: jax.Array, t: jax.Array) -> jax.Array:
    """cosθ_j·(t + cosθ_j) where cosθ_j is above the row's threshold, cosθ_j elsewhere; at most 2 in
    all.

    Args:
      cosine: of the wrong classes, [N, C].
      threshold: psi(cosθ_y), [N].
      t: the state's scalar.

    Returns: [N, C].
    """
    return jnp.where(cosine > threshold[:, None], cosine * (t + cosine), cosine)


def curricularface_loss(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    state: CurricularFaceState,
    *,
    psi: Psi = CURRICULARFACE_MARGIN,
    scale: Any = 64.0,
    decay: float = 0.99,
    axis_name: Any = None,
) -> tuple[jax.Array, CurricularFaceState]:
    """CurricularFace: margin softmax in which a wrong class with cosθ_j > psi(cosθ_y) has cosθ_j(t
    + cosθ_j).

    t is updated before it is used. The threshold is psi(cosθ_y) as the paper has it; the authors'
    code compares with cos(θ_y + m) even where its rule past π puts something else in the logit.

    Args:
      embeddings: [N, D].
      class_weights: [C, D].
      labels: [N] integers in [0, C), or −1 for a row to ignore, also in t.
      state: from `curricularface_init` or the previous step.
      psi: the margin of the true class.
      scale: s > 0.
      decay: of t.
      axis_name: of the devices that share the batch.

    Returns: (loss [N], the new state).

    Raises:
      InputError: for a wrong shape, dtype, label or number.

    References:
      Huang et al., CurricularFace, arXiv:2004.00288, eq. 5 to 8.
    """
    embeddings = check_floating("embeddings", embeddings, 2)
    labels = check_labels(labels, embeddings.shape[0], jnp.shape(class_weights)[0])
    cosine = cosine_logits(blank_ignored(embeddings, labels), class_weights)
    mask = target_mask(labels, cosine.shape[1])
    target = take_target(cosine, mask)
    state = curricularface_update(
        state, target, jnp.any(mask, axis=-1), decay=decay, axis_name=axis_name
    )
    modulated = curricular_cosines(cosine, psi(target), state.t)
    loss = margin_cross_entropy(jnp.where(mask, cosine, modulated), labels, psi=psi, scale=scale)
    return loss, state
