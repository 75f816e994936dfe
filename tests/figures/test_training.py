import numpy as np
import pytest

from arcface_jax.figures.training import angle_histogram, learning_curve, training_curves


def test_loss_curve_shows_loss_accuracy_and_the_expected_start():
    above, below = training_curves([1, 2, 3], [9.0, 5.0, 2.0], [0.0, 0.5, 1.0], 8.5).axes
    losses, expected = above.lines
    np.testing.assert_array_equal(losses.get_ydata(), [9.0, 5.0, 2.0])
    assert set(expected.get_ydata()) == {8.5}
    np.testing.assert_array_equal(below.lines[0].get_ydata(), [0, 50, 100])


def test_learning_curve_is_in_percent():
    (axes,) = learning_curve([0, 10], [0.6, 0.9], [0.01, 0.02], [0.65, 0.95]).axes
    assert "%" in axes.get_ylabel()
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [60, 90])


def test_nothing_is_drawn_above_a_hundred_percent():
    (axes,) = learning_curve([0, 10], [0.6, 0.99], [0.01, 0.02], [0.65, 1.0]).axes
    assert axes.get_ylim()[1] == 100.0
    (bars,) = axes.collections
    ends = np.concatenate([segment[:, 1] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends, [59, 61, 97, 100])
    _, below = training_curves([1, 2], [9.0, 5.0], [0.5, 1.0], None).axes
    assert below.get_ylim() == (0, 100)


def test_angle_histogram_names_each_median():
    angles = {0: np.full(10, 90.0), 5: np.full(10, 60.0)}
    (axes,) = angle_histogram(angles).axes
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["step 0: median 90°", "step 5: median 60°"]
    heights = [patch.get_height() for patch in axes.patches]
    assert max(heights) == pytest.approx(100.0)  # all within one bar
    assert axes.get_ylabel() == "share of the images in 2 degrees, %"


def test_angle_histogram_shows_embeddings_that_face_away():
    (axes,) = angle_histogram({0: np.full(10, 90.0), 5: np.full(10, 160.0)}).axes
    assert axes.get_xlim() == (0, 180)
