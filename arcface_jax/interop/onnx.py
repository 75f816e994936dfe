"""ONNX: export by jax2onnx, import of insightface's packs. Needs the extra `onnx`.

An import follows the graph's order of evaluation, because initialiser names in published files are
an exporter's counters. Then onnxruntime or the onnx package runs the graph on one image: the
imported model must compute the same.
"""

import contextlib
import os
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from arcface_jax.buckets import as_path
from arcface_jax.command_name import install
from arcface_jax.counts import number_of
from arcface_jax.data.text import count
from arcface_jax.errors import InputError, printable, readable, reason
from arcface_jax.files import write_whole
from arcface_jax.interop.graph_layers import Layer, check_same, is_usual, network_of
from arcface_jax.interop.model import TrainedModel, check_finite, check_floating
from arcface_jax.interop.onnx_graph import fuse_prelu
from arcface_jax.pixels import ARCFACE_TORCH, PixelConvention, normalise

OPSET = 23
_LAYERS = ("Conv", "BatchNormalization", "PRelu", "Gemm", "MatMul")
_KEEPS_NUMBERS = ("Identity", "Dropout", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze")
_BETWEEN = ("Add", "Constant", "Shape", "Gather", "Concat", "Slice", *_KEEPS_NUMBERS)
_CONSTANTS = {"Conv": (1, 2), "BatchNormalization": (4,), "PRelu": (1,), "Gemm": (1, 2)}
_TOLERANCE = {np.dtype(np.float16): 2e-2}  # of the largest number; 1e-3 of other types
_LARGEST_BATCH = 1024
_QUANTISED = re.compile("QLinear|QGemm|Quantize|Integer")
"""In the kinds of the nodes that a quantised network is made of."""
_BYTES = PixelConvention("rgb", 0.0, 1.0)
_TO_ONE = PixelConvention("rgb", 0.0, 255.0)


def import_writer() -> Any:
    """The package that writes ONNX.

    Raises:
      InputError: it is not installed.
    """
    try:
        import jax2onnx
    except ImportError as error:
        raise InputError(f"jax2onnx is needed to write ONNX: {install('onnx')}") from error
    return jax2onnx


def export_onnx(
    function: Callable[[jax.Array], jax.Array],
    image_size: tuple[int, int],
    path: str | os.PathLike[str],
) -> None:
    """Writes a function of uint8 images [batch, height, width, 3] as an ONNX file, for any batch.

    Args:
      function: from `inference.unit_embedding` with shift_depthwise=False.
      image_size: (height, width).
      path: file to write.

    Raises:
      InputError: jax2onnx is not installed, or the function depends on its platform.
    """
    jax2onnx = import_writer()
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

    Batch normalisations that the exporter folded into a convolution or dense layer come back as
    identities with a bias. Weights may be in another file of the same folder. The model computes
    what the file computes; this is checked on one image.

    insightface feeds its packs RGB pixels (x − 127.5)/127.5. A graph with its own first arithmetic
    takes pixels from 0 to 255 if that maps them to about −1 … 1 or 0 … 1, or from 0 to 1 if it maps
    those to about −1 … 1; other arithmetic is refused.

    Raises:
      InputError: the file cannot be read, holds another network, or computes something else; the
        message says where they differ.
    """
    path = as_path(path)
    try:
        import onnx
    except ImportError as error:
        raise InputError(f"onnx is needed to read ONNX: {install('onnx')}") from error
    try:
        with path.open("rb") as file:
            proto = onnx.load(file, load_external_data=False)
    except Exception as error:  # OSError, protobuf's DecodeError
        raise InputError(f"{path}: is no ONNX file that can be read ({reason(error)})") from error
    try:
        return _model(proto, path)
    except InputError as error:  # with names that a stranger gave
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # whatever a graph lacks that the format asks for
        raise InputError(
            f"{path}: its graph is incomplete or damaged ({reason(error)}); export it anew"
        ) from error


def _model(proto: Any, path: pathlib.Path) -> TrainedModel:
    for node in proto.graph.node:
        if _QUANTISED.search(node.op_type):
            raise InputError(
                f"node {node.name or node.output[0]} ({node.op_type}) computes with whole numbers; "
                "take the model before it was quantised"
            )
    constants = _constants(proto.graph, path.parent)
    layers = _layers(proto.graph, constants)
    backbone, variables, image_size = network_of(layers)
    entry = _Entry(proto.graph, constants)
    pixels, takes = _pixels(proto.graph, constants, entry)
    model = TrainedModel(backbone, variables, pixels, image_size, path.name)
    _check_same(model, proto, entry, takes)
    return model


def _constants(graph: Any, folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Every array of the file by name, including those in other files of its folder."""
    import onnx.helper
    import onnx.numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    numbers: dict[str, np.ndarray] = {}
    for node in graph.node:
        for value in node.attribute if node.op_type == "Constant" and node.output else ():
            if value.name == "value":
                tensors[node.output[0]] = value.t
            elif value.name in ("value_float", "value_floats", "value_int", "value_ints"):
                numbers[node.output[0]] = np.asarray(onnx.helper.get_attribute_value(value))
    for name, tensor in tensors.items():
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        tensor.raw_data = _beside(name, tensor.external_data, folder)
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
    try:
        arrays = {name: onnx.numpy_helper.to_array(tensor) for name, tensor in tensors.items()}
    except Exception as error:
        raise InputError(f"holds an array that cannot be read ({reason(error)})") from error
    arrays = numbers | {
        name: one.astype(np.float32) if one.dtype.kind == "V" else one  # bfloat16
        for name, one in arrays.items()
    }
    check_finite({name: one for name, one in arrays.items() if one.dtype.kind == "f"})
    for node in graph.node:  # an exporter's other names of an array, and its axes of a slope
        known = node.op_type in ("Identity", "Unsqueeze") and node.input and node.output
        if known and node.input[0] in arrays:
            arrays[node.output[0]] = arrays[node.input[0]]
    return arrays


def _beside(name: str, entries: Iterable[Any], folder: pathlib.Path) -> bytes:
    """The bytes of an array in another file of the folder, or of a folder in it.

    The file name comes from a stranger and must not lead elsewhere. A link there may, as in Hugging
    Face's cache: it is the reader's own.
    """
    said = {entry.key: entry.value for entry in entries}
    place = said.get("location", "")
    parts = pathlib.PurePosixPath(place.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ":" in parts[0] or ".." in parts:
        raise InputError(f"{name}: its weights are in {place or 'no file'}, outside its folder")
    file = folder.joinpath(*parts)
    if not file.is_file():
        raise InputError(
            f"{name}: its weights are in {place}, which is missing beside it; copy that file as "
            "well"
        )
    size, (start, length) = file.stat().st_size, (said.get(key) for key in ("offset", "length"))
    first = count(start) if start else 0
    due = count(length) if length else max(size - (first or 0), 0)
    if first is None or due is None:
        raise InputError(f"{name}: does not say where in {place} its weights are; export it anew")
    if first + due > size:
        raise InputError(
            f"{name}: its weights are in {place} up to byte {first + due}, and that file has "
            f"{size}; fetch it anew"
        )
    with readable(file), file.open("rb") as content:
        content.seek(first)
        return content.read(due)


def _layers(graph: Any, constants: dict[str, np.ndarray]) -> "list[_Layer]":
    """The layers that lead to the output, in order of evaluation.

    Raises:
      InputError: the graph has an unsupported node, between them or after the last.
    """
    if len(graph.output) != 1:
        names = printable(", ".join(one.name for one in graph.output))[:200]
        raise InputError(
            f"it has {number_of(len(graph.output), 'output')} ({names}); export the embedding alone"
        )
    source = {name: node for node in graph.node for name in node.output}
    wanted, used = [graph.output[0].name], set()
    while wanted:
        node = source.get(wanted.pop())
        if node is not None and node.output[0] not in used:
            used.add(node.output[0])
            wanted += node.input
    nodes = [node for node in graph.node if node.output and node.output[0] in used]
    layers: list[_Layer] = []
    after: list[Any] = []
    for node in nodes:
        if node.op_type in _LAYERS:
            _refuse(node for node in after if node.op_type not in _BETWEEN)
            layers, after = [*layers, _Layer(node, constants)], []
        elif layers and layers[-1].takes_bias(node, constants):
            layers[-1].constants.append(constants[node.input[1]])
        elif layers:
            after.append(node)
    _refuse(node for node in after if node.op_type not in (*_KEEPS_NUMBERS, "Constant"))
    return layers


def _refuse(nodes: Iterable[Any]) -> None:
    for node in nodes:
        raise InputError(
            f"node {node.name or node.output[0]} ({node.op_type}) is in no network "
            "here; export the network up to its embedding, without what is computed from that"
        )


class _Layer(Layer):
    """A node with its constants, in the order of its inputs."""

    def __init__(self, node: Any, constants: dict[str, np.ndarray]) -> None:
        super().__init__(node.op_type, node.name or node.output[0], [])
        self.attributes = {attribute.name: attribute for attribute in node.attribute}
        given = list(node.input[1:])
        while given and not given[-1]:  # an empty name is one that is left out
            given.pop()
        missing = [name or "one without a name" for name in given if name not in constants]
        if missing:
            raise InputError(f"node {self.name}: {', '.join(missing)} is no constant of the file")
        check_floating({name: constants[name] for name in given})
        self.constants = [constants[name] for name in given]
        wanted = _CONSTANTS.get(self.kind, (1,))
        if len(given) not in wanted:
            raise InputError(
                f"node {self.name} ({self.kind}): has {number_of(len(given), 'constant')}, wanted "
                f"{' or '.join(map(str, wanted))}; export it anew"
            )
        self.output: str | None = node.output[0] if self.kind == "MatMul" else None
        if self.kind in ("Gemm", "MatMul"):
            if self._number("transA", 0):
                raise InputError(
                    f"node {self.name}: turns its input round, as no network here does"
                )
            # [out, in], as PyTorch has it.
            if not self._number("transB", 0):
                self.constants[0] = self.constants[0].T
            factors = (self._number("alpha", 1.0), self._number("beta", 1.0))
            pairs = zip(self.constants, factors, strict=False)
            self.constants = [one if factor == 1 else one * factor for one, factor in pairs]
            self.kind = "Gemm"
        self._set_options()

    def _number(self, name: str, default: float) -> float:
        attribute = self.attributes.get(name)
        if attribute is None:
            return default
        return float(attribute.f) if isinstance(default, float) else int(attribute.i)

    def takes_bias(self, node: Any, constants: dict[str, np.ndarray]) -> bool:
        """Whether a node adds the bias to this matrix product."""
        return (
            node.op_type == "Add"
            and len(node.input) == 2
            and node.input[0] == self.output
            and len(self.constants) == 1
            and constants.get(node.input[1], np.zeros(())).shape == self.constants[0].shape[:1]
        )

    def _set_options(self) -> None:
        if "epsilon" in self.attributes:
            self.epsilon = round(float(self.attributes["epsilon"].f), 12)  # it is a float32
        if "strides" in self.attributes:
            self.stride = max(self.attributes["strides"].ints, default=1)


class _Entry:
    """The graph's one input: its name, its number type, and its batch size if fixed.

    Raises:
      InputError: it has several, or one that holds no numbers.
    """

    def __init__(self, graph: Any, constants: dict[str, np.ndarray]) -> None:
        import onnx.helper

        entries = [one for one in graph.input if one.name not in constants]
        if len(entries) != 1:
            raise InputError(
                f"it has {number_of(len(entries), 'input')}; a network here takes images alone"
            )
        self.name: str = entries[0].name
        about = entries[0].type.tensor_type
        try:
            self.dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(about.elem_type))
        except KeyError:
            self.dtype = np.dtype(object)
        if self.dtype.kind not in "fiuV" or self.dtype == np.int8:  # V: bfloat16
            raise InputError(
                f"its input {self.name} has no type of numbers that images have; export it anew, "
                "with images of float32"
            )
        axes = about.shape.dim  # none where the shape is not told
        self.batch = max(1, axes[0].dim_value) if axes else 1
        if self.batch > _LARGEST_BATCH:
            raise InputError(
                f"its input {self.name} is a fixed batch of {self.batch}; export it for any batch"
            )


def _check_same(model: TrainedModel, proto: Any, entry: _Entry, takes: PixelConvention) -> None:
    """Runs graph and model on one image.

    Raises:
      InputError: the graph cannot be run, or computes something else.
    """
    images = np.random.default_rng(0).integers(
        0, 256, (entry.batch, *model.image_size, 3), np.uint8
    )
    pixels = np.asarray(normalise(jnp.asarray(images), takes))
    fed = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(entry.dtype)
    with np.errstate(all="ignore"):  # what is no number differs, which is told below
        theirs = np.asarray(_run(proto, {entry.name: fed}), np.float32)
    check_same(model, images, theirs, _TOLERANCE.get(entry.dtype, 1e-3))


def _run(proto: Any, fed: dict[str, np.ndarray]) -> Any:
    """The graph's output, by onnxruntime if it is installed and can run it."""
    with contextlib.suppress(Exception):  # not installed, too old, or a file over 2 GB
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return session.run(None, fed)[0]
    from onnx.reference import ReferenceEvaluator

    try:
        return ReferenceEvaluator(proto).run(None, fed)[0]
    except Exception as error:
        raise InputError(f"its graph cannot be run ({reason(error)})") from error


def _pixels(
    graph: Any, constants: dict[str, np.ndarray], entry: _Entry
) -> tuple[PixelConvention, PixelConvention]:
    """The network's pixel format, and the graph's, which may do part of the arithmetic.

    Raises:
      InputError: the graph begins with other operations than arithmetic, or with arithmetic that
        does not show which pixels it takes.
    """
    name, factor, shift = entry.name, 1.0, 0.0  # factor·x + shift so far
    for _ in graph.node:  # a damaged graph can go in circles
        node = next((node for node in graph.node if name in node.input), None)
        if node is None or not node.output or node.op_type in _LAYERS:
            break
        if node.op_type not in ("Identity", "Cast"):
            number = _number(node, name, constants)
            scale = {"Mul": number, "Div": 1.0 / (number or 1.0)}.get(node.op_type, 1.0)
            factor, shift = factor * scale, shift * scale
            shift += {"Sub": -number, "Add": number}.get(node.op_type, 0.0)
        name = node.output[0]
    takes = _taken(factor, shift, entry)
    zero, one = (float(np.asarray(level)) for level in (takes.offset, takes.divisor))
    return PixelConvention("rgb", zero - shift * one / factor, one / factor), takes


def _taken(factor: float, shift: float, entry: _Entry) -> PixelConvention:
    """The pixels that a graph takes if it first computes factor·x + shift."""
    if entry.dtype.kind in "iu":
        return _BYTES
    if (factor, shift) == (1.0, 0.0):
        return ARCFACE_TORCH
    low, high = shift, 255.0 * factor + shift
    if is_usual(low, high):
        return _BYTES
    # Of pixels from −1 to 1, what makes −1 … 1 of 0 … 1 would make −3 … 1.
    if is_usual(low, factor + shift) and abs(low + factor + shift) < 0.15 * factor:
        return _TO_ONE
    raise InputError(
        f"its arithmetic before the first layer makes {low:.4g} … {high:.4g} of pixels from 0 to "
        f"255, and {low:.4g} … {factor + shift:.4g} of those from 0 to 1; no network takes either. "
        "Export it without, to be fed (x − 127.5)/127.5, or with all that it takes to go from "
        "0 … 255 to what the network was trained on"
    )


def _number(node: Any, name: str, constants: dict[str, np.ndarray]) -> float:
    """The number that a node before the first layer applies to the pixels: its input `name`."""
    inputs = list(node.input)
    if node.op_type in ("Add", "Mul") and inputs[-1] == name:
        inputs.reverse()
    known = node.op_type in ("Sub", "Add", "Mul", "Div") and len(inputs) == 2 and inputs[0] == name
    operand = constants.get(inputs[1]) if known else None
    if (
        operand is None
        or operand.size == 0
        or operand.dtype.kind not in "fiu"
        or np.ptp(operand) != 0
        or (node.op_type in ("Mul", "Div") and not operand.any())
    ):
        raise InputError(
            f"node {node.name or node.output[0]} ({node.op_type}) comes before the first layer and "
            "is no arithmetic of the pixels with one number"
        )
    return float(operand.reshape(-1)[0])
