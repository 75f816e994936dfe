"""ONNX out, run by onnxruntime; ONNX in, as PyTorch's exporter writes it. Both need the extra."""

import dataclasses
import io
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.interop.inference import unit_embedding
from arcface_jax.interop.model import TrainedModel
from arcface_jax.interop.onnx import export_onnx, import_onnx
from arcface_jax.interop.torch import import_torch, model_from_state_dict
from arcface_jax.models import registry
from arcface_jax.models.mobilefacenet import MobileFaceNet
from arcface_jax.pixels import ARCFACE_TORCH, PixelConvention

onnx = pytest.importorskip("onnx")


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


@pytest.mark.parametrize(
    ("before", "pixels"),
    [
        (lambda x: (x - 127.5) / 128.0, PixelConvention("rgb", 127.5, 128.0)),
        (lambda x: x / 255.0, PixelConvention("rgb", 0.0, 255.0)),
        (lambda x: (x * 2.0 + 3.0) * 0.5, PixelConvention("rgb", -1.5, 1.0)),
        (lambda x: x.flip(1), None),
        (lambda x: x - x.new_tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1), None),
    ],
)
def test_reads_whatever_arithmetic_a_graph_begins_with(tmp_path, networks, before, pixels):
    torch = pytest.importorskip("torch")

    class WithPixels(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network(before(x))

    from_pytorch(networks.randomise(WithPixels(networks.IResNet())), tmp_path / "with.onnx")
    if pixels is None:
        with pytest.raises(
            InputError,
            match=r"with.onnx: node .* comes before the first layer and is no arithmetic",
        ):
            import_onnx(tmp_path / "with.onnx")
    else:
        colours, *numbers = dataclasses.astuple(import_onnx(tmp_path / "with.onnx").pixels)
        wanted_colours, *wanted = dataclasses.astuple(pixels)
        assert colours == wanted_colours
        assert numbers == pytest.approx(wanted)


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

    from_pytorch(torch.nn.Conv2d(3, 4, 3), tmp_path / "conv.onnx")
    with pytest.raises(InputError, match=r"conv.onnx: 1 convolutions and 0 dense layers"):
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
