"""Sub-centres: the dominant one is found and the noise beyond 75 degrees is named."""

import jax
import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.losses import margin_softmax_loss
from arcface_jax.losses.subcenter import dominant_centres, subcenter_counts, within_angle


def noisy_set(seed=0, dim=32):
    """Two classes with K = 3 centres; class 0 has 20 images about centre 2 and 5 of someone
    else about centre 0.
    """
    generator = np.random.default_rng(seed)
    weights = np.linalg.qr(generator.normal(size=(dim, 6)))[0].T.reshape(2, 3, dim)
    near = lambda centre, n: centre + 0.05 * generator.normal(size=(n, dim))  # noqa: E731
    embeddings = np.concatenate(
        [near(weights[0, 2], 20), near(weights[0, 0], 5), near(weights[1, 1], 10)]
    )
    return embeddings, weights, np.repeat([0, 1], [25, 10])


count, within = jax.jit(subcenter_counts), jax.jit(within_angle, static_argnames="max_degrees")


def test_counts_add_up_over_batches():
    embeddings, weights, labels = noisy_set()
    whole = count(embeddings, weights, labels)
    assert whole.tolist() == [[5, 0, 20], [0, 10, 0]]
    parts = [count(embeddings[i : i + 7], weights, labels[i : i + 7]) for i in range(0, 35, 7)]
    np.testing.assert_array_equal(np.sum(parts, axis=0), whole)
    assert not np.asarray(count(embeddings, weights, np.full(35, -1))).any()


def test_the_dominant_centre_and_the_clean_up():
    embeddings, weights, labels = noisy_set()
    centres = jax.jit(dominant_centres)(weights, count(embeddings, weights, labels))
    np.testing.assert_allclose(centres, np.stack([weights[0, 2], weights[1, 1]]), rtol=1e-6)
    keep = within(embeddings, centres, labels)
    assert keep.tolist() == [True] * 20 + [False] * 5 + [True] * 10
    assert not np.asarray(within(embeddings, centres, np.full(35, -1))).any()


@pytest.mark.parametrize(("degrees", "kept"), [(74.0, True), (76.0, False)])
def test_the_rule_is_75_degrees(degrees, kept):
    turned = np.array([[np.cos(np.radians(degrees)), np.sin(np.radians(degrees))]])
    centre, labels = np.array([[1.0, 0.0]]), np.array([0])
    assert within(turned, centre, labels).tolist() == [kept]
    assert within(turned, centre, labels, max_degrees=80.0).tolist() == [True]


def test_the_loss_takes_subcentres_and_one_is_plain():
    embeddings, weights, labels = noisy_set()
    tables = (weights[:, 1], weights[:, 1:2], weights, weights[[0, 1], [2, 1]])
    loss = jax.jit(margin_softmax_loss)
    plain, single, with_all, dominant = (np.asarray(loss(embeddings, w, labels)) for w in tables)
    np.testing.assert_allclose(single, plain, rtol=1e-6)
    # Noise has its own centre to go to, so it costs less than with the dominant centre alone.
    assert (with_all[20:25] < dominant[20:25] - 10).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda e, w, y: subcenter_counts(e, w[:, 0], y),
            r"class_weights has shape \(2, 32\); pass an array with 3 axes",
        ),
        (lambda e, w, y: subcenter_counts(e, w, y + 2), r"labels\[0\] is 2; pass a class, 0 to 1"),
        (lambda e, w, y: dominant_centres(w, np.zeros((3, 3))), r"counts has shape \(3, 3\)"),
        (lambda e, w, y: within_angle(e, w[:, 0], y, max_degrees=200), "max_degrees is 200"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call(*noisy_set())
