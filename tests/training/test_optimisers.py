import dataclasses

import jax
import numpy as np
import optax
import pytest

from arcface_jax.errors import InputError
from arcface_jax.models.layers import FROZEN_SCALE
from arcface_jax.training.config import OptimiserConfig
from arcface_jax.training.optimisers import (
    create_optimiser,
    create_schedule,
    drawn_to_start,
    frozen_steps,
    peak_learning_rate,
)

PARAMS = {
    "backbone": {
        "kernel": np.full((2, 3), 2, np.float32),
        "bias": np.ones(3, np.float32),
        FROZEN_SCALE: np.ones(3, np.float32),
    },
    "head": {"class_weights": np.full((4, 3), -1, np.float32)},
}
GRADIENTS = jax.tree.map(lambda leaf: np.float32(0.1) * leaf, PARAMS)


def trained(config, steps=6, count=6):
    schedule = create_schedule(config, steps, 64)
    optimiser = create_optimiser(config, schedule, steps)

    @jax.jit
    def step(params, state):
        updates, state = optimiser.update(GRADIENTS, state, params)
        return optax.apply_updates(params, updates), state

    params, state, history = PARAMS, jax.jit(optimiser.init)(PARAMS), []
    for _ in range(count):
        params, state = step(params, state)
        history.append(jax.device_get(params))
    return history


PLAIN = OptimiserConfig(warmup=0.0, schedule="constant")


@pytest.mark.parametrize(
    "name", ["adamw", "lamb", "lion", "adam", "adagrad", "rmsprop", "novograd", "adabelief"]
)
def test_any_optax_optimiser_by_name(name):
    config = dataclasses.replace(PLAIN, name=name, learning_rate=0.01)
    history = trained(config)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(history[-1]))
    assert not np.allclose(history[-1]["head"]["class_weights"], PARAMS["head"]["class_weights"])


def test_options_reach_the_optimiser_and_decay_has_its_mask():
    config = dataclasses.replace(
        PLAIN, name="adamw", learning_rate=0.01, options='{"b1": 0.5, "b2": 0.6}'
    )
    expected, state = PARAMS, None
    reference = optax.adamw(
        0.01,
        b1=0.5,
        b2=0.6,
        weight_decay=5e-4,
        mask=jax.tree.map(lambda leaf: leaf.ndim > 1, PARAMS),
    )
    state = reference.init(PARAMS)
    for _ in range(6):
        updates, state = reference.update(GRADIENTS, state, expected)
        expected = optax.apply_updates(expected, updates)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), trained(config)[-1], expected
    )


def test_an_optimiser_without_decay_gets_it_coupled():
    config = dataclasses.replace(PLAIN, name="adagrad", weight_decay=0.5)
    reference = optax.adagrad(0.1)
    decayed = {**GRADIENTS["head"], "class_weights": GRADIENTS["head"]["class_weights"] - 0.5}
    updates, _ = reference.update(decayed, reference.init(PARAMS["head"]), PARAMS["head"])
    expected = optax.apply_updates(PARAMS["head"], updates)
    np.testing.assert_allclose(
        trained(config, count=1)[0]["head"]["class_weights"], expected["class_weights"]
    )


def test_a_frozen_backbone_stays_and_then_learns_with_the_schedule_where_it_stands():
    config = OptimiserConfig(
        warmup=0.0, frozen=0.5, backbone_rate=0.1, momentum=0.0, weight_decay=0.0
    )
    history = trained(config)
    for params in history[:3]:
        jax.tree.map(np.testing.assert_array_equal, params["backbone"], PARAMS["backbone"])
    rate = 0.1 * (1 - 3 / 6)  # polynomial, after three of six steps
    kernel = PARAMS["backbone"]["kernel"] - 0.1 * rate * GRADIENTS["backbone"]["kernel"]
    np.testing.assert_allclose(history[3]["backbone"]["kernel"], kernel, rtol=1e-6)
    free = trained(dataclasses.replace(config, frozen=0.0, backbone_rate=1.0))
    np.testing.assert_allclose(
        history[-1]["head"]["class_weights"], free[-1]["head"]["class_weights"], rtol=1e-6
    )


def test_a_backbone_that_never_learns_keeps_no_momentum():
    history = trained(OptimiserConfig(frozen=1.0))
    jax.tree.map(np.testing.assert_array_equal, history[-1]["backbone"], PARAMS["backbone"])
    assert frozen_steps(OptimiserConfig(frozen=1.0), 7) == 7


@pytest.mark.parametrize("decay", ["kernels", "all"])
def test_weights_drawn_to_their_start_are_numpys(decay):
    """v ← μ·v + g + λ₀·(w − w₀), w ← w − lr·v for the backbone; the head decays as ever."""
    config = dataclasses.replace(
        PLAIN, start_decay=0.5, weight_decay=0.25, decay=decay, backbone_rate=0.5, momentum=0.5
    )
    history = trained(config)
    for part, name, strength in (
        ("backbone", "kernel", 0.5),
        ("backbone", "bias", 0.5 if decay == "all" else 0.0),
        ("backbone", FROZEN_SCALE, 0.0),
        ("head", "class_weights", 0.25),
    ):
        start = PARAMS[part][name].astype(np.float64)
        target, rate = (0.0, 0.1) if part == "head" else (start, 0.05)
        weights, velocity = start, np.zeros_like(start)
        for found in history:
            gradient = GRADIENTS[part][name] + strength * (weights - target)
            velocity = 0.5 * velocity + gradient
            weights = weights - rate * velocity
            np.testing.assert_allclose(found[part][name], weights, rtol=1e-5, err_msg=name)


def test_a_pull_alone_returns_the_weights_to_their_start():
    """Without a gradient, each step takes lr·λ of what is left of the way."""
    pull = drawn_to_start(0.5)
    state = pull.init(PARAMS["backbone"])
    moved = jax.tree.map(lambda leaf: leaf + 1.0, PARAMS["backbone"])
    updates, _ = pull.update(jax.tree.map(np.zeros_like, moved), state, moved)
    np.testing.assert_allclose(updates["kernel"], np.full((2, 3), 0.5))
    np.testing.assert_array_equal(updates["bias"], np.zeros(3))


def test_what_is_drawn_to_its_start_has_no_decay_of_adamw_either():
    config = dataclasses.replace(PLAIN, name="adamw", weight_decay=0.9, start_decay=1e-9)
    still = dataclasses.replace(PLAIN, name="adamw", weight_decay=0.0)
    found, expected = (trained(one, count=1)[0]["backbone"]["kernel"] for one in (config, still))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_frozen_backbone_is_not_drawn_anywhere():
    config = dataclasses.replace(PLAIN, frozen=0.5, start_decay=0.5, momentum=0.0)
    history = trained(config)
    for params in history[:3]:
        jax.tree.map(np.testing.assert_array_equal, params["backbone"], PARAMS["backbone"])
    # The first free step is at the start, from where nothing pulls.
    step = PARAMS["backbone"]["kernel"] - 0.1 * GRADIENTS["backbone"]["kernel"]
    np.testing.assert_allclose(history[3]["backbone"]["kernel"], step, rtol=1e-6)


def test_the_learning_rate_scales_with_the_batch():
    config = OptimiserConfig(learning_rate=0.1, reference_batch=512)
    assert peak_learning_rate(config, 1024) == pytest.approx(0.2)
    assert peak_learning_rate(OptimiserConfig(), 1024) == 0.1
    assert float(
        create_schedule(dataclasses.replace(config, warmup=0.0), 10, 256)(0)
    ) == pytest.approx(0.05)


def test_the_papers_drops():
    config = OptimiserConfig(schedule="steps", warmup=0.0)
    schedule = create_schedule(config, 32_000, 512)
    rates = [float(schedule(step)) for step in (0, 19_999, 20_000, 27_999, 28_000, 31_999)]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (OptimiserConfig(name="adamwww"), "optimiser.name adamwww: optax has no such optimiser"),
        (OptimiserConfig(name="chain"), "optimiser.name chain"),
        (OptimiserConfig(name="adamw", momentum=0.5), "optimiser.momentum 0.5 is sgd's"),
        (OptimiserConfig(name="adamw", options="{"), "optimiser.options {: is not JSON"),
        (OptimiserConfig(name="adamw", options="[1]"), "give a JSON object"),
        (OptimiserConfig(name="adamw", options='{"beta": 1}'), "adamw knows no beta"),
        (OptimiserConfig(options='{"b1": 1}'), "optimiser.options .* are for other optimisers"),
        (OptimiserConfig(frozen=1.5), "optimiser.frozen"),
        (OptimiserConfig(backbone_rate=-1.0), "optimiser.backbone_rate"),
        (OptimiserConfig(start_decay=-0.1), "optimiser.start_decay is -0.1"),
        (OptimiserConfig(reference_batch=0), "optimiser.reference_batch is 0"),
        (OptimiserConfig(drops=(0.5,)), "optimiser.drops .* does nothing with schedule polynomial"),
        (OptimiserConfig(schedule="steps", drops=(0.9, 0.5)), "optimiser: boundaries must ascend"),
        (OptimiserConfig(weight_decay=-1.0), "optimiser.weight_decay is -1"),
        (OptimiserConfig(ema=5.0), "optimiser.ema is 5"),
        (OptimiserConfig(clip=0.0), "optimiser.clip is 0"),
        (OptimiserConfig(clip_over="backbone"), "clip_over backbone does nothing without"),
        (
            OptimiserConfig(name="adamw", options='{"learning_rate": 1}'),
            "give it by --optimiser.learning-rate",
        ),
        (
            OptimiserConfig(name="adamw", options='{"weight_decay": 1}'),
            "give it by --optimiser.weight-decay",
        ),
        (
            OptimiserConfig(learning_rate=-1.0),
            "optimiser: learning rate must be positive and finite, got -1",
        ),
        (
            OptimiserConfig(learning_rate=float("nan")),
            "optimiser: learning rate must be positive and finite, got nan",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(config, named):
    with pytest.raises(InputError, match=named):
        trained(config)
