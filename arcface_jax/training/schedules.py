"""Learning rates over the steps of a run, and the optimiser that uses them."""

import itertools
import math
from typing import Any

import jax
import optax

from arcface_jax.counts import number_of
from arcface_jax.errors import InputError
from arcface_jax.models.layers import FROZEN_SCALE


def _after_warmup(peak: float, warmup_steps: int, then: optax.Schedule) -> optax.Schedule:
    if warmup_steps == 0:
        return then
    return optax.join_schedules(
        [optax.linear_schedule(0.0, peak, warmup_steps), then], [warmup_steps]
    )


def _check(peak: float, warmup_steps: int, total_steps: int) -> None:
    if not (peak > 0 and math.isfinite(peak)):
        raise InputError(f"learning rate must be positive and finite, got {peak}")
    if not 0 <= warmup_steps < total_steps:
        raise InputError(
            f"warm-up must be shorter than the run: {warmup_steps} of "
            f"{number_of(total_steps, 'step')}"
        )


def polynomial_schedule(
    peak: float, warmup_steps: int, total_steps: int, power: float = 1.0
) -> optax.Schedule:
    """Linear warm-up from 0, then peak · (1 − progress)^power, 0 at `total_steps`.

    arcface_torch's schedule with power 1, except that its step 0 is here warmed
    up like the others (there it runs once at the peak rate).
    """
    _check(peak, warmup_steps, total_steps)
    decay = optax.polynomial_schedule(peak, 0.0, power, total_steps - warmup_steps)
    return _after_warmup(peak, warmup_steps, decay)


def step_schedule(
    peak: float,
    warmup_steps: int,
    total_steps: int,
    boundaries: tuple[int, ...],
    factor: float = 0.1,
) -> optax.Schedule:
    """Linear warm-up from 0, then peak, multiplied by `factor` at each boundary (the paper's
    schedule).

    Args:
      peak: learning rate after the warm-up.
      warmup_steps: steps of warm-up.
      total_steps: steps of the run.
      boundaries: ascending steps, counted from the start of the run.
      factor: what the rate is multiplied by.
    """
    _check(peak, warmup_steps, total_steps)
    ascending = all(a < b for a, b in itertools.pairwise(boundaries))
    if not ascending or (
        boundaries and not warmup_steps <= boundaries[0] <= boundaries[-1] <= total_steps
    ):
        raise InputError(
            f"boundaries must ascend between the warm-up and the end of the run, got {boundaries}"
        )
    decay = optax.piecewise_constant_schedule(
        peak, {boundary - warmup_steps: factor for boundary in boundaries}
    )
    return _after_warmup(peak, warmup_steps, decay)


def cosine_schedule(peak: float, warmup_steps: int, total_steps: int) -> optax.Schedule:
    """Linear warm-up from 0, then half a cosine from the peak to 0 at `total_steps`."""
    _check(peak, warmup_steps, total_steps)
    return _after_warmup(
        peak, warmup_steps, optax.cosine_decay_schedule(peak, total_steps - warmup_steps)
    )


def constant_schedule(peak: float, warmup_steps: int, total_steps: int) -> optax.Schedule:
    """Linear warm-up from 0, then the peak to the end."""
    _check(peak, warmup_steps, total_steps)
    return _after_warmup(peak, warmup_steps, optax.constant_schedule(peak))


def decay_mask(params: Any, decay: str = "kernels") -> Any:
    """Which parameters weight decay applies to, as a tree of booleans.

    Args:
      params: tree of parameters.
      decay: "kernels", those with two or more dimensions (convolutions, dense
        layers, class weights); "all", as arcface_torch does.

    Returns: the tree, never true for the frozen scale of the embedding's normalisation.
    """

    def decays(path: tuple[Any, ...], leaf: jax.Array) -> bool:
        return path[-1].key != FROZEN_SCALE and (decay == "all" or leaf.ndim > 1)

    return jax.tree_util.tree_map_with_path(decays, params)


def sgd(
    schedule: optax.Schedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    decay: str = "kernels",
) -> optax.GradientTransformation:
    """SGD with momentum and coupled weight decay: v ← μ·v + (g + λ·w); w ← w − lr·v."""
    if not 0.0 <= momentum < 1.0:
        raise InputError(f"momentum must be in [0, 1), got {momentum}")
    if weight_decay < 0:
        raise InputError(f"weight decay must not be negative, got {weight_decay}")
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=lambda params: decay_mask(params, decay)),
        optax.sgd(schedule, momentum=momentum),
    )
