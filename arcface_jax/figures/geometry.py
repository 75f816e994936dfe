"""A margin between two classes: decision boundaries, arcs on the circle, caps of the sphere."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from arcface_jax.analysis.geometry import (
    BOTH,
    CLASS_1,
    CLASS_2,
    MARGIN,
    boundary,
    centres,
    circle_regions,
    margin_arc,
    region,
    region_edge,
    softmax_boundary,
    sphere_regions,
)
from arcface_jax.figures.margins import TITLES
from arcface_jax.figures.style import (
    BLUE_INK,
    RED_INK,
    WIDTH,
    centred_text,
    line_style,
    new_figure,
    one_axes,
    style,
)
from arcface_jax.margins import NAMED_MARGINS, Psi

# Pale, so that lines and letters stand out on them.
_REGIONS = {
    CLASS_1: ("#A9CCE3", "class 1"),
    CLASS_2: ("#F5CBA7", "class 2"),
    MARGIN: ("#E5E7E9", "margin: neither"),
    BOTH: ("#D7BDE2", "both: a bonus, past π"),
}
_COLOURS = ListedColormap([_REGIONS[value][0] for value in (MARGIN, CLASS_1, CLASS_2, BOTH)])
_LEVELS = BoundaryNorm([-0.5, 0.5, 1.5, 2.5, 3.5], 4)
_LINE_1, _LINE_2 = BLUE_INK, RED_INK

# What each boundary of class 1 is, up to π.
_EQUATIONS = {
    "softmax": "θ2 = θ1",
    "sphereface": "θ2 = 1.35·θ1",
    "cosface": "cos θ2 = cos θ1 − 0.35",
    "arcface": "θ2 = θ1 + 0.5 rad",
    "cm1": "cos θ2 = cos(θ1+.3) − .2",
    "cm2": "cos θ2 = cos(.9θ1+.4) − .15",
}
_NAMES = {
    "softmax": "NormFace",
    "sphereface": "SphereFace",
    "cosface": "CosFace",
    "arcface": "ArcFace",
    "cm1": "CM1",
    "cm2": "CM2",
}


def decision_boundaries() -> Figure:
    """Each margin's two boundaries and the region between, over the angles to the centres."""
    return _planes(np.degrees, (0.0, 180.0), (0, 60, 120, 180), "angle θ{} to centre {}, degrees")


def decision_boundaries_cosine() -> Figure:
    """Each margin's two boundaries and the region between, over the cosines to the centres."""
    return _planes(np.cos, (-1.0, 1.0), (-1.0, 0.0, 1.0), "cosine cos θ{} to centre {}")


@style()
def _planes(
    transform: Callable[[np.ndarray], np.ndarray],
    limits: tuple[float, float],
    ticks: tuple[float, ...],
    label: str,
) -> Figure:
    figure = new_figure(WIDTH, 7.6)
    softmax, *panels, key, key_of_all = figure.subplots(3, 3, sharex=True, sharey=True).flat
    _softmax_plane(softmax, transform)
    for axes, (name, equation) in zip(panels, _EQUATIONS.items(), strict=True):
        _plane(axes, transform, limits, NAMED_MARGINS[name])
        axes.set_title(f"{_NAMES[name]}\n{equation}", fontsize=8.5)
    for axes in (softmax, *panels):
        axes.set(aspect="equal", xlim=limits, ylim=limits, xticks=ticks, yticks=ticks)
        axes.grid(False)
    for axes in panels[-3:-1]:
        axes.xaxis.set_tick_params(labelbottom=True)  # nothing is drawn below them
    keys: tuple[tuple[Axes, Any, str], ...] = (
        (key, softmax.lines, "softmax's boundary where"),
        (key_of_all, [*panels[0].lines, *_patches()], "the others"),
    )
    for axes, handles, title in keys:
        axes.axis("off")
        legend = axes.legend(
            handles=handles, title=title, loc="center", fontsize=8.5, title_fontsize=9
        )
        legend.set_in_layout(False)
    figure.supxlabel(label.format(1, 1), fontsize=11)
    figure.supylabel(label.format(2, 2), fontsize=11)
    return figure


def _plane(
    axes: Axes, transform: Callable[[np.ndarray], np.ndarray], limits: tuple[float, float], psi: Psi
) -> None:
    """The regions of one margin, with its boundaries over them."""
    side = np.linspace(*limits, 361)
    theta = np.radians(side) if transform is np.degrees else np.arccos(side)
    _colour_regions(axes, region(psi, theta[None, :], theta[:, None]), (*limits, *limits))
    along = np.linspace(0.0, math.pi, 721)
    across = boundary(psi, along)
    x, y = transform(along), transform(across)
    axes.plot(x, y, color=_LINE_1, lw=1.8, label="boundary of class 1")
    axes.plot(y, x, color=_LINE_2, lw=1.8, ls="--", label="boundary of class 2")


def _softmax_plane(axes: Axes, transform: Callable[[np.ndarray], np.ndarray]) -> None:
    """Plain softmax: one boundary; weight lengths and biases decide where."""
    along = np.linspace(0.0, math.pi, 721)
    for ratio, offset, line, text in (
        (1.0, 0.0, "-", "‖W1‖ = ‖W2‖"),
        (2.0, 0.0, "--", "‖W1‖ = 2‖W2‖"),
        (0.5, 0.0, "-.", "‖W1‖ = ½‖W2‖"),
        (1.0, 0.5, ":", "b1 − b2 = ½‖W2‖·‖x‖"),
    ):
        across = softmax_boundary(along, ratio, offset)
        axes.plot(transform(along), transform(across), color="black", ls=line, lw=1.3, label=text)
    axes.set_title("softmax\nno margin", fontsize=8.5)


@style()
def margin_arcs() -> Figure:
    """The arc between two classes' regions by the angle between their centres, for each margin."""
    figure, axes = one_axes(WIDTH, 4.6)
    _draw_arcs(axes)
    axes.legend(fontsize=10, loc="upper right")
    return figure


def _draw_arcs(axes: Axes) -> None:
    degrees = np.linspace(0.5, 180.0, 360)
    for index, (name, psi) in enumerate(NAMED_MARGINS.items()):
        arc = np.degrees(margin_arc(psi, np.radians(degrees)))
        width = 2.4 if name == "arcface" else 1.7
        axes.plot(degrees, arc, lw=width, label=TITLES[name], **line_style(index))
    axes.set(
        xlim=(0, 180),
        ylim=(-1, 60),
        xticks=range(0, 181, 30),
        xlabel="angle between the two centres, degrees",
        ylabel="arc between regions, degrees",
    )


@style()
def circle_arcs(first_angle: float = 60.0, second_angle: float = 120.0) -> Figure:
    """Each class's part of the circle and the arc between, for four margins, at two angles."""
    names = ("softmax", "sphereface", "cosface", "arcface")
    figure = new_figure(WIDTH, 4.4)
    grid = figure.subplots(2, len(names))
    for row, degrees in enumerate((first_angle, second_angle)):
        for column, name in enumerate(names):
            _circle(grid[row, column], NAMED_MARGINS[name], math.radians(degrees))
            grid[row, column].set_title(f"{_NAMES[name]}, {degrees:g}°", fontsize=10)
    _legend(figure)
    return figure


def _circle(axes: Axes, psi: Psi, centre_angle: float) -> None:
    """A circle coloured by region, with the centres at the top and the margin's width."""
    phi = np.linspace(-math.pi, math.pi, 1441)
    inner, outer = 0.86, 1.0
    regions = circle_regions(psi, centre_angle, 0.5 * (phi[1:] + phi[:-1]))
    # Seen with the middle of the centres at the top: (sin φ, cos φ).
    for value in np.unique(regions):
        for start, stop in _runs(regions == value):
            arc = phi[start : stop + 1]
            axes.fill(
                np.concatenate([inner * np.sin(arc), outer * np.sin(arc[::-1])]),
                np.concatenate([inner * np.cos(arc), outer * np.cos(arc[::-1])]),
                color=_REGIONS[int(value)][0],
                lw=0,
            )
    for (along, across, _), colour, text in zip(
        centres(centre_angle), (_LINE_1, _LINE_2), ("W1", "W2"), strict=True
    ):
        arrow = {"arrowstyle": "-|>", "color": colour}
        axes.annotate("", (0.86 * across, 0.86 * along), (0, 0), arrowprops=arrow)
        centred_text(axes, 1.17 * across, 1.17 * along, text, color=colour)
    edge = float(region_edge(psi, np.asarray(centre_angle)))
    if math.isfinite(edge):
        half = 0.5 * centre_angle - edge
        for phi_edge in (-half, half):
            axes.plot(
                [0, math.sin(phi_edge)], [0, math.cos(phi_edge)], color="black", lw=0.8, ls=":"
            )
        centred_text(axes, 0, -0.25, f"arc {round(math.degrees(2 * half), 1) + 0.0}°")
    else:
        centred_text(axes, 0, -0.25, "no region\nbetween them")
    axes.set(xlim=(-1.28, 1.28), ylim=(-1.05, 1.28), aspect="equal")
    axes.axis("off")


@style()
def sphere_caps(centre_angle: float = 75.0) -> Figure:
    """Each class's part of the sphere and the band between, by margin; the angle in degrees."""
    figure = new_figure(WIDTH, 5.2)
    grid = figure.subplots(2, 3)
    for axes, (name, title) in zip(grid.flat, _NAMES.items(), strict=True):
        _sphere(axes, NAMED_MARGINS[name], math.radians(centre_angle))
        axes.set_title(title, fontsize=11)
    _legend(figure)
    return figure


def _sphere(axes: Axes, psi: Psi, centre_angle: float) -> None:
    """The near half of the sphere, coloured by region, with the arc between the two regions."""
    _colour_regions(axes, sphere_regions(psi, centre_angle, 501), (-1, 1, -1, 1))
    turn = np.linspace(0.0, 2.0 * math.pi, 361)
    axes.plot(np.cos(turn), np.sin(turn), color="0.5", lw=1)
    for elevation in np.radians([-60, -30, 0, 30, 60]):
        height = np.full_like(turn, math.sin(elevation))
        axes.plot(math.cos(elevation) * np.sin(turn), height, color="0.6", lw=0.4)
    for azimuth in np.radians([-60, -30, 0, 30, 60]):
        axes.plot(np.cos(turn) * math.sin(azimuth), np.sin(turn), color="0.6", lw=0.4)
    for (_, across, _), colour, text in zip(
        centres(centre_angle), (_LINE_1, _LINE_2), ("W1", "W2"), strict=True
    ):
        axes.plot(across, 0.0, "o", color=colour)
        centred_text(axes, across, -0.14, text)
    edge = float(region_edge(psi, np.asarray(centre_angle)))
    half = 0.5 * centre_angle - edge
    if math.isfinite(edge) and half > 0.0:
        axes.plot(
            [-math.sin(half), math.sin(half)], [0, 0], color="black", lw=2.5, marker="|", ms=9
        )
        centred_text(axes, 0, 0.14, f"arc {math.degrees(2 * half):.1f}°")
    axes.set(xlim=(-1.02, 1.02), ylim=(-1.02, 1.02), aspect="equal")
    axes.axis("off")


@style()
def geometry(centre_angle: float = 75.0) -> Figure:
    """ArcFace's margin on the sphere and circle, and every margin's arc; the angle in degrees."""
    figure = new_figure(WIDTH, 5.6)
    above, below = figure.subfigures(2, 1, squeeze=False).flat
    for axes, draw, name in zip(
        above.subplots(1, 3),
        (_sphere, _sphere, _circle),
        ("softmax", "arcface", "arcface"),
        strict=True,
    ):
        draw(axes, NAMED_MARGINS[name], math.radians(centre_angle))
        place = "circle" if draw is _circle else "sphere"
        axes.set_title(f"{_NAMES[name]}, on the {place}", fontsize=10)
    axes = below.subplots()
    _draw_arcs(axes)
    handles, labels = axes.get_legend_handles_labels()
    below.legend(handles, labels, loc="outside right center", fontsize=9)
    return figure


def _colour_regions(
    axes: Axes, regions: np.ndarray, extent: tuple[float, float, float, float]
) -> None:
    options: dict[str, Any] = {"cmap": _COLOURS, "norm": _LEVELS, "interpolation": "nearest"}
    axes.imshow(regions, extent=extent, origin="lower", **options)


def _patches() -> list[Patch]:
    return [Patch(color=colour, label=text) for colour, text in _REGIONS.values()]


def _legend(figure: Figure) -> None:
    figure.legend(handles=_patches(), loc="outside lower center", ncols=len(_REGIONS), fontsize=9)


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Start and stop of each run of true values."""
    steps = np.diff(np.concatenate([[0], flags.astype(np.int8), [0]]))
    return list(
        zip(np.flatnonzero(steps == 1).tolist(), np.flatnonzero(steps == -1).tolist(), strict=True)
    )


GEOMETRY_FIGURES: dict[str, Callable[..., Figure]] = {
    "geometry": geometry,
    "decision_boundaries": decision_boundaries,
    "decision_boundaries_cosine": decision_boundaries_cosine,
    "margin_arcs": margin_arcs,
    "circle_arcs": circle_arcs,
    "sphere_caps": sphere_caps,
}
"""Every picture of this module by file name."""
