"""Parameter names in the PyTorch projects, one function per naming.

A function takes the path of a Flax module, such as ("layer1_0", "conv1"), and returns the name of
the PyTorch module, "layer1.0.conv1". `torch_key` adds the parameter.
"""

import re
from collections.abc import Callable, Sequence

import flax.linen as nn
import numpy as np

from arcface_jax.errors import InputError
from arcface_jax.models.iresnet import IResNet
from arcface_jax.models.layers import FROZEN_SCALE
from arcface_jax.models.mbf import ArcFaceTorchMobileFaceNet
from arcface_jax.models.mobilefacenet import MobileFaceNet
from arcface_jax.models.vit import VisionTransformer

Naming = Callable[[Sequence[str]], str]

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "slope": "weight",
    FROZEN_SCALE: "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_UNIT = {"conv": 0, "bn": 1, "prelu": 2}
_BOTTLENECK = {"expand": 0, "depthwise": 1, "project": 2}


def torch_key(path: Sequence[str], naming: Naming) -> str:
    """The key in a state dict of the leaf at `path`, without its collection."""
    *modules, leaf = path
    if leaf in ("pos_embed", "mask_token"):
        return leaf
    if modules[-1] == "norm" and modules[0] == "features":
        modules = modules[:-1]  # a batch normalisation inside EmbeddingBatchNorm
    return f"{naming(modules)}.{_LEAVES[leaf]}"


def torch_layout(leaf: str, array: np.ndarray) -> np.ndarray:
    """A Flax array in PyTorch's order: [out, in, height, width], dense layers [out, in]."""
    if leaf == "kernel":
        return np.transpose(array, (3, 2, 0, 1) if array.ndim == 4 else (1, 0))
    return array


def flax_layout(leaf: str, array: np.ndarray) -> np.ndarray:
    """The inverse of `torch_layout`."""
    if leaf == "kernel":
        return np.transpose(array, (2, 3, 1, 0) if array.ndim == 4 else (1, 0))
    return array


def naming_of(backbone: nn.Module) -> Naming:
    """PyTorch projects' names for a backbone.

    Raises:
      InputError: no project has this network.
    """
    if isinstance(backbone, IResNet) and backbone.stem == "conv3" and backbone.output == "E":
        if backbone.shortcut == "subsampled":
            return _ir_naming(backbone)
        if backbone.inner_norm and backbone.embedding_affine:
            return _iresnet_naming
    if isinstance(backbone, MobileFaceNet):
        return _mobilefacenet_naming
    if isinstance(backbone, ArcFaceTorchMobileFaceNet):
        return _mbf_naming
    if isinstance(backbone, VisionTransformer):
        return _vit_naming
    raise InputError(
        f"backbone {type(backbone).__name__}: no PyTorch project is known that has it with these "
        "options; export to ONNX or StableHLO"
    )


def _iresnet_naming(modules: Sequence[str]) -> str:
    name = re.sub(r"^layer(\d)_(\d+)", r"layer\1.\2", ".".join(modules))
    return re.sub(r"\.downsample_(conv|bn)$", lambda m: f".downsample.{_UNIT[m[1]]}", name).replace(
        ".se.", ".se_block."
    )


def _ir_naming(backbone: IResNet) -> Naming:
    """AdaFace's and CurricularFace's: input_layer, body (blocks counted through), output_layer."""
    inner = ("bn1", "conv1", "bn2", "prelu", "conv2", "bn3", "se")
    order = inner if backbone.inner_norm else tuple(name for name in inner if name != "bn2")
    outer = {"conv1": "input_layer.0", "bn1": "input_layer.1", "prelu": "input_layer.2"}
    outer |= {"bn2": "output_layer.0", "fc": "output_layer.3", "features": "output_layer.4"}

    def naming(modules: Sequence[str]) -> str:
        block = re.fullmatch(r"layer(\d)_(\d+)", modules[0])
        if block is None:
            return outer[modules[0]]
        number = sum(backbone.stage_blocks[: int(block[1]) - 1]) + int(block[2])
        if modules[1].startswith("downsample_"):
            return f"body.{number}.shortcut_layer.{_UNIT[modules[1].removeprefix('downsample_')]}"
        return ".".join([f"body.{number}.res_layer.{order.index(modules[1])}", *modules[2:]])

    return naming


def _mobilefacenet_naming(modules: Sequence[str]) -> str:
    if modules[0].startswith("blocks_"):
        place = 3 * _BOTTLENECK[modules[1]] + _UNIT[modules[2]]
        return f"{modules[0].replace('_', '.')}.conv.{place}"
    return ".".join(modules)


def _mbf_naming(modules: Sequence[str]) -> str:
    first = {"gdc": "features.layers.0", "fc": "features.layers.2", "features": "features.layers.3"}
    # layers_3_1 is bottleneck 1 of the sequence that is layer 3.
    name = first.get(modules[0]) or re.sub(
        r"^layers_(\d+)_(\d+)$", r"layers.\1.layers.\2", modules[0]
    )
    name = re.sub(r"^layers_(\d+)$", r"layers.\1", name)
    return ".".join([name, *(f"layers.{(_BOTTLENECK | _UNIT)[module]}" for module in modules[1:])])


def _vit_naming(modules: Sequence[str]) -> str:
    whole = {"patch_embed": "patch_embed.proj", "norm": "norm"}
    whole |= {"feature_fc1": "feature.0", "feature_bn1": "feature.1"}
    whole |= {"feature_fc2": "feature.2", "feature_bn2": "feature.3"}
    if modules[0] in whole:
        return whole[modules[0]]
    inside = [f"mlp.{modules[1]}"] if modules[1] in ("fc1", "fc2") else list(modules[1:])
    return ".".join([modules[0].replace("_", "."), *inside])
