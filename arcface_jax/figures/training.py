"""Pictures of a training run."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from arcface_jax.figures.style import end_at, legend_above, new_figure, one_axes, style


@style()
def training_curves(
    steps: Sequence[int],
    losses: Sequence[float],
    accuracies: Sequence[float],
    expected_initial_loss: float | None,
) -> Figure:
    """Training loss and accuracy by step, with the loss that it should start at, if known."""
    figure = new_figure(7.0, 6.0)
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(steps, losses, lw=1.2)
    above.set_ylabel("training loss")
    above.set_ylim(bottom=0)
    if expected_initial_loss is not None:
        label = "expected before training"
        above.axhline(expected_initial_loss, color="black", ls=":", lw=1, label=label)
        above.legend()
    below.plot(steps, 100 * np.asarray(accuracies), lw=1.2, color="C1")
    below.set(ylabel="training accuracy, %\n(before the margin)", xlabel="step")
    end_at(below, 100.0, bottom=0.0)
    return figure


@style()
def learning_curve(
    steps: Sequence[int],
    accuracies: Sequence[float],
    deviations: Sequence[float],
    aucs: Sequence[float],
) -> Figure:
    """Verification of held-out identities by step: accuracy ± deviation over folds, and AUC."""
    figure, axes = one_axes()
    percent, deviation = 100 * np.asarray(accuracies), 100 * np.asarray(deviations)
    label = "accuracy; bars: ± its deviation over folds"
    ends = (deviation, np.minimum(deviation, 100.0 - percent))  # no accuracy is above 100 %
    axes.errorbar(steps, percent, yerr=ends, marker="o", capsize=3, label=label)
    axes.plot(steps, 100 * np.asarray(aucs), marker="s", label="area under the ROC")
    axes.set(
        xlabel="step (0 is before training)",
        ylabel="verification of unseen people, %",
    )
    lowest = min([45.0, *(percent - deviation), *(100 * np.asarray(aucs))])
    end_at(axes, 100.0, bottom=lowest)
    axes.legend(loc="lower right")
    return figure


@style()
def angle_histogram(angles: Mapping[int, np.ndarray]) -> Figure:
    """Distribution of θ between training images and the centre of their class.

    Args:
      angles: degrees, by step.
    """
    figure, axes = one_axes()
    bins = np.arange(0.0, 181.0, 2.0).tolist()
    for step in sorted(angles):
        degrees = angles[step]
        label = f"step {step}: median {np.median(degrees):.0f}°"
        shares = np.full(len(degrees), 100.0 / len(degrees))
        axes.hist(degrees, bins, weights=shares, alpha=0.55, label=label)
    farthest = max((float(np.max(degrees)) for degrees in angles.values()), default=0.0)
    # Few pass 120° unless training goes astray.
    axes.set(
        xlim=(0, 120 if farthest <= 120 else 180),
        xlabel="angle θ between an embedding and its class centre, degrees",
        ylabel="share of the images in 2 degrees, %",
    )
    legend_above(axes)
    return figure
