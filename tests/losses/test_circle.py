"""Circle loss over classes: values and slopes by hand."""

import jax
import numpy as np

from arcface_jax.losses import Circle, Context, circle_eta, circle_psi


def test_values_and_slopes():
    cosine = np.float32([1.0, 0.75, 0.5, 0.0, -0.25, -0.5])
    psi, eta = Circle().psi(Context()), Circle().eta(Context())
    found = jax.jit(lambda c: [(f(c), jax.vmap(jax.grad(f))(c)) for f in (psi, eta)])(cosine)
    (target, pull), (wrong, push) = found
    np.testing.assert_allclose(target, [0.0625, 0.0, -0.1875, -0.9375, -1.5, -2.1875], atol=1e-6)
    np.testing.assert_allclose(pull, [0.25, 0.5, 0.75, 1.25, 1.5, 1.75], atol=1e-6)  # 1.25 − cosθ
    np.testing.assert_allclose(wrong, [0.9375, 0.5, 0.1875, -0.0625, 0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(push, [1.25, 1.0, 0.75, 0.25, 0.0, 0.0], atol=1e-6)  # cosθ + 0.25


def test_the_boundary_is_the_papers_circle():
    """η − ψ = cosθ_n² + (1 − cosθ_p)² − 2m²: 0 on a circle of radius √2·m."""
    m, turn = 0.25, np.linspace(0.1, 1.4, 7)
    wrong, target = np.sqrt(2) * m * np.cos(turn), 1 - np.sqrt(2) * m * np.sin(turn)
    np.testing.assert_allclose(circle_eta(wrong, m), circle_psi(target, m), atol=1e-6)
