"""The layer's steps against the same by hand, in NumPy."""

import numpy as np
import pytest

from arcface_jax.analysis.layer import layer_steps
from arcface_jax.errors import InputError


def softmax(logits):
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True)


def test_every_step_is_as_by_hand():
    random = np.random.default_rng(0)
    x, weights, labels = (
        random.normal(size=(4, 6)),
        random.normal(size=(5, 6)),
        np.array([3, 0, 4, 0]),
    )
    steps = layer_steps(x, weights, labels, margin=0.3, scale=7.0)
    norms, weight_norms = np.linalg.norm(x, axis=1), np.linalg.norm(weights, axis=1)
    cosines = (x @ weights.T) / np.outer(norms, weight_norms)
    rows = np.arange(4)
    target = np.arccos(cosines[rows, labels]) + 0.3
    logits = 7.0 * cosines
    logits[rows, labels] = 7.0 * np.cos(target)
    np.testing.assert_allclose(steps.embedding_norms, norms)
    np.testing.assert_allclose(steps.weight_norms, weight_norms)
    np.testing.assert_allclose(steps.cosines, cosines)
    np.testing.assert_allclose(steps.degrees, np.degrees(np.arccos(cosines)))
    np.testing.assert_allclose(steps.target_degrees, np.degrees(target))
    np.testing.assert_allclose(steps.plain_logits, 7.0 * cosines)
    np.testing.assert_allclose(steps.logits, logits, atol=1e-5)  # the guard under the sine's root
    np.testing.assert_allclose(steps.plain_probabilities, softmax(7.0 * cosines))
    np.testing.assert_allclose(steps.probabilities, softmax(logits), atol=1e-5)
    np.testing.assert_allclose(steps.plain_loss, -np.log(softmax(7.0 * cosines)[rows, labels]))
    np.testing.assert_allclose(steps.loss, -np.log(softmax(logits)[rows, labels]), atol=1e-5)


def test_a_padded_row_is_refused():
    with pytest.raises(InputError, match="labels holds -1"):
        layer_steps(np.ones((1, 2)), np.ones((2, 2)), np.array([-1]))
