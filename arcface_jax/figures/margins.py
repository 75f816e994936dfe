"""Pictures of margins: psi and its slope over the angle, for every margin, rule past π and gradient."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from arcface_jax.figures.style import PALETTE, new_figure, style
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
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)))
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
    """A margin that a rule past π changes: its name, psi for each rule, where it reaches π, the slopes to show."""

    title: str
    psi: Callable[[str], Psi]
    pi_reached_at_degrees: float
    slope_limits: tuple[float, float] = (-3.0, 5.0)


FAMILIES = {
    "sphereface": Family("SphereFace, m1 = 1.35", lambda rule: sphereface(past_pi=rule), 180 / 1.35),
    "arcface": Family("ArcFace, m2 = 0.5", lambda rule: arcface(past_pi=rule), 180 - math.degrees(0.5)),
    "cm1": Family("CM1", lambda rule: cm1(past_pi=rule), 180 - math.degrees(0.3)),
    "cm2": Family("CM2", lambda rule: cm2(past_pi=rule), (180 - math.degrees(0.4)) / 0.9),
    "m1_4": Family("m1 = 4", lambda rule: combined(4, 0, 0, past_pi=rule), 45.0, (-17.0, 17.0)),
}


def curve(psi: Psi, degrees: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """psi and its slope d psi/d cosθ at these angles.

    Args:
      psi: any margin that acts on each cosine alone.
      degrees: θ, [K].

    Returns: (psi [K], slope [K]).
    """
    cosine = jnp.cos(jnp.deg2rad(jnp.asarray(degrees, jnp.float32)))
    return np.asarray(psi(cosine)), np.asarray(jax.vmap(jax.grad(psi))(cosine))


def _broken(values: np.ndarray, jumps: np.ndarray) -> np.ndarray:
    """The values with a gap after each jump, so that no line is drawn across it."""
    broken = np.array(values, dtype=float)
    broken[1:][jumps] = np.nan
    return broken


def _two_panels(title: str, slope_limits: tuple[float, float]) -> tuple[Figure, Axes, Axes]:
    figure = new_figure(11.5, 4.6)
    left, right = figure.subplots(1, 2)
    figure.suptitle(title)
    for axes in (left, right):
        axes.set_xlabel("angle θ to the true class, degrees")
        axes.set_xlim(0, 180)
        axes.set_xticks(range(0, 181, 20))
    left.set_ylabel("target cosine ψ(cos θ)")
    right.set_ylabel("slope dψ / d cos θ")
    right.set_ylim(*slope_limits)
    return figure, left, right


def _draw(left: Axes, right: Axes, psi: Psi, label: str, color: str, line: Any, width: float) -> None:
    value, slope = curve(psi, DEGREES)
    jumps = np.abs(np.diff(value)) > 0.05
    left.plot(DEGREES, _broken(value, jumps), label=label, color=color, ls=line, lw=width)
    right.plot(DEGREES, _broken(slope, jumps | (np.abs(np.diff(slope)) > 0.3)), color=color, ls=line, lw=width)


def margin_curves(
    margins: Mapping[str, Psi], title: str = "Margins", slope_limits: tuple[float, float] = (-3.0, 5.0)
) -> Figure:
    """Target cosine and slope of each margin over the angle: the paper's target-logit curves, continued to 180°.

    Args:
      margins: psi by label.
      title: of the picture.
      slope_limits: of the slope's axis.

    Returns: the figure.
    """
    with style():
        figure, left, right = _two_panels(title, slope_limits)
        for index, (label, psi) in enumerate(margins.items()):
            _draw(left, right, psi, label, PALETTE[index % len(PALETTE)], _LINES[index % len(_LINES)], 1.8)
        figure.legend(*left.get_legend_handles_labels(), loc="outside right center")
    return figure


def rule_curves(family: Family) -> Figure:
    """One margin under every rule past π, and both gradients: the straight-through slope is 1 whatever the rule.

    Args:
      family: an entry of FAMILIES, or a new one.

    Returns: the figure.
    """
    with style():
        figure, left, right = _two_panels(f"{family.title}, under each rule past π", family.slope_limits)
        for index, rule in enumerate(PAST_PI):
            color = "0.75" if rule == "none" else PALETTE[index - 1]
            _draw(left, right, family.psi(rule), rule, color, _LINES[max(index - 1, 0)], _WIDTH_OF_RULE[rule])
        left.plot(DEGREES, np.cos(np.deg2rad(DEGREES)), color="black", lw=0.8, label="left: cos θ, no margin")
        left.axvline(family.pi_reached_at_degrees, color="black", lw=1, ls=":", label="m1·θ + m2 = π")
        right.axvline(family.pi_reached_at_degrees, color="black", lw=1, ls=":")
        right.axhline(1.0, color="black", lw=0.8)
        handles, labels = left.get_legend_handles_labels()
        labels[PAST_PI.index("none")] = "none (the formula)"
        labels[len(PAST_PI)] += "\nright: straight-through,\nany rule"
        figure.legend(handles, labels, loc="outside right center", title="past π")
    return figure


def _named_margins() -> Figure:
    named = {TITLES[name]: psi for name, psi in NAMED_MARGINS.items()}
    return margin_curves(named, "Margins: what stands in the place of the true class's cosine")


def _annealing() -> Figure:
    curves = {f"λ = {weight}": sphereface_original(weight=weight) for weight in (1000, 50, 5, 1, 0)}
    return margin_curves(curves, "SphereFace, m = 4: λ falls from 1000 to 5 in training", (-1.0, 17.0))


MARGIN_FIGURES: dict[str, Callable[[], Figure]] = {
    "margins": _named_margins,
    **{f"margin_rules_{name}": functools.partial(rule_curves, family) for name, family in FAMILIES.items()},
    "margin_annealing": _annealing,
}
"""Every picture of this module by file name: the named margins, each rule, SphereFace's annealing."""
