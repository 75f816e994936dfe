"""Embeddings and their centres in a plane."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from arcface_jax.errors import InputError
from arcface_jax.figures.style import PALETTE, one_axes, style

_MARKERS = "osD^vP*X<>ph"


@style()
def plane_figure(
    plane: np.ndarray, labels: np.ndarray, centres: np.ndarray, names: Sequence[str], title: str
) -> Figure:
    """Each embedding is a point in its person's colour and marker; centres are large and named.

    The axes have no unit: a layout such as t-SNE has none.

    Args:
      plane: [N, 2], where the embeddings lie.
      labels: int [N], 0 … C − 1.
      centres: [C, 2], where their centres lie.
      names: [C].
      title: above.

    Raises:
      InputError: for shapes that do not fit.
    """
    fits = plane.ndim == centres.ndim == 2 and plane.shape[1] == centres.shape[1] == 2
    if not fits or len(labels) != len(plane) or len(names) != len(centres):
        raise InputError(
            f"plane {plane.shape}, labels [{len(labels)}], centres {centres.shape}, names "
            f"[{len(names)}] do not fit; give [N, 2], [N], [C, 2] and [C]"
        )
    figure, axes = one_axes(7.0, 6.2)
    for person, name in enumerate(names):
        colour = PALETTE[person % len(PALETTE)]
        marker = _MARKERS[person // len(PALETTE) % len(_MARKERS)]
        mark: dict[str, Any] = {"marker": marker, "color": colour}
        x, y = plane[labels == person].T
        axes.scatter(x, y, s=12, alpha=0.55, linewidths=0, **mark)
        edge: dict[str, Any] = {"edgecolors": "black", "linewidths": 0.9, "zorder": 3}
        x, y = centres[person]
        axes.scatter(x, y, s=60, **mark, **edge)
        axes.annotate(
            name, centres[person], (4, 4), textcoords="offset points", fontsize=8, zorder=4
        )
    axes.set(
        title=title,
        xticks=[],
        yticks=[],
        xlabel="first direction of the layout (no unit)",
        ylabel="second direction of the layout (no unit)",
    )
    return figure
