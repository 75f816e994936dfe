"""A backbone from the layers of an ONNX or MXNet graph, in order of evaluation.

Names in these files are an exporter's counters. So the shapes identify the network, and its layers
get their weights in the order in which they are called.
"""

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from arcface_jax.counts import number_of
from arcface_jax.errors import InputError
from arcface_jax.interop.model import TrainedModel
from arcface_jax.interop.tracing import ModulePath, calls
from arcface_jax.models.iresnet import IResNet
from arcface_jax.models.layers import FROZEN_SCALE, PReLU
from arcface_jax.models.mbf import ArcFaceTorchMobileFaceNet
from arcface_jax.models.mobilefacenet import MobileFaceNet

_LARGEST_SIDE = 1024
_EPSILON = 1e-5  # of every backbone here that is not told another


@dataclasses.dataclass
class Layer:
    """A layer with its weights.

    Attributes:
      kind: Conv, BatchNormalization, PRelu or Gemm, as ONNX calls them.
      name: of its node, for messages.
      constants: Conv: kernel [out, in / groups, height, width], perhaps a bias [out];
        BatchNormalization: scale, bias, mean, variance; PRelu: slopes; Gemm: matrix [out, in],
        perhaps a bias.
      epsilon: of a BatchNormalization.
      stride: of a Conv.
    """

    kind: str
    name: str
    constants: list[np.ndarray]
    epsilon: float = _EPSILON
    stride: int = 1


def network_of(layers: Sequence[Layer]) -> tuple[nn.Module, dict[str, Any], tuple[int, int]]:
    """(the backbone, its variables, the image's (height, width)) of layers in order of evaluation.

    If a convolution has a bias, the normalisation after it was folded into it and becomes an
    identity with a bias; likewise for a dense layer with no normalisation after it. The backbone's
    epsilon is 1e-5, or the smallest of the layers' if that is less. A layer with a larger one adds
    the difference to its running variance, var + ε − 1e-5, so the weights alone define the result.

    Raises:
      InputError: no IResNet, `mbf` or MobileFaceNet has these layers; the message says where they
        differ.
    """
    epsilons = [layer.epsilon for layer in layers if layer.kind == "BatchNormalization"]
    epsilon = min([_EPSILON, *epsilons])
    backbone, image_size = _describe(layers, epsilon)
    if max(image_size) > _LARGEST_SIDE:
        raise InputError(
            f"takes images of {image_size[0]}×{image_size[1]} pixels by its sizes; no network here "
            f"takes more than {_LARGEST_SIDE}"
        )
    return backbone, _fill(backbone, image_size, layers, epsilon), image_size


def check_same(
    model: TrainedModel, images: np.ndarray, expected: np.ndarray, tolerance: float
) -> None:
    """Compares with the graph's own result on the images, uint8 [N, height, width, 3].

    Raises:
      InputError: an embedding differs by more than `tolerance` times the largest number.
    """
    ours = model.embedder(len(images))(images)
    if expected.shape != ours.shape:
        raise InputError(
            f"computes {list(expected.shape)} of {number_of(len(images), 'image')}, its layers "
            f"{list(ours.shape)}; export the network up to its embedding"
        )
    difference, largest = float(np.abs(ours - expected).max()), float(np.abs(expected).max())
    if not difference <= tolerance * largest:
        raise InputError(
            f"computes other embeddings than its layers make as {type(model.backbone).__name__} "
            f"(up to {difference:.2g} of {largest:.2g} apart); it is no network here"
        )


def is_usual(low: float, high: float) -> bool:
    """Whether networks usually train on such pixels: about −1 … 1, 0 … 1, or deviation 1."""
    return -3.0 <= low < high <= 3.0 and low < 0.1 and high - low > 0.9


def _describe(layers: Sequence[Layer], epsilon: float) -> tuple[nn.Module, tuple[int, int]]:
    """Describes the network by the shapes of its convolutions."""
    convolutions = [layer for layer in layers if layer.kind == "Conv"]
    kernels = [layer.constants[0] for layer in convolutions]
    dense = [layer.constants[0] for layer in layers if layer.kind == "Gemm"]
    if not kernels or len(dense) != 1 or not all(kernel.ndim == 4 for kernel in kernels):
        raise InputError(
            f"{number_of(len(kernels), 'convolution')} and {len(dense)} dense layers; no network "
            "here has these"
        )
    if kernels[0].shape[0] < 1 or 0 in dense[0].shape or dense[0].ndim != 2:
        raise InputError("a layer without numbers; no network here has one")
    embedding_size, width = dense[0].shape[0], kernels[0].shape[0]
    if any(kernel.shape[1] == 1 for kernel in kernels):
        return _mbf(convolutions, embedding_size, epsilon)
    stages = [0, 0, 0, 0]
    for kernel in [kernel for kernel in kernels[1:] if kernel.shape[2:] == (3, 3)][::2]:
        stage = round(math.log2(kernel.shape[0] / width)) if kernel.shape[0] else -1
        if not 0 <= stage < 4:
            raise InputError(
                f"a block has {number_of(kernel.shape[0], 'channel')}, but the stem {width}; this "
                "is no IResNet"
            )
        stages[stage] += 1
    side = 16 * math.isqrt(dense[0].shape[1] // (8 * width))
    if 0 in stages or side == 0:
        raise InputError(
            f"{number_of(len(kernels), 'convolution')} of "
            f"{number_of(kernels[0].shape[0], 'channel')} and more, and a dense layer "
            f"{dense[0].shape}; this is no IResNet"
        )
    return IResNet(tuple(stages), embedding_size, width, epsilon=epsilon), (side, side)


def _mbf(
    convolutions: Sequence[Layer], embedding_size: int, epsilon: float
) -> tuple[nn.Module, tuple[int, int]]:
    """conv – grouped conv or bottlenecks – bottlenecks, three times – conv1×1 – global conv."""
    kernels = [layer.constants[0] for layer in convolutions]
    width = kernels[-1].shape[0] // 8
    if width < 1 or kernels[-1].shape[1] != 1:
        raise InputError("its last convolution is none over the whole image; this is no mbf")
    between = convolutions[1:-2]
    stem = bool(between) and between[0].constants[0].shape[2:] == (3, 3)
    between = between[stem:]
    blocks = [int(stem)]
    for depthwise in between[1::3]:  # of each bottleneck's three
        if depthwise.stride == 2:
            blocks.append(0)
        else:
            blocks[-1] += 1
    if len(blocks) != 4 or len(between) % 3 or (stem and blocks[0] > 1):
        raise InputError(
            f"{number_of(len(kernels), 'convolution')}, {len(blocks) - 1} bottlenecks of which "
            "halve the image; this is no mbf"
        )
    image_size = (16 * kernels[-1].shape[2], 16 * kernels[-1].shape[3])
    scale = kernels[0].shape[0] // width
    if (*blocks, scale) == (1, 4, 6, 2, 1):  # the paper's, but for a matrix as last convolution
        return MobileFaceNet(embedding_size, width, epsilon=epsilon), image_size
    backbone = ArcFaceTorchMobileFaceNet(
        (blocks[0], blocks[1], blocks[2], blocks[3]), scale, embedding_size, width, epsilon=epsilon
    )
    return backbone, image_size


def _fill(
    backbone: nn.Module, image_size: tuple[int, int], layers: Sequence[Layer], epsilon: float
) -> dict[str, Any]:
    """Gives every layer of the backbone, in order of evaluation, the weights of its node."""
    try:
        wanted = jax.eval_shape(
            lambda: backbone.init(jax.random.key(0), jnp.zeros((1, *image_size, 3)))
        )
    except Exception as error:  # of sizes that make no network
        raise InputError(f"its sizes make no {type(backbone).__name__}") from error
    shapes = {name: flax.traverse_util.flatten_dict(tree) for name, tree in wanted.items()}
    params: dict[ModulePath, np.ndarray] = {}
    stats: dict[ModulePath, np.ndarray] = {}
    nodes = collections.deque(layers)
    pending: np.ndarray | None = None  # the bias of a layer whose normalisation was folded into it
    shift: np.ndarray | float = 0.0  # the bias of a dense layer before its normalisation
    for call in calls(backbone, wanted, image_size):
        kind = _kind(call.layer)
        if kind == "BatchNormalization" and pending is not None:
            size = len(pending)
            values = [np.ones(size), pending, np.zeros(size), np.full(size, 1 - epsilon)]
            _set_norm(call.path, values, params, stats)
            pending = None
            continue
        node = nodes.popleft() if nodes else None
        one_pixel = kind == "Conv" and call.path == ("linear1", "conv")
        if node is None or node.kind != ("Gemm" if one_pixel else kind):
            has = f"{node.kind} (node {node.name})" if node else "no more"
            raise InputError(f"{'/'.join(call.path)} is a {kind}, but the file has {has}")
        if kind == "BatchNormalization":
            scale, bias, mean, variance = node.constants
            if node.epsilon != epsilon:
                variance = variance + np.float64(node.epsilon - epsilon)
            _set_norm(call.path, [scale, bias, mean - shift, variance], params, stats)
            shift = 0.0
        elif kind == "PRelu":
            params[*call.path, "slope"] = node.constants[0].reshape(-1)
        elif node.kind == "Conv":
            params[*call.path, "kernel"] = node.constants[0].transpose(2, 3, 1, 0)
            pending = _bias(node) if len(node.constants) > 1 else None
        else:
            kernel, bias = node.constants[0].T, _bias(node)
            params[*call.path, "kernel"] = kernel[None, None] if one_pixel else kernel
            if getattr(call.layer, "use_bias", False):
                params[*call.path, "bias"], bias = bias, np.zeros(bias.shape)
            if nodes and nodes[0].kind == "BatchNormalization":
                shift = bias
            else:
                pending = bias
    if (left := nodes.popleft() if nodes else None) is not None:
        raise InputError(
            f"node {left.name} ({left.kind}) comes after the last layer of "
            f"{type(backbone).__name__}"
        )
    result = {}
    for name, found in (("params", params), ("batch_stats", stats)):
        for path, leaf in shapes[name].items():
            if found[path].shape != leaf.shape:
                raise InputError(
                    f"{'/'.join(path)} has shape {found[path].shape}, wanted {leaf.shape}"
                )
        with np.errstate(over="ignore"):  # `check_finite` has told of it
            arrays = {
                path: np.ascontiguousarray(value, np.float32) for path, value in found.items()
            }
        result[name] = flax.traverse_util.unflatten_dict(arrays)
    return result


def _kind(layer: nn.Module) -> str:
    kinds = {nn.Conv: "Conv", nn.Dense: "Gemm", nn.BatchNorm: "BatchNormalization", PReLU: "PRelu"}
    return next(kind for layer_type, kind in kinds.items() if isinstance(layer, layer_type))


def _bias(node: Layer) -> np.ndarray:
    """The bias of a convolution or matrix, one per output; zeros if it has none."""
    outputs = node.constants[0].shape[:1]
    bias = node.constants[1] if len(node.constants) > 1 else np.zeros(())
    if bias.shape not in ((), outputs):
        raise InputError(f"node {node.name}: has a bias {bias.shape} of {outputs} outputs")
    return np.broadcast_to(bias, outputs)


def _set_norm(
    path: ModulePath,
    values: list[np.ndarray],
    params: dict[ModulePath, Any],
    stats: dict[ModulePath, Any],
) -> None:
    scale, bias, mean, variance = values
    stats[*path, "mean"], stats[*path, "var"] = mean, variance
    if path == ("features", "norm"):
        params["features", FROZEN_SCALE], params["features", "bias"] = scale, bias
    else:
        params[*path, "scale"], params[*path, "bias"] = scale, bias
