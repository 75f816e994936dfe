import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.training.batches import BatchOrder


def test_an_epoch_sees_every_example_once():
    order = BatchOrder(12, 4, seed=0)
    epoch = np.concatenate([order[step] for step in range(3)])
    np.testing.assert_array_equal(np.sort(epoch), np.arange(12))


def test_a_partial_batch_is_left_out():
    order = BatchOrder(11, 4, seed=0)
    assert order.steps_per_epoch == 2
    assert len(set(np.concatenate([order[0], order[1]]))) == 8


def test_a_batch_follows_from_seed_and_step_alone():
    straight = [BatchOrder(50, 8, seed=3)[step] for step in range(20)]
    backwards = BatchOrder(50, 8, seed=3)
    for step in reversed(range(20)):
        np.testing.assert_array_equal(backwards[step], straight[step])


def test_epochs_and_seeds_differ():
    order = BatchOrder(64, 64, seed=0)
    assert not np.array_equal(order[0], order[1])
    assert not np.array_equal(order[0], BatchOrder(64, 64, seed=1)[0])


def test_batch_larger_than_the_data_is_refused():
    with pytest.raises(InputError, match=r"batch_size 9 is larger than the 8"):
        BatchOrder(8, 9, seed=0)
