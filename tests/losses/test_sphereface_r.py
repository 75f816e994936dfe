"""SphereFace-R: values by hand, and the gradient that is detached."""

import jax
import numpy as np
import pytest

from arcface_jax.losses import Context, SphereFaceR, SphereFaceRV2, divided_angle

DEGREES = [20, 30, 60, 90, 100, 130]
V1 = [0.866025, 0.707107, 0.0, -0.707107, -0.866025, -1.0]  # cos(min(1.5·θ, 180°))
V2 = [0.973045, 0.939693, 0.766044, 0.5, 0.396080, 0.058145]  # cos(θ/1.5)


@pytest.mark.parametrize("gradient", ["exact", "straight_through"])
def test_both_versions(gradient):
    theta = np.deg2rad(DEGREES)
    first = SphereFaceR(gradient=gradient).psi(Context())
    second = SphereFaceRV2(gradient=gradient).eta(Context())
    with jax.enable_x64(True):
        both = jax.jit(lambda c: [jax.vjp(f, c)[0] for f in (first, second)])(np.cos(theta))
        slopes = jax.jit(jax.vmap(jax.grad(lambda c: first(c) + second(c))))(np.cos(theta))
    np.testing.assert_allclose(both[0], V1, atol=1e-4)
    np.testing.assert_allclose(both[1], V2, atol=1e-5)
    v1 = np.where(1.5 * theta < np.pi, 1.5 * np.sin(1.5 * theta) / np.sin(theta), 0.0)
    exact = v1 + np.sin(theta / 1.5) / (1.5 * np.sin(theta))
    np.testing.assert_allclose(slopes, exact if gradient == "exact" else 2.0, rtol=1e-5)


def test_slopes_are_finite_at_the_poles():
    cosine = np.float32([-1 - 1e-6, -1.0, 1.0, 1 + 1e-6])
    slope = jax.jit(jax.vmap(jax.grad(lambda c: divided_angle(c, 1.5))))(cosine)
    assert np.isfinite(slope).all()
