"""The ArcFace layer as a diagram, with the numbers of one example."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from arcface_jax.analysis.layer import LayerSteps, layer_steps
from arcface_jax.figures.style import PALETTE, centred_text, new_figure, style

# One embedding, three classes; whole lengths, so that the numbers can be followed by hand.
EMBEDDINGS = np.array([[2.0, 1.0, 2.0]])
CLASS_WEIGHTS = np.array([[1.0, 2.0, 2.0], [0.0, 0.0, 2.0], [2.0, 1.0, -2.0]])
LABELS = np.array([0])

_TRUE, _OTHER, _BOX = PALETTE[1], PALETTE[0], "#EEF2F5"


@style()
def layer(margin: float = 0.5, scale: float = 16.0) -> Figure:
    """The layer's steps from embeddings and class weights to the loss, with an example below.

    Args:
      margin: m, in radians.
      scale: s, the radius of the sphere of features.
    """
    steps = layer_steps(EMBEDDINGS, CLASS_WEIGHTS, LABELS, margin=margin, scale=scale)
    figure = new_figure(9.0, 5.6)
    above, below = figure.subplots(2, 1, height_ratios=(1.0, 0.95))
    for axes in (above, below):
        axes.axis("off")
        axes.set_xlim(0, 100)
    _diagram(above)
    _table(below, steps, margin, scale)
    return figure


def _diagram(axes: Axes) -> None:
    axes.set_ylim(0, 50)
    (rows, dimension), classes = EMBEDDINGS.shape, len(CLASS_WEIGHTS)
    _box(axes, 8.5, 39, 16, f"embeddings x\n[N, D] = [{rows}, {dimension}]")
    _box(axes, 8.5, 11, 16, f"class weights W\n[C, D] = [{classes}, {dimension}]")
    _box(axes, 26, 39, 13, "unit rows\nx / ‖x‖")
    _box(axes, 26, 11, 13, "unit rows\nW / ‖W‖")
    _box(axes, 43, 25, 15.5, f"their products\ncos θ\n[N, C] = [{rows}, {classes}]")
    _box(axes, 61, 39, 16, "true class\ncos(θ + m)", _TRUE)
    _box(axes, 61, 11, 16, "other classes\ncos θ", _OTHER)
    _box(axes, 78, 25, 10, "logits\ntimes s\n[N, C]")
    _box(axes, 93, 25, 13, "softmax,\n−log p of the\ntrue class\n[N]")
    for start, end in (
        ((16.5, 39), (19.5, 39)),
        ((16.5, 11), (19.5, 11)),
        ((32.5, 39), (38, 32)),
        ((32.5, 11), (38, 18)),
        ((46, 32), (53, 39)),
        ((46, 18), (53, 11)),
        ((69, 39), (75, 32)),
        ((69, 11), (75, 18)),
        ((83, 25), (86.5, 25)),
    ):
        axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "0.25", "lw": 1.4})
    centred_text(axes, 61, 49, "the only change", color=_TRUE, style="italic")


def _box(axes: Axes, x: float, y: float, width: float, text: str, edge: str = "0.4") -> None:
    height = 14
    options: dict[str, Any] = {
        "boxstyle": "round,pad=0,rounding_size=1.5",
        "facecolor": _BOX,
        "edgecolor": edge,
    }
    lw = 1.0 if edge == "0.4" else 2.0
    corner = (x - width / 2, y - height / 2)
    axes.add_patch(FancyBboxPatch(corner, width, height, lw=lw, **options))
    centred_text(axes, x, y, text, linespacing=1.35)


def _table(axes: Axes, steps: LayerSteps, margin: float, scale: float) -> None:
    """Each step's result for the first example, one class per row."""
    axes.set_ylim(0, 50)
    own = int(LABELS[0])
    header = ("", "W", "‖W‖", "cos θ", "θ", "logit", "p", "target cosine", "logit", "p")
    places = (8, 20, 29.5, 37.5, 45, 55.5, 63.5, 78, 89.5, 96.5)
    for place, text in zip(places, header, strict=True):
        centred_text(axes, place, 30, text, weight="bold")
    for left, right, text in ((52, 67, "no margin"), (70, 100, "with the margin")):
        centred_text(axes, (left + right) / 2, 37, text)
        axes.plot([left, right], [33.5, 33.5], color="0.6", lw=1)
    axes.plot([0.5, 100], [26.5, 26.5], color="0.4", lw=1)
    axes.text(
        0.5,
        47,
        f"An example: N = 1, D = {EMBEDDINGS.shape[1]}, C = {len(CLASS_WEIGHTS)};  x = "
        f"({_numbers(EMBEDDINGS[0])}), ‖x‖ = {steps.embedding_norms[0]:g};  m = {margin:g} rad = "
        f"{np.degrees(margin):.1f}°,  s = {scale:g}",
        va="center",
        fontsize=10,
    )
    for row, weights in enumerate(CLASS_WEIGHTS):
        true = row == own
        cells = (
            f"class {row + 1}" + (", true" if true else ""),
            "(" + _numbers(weights) + ")",
            f"{steps.weight_norms[row]:g}",
            f"{steps.cosines[0, row]:.3f}",
            f"{steps.degrees[0, row]:.1f}°",
            f"{steps.plain_logits[0, row]:.2f}",
            f"{steps.plain_probabilities[0, row]:.3f}",
            f"cos {steps.target_degrees[0]:.1f}° = {steps.logits[0, row] / scale:.3f}"
            if true
            else "the same",
            f"{steps.logits[0, row]:.2f}",
            f"{steps.probabilities[0, row]:.3f}",
        )
        for place, text in zip(places, cells, strict=True):
            centred_text(axes, place, 22 - 7 * row, text, color=_TRUE if true else "black")
    axes.plot([0.5, 100], [4, 4], color="0.4", lw=1)
    centred_text(axes, 63.5, 0, f"loss {steps.plain_loss[0]:.3f}", color=_TRUE)
    centred_text(axes, 95.5, 0, f"loss {steps.loss[0]:.3f}", color=_TRUE)


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{value:g}" for value in values).replace("-", "−")
