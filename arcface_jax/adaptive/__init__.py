"""Margins that follow the data: AdaFace, MagFace, CurricularFace, ElasticFace.

State is a pytree in and a pytree out; random margins take a key. Each loss is put together from
public parts, of which the one that makes the psi (`adaface_psi`, …) serves with any other way to
compute a margin softmax.
"""

from arcface_jax.adaptive.adaface import (
    AdaFaceState,
    adaface_init,
    adaface_loss,
    adaface_psi,
    adaface_update,
)
from arcface_jax.adaptive.curricularface import (
    CurricularFaceState,
    curricular_cosines,
    curricularface_init,
    curricularface_loss,
    curricularface_update,
)
from arcface_jax.adaptive.elasticface import elastic_margins, elasticface_loss, elasticface_psi
from arcface_jax.adaptive.magface import (
    magface_loss,
    magface_margins,
    magface_psi,
    magface_regulariser,
)

__all__ = [
    "AdaFaceState",
    "CurricularFaceState",
    "adaface_init",
    "adaface_loss",
    "adaface_psi",
    "adaface_update",
    "curricular_cosines",
    "curricularface_init",
    "curricularface_loss",
    "curricularface_update",
    "elastic_margins",
    "elasticface_loss",
    "elasticface_psi",
    "magface_loss",
    "magface_margins",
    "magface_psi",
    "magface_regulariser",
]
