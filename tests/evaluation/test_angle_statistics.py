import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface_jax.errors import InputError
from arcface_jax.evaluation.angle_statistics import (
    angle_statistics,
    class_centres,
    degrees_between,
    effective_dimensions,
    nearest_other_degrees,
)
from tests.evaluation import slow


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_statistics_equal_their_definitions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.append(np.arange(5), rng.integers(0, 5, 20)))
    embeddings = rng.normal(size=(25, 4))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    weights = rng.normal(size=(5, 4)) * 7
    centres = [embeddings[labels == c].mean(0) for c in range(5)]
    nearest = lambda rows: np.mean(  # noqa: E731
        [min(slow.degrees(a, b) for j, b in enumerate(rows) if j != i) for i, a in enumerate(rows)]
    )
    expected = {
        "intra": np.mean(
            [slow.degrees(x, centres[c]) for x, c in zip(embeddings, labels, strict=True)]
        ),
        "inter": nearest(centres),
        "w_ec": np.mean([slow.degrees(w, c) for w, c in zip(weights, centres, strict=True)]),
        "w_inter": nearest(weights),
    }
    assert angle_statistics(embeddings, labels, weights) == pytest.approx(expected, abs=1e-4)


def test_without_class_weights_any_labels_do() -> None:
    embeddings = np.array([[1, 0], [0, 1], [0, -1], [0.6, -0.8]])
    statistics = angle_statistics(embeddings, np.array([70, 70, -2, -2]))
    # Centres at 45° and halfway between −90° and −53.13°.
    half = np.degrees(np.arctan2(0.6, 0.8)) / 2
    assert statistics == pytest.approx({"intra": (45 + half) / 2, "inter": 135 - half}, abs=1e-4)


def test_orthogonal_classes_are_ninety_degrees_apart() -> None:
    assert nearest_other_degrees(np.eye(6)).tolist() == [90.0] * 6


def test_small_angles_are_accurate() -> None:
    for angle in (1e-6, 1e-3, 179.999):
        other = np.array([[np.cos(np.radians(angle)), np.sin(np.radians(angle))]])
        assert degrees_between(np.array([[1.0, 0.0]]), other)[0] == pytest.approx(angle, rel=1e-8)


def test_many_classes_go_in_parts() -> None:
    rng = np.random.default_rng(0)
    labels = np.append(np.arange(2500), rng.integers(0, 2500, 500))
    embeddings = rng.normal(size=(3000, 3))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    centres = class_centres(embeddings, labels, 2500)
    for c in (0, 1023, 1024, 2499):
        assert slow.degrees(centres[c].astype(np.float64), embeddings[labels == c].mean(0)) < 0.01


def test_bad_input_is_named() -> None:
    x = np.eye(3)
    with pytest.raises(InputError, match="class 1 of 3 has no embedding"):
        angle_statistics(x, np.array([0, 2, 2]), np.eye(3))
    with pytest.raises(InputError, match="labels: element 2 is 3"):
        angle_statistics(x, np.array([0, 1, 3]), np.eye(3))
    with pytest.raises(InputError, match="row 0 has norm 2"):
        angle_statistics(2 * x, np.arange(3))
    with pytest.raises(InputError, match="one row only"):
        angle_statistics(x, np.zeros(3, int))
    with pytest.raises(InputError, match=r"labels: shape \(2,\) for 3"):
        angle_statistics(x, np.arange(2))


def test_effective_dimensions_counts_the_directions_that_embeddings_fill():
    corners = np.concatenate([np.eye(5), -np.eye(5)])  # alike in five directions
    assert effective_dimensions(corners) == pytest.approx(5.0)
    wide = np.pad(corners, ((0, 0), (0, 3)))  # none of the other three
    assert effective_dimensions(wide) == pytest.approx(5.0)
    line = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert effective_dimensions(line) == pytest.approx(1.0)
    random = np.random.default_rng(0).normal(size=(50, 4))
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(np.cov(random.T))
    assert effective_dimensions(random) == pytest.approx(values.sum() ** 2 / (values**2).sum())
    with pytest.raises(InputError, match="all are alike"):
        effective_dimensions(np.tile(np.eye(3)[:1], (4, 1)))
