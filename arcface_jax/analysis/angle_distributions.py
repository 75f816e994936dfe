"""The angle between an embedding and the centre of its own class, over a run."""

import jax.numpy as jnp
import numpy as np

from arcface_jax.logits import normalise_rows


def target_angles(embeddings: np.ndarray, class_weights: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """θ_y = arccos(ê · Ŵ_y) of each example, the angle that the margin is added to.

    Args:
      embeddings: [N, D], need not be normalised.
      class_weights: [C, D], one centre a row, or [C, K, D] with K sub-centres, of which the nearest counts; need not be
        normalised.
      labels: int [N], each in 0 … C − 1.

    Returns: float32 [N], degrees, in [0, 180].

    References: Deng et al., ArcFace (arXiv:1801.07698), figure 3.
    """
    centres = np.asarray(normalise_rows(jnp.asarray(class_weights)[labels]))
    unit = np.asarray(normalise_rows(jnp.asarray(embeddings)))
    if centres.ndim == 3:
        cosines = np.max(np.sum(unit[:, None] * centres, axis=-1), axis=-1)
    else:
        cosines = np.sum(unit * centres, axis=-1)
    return np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))
