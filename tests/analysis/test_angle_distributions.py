import numpy as np
import pytest

from arcface_jax.analysis.angle_distributions import angle_density, logits_of_angles, target_angles
from arcface_jax.errors import InputError
from arcface_jax.margins import arcface


def test_known_angles_whatever_the_lengths():
    centres = np.array([[3.0, 0.0], [0.0, 0.1]], np.float32)
    embeddings = np.array([[2.0, 0.0], [0.0, 5.0], [1.0, 1.0], [-4.0, 0.0]], np.float32)
    degrees = target_angles(embeddings, centres, np.array([0, 0, 1, 0]))
    np.testing.assert_allclose(degrees, [0.0, 90.0, 45.0, 180.0], atol=1e-4)


def test_against_float64_numpy():
    random = np.random.default_rng(0)
    embeddings, centres, labels = (
        random.normal(size=(50, 16)),
        random.normal(size=(7, 16)),
        random.integers(0, 7, 50),
    )
    lengths = np.linalg.norm(embeddings, axis=1) * np.linalg.norm(centres[labels], axis=1)
    expected = np.degrees(np.arccos(np.sum(embeddings * centres[labels], axis=1) / lengths))
    found = target_angles(embeddings.astype(np.float32), centres.astype(np.float32), labels)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_density_has_area_one_even_at_the_ends():
    grid = np.linspace(0.0, 180.0, 3601)
    for degrees in ([0.0], [180.0], [1.0, 90.0, 179.5]):
        density = angle_density(np.array(degrees), grid, bandwidth=2.0)
        assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=1e-6)
    middle = angle_density(np.array([90.0]), np.array([90.0, 92.0]), bandwidth=2.0)
    np.testing.assert_allclose(middle, np.exp([0.0, -0.5]) / (2.0 * np.sqrt(2 * np.pi)), rtol=1e-12)
    with pytest.raises(InputError, match="at least one"):
        angle_density(np.zeros(0), grid)


def test_target_logits_are_the_papers_curve():
    found = logits_of_angles(np.array([20.0, 60.0, 90.0, 100.0]), arcface(0.5))
    np.testing.assert_allclose(found, [0.6607, 0.0236, -0.4794, -0.6245], atol=6e-5)
