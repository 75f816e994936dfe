import math

import numpy as np
import pytest

from arcface_jax.analysis.label_noise import score_clean_up, wrong_labels
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
