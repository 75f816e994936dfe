"""ONNX out, run by onnxruntime; ONNX in, as PyTorch's exporter writes it. Both need the extra."""

import io
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.interop.inference import unit_embedding
from arcface_jax.interop.model import TrainedModel
from arcface_jax.interop.onnx import _beside, export_onnx, import_onnx
from arcface_jax.interop.torch import import_torch, model_from_state_dict
from arcface_jax.models import registry
from arcface_jax.models.mobilefacenet import MobileFaceNet
from arcface_jax.pixels import ARCFACE_TORCH, PixelConvention

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnx.numpy_helper")


def run_onnx(path, images):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["embeddings"], {"images": images})[0]


def from_pytorch(network, path):
    torch = pytest.importorskip("torch")
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # the exporter that wrote the published packs
        torch.onnx.export(network, torch.zeros(1, 3, 32, 32), buffer, dynamo=False)
    path.write_bytes(buffer.getvalue())


@pytest.fixture(scope="module")
def networks():
    pytest.importorskip("torch")
    from tests.interop import torch_networks

    return torch_networks


@pytest.mark.parametrize("name", ["IResNet", "Mbf"])
def test_reads_what_pytorch_exported(tmp_path, networks, name):
    """The exporter folds normalisations into convolutions and renames what it folded."""
    torch = pytest.importorskip("torch")
    options = {"Mbf": {"blocks": (1, 4, 6, 2)}}.get(name, {})
    network = networks.randomise(getattr(networks, name)(**options))
    from_pytorch(network, tmp_path / "pack.onnx")
    model = import_onnx(tmp_path / "pack.onnx")
    assert model.image_size == (32, 32)
    assert model.pixels == PixelConvention("rgb", 127.5, 127.5)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    embeddings = jax.jit(model.backbone.apply)(model.variables, images)
    with torch.no_grad():
        expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    assert np.abs(embeddings - expected).max() <= 1e-5 * np.abs(expected).max()


def test_reads_the_pixels_that_a_graph_begins_with(tmp_path, networks):
    torch = pytest.importorskip("torch")

    class WithPixels(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network
            self.register_buffer("offset", torch.tensor(127.5))
            self.register_buffer("factor", torch.tensor(0.0078125))

        def forward(self, x):
            return self.network((x - self.offset) * self.factor)

    from_pytorch(networks.randomise(WithPixels(networks.IResNet())), tmp_path / "mxnet.onnx")
    assert import_onnx(tmp_path / "mxnet.onnx").pixels == PixelConvention("rgb", 127.5, 128.0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, networks):
    """A small IResNet as the exporter before dynamo writes it, and what it computes."""
    network = networks.randomise(networks.IResNet((1, 1, 1, 1)))
    path = tmp_path_factory.mktemp("onnx") / "small.onnx"
    from_pytorch(network, path)
    return onnx.load(path)


def copy_of(exported):
    proto = onnx.ModelProto()
    proto.CopyFrom(exported)
    return proto, {tensor.name: tensor for tensor in proto.graph.initializer}


def replace(tensors, name, array):
    tensors[name].CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), name))


def dense(proto):
    return next(node for node in proto.graph.node if node.op_type == "Gemm")


def merge_last_norm(proto, tensors):
    """As the dynamo exporter does: γ(Wx + a − μ)/√(σ² + ε) + β in one Gemm."""
    last, gemm = proto.graph.node[-1], dense(proto)
    assert last.op_type == "BatchNormalization"
    weight, bias = (onnx.numpy_helper.to_array(tensors[name]) for name in gemm.input[1:])
    scale, shift, mean, variance = (
        onnx.numpy_helper.to_array(tensors[name]) for name in last.input[1:]
    )
    factor = scale / np.sqrt(variance + 1e-5)
    replace(tensors, gemm.input[1], weight * factor[:, None])
    replace(tensors, gemm.input[2], (bias - mean) * factor + shift)
    gemm.output[0] = last.output[0]
    proto.graph.node.remove(last)


def merge_and_move_outside(proto, tensors, path):
    merge_last_norm(proto, tensors)
    onnx.save(proto, path, save_as_external_data=True, location="weights.data", size_threshold=0)


def set_factors(proto, tensors, path):
    for attribute in dense(proto).attribute:
        if attribute.name in ("alpha", "beta"):
            attribute.f = 0.5
    onnx.save(proto, path)


def rename_slopes(proto, tensors, path):
    """By Identity and Unsqueeze, as without constant folding."""
    for node in [node for node in proto.graph.node if node.op_type == "PRelu"]:
        other = onnx.helper.make_node("Identity", [node.input[1]], [node.input[1] + "'"])
        node.input[1] += "'"
        proto.graph.node.insert(0, other)
    onnx.save(proto, path)


def split_dense(proto, tensors, path):
    """MatMul and Add instead of Gemm."""
    gemm = dense(proto)
    place = list(proto.graph.node).index(gemm)
    weight = onnx.numpy_helper.to_array(tensors[gemm.input[1]]).T
    replace(tensors, gemm.input[1], weight)
    add = onnx.helper.make_node("Add", ["product", gemm.input[2]], [gemm.output[0]])
    product = onnx.helper.make_node("MatMul", list(gemm.input[:2]), ["product"])
    proto.graph.node.remove(gemm)
    proto.graph.node.insert(place, add)
    proto.graph.node.insert(place, product)
    onnx.save(proto, path)


@pytest.mark.parametrize(
    "change", [merge_and_move_outside, set_factors, rename_slopes, split_dense]
)
def test_computes_what_the_graph_says(tmp_path, exported, change):
    from onnx.reference import ReferenceEvaluator

    proto, tensors = copy_of(exported)
    change(proto, tensors, tmp_path / "model.onnx")
    model = import_onnx(tmp_path / "model.onnx")
    images = np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3), np.uint8)
    fed = ((images - np.float32(127.5)) / np.float32(127.5)).transpose(0, 3, 1, 2)
    graph = onnx.load(tmp_path / "model.onnx")
    expected = ReferenceEvaluator(graph).run(None, {graph.graph.input[0].name: fed})[0]
    np.testing.assert_allclose(model.embedder(1)(images), expected, rtol=1e-3, atol=1e-4)


def add_after(kind, *constants, **attributes):
    def change(proto, tensors):
        for number, array in enumerate(constants):
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, f"after {number}"))
        names = [
            proto.graph.output[0].name,
            *(f"after {number}" for number in range(len(constants))),
        ]
        proto.graph.node.append(onnx.helper.make_node(kind, names, ["last"], **attributes))
        proto.graph.output[0].name = "last"

    return change


def change_stride(proto, tensors):
    node = [node for node in proto.graph.node if node.op_type == "Conv"][1]
    next(one for one in node.attribute if one.name == "dilations").ints[:] = [2, 2]
    next(one for one in node.attribute if one.name == "pads").ints[:] = [2, 2, 2, 2]


def damage(proto, tensors):
    name = dense(proto).input[1]
    replace(tensors, name, np.full_like(onnx.numpy_helper.to_array(tensors[name]), np.nan))


def quantise(proto, tensors):
    name = dense(proto).input[1]
    whole = np.ones_like(onnx.numpy_helper.to_array(tensors[name]), np.int8)
    tensors[name].CopyFrom(onnx.numpy_helper.from_array(whole, name))


def quantise_whole(proto, tensors):
    """As tools of quantisation leave a graph: the weights computed by a node."""
    node, name = dense(proto), dense(proto).input[1]
    proto.graph.node.insert(
        0, onnx.helper.make_node("DequantizeLinear", [name, "s"], ["w"], name="dequantise")
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1.0), "s"))
    quantise(proto, tensors)
    node.input[1] = "w"


def second_output(proto, tensors):
    proto.graph.output.append(onnx.helper.make_tensor_value_info("norm", 1, [1]))


def outside(place):
    def change(proto, tensors):
        tensor = proto.graph.initializer[0]
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.ClearField("raw_data")
        tensor.external_data.add(key="location", value=place)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            add_after("Slice", np.array([0]), np.array([4]), np.array([1])),
            r"\(Slice\) is in no net",
        ),
        (add_after("Tanh"), r"\(Tanh\) is in no network here; export the network up to its emb"),
        (add_after("Mul", np.array(3, np.float32)), r"\(Mul\) is in no network here"),
        (add_after("LpNormalization"), r"\(LpNormalization\) is in no network here"),
        (add_after("Relu"), r"\(Relu\) is in no network here"),
        (change_stride, r"computes other embeddings than its layers make as IResNet"),
        (damage, r"NaN, infinite or a negative variance: .* \(768 of 768\)"),
        (quantise, r" is stored as int8, and weights are due; take the model before it was quant"),
        (quantise_whole, r"node dequantise \(DequantizeLinear\) computes with whole numbers; take"),
        (second_output, r"it has 2 outputs \(.*, norm\); export the embedding alone"),
        (outside("weights.data"), r"its weights are in weights.data, which is missing beside it"),
        (outside("../../../etc/passwd"), r"its weights are in .*passwd, outside its folder"),
        (outside("/etc/passwd"), r"its weights are in /etc/passwd, outside its folder"),
    ],
)
def test_what_is_computed_otherwise_is_refused(tmp_path, exported, change, said):
    proto, tensors = copy_of(exported)
    change(proto, tensors)
    (tmp_path / "other.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(InputError, match=f"other.onnx: .*{said}") as error:
        import_onnx(tmp_path / "other.onnx")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"location": "m.data"}, b"0123456789"),
        ({"location": "./m.data", "offset": "0"}, b"0123456789"),
        ({"location": "m.data", "offset": "2", "length": "3", "checksum": "x"}, b"234"),
        ({"location": "m.data", "offset": "10"}, b""),
        ({"location": "parts/p.data", "length": "2"}, b"ab"),
        ({"location": "parts\\p.data"}, b"abc"),
        ({"location": "link.data"}, b"abc"),
        ({"location": "m.data", "offset": "8", "length": "3"}, r"up to byte 11, and that file has"),
        ({"location": "m.data", "offset": "11"}, r"up to byte 11, and that file has 10; fetch"),
        ({"location": "m.data", "length": "999999999999"}, r"up to byte 999999999999, and that"),
        ({"location": "m.data", "offset": "-1"}, r"does not say where in m.data its weights are"),
        ({"location": "m.data", "length": "ten"}, r"does not say where in m.data its weights are"),
        ({"location": "n.data"}, r"w: its weights are in n.data, which is missing beside it"),
        ({"location": "parts"}, r"which is missing beside it"),
        ({"location": ""}, r"its weights are in no file, outside its folder"),
        ({}, r"its weights are in no file, outside its folder"),
        ({"location": "parts/../../secret"}, r"outside its folder"),
        ({"location": "..\\secret"}, r"outside its folder"),
        ({"location": "/etc/passwd"}, r"outside its folder"),
        ({"location": "C:\\m.data"}, r"outside its folder"),
    ],
)
def test_weights_beside_a_graph(tmp_path, said, found):
    (tmp_path / "secret").write_bytes(b"secret")
    folder = tmp_path / "model"
    (folder / "parts").mkdir(parents=True)
    (folder / "m.data").write_bytes(b"0123456789")
    (folder / "parts" / "p.data").write_bytes(b"abc")
    (folder / "link.data").symlink_to("parts/p.data")
    entries = [onnx.StringStringEntryProto(key=key, value=value) for key, value in said.items()]
    if isinstance(found, bytes):
        assert _beside("w", entries, folder) == found
    else:
        with pytest.raises(InputError, match=found):
            _beside("w", entries, folder)


def begin_with(proto, steps):
    """Puts nodes before the first layer: (kind, constant), the constant first for "rKind"."""
    entry = proto.graph.input[0].name
    first = next(node for node in proto.graph.node if entry in node.input)
    name = entry
    for number, (kind, *constant) in reversed(list(enumerate(steps))):
        names = [entry if number == 0 else f"step {number}"]
        if constant:
            array = np.asarray(constant[0], np.float32)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, f"number {number}"))
            names.append(f"number {number}")
        if kind.startswith("r"):
            names.reverse()
        output = f"step {number + 1}"
        node = onnx.helper.make_node(kind.removeprefix("r"), names, [output])
        if kind == "Cast":
            node.attribute.append(onnx.helper.make_attribute("to", 1))
        proto.graph.node.insert(0, node)
        name = output if number == len(steps) - 1 else name
    first.input[0] = name


@pytest.mark.parametrize(
    ("steps", "offset", "divisor"),
    [
        ([("Sub", 127.5), ("Div", 128.0)], 127.5, 128.0),
        ([("Div", 255.0)], 0.0, 255.0),
        ([("rMul", 1 / 255), ("Sub", 0.5), ("Div", 0.5)], 127.5, 127.5),
        ([("Sub", 0.0), ("Mul", 0.0078125)], 0.0, 128.0),
        ([("rAdd", -127.5), ("Mul", 0.0078125)], 127.5, 128.0),
        ([("Sub", np.full((1, 3, 1, 1), 123.7)), ("Div", 58.4)], 123.7, 58.4),
        # of pixels from 0 to 1
        ([("Sub", 0.5), ("Div", 0.5)], 127.5, 127.5),
        ([("Mul", 2.0), ("Sub", 1.0)], 127.5, 127.5),
        ([("Mul", 255.0), ("Sub", 127.5), ("Div", 128.0)], 127.5, 128.0),
        # nothing is done
        ([("Mul", 1.0)], 127.5, 127.5),
        ([("Sub", 0.0)], 127.5, 127.5),
        ([("Cast",), ("Div", 1.0), ("Add", 0.0)], 127.5, 127.5),
    ],
)
def test_reads_the_arithmetic_that_a_graph_begins_with(
    tmp_path, exported, monkeypatch, steps, offset, divisor
):
    """And what the graph is fed is what it takes: its pixels are those of the network."""
    proto, _ = copy_of(exported)
    begin_with(proto, steps)
    onnx.save(proto, tmp_path / "with.onnx")
    fed = []

    def check(model, proto, entry, takes):
        images = np.arange(256)
        x = (images - takes.offset) / takes.divisor
        for kind, *number in steps:
            apply = {"Sub": np.subtract, "Add": np.add, "Mul": np.multiply, "Div": np.divide}
            x = apply[kind.removeprefix("r")](x, np.ravel(number)[0]) if number else x
        pixels = (images - model.pixels.offset) / model.pixels.divisor
        fed.append(np.abs(x - pixels).max())

    monkeypatch.setattr("arcface_jax.interop.onnx._check_same", check)
    pixels = import_onnx(tmp_path / "with.onnx").pixels
    assert pixels.color_order == "rgb"
    assert (pixels.offset, pixels.divisor) == pytest.approx((offset, divisor), rel=1e-6)
    assert fed[0] < 1e-5


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([("Mul", 2.0), ("Add", 3.0), ("Mul", 0.5)], "makes 1.5 … 256.5 of pixels from 0 to 255"),
        ([("Add", 1.0), ("Div", 2.0)], "makes 0.5 … 128 of pixels .*, and 0.5 … 1 of those from"),
        ([("Mul", 0.5)], "makes 0 … 127.5"),
        ([("Mul", 255.0)], "makes 0 … 6.502e.04"),
        ([("Mul", -1.0)], "makes 0 … -255"),
        ([("Mul", 1e-30)], "no network takes either. Export it without"),
        ([("Mul", 0.0)], "is no arithmetic of the pixels with one number"),
        ([("rSub", 1.0)], "is no arithmetic of the pixels with one number"),
        ([("rDiv", 1.0)], "is no arithmetic of the pixels with one number"),
        ([("Div", 0.0)], "is no arithmetic of the pixels with one number"),
        ([("Sub", [[[1.0]], [[2.0]], [[3.0]]])], "is no arithmetic of the pixels with one number"),
        ([("Sub", [])], "is no arithmetic of the pixels with one number"),
        ([("Sub",)], "is no arithmetic of the pixels with one number"),
        ([("Sqrt",)], r"\(Sqrt\) comes before the first layer"),
    ],
)
def test_arithmetic_that_tells_no_pixels_is_refused(tmp_path, exported, steps, said):
    proto, _ = copy_of(exported)
    begin_with(proto, steps)
    onnx.save(proto, tmp_path / "with.onnx")
    with pytest.raises(InputError, match=f"with.onnx: .*{said}") as error:
        import_onnx(tmp_path / "with.onnx")
    assert "\n" not in str(error.value)


def test_a_graph_of_bytes_takes_bytes(tmp_path, exported):
    proto, _ = copy_of(exported)
    begin_with(proto, [("Cast",)])
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    onnx.save(proto, tmp_path / "bytes.onnx")
    assert import_onnx(tmp_path / "bytes.onnx").pixels == PixelConvention("rgb", 0.0, 1.0)


def circle(proto):
    """Which has no end, if it is followed."""
    name = proto.graph.input[0].name
    proto.graph.node.insert(0, onnx.helper.make_node("Identity", [name], [name]))


def without_shape(proto):
    proto.graph.input[0].type.tensor_type.ClearField("shape")


@pytest.mark.parametrize("change", [without_shape, circle])
def test_an_unusual_input_is_read(tmp_path, exported, change):
    proto, _ = copy_of(exported)
    change(proto)
    onnx.save(proto, tmp_path / "model.onnx")
    assert import_onnx(tmp_path / "model.onnx").image_size == (32, 32)


def entry_type(number):
    def lack(proto):
        proto.graph.input[0].type.tensor_type.elem_type = number

    return lack


def without_type(proto):
    proto.graph.input[0].ClearField("type")


def sequence(proto):
    proto.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = 1


def large_batch(proto):
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 10**9


def constant(*attributes):
    def lack(proto):
        node = onnx.helper.make_node("Constant", [], ["nothing"])
        node.attribute.extend(attributes)
        proto.graph.node.insert(0, node)
        proto.graph.node.insert(1, onnx.helper.make_node("Sub", ["input", "nothing"], ["less"]))
        proto.graph.input[0].name = "input"
        proto.graph.node[2].input[0] = "less"

    return lack


def cut(kind, field, keep):
    def lack(proto):
        node = next(node for node in proto.graph.node if node.op_type == kind)
        del getattr(node, field)[keep:]

    return lack


@pytest.mark.parametrize(
    ("lack", "said"),
    [
        (entry_type(0), "has no type of numbers"),
        (entry_type(8), "has no type of numbers"),
        (entry_type(999), "has no type of numbers"),
        (entry_type(onnx.TensorProto.INT8), "has no type of numbers"),
        (without_type, "has no type of numbers"),
        (sequence, "has no type of numbers"),
        (large_batch, "is a fixed batch of 1000000000; export it for any batch"),
        (constant(), "is no arithmetic of the pixels"),
        (constant(onnx.helper.make_attribute("value_string", "a")), "is no arithmetic of the pix"),
        (constant(onnx.AttributeProto(name="value")), "holds an array that cannot be read"),
        (lambda proto: proto.graph.ClearField("input"), "has 0 inputs"),
        (lambda proto: proto.graph.ClearField("output"), "has 0 outputs"),
        (lambda proto: proto.ClearField("graph"), "has 0 outputs"),
        (lambda proto: proto.ClearField("opset_import"), ""),
        (cut("Conv", "input", 1), r"\(Conv\): has 0 constants, wanted 1 or 2; export it anew"),
        (cut("PRelu", "input", 1), r"\(PRelu\): has 0 constants"),
        (cut("Gemm", "input", 0), r"\(Gemm\): has 0 constants"),
        (cut("BatchNormalization", "input", 3), r"has 2 constants, wanted 4"),
        (cut("Conv", "output", 0), ""),
        (cut("Conv", "attribute", 0), ""),
        (cut("Add", "input", 1), ""),
    ],
)
def test_what_a_graph_lacks_is_one_line(tmp_path, exported, lack, said):
    proto, _ = copy_of(exported)
    lack(proto)
    onnx.save(proto, tmp_path / "poor.onnx")
    with pytest.raises(InputError, match=f"poor.onnx: .*{said}") as error:
        import_onnx(tmp_path / "poor.onnx")
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["IResNet", "Mbf"])
def test_reads_what_pytorchs_dynamo_exporter_writes(tmp_path, networks, name):
    """Its weights lie in a file beside the graph."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    options = {"Mbf": {"blocks": (1, 4, 6, 2)}}.get(name, {})
    network = networks.randomise(getattr(networks, name)(**options)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = torch.zeros(1, 3, 32, 32)
        torch.onnx.export(network, (images,), tmp_path / "new.onnx", dynamo=True, verbose=False)
    model = import_onnx(tmp_path / "new.onnx")
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    with torch.no_grad():
        fed = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        expected = network((fed - 127.5) / 127.5).numpy()
    assert np.abs(model.embedder(2)(images) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_other_graphs_are_named(tmp_path, networks):
    with pytest.raises(InputError, match=r"absent.onnx: is no ONNX file"):
        import_onnx(tmp_path / "absent.onnx")
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"junk.onnx: is no ONNX file"):
        import_onnx(tmp_path / "junk.onnx")
    from_pytorch(networks.randomise(networks.Ir()), tmp_path / "ir.onnx")
    with pytest.raises(InputError, match=r"ir.onnx: "):
        import_onnx(tmp_path / "ir.onnx")
    import torch

    dense = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.AvgPool2d(30), torch.nn.Flatten(), torch.nn.Linear(8, 6)
    )
    from_pytorch(dense, tmp_path / "foreign.onnx")
    with pytest.raises(InputError, match=r"foreign.onnx: node .*Pool.* is in no network here"):
        import_onnx(tmp_path / "foreign.onnx")
    from_pytorch(
        torch.nn.Sequential(*dense[:1], *dense[2:3], torch.nn.Linear(7200, 6)), tmp_path / "f.onnx"
    )
    with pytest.raises(InputError, match=r"f.onnx: .*this is no IResNet"):
        import_onnx(tmp_path / "f.onnx")
    from_pytorch(torch.nn.Conv2d(3, 4, 3), tmp_path / "conv.onnx")
    with pytest.raises(InputError, match=r"conv.onnx: 1 convolution and 0 dense layers"):
        import_onnx(tmp_path / "conv.onnx")


def test_onnxruntime_computes_the_same_on_any_batch(tmp_path, networks):
    pytest.importorskip("jax2onnx")
    network = networks.randomise(networks.MobileFaceNet())
    weights = {key: value.numpy() for key, value in network.state_dict().items()}
    model = model_from_state_dict(weights)
    embed = unit_embedding(model, shift_depthwise=False)
    export_onnx(embed, model.image_size, tmp_path / "model.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    prelus = [
        key
        for key in weights
        if key.endswith("prelu.weight") or key.endswith((".conv.2.weight", ".conv.5.weight"))
    ]
    assert kinds.count("PRelu") == len(prelus)
    assert not {"Where", "GreaterOrEqual"} & set(kinds)
    images = np.random.default_rng(0).integers(0, 256, (3, *model.image_size, 3), np.uint8)
    for count in (1, 3):
        expected = jax.jit(embed)(jnp.asarray(images[:count]))
        np.testing.assert_allclose(
            run_onnx(tmp_path / "model.onnx", images[:count]), expected, atol=1e-5
        )


@pytest.mark.parametrize("function", ["another comparison", "another value", "another product"])
def test_other_choices_are_left_alone(tmp_path, function):
    pytest.importorskip("jax2onnx")
    slope = np.array([0.1, 0.2, 0.3], np.float32)
    choices = {
        "another comparison": lambda x: jnp.where(x >= 1, x, x * slope),
        "another value": lambda x: jnp.where(x >= 0, x + 1, x * slope),
        "another product": lambda x: jnp.where(x >= 0, x, x * x),
    }

    def embed(images):
        return choices[function](images.astype(jnp.float32) - 5)

    export_onnx(embed, (2, 2), tmp_path / "model.onnx")
    images = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    np.testing.assert_allclose(run_onnx(tmp_path / "model.onnx", images), embed(images), rtol=1e-6)
    assert "PRelu" not in [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]


def test_a_function_that_asks_for_its_platform_is_refused(tmp_path):
    pytest.importorskip("jax2onnx")
    backbone = MobileFaceNet(6, 8, bottlenecks=())
    variables = backbone.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    model = TrainedModel(backbone, variables, ARCFACE_TORCH, (16, 16), "test")
    with pytest.raises(InputError, match="give shift_depthwise=False"):
        export_onnx(unit_embedding(model), (16, 16), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["iresnet50", "vit_s"])
def test_published_sizes(tmp_path, name):
    """Random weights, but every number of them and every layer."""
    pytest.importorskip("jax2onnx")
    backbone = registry.create(name)
    shapes = jax.eval_shape(lambda: backbone.init(jax.random.key(0), jnp.zeros((1, 112, 112, 3))))
    random = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key in ("var", "scale", "frozen_scale"):
            return np.ones(leaf.shape, np.float32)
        spread = np.prod(leaf.shape[:-1]) ** -0.5 if path[-1].key == "kernel" else 0.1
        return random.normal(0, spread, leaf.shape).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    embed = unit_embedding(
        TrainedModel(backbone, variables, ARCFACE_TORCH, (112, 112), name), shift_depthwise=False
    )
    export_onnx(embed, (112, 112), tmp_path / "model.onnx")
    images = random.integers(0, 256, (3, 112, 112, 3), np.uint8)
    ours, theirs = jax.jit(embed)(images), run_onnx(tmp_path / "model.onnx", images)
    assert (
        np.abs(np.asarray(ours) @ np.asarray(ours).T - np.eye(3)).max() > 1e-3
    )  # three different embeddings
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_the_real_model_on_real_faces(tmp_path, shared_data, weights):
    pytest.importorskip("jax2onnx")
    model = import_torch(shared_data / "mobilefacenet_casia_arcface.ckpt")
    embed = unit_embedding(model, weights=weights, shift_depthwise=False)
    export_onnx(embed, model.image_size, tmp_path / "model.onnx")
    with np.load(shared_data / "mobilefacenet_reference.npz") as reference:
        images = reference["images"]
    np.testing.assert_allclose(run_onnx(tmp_path / "model.onnx", images), embed(images), atol=1e-5)
