import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface_jax.data.samplers import Balanced, Capped, Shuffled
from arcface_jax.errors import InputError

label_lists = st.lists(st.integers(1, 9), min_size=2, max_size=12).map(
    lambda counts: np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
)
seeds = st.integers(-(2**40), 2**40)


def taken(sampler, count: int) -> np.ndarray:
    """The first `count` images in the sampler's order."""
    steps = -(-count // sampler.batch_size)
    return np.concatenate([sampler.rows(step, 0, sampler.batch_size) for step in range(steps)])[
        :count
    ]


@settings(max_examples=40)
@given(number=st.integers(1, 60), batch=st.integers(1, 70), seed=seeds)
def test_every_epoch_has_every_image_once(number, batch, seed):
    order = taken(Shuffled(number, batch, seed), 3 * number).reshape(3, number)
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(number), (3, 1)))


def test_epochs_and_seeds_differ_and_neighbouring_seeds_are_not_an_epoch_apart():
    zero, one = taken(Shuffled(100, 10, 0), 200), taken(Shuffled(100, 10, 1), 200)
    assert not np.array_equal(zero[:100], zero[100:])
    assert not np.array_equal(zero, one)
    assert not np.array_equal(zero[100:], one[:100])


@pytest.mark.parametrize("seed", range(3))
def test_the_shuffle_is_uniform(seed):
    # Where image 0 lands over 2,000 epochs of 10: chi-square with 9 degrees of freedom, 99.99 %
    # quantile 33.7.
    order = taken(Shuffled(10, 10, seed), 20_000).reshape(-1, 10)
    counts = np.bincount(np.argmin(order, axis=1), minlength=10)
    assert ((counts - 200) ** 2 / 200).sum() < 33.7


samplers = {
    "shuffled": lambda labels: Shuffled(len(labels), 12, 5),
    "balanced": lambda labels: Balanced(labels, 4, 3, 5),
    "capped": lambda labels: Capped(labels, 3, 12, 5),
}


@pytest.mark.parametrize("make", samplers.values(), ids=samplers)
def test_rows_are_the_batch_in_any_division_and_after_pickling(make):
    sampler = make(np.repeat(np.arange(7), [1, 2, 3, 4, 5, 6, 7]))
    copy = pickle.loads(pickle.dumps(sampler))
    for step in range(9):
        batch = sampler.rows(step, 0, 12)
        assert batch.shape == (12,)
        for hosts in (2, 3, 4, 12):
            parts = [
                copy.rows(step, host * 12 // hosts, (host + 1) * 12 // hosts)
                for host in range(hosts)
            ]
            np.testing.assert_array_equal(np.concatenate(parts), batch)
    assert repr(copy) == repr(sampler)


@settings(max_examples=40)
@given(labels=label_lists, images=st.integers(1, 5), seed=seeds, data=st.data())
def test_balanced_batches_have_p_identities_with_k_images(labels, images, seed, data):
    identities = data.draw(st.integers(1, labels.max() + 1))
    sampler = Balanced(labels, identities, images, seed)
    counts = np.bincount(labels)
    for step in range(6):
        batch = sampler.rows(step, 0, sampler.batch_size).reshape(identities, images)
        who = labels[batch]
        assert (who == who[:, :1]).all()
        assert len(set(who[:, 0])) == identities
        for row, label in zip(batch, who[:, 0], strict=True):
            assert len(set(row)) == min(images, counts[label])


def test_balanced_visits_every_identity_and_image():
    labels = np.repeat(np.arange(6), 4)
    sampler = Balanced(labels, 3, 2, 0)
    assert sampler.epoch_images == 12
    assert sorted(taken(sampler, 24)) == list(
        range(24)
    )  # two epochs of 2 images for each identity with 4


@settings(max_examples=40)
@given(labels=label_lists, cap=st.integers(1, 10), batch=st.integers(1, 30), seed=seeds)
def test_capped_epochs_have_each_identity_at_most_cap_times(labels, cap, batch, seed):
    sampler = Capped(labels, cap, batch, seed)
    counts = np.bincount(labels)
    assert sampler.epoch_images == np.minimum(counts, cap).sum()
    for epoch in taken(sampler, 3 * sampler.epoch_images).reshape(3, -1):
        assert len(set(epoch)) == len(epoch)
        np.testing.assert_array_equal(
            np.bincount(labels[epoch], minlength=len(counts)), np.minimum(counts, cap)
        )


def test_capped_moves_on_to_the_other_images_of_a_large_identity():
    labels = np.array([0] * 9 + [1])
    order = taken(Capped(labels, 3, 4, 0), 12).reshape(3, 4)
    assert sorted(order[order < 9]) == list(range(9))


def test_what_cannot_be_sampled_is_refused():
    with pytest.raises(InputError, match="batch_size = 0"):
        Shuffled(3, 0, 0)
    with pytest.raises(InputError, match="no images"):
        Shuffled(0, 1, 0)
    with pytest.raises(InputError, match=r"identities = 3, images = 2: .* than the 2 there are"):
        Balanced(np.array([0, 1]), 3, 2, 0)
    with pytest.raises(InputError, match="cap = 0"):
        Capped(np.array([0, 1]), 0, 2, 0)
    with pytest.raises(InputError, match="label 1 has no image"):
        Capped(np.array([0, 2]), 1, 2, 0)


def test_only_the_orders_of_the_epochs_in_use_are_kept():
    sampler = Shuffled(50, 20, 0)
    for step in range(40):
        sampler.rows(step, 0, 20)
    assert len(sampler._order._permutation._kept) <= 2
    np.testing.assert_array_equal(sampler.rows(3, 0, 20), Shuffled(50, 20, 0).rows(3, 0, 20))
    assert len(pickle.dumps(sampler)) < 1000  # a worker process makes its own
