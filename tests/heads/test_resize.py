"""Heads with identities added, dropped, merged and split over other numbers of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
from tests.heads.conftest import make_problem
from tests.in_numpy import unit


def at_once(function, *arguments):
    """What it gives, as NumPy arrays; one program, where step by step would compile dozens."""
    return jax.device_get(jax.jit(function)(*arguments))


@pytest.fixture(scope="module", params=[1, 3], ids=["K=1", "K=3"])
def head(request):
    """A head after a step, so that its slots are not zero."""
    embeddings, tables, labels, _ = make_problem()

    def stepped(table):
        return fused_head_step(init_head(table, RowSgd()), embeddings, labels, 0.1).state

    return at_once(stepped, tables[request.param].astype(np.float32))


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_class_means(problem):
    embeddings, _, labels, _ = problem
    known, numbers = np.unique(labels[labels >= 0], return_inverse=True)
    renumbered = np.full(16, -1)
    renumbered[labels >= 0] = numbers
    means = class_means(embeddings, renumbered, len(known))
    for number, found in enumerate(np.asarray(means)):
        mean = unit(unit(embeddings)[renumbered == number].mean(axis=0))
        np.testing.assert_allclose(found, mean, atol=1e-6)
    assert len(means) == len(known)
    with pytest.raises(InputError, match="identity 2 has no embedding"):
        class_means(embeddings, np.where(renumbered == 2, -1, renumbered), len(known))


def test_adding_leaves_the_old_and_starts_the_new_at_their_means(head, problem):
    embeddings, _, _, _ = problem
    first, second, *third = unit(embeddings[:4])
    directions = unit(np.stack([first, second, sum(third)])).astype(np.float32)
    grown = at_once(lambda head, new: add_classes(head, RowSgd(), new), head, directions)
    assert grown.weights.shape[0] == 56
    same(jax.tree.map(lambda a: a[:53], grown[:2]), head[:2])
    new = grown.class_weights[53:].reshape(3, -1, 8)
    np.testing.assert_allclose(np.einsum("ckd,cd->ck", unit(new), directions), 1.0, atol=1e-3)
    lengths, old = (np.linalg.norm(w, axis=-1) for w in (new, head.class_weights))
    np.testing.assert_allclose(lengths, np.median(old), rtol=1e-5)
    assert not any(slot[53:].any() for slot in grown.slots)
    if head.weights.ndim == 3:
        assert (np.abs(new[:, 0] - new[:, 1]).max(axis=-1) > 0).all()
    # The new identities are recognised at once: a random row's loss would be about 12.
    loss = at_once(
        lambda e, w: margin_softmax_loss(e, w, np.array([53, 54]), scale=16.0),
        *(embeddings[:2].astype(np.float32), grown.class_weights),
    )
    assert (loss < 1.0).all()


def test_dropping_keeps_the_others_as_they_were(head):
    smaller, numbers = at_once(lambda head: drop_classes(head, [7, 0, 52]), head)
    kept = [c for c in range(53) if c not in (0, 7, 52)]
    same(tuple(smaller[:2]), jax.tree.map(lambda a: a[np.array(kept)], tuple(head[:2])))
    assert numbers[[0, 7, 52]].tolist() == [-1, -1, -1]
    np.testing.assert_array_equal(numbers[kept], np.arange(50))


def test_merging(head):
    merged, numbers = at_once(lambda head: merge_classes(head, [[10, 3], [20, 21, 22]]), head)
    assert merged.weights.shape[0] == 50
    assert numbers[10] == numbers[3] == 9
    assert numbers[20] == numbers[21] == numbers[22]
    old, new = head.class_weights, merged.class_weights
    untouched = [c for c in range(53) if c not in (3, 10, 20, 21, 22)]
    same(new[numbers[untouched]], old[np.array(untouched)])
    if old.ndim == 3:
        same(new[9], old[10])
        return
    pair = old[[10, 3]]
    wanted = unit(unit(pair).sum(axis=0)) * np.linalg.norm(pair, axis=1).mean()
    np.testing.assert_allclose(new[9], wanted, rtol=1e-5)
    np.testing.assert_allclose(
        merged.slots[0][9], (head.slots[0][10] + head.slots[0][3]) / 2, rtol=1e-6
    )


def test_bf16_heads_can_be_resized(problem):
    embeddings, tables, _, _ = problem

    @jax.jit
    def program(table, directions):
        state = init_head(table, RowSgd(), dtype=jnp.bfloat16)
        grown = add_classes(state, RowSgd(), directions)
        merged, _ = merge_classes(grown, [[53, 54]])
        return state, grown, drop_classes(merged, [53])[0]

    state, grown, smaller = program(*(a.astype(np.float32) for a in (tables[1], embeddings[:2])))
    assert grown.weights.dtype == grown.slots[0].dtype == jnp.uint16
    same(smaller, state)


@pytest.mark.parametrize("to", [1, 2, 8])
def test_moving_to_another_number_of_devices(head, to):

    def there_and_back(head):
        on_three = shard_head(head, 3)
        moved = shard_head(unshard_head(on_three, 53), to)
        return on_three, moved, unshard_head(moved, 53)

    on_three, moved, back = at_once(there_and_back, head)
    assert on_three.weights.shape[:2] == (3, 18)
    assert moved.slots[0].shape[0] == to
    same(back, head)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: drop_classes(s, [53]), "classes names class 53; pass numbers from 0 to 52"),
        (lambda s: drop_classes(s, [1, 1]), "classes names class 1 twice"),
        (lambda s: drop_classes(s, range(53)), "classes names all of 53 classes"),
        (lambda s: merge_classes(s, [[1]]), r"groups has \[1\]; pass two classes or more"),
        (lambda s: merge_classes(s, [[1, 2], [2, 3]]), "groups names class 2 twice"),
        (
            lambda s: add_classes(s, RowSgd(), jnp.ones((2, 5))),
            r"directions has shape \(2, 5\); pass \[new, 8\]",
        ),
    ],
)
def test_bad_input_is_named(change, message):
    for weights in (jnp.ones((53, 8)), jnp.ones((53, 2, 8))):
        with pytest.raises(InputError, match=message):
            change(HeadState(weights, RowSgd().init(weights), jnp.zeros((), jnp.int32)))
