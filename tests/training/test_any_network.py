"""A tiny network of every kind trained by the one step: Linen, NNX, Equinox, a plain function."""

import equinox
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from arcface_jax.losses import ArcFace
from arcface_jax.models.apply import linen_apply
from arcface_jax.training.state import initial_state
from arcface_jax.training.step import make_step

CLASSES, DIM, PIXELS = 4, 8, 4 * 4 * 3


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, images, train):
        x = nn.Dense(DIM)(images.reshape(len(images), -1))
        return nn.BatchNorm(use_running_average=not train)(x)


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(PIXELS, DIM, rngs=rngs)
        self.norm = nnx.BatchNorm(DIM, rngs=rngs)

    def __call__(self, images):
        return self.norm(self.dense(images.reshape(len(images), -1)))


class EquinoxNet(equinox.Module):
    dense: equinox.nn.Linear

    def __init__(self, key):
        self.dense = equinox.nn.Linear(PIXELS, DIM, key=key)

    def __call__(self, images):
        return jax.vmap(self.dense)(images.reshape(len(images), -1))


def linen():
    module = LinenNet()
    variables = module.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)), False)
    return linen_apply(module), variables


def nnx_net():
    graph, params, statistics = nnx.split(NnxNet(nnx.Rngs(0)), nnx.Param, ...)

    def apply(params, batch_stats, images):
        net = nnx.merge(graph, params, batch_stats, copy=True)
        embeddings = net(images)
        return embeddings, nnx.split(net, nnx.Param, ...)[2]

    return apply, {"params": params, "batch_stats": statistics}


def equinox_net():
    params, static = equinox.partition(EquinoxNet(jax.random.key(0)), equinox.is_array)

    def apply(params, batch_stats, images):
        return equinox.combine(params, static)(images), batch_stats

    return apply, {"params": params}


def function():
    kernel = 0.1 * jax.random.normal(jax.random.key(0), (PIXELS, DIM))

    def apply(params, batch_stats, images):
        return images.reshape(len(images), -1) @ params["kernel"], batch_stats

    return apply, {"params": {"kernel": kernel}}


@pytest.mark.parametrize("network", [linen, nnx_net, equinox_net, function])
def test_the_step_trains_it(network):
    apply, variables = network()
    optimiser, loss = optax.sgd(0.1, momentum=0.9), ArcFace(scale=8.0)
    state = initial_state(
        variables, loss, optimiser, jax.random.key(1), num_classes=CLASSES, embedding_size=DIM
    )
    step = jax.jit(make_step(apply, loss, optimiser))
    generator = np.random.default_rng(0)
    images, labels = generator.normal(size=(8, 4, 4, 3)).astype(np.float32), np.arange(8) % CLASSES
    losses = []
    for _ in range(30):
        state, metrics = step(state, jax.random.key(2), images, labels)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.5 * losses[0]
    assert float(metrics["accuracy"]) == 1.0
    if network in (linen, nnx_net):
        before = jax.tree.leaves(variables["batch_stats"])
        after = jax.tree.leaves(state.batch_stats)
        assert any(
            (np.asarray(a) != np.asarray(b)).any() for a, b in zip(after, before, strict=True)
        )


def test_a_network_that_asks_for_a_key_gets_a_new_one_at_every_step():
    _, variables = function()

    def noise(params, batch_stats, images, key):
        return jax.random.normal(key, (len(images), DIM)) + 0 * params["kernel"][0], batch_stats

    optimiser, loss = optax.sgd(0.0), ArcFace(scale=8.0)
    state = initial_state(
        variables, loss, optimiser, jax.random.key(1), num_classes=CLASSES, embedding_size=DIM
    )
    step = jax.jit(make_step(noise, loss, optimiser))
    images, labels, losses = np.zeros((8, 4, 4, 3), np.float32), np.arange(8) % CLASSES, []
    for _ in range(3):
        state, metrics = step(state, jax.random.key(2), images, labels)
        losses.append(float(metrics["loss"]))
    assert len(set(losses)) == 3
