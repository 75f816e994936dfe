import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from arcface_jax.models.embed import embed_images, make_embed_function, mirror
from arcface_jax.pixels import ADAFACE


class Corner(nn.Module):
    """A stand-in network: the pixel at the top left."""

    def __call__(self, images, train):
        assert not train
        return images[:, 0, 0, :]


def test_batches_are_padded_and_cut_back():
    images = np.arange(7 * 4 * 4 * 3, dtype=np.uint8).reshape(7, 4, 4, 3)
    embeddings = embed_images(make_embed_function(Corner()), {}, images, batch_size=3)
    np.testing.assert_allclose(
        embeddings, (images[:, 0, 0].astype(np.float64) - 127.5) / 127.5, rtol=1e-6
    )


def test_pixel_convention_reaches_the_network():
    images = np.zeros((1, 2, 2, 3), np.uint8)
    images[..., 0] = 255
    np.testing.assert_allclose(
        make_embed_function(Corner(), ADAFACE)({}, jnp.asarray(images)), [[-1.0, -1.0, 1.0]]
    )


def test_mirror_swaps_left_and_right():
    image = np.arange(2 * 3 * 3).reshape(1, 2, 3, 3)
    np.testing.assert_array_equal(mirror(image)[0, :, 0], image[0, :, 2])
