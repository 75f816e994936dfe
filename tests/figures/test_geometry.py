"""The pictures of the geometry hold the numbers they name, and are drawn without a warning."""

import math

import numpy as np
import pytest

from arcface_jax.analysis import geometry as numbers
from arcface_jax.figures import geometry
from arcface_jax.margins import NAMED_MARGINS, arcface
from tests.figures.legible import check_legible


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize("name", geometry.GEOMETRY_FIGURES)
def test_each_is_drawn(name):
    check_legible(geometry.GEOMETRY_FIGURES[name]())


def test_the_boundaries_are_over_their_regions():
    panels = {axes.get_title().split("\n")[0]: axes for axes in geometry.decision_boundaries().axes}
    assert list(panels)[:7] == [
        "softmax",
        "NormFace",
        "SphereFace",
        "CosFace",
        "ArcFace",
        "CM1",
        "CM2",
    ]
    first, second = (np.stack(line.get_data()) for line in panels["ArcFace"].lines)
    np.testing.assert_array_equal(first, second[::-1])
    before_pi = (first[0] > 1) & (first[0] < 150)
    np.testing.assert_allclose(
        np.diff(first[:, before_pi], axis=0)[0], math.degrees(0.5), atol=2e-3
    )
    picture = np.asarray(panels["ArcFace"].images[0].get_array())
    assert picture[300, 40] == numbers.CLASS_1  # θ2 = 150°, θ1 = 20°
    assert picture[40, 300] == numbers.CLASS_2
    assert picture[100, 100] == numbers.MARGIN
    assert picture[-1, -1] == numbers.BOTH
    assert len(panels["softmax"].lines) == 4


def test_the_cosine_plane_has_the_same_margins():
    panels = {
        axes.get_title().split("\n")[0]: axes for axes in geometry.decision_boundaries_cosine().axes
    }
    x, y = panels["CosFace"].lines[0].get_data()
    inside = ~np.isnan(y)
    np.testing.assert_allclose(x[inside] - y[inside], 0.35, atol=1e-9)
    picture = np.asarray(panels["CosFace"].images[0].get_array())
    assert picture[20, 340] == numbers.CLASS_1


def test_the_arcs_are_written_beside_the_margins():
    figure = geometry.circle_arcs(60.0, 120.0)
    shown = [text for text in texts(figure) if text.startswith("arc")]
    assert shown == [
        *("arc 0.0°", "arc 8.9°", "arc 41.0°", "arc 28.6°"),
        *("arc 0.0°", "arc 17.9°", "arc 23.3°", "arc 28.6°"),
    ]
    assert "no region\nbetween them" in texts(geometry.circle_arcs(20.0))
    assert "arc 28.6°" in texts(geometry.sphere_caps())


def test_arcfaces_arc_is_a_level_line():
    (axes,) = geometry.margin_arcs().axes
    line = axes.lines[list(NAMED_MARGINS).index("arcface")]
    drawn = np.asarray(line.get_ydata())
    np.testing.assert_allclose(drawn[line.get_xdata() > 33], math.degrees(0.5), atol=5e-3)
    assert np.isnan(drawn[line.get_xdata() < math.degrees(0.5)]).all()
    assert numbers.margin_arc(arcface(0.5), np.asarray(1.0)) == pytest.approx(0.5, abs=1e-5)
