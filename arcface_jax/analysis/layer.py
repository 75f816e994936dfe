"""The ArcFace layer step by step, for a picture or a check by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from arcface_jax.cosine import arcface_logits, cosine_logits, row_norms, take_target, target_mask
from arcface_jax.errors import InputError
from arcface_jax.losses import margin_softmax_loss
from arcface_jax.margins import arcface, softmax_on_sphere


@dataclasses.dataclass(frozen=True)
class LayerSteps:
    """Every value between the embeddings and the loss.

    Attributes:
      embedding_norms: ‖x‖, [N].
      weight_norms: ‖W_j‖, [C].
      cosines: cosθ_j, [N, C].
      degrees: θ_j, [N, C].
      target_degrees: θ_y + m, [N].
      plain_logits: s·cosθ_j, [N, C]: the logits without a margin.
      logits: the same with s·cos(θ_y + m) for the true class, [N, C].
      plain_probabilities: softmax of the logits without the margin, [N, C].
      probabilities: softmax of the logits with it, [N, C].
      plain_loss: −log p_y without the margin, [N].
      loss: −log p_y with it, [N].
    """

    embedding_norms: np.ndarray
    weight_norms: np.ndarray
    cosines: np.ndarray
    degrees: np.ndarray
    target_degrees: np.ndarray
    plain_logits: np.ndarray
    logits: np.ndarray
    plain_probabilities: np.ndarray
    probabilities: np.ndarray
    plain_loss: np.ndarray
    loss: np.ndarray


def layer_steps(
    embeddings: np.ndarray,
    class_weights: np.ndarray,
    labels: np.ndarray,
    *,
    margin: float = 0.5,
    scale: float = 64.0,
) -> LayerSteps:
    """Every intermediate value of the ArcFace layer, by the library's own functions, in float64.

    Args:
      embeddings: x, [N, D].
      class_weights: W, [C, D], one class per row.
      labels: y, [N] integers in [0, C).
      margin: m in radians, in [0, π].
      scale: s.

    Raises:
      InputError: for a wrong shape, label, margin or scale.

    References:
      Deng et al., ArcFace, arXiv:1801.07698, figure 2 and eq. 3.
    """
    if np.min(labels, initial=0) < 0:
        raise InputError(
            f"labels holds {np.min(labels)}; every row needs its class here, 0 or more"
        )
    with jax.enable_x64(True):
        x, weights = jnp.asarray(embeddings, jnp.float64), jnp.asarray(class_weights, jnp.float64)
        arguments = (x, weights, jnp.asarray(labels))
        logits, _ = arcface_logits(*arguments, margin=margin, scale=scale)
        cosines = cosine_logits(x, weights)
        degrees = jnp.degrees(jnp.arccos(jnp.clip(cosines, -1.0, 1.0)))
        own = take_target(degrees, target_mask(arguments[2], len(weights)))
        steps = {
            "embedding_norms": row_norms(x),
            "weight_norms": row_norms(weights),
            "cosines": cosines,
            "degrees": degrees,
            "target_degrees": own + jnp.degrees(margin),
            "plain_logits": scale * cosines,
            "logits": logits,
            "plain_probabilities": jax.nn.softmax(scale * cosines),
            "probabilities": jax.nn.softmax(logits),
            "plain_loss": margin_softmax_loss(*arguments, psi=softmax_on_sphere(), scale=scale),
            "loss": margin_softmax_loss(*arguments, psi=arcface(margin), scale=scale),
        }
        return LayerSteps(**{name: np.asarray(value) for name, value in steps.items()})
