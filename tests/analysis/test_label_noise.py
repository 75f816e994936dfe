import math

import numpy as np
import pytest

from arcface_jax.analysis.label_noise import judge_labels, score_clean_up, wrong_labels
from arcface_jax.errors import InputError


def test_so_many_labels_are_wrong_and_only_those():
    labels = np.repeat(np.arange(10), 20)
    noisy, wrong = wrong_labels(labels, 0.3, 10, seed=1)
    assert wrong.sum() == 60
    np.testing.assert_array_equal(noisy != labels, wrong)
    assert noisy.min() >= 0
    assert noisy.max() < 10
    again, _ = wrong_labels(labels, 0.3, 10, seed=1)
    np.testing.assert_array_equal(noisy, again)
    untouched, none = wrong_labels(labels, 0.0, 10, seed=1)
    assert not none.any()
    np.testing.assert_array_equal(untouched, labels)


def test_every_other_class_is_as_likely():
    labels = np.zeros(30_000, int)
    noisy, _ = wrong_labels(labels, 1.0, 4, seed=0)
    np.testing.assert_allclose(
        np.bincount(noisy, minlength=4) / len(labels), [0, 1 / 3, 1 / 3, 1 / 3], atol=0.01
    )


def test_detection_by_hand():
    wrong = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], bool)
    dropped = np.array([1, 1, 1, 0, 1, 0, 0, 0, 0, 0], bool)
    found = score_clean_up(dropped, wrong)
    assert (found.found, found.precision, found.dropped) == (0.75, 0.75, 0.4)
    assert found.left == pytest.approx(1 / 6)
    assert math.isnan(score_clean_up(np.zeros(3, bool), np.ones(3, bool)).precision)


def test_wrong_arguments():
    with pytest.raises(InputError, match="share"):
        wrong_labels(np.zeros(3, int), 1.5, 4, seed=0)
    with pytest.raises(InputError, match="two classes"):
        wrong_labels(np.zeros(3, int), 0.5, 1, seed=0)
    with pytest.raises(InputError, match="each image"):
        score_clean_up(np.zeros(3, bool), np.zeros(4, bool))


def test_labels_are_judged_by_the_others_of_an_identity():
    """Four directions by hand: three images at 0°, three at 90°, one of them labelled as the other,
    and one alone at 180°.
    """
    degrees = np.radians([0, 0, 0, 90, 90, 90, 90, 180])
    embeddings = np.stack([np.cos(degrees), np.sin(degrees)], axis=1)
    judged = judge_labels(embeddings, np.array([5, 5, 5, 5, 9, 9, 9, 7]))
    # The others of each at 0° are two at 0° and one at 90°: a cosine of 2/√5.
    np.testing.assert_allclose(judged.own, [2 / 5**0.5] * 3 + [0] + [1] * 3 + [np.nan], atol=1e-6)
    np.testing.assert_allclose(judged.other[3], 1, atol=1e-6)
    np.testing.assert_allclose(
        judged.other[4], 1 / 10**0.5, atol=1e-6
    )  # (3, 1) is identity 5's sum
    assert judged.nearest[3] == 9
    assert judged.told == pytest.approx(6 / 7)
    np.testing.assert_array_equal(np.flatnonzero(judged.wrong), [3])
    assert judged.reliable


def test_a_model_that_cannot_tell_people_apart_judges_nothing():
    embeddings = np.random.default_rng(0).normal(size=(60, 8))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    judged = judge_labels(embeddings, np.arange(60) % 6)
    assert not judged.reliable
    assert not judged.wrong.any()
    assert not judge_labels(embeddings, np.arange(60)).reliable  # nobody has two images


@pytest.mark.parametrize("labels", [[0, 0], [0, 1, 2]])
def test_labels_to_judge_must_fit(labels):
    with pytest.raises(InputError, match="labels"):
        judge_labels(np.eye(2), np.array(labels))
