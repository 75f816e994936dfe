"""Depthwise convolutions as shifted sums: the same numbers, by sums only on CPUs."""

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface_jax.models.depthwise import ShiftedDepthwise, shifted_sum
from arcface_jax.models.mobilefacenet import Bottlenecks, MobileFaceNet

SIDES = st.tuples(st.integers(0, 2), st.integers(0, 2))


@settings(max_examples=8)
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(SIDES, SIDES),
    seed=st.integers(0, 99),
)
def test_is_the_depthwise_convolution(kernel, stride, padding, seed):
    random = np.random.default_rng(seed)
    x, w = random.normal(size=(2, 6, 5, 3)), random.normal(size=(*kernel, 1, 3))
    padded = np.pad(x, ((0, 0), *padding, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, (1, 2))[
        :, :: stride[0], :: stride[1]
    ]
    expected = np.einsum("nijcab,abc->nijc", windows, w[:, :, 0])
    y = jax.jit(lambda x, w: shifted_sum(x, w, stride, padding))(
        x.astype(np.float32), w.astype(np.float32)
    )
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.fixture(scope="module")
def network():
    """(MobileFaceNet with strides 1 and 2, variables away from their initial values, images)."""
    backbone = MobileFaceNet(6, 8, bottlenecks=(Bottlenecks(2, 64, 2, 2),))
    random = np.random.default_rng(0)
    images = random.normal(size=(2, 32, 24, 3)).astype(np.float32)
    shapes = jax.eval_shape(backbone.init, jax.random.key(0), images)
    return (
        backbone,
        jax.tree.map(lambda leaf: random.uniform(0.1, 0.5, leaf.shape).astype(np.float32), shapes),
        images,
    )


def test_a_backbone_computes_the_same(network):
    backbone, variables, images = network
    networks = (ShiftedDepthwise(backbone), backbone)
    embeddings, expected = (jax.jit(network.apply)(variables, images) for network in networks)
    assert np.abs(embeddings - expected).max() <= 1e-5 * np.abs(expected).max()


def grouped_convolutions(text):
    groups = [
        line.split("feature_group_count = ")[1].split()[0]
        for line in text.splitlines()
        if "convolution(" in line
    ]
    return [group for group in groups if group != "1"]


def test_only_the_program_for_cpus_has_sums(network):
    """The convolution over the whole feature map, linear7, stays one everywhere."""
    backbone, variables, images = network
    function = jax.jit(ShiftedDepthwise(backbone).apply)
    exported = {
        name: jax.export.export(function, platforms=[name])(variables, images)
        for name in ("cpu", "tpu")
    }
    assert len(grouped_convolutions(exported["cpu"].mlir_module())) == 1
    assert len(grouped_convolutions(exported["tpu"].mlir_module())) == 1 + 1 + 2


@pytest.mark.parametrize(
    "options",
    [
        {"feature_group_count": 2},
        {"feature_group_count": 4, "padding": "SAME"},
        {"feature_group_count": 4, "kernel_dilation": 2},
        {"feature_group_count": 4, "use_bias": True},
    ],
)
def test_other_convolutions_are_left_alone(options):
    class One(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return nn.Conv(4, (3, 3), **{"padding": 1, "use_bias": False, **options})(x)

    x = jnp.zeros((1, 5, 5, 4))
    variables = jax.eval_shape(One().init, jax.random.key(1), x)
    programs = [
        str(jax.make_jaxpr(network.apply)(variables, x))
        for network in (ShiftedDepthwise(One()), One())
    ]
    assert programs[0] == programs[1]
    assert "conv_general_dilated" in programs[0]
