"""Intra, Inter, angular triplet and their combinations, against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from arcface_jax.errors import InputError
from arcface_jax.losses import (
    angular_triplet_loss,
    combination_loss,
    inter_penalty,
    intra_penalty,
    margin_softmax_loss,
)
from arcface_jax.margins import arcface, normface

triplet = jax.jit(angular_triplet_loss, static_argnames=("margin", "mining"))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def angles(a, b):
    return np.arccos(np.clip(unit(a) @ unit(b).T, -1, 1))


def batch(seed=0, rows=9, classes=4, dim=6):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    return generator.normal(size=(rows, dim)), generator.normal(size=(classes, dim)), labels


def numpy_triplet(embeddings, labels, margin, mining):
    """The definition, anchor by anchor."""
    theta, rows = angles(embeddings, embeddings), len(labels)
    losses = np.zeros(rows)
    for a in range(rows):
        positives = [p for p in range(rows) if p != a and labels[p] == labels[a] >= 0]
        negatives = sorted(
            theta[a, n] for n in range(rows) if labels[n] >= 0 and labels[n] != labels[a] >= 0
        )
        if not positives or not negatives:
            continue
        if mining == "hard":
            losses[a] = max(0, max(theta[a, positives]) + margin - negatives[0])
            continue
        each = []
        for p in positives:
            farther = [t for t in negatives if t > theta[a, p]]
            each.append(max(0, theta[a, p] + margin - (farther[0] if farther else negatives[-1])))
        losses[a] = np.mean(each)
    return losses


def test_intra_is_the_angle_to_the_own_class_over_pi():
    embeddings, weights, labels = batch()
    wanted = angles(embeddings, weights)[np.arange(9), labels] / np.pi
    np.testing.assert_allclose(intra_penalty(embeddings, weights, labels), wanted, atol=2e-6)


def test_inter_is_minus_the_mean_angle_between_weights_over_pi():
    _, weights, labels = batch()
    theta = angles(weights, weights)
    wanted = [-np.mean([theta[y, j] for j in range(4) if j != y]) / np.pi for y in labels]
    np.testing.assert_allclose(inter_penalty(weights, labels), wanted, atol=2e-6)


def test_inter_is_least_on_a_simplex():
    simplex = np.eye(5) - 0.2
    np.testing.assert_allclose(
        inter_penalty(simplex, np.arange(5)), -np.arccos(-0.25) / np.pi, atol=2e-6
    )


@pytest.mark.parametrize("mining", ["hard", "semi_hard"])
@pytest.mark.parametrize("seed", range(6))
def test_triplets_against_numpy(mining, seed):
    embeddings, _, labels = batch(seed)
    labels[0] = -1
    labels[1] = 17  # an identity of one image: an anchor without a positive
    loss = triplet(embeddings, labels, margin=0.35, mining=mining)
    np.testing.assert_allclose(loss, numpy_triplet(embeddings, labels, 0.35, mining), atol=3e-6)
    assert not loss[:2].any()
    assert loss.any()


@pytest.mark.parametrize("mining", ["hard", "semi_hard"])
def test_a_batch_of_one_identity_or_of_singles_has_no_triplet(mining):
    embeddings, _, _ = batch()
    for labels in (np.zeros(9, int), np.arange(9)):
        assert not triplet(embeddings, labels, margin=0.35, mining=mining).any()


@pytest.mark.parametrize("mining", ["hard", "semi_hard"])
def test_triplet_gradients(mining):
    embeddings, _, labels = batch(1)
    with jax.enable_x64(True):
        check_grads(
            lambda e: triplet(e, labels, margin=0.5, mining=mining),
            (embeddings,),
            1,
            ["rev"],
            atol=1e-5,
            rtol=1e-5,
        )
    doubled = jnp.asarray(
        np.repeat(embeddings[:2], 2, axis=0), jnp.float32
    )  # identical and opposite embeddings
    doubled = doubled.at[2:].set(-doubled[:2])
    gradient = jax.grad(
        lambda e: triplet(e, jnp.asarray([0, 0, 1, 1]), margin=0.5, mining=mining).sum()
    )(doubled)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("mining", ["hard", "semi_hard"])
@pytest.mark.parametrize("mapping", [jax.vmap, jax.pmap])
def test_mining_reaches_the_other_devices(mining, mapping):
    embeddings, _, labels = batch(2, rows=8)
    e, y = jnp.asarray(embeddings, jnp.float32), jnp.asarray(labels)

    def one_device(e, y):
        loss = lambda e: angular_triplet_loss(e, y, mining=mining, axis_name="d")  # noqa: E731
        return loss(e), jax.grad(lambda e: loss(e).sum())(e)

    mapped = mapping(one_device, axis_name="d")
    mapped = jax.jit(mapped) if mapping is jax.vmap else mapped
    loss, gradient = mapped(e.reshape(4, 2, -1), y.reshape(4, 2))
    np.testing.assert_allclose(
        loss.reshape(-1), numpy_triplet(embeddings, labels, 0.35, mining), atol=3e-6
    )
    wanted = jax.jit(jax.grad(lambda e: angular_triplet_loss(e, y, mining=mining).sum()))(e)
    # A row is also another device's negative; gathering embeddings brings that part of its gradient
    # back to it.
    np.testing.assert_allclose(gradient.reshape(8, -1), wanted, atol=3e-5)


def test_the_papers_combinations():
    embeddings, weights, labels = batch()
    softmax = margin_softmax_loss(embeddings, weights, labels, psi=normface())
    with_arcface = margin_softmax_loss(embeddings, weights, labels, psi=arcface())
    intra, inter = intra_penalty(embeddings, weights, labels), inter_penalty(weights, labels)
    hard = angular_triplet_loss(embeddings, labels, margin=0.3, mining="hard")
    for options, wanted in (
        ({"psi": normface(), "intra_weight": 1.0}, softmax + intra),
        ({"psi": normface(), "inter_weight": 1.0}, softmax + inter),
        ({"intra_weight": 1.0, "inter_weight": 2.0}, with_arcface + intra + 2 * inter),
        ({"triplet_weight": 1.0, "triplet_margin": 0.3, "mining": "hard"}, with_arcface + hard),
        ({}, with_arcface),
    ):
        np.testing.assert_allclose(
            combination_loss(embeddings, weights, labels, **options), wanted, rtol=1e-6
        )


def test_ignored_rows_and_coinciding_vectors_have_finite_gradients():
    embeddings, weights, labels = batch()
    weights[1] = weights[0]
    embeddings[0] = weights[labels[0]]
    labels[3] = -1
    embeddings[3] = np.nan

    @jax.jit
    def total(e, w):
        return combination_loss(
            e, w, labels, intra_weight=1.0, inter_weight=1.0, triplet_weight=1.0
        )

    assert float(total(embeddings, weights)[3]) == 0.0
    gradients = jax.grad(lambda e, w: total(e, w).sum(), argnums=(0, 1))(
        jnp.asarray(embeddings), jnp.asarray(weights)
    )
    assert all(np.isfinite(g).all() for g in gradients)
    assert not gradients[0][3].any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e, w, y: angular_triplet_loss(e, y, margin=-0.35), r"margin is -0\.35"),
        (
            lambda e, w, y: angular_triplet_loss(e, y, mining="easy"),
            "mining is 'easy'; pass one of hard, semi_hard",
        ),
        (lambda e, w, y: angular_triplet_loss(e, y - 5), r"labels\[0\] is -"),
        (lambda e, w, y: combination_loss(e, w, y, intra_weight=-1.0), "intra_weight is -1"),
        (lambda e, w, y: combination_loss(e, w, y, scale=0.0), "scale is 0"),
        (
            lambda e, w, y: inter_penalty(w[:1], y * 0),
            r"class_weights has shape \(1, 6\); Inter needs two classes",
        ),
        (lambda e, w, y: intra_penalty(e, w, y + 4), r"labels\[\d\] is \d; pass a class, 0 to 3"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call(*batch())
