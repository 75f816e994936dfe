"""Margins: published values, every rule and gradient against float64 NumPy, and the laws they
promise.
"""

import functools
import itertools
import json
import math
import pathlib

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from arcface_jax.errors import InputError
from arcface_jax.margins import (
    GRADIENTS,
    NAMED_MARGINS,
    PAST_PI,
    annealed,
    arcface,
    class_wise,
    cm1,
    combined,
    cosface,
    expface,
    guarded_sine,
    multiple_angle,
    normface,
    softmax_on_sphere,
    sphereface,
    sphereface_annealing,
    sphereface_original,
    straight_through,
    x2softmax,
)

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden" / "margins.json").read_text())
NUMBERS = {
    "softmax": (1, 0, 0),
    "sphereface": (1.35, 0, 0),
    "arcface": (1, 0.5, 0),
    "cosface": (1, 0, 0.35),
    "cm1": (1, 0.3, 0.2),
    "cm2": (0.9, 0.4, 0.15),
    "a margin on top of m1 = 2": (2, 0.3, 0.1),
    "m1 = 4": (4, 0, 0),
}
ALL = list(itertools.product(NUMBERS, PAST_PI, GRADIENTS))
THETA = np.linspace(0.1, np.pi - 0.1, 400)
AT_THE_POLES = np.array([-1 - 1e-6, -1.0, -1 + 6e-8, 1 - 6e-8, 1.0, 1 + 1e-6], np.float32)


@functools.cache
def every_combination(dtype):
    """{(name, rule, gradient): (values, slopes)} by one program: in float64 at cos THETA, in
    float32 at the poles.
    """

    @jax.jit
    def program(cosine):
        psis = {
            case: combined(*NUMBERS[case[0]], past_pi=case[1], gradient=case[2]) for case in ALL
        }
        both = {case: jax.vjp(psi, cosine) for case, psi in psis.items()}
        return {
            case: (value, *slope(jnp.ones_like(value))) for case, (value, slope) in both.items()
        }

    with jax.enable_x64(dtype == np.float64):
        return jax.device_get(program(np.cos(THETA) if dtype == np.float64 else AT_THE_POLES))


def numpy_psi(theta, m1, m2, m3, rule, epsilon=1e-4):
    """The definition in float64, with arccos where the library has none."""
    if rule == "clip":
        theta = np.clip(theta, np.arccos(1 - epsilon), np.arccos(-1 + epsilon))
        return np.cos(np.clip(m1 * theta + m2, epsilon, np.pi - epsilon)) - m3
    phi = m1 * theta + m2
    if rule == "linear":
        delta = np.pi - np.clip((np.pi - m2) / m1, 0, np.pi)
        drop = max(delta * np.sin(delta), 1 - np.cos(delta))
        return np.where(phi > np.pi, np.cos(theta) - drop, np.cos(phi)) - m3
    if rule == "easy":
        return np.where(np.cos(theta) > 0, np.cos(phi), np.cos(theta)) - m3
    if rule == "reflect":
        turns = np.floor(phi / np.pi)
        return (-1) ** turns * np.cos(phi) - 2 * turns - m3
    return np.cos(phi) - m3


def numpy_slope(theta, m1, m2, m3, rule):
    """d psi/d cosθ, in closed form."""
    phi = m1 * theta + m2
    slope = m1 * np.sin(phi) / np.sin(theta)
    if rule == "linear":
        return np.where(phi > np.pi, 1.0, slope)
    if rule == "easy":
        return np.where(np.cos(theta) > 0, slope, 1.0)
    if rule == "clip":
        return np.where(phi > np.pi - 1e-4, 0.0, slope)
    if rule == "reflect":
        return (-1) ** np.floor(phi / np.pi) * slope
    return slope


@pytest.mark.accelerator
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_published_curves(dtype):
    golden = GOLDEN["target_logits"]
    program = jax.jit(lambda c: {name: psi(c) for name, psi in NAMED_MARGINS.items()})
    with jax.enable_x64(dtype == np.float64):
        curves = program(np.cos(np.deg2rad(np.array(golden["degrees"], dtype))))
    for name, values in curves.items():
        assert values.dtype == dtype
        for value, number in zip(np.asarray(values), golden[name], strict=True):
            assert number is None or float(value) == pytest.approx(number, abs=5.1e-5), name


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_margins_that_are_functions_of_the_angle(gradient):
    golden = GOLDEN["after_arcface"]
    theta = np.deg2rad(golden["degrees"])
    psis = {"expface": expface(gradient=gradient), "x2softmax": x2softmax(gradient=gradient)}
    slopes = {
        "expface": 0.7 * (theta / np.pi) ** -0.3 * np.sin(np.pi * (theta / np.pi) ** 0.7),
        "x2softmax": 1.8 * theta,
    }

    @jax.jit
    def both(cosine):
        return {name: (psi(cosine), jax.vmap(jax.grad(psi))(cosine)) for name, psi in psis.items()}

    with jax.enable_x64(True):
        found = both(np.cos(theta))
    for name, (values, slope) in found.items():
        np.testing.assert_allclose(values, golden[name], atol=1e-5)
        exact = slopes[name] / np.sin(theta)
        np.testing.assert_allclose(slope, exact if gradient == "exact" else 1.0, rtol=1e-4)
    for values, slope in both(AT_THE_POLES).values():
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
        assert np.isfinite(slope).all()


@pytest.mark.accelerator
def test_the_published_values_past_pi():
    golden = GOLDEN["past_pi"]
    psis = {rule: arcface(golden["margin"], past_pi=rule) for rule in PAST_PI}
    values = jax.jit(lambda c: {rule: psi(c) for rule, psi in psis.items()})(golden["cosine"])
    assert values == {rule: pytest.approx(golden[rule], abs=1.5e-6) for rule in PAST_PI}


def test_a_cosine_just_below_minus_one_reflects_the_same_for_margins_of_each_example():
    psi = lambda m, c: arcface(m, past_pi="reflect")(c)  # noqa: E731
    program = jax.jit(lambda each, cosine: (psi(0.5, cosine), psi(each, cosine)))
    wanted, found = program(*np.float32([[0.5, 0.5, 0.5], [-1.0 - 1e-7, -1.0, -0.9]]))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert float(wanted[0]) > -1.2


def test_where_the_rules_begin():
    golden = GOLDEN["past_pi"]
    none, linear = (arcface(golden["margin"], past_pi=rule) for rule in ("none", "linear"))
    before, after = golden["switch"] + 1e-6, golden["switch"] - 1e-6
    assert float(linear(before)) == float(none(before))
    assert float(linear(after)) == pytest.approx(after - golden["m_sin_m"], abs=1e-6)
    assert float(arcface(0.5, past_pi="clip")(1.0)) == pytest.approx(
        golden["clip_at_cosine_1"], abs=1e-6
    )


def test_the_two_gradients_differ_in_sign_past_pi():
    golden = GOLDEN["gradients_past_pi"]
    # With p ≈ 0 the loss's slope is s·(p − 1)·psi'(cosθ).
    for gradient in GRADIENTS:
        slope = jax.jit(jax.grad(arcface(0.5, gradient=gradient)))(-0.95)
        assert -golden["scale"] * float(slope) == pytest.approx(golden[gradient], abs=5e-3)


@pytest.mark.parametrize(("name", "rule", "gradient"), ALL)
def test_every_combination_is_its_definition(name, rule, gradient):
    m1, m2, m3 = NUMBERS[name]
    turn = (m1 * THETA + m2) / np.pi
    smooth = (np.abs(turn - np.round(turn)) > 1e-3) & (np.abs(np.cos(THETA)) > 1e-3)
    theta = THETA[smooth]  # off the jumps and kinks
    value, slope = (each[smooth] for each in every_combination(np.float64)[name, rule, gradient])
    np.testing.assert_allclose(value, numpy_psi(theta, m1, m2, m3, rule), atol=2e-5)
    wanted = numpy_slope(theta, m1, m2, m3, rule) if gradient == "exact" else np.ones_like(theta)
    np.testing.assert_allclose(slope, wanted, atol=1e-3)


@pytest.mark.parametrize(("name", "rule", "gradient"), ALL)
def test_values_and_slopes_are_finite_at_the_poles_and_beyond(name, rule, gradient):
    value, slope = every_combination(np.float32)[name, rule, gradient]
    assert np.isfinite(value).all()
    assert np.abs(slope).max() < 2e4


@pytest.mark.parametrize("psi", [arcface(), cosface(), cm1(), sphereface(3), sphereface_original()])
@pytest.mark.parametrize("differentiated", [False, True])
def test_no_inverse_function_where_a_formula_avoids_it(psi, differentiated):
    function = jax.grad(psi) if differentiated else psi
    primitives = str(jax.make_jaxpr(function)(0.3))
    assert not any(inverse in primitives for inverse in ("acos", "atan2", "asin"))


# Defects of other projects
# ----------------------------------------------------------------------------------------


def test_a_combined_margin_does_not_silently_become_cosface():
    value = float(cm1()(jnp.float32(0.8)))
    assert value == pytest.approx(GOLDEN["cm1_at_cosine_0.8"], abs=1e-6)
    assert abs(value - float(cosface(0.2)(0.8))) > 0.2


def test_a_pure_multiplicative_margin_does_not_raise():
    assert float(combined(1.35, 0, 0)(jnp.float32(0.5))) == pytest.approx(
        math.cos(1.35 * math.pi / 3), abs=1e-5
    )


# Laws
# ----------------------------------------------------------------------------------------

ANGLES = np.linspace(0.0, np.pi, 2001)
margins = st.tuples(
    st.one_of(st.integers(1, 5).map(float), st.floats(1.0, 5.0)),
    st.floats(0.0, 2.5),
    st.floats(0.0, 1.0),
)
laws = settings(max_examples=30)


def values_over_angles(psi):
    with jax.enable_x64(True):
        return np.asarray(psi(jnp.cos(ANGLES)))


@laws
@given(margins, st.sampled_from(PAST_PI))
def test_psi_falls_with_the_angle_where_that_is_promised(numbers, rule):
    rises = np.diff(values_over_angles(combined(*numbers, past_pi=rule)))
    m1, m2, _ = numbers
    before_pi, obtuse = m1 * ANGLES[1:] + m2 <= np.pi, np.cos(ANGLES) <= 0
    if rule == "none":
        rises = rises[before_pi]
    elif rule == "easy":
        rises = rises[(before_pi & ~obtuse[1:]) | obtuse[:-1]]  # all but the jump at 90°
    assert (rises <= 2e-6 * m1**2).all()


@laws
@given(margins, st.sampled_from(PAST_PI))
def test_psi_is_at_most_the_cosine_where_that_is_promised(numbers, rule):
    m1, m2, _ = numbers
    excess = values_over_angles(combined(*numbers, past_pi=rule)) - np.cos(ANGLES)
    if rule in ("none", "easy"):
        excess = excess[(m1 + 1) * ANGLES + m2 <= 2 * np.pi]
    assert (excess <= (2e-4 if rule == "clip" else 2e-6 * m1**2)).all()


@pytest.mark.parametrize("rule", PAST_PI)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_margin_zero_is_the_cosine_itself(rule, gradient):
    psi = combined(1, 0, 0, past_pi=rule, gradient=gradient)
    cosine = jnp.linspace(-0.999, 0.999, 101)
    assert jnp.array_equal(psi(cosine), cosine)


@laws
@given(st.integers(1, 6), st.floats(0.0, 1.0))
def test_a_whole_m1_agrees_with_the_angle(m1, m2):
    chebyshev = combined(m1, m2, 0)
    general = combined(jnp.asarray(float(m1)), m2, 0)  # an array goes through the angle
    np.testing.assert_allclose(
        values_over_angles(chebyshev), values_over_angles(general), atol=2e-5 * m1
    )


# Objects
# ----------------------------------------------------------------------------------------


def test_a_psi_is_hashable_and_compares_by_value():
    assert arcface(0.5) == combined(1, 0.5, 0) == arcface(np.float32(0.5))
    assert hash(arcface(0.5)) == hash(combined(1.0, 0.5, 0.0))
    assert (
        arcface(0.5) != arcface(0.5, past_pi="linear") != arcface(0.5, gradient="straight_through")
    )
    assert normface() == softmax_on_sphere()
    assert (
        len({sphereface_original(), sphereface_original(4, weight=5), sphereface_original(3)}) == 2
    )


def test_a_psi_may_be_static_or_traced_and_compiles_once():
    traces = []

    def apply(psi, cosine):
        traces.append(None)
        return psi(cosine)

    cosine = jnp.linspace(-1, 1, 5)
    static = jax.jit(apply, static_argnums=0)
    assert jnp.array_equal(static(arcface(0.5), cosine), static(combined(1, 0.5, 0), cosine))
    assert len(traces) == 1
    traced = jax.jit(apply)
    for psi in (
        arcface(0.5),
        arcface(jnp.full(5, 0.5)),
        annealed(arcface(jnp.float32(0.5)), jnp.float32(0.0)),
    ):
        np.testing.assert_allclose(traced(psi, cosine), arcface(0.5)(cosine), atol=1e-6)
    assert len(traces) == 4
    traced(annealed(arcface(jnp.float32(0.3)), jnp.float32(2.0)), cosine)
    assert len(traces) == 4


@pytest.mark.parametrize("rule", PAST_PI)
def test_a_margin_for_each_example(rule):
    numbers = [0.0, 0.2, 0.5, 0.9]

    @jax.jit
    def program(each, cosine):
        psi = functools.partial(combined, past_pi=rule)
        pairs = list(zip(numbers, cosine, strict=True))
        return (
            (psi(1.0, each, 0.1 * each)(cosine), [psi(1, m, 0.1 * m)(c) for m, c in pairs]),
            (psi(1.0 + each, 0.2, 0)(cosine), [psi(1 + m, 0.2, 0)(c) for m, c in pairs]),
        )

    of_m2_and_m3, of_m1 = program(np.float32(numbers), np.float32([0.3, -0.99, -0.95, 0.9]))
    np.testing.assert_allclose(*of_m2_and_m3, atol=1e-6)
    np.testing.assert_allclose(*of_m1, atol=1e-5)


def test_a_margin_for_each_class():
    table = jnp.asarray([0.1, 0.5, 0.3])
    assert class_wise(table, jnp.asarray([2, 0, 1, 1])).tolist() == pytest.approx(
        [0.3, 0.1, 0.5, 0.5]
    )
    assert np.isfinite(class_wise(table, jnp.asarray([-1]))).all()
    with pytest.raises(InputError, match=r"labels\[1\] is 3"):
        class_wise(table, jnp.asarray([0, 3]))


def test_the_gradient_reaches_a_learnt_margin():
    slope = jax.grad(lambda m: arcface(m)(jnp.float32(0.6)))(0.5)
    assert float(slope) == pytest.approx(-math.sin(math.acos(0.6) + 0.5), abs=1e-5)


def test_annealing_moves_from_the_cosine_to_the_margin():
    straight = annealed(arcface(gradient="straight_through"), 3.0)

    @jax.jit
    def program(cosine):
        return (
            (annealed(arcface(), 0.0)(cosine), arcface()(cosine)),
            annealed(arcface(), 1e6)(cosine),
            annealed(lambda c: c - 0.4, 3.0)(cosine),
            jax.vmap(jax.grad(straight))(cosine),
        )

    cosine = np.linspace(-1, 1, 7, dtype=np.float32)
    at_the_end, at_the_start, between, slope = program(cosine)
    np.testing.assert_allclose(*at_the_end, atol=1e-7)
    np.testing.assert_allclose(at_the_start, cosine, atol=2e-6)
    np.testing.assert_allclose(between, cosine - 0.1, atol=1e-6)
    np.testing.assert_allclose(slope, 1.0, atol=1e-6)


def test_spherefaces_own_schedule():
    steps = jnp.asarray([0, 100, 1000, 10_000])
    np.testing.assert_allclose(
        sphereface_annealing(steps), [1000, 1000 / 13, 1000 / 121, 5], rtol=1e-6
    )


def test_the_shape_and_dtype_of_the_cosine_are_kept():
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
        out = jax.eval_shape(arcface(jnp.full(3, 0.5)), jax.ShapeDtypeStruct((2, 3), dtype))
        assert out.shape == (2, 3)
        assert out.dtype == dtype


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: arcface(-0.1), r"margin is -0\.1; pass a number in \[0, 3\.14159\]"),
        (lambda: arcface(28.6), r"margin is 28\.6"),  # 0.5 rad in degrees
        (lambda: arcface(math.nan), r"margin is nan"),
        (lambda: arcface(jnp.asarray([0.5, -0.2])), r"margin is -0\.2"),
        (lambda: cosface(3), r"margin is 3; pass a number in \[0, 2\]"),
        (lambda: combined(0, 0, 0), r"m1 is 0; pass a number in \(0, 10\]"),
        (lambda: combined(-1.35, 0, 0), r"m1 is -1\.35"),
        (lambda: combined(1, 4, 0), r"m2 is 4"),
        (lambda: combined(1, 0, -0.1), r"m3 is -0\.1"),
        (
            lambda: arcface(past_pi="wrap"),
            r"past_pi is 'wrap'; pass one of none, linear, easy, clip, reflect",
        ),
        (
            lambda: arcface(gradient="none"),
            r"gradient is 'none'; pass one of exact, straight_through",
        ),
        (lambda: combined(1, 0, 0, past_pi="clip", clip_epsilon=0), r"clip_epsilon is 0"),
        (lambda: sphereface_original(3.5), r"m is 3\.5; pass a whole number"),
        (lambda: sphereface_original(weight=-1), r"weight is -1"),
        (lambda: arcface(jnp.full(4, 0.5))(jnp.zeros(3)), r"m2 has shape \(4,\)"),
    ],
)
def test_a_bad_margin_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


# What a psi is made of
# ----------------------------------------------------------------------------------------


def test_the_sine_is_accurate_near_the_poles_and_real_beyond_them():
    # 1 − cos² formed by squaring would lose half of the digits here.
    cosine = np.float32(1 - 2.0**-22)
    exact = np.sqrt((1 - np.float64(cosine)) * (1 + np.float64(cosine)) + 1e-6)
    sine_and_slope = jax.jit(jax.value_and_grad(guarded_sine))
    assert float(sine_and_slope(cosine)[0]) == pytest.approx(exact, rel=1e-6)
    sine, slope = sine_and_slope(np.float32(1.00001))
    assert float(sine) == pytest.approx(1e-3, rel=1e-6)
    assert float(slope) == 0.0
    assert float(sine_and_slope(np.float32(-1.0))[1]) == pytest.approx(1000, rel=1e-3)


@pytest.mark.parametrize("factor", [1.0, 2.0, 5.0, 1.35, 0.5])
def test_multiple_angles(factor):
    theta = np.linspace(0, np.pi, 50)
    with jax.enable_x64(True):
        cosine, sine = multiple_angle(jnp.cos(theta), jnp.sin(theta), factor)
    np.testing.assert_allclose(cosine, np.cos(factor * theta), atol=1e-12)
    np.testing.assert_allclose(sine, np.sin(factor * theta), atol=1e-12)


def test_straight_through_has_the_value_of_one_and_the_slope_of_the_other():
    function = lambda x: straight_through(2.0 * x, x**3)  # noqa: E731
    each = jax.jit(lambda x: (function(x), jax.grad(function)(x), jax.jacfwd(function)(x)))
    assert each(3.0) == (27.0, 2.0, 2.0)
