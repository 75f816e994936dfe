"""UniTSFace's pairs: by hand, pair by pair, and where it starts."""

import functools

import jax
import numpy as np
import pytest
from jax.test_util import check_grads

from arcface_jax.errors import InputError
from arcface_jax.losses import uss_bias, uss_loss
from tests import in_numpy


def test_two_people_by_hand():
    """Cosines 0.6 of the pair and 0, 0.8 to the other: γ = 10, m = 0.1, b = 4."""
    e, y = np.float32([[1, 0], [0.6, 0.8], [0, 1]]), np.array([3, 3, 5])
    soft = lambda x: np.log1p(np.exp(x))  # noqa: E731
    wanted = [soft(-1.0) + soft(-4.0), soft(-1.0) + soft(4.0), soft(-4.0) + soft(4.0)]
    found = jax.jit(functools.partial(uss_loss, scale=10.0))(e, y, np.float32(4.0))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_the_gradient_and_rows_to_ignore():
    generator = np.random.default_rng(0)
    e, y = generator.normal(size=(9, 5)), np.array([0, 0, 0, 1, 1, 2, -1, 3, 3])
    with jax.enable_x64(True):
        run = jax.jit(lambda e, b: uss_loss(e, y, b, scale=5.0))
        np.testing.assert_allclose(run(e, 2.0), in_numpy.uss(e, y, 2.0, 5.0, 0.1), rtol=1e-12)
        check_grads(run, (e, 2.0), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)
        e[6] = np.nan
        slope = jax.jit(jax.grad(lambda e: uss_loss(e, y, 2.0).sum()))(e)
    assert not slope[6].any()
    assert np.isfinite(slope).all()


def test_the_bias_starts_where_the_authors_does():
    """Near the mean of ln Σ e^{γ·cosθ} over C random directions."""
    generator = np.random.default_rng(0)
    cosines = in_numpy.unit(generator.normal(size=(1000, 512)))[:, 0]
    measured = np.log(np.exp(64 * cosines).sum())
    assert uss_bias(1000, 512, 64.0) == pytest.approx(measured, rel=0.1)
    assert uss_bias(1000, 8, 64.0) == 32.0  # a threshold above 0.5 helps nobody


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.0}, "scale is 0"),
        ({"margin": -0.1}, "margin is -0.1"),
        ({"bias": np.zeros(3)}, r"bias has shape \(3,\)"),
        ({"labels": np.array([0, -2])}, r"labels\[1\] is -2"),
    ],
)
def test_bad_input_is_named(options, message):
    arguments = {"embeddings": np.eye(2), "labels": np.array([0, 1]), "bias": 0.0, **options}
    with pytest.raises(InputError, match=message):
        uss_loss(**arguments)
