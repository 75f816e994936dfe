"""MagFace: its rules, its reward for length, its limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.losses import (
    magface_loss,
    magface_margins,
    magface_psi,
    magface_regulariser,
)
from tests import in_numpy


@pytest.mark.parametrize("past_pi", ["easy", "linear"])
def test_both_rules_of_the_authors(data, past_pi):
    embeddings, weights, labels = data
    norms, cosine = np.linalg.norm(embeddings, axis=1), in_numpy.cosines(embeddings, weights)
    target, penalty = in_numpy.magface(in_numpy.own(cosine, labels), norms, past_pi)
    wanted = in_numpy.cross_entropy(cosine, labels, target) + penalty
    loss = jax.jit(functools.partial(magface_loss, past_pi=past_pi))(embeddings, weights, labels)
    np.testing.assert_allclose(loss, wanted, rtol=2e-5)


def test_the_margin_grows_linearly_between_its_limits():
    margins = jax.jit(magface_margins)(np.float32([5.0, 10.0, 60.0, 110.0, 500.0]))
    np.testing.assert_allclose(margins, [0.45, 0.45, 0.625, 0.8, 0.8], rtol=1e-6)


def test_length_is_rewarded_and_the_gradient_goes_through_it():
    norms = np.array([20.0, 60.0, 109.0, 200.0, 5.0])
    slope = jax.jit(jax.vmap(jax.grad(magface_regulariser)))(norms)
    np.testing.assert_allclose(
        slope, np.where((norms > 10) & (norms < 110), -1 / norms**2 + 1 / 110**2, 0), atol=1e-8
    )
    own = lambda a: magface_psi(a)(jnp.asarray([0.5]))[0]  # noqa: E731
    slope = jax.jit(jax.grad(own))(np.array([60.0]))
    margin = 0.45 + 0.0035 * 50
    assert float(slope[0]) == pytest.approx(-np.sin(np.arccos(0.5) + margin) * 0.0035, rel=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda e, w, y: magface_margins(e[:, 0], upper_norm=5.0),
            "upper_norm is 5; pass a number above lower_norm, 10",
        ),
        (lambda e, w, y: magface_psi(e[:, 0], lower_norm=0.0), "lower_norm is 0"),
        (lambda e, w, y: magface_regulariser(e[:, 0], lower_norm=-1.0), "lower_norm is -1"),
        (lambda e, w, y: magface_margins(e[:, 0], upper_margin=0.1), r"upper_margin is 0\.1"),
        (lambda e, w, y: magface_loss(e, w, y, regulariser_weight=-1.0), "regulariser_weight is"),
        (lambda e, w, y: magface_loss(e, w, y + 9), r"labels\[0\] is"),
    ],
)
def test_bad_input_is_named(data, call, message):
    with pytest.raises(InputError, match=message):
        call(*data)
