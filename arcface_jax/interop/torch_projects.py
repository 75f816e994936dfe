"""The supported PyTorch projects, and what their files do not say."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from arcface_jax.errors import InputError
from arcface_jax.models.iresnet import IResNet
from arcface_jax.models.mbf import ArcFaceTorchMobileFaceNet
from arcface_jax.models.mobilefacenet import PUBLISHED_BOTTLENECKS, MobileFaceNet
from arcface_jax.models.vit import VisionTransformer
from arcface_jax.pixels import ADAFACE, ARCFACE_TORCH, INSIGHTFACE_MXNET, MAGFACE, PixelConvention

Weights = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class TorchProject:
    """The input of a project's models, and what its files do not say.

    Attributes:
      pixels: colour order and value range.
      epsilon: of its batch normalisations; None for the published value of each network.
    """

    pixels: PixelConvention
    epsilon: float | None = None


PROJECTS: Mapping[str, TorchProject] = {
    "arcface_torch": TorchProject(ARCFACE_TORCH),
    "adaface": TorchProject(ADAFACE),
    "curricularface": TorchProject(ARCFACE_TORCH),
    "elasticface": TorchProject(ARCFACE_TORCH),
    "magface": TorchProject(MAGFACE, epsilon=2e-5),
    "mobilefacenet_pytorch": TorchProject(INSIGHTFACE_MXNET),
}
"""By name. InsightFace's PyTorch models are arcface_torch's."""

_MOST_BLOCKS = 1000

SIGNATURES = {
    "layer1.0.conv1.weight": "iresnet",
    "input_layer.0.weight": "ir",
    "dw_conv1.conv.weight": "mobilefacenet",
    "conv_sep.layers.0.weight": "mbf",
    "patch_embed.proj.weight": "vit",
}
"""A key that only this naming has; the part before it is the checkpoint's prefix."""


class UnknownProjectError(InputError):
    """A checkpoint that does not show which project wrote it."""


def guess_project(naming: str, prefix: str, weights: Weights) -> str:
    """The project whose checkpoints look like this.

    Raises:
      UnknownProjectError: several fit and expect different pixels.
    """
    if naming == "mobilefacenet":
        return "mobilefacenet_pytorch"
    if naming == "iresnet" and "features." in prefix:
        return "magface"
    if naming == "ir":
        # No normalisation between convolution and PReLU.
        if "body.0.res_layer.5.running_mean" not in weights:
            return "curricularface"
        if prefix != "model.":
            raise UnknownProjectError(
                "project: several projects name their weights like this and some of them expect "
                f"BGR; say which it is by --project, in Python by project=: {', '.join(PROJECTS)}"
            )
        return "adaface"
    return "arcface_torch"


def backbone_of(
    naming: str, weights: Weights, epsilon: float | None
) -> tuple[nn.Module, tuple[int, int]]:
    """The backbone of weights in this naming, and its training image (height, width)."""
    build = {
        "iresnet": _iresnet,
        "ir": _ir,
        "mobilefacenet": _mobilefacenet,
        "mbf": _mbf,
        "vit": _vit,
    }[naming]
    options: dict[str, Any] = {} if epsilon is None else {"epsilon": epsilon}
    return build(weights, options)


def _count(weights: Weights, parent: str) -> int:
    """How many numbered children a module has, or 0."""
    prefix = f"{parent}." if parent else ""
    numbers = {key.removeprefix(prefix).split(".")[0] for key in weights if key.startswith(prefix)}
    count = 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)
    if count > _MOST_BLOCKS:
        raise InputError(f"{parent}: numbered up to {count - 1}; no network here has so many parts")
    return count


def _need(weights: Weights, key: str, dimensions: int) -> np.ndarray:
    if key not in weights:
        raise InputError(f"{key}: missing, and the network cannot be told without it")
    if weights[key].ndim != dimensions or 0 in weights[key].shape:
        raise InputError(
            f"{key}: shape {weights[key].shape}, wanted {dimensions} dimensions, none of them 0"
        )
    return weights[key]


def _side(cells: int, channels: int, cell: int) -> int:
    side = math.isqrt(cells // max(1, channels))
    return side * cell


def _reduction(weights: Weights, key: str) -> int:
    """Of squeeze and excitation, by the shape of its first matrix; 0 where there is none."""
    if key not in weights:
        return 0
    hidden, channels = _need(weights, key, 4).shape[:2]
    return channels // hidden


def _iresnet(weights: Weights, options: dict[str, Any]) -> tuple[nn.Module, tuple[int, int]]:
    width, dense = _need(weights, "conv1.weight", 4).shape[0], _need(weights, "fc.weight", 2)
    squeeze = _reduction(weights, "layer1.0.se_block.fc1.weight")
    blocks = tuple(_count(weights, f"layer{stage}") for stage in (1, 2, 3, 4))
    side = _side(dense.shape[1], 8 * width, 16)
    return IResNet(blocks, dense.shape[0], width, squeeze=squeeze, **options), (side, side)


def _ir(weights: Weights, options: dict[str, Any]) -> tuple[nn.Module, tuple[int, int]]:
    width = _need(weights, "input_layer.0.weight", 4).shape[0]
    dense = _need(weights, "output_layer.3.weight", 2)
    inner_norm = "body.0.res_layer.5.running_mean" in weights
    stages = [0, 0, 0, 0]
    for number in range(_count(weights, "body")):
        channels = _need(weights, f"body.{number}.res_layer.1.weight", 4).shape
        stage = round(math.log2(channels[0] / width))
        if channels[2:] != (3, 3) or not 0 <= stage < 4:
            raise InputError(
                f"body.{number}.res_layer.1.weight: shape {channels}; bottleneck blocks are not "
                "supported"
            )
        stages[stage] += 1
    excitation = f"body.0.res_layer.{6 if inner_norm else 5}.fc1.weight"
    squeeze = _reduction(weights, excitation)
    side = _side(dense.shape[1], 8 * width, 16)
    backbone = IResNet(
        tuple(stages),
        dense.shape[0],
        width,
        squeeze=squeeze,
        shortcut="subsampled",
        inner_norm=inner_norm,
        embedding_affine="output_layer.4.weight" in weights,
        **options,
    )
    return backbone, (side, side)


def _mobilefacenet(weights: Weights, options: dict[str, Any]) -> tuple[nn.Module, tuple[int, int]]:
    blocks, published = _count(weights, "blocks"), sum(row.count for row in PUBLISHED_BOTTLENECKS)
    if blocks != published:
        raise InputError(f"blocks: {blocks} bottlenecks, but MobileFaceNet has {published}")
    width = _need(weights, "conv1.conv.weight", 4).shape[0]
    whole = _need(weights, "linear7.conv.weight", 4)
    embedding_size = _need(weights, "linear1.conv.weight", 4).shape[0]
    return MobileFaceNet(embedding_size, width, **options), (
        16 * whole.shape[2],
        16 * whole.shape[3],
    )


def _mbf(weights: Weights, options: dict[str, Any]) -> tuple[nn.Module, tuple[int, int]]:
    channels = _need(weights, "layers.0.layers.0.weight", 4).shape[0]
    last = _need(weights, "conv_sep.layers.0.weight", 4)
    width = last.shape[0] // 8
    stem = "layers.1.layers.0.weight" in weights
    first = 1 if stem else _count(weights, "layers.1.layers")
    second, third, fourth = (_count(weights, f"layers.{layer}.layers") for layer in (3, 5, 7))
    blocks = (first, second, third, fourth)
    side = 16 * _need(weights, "features.layers.0.layers.0.weight", 4).shape[2]
    embedding_size = _need(weights, "features.layers.2.weight", 2).shape[0]
    backbone = ArcFaceTorchMobileFaceNet(
        blocks, channels // max(1, width), embedding_size, width, **options
    )
    return backbone, (side, side)


def _vit(weights: Weights, options: dict[str, Any]) -> tuple[nn.Module, tuple[int, int]]:
    channels, _, patch, _ = _need(weights, "patch_embed.proj.weight", 4).shape
    tokens = _need(weights, "pos_embed", 3).shape[1]
    embedding_size = _need(weights, "feature.2.weight", 2).shape[0]
    backbone = VisionTransformer(
        channels, _count(weights, "blocks"), 8, embedding_size, patch, **options
    )
    # Every size with this number of whole patches fits; 112 pixels, where it is one of them, is
    # what was published.
    side = math.isqrt(tokens) * patch
    side = 112 if side <= 112 < side + patch else side
    return backbone, (side, side)
