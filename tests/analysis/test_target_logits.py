"""Target-logit curves against closed forms and finite differences; the loss's gradient against
the loss itself.
"""

import jax
import numpy as np
import pytest

from arcface_jax.analysis.target_logits import (
    common_push,
    loss_curve,
    psi_at,
    repulsive_intervals,
    target_curve,
)
from arcface_jax.errors import InputError
from arcface_jax.losses import margin_cross_entropy
from arcface_jax.margins import (
    GRADIENTS,
    NAMED_MARGINS,
    PAST_PI,
    arcface,
    cm1,
    cm2,
    combined,
    cosface,
    sphereface,
    sphereface_original,
)

RULES = {
    f"{rule}, {gradient}": arcface(past_pi=rule, gradient=gradient)
    for rule in PAST_PI
    for gradient in GRADIENTS
}


def test_a_curve_is_psi_and_its_slopes_in_closed_form():
    degrees = np.array([30.0, 60.0, 170.0])
    curve = target_curve(arcface(0.5), degrees)
    theta = np.radians(degrees)
    np.testing.assert_allclose(curve.degrees, degrees)
    np.testing.assert_allclose(curve.value, np.cos(theta + 0.5), atol=2e-6)
    np.testing.assert_allclose(curve.angle_slope, -np.sin(theta + 0.5), atol=2e-5)
    np.testing.assert_allclose(curve.cosine_slope, np.sin(theta + 0.5) / np.sin(theta), atol=1e-4)
    assert curve.value.dtype == curve.angle_slope.dtype == np.float64


@pytest.mark.parametrize("name", NAMED_MARGINS)
def test_the_slope_over_the_papers_range_is_a_finite_difference(name):
    psi, h = NAMED_MARGINS[name], 1e-5
    degrees = np.linspace(20.5, 99.5, 80)  # half degrees: off SphereFace's kinks at 45° and 90°
    theta = np.radians(degrees)
    difference = (psi_at(psi, theta + h) - psi_at(psi, theta - h)) / (2 * h)
    np.testing.assert_allclose(target_curve(psi, degrees).angle_slope, difference, atol=1e-8)


@pytest.mark.parametrize("rule", PAST_PI)
def test_the_slope_past_pi_is_a_finite_difference(rule):
    psi, h = arcface(past_pi=rule), 1e-5
    degrees = np.array([91.0, 120.0, 150.0, 153.0, 165.0, 178.0])
    theta = np.radians(degrees)
    difference = (psi_at(psi, theta + h) - psi_at(psi, theta - h)) / (2 * h)
    np.testing.assert_allclose(target_curve(psi, degrees).angle_slope, difference, atol=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_the_two_slopes_belong_together(name):
    curve = target_curve(RULES[name], np.linspace(1.0, 179.0, 40))
    np.testing.assert_allclose(
        curve.angle_slope, -np.sin(np.radians(curve.degrees)) * curve.cosine_slope, atol=1e-12
    )
    if name.endswith("straight_through"):
        np.testing.assert_array_equal(curve.cosine_slope, 1.0)


@pytest.mark.parametrize(
    ("name", "num_classes", "scale"),
    [("none, exact", 2, 64.0), ("linear, straight_through", 50, 16.0), ("easy, exact", 300, 1.0)],
)
def test_the_loss_is_that_of_every_other_class_at_90_degrees(name, num_classes, scale):
    degrees = np.array([5.0, 50.0, 75.0, 95.0, 140.0, 175.0])
    curve = loss_curve(RULES[name], degrees, scale=scale, num_classes=num_classes)
    cosines = np.zeros((len(degrees), num_classes))
    cosines[:, 0] = np.cos(np.radians(degrees))
    labels = np.zeros(len(degrees), np.int32)
    with jax.enable_x64(True):
        loss = jax.jit(
            lambda given: margin_cross_entropy(given, labels, psi=RULES[name], scale=scale)
        )(cosines)
    np.testing.assert_allclose(curve.loss, loss, rtol=1e-10, atol=1e-12)
    # The equation of the docstring, with p from the loss.
    slope = target_curve(RULES[name], degrees).angle_slope
    np.testing.assert_allclose(
        curve.gradient, scale * np.expm1(-curve.loss) * slope, rtol=1e-9, atol=1e-12
    )


def test_the_gradient_is_a_finite_difference_of_the_loss():
    degrees, h = np.linspace(40.0, 175.0, 28), 1e-4
    curve, low, high = (
        loss_curve(arcface(), degrees + d, scale=16.0, num_classes=100) for d in (0.0, -h, h)
    )
    difference = (high.loss - low.loss) / (2 * np.radians(h))
    np.testing.assert_allclose(curve.gradient, difference, rtol=1e-6, atol=1e-6)


def test_past_pi_the_formulas_exact_gradient_turns_round_and_the_others_do_not():
    signs = {
        name: np.sign(np.round(loss_curve(psi, np.array([120.0, 170.0])).gradient, 3)).tolist()
        for name, psi in RULES.items()
    }
    assert signs.pop("none, exact") == [1.0, -1.0]
    assert signs.pop("clip, exact") == [1.0, 0.0]  # no gradient at all
    assert all(sign == [1.0, 1.0] for sign in signs.values())
    assert len(signs) == 2 * len(PAST_PI) - 2


@pytest.mark.parametrize(
    ("psi", "wanted"),
    [
        (arcface(0.5), [(180 - np.degrees(0.5), 180)]),
        (arcface(2.5), [(180 - np.degrees(2.5), 180)]),
        (sphereface(1.35), [(180 / 1.35, 180)]),
        (cm1(), [(180 - np.degrees(0.3), 180)]),
        (cm2(), [((180 - np.degrees(0.4)) / 0.9, 180)]),
        (combined(4, 0, 0), [(45, 90), (135, 180)]),
        (combined(4, 0, 0, past_pi="easy"), [(45, 90)]),
        (lambda cosine: -cosine, [(0, 180)]),
        (arcface(0.5, gradient="straight_through"), []),
        (arcface(0.5, past_pi="clip"), []),
        (combined(4, 0, 0, past_pi="linear"), []),
        (combined(4, 0, 0, past_pi="reflect"), []),
        (cosface(0.35), []),
        (arcface(0.0), []),
        (sphereface_original(), []),
    ],
)
def test_where_the_loss_repels(psi, wanted):
    found = repulsive_intervals(psi, step=0.5)
    assert np.asarray(found).shape == np.asarray(wanted).shape
    np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: target_curve(arcface(), np.array([10.0, 181.0])),
            r"degrees is 181; pass a number in \[0, 180\]",
        ),
        (lambda: target_curve(arcface(), np.array(10.0)), r"degrees has shape \(\)"),
        (lambda: loss_curve(arcface(), np.array([10.0]), scale=0.0), "scale is 0"),
        (lambda: loss_curve(arcface(), np.array([10.0]), num_classes=1), "num_classes is 1"),
        (lambda: repulsive_intervals(arcface(), step=0.0), "step is 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("name", NAMED_MARGINS)
def test_the_common_push_is_the_sum_of_all_cosines_gradients(name):
    psi, scale = NAMED_MARGINS[name], 8.0
    degrees = np.array([25.0, 64.0, 80.0, 100.0])
    cosines = np.random.default_rng(0).uniform(-0.5, 0.5, (4, 6))
    cosines[:, 2] = np.cos(np.radians(degrees))
    labels = np.full(4, 2)
    with jax.enable_x64(True):
        loss = lambda c: margin_cross_entropy(c, labels, psi=psi, scale=scale).sum()  # noqa: E731
        summed = np.asarray(jax.jit(jax.grad(loss))(cosines)).sum(axis=1)
    logits = scale * cosines
    logits[:, 2] = scale * psi_at(psi, np.radians(degrees))
    own = np.exp(logits[:, 2]) / np.exp(logits).sum(axis=1)
    np.testing.assert_allclose(
        summed, scale * (1 - own) * common_push(psi, degrees), rtol=1e-9, atol=1e-9
    )


def test_only_a_slope_other_than_one_pushes_all_and_arcface_from_half_a_margin_before_90():
    degrees = np.linspace(5.0, 175.0, 35)
    for psi in (cosface(0.35), arcface(0.0), arcface(0.5, gradient="straight_through")):
        np.testing.assert_allclose(common_push(psi, degrees), 0.0, atol=1e-12)
    for margin in (0.3, 0.5, 1.0):
        turn = 90.0 - np.degrees(margin) / 2
        before, at, after = common_push(arcface(margin), np.array([turn - 1, turn, turn + 1]))
        assert before < -1e-3 < abs(at) < 1e-3 < after
    assert not common_push(arcface(0.5, past_pi="easy"), np.array([91.0, 130.0, 170.0])).any()
