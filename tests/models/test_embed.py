import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.models.embed import check_embedded, embed_images, make_embed_function, mirror
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


@pytest.mark.parametrize(
    ("value", "what"), [(np.nan, "NaN or infinite"), (-np.inf, "NaN or infinite"), (0.0, "zero")]
)
def test_an_embedding_that_cannot_be_compared_names_its_image(value, what):
    embeddings = np.ones((4, 3), np.float32)
    np.testing.assert_array_equal(check_embedded(embeddings), embeddings)
    embeddings[2:] = value
    with pytest.raises(InputError, match=f"^image 2: the model's embedding is {what}, as 2 of 4"):
        check_embedded(embeddings)
    with pytest.raises(InputError, match=r"^c.png: the model's embedding is"):
        check_embedded(embeddings, ["a.png", "b.png", "c.png", "d.png"].__getitem__)


def test_large_and_small_embeddings_can_be_compared():
    embeddings = np.array([[3e38, 3e38], [1e-30, 0.0]], np.float32)
    np.testing.assert_array_equal(check_embedded(embeddings), embeddings)
