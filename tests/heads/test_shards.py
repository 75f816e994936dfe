"""How the classes are split, a mesh of two axes, and what each device brings of its own; that every
split gives the same loss is in `test_softmax.py`.
"""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from arcface_jax.errors import InputError
from arcface_jax.heads.shards import (
    parts_of_shard,
    shard_classes,
    shard_rows,
    shard_sizes,
    unshard_classes,
)
from arcface_jax.losses import margin_softmax_loss
from arcface_jax.margins import arcface
from tests.in_numpy import shard, unshard

STRAIGHT = arcface(past_pi="linear", gradient="straight_through")


@pytest.mark.parametrize(
    ("classes", "shards"), [(93_431, 8), (53, 1), (53, 8), (17, 8), (8, 8), (3, 8)]
)
def test_the_split(classes, shards):
    sizes = shard_sizes(classes, shards)
    assert sizes == [classes // shards + (rank < classes % shards) for rank in range(shards)]
    assert sum(sizes) == classes
    if classes == 93_431:
        assert sizes == [11_679] * 7 + [11_678]
    rows = np.arange(2 * classes).reshape(classes, 2) + 1
    split = jax.jit(shard_classes, static_argnums=1)(rows, shards)
    assert split.shape == (shards, shard_rows(classes, shards), 2)
    first = 0
    for part, size in zip(np.asarray(split), sizes, strict=True):
        np.testing.assert_array_equal(part[:size], rows[first : first + size])
        assert not part[size:].any()
        first += size
    whole = jax.jit(unshard_classes, static_argnums=1)(split, classes)
    np.testing.assert_array_equal(whole, rows)


@hypothesis.given(classes=st.integers(1, 60), saved=st.integers(1, 20), shards=st.integers(1, 20))
def test_parts_are_the_rows_of_a_layout_each_once_and_of_a_shard_its_classes(
    classes, saved, shards
):
    rows = np.asarray(shard(np.arange(1, classes + 1)[:, None], saved)).reshape(-1)
    wanted = np.asarray(shard(np.arange(1, classes + 1)[:, None], shards)).reshape(shards, -1)
    seen = []
    for rank in range(shards):
        parts = parts_of_shard(classes, saved, shards, rank)
        seen += [row for part in parts for row in range(part.start, part.stop)]
        found = np.concatenate(
            [np.zeros(0, int), *(rows[part.start : part.start + part.classes] for part in parts)]
        )
        np.testing.assert_array_equal(found, wanted[rank][: len(found)])
        assert not wanted[rank][len(found) :].any()
    assert sorted(seen) == list(range(len(rows)))


def test_no_device_holds_all_rows_while_they_are_made_and_split():
    """By XLA's plan, for a prime number of classes, which is cut nowhere evenly."""
    classes, width = 1009, 64
    mesh = Mesh(np.array(jax.devices()), ("classes",))

    def made():
        rows = jax.random.normal(jax.random.key(0), (classes, width))
        return shard_classes(rows, 8).reshape(-1, width)

    rows = NamedSharding(mesh, PartitionSpec("classes"))
    plan = jax.jit(made, out_shardings=rows).lower().compile().memory_analysis()
    assert plan.temp_size_in_bytes < 4 * classes * width


def mesh_loss(mesh, batch_axes, class_axes, **options):
    """The whole batch's losses under jit, the map inside and the gradient outside."""
    one = functools.partial(
        margin_softmax_loss, axis_name=class_axes, num_classes=53, chunk=5, **options
    )
    specs = (PartitionSpec(batch_axes), PartitionSpec(class_axes), PartitionSpec(batch_axes))
    return jax.shard_map(one, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(batch_axes))


@pytest.mark.parametrize("class_axes", ["classes", ("data", "classes")])
def test_a_mesh_of_data_and_classes(problem, class_axes):
    embeddings, tables, labels, importance = problem
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "classes"))
    with jax.enable_x64(True):
        shards = shard(tables[1], 4 if class_axes == "classes" else 8)
        loss = mesh_loss(mesh, ("data", "classes"), class_axes, scale=16.0, psi=STRAIGHT)
        total = lambda e, w: loss(e, w, labels) @ importance  # noqa: E731
        flat = shards.reshape(-1, 8)
        value, (of_e, of_w) = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(embeddings, flat)
        dense = lambda e, w: (  # noqa: E731
            margin_softmax_loss(e, w, labels, scale=16.0, psi=STRAIGHT) @ importance
        )
        wanted, (wanted_e, wanted_w) = jax.jit(jax.value_and_grad(dense, argnums=(0, 1)))(
            embeddings, tables[1]
        )
        np.testing.assert_allclose(value, wanted, rtol=1e-12)
        np.testing.assert_allclose(of_e, wanted_e, atol=1e-12)
        whole = unshard(np.reshape(of_w, shards.shape), 53)
        np.testing.assert_allclose(whole, wanted_w, atol=1e-12)


def test_what_each_device_brings_of_its_own(problem):
    """Margins and scales of an example stay with it; a scale that all learn gets all of its
    gradient.
    """
    embeddings, tables, labels, _ = problem
    margins, scales = np.linspace(0.1, 0.7, 16), np.linspace(5.0, 20.0, 16)

    def total(e, w, y, m, s, learnt):
        axis = {"axis_name": "classes", "num_classes": 53, "chunk": 5}
        return margin_softmax_loss(e, w, y, psi=arcface(m), scale=learnt * s, **axis).sum()

    def dense_total(e, w, y, m, s, learnt):
        return margin_softmax_loss(e, w, y, psi=arcface(m), scale=learnt * s).sum()

    with jax.enable_x64(True):
        split = [a.reshape(4, -1, *a.shape[1:]) for a in (embeddings, labels, margins, scales)]
        run = jax.jit(
            jax.vmap(
                jax.value_and_grad(total, argnums=(3, 5)),
                (0, 0, 0, 0, 0, None),
                axis_name="classes",
            )
        )
        value, (of_m, of_s) = run(split[0], shard(tables[1], 4), *split[1:], 1.0)
        wanted = jax.jit(jax.value_and_grad(dense_total, argnums=(3, 5)))
        wanted_value, (wanted_m, wanted_s) = wanted(
            embeddings, tables[1], labels, margins, scales, 1.0
        )
        np.testing.assert_allclose(value.sum(), wanted_value, rtol=1e-12)
        np.testing.assert_allclose(of_m.reshape(-1), wanted_m, atol=1e-11)
        np.testing.assert_allclose(of_s.sum(), wanted_s, rtol=1e-11)


def test_a_shard_of_the_wrong_size_is_named():
    call = functools.partial(margin_softmax_loss, axis_name="classes", num_classes=53)
    with pytest.raises(
        InputError, match="class_weights has 6 rows on each of 2 devices; 53 classes need 27"
    ):
        jax.vmap(call, axis_name="classes")(
            np.ones((2, 4, 3)), np.ones((2, 6, 3)), np.zeros((2, 4), int)
        )
    with pytest.raises(
        InputError, match="2 shards of 6 rows cannot hold 53 classes; 27 rows are needed in each"
    ):
        unshard_classes(np.ones((2, 6, 3)), 53)
    with pytest.raises(InputError, match="num_classes is 53 and shards 0"):
        shard_classes(np.ones((53, 3)), 0)
