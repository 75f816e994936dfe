import pickle

import numpy as np
import pytest

from arcface_jax.data.synthetic import SyntheticFaces
from arcface_jax.errors import InputError


@pytest.fixture(scope="module")
def faces() -> SyntheticFaces:
    return SyntheticFaces(6, 5, image_size=32, seed=3)


@pytest.fixture(scope="module")
def images(faces: SyntheticFaces) -> np.ndarray:
    return faces.render(np.arange(len(faces)))


def test_interface(faces, images):
    assert len(faces) == 30
    assert faces.labels.dtype == np.int32
    np.testing.assert_array_equal(faces.labels, np.repeat(np.arange(6), 5))
    assert len(set(faces.identity_names)) == 6
    assert images.shape == (30, 32, 32, 3)
    assert images.dtype == np.uint8
    assert faces[7].shape == (32, 32, 3)
    assert faces.render([]).shape == (0, 32, 32, 3)


@pytest.mark.parametrize("size", [8, 33, 112])
def test_any_batch_gives_the_same_bits(size):
    faces = SyntheticFaces(5, 8, image_size=size, seed=11)
    all_at_once = faces.render(np.arange(40))
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_array_equal(faces.render(order), all_at_once[order])
    for batch in (1, 2, 3, 7):
        np.testing.assert_array_equal(faces.render(order[:batch]), all_at_once[order[:batch]])
    np.testing.assert_array_equal(faces[int(order[9])], all_at_once[order[9]])
    np.testing.assert_array_equal(faces[-1], all_at_once[-1])


def test_an_image_depends_on_nothing_but_its_own_numbers(images):
    more = SyntheticFaces(9, 7, image_size=32, seed=3)
    np.testing.assert_array_equal(more.render([2 * 7 + 4]), images[[2 * 5 + 4]])
    later = SyntheticFaces(2, 5, image_size=32, seed=3, first_identity=4)
    np.testing.assert_array_equal(later.render(np.arange(10)), images[20:])
    assert later.identity_names == SyntheticFaces(6, 5, seed=3).identity_names[4:]


def test_pickle(faces, images):
    copy = pickle.loads(pickle.dumps(faces))
    np.testing.assert_array_equal(copy.render(np.arange(30)), images)
    assert copy.fingerprint == faces.fingerprint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_identities", 0),
        ("num_identities", 2.5),
        ("images_per_identity", 0),
        ("image_size", 7),
        ("image_size", 4096),
        ("seed", -1),
        ("first_identity", -1),
        ("difficulty", -0.1),
        ("difficulty", float("nan")),
    ],
)
def test_bad_arguments_are_named(name, value):
    arguments = {"num_identities": 2, "images_per_identity": 2, name: value}
    with pytest.raises(InputError, match=name):
        SyntheticFaces(**arguments)


def test_bad_indices(faces):
    with pytest.raises(IndexError, match="30"):
        faces.render([0, 30])
    with pytest.raises(IndexError, match="30"):
        faces[30]
    with pytest.raises(InputError, match="indices"):
        faces.render(np.zeros((2, 2), int))
