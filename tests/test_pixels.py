import jax.numpy as jnp
import numpy as np
import pytest

from arcface_jax.pixels import (
    ADAFACE,
    ARCFACE_TORCH,
    IMAGENET,
    INSIGHTFACE_MXNET,
    normalise,
    to_pixels,
)

PIXEL = np.array([[[[0, 128, 255]]]], np.uint8)


@pytest.mark.parametrize(
    ("convention", "expected"),
    [
        (ARCFACE_TORCH, [-1.0, 0.5 / 127.5, 1.0]),
        (INSIGHTFACE_MXNET, [-127.5 / 128, 0.5 / 128, 127.5 / 128]),
        (ADAFACE, [1.0, 0.5 / 127.5, -1.0]),
        (IMAGENET, [-0.485 / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]),
    ],
)
def test_published_conventions(convention, expected):
    np.testing.assert_allclose(
        normalise(jnp.asarray(PIXEL), convention)[0, 0, 0], expected, rtol=1e-6
    )


def test_bfloat16_out():
    assert normalise(jnp.asarray(PIXEL), dtype=jnp.bfloat16).dtype == jnp.bfloat16


def test_floats_are_refused_since_they_were_normalised_already():
    with pytest.raises(TypeError, match="float32"):
        normalise(jnp.zeros((1, 2, 2, 3)))


@pytest.mark.parametrize("convention", [INSIGHTFACE_MXNET, ADAFACE, IMAGENET])
def test_pixels_go_back_to_what_they_were(convention):
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3)).astype(np.uint8)
    assert (to_pixels(np.asarray(normalise(images, convention)), convention) == images).all()
