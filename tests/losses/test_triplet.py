"""The angular triplet loss: its mining against float64 NumPy, its gradients, over devices."""

import functools

import jax
import numpy as np
import pytest
from jax.test_util import check_grads

from arcface_jax.errors import InputError
from arcface_jax.losses import Triplet, angular_triplet_loss
from tests import in_numpy

triplet = jax.jit(angular_triplet_loss, static_argnames=("margin", "mining"))


def batch(seed=0, rows=9, classes=4, dim=6):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    return generator.normal(size=(rows, dim)), labels


@pytest.mark.parametrize("mining", ["hard", "semi_hard"])
@pytest.mark.parametrize("seed", range(6))
def test_triplets_against_numpy(mining, seed):
    embeddings, labels = batch(seed)
    labels[0] = -1
    labels[1] = 17  # an identity of one image: an anchor without a positive
    loss = triplet(embeddings, labels, margin=0.35, mining=mining)
    np.testing.assert_allclose(loss, in_numpy.triplet(embeddings, labels, 0.35, mining), atol=3e-6)
    assert not loss[:2].any()
    assert loss.any()


@pytest.mark.parametrize("mining", ["hard", "semi_hard"])
def test_a_batch_of_one_identity_or_of_singles_has_no_triplet(mining):
    embeddings, _ = batch()
    for labels in (np.zeros(9, int), np.arange(9)):
        assert not triplet(embeddings, labels, margin=0.35, mining=mining).any()


@pytest.mark.parametrize("mining", ["hard", "semi_hard"])
def test_triplet_gradients(mining):
    embeddings, labels = batch(1)
    with jax.enable_x64(True):
        check_grads(
            jax.jit(lambda e: angular_triplet_loss(e, labels, margin=0.5, mining=mining)),
            (embeddings,),
            1,
            ["rev"],
            atol=1e-5,
            rtol=1e-5,
        )
    same = embeddings[[0, 0]]
    doubled = np.concatenate([same, -same]).astype(np.float32)  # identical and opposite
    total = lambda e: triplet(e, np.array([0, 0, 1, 1]), margin=0.5, mining=mining).sum()  # noqa: E731
    assert np.isfinite(jax.jit(jax.grad(total))(doubled)).all()


@functools.cache
def loss_and_gradient(mining, axis=None):
    def one_device(e, y):
        def total(e):
            loss = angular_triplet_loss(e, y, mining=mining, axis_name=axis)
            return loss.sum(), loss

        gradient, loss = jax.grad(total, has_aux=True)(e)
        return loss, gradient

    return one_device


@pytest.mark.parametrize("mining", ["hard", "semi_hard"])
@pytest.mark.parametrize("mapping", [jax.vmap, jax.pmap])
def test_mining_reaches_the_other_devices(mining, mapping):
    embeddings, labels = batch(2, rows=8)
    e = embeddings.astype(np.float32)
    mapped = mapping(loss_and_gradient(mining, "d"), axis_name="d")
    mapped = jax.jit(mapped) if mapping is jax.vmap else mapped
    loss, gradient = jax.device_get(mapped(e.reshape(4, 2, -1), labels.reshape(4, 2)))
    np.testing.assert_allclose(
        loss.reshape(-1), in_numpy.triplet(embeddings, labels, 0.35, mining), atol=3e-6
    )
    _, wanted = jax.jit(loss_and_gradient(mining))(e, labels)
    # A row is also another device's negative; gathering embeddings brings that part of its gradient
    # back to it.
    np.testing.assert_allclose(gradient.reshape(8, -1), wanted, atol=3e-5)


def test_padding_is_nobodys_nearest_and_no_positive():
    embeddings = np.float32([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [np.nan, 0.0], [np.nan, 0.0]])
    loss = jax.jit(lambda e, y: Triplet()({}, {}, e, y))
    out = loss(embeddings, np.array([4, 4, 7, -1, -1]))
    assert out.hit.tolist() == [True, True, False, False, False]
    cosine = 1.01**-0.5
    np.testing.assert_allclose(out.target_cosine, [cosine, cosine, 0.0, 0.0, 0.0], rtol=1e-6)
    alone = loss(embeddings[:1], np.array([4]))
    assert not np.asarray(alone.hit).any()


@pytest.mark.parametrize(
    "labels",
    [[3, 3, 3, 3], [0, 1, 2, 3], [-1, -1, -1, -1], [5, -1, -1, -1], [5, 5, -1, -1], [5, 6, -1, 7]],
    ids=["one person", "one image each", "none", "one image", "two of one", "each alone"],
)
@pytest.mark.parametrize("mining", ["hard", "semi_hard"])
def test_a_batch_without_pairs_of_both_kinds_teaches_nothing(mining, labels):
    """Loss and gradient are 0, also where embeddings are equal, opposite or zero."""
    embeddings = np.float32([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    loss, gradient = jax.jit(loss_and_gradient(mining))(embeddings, np.array(labels))
    np.testing.assert_array_equal(loss, np.zeros(4))
    np.testing.assert_array_equal(gradient, np.zeros((4, 2)))


@pytest.mark.parametrize("mining", ["hard", "semi_hard"])
def test_a_batch_of_one_teaches_nothing(mining):
    loss, gradient = jax.jit(loss_and_gradient(mining))(np.ones((1, 2), np.float32), np.array([0]))
    assert loss.tolist() == [0.0]
    assert gradient.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("mining", ["hard", "semi_hard"])
def test_copies_of_an_image_have_a_finite_gradient(mining):
    """θ(a, p) = 0 and θ(a, n) = π/2, so the loss is max(0, 0.35 − π/2) = 0; for θ(a, n) = 0, it is
    0.35.
    """
    for negative, wanted in (([0.0, 1.0], 0.0), ([1.0, 0.0], 0.35)):
        embeddings = np.float32([[1.0, 0.0], [1.0, 0.0], negative])
        loss, gradient = jax.jit(loss_and_gradient(mining))(embeddings, np.array([0, 0, 1]))
        np.testing.assert_allclose(loss, [wanted, wanted, 0.0], atol=2e-3)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e, y: angular_triplet_loss(e, y, margin=-0.35), r"margin is -0\.35"),
        (
            lambda e, y: angular_triplet_loss(e, y, mining="easy"),
            "mining is 'easy'; pass one of hard, semi_hard",
        ),
        (lambda e, y: angular_triplet_loss(e, y - 5), r"labels\[0\] is -"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call(*batch())
