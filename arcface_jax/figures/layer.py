"""The ArcFace layer as a diagram, with the numbers of one example."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from arcface_jax.analysis.layer import LayerSteps, layer_steps
from arcface_jax.figures.style import BLUE_INK, RED_INK, WIDTH, centred_text, new_figure, style

# One embedding, three classes; whole lengths, so that the numbers can be followed by hand.
EMBEDDINGS = np.array([[2.0, 1.0, 2.0]])
CLASS_WEIGHTS = np.array([[1.0, 2.0, 2.0], [0.0, 0.0, 2.0], [2.0, 1.0, -2.0]])
LABELS = np.array([0])

_TRUE, _OTHER, _BOX = RED_INK, BLUE_INK, "#EEF2F5"
_COLUMNS = (45, 63, 77)


@style()
def layer(margin: float = 0.5, scale: float = 16.0) -> Figure:
    """The layer's steps from embeddings and class weights to the loss, with an example below.

    Args:
      margin: m, in radians.
      scale: s, the radius of the sphere of features.
    """
    steps = layer_steps(EMBEDDINGS, CLASS_WEIGHTS, LABELS, margin=margin, scale=scale)
    figure = new_figure(WIDTH, 6.0)
    above, below = figure.subplots(2, 1, height_ratios=(1.0, 1.15))
    for axes in (above, below):
        axes.axis("off")
        axes.set_xlim(0, 100)
    _diagram(above)
    _table(below, steps, margin, scale)
    return figure


def _diagram(axes: Axes) -> None:
    axes.set_ylim(1, 52)
    (rows, dimension), classes = EMBEDDINGS.shape, len(CLASS_WEIGHTS)
    _box(axes, 8.5, 39, 16, f"embeddings x\n[N, D] = [{rows}, {dimension}]")
    _box(axes, 8.5, 11, 16, f"class weights W\n[C, D] = [{classes}, {dimension}]")
    _box(axes, 26, 39, 13, "unit rows\nx / ‖x‖")
    _box(axes, 26, 11, 13, "unit rows\nW / ‖W‖")
    _box(axes, 43, 25, 15.5, f"their products\ncos θ\n[N, C] = [{rows}, {classes}]")
    _box(axes, 61, 39, 16, "true class\ncos(θ + m)", _TRUE)
    _box(axes, 61, 11, 16, "other classes\ncos θ", _OTHER)
    _box(axes, 78, 25, 10, "logits\ntimes s\n[N, C]")
    _box(axes, 93, 25, 13.5, "softmax,\n−log p of the\ntrue class\n[N]")
    for start, end in (
        ((16.5, 39), (19.5, 39)),
        ((16.5, 11), (19.5, 11)),
        ((32.5, 39), (37, 33.5)),
        ((32.5, 11), (37, 16.5)),
        ((46, 33.5), (53, 39)),
        ((46, 16.5), (53, 11)),
        ((69, 39), (76, 33.5)),
        ((69, 11), (76, 16.5)),
        ((83, 25), (86.5, 25)),
    ):
        axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "0.25", "lw": 1.4})
    centred_text(axes, 61, 50, "the only change", color=_TRUE, style="italic")


def _box(axes: Axes, x: float, y: float, width: float, text: str, edge: str = "0.4") -> None:
    height = 17
    options: dict[str, Any] = {
        "boxstyle": "round,pad=0,rounding_size=1.5",
        "facecolor": _BOX,
        "edgecolor": edge,
    }
    lw = 1.0 if edge == "0.4" else 2.0
    corner = (x - width / 2, y - height / 2)
    axes.add_patch(FancyBboxPatch(corner, width, height, lw=lw, **options))
    centred_text(axes, x, y, text, fontsize=8.5, linespacing=1.3)


def _table(axes: Axes, steps: LayerSteps, margin: float, scale: float) -> None:
    """Each step's result for the first example: one step per row, one class per column."""
    own = int(LABELS[0])
    target = f"cos {steps.target_degrees[0]:.1f}° = {steps.logits[0, own] / scale:.3f}"
    classes = range(len(CLASS_WEIGHTS))
    rows = (
        ("", [f"class {number + 1}" + (", true" if number == own else "") for number in classes]),
        ("class weights W", [f"({_numbers(weights)})" for weights in CLASS_WEIGHTS]),
        ("length ‖W‖", [f"{norm:g}" for norm in steps.weight_norms]),
        ("cos θ", [f"{cosine:.3f}" for cosine in steps.cosines[0]]),
        ("angle θ", [f"{degrees:.1f}°" for degrees in steps.degrees[0]]),
        ("no margin: logit", [f"{logit:.2f}" for logit in steps.plain_logits[0]]),
        ("no margin: probability", [f"{p:.3f}" for p in steps.plain_probabilities[0]]),
        ("margin: cosine", [target if number == own else "the same" for number in classes]),
        ("margin: logit", [f"{logit:.2f}" for logit in steps.logits[0]]),
        ("margin: probability", [f"{p:.3f}" for p in steps.probabilities[0]]),
    )
    axes.set_ylim(len(rows) + 0.2, -1.6)
    axes.text(
        0.5,
        -1.1,
        f"An example: x = ({_numbers(EMBEDDINGS[0])}), ‖x‖ = {steps.embedding_norms[0]:g};  "
        f"m = {margin:g} rad = {np.degrees(margin):.1f}°,  s = {scale:g}",
        va="center",
    )
    for row, (name, cells) in enumerate(rows):
        weight = "bold" if row == 0 else "normal"
        axes.text(0.5, row + 0.5, name, va="center", fontsize=10)
        for number, text in enumerate(cells):
            colour = _TRUE if number == own else "black"
            centred_text(axes, _COLUMNS[number], row + 0.5, text, color=colour, weight=weight)
    for above in (1, 5, 7, len(rows)):
        axes.plot([0.5, 100], [above, above], color="0.6", lw=1)
    for row, loss in ((6, steps.plain_loss[0]), (len(rows) - 1, steps.loss[0])):
        centred_text(axes, 93, row + 0.5, f"loss {loss:.3f}", color=_TRUE, weight="bold")


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{value:g}" for value in values).replace("-", "−")
