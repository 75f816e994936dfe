"""Losses: one frozen dataclass each, its equation, its numbers, its state; one file a family.

`margin_softmax_loss` is the softmax that most of them are. To add a loss: a file here with its
class, and a line below that imports it; a loss of one's own needs neither, see `loss_class`.
"""

from arcface_jax.losses.adaface import (
    AdaFace,
    AdaFaceState,
    adaface_init,
    adaface_loss,
    adaface_psi,
    adaface_update,
)
from arcface_jax.losses.arcface import (
    CM1,
    CM2,
    ArcFace,
    CosFace,
    NormFace,
    SphereFace,
    normface_loss,
)
from arcface_jax.losses.binary import (
    SphereFace2,
    UniFace,
    power_similarity,
    sphereface2_bias,
    sphereface2_loss,
    uniface_bias,
    uniface_loss,
)
from arcface_jax.losses.circle import Circle, circle_eta, circle_psi
from arcface_jax.losses.class_sizes import margins_by_size, weights_by_size
from arcface_jax.losses.curricularface import (
    CurricularFace,
    CurricularFaceState,
    curricular_cosines,
    curricularface_init,
    curricularface_loss,
    curricularface_update,
)
from arcface_jax.losses.elasticface import (
    ElasticCosFace,
    ElasticCosFacePlus,
    ElasticFace,
    ElasticFacePlus,
    elastic_margins,
    elasticface_loss,
    elasticface_psi,
)
from arcface_jax.losses.expface import ExpFace
from arcface_jax.losses.intertopk import InterTopK
from arcface_jax.losses.kappaface import (
    KappaFace,
    KappaFaceState,
    kappaface_factors,
    vmf_concentration,
)
from arcface_jax.losses.loss import LOSSES, Context, Loss, LossOutput, loss_class, loss_name
from arcface_jax.losses.magface import (
    MagFace,
    magface_loss,
    magface_margins,
    magface_psi,
    magface_regulariser,
)
from arcface_jax.losses.penalties import (
    Inter,
    Intra,
    combination_loss,
    distillation_penalty,
    inter_penalty,
    intra_penalty,
)
from arcface_jax.losses.plain import Softmax, softmax_loss
from arcface_jax.losses.softmax import (
    MarginSoftmax,
    margin_cross_entropy,
    margin_softmax_loss,
)
from arcface_jax.losses.sphereface_r import SphereFaceR, SphereFaceRV2, divided_angle
from arcface_jax.losses.triplet import Triplet, angular_triplet_loss
from arcface_jax.losses.unitsface import UniTSFace, uss_bias, uss_loss
from arcface_jax.losses.untrained import (
    automatic_margin,
    automatic_scale,
    expected_initial_loss,
    minimum_scale,
)
from arcface_jax.losses.x2softmax import X2Softmax

__all__ = [
    "CM1",
    "CM2",
    "LOSSES",
    "AdaFace",
    "AdaFaceState",
    "ArcFace",
    "Circle",
    "Context",
    "CosFace",
    "CurricularFace",
    "CurricularFaceState",
    "ElasticCosFace",
    "ElasticCosFacePlus",
    "ElasticFace",
    "ElasticFacePlus",
    "ExpFace",
    "Inter",
    "InterTopK",
    "Intra",
    "KappaFace",
    "KappaFaceState",
    "Loss",
    "LossOutput",
    "MagFace",
    "MarginSoftmax",
    "NormFace",
    "Softmax",
    "SphereFace",
    "SphereFace2",
    "SphereFaceR",
    "SphereFaceRV2",
    "Triplet",
    "UniFace",
    "UniTSFace",
    "X2Softmax",
    "adaface_init",
    "adaface_loss",
    "adaface_psi",
    "adaface_update",
    "angular_triplet_loss",
    "automatic_margin",
    "automatic_scale",
    "circle_eta",
    "circle_psi",
    "combination_loss",
    "curricular_cosines",
    "curricularface_init",
    "curricularface_loss",
    "curricularface_update",
    "distillation_penalty",
    "divided_angle",
    "elastic_margins",
    "elasticface_loss",
    "elasticface_psi",
    "expected_initial_loss",
    "inter_penalty",
    "intra_penalty",
    "kappaface_factors",
    "loss_class",
    "loss_name",
    "magface_loss",
    "magface_margins",
    "magface_psi",
    "magface_regulariser",
    "margin_cross_entropy",
    "margin_softmax_loss",
    "margins_by_size",
    "minimum_scale",
    "normface_loss",
    "power_similarity",
    "softmax_loss",
    "sphereface2_bias",
    "sphereface2_loss",
    "uniface_bias",
    "uniface_loss",
    "uss_bias",
    "uss_loss",
    "vmf_concentration",
    "weights_by_size",
]
