import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.losses import margin_softmax_loss
from arcface_jax.models import registry
from arcface_jax.models.iresnet import IResNet
from arcface_jax.models.layers import FROZEN_SCALE, BatchNorm, PReLU, SqueezeExcite


def narrow(*, stages=4, **options):
    """One block a stage: everything but the depth."""
    return IResNet((1,) * stages, embedding_size=16, width=4, **options)


@functools.partial(jax.jit, static_argnums=0)
def train_mode(model, variables, images, **options):
    return model.apply(variables, images, True, mutable=["batch_stats"], **options)


@functools.partial(jax.jit, static_argnums=0)
def capture(model, variables, images):
    """The embeddings, and what every layer returned."""
    embeddings, state = model.apply(
        variables, images, capture_intermediates=True, mutable=["intermediates"]
    )
    return embeddings, state["intermediates"]


@functools.cache
def initial(model):
    images = np.zeros((1, 16, 16, 3), np.float32)
    return jax.device_get(jax.jit(model.init)(jax.random.key(0), images))


@pytest.fixture(scope="module")
def batch():
    return np.random.default_rng(1).normal(size=(32, 16, 16, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def variables():
    return initial(narrow())


@pytest.mark.parametrize("size", [16, 32, 33, 112])
def test_any_image_size(size):
    model = narrow()
    shape = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), jnp.zeros((2, size, size, 3)))[0]
    )
    assert shape.shape == (2, 16)


def test_embeddings_are_normalised_over_the_batch(batch, variables):
    embeddings = jax.device_get(train_mode(narrow(), variables, batch)[0])
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
    stem, after = jax.device_get((stem, after))
    np.testing.assert_allclose(
        after["mean"], 0.9 * before["mean"] + 0.1 * stem.mean((0, 1, 2)), atol=1e-6
    )
    np.testing.assert_allclose(
        after["var"], 0.9 * before["var"] + 0.1 * stem.var((0, 1, 2)), rtol=1e-4
    )


def test_frozen_scale_gets_no_gradient(batch, variables):
    def total(params):
        embeddings, _ = narrow().apply(
            {**variables, "params": params}, batch, True, mutable=["batch_stats"]
        )
        return jnp.sum(embeddings**3)

    gradients = jax.jit(jax.grad(total))(variables["params"])["features"]
    assert not np.any(gradients[FROZEN_SCALE])
    assert np.any(gradients["bias"])


def test_flattens_channel_first(batch, variables):
    """The dense layer's rows are in channel, height, width order, as in published weights."""
    _, seen = capture(narrow(), variables, batch)
    feature_map, dense = seen["bn2"]["__call__"][0], seen["fc"]["__call__"][0]
    by_hand = (
        np.transpose(feature_map, (0, 3, 1, 2)).reshape(32, -1)
        @ variables["params"]["fc"]["kernel"]
    )
    np.testing.assert_allclose(dense, by_hand, rtol=1e-5, atol=1e-5)


@pytest.mark.accelerator
def test_bfloat16_keeps_parameters_and_embedding_in_float32(batch, variables):
    model = narrow(dtype=jnp.bfloat16)
    own = jax.eval_shape(model.init, jax.random.key(0), batch)
    assert {leaf.dtype for leaf in jax.tree.leaves(own)} == {jnp.dtype("float32")}
    embeddings, exact = (
        jax.device_get(train_mode(network, variables, batch)[0]) for network in (model, narrow())
    )
    assert embeddings.dtype == jnp.float32
    cosine = (
        np.sum(embeddings * exact, -1)
        / np.linalg.norm(embeddings, axis=-1)
        / np.linalg.norm(exact, axis=-1)
    )
    assert cosine.min() > 0.99


@pytest.mark.accelerator
def test_a_step_in_bfloat16_is_close_to_float32s(batch, variables):
    """And batch statistics are summed in float32: of bfloat16 values with mean 100 they keep
    the variance.
    """
    weights = np.random.default_rng(2).normal(size=(8, 16)).astype(np.float32)

    def step(model):
        def loss(params):
            variables_now = {**variables, "params": params}
            embeddings, updates = model.apply(variables_now, batch, True, mutable=["batch_stats"])
            return jnp.mean(
                margin_softmax_loss(embeddings, weights, jnp.arange(32) % 8, scale=8.0)
            ), updates

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])

    (loss, updates), gradients = step(narrow(dtype=jnp.bfloat16))
    (exact_loss, exact_updates), exact_gradients = step(narrow())
    assert {leaf.dtype for leaf in jax.tree.leaves((loss, updates, gradients))} == {
        jnp.dtype("float32")
    }
    np.testing.assert_allclose(loss, exact_loss, rtol=0.01)
    for ours, exact in zip(jax.tree.leaves(updates), jax.tree.leaves(exact_updates), strict=True):
        np.testing.assert_allclose(ours, exact, atol=0.02)
    flat, exact = (
        np.concatenate([np.ravel(g) for g in jax.tree.leaves(t)])
        for t in (gradients, exact_gradients)
    )
    assert np.dot(flat, exact) / np.linalg.norm(flat) / np.linalg.norm(exact) > 0.98

    norm = BatchNorm(use_running_average=False, dtype=jnp.bfloat16)
    # bfloat16 holds 99 and 101 exactly, but no sum of 2,000 of them.
    values = np.tile(np.array([99.0, 101.0], jnp.bfloat16), 1000)[:, None]
    ones, zeros = np.ones(1, np.float32), np.zeros(1, np.float32)
    start = {
        "params": {"scale": ones, "bias": zeros},
        "batch_stats": {"mean": zeros, "var": zeros},
    }
    output, updates = jax.jit(lambda: norm.apply(start, values, mutable=["batch_stats"]))()
    assert output.dtype == jnp.bfloat16
    np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.1 * 100, rtol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["var"], 0.1 * 1, rtol=0.02)


def test_dropout_needs_its_key_and_acts_in_training_only(batch, variables):
    model = narrow(dropout=0.5)
    rngs = {"dropout": jax.random.key(3)}
    dropped, _ = train_mode(model, variables, batch, rngs=rngs)
    whole, _ = train_mode(narrow(), variables, batch)
    assert not np.allclose(dropped, whole)
    for_use = [jax.jit(network.apply)(variables, batch) for network in (model, narrow())]
    np.testing.assert_array_equal(*for_use)


@pytest.mark.parametrize("output", ["A", "B", "C", "D"])
def test_output_options_pool_before_the_embedding(batch, output):
    """Averages the closed trunk over the image, then FC, BN and PReLU as the option's letter
    says.
    """
    model = narrow(stages=2, output=output).clone(embedding_size=8 if output == "A" else 16)
    variables = initial(model)
    embeddings, seen = capture(model, variables, batch)
    params = variables["params"]
    expected = np.asarray(seen["prelu2"]["__call__"][0], np.float64).mean((1, 2))
    if output != "A":
        expected = expected @ np.asarray(params["fc"]["kernel"], np.float64) + params["fc"]["bias"]
    if output in "CD":
        expected /= np.sqrt(1 + 1e-5)  # the untrained running statistics: mean 0, variance 1
    if output == "D":
        expected = np.where(expected > 0, expected, 0.25 * expected)
    np.testing.assert_allclose(embeddings, expected, rtol=1e-4, atol=1e-5)


def test_option_a_has_the_last_stage_as_embedding():
    with pytest.raises(InputError, match=r"embedding_size: 16.* 32 channels"):
        jax.eval_shape(narrow(output="A").init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))


@pytest.mark.parametrize("options", [{"output": "F"}, {"stem": "conv5"}])
def test_unknown_options_are_named(options):
    with pytest.raises(InputError, match=next(iter(options.values()))):
        jax.eval_shape(narrow(**options).init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))


@pytest.mark.parametrize(("stem", "side"), [("conv3", 7), ("conv7", 4)])
def test_the_stem_sets_the_size_of_the_last_feature_map(stem, side):
    model = narrow(stem=stem)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 112, 112, 3))))
    assert shapes["params"]["fc"]["kernel"].shape == (side * side * 32, 16)


def test_a_subsampled_shortcut_keeps_every_second_pixel(batch):
    """With the residual branch set to zero the first block is its shortcut."""
    model = narrow(stages=2, shortcut="subsampled")
    variables = jax.tree.map(np.copy, initial(model))
    block = variables["params"]["layer1_0"]
    assert "downsample_conv" not in block
    assert "downsample_conv" in variables["params"]["layer2_0"]
    block["bn3"]["scale"] = np.zeros_like(block["bn3"]["scale"])
    _, seen = capture(model, variables, batch)
    np.testing.assert_array_equal(
        seen["layer1_0"]["__call__"][0], np.asarray(seen["prelu"]["__call__"][0])[:, ::2, ::2]
    )


def test_squeeze_and_excitation_by_hand():
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 3, 4, 8))
    down, up = random.normal(size=(8, 2)), random.normal(size=(2, 8))
    params = {"params": {"fc1": {"kernel": down[None, None]}, "fc2": {"kernel": up[None, None]}}}
    gain = 1 / (1 + np.exp(-np.maximum(x.mean((1, 2)) @ down, 0) @ up))
    result = SqueezeExcite(functools.partial(nn.Conv, use_bias=False), 4).apply(
        jax.tree.map(jnp.float32, params), jnp.float32(x)
    )
    np.testing.assert_allclose(result, x * gain[:, None, None], rtol=1e-5)


def test_prelu_by_hand():
    x = jnp.array([[-2.0, 3.0], [4.0, -8.0]])
    params = {"params": {"slope": jnp.array([0.5, 0.1])}}
    np.testing.assert_allclose(PReLU().apply(params, x), [[-1.0, 3.0], [4.0, -0.8]])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"name": "vgg16"}, "vgg16.*module:attribute"),
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
