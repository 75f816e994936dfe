"""What a step needs and how long it should take, by hand."""

import flax.linen as nn
import jax.numpy as jnp
import pytest

from arcface_jax.models.layers import BatchNorm
from arcface_jax.models.vit import Attention
from arcface_jax.training.step_time import Accelerator, Needs, needs, step_time


class Convolution(nn.Module):
    """To four channels of bf16, then normalised."""

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Conv(4, (3, 3), use_bias=False, dtype=jnp.bfloat16)(images)
        return BatchNorm(use_running_average=not train, dtype=jnp.bfloat16)(x)


class Tokens(nn.Module):
    """Pixels as tokens of 3 numbers that attend to each other in 3 heads."""

    @nn.compact
    def __call__(self, images, train=False):
        return Attention(nn.Dense, 3)(images.reshape(len(images), -1, 3))


def test_a_convolution_and_a_normalisation_by_hand():
    found, pixels = needs(Convolution(), 16), 16 * 16
    assert found.operations == 2 * pixels * 4 * 27  # the padding's zeros too
    # Three products of the map of 3 channels, that of 4 and 108 weights, in bf16; eight times over
    # the map of 4 channels.
    assert found.image_bytes == 3 * 2 * pixels * (3 + 4) + 8 * 2 * pixels * 4
    assert found.weight_bytes == 3 * 2 * 108
    assert (found.parameters, found.norms) == (108 + 8, 1)


def test_attention_by_hand():
    found, tokens = needs(Tokens(), 4), 16
    by_weights = 2 * tokens * 3 * (9 + 3)
    by_tokens = 2 * 2 * tokens * tokens * 3
    assert found.operations == by_weights + by_tokens
    assert found.weight_bytes == 3 * 4 * (27 + 9)
    maps = tokens * (3 + 9 + 3 + 3) + (2 * tokens * 3 + 3 * tokens**2) * 2
    assert found.image_bytes == 3 * 4 * maps


NEED = Needs(operations=1e9, image_bytes=1e6, weight_bytes=1e5, parameters=1_000_000, norms=10)
DEVICE = Accelerator(products=1e12, memory=1e11, link=1e9, network=1e8, node=4, small=1e-6)


def test_the_time_of_a_step_by_hand():
    time = step_time(NEED, DEVICE, classes=1000, batch=80, devices=4, dim=10)
    # Three times forward of 20 images, and four products of 80 × 10 by 250 classes.
    assert time.products == pytest.approx((3 * 20 * 1e9 + 4 * 2 * 80 * 10 * 250) / 1e12)
    head = 250 * (20 * 10 + 22 * 80)
    assert time.memory == pytest.approx((20 * 1e6 + 1e5 + 24e6 + head) / 1e11)
    assert time.links == pytest.approx(2 * 0.75 * (4e6 + 4 * 80 * 10) / 1e9)
    assert time.small == pytest.approx(20e-6)
    assert time.at_once == pytest.approx(time.products)
    assert time.in_turn == pytest.approx(sum((time.products, time.memory, time.links, 20e-6)))


def test_one_device_sends_nothing_and_other_nodes_get_a_share():
    alone = step_time(NEED, DEVICE, classes=1000, batch=80, devices=1)
    assert (alone.links, alone.small) == (0.0, 0.0)
    own = step_time(NEED, DEVICE, classes=1000, batch=80, devices=8, dim=10, statistics=False)
    assert own.small == 0.0
    # A ring within each node of four, and one of two nodes for each device's quarter.
    size = 4e6 + 4 * 80 * 10
    assert own.links == pytest.approx(2 * size * (0.75 / 1e9 + 0.5 / 4 / 1e8))
