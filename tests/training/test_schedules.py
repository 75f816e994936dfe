import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arcface_jax.errors import InputError
from arcface_jax.models.layers import FROZEN_SCALE
from arcface_jax.training.schedules import (
    cosine_schedule,
    decay_mask,
    polynomial_schedule,
    sgd,
    step_schedule,
)


def rates(schedule, steps):
    return np.array([schedule(step) for step in range(steps)])


def test_arcface_torch_schedule_without_its_quirk():
    """Published step by step; their first .1 (a step 0 that is not warmed up) is 0 here."""
    expected = [0, 0.025, 0.05, 0.075, 0.1, 0.08333, 0.06667, 0.05, 0.03333, 0.01667, 0]
    np.testing.assert_allclose(rates(polynomial_schedule(0.1, 4, 10), 11), expected, atol=5e-6)


def test_paper_schedule_divides_by_ten_twice():
    schedule = step_schedule(0.1, 0, 32_000, (20_000, 28_000))
    for step, rate in [
        (0, 0.1),
        (19_999, 0.1),
        (20_000, 0.01),
        (27_999, 0.01),
        (28_000, 0.001),
        (31_999, 0.001),
    ]:
        assert float(schedule(step)) == pytest.approx(rate, rel=1e-6)


def test_warmup_does_not_move_the_boundaries():
    schedule = step_schedule(0.1, 10, 100, (50,))
    assert float(schedule(5)) == pytest.approx(0.05)
    assert float(schedule(49)) == pytest.approx(0.1)
    assert float(schedule(50)) == pytest.approx(0.01)


def test_cosine_by_hand():
    expected = [0, 0.1, 0.2, *(0.1 * (1 + np.cos(np.pi * np.arange(1, 9) / 8)))]
    np.testing.assert_allclose(rates(cosine_schedule(0.2, 2, 10), 11), expected, atol=1e-7)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: polynomial_schedule(0.0, 1, 10), "learning rate"),
        (lambda: polynomial_schedule(0.1, 10, 10), "warm-up"),
        (lambda: cosine_schedule(0.1, -1, 10), "warm-up"),
        (lambda: step_schedule(0.1, 0, 10, (5, 3)), "boundaries"),
        (lambda: step_schedule(0.1, 4, 10, (3,)), "boundaries"),
        (lambda: step_schedule(0.1, 4, 10, (11,)), "boundaries"),
        (lambda: sgd(optax.constant_schedule(0.1), momentum=1.0), "momentum"),
        (lambda: sgd(optax.constant_schedule(0.1), weight_decay=-1.0), "weight decay"),
    ],
)
def test_bad_settings_are_named(call, named):
    with pytest.raises(InputError, match=named):
        call()


PARAMS = {
    "conv": {"kernel": jnp.full((3, 3, 1, 1), 2.0)},
    "norm": {"scale": jnp.full(4, 3.0), "bias": jnp.full(4, 5.0)},
    "features": {FROZEN_SCALE: jnp.ones(4)},
    "head": {"class_weights": jnp.full((2, 4), 7.0)},
}


def test_decay_reaches_kernels_only_or_all_but_the_frozen_scale():
    kernels = decay_mask(PARAMS)
    assert kernels["conv"]["kernel"]
    assert kernels["head"]["class_weights"]
    assert not any(jax.tree.leaves([kernels["norm"], kernels["features"]]))
    everything = decay_mask(PARAMS, "all")
    assert all(jax.tree.leaves([everything["conv"], everything["norm"], everything["head"]]))
    assert not everything["features"][FROZEN_SCALE]


def test_sgd_is_coupled_decay_then_momentum():
    """Against the recurrence written out in float64: v ← μv + (g + λw), w ← w − lr·v."""
    optimiser = sgd(optax.constant_schedule(0.1), momentum=0.9, weight_decay=0.01)
    params, state = PARAMS, optimiser.init(PARAMS)
    weight, velocity = 7.0, 0.0
    for gradient in (1.0, -2.0, 0.5):
        updates, state = optimiser.update(
            jax.tree.map(lambda leaf, g=gradient: jnp.full_like(leaf, g), params), state, params
        )
        params = optax.apply_updates(params, updates)
        velocity = 0.9 * velocity + gradient + 0.01 * weight
        weight -= 0.1 * velocity
    np.testing.assert_allclose(params["head"]["class_weights"], weight, rtol=1e-6)
