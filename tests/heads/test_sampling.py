"""Partial FC and hard classes: what is sampled, what that makes of the loss and of the update."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings

from arcface_jax.errors import InputError
from arcface_jax.heads.fused import HeadState, RowSgd, fused_head_step, init_head
from arcface_jax.heads.sampling import (
    ClassSample,
    hard_classes,
    partition_recall,
    sample_classes,
)
from arcface_jax.heads.shards import shard_sizes
from arcface_jax.losses import margin_softmax_loss
from arcface_jax.margins import cm2
from tests import in_numpy

SGD = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.1, momentum=0.9))


@functools.partial(jax.jit, static_argnums=(2, 3))
def draw(key, labels, num_classes, rate):
    return sample_classes(key, labels, num_classes=num_classes, rate=rate)


@functools.partial(jax.jit, static_argnums=(2, 3))
def draw_on_devices(key, labels, num_classes, rate):
    one = functools.partial(sample_classes, num_classes=num_classes, rate=rate, axis_name="classes")
    return jax.vmap(one, in_axes=(None, 0), axis_name="classes")(key, labels)


@settings(max_examples=15)
@given(st.integers(0, 2**31), st.sampled_from([0.05, 0.3, 1.0]), st.integers(1, 101))
def test_the_rules_of_partial_fc(seed, rate, different):
    """On five devices: rows ascending, the batch's own kept, the rate exact, no row twice, no
    padding.
    """
    generator = np.random.default_rng(seed)
    labels = generator.choice(101, different, replace=False)[
        generator.integers(0, different, (5, 4))
    ]
    labels[0, 0] = -1
    rows, active = map(np.asarray, draw_on_devices(jax.random.key(seed), labels, 101, rate))
    first = 0
    for shard, size in enumerate(shard_sizes(101, 5)):
        own = np.unique(labels[(labels >= first) & (labels < first + size)]) - first
        assert active[shard] == max(int(rate * size), len(own))
        kept = rows[shard, : active[shard]]
        assert (np.diff(kept) > 0).all()
        assert kept[-1] < size if active[shard] else True
        assert set(own) <= set(kept)
        assert (rows[shard, active[shard] :] == 21).all()
        first += size


def test_the_sample_is_uniform_and_follows_its_key():
    labels = jnp.asarray([3, 3, -1, 40])
    again = [draw(jax.random.key(7), labels, 53, 0.2) for _ in range(2)]
    np.testing.assert_array_equal(again[0].rows, again[1].rows)
    keys = jax.random.split(jax.random.key(0), 3000)
    rows = jax.jit(
        jax.vmap(lambda key: sample_classes(key, labels, num_classes=53, rate=0.2).rows)
    )(keys)
    drawn = np.bincount(np.asarray(rows).ravel(), minlength=54)
    assert drawn[3] == drawn[40] == 3000
    assert drawn[53] == 0
    expected = 3000 * 8 / 51  # ten places, two of them taken
    others = np.delete(drawn[:53], [3, 40])
    assert np.abs(others - expected).max() < 5 * np.sqrt(expected)


@pytest.mark.parametrize("update_unsampled", [True, False], ids=["V2", "V1"])
@pytest.mark.parametrize("centres", [1, 3])
def test_momentum_of_rows_outside_the_sample(problem, update_unsampled, centres):
    """Four steps with four samples against optax on all rows (V2), and on the sampled rows and
    their momentum (V1).
    """
    embeddings, tables, labels, _ = problem
    with jax.enable_x64(True):
        state = init_head(tables[centres], RowSgd(), dtype=jnp.float64)
        options = {"psi": cm2(), "scale": 16.0, "label_smoothing": 0.1, "chunk": 6}
        step = jax.jit(
            functools.partial(fused_head_step, update_unsampled=update_unsampled, **options)
        )

        def mean(w, sample):
            return margin_softmax_loss(embeddings, w, labels, sample=sample, **options).mean()

        gradient = jax.jit(jax.value_and_grad(mean))
        weights, velocity = tables[centres].copy(), np.zeros_like(tables[centres])
        for number in range(4):
            sample = draw(jax.random.key(number), labels, 53, 0.3)
            rows = np.asarray(sample.rows)[: int(sample.active)]
            loss, of_w = jax.device_get(gradient(weights, sample))
            moved_velocity = 0.9 * velocity + of_w + 5e-4 * weights
            moved = weights - 0.1 * moved_velocity
            if update_unsampled:
                rows = slice(None)
            weights[rows], velocity[rows] = moved[rows], moved_velocity[rows]
            state, losses, *_ = step(state, embeddings, labels, 0.1, sample=sample)
            np.testing.assert_allclose(np.mean(losses), loss, rtol=1e-12)
        np.testing.assert_allclose(state.weights, weights, atol=1e-12)
        np.testing.assert_allclose(state.slots[0], velocity, atol=1e-12)


@pytest.mark.parametrize("update_unsampled", [True, False], ids=["V2", "V1"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_sampled_step_copies_the_sample_alone(update_unsampled, dtype):
    classes, dim, rate = 2**16, 32, 1 / 16

    def step(state, e, y, key):
        sample = sample_classes(key, y, num_classes=classes, rate=rate)
        return fused_head_step(
            state, e, y, 0.1, sample=sample, update_unsampled=update_unsampled, chunk=512
        )

    weights = jax.ShapeDtypeStruct((classes, dim), jnp.float32)
    state = jax.eval_shape(functools.partial(init_head, optimiser=RowSgd(), dtype=dtype), weights)
    batch = jax.ShapeDtypeStruct((16, dim), jnp.float32), jax.ShapeDtypeStruct((16,), jnp.int32)
    memory = (
        jax.jit(step, donate_argnums=0)
        .lower(state, *batch, jax.random.key(0))
        .compile()
        .memory_analysis()
    )
    each = jnp.dtype(state.weights.dtype).itemsize
    assert memory.alias_size_in_bytes == 2 * classes * dim * each + 4
    numbers_to_draw_by = 16 * classes
    assert (
        memory.temp_size_in_bytes
        < numbers_to_draw_by + 4 * classes * dim * each * rate + 24 * 512 * (dim + 16) * 4
    )


def test_v2_is_any_optimiser_on_the_sampled_loss(problem):
    """The fused V2 step against optax, which knows nothing of samples."""
    embeddings, tables, labels, _ = problem
    with jax.enable_x64(True):
        weights = jnp.asarray(tables[1])
        state, plain = init_head(weights, RowSgd(), dtype=jnp.float64), SGD.init(weights)
        step = jax.jit(functools.partial(fused_head_step, chunk=9))

        def mean(w, sample):
            return margin_softmax_loss(embeddings, w, labels, sample=sample, chunk=9).mean()

        @jax.jit
        def plain_step(weights, plain, sample):
            updates, plain = SGD.update(jax.grad(mean)(weights, sample), plain, weights)
            return optax.apply_updates(weights, updates), plain

        for number in range(3):
            sample = draw(jax.random.key(number), labels, 53, 0.3)
            weights, plain = plain_step(weights, plain, sample)
            state, *_ = step(state, embeddings, labels, 0.1, sample=sample)
        np.testing.assert_allclose(state.weights, weights, atol=1e-12)


@pytest.mark.parametrize(
    "mapped", ["shard_map", pytest.param("vmap", marks=pytest.mark.slow)], indirect=True
)
def test_sampled_on_four_devices(problem, mapped):
    """A sample of each shard is a sample of the whole; the step over it is the one-device step
    over that.
    """
    embeddings, tables, labels, _ = problem
    axis = {"axis_name": "classes", "num_classes": 53}

    def on_device(weights, velocity, e, y):
        sample = sample_classes(jax.random.key(5), y, rate=0.4, **axis)
        state = HeadState(weights, (velocity,), jnp.zeros((), jnp.int32))
        state, loss, of_e, cosine, hit = fused_head_step(
            state, e, y, 0.1, scale=16.0, sample=sample, chunk=3, **axis
        )
        plain = margin_softmax_loss(
            e, weights, y, sample=sample, scale=16.0, chunk=4, with_cosines=True, **axis
        )
        return state.weights, (loss, of_e, cosine, hit), plain, sample.rows, sample.active[None]

    with jax.enable_x64(True):
        shards = in_numpy.shard(tables[1], 4)
        weights = shards.reshape(-1, 8)
        run = mapped(on_device, 4)
        moved, seen, plain, rows, active = run(weights, np.zeros_like(weights), embeddings, labels)
        firsts = np.cumsum([0, *shard_sizes(53, 4)])
        kept = [
            r[:n] + first
            for r, n, first in zip(np.reshape(rows, (4, -1)), active, firsts, strict=False)
        ]
        every = np.concatenate(kept)
        whole = ClassSample(every.astype(np.int32), np.asarray(len(every)))
        state = init_head(tables[1], RowSgd(), dtype=jnp.float64)
        step = jax.jit(functools.partial(fused_head_step, scale=16.0, chunk=60))
        state, *wanted = step(state, embeddings, labels, 0.1, sample=whole)
        for found, expected in zip(
            (*seen, *plain), (*wanted, *wanted[:1], *wanted[2:]), strict=True
        ):
            np.testing.assert_allclose(found, expected, atol=1e-12)
        np.testing.assert_allclose(
            in_numpy.unshard(np.reshape(moved, shards.shape), 53), state.weights, atol=1e-12
        )


@pytest.mark.parametrize("centres", [1, 3])
def test_hard_classes_are_the_nearest_and_their_recall_is_exact(problem, centres):
    embeddings, tables, labels, _ = problem
    with jax.enable_x64(True):
        cosine = in_numpy.cosines(embeddings, tables[centres])
        scores = cosine[labels >= 0].max(axis=0)
        scores[labels[labels >= 0]] = 2.0
        mine = jax.jit(functools.partial(hard_classes, chunk=7), static_argnames="count")
        recall_of = jax.jit(functools.partial(partition_recall, scale=16.0, chunk=6))
        sample = mine(embeddings, tables[centres], labels, count=25)
        rows = np.asarray(sample.rows)[: int(sample.active)]
        np.testing.assert_array_equal(rows, np.sort(np.argsort(-scores)[:25]))
        recall = np.asarray(recall_of(embeddings, tables[centres], labels, sample))
        wrong = np.exp(16.0 * cosine)
        wrong[labels >= 0, labels[labels >= 0]] = 0.0
        wanted = wrong[:, rows].sum(axis=1) / wrong.sum(axis=1)
        kept = labels >= 0
        np.testing.assert_allclose(recall[kept], wanted[kept], rtol=1e-12)
        random = draw(jax.random.key(0), labels, 53, 25 / 53)
        of_random = np.asarray(recall_of(embeddings, tables[centres], labels, random))
        assert recall[kept].mean() > of_random[kept].mean()
        everything = mine(embeddings, tables[centres], labels, count=53)
        np.testing.assert_allclose(recall_of(embeddings, tables[centres], labels, everything), 1.0)


def test_hard_classes_on_devices(problem):
    embeddings, tables, labels, _ = problem
    axis = {"axis_name": "classes", "num_classes": 53}

    def on_device(e, w, y):
        sample = hard_classes(e, w, y, count=7, chunk=4, **axis)
        return sample, partition_recall(e, w, y, sample, scale=16.0, chunk=5, **axis)

    with jax.enable_x64(True):
        shards = in_numpy.shard(tables[1], 8)
        split = embeddings.reshape(8, 2, -1), shards, labels.reshape(8, 2)
        sample, recall = jax.jit(jax.vmap(on_device, axis_name="classes"))(*split)
        # Seven classes on a device, and six, fewer than were asked for, on the last three.
        np.testing.assert_array_equal(sample.active, shard_sizes(53, 8))
        np.testing.assert_allclose(recall, 1.0)


def test_bad_input_is_named(problem):
    embeddings, tables, labels, _ = problem
    with pytest.raises(InputError, match=r"rate is 0; pass a number in \(0, 1\]"):
        sample_classes(jax.random.key(0), labels, num_classes=53, rate=0.0)
    with pytest.raises(InputError, match="count is 54; pass a number of classes from 1 to 53"):
        hard_classes(embeddings, tables[1], labels, count=54)
