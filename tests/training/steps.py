"""A network of four thousand multiplications and its training step, for tests."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from arcface_jax.data.augment import Augmentation, augment
from arcface_jax.heads import unshard_classes
from arcface_jax.losses import ArcFace
from arcface_jax.models.apply import linen_apply
from arcface_jax.models.layers import EmbeddingBatchNorm
from arcface_jax.pixels import ARCFACE_TORCH, normalise
from arcface_jax.training.config import HeadConfig
from arcface_jax.training.schedules import sgd
from arcface_jax.training.sharding import Placement
from arcface_jax.training.state import DATA_AXIS, initial_state
from arcface_jax.training.step import make_step

CLASSES, SIZE, BATCH, RATE = 67, 6, 16, 0.05  # no number of devices divides the classes
SCHEDULE = optax.constant_schedule(RATE)
DENSE, CHUNKED = HeadConfig(), HeadConfig("chunked", chunk=4)
SHARDED = HeadConfig("sharded", chunk=4)
MIRRORED = Augmentation()
KEY = jax.random.key(5)
ARCFACE = ArcFace(scale=16.0)


class Small(nn.Module):
    """A convolution, a dense layer and a batch normalisation."""

    axis_name: str | None = None
    statistics: bool = True

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.relu(nn.Conv(4, (3, 3), name="conv")(images))
        x = nn.Dense(8, name="fc")(x.reshape(x.shape[0], -1))
        if not self.statistics:
            return x
        return EmbeddingBatchNorm(1e-5, self.axis_name, name="features")(x, train)


def batches(count=3):
    random = np.random.default_rng(0)
    for _ in range(count):
        images = random.integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8)
        yield images, random.integers(0, CLASSES, BATCH).astype(np.int32)


@functools.cache
def variables(statistics):
    init = jax.jit(Small(None, statistics).init)
    return jax.device_get(init(jax.random.key(0), np.zeros((1, SIZE, SIZE, 3), np.float32)))


plain_sgd = functools.cache(sgd)


@functools.cache
def build(
    loss=ARCFACE,
    head=DENSE,
    devices=1,
    pmap=False,
    *,
    statistics=True,
    local=False,
    optimiser=None,
    average=False,
    augmentation=None,
    schedule=SCHEDULE,
    **options,
):
    """(placement, pure step, state in NumPy); the same ones for the same arguments."""
    split = head.kind == "sharded"
    placement = Placement(tuple(jax.devices()[:devices]), split)
    backbone = Small(DATA_AXIS if pmap and not local else None, statistics)
    optimiser = optimiser or plain_sgd(schedule)

    def prepare(images, keys):
        return normalise(
            augment(images, keys, augmentation) if augmentation else images, ARCFACE_TORCH
        )

    step = make_step(
        linen_apply(backbone, train=not options.get("frozen", False)),
        loss,
        optimiser,
        head=head,
        prepare=prepare,
        schedule=schedule,
        num_classes=CLASSES,
        total_steps=4,
        axis_name=DATA_AXIS if pmap else None,
        mesh=placement.mesh if split and not pmap else None,
        **options,
    )
    return placement, step, initial(loss, head, placement, optimiser, average, statistics)


@functools.cache
def initial(loss, head, placement, optimiser, average, statistics):
    backbone = variables(statistics)

    def make():
        return initial_state(
            backbone,
            loss,
            optimiser,
            jax.random.key(1),
            num_classes=CLASSES,
            embedding_size=8,
            head=head,
            shards=len(placement.devices) if placement.split_classes else 1,
            average=average,
        )

    return jax.device_get(placement.create(make) if placement.split_classes else make())


def program(*arguments, **options):
    """(step as a run compiles it, once for the same arguments; state in NumPy)."""
    placement, step, state = build(*arguments, **options)
    pmap = options.get("pmap", False) or arguments[3:4] == (True,)
    return placement.compile(step, pmap=pmap), state


def train(*arguments, steps=3, **options):
    """Some steps: (loss, gradient norm and bad steps of each, last state, class weights [C, …])."""
    placement = build(*arguments, **options)[0]
    (step, state), seen = program(*arguments, **options), []
    state = placement.place(state)
    for images, labels in batches(steps):
        state, metrics = step(state, KEY, images, labels)
        seen.append([float(metrics[name]) for name in ("loss", "gradient_norm", "bad_steps")])
    state = jax.device_get(state)
    weights = state.class_weights
    if weights is not None and placement.split_classes:
        shards = jnp.asarray(weights).reshape(len(placement.devices), -1, *weights.shape[1:])
        weights = unshard_classes(shards, CLASSES)
    return np.array(seen), state, None if weights is None else np.asarray(weights, np.float32)


def assert_same(found, expected, *, same_norm=True):
    """Losses, and what the steps made of backbone and class weights."""
    columns = slice(None) if same_norm else [0, 2]
    np.testing.assert_allclose(found[0][:, columns], expected[0][:, columns], rtol=3e-5)
    first, second = found[1].params["backbone"], expected[1].params["backbone"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5), first, second)
    if expected[2] is not None:
        np.testing.assert_allclose(found[2], expected[2], rtol=1e-3, atol=1e-5)
