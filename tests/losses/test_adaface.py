"""AdaFace: its running statistics, its limits, padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.losses import (
    AdaFaceState,
    adaface_init,
    adaface_loss,
    adaface_psi,
    adaface_update,
)
from arcface_jax.losses.statistics import batch_statistics
from arcface_jax.margins import arcface, cosface
from tests import in_numpy


def test_two_steps(data):
    embeddings, weights, labels = data
    norms = np.linalg.norm(embeddings, axis=1)
    cosine = in_numpy.cosines(embeddings, weights)
    state, numbers = adaface_init(), (20.0, 100.0)
    step = jax.jit(adaface_loss)
    for _ in range(2):
        loss, state = step(embeddings, weights, labels, state)
        target, *numbers = in_numpy.adaface(in_numpy.own(cosine, labels), norms, *numbers)
        wanted = in_numpy.cross_entropy(cosine, labels, target)
        np.testing.assert_allclose(loss, wanted, rtol=2e-5, atol=1e-5)
        np.testing.assert_allclose(state, numbers, rtol=1e-6)


def test_one_example_has_no_deviation():
    count, mean, deviation = batch_statistics(jnp.array([3.0, 9.0]), jnp.array([True, False]))
    assert (count, mean, deviation) == (1.0, 3.0, 0.0)


def test_it_is_arcface_for_a_poor_image_and_cosface_for_an_average_one():
    state = AdaFaceState(np.float32(50.0), np.float32(1.0))

    @jax.jit
    def program(norms, cosine):
        psi = adaface_psi(norms, state, margin=0.4)
        return psi(cosine), arcface(0.4)(cosine[0]), cosface(0.4)(cosine[0])

    found, *wanted = program(np.float32([1.0, 50.0, 99.0]), np.float32([0.3, 0.3, 0.3]))
    good = np.cos(np.arccos(0.3) - 0.4) - 0.8
    np.testing.assert_allclose(found, [*wanted, good], atol=2e-6)


def test_it_clips_the_angle_at_both_ends():
    state = AdaFaceState(np.float32(50.0), np.float32(1.0))

    @jax.jit
    def program(norms, cosine):
        slope = jax.grad(lambda c: adaface_psi(norms[0], state)(c))
        return adaface_psi(norms, state)(cosine), slope(cosine[0])

    # Angle − 0.4 and angle + 0.4.
    found, slope = program(np.float32([99.0, 1.0]), np.float32(np.cos([0.1, np.pi - 0.1])))
    np.testing.assert_allclose(found, [np.cos(1e-3) - 0.8, np.cos(np.pi - 1e-3)], atol=1e-6)
    assert slope == 0


def test_it_ignores_padding_and_survives_small_batches(data):
    embeddings, weights, labels = data
    state = adaface_init()
    step = jax.jit(adaface_loss)
    loss, new = step(embeddings, weights, labels, state)
    padded = np.concatenate([embeddings, np.full((3, 6), np.nan)])
    padded_loss, padded_new = step(padded, weights, np.concatenate([labels, [-1] * 3]), state)
    np.testing.assert_allclose(padded_loss, np.concatenate([loss, [0, 0, 0]]), rtol=1e-6)
    np.testing.assert_allclose(padded_new, new, rtol=1e-6)
    total = lambda w: adaface_loss(padded, w, np.concatenate([labels, [-1] * 3]), state)[0].sum()  # noqa: E731
    gradient = jax.jit(jax.grad(total))(weights)
    assert np.isfinite(gradient).all()
    update, ones = jax.jit(adaface_update), np.ones(2, np.float32)
    nothing = update(state, ones, np.array([False, False]))
    assert (float(nothing.mean), float(nothing.std)) == (20.0, 100.0)
    single = update(state, ones, np.array([True, False]))  # one value has no deviation
    assert (float(single.mean), float(single.std)) == (pytest.approx(19.81), 100.0)


def test_no_gradient_through_the_lengths(data):
    embeddings, weights, labels = data
    total = lambda e: adaface_loss(e, weights, labels, adaface_init())[0].sum()  # noqa: E731
    gradient = np.asarray(jax.jit(jax.grad(total))(embeddings))
    along = np.sum(gradient * embeddings, axis=1)
    largest = np.abs(gradient).max() * np.abs(embeddings).max()
    np.testing.assert_allclose(along, 0.0, atol=1e-3 * largest)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e, w, y: adaface_loss(e, w, y, adaface_init(), margin=-0.1), r"margin is -0\.1"),
        (lambda e, w, y: adaface_loss(e, w, y, adaface_init(), ema=1.5), r"ema is 1\.5"),
        (lambda e, w, y: adaface_loss(e, w, y + 9, adaface_init()), r"labels\[0\] is"),
        (lambda e, w, y: adaface_psi(e[:, 0], adaface_init(), concentration=0), "concentration is"),
        (lambda e, w, y: adaface_update(adaface_init(), e[:, 0], y >= 0, ema=-1), "ema is -1"),
        (lambda e, w, y: adaface_init(std=-1.0), "std is -1"),
    ],
)
def test_bad_input_is_named(data, call, message):
    with pytest.raises(InputError, match=message):
        call(*data)
