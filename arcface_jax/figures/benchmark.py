"""Benchmark pictures: ratios, time and memory by identities, loss by weight storage."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from arcface_jax.errors import InputError
from arcface_jax.figures.style import PALETTE, new_figure, one_axes, style

_MARKERS = "osD^vPX*"
_CLOSE_TICKS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.4, 1.7, 2, 2.5, 3, 4, 5)


@style()
def ratio_bars(
    ratios: Mapping[str, tuple[float, float, float]], label: str = "times as fast"
) -> Figure:
    """A bar from 1 to each ratio, with its range, on a logarithmic axis.

    Args:
      ratios: (lowest, median, highest) by name, all above 0.
      label: of the axis.

    Raises:
      InputError: there is no ratio, or one is not above 0.
    """
    values = np.array(list(ratios.values()))
    if not len(values) or not (values > 0).all():
        raise InputError(f"ratios is {dict(ratios)}; give one or more, each above 0")
    low, median, high = values.T
    lines = [textwrap.fill(name, 34) for name in ratios]
    rows = np.arange(len(lines))
    figure = new_figure(7.0, 0.9 + 0.22 * sum(line.count("\n") + 2 for line in lines))
    axes = figure.subplots()
    axes.set_xscale("log")
    colours = [PALETTE[0] if value >= 1 else PALETTE[1] for value in median]
    axes.barh(rows, median - 1, left=1, height=0.55, color=colours)
    ends = (median - low, high - median)
    axes.errorbar(median, rows, xerr=ends, fmt="none", ecolor="black", elinewidth=1.2, capsize=3)
    axes.axvline(1, color="0.2", lw=1.2)
    least, most = min(low.min(), 1.0), max(high.max(), 1.0)
    room = max(most / least, 1.2) ** 0.08
    # The numbers stand in a column of their own, so that no bar runs into one.
    axes.set_xlim(least / room, most * room)
    for row, value in zip(rows, median, strict=True):
        axes.text(
            1.02, float(row), f"{value:.3g}", transform=axes.get_yaxis_transform(), va="center"
        )
    ticks = _CLOSE_TICKS if most / least < 4 else _wide_ticks(least, most)
    shown = [tick for tick in ticks if least / room <= tick <= most * room]
    axes.xaxis.set_major_locator(FixedLocator(_thinned(shown)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(rows, lines)
    axes.set_ylim(len(lines) - 0.4, -0.6)  # the first on top
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(label)
    return figure


def _wide_ticks(least: float, most: float) -> list[float]:
    """1, 2 and 5 times every power of ten, or only the powers if there are many."""
    powers = range(int(np.floor(np.log10(least))), int(np.ceil(np.log10(most))) + 1)
    return [
        step * 10.0**power for power in powers for step in ((1, 2, 5) if len(powers) < 4 else (1,))
    ]


def _thinned(ticks: Sequence[float], most: int = 8) -> list[float]:
    """At most about this many evenly chosen ticks, including 1."""
    step = len(ticks) // most + 1
    return list(ticks[list(ticks).index(1) % step :: step])


@style()
def head_growth(
    seconds: Mapping[str, Mapping[int, float]],
    megabytes: Mapping[str, Mapping[int, float]],
    title: str,
) -> Figure:
    """Time and memory of a step by the number of identities, both logarithmic, one line per head.

    Args:
      seconds: by head, then by number of identities.
      megabytes: likewise; the peak of a step, including weights and optimiser.
      title: says batch, dimension and machine.

    Raises:
      InputError: if nothing was measured.
    """
    heads = list(seconds)
    if not heads:
        raise InputError("seconds has no head; measure one or more")
    figure = new_figure(10.0, 4.4)
    left, right = figure.subplots(1, 2)
    for axes, values, label in (
        (left, seconds, "seconds a step"),
        (right, megabytes, "peak resident, MB"),
    ):
        _growth(axes, {head: values.get(head, {}) for head in heads})
        axes.set_ylabel(label)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(heads))
    figure.suptitle(title, fontsize=11)
    return figure


@style()
def planned_memory(plans: Mapping[str, Mapping[int, float]], device: float) -> Figure:
    """Memory per step of each head by the number of identities, and what a device has.

    Args:
      plans: GiB by head, then by number of identities.
      device: GiB.

    Raises:
      InputError: if there is no plan.
    """
    if not plans:
        raise InputError("plans has no head; give one or more")
    figure, axes = one_axes(7.0, 4.4)
    _growth(axes, plans)
    axes.axhline(device, color="0.4", ls="--", lw=1)
    right = axes.get_yaxis_transform()
    axes.text(0.99, device, f"{device:g} GiB", transform=right, ha="right", va="bottom")
    axes.set_ylabel("memory of a step, GiB")
    axes.legend()
    return figure


def _growth(axes: Axes, by_head: Mapping[str, Mapping[int, float]]) -> None:
    """One line per head over the number of identities, both axes logarithmic."""
    for number, (head, by_classes) in enumerate(by_head.items()):
        points: Sequence[tuple[int, float]] = sorted(by_classes.items())
        marker, colour = _MARKERS[number % len(_MARKERS)], PALETTE[number % len(PALETTE)]
        values = [value for _, value in points]
        axes.plot([at for at, _ in points], values, marker=marker, color=colour, label=head)
    axes.set(xscale="log", yscale="log", xlabel="identities")


@style()
def loss_by_storage(curves: Mapping[str, np.ndarray], width: int = 20) -> Figure:
    """Loss by step for several storages of the weights: mean and range over seeds.

    Args:
      curves: by name, [seeds, steps].
      width: number of steps averaged per point.

    Raises:
      InputError: if a curve is shorter than `width`.
    """
    figure, axes = one_axes()
    for number, (name, losses) in enumerate(curves.items()):
        points = losses.shape[1] // width
        if not points:
            raise InputError(f"curve {name!r} has {losses.shape[1]} steps; pass {width} or more")
        smooth = losses[:, : points * width].reshape(len(losses), points, width).mean(axis=2)
        steps = (np.arange(points) + 0.5) * width
        low, mean, high = smooth.min(axis=0), smooth.mean(axis=0), smooth.max(axis=0)
        axes.fill_between(steps, low, high, color=PALETTE[number], alpha=0.2, lw=0)
        axes.plot(steps, mean, ls=("-", "--", ":")[number % 3], color=PALETTE[number], label=name)
    axes.set(xlabel="step", ylabel="loss")
    axes.legend()
    return figure
