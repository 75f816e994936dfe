"""Intra, Inter and the combinations of losses, against float64 NumPy."""

import jax
import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.losses import (
    angular_triplet_loss,
    combination_loss,
    inter_penalty,
    intra_penalty,
    margin_softmax_loss,
)
from arcface_jax.losses.penalties import distillation_penalty
from arcface_jax.margins import arcface, normface
from tests import in_numpy


def batch(seed=0, rows=9, classes=4, dim=6):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    return generator.normal(size=(rows, dim)), generator.normal(size=(classes, dim)), labels


def test_intra_is_the_angle_to_the_own_class_over_pi():
    embeddings, weights, labels = batch(classes=7, dim=3)  # more classes than dimensions
    wanted = in_numpy.angles(embeddings, weights)[np.arange(9), labels] / np.pi
    found = jax.jit(intra_penalty)(embeddings, weights, labels)
    np.testing.assert_allclose(found, wanted, atol=2e-6)


def test_inter_is_minus_the_mean_angle_between_weights_over_pi():
    _, weights, labels = batch()
    wanted = in_numpy.inter(weights, labels)
    np.testing.assert_allclose(jax.jit(inter_penalty)(weights, labels), wanted, atol=2e-6)


def test_inter_is_least_on_a_simplex():
    simplex = np.eye(5) - 0.2
    found = jax.jit(inter_penalty)(simplex, np.arange(5))
    np.testing.assert_allclose(found, -np.arccos(-0.25) / np.pi, atol=2e-6)


def test_the_papers_combinations():

    @jax.jit
    def program(e, w, y):
        softmax = margin_softmax_loss(e, w, y, psi=normface())
        with_arcface = margin_softmax_loss(e, w, y, psi=arcface())
        intra, inter = intra_penalty(e, w, y), inter_penalty(w, y)
        hard = angular_triplet_loss(e, y, margin=0.3, mining="hard")
        cases = (
            ({"psi": normface(), "intra_weight": 1.0}, softmax + intra),
            ({"psi": normface(), "inter_weight": 1.0}, softmax + inter),
            ({"intra_weight": 1.0, "inter_weight": 2.0}, with_arcface + intra + 2 * inter),
            ({"triplet_weight": 1.0, "triplet_margin": 0.3, "mining": "hard"}, with_arcface + hard),
            ({}, with_arcface),
        )
        return [(combination_loss(e, w, y, **options), wanted) for options, wanted in cases]

    for found, wanted in program(*batch()):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_ignored_rows_and_coinciding_vectors_have_finite_gradients():
    embeddings, weights, labels = batch()
    weights[1] = weights[0]
    embeddings[0] = weights[labels[0]]
    labels[3] = -1
    embeddings[3] = np.nan

    def total(e, w):
        each = dict.fromkeys(("intra_weight", "inter_weight", "triplet_weight"), 1.0)
        loss = combination_loss(e, w, labels, **each)
        return loss.sum(), loss

    run = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))
    gradients, loss = jax.device_get(run(embeddings, weights))
    assert loss[3] == 0.0
    assert all(np.isfinite(g).all() for g in gradients)
    assert not gradients[0][3].any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e, w, y: combination_loss(e, w, y, triplet_weight=1.0, mining="easy"), "mining is"),
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
        jax.eval_shape(lambda: call(*batch()))


def test_distillation_is_one_minus_the_cosine_with_the_teacher():
    random = np.random.default_rng(0)
    rows, taught = random.normal(size=(2, 5, 4))
    taught[0] = 3 * rows[0]
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(taught, axis=1)
    wanted = 1 - (rows * taught).sum(axis=1) / norms

    def mean(rows, taught):
        return distillation_penalty(rows, taught).mean()

    np.testing.assert_allclose(distillation_penalty(rows, taught), wanted, atol=1e-6)
    own, of_teacher = jax.grad(mean, argnums=(0, 1))(rows.astype(np.float32), taught)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    towards = taught / np.linalg.norm(taught, axis=1, keepdims=True)
    slope = -(towards - unit * (1 - wanted)[:, None]) / np.linalg.norm(rows, axis=1)[:, None] / 5
    np.testing.assert_allclose(own, slope, atol=1e-6)
    assert not np.any(of_teacher)
    with pytest.raises(InputError, match=r"of shape \(5, 3\), but the embeddings are \(5, 4\)"):
        distillation_penalty(rows, taught[:, :3])
