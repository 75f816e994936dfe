"""insightface's networks as MXNet's symbols and parameters, written by hand, and what they compute.

References: https://github.com/deepinsight/insightface, recognition/arcface_mxnet/symbol:
fresnet.py, fmobilefacenet.py, symbol_utils.py.
"""

import json
import pathlib
import struct

import numpy as np

V0, V1, V2, V3 = 0, 0xF993FAC8, 0xF993FAC9, 0xF993FACA
TYPES = (
    *("float32", "float64", "float16", "uint8", "int32", "int8", "int64", "bool"),
    *("int16", "uint16", "uint32", "uint64", "bfloat16"),
)


def packed(array: np.ndarray, version: int = V2) -> bytes:
    """An array as mx.nd.save writes it, from the first GPU."""
    kind = str(array.dtype)
    begin = struct.pack("<I", version or array.ndim)
    if version in (V2, V3):
        begin += struct.pack("<i", 0)
    if version:
        begin += struct.pack("<i", array.ndim)
    sizes = struct.pack(f"<{array.ndim}{'q' if version else 'I'}", *array.shape)
    return begin + sizes + struct.pack("<3i", 2, 0, TYPES.index(kind)) + array.tobytes()


def params_file(arrays: dict[str, np.ndarray], version: int = V2) -> bytes:
    """A .params file; names as they are to be in it."""
    return listed([packed(array, version) for array in arrays.values()], list(arrays))


def listed(arrays: list[bytes], names: list[str]) -> bytes:
    """A .params file of packed arrays."""
    content = struct.pack("<3Q", 0x112, 0, len(arrays)) + b"".join(arrays)
    content += struct.pack("<Q", len(names))
    return content + b"".join(
        struct.pack("<Q", len(name.encode())) + name.encode() for name in names
    )


class Symbol:
    """A graph that grows node by node, with parameters for its layers."""

    def __init__(self, seed: int = 0, options: str = "attrs") -> None:
        self.nodes: list[dict] = []
        self.arrays: dict[str, np.ndarray] = {}
        self._options = options
        self._rng = np.random.default_rng(seed)
        self.last = self.node("null", "data")

    def node(self, op: str, name: str, *inputs: int, **options: object) -> int:
        about = {"op": op, "name": name, "inputs": [[place, 0, 0] for place in inputs]}
        about[self._options] = {key: str(value) for key, value in options.items()}
        self.nodes.append(about)
        self.last = len(self.nodes) - 1
        return self.last

    def parameter(self, name: str, array: np.ndarray, kind: str = "arg") -> int:
        self.arrays[f"{kind}:{name}"] = array.astype(np.float32)
        return self.node("null", name)

    def normal(self, *shape: int) -> np.ndarray:
        return self._rng.normal(size=shape) / np.sqrt(max(1, np.prod(shape[1:])))

    def conv(self, x, name, inputs, outputs, kernel, stride=1, pad=0, groups=1, bias=False):
        shape = (outputs, inputs // groups, *kernel)
        given = [self.parameter(f"{name}_weight", self.normal(*shape))]
        given += [self.parameter(f"{name}_bias", self.normal(outputs))] if bias else []
        about = {"kernel": kernel, "stride": (stride, stride), "pad": (pad, pad)}
        about |= {"num_filter": outputs, "num_group": groups, "no_bias": not bias}
        return self.node("Convolution", name, x, *given, **about, workspace=256)

    def norm(self, x, name, channels, **options):
        rng = self._rng
        given = [
            self.parameter(f"{name}_gamma", rng.uniform(0.5, 2, channels)),
            self.parameter(f"{name}_beta", rng.normal(size=channels)),
            self.parameter(f"{name}_moving_mean", rng.normal(size=channels), "aux"),
            self.parameter(f"{name}_moving_var", rng.uniform(0.5, 2, channels), "aux"),
        ]
        return self.node("BatchNorm", name, x, *given, momentum=0.9, **options)

    def prelu(self, x, name, channels):
        slopes = self.parameter(f"{name}_gamma", self._rng.uniform(-0.2, 0.5, channels))
        return self.node("LeakyReLU", name, x, slopes, act_type="prelu")

    def dense(self, x, name, inputs, outputs, weight=None):
        given = [self.parameter(weight or f"{name}_weight", self.normal(outputs, inputs))]
        given += [self.parameter(f"{name}_bias", self.normal(outputs))]
        return self.node("FullyConnected", name, x, *given, num_hidden=outputs, no_bias=False)

    def pixels(self) -> int:
        x = self.node("_minus_scalar", "_minusscalar0", self.last, scalar=127.5)
        return self.node("_mul_scalar", "_mulscalar0", x, scalar=0.0078125)

    def json(self, *heads: int) -> str:
        listed = [[place, 0, 0] for place in heads or (self.last,)]
        about = {"nodes": self.nodes, "heads": listed, "arg_nodes": [], "node_row_ptr": []}
        return json.dumps({**about, "attrs": {"mxnet_version": ["int", 10301]}})

    def write(self, folder: pathlib.Path, *heads: int, version: int = V2) -> pathlib.Path:
        """PREFIX-symbol.json and PREFIX-0000.params; the path of the latter."""
        (folder / "model-symbol.json").write_text(self.json(*heads))
        path = folder / "model-0000.params"
        path.write_bytes(params_file(self.arrays, version))
        return path


def iresnet(
    blocks=(1, 1, 1, 1), width: int = 2, embedding_size: int = 6, side: int = 16, **options
) -> Symbol:
    """LResNet-E-IR: fresnet.py with version_input 1, version_unit 3, version_output E, prelu."""
    g, eps = Symbol(**options), {"eps": 2e-5}
    g.node("identity", "id", g.last)
    x = g.conv(g.pixels(), "conv0", 3, width, (3, 3), 1, 1)
    x = g.prelu(g.norm(x, "bn0", width, fix_gamma=False, **eps), "relu0", width)
    before = width
    for stage, count in enumerate(blocks, 1):
        filters = width * 2 ** (stage - 1)
        for unit in range(1, count + 1):
            name, stride, shortcut = f"stage{stage}_unit{unit}", 2 if unit == 1 else 1, x
            x = g.norm(x, f"{name}_bn1", before, fix_gamma=False, **eps)
            x = g.conv(x, f"{name}_conv1", before, filters, (3, 3), 1, 1)
            x = g.norm(x, f"{name}_bn2", filters, fix_gamma=False, **eps)
            x = g.prelu(x, f"{name}_relu1", filters)
            x = g.conv(x, f"{name}_conv2", filters, filters, (3, 3), stride, 1)
            x = g.norm(x, f"{name}_bn3", filters, fix_gamma=False, **eps)
            if unit == 1:
                shortcut = g.conv(shortcut, f"{name}_conv1sc", before, filters, (1, 1), stride)
                shortcut = g.norm(shortcut, f"{name}_sc", filters, fix_gamma=False, **eps)
            x = g.node("elemwise_add", f"_plus{stage}{unit}", x, shortcut)
            before = filters
    x = g.norm(x, "bn1", before, fix_gamma=False, **eps)
    x = g.node("Dropout", "dropout0", x, p=0.4)
    x = g.dense(x, "pre_fc1", before * (side // 16) ** 2, embedding_size)
    g.norm(x, "fc1", embedding_size, fix_gamma=True, **eps)
    return g


def mobilefacenet(blocks=(1, 4, 6, 2), width: int = 2, embedding_size: int = 6, side=(1, 1)):
    """y1, y2: fmobilefacenet.py with net_output GDC; `width` 64 as published."""
    g = Symbol(1)

    def unit(x, name, inputs, outputs, kernel=(1, 1), stride=1, pad=0, groups=1, act=True):
        x = g.conv(x, f"{name}_conv2d", inputs, outputs, kernel, stride, pad, groups)
        x = g.norm(x, f"{name}_batchnorm", outputs, fix_gamma=False)
        return g.prelu(x, f"{name}_relu", outputs) if act else x

    def bottleneck(x, name, inputs, inner, outputs, stride=1):
        x = unit(x, f"{name}_conv_sep", inputs, inner)
        x = unit(x, f"{name}_conv_dw", inner, inner, (3, 3), stride, 1, inner)
        return unit(x, f"{name}_conv_proj", inner, outputs, act=False)

    def residual(x, name, channels, inner, count):
        for number in range(count):
            block = bottleneck(x, f"{name}_block{number}", channels, inner, channels)
            x = g.node("elemwise_add", f"{name}_plus{number}", block, x)
        return x

    w = width
    x = unit(g.pixels(), "conv_1", 3, w, (3, 3), 2, 1)
    if blocks[0] == 1:
        x = unit(x, "conv_2_dw", w, w, (3, 3), 1, 1, w)
    else:
        x = residual(x, "res_2", w, 2 * w, blocks[0])
    before = w
    for number, outputs, strided, inner in ((3, w, 2, 2), (4, 2 * w, 4, 4), (5, 2 * w, 8, 4)):
        x = bottleneck(x, f"dconv_{number - 1}{number}", before, strided * w, outputs, 2)
        x = residual(x, f"res_{number}", outputs, inner * w, blocks[number - 2])
        before = outputs
    x = unit(x, "conv_6sep", before, 8 * w)
    x = unit(x, "conv_6dw7_7", 8 * w, 8 * w, side, 1, 0, 8 * w, act=False)
    x = g.dense(x, "pre_fc1", 8 * w, embedding_size, "fc1_weight")
    g.norm(x, "fc1", embedding_size, eps=2e-5)  # fix_gamma is true where nothing is said
    return g


def slow_iresnet(images: np.ndarray, arrays: dict[str, np.ndarray], blocks=(1, 1, 1, 1)):
    """What `iresnet` computes of uint8 [N, side, side, 3], in float64, layer by layer."""
    p = {name.partition(":")[2]: array.astype(np.float64) for name, array in arrays.items()}

    def conv(x, name, stride=1, pad=1):
        kernel = p[f"{name}_weight"]
        x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2:], axis=(2, 3))
        return np.einsum("ncijab,ocab->noij", windows[:, :, ::stride, ::stride], kernel)

    def norm(x, name, gamma=None):
        gamma = p[f"{name}_gamma"] if gamma is None else gamma
        axes = (-1, *[1] * (x.ndim - 2))
        mean, var = (p[f"{name}_moving_{which}"].reshape(axes) for which in ("mean", "var"))
        scale, beta = np.reshape(gamma, axes), p[f"{name}_beta"].reshape(axes)
        return scale * (x - mean) / np.sqrt(var + 2e-5) + beta

    def prelu(x, name):
        return np.maximum(x, 0) + p[f"{name}_gamma"][:, None, None] * np.minimum(x, 0)

    x = (images.transpose(0, 3, 1, 2) - 127.5) * 0.0078125
    x = prelu(norm(conv(x, "conv0"), "bn0"), "relu0")
    for stage, count in enumerate(blocks, 1):
        for unit in range(1, count + 1):
            name, stride = f"stage{stage}_unit{unit}", 2 if unit == 1 else 1
            y = norm(conv(norm(x, f"{name}_bn1"), f"{name}_conv1"), f"{name}_bn2")
            y = norm(conv(prelu(y, f"{name}_relu1"), f"{name}_conv2", stride), f"{name}_bn3")
            if unit == 1:
                x = norm(conv(x, f"{name}_conv1sc", stride, pad=0), f"{name}_sc")
            x = x + y
    x = norm(x, "bn1").reshape(len(x), -1) @ p["pre_fc1_weight"].T + p["pre_fc1_bias"]
    return norm(x, "fc1", gamma=1.0)
