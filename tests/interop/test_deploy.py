"""What an export consists of: folding, fewer bytes a weight, one function of the image,
StableHLO.
"""

import functools

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.interop.fold import fold_batch_norm
from arcface_jax.interop.inference import principal_directions, unit_embedding
from arcface_jax.interop.model import TrainedModel
from arcface_jax.interop.quantise import Int8Kernel, dequantise, quantise
from arcface_jax.interop.stablehlo import export_stablehlo, load_stablehlo
from arcface_jax.models.iresnet import IResNet
from arcface_jax.models.mbf import ArcFaceTorchMobileFaceNet
from arcface_jax.models.mobilefacenet import Bottlenecks, MobileFaceNet
from arcface_jax.models.resnet import ResNet
from arcface_jax.models.vit import VisionTransformer
from arcface_jax.pixels import ADAFACE, normalise

SIZE = (32, 24)
# Each network, and its normalisations that directly follow a convolution or dense layer.
NETWORKS = {
    "iresnet": (IResNet((1, 1), 6, 4), 1 + 2 * 3 + 1),
    "iresnet d": (IResNet((1, 1), 6, 4, output="D", squeeze=4), 1 + 2 * 3 + 1),
    "ir": (
        IResNet((1, 1), 6, 4, shortcut="subsampled", inner_norm=False, embedding_affine=False),
        1 + 1 + 2 + 1,
    ),
    "mobilefacenet": (MobileFaceNet(6, 8, bottlenecks=(Bottlenecks(2, 64, 2, 2),)), 2 + 2 * 3 + 3),
    "mbf": (ArcFaceTorchMobileFaceNet((1, 0, 1, 0), 2, 6, 8), 2 + 4 * 3 + 1 + 2),
    "resnet": (ResNet(1, 6, 16), 1 + 3 * 2 + 1),
    "vit": (VisionTransformer(16, 1, 2, 6), 2),
}


@functools.cache
def trained(name):
    """A model whose every number is away from its initial value."""
    backbone = NETWORKS[name][0]
    variables = jax.eval_shape(backbone.init, jax.random.key(0), jnp.zeros((1, *SIZE, 3)))
    random = np.random.default_rng(0)

    def draw(path, leaf):
        kind = path[-1].key
        if kind == "var":
            return np.exp(random.normal(0, 0.3, leaf.shape)).astype(np.float32)
        spread = np.prod(leaf.shape[:-1]) ** -0.5 if kind == "kernel" else 0.2
        return (random.normal(kind in ("scale", "frozen_scale"), spread, leaf.shape)).astype(
            np.float32
        )

    return TrainedModel(
        backbone, jax.tree_util.tree_map_with_path(draw, variables), ADAFACE, SIZE, "test"
    )


IMAGES = np.random.default_rng(1).integers(0, 256, (3, *SIZE, 3), np.uint8)


def embed(backbone, variables, images=IMAGES):
    """Of the backbone alone, compiled as one program."""
    return jax.jit(lambda *given: backbone.apply(given[0], normalise(given[1], ADAFACE)))(
        variables, images
    )


@functools.cache
def plain(name):
    """Embeddings of the images by the network as it was trained, and of their mirror images."""
    model = trained(name)
    both = np.concatenate([IMAGES, IMAGES[:, :, ::-1]])
    return np.split(np.asarray(embed(model.backbone, model.variables, both)), 2)


def normalised(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("name", NETWORKS)
def test_folding_changes_nothing_but_the_number_of_layers(name):
    model = trained(name)
    folded, variables = fold_batch_norm(model.backbone, model.variables, SIZE)
    assert len(folded.folded) == NETWORKS[name][1]
    embeddings = embed(folded, variables)
    np.testing.assert_allclose(embeddings, plain(name)[0], rtol=2e-5, atol=2e-5)
    before, after = (
        len(flax.traverse_util.flatten_dict(dict(tree["batch_stats"])))
        for tree in (model.variables, variables)
    )
    assert before - after == 2 * NETWORKS[name][1]


def test_folding_keeps_a_normalisation_before_a_convolution():
    folded, variables = fold_batch_norm(
        trained("iresnet").backbone, trained("iresnet").variables, SIZE
    )
    assert set(variables["batch_stats"]) == {"bn2", "layer1_0", "layer2_0"}
    assert set(variables["batch_stats"]["layer1_0"]) == {"bn1"}
    with pytest.raises(TypeError, match="train the network it came from"):
        folded.apply(variables, jnp.zeros((1, *SIZE, 3)), train=True)


def test_int8_is_off_by_at_most_half_a_scale():
    variables = trained("iresnet").variables
    packed = quantise(variables, "int8")
    restored = jax.jit(dequantise)(packed)
    for path, leaf in flax.traverse_util.flatten_dict(variables).items():
        back = flax.traverse_util.flatten_dict(restored)[path]
        if path[-1] != "kernel":
            np.testing.assert_array_equal(back, leaf)
            continue
        largest = np.abs(leaf).reshape(-1, leaf.shape[-1]).max(0)
        assert np.all(np.abs(back - leaf) <= largest / 254 * (1 + 1e-5))
        np.testing.assert_allclose(
            np.abs(back).reshape(-1, leaf.shape[-1]).max(0), largest, rtol=1e-6
        )
    kernel = packed["params"]["fc"]["kernel"]
    assert isinstance(kernel, Int8Kernel)
    assert kernel.values.dtype == jnp.int8


def test_a_channel_of_zeros_stays_zero():
    variables = {"params": {"fc": {"kernel": np.zeros((3, 2), np.float32)}}}
    np.testing.assert_array_equal(
        dequantise(quantise(variables, "int8"))["params"]["fc"]["kernel"], np.zeros((3, 2))
    )


def test_bfloat16_rounds_kernels_only():
    variables = trained("iresnet").variables
    packed = quantise(variables, "bfloat16")["params"]
    assert packed["fc"]["kernel"].dtype == jnp.bfloat16
    assert packed["fc"]["bias"].dtype == jnp.float32
    with pytest.raises(InputError, match="'int4' is unknown"):
        quantise(variables, "int4")


@pytest.mark.parametrize(
    "options", [{}, {"fold": False}, {"flip": "add"}, {"weights": "bfloat16"}, {"weights": "int8"}]
)
def test_the_exported_function_is_preprocessing_network_and_norm(options):
    model = trained("mobilefacenet")
    embeddings = jax.jit(unit_embedding(model, **options))(IMAGES)
    expected, mirrored = plain("mobilefacenet")
    if "flip" in options:
        expected = expected + mirrored
    tolerance = {"bfloat16": 0.03, "int8": 0.05}.get(options.get("weights"), 1e-5)
    np.testing.assert_allclose(embeddings, normalised(expected), atol=tolerance)


def test_an_embedding_of_norm_zero_stays_zero():
    class Nothing(nn.Module):
        def __call__(self, x, train=False):
            return jnp.zeros((len(x), 4))

    model = TrainedModel(Nothing(), {"params": {}, "batch_stats": {}}, ADAFACE, SIZE, "test")
    np.testing.assert_array_equal(unit_embedding(model, fold=False)(IMAGES), np.zeros((3, 4)))


def test_stablehlo_takes_any_batch_and_names_three_platforms(tmp_path):
    model = trained("mobilefacenet")
    content = export_stablehlo(unit_embedding(model), SIZE)
    assert jax.export.deserialize(bytearray(content)).platforms == ("cpu", "cuda", "tpu")
    (tmp_path / "model.stablehlo").write_bytes(content)
    exported, size = load_stablehlo(tmp_path / "model.stablehlo")
    assert size == SIZE
    for count in (1, 3):
        expected = normalised(plain("mobilefacenet")[0][:count])
        np.testing.assert_allclose(exported(IMAGES[:count]), expected, atol=1e-5)


def test_int8_makes_the_file_smaller():
    model = trained("vit")
    sizes = [
        len(export_stablehlo(unit_embedding(model, weights=kind), SIZE))
        for kind in ("float32", "int8")
    ]
    kernels = [
        leaf
        for path, leaf in flax.traverse_util.flatten_dict(model.variables["params"]).items()
        if path[-1] == "kernel"
    ]
    saved = sum(3 * kernel.size - 4 * kernel.shape[-1] for kernel in kernels)
    assert sizes[0] - sizes[1] > 0.9 * saved


def test_files_that_are_no_export_are_named(tmp_path):
    with pytest.raises(InputError, match=r"absent: cannot be read"):
        load_stablehlo(tmp_path / "absent")
    (tmp_path / "junk").write_bytes(b"junk" * 100)
    with pytest.raises(InputError, match=r"junk: is no exported model"):
        load_stablehlo(tmp_path / "junk")
    content = export_stablehlo(lambda images: images * 1.0, SIZE, ["tpu"])
    (tmp_path / "tpu").write_bytes(content)
    with pytest.raises(InputError, match="is for tpu, but this is cpu"):
        load_stablehlo(tmp_path / "tpu")


def test_principal_directions_keep_most_of_the_squared_length():
    random = np.random.default_rng(0)
    plane = random.normal(size=(200, 2)) @ random.normal(size=(2, 6))
    rows = plane + 0.05 * random.normal(size=plane.shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    directions, kept = principal_directions(rows, 2)
    np.testing.assert_allclose(directions.T @ directions, np.eye(2), atol=1e-6)
    assert kept == pytest.approx(float(np.square(rows @ directions).sum() / 200))
    assert kept == pytest.approx(float((np.linalg.svd(rows)[1][:2] ** 2).sum() / 200))
    assert 0.97 < kept < 1.0
    short = rows @ directions / np.linalg.norm(rows @ directions, axis=1, keepdims=True)
    assert np.abs(short @ short.T - rows @ rows.T).max() < 0.1
    for size, said in ((6, "the embedding has 6 numbers"), (0, "give fewer, 1 to 5")):
        with pytest.raises(InputError, match=said):
            principal_directions(rows, size)
    with pytest.raises(InputError, match="needs as many images, and there are 3"):
        principal_directions(rows[:3], 4)


def test_a_shorter_embedding_is_the_projection_of_the_whole():
    random = np.random.default_rng(0)
    directions = np.linalg.qr(random.normal(size=(12, 12)))[0][:, :5].astype(np.float32)
    images = random.integers(0, 256, (3, *SIZE, 3), np.uint8)
    dense = nn.Dense(6)
    kernel = {"params": {"kernel": random.normal(size=(3, 6)), "bias": np.ones(6)}}

    class Mean:
        """The mean over the left half, so that the mirror image is another."""

        embedding_size = 6

        def apply(self, variables, images):
            return dense.apply(variables, images[:, :, :12].mean(axis=(1, 2)))

    model = TrainedModel(Mean(), kernel, ADAFACE, SIZE, "mean")
    options = {"fold": False, "flip": "concatenate", "shift_depthwise": False}
    whole = np.asarray(unit_embedding(model, **options)(images))
    short = np.asarray(unit_embedding(model, **options, directions=directions)(images))
    expected = whole @ directions
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(short, expected, atol=1e-5)
