"""KappaFace: concentrations and factors by hand, and its state over steps."""

import jax
import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.losses import Context, KappaFace, kappaface_factors, vmf_concentration


def test_the_concentration_of_a_mean_length():
    kappa = vmf_concentration(np.float32([0.0, 0.5, 0.9, -0.2, 1.0]), 512)
    # 0.5·(512 − 0.25)/0.75, 0.9·(512 − 0.81)/0.19; below 0 as 0, above 0.999 as there.
    wanted = [0.0, 341.1667, 2421.4263, 0.0, 0.999 * (512 - 0.998001) / 0.001999]
    np.testing.assert_allclose(kappa, wanted, rtol=1e-4)


def test_the_factors_of_three_classes():
    """κ̃ = −1.2247, 0, 1.2247; σ(0.4·1.2247) = 0.62008; 1, 2 and 4 images."""
    # A class that nobody has seen yet is as an average one, and moves no other.
    kappa, known = np.float32([1, 2, 3, 99]), np.array([True, True, True, False])
    factors = jax.jit(kappaface_factors)
    found = factors(kappa, known, np.float32([1, 2, 4, 4]))
    np.testing.assert_allclose(found, [0.690122, 0.5, 0.265944, 0.35], atol=2e-5)
    alone = factors(kappa, np.array([True, False, False, False]), np.full(4, 3, np.float32))
    np.testing.assert_allclose(alone, np.full(4, 0.35), rtol=1e-6)


def test_the_state_over_two_steps():
    loss = KappaFace(decay=0.75)
    state = loss.init_state(3)
    step = jax.jit(loss.advance)
    for labels, target in (([0, 0, 2, -1], [0.2, 0.4, 0.6, 9.0]), ([0, -1, -1, 0], [0.5] * 4)):
        context = Context(labels=np.array(labels), target=np.float32(target))
        state = step(state, context)
    cosines, weights = state["kappaface"]
    np.testing.assert_allclose(cosines, [0.75 * 0.25 * 0.3 + 0.25 * 0.5, 0.0, 0.25 * 0.6])
    np.testing.assert_allclose(weights, [0.75 * 0.25 + 0.25, 0.0, 0.25])


def test_scattered_and_small_classes_have_the_larger_margins():
    loss = KappaFace()
    state = {
        "kappaface": loss.init_state(4)["kappaface"]._replace(
            cosines=np.float32([0.02, 0.08, 0.05, 0.05]), weights=np.full(4, 0.1, np.float32)
        )
    }
    context = Context(
        labels=np.arange(4), dim=512, state=state, class_counts=np.float32([9, 9, 3, 9])
    )
    margins = np.asarray(loss.psi(context).m2)
    assert margins[0] > margins[3] > margins[1]
    assert margins[2] > margins[3]
    assert (margins < 0.8).all()


def test_bad_input_is_named():
    with pytest.raises(InputError, match=r"KappaFace has a state of each class; start with init_s"):
        KappaFace().init()
    e, w, y = np.eye(4)[:2], np.eye(4), np.array([0, 3])
    with pytest.raises(InputError, match=r"state is of 3 classes and class_weights of 4"):
        KappaFace()({"class_weights": w}, KappaFace().init_state(3), e, y)
    with pytest.raises(InputError, match="temperature is 2"):
        kappaface_factors(y, y > 0, y, temperature=2.0)
