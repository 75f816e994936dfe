"""ONNX: models out by jax2onnx, insightface's packs in. Needs requirements-onnx.txt.

An import reads the numbers only. It follows the graph's order of evaluation, for the names of
initialisers in published files are an exporter's counters.
"""

import math
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from arcface_jax.errors import InputError
from arcface_jax.files import write_whole
from arcface_jax.interop.model import TrainedModel
from arcface_jax.interop.onnx_graph import fuse_prelu
from arcface_jax.interop.tracing import ModulePath, calls
from arcface_jax.models import registry
from arcface_jax.models.iresnet import IResNet
from arcface_jax.models.layers import FROZEN_SCALE, PReLU
from arcface_jax.pixels import ARCFACE_TORCH, PixelConvention

OPSET = 23
_LAYERS = ("Conv", "BatchNormalization", "PRelu", "Gemm", "MatMul")


def export_onnx(
    function: Callable[[jax.Array], jax.Array],
    image_size: tuple[int, int],
    path: str | os.PathLike[str],
) -> None:
    """Writes a function of uint8 images [batch, height, width, 3] as an ONNX file, for any batch.

    Args:
      function: as `inference.unit_embedding` returns it with shift_depthwise=False.
      image_size: (height, width).
      path: file to write.

    Raises:
      InputError: jax2onnx is not installed, or the function asks for what platform it is compiled.
    """
    try:
        import jax2onnx
    except ImportError as error:
        raise InputError(
            "jax2onnx is needed to write ONNX: pip install -r requirements-onnx.txt"
        ) from error
    traced = jax.make_jaxpr(function)(jax.ShapeDtypeStruct((1, *image_size, 3), jnp.uint8))
    if "platform_index" in str(traced.jaxpr):
        raise InputError(
            "function: computes differently on a CPU, which ONNX cannot; give shift_depthwise=False"
        )
    images = jax.ShapeDtypeStruct(("batch", *image_size, 3), jnp.uint8)
    model: Any = jax2onnx.to_onnx(
        function, inputs=[images], opset=OPSET, input_names=["images"], output_names=["embeddings"]
    )
    fuse_prelu(model.graph)
    # What the converter notes about shapes inside differs from the truth where it moved a
    # transposition.
    del model.graph.value_info[:]
    write_whole(path, model.SerializeToString())


def import_onnx(path: str | os.PathLike[str]) -> TrainedModel:
    """Reads an IResNet or `mbf` from an ONNX file, such as insightface's w600k_r50.onnx.

    Batch normalisations that the exporter folded into a convolution come back as identities with a
    bias. The result computes what the file computes.

    Raises:
      InputError: the file cannot be read, or is another network; the message says where they part.
    """
    path = pathlib.Path(path)
    try:
        import onnx
        import onnx.numpy_helper
    except ImportError as error:
        raise InputError(
            "onnx is needed to read ONNX: pip install -r requirements-onnx.txt"
        ) from error
    try:
        # Weights in other files are left alone: their names may lead anywhere.
        graph = onnx.load(path, load_external_data=False).graph
        constants = {
            tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer
        }
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                constants[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    except Exception as error:  # OSError, protobuf's DecodeError, ValueError of external data
        raise InputError(
            f"{path}: is no ONNX file that can be read ({str(error)[:100]})"
        ) from error
    try:
        layers = [_Layer(node, constants) for node in graph.node if node.op_type in _LAYERS]
        backbone, image_size = _describe(layers)
        variables = _fill(backbone, image_size, layers)
        return TrainedModel(backbone, variables, _pixels(graph, constants), image_size, path.name)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


class _Layer:
    """A node with its constants, in the order of its inputs."""

    def __init__(self, node: Any, constants: dict[str, np.ndarray]) -> None:
        self.kind: str = node.op_type
        self.name: str = node.name or node.output[0]
        self.attributes = {attribute.name: attribute for attribute in node.attribute}
        missing = [name for name in node.input[1:] if name not in constants]
        if missing:
            raise InputError(f"node {self.name}: {', '.join(missing)} is no constant of the file")
        self.constants = [constants[name] for name in node.input[1:]]
        # [in, out], as Flax has it.
        if self.kind == "MatMul" or (self.kind == "Gemm" and not self._transposed):
            self.constants[0] = self.constants[0].T
        if self.kind == "MatMul":
            self.kind = "Gemm"

    @property
    def _transposed(self) -> bool:
        return "transB" in self.attributes and self.attributes["transB"].i == 1

    @property
    def epsilon(self) -> float:
        return float(self.attributes["epsilon"].f) if "epsilon" in self.attributes else 1e-5


def _describe(layers: list[_Layer]) -> tuple[nn.Module, tuple[int, int]]:
    """The network, by the shapes of its convolutions."""
    kernels = [layer.constants[0] for layer in layers if layer.kind == "Conv"]
    dense = [layer.constants[0] for layer in layers if layer.kind == "Gemm"]
    if not kernels or len(dense) != 1 or not all(kernel.ndim == 4 for kernel in kernels):
        raise InputError(
            f"{len(kernels)} convolutions and {len(dense)} dense layers; no network here has these"
        )
    epsilons = {round(layer.epsilon, 9) for layer in layers if layer.kind == "BatchNormalization"}
    if len(epsilons) > 1:
        raise InputError(f"its batch normalisations have several epsilons, {sorted(epsilons)}")
    epsilon = epsilons.pop() if epsilons else 1e-5
    embedding_size, width = dense[0].shape[0], kernels[0].shape[0]
    if any(kernel.shape[1] == 1 for kernel in kernels):
        side = 16 * kernels[-1].shape[2]
        backbone = registry.create(
            "mbf", embedding_size=embedding_size, width=kernels[-1].shape[0] // 8
        )
        return backbone.clone(epsilon=epsilon), (side, side)
    stages = [0, 0, 0, 0]
    for kernel in [kernel for kernel in kernels[1:] if kernel.shape[2:] == (3, 3)][::2]:
        stage = round(math.log2(kernel.shape[0] / width))
        if not 0 <= stage < 4:
            raise InputError(
                f"a block has {kernel.shape[0]} channels, but the stem {width}; this is no IResNet"
            )
        stages[stage] += 1
    side = 16 * math.isqrt(dense[0].shape[1] // (8 * width))
    return IResNet(tuple(stages), embedding_size, width, epsilon=epsilon), (side, side)


def _fill(backbone: nn.Module, image_size: tuple[int, int], layers: list[_Layer]) -> dict[str, Any]:
    """Gives every layer of the backbone, in order of evaluation, the numbers of its node."""
    wanted = jax.eval_shape(
        lambda: backbone.init(jax.random.key(0), jnp.zeros((1, *image_size, 3)))
    )
    shapes = {name: flax.traverse_util.flatten_dict(tree) for name, tree in wanted.items()}
    params: dict[ModulePath, np.ndarray] = {}
    stats: dict[ModulePath, np.ndarray] = {}
    nodes: Iterator[_Layer] = iter(layers)
    pending: np.ndarray | None = (
        None  # the bias of a convolution whose normalisation was folded into it
    )
    for call in calls(backbone, wanted, image_size):
        if isinstance(call.layer, nn.BatchNorm) and pending is not None:
            size = len(pending)
            values = [np.ones(size), pending, np.zeros(size), np.full(size, 1 - call.layer.epsilon)]
            _set_norm(call.path, values, params, stats)
            pending = None
            continue
        node, kind = next(nodes, None), _kind(call.layer)
        if node is None or node.kind != kind:
            raise InputError(
                f"{'/'.join(call.path)} is a {kind}, but the file has "
                f"{node.kind if node else 'no more'}"
            )
        if kind == "BatchNormalization":
            _set_norm(call.path, node.constants, params, stats)
        elif kind == "PRelu":
            params[*call.path, "slope"] = node.constants[0].reshape(-1)
        elif kind == "Conv":
            params[*call.path, "kernel"] = node.constants[0].transpose(2, 3, 1, 0)
            pending = node.constants[1] if len(node.constants) > 1 else None
        else:
            _set_dense(call.path, node, call.layer, params)
    if (left := next(nodes, None)) is not None:
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
        arrays = {path: np.ascontiguousarray(value, np.float32) for path, value in found.items()}
        result[name] = flax.traverse_util.unflatten_dict(arrays)
    return result


def _kind(layer: nn.Module) -> str:
    kinds = {nn.Conv: "Conv", nn.Dense: "Gemm", nn.BatchNorm: "BatchNormalization", PReLU: "PRelu"}
    return next(kind for layer_type, kind in kinds.items() if isinstance(layer, layer_type))


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


def _set_dense(path: ModulePath, node: _Layer, layer: Any, params: dict[ModulePath, Any]) -> None:
    params[*path, "kernel"] = node.constants[0].T
    if layer.use_bias:
        params[*path, "bias"] = node.constants[1]
    elif len(node.constants) > 1 and np.any(node.constants[1]):
        raise InputError(f"node {node.name}: has a bias, but {'/'.join(path)} has none")


def _pixels(graph: Any, constants: dict[str, np.ndarray]) -> PixelConvention:
    """(x − 127.5)/127.5, RGB, as insightface feeds its packs, unless the graph does it itself."""
    (name,) = [one.name for one in graph.input if one.name not in constants]
    offset, factor, does_itself = 0.0, 1.0, False  # (x − offset)·factor so far
    while True:
        node = next((node for node in graph.node if name in node.input), None)
        if node is None or node.op_type in _LAYERS:
            break
        name = node.output[0]
        if node.op_type in ("Identity", "Cast"):
            continue
        number = _number(node, constants)
        offset += {"Sub": number, "Add": -number}.get(node.op_type, 0.0) / factor
        factor *= {"Mul": number, "Div": 1.0 / number}.get(node.op_type, 1.0)
        does_itself = True
    return PixelConvention("rgb", offset, 1.0 / factor) if does_itself else ARCFACE_TORCH


def _number(node: Any, constants: dict[str, np.ndarray]) -> float:
    """The number that a node before the first layer applies to the pixels."""
    operand = constants.get(node.input[1]) if node.op_type in ("Sub", "Add", "Mul", "Div") else None
    if (
        operand is None
        or operand.size == 0
        or np.ptp(operand) != 0
        or (node.op_type != "Sub" and not operand.any())
    ):
        raise InputError(
            f"node {node.name or node.output[0]} ({node.op_type}) comes before the first layer and "
            "is no arithmetic of the pixels with one number"
        )
    return float(operand.reshape(-1)[0])
