import io

import numpy as np
import pytest
from PIL import Image

from arcface_jax.data.check import check, check_source_labels, report
from arcface_jax.data.in_memory import MemorySource, load_source
from arcface_jax.data.scan import (
    eye_distance,
    find_unreadable,
    near_pairs,
    overlap,
    perceptual_hash,
    scan,
)
from arcface_jax.data.sources.folder import FolderSource
from arcface_jax.data.synthetic import SyntheticFaces
from arcface_jax.errors import InputError
from arcface_jax.figures.data import identity_sheet


@pytest.fixture(scope="module")
def faces() -> MemorySource:
    return load_source(SyntheticFaces(20, 4), 112)


def with_images(images, labels) -> MemorySource:
    labels = np.asarray(labels, np.int32)
    return MemorySource(
        np.asarray(images), labels, [f"person {label}" for label in range(labels.max() + 1)], "f"
    )


def recompressed(image: np.ndarray, quality: int = 70) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def darker(image: np.ndarray) -> np.ndarray:
    return (image * 0.8).astype(np.uint8)


def smaller(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((100, 100)).resize((112, 112)))


def test_a_clean_set_gives_no_warning(faces):
    found = check(faces)
    assert found.warnings() == []
    assert (found.num_images, found.num_identities, found.aligned) == (80, 20, True)
    np.testing.assert_array_equal(found.images_per_identity, np.full(20, 4))


def test_every_defect_is_found_and_named(faces):
    images = list(faces.images)
    labels = list(faces.labels)
    images += [images[5], recompressed(images[9]), images[2]]
    labels += [
        labels[5],
        labels[9],
        20,
    ]  # a copy, a near copy, and a copy under another and lonely name
    found = check(with_images(images, labels))
    assert found.exact_duplicates == ((2, 82), (5, 80))
    assert found.near_duplicates == ((9, 81),)
    assert found.across_identities == ((2, 82),)
    assert found.single_image == ("person 20",)
    text = "\n".join(found.warnings())
    for part in (
        "1 identities (5%) have one image",
        "2 images are exact copies",
        "1 pairs of images look the same",
    ):
        assert part in text
    assert "1 of these copies are under different identities" in text


def test_unreadable_and_odd_images_are_listed(tmp_path, write_tree):
    root = write_tree(tmp_path / "faces", {"a": 2, "b": 2})
    (root / "b" / "0.png").write_bytes(b"damaged")
    source = FolderSource(root)
    assert list(find_unreadable(source)) == [2]
    found = check(source)
    assert len(found.messages) == 1
    assert found.messages[0].startswith(str(root / "b" / "0.png"))
    assert found.odd_sizes == {(12, 12): 3}
    assert "1 images cannot be decoded; the first:" in found.warnings()[0]
    assert "3 images are not 112×112, most often 12×12" in "\n".join(found.warnings())
    assert not report(source, scan(source), (12, 12)).odd_sizes
    wide = report(source, scan(source), (112, 96))
    assert wide.odd_sizes == {(12, 12): 3}
    assert "3 images are not 96×112" in "\n".join(wide.warnings())


@pytest.mark.parametrize("change", [recompressed, darker, smaller])
def test_perceptual_hashes_survive_what_copies_go_through(faces, change):
    distances = [
        np.bitwise_count(perceptual_hash(image) ^ perceptual_hash(change(image))).sum()
        for image in faces.images
    ]
    assert np.mean(np.array(distances) <= 15) > 0.9


def test_different_pictures_have_different_hashes(faces):
    hashes = np.stack([perceptual_hash(image) for image in faces.images])
    distance = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(axis=2)
    assert distance[np.triu_indices(80, k=1)].min() > 40


def test_near_pairs_are_those_of_a_full_comparison():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (40, 32), dtype=np.uint8)
    hashes = np.concatenate([base, base, base])
    for row in range(40, 120):  # flip 0 … 30 bits
        flipped = rng.choice(256, rng.integers(0, 31), replace=False)
        hashes[row] ^= np.packbits(np.isin(np.arange(256), flipped))
    readable = rng.random(120) < 0.9
    distance = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(axis=2)
    expected = np.argwhere(np.triu((distance <= 15) & readable[:, None] & readable[None], k=1))
    assert len(expected) > 20
    np.testing.assert_array_equal(near_pairs(hashes, readable), expected)


def test_images_shared_with_a_test_set_are_found(faces):
    train = with_images(faces.images[:40], faces.labels[:40])
    test = with_images(np.concatenate([faces.images[60:70], faces.images[3:5]]), [0] * 12)
    np.testing.assert_array_equal(overlap(scan(train), scan(test)), [[3, 10], [4, 11]])
    assert overlap(scan(train), scan(with_images(faces.images[60:70], [0] * 10))).shape == (0, 2)


@pytest.mark.parametrize("shift", [10, 20])
def test_faces_that_are_not_aligned_are_noticed(faces, shift):
    rng = np.random.default_rng(0)
    moved = [
        np.roll(image, rng.integers(-shift, shift + 1, 2), axis=(0, 1)) for image in faces.images
    ]
    found = check(with_images(moved, faces.labels))
    assert not found.aligned
    assert "the average image has no eyes where aligned crops have them" in found.warnings()[-1]


def test_loose_crops_are_noticed(faces):
    loose = [
        np.asarray(
            Image.fromarray(np.pad(image, ((30, 30), (30, 30), (0, 0)), mode="edge")).resize(
                (112, 112)
            )
        )
        for image in faces.images
    ]
    assert not check(with_images(loose, faces.labels)).aligned


def test_eye_distance_of_a_drawn_face():
    image = np.full((112, 112), 200.0)
    for x, y in ((38, 60), (73, 60)):
        image[y - 2 : y + 3, x - 3 : x + 4] = 40
    assert eye_distance(image) == pytest.approx(60 - 51.6, abs=1.0)


def test_real_faces_and_characters(shared_data):
    people = check(FolderSource(shared_data / "orl_faces.zip"))
    assert (people.aligned, people.exact_duplicates, people.near_duplicates) == (True, (), ())
    characters = FolderSource(shared_data / "omniglot_background_small1.zip")
    assert eye_distance(scan(characters).mean_face) > 8


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 2], 3, "1 labels have no image, the first is 1"),
        ([0, 1], 3, "1 labels have no image, the first is 2"),
        ([0, 3], 2, "labels are 0 … 3, but there are 2 identity names"),
        ([-1, 0], 2, "labels are -1 … 0"),
        ([0], 1, "has 2 images but 1 labels"),
    ],
)
def test_labels_that_are_not_contiguous_are_refused(labels, names, message):
    images = np.zeros((2, 4, 4, 3), np.uint8)
    with pytest.raises(InputError, match=message):
        check_source_labels(MemorySource(images, np.array(labels, np.int32), ["x"] * names, "f"))
    with pytest.raises(InputError, match="no images"):
        check_source_labels(MemorySource(images[:0], np.zeros(0, np.int32), [], "f"))


def test_the_contact_sheet_shows_identities_and_marks_what_cannot_be_read(
    tmp_path, write_tree, faces
):
    figure = identity_sheet(faces, rows=3, columns=5)
    assert figure.axes[0].get_title() == "3 of 20 identities, 80 images"
    root = write_tree(tmp_path / "faces", {"a": 2, "b": 1})
    (root / "a" / "0.png").write_bytes(b"damaged")
    pixels = identity_sheet(FolderSource(root), rows=9, columns=2).axes[0].images[0].get_array()
    assert pixels.shape[0] < 3 * 112
    assert (pixels == 128).all(axis=-1).mean() > 0.2
