"""From the optimiser's name and settings to an optax transformation over {"backbone", "head"}."""

import dataclasses
import inspect
import json
from typing import Any

import jax
import jax.numpy as jnp
import optax

from arcface_jax.arguments import check_between, check_positive
from arcface_jax.errors import InputError, concerning, reason
from arcface_jax.training.config import OptimiserConfig
from arcface_jax.training.schedules import (
    constant_schedule,
    cosine_schedule,
    decay_mask,
    polynomial_schedule,
    sgd,
    step_schedule,
)


def peak_learning_rate(config: OptimiserConfig, batch_size: int) -> float:
    """optimiser.learning_rate, scaled linearly from the batch size that it is meant for.

    References: Goyal et al., Accurate, Large Minibatch SGD (arXiv:1706.02677), section 2.1.
    """
    if config.reference_batch is None:
        return config.learning_rate
    if config.reference_batch < 1:
        raise InputError(
            f"optimiser.reference_batch is {config.reference_batch}; pass 1 or more images"
        )
    return config.learning_rate * batch_size / config.reference_batch


def create_schedule(config: OptimiserConfig, steps: int, batch_size: int) -> optax.Schedule:
    """The learning rate over `steps`."""
    if not 0 <= config.warmup < 1:
        raise InputError(
            f"optimiser.warmup must be a share of the run in [0, 1), got {config.warmup}"
        )
    peak, warmup = peak_learning_rate(config, batch_size), round(config.warmup * steps)
    if config.schedule == "steps":
        with concerning("optimiser"):
            return step_schedule(
                peak, warmup, steps, tuple(round(share * steps) for share in config.drops)
            )
    if config.drops != OptimiserConfig.drops:
        raise InputError(
            f"optimiser.drops {config.drops} does nothing with schedule {config.schedule}; leave "
            "it out"
        )
    make = {
        "cosine": cosine_schedule,
        "constant": constant_schedule,
        "polynomial": polynomial_schedule,
    }
    with concerning("optimiser"):
        return make[config.schedule](peak, warmup, steps)


def frozen_steps(config: OptimiserConfig, steps: int) -> int:
    """Steps at the start of the run in which the backbone stays as it is."""
    check_between("optimiser.frozen", config.frozen, 0.0, 1.0)
    return round(config.frozen * steps)


def create_optimiser(
    config: OptimiserConfig, schedule: optax.Schedule, steps: int, depths: Any = None
) -> optax.GradientTransformation:
    """The optimiser of a run; with first_layer_rate f the backbone's updates are multiplied by
    f^(1 − depth), `depths` as `models.layer_order.depths` gives them.

    With a backbone that is frozen, slower or drawn to its start it is two, each with the schedule:
    the backbone's starts where the freeze ends, and until then keeps neither momentum nor decay.
    Clipping is the step's, which knows all devices' gradients.

    Raises:
      InputError: an unknown optimiser, or a setting out of range or without effect.
    """
    frozen = frozen_steps(config, steps)
    check_between("optimiser.backbone_rate", config.backbone_rate, 0.0, float("inf"))
    check_positive("optimiser.first_layer_rate", config.first_layer_rate)
    check_between("optimiser.weight_decay", config.weight_decay, 0.0, float("inf"))
    check_between("optimiser.start_decay", config.start_decay, 0.0, float("inf"))
    check_between("optimiser.ema", config.ema, 0.0, 1.0)
    if config.clip is not None:
        check_positive("optimiser.clip", config.clip)
    elif config.clip_over != OptimiserConfig.clip_over:
        raise InputError(
            f"optimiser.clip_over {config.clip_over} does nothing without optimiser.clip; set "
            "--optimiser.clip, or --optimiser.clip-over all"
        )
    optimiser = _base(config, schedule)
    if frozen or config.backbone_rate != 1.0 or config.start_decay:

        def later(count: jax.Array) -> jax.Array:  # a masked optimiser does not count the steps
            return config.backbone_rate * jnp.asarray(schedule(count + frozen))

        backbone = _base(config, later)
        if config.start_decay:
            undecayed = _base(dataclasses.replace(config, weight_decay=0.0), later)
            backbone = optax.chain(drawn_to_start(config.start_decay, config.decay), undecayed)
        if frozen:
            backbone = optax.conditionally_mask(backbone, lambda step: step >= frozen)
        optimiser = optax.partition(
            {"backbone": backbone, "head": optimiser}, {"backbone": "backbone", "head": "head"}
        )
    if depths is not None:
        rates = jax.tree.map(lambda depth: config.first_layer_rate ** (1.0 - depth), depths)

        def slow(updates: Any, params: Any) -> Any:
            return updates | {"backbone": jax.tree.map(jnp.multiply, updates["backbone"], rates)}

        optimiser = optax.chain(optimiser, optax.stateless(slow))
    return optimiser


def drawn_to_start(strength: float, decay: str = "kernels") -> optax.GradientTransformation:
    """g ← g + λ·(w − w₀), the gradient of λ/2·‖w − w₀‖², w₀ the parameters that the state began
    with; of those that weight decay applies to, see `schedules.decay_mask`.

    Args:
      strength: λ.
      decay: as in `schedules.decay_mask`.

    References: Li et al., Explicit Inductive Bias for Transfer Learning with Convolutional Networks
      (arXiv:1802.01483), eq. 2, L2-SP.
    """

    def init(params: Any) -> Any:
        return jax.tree.map(jnp.copy, params)

    def update(gradients: Any, start: Any, params: Any) -> tuple[Any, Any]:
        def drawn(gradient: jax.Array, now: jax.Array, first: jax.Array) -> jax.Array:
            return gradient + strength * (now - first)

        return jax.tree.map(drawn, gradients, params, start), start

    pull = optax.GradientTransformation(init, update)
    return optax.masked(pull, lambda params: decay_mask(params, decay))


def _base(config: OptimiserConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    if config.name == "sgd":
        if config.options:
            raise InputError(
                f"optimiser.options {config.options} are for other optimisers; set momentum and "
                "decay"
            )
        return sgd(
            schedule, momentum=config.momentum, weight_decay=config.weight_decay, decay=config.decay
        )
    make = getattr(optax, config.name, None)
    if not inspect.isfunction(make) or "learning_rate" not in inspect.signature(make).parameters:
        raise InputError(
            f"optimiser.name {config.name}: optax has no such optimiser; try sgd, adamw, lamb or "
            "lion"
        )
    if config.momentum != OptimiserConfig.momentum:
        raise InputError(
            f"optimiser.momentum {config.momentum} is sgd's; give that of {config.name} by "
            "--optimiser.options, as JSON"
        )
    options = _options(config)
    known = inspect.signature(make).parameters
    for name in ("learning_rate", "weight_decay"):
        if name in options:
            raise InputError(
                f"optimiser.options has {name}; give it by --optimiser.{name.replace('_', '-')}"
            )
    if unknown := sorted(options.keys() - known.keys()):
        raise InputError(
            f"optimiser.options: {config.name} knows no {', '.join(unknown)}; it has "
            f"{', '.join(known)}"
        )

    def mask(params: Any) -> Any:
        return decay_mask(params, config.decay)

    mask_name = next((name for name in ("mask", "weight_decay_mask") if name in known), None)
    if "weight_decay" in known and mask_name is not None:
        return make(schedule, **{"weight_decay": config.weight_decay, mask_name: mask} | options)
    coupled = optax.add_decayed_weights(config.weight_decay, mask=mask)
    return optax.chain(coupled, make(schedule, **options))


def _options(config: OptimiserConfig) -> dict[str, Any]:
    try:
        options = json.loads(config.options or "{}")
    except ValueError as error:
        raise InputError(
            f"optimiser.options {config.options}: is not JSON ({reason(error)}); give an object, "
            'for instance {"b1": 0.9}'
        ) from error
    if not isinstance(options, dict):
        raise InputError(
            f'optimiser.options {config.options}: give a JSON object, for instance {{"b1": 0.9}}'
        )
    return options
