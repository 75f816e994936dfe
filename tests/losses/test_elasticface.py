"""ElasticFace: the distribution of its margins, and who gets which."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.losses import (
    ElasticFace,
    elastic_margins,
    elasticface_loss,
    elasticface_psi,
    margin_softmax_loss,
)
from arcface_jax.margins import arcface, cosface
from tests import in_numpy


def test_the_margins_have_the_published_distribution():
    draw = jax.jit(functools.partial(elastic_margins, mean=0.5, std=0.0125))
    cosine = np.zeros(20_000, np.float32)
    margins = np.asarray(draw(jax.random.key(0), cosine, np.ones(20_000, bool)))
    assert float(margins.mean()) == pytest.approx(0.5, abs=4e-4)
    assert float(margins.std()) == pytest.approx(0.0125, rel=0.03)


@pytest.mark.parametrize(("kind", "mean"), [("arc", 0.5), ("cos", 0.35)])
@pytest.mark.parametrize("plus", [False, True])
def test_elasticface_is_a_margin_for_each_example(data, kind, mean, plus):
    embeddings, weights, labels = data
    own = np.float32(in_numpy.own(in_numpy.cosines(embeddings, weights), labels))
    options = {"mean": mean, "plus": plus}

    @jax.jit
    def both(e, w, y):
        key = jax.random.key(3)
        margins = elastic_margins(key, own, jnp.ones(8, bool), std=0.0125, **options)
        psi = arcface(margins) if kind == "arc" else cosface(margins)
        loss = elasticface_loss(e, w, y, key, kind=kind, **options)
        return loss, margin_softmax_loss(e, w, y, psi=psi)

    np.testing.assert_allclose(*both(*data), rtol=1e-5, atol=1e-5)


def test_plus_gives_the_farthest_example_the_largest_margin():
    # A three-cycle: applying the sorting permutation in place of its inverse would give another
    # order.
    cosine, valid = np.float32([0.1, 0.9, 0.5, -0.2, 0.99]), np.arange(5) < 4

    @jax.jit
    def both(key):
        draw = functools.partial(elastic_margins, key, cosine, valid, mean=0.5, std=0.1)
        return draw(plus=True), draw()

    margins, drawn = map(np.asarray, both(jax.random.key(1)))
    assert np.argsort(margins[:4]).tolist() == np.argsort(-cosine[:4]).tolist()
    np.testing.assert_allclose(np.sort(margins[:4]), np.sort(drawn[:4]))


def test_another_key_gives_other_margins(data):
    loss = jax.jit(elasticface_loss)
    losses = [np.asarray(loss(*data, jax.random.key(seed))) for seed in (0, 0, 1)]
    assert np.array_equal(losses[0], losses[1])
    assert not np.allclose(losses[0], losses[2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda e, w, y: elasticface_loss(e, w, y, jax.random.key(0), kind="sphere"),
            "kind is 'sphere'; pass one of",
        ),
        (lambda e, w, y: elasticface_psi(jax.random.key(0), y >= 0, std=-0.1), r"std is -0\.1"),
        (lambda e, w, y: elasticface_psi(jax.random.key(0), y >= 0, mean=-0.1), r"mean is -0\.1"),
        (lambda e, w, y: ElasticFace()({"class_weights": w}, {}, e, y), "context.key is None"),
    ],
)
def test_bad_input_is_named(data, call, message):
    with pytest.raises(InputError, match=message):
        call(*data)
