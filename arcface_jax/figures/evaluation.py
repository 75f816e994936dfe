"""Pictures of an evaluation: ROC, DET, CMC, scores, rejection curves and the hardest pairs."""

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from arcface_jax.counts import number_of
from arcface_jax.errors import InputError
from arcface_jax.evaluation.calibration import Reliability
from arcface_jax.evaluation.quality import RejectCurve
from arcface_jax.evaluation.roc import Roc
from arcface_jax.figures.samples import Mark, group_sheet, name_and_file
from arcface_jax.figures.style import (
    check_images,
    end_at,
    legend_above,
    logarithmic,
    one_axes,
    style,
)

_T = TypeVar("_T")

_DRAWN_POINTS = 2000  # a line needs no more, and a curve may have millions


@style()
def roc_figure(rocs: Mapping[str, Roc]) -> Figure:
    """TAR against FAR on a logarithmic axis, one line per model or set.

    Each line starts at the lowest FAR that its data can show: one different pair.
    """
    figure, axes = one_axes()
    for name, roc in _at_least_one(rocs, "rocs").items():
        shown = _visible_points(roc)
        axes.plot(roc.far[shown], roc.tar[shown], lw=1.6, label=name)
    _far_axis(axes, rocs, "false accept rate")
    axes.set_ylabel("true accept rate")
    end_at(axes, 1.0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(loc="lower right")
    return figure


@style()
def det_figure(rocs: Mapping[str, Roc], *, identification: bool = False) -> Figure:
    """Detection error trade-off: miss rate against false alarm rate, logarithmic, EER on the
    diagonal.

    Args:
      rocs: name → curve.
      identification: name the axes FPIR and FNIR, as for `identification.open_set_roc`.
    """
    figure, axes = one_axes()
    lowest = 1.0
    for name, roc in _at_least_one(rocs, "rocs").items():
        shown = _visible_points(roc)
        shown = shown[roc.frr[shown] > 0]  # zero has no place on a logarithmic axis
        lowest = min(lowest, 1.0 / roc.num_same)
        axes.plot(roc.far[shown], roc.frr[shown], lw=1.6, label=name)
    _far_axis(
        axes,
        rocs,
        "false positive identification rate" if identification else "false accept rate",
    )
    logarithmic(axes, "y")
    axes.set(
        ylim=(_decade_below(lowest), 1.0),
        ylabel="false negative identification rate" if identification else "false reject rate",
    )
    diagonal = np.array([max(axes.get_xlim()[0], axes.get_ylim()[0]), 1.0])
    axes.plot(diagonal, diagonal, color="grey", ls=":", lw=1, label="equal error")
    axes.legend(loc="lower left")
    return figure


@style()
def cmc_figure(curves: Mapping[str, np.ndarray]) -> Figure:
    """Cumulative match characteristic: share of known people found among the first k.

    Args:
      curves: name → rates for ranks 1, 2 …, from `identification.cumulative_match`.
    """
    figure, axes = one_axes()
    for name, curve in _at_least_one(curves, "curves").items():
        label = f"{name}: {curve[0]:.2%} at rank 1"
        axes.plot(np.arange(1, len(curve) + 1), curve, marker="o", ms=3, lw=1.4, label=label)
    last = max(map(len, curves.values()))
    step = 1 if last <= 10 else 5 * math.ceil(last / 50)
    axes.set_xticks(sorted({1, *range(step, last + 1, step)}))
    axes.set_xlim(0.5, last + 0.5)
    axes.set(xlabel="rank k", ylabel="people found among the first k")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    end_at(axes, 1.0)
    axes.legend(loc="lower right")
    return figure


@style()
def score_histogram(
    scores: np.ndarray,
    same: np.ndarray,
    threshold: float | None = None,
    label: str = "cosine similarity",
) -> Figure:
    """Distributions of the similarity of same and of different pairs: the share of the pairs of a
    kind in each bar, so that the bars of a kind add up to 100 %.

    Args:
      scores: [P].
      same: [P] bool.
      threshold: drawn as a line, if given.
      label: of the scores.
    """
    scores, same = np.asarray(scores), np.asarray(same, bool)
    if scores.shape != same.shape or scores.size == 0:
        raise InputError(
            f"scores, same: shapes {scores.shape} and {same.shape}; give one flag for each score"
        )
    figure, axes = one_axes()
    low, high = float(scores.min()), float(scores.max())
    bins = np.linspace(low, high if high > low else low + 1e-3, 81)
    for kind, mask in (("different people", ~same), ("same person", same)):
        if mask.any():
            pairs = f"{kind}: {number_of(mask.sum(), 'pair')}"
            shares = np.full(mask.sum(), 1.0 / mask.sum())
            axes.hist(scores[mask], bins.tolist(), weights=shares, alpha=0.6, label=pairs)
    if threshold is not None:
        axes.axvline(threshold, color="black", ls="--", lw=1, label=f"threshold {threshold:.3f}")
    axes.set(xlabel=label, ylabel="share of the pairs of a kind, per bar")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    legend_above(axes)
    return figure


@style()
def reliability_figure(found: Reliability, *, by_folds: bool = False) -> Figure:
    """Share of same pairs by predicted probability, with intervals; both agree on the diagonal.

    Args:
      found: the shares and their intervals.
      by_folds: whether the intervals are over folds, not over people.
    """
    figure, axes = one_axes()
    axes.plot([0, 1], [0, 1], color="grey", ls=":", lw=1, label="reliable")
    share = np.array([[one.low, one.estimate, one.high] for one in found.share])
    # Ends of an interval of people can lie on one side of the estimate.
    errors = np.maximum(np.diff(share, axis=1).T, 0)
    label = (
        f"Cllr {found.figures['cllr'].estimate:.3f} bits; bars: intervals over "
        f"{'folds' if by_folds else 'people'}"
    )
    axes.errorbar(
        found.probability, share[:, 1], errors, marker="o", ms=4, lw=1.4, capsize=2, label=label
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    axes.set(
        xlim=(0, 1), xlabel="probability of the same person, prior ½", ylabel="share of same pairs"
    )
    end_at(axes, 1.0, bottom=0.0)
    legend_above(axes)
    return figure


@style()
def reject_figure(curves: Mapping[str, RejectCurve]) -> Figure:
    """False reject rate at a fixed threshold by the share of lowest-quality images rejected."""
    figure, axes = one_axes()
    for name, curve in _at_least_one(curves, "curves").items():
        axes.plot(curve.fractions, curve.frr, marker="o", ms=3, label=name)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.set(xlabel="share of images rejected, worst first", ylabel="false reject rate")
    axes.set_ylim(bottom=0)
    legend_above(axes)
    return figure


@style()
def pair_sheet(
    first: np.ndarray,
    second: np.ndarray,
    scores: Sequence[float],
    title: str,
    places: Sequence[tuple[str, str]] | None = None,
    columns: int = 3,
    *,
    names: Sequence[tuple[str, str]] | None = None,
    marks: Sequence[Mark] | None = None,
) -> Figure:
    """Pairs of pictures with their scores, such as the hardest false accepts or rejects.

    Args:
      first: uint8 [P, height, width, 3], RGB.
      second: uint8 [P, height, width, 3].
      scores: [P], written below each pair.
      title: above the sheet.
      places: [P], the files of both, each below its picture; long ones lose their middle.
      columns: pairs in a row.
      names: [P], who both are, each below its picture.
      marks: [P], whether the decision on a pair is right, above it in a word and a colour.

    Raises:
      InputError: wrong shape or type, no pair, or not one of anything for each pair.
    """
    check_images("first", first)
    check_images("second", second)
    if first.shape != second.shape:
        raise InputError(f"first, second: shapes {first.shape} and {second.shape}; give the same")
    for what, given in (("places", places), ("names", names)):
        if given is not None and len(given) != len(first):
            raise InputError(
                f"{what}: {len(given)} for {number_of(len(first), 'pair')}; give two for each pair"
            )
    for what, one_each in (("scores", scores), ("marks", marks)):
        if one_each is not None and len(one_each) != len(first):
            raise InputError(
                f"{what}: {len(one_each)} for {number_of(len(first), 'pair')}; give one each"
            )
    sides = []
    for side, images in enumerate((first, second)):
        rows = range(len(images))
        files = [""] * len(images) if places is None else [each[side] for each in places]
        people = [""] * len(images) if names is None else [each[side] for each in names]
        sides.append((images, [name_and_file(people[row], files[row]) for row in rows]))
    return group_sheet(sides, [f"{score:.3f}" for score in scores], title, marks, columns)


def _at_least_one(curves: Mapping[str, _T], name: str) -> Mapping[str, _T]:
    if not curves:
        raise InputError(f"{name}: no curve to draw; give at least one")
    return curves


def _visible_points(roc: Roc) -> np.ndarray:
    """Fewer points for the same line: the first and last TAR at each of a thousand FARs."""
    (positive,) = np.nonzero(roc.far > 0)
    start = int(positive[0]) if len(positive) else len(roc.far) - 1
    points = np.arange(start, len(roc.far))
    if len(points) <= _DRAWN_POINTS:
        return points
    wanted = np.geomspace(roc.far[start], roc.far[-1], _DRAWN_POINTS // 2)
    right = np.searchsorted(roc.far, wanted, side="right") - 1
    left = np.searchsorted(roc.far, roc.far[right], side="left")
    return np.unique(np.clip(np.concatenate([left, right]), start, len(roc.far) - 1))


def _far_axis(axes: Axes, rocs: Mapping[str, Roc], label: str) -> None:
    lowest = min(1.0 / roc.num_different for roc in rocs.values())
    logarithmic(axes, "x")
    axes.set(xlim=(_decade_below(lowest), 1.0), xlabel=label)


def _decade_below(rate: float) -> float:
    return 10.0 ** min(-1, math.floor(math.log10(rate)))
