"""Pictures of a study: losses side by side, sweeps, angles beside the paper's, courses."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter

from arcface_jax.analysis.over_seeds import summarise
from arcface_jax.errors import InputError
from arcface_jax.figures.style import PALETTE, line_style, new_figure, one_axes, style

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@style()
def losses_figure(panels: Mapping[str, Mapping[str, Sequence[float]]], label: str) -> Figure:
    """One row per loss, one panel per set: small marks for seeds, a large one for mean ± deviation.

    Args:
      panels: by data set and by loss, one value per seed; the first panel's means order the rows.
      label: of the horizontal axis, with its unit.
    """
    if not panels or not all(panels.values()):
        raise InputError("panels: no data set, or one without losses; give at least one of each")
    first = next(iter(panels.values()))
    names = sorted(first, key=lambda name: float(np.mean(first[name])))
    figure = new_figure(3.7 * len(panels) + 1.2, 1.2 + 0.26 * len(names))
    columns = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (data_set, rows) in zip(columns, panels.items(), strict=True):
        for height, name in enumerate(names):
            if name not in rows:
                continue
            summary = summarise(rows[name])
            colour = PALETTE[1] if name == "arcface" else PALETTE[0]
            axes.plot(rows[name], [height] * len(rows[name]), ".", color="black", ms=3, alpha=0.5)
            bar = summary.deviation if summary.count > 1 else 0.0
            axes.errorbar(
                summary.mean, height, xerr=bar, fmt="o", color=colour, ms=5, capsize=2, lw=1
            )
        axes.set_title(data_set, fontsize=11)
        axes.set_xlabel(label)
    columns[0].set_yticks(np.arange(len(names)), names, fontsize=9)
    columns[0].set_ylim(-0.7, len(names) - 0.3)
    return figure


@style()
def sweep_figure(
    lines: Mapping[str, Mapping[float, Sequence[float]]],
    x_label: str,
    y_label: str,
    *,
    logarithmic: bool = False,
) -> Figure:
    """Mean over seeds against a setting, with a band from the lowest seed to the highest.

    Args:
      lines: by name and by the setting's value, one value per seed.
      x_label: name of the setting, with its unit.
      y_label: name of the values, with their unit.
      logarithmic: whether the setting's axis is.
    """
    figure, axes = one_axes(6.0, 3.8)
    for number, (name, points) in enumerate(lines.items()):
        x = sorted(points)
        summaries = [summarise(points[value]) for value in x]
        line = line_style(number) | {"marker": _MARKERS[number % len(_MARKERS)], "label": name}
        axes.plot(x, [one.mean for one in summaries], lw=1.5, ms=5, **line)
        low, high = [one.low for one in summaries], [one.high for one in summaries]
        axes.fill_between(x, low, high, color=line["color"], alpha=0.15, lw=0)
    if logarithmic:
        ticks = sorted({value for points in lines.values() for value in points})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel=x_label, ylabel=y_label)
    if len(lines) > 1:
        axes.legend()
    return figure


@style()
def angle_table_figure(
    ours: Mapping[str, Mapping[str, Sequence[float]]],
    paper: Mapping[str, Mapping[str, float]],
    titles: Mapping[str, str],
) -> Figure:
    """One panel per figure of Table 3, one row per loss: marks for our seeds, a cross for the
    paper.

    Args:
      ours: by loss and by figure, one value per seed, degrees.
      paper: by loss and by figure, degrees.
      titles: of the panels, by figure.
    """
    names = list(ours)[::-1]
    figure = new_figure(7.4, 4.6)
    grid = figure.subplots(2, (len(titles) + 1) // 2, sharey=True, squeeze=False)
    for axes, (key, title) in zip(grid.T.flat, titles.items(), strict=True):
        for height, name in enumerate(names):
            if key in ours[name]:
                mean = float(np.mean(ours[name][key]))
                seeds = ours[name][key]
                axes.plot(seeds, [height] * len(seeds), ".", color=PALETTE[0], ms=3, alpha=0.6)
                axes.plot(mean, height, "o", color=PALETTE[0], ms=6)
            if key in paper.get(name, {}):
                axes.plot(paper[name][key], height, "x", color=PALETTE[1], ms=7, mew=2)
        axes.set_title(title, fontsize=11)
        axes.set(xlim=(0, 90), xticks=[0, 30, 60, 90])
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(-0.6, len(names) - 0.4)
    for axes in grid[-1]:
        axes.set_xlabel("degrees")
    grid[0, 0].plot([], [], "o", color=PALETTE[0], label="ours: mean; small: each seed")
    grid[0, 0].plot([], [], "x", color=PALETTE[1], mew=2, ls="", label="the paper's")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


@style()
def courses_figure(
    panels: Mapping[str, Mapping[str, tuple[Sequence[int], Sequence[float]]]],
) -> Figure:
    """Mean θ of the training batches by step, one panel per question, one line per setting.

    Args:
      panels: by title and by setting: (steps, degrees).
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(3.7 * columns + 0.3, 4.2 * rows)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes, (title, lines) in zip(grid.flat, panels.items(), strict=False):
        for number, (name, (steps, degrees)) in enumerate(lines.items()):
            axes.plot(steps, degrees, lw=1.6, label=name, **line_style(number))
        axes.axhline(90.0, color="grey", lw=0.8)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("step")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=9)
    for axes in grid[:, 0]:
        axes.set_ylabel("mean θ of the batch, degrees")
    grid[0, 0].set(ylim=(0, 180), yticks=[0, 30, 60, 90, 120, 150, 180])
    return figure
