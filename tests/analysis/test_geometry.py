"""Decision boundaries and margins between two classes, against closed forms and against the
losses themselves.
"""

import math

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from arcface_jax.analysis import geometry
from arcface_jax.errors import InputError
from arcface_jax.losses import margin_cross_entropy, softmax_loss
from arcface_jax.margins import (
    NAMED_MARGINS,
    SINE_GUARD,
    arcface,
    combined,
    cosface,
    softmax_on_sphere,
    sphereface,
)

laws = settings(max_examples=25)


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.5, 1.2])
def test_arcfaces_margin_is_the_same_angle_everywhere(margin):
    # All angles with θ + m ≤ π, but for the ends, where the guard under the sine's root shows.
    theta = np.linspace(0.02, math.pi - margin - 0.02, 500)
    width = geometry.boundary(arcface(margin), theta) - theta
    guard = math.sin(margin) * SINE_GUARD / (2 * np.sin(theta) * np.sin(theta + margin))
    np.testing.assert_allclose(width - margin, guard, rtol=2e-3, atol=1e-12)
    middle = (theta > 0.4) & (theta + margin < math.pi - 0.4)
    np.testing.assert_allclose(width[middle], margin, atol=3e-6)


def test_the_other_boundaries_are_their_equations():
    theta = np.linspace(0.0, math.pi, 181)
    np.testing.assert_allclose(geometry.boundary(softmax_on_sphere(), theta), theta, atol=1e-8)
    inside = np.cos(theta) - 0.35 >= -1.0
    across = geometry.boundary(cosface(0.35), theta)
    np.testing.assert_array_equal(np.isnan(across), ~inside)  # it leaves the sphere
    np.testing.assert_allclose(np.cos(across[inside]), np.cos(theta[inside]) - 0.35, atol=1e-12)
    before_pi = np.linspace(0.02, math.pi / 1.35 - 0.02, 100)
    np.testing.assert_allclose(
        geometry.boundary(sphereface(1.35), before_pi), 1.35 * before_pi, atol=5e-5
    )
    mixed = geometry.boundary(NAMED_MARGINS["cm2"], before_pi)
    np.testing.assert_allclose(np.cos(mixed), np.cos(0.9 * before_pi + 0.4) - 0.15, atol=2e-5)


def test_past_pi_the_formulas_boundary_folds_back_and_reflects_leaves_the_sphere():
    theta = np.array([math.pi - 0.4, math.pi - 0.1])
    np.testing.assert_allclose(
        geometry.boundary(arcface(0.5), theta), 2 * math.pi - 0.5 - theta, atol=2e-5
    )
    assert np.isnan(geometry.boundary(arcface(0.5, past_pi="reflect"), theta)).all()
    assert geometry.region(arcface(0.5), math.pi - 0.1, math.pi - 0.1) == geometry.BOTH
    assert (
        geometry.region(arcface(0.5, past_pi="reflect"), math.pi - 0.1, math.pi - 0.1)
        == geometry.MARGIN
    )


@laws
@given(
    st.floats(1.0, 4.0),
    st.floats(0.0, 1.0),
    st.floats(0.0, 0.6),
    st.floats(0.0, 1.5),
    st.floats(0.5, 64.0),
)
def test_on_the_boundary_the_loss_is_ln_2_whatever_the_scale(m1, m2, m3, theta, scale):
    psi = combined(m1, m2, m3)
    across = float(geometry.boundary(psi, theta))
    if math.isnan(across):
        return
    with jax.enable_x64(True):
        cosines = jnp.cos(jnp.asarray([[theta, across], [across, theta]]))
        loss = margin_cross_entropy(cosines, jnp.asarray([0, 1]), psi=psi, scale=scale)
    np.testing.assert_allclose(loss, math.log(2.0), atol=1e-8 * scale)


@laws
@given(st.floats(0.3, 3.0), st.floats(-0.5, 0.5), st.floats(0.0, math.pi))
def test_on_softmaxs_boundary_both_classes_lose_ln_2(norm_ratio, offset, theta):
    across = float(geometry.softmax_boundary(theta, norm_ratio, offset))
    wanted = norm_ratio * math.cos(theta) + offset
    assert math.isnan(across) == (abs(wanted) > 1.0 + 1e-12)
    if math.isnan(across):
        return
    # An embedding of length 2 along the first axis; ‖W_2‖ = 1.5.
    feature, second = 2.0, 1.5
    weights = [
        [norm_ratio * second * math.cos(theta), norm_ratio * second * math.sin(theta)],
        [second * math.cos(across), second * math.sin(across)],
    ]
    with jax.enable_x64(True):
        x, bias = jnp.asarray([[feature, 0.0]] * 2), jnp.asarray([offset * second * feature, 0.0])
        loss = softmax_loss(x, jnp.asarray(weights), bias, jnp.asarray([0, 1]))
    np.testing.assert_allclose(loss, math.log(2.0), atol=1e-8)


def test_a_region_is_where_the_boundaries_say():
    theta = np.linspace(0.05, 2.5, 40)
    first, second = np.meshgrid(theta, theta, indexing="ij")
    regions = geometry.region(arcface(0.5), first, second)
    gap = second - first
    clear = np.abs(np.abs(gap) - 0.5) > 1e-4
    wanted = np.where(
        gap > 0.5, geometry.CLASS_1, np.where(gap < -0.5, geometry.CLASS_2, geometry.MARGIN)
    )
    np.testing.assert_array_equal(regions[clear], wanted[clear])
    np.testing.assert_array_equal(
        geometry.region(softmax_on_sphere(), theta, theta), geometry.MARGIN
    )


ALPHAS = np.radians([61.0, 75.0, 90.0, 120.0, 150.0, 180.0])


@laws
@given(st.floats(0.0, 0.9))
def test_arcfaces_arc_is_its_margin_whatever_the_centres(margin):
    np.testing.assert_allclose(geometry.margin_arc(arcface(margin), ALPHAS), margin, atol=2e-5)


@laws
@given(st.floats(0.0, 0.5))
def test_cosfaces_arc_is_wider_between_close_centres(margin):
    arc = geometry.margin_arc(cosface(margin), ALPHAS)
    np.testing.assert_allclose(arc, 2 * np.arcsin(margin / (2 * np.sin(ALPHAS / 2))), atol=1e-12)
    assert (np.diff(arc) <= 1e-12).all()


@laws
@given(st.floats(1.0, 3.0))
def test_spherefaces_arc_grows_with_the_angle(m):
    arc = geometry.margin_arc(sphereface(m), ALPHAS)
    np.testing.assert_allclose(arc, ALPHAS * (m - 1) / (m + 1), atol=1e-5)


@pytest.mark.parametrize("name", NAMED_MARGINS)
def test_the_edge_of_a_region_is_on_its_boundary(name):
    psi = NAMED_MARGINS[name]
    edge = geometry.region_edge(psi, ALPHAS)
    assert np.isfinite(edge).all()
    np.testing.assert_allclose(geometry.boundary(psi, edge), ALPHAS - edge, atol=1e-7)
    np.testing.assert_allclose(geometry.margin_arc(psi, ALPHAS), ALPHAS - 2 * edge)


def test_centres_closer_than_the_margin_have_no_region_between_them():
    near, far = np.radians([[5.0, 20.0, 28.0], [29.0, 40.0, 60.0]])
    assert np.isnan(geometry.margin_arc(arcface(0.5), near)).all()
    assert np.isfinite(geometry.margin_arc(arcface(0.5), far)).all()
    limit = math.acos(1 - 0.35)
    arcs = geometry.margin_arc(cosface(0.35), np.array([limit - 1e-6, limit + 1e-6]))
    assert np.isnan(arcs).tolist() == [True, False]
    assert geometry.region_edge(cosface(0.35), limit + 1e-6) == pytest.approx(0.0, abs=1e-5)


def test_without_a_margin_nothing_lies_between_even_at_the_ends():
    np.testing.assert_allclose(
        geometry.margin_arc(arcface(0.0), np.linspace(0.0, math.pi, 37)), 0.0, atol=1e-12
    )
    bonus = geometry.margin_arc(lambda cosine: cosine + 0.1, np.asarray(math.pi / 2))
    assert bonus == pytest.approx(-2 * math.asin(0.1 / math.sqrt(2)))  # the regions overlap


@pytest.mark.parametrize("name", NAMED_MARGINS)
def test_circle_and_sphere_show_the_same_arc(name):
    psi, alpha = NAMED_MARGINS[name], math.radians(75.0)
    arc = float(geometry.margin_arc(psi, alpha))
    phi = np.linspace(-alpha / 2, alpha / 2, 7501)  # steps of 0.01°
    on_circle = geometry.circle_regions(psi, alpha, phi)
    assert on_circle[0] == geometry.CLASS_1
    assert on_circle[-1] == geometry.CLASS_2
    between = np.mean(on_circle == geometry.MARGIN) * alpha
    assert between == pytest.approx(arc, abs=2 * math.radians(0.01))

    points = 301
    square = geometry.sphere_regions(psi, alpha, points)
    axis = np.linspace(-1.0, 1.0, points)
    radius = np.hypot(axis[:, None], axis[None, :])
    assert np.isnan(square[radius > 1.0 + 1e-9]).all()
    assert not np.isnan(square[radius < 1.0 - 1e-9]).any()
    equator = square[points // 2]
    gap = axis[equator == geometry.MARGIN]
    width = math.asin(gap[-1]) - math.asin(gap[0]) if len(gap) else 0.0
    assert width == pytest.approx(arc, abs=3 * (axis[1] - axis[0]))
    both = ~np.isnan(square) & ~np.isnan(square[::-1])
    assert np.mean(square[both] == square[::-1][both]) > 0.999  # above the plane as below it


def test_the_centres_are_as_far_apart_as_asked():
    first, second = geometry.centres(1.1)
    assert math.acos(first @ second) == pytest.approx(1.1)
    assert second[1] > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: geometry.boundary(arcface(), 30.0), r"theta1 holds 30; pass radians in \[0, π\]"),
        (lambda: geometry.boundary(arcface(), math.nan), "theta1 holds nan"),
        (lambda: geometry.region(arcface(), 0.5, -0.1), r"theta2 holds -0\.1"),
        (lambda: geometry.margin_arc(arcface(), 75.0), "centre_angle holds 75"),
        (lambda: geometry.softmax_boundary(0.3, 0.0), "norm_ratio is 0"),
        (lambda: geometry.sphere_regions(arcface(), 1.0, 1), "points is 1"),
        (lambda: geometry.centres(75.0), "centre_angle is 75"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
