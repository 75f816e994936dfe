import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface_jax.analysis import neighbours
from arcface_jax.analysis.neighbours import (
    kept_neighbours,
    nearest_classes,
    principal_plane,
    tsne_plane,
)
from arcface_jax.errors import InputError

RNG = np.random.default_rng(0)


def people(count=4, images=6, dim=5, noise=0.3):
    labels = np.repeat(np.arange(count), images)
    embeddings = RNG.normal(size=(count, dim))[labels] + noise * RNG.normal(
        size=(count * images, dim)
    )
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    centres = np.stack([embeddings[labels == person].mean(0) for person in range(count)])
    return embeddings, labels, centres / np.linalg.norm(centres, axis=1, keepdims=True)


def test_pairs_of_classes_and_mistakes_are_counted_by_hand():
    embeddings, labels, centres = people()
    found = nearest_classes(embeddings, labels, centres, 0.3, count=100)
    slow = sorted(
        ((float(centres[i] @ centres[j]), i, j) for i in range(4) for j in range(i + 1, 4)),
        key=lambda pair: -pair[0],
    )
    assert [(i, j) for _, i, j in slow] == list(
        zip(found.first.tolist(), found.second.tolist(), strict=True)
    )
    np.testing.assert_allclose(found.cosine, [cosine for cosine, _, _ in slow])
    for k, (_, i, j) in enumerate(slow):
        accepted = [a @ b >= 0.3 for a in embeddings[labels == i] for b in embeddings[labels == j]]
        assert found.mistakes[k] == pytest.approx(np.mean(accepted))
    assert len(nearest_classes(embeddings, labels, centres, 0.3, count=2).first) == 2


def test_a_class_without_images_has_no_rate():
    embeddings, labels, centres = people()
    found = nearest_classes(embeddings[labels != 3], labels[labels != 3], centres, 0.0, count=6)
    with_it = (found.first == 3) | (found.second == 3)
    assert np.isnan(found.mistakes[with_it]).all()
    assert np.isfinite(found.mistakes[~with_it]).all()


@settings(max_examples=25)
@given(st.integers(2, 30), st.integers(2, 6), st.integers(0, 2**31))
def test_no_plane_has_more_variance_than_the_principal_one(count, dim, seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, dim)) * rng.uniform(0.1, 3.0, dim)
    plane = principal_plane(points)
    eigenvalues = np.sort(np.linalg.eigvalsh(np.cov(points.T)))[::-1]
    np.testing.assert_allclose(plane.var(axis=0, ddof=1), eigenvalues[:2], atol=1e-9)
    np.testing.assert_allclose(principal_plane(points @ np.diag(np.ones(dim))), plane)


def test_kept_neighbours_are_counted():
    points = RNG.normal(size=(30, 2))
    assert kept_neighbours(points, 3.0 * points + 1.0, k=4) == 1.0
    plane = RNG.normal(size=(30, 2))

    def near(x, i):
        distance = np.linalg.norm(x - x[i], axis=1)
        return set(np.argsort(distance)[1:5])

    expected = np.mean([len(near(points, i) & near(plane, i)) / 4 for i in range(30)])
    assert kept_neighbours(points, plane, k=4) == pytest.approx(expected)


def test_tsne_keeps_people_together():
    pytest.importorskip("sklearn")
    embeddings, _, _ = people(count=4, images=8, dim=16, noise=0.05)
    plane = tsne_plane(embeddings, perplexity=6)
    assert plane.shape == (32, 2)
    assert kept_neighbours(embeddings, plane, k=6) > 0.6 > 3 * 6 / 31
    np.testing.assert_array_equal(tsne_plane(embeddings, perplexity=6), plane)
    with pytest.raises(InputError, match="perplexity: 90 of 32"):
        tsne_plane(embeddings, perplexity=90)


def test_tsne_says_what_to_install(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(neighbours.importlib, "import_module", missing)
    with pytest.raises(InputError, match="pip install scikit-learn"):
        tsne_plane(np.ones((30, 4)))


def test_bad_arrays_are_named():
    with pytest.raises(InputError, match="do not fit"):
        nearest_classes(np.eye(3), np.arange(2), np.eye(3), 0.5)
    with pytest.raises(InputError, match="labels: 0 … 3 for 3 centres"):
        nearest_classes(np.ones((2, 3)), np.array([0, 3]), np.eye(3), 0.5)
    with pytest.raises(InputError, match="points: shape"):
        principal_plane(np.ones((1, 3)))
    with pytest.raises(InputError, match="do not fit"):
        kept_neighbours(np.eye(3), np.ones((2, 2)))
    with pytest.raises(InputError, match="k: 3 neighbours among 3"):
        kept_neighbours(np.eye(3), np.ones((3, 2)), k=3)
