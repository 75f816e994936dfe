"""Pictures of the head's benchmarks: time and memory as identities grow, loss by how weights are kept."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from arcface_jax.errors import InputError
from arcface_jax.figures.style import PALETTE, new_figure, style

_MARKERS = "osD^vPX*"


def head_growth(
    seconds: Mapping[str, Mapping[int, float]], megabytes: Mapping[str, Mapping[int, float]], title: str
) -> Figure:
    """Time and resident memory of a step by the number of identities, both axes logarithmic, one line a head.

    Args:
      seconds: by head, then by number of identities.
      megabytes: the same; the peak during a step, weights and optimiser included.
      title: says batch, dimension and machine.

    Raises:
      InputError: if nothing was measured.
    """
    heads = list(seconds)
    if not heads:
        raise InputError("seconds has no head; measure one or more")
    with style():
        figure = new_figure(10.0, 4.4)
        left, right = figure.subplots(1, 2)
        for axes, values, label in ((left, seconds, "seconds a step"), (right, megabytes, "peak resident, MB")):
            for number, head in enumerate(heads):
                points: Sequence[tuple[int, float]] = sorted(values.get(head, {}).items())
                axes.plot(
                    [classes for classes, _ in points],
                    [value for _, value in points],
                    marker=_MARKERS[number % len(_MARKERS)],
                    color=PALETTE[number % len(PALETTE)],
                    label=head,
                )
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel("identities")
            axes.set_ylabel(label)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(heads))
        figure.suptitle(title, fontsize=11)
    return figure


def loss_by_storage(curves: Mapping[str, np.ndarray], width: int = 20) -> Figure:
    """Loss by step for several ways to keep the weights: the mean over seeds, and the range of the seeds around it.

    Args:
      curves: by name, [seeds, steps].
      width: steps that each point is the mean of.

    Raises:
      InputError: if a curve is shorter than `width`.
    """
    with style():
        figure = new_figure()
        axes = figure.subplots()
        for number, (name, losses) in enumerate(curves.items()):
            points = losses.shape[1] // width
            if not points:
                raise InputError(f"curve {name!r} has {losses.shape[1]} steps; pass {width} or more")
            smooth = losses[:, : points * width].reshape(len(losses), points, width).mean(axis=2)
            steps = (np.arange(points) + 0.5) * width
            axes.fill_between(steps, smooth.min(axis=0), smooth.max(axis=0), color=PALETTE[number], alpha=0.2, lw=0)
            axes.plot(steps, smooth.mean(axis=0), ls=("-", "--", ":")[number % 3], color=PALETTE[number], label=name)
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.legend()
    return figure
