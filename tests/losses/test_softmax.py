"""The margin softmax: definition, laws, what others get wrong. The ways to go over the classes are
in `tests/heads`.
"""

import functools
import json
import math
import pathlib

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from jax.test_util import check_grads

from arcface_jax.cosine import arcface_logits, cosine_logits
from arcface_jax.errors import InputError
from arcface_jax.losses import (
    automatic_margin,
    automatic_scale,
    expected_initial_loss,
    margin_cross_entropy,
    margin_softmax_loss,
    minimum_scale,
)
from arcface_jax.margins import (
    arcface,
    class_wise,
    cm2,
    combined,
    cosface,
    normface,
    sphereface_original,
)
from tests import in_numpy

GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "margins.json").read_text())
laws = settings(max_examples=15)
loss_of = jax.jit(
    margin_softmax_loss, static_argnames=("psi", "scale", "label_smoothing", "filter_threshold")
)
loss_of_cosines = jax.jit(margin_cross_entropy, static_argnames="psi")
gradients = jax.jit(jax.grad(lambda e, w, y: margin_softmax_loss(e, w, y).sum(), argnums=(0, 1)))


def random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def batch(seed=0, rows=6, classes=5, dim=8):
    labels = np.random.default_rng(seed).integers(0, classes, rows)
    return random(seed + 1, rows, dim), random(seed + 2, classes, dim), labels


@pytest.mark.accelerator
@pytest.mark.parametrize(
    ("psi", "of_angle", "smoothing", "threshold"),
    [
        (normface(), np.cos, 0.1, None),
        (arcface(), lambda t: np.cos(t + 0.5), 0.0, None),
        (arcface(), lambda t: np.cos(t + 0.5), 0.1, 0.2),
        (cosface(), lambda t: np.cos(t) - 0.35, 0.0, 0.2),
        (cm2(), lambda t: np.cos(0.9 * t + 0.4) - 0.15, 0.0, None),
        (lambda c: c**3, lambda t: np.cos(t) ** 3, 0.1, None),  # any function will do
    ],
)
def test_against_numpy(psi, of_angle, smoothing, threshold):
    wanted, _, _ = in_numpy.margin_softmax(
        *batch(), lambda c: of_angle(np.arccos(c)), 16.0, smoothing, threshold
    )
    options = {"scale": 16.0, "label_smoothing": smoothing, "filter_threshold": threshold}

    @jax.jit
    def both(e, w, y):
        loss = margin_softmax_loss(e, w, y, psi=psi, **options)
        return loss, margin_cross_entropy(cosine_logits(e, w), y, psi=psi, **options)

    with jax.enable_x64(True):
        loss, from_cosines = both(*batch())
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    np.testing.assert_allclose(from_cosines, loss, rtol=1e-12)
    loss, _ = both(*batch())
    np.testing.assert_allclose(loss, wanted, rtol=2e-5)


def test_it_is_the_cross_entropy_of_the_arcface_logits():
    @jax.jit
    def program(e, w, y):
        logits, _ = arcface_logits(e, w, y)
        wanted = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        smoothed = optax.smooth_labels(jax.nn.one_hot(y, 5), 0.2)
        wanted_smoothed = optax.softmax_cross_entropy(logits, smoothed)
        loss = margin_softmax_loss(e, w, y)
        return loss, wanted, margin_softmax_loss(e, w, y, label_smoothing=0.2), wanted_smoothed

    loss, wanted, smoothed, wanted_smoothed = program(*batch())
    np.testing.assert_allclose(loss, wanted, rtol=1e-6)
    np.testing.assert_allclose(smoothed, wanted_smoothed, rtol=1e-5)


@pytest.mark.accelerator
@pytest.mark.parametrize(
    "psi", [arcface(), arcface(past_pi="linear"), cm2(), sphereface_original()]
)
def test_gradients_against_finite_differences(psi):
    embeddings, weights, labels = batch()
    with jax.enable_x64(True):
        check_grads(
            jax.jit(
                lambda e, w: margin_softmax_loss(
                    e, w, labels, psi=psi, scale=8.0, label_smoothing=0.1
                )
            ),
            (embeddings, weights),
            order=1,
            modes=["rev"],
            atol=1e-5,
            rtol=1e-5,
        )


@pytest.mark.parametrize("past_pi", ["none", "linear", "reflect"])
def test_the_straight_through_slope_is_s_times_p_minus_one(past_pi):
    labels, scale = np.array([0, 1]), 8.0
    psi = arcface(past_pi=past_pi, gradient="straight_through")

    @jax.jit
    def program(cosine):
        loss = lambda c: margin_cross_entropy(c, labels, psi=psi, scale=scale).sum()  # noqa: E731
        target = psi(cosine[np.arange(2), labels])
        p = jax.nn.softmax(scale * cosine.at[np.arange(2), labels].set(target))
        return jax.grad(loss)(cosine), p

    slope, p = program(np.float32([[-0.95, 0.1, -0.3], [0.2, 0.9, 0.0]]))
    np.testing.assert_allclose(slope, scale * (p - np.eye(3)[labels]), atol=1e-5)


def test_the_two_gradients_pull_past_pi_in_opposite_directions():
    golden = GOLDEN["gradients_past_pi"]
    cosine, labels = np.float32([[-0.95, 1.0]]), np.array([0])
    for gradient in ("exact", "straight_through"):
        loss = lambda c, g=gradient: margin_cross_entropy(c, labels, psi=arcface(gradient=g))[0]  # noqa: E731
        assert float(jax.jit(jax.grad(loss))(cosine)[0, 0]) == pytest.approx(
            golden[gradient], abs=5e-3
        )


# Ignored rows, numbers for each example, filter
# ----------------------------------------------------------------------


def test_an_ignored_row_has_no_loss_and_no_gradient_whatever_it_holds():
    embeddings, weights, labels = batch()
    padded = np.concatenate([embeddings, np.full((2, 8), np.nan)]).astype(np.float32)
    padded_labels = np.concatenate([labels, [-1, -1]])
    assert loss_of(padded, weights, padded_labels)[-2:].tolist() == [0.0, 0.0]
    of_rows, of_weights = gradients(padded, weights, padded_labels)
    wanted_rows, wanted_weights = gradients(embeddings, weights, labels)
    assert not of_rows[-2:].any()
    np.testing.assert_allclose(of_rows[:-2], wanted_rows, atol=1e-5)
    np.testing.assert_allclose(of_weights, wanted_weights, atol=1e-5)


def test_margins_and_scales_for_each_example():
    embeddings, weights, labels = batch()
    table = np.linspace(0.1, 0.7, 5).astype(np.float32)
    scales = np.linspace(5.0, 50.0, 6).astype(np.float32)
    psi = arcface(class_wise(table, labels))
    together = jax.jit(margin_softmax_loss)(embeddings, weights, labels, psi=psi, scale=scales)
    one = jax.jit(lambda e, y, m, s: margin_softmax_loss(e, weights, y, psi=arcface(m), scale=s))
    alone = [
        one(embeddings[i : i + 1], labels[i : i + 1], table[y], scales[i])[0]
        for i, y in enumerate(labels)
    ]
    np.testing.assert_allclose(together, np.array(alone), rtol=1e-5)


def test_a_wider_scale_or_margin_does_not_widen_the_loss():
    with jax.enable_x64(True):
        cosine, labels = jax.ShapeDtypeStruct((2, 3), jnp.float32), np.array([0, 1])
        for scale in (16.0, np.float64(16), jnp.float64(16), jnp.full(2, 16.0)):
            psi = arcface(jnp.full(2, 0.5), gradient="straight_through")
            loss = lambda c, s=scale, p=psi: margin_cross_entropy(c, labels, psi=p, scale=s)  # noqa: E731
            slope = jax.eval_shape(jax.grad(lambda c, f=loss: f(c).sum()), cosine)
            assert jax.eval_shape(loss, cosine).dtype == slope.dtype == jnp.float32


def test_the_filter_masks_the_class_rather_than_zeroing_its_cosine():
    loss = lambda c, **k: margin_cross_entropy(c, np.array([0]), scale=8.0, **k)[0]  # noqa: E731
    others = np.array([0, 2, 3])

    @jax.jit
    def program(cosine):
        filtered = jax.value_and_grad(functools.partial(loss, filter_threshold=0.5))(cosine)
        return *filtered, loss(cosine[:, others]), loss(cosine.at[0, 1].set(0.0))

    filtered, slope, without, zeroed = program(np.float32([[0.6, 0.9, 0.1, 0.3]]))
    assert float(filtered) == pytest.approx(float(without), rel=1e-6)
    assert abs(float(zeroed) - float(without)) > 1e-3
    assert slope[0, 1] == 0
    # The true class is never filtered, above 0.5 as it is.
    assert (np.abs(np.asarray(slope)[0, others]) > 0).all()


def test_the_loss_does_not_saturate():
    loss = lambda c: margin_cross_entropy(c, np.array([0]), psi=normface())[0]  # noqa: E731
    value, slope = jax.jit(jax.value_and_grad(loss))(np.float32([[-1.0, 1.0]]))
    assert float(value) == pytest.approx(128.0)
    assert float(value) > GOLDEN["saturated_loss_of_others"]
    np.testing.assert_allclose(slope, [[-64.0, 64.0]], rtol=1e-6)


def test_an_examples_loss_does_not_depend_on_the_others():
    """So the mean of the parts of a batch is the batch's, however it is divided."""
    embeddings, weights, labels = batch(rows=8)
    whole = np.asarray(loss_of(embeddings, weights, labels))
    halves = [loss_of(embeddings[i : i + 4], weights, labels[i : i + 4]) for i in (0, 4)]
    np.testing.assert_allclose(np.concatenate(halves), whole, rtol=1e-6)
    assert np.mean(halves) == pytest.approx(whole.mean(), rel=1e-6)


# Laws
# ----------------------------------------------------------------------------------------

seeds = st.integers(0, 2**31 - 3)


@laws
@given(seeds)
def test_rotation_invariance(seed):
    embeddings, weights, labels = batch(seed)
    rotation = np.linalg.qr(random(seed, 8, 8))[0]
    np.testing.assert_allclose(
        loss_of(embeddings @ rotation, weights @ rotation, labels),
        loss_of(embeddings, weights, labels),
        rtol=1e-4,
    )


@laws
@given(seeds, st.floats(-6, 6), st.floats(-6, 6))
def test_invariance_to_lengths(seed, e_exponent, w_exponent):
    embeddings, weights, labels = batch(seed)
    lengths = 10 ** (w_exponent * np.random.default_rng(seed).uniform(size=(5, 1)))
    np.testing.assert_allclose(
        loss_of(embeddings * 10**e_exponent, weights * lengths, labels),
        loss_of(embeddings, weights, labels),
        rtol=1e-4,
        atol=1e-5,
    )


@laws
@given(seeds)
def test_permutation_equivariance(seed):
    embeddings, weights, labels = batch(seed)
    rows, classes = (
        np.random.default_rng(seed).permutation(6),
        np.random.default_rng(seed).permutation(5),
    )
    place = np.argsort(classes)
    moved = loss_of(embeddings[rows], weights[classes], place[labels[rows]])
    np.testing.assert_allclose(
        moved, loss_of(embeddings, weights, labels)[rows], rtol=1e-4, atol=1e-5
    )


@jax.jit
def at_a_temperature(e, w, y, scale):
    """(the softmax, its losses by margins of zero)."""
    cosine = cosine_logits(e, w)
    return optax.softmax_cross_entropy_with_integer_labels(cosine * scale, y), [
        margin_cross_entropy(cosine, y, psi=psi, scale=scale)
        for psi in (combined(1, 0, 0), arcface(0.0), normface())
    ]


@laws
@given(seeds, st.floats(0.1, 100.0))
def test_margin_zero_is_softmax_at_a_temperature(seed, scale):
    temperature, losses = at_a_temperature(*batch(seed), np.float32(scale))
    for loss in losses:
        np.testing.assert_allclose(loss, temperature, rtol=1e-4, atol=1e-5)


@laws
@given(seeds)
def test_a_larger_margin_is_a_larger_loss(seed):
    embeddings, weights, labels = batch(seed)
    losses = [
        loss_of(embeddings, weights, labels, psi=arcface(m, past_pi="linear"))
        for m in (0.0, 0.25, 0.5)
    ]
    assert (np.diff(losses, axis=0) >= -1e-5).all()


@laws
@given(seeds)
def test_the_gradient_is_orthogonal_to_embedding_and_weight(seed):
    embeddings, weights, labels = batch(seed)
    of_e, of_w = jax.device_get(gradients(embeddings, weights, labels))
    for gradient, rows in ((of_e, embeddings), (of_w, weights)):
        along = np.abs(np.sum(gradient * in_numpy.unit(rows), axis=1))
        assert (along <= 1e-4 * (1 + np.linalg.norm(gradient, axis=1))).all()


@pytest.mark.accelerator
@pytest.mark.parametrize("rows", ["on its own centre", "opposite its centre", "zero"])
def test_gradients_are_finite_at_the_poles(rows):
    weights = np.eye(4, 8)
    embeddings = {
        "on its own centre": weights,
        "opposite its centre": -weights,
        "zero": np.zeros((4, 8)),
    }[rows]
    for gradient in gradients(embeddings, weights, np.arange(4)):
        assert np.isfinite(gradient).all()


# What is known beforehand
# ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("probability", [0.6, 0.9, 0.999])
def test_the_minimum_scale_reaches_the_probability_on_a_simplex(classes, probability):
    scale = minimum_scale(classes, probability)
    cosine = np.full((1, classes), -1.0 / (classes - 1))
    cosine[0, 0] = 1.0
    with jax.enable_x64(True):
        loss = loss_of_cosines(cosine, np.array([0]), psi=normface(), scale=scale)
    assert math.exp(-float(loss[0])) == pytest.approx(probability, rel=1e-9)


@pytest.mark.parametrize("classes", [2, 7, 100, 10**6])
def test_the_automatic_margin_is_the_radius_of_a_classs_share_of_the_sphere(classes):
    assert automatic_margin(classes, 2) == pytest.approx(min(0.5, math.pi / classes))
    cap = math.acos(1 - 2 / classes)  # of area 4π/C
    assert automatic_margin(classes, 3) == pytest.approx(min(0.5, cap))
    assert automatic_margin(classes, 64) == 0.5


@pytest.mark.parametrize("classes", [2, 10, 600, 10**5])
@pytest.mark.parametrize("margin", [0.0, 0.5, cosface(0.35)])
def test_the_automatic_scale_tells_a_near_class_from_those_at_right_angles(classes, margin):
    scale = automatic_scale(classes, margin)
    cosine = np.zeros((1, classes))
    cosine[0, 0] = math.cos(math.radians(30.0))
    psi = margin if callable(margin) else arcface(margin)
    with jax.enable_x64(True):
        loss = loss_of_cosines(cosine, np.array([0]), psi=psi, scale=scale)
    assert math.exp(-float(loss[0])) == pytest.approx(0.75, rel=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda e, w, y: margin_softmax_loss(e, w, y, scale=-64),
            "scale is -64; pass a finite number above 0",
        ),
        (lambda e, w, y: margin_softmax_loss(e, w, y, scale=math.nan), "scale is nan"),
        (lambda e, w, y: margin_softmax_loss(e, w, y, scale=np.ones(3)), r"scale has shape \(3,\)"),
        (
            lambda e, w, y: margin_softmax_loss(e, w, y, label_smoothing=1.5),
            r"label_smoothing is 1\.5",
        ),
        (lambda e, w, y: margin_softmax_loss(e, w, y, filter_threshold=2), "filter_threshold is 2"),
        (lambda e, w, y: margin_softmax_loss(e, w, y, psi=jnp.sum), r"psi gives shape \(\)"),
        (
            lambda e, w, y: margin_softmax_loss(e, w, y + 5),
            r"labels\[\d\] is \d; pass a class, 0 to 4, or −1",
        ),
        (lambda e, w, y: margin_softmax_loss(e, w, y[:3]), r"labels has shape \(3,\)"),
        (lambda e, w, y: margin_softmax_loss(e[0], w, y), r"embeddings has shape \(8,\)"),
        (lambda e, w, y: margin_softmax_loss(e, w[:, :4], y), "last axes"),
        (lambda e, w, y: margin_softmax_loss(e.astype(int), w, y), "embeddings has dtype int"),
        (lambda e, w, y: expected_initial_loss(0, 0.5, 64, 512), "num_classes is 0"),
        (lambda e, w, y: expected_initial_loss(10, -0.5, 64, 512), r"margin is -0\.5"),
        (lambda e, w, y: expected_initial_loss(10, 0.5, 0, 512), "scale is 0"),
        (lambda e, w, y: expected_initial_loss(10, 0.5, 64, 0), "dim is 0"),
        (lambda e, w, y: minimum_scale(1, 0.9), "num_classes is 1"),
        (lambda e, w, y: minimum_scale(10, 0.05), r"probability is 0\.05"),
        (lambda e, w, y: minimum_scale(10, 1.0), "probability is 1"),
        (lambda e, w, y: automatic_margin(1, 8), "num_classes is 1"),
        (lambda e, w, y: automatic_margin(10, 1), "dim is 1"),
        (lambda e, w, y: automatic_scale(1), "num_classes is 1"),
        (lambda e, w, y: automatic_scale(10, 4.0), "margin is 4"),
        (lambda e, w, y: automatic_scale(10, 1.2), r"leaves a target of -0\.15 at 30°"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        jax.eval_shape(lambda: call(*batch()))


@pytest.mark.parametrize("psi", ["arcface", 0.5, None])
def test_a_psi_that_is_no_function_is_named(psi):
    with pytest.raises(InputError, match=r"psi is .*pass a margin"):
        jax.eval_shape(lambda: margin_softmax_loss(*batch(), psi=psi))
