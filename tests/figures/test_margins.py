"""The pictures of margins hold the curves they name."""

import numpy as np
import pytest

from arcface_jax.figures.margins import FAMILIES, MARGIN_FIGURES, TITLES, curve, margin_curves, rule_curves
from arcface_jax.figures.style import save
from arcface_jax.margins import NAMED_MARGINS, PAST_PI, arcface


def test_a_curve_is_psi_and_its_slope():
    degrees = np.array([30.0, 60.0, 170.0])
    value, slope = curve(arcface(0.5), degrees)
    theta = np.radians(degrees)
    np.testing.assert_allclose(value, np.cos(theta + 0.5), atol=1e-5)
    np.testing.assert_allclose(slope, np.sin(theta + 0.5) / np.sin(theta), atol=1e-3)


def test_every_named_margin_has_its_line():
    assert set(TITLES) == set(NAMED_MARGINS)
    figure = margin_curves({TITLES[name]: psi for name, psi in NAMED_MARGINS.items()})
    left, right = figure.axes
    assert [line.get_label() for line in left.lines] == list(TITLES.values())
    assert len(right.lines) == len(TITLES)
    x, y = left.lines[list(TITLES).index("cosface")].get_data()
    np.testing.assert_allclose(y, np.cos(np.radians(x)) - 0.35, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_rule_has_its_line_and_no_line_crosses_a_jump(name):
    figure = rule_curves(FAMILIES[name])
    left = figure.axes[0]
    assert [line.get_label() for line in left.lines][: len(PAST_PI)] == list(PAST_PI)
    for line in left.lines[: len(PAST_PI)]:
        steps = np.abs(np.diff(np.asarray(line.get_ydata(), float)))
        assert np.nanmax(steps) < 0.05
    degrees, easy = left.lines[PAST_PI.index("easy")].get_data()
    assert degrees[np.isnan(easy)] == pytest.approx([90.0])
    assert figure.axes[1].get_ylabel() == "slope dψ / d cos θ"


def test_all_of_them_are_drawn_by_name(tmp_path):
    assert set(MARGIN_FIGURES) == {"margins", "margin_annealing", *(f"margin_rules_{name}" for name in FAMILIES)}
    for name, draw in MARGIN_FIGURES.items():
        (file,) = save(draw(), tmp_path / name)
        assert file.read_bytes().startswith(b"\x89PNG")
