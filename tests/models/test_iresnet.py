import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.models import registry
from arcface_jax.models.iresnet import IResNet
from arcface_jax.models.layers import FROZEN_SCALE, PReLU

# The published networks at 112 × 112 with 512-d embeddings: parameters, and billions of multiply-adds.
PUBLISHED = {18: (24_025_600, 2.6), 34: (34_139_328, None), 50: (43_590_848, 6.3), 100: (65_156_160, 12.1)}


@pytest.mark.parametrize("depth", [18, 34, 50, 100, 200])
def test_published_parameter_counts(depth):
    expected = 118_833_920 if depth == 200 else PUBLISHED[depth][0]
    assert registry.count_parameters(registry.create(f"iresnet{depth}"), 112) == expected


def multiply_adds(program) -> int:
    """Of the convolutions and the dense layer, those with padding's zeros included, as is customary."""
    total = 0
    for equation in program.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            kernel = equation.invars[1].aval.shape
            assert kernel[-1] == equation.outvars[0].aval.shape[-1]
            total += equation.outvars[0].aval.size * math.prod(kernel[:-1])
    return total


@pytest.mark.parametrize("depth", [18, 50, 100])
def test_published_multiply_adds(depth):
    model = registry.create(f"iresnet{depth}")
    images = jax.ShapeDtypeStruct((1, 112, 112, 3), jnp.float32)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(images.shape)))
    program = jax.make_jaxpr(model.apply)(variables, images)
    assert multiply_adds(program) / 1e9 == pytest.approx(PUBLISHED[depth][1], rel=0.02)


def narrow(**options):
    """One block a stage: everything but the depth."""
    return IResNet((1, 1, 1, 1), embedding_size=16, width=4, **options)


def train_mode(model, variables, images, **options):
    apply = jax.jit(lambda v, x: model.apply(v, x, True, mutable=["batch_stats"], **options))
    return apply(variables, images)


@pytest.fixture(scope="module")
def batch():
    return jax.random.normal(jax.random.key(1), (32, 16, 16, 3))


@pytest.fixture(scope="module")
def variables():
    return jax.jit(narrow().init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))


@pytest.mark.parametrize("size", [16, 32, 33, 112])
def test_any_image_size(size):
    model = narrow()
    shape = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), jnp.zeros((2, size, size, 3)))[0])
    assert shape.shape == (2, 16)


def test_embeddings_are_normalised_over_the_batch(batch, variables):
    embeddings, _ = train_mode(narrow(), variables, batch)
    np.testing.assert_allclose(embeddings.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(embeddings.var(0), 1, rtol=1e-2)


def test_running_statistics_move_by_a_tenth(batch, variables):
    _, updates = train_mode(narrow(), variables, batch)
    before = variables["batch_stats"]["bn1"]
    after = updates["batch_stats"]["bn1"]
    kernel = variables["params"]["conv1"]["kernel"]
    stem = jax.lax.conv_general_dilated(
        batch, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(after["mean"], 0.9 * before["mean"] + 0.1 * stem.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * stem.var((0, 1, 2)), rtol=1e-4)


def test_frozen_scale_gets_no_gradient(batch, variables):
    def total(params):
        embeddings, _ = narrow().apply({**variables, "params": params}, batch, True, mutable=["batch_stats"])
        return jnp.sum(embeddings**3)

    gradients = jax.jit(jax.grad(total))(variables["params"])["features"]
    assert not np.any(gradients[FROZEN_SCALE])
    assert np.any(gradients["bias"])


def test_flattens_channel_first(batch, variables):
    """The dense layer's rows are in channel, height, width order, as in published weights."""
    model = narrow()
    _, state = model.apply(variables, batch, capture_intermediates=True, mutable=["intermediates"])
    seen = state["intermediates"]
    feature_map, dense = seen["bn2"]["__call__"][0], seen["fc"]["__call__"][0]
    by_hand = np.transpose(feature_map, (0, 3, 1, 2)).reshape(32, -1) @ variables["params"]["fc"]["kernel"]
    np.testing.assert_allclose(dense, by_hand, rtol=1e-5, atol=1e-5)


def test_bfloat16_keeps_parameters_and_embedding_in_float32(batch, variables):
    model = narrow(dtype=jnp.bfloat16)
    own = model.init(jax.random.key(0), batch)
    assert {leaf.dtype for leaf in jax.tree.leaves(own)} == {jnp.dtype("float32")}
    embeddings, _ = train_mode(model, variables, batch)
    exact, _ = train_mode(narrow(), variables, batch)
    assert embeddings.dtype == jnp.float32
    cosine = np.sum(embeddings * exact, -1) / np.linalg.norm(embeddings, axis=-1) / np.linalg.norm(exact, axis=-1)
    assert cosine.min() > 0.99


def test_dropout_needs_its_key_and_acts_in_training_only(batch, variables):
    model = narrow(dropout=0.5)
    rngs = {"dropout": jax.random.key(3)}
    dropped, _ = train_mode(model, variables, batch, rngs=rngs)
    whole, _ = train_mode(narrow(), variables, batch)
    assert not np.allclose(dropped, whole)
    np.testing.assert_array_equal(model.apply(variables, batch), narrow().apply(variables, batch))


def test_prelu_by_hand():
    x = jnp.array([[-2.0, 3.0], [4.0, -8.0]])
    params = {"params": {"slope": jnp.array([0.5, 0.1])}}
    np.testing.assert_allclose(PReLU().apply(params, x), [[-1.0, 3.0], [4.0, -0.8]])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"name": "resnet50"}, "resnet50"),
        ({"name": "iresnet18", "width": 0}, "model.width"),
        ({"name": "iresnet18", "embedding_size": -1}, "model.embedding_size"),
        ({"name": "iresnet18", "dropout": 1.0}, "model.dropout"),
    ],
)
def test_bad_settings_are_named(options, named):
    with pytest.raises(InputError, match=named):
        registry.create(**options)


def test_a_name_is_registered_once():
    with pytest.raises(InputError, match="iresnet18"):
        registry.register("iresnet18", narrow)
