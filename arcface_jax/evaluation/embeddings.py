"""From a network's outputs to the unit embeddings that protocols compare."""

from typing import Literal

import jax
import numpy as np

from arcface_jax.errors import InputError
from arcface_jax.evaluation.checks import check_embeddings
from arcface_jax.logits import normalise_rows

_normalise = jax.jit(normalise_rows)


def unit_embeddings(embeddings: np.ndarray, name: str = "embeddings") -> np.ndarray:
    """x/‖x‖ of each row, float32; refuses rows that have no direction.

    Args:
      embeddings: [N, D], as the network gave them.
      name: what to call them in an error.

    Raises:
      InputError: a row holds NaN or ∞, or is zero; the message gives the row.
    """
    embeddings = check_embeddings(embeddings, name, unit=False)
    norms = np.linalg.norm(embeddings, axis=1)
    if not norms.all():
        raise InputError(f"{name}: row {int(np.argmin(norms))} is zero and has no direction; the network failed on it")
    # Divided by the norm beforehand, so that no row is too small for the square of its norm to be a number.
    return np.array(_normalise((embeddings / norms[:, None]).astype(np.float32)))


FlipRule = Literal["add", "concatenate"]


def combine_flip(embedding: np.ndarray, mirrored: np.ndarray, rule: FlipRule = "add") -> np.ndarray:
    """One unit embedding from those of an image and of its mirror image.

        "add":          (x + x′)/‖x + x′‖           (the rule of the field)
        "concatenate":  [x, x′]/‖[x, x′]‖           (twice the size; some projects)

    Args:
      embedding: x, [N, D], as the network gave it, not normalised.
      mirrored: x′, [N, D], of the mirrored images.
      rule: which of the two.

    Returns: float32 [N, D], or [N, 2D] for "concatenate".
    """
    embedding = check_embeddings(embedding, "embedding", unit=False)
    mirrored = check_embeddings(mirrored, "mirrored", unit=False)
    if embedding.shape != mirrored.shape:
        raise InputError(f"mirrored: shape {mirrored.shape}, but embedding has {embedding.shape}; give one row each")
    if rule == "add":
        return unit_embeddings(embedding + mirrored, "embedding + mirrored")
    if rule == "concatenate":
        return unit_embeddings(np.concatenate([embedding, mirrored], axis=1), "[embedding, mirrored]")
    raise InputError(f"rule: {rule!r} is unknown; use 'add' or 'concatenate'")
