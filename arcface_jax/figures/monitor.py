"""What to look at when a run goes wrong: rate, angles, lengths and gradients by step."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from arcface_jax.figures.style import new_figure, style

PANELS = {
    "learning_rate": "learning rate",
    "theta": "angle θ to the own class,\ndegrees (mean of a batch)",
    "feature_norm": "length of an embedding\n(mean of a batch)",
    "gradient_norm": "norm of the gradient",
}
"""Metrics that are drawn, and their axes' labels."""


@style()
def monitor(metrics: Sequence[Mapping[str, float | None]]) -> Figure:
    """Four metrics of a run by step; skipped steps leave gaps.

    Args:
      metrics: training lines of metrics.jsonl.
    """
    figure = new_figure(7.0, 5.2)
    axes = figure.subplots(2, 2, sharex=True)
    for one, (name, label) in zip(axes.flat, PANELS.items(), strict=True):
        values = [
            (line["step"], np.nan if line[name] is None else line[name])
            for line in metrics
            if name in line
        ]
        one.plot(*zip(*values, strict=True), lw=1.0)
        one.set_ylabel(label)
        one.set_ylim(bottom=0)
    for one in axes[1]:
        one.set_xlabel("step")
    return figure
