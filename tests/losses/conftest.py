"""Eight examples of different lengths and five classes."""

import numpy as np
import pytest


def make_data():
    """(embeddings [8, 6], class weights [5, 6], labels [8]), float64."""
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(8, 6)) * generator.uniform(1, 60, size=(8, 1))
    return embeddings, generator.normal(size=(5, 6)), generator.integers(0, 5, 8)


@pytest.fixture
def data():
    """New arrays for every test: JAX remembers what a constant became where float64 was off."""
    return make_data()
