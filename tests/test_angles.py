"""Angles from cosines: close to arccos, with finite slopes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arcface_jax.cosine import angle
from arcface_jax.margins import guarded_sine, multiple_angle, straight_through


def test_angle_is_arccos_with_a_finite_slope():
    theta = np.linspace(0.01, np.pi - 0.01, 100)
    with jax.enable_x64(True):
        # 5e-7/tanθ to first order; the next order matters only within a degree of the poles.
        np.testing.assert_allclose(angle(jnp.cos(theta)), theta + 5e-7 / np.tan(theta), atol=2e-7)
    assert float(angle(jnp.float32(1.0))) == pytest.approx(1e-3, rel=1e-3)
    assert float(jax.grad(angle)(1.0)) == pytest.approx(-1000, rel=1e-3)
    assert float(jax.grad(guarded_sine)(-1.0)) == pytest.approx(1000, rel=1e-3)


def test_the_sine_is_accurate_near_the_poles_and_real_beyond_them():
    # 1 − cos² formed by squaring would lose half of the digits here.
    cosine = np.float32(1 - 2.0**-22)
    exact = np.sqrt((1 - np.float64(cosine)) * (1 + np.float64(cosine)) + 1e-6)
    assert float(guarded_sine(jnp.asarray(cosine))) == pytest.approx(exact, rel=1e-6)
    assert float(guarded_sine(jnp.float32(1.00001))) == pytest.approx(1e-3, rel=1e-6)
    assert float(jax.grad(guarded_sine)(1.00001)) == 0.0


@pytest.mark.parametrize("factor", [1.0, 2.0, 5.0, 1.35, 0.5])
def test_multiple_angles(factor):
    theta = np.linspace(0, np.pi, 50)
    with jax.enable_x64(True):
        cosine, sine = multiple_angle(jnp.cos(theta), jnp.sin(theta), factor)
    np.testing.assert_allclose(cosine, np.cos(factor * theta), atol=1e-12)
    np.testing.assert_allclose(sine, np.sin(factor * theta), atol=1e-12)


def test_straight_through_has_the_value_of_one_and_the_slope_of_the_other():
    function = lambda x: straight_through(2.0 * x, x**3)  # noqa: E731
    for differentiate in (jax.grad, jax.jacfwd):
        assert float(function(3.0)) == 27.0
        assert float(differentiate(function)(3.0)) == 2.0
