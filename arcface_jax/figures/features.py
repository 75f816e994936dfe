"""Embeddings on the circle and the sphere, with the centres of their classes."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from arcface_jax.errors import InputError
from arcface_jax.figures.style import PALETTE, new_figure, style

_RINGS = (1.0, 0.86)  # radii of training and of unseen images
_PANEL = 3.3  # inches


@dataclasses.dataclass(frozen=True)
class Features:
    """One panel.

    Attributes:
      name: above it.
      training: unit [N, D], D of 2 or 3.
      training_labels: int [N].
      unseen: unit [M, D], other images of the same classes.
      unseen_labels: int [M].
      centres: unit [C, D], the class weights.
      note: below the name, such as the measured gap.
    """

    name: str
    training: np.ndarray
    training_labels: np.ndarray
    unseen: np.ndarray
    unseen_labels: np.ndarray
    centres: np.ndarray
    note: str


@style()
def features_figure(panels: Sequence[Features]) -> Figure:
    """The features of several losses side by side: one colour per class, a line to each class
    weight.

    In two dimensions training images lie on the outer ring and unseen ones on the inner; in three,
    unseen ones are crosses.

    Raises:
      InputError: no panel, or embeddings that have neither 2 nor 3 dimensions.
    """
    if not panels:
        raise InputError("panels: nothing to draw; give at least one")
    for panel in panels:
        if panel.training.ndim != 2 or panel.training.shape[1] not in (2, 3):
            raise InputError(
                f"{panel.name}: embeddings of shape {panel.training.shape}; give [N, 2] or [N, 3]"
            )
    dim = panels[0].training.shape[1]
    figure = new_figure(_PANEL * len(panels), _PANEL + 0.9)
    # Axes that are switched off get no room for their titles.
    figure.set_layout_engine("constrained", rect=(0.0, 0.0, 1.0, 0.92))
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1, projection="3d" if dim == 3 else None)
        (_draw_sphere if dim == 3 else _draw_circle)(axes, panel)
        axes.set_title(f"{panel.name}\n{panel.note}", fontsize=11)
    where = "outer ring: training images; inner ring: unseen images"
    if dim == 3:
        where = "crosses: unseen images; the far side shows through"
    figure.supxlabel(f"{where}; lines: class weights", fontsize=10)
    return figure


def _draw_circle(axes, panel: Features) -> None:  # type: ignore[no-untyped-def]
    sides = zip(
        _RINGS,
        (panel.training, panel.unseen),
        (panel.training_labels, panel.unseen_labels),
        strict=True,
    )
    for label, centre in enumerate(panel.centres):
        axes.plot([0, 0.78 * centre[0]], [0, 0.78 * centre[1]], color=_colour(label), lw=1.4)
    for radius, points, labels in sides:
        axes.scatter(
            *(radius * points.T),
            c=[_colour(label) for label in labels],
            s=7,
            linewidths=0,
            alpha=0.7,
        )
    axes.set(aspect="equal", xlim=(-1.08, 1.08), ylim=(-1.08, 1.08))
    axes.axis("off")


def _draw_sphere(axes, panel: Features) -> None:  # type: ignore[no-untyped-def]
    longitude, latitude = np.meshgrid(np.linspace(0, 2 * np.pi, 25), np.linspace(0, np.pi, 13))
    grid = (
        np.cos(longitude) * np.sin(latitude),
        np.sin(longitude) * np.sin(latitude),
        np.cos(latitude),
    )
    axes.plot_wireframe(*grid, color="grey", lw=0.3, alpha=0.4)
    for label, centre in enumerate(panel.centres):
        axes.plot(*np.stack([np.zeros(3), centre], axis=1), color=_colour(label), lw=1.4)
    for points, labels, marker in (
        (panel.unseen, panel.unseen_labels, "x"),
        (panel.training, panel.training_labels, "o"),
    ):
        axes.scatter(
            *points.T,
            c=[_colour(label) for label in labels],
            s=8,
            marker=marker,
            lw=0.6,
            depthshade=False,
        )
    axes.set_box_aspect((1, 1, 1), zoom=1.5)
    axes.view_init(25, 35)
    axes.axis("off")


def _colour(label: int) -> str:
    return PALETTE[label % len(PALETTE)]
