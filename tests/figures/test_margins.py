"""The pictures of margins hold the curves they name."""

import json
import pathlib

import numpy as np
import pytest

from arcface_jax.analysis.target_logits import loss_curve
from arcface_jax.figures.margins import (
    FAMILIES,
    MARGIN_FIGURES,
    TITLES,
    loss_gradient,
    margin_curves,
    rule_curves,
    target_logit_curves,
)
from arcface_jax.figures.style import save
from arcface_jax.margins import NAMED_MARGINS, PAST_PI, arcface


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


def test_the_papers_picture_shows_the_published_values_over_its_own_range():
    left, right = target_logit_curves().axes
    assert left.get_xlim() == right.get_xlim() == (20, 100)
    golden = json.loads(
        (pathlib.Path(__file__).parents[1] / "golden" / "margins.json").read_text()
    )["target_logits"]
    for name, line in zip(NAMED_MARGINS, left.lines, strict=True):
        for degrees, wanted in zip(golden["degrees"], golden[name], strict=True):
            assert wanted is None or np.interp(degrees, *line.get_data()) == pytest.approx(
                wanted, abs=6e-5
            )
    degrees, slope = right.lines[list(NAMED_MARGINS).index("arcface")].get_data()
    np.testing.assert_allclose(slope, -np.sin(np.radians(degrees) + 0.5), atol=1e-4)


def test_the_gradients_picture_says_which_lines_turn_the_embedding_away():
    figure = loss_gradient(16.0, 100)
    left, right = figure.axes
    labels = [line.get_label() for line in left.lines if not line.get_label().startswith("_")]
    assert labels[0] == "none, exact, away 151°–180°"
    assert [label for label in labels if "away" in label] == labels[:1]
    assert len(right.get_legend().get_texts()) == len(NAMED_MARGINS)
    degrees, drawn = left.lines[0].get_data()
    wanted = loss_curve(arcface(), np.asarray(degrees), scale=16.0, num_classes=100).gradient
    np.testing.assert_allclose(drawn, wanted, atol=1e-6)


def test_they_are_drawn_by_name(tmp_path):
    others = {"margins", "margin_annealing", "target_logits", "loss_gradient"}
    assert set(MARGIN_FIGURES) == others | {f"margin_rules_{name}" for name in FAMILIES}
    for name in ("margins", "margin_annealing"):
        (file,) = save(MARGIN_FIGURES[name](), tmp_path / name)
        assert file.read_bytes().startswith(b"\x89PNG")
