"""What training on a single CPU device computes in its own way, against the standard operations
and NumPy.
"""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from arcface_jax.models import cpu
from arcface_jax.models.iresnet import IResNet
from arcface_jax.models.mobilefacenet import Bottlenecks, MobileFaceNet
from arcface_jax.models.resnet import ResNet


@pytest.fixture
def alone(monkeypatch):
    """The tests simulate several devices; these are about one."""
    monkeypatch.setattr(cpu, "one_cpu", lambda: True)


def train(model, variables, images):
    with cpu.training_layers():
        return model.apply(variables, images, True, mutable=["batch_stats"])


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def standard(x, kernel, stride):
    padding = ((kernel.shape[0] // 2,) * 2,) * 2
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


# Every form: 1×1, a map smaller than the kernel, stride 2 on even and odd maps, and what stays as
# it is.
@pytest.mark.parametrize("shape", [(3, 8, 6, 4), (5, 2, 2, 3), (2, 7, 9, 3), (2, 4, 4, 2)])
def test_convolutions_and_their_gradients_are_the_standard_ones(shape):
    cases = [*itertools.product((1, 3, 5), (1, 2))]
    x, kernels = normal(*shape), {k: normal(k, k, shape[-1], 5, seed=1) for k in (1, 3, 5)}
    gradients = {  # of an output, by stride
        stride: normal(shape[0], *(-(-side // stride) for side in shape[1:3]), 5, seed=2)
        for stride in (1, 2)
    }

    @functools.partial(jax.jit, static_argnums=0)
    def all_cases(function, x, kernels, gradients):
        results = []
        for size, stride in cases:
            form = functools.partial(function, stride=stride)
            output, pullback = jax.vjp(form, x, kernels[size])
            results.append((output, *pullback(gradients[stride])))
        return results

    ours, theirs = (
        all_cases(form, x, kernels, gradients) for form in (cpu.cpu_convolution, standard)
    )
    for case, *both in zip(cases, ours, theirs, strict=True):
        for own, expected in zip(*both, strict=True):
            np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-4, err_msg=str(case))


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "padding"),
    [
        ((8, 6), (3, 3), (1, 1), ((1, 1), (1, 1))),
        ((8, 6), (3, 3), (2, 2), ((1, 1), (1, 1))),
        ((7, 9), (3, 3), (2, 2), ((1, 1), (1, 1))),
        ((5, 6), (3, 2), (2, 1), ((2, 0), (3, 1))),
        ((5, 6), (1, 1), (3, 2), ((0, 0), (0, 0))),
        ((4, 3), (4, 3), (1, 1), ((0, 0), (0, 0))),  # over the whole image
    ],
)
@pytest.mark.parametrize("images_at_once", [10**9, 1])
def test_depthwise_convolutions_and_their_gradients(
    monkeypatch, side, kernel, stride, padding, images_at_once
):
    """Against NumPy, in float64: y is linear in x and in w, so that both gradients are sums."""
    monkeypatch.setattr(cpu, "CACHE_BYTES", images_at_once)
    x, w = normal(3, *side, 2), normal(*kernel, 1, 2, seed=1)
    padded = np.pad(x.astype(np.float64), ((0, 0), *padding, (0, 0)))
    places = [(padded.shape[axis + 1] - kernel[axis]) // stride[axis] + 1 for axis in (0, 1)]
    gradient = normal(3, *places, 2, seed=2)
    y, to_padded, to_w = np.zeros(gradient.shape), np.zeros(padded.shape), np.zeros(w.shape)
    for i, j, a, b in itertools.product(*map(range, (*places, *kernel))):
        row, column = i * stride[0] + a, j * stride[1] + b
        y[:, i, j] += padded[:, row, column] * w[a, b, 0]
        to_padded[:, row, column] += gradient[:, i, j] * w[a, b, 0]
        to_w[a, b, 0] += (gradient[:, i, j] * padded[:, row, column]).sum(0)
    (top, _), (left, _) = padding
    to_x = to_padded[:, top : top + side[0], left : left + side[1]]

    def ours(x, w, gradient):
        output, pullback = jax.vjp(
            lambda x, w: cpu.depthwise_convolution(x, w, stride, padding), x, w
        )
        return output, *pullback(gradient)

    for own, expected in zip(jax.jit(ours)(x, w, gradient), (y, to_x, to_w), strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", [(3, 3), (8, 8)])
def test_a_depthwise_step_has_no_convolution(alone, kernel):
    """XLA's gradients of one are convolutions in loops, which take minutes where these take
    seconds.
    """
    padding = ((1, 1), (1, 1)) if kernel == (3, 3) else ((0, 0), (0, 0))

    def total(x, w):
        return cpu.convolve(x, w, (1, 1), padding, feature_group_count=4).sum()

    program = jax.make_jaxpr(jax.grad(total, (0, 1)))(normal(2, 8, 8, 4), normal(*kernel, 1, 4))
    assert "conv_general_dilated" not in str(program)


@pytest.mark.parametrize(
    "options",
    [
        {"feature_group_count": 4},
        {"padding": ((0, 0), (0, 0))},
        {"window_strides": (2, 1)},
        {"dtype": jnp.bfloat16},
    ],
)
def test_other_convolutions_stay_as_they_are(alone, options):
    options = {
        "window_strides": (2, 2),
        "padding": ((1, 1), (1, 1)),
        "dtype": jnp.float32,
    } | options
    dtype = options.pop("dtype")
    groups = options.get("feature_group_count", 1)
    x, kernel = normal(2, 8, 8, 4).astype(dtype), normal(3, 3, 4 // groups, 8).astype(dtype)
    names = ("NHWC", "HWIO", "NHWC")
    ours, theirs = (
        str(
            jax.make_jaxpr(lambda x, k, f=f: f(x, k, dimension_numbers=names, **options))(x, kernel)
        )
        for f in (cpu.convolve, jax.lax.conv_general_dilated)
    )
    assert ours == theirs


def test_several_devices_keep_the_standard_step():
    """The choice is for one CPU device: elsewhere the traced program has no derivative written
    by hand.
    """
    assert jax.device_count() > 1
    model = IResNet((1, 1), embedding_size=8, width=4)
    variables = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
    images = np.zeros((4, 8, 8, 3), np.float32)
    program = jax.make_jaxpr(lambda variables, images: train(model, variables, images))
    assert "custom_vjp" not in str(program(variables, images))


def test_evaluation_keeps_the_standard_operations(alone):
    model = IResNet((1, 1), embedding_size=8, width=4)
    variables = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
    images = np.zeros((4, 8, 8, 3), np.float32)
    assert "custom_vjp" not in str(jax.make_jaxpr(model.apply)(variables, images))
    program = jax.make_jaxpr(lambda variables, images: train(model, variables, images))
    assert "custom_vjp" in str(program(variables, images))


# Batch normalisation
# ----------------------------------------------------------------------------------------


def by_hand(x, scale, bias, slope, epsilon=1e-5):
    x = np.asarray(x, np.float64)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    y = (x - mean) / np.sqrt(variance + epsilon) * scale + bias
    return (y if slope is None else np.where(y >= 0, y, y * slope)), mean, variance


@pytest.mark.parametrize("slope", [None, np.float32([0.25, -0.5, 1.5])])
def test_batch_normalisation_by_hand(slope):
    x, scale, bias = (
        2 * normal(5, 3, 4, 3) + 1,
        np.float32([1.0, -2.0, 0.5]),
        np.float32([0.3, 0.0, -1.0]),
    )
    result = jax.jit(cpu.normalise_batch)(x, scale, bias, slope, np.float32(1e-5))
    for ours, expected in zip(result, by_hand(x, scale, bias, slope), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cache", [1, 2**30])
@pytest.mark.parametrize("slope", [None, np.float32([0.25, -0.5])])
def test_the_gradient_of_batch_normalisation(slope, cache, monkeypatch):
    """Against finite differences; in parts of one image (cache 1), and all at once."""
    monkeypatch.setattr(cpu, "CACHE_BYTES", cache)
    x, weights = normal(3, 2, 2, 2), normal(3, 2, 2, 2, seed=1)

    def total(x, scale, bias, *slope):
        result = cpu.normalise_batch(x, scale, bias, slope[0] if slope else None, 1e-5)
        return (
            jnp.sum(result.output * weights) + jnp.sum(result.mean**2) + jnp.sum(result.variance**2)
        )

    arguments = (
        x,
        np.float32([1.5, -0.5]),
        np.float32([0.1, 0.2]),
        *(() if slope is None else (slope,)),
    )
    check_grads(jax.jit(total), arguments, 1, modes=["rev"], rtol=2e-2, atol=2e-2)


def test_the_parts_may_leave_a_rest(monkeypatch):
    """Seven images, two at a time."""
    x, gradient, ones = normal(7, 2, 2, 4), normal(7, 2, 2, 4, seed=1), np.ones(4, np.float32)

    def gradients():
        _, pullback = jax.vjp(
            lambda x, scale, bias, slope: cpu.normalise_batch(x, scale, bias, slope, 1e-5).output,
            *(x, ones, 0.1 * ones, 0.25 * ones),
        )
        return pullback(gradient)

    whole = jax.jit(gradients)()
    monkeypatch.setattr(cpu, "CACHE_BYTES", 4 * 2 * x[0].size * 2)
    # A function traced before is not traced again, so these are new ones.
    assert "length=3" in str(jax.make_jaxpr(lambda: gradients())())
    for ours, expected in zip(jax.jit(lambda: gradients())(), whole, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


# Whole networks
# ----------------------------------------------------------------------------------------

NETWORKS = {
    "iresnet": IResNet((1, 1), embedding_size=8, width=4),
    "iresnet as in PyTorch": IResNet(
        (1, 1), 8, 4, running_variance="unbiased", initial_weights="arcface_torch", remat=True
    ),
    "iresnet variant": IResNet(
        (1, 1),
        embedding_size=8,
        width=16,
        squeeze=16,
        shortcut="subsampled",
        inner_norm=False,
        output="C",
    ),
    "resnet": ResNet(1, embedding_size=8, width=16),
    "mobilefacenet": MobileFaceNet(8, width=8, bottlenecks=(Bottlenecks(2, 64, 2, 2),)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_training_step_is_the_standard_one(name, monkeypatch):
    """Same parameter tree, loss, gradients and running statistics, whichever way it is computed."""
    model, images = NETWORKS[name], normal(6, 16, 16, 3)
    variables = jax.jit(model.init)(jax.random.key(0), images)

    def loss(params):
        variables_now = {**variables, "params": params}
        embeddings, updates = train(model, variables_now, images)
        return jnp.sum(jnp.tanh(embeddings) ** 3), updates

    results = []
    for alone in (False, True):
        monkeypatch.setattr(cpu, "one_cpu", lambda alone=alone: alone)
        with cpu.training_layers():
            own = jax.eval_shape(lambda: model.init(jax.random.key(0), images, True))
        assert jax.tree.structure(own) == jax.tree.structure(variables)
        # A function traced before is not traced again, so this is a new one.
        program = jax.jit(lambda params: loss(params))
        assert ("custom_vjp" in str(jax.make_jaxpr(program)(variables["params"]))) == alone
        results.append(jax.jit(jax.value_and_grad(program, has_aux=True))(variables["params"]))
    for ours, expected in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(
            ours, expected, rtol=1e-3, atol=2e-4 * (1 + np.abs(expected).max())
        )


@pytest.mark.parametrize(("size", "stride", "side"), [(3, 1, 8), (3, 2, 8), (3, 2, 9), (5, 2, 8)])
def test_gradients_are_convolutions_in_one_order_of_dimensions(size, stride, side):
    """The one that XLA's CPU compiler is fast at within a loop, too; the standard gradients
    have others.
    """
    x, kernel = normal(2, side, side, 3), normal(size, size, 3, 4, seed=1)

    def orders(function):
        gradients = jax.grad(
            lambda x, kernel: jnp.sum(function(x, kernel, stride) ** 2), argnums=(0, 1)
        )
        return set(
            re.findall(
                r"dim_numbers = (\[.*?\]x\[.*?\]->\[.*?\])",
                jax.jit(gradients).lower(x, kernel).as_text(),
            )
        )

    assert orders(cpu.cpu_convolution) == {"[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"}
    assert len(orders(standard)) == 3
