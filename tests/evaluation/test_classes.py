import math

import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.evaluation.classes import (
    confusions,
    new_class_threshold,
    rank_classes,
    top_k_accuracy,
)


def unit(rng, *shape):
    rows = rng.normal(size=shape)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("centres", [(7, 4), (7, 3, 4)])
def test_classes_are_ranked_by_cosine_with_softmax_probabilities(centres):
    rng = np.random.default_rng(0)
    weights, embeddings = rng.normal(size=centres).astype(np.float32), unit(rng, 300, 4)
    found = rank_classes(embeddings, weights, 3, scale=5.0)
    for row in (0, 255, 256, 299):
        rows = weights.astype(np.float64).reshape(7, -1, 4)
        cosines = [
            max(float(w @ embeddings[row]) / float(np.linalg.norm(w)) for w in own) for own in rows
        ]
        shares = np.exp(5.0 * np.array(cosines))
        order = np.argsort(cosines)[::-1][:3]
        np.testing.assert_array_equal(found.classes[row], order)
        np.testing.assert_allclose(found.cosines[row], np.array(cosines)[order], atol=1e-6)
        np.testing.assert_allclose(
            found.probabilities[row], (shares / shares.sum())[order], atol=1e-6
        )
    whole = rank_classes(embeddings, weights, 100)
    assert whole.classes.shape == (300, 7)
    np.testing.assert_allclose(whole.probabilities.sum(axis=1), 1.0, atol=1e-5)


def test_shapes_that_do_not_fit_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="of 4 numbers, but the embeddings have 8"):
        rank_classes(unit(rng, 2, 8), unit(rng, 3, 4), 1)
    with pytest.raises(InputError, match="k"):
        rank_classes(unit(rng, 2, 4), unit(rng, 3, 4), 0)


def test_the_threshold_lets_a_share_of_new_classes_pass():
    cosines = np.array([0.1, 0.9, 0.3, 0.5, 0.7], np.float32)
    for far, passing in ((0.0, 0), (0.19, 0), (0.2, 1), (0.4, 2), (1.0, 4)):
        threshold = new_class_threshold(cosines, far)
        assert np.count_nonzero(cosines >= np.float32(threshold)) == passing
    alike = np.array([0.5] * 3 + [0.1], np.float32)  # of equal ones none passes
    assert np.count_nonzero(alike >= np.float32(new_class_threshold(alike, 0.5))) == 0
    with pytest.raises(InputError, match="no image of a new class"):
        new_class_threshold(np.zeros(0), 0.1)


def test_shares_and_confusions():
    classes = np.array([[0, 1], [1, 0], [2, 0]])
    assert top_k_accuracy(classes, [0, 0, 0], 1) == pytest.approx(1 / 3)
    assert top_k_accuracy(classes, [0, 0, 0], 2) == 1.0
    assert math.isnan(top_k_accuracy(classes[:0], [], 1))
    found = confusions(["a", "a", "a", "b"], ["b", "b", "a", "c"])
    assert found == [("a", "b", 2, 3), ("b", "c", 1, 1)]
    assert confusions(["a"], ["a"]) == []
