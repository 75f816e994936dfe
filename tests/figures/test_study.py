import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.figures.study import (
    angle_table_figure,
    courses_figure,
    losses_figure,
    sweep_figure,
)


def test_losses_are_in_the_order_of_their_means():
    panels = {
        "faces": {"softmax": [80.0, 82.0], "arcface": [90.0, 92.0]},
        "letters": {"arcface": [70.0]},
    }
    first, second = losses_figure(panels, "accuracy, %").axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["softmax", "arcface"]
    assert second.get_title() == "letters"
    with pytest.raises(InputError, match="at least one"):
        losses_figure({}, "accuracy, %")


def test_sweep_draws_means_and_range():
    (axes,) = sweep_figure(
        {"ArcFace": {2.0: [1.0, 3.0], 1.0: [5.0, 5.0]}}, "s", "accuracy, %", logarithmic=True
    ).axes
    np.testing.assert_allclose(axes.lines[0].get_xdata(), [1.0, 2.0])
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [5.0, 2.0])
    band = axes.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (1.0, 5.0)


def test_angle_table_marks_ours_and_the_papers():
    ours, paper = {"arcface": {"w_ec": [10.0, 20.0]}, "triplet": {}}, {"arcface": {"w_ec": 14.29}}
    axes, _ = angle_table_figure(ours, paper, {"w_ec": "W–EC", "w_inter": "W–Inter"}).axes
    drawn = {line.get_marker(): line.get_xdata() for line in axes.lines if len(line.get_xdata())}
    assert float(np.squeeze(drawn["o"])) == 15.0
    assert float(np.squeeze(drawn["x"])) == 14.29


def test_courses_share_an_axis_of_degrees():
    left, right = courses_figure(
        {"a": {"exact": ([1, 2], [90.0, 160.0])}, "b": {"cured": ([1, 2], [90.0, 40.0])}}
    ).axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), [90.0, 160.0])
    assert right.get_title() == "b"
    assert left.get_ylim() == (0, 180)
