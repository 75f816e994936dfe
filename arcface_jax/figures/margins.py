"""Margins over the angle: psi, its slope and the loss's gradient, by margin and rule past π."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from arcface_jax.analysis.target_logits import loss_curve, repulsive_intervals, target_curve
from arcface_jax.figures.style import WIDTH, line_style, new_figure, style
from arcface_jax.margins import (
    NAMED_MARGINS,
    PAST_PI,
    Psi,
    arcface,
    cm1,
    cm2,
    combined,
    sphereface,
    sphereface_original,
)

DEGREES = np.linspace(0.2, 179.8, 1797)
_WIDTH_OF_RULE = {"none": 5.0, "linear": 2.4, "easy": 1.8, "clip": 1.8, "reflect": 1.8}

# The margins of NAMED_MARGINS as a reader knows them.
TITLES = {
    "softmax": "softmax on the sphere",
    "sphereface": "SphereFace, m1 = 1.35",
    "arcface": "ArcFace, m2 = 0.5",
    "cosface": "CosFace, m3 = 0.35",
    "cm1": "CM1",
    "cm2": "CM2",
    "sphereface_original": "SphereFace, m = 4, λ = 5",
}


@dataclasses.dataclass(frozen=True)
class Family:
    """A margin that rules past π change: psi by rule, the angle that reaches π, slope limits."""

    title: str
    psi: Callable[[str], Psi]
    pi_reached_at_degrees: float
    slope_limits: tuple[float, float] = (-3.0, 5.0)


FAMILIES = {
    "sphereface": Family(
        "SphereFace, m1 = 1.35", lambda rule: sphereface(past_pi=rule), 180 / 1.35
    ),
    "arcface": Family(
        "ArcFace, m2 = 0.5", lambda rule: arcface(past_pi=rule), 180 - math.degrees(0.5)
    ),
    "cm1": Family("CM1", lambda rule: cm1(past_pi=rule), 180 - math.degrees(0.3)),
    "cm2": Family("CM2", lambda rule: cm2(past_pi=rule), (180 - math.degrees(0.4)) / 0.9),
    "m1_4": Family("m1 = 4", lambda rule: combined(4, 0, 0, past_pi=rule), 45.0, (-17.0, 17.0)),
}


def _broken(values: np.ndarray, jumps: np.ndarray) -> np.ndarray:
    """The values with a gap at each jump, so that no line crosses it."""
    broken = np.array(values, dtype=float)
    broken[1:][jumps] = np.nan
    return broken


def _two_panels(title: str, slope_limits: tuple[float, float]) -> tuple[Figure, Axes, Axes]:
    figure = new_figure(WIDTH, 5.4)
    left, right = figure.subplots(1, 2)
    figure.suptitle(title, fontsize=11)
    for axes in (left, right):
        axes.set(
            xlabel="angle θ to the true class, degrees", xlim=(0, 180), xticks=range(0, 181, 30)
        )
    left.set_ylabel("target cosine ψ(cos θ)")
    right.set(ylabel="slope dψ / d cos θ", ylim=slope_limits)
    return figure, left, right


def _draw(left: Axes, right: Axes, psi: Psi, label: str, **line: Any) -> None:
    curve = target_curve(psi, DEGREES)
    jumps = np.abs(np.diff(curve.value)) > 0.05
    left.plot(DEGREES, _broken(curve.value, jumps), label=label, **line)
    jumps |= np.abs(np.diff(curve.cosine_slope)) > 0.3
    right.plot(DEGREES, _broken(curve.cosine_slope, jumps), **line)


@style()
def margin_curves(
    margins: Mapping[str, Psi],
    title: str = "Margins",
    slope_limits: tuple[float, float] = (-3.0, 5.0),
) -> Figure:
    """Target cosine and slope of each margin over the angle, from 0° to 180°.

    Args:
      margins: psi by label.
      title: of the picture.
      slope_limits: of the slope's axis.
    """
    figure, left, right = _two_panels(title, slope_limits)
    for index, (label, psi) in enumerate(margins.items()):
        _draw(left, right, psi, label=label, lw=1.8, **line_style(index))
    handles = left.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, fontsize=10)
    return figure


@style()
def rule_curves(family: Family) -> Figure:
    """One margin, such as one of FAMILIES, under every rule past π, with both gradients."""
    figure, left, right = _two_panels(
        f"{family.title}, under each rule past π", family.slope_limits
    )
    for index, rule in enumerate(PAST_PI):
        line = line_style(max(index - 1, 0)) | ({"color": "0.75"} if rule == "none" else {})
        _draw(left, right, family.psi(rule), label=rule, lw=_WIDTH_OF_RULE[rule], **line)
    plain = np.cos(np.deg2rad(DEGREES))
    left.plot(DEGREES, plain, color="black", lw=0.8, label="left: cos θ, no margin")
    left.axvline(family.pi_reached_at_degrees, color="black", lw=1, ls=":", label="m1·θ + m2 = π")
    right.axvline(family.pi_reached_at_degrees, color="black", lw=1, ls=":")
    right.axhline(1.0, color="black", lw=0.8)
    handles, labels = left.get_legend_handles_labels()
    labels[PAST_PI.index("none")] = "none (the formula)"
    labels[len(PAST_PI)] += "\nright: straight-through,\nany rule"
    below: dict[str, Any] = {"loc": "outside lower center", "ncols": 2, "fontsize": 10}
    figure.legend(handles, labels, title="past π", **below)
    return figure


def _named_margins() -> Figure:
    named = {TITLES[name]: psi for name, psi in NAMED_MARGINS.items()}
    return margin_curves(named, "Margins: what stands in the place of the true class's cosine")


def _annealing() -> Figure:
    curves = {f"λ = {weight}": sphereface_original(weight=weight) for weight in (1000, 50, 5, 1, 0)}
    return margin_curves(
        curves, "SphereFace, m = 4: λ falls from 1000 to 5 in training", (-1.0, 17.0)
    )


@style()
def target_logit_curves() -> Figure:
    """The paper's target-logit curves over its own angles, and their slopes."""
    degrees = np.linspace(20.0, 100.0, 321)
    figure = new_figure(WIDTH, 4.8)
    left, right = figure.subplots(1, 2)
    for index, (name, psi) in enumerate(NAMED_MARGINS.items()):
        curve = target_curve(psi, degrees)
        line = line_style(index) | {"lw": 2.0}
        left.plot(degrees, curve.value, label=TITLES[name], **line)
        right.plot(degrees, curve.angle_slope, **line)
    left.set_ylabel("target cosine ψ(cos θ)")
    right.set_ylabel("slope dψ/dθ, per radian")
    for axes in (left, right):
        axes.set(
            xlabel="angle θ to the true class, degrees",
            xlim=(20, 100),
            xticks=range(20, 101, 20),
        )
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9
    )
    return figure


@style()
def loss_gradient(scale: float = 64.0, num_classes: int = 10_572) -> Figure:
    """Direction and strength of the loss's pull on the embedding, by rule past π and by margin.

    All of `num_classes` but the true one are at 90°; `scale` is s.
    """
    rules = {f"{rule}, exact": arcface(past_pi=rule) for rule in PAST_PI}
    rules["any rule, straight-through"] = arcface(gradient="straight_through")
    named = {TITLES[name]: psi for name, psi in NAMED_MARGINS.items()}
    figure = new_figure(WIDTH, 6.6)
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, margins, title in (
        (left, rules, "ArcFace, m = 0.5, by rule past π"),
        (right, named, "each margin, no rule, exact gradient"),
    ):
        for index, (label, psi) in enumerate(margins.items()):
            # The lines that others run along are wide and pale below them.
            wide = label.startswith(("none", "any rule", TITLES["softmax"]))
            line = line_style(index) | {"lw": 1.8}
            if wide:
                line |= {"ls": "-", "lw": 5.0, "alpha": 0.4, "zorder": 1.5}
            away = [f", away {low:.0f}°–{high:.0f}°" for low, high in repulsive_intervals(psi)]
            gradient = loss_curve(psi, DEGREES, scale=scale, num_classes=num_classes).gradient
            shown = _broken(gradient, np.abs(np.diff(gradient)) > 0.05 * scale)
            axes.plot(DEGREES, shown, label=label + "".join(away), **line)
        axes.set_title(title, fontsize=10)
        axes.set(
            xlim=(0, 180), xticks=range(0, 181, 30), xlabel="angle θ to the true class, degrees"
        )
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), fontsize=8.5)
    lowest = min(left.get_ylim()[0], -0.2 * scale)
    left.set_ylim(bottom=lowest)
    for axes in (left, right):
        axes.axhspan(lowest, 0.0, color="0.93", zorder=0)
        axes.axhline(0.0, color="black", lw=0.8)
        axes.text(
            5,
            0.5 * lowest,
            "descent turns the embedding\naway from its class",
            va="center",
            fontsize=9,
        )
    left.set_ylabel("gradient of the loss dL/dθ, per radian")
    return figure


MARGIN_FIGURES: dict[str, Callable[..., Figure]] = {
    "margins": _named_margins,
    **{
        f"margin_rules_{name}": functools.partial(rule_curves, family)
        for name, family in FAMILIES.items()
    },
    "margin_annealing": _annealing,
    "target_logits": target_logit_curves,
    "loss_gradient": loss_gradient,
}
"""Every picture of this module by file name."""
