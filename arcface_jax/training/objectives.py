"""From the names and numbers of a configuration to a head."""

import math
from collections.abc import Callable
from typing import Any

from arcface_jax.arguments import check_between, check_positive
from arcface_jax.errors import InputError
from arcface_jax.heads import RowSgd
from arcface_jax.margins import CombinedMargin, arcface, cm1, cm2, cosface, normface, sphereface
from arcface_jax.training import dense_losses
from arcface_jax.training.config import HeadConfig, LossConfig, OptimiserConfig
from arcface_jax.training.margin_rules import (
    AdaFaceMargin,
    ElasticMargin,
    FixedMargin,
    MagFaceMargin,
    MarginRule,
)
from arcface_jax.training.margin_softmax import FusedMarginSoftmax, MarginSoftmax
from arcface_jax.training.objective import Objective

DEFAULT_SCALE = 16.0
"""Radius of the sphere where a configuration names none."""

_ANGULAR: dict[str, Callable[..., CombinedMargin]] = {
    "arcface": arcface,
    "sphereface": sphereface,
    "cm1": cm1,
    "cm2": cm2,
}
_FIXED = (*_ANGULAR, "cosface", "normface")
_ELASTIC = {
    "elasticface": ElasticMargin("arc", 0.5, 0.0125),
    "elasticface_plus": ElasticMargin("arc", 0.5, 0.0175, plus=True),
    "elasticface_cos": ElasticMargin("cos", 0.35, 0.0125),
    "elasticface_cos_plus": ElasticMargin("cos", 0.35, 0.025, plus=True),
}
_MARGIN_SOFTMAX = (*_FIXED, *_ELASTIC, "adaface", "magface")
_WITH_MARGIN_TO_SET = ("arcface", "cosface", "sphereface", "adaface", "triplet")
_WITH_SMOOTHING = (*_MARGIN_SOFTMAX, "softmax", "intra", "inter")


def create_objective(
    loss: LossConfig,
    head: HeadConfig = HeadConfig(),  # noqa: B008 (frozen)
    *,
    num_classes: int | None = None,
    steps: int = 1,
    optimiser: OptimiserConfig = OptimiserConfig(),  # noqa: B008 (frozen)
) -> Objective:
    """Builds the head that a configuration names.

    Args:
      loss: which loss.
      head: how to go over the classes.
      num_classes: C; needed by a head that is sharded or sampled.
      steps: of the run, which a margin's warm-up is a share of.
      optimiser: of the run, which a fused head follows.

    Returns: the head.

    Raises:
      InputError: a setting is out of range, or does nothing with this loss or head.
    """
    _check_loss(loss)
    _check_head(loss, head, optimiser)
    scale = DEFAULT_SCALE if loss.scale is None else loss.scale
    check_positive("loss.scale", scale)
    if loss.name not in _MARGIN_SOFTMAX:
        return _dense(loss, scale)
    rule = _margin_rule(loss, steps)
    if head.update == "fused" and rule.learns_from_norms:
        raise InputError(
            f"head.update fused has no loss.name {loss.name}, whose margin has a gradient; use "
            "optimiser"
        )
    softmax = MarginSoftmax(
        rule,
        scale,
        head,
        num_classes=num_classes,
        sub_centers=loss.sub_centers,
        label_smoothing=loss.label_smoothing,
        filter_threshold=loss.filter_threshold,
    )
    if head.update == "fused":
        return FusedMarginSoftmax(softmax, RowSgd(optimiser.momentum, optimiser.weight_decay))
    return softmax


def _margin_rule(loss: LossConfig, steps: int) -> MarginRule:
    margin = () if loss.margin is None else (loss.margin,)
    if loss.name in _ELASTIC:
        return _ELASTIC[loss.name]
    if loss.name == "adaface":
        check_between("loss.margin", AdaFaceMargin(*margin).margin, 0.0, math.pi / 2)
        return AdaFaceMargin(*margin)
    if loss.name == "magface":
        return MagFaceMargin()
    if loss.name in _ANGULAR:
        psi = _ANGULAR[loss.name](*margin, past_pi=loss.past_pi, gradient=loss.gradient)
    else:
        psi = cosface(*margin) if loss.name == "cosface" else normface()
    check_between("loss.margin_warmup", loss.margin_warmup, 0.0, 1.0)
    return FixedMargin(psi, round(loss.margin_warmup * steps))


def _dense(loss: LossConfig, scale: float) -> Objective:
    if loss.name == "triplet":
        margin = 0.35 if loss.margin is None else loss.margin
        check_between("loss.margin", margin, 0.0, 3.0)
        return dense_losses.TripletLoss(margin)
    makers: dict[str, Callable[[], Objective]] = {
        "softmax": lambda: dense_losses.plain_softmax(loss.label_smoothing),
        "curricularface": lambda: dense_losses.curricularface(scale),
        "intra": lambda: dense_losses.combination(
            normface(), scale, loss.label_smoothing, intra=1.0
        ),
        "inter": lambda: dense_losses.combination(
            normface(), scale, loss.label_smoothing, inter=1.0
        ),
        "sphereface2": lambda: dense_losses.sphereface2(scale),
        "uniface": lambda: dense_losses.uniface(scale),
    }
    return makers[loss.name]()


def _refuse(section: str, unused: dict[str, bool], config: Any, why: str) -> None:
    for name, is_unused in unused.items():
        if is_unused:
            raise InputError(
                f"{section}.{name} {getattr(config, name)} does nothing with {why}; leave it out"
            )


def _check_loss(loss: LossConfig) -> None:
    default = LossConfig()
    changed = {
        name: getattr(loss, name) != getattr(default, name) for name in default.__dataclass_fields__
    }
    unused = {
        "margin": changed["margin"] and loss.name not in _WITH_MARGIN_TO_SET,
        "scale": changed["scale"] and loss.name in ("softmax", "triplet"),
        "past_pi": changed["past_pi"] and loss.name not in _ANGULAR,
        "gradient": changed["gradient"] and loss.name not in _ANGULAR,
        "margin_warmup": changed["margin_warmup"]
        and (loss.name not in _FIXED or loss.name == "normface"),
        "sub_centers": changed["sub_centers"] and loss.name not in _MARGIN_SOFTMAX,
        "label_smoothing": changed["label_smoothing"] and loss.name not in _WITH_SMOOTHING,
        "filter_threshold": changed["filter_threshold"] and loss.name not in _MARGIN_SOFTMAX,
    }
    _refuse("loss", unused, loss, f"loss.name {loss.name}")
    check_between("loss.label_smoothing", loss.label_smoothing, 0.0, 1.0)
    if loss.filter_threshold is not None:
        check_between("loss.filter_threshold", loss.filter_threshold, -1.0, 1.0)
    if loss.sub_centers < 1:
        raise InputError(f"loss.sub_centers is {loss.sub_centers}; pass 1 or more")


def _check_head(loss: LossConfig, head: HeadConfig, optimiser: OptimiserConfig) -> None:
    if head.kind != "dense" and loss.name not in _MARGIN_SOFTMAX:
        raise InputError(
            f"head.kind {head.kind} has no loss.name {loss.name}, which needs all logits; use dense"
        )
    dense = {"chunk": head.chunk, "sample_rate": head.sample_rate, "update": head.update}
    default = HeadConfig()
    if head.kind == "dense":
        unused = {name: value != getattr(default, name) for name, value in dense.items()}
        _refuse("head", unused, head, "head.kind dense")
    if head.chunk < 1:
        raise InputError(f"head.chunk is {head.chunk}; pass 1 or more classes")
    check_between("head.sample_rate", head.sample_rate, 0.0, 1.0, open_low=True)
    if head.update == "optimiser":
        unused = {
            name: getattr(head, name) != getattr(default, name) for name in ("unsampled", "dtype")
        }
        _refuse("head", unused, head, "head.update optimiser")
        return
    if optimiser.name != "sgd" or optimiser.clip is not None:
        raise InputError(
            "head.update fused updates rows by SGD as their gradient is formed: it needs "
            "--optimiser.name sgd, and no optimiser.clip; or use --head.update optimiser"
        )
    if head.unsampled != default.unsampled and head.sample_rate == 1.0:
        raise InputError(
            f"head.unsampled {head.unsampled} does nothing with head.sample_rate 1; leave it out"
        )
