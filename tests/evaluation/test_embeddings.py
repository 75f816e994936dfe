import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.evaluation.embeddings import unit_embeddings
from arcface_jax.evaluation.verification import combine_flip


def test_rows_become_unit_whatever_their_size() -> None:
    rows = np.array([[3.0, 4.0], [3e-30, -4e-30], [3e15, 4e15]])
    np.testing.assert_allclose(
        unit_embeddings(rows), [[0.6, 0.8], [0.6, -0.8], [0.6, 0.8]], rtol=1e-6
    )
    assert unit_embeddings(rows).dtype == np.float32


def test_flip_rules_against_their_equations() -> None:
    rng = np.random.default_rng(0)
    x, mirrored = rng.normal(size=(2, 5, 8))
    added, both = combine_flip(x, mirrored), combine_flip(x, mirrored, "concatenate")
    np.testing.assert_allclose(
        added, (x + mirrored) / np.linalg.norm(x + mirrored, axis=1)[:, None], atol=1e-6
    )
    assert np.array_equal(combine_flip(x, None), unit_embeddings(x))
    assert np.array_equal(combine_flip(x, mirrored, "none"), unit_embeddings(x))
    joined = np.hstack([x, mirrored])
    np.testing.assert_allclose(both, joined / np.linalg.norm(joined, axis=1)[:, None], atol=1e-6)


def test_rows_without_direction_are_refused() -> None:
    x = np.ones((3, 4))
    with pytest.raises(InputError, match="row 1 is zero"):
        unit_embeddings(x * np.array([[1], [0], [1]]))
    with pytest.raises(InputError, match="mirrored: row 2 holds NaN"):
        combine_flip(x, x * np.array([[1], [1], [np.nan]]))
    with pytest.raises(InputError, match=r"embedding \+ mirrored: row 0 is zero"):
        combine_flip(x, -x)
    with pytest.raises(InputError, match="mirrored: shape"):
        combine_flip(x, x[:2])
    with pytest.raises(InputError, match="rule: 'mean'"):
        combine_flip(x, None, "mean")  # type: ignore[arg-type]
