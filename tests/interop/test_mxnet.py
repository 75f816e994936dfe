"""MXNet's models in: the published one as MXNet computes it, and whatever else such files hold."""

import dataclasses
import json
import struct

import ml_dtypes
import numpy as np
import pytest

from arcface_jax.commands.models import open_trained
from arcface_jax.errors import InputError
from arcface_jax.interop.mxnet import import_mxnet
from arcface_jax.interop.mxnet_file import read_params
from arcface_jax.interop.mxnet_graph import arithmetic_of, compute, layers_of, read_graph
from arcface_jax.models.iresnet import IResNet
from arcface_jax.models.mbf import ArcFaceTorchMobileFaceNet
from arcface_jax.models.mobilefacenet import MobileFaceNet
from arcface_jax.pixels import INSIGHTFACE_MXNET
from tests.interop.mxnet_networks import (
    TYPES,
    V0,
    V1,
    V2,
    V3,
    Symbol,
    iresnet,
    listed,
    mobilefacenet,
    packed,
    params_file,
    slow_iresnet,
)

IMAGES = np.random.default_rng(2).integers(0, 256, (2, 16, 16, 3), np.uint8)


@pytest.fixture
def unchecked(monkeypatch):
    """Without the comparison, which has to compile."""
    monkeypatch.setattr("arcface_jax.interop.mxnet.check_same", lambda *_: None)


def test_the_graph_of_the_published_mobilefacenet_computes_what_mxnet_does(shared_data):
    prefix = shared_data / "mobilefacenet_y1_ms1m_arcface"
    arrays = read_params(f"{prefix}-0000.params")
    with np.load(shared_data / "mobilefacenet_y1_reference.npz") as reference:
        images, expected = reference["images"][:4], reference["embeddings"][:4]
    fed = images.transpose(0, 3, 1, 2).astype(np.float32)
    found = compute(read_graph(f"{prefix}-symbol.json", arrays), arrays, fed)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_published_mobilefacenet_is_known(shared_data, unchecked):
    model = import_mxnet(shared_data / "mobilefacenet_y1_ms1m_arcface-0000.params")
    assert model.image_size == (112, 112)
    assert model.pixels == INSIGHTFACE_MXNET
    assert model.backbone == MobileFaceNet(128, 64)
    assert model.source == "mobilefacenet_y1_ms1m_arcface-0000.params"


@pytest.mark.slow
def test_the_published_mobilefacenet_embeds_as_mxnet_does(shared_data):
    model = import_mxnet(shared_data / "mobilefacenet_y1_ms1m_arcface-0000.params")
    with np.load(shared_data / "mobilefacenet_y1_reference.npz") as reference:
        found, expected = model.embedder()(reference["images"]), reference["embeddings"]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def embeddings_of(path, images=IMAGES):
    """By the graph alone."""
    arrays = read_params(path)
    symbol = path.with_name("model-symbol.json")
    fed = images.transpose(0, 3, 1, 2).astype(np.float32)
    return compute(read_graph(symbol, arrays), arrays, fed)


def test_the_graph_computes_what_mxnet_does(tmp_path):
    """Scales that are fixed are 1, epsilons are the nodes', dropout does nothing, and a matrix
    takes channels before rows.
    """
    network = iresnet((2, 1, 1, 1), side=32)
    images = np.random.default_rng(3).integers(0, 256, (2, 32, 32, 3), np.uint8)
    expected = slow_iresnet(images, network.arrays, (2, 1, 1, 1))
    found = embeddings_of(network.write(tmp_path), images)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_an_iresnet_is_read(tmp_path):
    network = iresnet((2, 1, 1, 1))
    network.arrays["arg:fc7_weight"] = np.arange(18, dtype=np.float32).reshape(3, 6)
    network.arrays["arg:stray"] = np.zeros(3, np.float32)
    model = import_mxnet(network.write(tmp_path))  # which compares with what the graph computes
    assert model.backbone == IResNet((2, 1, 1, 1), 6, 2)
    assert model.pixels == INSIGHTFACE_MXNET
    assert model.image_size == (16, 16)
    assert model.source == "model-0000.params (without stray, which the embedding does not need)"
    np.testing.assert_array_equal(model.class_weights, np.arange(18).reshape(3, 6))


@pytest.mark.parametrize(
    ("blocks", "side", "expected"),
    [
        ((1, 4, 6, 2), (1, 1), MobileFaceNet(6, 2)),
        ((2, 8, 16, 4), (1, 1), ArcFaceTorchMobileFaceNet((2, 8, 16, 4), 1, 6, 2)),
        ((1, 0, 1, 2), (2, 1), ArcFaceTorchMobileFaceNet((1, 0, 1, 2), 1, 6, 2)),
        ((3, 1, 1, 1), (1, 1), ArcFaceTorchMobileFaceNet((3, 1, 1, 1), 1, 6, 2)),
    ],
)
def test_which_mobilefacenet_it_is(tmp_path, monkeypatch, unchecked, blocks, side, expected):
    monkeypatch.setattr("arcface_jax.interop.graph_layers._fill", lambda *_: {})
    model = import_mxnet(mobilefacenet(blocks, side=side).write(tmp_path))
    assert model.backbone == expected
    assert model.image_size == (16 * side[0], 16 * side[1])


def test_another_mobilefacenet_computes_what_its_graph_does(tmp_path):
    import_mxnet(mobilefacenet((2, 1, 0, 0)).write(tmp_path))


def test_numbers_of_a_normalisation_take_up_what_the_backbone_has_not(tmp_path, unchecked):
    """1 for a fixed scale; (x + b − μ)/√(σ² + ε), μ less the bias and σ² more the epsilons'
    difference.
    """
    network = mobilefacenet((1, 0, 0, 0))
    variables = import_mxnet(network.write(tmp_path)).variables
    params, stats = variables["params"]["features"], variables["batch_stats"]["features"]
    arrays = network.arrays
    np.testing.assert_array_equal(params["scale"], np.ones(6))
    mean = arrays["aux:fc1_moving_mean"] - arrays["arg:pre_fc1_bias"]
    np.testing.assert_allclose(stats["mean"], mean, rtol=1e-6)
    np.testing.assert_allclose(stats["var"], arrays["aux:fc1_moving_var"] + 1e-5, rtol=1e-6)
    first = variables["batch_stats"]["layers_0"]["bn"]["var"]
    expected = arrays["aux:conv_1_batchnorm_moving_var"] + (1e-3 - 1e-5)
    np.testing.assert_allclose(first, expected, rtol=1e-6)


@pytest.mark.parametrize("version", [V0, V1, V2, V3])
@pytest.mark.parametrize("kind", TYPES)
def test_arrays_of_every_version_and_type(tmp_path, version, kind):
    dtype = np.dtype(getattr(ml_dtypes, kind, kind))
    expected = np.arange(6).reshape(1, 2, 3).astype(dtype)
    path = tmp_path / "x.params"
    path.write_bytes(params_file({"arg:a": expected, "aux:b": expected[0], "c": expected}, version))
    found = read_params(path)
    assert list(found) == ["a", "b", "c"]
    assert all(array.dtype == dtype for array in found.values())
    np.testing.assert_array_equal(found["a"], expected)
    np.testing.assert_array_equal(found["b"], expected[0])


def test_arrays_that_were_never_filled_are_left_out(tmp_path):
    empty = [struct.pack("<I", 0), struct.pack("<Ii", V1, 0), struct.pack("<Iii", V2, 0, 0)]
    empty += [struct.pack("<Iii", V3, 0, -1)]
    number = struct.pack("<Iii3if", V3, 0, 0, 1, 0, 0, 7.0)  # of no axes, as NumPy has them
    path = tmp_path / "x.params"
    path.write_bytes(listed([*empty, number], list("abcde")))
    assert read_params(path) == {"e": np.float32(7)}


ONE = packed(np.ones((2, 3), np.float32))
# Kind of storage, stored and whole shape, device, type, type and shape of the places.
ROWS = struct.pack("<Iii2qi2q5iq", V2, 1, 2, 0, 3, 2, 2, 3, 1, 0, 0, 6, 1, 1) + bytes(12 + 8)
CELLS = struct.pack("<Iii1qi2q3i", V2, 2, 1, 2, 2, 2, 3, 1, 0, 0)
CELLS += struct.pack("<iiqiiq", 6, 1, 3, 6, 1, 2) + bytes(8 + 24 + 16)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no file of MXNet's parameters that can be read \\(it ends too early"),
        (b"no parameters at all, but text", r"\(it does not begin as such files do\)"),
        (listed([ONE], []), "has no names for its 1 array; save it by mx.model.save_checkpoint"),
        (
            listed([ONE], ["a"])[:24] + bytes(200),
            "is damaged, as one whose download stopped: 1 arr",
        ),
        (listed([ONE, ONE], ["a", "b"])[:-18] + bytes(18), "is damaged: array 0 has an empty name"),
        (
            listed([ONE], ["a"])[:-17] + bytes(17),
            "is damaged, as one whose download stopped: 1 arr",
        ),
        (listed([ONE], ["a", "b"]), "1 array is followed by 2 names; fetch or save it anew"),
        (listed([ONE, ONE], ["arg:a", "aux:a"]), "a: is in it twice; save it anew"),
        (
            listed([ROWS], ["arg:fc"]),
            "fc is stored as row-sparse, which is not read; store it dense",
        ),
        (listed([ONE, CELLS], ["a", "aux:b"]), "b is stored as compressed sparse rows, which is"),
        (listed([ONE], ["a"]) + b"more", "4 bytes come after its end"),
        (listed([struct.pack("<Ii", V2, 9)], ["a"]), "array 0 has the kind of storage 9, which MX"),
        (
            listed([ONE, struct.pack("<Iiiq3i", V2, 0, 1, 1, 1, 0, 13)], ["a", "b"]),
            "array 1 is of the type 13, which is not known; store float32",
        ),
        (listed([struct.pack("<Iii", V2, 0, 33)], ["a"]), "a size in it is 33"),
        (listed([struct.pack("<Iii", V2, 0, -1)], ["a"]), "a size in it is -1"),
        (listed([struct.pack("<Iii2q", V2, 0, 2, -1, 4)], ["a"]), "a size in it is -1"),
        (
            listed([struct.pack("<Iii2q3i", V2, 0, 2, 2**40, 2**40, 1, 0, 0)], ["a"]),
            "it ends too early",
        ),
        (struct.pack("<3Q", 0x112, 0, 2**62), "a size in it is 4611686018427387904"),
        (listed([ONE], ["a"]).replace(b"\1\0\0\0\0\0\0\0a", b"\1\0\0\0\0\0\0\0\xff"), "no text in"),
        (b"PK\3\4" + bytes(100), "is an archive, as MXNet 2 writes it; save it with MXNet 1"),
    ],
)
def test_what_is_no_file_of_parameters(tmp_path, content, said):
    path = tmp_path / "x-0000.params"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"x-0000.params: .*{said}") as error:
        import_mxnet(path)
    assert str(error.value).isprintable()


def test_a_file_that_is_cut_short_anywhere(tmp_path):
    content, path = listed([ONE, packed(np.ones(2), V1)], ["arg:a", "b"]), tmp_path / "x.params"
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(InputError, match=r"x\.params: is no file of MXNet's"):
            read_params(path)


def changed(path, change):
    """Changes the nodes of the symbol by their names."""
    symbol = path.with_name("model-symbol.json")
    content = json.loads(symbol.read_text())
    change({node["name"]: node for node in content["nodes"]}, content)
    symbol.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("prefix", ["model", "model-r50-am-lfw", "model,1", "model-12"])
@pytest.mark.parametrize("epoch", ["-0000", "-12345", ""])
def test_the_symbol_beside_it(tmp_path, prefix, epoch):
    path = tmp_path / f"{prefix}{epoch}.params"
    path.write_bytes(params_file({"a": np.ones(1, np.float32)}))
    with pytest.raises(InputError, match=rf"/{prefix}-symbol\.json: missing; it holds the graph"):
        import_mxnet(path)


def test_an_mxnet_model_is_two_files(tmp_path):
    symbol = tmp_path / "model-symbol.json"
    symbol.write_text("{}")
    with pytest.raises(
        InputError, match=r"is a graph without weights; give the \.params file besi"
    ):
        open_trained(symbol)
    symbol.rename(tmp_path / "other-symbol.json")
    (tmp_path / "model-0000.params").write_bytes(params_file({}))
    with pytest.raises(InputError, match=r"model-symbol\.json: missing; it holds the graph of mod"):
        open_trained(tmp_path / "model-0000.params")


@pytest.mark.parametrize("options", ["attr", "attrs", "param"])
def test_options_of_every_version(tmp_path, options):
    network = iresnet(options=options)
    for node in network.nodes:
        node["inputs"] = [each[: 3 if options == "attrs" else 2] for each in node["inputs"]]
        node[options] |= {"lr_mult": "0.1"} if node[options] else {}
    expected = slow_iresnet(IMAGES, network.arrays)
    found = embeddings_of(network.write(tmp_path))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_a_training_graph_is_read_up_to_its_embedding(tmp_path, unchecked):
    """As a checkpoint of a training has it: the head, the labels, several outputs."""
    network = iresnet()
    fc1 = network.last
    weight = network.parameter("fc7_weight", np.ones((5, 6)))
    unit = network.node("L2Normalization", "fc1n", fc1, mode="instance")
    logits = network.node("FullyConnected", "fc7", unit, weight, no_bias=True, num_hidden=5)
    label = network.node("null", "softmax_label")
    softmax = network.node("SoftmaxOutput", "softmax", logits, label)
    model = import_mxnet(network.write(tmp_path, fc1, softmax))
    assert model.source == "model-0000.params"
    np.testing.assert_array_equal(model.class_weights, np.ones((5, 6)))


def test_other_words_for_the_same(tmp_path):
    """Older names of operators, options as lists or numbers, casts, images under another name."""

    def change(nodes, content):
        for node in content["nodes"]:
            names = {"elemwise_add": "_Plus", "_minus_scalar": "_MinusScalar", "identity": "_copy"}
            node["op"] = names.get(node["op"], node["op"])
            options = node["attrs"]
            if node["op"] == "Convolution":
                options |= {"no_bias": "1", "dilate": "[1, 1]", "layout": "None", "pad": "[1L, 1L]"}
                options |= {"pad": "()"} if options["kernel"] == "(1, 1)" else {}
        nodes["data"]["name"] = "images"
        nodes["dropout0"] |= {"op": "Cast", "attrs": {"dtype": "float32"}}

    network = iresnet()
    expected = slow_iresnet(IMAGES, network.arrays)
    found = embeddings_of(changed(network.write(tmp_path), change))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_a_bias_before_a_normalisation_is_read(tmp_path, unchecked):
    network = Symbol()
    x = network.conv(network.pixels(), "conv0", 3, 2, (3, 3), pad=1, bias=True)
    network.norm(x, "fc1", 2)
    arrays = read_params(network.write(tmp_path))
    conv, norm = layers_of(read_graph(tmp_path / "model-symbol.json", arrays), arrays)
    assert len(conv.constants) == 1
    expected = arrays["fc1_moving_mean"] - arrays["conv0_bias"]
    np.testing.assert_array_equal(norm.constants[2], expected)
    assert norm.epsilon == 1e-3


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ((("_minus_scalar", 127.5), ("_mul_scalar", 0.0078125)), (127.5, 128.0)),
        ((("_MulScalar", 0.0078125), ("_MinusScalar", 0.99609375)), (127.5, 128.0)),
        ((("_div_scalar", 127.5), ("_plus_scalar", -1)), (127.5, 127.5)),
        ((("_minus_scalar", 127.5), ("_mul_scalar", 1 / 127.5)), (127.5, 127.5)),
        ((("identity", 0), ("_DivScalar", 255)), (0.0, 255.0)),
    ],
)
def test_the_pixels_are_read_from_the_graph(tmp_path, unchecked, steps, expected):
    def change(nodes, content):
        for node, (kind, number) in zip(("_minusscalar0", "_mulscalar0"), steps, strict=True):
            nodes[node] |= {"op": kind, "attrs": {"scalar": str(number)}}

    pixels = import_mxnet(changed(iresnet().write(tmp_path), change)).pixels
    assert dataclasses.astuple(pixels) == ("rgb", *expected)


def passed_on(*names):
    """Nodes that do nothing."""

    def change(nodes, content):
        for name in names:
            nodes[name] |= {"op": "identity", "attrs": {}, "inputs": nodes[name]["inputs"][:1]}

    return change


def without_input(name):
    def change(nodes, content):
        nodes[name]["inputs"].pop()

    return change


def with_node(name, /, **about):
    """A node that becomes another."""

    def change(nodes, content):
        nodes[name] |= about

    return change


def with_options(name, /, **options):
    def change(nodes, content):
        nodes[name]["attrs"] |= options

    return change


def without_head(nodes, content):
    nodes["fc1"]["name"] = "embedding"
    content["heads"] = []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            with_node("dropout0", op="Pooling"),
            r"node dropout0 \(Pooling\) is in no network here; I",
        ),
        (with_node("dropout0", op="Activation"), r"node dropout0 \(Activation\) is in no network"),
        (
            with_node("dropout0", op="_mul_scalar"),
            r"node dropout0 \(_mul_scalar\) is in no network",
        ),
        (
            with_node("_plus11", op="broadcast_mul"),
            r"node _plus11 \(broadcast_mul\) is in no netwo",
        ),
        (with_options("dropout0", mode="always"), r"node dropout0 \(Dropout\) with mode always is"),
        (
            with_options("conv0", dilate="(2, 2)"),
            r"node conv0 \(Convolution\) with dilate \(2, 2\)",
        ),
        (
            with_options("conv0", layout="NHWC"),
            r"node conv0 \(Convolution\) with layout NHWC is in",
        ),
        (
            with_options("conv0", kernel="(3,)"),
            r"node conv0 .*: kernel is '\(3,\)'; two numbers up",
        ),
        (with_options("conv0", pad="(900, 9)"), r"node conv0 .*: pad is '\(900, 9\)'; two numbers"),
        (with_options("conv0", no_bias="maybe"), r"conv0 .*: no_bias is 'maybe'; True or False is"),
        (with_options("conv0", no_bias="False"), r"node conv0 .*: has 2 inputs, wanted 3"),
        (
            with_options("conv0", stride="(0, 1)"),
            r"node conv0 .*: its numbers do not fit its input",
        ),
        (
            with_options("conv0", kernel="(5, 5)"),
            r"node conv0 .*: its numbers do not fit its input",
        ),
        (with_options("conv0", num_group="3"), r"node conv0 .*: its numbers do not fit its input"),
        (
            with_options("bn0", axis="3"),
            r"node bn0 \(BatchNorm\) with axis 3 is in no network here",
        ),
        (with_options("bn0", eps="small"), r"node bn0 .*: eps is 'small', and a number is due"),
        (with_options("bn0", eps="nan"), r"node bn0 .*: eps is 'nan', and a number is due"),
        (
            with_options("bn0", fix_gamma="2"),
            r"node bn0 .*: fix_gamma is '2'; True or False is due",
        ),
        (
            with_options("relu0", act_type="elu"),
            r"node relu0 \(LeakyReLU\) with act_type elu is in",
        ),
        (
            with_node("relu0", attrs={}),
            r"node relu0 \(LeakyReLU\) with act_type leaky is in no net",
        ),
        (without_input("relu0"), r"node relu0 .*: has 1 input, wanted 2"),
        (without_input("bn0"), r"node bn0 .*: has 4 inputs, wanted 5"),
        (with_node("relu0", inputs=[[1, 0, 0], [1, 0, 0]]), "takes id, where a parameter is due"),
        (
            with_node("relu0", inputs=[[999, 0, 0]]),
            r"relu0: takes node 999, which does not come be",
        ),
        (
            with_node("relu0", inputs=[[-1, 0, 0]]),
            r"relu0: takes node -1, which does not come befo",
        ),
        (with_node("relu0", inputs=[[1, 1, 0]]), "relu0: takes output 1 of a node, as no network"),
        (with_node("relu0", inputs="all"), "node relu0: lists no nodes; copy the file again"),
        (with_node("relu0", inputs=[[True, 0]]), "node relu0: lists no nodes; copy the file again"),
        (with_node("relu0", op=None), "has no name or no operator; copy the file again"),
        (with_node("conv0", name="fc1"), "two nodes are called fc1, which names the embedding"),
        (
            with_node("bn0_gamma", name="bn_gamma"),
            "the .params file lacks bn_gamma; take both files of",
        ),
        (without_head, "it has no node fc1 and not one output, so nothing tells the embedding"),
        (passed_on("_minusscalar0", "_mulscalar0"), "does no arithmetic with the pixels before"),
        (passed_on("_mulscalar0"), "before the first layer makes -127.5 … 127.5 of pixels from"),
        (with_options("_mulscalar0", scalar="0"), r"node _mulscalar0 .*: scalar is 0; no network"),
        (with_options("_mulscalar0", scalar=""), r"node _mulscalar0 .*: scalar is 'missing', and"),
        (with_node("_mulscalar0", attrs={}), r"node _mulscalar0 .*: scalar is 'missing', and a n"),
        (with_options("_mulscalar0", scalar="1e999"), r"node _mulscalar0 .*: scalar is '1e999', "),
        (with_options("bn0", eps="9" * 5000), r"node bn0 .*: eps is '9999"),
        (with_options("conv0", num_group="1e300"), r"node conv0 .*: its numbers do not fit its"),
        (
            passed_on("stage1_unit1_bn1"),
            r"layer1_0/bn1 is a BatchNormalization, but the file has Conv \(node stage1_unit1_c",
        ),
    ],
)
def test_what_is_computed_otherwise_is_refused_by_its_node(tmp_path, change, said):
    path = changed(iresnet().write(tmp_path), change)
    with pytest.raises(InputError, match=f"model-symbol.json: .*{said}") as error:
        import_mxnet(path)
    assert str(error.value).isprintable()


def test_another_connection_is_refused(tmp_path):
    """Of the same layers in the same order."""

    def change(nodes, content):
        nodes["_plus12"]["inputs"][1] = nodes["_plus12"]["inputs"][0]

    path = changed(iresnet((2, 1, 1, 1)).write(tmp_path), change)
    with pytest.raises(InputError, match="computes other embeddings than its layers make as IRes"):
        import_mxnet(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is no JSON file of a graph"),
        ("[" * 100_000, "is no JSON file of a graph"),
        ("[]", "is no graph of MXNet's: it has no list of nodes"),
        ('{"nodes": []}', "is no graph of MXNet's: it has no list of nodes"),
        ('{"nodes": [1]}', "node 0 has no name and no operator; copy the file again"),
        ('{"nodes": [{"op": "null", "name": "fc1"}]}', "does no arithmetic with the pixels"),
        ("\xff\xfe", "is no JSON file of a graph"),
    ],
)
def test_what_is_no_symbol(tmp_path, content, said):
    path = iresnet().write(tmp_path)
    path.with_name("model-symbol.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=f"model-symbol.json: .*{said}"):
        import_mxnet(path)


def replaced(name, array):
    def change(arrays):
        arrays[name] = array(arrays[name])

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            replaced("arg:conv0_weight", lambda a: a.astype(np.int8)),
            "conv0_weight is stored as int8",
        ),
        (replaced("arg:bn0_beta", lambda a: a * np.nan), r"NaN.*: bn0_beta \(2 of 2\); the train"),
        (replaced("arg:bn0_beta", lambda a: a.astype(float) * 1e300), r"infinite .*: bn0_beta \("),
        (replaced("aux:bn0_moving_var", lambda a: -a), r"negative variance: bn0_moving_var \(2 of"),
        (
            replaced("arg:bn0_beta", lambda a: a[:1]),
            r"node bn0 .* have the shapes \[2\], \[1\], \[",
        ),
        (
            replaced("arg:conv0_weight", lambda a: a[:, :, 0]),
            r"conv0 .* have the shapes \[2, 3, 3\]",
        ),
        (replaced("arg:conv0_weight", lambda a: a[:1]), "width|shape|channels|IResNet"),
        (replaced("arg:pre_fc1_weight", lambda a: a[:0]), "pre_fc1"),
    ],
)
def test_parameters_that_cannot_be_meant(tmp_path, change, said):
    network = iresnet()
    change(network.arrays)
    with pytest.raises(InputError, match=f"model-(0000.params|symbol.json): .*{said}"):
        import_mxnet(network.write(tmp_path))


def test_arithmetic_of_pixels_alone(tmp_path):
    network = iresnet()
    arrays = read_params(network.write(tmp_path))
    graph = read_graph(tmp_path / "model-symbol.json", arrays)
    assert arithmetic_of(graph) == (0.0078125, -127.5 * 0.0078125)
