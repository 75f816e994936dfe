"""Networks as a user writes them, one of each kind, for 4-pixel images or larger."""

import equinox
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


class LinenNet(nn.Module):
    embedding_size: int = 8

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.relu(nn.Conv(5, (2, 2), 2, name="zeroth")(images)).mean((1, 2))
        x = nn.Dropout(0.5, deterministic=not train)(x)
        x = nn.Dense(self.embedding_size, name="first")(x)
        return nn.BatchNorm(use_running_average=not train, use_scale=False)(x)


def trained_linen(embedding_size, key):
    module = LinenNet(embedding_size)
    return module, module.init(key, jnp.zeros((1, 4, 4, 3)))


class NnxNet(nnx.Module):
    def __init__(self, embedding_size=8, *, rngs):
        self.zeroth = nnx.Conv(3, 5, (2, 2), 2, rngs=rngs)
        self.first = nnx.List([nnx.Linear(5, embedding_size, rngs=rngs)])
        self.norm = nnx.BatchNorm(embedding_size, use_scale=False, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, images):
        x = self.dropout(nnx.relu(self.zeroth(images)).mean((1, 2)))
        return self.norm(self.first[0](x))


class EquinoxNet(equinox.Module):
    zeroth: equinox.nn.Conv2d
    first: equinox.nn.Linear
    norm: equinox.nn.BatchNorm
    dropout: equinox.nn.Dropout

    def __init__(self, embedding_size, *, key):
        one, two = jax.random.split(key)
        self.zeroth = equinox.nn.Conv2d(3, 5, 2, 2, key=one)
        self.first = equinox.nn.Linear(5, embedding_size, key=two)
        self.norm = equinox.nn.BatchNorm(embedding_size, "batch", mode="ema")
        self.dropout = equinox.nn.Dropout(0.5)

    def __call__(self, images, state, *, key):
        def embed(image, state, key):
            x = jax.nn.relu(self.zeroth(jnp.moveaxis(image, -1, 0))).mean((1, 2))
            return self.norm(self.first(self.dropout(x, key=key)), state)

        of_batch = jax.vmap(embed, (0, None, 0), (0, None), axis_name="batch")
        return of_batch(images, state, jax.random.split(key, len(images)))


def equinox_net(embedding_size, key):
    return equinox.nn.make_with_state(EquinoxNet)(embedding_size, key=key)


class PlainEquinoxNet(equinox.Module):
    first: equinox.nn.Linear

    def __init__(self, embedding_size=8, *, key):
        self.first = equinox.nn.Linear(3, embedding_size, key=key)

    def __call__(self, images):
        return jax.vmap(self.first)(images.mean((1, 2)))


def function_pair(embedding_size, key):
    def embed(params, images):
        return images.mean((1, 2)) @ params["kernel"] * params["gain"]

    kernel = jax.random.normal(key, (3, embedding_size), jnp.bfloat16)
    return embed, {"kernel": kernel, "gain": 2.0}


def function_with_statistics(embedding_size, key):
    def embed(params, statistics, images, train, key):
        x = images.mean((1, 2)) @ params["kernel"]
        x = jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x, 0) if train else x
        mean, count = statistics["mean"], statistics["count"]
        new = {"mean": 0.9 * mean + 0.1 * x.mean(0), "count": count + 1}
        return x - (x.mean(0) if train else mean), new

    kernel = np.asarray(jax.random.normal(key, (3, embedding_size)))
    return embed, {"kernel": kernel}, {"mean": np.zeros(embedding_size), "count": 0}
