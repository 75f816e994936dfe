"""Running variances and initial weights, against PyTorch's rules."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arcface_jax.models import cpu, registry
from arcface_jax.models.layers import BatchNorm, EmbeddingBatchNorm, times


def two_steps(norm, batches):
    """The running statistics after two batches."""
    stats = {"mean": jnp.zeros(3), "var": jnp.ones(3)}
    params = {"scale": jnp.ones(3), "bias": jnp.zeros(3)}
    for x in batches:
        with cpu.training_layers():
            _, updates = norm.apply(
                {"params": params, "batch_stats": stats}, x, mutable=["batch_stats"]
            )
        stats = updates["batch_stats"]
    return stats


@pytest.fixture
def batches():
    return np.random.default_rng(0).normal(1, 3, (2, 4, 2, 1, 3)).astype(np.float32)


def expected(batches, ddof):
    mean, variance = np.zeros(3), np.ones(3)
    for x in np.asarray(batches, np.float64):
        mean = 0.9 * mean + 0.1 * x.mean((0, 1, 2))
        variance = 0.9 * variance + 0.1 * x.var((0, 1, 2), ddof=ddof)
    return mean, variance


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize(("kind", "ddof"), [("biased", 0), ("unbiased", 1)])
def test_running_variances(batches, kind, ddof, alone, monkeypatch):
    """Eight values a channel, so that the two differ by a seventh; both ways to compute them."""
    monkeypatch.setattr(cpu, "one_cpu", lambda: alone)
    norm = BatchNorm(use_running_average=False, running_variance=kind)
    stats = jax.jit(lambda batches: two_steps(norm, batches))(batches)
    mean, variance = expected(batches, ddof)
    np.testing.assert_allclose(stats["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(stats["var"], variance, rtol=1e-5)


def test_the_unbiased_variance_is_pytorchs(batches):
    torch = pytest.importorskip("torch")
    norm = torch.nn.BatchNorm2d(3)
    for x in np.asarray(batches):
        norm(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    stats = two_steps(BatchNorm(use_running_average=False, running_variance="unbiased"), batches)
    np.testing.assert_allclose(stats["mean"], norm.running_mean.numpy(), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], norm.running_var.numpy(), rtol=1e-5)


def test_the_values_of_all_devices_count(batches):
    norm = BatchNorm(use_running_average=False, axis_name="data", running_variance="unbiased")
    split = batches.reshape(2, 2, 2, 2, 1, 3)  # [steps, devices, 2, 2, 1, 3]
    step = functools.partial(two_steps, norm)
    stats = jax.jit(jax.vmap(step, axis_name="data", in_axes=1))(split)
    for own in range(2):
        np.testing.assert_allclose(stats["var"][own], expected(batches, 1)[1], rtol=1e-5)


def test_unbiased_variances_leave_batches_initial_values_and_use_alone(batches):
    x = batches[0]
    plain, torch = (
        BatchNorm(use_running_average=False, running_variance=kind)
        for kind in ("biased", "unbiased")
    )
    one = EmbeddingBatchNorm(1e-5, running_variance="unbiased")

    @jax.jit
    def program(x):
        """Initial values, outputs in training and in use, of both; the one's statistics."""
        key, each = jax.random.key(0), []
        variables = plain.init(key, x)
        for norm in (plain, torch):
            output = norm.apply(variables, x, mutable=["batch_stats"])[0]
            used = norm.clone(use_running_average=True).apply(variables, x)
            each.append((norm.init(key, x), output, used))
        return each, one.init_with_output(key, jnp.ones((1, 3)), True)[1]["batch_stats"]

    both, statistics = program(x)
    jax.tree.map(np.testing.assert_array_equal, *both)
    assert np.all(np.isfinite(statistics["norm"]["var"]))


@pytest.mark.parametrize("name", ["iresnet18", "mobilefacenet", "mbf", "resnet20", "vit_t"])
def test_every_running_variance_of_a_backbone_is_unbiased(name):
    seen = []

    def watch(call, args, kwargs, context):
        if isinstance(context.module, nn.BatchNorm):
            seen.append(context.module.running_variance)
        return call(*args, **kwargs)

    network = registry.create(name, width=8, embedding_size=8, running_variance="unbiased")
    with nn.intercept_methods(watch):
        jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    assert set(seen) == {"unbiased"}


TORCH = {"initial_weights": "arcface_torch"}


def start(name, options=TORCH, width=16, **shallow):
    """The initial parameters of a registered network with fewer blocks."""
    network = registry.create(name, embedding_size=64, width=width, **options).clone(**shallow)
    return jax.jit(network.init)(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))["params"]


def test_an_iresnet_starts_as_in_arcface_torch():
    """Convolutions N(0, .1²); the dense layer and its bias uniform in ±1/√fan_in."""
    params = jax.device_get(start("iresnet18", width=32, stage_blocks=(1, 2)))
    kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 4]
    assert len(kernels) == 1 + 2 * 3 + 2
    for kernel in kernels:
        tolerance = 4 * 0.1 / np.sqrt(2 * kernel.size)
        assert abs(np.std(kernel) - 0.1) < tolerance
    fan_in = params["fc"]["kernel"].shape[0]
    for leaf in params["fc"].values():
        assert np.abs(leaf).max() == pytest.approx(fan_in**-0.5, rel=0.1)
        assert np.abs(leaf).max() <= fan_in**-0.5
    assert np.std(params["fc"]["kernel"]) == pytest.approx((3 * fan_in) ** -0.5, rel=0.02)
    np.testing.assert_array_equal(params["layer2_0"]["bn1"]["scale"], 1)
    np.testing.assert_array_equal(params["layer2_0"]["prelu"]["slope"], 0.25)


def test_the_mobile_network_of_arcface_torch_starts_as_hes():
    own, he = (start("mbf", options, blocks=(1, 0, 1, 0)) for options in (TORCH, {}))
    jax.tree.map(np.testing.assert_array_equal, own, he)


def test_a_vision_transformer_starts_as_in_arcface_torch():
    params = jax.device_get(start("vit_t", depth=1))
    bound = (3 * 9 * 9) ** -0.5
    for leaf in params["patch_embed"].values():
        assert 0.9 * bound < np.abs(leaf).max() <= bound
    kernel = params["blocks_0"]["fc1"]["kernel"]
    assert np.std(kernel) == pytest.approx(0.02, rel=0.03)
    assert np.abs(kernel).max() > 0.05  # not cut off at two standard deviations


@pytest.mark.parametrize("shape", [(4,), (1000, 1, 4)], ids=["of all", "of each image"])
def test_the_gradient_of_a_gain_is_summed_in_float32(shape):
    """A sum of 3,000 ones in bfloat16 would end at 256."""
    x = -jnp.ones((1000, 3, 4), jnp.bfloat16)
    gain = jnp.full(shape, 0.25, jnp.float32)
    result, pull_back = jax.vjp(times, x, gain)
    to_x, to_gain = pull_back(jnp.ones_like(result))
    assert (result.dtype, to_x.dtype, to_gain.dtype) == (x.dtype, x.dtype, gain.dtype)
    np.testing.assert_array_equal(result, -0.25)
    np.testing.assert_array_equal(to_x, 0.25)
    np.testing.assert_array_equal(to_gain, np.full(shape, -3000 if len(shape) == 1 else -3))
