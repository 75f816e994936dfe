"""The penalty on the nearest wrong classes, beside the definition."""

import jax
import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.losses import ArcFace, InterTopK
from arcface_jax.training.config import Config, HeadConfig
from arcface_jax.training.program import create_program
from tests.in_numpy import cosines, cross_entropy, own
from tests.losses.conftest import make_data

K3 = np.random.default_rng(2).normal(size=(5, 3, 6))


def in_numpy(embeddings, weights, labels, top_k, scale=9.0, margin=0.2, top_margin=0.06):
    cosine = cosines(embeddings, weights)
    target = np.cos(np.arccos(own(cosine, labels)) + margin)
    for row, label in zip(cosine, labels, strict=True):
        wrong = np.array([j for j in np.argsort(-row) if j != label])[:top_k]
        row[wrong] = np.cos(np.arccos(row[wrong]) - top_margin)
    return cross_entropy(cosine, labels, target, scale)


@pytest.mark.parametrize(("weights", "top_k"), [(K3, 2), (None, 9)])
def test_the_nearest_wrong_classes_are_harder(weights, top_k):
    embeddings, plain, labels = make_data()
    weights = plain if weights is None else weights
    loss = InterTopK(scale=9.0, top_k=top_k, sub_centers=weights.ndim)

    def mean(e, w):
        out = loss({"class_weights": w}, {}, e, labels)
        return out.loss.mean(), out

    with jax.enable_x64(True):
        found = jax.jit(jax.value_and_grad(mean, argnums=(0, 1), has_aux=True))(embeddings, weights)
        (_, out), slopes = jax.device_get(found)
    np.testing.assert_allclose(out.loss, in_numpy(embeddings, weights, labels, top_k), atol=2e-5)
    step, rng = 1e-6, np.random.default_rng(3)
    for which, slope in enumerate(slopes):
        way = rng.normal(size=slope.shape)
        ends = []
        for sign in (1, -1):
            moved = [embeddings, weights]
            moved[which] = moved[which] + sign * step * way
            ends.append(in_numpy(*moved, labels, top_k).mean())
        np.testing.assert_allclose(np.sum(slope * way), (ends[0] - ends[1]) / (2 * step), rtol=1e-3)
    np.testing.assert_allclose(
        out.target_cosine, own(cosines(embeddings, weights), labels), atol=1e-12
    )


def test_it_is_arcface_without_the_penalty():
    embeddings, weights, labels = make_data()
    labels = np.where(np.arange(8) == 3, -1, labels)
    numbers = {"margin": 0.2, "label_smoothing": 0.1}
    both = InterTopK(top_margin=0.0, **numbers), ArcFace(**numbers)
    run = jax.jit(lambda w: [loss({"class_weights": w}, {}, embeddings, labels) for loss in both])
    losses = run(weights)
    np.testing.assert_allclose(losses[0].loss, losses[1].loss, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(losses[0].hit, losses[1].hit)
    assert losses[0].loss[3] == 0.0


def test_bad_numbers_and_other_heads_are_refused():
    for numbers, what in (
        ({"top_k": 0}, "top_k is 0; pass"),
        ({"top_margin": -0.1}, "top_margin is -0.1; pass a number in"),
    ):
        with pytest.raises(InputError, match=what):
            InterTopK(**numbers)
    config = Config(loss=InterTopK(), head=HeadConfig("chunked"))
    with pytest.raises(InputError, match=r"head\.kind chunked has no loss\.name intertopk"):
        create_program(config, 2)
    assert str(InterTopK(sub_centers=3)) == (
        "64·cos(θ + 0.2), the 5 nearest wrong classes cos(θ − 0.06), 3 sub-centres"
    )
