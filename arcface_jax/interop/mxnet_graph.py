"""The graph of an MXNet symbol, PREFIX-symbol.json: its layers, and its result, in NumPy.

Supports only the operators of face networks, for inference; for any other an error names its node.

References: https://mxnet.apache.org/versions/1.9.1/api/python/docs/api/symbol.
"""

import dataclasses
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from arcface_jax.buckets import as_path
from arcface_jax.counts import number_of
from arcface_jax.errors import InputError, concerning, reason
from arcface_jax.interop.graph_layers import Layer

Arrays = Mapping[str, np.ndarray]

_SAME = ("identity", "_copy", "BlockGrad", "stop_gradient", "Dropout", "Cast", "cast", "amp_cast")
_ADDS = (
    *("elemwise_add", "_plus", "_Plus", "_add", "broadcast_add", "broadcast_plus", "_grad_add"),
    *("add_n", "ElementWiseSum"),
)
_OPERATORS = {
    "null": "variable",
    **dict.fromkeys(_SAME, "same"),
    **dict.fromkeys(_ADDS, "add"),
    **dict.fromkeys(("Flatten", "flatten"), "flatten"),
    **dict.fromkeys(("Convolution", "Convolution_v1"), "Conv"),
    **dict.fromkeys(("BatchNorm", "BatchNorm_v1", "CuDNNBatchNorm"), "BatchNormalization"),
    "LeakyReLU": "PRelu",
    "FullyConnected": "Gemm",
    **dict.fromkeys(("_plus_scalar", "_PlusScalar"), "plus"),
    **dict.fromkeys(("_minus_scalar", "_MinusScalar"), "minus"),
    **dict.fromkeys(("_mul_scalar", "_MulScalar"), "times"),
    **dict.fromkeys(("_div_scalar", "_DivScalar"), "over"),
}
"""MXNet's operator names, in all versions, and ours."""
_LAYERS = ("Conv", "BatchNormalization", "PRelu", "Gemm")
_ARITHMETIC = ("plus", "minus", "times", "over")
_LARGEST = 64  # pixels of a kernel, its stride or its margin


@dataclasses.dataclass(frozen=True)
class Node:
    """An operator or variable of a graph.

    Attributes:
      name: its own.
      operator: MXNet's name of the operator.
      kind: our name of it.
      options: its parameters, as text.
      inputs: positions of its inputs in the graph's nodes, all before it.
    """

    name: str
    operator: str
    kind: str
    options: Mapping[str, str]
    inputs: tuple[int, ...]

    def __str__(self) -> str:
        return f"node {self.name} ({self.operator})"

    def text(self, key: str, default: str) -> str:
        """An option; the default also if it is empty or None."""
        value = self.options.get(key, "").strip()
        return default if value in ("", "None", "()", "[]") else value

    def number(self, key: str, default: float) -> float:
        """An option that is a finite number."""
        try:
            value = float(self.text(key, str(default)))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            has = self.text(key, "missing")[:40]
            raise InputError(f"{self}: {key} is {has!r}, and a number is due")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """An option that is true or false."""
        value = self.text(key, str(default)).lower()
        if value not in ("true", "false", "1", "0"):
            raise InputError(f"{self}: {key} is {value[:40]!r}; True or False is due")
        return value in ("true", "1")

    def pair(self, key: str, default: str) -> tuple[int, int]:
        """An option that is two whole numbers, for rows and columns."""
        value = self.text(key, default)
        found = re.fullmatch(r"[(\[]\s*(\d{1,4})L?\s*,\s*(\d{1,4})L?\s*,?\s*[)\]]", value)
        if found is None or max(int(found[1]), int(found[2])) > _LARGEST:
            raise InputError(
                f"{self}: {key} is {value[:40]!r}; two numbers up to {_LARGEST} are due"
            )
        return int(found[1]), int(found[2])


@dataclasses.dataclass(frozen=True)
class Graph:
    """The part that computes the embedding.

    Attributes:
      nodes: in order of evaluation; the last one gives the embedding.
      images: position of the variable that takes the images.
    """

    nodes: tuple[Node, ...]
    images: int


def read_graph(path: str | os.PathLike[str], arrays: Arrays) -> Graph:
    """Reads from a symbol's JSON file the part that computes the embedding.

    The embedding is the node `fc1`, insightface's name, or else the graph's only output.

    Args:
      path: the file.
      arrays: the parameters, by name. The one variable without an array takes the images.

    Raises:
      InputError: the file cannot be read or is damaged, the embedding is ambiguous, a parameter is
        missing, or a node is not supported.
    """
    path = as_path(path)
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({reason(error)})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no JSON file of a graph ({reason(error)})") from error
    with concerning(str(path)):
        nodes = _in_order(*_nodes(content))
        for node in nodes:
            _check_known(node)
        without = [
            (place, node.name)
            for place, node in enumerate(nodes)
            if node.kind == "variable" and node.name not in arrays
        ]
        images = [one for one in without if one[1] == "data"] or without
        missing = [name for _, name in without if (_, name) not in images[:1]]
        if not images:
            raise InputError("it has no input for images, only parameters")
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise InputError(
                f"the .params file lacks {', '.join(missing[:5])}{more}; take both files of one "
                "model"
            )
        for node in nodes:
            _check_inputs(node, nodes, images[0][0])
        return Graph(nodes, images[0][0])


def _nodes(content: Any) -> tuple[list[Node], int]:
    """(all nodes of the file, the position of the embedding's node)."""
    listed = content.get("nodes") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not listed:
        raise InputError("is no graph of MXNet's: it has no list of nodes")
    nodes = [_node(one, place) for place, one in enumerate(listed)]
    heads = content.get("heads")
    named = [place for place, node in enumerate(nodes) if node.name == "fc1"]
    if len(named) > 1:
        raise InputError("two nodes are called fc1, which names the embedding; rename one")
    if named:
        return nodes, named[0]
    known = isinstance(heads, list) and len(heads) == 1 and isinstance(heads[0], list)
    outputs = _places(heads, len(nodes), "its outputs") if known else ()
    if len(outputs) != 1:
        raise InputError("it has no node fc1 and not one output, so nothing tells the embedding")
    return nodes, outputs[0]


def _node(about: Any, place: int) -> Node:
    if not isinstance(about, dict):
        raise InputError(f"node {place} has no name and no operator; copy the file again")
    name, operator = about.get("name"), about.get("op")
    if not isinstance(name, str) or not isinstance(operator, str):
        raise InputError(f"node {place} has no name or no operator; copy the file again")
    options: dict[str, str] = {}
    for key in ("attr", "attrs", "param"):  # by version; the last are the operator's own
        if isinstance(found := about.get(key), dict):
            options |= {str(each): str(value) for each, value in found.items()}
    inputs = _places(about.get("inputs", []), place, f"node {name}")
    return Node(name, operator, _OPERATORS.get(operator, ""), options, inputs)


def _places(listed: Any, size: int, what: str) -> tuple[int, ...]:
    """The nodes of a list of [node, its output, perhaps a version]."""
    entries: list[Any] = listed if isinstance(listed, list) else [None]
    found = []
    for each in entries:
        whole = isinstance(each, list) and len(each) in (2, 3)
        if not whole or any(type(number) is not int for number in each):
            raise InputError(f"{what}: lists no nodes; copy the file again")
        if not 0 <= each[0] < size:
            raise InputError(f"{what}: takes node {each[0]}, which does not come before it")
        if each[1] != 0:
            raise InputError(f"{what}: takes output {each[1]} of a node, as no network here does")
        found.append(each[0])
    return tuple(found)


def _in_order(nodes: Sequence[Node], last: int) -> tuple[Node, ...]:
    """The nodes that the last one needs, each after its inputs. Of several inputs, the one at the
    end of the longest chain comes first: a block before its shortcut.
    """
    depth: list[int] = []
    for node in nodes:
        depth.append(1 + max((depth[place] for place in node.inputs), default=0))
    order: dict[int, int] = {}
    waiting = [last]
    while waiting:
        place = waiting[-1]
        inputs = sorted(nodes[place].inputs, key=lambda each: depth[each])
        following = [each for each in inputs if each not in order]
        if following and place not in order:
            waiting += following
        else:
            waiting.pop()
            order.setdefault(place, len(order))
    return tuple(
        dataclasses.replace(node, inputs=tuple(order[each] for each in node.inputs))
        for node in (nodes[place] for place in order)
    )


_MUST_BE = {
    "Conv": (("dilate", "(1, 1)", "(1, 1)"), ("layout", "NCHW", "NCHW")),
    "BatchNormalization": (("axis", "1", "1"),),
    "PRelu": (("act_type", "leaky", "prelu"),),
    "Dropout": (("mode", "training", "training"),),
}
"""By kind or operator: (option, its default, its required value)."""
_CASTS = ("Cast", "cast", "amp_cast")


def _check_known(node: Node) -> None:
    """Refuses unsupported nodes, by name."""
    about = ""
    for key, silent, wanted in _MUST_BE.get(node.kind, _MUST_BE.get(node.operator, ())):
        value = node.text(key, silent)
        if re.sub(r"[\s()\[\]]", "", value) != re.sub(r"[\s()]", "", wanted):
            about = f" with {key} {value[:40]}"
    if node.operator in _CASTS and "float" not in (kind := node.text("dtype", "float32")):
        about = f" to {kind[:40]}"
    if about or not node.kind:
        raise InputError(
            f"{node}{about} is in no network here; IResNets with output E, and MobileFaceNets that "
            "end in a global convolution, can be read"
        )


def _check_inputs(node: Node, nodes: Sequence[Node], images: int) -> None:
    """Refuses a node without the inputs of its kind: computed values, then parameters."""
    matrix = 1 if node.flag("no_bias", False) else 2
    computed = {"variable": 0, "add": 2}.get(node.kind, 1)
    parameters = {"Conv": matrix, "Gemm": matrix, "BatchNormalization": 4, "PRelu": 1}
    wanted = [False] * computed + [True] * parameters.get(node.kind, 0)
    if len(node.inputs) != len(wanted):
        raise InputError(
            f"{node}: has {number_of(len(node.inputs), 'input')}, wanted {len(wanted)}"
        )
    for place, parameter in zip(node.inputs, wanted, strict=True):
        if (nodes[place].kind == "variable" and place != images) != parameter:
            due = "a parameter is" if parameter else "what is computed of the images is"
            raise InputError(f"{node}: takes {nodes[place].name}, where {due} due")


def layers_of(graph: Graph, arrays: Arrays) -> list[Layer]:
    """The layers in order of evaluation, with their weights.

    With fix_gamma, which is on unless the file says otherwise, the scale is 1 whatever the arrays
    hold. A convolution's bias goes into the mean of the normalisation after it.
    """
    layers: dict[int, Layer] = {}
    for place, node in enumerate(graph.nodes):
        if node.kind not in _LAYERS:
            continue
        layer = Layer(node.kind, node.name, _parameters(node, graph, arrays))
        if node.kind == "BatchNormalization":
            layer.epsilon = node.number("eps", 1e-3)
            before = layers.get(node.inputs[0])
            if before is not None and before.kind == "Conv" and len(before.constants) == 2:
                if before.constants[1].shape != layer.constants[2].shape:
                    raise InputError(f"{node}: has other numbers of channels than {before.name}")
                layer.constants[2] = layer.constants[2] - before.constants.pop()
        if node.kind == "Conv":
            layer.stride = max(node.pair("stride", "(1, 1)"))
        layers[place] = layer
    return list(layers.values())


def arithmetic_of(graph: Graph) -> tuple[float, float] | None:
    """(a, b) of the a·x + b that the graph first applies to the pixels; None without one.

    Raises:
      InputError: there is arithmetic with constants elsewhere, which is not supported.
    """
    factors: dict[int, tuple[float, float]] = {graph.images: (1.0, 0.0)}
    at_layers = (1.0, 0.0)
    for place, node in enumerate(graph.nodes):
        before = factors.get(node.inputs[0]) if node.inputs else None
        if node.kind in _ARITHMETIC and before is None:
            raise InputError(
                f"{node} is in no network here, which do such arithmetic with pixels only"
            )
        if before is not None and node.kind in (*_ARITHMETIC, "same"):
            factors[place] = _arithmetic(node, *before)
        elif before is not None:
            at_layers = before
    return at_layers if any(node.kind in _ARITHMETIC for node in graph.nodes) else None


def _arithmetic(node: Node, factor: float, shift: float) -> tuple[float, float]:
    """a·x + b after one of its nodes."""
    number = node.number("scalar", math.nan) if node.kind != "same" else 0.0
    if node.kind in ("times", "over"):
        if not number:
            raise InputError(f"{node}: scalar is 0; no network here has this")
        number = number if node.kind == "times" else 1 / number
        return factor * number, shift * number
    return factor, shift + (-number if node.kind == "minus" else number)


def compute(graph: Graph, arrays: Arrays, images: np.ndarray) -> np.ndarray:
    """The embeddings, float32 [N, D], of images float32 [N, 3, height, width], 0 … 255.

    Raises:
      InputError: the sizes of a node's parameters do not fit its input.
    """
    values: dict[int, np.ndarray] = {graph.images: images}
    last_use = {place: at for at, node in enumerate(graph.nodes) for place in node.inputs}
    for at, node in enumerate(graph.nodes):
        if node.kind == "variable":
            continue
        inputs = [values[place] for place in node.inputs if place in values]
        try:
            with np.errstate(all="ignore"):  # what is no number is told by who compares
                values[at] = _value(node, inputs, _parameters(node, graph, arrays))
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            shapes = [list(one.shape) for one in inputs]
            raise InputError(
                f"{node}: its numbers do not fit its input of {shapes}; take both files of one "
                "model"
            ) from error
        for place in node.inputs:
            if last_use[place] == at:
                values.pop(place, None)
    return values[len(graph.nodes) - 1]


def _parameters(node: Node, graph: Graph, arrays: Arrays) -> list[np.ndarray]:
    """A layer's parameters, float32, in the order of its inputs."""
    if node.kind not in _LAYERS:
        return []
    found = [arrays[graph.nodes[place].name] for place in node.inputs[1:]]
    with np.errstate(over="ignore"):  # `check_finite` tells of it
        found = [np.asarray(one, np.float32) for one in found]
    axes = {"Conv": 4, "Gemm": 2}.get(node.kind, 1)
    outputs = found[0].shape[:1]
    if found[0].ndim != axes or any(one.shape != outputs for one in found[1:]):
        shapes = ", ".join(str(list(one.shape)) for one in found)
        raise InputError(f"{node}: its parameters have the shapes {shapes}; copy both files again")
    if node.kind == "BatchNormalization" and node.flag("fix_gamma", True):
        found[0] = np.ones_like(found[0])
    return found


def _value(node: Node, inputs: list[np.ndarray], parameters: list[np.ndarray]) -> np.ndarray:
    """The value of a node."""
    x = inputs[0]
    match node.kind:
        case "add":
            return x + inputs[1]
        case "flatten":
            return x.reshape(len(x), -1)
        case "Conv":
            return _convolve(node, x, *parameters)
        case "BatchNormalization":
            axes = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
            scale, bias, mean, variance = (one.reshape(axes) for one in parameters)
            epsilon = np.float32(node.number("eps", 1e-3))
            return (x - mean) / np.sqrt(variance + epsilon) * scale + bias
        case "PRelu":
            slope = parameters[0].reshape([-1 if axis == 1 else 1 for axis in range(x.ndim)])
            return np.where(x > 0, x, x * slope)
        case "Gemm":
            flat = x.reshape(len(x), -1) if node.flag("flatten", True) else x
            return flat @ parameters[0].T + (parameters[1] if len(parameters) > 1 else 0)
        case _:
            factor, shift = _arithmetic(node, 1.0, 0.0)
            return x * np.float32(factor) + np.float32(shift)


def _convolve(
    node: Node, x: np.ndarray, kernel: np.ndarray, bias: np.ndarray | None = None
) -> np.ndarray:
    """y[n, o, i, j] = Σ x[n, c, s₁i + a − p₁, s₂j + b − p₂] · w[o, c, a, b], group by group."""
    (rows, columns), groups = node.pair("kernel", ""), int(node.number("num_group", 1))
    (down, right), (top, left) = node.pair("stride", "(1, 1)"), node.pair("pad", "(0, 0)")
    outputs = kernel.shape[0]
    if kernel.shape[2:] != (rows, columns) or groups < 1 or outputs % groups or 0 in (down, right):
        raise ValueError
    x = np.pad(x, ((0, 0), (0, 0), (top, top), (left, left)))
    height, width = (x.shape[2] - rows) // down + 1, (x.shape[3] - columns) // right + 1
    apart = kernel.reshape(groups, outputs // groups, -1, rows, columns)
    total = np.zeros((len(x), groups, outputs // groups, height * width), np.float32)
    for row in range(rows):
        for column in range(columns):
            down_to, right_to = row + down * height, column + right * width
            moved = x[:, :, row:down_to:down, column:right_to:right]
            total += apart[..., row, column] @ moved.reshape(len(x), groups, -1, height * width)
    total = total.reshape(len(x), outputs, height, width)
    return total if bias is None else total + bias[:, None, None]
