"""Ridge plots of angles and target logits over training, and the same as an animation."""

import pathlib
from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.animation import PillowWriter
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from arcface_jax.analysis.angle_distributions import angle_density, logits_of_angles
from arcface_jax.buckets import written_locally
from arcface_jax.errors import InputError
from arcface_jax.figures.style import line_style, one_axes, style
from arcface_jax.margins import Psi

_GRID = np.linspace(0.0, 180.0, 361)
_OVERLAP = 0.9  # height of the tallest ridge, in rows
_LEAST_DENSITY = 1e-4  # per degree; the axis ends where nothing is above it

Angles = Mapping[str, Mapping[int, np.ndarray]]
"""Degrees between embeddings and their centres, by loss and by step."""


@style()
def angle_ridges(angles: Angles) -> Figure:
    """Density of θ, one row per loss, at the start, the middle and the end of training.

    Args:
      angles: by loss, at any number of steps; draws the first, the middle and the last.

    References: Deng et al., ArcFace (arXiv:1801.07698), figure 3(a).
    """
    rows = _moments(angles)
    figure, axes = one_axes(7.0, 1.1 + 0.85 * len(rows))
    tallest = max(
        float(angle_density(one, _GRID).max())
        for moments in rows.values()
        for one in moments.values()
    )
    for row, moments in enumerate(rows.values()):
        for number, degrees in enumerate(moments.values()):
            _ridge(axes, row, number, _GRID, angle_density(degrees, _GRID) / tallest * _OVERLAP)
    _name_rows(axes, rows, lambda one: f"{np.median(one):.0f}°")
    axes.set(
        xlim=(0, _end(one for moments in rows.values() for one in moments.values())),
        xlabel="angle θ between an embedding and the centre of its class, degrees\n"
        "height: share of the embeddings at an angle",
    )
    return figure


@style()
def logit_ridges(angles: Angles, psis: Mapping[str, Psi]) -> Figure:
    """Density of ψ(cos θ), one row per loss, at the start, the middle and the end of training.

    Args:
      angles: as for `angle_ridges`.
      psis: of each loss, by name.
    """
    rows = {
        name: {step: logits_of_angles(degrees, psis[name]) for step, degrees in moments.items()}
        for name, moments in _moments(angles).items()
    }
    values = [one for moments in rows.values() for one in moments.values()]
    low, high = min(float(one.min()) for one in values), max(float(one.max()) for one in values)
    grid = np.linspace(low - 0.05, high + 0.05, 400)
    figure, axes = one_axes(7.0, 1.1 + 0.85 * len(rows))
    densities = {
        name: {step: _density(one, grid) for step, one in row.items()} for name, row in rows.items()
    }
    tallest = max(float(one.max()) for row in densities.values() for one in row.values())
    for row, moments in enumerate(densities.values()):
        for number, density in enumerate(moments.values()):
            _ridge(axes, row, number, grid, density / tallest * _OVERLAP)
    _name_rows(axes, rows, lambda one: f"{np.median(one) + 0.0:.2f}".replace("-", "−"))
    axes.set(
        xlim=(grid[0], grid[-1]),
        xlabel="target logit over s, ψ(cos θ)\nheight: share of the embeddings at a logit",
    )
    return figure


@style()
def animate_angles(angles: Angles, path: pathlib.Path, frames_per_second: int = 4) -> pathlib.Path:
    """Writes the density of θ over training as a GIF, one row per loss, one frame per step.

    Args:
      angles: of every loss at the same steps.
      path: of the file, without .gif.
      frames_per_second: of the animation; the last frame stays for two seconds.

    Returns: the file.

    Raises:
      InputError: a loss has other steps than the first.
    """
    steps = sorted(next(iter(_checked(angles).values())))
    for name, moments in angles.items():
        if sorted(moments) != steps:
            raise InputError(
                f"angles: {name} has the steps {sorted(moments)}, not {steps}; give the same for "
                "all"
            )
    densities = {
        name: {step: angle_density(angles[name][step], _GRID) for step in steps} for name in angles
    }
    tallest = max(float(one.max()) for row in densities.values() for one in row.values())
    end = _end(one for row in angles.values() for one in row.values())
    file = path.parent / f"{path.name}.gif"
    file.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = one_axes(7.0, 1.1 + 0.85 * len(angles))
    writer = PillowWriter(fps=frames_per_second)
    with written_locally(file) as local, writer.saving(figure, str(local), dpi=100):
        for step in steps + [steps[-1]] * (2 * frames_per_second):
            axes.clear()
            for row, (name, density) in enumerate(densities.items()):
                _ridge(axes, row, row, _GRID, density[step] / tallest * _OVERLAP)
                median = np.median(angles[name][step])
                axes.text(end, -row + 0.12, f"{median:.0f}°", ha="right", va="bottom")
            axes.set_yticks(-np.arange(len(densities)), list(densities))
            axes.set(
                ylim=(-len(densities) + 0.8, 1.05),
                xlim=(0, end),
                title=f"step {step} of {steps[-1]} (right: median)",
                xlabel="angle θ between an embedding and its centre, degrees",
            )
            writer.grab_frame()
    return file


def _checked(angles: Angles) -> Angles:
    if not angles or not all(angles.values()):
        raise InputError("angles: no loss, or one without steps; give at least one of each")
    return angles


def _moments(angles: Angles) -> dict[str, dict[int, np.ndarray]]:
    """The first, the middle and the last step of each loss."""
    chosen = {}
    for name, moments in _checked(angles).items():
        steps = sorted(moments)
        middle = min(steps, key=lambda step: abs(step - (steps[0] + steps[-1]) / 2))
        chosen[name] = {
            step: moments[step] for step in dict.fromkeys((steps[0], middle, steps[-1]))
        }
    return chosen


def _density(values: np.ndarray, grid: np.ndarray, bandwidth: float = 0.025) -> np.ndarray:
    distance = (grid[:, None] - values[None, :]) / bandwidth
    density: np.ndarray = np.exp(-(distance**2) / 2).mean(axis=1) / bandwidth
    return density


def _ridge(axes: Axes, row: int, number: int, grid: np.ndarray, height: np.ndarray) -> None:
    """A ridge with its foot at −row, in the colour and line style of a number."""
    line = line_style(number)
    axes.fill_between(grid, -row, -row + height, color=line["color"], alpha=0.25, lw=0)
    axes.plot(grid, -row + height, lw=1.4, **line)


def _name_rows(
    axes: Axes, rows: Mapping[str, Mapping[int, np.ndarray]], median: Callable[[np.ndarray], str]
) -> None:
    """Names with medians below at the left, and a legend of the moments above."""
    names = [
        f"{name}\n{' → '.join(median(one) for one in moments.values())}"
        for name, moments in rows.items()
    ]
    axes.set_yticks(-np.arange(len(rows)), names)
    axes.set_ylim(-len(rows) + 0.8, 1.05)
    steps = list(next(iter(rows.values())))
    for number, step in enumerate(steps):
        axes.plot([], [], label=f"step {step}", **line_style(number))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(steps))


def _end(all_degrees: object) -> float:
    """Where the axis of angles ends."""
    highest = 0.0
    for degrees in all_degrees:  # type: ignore[attr-defined]
        seen = _GRID[angle_density(degrees, _GRID) > _LEAST_DENSITY]
        highest = max(highest, float(seen[-1]))
    return min(180.0, 10.0 * np.ceil(highest / 10.0 + 0.5))
