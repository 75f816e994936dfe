"""The study's margins of another slope: ArcFace's value, and the gradient that their name says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arcface_jax.cosine import normalise_rows
from arcface_jax.losses import ArcFace, Context
from experiments.study.slopes import (
    AtLeastOne,
    AtMostOne,
    Balanced,
    ZeroSum,
)

SCALE, MARGIN = 4.0, 0.5
N, C, D = 6, 5, 3
CONTEXT = Context(step=10, total_steps=100)


@pytest.fixture(scope="module")
def batch():
    """Embeddings at all angles to their class weights, unit rows."""
    keys = jax.random.split(jax.random.key(0), 2)
    weights = normalise_rows(jax.random.normal(keys[0], (C, D)))
    labels = jnp.arange(N) % C
    return normalise_rows(jax.random.normal(keys[1], (N, D))), weights, labels


def cosine_gradient(cosine, labels, slope):
    """dL/dcos θ of margin softmax whose target has this slope, in float64."""
    rows = np.arange(N)
    theta = np.arccos(cosine[rows, labels])
    logits = SCALE * cosine
    logits[rows, labels] = SCALE * np.cos(theta + MARGIN)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    gradient = SCALE * p
    gradient[rows, labels] = SCALE * (p[rows, labels] - 1.0) * slope(theta)
    return gradient, p[rows, labels]


def exact(theta):
    return np.sin(theta + MARGIN) / np.sin(theta)


RULES = {
    AtMostOne: lambda theta: np.minimum(exact(theta), 1.0),
    AtLeastOne: lambda theta: np.maximum(exact(theta), 1.0),
    ZeroSum: exact,
    Balanced: np.ones_like,
}


@pytest.mark.parametrize("loss", RULES)
def test_the_value_is_arcfaces_and_the_gradient_is_the_rules(loss, batch):
    embeddings, weights, labels = batch

    def total(loss, embeddings):
        out = loss({"class_weights": weights}, {}, embeddings, labels, CONTEXT)
        return jnp.sum(out.loss), out.loss

    changed, plain = loss(scale=SCALE, margin=MARGIN), ArcFace(scale=SCALE, margin=MARGIN)
    found, each = jax.grad(lambda x: total(changed, x), has_aux=True)(embeddings)
    np.testing.assert_allclose(each, total(plain, embeddings)[1], rtol=1e-5)

    x, w, y = (np.asarray(array, np.float64) for array in batch)
    y = y.astype(int)
    gradient, p = cosine_gradient(x @ w.T, y, RULES[loss])
    slope = exact(np.arccos((x @ w.T)[np.arange(N), y]))
    if loss is ZeroSum:
        np.testing.assert_allclose(gradient.sum(axis=1), SCALE * (1 - p) * (1 - slope), atol=1e-9)
        gradient -= gradient.mean(axis=1, keepdims=True)
    if loss is Balanced:
        gradient *= slope[:, None]
    by_x = gradient @ w
    by_x -= np.sum(by_x * x, axis=1, keepdims=True) * x  # rows are normalised
    np.testing.assert_allclose(found, by_x, atol=2e-4)
