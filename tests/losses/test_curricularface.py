"""CurricularFace: t over steps, and what it does to hard classes."""

import jax
import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.losses import (
    CurricularFaceState,
    curricular_cosines,
    curricularface_init,
    curricularface_loss,
    curricularface_update,
)
from arcface_jax.margins import arcface
from tests import in_numpy


def test_two_steps(data):
    embeddings, weights, labels = data
    cosine, state, t = in_numpy.cosines(embeddings, weights), curricularface_init(), 0.0
    step = jax.jit(curricularface_loss)
    for _ in range(2):
        modulated, target, t = in_numpy.curricularface(cosine, labels, t)
        assert (modulated != cosine).any()
        loss, state = step(embeddings, weights, labels, state)
        wanted = in_numpy.cross_entropy(modulated, labels, target)
        np.testing.assert_allclose(loss, wanted, rtol=2e-5, atol=1e-5)
        assert float(state.t) == pytest.approx(t, rel=1e-5)


def test_another_margin_in_place_of_the_authors(data):
    state = curricularface_init()

    @jax.jit
    def both(e, w, y):
        loss, _ = curricularface_loss(e, w, y, state, psi=arcface(0.3))
        return loss, curricularface_loss(e, w, y, state, margin=0.3, past_pi="none")[0]

    np.testing.assert_allclose(*both(*data), rtol=1e-6)


def test_hard_classes_are_lessened_early_and_strengthened_late():
    cosine, threshold = np.float32([[0.5, 0.1]]), np.float32([[0.3]])
    change = jax.jit(curricular_cosines)
    assert change(cosine, threshold, np.float32(0.0)).tolist() == [[0.25, pytest.approx(0.1)]]
    late = [[pytest.approx(0.7), pytest.approx(0.1)]]
    assert change(cosine, threshold, np.float32(0.9)).tolist() == late


def test_padding_does_not_move_t(data):
    embeddings, weights, _ = data
    before = CurricularFaceState(np.float32(0.25))
    loss, state = jax.jit(curricularface_loss)(embeddings, weights, np.full(8, -1), before)
    assert not np.asarray(loss).any()
    assert float(state.t) == 0.25


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda e, w, y: curricularface_loss(e, w, y, curricularface_init(), decay=2.0),
            "decay is 2",
        ),
        (
            lambda e, w, y: curricularface_loss(e, w, y, curricularface_init(), scale=0.0),
            "scale is 0",
        ),
        (
            lambda e, w, y: curricularface_update(curricularface_init(), e[:, 0], y >= 0, decay=-1),
            "decay is -1",
        ),
    ],
)
def test_bad_input_is_named(data, call, message):
    with pytest.raises(InputError, match=message):
        call(*data)
