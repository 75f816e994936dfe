"""Pictures of the head's benchmark: time and memory as identities grow."""

from collections.abc import Mapping, Sequence

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
        left.legend()
        figure.suptitle(title, fontsize=11)
    return figure
