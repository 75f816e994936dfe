"""The margins of fixed numbers: their warm-up, their formulas, NormFace's learnt scale."""

import functools

import jax
import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.losses import (
    CM1,
    CM2,
    ArcFace,
    Context,
    CosFace,
    NormFace,
    SphereFace,
    margin_softmax_loss,
    normface_loss,
)
from arcface_jax.margins import arcface, cm1, cm2, cosface, normface, sphereface
from tests.in_numpy import cosines, own


@pytest.mark.parametrize(
    ("loss", "psi"),
    [
        (ArcFace(), arcface()),
        (ArcFace(margin=0.3, past_pi="linear"), arcface(0.3, past_pi="linear")),
        (SphereFace(gradient="straight_through"), sphereface(gradient="straight_through")),
        (CosFace(), cosface()),
        (CM1(past_pi="clip"), cm1(past_pi="clip")),
        (CM2(), cm2()),
        (NormFace(), normface()),
    ],
)
def test_the_margin_is_the_one_of_its_name(loss, psi):
    assert loss.psi(Context()) == psi


def test_a_margin_rises_over_its_warm_up():
    cosine = np.linspace(-0.6, 0.9, 5)
    loss, steep = CM1(margin_warmup=0.5), CM2(m1=2.0, m2=0.0, m3=0.0, margin_warmup=0.5)

    @functools.partial(jax.jit, static_argnums=0)
    def psi_of(loss, step):
        return loss.psi(Context(step=step, total_steps=20))(cosine)

    for step, share in ((0, 0.0), (5, 0.5), (10, 1.0), (15, 1.0)):
        expected = np.cos(np.arccos(cosine) + 0.3 * share) - 0.2 * share
        np.testing.assert_allclose(psi_of(loss, step), expected, atol=2e-6)
        expected = np.cos((1.0 + share) * np.arccos(cosine))
        np.testing.assert_allclose(psi_of(steep, step), expected, atol=1e-5)


@pytest.mark.parametrize("head", [{}, {"chunk": 2}])
def test_the_exact_gradient_comes_later(data, head):
    embeddings, weights, labels = data
    loss = ArcFace(scale=8.0, exact_from=0.5, margin_warmup=0.25)

    @functools.partial(jax.jit, static_argnums=0)
    def of(loss, step):
        def total(embeddings, weights):
            context = Context(step=step, total_steps=20)
            out = loss({"class_weights": weights}, {}, embeddings, labels, context, **head)
            return out.loss.sum()

        return jax.value_and_grad(total, argnums=(0, 1))(embeddings, weights)

    for step, gradient in ((2, "straight_through"), (9, "straight_through"), (10, "exact")):
        plain = ArcFace(scale=8.0, margin_warmup=0.25, gradient=gradient)
        for found, expected in zip(
            jax.tree.leaves(of(loss, step)), jax.tree.leaves(of(plain, step)), strict=True
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_gradient_that_is_never_exact_cannot_become_so():
    with pytest.raises(InputError, match=r"exact_from is 0\.5, but gradient straight_through is"):
        CM1(exact_from=0.5, gradient="straight_through")


def test_the_first_loss_of_a_warm_up_is_without_a_margin():
    without = NormFace(scale=16.0).expected_initial_loss(100, 64)
    for loss in (ArcFace(scale=16.0, margin_warmup=0.1), CM2(scale=16.0, margin_warmup=1.0)):
        assert loss.expected_initial_loss(100, 64) == pytest.approx(without, rel=1e-5)


def test_what_people_read():
    assert str(ArcFace()) == "64·cos(θ + 0.5)"
    assert str(CM1(scale=16.0, sub_centers=3)) == "16·(cos(θ + 0.3) − 0.2), 3 sub-centres"
    assert str(SphereFace(past_pi="reflect")) == "64·cos(1.35·θ), past π: reflect"
    assert str(CosFace(margin_warmup=0.1)) == (
        "64·(cos(θ) − 0.35), margin rising over 10% of the run"
    )
    assert str(ArcFace(exact_from=0.5)) == (
        "64·cos(θ + 0.5), straight-through gradient for 50% of the run"
    )
    assert str(NormFace(learn_scale=True)) == "64·cos(θ), s learnt"


def test_normface_learns_its_scale(data):
    embeddings, weights, labels = data
    cosine = cosines(embeddings, weights)
    p = np.exp(7.0 * cosine)
    p /= p.sum(axis=1, keepdims=True)
    wanted_slope = 7.0 * ((p * cosine).sum(axis=1) - own(cosine, labels))  # dL/d ln s

    @jax.jit
    def program(e, w, y, log_scale):
        loss = lambda s: normface_loss(e, w, y, s)  # noqa: E731
        wanted = margin_softmax_loss(e, w, y, psi=normface(), scale=7.0)
        return (loss(log_scale), wanted), jax.jacfwd(loss)(log_scale)

    losses, slope = program(embeddings, weights, labels, np.log(7.0))
    np.testing.assert_allclose(*losses, rtol=1e-5)
    np.testing.assert_allclose(slope, wanted_slope, atol=1e-4)


@pytest.mark.parametrize("chunk", [None, 2])
def test_the_object_that_learns_its_scale_is_the_function(data, chunk):
    embeddings, weights, labels = data
    loss = NormFace(scale=9.0, learn_scale=True, label_smoothing=0.1)
    with jax.enable_x64(True):
        params = jax.jit(lambda: loss.init_params(jax.random.key(0), 5, 6))()
        np.testing.assert_allclose(np.exp(params["log_scale"]), 9.0, rtol=1e-6)

        def of_object(w, s):
            params = {"class_weights": w, "log_scale": s}
            return loss(params, {}, embeddings, labels, chunk=chunk).loss.sum()

        def of_function(w, s):
            return normface_loss(embeddings, w, labels, s, label_smoothing=0.1).sum()

        arguments = weights, np.float64(params["log_scale"])
        found, wanted = (
            jax.jit(jax.value_and_grad(f, argnums=(0, 1)))(*arguments)
            for f in (of_object, of_function)
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), found, wanted)


def test_bad_input_is_named(data):
    with pytest.raises(InputError, match=r"log_scale has shape \(2,\)"):
        normface_loss(*data, np.zeros(2))
    with pytest.raises(InputError, match=r"labels\[0\] is"):
        normface_loss(*data[:2], data[2] + 9, 1.0)
