import numpy as np

from arcface_jax.analysis.angle_distributions import target_angles


def test_known_angles_whatever_the_lengths():
    centres = np.array([[3.0, 0.0], [0.0, 0.1]], np.float32)
    embeddings = np.array([[2.0, 0.0], [0.0, 5.0], [1.0, 1.0], [-4.0, 0.0]], np.float32)
    degrees = target_angles(embeddings, centres, np.array([0, 0, 1, 0]))
    np.testing.assert_allclose(degrees, [0.0, 90.0, 45.0, 180.0], atol=1e-4)


def test_against_float64_numpy():
    random = np.random.default_rng(0)
    embeddings, centres, labels = random.normal(size=(50, 16)), random.normal(size=(7, 16)), random.integers(0, 7, 50)
    lengths = np.linalg.norm(embeddings, axis=1) * np.linalg.norm(centres[labels], axis=1)
    expected = np.degrees(np.arccos(np.sum(embeddings * centres[labels], axis=1) / lengths))
    found = target_angles(embeddings.astype(np.float32), centres.astype(np.float32), labels)
    np.testing.assert_allclose(found, expected, atol=1e-3)
