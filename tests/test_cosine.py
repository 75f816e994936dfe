"""Cosines, angles and ArcFace logits, against float64 NumPy and at the edges of floating point."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax.test_util import check_grads

from arcface_jax.cosine import angle, arcface_logits, cosine_logits, normalise_rows, row_norms
from arcface_jax.errors import InputError

laws = settings(max_examples=20)


def random(seed, *shape, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def numpy_arcface(embeddings, weights, labels, margin, scale):
    """The source's formula, line by line, in float64."""
    embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    weights = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    cosine = embeddings @ weights.T
    sine = np.sqrt(1.0 - cosine**2 + 1e-6)
    phi = cosine * np.cos(margin) - sine * np.sin(margin)
    one_hot = labels[:, None] == np.arange(len(weights))
    return scale * np.where(one_hot, phi, cosine), embeddings


@pytest.mark.accelerator
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-11), (np.float32, 5e-5)])
def test_arcface_logits_are_the_source_formula(dtype, tolerance):
    embeddings, weights, labels = random(0, 6, 8), random(1, 5, 8), np.array([0, 1, 2, 3, 4, 4])
    weights[0] = -embeddings[0]  # past θ + m = π
    weights[1] = embeddings[1]  # θ = 0
    with jax.enable_x64(dtype == np.float64):
        logits, unit = arcface_logits(
            jnp.asarray(embeddings, dtype),
            jnp.asarray(weights, dtype),
            labels,
            margin=0.4,
            scale=30.0,
        )
        assert logits.dtype == unit.dtype == dtype
    wanted_logits, wanted_unit = numpy_arcface(embeddings, weights, labels, 0.4, 30.0)
    # At θ = 0 and π the slope of the sine, up to 1000, magnifies float32's rounding of the cosine.
    np.testing.assert_allclose(
        logits, wanted_logits, atol=max(tolerance, 1e-10) if dtype == np.float64 else 2e-3
    )
    np.testing.assert_allclose(np.asarray(logits)[2:], wanted_logits[2:], atol=tolerance)
    np.testing.assert_allclose(unit, wanted_unit, atol=1e-6)


def test_an_ignored_row_gets_no_margin():
    embeddings, weights = random(0, 2, 8), random(1, 5, 8)
    logits, _ = arcface_logits(embeddings, weights, np.array([-1, 3]))
    np.testing.assert_allclose(logits[0], 64.0 * cosine_logits(embeddings, weights)[0], rtol=1e-6)


def test_rows_have_length_one_and_orthogonal_gradients():
    x = jnp.asarray(random(0, 4, 16), jnp.float32)
    direction = jnp.asarray(random(1, 4, 16), jnp.float32)
    unit, pullback = jax.vjp(jax.jit(normalise_rows), x)
    np.testing.assert_allclose(jnp.linalg.norm(unit, axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(jnp.sum(pullback(direction)[0] * x, axis=1), 0.0, atol=1e-5)
    with jax.enable_x64(True):
        check_grads(
            jax.jit(normalise_rows),
            (random(2, 3, 4),),
            order=2,
            modes=["fwd", "rev"],
            atol=1e-4,
            rtol=1e-4,
        )
        check_grads(
            jax.jit(row_norms),
            (random(2, 3, 4),),
            order=1,
            modes=["fwd", "rev"],
            atol=1e-4,
            rtol=1e-4,
        )


def test_a_zero_row_gives_zeros_and_a_zero_gradient():
    x = jnp.zeros((2, 4)).at[1].set(1e-25)  # the second row's square underflows
    for function in (normalise_rows, row_norms):
        value, pullback = jax.vjp(jax.jit(function), x)
        assert not value.any()
        assert not pullback(jnp.ones_like(value))[0].any()
    loss = lambda e, w: cosine_logits(e, w).sum()  # noqa: E731
    for gradient in jax.jit(jax.grad(loss, argnums=(0, 1)))(x, jnp.zeros((3, 4)).at[0].set(1.0)):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("length", [1e-15, 1e-6, 1.0, 1e6, 1e15])
def test_the_length_of_a_row_does_not_matter(length):
    x = jnp.asarray(random(0, 3, 8), jnp.float32)
    np.testing.assert_allclose(normalise_rows(length * x), normalise_rows(x), atol=2e-7)


@laws
@given(
    st.integers(0, 2**31),
    st.sampled_from([jnp.float16, jnp.bfloat16, jnp.float32]),
    st.floats(-3, 3),
)
def test_cosines_stay_within_rounding_of_one(seed, dtype, exponent):
    x = jnp.asarray(random(seed, 4, 512) * 10**exponent, dtype)
    cosine = cosine_logits(x, jnp.concatenate([x, -x]))
    assert cosine.dtype == jnp.float32
    assert np.abs(cosine).max() <= 1 + 5e-7
    np.testing.assert_allclose(jnp.diagonal(cosine), 1.0, atol=5e-7)


@laws
@given(st.integers(0, 2**31))
def test_rotating_everything_changes_nothing(seed):
    x, w = random(seed, 3, 6), random(seed + 1, 4, 6)
    rotation = np.linalg.qr(random(seed + 2, 6, 6))[0]
    np.testing.assert_allclose(
        cosine_logits(x @ rotation, w @ rotation), cosine_logits(x, w), atol=1e-6
    )


def test_subcentres_reduce_to_the_nearest():
    x, w = random(0, 5, 8), random(1, 4, 3, 8)
    each = jnp.stack([cosine_logits(x, w[:, k]) for k in range(3)])
    np.testing.assert_allclose(cosine_logits(x, w), each.max(axis=0), atol=1e-6)
    # Only the nearest sub-centre gets a gradient.
    gradient = jax.jit(jax.grad(lambda w: cosine_logits(x, w)[0, 0]))(w)
    moved = np.abs(gradient).sum(axis=-1) > 0
    assert moved.sum() == 1
    assert moved[0, int(each[:, 0, 0].argmax())]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (np.ones((2, 3)), np.ones((4, 5)), np.zeros(2, int)),
            r"embeddings has shape \(2, 3\) and class_weights \(4, 5\)",
        ),
        (
            (np.ones(3), np.ones((4, 3)), np.zeros(1, int)),
            r"embeddings has shape \(3,\); pass an array with 2 axes",
        ),
        (
            (np.ones((2, 3)), np.ones(3), np.zeros(2, int)),
            r"class_weights has shape \(3,\); pass an array with 2 or 3",
        ),
        ((np.ones((2, 3), int), np.ones((4, 3)), np.zeros(2, int)), r"embeddings has dtype int"),
        ((np.ones((2, 3)), np.ones((4, 3)), np.zeros(3, int)), r"labels has shape \(3,\)"),
        (
            (np.ones((2, 3)), np.ones((4, 3)), np.zeros(2)),
            r"labels has dtype float32; pass integers",
        ),
        (
            (np.ones((2, 3)), np.ones((4, 3)), np.array([0, 4])),
            r"labels\[1\] is 4; pass a class, 0 to 3",
        ),
        ((np.ones((2, 3)), np.ones((4, 3)), np.array([-2, 0])), r"labels\[0\] is -2"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        arcface_logits(*arguments)


@pytest.mark.parametrize(
    ("option", "message"), [({"scale": 0.0}, "scale is 0"), ({"margin": -0.5}, r"margin is -0\.5")]
)
def test_bad_numbers_are_named(option, message):
    with pytest.raises(InputError, match=message):
        arcface_logits(np.ones((2, 3)), np.ones((4, 3)), np.zeros(2, int), **option)


def test_shapes_are_checked_under_jit_and_labels_outside_act_as_ignored():
    with pytest.raises(InputError, match="last axes"):
        jax.jit(arcface_logits)(np.ones((2, 3)), np.ones((4, 5)), np.zeros(2, int))
    x, w = random(0, 2, 3), random(1, 4, 3)
    logits, _ = jax.jit(arcface_logits)(x, w, np.array([7, -1]))
    np.testing.assert_allclose(logits, 64.0 * cosine_logits(x, w), rtol=1e-5, atol=1e-5)


def test_a_row_that_has_diverged_stays_visible():
    rows = jnp.array([[jnp.nan, 1.0], [jnp.inf, 1.0], [3e38, 1.0], [3.0, 4.0], [0.0, 0.0]])
    unit = np.asarray(normalise_rows(rows))
    assert np.isnan(unit[:3]).any(axis=1).all()
    np.testing.assert_allclose(unit[3:], [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)


def test_angle_is_arccos_with_a_finite_slope():
    theta = np.linspace(0.01, np.pi - 0.01, 100)
    with jax.enable_x64(True):
        # 5e-7/tanθ to first order; the next order matters only within a degree of the poles.
        np.testing.assert_allclose(angle(jnp.cos(theta)), theta + 5e-7 / np.tan(theta), atol=2e-7)
    assert float(angle(jnp.float32(1.0))) == pytest.approx(1e-3, rel=1e-3)
    assert float(jax.grad(angle)(1.0)) == pytest.approx(-1000, rel=1e-3)
