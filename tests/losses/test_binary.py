"""SphereFace2 and UniFace against float64 NumPy."""

import functools
import math

import jax
import numpy as np
import pytest
from jax.test_util import check_grads

from arcface_jax.errors import InputError
from arcface_jax.losses import (
    power_similarity,
    sphereface2_bias,
    sphereface2_loss,
    uniface_bias,
    uniface_loss,
)
from arcface_jax.margins import arcface
from tests import in_numpy


def batch(seed=0, rows=6, classes=5, dim=8):
    generator = np.random.default_rng(seed)
    return (
        generator.normal(size=(rows, dim)),
        generator.normal(size=(classes, dim)),
        generator.integers(0, classes, rows),
    )


def test_sphereface2():
    embeddings, weights, labels = batch()
    r, m, t, balance, bias = 30.0, 0.4, 3.0, 0.7, -2.0
    similar = 2 * ((in_numpy.cosines(embeddings, weights) + 1) / 2) ** t - 1
    positive, negative = (r * (similar + sign * m) + bias for sign in (-1, 1))
    wanted = in_numpy.binary(positive, negative, labels, (balance / r, (1 - balance) / r))
    options = {"scale": r, "margin": m, "exponent": t, "balance": balance}
    loss = jax.jit(functools.partial(sphereface2_loss, **options))(*batch(), bias)
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)


@pytest.mark.parametrize("psi", [None, arcface(0.3)])
def test_uniface_with_its_margin_and_with_any_other(psi):
    embeddings, weights, labels = batch()
    cosine = in_numpy.cosines(embeddings, weights)
    scale = np.linspace(8.0, 16.0, 6)
    target = cosine - 0.4 if psi is None else np.cos(np.arccos(cosine) + 0.3)
    s = scale[:, None]
    wanted = in_numpy.binary(s * target - 3.0, s * cosine - 3.0, labels, (1.0, 0.5))
    options = {"scale": scale, "negative_weight": 0.5, "psi": psi}
    loss = jax.jit(functools.partial(uniface_loss, **options))(*batch(), 3.0)
    np.testing.assert_allclose(loss, wanted, rtol=2e-5)


@pytest.mark.parametrize("gradient", ["exact", "straight_through"])
def test_gradients(gradient):
    embeddings, weights, labels = batch()
    if gradient == "exact":
        with jax.enable_x64(True):
            check_grads(
                jax.jit(
                    lambda e, w, b: (
                        sphereface2_loss(e, w, labels, b, scale=5)
                        + uniface_loss(e, w, labels, b, scale=5)
                    )
                ),
                (embeddings, weights, 0.5),
                order=1,
                modes=["rev"],
                atol=1e-5,
                rtol=1e-5,
            )
    slope_of = jax.grad(lambda c: power_similarity(c, 3.0, gradient=gradient))
    slope = jax.jit(jax.vmap(slope_of))(np.float32([-1.0, 0.0, 1.0]))
    assert slope.tolist() == ([0.0, 0.75, 3.0] if gradient == "exact" else [1.0, 1.0, 1.0])


def test_a_cosine_below_minus_one_by_rounding_is_no_nan():
    both = jax.jit(jax.value_and_grad(lambda c: power_similarity(c, 2.5)))
    assert np.isfinite(both(np.float32(-1 - 1e-6))).all()


@pytest.mark.parametrize("classes", [2, 100, 85_742])
def test_the_starting_bias_balances_the_classes(classes):
    settings = {"balance": 0.7, "scale": 40.0, "margin": 0.4, "exponent": 3.0}
    bias = sphereface2_bias(classes, **settings)
    similarity = 2 * 0.5**3 - 1
    pull = 0.7 / (1 + math.exp(40 * (similarity - 0.4) + bias))
    push = 0.3 * (classes - 1) / (1 + math.exp(-40 * (similarity + 0.4) - bias))
    assert pull == pytest.approx(push, rel=1e-9)
    assert uniface_bias(classes) == pytest.approx(math.log(10 * classes))


def test_ignored_rows():
    embeddings, weights, _ = batch()
    labels = np.full(6, -1)
    embeddings[:] = np.nan
    for loss in (sphereface2_loss, uniface_loss):
        total = lambda w, loss=loss: loss(embeddings, w, labels, 0.0).sum()  # noqa: E731
        value, gradient = jax.jit(jax.value_and_grad(total))(weights)
        assert value == 0
        assert not gradient.any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda e, w, y: sphereface2_loss(e, w, y, 0.0, balance=0.0),
            r"balance is 0; pass a number in \(0, 1\]",
        ),
        (lambda e, w, y: sphereface2_loss(e, w, y, 0.0, scale=-1.0), "scale is -1"),
        (lambda e, w, y: sphereface2_loss(e, w, y, 0.0, margin=-0.4), r"margin is -0\.4"),
        (lambda e, w, y: sphereface2_loss(e, w, y, 0.0, exponent=0.5), r"exponent is 0\.5"),
        (lambda e, w, y: sphereface2_loss(e, w, y, 0.0, gradient="none"), "gradient is 'none'"),
        (lambda e, w, y: sphereface2_loss(e, w, y, np.zeros(5)), r"bias has shape \(5,\)"),
        (lambda e, w, y: sphereface2_bias(1), "num_classes is 1"),
        (lambda e, w, y: sphereface2_bias(10, balance=1.0), "balance is 1"),
        (lambda e, w, y: uniface_loss(e, w, y, 0.0, scale=0.0), "scale is 0"),
        (lambda e, w, y: uniface_loss(e, w, y, 0.0, negative_weight=0.0), "negative_weight is 0"),
        (lambda e, w, y: uniface_loss(e, w, y + 5, 0.0), r"labels\[0\] is"),
        (lambda e, w, y: uniface_bias(0), "num_classes is 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call(*batch())
