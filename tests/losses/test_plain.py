"""Plain softmax with a bias."""

import functools

import jax
import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.losses import softmax_loss
from tests import in_numpy


def test_against_numpy_and_with_smoothing(data):
    embeddings, weights, labels = data
    bias = np.linspace(-1.0, 1.0, 5)
    logits = embeddings @ weights.T + bias
    for smoothing in (0.0, 0.2):
        wanted = in_numpy.cross_entropy(
            logits, labels, in_numpy.own(logits, labels), 1.0, smoothing
        )
        loss_of = jax.jit(functools.partial(softmax_loss, label_smoothing=smoothing))
        loss = loss_of(embeddings, weights, bias, labels)
        np.testing.assert_allclose(loss, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e, w, y: softmax_loss(e, w, np.zeros(3), y), r"bias \(3,\) do not fit"),
        (lambda e, w, y: softmax_loss(e, w[:, :4], np.zeros(5), y), r"class_weights \(5, 4\) and"),
        (lambda e, w, y: softmax_loss(e, w, np.zeros(5), y + 5), r"labels\[0\] is"),
    ],
)
def test_bad_input_is_named(data, call, message):
    with pytest.raises(InputError, match=message):
        call(*data)
