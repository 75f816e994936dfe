"""Heads with identities added, dropped, merged and split over other numbers of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arcface_jax.cosine import normalise_rows, row_norms
from arcface_jax.errors import InputError
from arcface_jax.heads.fused import HeadState, RowSgd, fused_head_step, init_head
from arcface_jax.heads.resize import (
    add_classes,
    class_means,
    drop_classes,
    merge_classes,
    shard_head,
    unshard_head,
)
from arcface_jax.losses import margin_softmax_loss


@pytest.fixture(params=[1, 3], ids=["K=1", "K=3"])
def head(request, problem):
    """A head after a step, so that its slots are not zero."""
    embeddings, tables, labels, _ = problem
    state = init_head(tables[request.param].astype(np.float32), RowSgd())
    return jax.jit(lambda s: fused_head_step(s, embeddings, labels, 0.1).state)(state)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_class_means(problem):
    embeddings, _, labels, _ = problem
    known, numbers = np.unique(labels[labels >= 0], return_inverse=True)
    renumbered = np.full(16, -1)
    renumbered[labels >= 0] = numbers
    means = class_means(embeddings, renumbered, len(known))
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    for number in range(len(known)):
        mean = units[renumbered == number].mean(axis=0)
        np.testing.assert_allclose(means[number], mean / np.linalg.norm(mean), atol=1e-6)
    with pytest.raises(InputError, match=f"identity {len(known)} has no embedding"):
        class_means(embeddings, renumbered, len(known) + 1)


def test_adding_leaves_the_old_and_starts_the_new_at_their_means(head, problem):
    embeddings, _, _, _ = problem
    directions = class_means(embeddings[:4], np.array([0, 1, 2, 2]), 3)
    grown = add_classes(head, RowSgd(), directions)
    assert grown.weights.shape[0] == 56
    same(jax.tree.map(lambda a: a[:53], grown[:2]), head[:2])
    new = grown.class_weights[53:].reshape(3, -1, 8)
    np.testing.assert_allclose(
        jnp.einsum("ckd,cd->ck", normalise_rows(new), directions), 1.0, atol=1e-3
    )
    np.testing.assert_allclose(row_norms(new), jnp.median(row_norms(head.class_weights)), rtol=1e-5)
    assert not any(slot[53:].any() for slot in grown.slots)
    if head.weights.ndim == 3:
        assert (jnp.abs(new[:, 0] - new[:, 1]).max(axis=-1) > 0).all()
    # The new identities are recognised at once: a random row's loss would be about 12.
    loss = margin_softmax_loss(
        embeddings[:2].astype(np.float32), grown.class_weights, np.array([53, 54]), scale=16.0
    )
    assert (loss < 1.0).all()


def test_dropping_keeps_the_others_as_they_were(head):
    smaller, numbers = drop_classes(head, [7, 0, 52])
    kept = [c for c in range(53) if c not in (0, 7, 52)]
    same(tuple(smaller[:2]), jax.tree.map(lambda a: a[np.array(kept)], tuple(head[:2])))
    assert numbers[[0, 7, 52]].tolist() == [-1, -1, -1]
    np.testing.assert_array_equal(numbers[kept], np.arange(50))


def test_merging(head):
    merged, numbers = merge_classes(head, [[10, 3], [20, 21, 22]])
    assert merged.weights.shape[0] == 50
    assert numbers[10] == numbers[3] == 9
    assert numbers[20] == numbers[21] == numbers[22]
    old, new = head.class_weights, merged.class_weights
    untouched = [c for c in range(53) if c not in (3, 10, 20, 21, 22)]
    same(new[numbers[untouched]], old[np.array(untouched)])
    if old.ndim == 3:
        same(new[9], old[10])
        return
    direction = normalise_rows(normalise_rows(old[10]) + normalise_rows(old[3]))
    np.testing.assert_allclose(
        new[9], direction * (row_norms(old[10]) + row_norms(old[3])) / 2, rtol=1e-5
    )
    np.testing.assert_allclose(
        merged.slots[0][9], (head.slots[0][10] + head.slots[0][3]) / 2, rtol=1e-6
    )


def test_bf16_heads_can_be_resized(problem):
    embeddings, tables, _, _ = problem
    state = init_head(tables[1].astype(np.float32), RowSgd(), dtype=jnp.bfloat16)
    grown = add_classes(state, RowSgd(), jnp.asarray(embeddings[:2], jnp.float32))
    assert grown.weights.dtype == grown.slots[0].dtype == jnp.uint16
    merged, _ = merge_classes(grown, [[53, 54]])
    smaller, _ = drop_classes(merged, [53])
    same(smaller, state)


@pytest.mark.parametrize("to", [1, 2, 8])
def test_moving_to_another_number_of_devices(head, to):
    on_three = shard_head(head, 3)
    assert on_three.weights.shape[:2] == (3, 18)
    moved = shard_head(unshard_head(on_three, 53), to)
    assert moved.slots[0].shape[0] == to
    same(unshard_head(moved, 53), head)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: drop_classes(s, [53]), "classes names class 53; pass numbers from 0 to 52"),
        (lambda s: drop_classes(s, [1, 1]), "classes names class 1 twice"),
        (lambda s: drop_classes(s, range(53)), "classes names all 53 classes"),
        (lambda s: merge_classes(s, [[1]]), r"groups has \[1\]; pass two classes or more"),
        (lambda s: merge_classes(s, [[1, 2], [2, 3]]), "groups names class 2 twice"),
        (
            lambda s: add_classes(s, RowSgd(), jnp.ones((2, 5))),
            r"directions has shape \(2, 5\); pass \[new, 8\]",
        ),
    ],
)
def test_bad_input_is_named(change, message):
    weights = jnp.ones((53, 8))
    with pytest.raises(InputError, match=message):
        change(HeadState(weights, RowSgd().init(weights), jnp.zeros((), jnp.int32)))
