"""ArcFace, additive angular margin loss for face recognition, in JAX and Flax.

The names below are the public core; the rest is imported from its module, for
instance `arcface_jax.evaluation.verification` or `arcface_jax.data.sources.folder`.
"""

from arcface_jax.errors import InputError
from arcface_jax.logits import arcface_logits, cosine_logits, normalise_rows
from arcface_jax.losses import (
    expected_initial_loss,
    margin_softmax_loss,
    minimum_scale,
    softmax_loss,
)
from arcface_jax.margins import arcface, cm1, cm2, combined, cosface, normface, sphereface

__all__ = [
    "InputError",
    "arcface",
    "arcface_logits",
    "cm1",
    "cm2",
    "combined",
    "cosface",
    "cosine_logits",
    "expected_initial_loss",
    "margin_softmax_loss",
    "minimum_scale",
    "normalise_rows",
    "normface",
    "softmax_loss",
    "sphereface",
]
